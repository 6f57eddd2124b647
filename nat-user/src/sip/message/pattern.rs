//! REGISTERs that repeat one of before, as refreshes do: the same bytes in the same places, but for the branch and the number in CSeq.
//!
//! To read such a request again and to judge it again comes to what it came to before. So whoever has done it keeps a [`Pattern`], which knows the next one
//! by a hash and has the places of what its response is made of.

use std::hash::Hasher as _;

use bytes::Bytes;
use rustc_hash::FxHasher;
use smallvec::SmallVec;

use super::{
    Header, HeaderName, Message, Method, Names, Span, Start, TOKEN, number,
    value::{CSeqPlaces, TopVia},
};

/// The lines of a request that its response repeats (RFC 3261 section 8.2.6.2).
const REPEATED: [HeaderName; 5] = [
    HeaderName::Via,
    HeaderName::From,
    HeaderName::To,
    HeaderName::CallId,
    HeaderName::CSeq,
];

/// What a REGISTER was.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// Of all bytes but those that may be others the next time.
    hash: u64,
    length: u16,
    method: Place,
    uri: Place,
    /// Line and value of each of [`REPEATED`].
    lines: [(Place, Place); REPEATED.len()],
    version: Place,
    transport: Place,
    host: Place,
    port: Option<u16>,
    params: Place,
    branch: Place,
    rport: Option<Place>,
    received: Option<Place>,
    asks_rport: bool,
    /// The digits of CSeq, and the method behind them.
    digits: Place,
    method_again: Place,
}

/// As [`Span`], in half the memory.
#[derive(Clone, Copy, Debug)]
struct Place {
    start: u16,
    end: u16,
}

impl Place {
    fn of(span: Span) -> Place {
        // Longer messages have no pattern.
        Place {
            start: span.start as u16,
            end: span.end as u16,
        }
    }

    fn span(self) -> Span {
        Span {
            start: self.start.into(),
            end: self.end.into(),
        }
    }
}

impl Pattern {
    /// What this REGISTER, which has passed [`check::request`](super::check::request), was. `None`: it is not one of those that are repeated: it came by other proxies, or its Via
    /// asks for what depends on more than the request. `seed`: patterns of another one are known no more.
    pub fn of(request: &Message, seed: u64) -> Option<Pattern> {
        let Start::Request {
            method: Method::Register,
            method_text,
            uri,
        } = request.start()
        else {
            return None;
        };
        u16::try_from(request.bytes().len()).ok()?;
        let (via, top, cseq) = (request.via()?, request.top?, request.cseq?);
        let single = REPEATED.iter().all(|name| !request.has_several(*name));
        if !single || !top.alone || !via.has_cookie() || via.offers_keep() || request.to_tag().is_some() {
            return None;
        }
        let mut lines = [(Place { start: 0, end: 0 }, Place { start: 0, end: 0 }); REPEATED.len()];
        for (line, name) in lines.iter_mut().zip(REPEATED) {
            let header = request.find(name)?;
            *line = (Place::of(header.line), Place::of(header.value));
        }
        let value = request.find(HeaderName::CSeq)?.value;
        let digits = request
            .text(value)
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        let mut pattern = Pattern {
            hash: 0,
            length: request.bytes().len() as u16,
            method: Place::of(method_text),
            uri: Place::of(uri),
            lines,
            version: Place::of(top.version),
            transport: Place::of(top.transport),
            host: Place::of(top.host),
            port: top.port,
            params: Place::of(top.params),
            branch: Place::of(top.branch),
            rport: top.rport.map(Place::of),
            received: top.received.map(Place::of),
            asks_rport: top.asks_rport,
            digits: Place::of(Span::new(value.start as usize, value.start as usize + digits)),
            method_again: Place::of(cseq.method_text),
        };
        pattern.hash = pattern.hash(request.bytes(), seed);
        pattern.read(request.bytes(), seed).is_some().then_some(pattern)
    }

    /// The request that these bytes are, if it repeats that one: with the lines and parts that its response is made of, and no others.
    pub fn read(&self, bytes: &Bytes, seed: u64) -> Option<Message> {
        let text = |place: Place| &bytes[place.span().range()];
        if bytes.len() != usize::from(self.length)
            || !TOKEN.has_all(text(self.branch))
            || self.hash(bytes, seed) != self.hash
        {
            return None;
        }
        // Not `digits` but nothing else: then the next byte is where it was.
        let number = number(text(self.digits)).filter(|number| *number < 1 << 31)? as u32;
        let mut headers = SmallVec::new();
        let mut names = Names::default();
        for (name, (line, value)) in REPEATED.into_iter().zip(self.lines) {
            names.add(name);
            headers.push(Header {
                name,
                line: line.span(),
                value: value.span(),
            });
        }
        let message = Message {
            bytes: bytes.clone(),
            start: Start::Request {
                method: Method::Register,
                method_text: self.method.span(),
                uri: self.uri.span(),
            },
            headers,
            body: self.length.into(),
            fault: None,
            names,
            top: Some(TopVia {
                span: self.lines[0].1.span(),
                version: self.version.span(),
                transport: self.transport.span(),
                host: self.host.span(),
                port: self.port,
                params: self.params.span(),
                branch: self.branch.span(),
                rport: self.rport.map(Place::span),
                received: self.received.map(Place::span),
                asks_rport: self.asks_rport,
                offers_keep: false,
                alone: true,
            }),
            target: None,
            from: None,
            to: None,
            cseq: Some(CSeqPlaces {
                number,
                method: Method::Register,
                method_text: self.method_again.span(),
            }),
        };
        message.via()?.has_cookie().then_some(message)
    }

    /// Whoever sends something else with the same hash, on the flow of its own registration, only spoils that.
    fn hash(&self, bytes: &[u8], seed: u64) -> u64 {
        let (branch, digits) = (self.branch.span().range(), self.digits.span().range());
        let (first, second) = if branch.start < digits.start {
            (branch, digits)
        } else {
            (digits, branch)
        };
        let mut hasher = FxHasher::default();
        hasher.write_u64(seed);
        hasher.write(&bytes[..first.start]);
        hasher.write(&bytes[first.end..second.start]);
        hasher.write(&bytes[second.end..]);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::message::{check, reply::Reply};

    fn register(branch: &str, cseq: &str, contact: &str) -> Bytes {
        let text = format!(
            "REGISTER sip:net.com SIP/2.0\r\nCSeq:  {cseq} REGISTER\r\nVia: SIP/2.0/UDP 192.168.1.10:5060 ;branch={branch};rport;x=y\r\n\
             Max-Forwards: 70\r\nf: \"A, B\" <sip:u@net.com>;tag=1\r\nTo: <sip:u@net.com>\r\ni: 1@h\r\nContact: {contact}\r\n\r\n"
        );
        Bytes::from(text)
    }

    fn pattern(bytes: &Bytes) -> Option<Pattern> {
        let message = Message::parse(bytes.clone()).unwrap();
        assert_eq!(check::request(&message), None);
        Pattern::of(&message, 7)
    }

    #[test]
    fn what_repeats_is_known_and_read_as_before() {
        let pattern = pattern(&register("z9hG4bK1", "10", "<sip:u@h>")).unwrap();
        let next = register("Z9HG4BK2", "11", "<sip:u@h>");
        let (quick, long) = (pattern.read(&next, 7).unwrap(), Message::parse(next.clone()).unwrap());
        assert_eq!(quick.cseq(), long.cseq());
        assert_eq!(quick.start(), long.start());
        assert_eq!(quick.via(), long.via());
        let answer = |message: &Message| Reply::new(200, "OK", b"t", ([134, 56, 1, 1], 9).into()).to(message);
        assert_eq!(answer(&quick), answer(&long));
        for other in [
            register("z9hG4bK2", "11", "<sip:u@i>"),
            register("z9hG4bK22", "11", "<sip:u@h>"),
            register("z9hG4bK2", "111", "<sip:u@h>"),
            register("z9hG4b;2", "11", "<sip:u@h>"),
            register("z9hG4b,2", "11", "<sip:u@h>"),
            register("z8hG4bK2", "11", "<sip:u@h>"),
            register("z9hG4bK2", "1 ", "<sip:u@h>"),
            register("z9hG4bK2", "1x", "<sip:u@h>"),
        ] {
            assert!(pattern.read(&other, 7).is_none(), "{other:?}");
        }
        assert!(pattern.read(&next, 8).is_none(), "another seed");
    }

    #[test]
    fn what_has_no_pattern() {
        assert!(pattern(&register("1", "10", "<sip:u@h>")).is_none(), "no cookie");
        assert!(pattern(&register("z9hG4bK1;keep", "10", "<sip:u@h>")).is_none());
        let two = register("z9hG4bK1, SIP/2.0/TCP h;branch=z9hG4bK0", "10", "<sip:u@h>");
        assert!(pattern(&two).is_none(), "from another proxy");
        let quoted = register("\"z9hG4bK1 \"", "10", "<sip:u@h>");
        assert!(pattern(&quoted).is_none());
    }
}
