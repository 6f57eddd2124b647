//! How full the index gets.

use nat_common::flow::{Endpoint, InsideKey, Proto};
use nat_common::index::{Inserted, find, insert};
use nat_common::memory::{Setup, addr};

/// Two buckets are meant for seven bindings (`dataplane/geometry.rs` of the daemon); four fifths of that are never refused, whether a host
/// uses many ports in a row, every second one, or all hosts the same one. What was entered is found.
#[test]
fn four_fifths_of_the_capacity_are_never_refused() {
    const BUCKETS: u32 = 4000;
    let entries = BUCKETS * 7 / 2 * 4 / 5;
    for (ports, step) in [(1024, 1), (64, 1), (512, 2), (1, 1)] {
        for secret in 0..5 {
            let setup = Setup {
                index_buckets: BUCKETS,
                seed: secret,
                ..Setup::default()
            };
            let t = setup.tables();
            let key = |n: u32| {
                let (host, flow) = (n / ports, n % ports);
                // Hosts with a few ports begin anywhere.
                let first = if ports == 1 { 5060 } else { host * 7919 };
                InsideKey {
                    proto: Proto::Udp,
                    inside: Endpoint::new(addr("10.0.0.0") + host, (first + flow * step) as u16),
                }
            };
            // Hosts open their flows at the same time.
            let mut order: Vec<u32> = (0..entries).collect();
            order.sort_by_key(|n| n.wrapping_mul(0x9e37_79b1));
            for &n in &order {
                let outcome = insert(&t, t.active(), &key(n), n, t.time());
                assert_eq!(outcome, Inserted::Done, "{n} of {entries}, {ports} ports a host");
            }
            for n in order {
                let place = nat_common::index::Place::of(t.active(), &key(n));
                let found = find(&t, &place).expect("was entered");
                assert_eq!(found.word.slot(), n);
            }
        }
    }
}
