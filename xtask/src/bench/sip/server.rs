//! The servers that are compared, each alone on one core, on the same address.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context, Result};
use tests::link::{Duty, End, Offloads, veth};
use tests::ns::Namespace;
use tests::router::NatConfig;
use tests::sip::kamailio::Kamailio;
use tests::sipnat::Daemon;

use super::process;
use crate::run::binary;

/// The domain that is served.
pub const DOMAIN: &str = "bench.test";
/// The server's address and port.
pub const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(172, 16, 0, 1), 5060);
/// The address of the load's namespace, through which the crowd's addresses are routed.
const LOAD: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 2);

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Kamailio,
    Sipnat,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kamailio => "kamailio",
            Self::Sipnat => "sipnat",
        })
    }
}

/// What both are told.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The core that the server has for itself.
    pub cpu: usize,
    /// Seconds between prompts on paths to phones behind a NAT; `None`: no prompts.
    pub prompts: Option<u32>,
    /// Registrations that it must have room for.
    pub registrations: u32,
    /// Whether the load may send as much as it likes.
    pub trusted: bool,
}

/// A running server.
pub trait Server {
    /// Its processes.
    fn pids(&self) -> Result<Vec<u32>>;
}

/// Two namespaces and the link between them.
pub struct Stand {
    /// Where the server runs.
    pub server: Namespace,
    /// Where the load comes from: all of 10.0.0.0/8.
    pub load: Namespace,
}

impl Stand {
    /// Makes them. What the load receives is worked on in the time of the server that sends it, up to the load's socket, as veth does it. To
    /// steer it to the load's core (RPS) costs both servers more than it saves, and the one more that sends its answers one by one.
    pub fn new() -> Result<Self> {
        let (server, load) = (Namespace::new("server")?, Namespace::new("load")?);
        let end = |ns| End {
            ns,
            dev: "eth0",
            mac: None,
            duty: Duty::Plain,
        };
        veth(&end(&server), &end(&load), 1500, Offloads::KernelDefault)?;
        server.ip_batch(&[
            format!("addr add {}/24 dev eth0", SERVER.ip()),
            format!("route add 10.0.0.0/8 via {LOAD}"),
        ])?;
        load.ip_batch(&[
            format!("addr add {LOAD}/24 dev eth0"),
            "route add local 10.0.0.0/8 dev lo".into(),
        ])?;
        Ok(Self { server, load })
    }

    /// Starts a server.
    pub fn start(&self, kind: Kind, options: Options) -> Result<Box<dyn Server>> {
        match kind {
            Kind::Kamailio => kamailio(&self.server, options).map(|server| Box::new(server) as Box<dyn Server>),
            Kind::Sipnat => self
                .sipnat(options, "off")
                .map(|server| Box::new(server) as Box<dyn Server>),
        }
        .with_context(|| format!("start {kind}"))
    }

    /// Starts sipnat with this file for registrations, or `off`. Only `[sip]`: no interface is translated.
    pub fn sipnat(&self, options: Options, store: &str) -> Result<Daemon> {
        let prompts = match options.prompts {
            Some(seconds) => format!("[sip.paths]\nudp = \"options\"\ninterval = \"{seconds}s\"\n"),
            None => "[sip.paths]\nudp = \"off\"\n".into(),
        };
        let trusted: &[&str] = if options.trusted { &["10.0.0.0/8"] } else { &[] };
        let toml = format!(
            "[sip]\nstore = {store:?}\ntrusted = {trusted:?}\n[[sip.listen]]\ntransport = \"udp\"\naddress = \"{}\"\n\
             [[sip.domain]]\nnames = [\"{DOMAIN}\"]\nauthenticate = false\n[sip.registrar]\nmax_registrations = {}\n{prompts}",
            SERVER.ip(),
            options.registrations.max(1000),
        );
        let config = NatConfig::toml(&toml).binary(&binary()).cpus(&options.cpu.to_string());
        Daemon::start(&self.server, config)
    }
}

/// One worker, as the server has one core; the location table has about one bucket per registration. It keeps transactions for seconds
/// in shared memory that does not grow, and refuses calls when that is full.
fn kamailio(ns: &Namespace, options: Options) -> Result<Kamailio> {
    let megabytes = 2048 + options.registrations / 1024 * 4;
    let buckets = options.registrations.next_power_of_two().ilog2().clamp(10, 20);
    let mut config = Kamailio::config(DOMAIN)
        .udp_only()
        .workers(1)
        .expires(60, 3600, 7200)
        .capacity(megabytes, buckets)
        .cpus(&options.cpu.to_string());
    if let Some(seconds) = options.prompts {
        config = config.ping_every(seconds);
    }
    config.start_at(ns, *SERVER.ip())
}

impl Server for Kamailio {
    fn pids(&self) -> Result<Vec<u32>> {
        process::family(self.pid())
    }
}

impl Server for Daemon {
    fn pids(&self) -> Result<Vec<u32>> {
        process::family(self.pid())
    }
}
