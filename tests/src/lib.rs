//! The lab that sipnat is tested in: hosts and routers in network namespaces, real programs, hand-made packets, captures.
//!
//! ```no_run
//! use tests::prelude::*;
//!
//! #[test]
//! # fn hidden() {}
//! fn one_socket_has_one_external_endpoint() {
//!     let lab = Lab::builder().outside_hosts(2).build().unwrap(); // h1 - router - o1, o2
//!     let nat = lab.start_nat("[ports]\nblock_size = 64\n").unwrap(); // sipnat, or what SIPNAT_LAB_NAT says
//!     let capture = Capture::host(lab.o(1)).unwrap();
//!
//!     // Real sockets: the server answers with the endpoint that it sees.
//!     let (one, two) = (UdpEcho::start(lab.o(1), 7).unwrap(), UdpEcho::start(lab.o(2), 7).unwrap());
//!     let socket = host_udp(lab.h(1), 5060).unwrap();
//!     let seen = seen_by(&one, &socket).unwrap();
//!     assert_eq!(seen, seen_by(&two, &socket).unwrap());
//!     assert_eq!(*seen.ip(), lab.external(0));
//!
//!     // Hand-made packets: open the receiver first, then send.
//!     let (inside, mut outside) = (RawSocket::host(lab.h(1)).unwrap(), RawSocket::host(lab.o(1)).unwrap());
//!     let packet = Packet::udp("192.168.1.10:9000", "203.0.113.100:9", b"x").ttl(9).via(lab.h(1));
//!     inside.send_packet(&packet).unwrap();
//!     let got = outside.recv_packet("the datagram", SOON, |p| p.payload() == b"x").unwrap();
//!     assert_eq!((got.ip.ttl, got.ip.src), (8, lab.external(0)));
//!
//!     capture.assert_no_bad_checksums().unwrap();
//!     println!("{}", nat.json(&["bindings"]).unwrap()); // the command line of the daemon under test
//! } // everything is removed; after a panic, target/tests has the pcap and stderr the daemon's log
//! ```
//!
//! Write tests with `unwrap`, not with a `Result`: only a panic tells the captures and the daemon to leave their traces.
//! Wait for conditions ([`wait::wait_for`]), never for seconds. Tests run in parallel, also those of several processes.
//! They need root: `cargo xtask test` arranges it.

pub mod build;
pub mod capture;
pub mod checksum;
pub mod child;
pub mod lab;
pub mod link;
pub mod ns;
pub mod packet;
pub mod parse;
pub mod process;
pub mod programs;
pub mod router;
pub mod sip;
pub mod sipnat;
pub mod sockets;
pub mod stale;
pub mod wait;
pub mod wire;

/// What most tests need.
pub mod prelude {
    pub use crate::capture::Capture;
    pub use crate::checksum::verify_checksums;
    pub use crate::child::Child;
    pub use crate::lab::{DEV, Host, Lab, LabBuilder};
    pub use crate::ns::Namespace;
    pub use crate::packet::{Icmp, L4, Mac, Packet, Sum, Tcp, Udp, flags};
    pub use crate::parse::Quote;
    pub use crate::router::{Nat, NatConfig, RunningNat, applies_to};
    pub use crate::sockets::{TcpEcho, UdpEcho, ask, host_udp, receive, seen_by, tcp_echo, tcp_seen_by, try_receive};
    pub use crate::wait::{SOON, wait_for, wait_until};
    pub use crate::wire::{Frame, RawSocket};
}
