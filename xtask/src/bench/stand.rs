//! A test stand: generator, one of the routers, and a sink, in namespaces of their own, and rounds of traffic through it.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Array, DevMap, MapData, PerCpuArray};
use aya::programs::Xdp;
use aya::programs::XdpMode;
use aya::{Ebpf, Pod};
use tests::lab::{DEV, EXTERNAL, Host, Lab};
use tests::link::ethtool_feature;
use tests::ns::Namespace;
use tests::router::{Nat, NatConfig, RunningNat};

use super::generator::{Generator, Order, ifindex};
use super::layout::{Count, OTHER, Rewrite, STAMP, TRANSLATED, UNTRANSLATED};
use super::{machine, object};
use crate::run::binary;

// SAFETY: plain bytes, any are a value.
unsafe impl Pod for Rewrite {}
// SAFETY: plain numbers without padding, any bytes are a value.
unsafe impl Pod for Count {}

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
    /// Packets per second at the sink; no number if there were fewer than [`STAMP`].
    pub pps: f64,
    /// Packets generated.
    pub sent: u64,
    /// Packets that reached the sink as they should.
    pub received: u64,
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
            lab,
        })
    }

    /// The router's NAT.
    pub fn nat(&mut self) -> Result<&mut RunningNat> {
        self.nat.as_mut().context("this stand has no NAT")
    }

    /// Tells `bench_bare` of another opened object the way out of this router.
    pub fn aim_bare(&self, ebpf: &mut Ebpf) -> Result<()> {
        aim_bare(ebpf, &self.lab)
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
    /// bindings. Returns what came of the first time, when all of them were new to a new stand.
    pub fn open(&mut self, flows: u32, cpu: usize) -> Result<Sample> {
        self.generator.set(flows, Order::InTurn)?;
        // With few flows several of each, so that the ones that a soft interrupt still has do not matter.
        let packets = flows.max(1 << 14);
        let first = self.measure(packets, cpu)?;
        for _ in 0..5 {
            let again = self.measure(packets, cpu)?;
            if again.received * 1000 >= again.sent * 999 {
                return Ok(first);
            }
        }
        bail!(
            "{}: of {flows} flows, not all get through even when nothing is new",
            self.router
        )
    }

    /// Sends packets of so many flows at random, for about this long.
    pub fn random(&mut self, flows: u32, time: Duration, cpu: usize) -> Result<Sample> {
        self.generator.set(flows, Order::Random)?;
        // What the caches hold is of whoever ran last; this also tells how many packets fill the time.
        let warm = self.measure(1 << 17, cpu)?;
        let sent = warm.pps * warm.sent as f64 / warm.received as f64;
        self.measure((sent * time.as_secs_f64()).max(1e5) as u32, cpu)
    }

    /// Sends so many packets of what the generator is set to.
    fn measure(&mut self, packets: u32, cpu: usize) -> Result<Sample> {
        self.sink.reset()?;
        let (generator, before) = (&self.generator, self.generator.sent()?);
        generator.namespace().enter(|| {
            machine::pin(cpu)?;
            generator.send(packets)
        })?;
        let sent = generator.sent()? - before;
        let counts = self.sink.read()?;
        let untranslated = matches!(self.router, Router::Generator | Router::Kernel);
        let (right, wrong) = if untranslated {
            (UNTRANSLATED, TRANSLATED)
        } else {
            (TRANSLATED, UNTRANSLATED)
        };
        let all = |kind: u32| counts[kind as usize].iter().map(|count| count.packets).sum::<u64>();
        let here = counts[right as usize][cpu];
        let (router, received) = (self.router, here.packets);
        ensure!(
            all(wrong) == 0,
            "{router}: {} packets reached the sink with the wrong source address",
            all(wrong)
        );
        ensure!(received > STAMP, "{router}: only {received} of {sent} packets arrived");
        ensure!(
            all(right) - received <= received / 1000,
            "{router}: {} of {sent} packets were handled on another core than {cpu}; the figures would not compare",
            all(right) - received
        );
        let pps = here.between as f64 * 1e9 / (here.last.saturating_sub(here.first)) as f64;
        Ok(Sample { pps, sent, received })
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

    /// Begins to count from zero.
    fn reset(&mut self) -> Result<()> {
        let mut map: PerCpuArray<_, Count> = self.0.map_mut("SINK").context("no SINK")?.try_into()?;
        for kind in 0..=OTHER {
            let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
            let zeroes = vec![Count::default(); cpus.get() as usize];
            map.set(kind, zeroes.try_into()?, 0)?;
        }
        Ok(())
    }

    /// Packets by kind and core.
    fn read(&self) -> Result<Vec<Vec<Count>>> {
        let map: PerCpuArray<&MapData, Count> = self.0.map("SINK").context("no SINK")?.try_into()?;
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
pub fn attach(ebpf: &mut Ebpf, name: &str, ns: &Namespace, dev: &str) -> Result<()> {
    let interface = std::ffi::CString::new(dev)?;
    let program: &mut Xdp = object::load(ebpf, name)?;
    ns.enter(|| program.attach(&*interface, XdpMode::Driver))
        .with_context(|| format!("attach {name} to {dev} in {}", ns.name()))?;
    Ok(())
}

fn attach_bare(lab: &Lab) -> Result<Ebpf> {
    let mut ebpf = object::open()?;
    aim_bare(&mut ebpf, lab)?;
    // Redirected frames leave through out0 whether or not it has a program; its peer, the sink, polls.
    attach(&mut ebpf, "bench_bare", &lab.router, "in0")?;
    Ok(ebpf)
}

/// Tells the bare redirect its one address and next hop.
pub fn aim_bare(ebpf: &mut Ebpf, lab: &Lab) -> Result<()> {
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
    Ok(())
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
