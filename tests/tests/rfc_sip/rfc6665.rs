//! RFC 6665: subscriptions, as reasons to keep a path.

use tests::prelude::*;
use tests::sip::document::{self, TRANSLATED};
use tests::sip::peer::Peer;
use tests::sip::request::{Dialog, Request};
use tests::sip::server::Server;
use tests::sip::under_test::only_sipnat;

use crate::scene::{ANNA, DOMAIN, Scene};

#[test]
fn sec_4_subscribe_and_notify_pass_in_their_dialog() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let subscribe = Request::new("SUBSCRIBE", ANNA, &scene.caller)
        .add("Event", "presence")
        .add("Expires", "600");
    let came = scene.pass(&subscribe);
    assert_eq!(
        (came.header("Event"), came.header("Expires")),
        ("presence".into(), "600".into())
    );
    assert_eq!(came.headers("Record-Route").len(), 1, "{came:?}");
    let given = came.reply(
        200,
        "OK",
        &[&format!("Contact: <sip:anna@{}>", scene.phone.endpoint), "Expires: 600"],
        "",
    );
    scene.send(&scene.phone, &given);
    assert_eq!(scene.final_of(&scene.caller, &subscribe.message()).status(), Some(200));
    let notifier = Dialog::of_callee(&came, &given, &scene.phone);
    let notify = notifier
        .request("NOTIFY", 1)
        .add("Event", "presence")
        .add("Subscription-State", "active;expires=600")
        .message();
    scene.send(&scene.phone, &notify);
    let came = scene.arrived(&scene.caller, &notify);
    scene.reply(&scene.caller, &came, 200, "OK");
    assert_eq!(scene.final_of(&scene.phone, &notify).status(), Some(200));
}

/// A device behind a NAT has subscribed to something and is not registered: its path is prompted as if it were, so a NOTIFY reaches it after the NAT
/// would have forgotten it.
#[test]
fn a_subscribed_unregistered_device_stays_reachable() {
    if !only_sipnat("this asks for sipnat's paths") {
        return;
    }
    const TIMEOUT: u32 = 4;
    let lab = document::lab().build().unwrap();
    let _nat = document::start_nat_with_timeout(&lab, Nat::Nftables, "", TIMEOUT).unwrap();
    let prompts = "[sip.paths]\ninterval = \"1s\"\n";
    let server = Server::config(DOMAIN).toml(prompts).start(lab.o(1)).unwrap();
    let (phone, notifier) = (Peer::udp(lab.h(1), 5060).unwrap(), Peer::udp(lab.o(2), 5060).unwrap());
    let register = Request::register("notifier", DOMAIN, &notifier).message();
    notifier.send_message(server.endpoint, &register).unwrap();
    assert_eq!(notifier.recv_final("the 200").unwrap().status(), Some(200));

    let subscribe = Request::new("SUBSCRIBE", "sip:notifier@net.com", &phone)
        .add("Event", "presence")
        .add("Expires", "600")
        .message();
    phone.send_message(server.endpoint, &subscribe).unwrap();
    let (came, _) = notifier.recv_request("SUBSCRIBE").unwrap();
    let contact = format!("Contact: <sip:notifier@{}>", notifier.endpoint);
    let given = came.reply(200, "OK", &[&contact, "Expires: 600"], "");
    notifier.send_message(server.endpoint, &given).unwrap();
    phone.recv_final("the 200").unwrap();
    let dialog = Dialog::of_callee(&came, &given, &notifier);
    let notify = |cseq: u32, state: &str| {
        let request = dialog.request("NOTIFY", cseq).add("Event", "presence");
        let notify = request.add("Subscription-State", state).message();
        notifier.send_message(server.endpoint, &notify).unwrap();
        let (came, from) = phone.recv_request("NOTIFY").unwrap();
        phone.send_message(from, &came.reply(200, "OK", &[], "")).unwrap();
        notifier.recv_final("the 200").unwrap();
    };
    notify(1, "active;expires=600");
    let path = server.path_becomes(TRANSLATED, "registration").unwrap();
    assert_eq!(
        path["prompt"], "options",
        "a subscription counts as a registration: {path}"
    );
    assert_eq!(server.registrations().unwrap().len(), 1, "it is not registered");
    // Time itself: twice what the NAT remembers.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(2 * u64::from(TIMEOUT));
    while std::time::Instant::now() < end {
        let (prompt, from) = phone.recv_request("OPTIONS").unwrap();
        phone.send_message(from, &prompt.reply(200, "OK", &[], "")).unwrap();
    }
    notify(2, "active;expires=590");
    notify(3, "terminated;reason=noresource");
    wait_until("nobody to hold the path", SOON, || {
        let path = server.path_to(TRANSLATED);
        path.is_err() || path.is_ok_and(|path| path["state"] == "idle")
    })
    .unwrap();
}
