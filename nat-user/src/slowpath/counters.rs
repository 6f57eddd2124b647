//! What the slow path counted.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident, $name:literal;)*) => {
        /// One thing that the slow path counts.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Counter { $($(#[$doc])* $variant,)* }

        impl Counter {
            /// All of them, in the order of the tables.
            pub const ALL: &'static [Counter] = &[$(Counter::$variant),*];

            /// Name in metrics and tables.
            pub fn name(self) -> &'static str {
                match self { $(Counter::$variant => $name),* }
            }
        }
    };
}

counters! {
    /// Packets that came from the kernel program.
    Received, "received";
    /// Records that make no sense: too short, an unknown reason, an unknown interface.
    Malformed, "malformed";
    /// ICMP 11/0 sent.
    SentTimeExceeded, "sent_time_exceeded";
    /// ICMP 3/0 sent.
    SentNetUnreachable, "sent_net_unreachable";
    /// ICMP 3/1 sent.
    SentHostUnreachable, "sent_host_unreachable";
    /// ICMP 3/4 sent.
    SentFragmentationNeeded, "sent_fragmentation_needed";
    /// ICMP 3/13 sent.
    SentProhibited, "sent_prohibited";
    /// Errors not sent because of the rates in `[icmp]`.
    RateLimited, "rate_limited";
    /// Errors not sent because the configuration says so.
    SwitchedOff, "switched_off";
    /// Errors not sent because RFC 1812 §4.3.2.7 forbids them.
    Silent, "silent";
    /// Errors not sent because the router has no address to send them from.
    NoSource, "no_source";
    /// Errors that the kernel refused to send.
    SendFailed, "send_failed";
    /// Packets cut into pieces (RFC 791 §3.2).
    Split, "split";
    /// Packets too big for the way out that could not be cut.
    Uncut, "uncut";
    /// Packets held until a next hop's MAC address is known.
    NeighbourHeld, "neighbour_held";
    /// Of these, given back to the kernel program.
    NeighbourReleased, "neighbour_released";
    /// Of these, dropped because the next hop did not answer.
    NeighbourExpired, "neighbour_expired";
    /// Of these, dropped because there was no more room.
    NeighbourRefused, "neighbour_refused";
    /// Fragments held until the first one of their datagram comes.
    FragmentHeld, "fragment_held";
    /// Of these, given back to the kernel program.
    FragmentReleased, "fragment_released";
    /// Of these, dropped because the first one did not come in time.
    FragmentExpired, "fragment_expired";
    /// Of these, dropped because there was no more room.
    FragmentRefused, "fragment_refused";
    /// Frames given back to the kernel program.
    Reinjected, "reinjected";
    /// Frames that the kernel did not take back.
    ReinjectFailed, "reinject_failed";
    /// Frames larger than what the kernel takes back, or cut off on their way here.
    TooLarge, "too_large";
}

/// The counters; shared, and never reset.
#[derive(Debug)]
pub struct Counters([AtomicU64; Counter::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; Counter::ALL.len()])
    }
}

impl Counter {
    /// For an error of this ICMP type and code that was sent.
    pub(super) fn sent(type_and_code: (u8, u8)) -> Self {
        match type_and_code {
            (3, 0) => Counter::SentNetUnreachable,
            (3, 4) => Counter::SentFragmentationNeeded,
            (3, 13) => Counter::SentProhibited,
            (3, _) => Counter::SentHostUnreachable,
            _ => Counter::SentTimeExceeded,
        }
    }
}

impl Counters {
    pub(super) fn count(&self, counter: Counter) {
        self.add(counter, 1);
    }

    pub(super) fn add(&self, counter: Counter, n: usize) {
        self.0[counter as usize].fetch_add(n as u64, Ordering::Relaxed);
    }

    /// One value.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize].load(Ordering::Relaxed)
    }

    /// All values by name.
    pub fn list(&self) -> Vec<(&'static str, u64)> {
        Counter::ALL.iter().map(|c| (c.name(), self.get(*c))).collect()
    }
}
