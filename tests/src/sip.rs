//! SIP peers for tests: real programs (sipp, baresip, kamailio, sipsak), a raw peer that sends literal text, with the requests and the
//! digest authentication of a phone, floods, certificates, and the addresses of the documents that sipnat grew from.
//!
//! ```no_run
//! use tests::prelude::*;
//! use tests::sip::{Transport, baresip::Phone, document, kamailio::Kamailio, sipp::Sipp};
//!
//! let lab = document::lab().build().unwrap(); // h1 192.168.1.10 - router 134.56.1.1 - o1 134.56.3.1, o2 134.56.3.2
//! let _nat = document::start_nat(&lab, Nat::Nftables, "").unwrap(); // h1:5060 becomes 134.56.1.1:5070
//! let proxy = Kamailio::config("net.com").user("user", "secret").start(lab.o(1)).unwrap();
//!
//! let phone = Phone::account("user", "net.com")
//!     .password("secret")
//!     .outbound(proxy.endpoint, Transport::Udp)
//!     .start(lab.h(1))
//!     .unwrap();
//! phone.registered().unwrap();
//! assert_eq!(proxy.contacts("user").unwrap()[0].received, "sip:134.56.1.1:5070");
//!
//! // sipp with a scenario of tests/fixtures/sipp calls the phone, which picks up.
//! let caller = Sipp::scenario("uac_call").to("user", "net.com", proxy.endpoint).start(lab.o(2)).unwrap();
//! phone.incoming().unwrap();
//! phone.accept().unwrap();
//! caller.finish().unwrap();
//! ```

pub mod baresip;
pub mod certificates;
pub mod digest;
pub mod document;
pub mod edge;
pub mod handset;
pub mod kamailio;
pub mod load;
pub mod message;
pub mod netstring;
pub mod pcap;
pub mod peer;
pub mod phone;
pub mod request;
pub mod rtp;
pub mod server;
pub mod sipp;
pub mod sipsak;
pub mod sound;
pub mod stream;
pub mod talk;
pub mod torture;
pub mod under_test;

use std::fmt;

/// What SIP is carried by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Transport {
    #[default]
    Udp,
    Tcp,
    Tls,
}

impl Transport {
    /// The value of a URI's `transport` parameter (RFC 3261 §19.1.1).
    pub fn parameter(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }

    /// The transport of a Via header field (RFC 3261 §20.42).
    pub fn via(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
        }
    }

    /// 5060, for TLS 5061 (RFC 3261 §19.1.2).
    pub fn default_port(self) -> u16 {
        match self {
            Self::Udp | Self::Tcp => 5060,
            Self::Tls => 5061,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.parameter())
    }
}
