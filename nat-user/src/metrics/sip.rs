//! The SIP server's metrics.

use super::Text;
use crate::{
    records::{SipTotals, TransportTotals},
    sip::{
        message::Method,
        metrics::{
            BUCKETS_US, CODE_SLOTS, CallEnd, Histogram, METHODS, Refusal, SipGauges, SipMetrics, TimerLabel,
            TransactionLabel, code_name,
        },
        path::State,
    },
};

/// Writes all of them.
pub fn write(out: &mut Text, totals: &SipTotals) {
    messages(out, &totals.metrics);
    times(out, &totals.metrics);
    prompts(out, &totals.metrics);
    registrar(out, &totals.metrics);
    calls(out, totals);
    gauges(out, &totals.gauges);
    transport(out, totals);
}

fn messages(out: &mut Text, metrics: &SipMetrics) {
    out.family(
        "sipnat_sip_requests_total",
        "counter",
        "SIP requests by direction and method, without retransmissions.",
    );
    let methods = || Method::KNOWN.into_iter().chain([Method::Other]);
    for (direction, counts) in [("in", &metrics.requests_in), ("out", &metrics.requests_out)] {
        for method in methods() {
            let labels = [("direction", direction), ("method", method.name())];
            out.sample("sipnat_sip_requests_total", &labels, counts[method as usize]);
        }
    }
    out.family(
        "sipnat_sip_responses_total",
        "counter",
        "SIP responses by direction, method and code; rare codes by their class. What never was is left out.",
    );
    let counts: [(&str, &[[u64; CODE_SLOTS]; METHODS]); 2] =
        [("in", &metrics.responses_in), ("out", &metrics.responses_out)];
    for (direction, counts) in counts {
        for method in methods() {
            for (slot, &count) in counts[method as usize]
                .iter()
                .enumerate()
                .filter(|(_, count)| **count > 0)
            {
                let code = code_name(slot);
                let labels = [
                    ("direction", direction),
                    ("method", method.name()),
                    ("code", code.as_str()),
                ];
                out.sample("sipnat_sip_responses_total", &labels, count);
            }
        }
    }
    out.family(
        "sipnat_sip_retransmissions_total",
        "counter",
        "Messages that were sent again, and requests that came again.",
    );
    for (direction, count) in [("in", metrics.retransmissions_in), ("out", metrics.retransmissions_out)] {
        out.sample("sipnat_sip_retransmissions_total", &[("direction", direction)], count);
    }
    out.family(
        "sipnat_sip_refused_total",
        "counter",
        "Messages that were refused or given up before anything was stored for them.",
    );
    for &why in Refusal::ALL {
        let count = metrics.refused[why as usize];
        out.sample("sipnat_sip_refused_total", &[("reason", why.name())], count);
    }
    out.family(
        "sipnat_sip_timers_total",
        "counter",
        "Transaction timers that fired (RFC 3261 table 4, RFC 6026).",
    );
    for &timer in TimerLabel::ALL {
        let count = metrics.timers[timer as usize];
        out.sample("sipnat_sip_timers_total", &[("timer", timer.name())], count);
    }
}

fn times(out: &mut Text, metrics: &SipMetrics) {
    histogram(
        out,
        "sipnat_sip_response_seconds",
        "From a request (not INVITE) to its final response.",
        &metrics.response_time,
    );
    histogram(
        out,
        "sipnat_sip_invite_seconds",
        "From an INVITE to its first response other than our own 100.",
        &metrics.invite_time,
    );
}

fn histogram(out: &mut Text, name: &str, help: &str, histogram: &Histogram) {
    out.family(name, "histogram", help);
    let mut sum = 0;
    for (bound, count) in BUCKETS_US.iter().zip(histogram.buckets) {
        sum += count;
        let bound = (*bound as f64 / 1e6).to_string();
        out.sample(&format!("{name}_bucket"), &[("le", &bound)], sum);
    }
    out.sample(&format!("{name}_bucket"), &[("le", "+Inf")], histogram.count());
    let us = histogram.sum_us;
    let seconds = format_args!("{}.{:06}", us / 1_000_000, us % 1_000_000);
    out.sample(&format!("{name}_sum"), &[], seconds);
    out.sample(&format!("{name}_count"), &[], histogram.count());
}

fn prompts(out: &mut Text, metrics: &SipMetrics) {
    out.family(
        "sipnat_sip_prompts_total",
        "counter",
        "Prompts to devices: sent, answered, and not answered when the next was due.",
    );
    for (result, count) in [
        ("sent", metrics.prompts_sent),
        ("answered", metrics.prompts_answered),
        ("lost", metrics.prompts_lost),
    ] {
        out.sample("sipnat_sip_prompts_total", &[("result", result)], count);
    }
    out.one(
        "sipnat_sip_paths_lost_total",
        "counter",
        "Paths that went down because too many prompts in a row were lost.",
        metrics.paths_lost,
    );
    out.one(
        "sipnat_sip_paths_recovered_total",
        "counter",
        "Paths that came up again.",
        metrics.paths_recovered,
    );
}

fn registrar(out: &mut Text, metrics: &SipMetrics) {
    out.family(
        "sipnat_sip_contacts_total",
        "counter",
        "What became of contacts: added, refreshed, removed by their phone, expired.",
    );
    for (event, count) in [
        ("added", metrics.contacts_added),
        ("refreshed", metrics.contacts_refreshed),
        ("removed", metrics.contacts_removed),
        ("expired", metrics.contacts_expired),
    ] {
        out.sample("sipnat_sip_contacts_total", &[("event", event)], count);
    }
    out.one(
        "sipnat_sip_wrong_passwords_total",
        "counter",
        "Requests with a wrong password.",
        metrics.wrong_passwords,
    );
    out.one(
        "sipnat_sip_bans_total",
        "counter",
        "Sources that were banned for wrong passwords.",
        metrics.bans,
    );
}

fn calls(out: &mut Text, totals: &SipTotals) {
    out.family(
        "sipnat_sip_calls_ended_total",
        "counter",
        "Calls that have ended, by reason.",
    );
    for &why in CallEnd::ALL {
        let count = totals.metrics.calls_ended[why as usize];
        out.sample("sipnat_sip_calls_ended_total", &[("reason", why.name())], count);
    }
    out.one(
        "sipnat_sip_call_records_lost_total",
        "counter",
        "Records of calls that were not written: the disk was too slow or full.",
        totals.records_lost,
    );
    out.family(
        "sipnat_sip_media_left_total",
        "counter",
        "Streams of calls that were left as they are, by reason. What never was is left out.",
    );
    for (reason, count) in &totals.media_left {
        out.sample("sipnat_sip_media_left_total", &[("reason", reason)], *count);
    }
    out.one(
        "sipnat_sip_streams_lost_total",
        "counter",
        "Streams that ended because the external address that relayed them is not ours any more.",
        totals.metrics.streams_lost,
    );
}

fn gauges(out: &mut Text, gauges: &SipGauges) {
    for (name, help, value) in [
        ("sipnat_sip_aors", "Addresses of record with a contact.", gauges.aors),
        (
            "sipnat_sip_registrations",
            "Contacts that are registered.",
            gauges.registrations,
        ),
        (
            "sipnat_sip_registrations_behind_nat",
            "Those of them behind a NAT.",
            gauges.registrations_behind_nat,
        ),
        ("sipnat_sip_paths_down", "Paths that are down.", gauges.paths_down),
        (
            "sipnat_sip_calls",
            "Calls that are set up or established.",
            gauges.calls,
        ),
        (
            "sipnat_sip_subscriptions",
            "Subscriptions that exist.",
            gauges.subscriptions,
        ),
        ("sipnat_sip_banned_sources", "Sources that are banned.", gauges.banned),
    ] {
        out.one(name, "gauge", help, value);
    }
    out.family("sipnat_sip_paths", "gauge", "Mapped paths by what holds them.");
    for state in State::ALL {
        out.sample(
            "sipnat_sip_paths",
            &[("state", state.name())],
            gauges.paths[state as usize],
        );
    }
    out.family("sipnat_sip_transactions", "gauge", "Transactions by side and state.");
    for (side, counts) in [
        ("server", &gauges.server_transactions),
        ("client", &gauges.client_transactions),
    ] {
        for &state in TransactionLabel::ALL {
            let labels = [("side", side), ("state", state.name())];
            out.sample("sipnat_sip_transactions", &labels, counts[state as usize]);
        }
    }
}

fn transport(out: &mut Text, totals: &SipTotals) {
    type Count = fn(&TransportTotals) -> u64;
    /// Name, type, help, and the count of each direction.
    type Family = (
        &'static str,
        &'static str,
        &'static str,
        &'static [(&'static str, Count)],
    );
    let families: [Family; 4] = [
        (
            "sipnat_sip_messages_total",
            "counter",
            "SIP messages by transport and direction, retransmissions too.",
            &[("in", |t| t.messages_in), ("out", |t| t.messages_out)],
        ),
        (
            "sipnat_sip_bytes_total",
            "counter",
            "Bytes of these messages.",
            &[("in", |t| t.bytes_in), ("out", |t| t.bytes_out)],
        ),
        (
            "sipnat_sip_keep_alives_total",
            "counter",
            "CRLFs and STUN requests that devices sent to keep their paths open.",
            &[("in", |t| t.keep_alives)],
        ),
        (
            "sipnat_sip_connections_total",
            "counter",
            "Connections that came (in) and that were made (out).",
            &[("in", |t| t.accepted), ("out", |t| t.connected)],
        ),
    ];
    for (name, kind, help, counts) in families {
        out.family(name, kind, help);
        for transport in &totals.transports {
            for (direction, count) in counts {
                let labels = [("transport", transport.transport.name()), ("direction", direction)];
                out.sample(name, &labels, count(transport));
            }
        }
    }
    out.family("sipnat_sip_connections", "gauge", "Connections that are open.");
    for transport in &totals.transports {
        let labels = [("transport", transport.transport.name())];
        out.sample("sipnat_sip_connections", &labels, transport.open);
    }
    out.family(
        "sipnat_sip_transport_dropped_total",
        "counter",
        "Messages and connections that the transport gave up.",
    );
    for (reason, count) in &totals.dropped {
        out.sample("sipnat_sip_transport_dropped_total", &[("reason", reason)], *count);
    }
    out.family("sipnat_sip_dns_queries_total", "counter", "DNS look-ups (RFC 3263).");
    for (result, count) in [
        ("asked", totals.queries),
        ("failed", totals.queries_failed),
        ("unanswered", totals.metrics.queries_unanswered),
    ] {
        out.sample("sipnat_sip_dns_queries_total", &[("result", result)], count);
    }
    out.one(
        "sipnat_sip_traces_lost_total",
        "counter",
        "Messages that a trace missed because its reader was slow.",
        totals.traces_lost,
    );
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sip::flow::Transport;

    #[test]
    fn counts_have_their_labels() {
        let mut totals = SipTotals {
            transports: vec![TransportTotals {
                transport: Transport::Tls,
                messages_in: 3,
                messages_out: 0,
                bytes_in: 0,
                bytes_out: 0,
                keep_alives: 0,
                accepted: 4,
                connected: 0,
                open: 2,
            }],
            dropped: vec![("slow", 5)],
            ..SipTotals::default()
        };
        totals.metrics.request_in(Method::Register);
        totals.metrics.response_out(Method::Register, 401);
        totals.metrics.response_out(Method::Other, 499);
        totals.metrics.timer(TimerLabel::B);
        totals.metrics.queries_unanswered = 6;
        totals.metrics.response_time.observe(Duration::from_micros(300));
        totals.metrics.response_time.observe(Duration::from_secs(60));
        totals.gauges.paths[State::Registration as usize] = 7;
        let mut out = Text(String::new());
        write(&mut out, &totals);
        let text = out.0;
        for expected in [
            "sipnat_sip_requests_total{direction=\"in\",method=\"REGISTER\"} 1\n",
            "sipnat_sip_responses_total{direction=\"out\",method=\"REGISTER\",code=\"401\"} 1\n",
            "sipnat_sip_responses_total{direction=\"out\",method=\"OTHER\",code=\"4xx\"} 1\n",
            "sipnat_sip_timers_total{timer=\"B\"} 1\n",
            "sipnat_sip_response_seconds_bucket{le=\"0.00025\"} 0\n",
            "sipnat_sip_response_seconds_bucket{le=\"0.0005\"} 1\n",
            "sipnat_sip_response_seconds_bucket{le=\"32\"} 1\n",
            "sipnat_sip_response_seconds_bucket{le=\"+Inf\"} 2\n",
            "sipnat_sip_response_seconds_sum 60.000300\n",
            "sipnat_sip_response_seconds_count 2\n",
            "sipnat_sip_paths{state=\"registration\"} 7\n",
            "sipnat_sip_messages_total{transport=\"tls\",direction=\"in\"} 3\n",
            "sipnat_sip_connections_total{transport=\"tls\",direction=\"in\"} 4\n",
            "sipnat_sip_connections{transport=\"tls\"} 2\n",
            "sipnat_sip_transport_dropped_total{reason=\"slow\"} 5\n",
            "sipnat_sip_dns_queries_total{result=\"unanswered\"} 6\n",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
        assert_eq!(
            text.matches("sipnat_sip_responses_total{").count(),
            2,
            "no line for what never was"
        );
    }
}
