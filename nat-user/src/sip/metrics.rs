//! What the SIP core counts: fixed arrays that it increments where things happen, with no allocation and no lock. A copy of all of it goes out with the answer to [`Query::Snapshot`](super::query::Query::Snapshot).

use std::time::Duration;

use super::{message::Method, path};

/// An enum whose values index the arrays below, each with the name that it has in metrics.
macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$value_doc])* $value,)+ }

        impl $name {
            /// All values, in the order of the arrays that they index.
            pub const ALL: &[$name] = &[$($name::$value,)+];
            /// How many there are.
            pub const COUNT: usize = $name::ALL.len();

            /// The label in metrics.
            pub const fn name(self) -> &'static str {
                match self { $($name::$value => $text,)+ }
            }
        }
    };
}

/// Methods with a counter of their own, and one more for all others: an attacker can make up any number of them.
pub const METHODS: usize = Method::KNOWN.len() + 1;
const _: () = assert!(Method::Other as usize == METHODS - 1);

labels! {
    /// The transaction timers of RFC 3261 section 17 (table 4), RFC 6026 and section 16.6.
    TimerLabel {
        A = "A", B = "B", C = "C", D = "D", E = "E", F = "F", G = "G", H = "H", I = "I", J = "J", K = "K", L = "L", M = "M",
    }
}

labels! {
    /// What a transaction is doing (RFC 3261 figures 5 to 8 as changed by RFC 6026).
    TransactionLabel {
        Calling = "calling",
        Trying = "trying",
        Proceeding = "proceeding",
        Completed = "completed",
        Accepted = "accepted",
        Confirmed = "confirmed",
    }
}

labels! {
    /// Why something that came in was given up without an answer, or refused before anything was stored for it.
    Refusal {
        /// No response could be formed: no Via, no CSeq, or it was no SIP at all.
        Unparsable = "unparsable",
        /// A response without a transaction, or with a Via that is not ours.
        Stray = "stray",
        /// More requests from one source than `limits.rate_per_source`.
        Rate = "rate",
        /// The source is banned.
        Banned = "banned",
        /// Shed because of overload.
        Shed = "shed",
        /// Authentication failed or was missing.
        Unauthorized = "unauthorized",
        /// Policy: callers, destinations, calls per user.
        Forbidden = "forbidden",
        /// A loop, or Max-Forwards or Max-Breadth used up (RFC 3261 section 16.3, RFC 5393).
        Loop = "loop",
        /// A token (flow, path, contact) that this server did not make.
        Token = "token",
    }
}

labels! {
    /// Why a call has ended.
    CallEnd {
        /// BYE.
        Bye = "bye",
        /// The caller has cancelled.
        Cancel = "cancel",
        /// A final response other than 2xx.
        Refused = "refused",
        /// Nobody answered in time, or nothing more was heard of it (RFC 4028, or `proxy.max_call_duration`).
        Timeout = "timeout",
        /// No media came any more.
        MediaTimeout = "media_timeout",
        /// Its media was relayed by an external address that is not ours any more.
        AddressChanged = "address_changed",
        /// It was set up, and goes on without us (`proxy.record_route = "never"`).
        Left = "left",
        /// It could not be set up: no way to the callee, no resources.
        Error = "error",
    }
}

/// The response codes with a counter of their own. Others count as their class, `4xx`.
pub const CODES: [u16; 36] = [
    100, 180, 181, 182, 183, 200, 202, 300, 301, 302, 305, 400, 401, 403, 404, 405, 406, 407, 408, 410, 415, 416, 420,
    423, 430, 439, 480, 481, 482, 483, 486, 487, 488, 500, 503, 603,
];
/// [`CODES`] and the six classes.
pub const CODE_SLOTS: usize = CODES.len() + 6;

/// The place of a code in arrays of [`CODE_SLOTS`]. What is no code counts with its nearest class.
pub fn code_slot(code: u16) -> usize {
    match CODES.binary_search(&code) {
        Ok(slot) => slot,
        Err(_) => CODES.len() + usize::from((code / 100).clamp(1, 6)) - 1,
    }
}

/// The label of a place that [`code_slot`] gives: `200`, or `4xx`.
pub fn code_name(slot: usize) -> String {
    match CODES.get(slot) {
        Some(code) => code.to_string(),
        None => format!("{}xx", slot + 1 - CODES.len()),
    }
}

/// The upper bounds of [`Histogram`]'s buckets, in microseconds.
pub const BUCKETS_US: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 200_000, 500_000, 2_000_000, 32_000_000,
];

/// How long things took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Observations by the first of [`BUCKETS_US`] that they fit in; the last: longer than all.
    pub buckets: [u64; BUCKETS_US.len() + 1],
    /// The sum of all observations, in microseconds.
    pub sum_us: u64,
}

impl Histogram {
    /// Counts one.
    pub fn observe(&mut self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.buckets[BUCKETS_US.partition_point(|bound| *bound < us)] += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// What the core counts since it started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SipMetrics {
    /// Requests that came in, without retransmissions; indexed by [`Method`].
    pub requests_in: [u64; METHODS],
    /// Requests that went out, forwarded or our own, without retransmissions.
    pub requests_out: [u64; METHODS],
    /// Responses that came in, by the method in their CSeq.
    pub responses_in: [[u64; CODE_SLOTS]; METHODS],
    /// Responses that went out, forwarded or our own.
    pub responses_out: [[u64; CODE_SLOTS]; METHODS],
    /// Messages that were sent again (timers A, E, G) and requests that came again.
    pub retransmissions_out: u64,
    pub retransmissions_in: u64,
    /// Transaction timers that fired.
    pub timers: [u64; TimerLabel::COUNT],
    /// DNS look-ups that nobody answered in time (64 × T1).
    pub queries_unanswered: u64,
    /// What was refused or given up.
    pub refused: [u64; Refusal::COUNT],
    /// From a request (not INVITE, not ACK) to its final response.
    pub response_time: Histogram,
    /// From an INVITE to the first response other than our own 100.
    pub invite_time: Histogram,
    /// Prompts that were sent; a prompt with its retransmissions is one.
    pub prompts_sent: u64,
    /// Prompts that the device answered.
    pub prompts_answered: u64,
    /// Prompts without an answer when the next was due.
    pub prompts_lost: u64,
    /// Paths that went down because too many prompts in a row were lost, and that came up again.
    pub paths_lost: u64,
    pub paths_recovered: u64,
    /// Contacts that were added, refreshed, removed by their phone, and that expired.
    pub contacts_added: u64,
    pub contacts_refreshed: u64,
    pub contacts_removed: u64,
    pub contacts_expired: u64,
    /// Wrong passwords, and sources banned for them.
    pub wrong_passwords: u64,
    pub bans: u64,
    /// Calls that have ended.
    pub calls_ended: [u64; CallEnd::COUNT],
    /// Streams that ended because the external address that they were relayed by is not ours any more.
    pub streams_lost: u64,
}

impl Default for SipMetrics {
    fn default() -> Self {
        SipMetrics {
            requests_in: [0; METHODS],
            requests_out: [0; METHODS],
            responses_in: [[0; CODE_SLOTS]; METHODS],
            responses_out: [[0; CODE_SLOTS]; METHODS],
            retransmissions_out: 0,
            retransmissions_in: 0,
            timers: [0; TimerLabel::COUNT],
            queries_unanswered: 0,
            refused: [0; Refusal::COUNT],
            response_time: Histogram::default(),
            invite_time: Histogram::default(),
            prompts_sent: 0,
            prompts_answered: 0,
            prompts_lost: 0,
            paths_lost: 0,
            paths_recovered: 0,
            contacts_added: 0,
            contacts_refreshed: 0,
            contacts_removed: 0,
            contacts_expired: 0,
            wrong_passwords: 0,
            bans: 0,
            calls_ended: [0; CallEnd::COUNT],
            streams_lost: 0,
        }
    }
}

impl SipMetrics {
    /// A request came in for the first time.
    pub fn request_in(&mut self, method: Method) {
        self.requests_in[method as usize] += 1;
    }

    /// A request went out for the first time.
    pub fn request_out(&mut self, method: Method) {
        self.requests_out[method as usize] += 1;
    }

    /// A response came in.
    pub fn response_in(&mut self, method: Method, code: u16) {
        self.responses_in[method as usize][code_slot(code)] += 1;
    }

    /// A response went out for the first time.
    pub fn response_out(&mut self, method: Method, code: u16) {
        self.responses_out[method as usize][code_slot(code)] += 1;
    }

    /// A transaction timer fired.
    pub fn timer(&mut self, timer: TimerLabel) {
        self.timers[timer as usize] += 1;
    }

    /// A call has ended.
    pub fn call_ended(&mut self, why: CallEnd) {
        self.calls_ended[why as usize] += 1;
    }

    /// Something was refused or given up.
    pub fn refuse(&mut self, why: Refusal) {
        self.refused[why as usize] += 1;
    }
}

/// What there is at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SipGauges {
    /// Contacts that are registered; static ones count too.
    pub registrations: u64,
    /// Those of them behind a NAT.
    pub registrations_behind_nat: u64,
    /// Addresses of record with at least one contact.
    pub aors: u64,
    /// Paths by [`State`](path::State).
    pub paths: [u64; path::State::ALL.len()],
    /// Those of them that are down.
    pub paths_down: u64,
    /// Dialogs that are followed: calls that are set up or established, subscriptions.
    pub calls: u64,
    pub subscriptions: u64,
    /// Server and client transactions by [`TransactionLabel`].
    pub server_transactions: [u64; TransactionLabel::COUNT],
    pub client_transactions: [u64; TransactionLabel::COUNT],
    /// Sources that are banned.
    pub banned: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_and_codes_have_their_places() {
        for (index, method) in Method::KNOWN.into_iter().chain([Method::Other]).enumerate() {
            assert_eq!(method as usize, index);
        }
        assert!(CODES.is_sorted(), "they are searched");
        for (code, name) in [
            (200, "200"),
            (100, "100"),
            (603, "603"),
            (199, "1xx"),
            (404, "404"),
            (499, "4xx"),
            (699, "6xx"),
        ] {
            assert_eq!(code_name(code_slot(code)), name);
        }
        for code in 0..=u16::MAX {
            assert!(code_slot(code) < CODE_SLOTS);
        }
    }

    #[test]
    fn buckets_take_what_is_at_most_their_bound() {
        let mut histogram = Histogram::default();
        for us in [0, 100, 101, 32_000_000, 32_000_001] {
            histogram.observe(Duration::from_micros(us));
        }
        assert_eq!((histogram.buckets[0], histogram.buckets[1]), (2, 1));
        assert_eq!((histogram.buckets[13], histogram.buckets[14]), (1, 1));
        assert_eq!((histogram.count(), histogram.sum_us), (5, 64_000_202));
        histogram.observe(Duration::MAX);
        assert_eq!(histogram.sum_us, u64::MAX);
    }

    #[test]
    fn events_count_where_they_belong() {
        let mut metrics = SipMetrics::default();
        metrics.request_in(Method::Register);
        metrics.response_out(Method::Register, 401);
        metrics.timer(TimerLabel::C);
        metrics.refuse(Refusal::Banned);
        assert_eq!(metrics.requests_in[Method::Register as usize], 1);
        assert_eq!(metrics.responses_out[Method::Register as usize][code_slot(401)], 1);
        assert_eq!((metrics.timers[2], metrics.refused[3]), (1, 1));
    }
}
