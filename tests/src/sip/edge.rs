//! A router with sipnat's NAT and SIP server in one, and phones behind NATs of others, inside, and outside: where calls get their media.
//!
//! ```no_run
//! # use tests::sip::{edge::Edge, handset::ring};
//! let edge = Edge::open("").unwrap();
//! let [anna, berta] = edge.handsets().unwrap(); // each behind a NAT of others
//! let call = ring(&anna, &berta, &anna.sdp("sendrecv")).unwrap().answer(&berta.sdp("sendrecv")).unwrap();
//! call.connect().unwrap();
//! assert_eq!(edge.voice_legs().unwrap()[0]["lost"], 0);
//! ```

use std::net::SocketAddrV4;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::handset::Handset;
use super::server::{Config, Server};
use crate::lab::{EXTERNAL, Host, Lab, LabBuilder};
use crate::programs::TempDir;
use crate::router::{Nat, NatConfig, RunningNat};
use crate::wait::{SOON, wait_until};

/// The domain that it serves.
pub const DOMAIN: &str = "net.com";

/// The router and its surroundings.
#[derive(Debug)]
pub struct Edge {
    /// NAT and SIP server.
    pub nat: RunningNat,
    /// Where the server is: at the router's address outside.
    pub server: SocketAddrV4,
    /// Hosts inside and outside, and two NATs of others with a host behind each.
    pub lab: Lab,
    /// Where files of the server and of the test are.
    pub files: TempDir,
}

impl Edge {
    /// These users, with passwords, and no others.
    pub fn closed(users: &[(&str, &str)]) -> Result<Self> {
        let config = users.iter().fold(Server::config(DOMAIN), |config, (name, password)| {
            config.user(name, password)
        });
        Self::build(Lab::builder(), &config)
    }

    /// Everybody may register everything, nobody is prompted, and the configuration has more in it.
    pub fn open(toml: &str) -> Result<Self> {
        Self::build(Lab::builder(), &open(toml))
    }

    /// The same in a lab with a host in another network outside.
    pub fn far(toml: &str) -> Result<Self> {
        Self::build(Lab::builder().far(1500), &open(toml))
    }

    fn build(lab: LabBuilder, config: &Config) -> Result<Self> {
        let lab = lab.foreign_nats(2).outside_hosts(2).build()?;
        let files = TempDir::new()?;
        let text = config.text(EXTERNAL, &files)?;
        let nat = lab.start_nat_as(Nat::Sipnat, NatConfig::toml(&text))?;
        // The command line answers a moment before calls get their media.
        wait_until("sipnat to serve", SOON, || nat.log().contains("serving SIP"))?;
        Ok(Self {
            nat,
            server: SocketAddrV4::new(EXTERNAL, 5060),
            lab,
            files,
        })
    }

    /// A phone by hand, registered. Its RTP is at port 4000.
    pub fn handset(&self, user: &str, host: &Host) -> Result<Handset> {
        Handset::register(user, DOMAIN, self.server, host, 4000)
    }

    /// anna and berta, each behind a NAT of others.
    pub fn handsets(&self) -> Result<[Handset; 2]> {
        Ok([
            self.handset("anna", self.lab.f(1))?,
            self.handset("berta", self.lab.f(2))?,
        ])
    }

    /// The legs of the relay.
    pub fn legs(&self) -> Result<Vec<Value>> {
        let legs = self.nat.json(&["relays"])?;
        legs.as_array().cloned().context("`sipnat relays` printed no list")
    }

    /// The legs of RTP, that of the caller first. An error unless there is one call.
    pub fn voice_legs(&self) -> Result<[Value; 2]> {
        let mut legs = self.legs()?;
        legs.retain(|leg| leg["rtcp"] == false);
        legs.sort_by_key(|leg| leg["side"].as_u64());
        ensure!(legs.len() == 2, "{} legs of RTP instead of two", legs.len());
        let [one, other] = [0, 1].map(|at: usize| std::mem::take(&mut legs[at]));
        Ok([one, other])
    }

    /// Waits until no leg is left.
    pub fn no_legs(&self) -> Result<()> {
        wait_until("the legs to go", SOON, || self.legs().is_ok_and(|legs| legs.is_empty()))
    }
}

fn open(toml: &str) -> Config {
    Server::config(DOMAIN).toml("[sip.paths]\nudp = \"off\"").toml(toml)
}

/// An endpoint that the command line has printed; panics if it is none.
pub fn endpoint(value: &Value) -> SocketAddrV4 {
    let parsed = value.as_str().and_then(|text| text.parse().ok());
    parsed.unwrap_or_else(|| panic!("{value} is no endpoint"))
}
