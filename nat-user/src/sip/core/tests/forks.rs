//! Forking, CANCEL, best response, timers C and B (RFC 3261 sections 16.7 to 16.10).

use super::*;
use crate::config::sip::Fork;

const A: &str = "192.0.2.11:5060";
const B: &str = "192.0.2.12:5060";
const CALLER: &str = "134.56.9.9:5060";

fn two_phones(fork: Fork) -> World {
    let mut world = World::new(|config| config.proxy.fork = fork);
    let contacts = vec![
        found("sip:user@192.0.2.11", udp(A), false, 1000),
        found("sip:user@192.0.2.12", udp(B), false, 500),
    ];
    world.register("user@net.com", contacts);
    world
}

fn ack(world: &mut World, code_of: &Sent) -> Vec<Sent> {
    let to = String::from_utf8_lossy(code_of.message.value(HeaderName::To).unwrap()).into_owned();
    let ask = Ask {
        method: "ACK",
        to: &to,
        more: "",
        ..Ask::default()
    };
    world.receive(udp(CALLER), &ask.text())
}

fn cancel(world: &mut World) -> Vec<Sent> {
    let ask = Ask {
        method: "CANCEL",
        more: "",
        ..Ask::default()
    };
    world.receive(udp(CALLER), &ask.text())
}

#[test]
fn the_first_to_answer_has_the_call() {
    let mut world = two_phones(Fork::Parallel);
    let out = world.receive(udp(CALLER), &Ask::default().text());
    assert_eq!(whats(&out), ["100", "INVITE", "INVITE"]);
    let (a, b) = (&out[1], &out[2]);
    assert_eq!((a.remote(), b.remote()), (addr(A), addr(B)));
    assert_ne!(a.message.via().unwrap().branch(), b.message.via().unwrap().branch());
    assert_eq!(
        (a.values(HeaderName::MaxBreadth), b.values(HeaderName::MaxBreadth)),
        (vec!["30"], vec!["30"])
    );
    world.receive(udp(A), &reply(a, 180, "a", ""));
    world.receive(udp(B), &reply(b, 180, "b", ""));
    let out = world.receive(udp(B), &reply(b, 200, "b", ""));
    assert_eq!(whats(&out), ["200", "CANCEL"]);
    let cancel = &out[1];
    assert_eq!(cancel.remote(), addr(A));
    assert_eq!(cancel.values(HeaderName::Via), a.values(HeaderName::Via)[..1]);
    assert_eq!(cancel.message.request_uri(), a.message.request_uri());
    assert!(world.receive(udp(A), &reply(cancel, 200, "a", "")).is_empty());
    let out = world.receive(udp(A), &reply(a, 487, "a", ""));
    assert_eq!(
        (whats(&out), out[0].remote()),
        (vec!["ACK".into()], addr(A)),
        "the caller hears nothing of it"
    );
    assert_eq!(world.core.dialogs().calls(), 1);
    // A copy of the 200 is passed on, also after a while (RFC 6026).
    world.pass(Duration::from_secs(4));
    assert_eq!(whats(&world.receive(udp(B), &reply(b, 200, "b", ""))), ["200"]);
    world.pass(Duration::from_secs(33));
    world.assert_idle();
}

#[test]
fn the_best_of_the_refusals_is_given() {
    for (codes, best) in [
        ([486, 404], 486),
        ([404, 486], 404),
        ([480, 302], 302),
        ([486, 503], 486),
        ([500, 401], 401),
    ] {
        let mut world = two_phones(Fork::Parallel);
        let out = world.receive(udp(CALLER), &Ask::default().text());
        let first = world.receive(
            udp(A),
            &reply(&out[1], codes[0], "a", "WWW-Authenticate: Digest realm=\"a\"\n"),
        );
        assert_eq!(whats(&first), ["ACK"]);
        let second = world.receive(udp(B), &reply(&out[2], codes[1], "b", ""));
        assert_eq!(whats(&second), ["ACK".to_owned(), best.to_string()]);
        assert!(ack(&mut world, &second[1]).is_empty());
        assert_eq!(world.core.dialogs().calls(), 0);
        world.pass(Duration::from_secs(33));
        world.assert_idle();
    }
}

#[test]
fn challenges_of_all_are_given() {
    let mut world = two_phones(Fork::Parallel);
    let out = world.receive(udp(CALLER), &Ask::default().text());
    world.receive(
        udp(A),
        &reply(&out[1], 401, "a", "WWW-Authenticate: Digest realm=\"a\"\n"),
    );
    let out = world.receive(
        udp(B),
        &reply(&out[2], 407, "b", "Proxy-Authenticate: Digest realm=\"b\"\n"),
    );
    assert_eq!(out[1].values(HeaderName::WwwAuthenticate), ["Digest realm=\"a\""]);
    assert_eq!(out[1].values(HeaderName::ProxyAuthenticate), ["Digest realm=\"b\""]);
}

#[test]
fn a_6xx_ends_all() {
    let mut world = two_phones(Fork::Parallel);
    let out = world.receive(udp(CALLER), &Ask::default().text());
    world.receive(udp(B), &reply(&out[2], 180, "b", ""));
    let declined = world.receive(udp(A), &reply(&out[1], 603, "a", ""));
    assert_eq!(whats(&declined), ["ACK", "CANCEL"]);
    let out = world.receive(udp(B), &reply(&out[2], 487, "b", ""));
    assert_eq!(whats(&out), ["ACK", "603"]);
}

#[test]
fn a_caller_cancels() {
    let mut world = two_phones(Fork::Parallel);
    let out = world.receive(udp(CALLER), &Ask::default().text());
    world.receive(udp(A), &reply(&out[1], 180, "a", ""));
    let cancelled = cancel(&mut world);
    // The other one has not answered yet, so nothing is cancelled there before it does (section 9.1).
    assert_eq!(whats(&cancelled), ["200", "CANCEL"]);
    assert_eq!(whats(&cancel(&mut world)), ["200"], "a copy");
    let late = world.receive(udp(B), &reply(&out[2], 180, "b", ""));
    assert_eq!(whats(&late), ["CANCEL", "180"]);
    assert_eq!(
        whats(&world.pass(Duration::from_millis(500))),
        ["CANCEL", "CANCEL"],
        "not answered"
    );
    assert_eq!(whats(&world.receive(udp(A), &reply(&out[1], 487, "a", ""))), ["ACK"]);
    let out = world.receive(udp(B), &reply(&out[2], 487, "b", ""));
    assert_eq!(whats(&out), ["ACK", "487"]);
    // The final response goes out again until it is acknowledged.
    assert_eq!(whats(&world.pass(Duration::from_millis(1600))), ["487", "487"]);
    assert!(ack(&mut world, &out[1]).is_empty());
    assert!(world.pass(Duration::from_secs(33)).is_empty());
    world.assert_idle();
}

#[test]
fn nothing_to_cancel() {
    let mut world = two_phones(Fork::Parallel);
    assert_eq!(whats(&cancel(&mut world)), ["481"]);
    world.assert_idle();
}

#[test]
fn phones_ring_one_after_the_other() {
    let mut world = two_phones(Fork::ByQ);
    let out = world.receive(udp(CALLER), &Ask::default().text());
    assert_eq!(whats(&out), ["100", "INVITE"]);
    let a = &out[1];
    assert_eq!(a.values(HeaderName::MaxBreadth), ["60"], "it is not forked");
    world.receive(udp(A), &reply(a, 180, "a", ""));
    let later = world.pass(Duration::from_secs(30));
    assert_eq!(whats(&later), ["CANCEL", "INVITE"]);
    assert_eq!(later[1].remote(), addr(B));
    world.receive(udp(A), &reply(a, 487, "a", ""));
    let out = world.receive(udp(B), &reply(&later[1], 200, "b", ""));
    assert_eq!(whats(&out), ["200"]);
}

#[test]
fn the_next_phone_rings_at_once_if_the_first_is_busy() {
    let mut world = two_phones(Fork::ByQ);
    let out = world.receive(udp(CALLER), &Ask::default().text());
    let next = world.receive(udp(A), &reply(&out[1], 486, "a", ""));
    assert_eq!(whats(&next), ["ACK", "INVITE"]);
    let out = world.receive(udp(B), &reply(&next[1], 404, "b", ""));
    assert_eq!(whats(&out), ["ACK", "486"]);
}

#[test]
fn nobody_answers() {
    let mut world = two_phones(Fork::Parallel);
    world.receive(udp(CALLER), &Ask::default().text());
    // Timer A: 0.5, 1.5, 3.5 … s for each of the two.
    let again = world.pass(Duration::from_millis(31_999));
    assert_eq!(whats(&again), vec!["INVITE"; 12]);
    assert_eq!(whats(&world.pass(Duration::from_millis(1))), ["408"]);
    world.pass(Duration::from_secs(40));
    world.assert_idle();
}

#[test]
fn a_call_rings_for_ever() {
    let mut world = two_phones(Fork::ByQ);
    world
        .core
        .registry
        .contacts
        .get_mut("user@net.com")
        .unwrap()
        .usable
        .truncate(1);
    let out = world.receive(udp(CALLER), &Ask::default().text());
    let a = &out[1];
    world.receive(udp(A), &reply(a, 180, "a", ""));
    world.pass(Duration::from_secs(100));
    world.receive(udp(A), &reply(a, 180, "a", ""));
    assert!(world.pass(Duration::from_secs(184)).is_empty(), "timer C begins anew");
    assert_eq!(whats(&world.pass(Duration::from_secs(1))), ["CANCEL"]);
    assert_eq!(whats(&world.receive(udp(A), &reply(a, 487, "a", ""))), ["ACK", "408"]);
    world.pass(Duration::from_secs(65));
    world.assert_idle();
}
