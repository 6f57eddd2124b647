//! RFC 7616 (and RFC 2617, which RFC 3261 section 22.4 names): digest authentication, where the registrar asks.

use tests::sip::message::Message;
use tests::sip::request::Request;

use crate::digest::{Credentials, challenges, value};
use crate::scene::{DOMAIN, SECRET, Scene};

/// A registrar whose user has got a challenge.
struct Challenged {
    scene: Scene,
    challenge: Message,
    right: Credentials,
    cseq: std::cell::Cell<u32>,
}

impl Challenged {
    fn new() -> Self {
        Self::of(Scene::closed())
    }

    fn of(scene: Scene) -> Self {
        let challenge = scene.ask(&scene.phone, &request(&scene, 1).message());
        assert_eq!(challenge.status(), Some(401), "{challenge:?}");
        let right = Credentials::answer(&challenge, SECRET, "REGISTER", "sip:net.com");
        Self {
            scene,
            challenge,
            right,
            cseq: std::cell::Cell::new(1),
        }
    }

    fn ask(&self, header: &str) -> Message {
        self.cseq.set(self.cseq.get() + 1);
        let request = request(&self.scene, self.cseq.get()).add("Authorization", header);
        self.scene.ask(&self.scene.phone, &request.message())
    }
}

fn request(scene: &Scene, cseq: u32) -> Request {
    Request::register(SECRET.0, DOMAIN, &scene.phone)
        .set("Call-ID", "digest")
        .set("CSeq", &format!("{cseq} REGISTER"))
}

#[test]
fn sec_3_3_a_challenge_has_realm_nonce_and_qop() {
    let asked = Challenged::new();
    let challenge = &challenges(&asked.challenge)[0];
    assert_eq!(value(challenge, "realm").as_deref(), Some(DOMAIN));
    assert!(
        value(challenge, "nonce").is_some_and(|nonce| nonce.len() > 16),
        "{challenge}"
    );
    match value(challenge, "qop") {
        Some(qop) => assert!(qop.split(',').any(|one| one.trim() == "auth"), "{challenge}"),
        None => tests::router::not_met("RFC 8760 section 2.6, a MUST: the challenge has no qop"),
    }
}

#[test]
fn sec_3_3_no_two_nonces_are_the_same_for_long() {
    let asked = Challenged::new();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let again = asked
        .scene
        .ask(&asked.scene.phone, &request(&asked.scene, 50).message());
    assert_ne!(value(&challenges(&again)[0], "nonce"), Some(asked.right.nonce));
}

#[test]
fn sec_3_4_1_the_right_response_passes_and_a_wrong_one_does_not() {
    let asked = Challenged::new();
    let wrong = Credentials {
        password: "secreT".into(),
        ..asked.right.clone()
    };
    assert_eq!(asked.ask(&wrong.header()).status(), Some(401));
    let unknown = Credentials {
        username: "nobody".into(),
        ..asked.right.clone()
    };
    let answer = asked.ask(&unknown.header());
    assert_eq!(answer.status(), Some(401), "nobody learns who is a user: {answer:?}");
    let answer = asked.ask(&asked.right.header());
    assert_eq!(answer.status(), Some(200), "{answer:?}");
}

#[test]
fn sec_3_4_2_the_method_counts() {
    let asked = Challenged::new();
    let of_another = Credentials {
        method: "INVITE".into(),
        ..asked.right.clone()
    };
    assert_eq!(asked.ask(&of_another.header()).status(), Some(401));
}

#[test]
fn sec_3_4_6_the_uri_must_be_that_of_the_request() {
    let asked = Challenged::new();
    let elsewhere = Credentials {
        uri: "sip:elsewhere.example".into(),
        ..asked.right.clone()
    };
    let answer = asked.ask(&elsewhere.header());
    if answer.status() == Some(200) {
        return tests::router::not_met(
            "a MUST of RFC 7616 section 3.4.6: credentials for sip:elsewhere.example are taken",
        );
    }
    assert!(matches!(answer.status(), Some(400 | 401 | 403)), "{answer:?}");
}

#[test]
fn sec_3_4_the_count_is_hexadecimal_and_rises() {
    let asked = Challenged::new();
    if asked.right.qop.is_none() {
        return tests::router::not_applicable("it offers no qop, so nothing is counted");
    }
    for nc in [1, 9, 10, 16] {
        let next = Credentials {
            nc,
            ..asked.right.clone()
        };
        assert!(next.header().contains(&format!("nc={nc:08x}")));
        let answer = asked.ask(&next.header());
        assert_eq!(answer.status(), Some(200), "nc={nc:08x}: {answer:?}");
    }
}

#[test]
fn sec_5_5_a_replay_is_stale_and_changes_nothing() {
    let asked = Challenged::new();
    assert_eq!(asked.ask(&asked.right.header()).status(), Some(200));
    let answer = asked.ask(&asked.right.header());
    if answer.status() == Some(200) {
        return tests::router::not_met("the same nonce, nc and response are taken twice");
    }
    assert_eq!(answer.status(), Some(401), "{answer:?}");
    let challenge = &challenges(&answer)[0];
    assert_eq!(
        value(challenge, "stale").map(|stale| stale.to_lowercase()),
        Some("true".into()),
        "{challenge}"
    );
    assert_ne!(
        value(challenge, "nonce"),
        Some(asked.right.nonce.clone()),
        "{challenge}"
    );
}

#[test]
fn sec_3_3_a_nonce_that_was_not_given_is_challenged_anew() {
    let asked = Challenged::new();
    let made_up = Credentials {
        nonce: "ZGVhZGJlZWY=".into(),
        ..asked.right.clone()
    };
    assert_eq!(asked.ask(&made_up.header()).status(), Some(401));
}

#[test]
fn sec_3_3_an_old_nonce_is_stale() {
    let why = "this asks for sipnat's setting of a nonce's life";
    let life = "nonce_lifetime = \"10s\"";
    let Some(scene) = Scene::sipnat(why, |config| config.user(SECRET.0, SECRET.1).auth_line(life)) else {
        return;
    };
    let asked = Challenged::of(scene);
    // Time itself is what is tested.
    std::thread::sleep(std::time::Duration::from_millis(10_100));
    let answer = asked.ask(&asked.right.header());
    assert_eq!(answer.status(), Some(401));
    assert_eq!(
        value(&challenges(&answer)[0], "stale").as_deref(),
        Some("true"),
        "{answer:?}"
    );
}

#[test]
fn sec_3_4_another_scheme_is_as_if_there_was_none() {
    let asked = Challenged::new();
    assert_eq!(asked.ask("NoOneKnowsThisScheme opaque-data=here").status(), Some(401));
}

#[test]
fn sec_3_4_credentials_for_another_realm_are_passed_over() {
    let asked = Challenged::new();
    let other = Credentials {
        realm: "elsewhere.example".into(),
        ..asked.right.clone()
    };
    assert_eq!(asked.ask(&other.header()).status(), Some(401));
    asked.cseq.set(asked.cseq.get() + 1);
    let both = request(&asked.scene, asked.cseq.get())
        .add("Authorization", &other.header())
        .add("Authorization", &asked.right.header());
    assert_eq!(asked.scene.ask(&asked.scene.phone, &both.message()).status(), Some(200));
}

#[test]
fn sec_3_4_malformed_credentials_register_nobody() {
    let asked = Challenged::new();
    let cut = asked.right.header();
    for header in [&cut[..cut.len() / 2], "Digest", "Digest username=\"anna"] {
        let answer = asked.ask(header);
        assert!(matches!(answer.status(), Some(400 | 401)), "{header}: {answer:?}");
    }
}

#[test]
fn rfc2617_sec_3_2_2_1_old_phones_without_qop() {
    let asked = Challenged::new();
    let old = Credentials {
        qop: None,
        ..asked.right.clone()
    };
    let answer = asked.ask(&old.header());
    if answer.status() != Some(200) {
        return tests::router::not_met("credentials without qop (RFC 2069) are not taken");
    }
    // Without a count they are good once.
    let again = asked.ask(&old.header());
    if again.status() == Some(200) {
        tests::router::not_met("credentials without qop are taken twice");
    }
}

#[test]
fn sec_5_4_many_wrong_passwords_ban_the_source() {
    let why = "this asks for sipnat's setting of bans";
    let ban = "ban_after = 3\nban = \"1m\"";
    let Some(scene) = Scene::sipnat(why, |config| config.user(SECRET.0, SECRET.1).auth_line(ban)) else {
        return;
    };
    let asked = Challenged::of(scene);
    for nc in 1..=3 {
        let wrong = Credentials {
            password: format!("guess {nc}"),
            nc,
            ..asked.right.clone()
        };
        assert_eq!(asked.ask(&wrong.header()).status(), Some(401));
    }
    // Not even the right one, and not a word in answer.
    let right = request(&asked.scene, 90)
        .add("Authorization", &asked.right.header())
        .message();
    asked.scene.send(&asked.scene.phone, &right);
    asked
        .scene
        .phone
        .nothing(crate::scene::QUIET, |message| message.cseq() == 90)
        .unwrap();
    let bans = asked.scene.sipnat_server().json(&["bans"]).unwrap();
    assert!(
        bans.to_string().contains(&asked.scene.phone.endpoint.ip().to_string()),
        "{bans}"
    );
    // Others are not concerned.
    let other = asked
        .scene
        .ask(&asked.scene.second, &request(&asked.scene, 1).message());
    assert_eq!(other.status(), Some(401));
}
