//! Dialogs that are followed: how long they last, and what they hold.

use super::*;
use crate::sip::path::State;

const CALLER: &str = "134.56.9.9:5060";
const PHONE: &str = "134.56.1.1:5070";

fn world() -> World {
    let mut world = World::new(|_| {});
    world.register(
        "user@net.com",
        vec![found("sip:user@192.168.1.10:5060", udp(PHONE), true, 1000)],
    );
    world
}

/// Sets a call up; says the 200 as the caller gets it.
fn call(world: &mut World, more: &str) -> Sent {
    let out = world.receive(udp(CALLER), &Ask::default().text());
    let answer = format!("Contact: <sip:user@192.168.1.10:5060>\n{more}");
    world
        .receive(udp(PHONE), &reply(&out[1], 200, "phone", &answer))
        .remove(0)
}

fn path_state(world: &World, remote: &str) -> State {
    let path = world.core.paths.find(&udp(remote));
    path.map_or(State::Idle, |path| world.core.paths.state(path))
}

#[test]
fn a_call_holds_the_paths_of_both_sides() {
    let mut world = world();
    let out = world.receive(udp(CALLER), &Ask::default().text());
    assert_eq!(path_state(&world, CALLER), State::Dialog);
    assert_eq!(path_state(&world, PHONE), State::Idle, "it has not answered");
    world.receive(udp(PHONE), &reply(&out[1], 180, "phone", ""));
    assert_eq!(path_state(&world, PHONE), State::Dialog);
    world.receive(udp(PHONE), &reply(&out[1], 486, "phone", ""));
    assert_eq!(
        (world.core.dialogs().calls(), path_state(&world, PHONE)),
        (0, State::Dialog),
        "the tail"
    );
    world.pass(Duration::from_secs(33));
    assert_eq!(
        (path_state(&world, CALLER), path_state(&world, PHONE)),
        (State::Idle, State::Idle)
    );
}

#[test]
fn a_lost_bye_ends_with_the_session_timer() {
    let mut world = world();
    call(&mut world, "Session-Expires: 300;refresher=uac\n");
    world.pass(Duration::from_secs(331));
    assert_eq!(world.core.dialogs().calls(), 1);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.core.dialogs().calls(), 0);
    assert_eq!(path_state(&world, PHONE), State::Dialog, "the tail");
    // Without a timer the configured bound counts.
    let mut world = world_with_bound(Duration::from_secs(3600));
    call(&mut world, "");
    world.pass(Duration::from_secs(3599));
    assert_eq!(world.core.dialogs().calls(), 1);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.core.dialogs().calls(), 0);
}

fn world_with_bound(bound: Duration) -> World {
    let mut world = World::new(|config| config.proxy.max_call_duration = bound);
    world.register(
        "user@net.com",
        vec![found("sip:user@192.168.1.10:5060", udp(PHONE), true, 1000)],
    );
    world
}

#[test]
fn a_refresh_goes_on_with_the_call() {
    let mut world = world();
    let ok = call(&mut world, "Session-Expires: 300;refresher=uac\n");
    world.pass(Duration::from_secs(150));
    let update = Ask {
        method: "UPDATE",
        uri: "sip:user@192.168.1.10:5060",
        via: "SIP/2.0/UDP 134.56.9.9:5060;branch=z9hG4bKupdate",
        to: "<sip:user@net.com>;tag=phone",
        more: &route_set(&ok, true),
        cseq: 2,
        ..Ask::default()
    };
    let out = world.receive(udp(CALLER), &update.text());
    assert_eq!(
        (whats(&out), &out[0].to),
        (vec!["UPDATE".into()], &Destination::Flow(udp(PHONE)))
    );
    world.receive(
        udp(PHONE),
        &reply(&out[0], 200, "phone", "Session-Expires: 600;refresher=uac\n"),
    );
    world.pass(Duration::from_secs(631));
    assert_eq!(world.core.dialogs().calls(), 1);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.core.dialogs().calls(), 0);
}

/// A BYE that is never answered ends the call when we give up.
#[test]
fn a_bye_that_nobody_answers() {
    let mut world = world();
    let ok = call(&mut world, "");
    let bye = Ask {
        method: "BYE",
        uri: "sip:user@192.168.1.10:5060",
        via: "SIP/2.0/UDP 134.56.9.9:5060;branch=z9hG4bKbye",
        to: "<sip:user@net.com>;tag=phone",
        more: &route_set(&ok, true),
        cseq: 2,
        ..Ask::default()
    };
    world.receive(udp(CALLER), &bye.text());
    world.pass(Duration::from_millis(31_999));
    assert_eq!(world.core.dialogs().calls(), 1);
    let out = world.pass(Duration::from_millis(1));
    assert_eq!(out.last().map(Sent::what).as_deref(), Some("408"));
    assert_eq!(world.core.dialogs().calls(), 0);
}

/// Tokens alone lead requests to both sides: another core with the same secret knows nothing else.
#[test]
fn calls_survive_a_restart() {
    let mut before = world();
    let ok = call(&mut before, "");
    let mut world = World::new(|_| {});
    let bye = Ask {
        method: "BYE",
        uri: "sip:user@192.168.1.10:5060",
        via: "SIP/2.0/UDP 134.56.9.9:5060;branch=z9hG4bKbye",
        to: "<sip:user@net.com>;tag=phone",
        more: &route_set(&ok, true),
        cseq: 2,
        ..Ask::default()
    };
    let out = world.receive(udp(CALLER), &bye.text());
    assert_eq!(
        (whats(&out), &out[0].to),
        (vec!["BYE".into()], &Destination::Flow(udp(PHONE)))
    );
    // Its Record-Route is good for no other call.
    let other = bye
        .text()
        .replace("call-1", "call-2")
        .replace("z9hG4bKbye", "z9hG4bKother");
    assert_eq!(whats(&world.receive(udp(CALLER), &other)), ["403"]);
}

const MOBILE: &str = "sip:user@192.168.1.10:5060;transport=tcp";

/// A world with a phone on a connection.
fn connected(phone: Flow) -> World {
    let mut world = World::new(|_| {});
    world.open(phone);
    world.register("user@net.com", vec![found(MOBILE, phone, true, 1000)]);
    world
}

/// Sets a call up to a phone on this flow; says the caller's BYE.
fn bye_of_call(world: &mut World, phone: Flow) -> String {
    let out = world.receive(udp(CALLER), &Ask::default().text());
    let ok = world.receive(phone, &reply(&out[1], 200, "phone", &format!("Contact: <{MOBILE}>\n")));
    Ask {
        method: "BYE",
        uri: MOBILE,
        via: "SIP/2.0/UDP 134.56.9.9:5060;branch=z9hG4bKbye",
        to: "<sip:user@net.com>;tag=phone",
        more: &route_set(&ok[0], true),
        cseq: 2,
        ..Ask::default()
    }
    .text()
}

/// RFC 5626 section 5.3.1: 430 only if there is no flow. The device of the token is known by its registration, on whichever connection that is.
#[test]
fn a_call_follows_its_device_to_another_connection() {
    let (phone, again) = (tcp("134.56.1.1:40000", 1), tcp("134.56.1.1:40077", 1));
    let bye = bye_of_call(&mut connected(phone), phone);
    let deliver = |world: &mut World| {
        let out = world.receive(udp(CALLER), &bye);
        (out[0].what(), out[0].to.clone())
    };
    // After a restart, the id of its connection may be that of another one; it has registered again.
    let mut world = connected(again);
    assert_eq!(deliver(&mut world), ("BYE".into(), Destination::Flow(again)));
    // Another device of the same user, or the same contact of another user: neither gets what is not for it.
    let to_caller = ("430".into(), Destination::Flow(udp(CALLER)));
    let mut world = connected(again);
    world.register(
        "user@net.com",
        vec![found("sip:user@192.168.1.11;transport=tcp", again, true, 1000)],
    );
    assert_eq!(deliver(&mut world), to_caller);
    let mut world = connected(again);
    let contacts = world.core.registry.contacts.remove("user@net.com").unwrap();
    world.core.registry.contacts.insert("bob@net.com".into(), contacts);
    assert_eq!(deliver(&mut world), to_caller);
    let to_bob = bye
        .replace("To: <sip:user@net.com>", "To: <sip:bob@net.com>")
        .replace("z9hG4bKbye", "z9hG4bKbob");
    assert_eq!(whats(&world.receive(udp(CALLER), &to_bob)), ["430"]);
    // Nobody has registered, or the connection has ended again.
    assert_eq!(deliver(&mut World::new(|_| {})), to_caller);
    let mut world = connected(again);
    world.input(Input::Closed(again));
    assert_eq!(deliver(&mut world), to_caller);
}

/// The same without a restart: its registration ended with its connection, and the contact that the dialog knew is gone.
#[test]
fn a_call_follows_its_device_over_a_lost_connection() {
    let (phone, again) = (tcp("134.56.1.1:40000", 1), tcp("134.56.1.1:40077", 2));
    let mut world = connected(phone);
    let bye = bye_of_call(&mut world, phone);
    world.input(Input::Closed(phone));
    world.core.registry.contacts.clear();
    assert_eq!(whats(&world.receive(udp(CALLER), &bye)), ["430"]);
    world.open(again);
    world.register("user@net.com", vec![found(MOBILE, again, true, 1000)]);
    let out = world.receive(udp(CALLER), &bye.replace("z9hG4bKbye", "z9hG4bKagain"));
    assert_eq!(
        (whats(&out), &out[0].to),
        (vec!["BYE".into()], &Destination::Flow(again))
    );
    let ack = bye.replace("BYE", "ACK").replace("z9hG4bKbye", "z9hG4bKack");
    let out = world.receive(udp(CALLER), &ack);
    assert_eq!(
        (whats(&out), &out[0].to),
        (vec!["ACK".into()], &Destination::Flow(again))
    );
}

/// Over UDP nothing says that a flow is gone. After a restart the registration knows better than the token, unless the device has both.
#[test]
fn a_call_follows_its_device_to_another_port() {
    let (phone, moved) = (udp(PHONE), udp("134.56.1.1:6001"));
    let mut before = world();
    before.register("user@net.com", vec![found(MOBILE, phone, true, 1000)]);
    let bye = bye_of_call(&mut before, phone);
    for (flows, expected) in [(vec![moved], moved), (vec![moved, phone], phone), (vec![], phone)] {
        let mut world = World::new(|_| {});
        let contacts = flows.into_iter().map(|flow| found(MOBILE, flow, true, 1000));
        world.register("user@net.com", contacts.collect());
        assert_eq!(world.receive(udp(CALLER), &bye)[0].to, Destination::Flow(expected));
    }
}

/// The caller's device is known as well.
#[test]
fn a_call_back_to_the_caller_s_device() {
    let (phone, again) = (tcp("134.56.1.1:40000", 1), tcp("134.56.1.1:40077", 5));
    let bob = udp("192.0.2.11:5060");
    let mut before = connected(phone);
    before.register("bob@net.com", vec![found("sip:bob@192.0.2.11:5060", bob, false, 1000)]);
    let (from, to) = ("<sip:user@net.com>;tag=phone", "<sip:bob@net.com>;tag=bob");
    let ask = Ask {
        uri: "sip:bob@net.com",
        via: "SIP/2.0/TCP 192.168.1.10:5060;branch=z9hG4bK1",
        from,
        to: "<sip:bob@net.com>",
        more: &format!("Contact: <{MOBILE}>\n"),
        ..Ask::default()
    };
    let invite = before.receive(phone, &ask.text()).remove(1);
    before.receive(bob, &reply(&invite, 200, "bob", "Contact: <sip:bob@192.0.2.11:5060>\n"));
    let bye = Ask {
        method: "BYE",
        uri: MOBILE,
        via: "SIP/2.0/UDP 192.0.2.11;branch=z9hG4bKbye",
        from: to,
        to: from,
        more: &route_set(&invite, false),
        ..Ask::default()
    };
    let out = connected(again).receive(bob, &bye.text());
    assert_eq!(
        (whats(&out), &out[0].to),
        (vec!["BYE".into()], &Destination::Flow(again))
    );
}

#[test]
fn a_subscription_holds_a_path_until_it_is_terminated() {
    let mut world = world();
    let subscribe = |expires: u32, to: &str, branch: &str, routes: &str| {
        Ask {
            method: "SUBSCRIBE",
            uri: if to.contains("tag") {
                "sip:user@192.168.1.10:5060"
            } else {
                "sip:user@net.com"
            },
            via: &format!("SIP/2.0/UDP 134.56.9.9:5060;branch=z9hG4bK{branch}"),
            to,
            more: &format!("Event: presence\nExpires: {expires}\nContact: <sip:caller@134.56.9.9:5060>\n{routes}"),
            ..Ask::default()
        }
        .text()
    };
    let out = world.receive(udp(CALLER), &subscribe(600, "<sip:user@net.com>", "s1", ""));
    let request = &out[0];
    let out = world.receive(udp(PHONE), &reply(request, 200, "phone", "Expires: 600\n"));
    assert_eq!(
        (whats(&out), world.core.dialogs().subscriptions()),
        (vec!["200".into()], 1)
    );
    assert_eq!(
        (path_state(&world, PHONE), path_state(&world, CALLER)),
        (State::Registration, State::Registration)
    );
    let notify = |state: &str, branch: &str| {
        Ask {
            method: "NOTIFY",
            uri: "sip:caller@134.56.9.9:5060",
            via: &format!("SIP/2.0/UDP 192.168.1.10:5060;rport;branch=z9hG4bK{branch}"),
            from: "<sip:user@net.com>;tag=phone",
            to: "<sip:caller@elsewhere.com>;tag=caller",
            more: &format!(
                "Event: presence\nSubscription-State: {state}\n{}",
                route_set(request, false)
            ),
            ..Ask::default()
        }
        .text()
    };
    let out = world.receive(udp(PHONE), &notify("active;expires=900", "n1"));
    assert_eq!((whats(&out), out[0].remote()), (vec!["NOTIFY".into()], addr(CALLER)));
    world.receive(udp(CALLER), &reply(&out[0], 200, "caller", ""));
    world.pass(Duration::from_secs(931));
    assert_eq!(world.core.dialogs().subscriptions(), 1, "as the notifier says");
    let out = world.receive(udp(PHONE), &notify("terminated;reason=timeout", "n2"));
    world.receive(udp(CALLER), &reply(&out[0], 200, "caller", ""));
    assert_eq!(world.core.dialogs().subscriptions(), 0);
    assert_eq!(path_state(&world, PHONE), State::Idle);
}

#[test]
fn calls_of_one_user_are_counted() {
    let mut world = world();
    world.core.registry.calls = Some(1);
    let ok = call(&mut world, "");
    let second = Ask {
        via: "SIP/2.0/UDP 134.56.9.9:5060;branch=z9hG4bKsecond",
        call: "call-2",
        ..Ask::default()
    };
    assert_eq!(whats(&world.receive(udp(CALLER), &second.text())), ["486"]);
    let bye = Ask {
        method: "BYE",
        uri: "sip:user@192.168.1.10:5060",
        via: "SIP/2.0/UDP 134.56.9.9:5060;branch=z9hG4bKbye",
        to: "<sip:user@net.com>;tag=phone",
        more: &route_set(&ok, true),
        cseq: 2,
        ..Ask::default()
    };
    let out = world.receive(udp(CALLER), &bye.text());
    world.receive(udp(PHONE), &reply(&out[0], 200, "phone", ""));
    let third = second.text().replace("second", "third").replace("call-2", "call-3");
    assert_eq!(whats(&world.receive(udp(CALLER), &third)), ["100", "INVITE"]);
}
