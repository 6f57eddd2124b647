//! TCP through real sockets.

use anyhow::{Context, Result};
use tests::lab::Lab;
use tests::link::Offloads;
use tests::programs::{iperf3_client, iperf3_server};
use tests::router::{Nat, NatConfig};

use super::figures::Series;
use super::report::Table;
use super::stand::Router;
use crate::run::binary;

/// A router, with the offloads that the hosts around it have.
#[derive(Clone, Debug)]
pub struct Measured {
    pub router: Router,
    pub mtu: u32,
    pub offloads: Offloads,
    /// Bits per second.
    pub speed: Series,
}

/// One stream from inside to outside, for so many seconds in each round, through each of the routers.
pub fn measure(routers: &[Router], rounds: u32, seconds: u32) -> Result<Vec<Measured>> {
    let mut results = Vec::new();
    for mtu in [1500, 9000] {
        for offloads in [Offloads::Xdp, Offloads::KernelDefault] {
            for router in routers {
                // Super-packets with partial checksums cannot pass an XDP redirect.
                if *router != Router::Sipnat || offloads == Offloads::Xdp {
                    results.push(Measured {
                        router: *router,
                        mtu,
                        offloads,
                        speed: Series::default(),
                    });
                }
            }
        }
    }
    for _ in 0..rounds {
        for result in &mut results {
            eprintln!(
                "{}: iperf3 at MTU {}, {:?} offloads",
                result.router, result.mtu, result.offloads
            );
            let speed = one(result, seconds).with_context(|| format!("iperf3 through {}", result.router))?;
            result.speed.push(speed);
        }
    }
    Ok(results)
}

fn one(plan: &Measured, seconds: u32) -> Result<f64> {
    let lab = Lab::builder()
        .direct()
        .inside_mtu(plan.mtu)
        .outside_mtu(plan.mtu)
        .offloads(plan.offloads)
        .build()?;
    let (nat, config) = match plan.router {
        Router::Nftables => (Nat::Nftables, NatConfig::toml("")),
        Router::Sipnat => (Nat::Sipnat, NatConfig::toml("").binary(&binary())),
        _ => {
            // Untranslated, so the server has to know the way back.
            lab.o(1)
                .ip_batch(&[format!("route add 192.168.1.0/24 via {}", lab.o(1).gateway)])?;
            (Nat::None, NatConfig::toml(""))
        }
    };
    let _nat = lab.start_nat_as(nat, config)?;
    let server = iperf3_server(lab.o(1))?;
    // The first half second is slow start.
    let report = iperf3_client(lab.h(1), &server, &["-t", &seconds.to_string(), "-O", "1"])?;
    report["end"]["sum_received"]["bits_per_second"]
        .as_f64()
        .with_context(|| format!("iperf3 reports no speed: {report}"))
}

/// The median of one case.
pub fn median(results: &[Measured], router: Router, mtu: u32, offloads: Offloads) -> Option<f64> {
    let same = |result: &&Measured| result.router == router && result.mtu == mtu && result.offloads == offloads;
    results.iter().find(same).map(|result| result.speed.median())
}

/// The table of these results.
pub fn table(results: &[Measured]) -> Table {
    let text = "One stream over veth, on all cores. Equal offloads: the hosts sum and cut what they send (transmit offload \
                off), as XDP needs it between veths. Default offloads: packets of 64 KiB without checksums, which no real \
                network card hands to a router.";
    let mut table = Table::new("TCP through iperf3", text, &["router", "MTU", "offloads", "Gbit/s"]);
    for result in results {
        let offloads = match result.offloads {
            Offloads::Xdp => "equal",
            Offloads::KernelDefault => "default",
        };
        table.rows.push(vec![
            result.router.to_string(),
            result.mtu.to_string(),
            offloads.into(),
            result.speed.text(1e9, 1),
        ]);
    }
    table
}
