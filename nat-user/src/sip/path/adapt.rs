//! Intervals that adapt: shorter where a path was lost, longer where prompts have been answered for long.
//!
//! How long a mapping lasts is a property of the NAT. A device whose path is lost comes back with a new mapping, and so on a new
//! path: what was learned from the old one is therefore kept by the NAT's address.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use super::record::Record;
use crate::{
    config::sip::Paths,
    sip::{flow::Flow, time::Time},
};

/// Answered prompts in a row after which the interval grows by a quarter.
const SUCCESSES: u16 = 20;
/// What was learned is believed for this long: the NAT may be another by then, or the device was only switched off.
const BELIEVED: Duration = Duration::from_secs(24 * 3600);
/// Addresses that something is remembered of. Losses beyond shorten only their own path.
const MOST: usize = 16_384;

/// What lost paths have taught.
#[derive(Debug, Default)]
pub(super) struct Hints(HashMap<IpAddr, Hint>);

/// All in milliseconds.
#[derive(Clone, Copy, Debug)]
struct Hint {
    /// Where the next path from this address begins.
    interval: u32,
    /// Not tried again: shorter than what a path was lost at.
    ceiling: u32,
    at: Time,
}

impl Hints {
    /// Where a path begins, in milliseconds.
    pub fn interval(&self, flow: &Flow, settings: &Paths, now: Time) -> u32 {
        let configured = milliseconds(settings.interval);
        match settings.adapt {
            None => configured,
            Some((least, most)) => self
                .believed(flow, now)
                .map_or(configured, |hint| hint.interval.min(configured))
                .clamp(milliseconds(least), milliseconds(most.max(least))),
        }
    }

    /// A prompt of this path was answered.
    pub fn answered(&self, record: &mut Record, settings: &Paths, now: Time) {
        let Some((least, most)) = settings.adapt else {
            return;
        };
        record.successes += 1;
        if record.successes >= SUCCESSES {
            record.successes = 0;
            let ceiling = self.believed(&record.flow, now).map_or(u32::MAX, |hint| hint.ceiling);
            let longer = record.interval.saturating_add(record.interval / 4);
            let most = milliseconds(most).min(ceiling).max(milliseconds(least));
            // Never shorter because of what another path behind the same address met.
            record.interval = longer.min(most).max(record.interval);
        }
    }

    /// This path was lost at its interval.
    pub fn lost(&mut self, record: &mut Record, settings: &Paths, now: Time) {
        let Some((least, _)) = settings.adapt else {
            return;
        };
        let (least, failed) = (milliseconds(least), record.interval);
        record.successes = 0;
        record.interval = (failed / 2).max(least);
        record.hasten(record.interval(), now);
        if self.0.len() >= MOST && !self.0.contains_key(&record.flow.remote.ip()) {
            self.0.retain(|_, hint| now.since(hint.at) < BELIEVED);
        }
        if self.0.len() < MOST || self.0.contains_key(&record.flow.remote.ip()) {
            let hint = Hint {
                interval: record.interval,
                ceiling: (failed / 4 * 3).max(least),
                at: now,
            };
            self.0.insert(record.flow.remote.ip(), hint);
        }
    }

    fn believed(&self, flow: &Flow, now: Time) -> Option<&Hint> {
        self.0
            .get(&flow.remote.ip())
            .filter(|hint| now.since(hint.at) < BELIEVED)
    }
}

fn milliseconds(span: Duration) -> u32 {
    u32::try_from(span.as_millis()).unwrap_or(u32::MAX)
}
