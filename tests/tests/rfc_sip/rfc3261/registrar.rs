//! RFC 3261 section 10.3: the registrar, in the order of its steps.

use tests::router::{not_applicable, not_met};
use tests::sip::message::{Message, parameter};
use tests::sip::request::{Request, contact};

use crate::digest::Credentials;
use crate::scene::{ANNA, DOMAIN, SECRET, Scene, contacts, is};

const ONE: &str = "<sip:one@203.0.113.101>";
const TWO: &str = "<sip:two@203.0.113.101>";

fn register(scene: &Scene) -> Request {
    Request::register("anna", DOMAIN, &scene.phone).set("Call-ID", "registrar")
}

fn ask(scene: &Scene, request: &Request) -> Message {
    scene.ask(&scene.phone, &request.message())
}

/// The expiry of the contact with this URI in a response.
fn expires(answer: &Message, uri: &str) -> u32 {
    let contact = contacts(answer).into_iter().find(|contact| contact.contains(uri));
    let contact = contact.unwrap_or_else(|| panic!("no {uri} in {answer:?}"));
    let (_, parameters) = contact.split_once('>').unwrap_or(("", &contact));
    parameter(parameters, "expires")
        .expect("expires")
        .parse()
        .expect("a number")
}

#[test]
fn sec_10_3_1_a_domain_that_is_not_served_here_is_not_registered() {
    let scene = Scene::open();
    let elsewhere = Request::register("anna", "elsewhere.example", &scene.phone);
    let answer = ask(&scene, &elsewhere);
    assert_ne!(answer.status(), Some(200), "{answer:?}");
    assert_eq!(scene.contacts("anna"), Vec::<String>::new());
}

#[test]
fn sec_10_3_2_what_is_required_and_not_supported_is_answered_with_420() {
    let scene = Scene::closed();
    let answer = ask(&scene, &register(&scene).add("Require", "frobnication, path"));
    assert_eq!(answer.status(), Some(420), "before authentication: {answer:?}");
    assert_eq!(answer.header("Unsupported"), "frobnication");
}

#[test]
fn sec_10_3_3_a_registrar_authenticates() {
    let scene = Scene::closed();
    let first = register(&scene).set("CSeq", "1 REGISTER");
    let challenge = ask(&scene, &first);
    assert_eq!(challenge.status(), Some(401), "{challenge:?}");
    let right = Credentials::answer(&challenge, SECRET, "REGISTER", "sip:net.com");
    let wrong = Credentials {
        password: "wrong".into(),
        ..right.clone()
    };
    let answer = ask(
        &scene,
        &register(&scene)
            .set("CSeq", "2 REGISTER")
            .add("Authorization", &wrong.header()),
    );
    assert_eq!(answer.status(), Some(401), "{answer:?}");
    let answer = ask(
        &scene,
        &register(&scene)
            .set("CSeq", "3 REGISTER")
            .add("Authorization", &right.header()),
    );
    assert_eq!(answer.status(), Some(200), "{answer:?}");
    assert_eq!(contacts(&answer).len(), 1, "{answer:?}");
}

#[test]
fn sec_10_3_4_who_may_not_change_it_is_answered_with_403() {
    let scene = Scene::closed();
    let of_another = |cseq| {
        Request::register("berta", DOMAIN, &scene.phone)
            .set("Call-ID", "another")
            .set("CSeq", &format!("{cseq} REGISTER"))
    };
    let challenge = ask(&scene, &of_another(1));
    assert_eq!(challenge.status(), Some(401), "{challenge:?}");
    let anna = Credentials::answer(&challenge, SECRET, "REGISTER", "sip:net.com");
    let answer = ask(&scene, &of_another(2).add("Authorization", &anna.header()));
    assert_eq!(answer.status(), Some(403), "{answer:?}");
}

#[test]
fn sec_10_3_5_an_address_of_record_of_another_domain_is_answered_with_404() {
    let scene = Scene::open();
    let answer = ask(&scene, &register(&scene).set("To", "<sip:anna@elsewhere.example>"));
    assert_eq!(answer.status(), Some(404), "{answer:?}");
}

#[test]
fn sec_10_3_5_parameters_of_the_address_of_record_do_not_count() {
    let scene = Scene::open();
    let answer = ask(
        &scene,
        &register(&scene).set("To", "<sip:anna@NET.com;transport=tcp;x=y>"),
    );
    assert_eq!(answer.status(), Some(200), "{answer:?}");
    let came = scene.pass(&Request::new("MESSAGE", ANNA, &scene.caller));
    assert_eq!(came.request_uri(), format!("sip:anna@{}", scene.phone.endpoint));
}

#[test]
fn sec_10_3_6_a_star_removes_all() {
    let scene = Scene::open();
    let both = register(&scene).set("Contact", &format!("{ONE}, {TWO}"));
    assert_eq!(contacts(&ask(&scene, &both)).len(), 2);
    let star = register(&scene)
        .set("CSeq", "2 REGISTER")
        .set("Contact", "*")
        .add("Expires", "0");
    let answer = ask(&scene, &star);
    assert_eq!((answer.status(), contacts(&answer).len()), (Some(200), 0), "{answer:?}");
    assert_eq!(scene.contacts("anna"), Vec::<String>::new());
}

#[test]
fn sec_10_3_6_a_star_with_an_expiry_or_another_contact_is_answered_with_400() {
    let scene = Scene::open();
    assert_eq!(ask(&scene, &register(&scene)).status(), Some(200));
    let star = |cseq: u32| {
        register(&scene)
            .set("CSeq", &format!("{cseq} REGISTER"))
            .set("Contact", "*")
    };
    assert_eq!(ask(&scene, &star(2)).status(), Some(400), "without Expires");
    assert_eq!(ask(&scene, &star(3).add("Expires", "60")).status(), Some(400));
    let answer = ask(&scene, &star(4).add("Contact", ONE).add("Expires", "0"));
    assert_eq!(answer.status(), Some(400), "{answer:?}");
    assert_eq!(scene.contacts("anna").len(), 1);
}

#[test]
fn sec_10_3_7_the_contacts_own_expiry_counts_before_the_header_and_both_before_the_default() {
    let scene = Scene::open();
    let request = register(&scene)
        .set("Contact", &format!("{ONE};expires=600, {TWO}"))
        .add("Expires", "900");
    let answer = ask(&scene, &request);
    let (one, two) = (expires(&answer, "one@"), expires(&answer, "two@"));
    assert!((590..=600).contains(&one) && (890..=900).contains(&two), "{answer:?}");
    let answer = ask(&scene, &register(&scene).set("CSeq", "2 REGISTER").set("Contact", ONE));
    assert!((3590..=3600).contains(&expires(&answer, "one@")), "{answer:?}");
}

#[test]
fn sec_10_2_1_1_an_expiry_that_is_no_number_counts_as_an_hour() {
    let scene = Scene::open();
    let answer = ask(&scene, &register(&scene).set("Contact", &format!("{ONE};expires=soon")));
    assert_eq!(answer.status(), Some(200), "{answer:?}");
    let got = expires(&answer, "one@");
    if !(3590..=3600).contains(&got) {
        not_met(&format!("a SHOULD: `expires=soon` is granted {got} s"));
    }
}

#[test]
fn sec_10_3_7_an_interval_that_is_too_brief_is_answered_with_423_and_the_least() {
    let scene = Scene::open();
    let answer = ask(&scene, &register(&scene).add("Expires", "5"));
    if answer.status() == Some(200) {
        not_applicable("it grants more than was asked for instead (423 is a MAY)");
        return;
    }
    assert_eq!(answer.status(), Some(423), "{answer:?}");
    assert_eq!(answer.header("Min-Expires"), "60");
    assert_eq!(scene.contacts("anna"), Vec::<String>::new());
}

#[test]
fn sec_10_3_7_a_cseq_that_is_not_higher_changes_nothing() {
    let scene = Scene::open();
    let first = register(&scene).set("CSeq", "10 REGISTER").set("Contact", ONE);
    assert_eq!(ask(&scene, &first).status(), Some(200));
    let older = register(&scene)
        .set("CSeq", "9 REGISTER")
        .set("Contact", ONE)
        .add("Expires", "0");
    let answer = ask(&scene, &older);
    assert!(answer.status() >= Some(400), "it must fail: {answer:?}");
    assert_eq!(scene.contacts("anna").len(), 1, "it must change nothing");
    // Another Call-ID is a device that has forgotten: it counts.
    let anew = older.set("Call-ID", "anew").set("CSeq", "1 REGISTER");
    assert_eq!(ask(&scene, &anew).status(), Some(200));
    assert_eq!(scene.contacts("anna").len(), 0);
}

#[test]
fn sec_10_3_7_all_contacts_of_a_request_or_none() {
    let scene = Scene::open();
    let first = register(&scene).set("CSeq", "10 REGISTER").set("Contact", ONE);
    assert_eq!(ask(&scene, &first).status(), Some(200));
    // ONE is out of order, so TWO must not be registered either.
    let both = register(&scene)
        .set("CSeq", "9 REGISTER")
        .set("Contact", &format!("{TWO}, {ONE}"));
    let answer = ask(&scene, &both);
    assert!(answer.status() >= Some(400), "{answer:?}");
    let left = scene.contacts("anna");
    assert!(left.len() == 1 && left[0].contains("one@"), "{left:?}");
}

#[test]
fn sec_10_3_7_contacts_are_compared_as_uris() {
    let scene = Scene::open();
    let first = register(&scene).set("Contact", "<sip:anna@203.0.113.101:5060;transport=UDP;x=1>");
    assert_eq!(ask(&scene, &first).status(), Some(200));
    // RFC 3261 section 19.1.4: escapes, case of the host and of parameters, and their order do not matter.
    let same = register(&scene)
        .set("CSeq", "2 REGISTER")
        .set("Contact", "<sip:%61nna@203.0.113.101:5060;x=1;transport=udp>");
    let answer = ask(&scene, &same);
    assert_eq!(contacts(&answer).len(), 1, "{answer:?}");
    // A port that is left out is another URI.
    let other = register(&scene)
        .set("CSeq", "3 REGISTER")
        .set("Contact", "<sip:anna@203.0.113.101;x=1;transport=udp>");
    let answer = ask(&scene, &other);
    assert_eq!(contacts(&answer).len(), 2, "{answer:?}");
}

#[test]
fn sec_10_2_2_an_expiry_of_zero_removes_a_contact() {
    let scene = Scene::open();
    let both = register(&scene).set("Contact", &format!("{ONE}, {TWO}"));
    assert_eq!(contacts(&ask(&scene, &both)).len(), 2);
    let one = register(&scene)
        .set("CSeq", "2 REGISTER")
        .set("Contact", &format!("{ONE};expires=0"));
    let answer = ask(&scene, &one);
    let left = contacts(&answer);
    assert!(left.len() == 1 && left[0].contains("two@"), "{answer:?}");
}

#[test]
fn sec_10_3_8_the_200_lists_all_contacts_with_what_is_left_and_the_date() {
    let scene = Scene::open();
    let one = format!("{ONE};q=0.3;+sip.instance=\"<urn:uuid:0>\"");
    assert_eq!(ask(&scene, &register(&scene).set("Contact", &one)).status(), Some(200));
    let two = Request::register("anna", DOMAIN, &scene.second).set("Contact", TWO);
    let answer = scene.ask(&scene.second, &two.message());
    let listed = contacts(&answer);
    assert_eq!(listed.len(), 2, "of other devices too: {answer:?}");
    let one = listed.iter().find(|contact| contact.contains("one@")).unwrap();
    let q = parameter(one.rsplit_once("203.0.113.101>").unwrap().1, "q").expect("q");
    assert_eq!(q.parse::<f32>().unwrap(), 0.3, "{one}");
    assert!(one.contains("+sip.instance=\"<urn:uuid:0>\""), "{one}");
    assert!((3590..=3600).contains(&expires(&answer, "one@")), "{one}");
    match answer.headers("Date").first() {
        Some(date) => assert!(date.ends_with(" GMT"), "section 20.17: {date}"),
        None => not_met("a SHOULD: the 200 has no Date"),
    }
}

#[test]
fn sec_10_2_3_without_a_contact_it_only_asks() {
    let scene = Scene::open();
    assert_eq!(scene.contacts("anna"), Vec::<String>::new());
    scene.register(&scene.phone, "anna");
    let listed = scene.contacts("anna");
    assert!(
        listed.len() == 1 && listed[0].starts_with(&contact("anna", &scene.phone)),
        "{listed:?}"
    );
}

#[test]
fn sec_10_3_a_record_route_in_a_register_is_ignored() {
    let scene = Scene::open();
    let answer = ask(&scene, &register(&scene).add("Record-Route", "<sip:203.0.113.1;lr>"));
    assert_eq!(answer.status(), Some(200), "{answer:?}");
    assert_eq!(answer.headers("Record-Route"), Vec::<String>::new());
}

#[test]
fn sec_10_2_1_what_is_registered_is_where_requests_go() {
    let scene = Scene::open();
    let uri = format!("sip:x%20y@{};transport=udp;custom=\"q\"", scene.phone.endpoint).replace("\"q\"", "q");
    let answer = ask(&scene, &register(&scene).set("Contact", &format!("<{uri}>")));
    assert_eq!(answer.status(), Some(200), "{answer:?}");
    let came = scene.pass(&Request::new("INVITE", ANNA, &scene.caller));
    assert_eq!(came.request_uri(), uri, "section 16.6 item 2");
    let gone = register(&scene)
        .set("CSeq", "2 REGISTER")
        .set("Contact", &format!("<{uri}>;expires=0"));
    assert_eq!(ask(&scene, &gone).status(), Some(200));
    let request = Request::new("MESSAGE", ANNA, &scene.caller).message();
    let answer = scene.ask(&scene.caller, &request);
    assert!(matches!(answer.status(), Some(404 | 480)), "{answer:?}");
    scene.phone.nothing(crate::scene::QUIET, is("MESSAGE")).unwrap();
}
