//! RFC 3261 sections 16.3 to 16.6 and 16.11: what a proxy checks and what it changes.

use tests::sip::message::{Message, bracketed};
use tests::sip::peer::Peer;
use tests::sip::request::{Dialog, Request};
use tests::sip::server::Server;
use tests::sip::stream::Stream;
use tests::sip::under_test::only_sipnat;

use crate::scene::{ANNA, Scene, is, unchanged};

const SETTING: &str = "this asks for what sipnat's configuration says about trusted peers";

/// A scene whose peers are trusted: they may send to anywhere.
fn trusted() -> Option<Scene> {
    Scene::sipnat(SETTING, |config| config.line("trusted = [\"203.0.113.0/24\"]"))
}

#[test]
fn sec_16_3_2_a_scheme_that_is_not_understood_is_answered_with_416() {
    let scene = Scene::open();
    let answer = scene.ask(
        &scene.caller,
        &Request::new("MESSAGE", "soap.beep://192.0.2.103:3002", &scene.caller)
            .set("To", "<sip:anna@net.com>")
            .message(),
    );
    assert_eq!(answer.status(), Some(416), "{answer:?}");
}

#[test]
fn sec_16_3_3_no_hops_left_is_answered_with_483() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let request = Request::new("MESSAGE", ANNA, &scene.caller).set("Max-Forwards", "0");
    assert_eq!(scene.ask(&scene.caller, &request.message()).status(), Some(483));
    scene.nothing_came("anna", &scene.phone, |message| {
        message.headers("Call-ID") == request.message().headers("Call-ID")
    });
}

#[test]
fn sec_16_3_4_a_request_that_was_here_before_is_answered_with_482() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let request = Request::new("MESSAGE", ANNA, &scene.caller);
    let came = scene.pass(&request);
    // It comes back as it left the server, but for the way that it has come.
    let back = came
        .head()
        .replacen("MESSAGE sip:anna@203.0.113.101:5060", &format!("MESSAGE {ANNA}"), 1);
    let via = format!("Via: SIP/2.0/UDP {};branch=z9hG4bKback\r\nVia:", scene.phone.endpoint);
    let back = Message::new(back.replacen("Via:", &via, 1)).unwrap();
    let answer = scene.ask(&scene.phone, &back);
    assert_eq!(answer.status(), Some(482), "{answer:?}");
}

#[test]
fn sec_16_3_5_what_a_proxy_must_support_and_does_not_is_answered_with_420() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let request = Request::new("MESSAGE", ANNA, &scene.caller).add("Proxy-Require", "frobnication, foo");
    let answer = scene.ask(&scene.caller, &request.message());
    assert_eq!(answer.status(), Some(420), "{answer:?}");
    let unsupported = answer.headers("Unsupported").join(", ");
    assert!(
        unsupported.contains("frobnication") && unsupported.contains("foo"),
        "{answer:?}"
    );
}

#[test]
fn sec_16_3_5_what_the_other_end_must_support_is_none_of_the_proxys_business() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let came = scene.pass(&Request::new("MESSAGE", ANNA, &scene.caller).add("Require", "frobnication"));
    assert_eq!(came.header("Require"), "frobnication");
}

#[test]
fn sec_16_4_its_own_route_is_taken_out() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let route = format!("<sip:{};lr>", scene.endpoint());
    let came = scene.pass(&Request::new("MESSAGE", ANNA, &scene.caller).add("Route", &route));
    assert_eq!(came.headers("Route"), Vec::<String>::new());
}

/// What the peers' dialog looks like when the phone is registered and the call is up.
fn in_dialog(scene: &Scene) -> (Dialog, Dialog) {
    scene.register(&scene.phone, "anna");
    let call = scene.call();
    let caller = Dialog::of_caller(&call.sent, &call.ok, &scene.caller);
    let phone = Dialog::of_callee(&call.came, &call.given, &scene.phone);
    (caller, phone)
}

#[test]
fn sec_16_4_a_strict_router_before_us() {
    let scene = Scene::open();
    let (caller, _) = in_dialog(&scene);
    let (ours, target) = (bracketed(&caller.routes[0]).unwrap().to_string(), caller.target.clone());
    assert_eq!(caller.routes.len(), 1, "{caller:?}");
    // Section 16.12.1.2: it has put our Route into the request URI and the target behind the Routes.
    let strict = Dialog {
        target: ours,
        routes: vec![format!("<{target}>")],
        ..caller
    };
    let bye = strict.request("BYE", 2).message();
    scene.send(&scene.caller, &bye);
    let came = scene.arrived(&scene.phone, &bye);
    assert_eq!((came.request_uri(), came.headers("Route")), (target, vec![]));
}

#[test]
fn sec_16_5_a_user_whom_nobody_knows_is_answered_with_404() {
    let scene = Scene::open();
    let answer = scene.ask(
        &scene.caller,
        &Request::new("MESSAGE", "sip:nobody@net.com", &scene.caller).message(),
    );
    assert_eq!(answer.status(), Some(404), "{answer:?}");
}

#[test]
fn sec_16_5_a_request_for_elsewhere_keeps_its_uri() {
    let scene = if only_here() { trusted().unwrap() } else { Scene::open() };
    let uri = format!("sip:x@{};p=1", scene.phone.endpoint);
    assert_eq!(
        scene.pass(&Request::new("MESSAGE", &uri, &scene.caller)).request_uri(),
        uri
    );
}

/// Whether sipnat is asked, without a word for the scorecard if not.
fn only_here() -> bool {
    tests::sip::under_test::Sip::from_env() == tests::sip::under_test::Sip::Sipnat
}

#[test]
fn sec_16_6_1_everything_else_stays_as_it_came() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let request = Request::new("INVITE", ANNA, &scene.caller)
        .first("X-First", "1")
        .add("P-Asserted-Identity", "\"x\" <sip:x@y>, <tel:+1>")
        .add("Supported", "100rel, timer, frobnication")
        .add("X-Empty", "")
        .body("application/x-thing", "a\n\r\nb\r\n");
    let came = scene.pass(&request);
    assert_eq!(unchanged(&came), unchanged(&request.message()));
}

#[test]
fn sec_16_6_2_the_request_uri_becomes_the_contact() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let came = scene.pass(&Request::new("MESSAGE", ANNA, &scene.caller));
    assert_eq!(came.request_uri(), format!("sip:anna@{}", scene.phone.endpoint));
    assert_eq!(came.header("To"), format!("<{ANNA}>"), "To stays");
}

#[test]
fn sec_16_6_3_max_forwards_is_counted_down_or_added() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let hops = |request: Request| scene.pass(&request).header("Max-Forwards");
    let request = || Request::new("MESSAGE", ANNA, &scene.caller);
    assert_eq!(hops(request().set("Max-Forwards", "5")), "4");
    assert_eq!(hops(request().set("Max-Forwards", "1")), "0");
    let added = hops(request().without("Max-Forwards"));
    if added != "70" {
        tests::router::not_met(&format!("a SHOULD: Max-Forwards {added} is added, not 70"));
    }
}

#[test]
fn sec_16_6_4_it_stays_in_the_dialog_by_a_loose_record_route() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let call = scene.call();
    let record_route = call.came.headers("Record-Route");
    assert_eq!(record_route.len(), 1, "{record_route:?}");
    let uri = bracketed(&record_route[0]).unwrap();
    assert!(
        uri.contains(&scene.endpoint().ip().to_string()) && uri.contains(";lr"),
        "{uri}"
    );
    assert_eq!(call.ok.headers("Record-Route"), record_route);
    // And requests within it go that way, in both directions.
    let caller = Dialog::of_caller(&call.sent, &call.ok, &scene.caller);
    let phone = Dialog::of_callee(&call.came, &call.given, &scene.phone);
    let info = caller.request("INFO", 2).message();
    scene.send(&scene.caller, &info);
    let came = scene.arrived(&scene.phone, &info);
    assert_eq!(
        (came.request_uri(), came.headers("Route")),
        (caller.target.clone(), vec![])
    );
    scene.reply(&scene.phone, &came, 200, "OK");
    assert_eq!(scene.final_of(&scene.caller, &info).status(), Some(200));
    let bye = phone.request("BYE", 1).message();
    scene.send(&scene.phone, &bye);
    let came = scene.arrived(&scene.caller, &bye);
    assert_eq!(came.request_uri(), phone.target);
    scene.reply(&scene.caller, &came, 200, "OK");
    assert_eq!(scene.final_of(&scene.phone, &bye).status(), Some(200));
}

#[test]
fn sec_16_6_4_twice_if_the_transport_changes() {
    let scene = Scene::open();
    let mut phone = Stream::connect(scene.lab.o(2), scene.endpoint()).unwrap();
    phone
        .send(Request::register("anna", "net.com", &phone).message().bytes())
        .unwrap();
    assert_eq!(phone.recv_final("the 200").unwrap().status(), Some(200));
    let invite = Request::new("INVITE", ANNA, &scene.caller).message();
    scene.send(&scene.caller, &invite);
    let came = phone.recv_where("the INVITE", is("INVITE")).unwrap();
    let routes = came.headers("Record-Route").join(", ");
    let values: Vec<&str> = routes.split(", ").collect();
    assert_eq!(values.len(), 2, "{came:?}");
    assert!(
        values[0].contains("transport=tcp"),
        "the one that faces the callee: {came:?}"
    );
    assert!(
        !values[1].contains("transport=tcp"),
        "the one that faces the caller: {came:?}"
    );
    let contact = format!("Contact: <sip:anna@{};transport=tcp>", phone.local);
    phone.send(came.reply(200, "OK", &[&contact], "").bytes()).unwrap();
    let ok = scene.final_of(&scene.caller, &invite);
    let caller = Dialog::of_caller(&invite, &ok, &scene.caller);
    let bye = caller.request("BYE", 2).message();
    scene.send(&scene.caller, &bye);
    let came = phone.recv_where("the BYE", is("BYE")).unwrap();
    assert_eq!(came.headers("Route"), Vec::<String>::new(), "both were ours: {came:?}");
}

#[test]
fn sec_16_6_6_a_strict_router_behind_us() {
    let Some(scene) = trusted() else { return };
    let uri = format!("sip:x@{}", scene.second.endpoint);
    let strict = format!("<sip:{}>", scene.phone.endpoint);
    let request = Request::new("MESSAGE", &uri, &scene.caller)
        .add("Route", &strict)
        .add("Route", "<sip:last.example;lr>");
    let came = scene.pass(&request);
    assert_eq!(came.request_uri(), format!("sip:{}", scene.phone.endpoint));
    let routes = came.headers("Route").join(", ").replace(">,<", ">, <");
    assert_eq!(routes, format!("<sip:last.example;lr>, <{uri}>"));
}

#[test]
fn sec_16_6_7_the_next_route_is_the_next_hop() {
    let Some(scene) = trusted() else { return };
    let route = format!("<sip:{};lr>", scene.phone.endpoint);
    let came = scene.pass(&Request::new("MESSAGE", "sip:x@nowhere.example", &scene.caller).add("Route", &route));
    assert_eq!(
        (came.request_uri().as_str(), came.headers("Route")),
        ("sip:x@nowhere.example", vec![route])
    );
}

#[test]
fn sec_16_6_8_its_own_via_with_a_branch_that_no_other_has() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let branches: Vec<String> = (0..3)
        .map(|_| {
            let came = scene.pass(&Request::new("MESSAGE", ANNA, &scene.caller));
            let vias = came.headers("Via");
            assert_eq!(vias.len(), 2, "{came:?}");
            let own = format!("SIP/2.0/UDP {}", scene.endpoint());
            let default = format!("SIP/2.0/UDP {};", scene.endpoint().ip());
            assert!(vias[0].starts_with(&own) || vias[0].starts_with(&default), "{came:?}");
            came.branch()
        })
        .collect();
    for (number, branch) in branches.iter().enumerate() {
        assert!(branch.starts_with("z9hG4bK"), "{branch}");
        assert!(!branches[..number].contains(branch), "{branches:?}");
    }
}

#[test]
fn sec_16_6_9_a_stream_gets_a_content_length() {
    let scene = Scene::open();
    let mut phone = Stream::connect(scene.lab.o(2), scene.endpoint()).unwrap();
    phone
        .send(Request::register("anna", "net.com", &phone).message().bytes())
        .unwrap();
    assert_eq!(phone.recv_final("the 200").unwrap().status(), Some(200));
    let whole = Request::new("MESSAGE", ANNA, &scene.caller)
        .body("text/plain", "hello")
        .message();
    let text = String::from_utf8(whole.bytes().to_vec())
        .unwrap()
        .replace("Content-Length: 5\r\n", "");
    scene.caller.send(scene.endpoint(), text).unwrap();
    let came = phone.recv_where("the MESSAGE", is("MESSAGE")).unwrap();
    assert_eq!(
        (came.header("Content-Length").as_str(), came.body()),
        ("5", &b"hello"[..])
    );
}

#[test]
fn sec_16_9_a_place_that_cannot_be_reached_is_as_if_it_had_answered_503() {
    let scene = Scene::open();
    // Nobody listens there, which ICMP tells.
    let contact = format!("<sip:anna@{}:5099>", scene.phone.endpoint.ip());
    let register = Request::register("anna", "net.com", &scene.caller)
        .set("Contact", &contact)
        .add("Via", "SIP/2.0/UDP first.example;branch=z9hG4bKfirst");
    assert_eq!(scene.ask(&scene.caller, &register.message()).status(), Some(200));
    let invite = Request::new("INVITE", ANNA, &scene.caller).message();
    let answer = scene.ask(&scene.caller, &invite);
    scene.acknowledge(&invite, &answer);
    // Section 16.7 item 6: 503 of one place is 500 for the caller. RFC 3263 section 4.3 leaves it at a timeout where ICMP is not seen.
    assert!(
        matches!(answer.status(), Some(500 | 503 | 408 | 430 | 480)),
        "{answer:?}"
    );
    if !matches!(answer.status(), Some(500 | 503)) {
        tests::router::not_met(&format!("a MUST of section 16.9: it is {}", answer.start_line()));
    }
}

#[test]
fn sec_16_11_an_ack_for_a_2xx_goes_along_the_route_set() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let call = scene.call();
    let caller = Dialog::of_caller(&call.sent, &call.ok, &scene.caller);
    let ack = caller.request("ACK", 1).body("application/sdp", "v=0\r\n").message();
    scene.send(&scene.caller, &ack);
    let came = scene.arrived(&scene.phone, &ack);
    assert_eq!((came.request_uri(), came.body()), (caller.target, &b"v=0\r\n"[..]));
    assert_eq!(
        (came.headers("Via").len(), came.header("Max-Forwards").as_str()),
        (2, "69")
    );
    // It is no transaction: nobody answers it.
    scene.nothing_came("anna", &scene.phone, is("INVITE"));
}

#[test]
fn sec_16_3_nobody_sends_to_anywhere_through_it_without_leave() {
    let why = "the lab's kamailio passes everything on";
    let Some(scene) = Scene::sipnat(why, |config| config.user("anna", "secret")) else {
        return;
    };
    let uri = format!("sip:x@{}", scene.phone.endpoint);
    let plain = scene.ask(&scene.caller, &Request::new("MESSAGE", &uri, &scene.caller).message());
    assert_eq!(plain.status(), Some(403), "{plain:?}");
    let route = format!("<sip:{};lr>", scene.phone.endpoint);
    let request = Request::new("MESSAGE", "sip:x@nowhere.example", &scene.caller).add("Route", &route);
    let routed = scene.ask(&scene.caller, &request.message());
    assert_eq!(routed.status(), Some(403), "{routed:?}");
    scene.phone.nothing(crate::scene::QUIET, is("MESSAGE")).unwrap();
}

#[test]
fn sec_16_12_two_proxies_in_a_row() {
    if !only_sipnat("this is two sipnats") {
        return;
    }
    // The phone is registered with the second server, and the first one passes requests for its domain on.
    let scene = Scene::sipnat("", |config| {
        let route = "[[sip.route]]\ndomain = \"far.example\"\nto = [\"sip:203.0.113.104\"]\n";
        config.toml(route).line("trusted = [\"203.0.113.0/24\"]")
    });
    let scene = scene.unwrap();
    let far = Server::config("far.example").start(scene.lab.o(5)).unwrap();
    let register = Request::register("anna", "far.example", &scene.phone).message();
    scene.phone.send_message(far.endpoint, &register).unwrap();
    assert_eq!(scene.final_of(&scene.phone, &register).status(), Some(200));
    let invite = Request::new("INVITE", "sip:anna@far.example", &scene.caller).message();
    scene.send(&scene.caller, &invite);
    let came = scene.arrived(&scene.phone, &invite);
    assert_eq!(
        (came.headers("Via").len(), came.headers("Record-Route").len()),
        (3, 2),
        "{came:?}"
    );
    let given = came.reply(
        200,
        "OK",
        &[&format!("Contact: <sip:anna@{}>", scene.phone.endpoint)],
        "",
    );
    scene.phone.send_message(far.endpoint, &given).unwrap();
    let ok = scene.final_of(&scene.caller, &invite);
    let phone: &Peer = &scene.phone;
    let (caller, phone) = (
        Dialog::of_caller(&invite, &ok, &scene.caller),
        Dialog::of_callee(&came, &given, phone),
    );
    let ack = caller.request("ACK", 1).message();
    scene.send(&scene.caller, &ack);
    assert_eq!(scene.arrived(&scene.phone, &ack).headers("Route"), Vec::<String>::new());
    let bye = phone.request("BYE", 1).message();
    scene.phone.send_message(far.endpoint, &bye).unwrap();
    let came = scene.arrived(&scene.caller, &bye);
    assert_eq!((came.request_uri(), came.headers("Via").len()), (phone.target, 3));
    scene.reply(&scene.caller, &came, 200, "OK");
    assert_eq!(scene.final_of(&scene.phone, &bye).status(), Some(200));
}
