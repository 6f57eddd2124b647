//! The client's side of digest authentication (RFC 7616, RFC 2617), computed without a line of the server's.

use md5::Md5;
use sha2::{Digest, Sha256, Sha512_256};
use tests::sip::message::Message;

/// A challenge that is answered. Change a field to answer it wrong.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub username: String,
    pub password: String,
    pub realm: String,
    pub nonce: String,
    pub method: String,
    pub uri: String,
    /// `MD5`, `SHA-256` or `SHA-512-256`.
    pub algorithm: String,
    /// `None`: as RFC 2069 had it.
    pub qop: Option<String>,
    /// Nonce count.
    pub nc: u32,
}

impl Credentials {
    /// Answers the first challenge of a 401 or 407.
    pub fn answer(challenge: &Message, user: (&str, &str), method: &str, uri: &str) -> Self {
        Self::choose(challenge, 0, user, method, uri)
    }

    /// Answers one of several challenges.
    pub fn choose(challenge: &Message, number: usize, user: (&str, &str), method: &str, uri: &str) -> Self {
        let challenge = &challenges(challenge)[number];
        Self {
            username: user.0.into(),
            password: user.1.into(),
            realm: value(challenge, "realm").expect("a realm"),
            nonce: value(challenge, "nonce").expect("a nonce"),
            method: method.into(),
            uri: uri.into(),
            algorithm: value(challenge, "algorithm").unwrap_or_else(|| "MD5".into()),
            qop: value(challenge, "qop").map(|_| "auth".into()),
            nc: 1,
        }
    }

    /// The value of Authorization or Proxy-Authorization.
    pub fn header(&self) -> String {
        const CNONCE: &str = "0a4f113b";
        let hash = |text: String| hash(&self.algorithm, &text);
        let ha1 = hash(format!("{}:{}:{}", self.username, self.realm, self.password));
        let ha2 = hash(format!("{}:{}", self.method, self.uri));
        let (nc, nonce) = (format!("{:08x}", self.nc), &self.nonce);
        let response = match &self.qop {
            Some(qop) => hash(format!("{ha1}:{nonce}:{nc}:{CNONCE}:{qop}:{ha2}")),
            None => hash(format!("{ha1}:{nonce}:{ha2}")),
        };
        let qop = match &self.qop {
            Some(qop) => format!(", qop={qop}, nc={nc}, cnonce=\"{CNONCE}\""),
            None => String::new(),
        };
        format!(
            "Digest username=\"{}\", realm=\"{}\", nonce=\"{nonce}\", uri=\"{}\", response=\"{response}\", algorithm={}{qop}",
            self.username, self.realm, self.uri, self.algorithm
        )
    }
}

/// The challenges of a response, in their order.
pub fn challenges(response: &Message) -> Vec<String> {
    let both = ["WWW-Authenticate", "Proxy-Authenticate"];
    both.iter().flat_map(|name| response.headers(name)).collect()
}

/// A parameter of a challenge, without quotes.
pub fn value(challenge: &str, name: &str) -> Option<String> {
    let parameters = challenge.strip_prefix("Digest ")?;
    // No value here has a comma in it but the list of qop.
    let pairs = parameters.split(',').filter_map(|pair| pair.trim().split_once('='));
    let found = pairs
        .filter(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
        .next()?;
    Some(found.trim_matches('"').to_string())
}

fn hash(algorithm: &str, text: &str) -> String {
    match algorithm {
        "MD5" => hex(&Md5::digest(text)),
        "SHA-256" => hex(&Sha256::digest(text)),
        "SHA-512-256" => hex(&Sha512_256::digest(text)),
        other => panic!("no algorithm {other} here"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// RFC 7616 section 3.9.1.
#[test]
fn rfc7616_sec_3_9_1_the_examples_of_the_rfc() {
    let credentials = |algorithm: &str| Credentials {
        username: "Mufasa".into(),
        password: "Circle of Life".into(),
        realm: "http-auth@example.org".into(),
        nonce: "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v".into(),
        method: "GET".into(),
        uri: "/dir/index.html".into(),
        algorithm: algorithm.into(),
        qop: None,
        nc: 1,
    };
    let ha1 = |algorithm: &str| {
        let own = credentials(algorithm);
        hash(algorithm, &format!("{}:{}:{}", own.username, own.realm, own.password))
    };
    let response = |algorithm: &str| {
        let own = credentials(algorithm);
        let cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";
        let ha2 = hash(algorithm, "GET:/dir/index.html");
        hash(
            algorithm,
            &format!("{}:{}:00000001:{cnonce}:auth:{ha2}", ha1(algorithm), own.nonce),
        )
    };
    assert_eq!(response("MD5"), "8ca523f5e9506fed4657c9700eebdbec");
    assert_eq!(
        response("SHA-256"),
        "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"
    );
}
