//! Messages out of a stream, by Content-Length (RFC 3261 section 18.3), and the line ends between them (RFC 5626 section 4.4.1).

use bytes::{Buf as _, Bytes, BytesMut};
use memchr::{memchr, memmem};

/// What a stream consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    Message(Bytes),
    /// A line end between messages: a pong, or the first half of a ping.
    LineEnd,
    /// A second line end right after the first: a ping, which wants a line end in answer.
    Ping,
}

/// Why no message can be told from the next any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// What there is of a message whose header is complete: it can be answered.
    pub head: Option<Bytes>,
    /// Whether it is only too big.
    pub too_large: bool,
}

/// Cuts one stream.
#[derive(Debug)]
pub struct Framer {
    buffer: BytesMut,
    /// No header ends before here.
    searched: usize,
    /// The first line of the message that has begun is one of SIP.
    is_sip: bool,
    /// Length of the message that has begun, once its header is complete.
    length: Option<usize>,
    /// The last thing was a line end that is not yet part of a ping.
    half: bool,
    limit: usize,
}

impl Framer {
    /// For messages of at most `limit` bytes.
    pub fn new(limit: usize) -> Framer {
        Framer {
            buffer: BytesMut::new(),
            searched: 0,
            is_sip: false,
            length: None,
            half: false,
            limit,
        }
    }

    /// Where to append what is received, with room for at least `room` bytes.
    pub fn buffer(&mut self, room: usize) -> &mut BytesMut {
        let missing = self.length.map_or(0, |length| length.saturating_sub(self.buffer.len()));
        self.buffer.reserve(room.max(missing));
        &mut self.buffer
    }

    /// Whether a message has begun.
    pub fn is_partial(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// There was a silence: a line end before it and one after it are two pongs and no ping.
    pub fn pause(&mut self) {
        self.half = false;
    }

    /// The next frame; `None`: more bytes are needed.
    ///
    /// # Errors
    /// If there never will be one.
    pub fn frame(&mut self) -> Result<Option<Frame>, Broken> {
        if self.length.is_none() {
            if let Some(line_end) = self.between() {
                return Ok(Some(line_end));
            }
            if !self.header()? {
                return Ok(None);
            }
        }
        let Some(length) = self.length.filter(|length| *length <= self.buffer.len()) else {
            return Ok(None);
        };
        Ok(Some(Frame::Message(self.cut(length))))
    }

    /// At the end of the stream: the message that is incomplete, if its header is there.
    pub fn rest(&mut self) -> Option<Bytes> {
        self.length.map(|_| self.cut(self.buffer.len()))
    }

    /// Takes what is between messages off the front.
    fn between(&mut self) -> Option<Frame> {
        loop {
            match &self.buffer[..] {
                [b'\r', b'\n', ..] => {
                    self.buffer.advance(2);
                    self.half = !self.half;
                    return Some(if self.half { Frame::LineEnd } else { Frame::Ping });
                }
                [b'\n' | 0, ..] => self.buffer.advance(1),
                _ => return None,
            }
        }
    }

    /// Looks for the end of the header; whether it is there.
    fn header(&mut self) -> Result<bool, Broken> {
        if matches!(self.buffer[..], [] | [b'\r']) {
            return Ok(false);
        }
        self.half = false;
        if !self.is_sip {
            let line = memchr(b'\n', &self.buffer[self.searched..]).map(|end| &self.buffer[..self.searched + end]);
            if line.is_some_and(|line| !names_sip(line)) {
                return Err(Broken::garbage());
            }
            self.is_sip = line.is_some();
        }
        let end = memmem::find(&self.buffer[self.searched..], b"\r\n\r\n");
        // The least that the header's length can be.
        let head = end.map_or(self.buffer.len(), |end| self.searched + end + 4);
        if head > self.limit {
            return Err(Broken {
                head: None,
                too_large: true,
            });
        }
        if end.is_none() {
            self.searched = self.buffer.len().saturating_sub(3);
            return Ok(false);
        }
        let length = content_length(&self.buffer[..head]).map(|body| head.saturating_add(body.unwrap_or(0)));
        match length {
            Some(length) if length <= self.limit => {
                self.length = Some(length);
                Ok(true)
            }
            length => Err(Broken {
                head: Some(self.cut(head)),
                too_large: length.is_some(),
            }),
        }
    }

    /// Takes a message off the front. It does not keep a buffer alive that is much bigger than itself.
    fn cut(&mut self, length: usize) -> Bytes {
        (self.searched, self.is_sip, self.length) = (0, false, None);
        if length < self.buffer.capacity() / 2 {
            let message = Bytes::copy_from_slice(&self.buffer[..length]);
            self.buffer.advance(length);
            message
        } else {
            self.buffer.split_to(length).freeze()
        }
    }
}

impl Broken {
    fn garbage() -> Broken {
        Broken {
            head: None,
            too_large: false,
        }
    }
}

/// Whether a first line is one of SIP, whatever its version.
fn names_sip(line: &[u8]) -> bool {
    line.windows(4).any(|word| word.eq_ignore_ascii_case(b"SIP/"))
}

/// The value of Content-Length in a header that ends with an empty line: `Some(None)` if there is no such field, `None` if it is no number or if two say
/// different things. A request without it ends with its header (RFC 3261 section 18.3); the core may object.
fn content_length(head: &[u8]) -> Option<Option<usize>> {
    let mut found = None;
    let mut rest = head;
    let mut first = true;
    while let Some(end) = memchr(b'\n', rest) {
        let (line, after) = rest.split_at(end + 1);
        rest = after;
        if std::mem::take(&mut first) || matches!(line[0], b' ' | b'\t') {
            continue;
        }
        let Some(colon) = memchr(b':', line) else { continue };
        let name = line[..colon].trim_ascii_end();
        if !name.eq_ignore_ascii_case(b"content-length") && !name.eq_ignore_ascii_case(b"l") {
            continue;
        }
        let mut value = line[colon + 1..].trim_ascii();
        // Folded: the value is on one of the lines that begin with white space (RFC 3261 section 7.3.1).
        while let [b' ' | b'\t', ..] = rest
            && let Some(end) = memchr(b'\n', rest)
        {
            let (folded, after) = rest.split_at(end + 1);
            rest = after;
            match (value.is_empty(), folded.trim_ascii().is_empty()) {
                (_, true) => {}
                (true, false) => value = folded.trim_ascii(),
                (false, false) => return None,
            }
        }
        let value = number(value)?;
        if found.is_some_and(|found| found != value) {
            return None;
        }
        found = Some(value);
    }
    Some(found)
}

/// Digits and nothing else; so many of them that they overflow are as good as the biggest number.
fn number(text: &[u8]) -> Option<usize> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(text.iter().fold(0usize, |number, digit| {
        number.saturating_mul(10).saturating_add(usize::from(digit - b'0'))
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 2000;

    /// Everything that comes out when the stream comes in pieces that end at `cuts`.
    fn frames(stream: &[u8], cuts: &[usize]) -> (Vec<Frame>, Option<Broken>) {
        let mut framer = Framer::new(LIMIT);
        let mut frames = Vec::new();
        let mut begin = 0;
        for end in cuts.iter().copied().chain([stream.len()]) {
            let end = end.clamp(begin, stream.len());
            framer.buffer(64).extend_from_slice(&stream[begin..end]);
            begin = end;
            loop {
                match framer.frame() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(broken) => return (frames, Some(broken)),
                }
            }
        }
        (frames, None)
    }

    fn message(text: &str) -> Frame {
        Frame::Message(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn content_length_cuts_whatever_its_spelling() {
        for field in [
            "Content-Length: 5",
            "content-length:5",
            "l: 5",
            "L : 005",
            "Content-Length:\r\n  5",
            "Content-Length:  \r\n \r\n\t5 ",
            "l: 5\r\nX: 1\r\nContent-Length: 5",
        ] {
            let first = format!("INVITE sip:a@b SIP/2.0\r\nX: y\r\n{field}\r\n\r\nhello");
            let stream = format!("{first}SIP/2.0 200 OK\r\n\r\n");
            let expected = vec![message(&first), message("SIP/2.0 200 OK\r\n\r\n")];
            assert_eq!(frames(stream.as_bytes(), &[]), (expected, None), "{field}");
        }
    }

    #[test]
    fn what_cannot_be_cut_gives_its_header_to_the_core() {
        for (field, too_large) in [
            ("Content-Length: -5", false),
            ("l: 5, 5", false),
            ("l:", false),
            ("l: 5\r\nl: 6", false),
            ("l: 1\r\n 2", false),
            ("l: 5000", true),
            ("l: 99999999999999999999999999", true),
        ] {
            let head = format!("INVITE sip:a@b SIP/2.0\r\n{field}\r\n\r\n");
            let broken = Broken {
                head: Some(Bytes::copy_from_slice(head.as_bytes())),
                too_large,
            };
            assert_eq!(
                frames(format!("{head}hello").as_bytes(), &[]),
                (vec![], Some(broken)),
                "{field}"
            );
        }
    }

    #[test]
    fn what_is_not_sip_is_noticed_at_its_first_line() {
        assert_eq!(
            frames(b"GET / HTTP/1.1\r\nHost", &[]),
            (vec![], Some(Broken::garbage()))
        );
        assert_eq!(frames(b"\x16\x03\x01\x02\x00", &[]), (vec![], None), "no line yet");
        let other = "OPTIONS sip:a@b SIP/7.0\r\n\r\n";
        assert_eq!(
            frames(other.as_bytes(), &[]),
            (vec![message(other)], None),
            "505 is the core's business"
        );
    }

    #[test]
    fn a_header_without_end_is_bounded() {
        let endless = format!("OPTIONS sip:a@b SIP/2.0\r\nX: {}", "x".repeat(LIMIT));
        let broken = Broken {
            head: None,
            too_large: true,
        };
        assert_eq!(frames(endless.as_bytes(), &[100, 200]), (vec![], Some(broken)));
    }

    #[test]
    fn two_line_ends_are_a_ping_unless_there_was_a_pause() {
        let mut framer = Framer::new(LIMIT);
        let mut feed = |bytes: &[u8], pause: bool| {
            if pause {
                framer.pause();
            }
            framer.buffer(64).extend_from_slice(bytes);
            std::iter::from_fn(|| framer.frame().expect("framed")).collect::<Vec<_>>()
        };
        assert_eq!(feed(b"\r\n\r\n", false), [Frame::LineEnd, Frame::Ping]);
        assert_eq!(feed(b"\r\n", false), [Frame::LineEnd]);
        assert_eq!(feed(b"\r", false), []);
        assert_eq!(feed(b"\n", false), [Frame::Ping]);
        assert_eq!(feed(b"\r\n", false), [Frame::LineEnd]);
        assert_eq!(feed(b"\r\n", true), [Frame::LineEnd]);
        assert_eq!(feed(b"\n\0", false), []);
    }

    #[test]
    fn at_the_end_an_incomplete_body_is_handed_over() {
        let mut framer = Framer::new(LIMIT);
        framer
            .buffer(64)
            .extend_from_slice(b"BYE sip:a SIP/2.0\r\nl: 10\r\n\r\nabc");
        assert_eq!(framer.frame(), Ok(None));
        assert_eq!(
            framer.rest(),
            Some(Bytes::from_static(b"BYE sip:a SIP/2.0\r\nl: 10\r\n\r\nabc"))
        );
        framer.buffer(64).extend_from_slice(b"BYE sip:a SIP/2.0\r\nl: 10\r\n");
        assert_eq!(framer.frame(), Ok(None));
        assert_eq!(framer.rest(), None);
    }

    #[test]
    fn a_small_message_does_not_hold_a_big_buffer() {
        let mut framer = Framer::new(LIMIT);
        framer.buffer(65_536).extend_from_slice(b"BYE sip:a SIP/2.0\r\n\r\n");
        let begin = framer.buffer.as_ptr();
        match framer.frame() {
            Ok(Some(Frame::Message(message))) => assert_ne!(message.as_ptr(), begin),
            other => panic!("{other:?}"),
        }
    }

    fn piece() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            Just(b"\r\n".to_vec()),
            Just(b"\r\n\r\n".to_vec()),
            (prop::collection::vec(any::<u8>(), 0..300), 0usize..40).prop_map(|(body, filler)| {
                let head = format!(
                    "MESSAGE sip:a SIP/2.0\r\nX: {}\r\nl: {}\r\n\r\n",
                    "\r\n ".repeat(filler),
                    body.len()
                );
                [head.into_bytes(), body].concat()
            }),
            Just(b"SIP/2.0 200 OK\r\nVia: x\r\n\r\n".to_vec()),
            prop::collection::vec(prop::sample::select(&b"SIP/2.0\r\n l:5\0x"[..]), 0..60),
        ]
    }

    proptest! {
        #[test]
        fn any_split_of_a_stream_gives_the_same(pieces in prop::collection::vec(piece(), 0..8), mut cuts in prop::collection::vec(0usize..2500, 0..12)) {
            let stream = pieces.concat();
            cuts.sort_unstable();
            let whole = frames(&stream, &[]);
            let bytewise: Vec<usize> = (0..stream.len()).collect();
            prop_assert_eq!(&frames(&stream, &cuts), &whole);
            prop_assert_eq!(&frames(&stream, &bytewise), &whole);
        }
    }
}
