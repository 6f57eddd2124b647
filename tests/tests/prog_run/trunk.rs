//! A router on a stick: both sides are VLANs of one device, and the tag decides which side's program has the frame.

use nat_common::counters::Reason;
use nat_common::flow::Side;
use nat_common::memory::Setup;
use nat_common::memory::cases::{self, cases};

use crate::rig::{PASS, Rig, SHORTEST, in_lab};
use crate::twin::Twin;

const INSIDE: u16 = 100;
const OUTSIDE: u16 = 200;

fn setup() -> Setup {
    let mut setup = cases::setup();
    // The one with which the three destinations of a packet have different places in the cache.
    let device = setup.interfaces[1].device;
    for (interface, vlan) in setup.interfaces.iter_mut().zip([INSIDE, OUTSIDE]) {
        (interface.device, interface.vlan) = (device, vlan);
    }
    setup
}

fn tagged(mut frame: Vec<u8>, vlan: u16) -> Vec<u8> {
    let [high, low] = vlan.to_be_bytes();
    frame.splice(12..12, [0x81, 0, high, low]);
    frame
}

#[test]
fn every_case_is_the_same_through_a_trunk() {
    let setup = setup();
    in_lab(&setup, |_| {
        let mut rig = Rig::new(&setup);
        let (mut wrong, mut through) = (Vec::new(), [0, 0]);
        for case in cases() {
            let mut twin = Twin::new(&mut rig, &setup);
            let first = case
                .first
                .as_ref()
                .map(|first| twin.first(&tagged(first.clone(), INSIDE)));
            let frame = case.frame(first.unwrap_or_default());
            if frame.len() < SHORTEST {
                continue;
            }
            let (vlan, other) = match case.side {
                Side::Inside => (INSIDE, OUTSIDE),
                Side::Outside => (OUTSIDE, INSIDE),
            };
            match twin.both(case.side, &tagged(frame, vlan)) {
                Ok((_, ran)) if ran.reason == Reason::Outbound || ran.reason == Reason::Inbound => {
                    through[case.side as usize] += 1;
                    assert_eq!(ran.bytes[12..16], [0x81, 0, 0, other as u8], "{}", case.name);
                }
                Ok(_) => {}
                Err(error) => wrong.push(format!("{}: {error}", case.name)),
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(through.iter().all(|count| *count > 20), "{through:?} were translated");
    });
}

#[test]
fn frames_of_other_vlans_pass() {
    let setup = setup();
    in_lab(&setup, |_| {
        let mut rig = Rig::new(&setup);
        let mut twin = Twin::new(&mut rig, &setup);
        let kind = cases()
            .into_iter()
            .find(|case| case.expected == Reason::Outbound)
            .unwrap();
        let frame = kind.frame(nat_common::flow::Endpoint::default());
        for other in [tagged(frame.clone(), 300), frame] {
            let (_, ran) = twin.both(Side::Inside, &other).unwrap();
            assert_eq!(
                (ran.action, ran.reason, &ran.bytes),
                (PASS, Reason::ForeignVlan, &other)
            );
        }
    });
}
