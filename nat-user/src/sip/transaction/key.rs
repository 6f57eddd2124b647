//! Which server transaction a request belongs to (RFC 3261 section 17.2.3), and tags that we can know again.

use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};

use crate::sip::message::{HeaderName, Message, Method};

/// Identifies a server transaction: a keyed hash over branch, sent-by and method. With a key that nobody else knows, 64 bits do not
/// collide by accident nor on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(u64);

impl Key {
    /// As a hash.
    pub(super) fn number(self) -> u64 {
        self.0
    }

    /// One of many.
    #[cfg(test)]
    pub(super) fn of_test(number: u64) -> Key {
        Key(BuildHasherDefault::<std::hash::DefaultHasher>::default().hash_one(number))
    }
}

/// For tables whose keys are [`Key`]s already.
pub type KeyHasher = BuildHasherDefault<Ready>;

/// Takes a hash for what it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ready(u64);

impl Hasher for Ready {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

/// Makes keys and tags, with a secret of this run.
#[derive(Clone, Debug, Default)]
pub struct Keys(RandomState);

impl Keys {
    /// The key of a request's transaction. An ACK has that of its INVITE. `None`: no Via, so it has none.
    pub fn of(&self, request: &Message) -> Option<Key> {
        match request.method()? {
            Method::Ack => self.with_method(request, Method::Invite),
            method => self.with_method(request, method),
        }
    }

    /// The key of a request of our own, which has no Via.
    pub fn own(&self, request: &Message) -> Key {
        let cseq = request.value(HeaderName::CSeq).unwrap_or_default();
        let tags = [request.from_tag(), request.to_tag()];
        Key(self.0.hash_one(("own", request.call_id(), tags, cseq)))
    }

    /// The key of the INVITE that a CANCEL is for (section 9.2: the same but for the method). It may be for another method.
    pub fn cancelled(&self, request: &Message) -> Option<Key> {
        self.with_method(request, Method::Invite)
    }

    fn with_method(&self, request: &Message, method: Method) -> Option<Key> {
        let via = request.via()?;
        let mut hasher = self.0.build_hasher();
        if method == Method::Other {
            request.method_text().hash(&mut hasher);
        }
        if via.has_cookie() {
            // In few pieces, because each costs as much as the next: method, port (65,536 if there is none) and where the branch ends.
            let port = via.port.map_or(1 << 16, u64::from);
            hasher.write_u64(method as u64 | port << 8 | (via.branch().len() as u64) << 32);
            hasher.write(via.branch());
            // In lower case. Hosts have no zeros, so that filling up with them makes no two alike.
            for part in via.host.chunks(8) {
                let mut word = [0; 8];
                word[..part.len()].copy_from_slice(part);
                word.make_ascii_lowercase();
                hasher.write_u64(u64::from_le_bytes(word));
            }
        } else {
            // RFC 2543: by what identifies the request. An ACK has another To tag, so that does not count.
            method.hash(&mut hasher);
            request.request_uri().hash(&mut hasher);
            request.text(via.span).hash(&mut hasher);
            request.from_tag().hash(&mut hasher);
            request.call_id().hash(&mut hasher);
            request.cseq().map(|cseq| cseq.number).hash(&mut hasher);
        }
        Some(Key(hasher.finish()))
    }

    /// The To tag of our own responses to a request of this key: the same for each copy of it, and known again in its ACK.
    pub fn tag(&self, key: Key) -> [u8; 16] {
        let mut hasher = self.0.build_hasher();
        hasher.write_u64(key.0);
        hasher.write_u8(b't');
        hex(hasher.finish())
    }

    /// A hash over several texts that nobody else can compute.
    pub fn digest<'a>(&self, texts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
        let mut hasher = self.0.build_hasher();
        texts.into_iter().for_each(|text| text.hash(&mut hasher));
        hasher.finish()
    }

    /// A number that nobody can guess, made of one that is not used twice.
    pub fn mix(&self, number: u64) -> u64 {
        self.0.hash_one(number)
    }
}

/// Sixteen hexadecimal digits.
pub fn hex(number: u64) -> [u8; 16] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    std::array::from_fn(|place| DIGITS[(number >> (60 - 4 * place)) as usize & 15])
}

/// Reads what [`hex`] wrote: 1 to 16 digits and nothing else.
pub fn unhex(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 16 {
        return None;
    }
    text.iter().try_fold(0, |sum, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return None,
        };
        Some(sum << 4 | u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn message(line: &str, via: &str, to: &str) -> Message {
        let method = line.split(' ').next().unwrap_or_default();
        let text = format!(
            "{line} SIP/2.0\r\nVia: {via}\r\nFrom: <sip:a@x>;tag=1\r\nTo: {to}\r\nCall-ID: c\r\nCSeq: 1 {method}\r\n\r\n"
        );
        Message::parse(Bytes::from(text)).unwrap()
    }

    #[test]
    fn what_belongs_together_has_one_key() {
        let keys = Keys::default();
        let of = |line, via, to| keys.of(&message(line, via, to));
        let via = "SIP/2.0/UDP Host:5060;branch=z9hG4bK1";
        let invite = of("INVITE sip:b@y", via, "<sip:b@y>");
        assert_eq!(of("ACK sip:b@y", via, "<sip:b@y>;tag=2"), invite);
        assert_eq!(
            of(
                "INVITE sip:b@y",
                "SIP/2.0/UDP host:5060;rport;branch=z9hG4bK1",
                "<sip:b@y>"
            ),
            invite
        );
        assert_ne!(
            of("INVITE sip:b@y", "SIP/2.0/UDP host;branch=z9hG4bK1", "<sip:b@y>"),
            invite,
            "another port"
        );
        assert_ne!(
            of("INVITE sip:b@y", "SIP/2.0/UDP host:5060;branch=z9hG4bK2", "<sip:b@y>"),
            invite
        );
        assert_ne!(of("CANCEL sip:b@y", via, "<sip:b@y>"), invite);
        assert_ne!(of("FOO sip:b@y", via, "<sip:b@y>"), of("BAR sip:b@y", via, "<sip:b@y>"));
        assert_eq!(keys.cancelled(&message("CANCEL sip:b@y", via, "<sip:b@y>")), invite);
        // Without the cookie, everything but the To tag counts.
        let old = "SIP/2.0/UDP host;branch=1";
        let invite = of("INVITE sip:b@y", old, "<sip:b@y>");
        assert_eq!(of("ACK sip:b@y", old, "<sip:b@y>;tag=2"), invite);
        assert_ne!(of("INVITE sip:c@y", old, "<sip:b@y>"), invite);
    }

    #[test]
    fn numbers_as_digits() {
        for number in [0, 1, 0xdead_beef, u64::MAX] {
            assert_eq!(unhex(&hex(number)), Some(number));
        }
        assert_eq!(
            (unhex(b""), unhex(b"g"), unhex(b"00000000000000000")),
            (None, None, None)
        );
    }
}
