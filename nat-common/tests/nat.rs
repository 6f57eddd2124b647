//! What the NAT does, one behaviour per test, on tables in plain memory.

#[path = "nat/filtering.rs"]
mod filtering;
#[path = "nat/fragments.rs"]
mod fragments;
#[path = "nat/icmp.rs"]
mod icmp;
#[path = "nat/index.rs"]
mod index;
#[path = "nat/lifetime.rs"]
mod lifetime;
#[path = "nat/mapping.rs"]
mod mapping;
#[path = "nat/policy.rs"]
mod policy;
#[path = "nat/pool.rs"]
mod pool;
#[path = "nat/rewriting.rs"]
mod rewriting;
#[path = "nat/routing.rs"]
mod routing;
#[path = "nat/watch.rs"]
mod watch;

use nat_common::flow::{Endpoint, Proto};
use nat_common::memory::{Frame, World, end};

/// Opens (or uses) the binding of `inside` with a UDP datagram to `remote`; says what its external endpoint is.
fn open_udp(world: &World, inside: &str, remote: &str) -> Endpoint {
    let view = world.out(&Frame::udp(end(inside), end(remote), b"hello"));
    Endpoint::new(view.source, view.ports.0)
}

/// The same with a TCP segment.
fn open_tcp(world: &World, inside: &str, remote: &str, flags: u8) -> Endpoint {
    let view = world.out(&Frame::tcp(end(inside), end(remote), flags, b""));
    Endpoint::new(view.source, view.ports.0)
}

/// The same with an echo request.
fn open_icmp(world: &World, inside: &str, remote: &str) -> Endpoint {
    let view = world.out(&Frame::echo(end(inside), nat_common::memory::addr(remote), b"ping"));
    Endpoint::new(view.source, view.ports.0)
}

/// A packet of `proto` from inside: datagram, SYN or echo request.
fn opener(proto: Proto, inside: Endpoint, remote: Endpoint) -> Frame {
    match proto {
        Proto::Udp => Frame::udp(inside, remote, b"hello"),
        Proto::Tcp => Frame::tcp(inside, remote, nat_common::session::SYN, b""),
        Proto::Icmp => Frame::echo(inside, remote.addr, b"ping"),
    }
}
