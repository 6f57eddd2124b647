//! Which SIP server the tests of the RFCs ask: sipnat, or kamailio for comparison.

use std::env;
use std::net::SocketAddrV4;

use anyhow::Result;

use super::kamailio::{self, Kamailio};
use super::server::{self, Server};
use crate::lab::Host;
use crate::router::not_applicable;

/// The environment variable that chooses the server of [`UnderTest`]: `sipnat` (default) or `kamailio`.
pub const SIP_VARIABLE: &str = "SIPNAT_LAB_SIP";

/// Who serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sip {
    /// The project's own server.
    Sipnat,
    /// Kamailio with the configuration of [`kamailio`].
    Kamailio,
}

impl Sip {
    /// The choice in [`SIP_VARIABLE`]. An unknown value panics.
    pub fn from_env() -> Self {
        match env::var(SIP_VARIABLE).as_deref() {
            Err(_) | Ok("" | "sipnat") => Self::Sipnat,
            Ok("kamailio") => Self::Kamailio,
            Ok(other) => panic!("{SIP_VARIABLE}={other}: use sipnat or kamailio"),
        }
    }
}

/// Says whether a test applies that asks for sipnat's own configuration. If not, it prints a line that the scorecard reads, and the test
/// should return at once.
pub fn only_sipnat(why_not_kamailio: &str) -> bool {
    let applies = Sip::from_env() == Sip::Sipnat;
    if !applies {
        not_applicable(why_not_kamailio);
    }
    applies
}

/// The running server that a test asks. Dropping it ends it.
#[derive(Debug)]
pub enum UnderTest {
    Sipnat(Box<Server>),
    Kamailio(Kamailio),
}

impl UnderTest {
    /// Starts the server that the environment chooses for a domain with these users, who must authenticate; without users everybody may
    /// register everything.
    pub fn start(host: &Host, domain: &str, users: &[(&str, &str)]) -> Result<Self> {
        match Sip::from_env() {
            Sip::Sipnat => {
                let config = users.iter().fold(Server::config(domain), |config, (name, password)| {
                    config.user(name, password)
                });
                Self::start_sipnat(host, config)
            }
            Sip::Kamailio => {
                // With one worker for each socket messages stay in their order.
                let config = Kamailio::config(domain).workers(1).expires(60, 3600, 7200);
                let config = users.iter().fold(config, |config: kamailio::Config, (name, password)| {
                    config.user(name, password)
                });
                Ok(Self::Kamailio(config.start(host)?))
            }
        }
    }

    /// Starts sipnat with a configuration of the test's own.
    pub fn start_sipnat(host: &Host, config: server::Config) -> Result<Self> {
        Ok(Self::Sipnat(Box::new(config.start(host)?)))
    }

    /// Where it serves UDP and TCP.
    pub fn endpoint(&self) -> SocketAddrV4 {
        match self {
            Self::Sipnat(server) => server.endpoint,
            Self::Kamailio(server) => server.endpoint,
        }
    }

    /// sipnat; panics if it is another one.
    pub fn sipnat(&self) -> &Server {
        match self {
            Self::Sipnat(server) => server,
            Self::Kamailio(_) => panic!("this test asks for sipnat"),
        }
    }
}
