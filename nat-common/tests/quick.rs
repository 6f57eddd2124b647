//! The short way of a packet of a known flow beside the thorough one, and both beside the way in two stages: whatever comes, all
//! give the same packet for the same reason.

use nat_common::counters::{Action, Reason};
use nat_common::flow::{Endpoint, Proto, Side};
use nat_common::hash::mix;
use nat_common::memory::oracle::{View, ones};
use nat_common::memory::{Case, Frame, MemTables, Setup, addr, cases, cases::setup, end};
use nat_common::packet::Bytes;
use nat_common::quick;
use nat_common::session::{ACK, SYN};
use nat_common::stage::{self, ETHERTYPE_STAGED, take_up};
use nat_common::tables::Tables as _;
use nat_common::translate::{process, process_late, process_thoroughly};
use nat_common::verdict::{Outcome, Verdict};
use std::collections::HashSet;

const INSIDE: u32 = 10;
const OUTSIDE: u32 = 20;

/// The same NAT three times. Stamps are renewed with every packet, or lifetimes would differ by how coarse they are.
struct Both {
    quick: MemTables,
    thorough: MemTables,
    staged: MemTables,
}

impl Both {
    fn new(setup: &Setup) -> Self {
        let mut setup = setup.clone();
        setup.seconds.refresh = 0;
        let [quick, thorough, mut staged] = [0; 3].map(|_| setup.clone().tables());
        staged.state.staged = 1;
        Self {
            quick,
            thorough,
            staged,
        }
    }

    fn run(&self, side: Side, frame: &[u8]) -> (Verdict, Vec<u8>) {
        let device = if side == Side::Inside { INSIDE } else { OUTSIDE };
        let (mut one, mut two) = (Bytes(frame.to_vec()), Bytes(frame.to_vec()));
        let verdict = self.quick.run(side, device, &mut one);
        let other = process_thoroughly(&mut two, &self.thorough, side, device).verdict();
        assert_eq!(verdict, other, "{side:?} {frame:02x?}");
        assert_eq!(one, two, "{verdict:?} of {side:?} {frame:02x?}");
        let mut three = Bytes(frame.to_vec());
        let other = self.staged.run_staged(side, device, &mut three);
        assert_eq!(verdict, other, "in two stages: {side:?} {frame:02x?}");
        assert_eq!(one, three, "in two stages: {verdict:?} of {side:?} {frame:02x?}");
        (verdict, one.0)
    }

    fn wait(&self, seconds: u32) {
        self.quick.wait(seconds);
        self.thorough.wait(seconds);
        self.staged.wait(seconds);
    }

    /// The external endpoint that a frame from inside got.
    fn first(&self, frame: &[u8]) -> Option<Endpoint> {
        let (verdict, after) = self.run(Side::Inside, frame);
        let view = View::of(&after)?;
        matches!(verdict, Verdict::Forward(..)).then(|| Endpoint::new(view.source, view.ports.0))
    }
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 += 1;
        (mix(self.0, 0x0123_4567_89ab_cdef) % limit as u64) as usize
    }
}

/// A few bytes of the headers are changed, and the length; then the header's checksum is mended, mostly.
fn mutate(frame: &mut Vec<u8>, dice: &mut Dice) {
    if frame.len() < 34 {
        return;
    }
    for _ in 0..dice.below(3) {
        let at = 12 + dice.below(frame.len().min(60) - 12);
        frame[at] = match dice.below(3) {
            0 => frame[at] ^ 1 << dice.below(8),
            1 => dice.below(256) as u8,
            _ => [0, 1, 0x40, 0x45, 0x80, 0xff][dice.below(6)],
        };
    }
    match dice.below(10) {
        0 => frame.truncate(14 + dice.below(frame.len() - 14)),
        1 => frame.extend([0; 7]),
        _ => {}
    }
    let header_len = frame.get(14).map_or(20, |first| (first & 15) as usize * 4).max(20);
    if frame.len() >= 14 + header_len && dice.below(8) != 0 {
        frame[24..26].fill(0);
        let check = !ones(&[&frame[14..14 + header_len]]);
        frame[24..26].copy_from_slice(&check.to_be_bytes());
    }
}

fn setups() -> Vec<Setup> {
    let plain = setup();
    let mut clamped = setup();
    clamped.mss = 1300;
    let mut counting = setup();
    counting.flags |= nat_common::config::FLAG_COUNTING | nat_common::config::FLAG_REFRESH_IN;
    let mut filtered = setup();
    filtered.filtering = [nat_common::config::Filtering::AddressAndPortDependent; 3];
    vec![plain, clamped, counting, filtered]
}

#[test]
fn random_traffic_is_treated_alike() {
    let all: Vec<Case> = cases();
    let mut reasons = HashSet::new();
    for (number, setup) in setups().iter().enumerate() {
        for seed in 0..40 {
            let both = Both::new(setup);
            let mut dice = Dice((number as u64) << 40 | seed << 20);
            for _ in 0..150 {
                let case = &all[dice.below(all.len())];
                let mut external = None;
                for _ in 0..dice.below(3) {
                    external = case.first.as_ref().and_then(|first| both.first(first));
                }
                let mut frame = case.frame(external.unwrap_or_default());
                if dice.below(3) == 0 {
                    mutate(&mut frame, &mut dice);
                }
                for _ in 0..=dice.below(3) {
                    reasons.insert(both.run(case.side, &frame).0.reason());
                }
                if dice.below(4) == 0 {
                    both.wait(dice.below(200) as u32);
                }
            }
        }
    }
    assert!(reasons.len() > 25, "{reasons:?}");
}

/// What the short way is for goes by it, and only that.
#[test]
fn known_flows_go_the_short_way() {
    let t = Setup::default().tables();
    let inside = end("10.0.0.5:5000");
    let remote = end("198.51.100.7:7000");
    let quickly = |side: Side, frame: &Frame| {
        let device = if side == Side::Inside { INSIDE } else { OUTSIDE };
        let mut bytes = frame.bytes();
        match quick::translate(&mut bytes, &t, side, device) {
            Outcome::GO_ON => None,
            outcome => Some(outcome.verdict().reason()),
        }
    };
    for proto in [Proto::Udp, Proto::Tcp] {
        let frame = |from, to, flags| match proto {
            Proto::Udp => Frame::udp(from, to, b"voice that is long enough"),
            _ => Frame::tcp(from, to, flags, b"voice that is long enough"),
        };
        let open = frame(inside, remote, SYN);
        assert_eq!(quickly(Side::Inside, &open), None, "{proto:?}: nothing is known yet");
        let mut after = open.bytes();
        t.run(Side::Inside, INSIDE, &mut after);
        let view = View::of(&after.0).unwrap();
        let external = Endpoint::new(view.source, view.ports.0);
        let answer = frame(remote, external, SYN | ACK);
        t.run(Side::Outside, OUTSIDE, &mut answer.bytes());
        let more = frame(inside, remote, ACK);
        for _ in 0..2 {
            assert_eq!(quickly(Side::Inside, &more), Some(Reason::Outbound), "{proto:?}");
            assert_eq!(
                quickly(Side::Outside, &frame(remote, external, ACK)),
                Some(Reason::Inbound),
                "{proto:?}"
            );
        }
        // The way is believed for a second.
        t.wait(3);
        assert_eq!(quickly(Side::Inside, &more), None, "{proto:?}");
        t.run(Side::Inside, INSIDE, &mut more.bytes());
        assert_eq!(quickly(Side::Inside, &more), Some(Reason::Outbound), "{proto:?}");
        let other = frame(Endpoint::new(addr("10.0.0.5"), 5001), remote, ACK);
        assert_eq!(quickly(Side::Inside, &other), None, "{proto:?}: another flow");
    }
    assert_eq!(Reason::Outbound.action(), Action::Forward);
}

/// A binding that packets refresh by the short way only is alive for everybody, and dies for everybody.
#[test]
fn what_the_short_way_stamps_counts_everywhere() {
    let t = Setup::default().tables();
    let (inside, remote) = (end("10.0.0.5:5000"), end("198.51.100.7:7000"));
    let out = Frame::udp(inside, remote, b"voice that is long enough");
    let mut after = out.bytes();
    t.run(Side::Inside, INSIDE, &mut after);
    let view = View::of(&after.0).unwrap();
    let external = Endpoint::new(view.source, view.ports.0);
    let back = Frame::udp(remote, external, b"voice that is long enough");
    for _ in 0..10 {
        // Twice: the first finds the way forgotten.
        for _ in 0..2 {
            let mut bytes = out.bytes();
            t.run(Side::Inside, INSIDE, &mut bytes);
            assert_eq!(View::of(&bytes.0).unwrap().ports.0, external.port);
        }
        t.wait(200);
        assert_eq!(
            t.run(Side::Outside, OUTSIDE, &mut back.bytes()).reason(),
            Reason::Inbound
        );
    }
    t.wait(302);
    assert_eq!(
        t.run(Side::Outside, OUTSIDE, &mut back.bytes()).reason(),
        Reason::NoBinding
    );
}

/// What the kernel does: it queues what the first stage lets through and runs the second on all of it.
#[test]
fn a_batch_of_two_stages_is_what_one_stage_makes_of_each() {
    let [direct, mut staged] = [0; 2].map(|_| Setup::default().tables());
    let (hosts, flows) = (4, 40);
    let flow = |number: u32| {
        let from = Endpoint::new(addr("10.0.0.5") + number % hosts, 5000 + number as u16);
        Frame::udp(from, end("198.51.100.7:7000"), b"voice that is long enough").bytes()
    };
    for number in 0..flows {
        for tables in [&direct, &staged] {
            tables.run(Side::Inside, INSIDE, &mut flow(number));
        }
    }
    staged.state.staged = 1;
    // More than there is room for in a batch, some of which are new.
    let frames: Vec<Bytes> = (20..flows + 5).map(flow).collect();
    let mut queue = Vec::new();
    for frame in &frames {
        let mut marked = frame.clone();
        let outcome = process(&mut marked, &staged, Side::Inside, INSIDE);
        assert!(outcome.is_staged(), "{outcome:?} of {frame:02x?}");
        assert_eq!(marked.0[12..14], ETHERTYPE_STAGED.to_be_bytes());
        assert_eq!((&marked.0[..12], &marked.0[14..]), (&frame.0[..12], &frame.0[14..]));
        queue.push(marked);
    }
    assert_eq!(staged.batch().unwrap().count.get() as usize, frames.len());
    for (mut frame, mut late) in frames.into_iter().zip(queue) {
        assert!(take_up(&mut late) && !take_up(&mut late.clone()));
        let verdict = process_late(&mut late, &staged, INSIDE).verdict();
        assert_eq!(direct.run(Side::Inside, INSIDE, &mut frame), verdict);
        assert_eq!(frame, late, "{verdict:?}");
    }
    assert_eq!(staged.batch().unwrap().count.get(), 0);
}

/// What may have to go elsewhere than out by one device is never put off.
#[test]
fn only_what_leaves_by_an_outside_interface_is_put_off() {
    let mut setup = setup();
    setup.watch = vec![5060];
    let t = &mut setup.tables();
    t.state.staged = 1;
    let inside = end("10.0.0.5:5000");
    let remote = end("198.51.100.7:7000");
    let put_off = |frame: Bytes| process(&mut frame.clone(), t, Side::Inside, INSIDE).is_staged();
    let udp = |to: &str| Frame::udp(inside, end(to), b"voice that is long enough").bytes();
    let known = Frame::udp(inside, remote, b"voice that is long enough");
    assert!(!put_off(known.bytes()), "its way is not known yet");
    assert!(put_off(known.bytes()), "it is now");
    let changed = |at: usize, to: &[u8]| {
        let mut frame = known.bytes();
        frame.0[at..at + to.len()].copy_from_slice(to);
        frame
    };
    assert!(!put_off(changed(22, &[1])), "its TTL is over");
    assert!(!put_off(changed(20, &[0x20, 0])), "a fragment");
    assert!(!put_off(changed(14, &[0x46])), "it has options");
    assert!(!put_off(changed(12, &[0x86, 0xdd])), "not IPv4");
    assert!(
        !put_off(changed(12, &ETHERTYPE_STAGED.to_be_bytes())),
        "marked by its sender"
    );
    assert!(!put_off(changed(16, &[0xff])), "larger than the MTU");
    for (what, to) in [
        ("an external address", "203.0.113.1:4000"),
        ("the router", "10.0.0.1:53"),
        ("an inside host", "10.0.0.6:53"),
        ("a watched port", "198.51.100.7:5060"),
    ] {
        for _ in 0..2 {
            assert!(!put_off(udp(to)), "to {what}");
        }
    }
    for _ in 0..2 {
        let tcp = Frame::tcp(inside, remote, SYN, b"");
        assert!(!put_off(tcp.bytes()), "TCP");
    }
}

/// The second stage is on one device and can send nowhere else.
#[test]
fn what_was_overtaken_by_a_change_of_routes_is_dropped() {
    let sent = |outcome: Outcome, here| stage::settle(outcome, |_| here).verdict();
    let forward = Outcome::forward(Reason::Outbound, 1);
    assert_eq!(sent(forward, true), Verdict::Forward(Reason::Outbound, 1));
    let overtaken = Verdict::Drop(Reason::Overtaken);
    assert_eq!(sent(forward, false), overtaken);
    assert_eq!(sent(Reason::ToRouter.into(), true), overtaken);
    assert_eq!(sent(Reason::Martian.into(), false), Verdict::Drop(Reason::Martian));
    assert_eq!(sent(Reason::Quota.into(), false).reason(), Reason::Quota);
}
