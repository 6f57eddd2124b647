//! Nanoseconds per packet of the programs themselves, by BPF_PROG_TEST_RUN.
//!
//! A repeated test run does not restore the packet, so a translating program would see its own result from the second run
//! on. Therefore `bench_restore` writes the headers anew each time and calls the program under test (a tail call); its own
//! cost, with an empty program behind it, is subtracted.

use anyhow::{Context, Result};
use aya::maps::{Array, ProgramArray};
use aya::programs::{ProgramFd, Xdp};
use aya::{Ebpf, TestRun, TestRunOptions};
use nat_common::stage::ETHERTYPE_STAGED;
use tests::ns::Namespace;
use tests::packet::Packet;

use super::figures::Series;
use super::generator::{self, FIRST_PORT, FIRST_SOURCE, Order, PAYLOAD, ifindex};
use super::layout::{FRAME, PORT, Traffic};
use super::report::Table;
use super::stand::{Router, Stand};
use super::{machine, memory, object};
use crate::cli::BenchProg;

/// Repetitions of each measurement.
const ROUNDS: usize = 5;

/// Runs `cargo xtask bench prog`.
pub fn run(options: &BenchProg) -> Result<()> {
    let cpu = options.cpu.map_or_else(machine::last_cpu, Ok)?;
    let mut stand = Stand::new(Router::Sipnat, 1)?;
    let flows = [1, options.flows];
    let table = table(&measure(&mut stand, &flows, cpu, options.repeat)?);
    println!("{}\n\n{}\n\n{}", table.title, table.text, table.render());
    Ok(())
}

/// One packet's way through a program.
#[derive(Clone, Debug)]
pub struct Measured {
    pub what: String,
    /// What the program returned for the first packet.
    pub action: u32,
    /// Nanoseconds per packet.
    pub ns: Series,
}

/// The ways of packets through sipnat's programs on this stand, at these numbers of flows.
pub fn measure(stand: &mut Stand, flows: &[u32], cpu: usize, repeat: u32) -> Result<Vec<Measured>> {
    for flows in flows {
        stand.open(*flows, cpu)?;
    }
    let router = stand.router_namespace().clone();
    let (inside, outside) = (
        memory::program_on(&router, "in0")?,
        memory::program_on(&router, "out0")?,
    );
    let (in0, out0) = (ifindex(&router, "in0")?, ifindex(&router, "out0")?);
    let mut bench = Bench::new(stand, cpu, repeat)?;
    let to = external(stand)?;
    let host = stand.inside_host();
    let template = generator::template(host.mac, host.gateway_mac);
    let foreign = |ethertype: u16| {
        let mut frame = template.build();
        frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
        frame
    };
    let mut local = template.clone();
    local.ip.dst = tests::lab::INSIDE_GATEWAY;

    let mut results = vec![
        bench.alone("bench_empty", "empty program")?,
        bench.alone("bench_restore", "header writing")?,
    ];
    let empty = bench.fd_of("bench_empty")?;
    let baseline = bench.through(&empty, "header writing and tail call", template.build(), 1, in0)?;
    let less = baseline.ns.median();
    results.push(baseline);
    let bare = bench.fd_of("bench_bare")?;
    let mut add = |mut measured: Measured| {
        measured.ns = measured.ns.less(less);
        results.push(measured);
    };
    add(bench.through(&bare, "bare rewrite and redirect", template.build(), 1, in0)?);
    let target = inside.fd()?;
    add(bench.through(&target, "inside: not IPv4, passed", foreign(0x86dd), 1, in0)?);
    add(bench.through(&target, "inside: to the router, passed", local.build(), 1, in0)?);
    let stage = match bench.is_staged(&target, template.build(), in0)? {
        true => "inside, first stage",
        false => "inside",
    };
    for flows in flows {
        let what = format!("{stage}: UDP, {flows} bindings at random");
        add(bench.through(&target, &what, template.build(), *flows, in0)?);
    }
    let target = outside.fd()?;
    let from = std::net::SocketAddrV4::new(generator::FIRST_DESTINATION, PORT);
    let remote = stand.outside_host();
    let answer = |port: u16| {
        let to = std::net::SocketAddrV4::new(*to.ip(), port);
        Packet::udp(from, to, &PAYLOAD)
            .df()
            .macs(remote.mac, remote.gateway_mac)
            .build()
    };
    add(bench.through(&target, "outside: UDP, one binding", answer(to.port()), 1, out0)?);
    add(bench.through(&target, "outside: nobody's port", answer(1), 1, out0)?);
    Ok(results)
}

/// The external endpoint of the first flow.
fn external(stand: &mut Stand) -> Result<std::net::SocketAddrV4> {
    let (host, port) = (FIRST_SOURCE.to_string(), FIRST_PORT.to_string());
    let found = stand
        .nat()?
        .json(&["bindings", "--host", &host, "--port", &port, "--proto", "udp"])?;
    let external = found[0]["external"].as_str();
    Ok(external.context("the first flow has no binding")?.parse()?)
}

/// The table of these results.
pub fn table(results: &[Measured]) -> Table {
    let text = "BPF_PROG_TEST_RUN; each run has a freshly written packet of 64 bytes, whose writing is subtracted from the \
                fourth line on. The redirect's own work (the device's queue, NAPI) is not in it, nor is the second of two \
                stages, which the kernel runs only on what it sends.";
    let mut table = Table::new(
        "Nanoseconds per packet in the programs",
        text,
        &["packet", "verdict", "ns"],
    );
    for result in results {
        let action = ["aborted", "drop", "pass", "tx", "redirect"]
            .get(result.action as usize)
            .unwrap_or(&"?");
        table
            .rows
            .push(vec![result.what.clone(), action.to_string(), result.ns.text(1.0, 0)]);
    }
    table
}

/// The program that restores packets, and where it runs.
struct Bench {
    ebpf: Ebpf,
    router: Namespace,
    cpu: usize,
    repeat: u32,
}

impl Bench {
    fn new(stand: &Stand, cpu: usize, repeat: u32) -> Result<Self> {
        let mut ebpf = object::open()?;
        stand.aim_bare(&mut ebpf)?;
        for name in ["bench_restore", "bench_empty", "bench_bare"] {
            object::load(&mut ebpf, name)?;
        }
        Ok(Self {
            ebpf,
            router: stand.router_namespace().clone(),
            cpu,
            repeat,
        })
    }

    fn fd_of(&self, name: &str) -> Result<ProgramFd> {
        Ok(self.program(name)?.fd()?.try_clone()?)
    }

    fn program(&self, name: &str) -> Result<&Xdp> {
        let program = self.ebpf.program(name).with_context(|| format!("no program {name}"))?;
        Ok(program.try_into()?)
    }

    /// One of the bench's programs by itself.
    fn alone(&mut self, name: &str, what: &str) -> Result<Measured> {
        self.aim(None, vec![0; FRAME], 1)?;
        self.repeat(name, what, 1)
    }

    /// A program that gets a fresh packet each time.
    fn through(
        &mut self,
        target: &ProgramFd,
        what: &str,
        frame: Vec<u8>,
        flows: u32,
        ingress: u32,
    ) -> Result<Measured> {
        self.aim(Some(target), frame, flows)?;
        self.repeat("bench_restore", what, ingress)
    }

    /// Whether the program leaves the packet to the second stage, which the kernel runs only when it sends frames.
    fn is_staged(&mut self, target: &ProgramFd, frame: Vec<u8>, ingress: u32) -> Result<bool> {
        self.aim(Some(target), frame, 1)?;
        let mut out = [0; 2048];
        // Twice: the first asks for the way, which goes in one stage.
        self.once(ingress, &mut out)?;
        self.once(ingress, &mut out)?;
        Ok(out[12..14] == ETHERTYPE_STAGED.to_be_bytes())
    }

    /// What the program makes of the packet.
    #[cfg(test)]
    fn translate(&mut self, target: &ProgramFd, frame: Vec<u8>, ingress: u32) -> Result<Packet> {
        self.aim(Some(target), frame, 1)?;
        let mut out = [0; 2048];
        let (action, size) = self.once(ingress, &mut out)?;
        anyhow::ensure!(
            action == 4,
            "the program did not redirect the packet but returned {action}"
        );
        Packet::parse(&out[..size])
    }

    fn aim(&mut self, target: Option<&ProgramFd>, frame: Vec<u8>, flows: u32) -> Result<()> {
        let traffic = generator::traffic(frame, flows, Order::Random, 0)?;
        let mut map: Array<_, Traffic> = self.ebpf.map_mut("TRAFFIC").context("no TRAFFIC")?.try_into()?;
        map.set(0, &traffic, 0)?;
        let mut map: ProgramArray<_> = self.ebpf.map_mut("TARGET").context("no TARGET")?.try_into()?;
        match target {
            Some(target) => map.set(0, target, 0)?,
            None => {
                // Nothing to clear is as good.
                let _ = map.clear_index(&0);
            }
        }
        Ok(())
    }

    fn once(&self, ingress: u32, out: &mut [u8]) -> Result<(u32, usize)> {
        let (program, context) = (self.program("bench_restore")?, context(ingress));
        let frame = frame();
        let options = TestRunOptions {
            data_in: Some(&frame),
            data_out: Some(out),
            ctx_in: Some(&context),
            ..TestRunOptions::new()
        };
        let result = self.router.enter(|| program.test_run(options))?;
        Ok((result.return_value, result.data_size_out as usize))
    }

    fn repeat(&self, name: &str, what: &str, ingress: u32) -> Result<Measured> {
        let (program, context) = (self.program(name)?, context(ingress));
        let (action, _) = if name == "bench_restore" {
            self.once(ingress, &mut [0; 2048])?
        } else {
            (1, 0)
        };
        let mut ns = Series::default();
        self.router.enter(|| -> Result<()> {
            machine::pin(self.cpu)?;
            for round in 0..=ROUNDS {
                let frame = frame();
                let options = TestRunOptions {
                    data_in: Some(&frame),
                    ctx_in: Some(&context),
                    repeat: self.repeat,
                    ..TestRunOptions::new()
                };
                let result = program.test_run(options)?;
                // The first only warms the caches.
                if round > 0 {
                    ns.push(result.duration.as_nanos() as f64);
                }
            }
            Ok(())
        })?;
        Ok(Measured {
            what: what.into(),
            action,
            ns,
        })
    }
}

/// What the restoring program writes its headers into.
fn frame() -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[42..].copy_from_slice(&PAYLOAD);
    frame
}

/// `struct xdp_md` of a frame that came in on this interface.
fn context(ingress: u32) -> Vec<u8> {
    [0, FRAME as u32, 0, ingress, 0, 0]
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect()
}

#[cfg(test)]
mod test {
    use super::*;
    use tests::checksum::verify_checksums;
    use tests::lab::EXTERNAL;

    /// As root in CI: the limit that everything is compared with translates correctly.
    #[test]
    fn the_bare_redirect_translates() {
        object::build().unwrap();
        let stand = Stand::new(Router::Bare, 1).unwrap();
        let mut bench = Bench::new(&stand, machine::last_cpu().unwrap(), 1000).unwrap();
        let (inside, outside) = (stand.inside_host(), stand.outside_host());
        let sent = generator::template(inside.mac, inside.gateway_mac);
        let ingress = ifindex(stand.router_namespace(), "in0").unwrap();
        let bare = bench.fd_of("bench_bare").unwrap();
        let got = bench.translate(&bare, sent.build(), ingress).unwrap();
        let mut expected = sent.ttl(sent_ttl() - 1).macs(outside.gateway_mac, outside.mac);
        expected.ip.src = EXTERNAL;
        assert_eq!(got, expected);
        verify_checksums(&got.build()).unwrap();
        let measured = bench.through(&bare, "bare", expected.build(), 1, ingress).unwrap();
        assert_eq!(measured.action, 4);
        assert!(measured.ns.median() > 0.0);
    }

    fn sent_ttl() -> u8 {
        generator::template([0; 6], [0; 6]).ip.ttl
    }
}
