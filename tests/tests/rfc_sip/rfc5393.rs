//! RFC 5393: loops and amplification.

use tests::sip::request::Request;
use tests::sip::server::Server;

use crate::scene::{ANNA, Scene, is};

const MODULE: &str = "the lab's kamailio has no Max-Breadth";

#[test]
fn sec_4_2_two_proxies_that_point_at_each_other() {
    let why = "this is two sipnats; kamailio's proxies count hops down instead";
    let Some(scene) = Scene::sipnat(why, |config| {
        config
            .toml("[[sip.route]]\nprefix = \"\"\nto = [\"sip:203.0.113.104\"]\n")
            .line("trusted = [\"203.0.113.0/24\"]")
    }) else {
        return;
    };
    let back = format!(
        "[[sip.route]]\nprefix = \"\"\nto = [\"sip:{}\"]\n",
        scene.endpoint().ip()
    );
    let other = Server::config("net.com")
        .toml(&back)
        .line("trusted = [\"203.0.113.0/24\"]");
    let other = other.start(scene.lab.o(5)).unwrap();
    let invite = Request::new("INVITE", "sip:nobody@net.com", &scene.caller).message();
    let answer = scene.ask(&scene.caller, &invite);
    scene.acknowledge(&invite, &answer);
    // 482 or what the proxies on the way make of it; what counts is that nobody has rung and that it ended at once: by its hash and not by its hops.
    assert_eq!(answer.status(), Some(482), "{answer:?}");
    let log = other.log();
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn sec_4_2_a_spiral_is_no_loop() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    scene.register(&scene.second, "berta");
    // The phone forwards to another user of the same server: the request comes by again, for somebody else.
    let came = scene.pass(&Request::new("INVITE", ANNA, &scene.caller));
    let (line, rest) = (came.start_line(), came.head());
    let further = rest.replacen(&line, "INVITE sip:berta@net.com SIP/2.0", 1);
    let via = format!(
        "\r\nVia: SIP/2.0/UDP {};branch=z9hG4bKspiral\r\nVia:",
        scene.phone.endpoint
    );
    let further = further.replacen("\r\nVia:", &via, 1);
    let further = tests::sip::message::Message::new(further).unwrap();
    scene.send(&scene.phone, &further);
    let wanted = |message: &tests::sip::message::Message| is("INVITE")(message);
    let (spiralled, _) = scene.second.recv_where("the INVITE", wanted).unwrap();
    assert_eq!(
        spiralled.headers("Via").join(", ").matches("SIP/2.0/UDP").count(),
        4,
        "{spiralled:?}"
    );
}

#[test]
fn sec_5_3_3_max_breadth_is_added() {
    let Some(scene) = Scene::sipnat(MODULE, |config| config) else {
        return;
    };
    scene.register(&scene.phone, "anna");
    let came = scene.pass(&Request::new("INVITE", ANNA, &scene.caller));
    assert_eq!(came.headers("Max-Breadth"), ["60"]);
}

#[test]
fn sec_5_3_3_max_breadth_is_neither_raised_nor_counted_down() {
    let Some(scene) = Scene::sipnat(MODULE, |config| config) else {
        return;
    };
    scene.register(&scene.phone, "anna");
    let came = scene.pass(&Request::new("MESSAGE", ANNA, &scene.caller).add("Max-Breadth", "7"));
    assert_eq!(came.headers("Max-Breadth"), ["7"]);
    let came = scene.pass(&Request::new("MESSAGE", ANNA, &scene.caller).add("Max-Breadth", "600"));
    assert_eq!(
        came.headers("Max-Breadth"),
        ["60"],
        "more than the maximum is overwritten"
    );
}

#[test]
fn sec_5_3_3_branches_share_it() {
    let Some(scene) = Scene::sipnat(MODULE, |config| config) else {
        return;
    };
    scene.register(&scene.phone, "anna");
    scene.register(&scene.second, "anna");
    let invite = Request::new("INVITE", ANNA, &scene.caller)
        .add("Max-Breadth", "5")
        .message();
    scene.send(&scene.caller, &invite);
    let shares = [&scene.phone, &scene.second].map(|peer| -> u32 {
        let came = scene.arrived(peer, &invite);
        assert_eq!(came.headers("Max-Breadth").len(), 1, "{came:?}");
        came.header("Max-Breadth").parse().unwrap()
    });
    assert!(
        shares.iter().all(|share| *share >= 1) && shares.iter().sum::<u32>() <= 5,
        "{shares:?}"
    );
}

#[test]
fn sec_5_3_3_with_a_breadth_of_one_the_next_rings_when_the_first_is_done() {
    let Some(scene) = Scene::sipnat(MODULE, |config| config) else {
        return;
    };
    scene.register(&scene.phone, "anna");
    scene.register(&scene.second, "anna");
    let invite = Request::new("INVITE", ANNA, &scene.caller)
        .add("Max-Breadth", "1")
        .message();
    scene.send(&scene.caller, &invite);
    // Which one is first is open.
    let (first, came, other) = scene.first_of(&invite);
    other.nothing(crate::scene::QUIET, is("INVITE")).unwrap();
    scene.reply(first, &came, 486, "Busy Here");
    let next = scene.arrived(other, &invite);
    assert_eq!(next.header("Max-Breadth"), "1", "section 5.3.3.1: it can be used again");
    scene.reply(other, &next, 200, "OK");
    assert_eq!(scene.final_of(&scene.caller, &invite).status(), Some(200));
}

#[test]
fn sec_5_3_3_without_breadth_it_is_answered_with_440() {
    let Some(scene) = Scene::sipnat(MODULE, |config| config) else {
        return;
    };
    scene.register(&scene.phone, "anna");
    let request = Request::new("MESSAGE", ANNA, &scene.caller)
        .add("Max-Breadth", "0")
        .message();
    assert_eq!(scene.ask(&scene.caller, &request).status(), Some(440));
}
