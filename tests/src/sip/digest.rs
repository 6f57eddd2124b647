//! Digest authentication as a phone does it (RFC 7616, RFC 8760), for what no phone of Debian can: SHA-256 and SHA-512/256.
//!
//! It shares no code with the server under test.

use md5::Md5;
use sha2::{Digest, Sha256, Sha512_256};

use super::message::Message;

/// A hash of RFC 7616 §3.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Md5,
    Sha256,
    Sha512_256,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Md5, Self::Sha256, Self::Sha512_256];

    /// As challenges and credentials name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha256 => "SHA-256",
            Self::Sha512_256 => "SHA-512-256",
        }
    }

    fn hash(self, text: &str) -> String {
        match self {
            Self::Md5 => hex(&Md5::digest(text)),
            Self::Sha256 => hex(&Sha256::digest(text)),
            Self::Sha512_256 => hex(&Sha512_256::digest(text)),
        }
    }
}

/// A challenge with `qop="auth"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    pub realm: String,
    pub nonce: String,
    pub algorithm: Algorithm,
    /// The name of the header field that answers it.
    field: &'static str,
}

impl Challenge {
    /// The challenges of a 401 or 407, in their order; those with algorithms that are not known here are left out.
    pub fn all(response: &Message) -> Vec<Self> {
        let fields = [
            ("WWW-Authenticate", "Authorization"),
            ("Proxy-Authenticate", "Proxy-Authorization"),
        ];
        let values = fields.iter().flat_map(|(challenge, field)| {
            let values = response.headers(challenge).into_iter();
            values.map(move |value| (*field, value))
        });
        values.filter_map(|(field, value)| Self::parse(field, &value)).collect()
    }

    fn parse(field: &'static str, value: &str) -> Option<Self> {
        let named = |name: &str| {
            let pairs = value.strip_prefix("Digest ")?.split(',');
            let mut pairs = pairs.filter_map(|pair| pair.trim().split_once('='));
            let found = pairs.find(|(key, _)| key.eq_ignore_ascii_case(name))?.1;
            Some(found.trim_matches('"').to_string())
        };
        let algorithm = named("algorithm").unwrap_or("MD5".into());
        Some(Self {
            realm: named("realm")?,
            nonce: named("nonce")?,
            algorithm: *Algorithm::ALL.iter().find(|known| known.name() == algorithm)?,
            field,
        })
    }

    /// The header line that answers it for the use number `count` of the nonce.
    pub fn answer(&self, user: &str, password: &str, method: &str, uri: &str, count: u32) -> String {
        let Self {
            realm,
            nonce,
            algorithm,
            field,
        } = self;
        let cnonce = "0a4f113b";
        let response = algorithm.response((user, realm, password), (method, uri), (nonce, count, cnonce));
        let name = algorithm.name();
        format!(
            "{field}: Digest username=\"{user}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", algorithm={name}, \
             response=\"{response}\", qop=auth, cnonce=\"{cnonce}\", nc={count:08x}"
        )
    }
}

impl Algorithm {
    /// RFC 7616 §3.4.1, with `qop=auth`.
    fn response(
        self,
        (user, realm, password): (&str, &str, &str),
        (method, uri): (&str, &str),
        (nonce, count, cnonce): (&str, u32, &str),
    ) -> String {
        let ha1 = self.hash(&format!("{user}:{realm}:{password}"));
        let ha2 = self.hash(&format!("{method}:{uri}"));
        self.hash(&format!("{ha1}:{nonce}:{count:08x}:{cnonce}:auth:{ha2}"))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::phone::Request;

    /// RFC 7616 §3.9.1.
    #[test]
    fn the_example_of_the_rfc() {
        let who = ("Mufasa", "http-auth@example.org", "Circle of Life");
        let nonce = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v";
        let used = (nonce, 1, "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ");
        let response = |algorithm: Algorithm| algorithm.response(who, ("GET", "/dir/index.html"), used);
        assert_eq!(response(Algorithm::Md5), "8ca523f5e9506fed4657c9700eebdbec");
        assert_eq!(
            response(Algorithm::Sha256),
            "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"
        );
    }

    #[test]
    fn challenges_are_read() {
        let request = Request::register("anna", "net.com").over_udp("192.0.2.1:5060".parse().unwrap());
        let lines = [
            "WWW-Authenticate: Digest realm=\"net.com\", nonce=\"n1\", algorithm=SHA-512-256, qop=\"auth\"",
            "WWW-Authenticate: Digest realm=\"net.com\", nonce=\"n2\", algorithm=other",
            "WWW-Authenticate: Digest realm=\"net.com\", nonce=\"n3\"",
        ];
        let found = Challenge::all(&request.reply(401, "Unauthorized", &lines, ""));
        let found: Vec<_> = found.iter().map(|one| (one.nonce.as_str(), one.algorithm)).collect();
        assert_eq!(found, [("n1", Algorithm::Sha512_256), ("n3", Algorithm::Md5)]);
    }
}
