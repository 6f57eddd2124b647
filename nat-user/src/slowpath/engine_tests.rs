//! The engine with a simulated clock: records in, commands out.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nat_common::checksum::{fold, full, sum};
use nat_common::counters::Reason;
use nat_common::error::Message;
use nat_common::event::{PUNT_MAX, Punt};
use nat_common::flow::Side;
use nat_common::fragment::Datagram;
use nat_common::maps::{Interface, ROLE_INSIDE, ROLE_OUTSIDE};
use nat_common::parse::{DF, MF};
use proptest::prelude::*;

use super::counters::{Counter, Counters};
use super::engine::{Command, Engine, Settings};
use super::neighbours::{PATIENCE, POLL as NEIGHBOUR_POLL};
use super::orphans::{KnownDatagrams, POLL};
use crate::config::{Config, Refuse};

const INSIDE: u32 = 3;
const OUTSIDE: u32 = 4;
const HOST: [u8; 4] = [192, 168, 1, 2];
const EXTERNAL: [u8; 4] = [203, 0, 113, 1];
const REMOTE: [u8; 4] = [198, 51, 100, 7];
const NEXT_HOP: u32 = 0xcb00_71fe;

#[derive(Clone, Default)]
struct Table(Arc<Mutex<HashSet<Datagram>>>);

impl KnownDatagrams for Table {
    fn known(&self, datagram: &Datagram) -> bool {
        self.0.lock().unwrap().contains(datagram)
    }
}

struct Bench {
    engine: Engine,
    counters: Arc<Counters>,
    table: Table,
    now: Instant,
}

impl Bench {
    fn new(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::parse("[nat]\ninside = [\"in\"]\noutside = [\"out\"]\n", "test").unwrap();
        change(&mut config);
        let (counters, table, now) = (Arc::new(Counters::default()), Table::default(), Instant::now());
        let settings = Settings::from(&config);
        let mut engine = Engine::new(settings.clone(), Box::new(table.clone()), counters.clone(), now);
        engine.configure(settings, interfaces());
        Self {
            engine,
            counters,
            table,
            now,
        }
    }

    fn punt(&mut self, reason: Reason, ifindex: u32, frame: &[u8], argument: (u32, u32)) -> Vec<Command> {
        self.engine.punted(&record(reason, ifindex, frame, argument), self.now)
    }

    /// The one error that is sent about a frame; `None` for silence.
    fn error(&mut self, reason: Reason, ifindex: u32, frame: &[u8], argument: u32) -> Option<Message> {
        let commands = self.punt(reason, ifindex, frame, (argument, 0));
        match commands.as_slice() {
            [] => None,
            [Command::Send { message, link: None }] => Some(**message),
            other => panic!("{other:?}"),
        }
    }

    fn pass(&mut self, time: Duration) -> Vec<Command> {
        self.now += time;
        self.engine.tick(self.now)
    }

    fn count(&self, counter: Counter) -> u64 {
        self.counters.get(counter)
    }
}

fn interfaces() -> Vec<Interface> {
    let interface = |device, addr: [u8; 4], vlan, role| Interface {
        ifindex: device + u32::from(vlan),
        device,
        addr: u32::from_be_bytes(addr),
        mtu: 1500,
        vlan,
        mac: [2, 0, 0, 0, 0, device as u8],
        role,
        reserved: 0,
    };
    vec![
        interface(INSIDE, [192, 168, 1, 1], 0, ROLE_INSIDE),
        interface(INSIDE, [192, 168, 100, 1], 100, ROLE_INSIDE),
        interface(INSIDE, [0, 0, 0, 0], 200, ROLE_INSIDE),
        interface(OUTSIDE, [203, 0, 113, 200], 0, ROLE_OUTSIDE),
    ]
}

fn record(reason: Reason, ifindex: u32, frame: &[u8], (argument, out): (u32, u32)) -> Vec<u8> {
    let len = frame.len().min(PUNT_MAX);
    let punt = Punt {
        reason: reason as u32,
        ifindex,
        argument,
        out,
        frame_len: frame.len() as u32,
        len: len as u32,
    };
    let words = [
        punt.reason,
        punt.ifindex,
        punt.argument,
        punt.out,
        punt.frame_len,
        punt.len,
    ];
    let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
    bytes.extend_from_slice(&frame[..len]);
    bytes
}

/// A UDP packet in an Ethernet frame; `fragment` is the word of flags and offset.
fn frame(source: [u8; 4], destination: [u8; 4], fragment: u16, payload: usize) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0];
    f.extend((20 + payload as u16).to_be_bytes());
    f.extend([0x12, 0x34]);
    f.extend(fragment.to_be_bytes());
    f.extend([64, 17, 0, 0]);
    f.extend(source);
    f.extend(destination);
    let check = full(&f[14..34]);
    f[24..26].copy_from_slice(&check.to_be_bytes());
    f.extend((0..payload).map(|i| i as u8));
    f
}

fn out(payload: usize) -> Vec<u8> {
    frame(HOST, REMOTE, 0, payload)
}

fn tagged(mut f: Vec<u8>, vlan: u16) -> Vec<u8> {
    f.splice(12..12, [0x81, 0, (vlan >> 8) as u8, vlan as u8]);
    f
}

fn source(message: &Message) -> [u8; 4] {
    message.bytes()[12..16].try_into().unwrap()
}

#[test]
fn every_reason_has_its_error() {
    let mut b = Bench::new(|_| ());
    for (reason, expected) in [
        (Reason::TtlExpired, (11, 0)),
        (Reason::Unreachable, (3, 0)),
        (Reason::Quota, (3, 1)),
        (Reason::Exhausted, (3, 1)),
        (Reason::Policy, (3, 13)),
    ] {
        let message = b.error(reason, INSIDE, &out(100), 0).unwrap();
        assert_eq!(message.type_and_code(), expected, "{reason:?}");
        assert_eq!(source(&message), [192, 168, 1, 1]);
        assert_eq!(message.destination(), u32::from_be_bytes(HOST));
        assert_eq!(&message.bytes()[28..], &out(100)[14..]);
    }
    let message = b
        .error(Reason::TooBig, INSIDE, &frame(HOST, REMOTE, DF, 1480), 1280)
        .unwrap();
    assert_eq!(
        (message.type_and_code(), &message.bytes()[24..28]),
        ((3, 4), &[0, 0, 5, 0][..])
    );
}

#[test]
fn an_error_comes_from_the_address_that_its_receiver_knows() {
    let mut b = Bench::new(|_| ());
    let from = |b: &mut Bench, ifindex, f: &[u8]| b.error(Reason::TtlExpired, ifindex, f, 0).map(|m| source(&m));
    assert_eq!(from(&mut b, INSIDE, &tagged(out(50), 100)), Some([192, 168, 100, 1]));
    // An interface without an address speaks with the address of another one inside.
    assert_eq!(from(&mut b, INSIDE, &tagged(out(50), 200)), Some([192, 168, 1, 1]));
    assert_eq!(from(&mut b, OUTSIDE, &frame(REMOTE, EXTERNAL, 0, 50)), Some(EXTERNAL));
    // A VLAN or a device that is not ours.
    assert_eq!(from(&mut b, INSIDE, &tagged(out(50), 300)), None);
    assert_eq!(from(&mut b, 99, &out(50)), None);
    assert_eq!(b.count(Counter::Malformed), 2);
}

#[test]
fn errors_can_be_switched_off() {
    type Change = fn(&mut Config);
    let cases: [(Change, Reason, u16); 4] = [
        (|c| c.icmp.unreachable = false, Reason::Quota, 0),
        (|c| c.icmp.time_exceeded = false, Reason::TtlExpired, 0),
        (|c| c.icmp.fragmentation_needed = false, Reason::TooBig, DF),
        (|c| c.policy.refuse = Refuse::Silent, Reason::Policy, 0),
    ];
    for (change, reason, flags) in cases {
        let mut b = Bench::new(change);
        assert_eq!(
            b.error(reason, INSIDE, &frame(HOST, REMOTE, flags, 100), 100),
            None,
            "{reason:?}"
        );
        assert_eq!(b.count(Counter::SwitchedOff), 1);
        let mut b = Bench::new(|_| ());
        assert!(
            b.error(reason, INSIDE, &frame(HOST, REMOTE, flags, 100), 100).is_some(),
            "{reason:?}"
        );
    }
}

#[test]
fn errors_are_limited_by_rate_and_silence_costs_no_budget() {
    let mut b = Bench::new(|_| ());
    let icmp_error = {
        let mut f = frame(HOST, REMOTE, 0, 100);
        (f[23], f[34]) = (1, 3);
        f
    };
    for _ in 0..100 {
        assert_eq!(b.error(Reason::TtlExpired, INSIDE, &icmp_error, 0), None);
    }
    let sent = (0..100)
        .filter(|_| b.error(Reason::TtlExpired, INSIDE, &out(20), 0).is_some())
        .count();
    assert_eq!(sent, 10);
    assert_eq!((b.count(Counter::RateLimited), b.count(Counter::Silent)), (90, 100));
}

#[test]
fn too_big_without_df_is_cut_and_given_back() {
    let mut b = Bench::new(|_| ());
    let original = tagged(out(1480), 100);
    let commands = b.punt(Reason::TooBig, INSIDE, &original, (1280, 0));
    let mut payload = Vec::new();
    for command in &commands {
        let Command::Reinject {
            side: Side::Inside,
            ifindex: INSIDE,
            frame,
        } = command
        else {
            panic!("{command:?}")
        };
        assert_eq!(frame[..18], original[..18], "the link's header, tag included");
        assert!(frame.len() <= 18 + 1280);
        assert_eq!(fold(sum(&frame[18..38])), 0xffff);
        payload.extend_from_slice(&frame[38..]);
    }
    assert_eq!((commands.len(), &payload[..]), (2, &original[38..]));
    assert_eq!(b.count(Counter::Split), 1);
    // A frame that did not arrive whole, and one whose header cannot be.
    assert_eq!(b.punt(Reason::TooBig, INSIDE, &out(PUNT_MAX), (1280, 0)), []);
    assert_eq!(b.count(Counter::TooLarge), 1);
    assert_eq!(b.punt(Reason::TooBig, INSIDE, &out(1480), (0, 0)), []);
    assert_eq!(b.count(Counter::Malformed), 1);
}

/// Frames of the pieces of one datagram, and its payload put together again.
fn pieces(commands: &[Command]) -> (Vec<usize>, Vec<u8>) {
    let mut payload = Vec::new();
    let mut lengths = Vec::new();
    for command in commands {
        let Command::Reinject { frame, .. } = command else {
            panic!("{command:?}")
        };
        lengths.push(frame.len());
        payload.extend_from_slice(&frame[34..]);
    }
    (lengths, payload)
}

#[test]
fn jumbo_datagrams_are_cut_to_what_the_way_and_the_kernel_take() {
    let mut b = Bench::new(|_| ());
    let original = out(8000);
    let (lengths, payload) = pieces(&b.punt(Reason::TooBig, INSIDE, &original, (1500, 0)));
    assert_eq!(
        (lengths, &payload[..]),
        (vec![1514, 1514, 1514, 1514, 1514, 634], &original[34..])
    );
    // The way would take more than the kernel takes back.
    let (lengths, payload) = pieces(&b.punt(Reason::TooBig, INSIDE, &original, (7000, 0)));
    assert_eq!((lengths, &payload[..]), (vec![3322, 3322, 1458], &original[34..]));
    assert_eq!((b.count(Counter::Split), b.count(Counter::TooLarge)), (2, 0));
}

#[test]
fn jumbo_frames_to_a_cold_next_hop_have_it_resolved() {
    let mut b = Bench::new(|_| ());
    let (hop, argument) = ((OUTSIDE, NEXT_HOP), (NEXT_HOP, OUTSIDE));
    let resolve = [Command::Resolve(hop)];
    let whole = frame(HOST, REMOTE, DF, 8000);
    // One that did not arrive whole is lost, but its successors find the way.
    assert_eq!(b.punt(Reason::NoNeighbour, INSIDE, &out(PUNT_MAX), argument), resolve);
    assert_eq!(b.count(Counter::TooLarge), 1);
    assert_eq!(b.punt(Reason::NoNeighbour, INSIDE, &whole, argument), resolve);
    assert_eq!(b.punt(Reason::NoNeighbour, INSIDE, &out(4000), argument), []);
    // Of the others, those that may be cut are not lost either.
    let (lengths, payload) = pieces(&b.engine.neighbour_known(hop, b.now));
    assert_eq!((lengths, &payload[..]), (vec![3322, 746], &out(4000)[34..]));
    assert_eq!((b.count(Counter::Split), b.count(Counter::TooLarge)), (1, 2));
    assert_eq!(b.count(Counter::Malformed), 0);
}

#[test]
fn in_a_vlan_without_an_interface_errors_leave_as_tagged_frames() {
    let mut b = Bench::new(|_| ());
    let bare = interfaces().into_iter().map(|i| Interface { ifindex: i.device, ..i });
    let config = Config::parse("[nat]\ninside = [\"in\"]\noutside = [\"out\"]\n", "test").unwrap();
    b.engine.configure(Settings::from(&config), bare.collect());
    let f = tagged(out(50), 100);
    let commands = b.punt(Reason::TtlExpired, INSIDE, &f, (0, 0));
    let [Command::Send { link: Some(link), .. }] = commands.as_slice() else {
        panic!("{commands:?}")
    };
    assert_eq!(link.device, INSIDE);
    assert_eq!(link.header[..6], f[6..12], "back to where it came from");
    assert_eq!(link.header[6..], [2, 0, 0, 0, 0, INSIDE as u8, 0x81, 0, 0, 100, 8, 0]);
}

#[test]
fn a_cold_next_hop_is_resolved_and_its_packets_given_back() {
    let mut b = Bench::new(|_| ());
    let hop = (OUTSIDE, NEXT_HOP);
    let argument = (NEXT_HOP, OUTSIDE);
    assert_eq!(
        b.punt(Reason::NoNeighbour, INSIDE, &out(10), argument),
        [Command::Resolve(hop)]
    );
    assert_eq!(b.punt(Reason::NoNeighbour, INSIDE, &out(11), argument), []);
    assert_eq!(b.engine.wake(), Some(b.now + NEIGHBOUR_POLL));
    assert_eq!(b.pass(NEIGHBOUR_POLL), [Command::Poll(vec![hop])]);
    let back = |frame| Command::Reinject {
        side: Side::Inside,
        ifindex: INSIDE,
        frame,
    };
    assert_eq!(b.engine.neighbour_known((OUTSIDE, 1), b.now), []);
    assert_eq!(b.engine.neighbour_known(hop, b.now), [back(out(10)), back(out(11))]);
    assert_eq!(b.pass(PATIENCE), []);
    assert_eq!(
        (b.count(Counter::NeighbourHeld), b.count(Counter::NeighbourReleased)),
        (2, 2)
    );
}

#[test]
fn a_next_hop_that_does_not_answer_is_host_unreachable() {
    let mut b = Bench::new(|_| ());
    b.punt(Reason::NoNeighbour, INSIDE, &out(10), (NEXT_HOP, OUTSIDE));
    assert_eq!(
        b.pass(PATIENCE - Duration::from_millis(1)).len(),
        1,
        "a poll, no error yet"
    );
    let commands = b.pass(Duration::from_millis(1));
    let [Command::Send { message, link: None }] = commands.as_slice() else {
        panic!("{commands:?}")
    };
    assert_eq!((message.type_and_code(), source(message)), ((3, 1), [192, 168, 1, 1]));
    assert_eq!(b.engine.wake(), None);
    assert_eq!(b.count(Counter::NeighbourExpired), 1);
}

#[test]
fn an_orphan_waits_for_the_first_fragment() {
    let mut b = Bench::new(|_| ());
    let pieces = [
        frame(REMOTE, EXTERNAL, MF | 185, 1480),
        frame(REMOTE, EXTERNAL, 370, 100),
    ];
    for piece in &pieces {
        assert_eq!(b.punt(Reason::FragmentOrphan, OUTSIDE, piece, (0, 0)), []);
    }
    assert_eq!(b.pass(POLL), []);
    let datagram = |side: Side| Datagram {
        source: u32::from_be_bytes(REMOTE),
        destination: u32::from_be_bytes(EXTERNAL),
        packed: 0x1234 | 17 << 16 | (side as u32) << 24,
    };
    b.table.0.lock().unwrap().insert(datagram(Side::Inside));
    assert_eq!(b.pass(POLL), [], "that of the other side is another datagram");
    b.table.0.lock().unwrap().insert(datagram(Side::Outside));
    let expected = pieces.map(|frame| Command::Reinject {
        side: Side::Outside,
        ifindex: OUTSIDE,
        frame,
    });
    assert_eq!(b.pass(POLL), expected);
    assert_eq!(
        (b.count(Counter::FragmentHeld), b.count(Counter::FragmentReleased)),
        (2, 2)
    );
}

#[test]
fn an_orphan_whose_time_is_over_is_dropped_without_a_word() {
    let mut b = Bench::new(|_| ());
    b.punt(
        Reason::FragmentOrphan,
        OUTSIDE,
        &frame(REMOTE, EXTERNAL, 185, 100),
        (0, 0),
    );
    assert_eq!(b.pass(Duration::from_secs(2)), []);
    assert_eq!((b.count(Counter::FragmentExpired), b.engine.wake()), (1, None));
}

#[test]
fn records_that_make_no_sense_are_counted() {
    let mut b = Bench::new(|_| ());
    assert_eq!(b.engine.punted(&[], b.now), []);
    assert_eq!(b.punt(Reason::Outbound, INSIDE, &out(10), (0, 0)), []);
    assert_eq!(b.punt(Reason::NoNeighbour, INSIDE, &out(10), (0, 0)), []);
    assert_eq!(b.punt(Reason::FragmentOrphan, OUTSIDE, &[0; 60], (0, 0)), []);
    assert_eq!((b.count(Counter::Malformed), b.count(Counter::Received)), (4, 4));
    assert_eq!(b.engine.wake(), None);
}

#[test]
fn a_change_of_the_configuration_holds_at_once() {
    let mut b = Bench::new(|_| ());
    let mut config = Config::parse("[nat]\ninside = [\"in\"]\noutside = [\"out\"]\n", "test").unwrap();
    config.icmp.time_exceeded = false;
    b.engine.configure(Settings::from(&config), interfaces());
    assert_eq!(b.error(Reason::TtlExpired, INSIDE, &out(20), 0), None);
}

proptest! {
    #[test]
    fn no_record_makes_it_panic(
        reason in 0usize..Reason::ALL.len(), argument: u32, cut in 0usize..120, at in 0usize..120, value: u8
    ) {
        let mut b = Bench::new(|_| ());
        let mut f = out(80);
        if let Some(byte) = f.get_mut(at) {
            *byte = value;
        }
        f.truncate(cut);
        b.punt(Reason::ALL[reason], INSIDE, &f, (argument, OUTSIDE));
        b.pass(PATIENCE);
        prop_assert_eq!(b.count(Counter::Received), 1);
        prop_assert_eq!(b.engine.wake().is_some(), b.count(Counter::FragmentHeld) == 1);
    }
}
