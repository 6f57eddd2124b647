//! From the TOML to a valid [`Config`]: all bounds and all checks between values.
//! What needs the machine (does the interface exist, is there memory) is checked by preflight.

use std::{fmt::Display, ops::RangeInclusive, time::Duration};

use toml::Spanned;

use super::{
    Config, ConfigError, Daemon, FilteringByProto, Fragments, Icmp, Lifetimes, Log, Metrics, Nat, Overrides, Pap,
    PortRange, Ports,
    error::Fault,
    nat,
    raw::{self, At, Raw},
    rules, sip,
    text::Text,
};
use crate::units::show_duration;

/// The longest UDP, ICMP and fragment lifetime.
const DAY: Duration = Duration::from_secs(86_400);
/// The longest TCP lifetime.
pub(super) const TCP_MAX: Duration = Duration::from_secs(30 * 86_400);

/// Validates `text`; `file` is its name in errors.
pub fn config(text: &str, file: &str, overrides: &Overrides) -> Result<Config, ConfigError> {
    toml::from_str::<Raw>(text)
        .map_err(|error| Fault::from_toml(&error))
        .and_then(|raw| build(raw, overrides))
        .map_err(|fault| fault.locate(text, file))
}

fn build(raw: Raw, overrides: &Overrides) -> Result<Config, Fault> {
    let sip_at = raw.sip.as_ref().map(Spanned::span);
    let sip = raw.sip.map(|sip| sip::validate::sip(sip.into_inner())).transpose()?;
    // A SIP server can run where nothing is translated; whoever writes [nat] means one.
    let wants_nat = raw.nat.is_some() || !overrides.inside.is_empty() || !overrides.outside.is_empty();
    let nat = match (wants_nat, &sip) {
        (false, Some(_)) => Nat::default(),
        _ => nat::nat(raw.nat.unwrap_or_default(), overrides)?,
    };
    if let Some(forward) = raw.forward.first().filter(|_| !nat.runs()) {
        return Err(Fault::at(
            forward.span(),
            "a forward needs a NAT, and without [nat] none runs",
            "write [nat] with inside and outside interfaces, or remove the forward",
        ));
    }
    let forwards = rules::forwards(raw.forward, &nat)?;
    let pap = match raw.pap {
        Some(pap) if !nat.runs() => {
            return Err(Fault::at(
                pap.span(),
                "[pap] gives out ports of a NAT, and without [nat] none runs",
                "write [nat] with inside and outside interfaces, or remove [pap]",
            ));
        }
        Some(raw) => Some(pap(raw.into_inner())?),
        None => None,
    };
    let mut ports = ports(raw.ports)?;
    if pap.is_some() {
        // RFC 6887 section 11.3: nobody is mapped to these.
        ports.exclude.push(PortRange {
            first: crate::pap::CLIENT_PORT,
            last: crate::pap::SERVER_PORT,
        });
    }
    if let (Some(sip), Some(at), true) = (&sip, sip_at, nat.runs()) {
        sip::validate::with_nat(sip, &nat, &ports, &forwards, at)?;
    }
    Ok(Config {
        daemon: daemon(raw.daemon, overrides)?,
        ports,
        filtering: filtering(&raw.filtering),
        lifetimes: lifetimes(raw.lifetimes)?,
        forwards,
        policy: rules::policy(raw.policy)?,
        icmp: icmp(raw.icmp)?,
        fragments: fragments(raw.fragments)?,
        log: Log {
            blocks: raw.log.blocks.map(|target| target.0).unwrap_or_default(),
        },
        metrics: metrics(raw.metrics)?,
        pap,
        nat,
        sip,
    })
}

fn daemon(raw: raw::Daemon, overrides: &Overrides) -> Result<Daemon, Fault> {
    let default = Daemon::default();
    let log = match raw.log {
        Some(log) => {
            if let Err(error) = tracing_subscriber::EnvFilter::builder().parse(log.get_ref()) {
                let message = format!("daemon.log is no log filter ({error})");
                return Err(Fault::at(
                    log.span(),
                    message,
                    "write error, warn, info, debug, trace or module=level",
                ));
            }
            log.into_inner()
        }
        None => default.log,
    };
    let path = |raw: At<std::path::PathBuf>, name: &str, over: &Option<_>, default| match (over, raw) {
        (Some(over), _) => Ok(std::path::PathBuf::clone(over)),
        (None, None) => Ok(default),
        (None, Some(path)) if path.get_ref().is_absolute() => Ok(path.into_inner()),
        (None, Some(path)) => Err(Fault::at(
            path.span(),
            format!(
                "{name} is `{}`, which depends on where the daemon is started",
                path.get_ref().display()
            ),
            "write an absolute path",
        )),
    };
    Ok(Daemon {
        socket: path(raw.socket, "daemon.socket", &overrides.socket, default.socket)?,
        pin_dir: path(raw.pin_dir, "daemon.pin_dir", &overrides.pin_dir, default.pin_dir)?,
        log,
    })
}

fn ports(raw: raw::Ports) -> Result<Ports, Fault> {
    let default = Ports::default();
    let range_span = raw.range.as_ref().map(Spanned::span);
    let range = raw.range.map_or(default.range, |range| range.into_inner().0);
    if range.first < 1024 && !raw.allow_well_known {
        return Err(Fault {
            span: range_span,
            message: format!("ports.range {range} has ports below 1024, which servers own (RFC 4787 REQ-3)"),
            remedy: "begin at 1024, or write allow_well_known = true beside it".into(),
        });
    }
    if range.first == 0 {
        return Err(Fault {
            span: range_span,
            message: "ports.range has port 0, which nobody can use".into(),
            remedy: "begin at 1".into(),
        });
    }
    let block_span = raw.block_size.as_ref().map(Spanned::span);
    let block_size: u16 = number(
        raw.block_size,
        default.block_size,
        16..=1024,
        "ports.block_size",
        "ports",
    )?;
    if !block_size.is_power_of_two() {
        let (below, above) = (block_size.next_power_of_two() / 2, block_size.next_power_of_two());
        return Err(Fault {
            span: block_span,
            message: format!("ports.block_size is {block_size}, which is no power of two"),
            remedy: format!("write {below} or {above}"),
        });
    }
    let exclude: Vec<PortRange> = raw.exclude.iter().map(|range| range.get_ref().0).collect();
    if !has_free_block(range, &exclude, block_size) {
        return Err(Fault {
            span: raw.exclude.first().map(Spanned::span).or(range_span),
            message: format!("ports.range {range} less ports.exclude has no whole block of {block_size} ports"),
            remedy: "widen the range, exclude less, or write a smaller block_size".into(),
        });
    }
    Ok(Ports {
        range,
        exclude,
        exclude_local: raw.exclude_local.unwrap_or(default.exclude_local),
        block_size,
        blocks_per_host: number(
            raw.blocks_per_host,
            default.blocks_per_host,
            1..=64,
            "ports.blocks_per_host",
            "blocks",
        )?,
        rest: duration(
            raw.rest,
            default.rest,
            Duration::ZERO,
            Duration::from_secs(3600),
            "ports.rest",
            "RFC 6888 REQ-8 asks for 120s",
        )?,
        hosts: number(raw.hosts, default.hosts, 16..=16_777_216, "ports.hosts", "hosts")?,
    })
}

/// Whether one aligned block lies in `range` and touches nothing of `exclude`.
fn has_free_block(range: PortRange, exclude: &[PortRange], block_size: u16) -> bool {
    let size = u32::from(block_size);
    (0..65536 / size).any(|block| {
        let block = PortRange {
            first: (block * size) as u16,
            last: (block * size + size - 1) as u16,
        };
        range.first <= block.first && block.last <= range.last && !exclude.iter().any(|range| range.overlaps(&block))
    })
}

fn filtering(raw: &raw::FilteringByProto) -> FilteringByProto {
    let default = FilteringByProto::default();
    FilteringByProto {
        udp: raw.udp.unwrap_or(default.udp),
        tcp: raw.tcp.unwrap_or(default.tcp),
        icmp: raw.icmp.unwrap_or(default.icmp),
    }
}

fn lifetimes(raw: raw::Lifetimes) -> Result<Lifetimes, Fault> {
    let default = Lifetimes::default();
    let seconds = Duration::from_secs;
    let transitory = if raw.allow_short { seconds(10) } else { seconds(240) };
    let transitory_rule =
        "RFC 5382 REQ-5 asks for at least 4m; RFC 7857 section 2.1 lets it be less, with allow_short = true";
    Ok(Lifetimes {
        udp: duration(
            raw.udp,
            default.udp,
            seconds(120),
            DAY,
            "lifetimes.udp",
            "RFC 4787 REQ-5 asks for at least 2m",
        )?,
        tcp_established: duration(
            raw.tcp_established,
            default.tcp_established,
            seconds(7440),
            TCP_MAX,
            "lifetimes.tcp_established",
            "RFC 5382 REQ-5 asks for at least 2h4m",
        )?,
        tcp_opening: duration(
            raw.tcp_opening,
            default.tcp_opening,
            transitory,
            TCP_MAX,
            "lifetimes.tcp_opening",
            transitory_rule,
        )?,
        tcp_closing: duration(
            raw.tcp_closing,
            default.tcp_closing,
            transitory,
            TCP_MAX,
            "lifetimes.tcp_closing",
            transitory_rule,
        )?,
        icmp: duration(
            raw.icmp,
            default.icmp,
            seconds(60),
            DAY,
            "lifetimes.icmp",
            "RFC 5508 REQ-2 asks for at least 60s",
        )?,
        refresh: raw.refresh.unwrap_or(default.refresh),
        fragments: duration(
            raw.fragments,
            default.fragments,
            seconds(1),
            seconds(120),
            "lifetimes.fragments",
            "RFC 791 section 3.2 holds fragments for 15s, RFC 1122 section 3.3.2 for at most 120s",
        )?,
    })
}

fn icmp(raw: raw::Icmp) -> Result<Icmp, Fault> {
    let default = Icmp::default();
    let rate = raw.rate.map_or(default.rate, |rate| rate.into_inner().0);
    let per_source_span = raw.rate_per_source.as_ref().map(Spanned::span);
    let rate_per_source = raw
        .rate_per_source
        .map_or(default.rate_per_source, |rate| rate.into_inner().0);
    if rate_per_source.interval_ns() < rate.interval_ns() {
        return Err(Fault {
            span: per_source_span,
            message: format!("icmp.rate_per_source {rate_per_source} is more than icmp.rate {rate}"),
            remedy: "raise rate or lower rate_per_source".into(),
        });
    }
    Ok(Icmp {
        unreachable: raw.unreachable.unwrap_or(default.unreachable),
        time_exceeded: raw.time_exceeded.unwrap_or(default.time_exceeded),
        fragmentation_needed: raw.fragmentation_needed.unwrap_or(default.fragmentation_needed),
        rate,
        rate_per_source,
    })
}

fn fragments(raw: raw::Fragments) -> Result<Fragments, Fault> {
    let default = Fragments::default();
    Ok(Fragments {
        memory: number(
            raw.memory,
            default.memory,
            65_536..=1_073_741_824,
            "fragments.memory",
            "bytes",
        )?,
        timeout: duration(
            raw.timeout,
            default.timeout,
            Duration::from_millis(100),
            Duration::from_secs(30),
            "fragments.timeout",
            "longer lets orphans fill the buffer, shorter loses reordered fragments",
        )?,
        datagrams: number(
            raw.datagrams,
            default.datagrams,
            16..=1_048_576,
            "fragments.datagrams",
            "datagrams",
        )?,
    })
}

fn metrics(raw: raw::Metrics) -> Result<Metrics, Fault> {
    let Some(listen) = raw.listen else {
        return Ok(Metrics { listen: None });
    };
    let address = listen.get_ref().0;
    if !address.ip().is_loopback() && !raw.allow_remote {
        let message =
            format!("metrics.listen {address} is not loopback, so others could read the metrics without a password");
        return Err(Fault::at(
            listen.span(),
            message,
            "listen on 127.0.0.1, or write allow_remote = true beside it",
        ));
    }
    Ok(Metrics { listen: Some(address) })
}

fn pap(raw: raw::Pap) -> Result<Pap, Fault> {
    let default = Pap::default();
    let rule =
        "RFC 6887 section 15 wants 120s at least, and a day at most where nothing is known about leases of addresses";
    let max_span = raw.max_lifetime.as_ref().map(Spanned::span);
    let bounded = |raw, default, name| duration(raw, default, Duration::from_secs(1), TCP_MAX, name, rule);
    let min_lifetime = bounded(raw.min_lifetime, default.min_lifetime, "pap.min_lifetime")?;
    let max_lifetime = bounded(raw.max_lifetime, default.max_lifetime, "pap.max_lifetime")?;
    if max_lifetime < min_lifetime {
        return Err(Fault {
            span: max_span,
            message: format!(
                "pap.max_lifetime {} is below pap.min_lifetime {}",
                show_duration(max_lifetime),
                show_duration(min_lifetime)
            ),
            remedy: "raise it, or lower the other".into(),
        });
    }
    Ok(Pap {
        store: raw.store.map_or(default.store, |store| store.into_inner().0.0),
        min_lifetime,
        max_lifetime,
        mappings_per_host: number(
            raw.mappings_per_host,
            default.mappings_per_host,
            1..=65_535,
            "pap.mappings_per_host",
            "mappings",
        )?,
        strict_nonce: raw.strict_nonce,
    })
}

/// An integer within `bounds`; `unit` completes the message.
pub(super) fn number<T: Copy + TryFrom<i64> + PartialOrd + Display>(
    raw: At<i64>,
    default: T,
    bounds: RangeInclusive<T>,
    name: &str,
    unit: &str,
) -> Result<T, Fault> {
    let Some(raw) = raw else { return Ok(default) };
    T::try_from(*raw.get_ref())
        .ok()
        .filter(|value| bounds.contains(value))
        .ok_or_else(|| {
            Fault::at(
                raw.span(),
                format!("{name} is {} {unit}", raw.get_ref()),
                format!("write a number from {} to {}", bounds.start(), bounds.end()),
            )
        })
}

/// A duration from `min` to `max`; `rule` says where the bound comes from.
pub(super) fn duration(
    raw: At<Text<Duration>>,
    default: Duration,
    min: Duration,
    max: Duration,
    name: &str,
    rule: &str,
) -> Result<Duration, Fault> {
    let Some(raw) = raw else { return Ok(default) };
    let value = raw.get_ref().0;
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    Err(Fault::at(
        raw.span(),
        format!("{name} is {} ({rule})", show_duration(value)),
        format!("write a duration from {} to {}", show_duration(min), show_duration(max)),
    ))
}
