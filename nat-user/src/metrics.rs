//! Prometheus metrics in the text exposition format, `GET /metrics` and nothing else. Off unless `metrics.listen` is set.

mod relays;
mod sip;

use std::{
    fmt::{Display, Write},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, Semaphore},
    task::JoinSet,
};

use crate::{
    control::{Service, ServiceError},
    records::{CounterRecord, RelayTotals, SIP, SLOW, SipTotals, StatusRecord, SweepRecord},
};

/// Connections at one time; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 16;
/// How long a request's head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may last, kept alive or not.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// The least that hyper accepts; a scraper's head is a few hundred bytes.
const HEAD_BYTES: usize = 8 * 1024;

/// Opens the socket for [`serve`].
pub async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot serve metrics on {address}; choose another metrics.listen or stop who has it"))
}

/// Serves until `shutdown` completes.
pub async fn serve(listener: TcpListener, service: Arc<dyn Service>, shutdown: impl Future<Output = ()>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // Many scrapers at once cost the tables no more than one does.
    let scrape = Arc::new(Mutex::new(()));
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let next = async {
            let slot = slots.clone().acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            () = &mut shutdown => return,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            next = next => next,
        };
        let Ok((stream, _)) = accepted else {
            // Out of descriptors, most likely: give connections time to end.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (service, scrape) = (service.clone(), scrape.clone());
        connections.spawn(async move {
            let _slot = slot;
            // Neither a timeout nor a broken connection is of interest to the NAT.
            let _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection(stream, service, scrape)).await;
        });
    }
}

async fn connection(stream: TcpStream, service: Arc<dyn Service>, scrape: Arc<Mutex<()>>) -> Result<(), hyper::Error> {
    let respond = service_fn(move |request: Request<Incoming>| {
        let (service, scrape) = (service.clone(), scrape.clone());
        async move { Ok::<_, std::convert::Infallible>(respond(request, service, &scrape).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), respond)
        .await
}

async fn respond(request: Request<Incoming>, service: Arc<dyn Service>, scrape: &Mutex<()>) -> Response<Full<Bytes>> {
    let plain = |status, text: String| {
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        let kind = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    };
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "metrics are at /metrics\n".into());
    }
    if request.method() != Method::GET {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into());
        response
            .headers_mut()
            .insert(ALLOW, hyper::header::HeaderValue::from_static("GET"));
        return response;
    }
    let _one_at_a_time = scrape.lock().await;
    match tokio::task::spawn_blocking(move || render(&*service)).await {
        Ok(Ok(text)) => plain(StatusCode::OK, text),
        Ok(Err(error)) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        Err(error) => {
            tracing::error!(%error, "metrics could not be collected");
            plain(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the daemon's log has the cause\n".into(),
            )
        }
    }
}

/// All metrics of `service` as text.
pub fn render(service: &dyn Service) -> Result<String, ServiceError> {
    let status = service.status()?;
    let sip = match &status.sip {
        Some(_) => Some(service.sip()?.totals()?),
        None => None,
    };
    let relays = status.nat.then(|| service.relay_totals()).transpose()?;
    Ok(text(&status, &service.counters()?, relays.as_ref(), sip.as_ref()))
}

fn text(
    status: &StatusRecord,
    counters: &[CounterRecord],
    relays: Option<&RelayTotals>,
    sip: Option<&SipTotals>,
) -> String {
    let mut out = Text(String::with_capacity(16 * 1024));
    out.family(
        "sipnat_build_info",
        "gauge",
        "Version of the daemon and schema of its maps; always 1.",
    );
    out.sample(
        "sipnat_build_info",
        &[
            ("version", &status.version),
            ("schema", &status.schema_version.to_string()),
        ],
        1,
    );
    out.one(
        "sipnat_uptime_seconds",
        "gauge",
        "Since the daemon started.",
        status.uptime_s,
    );
    out.one(
        "sipnat_warnings",
        "gauge",
        "Warnings that `sipnat status` explains.",
        status.warnings.len() as u64,
    );
    if status.nat {
        nat(&mut out, status, counters);
    }
    if let Some(totals) = relays {
        relays::write(&mut out, totals);
    }
    if let Some(totals) = sip {
        sip::write(&mut out, totals);
    }
    out.0
}

fn nat(out: &mut Text, status: &StatusRecord, counters: &[CounterRecord]) {
    out.family(
        "sipnat_packets_total",
        "counter",
        "Packets by direction and by the one reason of their verdict.",
    );
    let slow = |record: &&CounterRecord| record.direction == SLOW;
    let packets = |record: &&CounterRecord| record.direction != SLOW && record.direction != SIP;
    for CounterRecord { name, direction, value } in counters.iter().filter(packets) {
        out.sample(
            "sipnat_packets_total",
            &[("direction", direction), ("reason", name)],
            *value,
        );
    }
    out.family(
        "sipnat_slow_path_total",
        "counter",
        "What the daemon's slow path did with the packets that it was given.",
    );
    for CounterRecord { name, value, .. } in counters.iter().filter(slow) {
        out.sample("sipnat_slow_path_total", &[("event", name)], *value);
    }
    out.family(
        "sipnat_exhaustion_events_total",
        "counter",
        "Events of new flows that found no port, for one host one in ten seconds; their packets are in sipnat_packets_total.",
    );
    for (cause, count) in [("quota", status.exhaustion.quota), ("pool", status.exhaustion.pool)] {
        out.sample("sipnat_exhaustion_events_total", &[("cause", cause)], count);
    }
    out.family("sipnat_bindings", "gauge", "Bindings that exist.");
    let counts = status.bindings;
    for (proto, count) in [("tcp", counts.tcp), ("udp", counts.udp), ("icmp", counts.icmp)] {
        out.sample("sipnat_bindings", &[("proto", proto)], count);
    }
    out.one(
        "sipnat_bindings_capacity",
        "gauge",
        "Most bindings at one time.",
        status.capacity,
    );
    out.one("sipnat_sessions", "gauge", "Sessions that exist.", status.sessions);
    sweep(out, &status.sweep);
    out.one(
        "sipnat_blocks_used",
        "gauge",
        "Blocks of ports that inside hosts own.",
        status.pool.blocks_used,
    );
    out.one(
        "sipnat_blocks",
        "gauge",
        "Blocks of ports in the pool.",
        status.pool.blocks_total,
    );
    out.one(
        "sipnat_pool_hosts",
        "gauge",
        "Hosts that can have a block at one time.",
        status.pool.hosts,
    );
    out.one(
        "sipnat_pool_bindings",
        "gauge",
        "Bindings of one protocol that the pool serves.",
        status.pool.bindings,
    );
    out.one(
        "sipnat_external_addresses",
        "gauge",
        "External addresses in use.",
        status.external_addresses.len() as u64,
    );
    out.one(
        "sipnat_memory_bytes",
        "gauge",
        "Kernel memory of the maps.",
        status.memory_bytes,
    );
    out.family(
        "sipnat_interface_info",
        "gauge",
        "Interfaces the program is attached to; always 1.",
    );
    for interface in &status.interfaces {
        let vlan = interface.vlan.map(|vlan| vlan.to_string()).unwrap_or_default();
        let labels = [
            ("interface", &*interface.name),
            ("role", &interface.role),
            ("mode", &interface.mode),
            ("vlan", &vlan),
        ];
        out.sample("sipnat_interface_info", &labels, 1);
    }
}

fn sweep(out: &mut Text, sweep: &SweepRecord) {
    out.one(
        "sipnat_sweep_passes_total",
        "counter",
        "Passes of the sweeper, which frees expired bindings.",
        sweep.passes,
    );
    out.seconds(
        "sipnat_sweep_cpu_seconds",
        "Processor time of the sweeper's last pass.",
        sweep.cpu_us,
    );
    out.seconds(
        "sipnat_sweep_cpu_max_seconds",
        "Processor time of the dearest of the sweeper's last ten passes.",
        sweep.cpu_us_max,
    );
    out.one(
        "sipnat_sweep_bindings_visited",
        "gauge",
        "Ports in use that the last pass looked at.",
        sweep.bindings_visited,
    );
    out.one(
        "sipnat_sweep_expired_total",
        "counter",
        "Bindings that the sweeper found expired.",
        sweep.expired,
    );
    out.one(
        "sipnat_sweep_repaired_total",
        "counter",
        "Entries that nobody owned, put right.",
        sweep.repaired,
    );
}

/// The text exposition format, version 0.0.4. Writing to a `String` cannot fail.
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    /// A gauge of microseconds, in seconds.
    fn seconds(&mut self, name: &str, help: &str, us: u64) {
        self.family(name, "gauge", help);
        self.sample(name, &[], format_args!("{}.{:06}", us / 1_000_000, us % 1_000_000));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{text}\"", if index == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{BindingCounts, ExhaustionRecord, InterfaceRecord};

    #[test]
    fn the_exposition_has_every_family_once_and_escapes_labels() {
        let status = StatusRecord {
            nat: true,
            version: "1.0".into(),
            bindings: BindingCounts {
                tcp: 1,
                udp: 2,
                icmp: 3,
            },
            interfaces: vec![InterfaceRecord {
                name: "a\"b\\c\n".into(),
                role: "inside".into(),
                mode: "native".into(),
                ifindex: 2,
                mtu: 1500,
                vlan: Some(7),
            }],
            sweep: SweepRecord {
                cpu_us: 2_030_405,
                ..SweepRecord::default()
            },
            exhaustion: ExhaustionRecord { quota: 8, pool: 9 },
            ..StatusRecord::default()
        };
        let counters = [
            ("out", "forwarded", 5),
            ("in", "forwarded", 6),
            (SLOW, "split", 7),
            (SIP, "stray", 8),
        ]
        .map(|(direction, name, value)| CounterRecord {
            name: name.into(),
            direction: direction.into(),
            value,
        });
        let text = text(
            &status,
            &counters,
            Some(&RelayTotals::default()),
            Some(&SipTotals::default()),
        );
        for expected in [
            "sipnat_build_info{version=\"1.0\",schema=\"0\"} 1\n",
            "sipnat_packets_total{direction=\"out\",reason=\"forwarded\"} 5\n",
            "sipnat_packets_total{direction=\"in\",reason=\"forwarded\"} 6\n",
            "sipnat_bindings{proto=\"udp\"} 2\n",
            "sipnat_slow_path_total{event=\"split\"} 7\n",
            "sipnat_exhaustion_events_total{cause=\"quota\"} 8\n",
            "sipnat_exhaustion_events_total{cause=\"pool\"} 9\n",
            "sipnat_sweep_cpu_seconds 2.030405\n",
            "sipnat_sessions 0\n",
            "sipnat_interface_info{interface=\"a\\\"b\\\\c\\n\",role=\"inside\",mode=\"native\",vlan=\"7\"} 1\n",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
        for not_packets in [SLOW, SIP] {
            assert!(
                !text.contains(&format!("direction=\"{not_packets}\"")),
                "no packet counts twice\n{text}"
            );
        }
        let mut families: Vec<&str> = text.lines().filter(|line| line.starts_with("# TYPE ")).collect();
        let count = families.len();
        families.sort_unstable();
        families.dedup();
        assert_eq!((families.len(), text.matches("# HELP ").count()), (count, count));
        let readme = include_str!("../../README.md");
        for family in families {
            let name = family.split(' ').nth(2).unwrap();
            let named = [format!("`{name}`"), format!("`{name}{{")];
            assert!(
                named.iter().any(|form| readme.contains(form)),
                "{name} is not in README.md"
            );
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(name.starts_with("sipnat_") && value.parse::<f64>().is_ok(), "{line}");
        }
    }
}
