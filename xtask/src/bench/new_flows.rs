//! New flows per second: every packet has a source endpoint that the router has never seen.

use anyhow::Result;

use super::figures::Series;
use super::pps::Plan;
use super::report::Table;
use super::stand::{Router, Stand};

/// External addresses of both routers.
pub const ADDRESSES: u8 = 16;

/// New flows per second of each router, each round in a fresh namespace.
pub fn measure(routers: &[Router], flows: u32, plan: &Plan) -> Result<Vec<(Router, u32, Series)>> {
    let mut results: Vec<_> = routers
        .iter()
        .map(|router| (*router, flows, Series::default()))
        .collect();
    for _ in 0..plan.rounds.min(3) {
        for (router, flows, series) in &mut results {
            let mut stand = Stand::new(*router, ADDRESSES)?;
            *flows = (*flows).min(stand.capacity);
            series.push(stand.open(*flows, plan.cpu)?.pps);
        }
    }
    Ok(results)
}

/// The table of these results.
pub fn table(results: &[(Router, u32, Series)]) -> Table {
    let text = format!(
        "One packet of each flow, into a router without any; counted are the packets that arrive. {ADDRESSES} external \
         addresses for both (`snat to` their range in nftables)."
    );
    let mut table = Table::new(
        "New flows per second",
        &text,
        &["router", "flows", "thousands per second", "x nftables"],
    );
    let nftables = median(results, Router::Nftables);
    for (router, flows, series) in results {
        let ratio = nftables.map_or("-".into(), |nftables| format!("{:.2}", series.median() / nftables));
        table
            .rows
            .push(vec![router.to_string(), flows.to_string(), series.text(1e3, 0), ratio]);
    }
    table
}

/// The median of one router.
pub fn median(results: &[(Router, u32, Series)], router: Router) -> Option<f64> {
    let (_, _, series) = results.iter().find(|result| result.0 == router)?;
    Some(series.median())
}
