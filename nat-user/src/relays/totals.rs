//! What many legs have seen together: for metrics, which must not fall when a call ends.

use nat_common::relay::latch::REFUSALS;

use super::LegView;

/// Upper bounds of the buckets of scores, in hundredths. The first five are what G.107 annex B calls nearly all, many and some users dissatisfied, satisfied, and
/// very satisfied.
pub const SCORES: [u16; 6] = [258, 310, 360, 403, 434, 450];

/// Sums over legs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Legs, those of RTCP too.
    pub legs: u64,
    /// Packets that came from the peers.
    pub packets: u64,
    /// Bytes of their IP packets.
    pub bytes: u64,
    /// RTP packets that have not come.
    pub lost: u64,
    /// RTP packets out of order or twice.
    pub late: u64,
    /// Packets refused, in the order of [`REFUSALS`].
    pub refused: [u64; REFUSALS.len()],
    /// Legs with a score, by the first of [`SCORES`] that is not less.
    pub scores: [u64; SCORES.len()],
    /// The sum of these scores, in hundredths.
    pub score: u64,
}

impl Totals {
    /// Adds what a leg has seen.
    pub fn add(&mut self, view: &LegView) {
        self.legs += 1;
        self.packets += view.packets;
        self.bytes += view.bytes;
        self.lost += view.quality.lost;
        self.late += u64::from(view.quality.late);
        for (sum, (_, count)) in self.refused.iter_mut().zip(view.refused) {
            *sum += u64::from(count);
        }
        if let Some(mos) = view.mos() {
            let place = SCORES.partition_point(|bound| *bound < mos.hundredths());
            self.scores[place.min(SCORES.len() - 1)] += 1;
            self.score += u64::from(mos.hundredths());
        }
    }
}
