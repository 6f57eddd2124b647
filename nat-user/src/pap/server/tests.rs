//! The server on a model of a NAT with one external address.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::pap::wire::{HEADER, MAX_LEN, Nonce, TCP, UDP};

const EXTERNAL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 10);
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 11);
const NONCE: Nonce = *b"nonce of one";
const START: u64 = 1_800_000_000;
const POLICY: Policy = Policy {
    min_lifetime: 120,
    max_lifetime: 86_400,
    per_host: 4,
    strict: false,
};

/// Bindings by inside endpoint: external port, and whether everybody may send to it.
#[derive(Default)]
struct Nat {
    bindings: BTreeMap<Key, (u16, bool)>,
    fixed: BTreeMap<Key, u16>,
    /// Seconds that a binding lives on for when it is closed: its host has sent by it.
    idle: u32,
    full: bool,
    down: bool,
}

impl Nat {
    fn taken(&self, proto: Proto, port: u16) -> bool {
        let of = |(key, found): (&Key, u16)| key.proto == proto && found == port;
        self.bindings.iter().any(|(key, (found, _))| of((key, *found)))
            || self.fixed.iter().any(|(key, found)| of((key, *found)))
    }

    fn bind(&mut self, key: &Key, wanted: Wanted, open: bool) -> Result<SocketAddrV4, Denied> {
        if self.down {
            return Err(Denied::NoAddress);
        }
        if let Some((port, was)) = self.bindings.get_mut(key) {
            *was |= open;
            let external = SocketAddrV4::new(EXTERNAL, *port);
            return if wanted.only && !wanted.is(external) {
                Err(Denied::Taken)
            } else {
                Ok(external)
            };
        }
        if self.full {
            return Err(Denied::Exhausted);
        }
        let fits = wanted.port >= 1024 && (wanted.address.is_unspecified() || wanted.address == EXTERNAL);
        let port = match fits && !self.taken(key.proto, wanted.port) {
            true => wanted.port,
            false if wanted.only => return Err(Denied::Taken),
            false => (40_000..)
                .find(|port| !self.taken(key.proto, *port))
                .ok_or(Denied::Exhausted)?,
        };
        self.bindings.insert(*key, (port, open));
        Ok(SocketAddrV4::new(EXTERNAL, port))
    }
}

impl Gateway for Nat {
    fn serves(&self, inside: Ipv4Addr) -> bool {
        inside.is_private()
    }

    fn address_of(&self, _: Ipv4Addr) -> Option<Ipv4Addr> {
        (!self.down).then_some(EXTERNAL)
    }

    fn fixed(&self, key: &Key) -> Option<SocketAddrV4> {
        self.fixed.get(key).map(|port| SocketAddrV4::new(EXTERNAL, *port))
    }

    fn bound(&self, key: &Key) -> Option<SocketAddrV4> {
        self.bindings
            .get(key)
            .map(|(port, _)| SocketAddrV4::new(EXTERNAL, *port))
    }

    fn open(&mut self, key: &Key, wanted: Wanted) -> Result<SocketAddrV4, Denied> {
        self.bind(key, wanted, true)
    }

    fn close(&mut self, key: &Key, external: SocketAddrV4) -> u32 {
        let Some((port, open)) = self.bindings.get_mut(key) else {
            assert!(self.down, "closed what is not there");
            return 0;
        };
        assert_eq!(*port, external.port());
        *open = false;
        if self.idle == 0 {
            self.bindings.remove(key);
        }
        self.idle
    }

    fn extend(&mut self, key: &Key, wanted: Wanted, lifetime: u32) -> Result<(SocketAddrV4, u32), Denied> {
        Ok((self.bind(key, wanted, false)?, lifetime.max(300)))
    }
}

struct Bench {
    server: Server,
    nat: Nat,
    now: u64,
}

/// What an answer says.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    code: u8,
    lifetime: u32,
    epoch: u32,
    port: u16,
    address: Ipv4Addr,
}

impl Bench {
    fn new() -> Bench {
        Bench::with(POLICY)
    }

    fn with(policy: Policy) -> Bench {
        Bench {
            server: Server::new(policy, [], START),
            nat: Nat::default(),
            now: START + 100,
        }
    }

    fn raw(&mut self, bytes: &[u8], from: Ipv4Addr) -> Option<Vec<u8>> {
        let from = SocketAddrV4::new(from, 33_333);
        let answer = self.server.answer(bytes, from, self.now, &mut self.nat);
        if let Some(answer) = &answer {
            assert!(answer.len() <= MAX_LEN);
        }
        answer
    }

    fn ask(&mut self, message: &Message) -> Said {
        let bytes = message.bytes();
        let answer = self.raw(&bytes, message.from).expect("an answer");
        assert_eq!(answer[..2], [2, bytes[1] | 0x80]);
        assert!(answer.len().is_multiple_of(4));
        let word = |at: usize| u32::from_be_bytes(answer[at..at + 4].try_into().unwrap());
        let body = answer.len() >= HEADER + 36;
        if body {
            assert_eq!(
                answer[HEADER..HEADER + 13],
                bytes[HEADER..HEADER + 13],
                "nonce and protocol"
            );
            assert_eq!(
                answer[HEADER + 16..HEADER + 18],
                bytes[HEADER + 16..HEADER + 18],
                "internal port"
            );
        }
        Said {
            code: answer[3],
            lifetime: word(4),
            epoch: word(8),
            port: if body { (word(HEADER + 16) & 0xffff) as u16 } else { 0 },
            address: if body {
                Ipv4Addr::from(word(HEADER + 32))
            } else {
                Ipv4Addr::UNSPECIFIED
            },
        }
    }

    fn natpmp(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.raw(bytes, HOST).expect("an answer")
    }
}

/// A request, to be changed by those who need another.
#[derive(Clone)]
struct Message {
    from: Ipv4Addr,
    client: Ipv4Addr,
    opcode: u8,
    lifetime: u32,
    nonce: Nonce,
    protocol: u8,
    internal: u16,
    external: u16,
    address: Ipv4Addr,
    remote: Ipv4Addr,
    options: Vec<u8>,
}

fn map(protocol: u8, internal: u16) -> Message {
    Message {
        from: HOST,
        client: HOST,
        opcode: 1,
        lifetime: 3600,
        nonce: NONCE,
        protocol,
        internal,
        external: 0,
        address: Ipv4Addr::UNSPECIFIED,
        remote: Ipv4Addr::new(198, 51, 100, 7),
        options: Vec::new(),
    }
}

fn peer(protocol: u8, internal: u16) -> Message {
    Message {
        opcode: 2,
        ..map(protocol, internal)
    }
}

impl Message {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![2, self.opcode, 0, 0];
        bytes.extend(self.lifetime.to_be_bytes());
        bytes.extend(self.client.to_ipv6_mapped().octets());
        if self.opcode != 0 {
            bytes.extend(self.nonce);
            bytes.extend([self.protocol, 0, 0, 0]);
            bytes.extend(self.internal.to_be_bytes());
            bytes.extend(self.external.to_be_bytes());
            bytes.extend(self.address.to_ipv6_mapped().octets());
        }
        if self.opcode == 2 {
            bytes.extend(443u16.to_be_bytes());
            bytes.extend([0, 0]);
            bytes.extend(self.remote.to_ipv6_mapped().octets());
        }
        bytes.extend(&self.options);
        bytes
    }

    fn wants(self, port: u16) -> Message {
        Message {
            external: port,
            address: EXTERNAL,
            ..self
        }
    }

    fn option(mut self, code: u8, value: &[u8]) -> Message {
        self.options.extend([code, 0]);
        self.options.extend((value.len() as u16).to_be_bytes());
        self.options.extend(value);
        self.options.resize(self.options.len().next_multiple_of(4), 0);
        self
    }

    fn ends(self) -> Message {
        Message { lifetime: 0, ..self }
    }
}

fn key(host: Ipv4Addr, proto: Proto, port: u16) -> Key {
    Key {
        inside: SocketAddrV4::new(host, port),
        proto,
    }
}

#[test]
fn a_mapping_is_made_renewed_and_ended() {
    let mut bench = Bench::new();
    let first = bench.ask(&map(UDP, 5060));
    assert_eq!((first.code, first.lifetime, first.epoch), (0, 3600, 100));
    assert_eq!((first.port, first.address), (40_000, EXTERNAL));
    assert_eq!(bench.nat.bindings[&key(HOST, Proto::Udp, 5060)], (40_000, true));
    bench.now += 1000;
    let again = bench.ask(&map(UDP, 5060).wants(50_000));
    assert_eq!((again.code, again.lifetime, again.port), (0, 3600, 40_000));
    let end = bench.ask(&map(UDP, 5060).ends());
    assert_eq!((end.code, end.lifetime), (0, 0));
    assert!(bench.nat.bindings.is_empty() && bench.server.mappings().is_empty());
    // A repetition of the same request gets the same answer.
    assert_eq!(bench.ask(&map(UDP, 5060).ends()), end);
}

#[test]
fn a_mapping_that_is_not_renewed_ends_when_its_lifetime_does() {
    let mut bench = Bench::new();
    bench.ask(&map(TCP, 80));
    for (passed, there) in [(3599, true), (1, false)] {
        bench.now += passed;
        bench.server.expire(bench.now, &mut bench.nat);
        assert_eq!(bench.nat.bindings.len() == 1, there);
    }
}

#[test]
fn lifetimes_stay_between_the_bounds() {
    let mut bench = Bench::new();
    for (asked, granted) in [(1, 120), (120, 120), (86_400, 86_400), (u32::MAX, 86_400)] {
        let message = Message {
            lifetime: asked,
            ..map(UDP, 1)
        };
        assert_eq!(bench.ask(&message).lifetime, granted);
    }
}

#[test]
fn a_suggested_port_is_given_if_it_is_free_and_never_harms() {
    let mut bench = Bench::new();
    assert_eq!(bench.ask(&map(UDP, 1).wants(20_000)).port, 20_000);
    let mut other = map(UDP, 1).wants(20_000);
    (other.from, other.client) = (OTHER, OTHER);
    let said = bench.ask(&other);
    assert_eq!((said.code, said.port), (0, 40_000));
    // The same port of the other protocol is another one.
    assert_eq!(bench.ask(&map(TCP, 1).wants(20_000)).port, 20_000);
}

#[test]
fn prefer_failure_takes_that_port_or_none() {
    let mut bench = Bench::new();
    bench.ask(&map(UDP, 1).wants(20_000));
    let refused = bench.ask(&map(UDP, 2).wants(20_000).option(2, &[]));
    assert_eq!((refused.code, refused.port), (11, 20_000));
    assert_eq!(bench.nat.bindings.len(), 1);
    let made = bench.ask(&map(UDP, 2).wants(20_002).option(2, &[]));
    assert_eq!((made.code, made.port), (0, 20_002));
    // An existing one elsewhere is a conflict, too.
    assert_eq!(bench.ask(&map(UDP, 2).wants(20_004).option(2, &[])).code, 11);
    assert_eq!(bench.ask(&map(UDP, 2).wants(20_002).option(2, &[])).code, 0);
    // It makes no sense without a port, at the end of a mapping, twice, with contents, or for PEER.
    for message in [
        map(UDP, 3).option(2, &[]),
        map(UDP, 3).wants(20_006).ends().option(2, &[]),
        map(UDP, 3).wants(20_006).option(2, &[]).option(2, &[]),
        map(UDP, 3).wants(20_006).option(2, &[0; 4]),
        peer(UDP, 3).wants(20_006).option(2, &[]),
    ] {
        assert_eq!(bench.ask(&message).code, 6);
    }
}

#[test]
fn another_nonce_cannot_end_a_mapping() {
    let mut bench = Bench::new();
    bench.ask(&map(UDP, 1));
    let mut other = map(UDP, 1);
    other.nonce = *b"quite anothe";
    bench.now += 600;
    let said = bench.ask(&other.clone().ends());
    assert_eq!((said.code, said.lifetime), (2, 3000));
    // Lenient: a program that has started anew gets its port, and cannot shorten what it was.
    other.lifetime = 120;
    let said = bench.ask(&other);
    assert_eq!((said.code, said.lifetime), (0, 3000));
    assert_eq!(bench.ask(&map(UDP, 1).ends()).code, 0);
}

#[test]
fn a_strict_server_wants_the_nonce_for_renewals_too() {
    let mut bench = Bench::with(Policy { strict: true, ..POLICY });
    bench.ask(&map(UDP, 1));
    let mut other = map(UDP, 1);
    other.nonce = [0; 12];
    let said = bench.ask(&other);
    assert_eq!((said.code, said.lifetime), (2, 3600));
}

#[test]
fn what_a_host_still_uses_is_not_cut_off_by_its_end() {
    let mut bench = Bench::new();
    bench.ask(&map(UDP, 1));
    bench.nat.idle = 77;
    assert_eq!(bench.ask(&map(UDP, 1).ends()).lifetime, 77);
    assert!(
        !bench.nat.bindings[&key(HOST, Proto::Udp, 1)].1,
        "it is open to everybody"
    );
}

#[test]
fn static_forwards_are_told_and_cannot_be_ended() {
    let mut bench = Bench::new();
    bench.nat.fixed.insert(key(HOST, Proto::Tcp, 80), 8080);
    let said = bench.ask(&map(TCP, 80).wants(9000));
    assert_eq!((said.code, said.port, said.lifetime), (0, 8080, u32::MAX));
    assert_eq!(bench.ask(&map(TCP, 80).wants(9000).option(2, &[])).code, 11);
    assert_eq!(bench.ask(&map(TCP, 80).ends()).code, 2);
    assert_eq!(bench.ask(&peer(TCP, 80)).port, 8080);
}

#[test]
fn a_binding_of_traffic_is_taken_over_and_cannot_be_ended() {
    let mut bench = Bench::new();
    bench.nat.bindings.insert(key(HOST, Proto::Udp, 1), (33_000, false));
    assert_eq!(bench.ask(&map(UDP, 1).ends()).code, 2);
    assert_eq!(bench.ask(&map(UDP, 1)).port, 33_000);
    assert!(bench.nat.bindings[&key(HOST, Proto::Udp, 1)].1);
}

#[test]
fn a_host_has_its_quota_and_others_theirs() {
    let mut bench = Bench::new();
    for port in 1..=4 {
        assert_eq!(bench.ask(&map(UDP, port)).code, 0);
    }
    let said = bench.ask(&map(UDP, 5));
    assert_eq!((said.code, said.lifetime), (10, 30));
    assert_eq!(bench.ask(&map(UDP, 4)).code, 0, "a renewal is not one more");
    let mut other = map(UDP, 5);
    (other.from, other.client) = (OTHER, OTHER);
    assert_eq!(bench.ask(&other).code, 0);
}

#[test]
fn want_of_ports_or_of_an_address_is_told() {
    let mut bench = Bench::new();
    bench.nat.full = true;
    assert_eq!(bench.ask(&map(UDP, 1)).code, 8);
    bench.nat.down = true;
    assert_eq!(bench.ask(&map(UDP, 1)).code, 7);
    assert!(bench.server.mappings().is_empty() && bench.server.changes().is_empty());
}

#[test]
fn peer_lengthens_a_binding_and_opens_nothing() {
    let mut bench = Bench::new();
    let said = bench.ask(&peer(UDP, 1));
    assert_eq!((said.code, said.lifetime, said.port), (0, 3600, 40_000));
    assert!(!bench.nat.bindings[&key(HOST, Proto::Udp, 1)].1);
    // With a short lifetime it asks what there is.
    let short = Message {
        lifetime: 0,
        ..peer(UDP, 1)
    };
    assert_eq!(bench.ask(&short).lifetime, 300);
    // A suggestion counts where there is no binding, and then it is that one or none.
    assert_eq!(bench.ask(&peer(UDP, 1).wants(20_000)).port, 40_000);
    assert_eq!(bench.ask(&peer(UDP, 2).wants(40_000)).code, 11);
    assert_eq!(bench.ask(&peer(UDP, 2).wants(20_000)).port, 20_000);
    for remote in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(224, 0, 0, 1), Ipv4Addr::UNSPECIFIED] {
        let message = Message { remote, ..peer(UDP, 3) };
        assert_eq!(bench.ask(&message).code, 3, "{remote}");
    }
}

#[test]
fn peer_of_a_mapping_tells_what_it_is() {
    let mut bench = Bench::new();
    bench.ask(&map(UDP, 1));
    bench.now += 600;
    assert_eq!(bench.ask(&peer(UDP, 1)).lifetime, 3000);
    let mut other = peer(UDP, 1);
    other.nonce = [9; 12];
    assert_eq!(bench.ask(&other).code, 2);
}

#[test]
fn announce_tells_the_epoch() {
    let mut bench = Bench::new();
    let message = Message {
        opcode: 0,
        lifetime: 0,
        ..map(0, 0)
    };
    let said = bench.ask(&message);
    assert_eq!((said.code, said.lifetime, said.epoch), (0, 0, 100));
}

#[test]
fn what_is_malformed_gets_the_code_of_the_rfc_and_changes_nothing() {
    let mut bench = Bench::new();
    let good = map(UDP, 1).bytes();
    // Too short for anything, responses, version 2 without a header.
    for bytes in [&[][..], &[2], &good[..23]] {
        assert_eq!(bench.raw(bytes, HOST), None);
    }
    let mut response = good.clone();
    response[1] |= 0x80;
    assert_eq!(bench.raw(&response, HOST), None);
    let code = |bench: &mut Bench, bytes: &[u8]| bench.raw(bytes, HOST).expect("an answer")[3];
    let mut version = good.clone();
    version[0] = 3;
    let answer = bench.raw(&version, HOST).unwrap();
    assert_eq!((answer[0], answer[3]), (2, 1));
    assert_eq!(bench.raw(&[1, 1], HOST).unwrap()[..4], [2, 0x81, 0, 1]);
    // Lengths.
    for len in [24, 56, 58] {
        assert_eq!(code(&mut bench, &good[..len]), 3, "{len}");
    }
    let mut long = good.clone();
    long.resize(MAX_LEN + 4, 0);
    assert_eq!(code(&mut bench, &long), 3);
    // Opcodes.
    let mut opcode = good.clone();
    opcode[1] = 3;
    assert_eq!(code(&mut bench, &opcode), 4);
    // Addresses.
    let mut elsewhere = map(UDP, 1);
    elsewhere.client = OTHER;
    assert_eq!(bench.ask(&elsewhere).code, 12);
    // Protocols.
    assert_eq!(bench.ask(&map(132, 1)).code, 9);
    assert_eq!(bench.ask(&map(UDP, 0)).code, 9);
    assert_eq!(bench.ask(&map(0, 0)).code, 9);
    assert_eq!(bench.ask(&map(0, 1)).code, 3);
    assert_eq!(bench.ask(&map(0, 0).ends()).code, 0);
    // Options: an unknown mandatory one, an unknown optional one, one that runs out of the message, one for others.
    assert_eq!(bench.ask(&map(UDP, 1).option(99, &[])).code, 5);
    let mut cut = map(UDP, 1).option(200, &[1, 2, 3, 4]);
    cut.options[3] = 8;
    assert_eq!(bench.ask(&cut).code, 6);
    let third = |address: Ipv4Addr| map(UDP, 1).option(1, &address.to_ipv6_mapped().octets());
    assert_eq!(bench.ask(&third(OTHER)).code, 5);
    assert_eq!(bench.ask(&third(HOST)).code, 3);
    assert!(bench.nat.bindings.is_empty());
    assert_eq!(bench.ask(&map(UDP, 1).option(200, &[1, 2, 3])).code, 0);
}

#[test]
fn errors_are_copies_of_the_request() {
    let mut bench = Bench::new();
    let request = map(UDP, 1).wants(77).option(99, b"abc").bytes();
    let answer = bench.raw(&request, HOST).unwrap();
    assert_eq!(answer[HEADER..], request[HEADER..]);
    assert_eq!(answer[12..HEADER], [0; 12]);
    let malformed = &request[..HEADER + 8];
    let answer = bench.raw(malformed, HOST).unwrap();
    assert_eq!(
        answer[12..],
        malformed[12..],
        "the address stays where it could not be parsed"
    );
}

#[test]
fn what_was_processed_comes_back() {
    let mut bench = Bench::new();
    let request = map(UDP, 1)
        .option(200, b"nobody")
        .option(128, b"a phone")
        .wants(20_000)
        .option(2, &[]);
    let answer = bench.raw(&request.bytes(), HOST).unwrap();
    let processed = map(UDP, 1).option(2, &[]).option(128, b"a phone").options;
    assert_eq!(answer[HEADER + 36..], processed);
    let mapping = bench.server.mappings().get(&key(HOST, Proto::Udp, 1)).unwrap();
    assert_eq!(mapping.description, "a phone");
}

#[test]
fn natpmp_makes_renews_and_ends() {
    let mut bench = Bench::new();
    assert_eq!(bench.natpmp(&[0, 0]), [0, 128, 0, 0, 0, 0, 0, 100, 203, 0, 113, 1]);
    let made = bench.natpmp(&[0, 1, 0, 0, 0x13, 0xc4, 0, 0, 0, 0, 0x1c, 0x20]);
    assert_eq!(
        made,
        [0, 129, 0, 0, 0, 0, 0, 100, 0x13, 0xc4, 0x9c, 0x40, 0, 0, 0x1c, 0x20]
    );
    assert_eq!(
        bench.natpmp(&[0, 2, 0, 0, 0, 80, 0x50, 0, 0, 0, 0x1c, 0x20])[10..12],
        [0x50, 0]
    );
    let end = bench.natpmp(&[0, 1, 0, 0, 0x13, 0xc4, 0, 0, 0, 0, 0, 0]);
    assert_eq!(end, [0, 129, 0, 0, 0, 0, 0, 100, 0x13, 0xc4, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bench.natpmp(&[0, 1, 0, 0, 0x13, 0xc4, 0, 0, 0, 0, 0, 0]), end);
    assert_eq!(bench.server.mappings().len(), 1);
    // All of TCP.
    assert_eq!(bench.natpmp(&[0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])[2..4], [0, 0]);
    assert!(bench.server.mappings().is_empty());
}

#[test]
fn natpmp_does_not_end_what_a_nonce_protects() {
    let mut bench = Bench::new();
    bench.ask(&map(UDP, 1));
    for end in [
        [0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        assert_eq!(bench.natpmp(&end)[2..4], [0, 2]);
    }
    assert_eq!(bench.server.mappings().len(), 1);
}

#[test]
fn natpmp_answers_what_it_does_not_know_and_ignores_answers() {
    let mut bench = Bench::new();
    assert_eq!(
        bench.natpmp(&[0, 7, 1, 2, 3, 4, 5, 6, 7, 8]),
        [0, 135, 0, 5, 0, 0, 0, 100, 7, 8]
    );
    for bytes in [&[0][..], &[0, 128, 0, 0], &[0, 1, 0, 0, 0]] {
        assert_eq!(bench.raw(bytes, HOST), None);
    }
    bench.nat.down = true;
    assert_eq!(bench.natpmp(&[0, 0]), [0, 128, 0, 3, 0, 0, 0, 100, 0, 0, 0, 0]);
    let failed = bench.natpmp(&[0, 1, 0, 0, 0, 1, 0, 9, 0, 0, 0, 9]);
    assert_eq!(failed, [0, 129, 0, 3, 0, 0, 0, 100, 0, 1, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn a_restart_keeps_the_epoch_unless_something_was_lost() {
    let mut bench = Bench::new();
    bench.ask(&map(UDP, 1));
    bench.ask(&map(UDP, 2));
    let kept: Vec<_> = bench
        .server
        .changes()
        .into_iter()
        .map(|(key, mapping)| (key, mapping.unwrap()))
        .collect();
    let mut server = Server::new(POLICY, kept.clone(), START);
    // The tables are as they were, or empty, or somebody else has a port.
    assert!(!server.restore(bench.now + 5, &mut bench.nat));
    assert_eq!(server.seconds(bench.now + 5), 105);
    assert!(!Server::new(POLICY, kept.clone(), START).restore(bench.now, &mut Nat::default()));
    let mut taken = Nat::default();
    taken.fixed.insert(key(OTHER, Proto::Udp, 9), 40_000);
    let mut server = Server::new(POLICY, kept, START);
    assert!(server.restore(bench.now + 5, &mut taken));
    assert_eq!((server.seconds(bench.now + 7), server.mappings().len()), (2, 1));
    assert_eq!(server.changes().len(), 1, "the store forgets it too");
}

#[test]
fn mappings_follow_the_external_address_and_their_clients_hear_of_it() {
    let mut bench = Bench::new();
    bench.ask(&map(UDP, 1));
    bench.natpmp(&[0, 2, 0, 0, 0, 80, 0x50, 0, 0, 0, 0x1c, 0x20]);
    assert_eq!(
        bench.server.rehome(bench.now, &mut bench.nat),
        None,
        "nothing has changed"
    );
    assert_eq!(bench.server.epoch(), START);
    // The ports that they had are somebody else's on the new address.
    bench.nat.bindings.clear();
    bench.nat.fixed.insert(key(OTHER, Proto::Udp, 9), 40_000);
    bench.now += 10;
    let told = bench.server.rehome(bench.now, &mut bench.nat).unwrap();
    assert_eq!(bench.server.epoch(), bench.now);
    let [told] = &told[..] else { panic!("{told:?}") };
    assert_eq!(told.client, SocketAddrV4::new(HOST, 33_333));
    let message = told.message(bench.now, 0);
    assert_eq!(message[..4], [2, 0x81, 0, 0]);
    assert_eq!(message[4..8], 3590u32.to_be_bytes());
    assert_eq!(message[HEADER..HEADER + 12], NONCE);
    assert_eq!(message[HEADER + 18..HEADER + 20], 40_001u16.to_be_bytes());
    // None at all any more.
    bench.nat = Nat {
        down: true,
        ..Nat::default()
    };
    let told = bench.server.rehome(bench.now, &mut bench.nat).unwrap();
    assert_eq!(told[0].message(bench.now, 0)[3], 8);
    assert!(bench.server.mappings().is_empty());
}

proptest! {
    /// Any datagram: no panic, never a longer answer than the protocol allows, and what is granted is what is open.
    #[test]
    fn any_bytes(messages in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..120), 0u32..200), 1..20)) {
        let mut bench = Bench::new();
        for (kind, noise, time) in messages {
            let mut bytes = match kind % 4 {
                0 => map(UDP, 1 + u16::from(kind >> 5)).bytes(),
                1 => map(TCP, 1 + u16::from(kind >> 5)).ends().bytes(),
                2 => peer(UDP, 1 + u16::from(kind >> 5)).bytes(),
                _ => vec![0, kind >> 6, 0, 0, 0, 5, 0, 0, 0, 0, 3, 0],
            };
            for (place, byte) in noise.iter().enumerate().skip_while(|_| kind & 16 != 0) {
                let len = bytes.len();
                bytes[(place * 7 + usize::from(*byte)) % len] ^= byte;
            }
            bench.now += u64::from(time);
            bench.server.expire(bench.now, &mut bench.nat);
            bench.raw(&bytes, HOST);
            let open = bench.nat.bindings.iter().filter(|(_, (_, open))| *open).map(|(key, (port, _))| (*key, *port));
            let granted = bench.server.mappings().iter().map(|(key, mapping)| (*key, mapping.external.port()));
            prop_assert!(open.eq(granted));
        }
    }
}
