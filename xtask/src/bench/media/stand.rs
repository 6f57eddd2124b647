//! A test stand: peers of calls, all of them on one host, and a relay; packets come in and leave by the relay's one interface.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aya::Ebpf;
use serde_json::json;
use tests::lab::{DEV, EXTERNAL, Lab};
use tests::link::ethtool_feature;
use tests::router::{Nat, NatConfig, RunningNat};

use super::load::Load;
use super::rtpengine::Rtpengine;
use super::sink::Sink;
use super::traffic::{Generator, Leg, PORT, peer};
use crate::bench::generator::{Order, ifindex};
use crate::bench::layout::STAMP;
use crate::bench::media_layout::{MEDIA_ASTRAY, MEDIA_DIRECT, MEDIA_RELAYED};
use crate::bench::stand::{Sample, aim_bare, attach};
use crate::bench::{machine, memory, object};
use crate::run::binary;

/// What a program that redirects returns.
const XDP_REDIRECT: u32 = 4;

/// What relays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relay {
    /// Nobody: packets are dropped on the router's interface.
    Generator,
    /// The least that an XDP program can do.
    Bare,
    /// rtpengine in user space.
    Rtpengine,
    /// sipnat.
    Sipnat,
}

impl fmt::Display for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Generator => "generator only",
            Self::Bare => "bare XDP redirect",
            Self::Rtpengine => "rtpengine",
            Self::Sipnat => "sipnat",
        })
    }
}

/// Peers, relay, and sink.
pub struct Stand {
    /// Who relays.
    pub relay: Relay,
    generator: Generator,
    sink: Sink,
    /// Where each stream's peer sends, as far as calls have been set up.
    legs: Vec<Leg>,
    engine: Option<Rtpengine>,
    /// Dropped before the lab, from which they are detached.
    _bare: Option<Ebpf>,
    nat: Option<RunningNat>,
    lab: Lab,
}

impl Stand {
    /// Builds it for so many legs at most. Only rtpengine, a process, is on this core from the start.
    pub fn new(relay: Relay, legs: u32, cpu: usize) -> Result<Self> {
        Self::build(relay, legs, cpu).with_context(|| format!("build the stand of {relay}"))
    }

    fn build(relay: Relay, legs: u32, cpu: usize) -> Result<Self> {
        let lab = Lab::builder().direct().build()?;
        lab.router
            .ip_batch(&[format!("route add 10.0.0.0/8 via {}", lab.o(1).ip)])?;
        // Without an XDP program of its own, an interface that frames are redirected to polls only with GRO.
        ethtool_feature(&lab.router, "out0", "gro", true)?;
        let (mut bare, mut nat, mut engine) = (None, None, None);
        match relay {
            Relay::Generator => {}
            Relay::Bare => {
                let mut ebpf = object::open()?;
                aim_bare(&mut ebpf, &lab)?;
                attach(&mut ebpf, "bench_bare", &lab.router, "out0")?;
                bare = Some(ebpf);
            }
            Relay::Rtpengine => {
                steer(&lab, cpu)?;
                engine = Some(Rtpengine::start(&lab.router, EXTERNAL, cpu)?);
            }
            Relay::Sipnat => {
                let config = NatConfig::toml(&config(legs)).binary(&binary());
                nat = Some(lab.start_nat_as(Nat::Sipnat, config)?);
            }
        }
        let sink = match relay {
            Relay::Generator => Sink::attach(&lab.router, "out0", false)?,
            _ => Sink::attach(lab.o(1), DEV, relay != Relay::Bare)?,
        };
        Ok(Self {
            relay,
            generator: Generator::new(lab.o(1))?,
            sink,
            legs: Vec::new(),
            engine,
            _bare: bare,
            nat,
            lab,
        })
    }

    /// Sets up calls until there are so many legs.
    pub fn set_up(&mut self, legs: u32) -> Result<()> {
        for call in self.legs.len() as u32 / 2..legs.div_ceil(2) {
            let both = match (&mut self.nat, &mut self.engine) {
                (Some(nat), _) => open(nat, call)?,
                (_, Some(engine)) => engine.call(call)?,
                // Nobody looks at it.
                _ => [Leg { address: 0, port: PORT }; 2],
            };
            self.legs.extend(both);
        }
        Ok(())
    }

    /// Has so many streams sent one after the other until every packet arrives, so that all legs know their peers.
    pub fn open(&mut self, streams: u32, cpu: usize) -> Result<()> {
        self.set_up(streams)?;
        self.generator.set(streams, Order::InTurn, &self.legs)?;
        for _ in 0..6 {
            let sample = self.measure(streams.max(1 << 14), cpu)?;
            if sample.received * 1000 >= sample.sent * 999 {
                return Ok(());
            }
        }
        bail!("{}: of {streams} streams, not all get through", self.relay)
    }

    /// Sends packets of so many streams at random, for about this long, on one core. For relays that are no processes.
    pub fn random(&mut self, streams: u32, time: Duration, cpu: usize) -> Result<Sample> {
        self.generator.set(streams, Order::Random, &self.legs)?;
        let warm = self.measure(1 << 17, cpu)?;
        let sent = warm.pps * warm.sent as f64 / warm.received as f64;
        self.measure((sent * time.as_secs_f64()).max(1e5) as u32, cpu)
    }

    fn measure(&mut self, packets: u32, cpu: usize) -> Result<Sample> {
        self.sink.reset()?;
        let (generator, before) = (&self.generator, self.generator.sent()?);
        generator.namespace().enter(|| {
            machine::pin(cpu)?;
            generator.send(packets)
        })?;
        let sent = generator.sent()? - before;
        let counts = self.sink.read(self.right())?;
        self.nothing_astray()?;
        let (here, all) = (counts[cpu], counts.iter().map(|count| count.packets).sum::<u64>());
        let (relay, received) = (self.relay, here.packets);
        ensure!(received > STAMP, "{relay}: only {received} of {sent} packets arrived");
        ensure!(
            all - received <= received / 1000,
            "{relay}: {} of {sent} packets were handled on another core than {cpu}; the figures would not compare",
            all - received
        );
        let pps = here.between as f64 * 1e9 / (here.last.saturating_sub(here.first)) as f64;
        Ok(Sample { pps, sent, received })
    }

    /// Nanoseconds per packet of so many streams in the program of an XDP relay itself, all of which have been opened.
    pub fn in_program(&mut self, streams: u32, cpu: usize, repeat: u32) -> Result<f64> {
        let program = memory::program_on(&self.lab.router, "out0")?.fd()?;
        let (router, ingress) = (self.lab.router.clone(), ifindex(&self.lab.router, "out0")?);
        let empty = self.generator.program("bench_empty")?;
        self.generator.set(streams, Order::Random, &self.legs)?;
        let mut time = |program| self.generator.time_of(program, &router, ingress, cpu, repeat);
        let (writing, _) = time(&empty)?;
        let (both, action) = time(&program)?;
        ensure!(
            action == XDP_REDIRECT,
            "{}: a packet was not relayed; its program returned {action}",
            self.relay
        );
        Ok(both - writing)
    }

    /// The kind of packets that this relay's sink is to get.
    fn right(&self) -> u32 {
        match self.relay {
            Relay::Generator => MEDIA_DIRECT,
            _ => MEDIA_RELAYED,
        }
    }

    fn nothing_astray(&self) -> Result<()> {
        let astray = self.sink.packets(MEDIA_ASTRAY)?;
        ensure!(astray == 0, "{}: {astray} packets went to somebody else", self.relay);
        Ok(())
    }

    /// A load of so many streams, from the calling thread's core; all legs know their peers.
    pub fn load(&mut self, streams: u32) -> Result<Load> {
        self.set_up(streams)?;
        let mut load = Load::new(self.lab.o(1), &self.legs[..streams as usize])?;
        load.begin(3)?;
        self.settle()?;
        Ok(load)
    }

    /// Waits until nothing arrives any more: a relay that is a process may have packets of earlier loads in its queues.
    fn settle(&self) -> Result<()> {
        for _ in 0..200 {
            let before = self.arrived()?;
            std::thread::sleep(Duration::from_millis(50));
            if self.arrived()? == before {
                return Ok(());
            }
        }
        bail!("{}: packets go on arriving though nobody sends", self.relay)
    }

    /// Begins to count from zero, with delays or without.
    pub fn count(&mut self, delays: bool) -> Result<()> {
        self.sink.want(self.relay != Relay::Bare, delays)?;
        self.sink.reset()
    }

    /// Packets that have arrived where they belong.
    pub fn arrived(&self) -> Result<u64> {
        self.sink.packets(self.right())
    }

    /// The sink, after a load; an error if anything went astray.
    pub fn sink(&self) -> Result<&Sink> {
        self.nothing_astray()?;
        Ok(&self.sink)
    }

    /// rtpengine, if it is that.
    pub fn engine(&mut self) -> Option<&mut Rtpengine> {
        self.engine.as_mut()
    }

    /// The router.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }
}

/// Opens the legs of a call through sipnat's daemon; where each peer sends.
fn open(nat: &mut RunningNat, call: u32) -> Result<[Leg; 2]> {
    let gates = [2 * call, 2 * call + 1].map(peer);
    let opened = nat
        .daemon()
        .request(&json!({"cmd": "open_relay", "call": call, "gates": gates}))?;
    let external = |side: u64| -> Result<Leg> {
        let leg = opened
            .iter()
            .find(|leg| leg["side"] == side)
            .context("no leg of this side")?;
        let text = leg["external"].as_str().unwrap_or_default();
        let endpoint: std::net::SocketAddrV4 = text.parse().with_context(|| format!("{leg}"))?;
        let address = u32::from(*endpoint.ip()) - u32::from(EXTERNAL);
        Ok(Leg {
            address: address as u16,
            port: endpoint.port(),
        })
    };
    Ok([external(0)?, external(1)?])
}

/// Has what comes in by the router's interface worked on by one core, whichever received it: a process and the soft interrupts that
/// feed it then share that core, and all that a relayed packet costs is there.
fn steer(lab: &Lab, cpu: usize) -> Result<()> {
    let file = "/sys/class/net/out0/queues/rx-0/rps_cpus";
    let script = format!("mount -t sysfs sysfs /sys && echo {:x} > {file}", 1u64 << cpu);
    lab.router.run("unshare", ["--mount", "sh", "-c", &script]).map(drop)
}

/// sipnat's configuration: the whole range of ports, and room for the legs.
fn config(legs: u32) -> String {
    format!(
        "[nat]\naddresses = [\"{EXTERNAL}\"]\ncounting = false\nrelay_legs = {}\n[ports]\nexclude_local = false\n",
        legs.max(16)
    )
}
