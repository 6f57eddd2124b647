use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const NOW: Time = Time(1_790_000_000_000);

const FILE: &str = "bob:atlanta.example.com:plain:zanzibar\nold:atlanta.example.com:5bc04fd8c4dd6c1ddb1fb2ed2dc84e31\nq\\z:atlanta.example.com:plain:x\n";

fn users() -> Users {
    Users::parse(FILE, "test").unwrap()
}

fn server() -> Authenticator {
    Authenticator::new(all_algorithms(), b"secret", NOW)
}

fn all_algorithms() -> config::sip::Auth {
    config::sip::Auth {
        algorithms: vec![
            DigestAlgorithm::Sha512_256,
            DigestAlgorithm::Sha256,
            DigestAlgorithm::Md5,
        ],
        ..config::sip::Auth::default()
    }
}

fn source() -> IpAddr {
    "192.0.2.201".parse().unwrap()
}

const REALM: &str = "atlanta.example.com";

fn nonce_of(challenge: &[u8]) -> String {
    let text = std::str::from_utf8(challenge).unwrap();
    text.split("nonce=\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap()
        .to_owned()
}

/// What a phone sends.
#[derive(Clone)]
struct Phone {
    algorithm: DigestAlgorithm,
    user: &'static str,
    password: &'static str,
    nonce: String,
    nc: u32,
    qop: bool,
    uri: &'static str,
    request_uri: &'static str,
    proxies: usize,
}

impl Phone {
    fn new(algorithm: DigestAlgorithm, nonce: &str) -> Phone {
        Phone {
            algorithm,
            user: "bob",
            password: "zanzibar",
            nonce: nonce.to_owned(),
            nc: 1,
            qop: true,
            uri: "sip:ss2.biloxi.example.com",
            request_uri: "sip:ss2.biloxi.example.com",
            proxies: 0,
        }
    }

    fn message(&self) -> Message {
        let ha1 = users::ha1(self.algorithm, self.user, REALM, self.password);
        let quoted = self.user.replace('\\', "\\\\").replace('"', "\\\"");
        let qop = if self.qop {
            format!(", qop=auth, nc={:08x}, cnonce=\"abc\"", self.nc)
        } else {
            String::new()
        };
        let head = format!(
            "Digest username=\"{quoted}\", realm=\"{REALM}\", nonce=\"{}\", uri=\"{}\", algorithm={}{qop}",
            self.nonce,
            self.uri,
            users::name(self.algorithm)
        );
        let with_response = |response: &str| format!("{head}, response=\"{response}\"");
        let draft = with_response("");
        let credentials = Credentials::parse(draft.as_bytes()).unwrap().unwrap();
        let response = digest::response(self.algorithm, &ha1, b"REGISTER", &credentials);
        let vias = "Via: SIP/2.0/TLS p;branch=z9hG4bKp\r\n".repeat(self.proxies);
        let text = format!(
            "REGISTER {} SIP/2.0\r\n{vias}Via: SIP/2.0/TLS client;branch=z9hG4bK1\r\nFrom: <sips:bob@x>;tag=1\r\nTo: <sips:bob@x>\r\n\
             Call-ID: 1\r\nCSeq: 1 REGISTER\r\nAuthorization: Other x=1\r\nAuthorization: Digest username=\"bob\", realm=\"other\", nonce=\"1\", uri=\"1\", response=\"1\"\r\n\
             Authorization: {}\r\n\r\n",
            self.request_uri,
            with_response(&response)
        );
        Message::parse(Bytes::from(text)).unwrap()
    }
}

fn check(server: &mut Authenticator, phone: &Phone, now: Time) -> Verdict {
    server.check(&phone.message(), Asker::Server, REALM, &users(), source(), now)
}

fn granted(user: &str) -> Verdict {
    Verdict::Granted { user: user.into() }
}

fn wrong(user: &str) -> Verdict {
    Verdict::Wrong { user: user.into() }
}

/// The example of RFC 7616 section 3.9.1, and of RFC 2617 section 3.5.
#[test]
fn hashes_as_in_the_rfcs() {
    for (algorithm, realm, rest, expected) in [
        (
            DigestAlgorithm::Md5,
            "http-auth@example.org",
            "nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", cnonce=\"f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ\"",
            "8ca523f5e9506fed4657c9700eebdbec",
        ),
        (
            DigestAlgorithm::Sha256,
            "http-auth@example.org",
            "nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", cnonce=\"f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ\"",
            "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
        ),
        (
            DigestAlgorithm::Md5,
            "testrealm@host.com",
            "nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\", cnonce=\"0a4f113b\"",
            "6629fae49393a05397450978507c4ef1",
        ),
    ] {
        let password = if realm == "testrealm@host.com" {
            "Circle Of Life"
        } else {
            "Circle of Life"
        };
        let ha1 = users::ha1(algorithm, "Mufasa", realm, password);
        let text = format!(
            "Digest username=\"Mufasa\", realm=\"{realm}\", uri=\"/dir/index.html\", {rest}, nc=00000001, qop=auth, response=\"\""
        );
        let credentials = Credentials::parse(text.as_bytes()).unwrap().unwrap();
        assert_eq!(digest::response(algorithm, &ha1, b"GET", &credentials), expected);
    }
}

#[test]
fn each_algorithm_is_offered_and_accepted() {
    let mut server = server();
    let challenge = server
        .challenge(Asker::Server, REALM, None, false, source(), NOW)
        .to_vec();
    let nonce = nonce_of(&challenge);
    let line = |algorithm: &str| {
        format!(
            "WWW-Authenticate: Digest realm=\"atlanta.example.com\", nonce=\"{nonce}\", algorithm={algorithm}, qop=\"auth\"\r\n"
        )
    };
    let expected = ["SHA-512-256", "SHA-256", "MD5"].map(line).concat();
    assert_eq!(String::from_utf8(challenge).unwrap(), expected);
    for algorithm in [
        DigestAlgorithm::Md5,
        DigestAlgorithm::Sha256,
        DigestAlgorithm::Sha512_256,
    ] {
        let nonce = nonce_of(server.challenge(Asker::Server, REALM, None, false, source(), NOW));
        let phone = Phone::new(algorithm, &nonce);
        assert_eq!(check(&mut server, &phone, NOW), granted("bob"), "{algorithm:?}");
        // A replay, and the next count.
        assert_eq!(check(&mut server, &phone, NOW), Verdict::Stale);
        assert_eq!(
            check(&mut server, &Phone { nc: 2, ..phone.clone() }, NOW),
            granted("bob")
        );
        let bad = Phone {
            nc: 3,
            password: "zanzibaR",
            ..phone.clone()
        };
        assert_eq!(check(&mut server, &bad, NOW), wrong("bob"));
        assert_eq!(
            check(&mut server, &Phone { user: "nobody", ..bad }, NOW),
            wrong("nobody")
        );
        assert_eq!(
            check(&mut server, &Phone { nc: 3, ..phone }, NOW),
            granted("bob"),
            "a wrong guess uses nothing up"
        );
    }
}

#[test]
fn challenges_by_proxies_and_for_users_with_one_hash() {
    let mut server = server();
    let users = users();
    let stale = server.challenge(Asker::Proxy, "a\"b", users.find(REALM, "old"), true, source(), NOW);
    let text = String::from_utf8(stale.to_vec()).unwrap();
    assert!(text.starts_with("Proxy-Authenticate: Digest realm=\"a\\\"b\", nonce=\""));
    assert!(text.ends_with(", stale=true, algorithm=MD5, qop=\"auth\"\r\n") && text.matches("\r\n").count() == 1);
    assert_eq!(Asker::Proxy.response().0, 407);
}

#[test]
fn nonces_are_good_for_their_time_place_and_realm() {
    let mut server = server();
    let nonce = nonce_of(server.challenge(Asker::Server, REALM, None, false, source(), NOW));
    let mut phone = Phone::new(DigestAlgorithm::Sha256, &nonce);
    let after = |ms| NOW + Duration::from_millis(ms);
    assert_eq!(check(&mut server, &phone, after(300_000)), Verdict::Stale);
    let elsewhere = server.check(
        &phone.message(),
        Asker::Server,
        REALM,
        &users(),
        "192.0.3.1".parse().unwrap(),
        NOW,
    );
    assert_eq!(elsewhere, Verdict::Stale);
    let neighbour = server.check(
        &phone.message(),
        Asker::Server,
        REALM,
        &users(),
        "::ffff:192.0.2.9".parse().unwrap(),
        NOW,
    );
    assert_eq!(neighbour, granted("bob"), "another address of the same pool");
    phone.nc = 2;
    assert_eq!(check(&mut server, &phone, after(299_999)), granted("bob"));
    phone.nc = 3;
    // After a restart it is not known which counts were used.
    let mut restarted = Authenticator::new(all_algorithms(), b"secret", after(1));
    assert_eq!(check(&mut restarted, &phone, after(1)), Verdict::Stale);
    let mut stranger = Authenticator::new(all_algorithms(), b"another", NOW);
    assert_eq!(check(&mut stranger, &phone, NOW), Verdict::Stale);
    let other = server.check(
        &phone.message(),
        Asker::Server,
        "other.example",
        &users(),
        source(),
        NOW,
    );
    assert_eq!(other, Verdict::Missing);
    assert_eq!(
        server.check(&phone.message(), Asker::Proxy, REALM, &users(), source(), NOW),
        Verdict::Missing
    );
    for forged in [
        "",
        "x",
        &nonce[1..],
        &format!("A{}", nonce[1..].to_uppercase()),
        &format!("{nonce}A"),
    ] {
        assert_eq!(
            check(&mut server, &Phone::new(DigestAlgorithm::Sha256, forged), NOW),
            Verdict::Stale,
            "{forged}"
        );
    }
}

#[test]
fn old_phones_without_qop() {
    let mut server = server();
    let nonce = nonce_of(server.challenge(Asker::Server, REALM, None, false, source(), NOW));
    let old = Phone {
        qop: false,
        ..Phone::new(DigestAlgorithm::Md5, &nonce)
    };
    assert_eq!(check(&mut server, &old, NOW), granted("bob"));
    assert_eq!(check(&mut server, &old, NOW), Verdict::Stale, "once");
    let nonce = nonce_of(server.challenge(Asker::Server, REALM, None, false, source(), NOW));
    let modern = Phone {
        qop: false,
        ..Phone::new(DigestAlgorithm::Sha256, &nonce)
    };
    assert_eq!(
        check(&mut server, &modern, NOW),
        Verdict::Malformed("Digest Without qop")
    );
}

#[test]
fn the_uri_must_agree() {
    let mut server = server();
    let nonce = nonce_of(server.challenge(Asker::Server, REALM, None, false, source(), NOW));
    let mut nc = 0;
    let mut ask = |uri, request_uri, proxies| {
        nc += 1;
        let phone = Phone {
            uri,
            request_uri,
            proxies,
            nc,
            ..Phone::new(DigestAlgorithm::Md5, &nonce)
        };
        check(&mut server, &phone, NOW)
    };
    assert_eq!(ask("sip:Net.com:5060", "sip:net.com;transport=tcp", 0), granted("bob"));
    assert_eq!(ask("sip:net.com", "sip:user@net.com", 0), granted("bob"));
    assert_eq!(ask("tel:+1", "tel:+1", 0), granted("bob"));
    assert_eq!(
        ask("sip:203.0.113.1:5060", "sip:net.com", 0),
        granted("bob"),
        "as sipp writes it"
    );
    assert_eq!(ask("sip:[2001:db8::1]", "sip:user@net.com", 0), granted("bob"));
    let differs = Verdict::Malformed("Digest uri Differs From Request-URI");
    assert_eq!(ask("sip:other.com", "sip:net.com", 0), differs);
    assert_eq!(ask("sip:a@net.com", "sip:b@net.com", 0), differs);
    assert_eq!(ask("sip:a@203.0.113.1", "sip:b@net.com", 0), differs);
    assert_eq!(ask("/", "sip:b@net.com", 0), differs);
    assert_eq!(
        ask("sip:other.com", "sip:net.com", 1),
        granted("bob"),
        "changed by a proxy"
    );
}

#[test]
fn names_with_escapes() {
    let mut server = server();
    let nonce = nonce_of(server.challenge(Asker::Server, REALM, None, false, source(), NOW));
    let phone = Phone {
        user: "q\\z",
        password: "x",
        ..Phone::new(DigestAlgorithm::Sha256, &nonce)
    };
    assert_eq!(check(&mut server, &phone, NOW), granted("q\\z"));
}

proptest! {
    /// Whatever stands there: no panic and no access.
    #[test]
    fn any_header(bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'"'), Just(b','), Just(b'='), Just(b'\\'), Just(b' ')], 0..120)) {
        let mut text = b"Digest ".to_vec();
        text.extend_from_slice(&bytes);
        let _ = Credentials::parse(&text);
        let mut text = b"Digest username=\"u\",realm=\"atlanta.example.com\",nonce=\"n\",uri=\"u\",response=\"r\",x".to_vec();
        text.extend_from_slice(&bytes);
        if let Ok(Some(found)) = Credentials::parse(&text) {
            prop_assert_eq!(&*found.username, "u");
        }
    }
}
