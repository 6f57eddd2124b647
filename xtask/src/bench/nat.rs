//! `cargo xtask bench nat`: all parts in their order, the goals, and the document.

use std::time::{Duration, Instant};

use anyhow::Result;
use tests::link::Offloads;

use super::figures::Bound;
use super::pps::{self, Plan};
use super::report::{self, Report};
use super::stand::{Router, Stand};
use super::{document, expiry, iperf, machine, memory, new_flows, prog};
use crate::cli::{BenchNat, BenchPart, BenchRouter};

/// Bindings of the large measurements: about what sixteen addresses have for one protocol.
const MILLION: u32 = 1_000_000;
const THOUSAND: u32 = 1_000;
const FIFTY_THOUSAND: u32 = 50_000;

/// Measures, prints, and writes the document.
pub fn run(options: &BenchNat) -> Result<()> {
    let start = Instant::now();
    let bench = Bench::new(options)?;
    let mut report = Report {
        title: "NAT",
        machine: machine::describe(bench.plan.cpu),
        command: report::command(),
        ..Report::default()
    };
    for (what, which) in &report.machine {
        println!("{what:<12} {which}");
    }
    bench.few_flows(&mut report)?;
    bench.many_flows(&mut report)?;
    bench.new_flows(&mut report)?;
    bench.iperf(&mut report)?;
    let whole = options.only.is_empty() && options.routers.is_empty() && !options.quick;
    document::finish(&report, "nat", start, whole, options.output.as_deref())
}

struct Bench {
    options: BenchNat,
    plan: Plan,
}

impl Bench {
    fn new(options: &BenchNat) -> Result<Self> {
        let (rounds, time) = if options.quick { (2, 150) } else { (5, 500) };
        let plan = Plan {
            cpu: options.cpu.map_or_else(machine::last_cpu, Ok)?,
            rounds: options.rounds.unwrap_or(rounds),
            time: Duration::from_millis(options.round.unwrap_or(time)),
        };
        Ok(Self {
            options: options.clone(),
            plan,
        })
    }

    /// 1 and 50,000 flows, one external address.
    fn few_flows(&self, report: &mut Report) -> Result<()> {
        let mut results = Vec::new();
        if self.wants(BenchPart::Pps) {
            let routers = [
                Router::Generator,
                Router::Bare,
                Router::Kernel,
                Router::Nftables,
                Router::Sipnat,
            ];
            let mut stands = self.stands(&routers, 1)?;
            for flows in [1, FIFTY_THOUSAND] {
                results.extend(pps::measure(&mut stands, flows, &self.plan)?);
            }
            let text = "UDP in frames of 64 bytes, from an XDP generator through the router to an XDP sink that counts, all \
                        on one core; one external address. Flows are hit at random.";
            report.add(pps::table("Packets per second", text, &results));
        }
        let ratio =
            |flows| Some(pps::of(&results, Router::Sipnat, flows)? / pps::of(&results, Router::Nftables, flows)?);
        report.target(
            "packets per second over nftables, 1 flow",
            Bound::AtLeast(3.3),
            ratio(1),
            " x",
        );
        report.target(
            "packets per second over nftables, 50 k flows",
            Bound::AtLeast(3.0),
            ratio(FIFTY_THOUSAND),
            " x",
        );
        let cost = |router| pps::cost(&results, router, FIFTY_THOUSAND);
        let above = cost(Router::Sipnat).and_then(|ours| Some(ours / cost(Router::Bare)?));
        report.target(
            "cost above the generator over the bare redirect's, 50 k flows",
            Bound::AtMost(2.2),
            above,
            " x",
        );
        Ok(())
    }

    /// 1,000 and 1,000,000 bindings, sixteen external addresses; and what else needs a million.
    fn many_flows(&self, report: &mut Report) -> Result<()> {
        let (mut results, mut expiry, mut bytes) = (Vec::new(), None, None);
        let parts = [
            BenchPart::Million,
            BenchPart::Expiry,
            BenchPart::Memory,
            BenchPart::Prog,
        ];
        if parts.iter().any(|part| self.wants(*part)) {
            let all = [Router::Generator, Router::Bare, Router::Nftables, Router::Sipnat];
            let routers = if self.wants(BenchPart::Million) {
                &all[..]
            } else {
                &all[3..]
            };
            let mut stands = self.stands(routers, new_flows::ADDRESSES)?;
            if self.wants(BenchPart::Million) {
                for flows in [THOUSAND, MILLION] {
                    results.extend(pps::measure(&mut stands, flows, &self.plan)?);
                }
                report.add(pps::table(
                    "Packets per second, a million bindings",
                    &million_text(&results),
                    &results,
                ));
            }
            // The others have had their turn; their memory is not needed any more.
            stands.retain(|stand| stand.router == Router::Sipnat);
            if let Some(stand) = stands.first_mut() {
                if self.wants(BenchPart::Expiry) {
                    let measured = expiry::measure(stand, MILLION, &self.plan)?;
                    report.add(expiry::table(&measured));
                    expiry = Some(measured);
                }
                if self.wants(BenchPart::Memory) {
                    let program = memory::program_on(stand.router_namespace(), "in0")?;
                    let maps = memory::maps_of(&program)?;
                    report.add(memory::table(&maps, MILLION));
                    bytes = Some(memory::without_sessions(&maps) as f64 / f64::from(MILLION));
                }
                if self.wants(BenchPart::Prog) {
                    let repeat = if self.options.quick { 100_000 } else { 1_000_000 };
                    let flows = [1, THOUSAND, FIFTY_THOUSAND, MILLION];
                    report.add(prog::table(&prog::measure(stand, &flows, self.plan.cpu, repeat)?));
                }
            }
        }
        let ratio = pps::of(&results, Router::Sipnat, MILLION)
            .and_then(|ours| Some(ours / pps::of(&results, Router::Nftables, MILLION)?));
        report.target(
            "packets per second over nftables, 1 M bindings",
            Bound::AtLeast(3.0),
            ratio,
            " x",
        );
        let cost = |flows| pps::cost(&results, Router::Sipnat, flows);
        let growth = cost(MILLION).and_then(|large| Some(large / cost(THOUSAND)?));
        report.target(
            "cost at 1 M bindings over that at 1 k",
            Bound::AtMost(2.0),
            growth,
            " x",
        );
        report.target(
            "memory per binding at 1 M, without sessions",
            Bound::AtMost(256.0),
            bytes,
            " bytes",
        );
        let pass = expiry.as_ref().and_then(|expiry| expiry.dearest_ms);
        report.target(
            "CPU of a sweep over 1 M bindings, the dearest of ten",
            Bound::AtMost(100.0),
            pass,
            " ms",
        );
        let effect = expiry
            .as_ref()
            .map(|expiry| if expiry.within_spread() { 1.0 } else { 0.0 });
        report.target(
            "sweeping's effect on packets is within the spread (1: yes)",
            Bound::AtLeast(1.0),
            effect,
            "",
        );
        Ok(())
    }

    fn new_flows(&self, report: &mut Report) -> Result<()> {
        let mut ratio = None;
        if self.wants(BenchPart::NewFlows) {
            let routers = self.chosen(&[Router::Nftables, Router::Sipnat]);
            let flows = if self.options.quick { 100_000 } else { 240_000 };
            let results = new_flows::measure(&routers, flows, &self.plan)?;
            report.add(new_flows::table(&results));
            ratio = new_flows::median(&results, Router::Sipnat)
                .and_then(|ours| Some(ours / new_flows::median(&results, Router::Nftables)?));
        }
        report.target("new flows per second over nftables", Bound::AtLeast(2.0), ratio, " x");
        Ok(())
    }

    fn iperf(&self, report: &mut Report) -> Result<()> {
        let mut results = Vec::new();
        if self.wants(BenchPart::Iperf) {
            let routers = self.chosen(&[Router::Kernel, Router::Nftables, Router::Sipnat]);
            let (rounds, seconds) = if self.options.quick {
                (1, 1)
            } else {
                (self.plan.rounds.min(3), 2)
            };
            results = iperf::measure(&routers, rounds, seconds)?;
            report.add(iperf::table(&results));
        }
        let speed = |mtu| iperf::median(&results, Router::Sipnat, mtu, Offloads::Xdp).map(|speed| speed / 1e9);
        report.target("TCP at MTU 1500", Bound::AtLeast(5.0), speed(1500), " Gbit/s");
        report.target("TCP at MTU 9000", Bound::AtLeast(10.0), speed(9000), " Gbit/s");
        Ok(())
    }

    fn stands(&self, routers: &[Router], addresses: u8) -> Result<Vec<Stand>> {
        let chosen = self.chosen(routers);
        chosen.into_iter().map(|router| Stand::new(router, addresses)).collect()
    }

    fn wants(&self, part: BenchPart) -> bool {
        self.options.only.is_empty() || self.options.only.contains(&part)
    }

    fn chosen(&self, routers: &[Router]) -> Vec<Router> {
        let option = |router: Router| match router {
            Router::Generator => None,
            Router::Bare => Some(BenchRouter::Bare),
            Router::Kernel => Some(BenchRouter::Kernel),
            Router::Nftables => Some(BenchRouter::Nftables),
            Router::Sipnat => Some(BenchRouter::Sipnat),
        };
        let all = &self.options.routers;
        let wanted = |router: &Router| all.is_empty() || option(*router).is_none_or(|option| all.contains(&option));
        routers.iter().copied().filter(wanted).collect()
    }
}

/// Says so if nftables could not have as many flows as the others.
fn million_text(results: &[pps::Measured]) -> String {
    let text = "As above, with sixteen external addresses, to which nftables translates by `snat to` their range.";
    match results.iter().find(|result| result.flows < result.wanted) {
        Some(result) => format!(
            "{text} This machine's nf_conntrack_max, which is one for all namespaces and which the bench leaves alone, allows \
             nftables only {} flows: with a million it would not be faster.",
            result.flows
        ),
        None => text.into(),
    }
}
