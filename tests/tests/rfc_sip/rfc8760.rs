//! RFC 8760: SHA-256 and SHA-512-256.

use tests::sip::request::Request;

use crate::digest::{Credentials, challenges, value};
use crate::scene::{DOMAIN, SECRET, Scene};

const SETTING: &str = "this asks for sipnat's setting of algorithms; the lab's kamailio offers MD5";
const ALL: [&str; 3] = ["SHA-512-256", "SHA-256", "MD5"];

fn scene() -> Option<Scene> {
    Scene::sipnat(SETTING, |config| config.user(SECRET.0, SECRET.1).algorithms(&ALL))
}

fn request(scene: &Scene, cseq: u32) -> Request {
    Request::register(SECRET.0, DOMAIN, &scene.phone)
        .set("Call-ID", "algorithms")
        .set("CSeq", &format!("{cseq} REGISTER"))
}

#[test]
fn sec_2_3_a_challenge_for_each_algorithm_in_the_order_of_preference() {
    let Some(scene) = scene() else { return };
    let answer = scene.ask(&scene.phone, &request(&scene, 1).message());
    let all = challenges(&answer);
    let algorithms: Vec<String> = all.iter().map(|one| value(one, "algorithm").unwrap()).collect();
    assert_eq!(algorithms, ALL, "{answer:?}");
    for challenge in &all {
        assert_eq!(
            value(challenge, "qop").as_deref(),
            Some("auth"),
            "section 2.6: {challenge}"
        );
        assert_eq!(value(challenge, "realm").as_deref(), Some(DOMAIN));
    }
}

#[test]
fn sec_2_1_each_algorithm_is_accepted() {
    let Some(scene) = scene() else { return };
    for (number, algorithm) in ALL.into_iter().enumerate() {
        let cseq = 10 * number as u32 + 1;
        let challenge = scene.ask(&scene.phone, &request(&scene, cseq).message());
        let credentials = Credentials::choose(&challenge, number, SECRET, "REGISTER", "sip:net.com");
        assert_eq!(credentials.algorithm, algorithm);
        let wrong = Credentials {
            password: "x".into(),
            ..credentials.clone()
        };
        let ask = |cseq: u32, header: &str| {
            let request = request(&scene, cseq).add("Authorization", header);
            scene.ask(&scene.phone, &request.message()).status()
        };
        assert_eq!(ask(cseq + 1, &wrong.header()), Some(401), "{algorithm}");
        assert_eq!(ask(cseq + 2, &credentials.header()), Some(200), "{algorithm}");
    }
}

#[test]
fn sec_2_4_an_algorithm_that_is_not_offered_is_not_accepted() {
    let Some(scene) = Scene::sipnat(SETTING, |config| {
        config.user(SECRET.0, SECRET.1).algorithms(&["SHA-256"])
    }) else {
        return;
    };
    let challenge = scene.ask(&scene.phone, &request(&scene, 1).message());
    assert_eq!(challenges(&challenge).len(), 1);
    let md5 = Credentials {
        algorithm: "MD5".into(),
        ..Credentials::answer(&challenge, SECRET, "REGISTER", "sip:net.com")
    };
    let answer = scene.ask(
        &scene.phone,
        &request(&scene, 2).add("Authorization", &md5.header()).message(),
    );
    assert_eq!(answer.status(), Some(401), "{answer:?}");
}

#[test]
fn sec_2_5_basic_is_neither_asked_for_nor_accepted() {
    let scene = Scene::closed();
    let challenge = scene.ask(&scene.phone, &request(&scene, 1).message());
    assert!(
        challenges(&challenge).iter().all(|one| one.starts_with("Digest ")),
        "{challenge:?}"
    );
    // anna:secret
    let basic = request(&scene, 2).add("Authorization", "Basic YW5uYTpzZWNyZXQ=");
    assert_eq!(scene.ask(&scene.phone, &basic.message()).status(), Some(401));
}
