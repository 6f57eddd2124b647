//! Registrations that cross the NAT: copied for the daemon, unchanged on their way, and the life of their binding.

use crate::open_udp;
use nat_common::config::Filtering;
use nat_common::counters::Reason;
use nat_common::flow::{Endpoint, InsideKey, Proto, Side};
use nat_common::memory::oracle::View;
use nat_common::memory::{Frame, Setup, TICKS, World, end};
use nat_common::session::{self, Flow};
use nat_common::tables::Tables;
use nat_common::watch::{self, Copied};

const PHONE: &str = "10.0.0.5:5060";
const REGISTRAR: &str = "198.51.100.1:5060";
const REGISTER: &[u8] = b"REGISTER sip:example.com SIP/2.0\r\nCSeq: 1 REGISTER\r\n\r\n";
const OK: &[u8] = b"SIP/2.0 200 OK\r\nCSeq: 1 REGISTER\r\n\r\n";

fn world() -> World {
    Setup {
        watch: vec![5060, 5080],
        ..Setup::default()
    }
    .world()
}

fn external(world: &World) -> Endpoint {
    world.external(Proto::Udp, end(PHONE)).expect("a binding")
}

fn answer(world: &World, text: &[u8]) -> Reason {
    world.back_reason(&Frame::udp(end(REGISTRAR), external(world), text))
}

/// The slot of the phone's binding and its generation.
fn slot(world: &World) -> (u32, u16) {
    let t = &world.tables;
    let key = InsideKey {
        proto: Proto::Udp,
        inside: end(PHONE),
    };
    let index = nat_common::binding::find(t, t.active(), &key, t.time()).expect("a binding");
    let word = nat_common::maps::SlotWord(t.slot(index).unwrap().word.get());
    (index, word.generation())
}

fn extend(world: &World, seconds: u32) {
    let (index, generation) = slot(world);
    assert!(watch::extend(
        world.tables.slot(index).unwrap(),
        generation,
        seconds * TICKS
    ));
}

#[test]
fn request_and_answer_are_copied_with_their_binding_and_pass_unchanged() {
    let world = world();
    let (_, sent) = world.inside(Frame::udp(end(PHONE), end(REGISTRAR), REGISTER));
    let view = View::of(&sent.0).unwrap();
    assert!(sent.0.ends_with(REGISTER), "every byte of it");
    let (index, generation) = slot(&world);
    let copies = world.tables.copies();
    let [
        (
            Copied {
                seen, generation: of, ..
            },
            text,
        ),
    ] = &copies[..]
    else {
        panic!("one copy, not {copies:?}");
    };
    assert_eq!(
        (seen.slot, *of, seen.remote(), seen.outbound()),
        (index, generation, end(REGISTRAR), true)
    );
    assert_eq!((&text[..], usize::from(seen.len)), (REGISTER, REGISTER.len()));

    let back = Frame::udp(end(REGISTRAR), Endpoint::new(view.source, view.ports.0), OK);
    let (_, received) = world.outside(back);
    assert!(received.0.ends_with(OK));
    let copies = world.tables.copies();
    let [(Copied { seen, .. }, text)] = &copies[..] else {
        panic!("one copy, not {copies:?}");
    };
    assert_eq!((seen.slot, seen.side, &text[..]), (index, Side::Outside as u8, OK));
}

#[test]
fn nothing_else_is_copied() {
    let world = world();
    let out = |remote: &str, text: &[u8]| {
        assert_eq!(
            world.out_reason(&Frame::udp(end(PHONE), end(remote), text)),
            Reason::Outbound
        );
    };
    out(REGISTRAR, b"INVITE sip:bob@example.com SIP/2.0\r\n\r\n");
    out(REGISTRAR, b"REGISTERED sip:x SIP/2.0\r\n\r\n");
    out(REGISTRAR, b"REGISTER");
    out(REGISTRAR, b"\r\n\r\n");
    out(REGISTRAR, b"");
    out("198.51.100.1:5061", REGISTER);
    world.out_reason(&Frame::tcp(
        end(PHONE),
        end(REGISTRAR),
        nat_common::session::SYN,
        REGISTER,
    ));
    assert_eq!(world.tables.copies(), [], "nobody registers");
    assert_eq!(answer(&world, OK), Reason::Inbound);
    assert_eq!(world.tables.copies(), [], "nobody has asked");

    out("198.51.100.1:5080", REGISTER);
    assert_eq!(world.tables.copies().len(), 1);
    for text in [
        &b"SIP/2.0 401 Unauthorized\r\n\r\n"[..],
        b"SIP/2.0 20",
        b"INVITE sip:u@h SIP/2.0\r\n\r\n",
        REGISTER,
    ] {
        assert_eq!(answer(&world, text), Reason::Inbound);
    }
    assert_eq!(world.tables.copies(), [], "no answer that grants anything");
    assert_eq!(answer(&world, OK), Reason::Inbound);
    assert_eq!(world.tables.copies().len(), 1);
    // The daemon waits for nothing more.
    let (index, generation) = slot(&world);
    watch::watch(world.tables.slot(index).unwrap(), generation, false);
    assert_eq!(answer(&world, OK), Reason::Inbound);
    assert_eq!(world.tables.copies(), []);

    let unwatched = Setup::default().world();
    unwatched.out_reason(&Frame::udp(end(PHONE), end(REGISTRAR), REGISTER));
    assert_eq!(unwatched.tables.copies(), [], "by default nothing is watched");
}

#[test]
fn the_first_piece_of_a_message_in_pieces_is_not_taken_for_all_of_it() {
    let world = world();
    let long = [REGISTER, &[b'x'; 1400]].concat();
    for piece in Frame::udp(end(PHONE), end(REGISTRAR), &long).pieces(&[800]) {
        world.inside(&piece);
    }
    assert_eq!(world.tables.copies(), []);
}

/// Longer than other bindings, without a packet; then it ends to the tick. And a new binding on the same port is one like any other.
#[test]
fn an_extended_binding_lives_for_as_long_as_was_granted() {
    let world = world();
    open_udp(&world, PHONE, REGISTRAR);
    let external = external(&world);
    extend(&world, 3632);
    let inbound = || world.back_reason(&Frame::udp(end(REGISTRAR), external, b"INVITE"));
    let born = world.tables.time();
    world.tables.set_time(born + 3632 * TICKS - 1);
    assert_eq!(inbound(), Reason::Inbound);
    assert_eq!(
        open_udp(&world, PHONE, REGISTRAR),
        external,
        "from inside it is still the same"
    );
    let used = world.tables.time();
    world.tables.set_time(used + 3632 * TICKS);
    assert_eq!(inbound(), Reason::NoBinding);
    assert_eq!(world.external(Proto::Udp, end(PHONE)), None);
}

#[test]
fn a_binding_that_is_given_its_own_life_back_ends_like_others() {
    let world = world();
    open_udp(&world, PHONE, REGISTRAR);
    let external = external(&world);
    extend(&world, 3632);
    world.tables.wait(200);
    let (index, generation) = slot(&world);
    assert!(watch::extend(world.tables.slot(index).unwrap(), generation, 0));
    world.tables.wait(99);
    assert_eq!(
        world.back_reason(&Frame::udp(end(REGISTRAR), external, b"x")),
        Reason::Inbound
    );
    world.tables.wait(1);
    assert_eq!(
        world.back_reason(&Frame::udp(end(REGISTRAR), external, b"x")),
        Reason::NoBinding
    );
}

/// With a filter, the registrar's leave to send lives as long as the binding.
#[test]
fn the_registrar_gets_through_the_filter_for_as_long() {
    for filter in [Filtering::AddressDependent, Filtering::AddressAndPortDependent] {
        let world = Setup {
            filtering: [filter; 3],
            ..Setup::default()
        }
        .world();
        open_udp(&world, PHONE, REGISTRAR);
        let external = external(&world);
        extend(&world, 3632);
        let (index, generation) = slot(&world);
        let flow = Flow {
            slot: index,
            generation,
            proto: Proto::Udp,
            flags: 0,
            inside: end(PHONE),
            remote: end(REGISTRAR),
        };
        let (t, now) = (&world.tables, world.tables.time());
        open_udp(&world, PHONE, "198.51.100.3:5060");
        session::keep(t, t.active(), &flow, now + 3632 * TICKS, now);
        world.tables.wait(3631);
        let from = |remote: &str| world.back_reason(&Frame::udp(end(remote), external, b"INVITE"));
        assert_eq!(from(REGISTRAR), Reason::Inbound, "{filter:?}");
        assert_eq!(from("198.51.100.2:5060"), Reason::Filtered, "{filter:?}");
        assert_eq!(
            from("198.51.100.3:5060"),
            Reason::Filtered,
            "{filter:?}: whom else it has sent to"
        );
        world.tables.wait(1);
        assert_eq!(from(REGISTRAR), Reason::NoBinding, "{filter:?}");
    }
}
