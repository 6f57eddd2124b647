//! RFC 4028: session timers. Their running out is shown with a simulated clock in `nat-user`.

use tests::sip::request::Request;

use crate::scene::{ANNA, Scene};

#[test]
fn sec_8_1_session_expires_and_min_se_pass_unchanged() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let invite = Request::new("INVITE", ANNA, &scene.caller)
        .add("Supported", "timer")
        .add("Session-Expires", "90")
        .add("Min-SE", "90");
    let came = scene.pass(&invite);
    assert_eq!(
        (came.header("Session-Expires"), came.header("Min-SE")),
        ("90".into(), "90".into())
    );
    let lines = [
        &*format!("Contact: <sip:anna@{}>", scene.phone.endpoint),
        "Require: timer",
        "Session-Expires: 90;refresher=uac",
    ];
    scene.send(&scene.phone, &came.reply(200, "OK", &lines, ""));
    let ok = scene.final_of(&scene.caller, &invite.message());
    assert_eq!(ok.header("Session-Expires"), "90;refresher=uac");
    assert_eq!(ok.header("Require"), "timer");
}

#[test]
fn sec_8_1_nothing_is_asked_for_in_the_name_of_others() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let call = scene.call();
    for message in [&call.came, &call.ok] {
        for name in ["Session-Expires", "Min-SE", "Require"] {
            assert_eq!(message.headers(name), Vec::<String>::new(), "{message:?}");
        }
    }
}

#[test]
fn sec_6_a_422_passes_with_its_min_se() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let invite = Request::new("INVITE", ANNA, &scene.caller).add("Session-Expires", "90");
    let came = scene.pass(&invite);
    scene.send(
        &scene.phone,
        &came.reply(422, "Session Interval Too Small", &["Min-SE: 3600"], ""),
    );
    let answer = scene.final_of(&scene.caller, &invite.message());
    scene.acknowledge(&invite.message(), &answer);
    assert_eq!((answer.status(), answer.header("Min-SE").as_str()), (Some(422), "3600"));
}
