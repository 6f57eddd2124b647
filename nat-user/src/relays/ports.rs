//! Ports of the relay: from the pool that all bindings are served from, in blocks of owners of its own.
//!
//! An owner is a host that cannot exist: an address in 0.0.0.0/8, which no packet has as its source (RFC 1122 §3.2.1.3). Owners
//! of pairs are 0.2.A.N and those of single ports 0.1.A.N, with A the number of the external address; so single ports never
//! split what could have been pairs, and a leg is on the address that was asked for.

use nat_common::{
    config::Config as Numbers,
    counters::{REFUSED, Reason, refusal},
    flow::{Endpoint, InsideKey, Proto},
    maps::{HostWord, MAX_BLOCKS_PER_HOST},
    ports::{NO_HOST, allocate, enter_host, find_host, release_port, slot_parts, used_place},
    tables::Tables,
};

/// Owners of one kind on one external address.
const OWNERS: u32 = 256;

/// Whether a host's address is an owner of relay ports.
pub fn is_owner(addr: u32) -> bool {
    matches!(addr >> 16, 1 | 2)
}

fn owner(pair: bool, address: u32, number: u32) -> u32 {
    (1 + u32::from(pair)) << 16 | address << 8 | number
}

/// Takes a UDP port on external address number `address`, or with `pair` an even one whose odd neighbour is taken too. Returns
/// the slot; the bits of the ports are set, their slots are untouched.
///
/// # Errors
/// If the pool, or the part of it that 256 owners may have, has no such port.
pub fn take<T: Tables>(t: &T, cfg: &Numbers, address: u32, pair: bool, now: u32) -> Result<u32, Reason> {
    let cfg = &Numbers {
        blocks_per_host: MAX_BLOCKS_PER_HOST as u32,
        ..*cfg
    };
    let mut refused = Reason::Exhausted;
    for number in 0..OWNERS {
        match of_owner(t, cfg, address, owner(pair, address, number), pair, now) {
            Ok(slot) => return Ok(slot),
            Err(Reason::Quota | Reason::HostsFull) => refused = Reason::Quota,
            Err(reason) => return Err(reason),
        }
    }
    Err(refused)
}

fn of_owner<T: Tables>(t: &T, cfg: &Numbers, address: u32, owner: u32, pair: bool, now: u32) -> Result<u32, Reason> {
    let mut host = find_host(t, cfg, owner);
    if host == NO_HOST {
        host = enter_host(t, cfg, owner, address, now);
        if host & REFUSED != 0 {
            return Err(refusal(host));
        }
    }
    // An even port without its neighbour stays taken until there is a pair, or it would be found again.
    let mut halves = Vec::new();
    let result = loop {
        let key = InsideKey {
            proto: Proto::Udp,
            inside: Endpoint::new(owner, if pair { 0 } else { t.random() as u16 & 1 }),
        };
        let slot = allocate(t, cfg, &key, now);
        if slot & REFUSED != 0 {
            break Err(refusal(slot));
        }
        if slot_parts(slot).0 != address {
            // The wanted address had no block, and a host without blocks may change it.
            release_port(t, slot);
            if let Some(host) = t.host(host) {
                host.word.set(HostWord::new(owner, address).0);
            }
            break Err(Reason::Exhausted);
        }
        if !pair || take_neighbour(t, slot) {
            break Ok(slot);
        }
        halves.push(slot);
    };
    halves.into_iter().for_each(|slot| release_port(t, slot));
    result
}

/// Takes the odd port beside an even one, unless somebody has it.
fn take_neighbour<T: Tables>(t: &T, slot: u32) -> bool {
    let (place, bit) = used_place(slot | 1);
    let Some(word) = t.used_ports(place) else { return false };
    loop {
        let used = word.get();
        if used & bit != 0 {
            return false;
        }
        if word.replace(used, used | bit) {
            return true;
        }
    }
}
