//! A test stand: generator, one of the routers, and a sink, in namespaces of their own, and rounds of traffic through it.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, DevMap, MapData, PerCpuArray};
use aya::programs::Xdp;
use aya::programs::XdpMode;
use aya::{Ebpf, Pod};
use tests::lab::{DEV, EXTERNAL, Host, Lab};
use tests::link::ethtool_feature;
use tests::ns::Namespace;
use tests::router::{Nat, NatConfig, RunningNat};

use super::generator::{Generator, Order, ifindex};
use super::layout::{OTHER, Rewrite, TRANSLATED, UNTRANSLATED};
use super::{machine, object};
use crate::run::binary;

// SAFETY: plain bytes, any are a value.
unsafe impl Pod for Rewrite {}

/// What is between generator and sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Router {
    /// Nothing: the generator's packets are dropped on the router's inside interface.
    Generator,
    /// The least that an XDP program can do.
    Bare,
    /// The kernel's forwarding, untranslated.
    Kernel,
    /// nftables masquerade; from a pool if there are several external addresses.
    Nftables,
    /// sipnat.
    Sipnat,
}

impl fmt::Display for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Router::Generator => "generator only",
            Router::Bare => "bare XDP redirect",
            Router::Kernel => "kernel forwarding",
            Router::Nftables => "nftables masquerade",
            Router::Sipnat => "sipnat",
        })
    }
}

/// What came of one round.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Length of the round.
    pub time: Duration,
    /// Packets generated.
    pub sent: u64,
    /// Packets that reached the sink as they should.
    pub received: u64,
}

impl Sample {
    /// Packets per second that arrived.
    pub fn pps(&self) -> f64 {
        self.received as f64 / self.time.as_secs_f64()
    }
}

/// Generator, router and sink.
pub struct Stand {
    /// What is between them.
    pub router: Router,
    /// Flows that it can have at one time.
    pub capacity: u32,
    generator: Generator,
    sink: Sink,
    /// Dropped before the lab, from which they are detached.
    _bare: Option<Ebpf>,
    nat: Option<RunningNat>,
    /// Packets per second of the last round.
    expected: f64,
    lab: Lab,
}

impl Stand {
    /// Builds it with so many external addresses.
    pub fn new(router: Router, addresses: u8) -> Result<Self> {
        Self::build(router, addresses).with_context(|| format!("build the stand of {router}"))
    }

    fn build(router: Router, addresses: u8) -> Result<Self> {
        let lab = Lab::builder().external_addresses(addresses).direct().build()?;
        // The lab's links are in the /24 of each side; the bench's flows are between networks behind them.
        lab.router.ip_batch(&[
            format!("route add 10.0.0.0/8 via {}", lab.h(1).ip),
            format!("route add 198.18.0.0/15 via {}", lab.o(1).ip),
        ])?;
        // Without an XDP program of its own, an interface that frames are redirected to polls only with GRO.
        for dev in ["in0", "out0"] {
            ethtool_feature(&lab.router, dev, "gro", true)?;
        }
        let mut capacity = u32::MAX;
        let (mut bare, mut nat) = (None, None);
        match router {
            Router::Generator | Router::Kernel => {}
            Router::Bare => bare = Some(attach_bare(&lab)?),
            Router::Nftables => {
                nat = Some(lab.start_nat_as(Nat::Nftables, NatConfig::toml("").nft(&rules(addresses)))?);
                capacity = prepare_conntrack(&lab.router)?;
            }
            Router::Sipnat => {
                let config = NatConfig::toml(&config(addresses)).binary(&binary());
                nat = Some(lab.start_nat_as(Nat::Sipnat, config)?);
            }
        }
        let sink = match router {
            Router::Generator => Sink::attach(&lab.router, "in0")?,
            _ => Sink::attach(lab.o(1), DEV)?,
        };
        let generator = Generator::new(lab.h(1))?;
        Ok(Self {
            router,
            capacity,
            generator,
            sink,
            _bare: bare,
            nat,
            expected: 200_000.0,
            lab,
        })
    }

    /// The router's NAT.
    pub fn nat(&mut self) -> Result<&mut RunningNat> {
        self.nat.as_mut().context("this stand has no NAT")
    }

    /// The router's namespace.
    pub fn router_namespace(&self) -> &Namespace {
        &self.lab.router
    }

    /// Where the generator is.
    pub fn inside_host(&self) -> &Host {
        self.lab.h(1)
    }

    /// Where the sink is.
    pub fn outside_host(&self) -> &Host {
        self.lab.o(1)
    }

    /// Sends one packet of each of so many flows, again and again (a NAT may lose some of a burst) until all have their
    /// bindings. The first packet of each flow that made it counts: the sample is that of new flows.
    pub fn open(&mut self, flows: u32, cpu: usize) -> Result<Sample> {
        self.generator.set(flows, Order::InTurn)?;
        let sample = self.measure(cpu, |stand, _| stand.generator.send(flows))?;
        for _ in 0..5 {
            let again = self.measure(cpu, |stand, _| stand.generator.send(flows))?;
            if again.received * 1000 >= again.sent * 999 {
                return Ok(sample);
            }
        }
        anyhow::bail!(
            "{}: of {flows} flows, not all get through even when nothing is new",
            self.router
        )
    }

    /// Sends packets of so many flows at random, for this long.
    pub fn random(&mut self, flows: u32, time: Duration, cpu: usize) -> Result<Sample> {
        self.generator.set(flows, Order::Random)?;
        self.measure(cpu, |stand, expected| {
            let start = Instant::now();
            while start.elapsed() < time {
                // About twenty calls, so that the time is kept and the calls' own cost does not show.
                let packets = (expected * time.as_secs_f64() / 20.0).max(1024.0);
                stand.generator.send(packets as u32)?;
            }
            Ok(())
        })
    }

    fn measure(&mut self, cpu: usize, work: impl Fn(&Self, f64) -> Result<()> + Send + Sync) -> Result<Sample> {
        let this = &*self;
        let (sample, elsewhere) = this.generator.namespace().enter(|| {
            machine::pin(cpu)?;
            let (sent, before) = (this.generator.sent()?, this.sink.read()?);
            let start = Instant::now();
            work(this, this.expected)?;
            let time = start.elapsed();
            let (sent, after) = (this.generator.sent()? - sent, this.sink.read()?);
            let good = if matches!(this.router, Router::Generator | Router::Kernel) {
                UNTRANSLATED
            } else {
                TRANSLATED
            };
            let count = |kind: u32, cpu: usize| after[kind as usize][cpu] - before[kind as usize][cpu];
            let received = count(good, cpu);
            let wrong = count(UNTRANSLATED + TRANSLATED - good, cpu);
            ensure!(
                wrong == 0,
                "{}: {wrong} packets reached the sink with the wrong source address",
                this.router
            );
            let cpus = after[0].len();
            let elsewhere: u64 = (0..cpus)
                .filter(|other| *other != cpu)
                .map(|cpu| (0..OTHER).map(|kind| count(kind, cpu)).sum::<u64>())
                .sum();
            Ok((Sample { time, sent, received }, elsewhere))
        })?;
        ensure!(
            elsewhere * 1000 <= sample.received,
            "{}: {elsewhere} of {} packets were handled on another core than {cpu}; the figures would not compare",
            self.router,
            sample.received
        );
        ensure!(
            sample.received > 0,
            "{}: nothing arrived of {} packets",
            self.router,
            sample.sent
        );
        self.expected = sample.sent as f64 / sample.time.as_secs_f64();
        Ok(sample)
    }
}

/// A sink: counts what arrives on an interface and drops it.
struct Sink(Ebpf);

impl Sink {
    fn attach(ns: &Namespace, dev: &str) -> Result<Self> {
        let mut ebpf = object::open()?;
        attach(&mut ebpf, "bench_sink", ns, dev)?;
        Ok(Self(ebpf))
    }

    /// Packets by kind and core.
    fn read(&self) -> Result<Vec<Vec<u64>>> {
        let map: PerCpuArray<&MapData, u64> = self.0.map("SINK").context("no SINK")?.try_into()?;
        (0..=OTHER).map(|kind| Ok(map.get(&kind, 0)?.to_vec())).collect()
    }
}

/// Runs `work` on a fresh thread on one core.
#[cfg(test)]
pub fn on_core<T: Send>(cpu: usize, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            machine::pin(cpu).unwrap_or_else(|error| panic!("{error:#}"));
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Attaches one of the bench's programs, natively.
fn attach(ebpf: &mut Ebpf, name: &str, ns: &Namespace, dev: &str) -> Result<()> {
    let interface = std::ffi::CString::new(dev)?;
    let program: &mut Xdp = object::load(ebpf, name)?;
    ns.enter(|| program.attach(&*interface, XdpMode::Driver))
        .with_context(|| format!("attach {name} to {dev} in {}", ns.name()))?;
    Ok(())
}

fn attach_bare(lab: &Lab) -> Result<Ebpf> {
    let mut ebpf = object::open()?;
    let out = ifindex(&lab.router, "out0")?;
    let host = lab.o(1);
    let mut macs = [0; 12];
    macs[..6].copy_from_slice(&host.mac);
    macs[6..].copy_from_slice(&host.gateway_mac);
    let mut map: Array<_, Rewrite> = ebpf.map_mut("REWRITE").context("no REWRITE")?.try_into()?;
    map.set(
        0,
        &Rewrite {
            macs,
            source: EXTERNAL.octets(),
        },
        0,
    )?;
    let mut map: DevMap<_> = ebpf.map_mut("WAY_OUT").context("no WAY_OUT")?.try_into()?;
    // The kernel looks the index up in the namespace of whoever writes it.
    lab.router.enter(|| map.set(0, out, None, 0))?;
    attach(&mut ebpf, "bench_bare", &lab.router, "in0")?;
    // Redirected frames leave through out0 whether or not it has a program; its peer, the sink, polls.
    Ok(ebpf)
}

/// The ruleset of the nftables router, with a stateful forward filter as on any home router.
fn rules(addresses: u8) -> String {
    let first = u32::from(EXTERNAL);
    let last = std::net::Ipv4Addr::from(first + u32::from(addresses) - 1);
    let translate = if addresses == 1 {
        "masquerade".into()
    } else {
        format!("snat to {EXTERNAL}-{last}")
    };
    format!(
        "table ip nat {{
            chain post {{ type nat hook postrouting priority srcnat; oifname \"out0\" {translate}; }}
        }}
        table ip filter {{
            chain forward {{
                type filter hook forward priority filter; policy drop;
                ct state established,related accept
                iifname \"in0\" accept
            }}
        }}"
    )
}

/// Lets flows live as long as the bench, and returns how many there can be. The limit is the whole machine's
/// (`nf_conntrack_max` can be written only in the first namespace), so the bench leaves it alone.
fn prepare_conntrack(router: &Namespace) -> Result<u32> {
    for name in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
        router.sysctl(&format!("net.netfilter.{name}"), 3600)?;
    }
    let max: u64 = router.read_sysctl("net.netfilter.nf_conntrack_max")?.parse()?;
    // Zero is no limit. A little less than all, so that the table never drops a flow early.
    Ok(if max == 0 {
        u32::MAX
    } else {
        (max - max / 20).min(u64::from(u32::MAX)) as u32
    })
}

/// sipnat's configuration: the whole range of ports, because the bench's flows fill sixteen addresses.
fn config(addresses: u8) -> String {
    let first = u32::from(EXTERNAL);
    let all: Vec<String> = (0..u32::from(addresses))
        .map(|index| format!("\"{}\"", std::net::Ipv4Addr::from(first + index)))
        .collect();
    format!(
        "[nat]\naddresses = [{}]\ncounting = false\n[ports]\nexclude_local = false\n[filtering]\nudp = \
         \"endpoint-independent\"\n[lifetimes]\nudp = \"1h\"\n",
        all.join(", ")
    )
}
