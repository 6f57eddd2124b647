//! The media relay's metrics.

use nat_common::relay::latch::REFUSALS;

use super::Text;
use crate::{
    records::RelayTotals,
    relays::totals::{SCORES, Totals},
};

/// Writes all of them.
pub fn write(out: &mut Text, totals: &RelayTotals) {
    out.family("sipnat_relay_legs", "gauge", "Legs of the media relay by state.");
    for (state, count) in RelayTotals::STATES.iter().zip(totals.legs) {
        out.sample("sipnat_relay_legs", &[("state", state)], count);
    }
    let seen = &totals.seen;
    for (name, help, value) in [
        (
            "sipnat_relay_packets_total",
            "Packets that legs took from their peers.",
            seen.packets,
        ),
        ("sipnat_relay_bytes_total", "Bytes of these IP packets.", seen.bytes),
        (
            "sipnat_relay_lost_total",
            "RTP packets that have not come to a leg (RFC 3550).",
            seen.lost,
        ),
        (
            "sipnat_relay_late_total",
            "RTP packets that came out of order or twice.",
            seen.late,
        ),
    ] {
        out.one(name, "counter", help, value);
    }
    out.family(
        "sipnat_relay_refused_total",
        "counter",
        "Packets that legs have refused, by reason.",
    );
    for (reason, count) in REFUSALS.iter().zip(seen.refused) {
        out.sample("sipnat_relay_refused_total", &[("reason", reason.name())], count);
    }
    scores(out, &totals.closed);
}

/// A histogram of the scores that streams ended with.
fn scores(out: &mut Text, closed: &Totals) {
    let name = "sipnat_relay_mos";
    out.family(
        name,
        "histogram",
        "Mean opinion scores (ITU-T G.107) of streams of speech that have ended.",
    );
    let shown = |hundredths: u64| format!("{}.{:02}", hundredths / 100, hundredths % 100);
    let mut sum = 0;
    for (bound, count) in SCORES.iter().zip(closed.scores) {
        sum += count;
        let bound = shown(u64::from(*bound));
        out.sample(&format!("{name}_bucket"), &[("le", &bound)], sum);
    }
    out.sample(&format!("{name}_bucket"), &[("le", "+Inf")], sum);
    out.sample(&format!("{name}_sum"), &[], shown(closed.score));
    out.sample(&format!("{name}_count"), &[], sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_add_up() {
        let closed = Totals {
            scores: [1, 0, 0, 0, 2, 3],
            score: 2_215,
            ..Totals::default()
        };
        let totals = RelayTotals {
            legs: [1, 2, 3, 4],
            seen: Totals {
                refused: [5, 6, 7, 8],
                ..closed
            },
            closed,
        };
        let mut out = Text(String::new());
        write(&mut out, &totals);
        for expected in [
            "sipnat_relay_legs{state=\"latched\"} 2\n",
            "sipnat_relay_legs{state=\"stranded\"} 4\n",
            "sipnat_relay_refused_total{reason=\"relay_gate\"} 5\n",
            "sipnat_relay_mos_bucket{le=\"2.58\"} 1\n",
            "sipnat_relay_mos_bucket{le=\"4.34\"} 3\n",
            "sipnat_relay_mos_bucket{le=\"+Inf\"} 6\n",
            "sipnat_relay_mos_sum 22.15\n",
            "sipnat_relay_mos_count 6\n",
        ] {
            assert!(out.0.contains(expected), "{expected}\n{}", out.0);
        }
    }
}
