//! One good packet of each kind, its named mutations, and what becomes of each: for the host build, the kernel program,
//! and as seeds for the fuzzers.

use super::frames::Frame;
use super::setup::Setup;
use super::{addr, end};
use crate::checksum::full;
use crate::counters::Reason;
use crate::flow::{Endpoint, IP_ICMP, IP_TCP, Side};
use crate::parse::{MF, OFFSET};
use crate::session::{ACK, SYN};
use std::boxed::Box;
use std::string::{String, ToString};
use std::vec::Vec;

/// A packet and the reason that its way ends with, in a NAT that was set up by [`setup`] and has seen nothing but
/// `first`.
pub struct Case {
    /// What is special about it.
    pub name: String,
    /// Where it comes in.
    pub side: Side,
    /// A frame that is sent from inside before, so that there is a binding.
    pub first: Option<Vec<u8>>,
    /// What becomes of it.
    pub expected: Expected,
    frame: Box<dyn Fn(Endpoint) -> Vec<u8>>,
}

/// The reason that is counted, which says what is done with the packet too.
pub type Expected = Reason;

impl Case {
    /// The frame; `external` is the source that `first` left with (any, if there is no `first`).
    pub fn frame(&self, external: Endpoint) -> Vec<u8> {
        (self.frame)(external)
    }
}

/// The NAT that the cases are for.
pub fn setup() -> Setup {
    Setup::default()
}

/// All cases.
pub fn cases() -> Vec<Case> {
    kinds().iter().flat_map(of_kind).collect()
}

/// A good packet.
struct Kind {
    name: &'static str,
    side: Side,
    first: Option<Frame>,
    good: fn(Endpoint) -> Frame,
    reason: Reason,
}

const INSIDE: &str = "10.0.0.5:5004";
const REMOTE: &str = "198.51.100.7:7000";

fn kinds() -> Vec<Kind> {
    let (inside, remote) = (end(INSIDE), end(REMOTE));
    let udp = Frame::udp(inside, remote, b"data");
    let syn = Frame::tcp(inside, remote, SYN, b"");
    let echo = Frame::echo(inside, remote.addr, b"ping");
    let kind = |name, side, first: Option<&Frame>, good, reason| Kind {
        name,
        side,
        first: first.cloned(),
        good,
        reason,
    };
    Vec::from([
        kind(
            "udp out",
            Side::Inside,
            None,
            |_| Frame::udp(end(INSIDE), end(REMOTE), b"data"),
            Reason::Outbound,
        ),
        kind(
            "tcp out",
            Side::Inside,
            None,
            |_| Frame::tcp(end(INSIDE), end(REMOTE), SYN, b""),
            Reason::Outbound,
        ),
        kind(
            "echo out",
            Side::Inside,
            None,
            |_| Frame::echo(end(INSIDE), end(REMOTE).addr, b"ping"),
            Reason::Outbound,
        ),
        kind(
            "udp in",
            Side::Outside,
            Some(&udp),
            |e| Frame::udp(end(REMOTE), e, b"answer"),
            Reason::Inbound,
        ),
        kind(
            "tcp in",
            Side::Outside,
            Some(&syn),
            |e| Frame::tcp(end(REMOTE), e, SYN | ACK, b""),
            Reason::Inbound,
        ),
        kind(
            "echo in",
            Side::Outside,
            Some(&echo),
            |e| Frame::echo_reply(end(REMOTE).addr, e, b"ping"),
            Reason::Inbound,
        ),
        kind(
            "hairpin",
            Side::Inside,
            Some(&udp),
            |e| Frame::udp(end("10.0.0.6:6000"), e, b"data"),
            Reason::Hairpin,
        ),
        kind(
            "error in",
            Side::Outside,
            Some(&udp),
            |e| error_in(&Frame::udp(e, end(REMOTE), b"data")),
            Reason::IcmpError,
        ),
        kind(
            "tcp error in",
            Side::Outside,
            Some(&syn),
            |e| error_in(&Frame::tcp(e, end(REMOTE), SYN, b"")),
            Reason::IcmpError,
        ),
        kind(
            "echo error in",
            Side::Outside,
            Some(&echo),
            |e| error_in(&Frame::echo(e, end(REMOTE).addr, b"ping")),
            Reason::IcmpError,
        ),
        kind(
            "error out",
            Side::Inside,
            Some(&udp),
            |_| error_out(),
            Reason::IcmpError,
        ),
    ])
}

/// Time exceeded, from a router outside.
fn error_in(about: &Frame) -> Frame {
    Frame::error(addr("198.51.100.1"), about.source, (11, 0), &about.packet())
}

/// Port unreachable, from the inside host.
fn error_out() -> Frame {
    let about = Frame::udp(end(REMOTE), end(INSIDE), b"data");
    Frame::error(about.destination, about.source, (3, 3), &about.packet())
}

fn of_kind(kind: &Kind) -> Vec<Case> {
    let mut list = List {
        kind,
        cases: Vec::new(),
    };
    list.whole("as it should be", kind.reason, |_| {});
    truncations(&mut list);
    headers(&mut list);
    options(&mut list);
    addresses(&mut list);
    fragments(&mut list);
    transport(&mut list);
    if matches!(kind.reason, Reason::IcmpError) {
        errors(&mut list);
    }
    list.cases
}

struct List<'a> {
    kind: &'a Kind,
    cases: Vec<Case>,
}

impl List<'_> {
    /// A mutation of the frame's description: lengths and checksums of the IP header stay right.
    fn frame(&mut self, name: &str, expected: Reason, change: impl Fn(&mut Frame) + 'static) {
        self.add(name, expected, move |mut frame| {
            change(&mut frame);
            frame.bytes().0
        });
    }

    /// A mutation of the bytes; nothing is repaired.
    fn whole(&mut self, name: &str, expected: Reason, change: impl Fn(&mut Vec<u8>) + 'static) {
        self.add(name, expected, move |frame| {
            let mut bytes = frame.bytes().0;
            change(&mut bytes);
            bytes
        });
    }

    /// A mutation of the IP packet's bytes, after which the IP header's checksum is made right.
    fn packet(&mut self, name: &str, expected: Reason, change: impl Fn(&mut [u8]) + 'static) {
        self.whole(name, expected, move |bytes| {
            change(&mut bytes[14..]);
            bytes[24..26].fill(0);
            let check = full(&bytes[14..34]);
            bytes[24..26].copy_from_slice(&check.to_be_bytes());
        });
    }

    fn add(&mut self, name: &str, expected: Reason, make: impl Fn(Frame) -> Vec<u8> + 'static) {
        let good = self.kind.good;
        self.cases.push(Case {
            name: [self.kind.name, name].join(": "),
            side: self.kind.side,
            first: self.kind.first.as_ref().map(|frame| frame.bytes().0),
            expected,
            frame: Box::new(move |external| make(good(external))),
        });
    }
}

fn truncations(list: &mut List) {
    let len = (list.kind.good)(Endpoint::new(1, 1)).bytes().0.len();
    for at in 0..len {
        let reason = match at {
            14..18 => Reason::NotIpv4,
            _ => Reason::Truncated,
        };
        let name = ["cut at byte", &at.to_string()].join(" ");
        list.whole(&name, reason, move |bytes| bytes.truncate(at));
    }
    list.frame("padded", list.kind.reason, |f| f.padding = 18);
}

fn headers(list: &mut List) {
    let good = list.kind.reason;
    list.whole("IPv6 by its EtherType", Reason::NotIpv4, |b| {
        b[12..14].copy_from_slice(&[0x86, 0xdd])
    });
    list.whole("ARP", Reason::NotIpv4, |b| b[12..14].copy_from_slice(&[8, 6]));
    list.frame("a VLAN that is not configured", Reason::ForeignVlan, |f| {
        f.vlan = Some(99)
    });
    list.frame("a priority tag only", good, |f| f.vlan = Some(0xa000));
    list.packet("version 6", Reason::BadHeader, |p| p[0] = 0x65);
    list.packet("version 0", Reason::BadHeader, |p| p[0] = 0x05);
    list.packet("IHL 4", Reason::BadHeader, |p| p[0] = 0x44);
    list.packet("IHL 0", Reason::BadHeader, |p| p[0] = 0x40);
    list.packet("total length 0", Reason::BadHeader, |p| p[2..4].fill(0));
    list.packet("total length 19", Reason::BadHeader, |p| {
        p[2..4].copy_from_slice(&[0, 19])
    });
    list.packet("total length without a transport header", Reason::Truncated, |p| {
        p[2..4].copy_from_slice(&[0, 20]);
    });
    list.packet("total length in the transport header", Reason::Truncated, |p| {
        p[2..4].copy_from_slice(&[0, 27]);
    });
    list.packet("total length one more than there is", Reason::Truncated, |p| p[3] += 1);
    list.packet("total length 65535", Reason::Truncated, |p| p[2..4].fill(0xff));
    list.whole("wrong header checksum", Reason::BadChecksum, |b| b[25] ^= 1);
    list.whole("header checksum 0", Reason::BadChecksum, |b| b[24..26].fill(0));
    list.frame("TTL 0", Reason::TtlExpired, |f| f.ttl = 0);
    list.frame("TTL 1", Reason::TtlExpired, |f| f.ttl = 1);
    list.frame("TTL 2", good, |f| f.ttl = 2);
    list.frame("TTL 255", good, |f| f.ttl = 255);
    list.frame("a TOS", good, |f| f.tos = 0xb8);
    list.frame("don't fragment", good, |f| f.fragment = 0x4000);
    let other = if list.kind.side == Side::Inside && list.kind.name != "hairpin" {
        Reason::Protocol
    } else {
        Reason::ToRouter
    };
    list.frame("GRE", other, |f| f.proto = 47);
    list.frame("protocol 255", other, |f| f.proto = 255);
}

const LAST_IS_A_ROUTE: [u8; 40] = {
    let mut options = [1; 40];
    options[39] = 0x83;
    options
};

fn options(list: &mut List) {
    let good = list.kind.reason;
    let mut add = |name: &str, reason, options: &[u8]| {
        let options = options.to_vec();
        list.frame(name, reason, move |f| f.options.clone_from(&options));
    };
    add("no-operation options", good, &[1, 1, 1, 1]);
    add("end of options at once", good, &[0, 0x83, 0, 0]);
    add("router alert", good, &[0x94, 4, 0, 0]);
    add("record route", good, &[7, 7, 4, 0, 0, 0, 0, 0]);
    add("forty bytes of options", good, &[1; 40]);
    add("loose source route", Reason::SourceRoute, &[0x83, 7, 4, 10, 0, 0, 9, 0]);
    add(
        "strict source route",
        Reason::SourceRoute,
        &[0x89, 7, 4, 10, 0, 0, 9, 0],
    );
    add("source route behind padding", Reason::SourceRoute, &[1, 0x83, 3, 4]);
    add("source route last of forty", Reason::SourceRoute, &LAST_IS_A_ROUTE);
    add("an option of length 0", Reason::BadHeader, &[7, 0, 0, 0]);
    add("an option of length 1", Reason::BadHeader, &[7, 1, 0, 0]);
    add("an option beyond the header", Reason::BadHeader, &[7, 5, 0, 0]);
    add("an option without its length", Reason::BadHeader, &[1, 1, 1, 7]);
}

fn addresses(list: &mut List) {
    for source in [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
    ] {
        list.frame(&["from", source].join(" "), Reason::Martian, move |f| {
            f.source = addr(source)
        });
    }
    for destination in ["0.0.0.0", "127.0.0.1"] {
        list.frame(&["to", destination].join(" "), Reason::Martian, move |f| {
            f.destination = addr(destination)
        });
    }
    for destination in ["224.0.0.251", "239.255.255.250", "255.255.255.255"] {
        list.frame(&["to", destination].join(" "), Reason::Multicast, move |f| {
            f.destination = addr(destination)
        });
    }
    for destination in ["10.0.0.1", "10.0.255.255", "203.0.113.255"] {
        list.frame(&["to", destination].join(" "), Reason::ToRouter, move |f| {
            f.destination = addr(destination)
        });
    }
    let (to_inside, to_world) = match list.kind.side {
        Side::Inside => (Reason::Elsewhere, None),
        Side::Outside => (Reason::OutsideToInside, Some(Reason::Elsewhere)),
    };
    list.frame("to an inside host", to_inside, |f| f.destination = addr("10.0.0.77"));
    if let Some(reason) = to_world {
        list.frame("to a stranger", reason, |f| f.destination = addr("192.0.2.200"));
    }
}

fn fragments(list: &mut List) {
    if list.kind.reason == Reason::IcmpError {
        list.frame("a first fragment", Reason::Truncated, |f| f.fragment = MF);
        return;
    }
    let large = |f: &mut Frame| f.payload.resize(64, 0);
    let good = list.kind.reason;
    list.frame("a first fragment", good, move |f| {
        large(f);
        f.fragment = MF;
    });
    list.frame("a first fragment too short for ports", Reason::FragmentTiny, |f| {
        f.payload.truncate(4);
        f.fragment = MF;
    });
    list.frame("a first fragment of 60 bytes", Reason::BadHeader, |f| {
        f.payload.resize(60, 0);
        f.fragment = MF;
    });
    list.frame(
        "a fragment whose first has not come",
        Reason::FragmentOrphan,
        move |f| {
            large(f);
            f.fragment = MF | 8;
        },
    );
    list.frame("the last fragment alone", Reason::FragmentOrphan, |f| f.fragment = 8);
    list.frame("a fragment beyond 65535", Reason::BadHeader, move |f| {
        large(f);
        f.fragment = OFFSET;
    });
    list.frame("an empty fragment", Reason::BadHeader, |f| {
        f.payload.clear();
        f.fragment = MF | 8;
    });
}

fn transport(list: &mut List) {
    let good = list.kind.reason;
    let proto = (list.kind.good)(Endpoint::new(1, 1)).proto;
    match proto {
        IP_TCP => {
            list.packet("data offset 4", Reason::BadHeader, |p| p[32] = 0x40);
            list.packet("data offset 0", Reason::BadHeader, |p| p[32] = 0);
            list.packet("wrong TCP checksum", good, |p| p[36] ^= 1);
        }
        IP_ICMP if good != Reason::IcmpError => {
            let other = if list.kind.side == Side::Inside {
                Reason::IcmpType
            } else {
                Reason::ToRouter
            };
            for kind in [5, 9, 10, 17, 18, 30, 255] {
                let name = ["ICMP type", &kind.to_string()].join(" ");
                list.packet(&name, other, move |p| p[20] = kind);
            }
            list.packet("wrong ICMP checksum", good, |p| p[22] ^= 1);
        }
        IP_ICMP => {}
        _ => {
            list.packet("no UDP checksum", good, |p| p[26..28].fill(0));
            list.packet("wrong UDP checksum", good, |p| p[26] ^= 1);
        }
    }
}

/// Mutations of an error: `payload` begins with its ICMP header, eight bytes before the quoted IP header.
fn errors(list: &mut List) {
    let good = list.kind.reason;
    fn mend(f: &mut Frame) {
        f.payload[2..4].fill(0);
        let check = full(&f.payload);
        f.payload[2..4].copy_from_slice(&check.to_be_bytes());
    }
    fn mend_quote(f: &mut Frame) {
        f.payload[18..20].fill(0);
        let check = full(&f.payload[8..28]);
        f.payload[18..20].copy_from_slice(&check.to_be_bytes());
        mend(f);
    }
    list.frame("wrong ICMP checksum", Reason::IcmpChecksum, |f| f.payload[2] ^= 1);
    list.frame("wrong checksum in the quote", Reason::IcmpChecksum, |f| {
        f.payload[18] ^= 1;
        mend(f);
    });
    list.frame("a quote of 8 bytes", good, |f| {
        f.payload.truncate(8 + 20 + 8);
        mend(f);
    });
    list.frame("a quote of 7 bytes", Reason::Truncated, |f| {
        f.payload.truncate(8 + 20 + 7);
        mend(f);
    });
    list.frame("nothing quoted", Reason::Truncated, |f| {
        f.payload.truncate(8);
        mend(f);
    });
    list.frame("a quote of IPv6", Reason::Truncated, |f| {
        f.payload[8] = 0x60;
        mend(f);
    });
    list.frame("a quote with IHL 4", Reason::Truncated, |f| {
        f.payload[8] = 0x44;
        mend(f);
    });
    list.frame("a quote with IHL 15 that is not there", Reason::Truncated, |f| {
        f.payload.truncate(8 + 20 + 8);
        f.payload[8] = 0x4f;
        mend(f);
    });
    list.frame("a quote of GRE", Reason::IcmpUnmatched, |f| {
        f.payload[17] = 47;
        mend_quote(f);
    });
    list.frame("a quote of a later fragment", Reason::IcmpUnmatched, |f| {
        f.payload[15] = 8;
        mend_quote(f);
    });
    // Source quench is dead (RFC 6633).
    for (kind, expected) in [(3, good), (4, Reason::IcmpType), (11, good), (12, good)] {
        let name = ["type", &kind.to_string()].join(" ");
        list.frame(&name, expected, move |f| {
            f.payload[0] = kind;
            mend(f);
        });
    }
    list.frame("larger than is summed", Reason::IcmpChecksum, |f| {
        f.payload.resize(1481, 0);
        mend(f);
    });
}
