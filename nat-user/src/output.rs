//! How records look on a terminal. With `--json` they are printed as they came from the socket.

pub mod ladder;
pub mod pcap;
pub mod sip;
#[cfg(test)]
mod tests;

use std::{io, io::Write, net::SocketAddrV4, time::Duration};

use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};

use crate::{
    records::{
        BindingCounts, BindingRecord, BlockRecord, CounterRecord, Event, EventRecord, LeaseRecord, LookupRecord,
        RelayRecord, StatusRecord, Traffic,
    },
    units::show_duration,
};

/// Rows of bindings that a table has without `--limit`.
pub const TABLE_LIMIT: u64 = 1000;

/// Writes lines of JSON as one array, without holding them.
pub struct JsonArray<W: Write> {
    out: W,
    empty: bool,
}

impl<W: Write> JsonArray<W> {
    pub fn begin(mut out: W) -> io::Result<Self> {
        write!(out, "[")?;
        Ok(JsonArray { out, empty: true })
    }

    /// Adds one record, which is JSON already.
    pub fn push(&mut self, record: &str) -> io::Result<()> {
        let separator = if self.empty { "\n " } else { ",\n " };
        self.empty = false;
        write!(self.out, "{separator}{record}")
    }

    pub fn end(mut self) -> io::Result<()> {
        writeln!(self.out, "{}", if self.empty { "]" } else { "\n]" })?;
        self.out.flush()
    }
}

/// `sipnat bindings`.
pub fn bindings(records: &[BindingRecord]) -> Table {
    let counted = records.iter().any(|record| record.traffic.is_some());
    let with_remotes = records.iter().any(|record| !record.remotes.is_empty());
    let mut columns = vec!["PROTO", "INSIDE", "EXTERNAL", "KIND", ">IDLE", ">EXPIRES"];
    if with_remotes {
        columns.push("REMOTES");
    }
    if counted {
        columns.extend([">PKTS OUT/IN", ">BYTES OUT/IN"]);
    }
    let mut table = table(&columns);
    // Endpoints are copied and pasted: rather other columns break when the terminal is narrow.
    for index in [1, 2] {
        if let Some(column) = table.column_mut(index) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    for record in records {
        let mut row = vec![
            record.proto.to_string(),
            record.inside.to_string(),
            record.external.to_string(),
            record.kind.name().to_owned(),
            seconds(record.idle_s),
            record.expires_s.map_or("-".into(), seconds),
        ];
        if with_remotes {
            row.push(remotes(record));
        }
        if counted {
            row.extend(match record.traffic {
                Some(Traffic {
                    packets_out,
                    bytes_out,
                    packets_in,
                    bytes_in,
                }) => [
                    format!("{packets_out} / {packets_in}"),
                    format!("{} / {}", bytes(bytes_out), bytes(bytes_in)),
                ],
                None => ["-".into(), "-".into()],
            });
        }
        add(&mut table, &columns, row);
    }
    table
}

/// The first of the remote endpoints, and how many more there are.
fn remotes(record: &BindingRecord) -> String {
    let Some(first) = record.remotes.first() else {
        return "-".into();
    };
    match record.sessions.unwrap_or_default().saturating_sub(1) {
        0 => first.to_string(),
        more => format!("{first} +{more}"),
    }
}

/// `sipnat blocks`.
pub fn blocks(records: &[BlockRecord]) -> Table {
    let columns = ["HOST", "EXTERNAL", "PORTS", ">USED", "SINCE"];
    let mut table = table(&columns);
    for record in records {
        let row = [
            record.host.to_string(),
            record.external_ip.to_string(),
            format!("{}-{}", record.first_port, record.last_port),
            record.ports_used.to_string(),
            record.since.to_string(),
        ];
        add(&mut table, &columns, row);
    }
    table
}

/// `sipnat relays`.
pub fn relays(records: &[RelayRecord]) -> Table {
    let first = [">CALL", ">LEG", ">TO", "EXTERNAL"];
    let columns: Vec<&str> = first.into_iter().chain(LEG).collect();
    let mut table = table(&columns);
    for record in records {
        let row = [
            record.call.to_string(),
            record.leg.to_string(),
            record.partner.to_string(),
            endpoint(record.external),
        ];
        add(&mut table, &columns, row.into_iter().chain(leg(record)));
    }
    table
}

/// `sipnat leases`.
pub fn leases(records: &[LeaseRecord]) -> Table {
    let columns = ["PROTO", "INSIDE", "EXTERNAL", "BY", ">EXPIRES", "FOR"];
    let mut table = table(&columns);
    for record in records {
        let row = [
            record.proto.to_string(),
            record.inside.to_string(),
            record.external.to_string(),
            record.by.clone(),
            seconds(record.expires_s),
            record.description.clone(),
        ];
        add(&mut table, &columns, row);
    }
    table
}

/// The columns of what a leg has seen.
const LEG: [&str; 14] = [
    "CODEC", "PEER", ">LATCHED", ">PACKETS", ">BYTES", ">LOST", ">LATE", ">JITTER", ">RTT", ">SSRCS", ">REFUSED",
    ">IDLE", "HOLD", ">MOS",
];

/// What stands in them.
fn leg(record: &RelayRecord) -> [String; 14] {
    let dash = || "-".to_owned();
    let time = |of: Option<u64>| of.map_or_else(dash, milliseconds);
    let codec = match (&record.codec, record.rtcp) {
        (_, true) => "RTCP".into(),
        (Some(codec), false) => codec.clone(),
        (None, false) => dash(),
    };
    let ssrcs = record.ssrc.map_or(0, |_| u64::from(record.ssrc_changes) + 1);
    let refused: u64 = record.refused.values().map(|count| u64::from(*count)).sum();
    [
        codec,
        endpoint(record.peer),
        record.latched_s.map_or_else(dash, |s| format!("{} ago", seconds(s))),
        record.packets.to_string(),
        bytes(record.bytes),
        record.lost.to_string(),
        record.late.to_string(),
        time(record.jitter_us),
        time(record.round_trip_us),
        ssrcs.to_string(),
        refused.to_string(),
        seconds(record.idle_s),
        if record.hold { "yes" } else { "no" }.into(),
        record.mos.map_or_else(dash, |mos| mos.to_string()),
    ]
}

fn endpoint(of: Option<SocketAddrV4>) -> String {
    of.map_or_else(|| "-".into(), |of| of.to_string())
}

/// `sipnat counters`.
pub fn counters(records: &[CounterRecord]) -> Table {
    let columns = ["DIRECTION", "REASON", ">PACKETS"];
    let mut table = table(&columns);
    for record in records {
        add(
            &mut table,
            &columns,
            [record.direction.clone(), record.name.clone(), record.value.to_string()],
        );
    }
    table
}

/// `sipnat status`.
pub fn status(out: &mut impl Write, status: &StatusRecord) -> io::Result<()> {
    let runs = match (status.nat, &status.sip) {
        (true, Some(_)) => "NAT, SIP server",
        (true, None) => "NAT",
        (false, Some(_)) => "SIP server",
        (false, None) => "nothing",
    };
    let facts = [
        ("runs", runs.to_owned()),
        (
            "version",
            format!("{} (schema {})", status.version, status.schema_version),
        ),
        ("process", format!("{}, up {}", status.pid, seconds(status.uptime_s))),
    ];
    write_facts(out, facts)?;
    if status.nat {
        nat_status(out, status)?;
    }
    if let Some(sip) = &status.sip {
        writeln!(out)?;
        sip::status(out, sip)?;
    }
    for warning in &status.warnings {
        writeln!(out, "warning: {}", short(warning))?;
    }
    if status.warnings.iter().any(|warning| short(warning) != warning) {
        writeln!(out, "reasons and remedies: sipnat status --json, or the daemon's log")?;
    }
    Ok(())
}

fn write_facts(out: &mut impl Write, facts: impl IntoIterator<Item = (&'static str, String)>) -> io::Result<()> {
    facts
        .into_iter()
        .try_for_each(|(name, value)| writeln!(out, "{name:<11}{value}"))
}

fn nat_status(out: &mut impl Write, status: &StatusRecord) -> io::Result<()> {
    let (pool, sweep, exhaustion) = (status.pool, status.sweep, status.exhaustion);
    let BindingCounts { tcp, udp, icmp } = status.bindings;
    let addresses: Vec<String> = status.external_addresses.iter().map(ToString::to_string).collect();
    let facts = [
        (
            "external",
            if addresses.is_empty() {
                "none".into()
            } else {
                addresses.join(", ")
            },
        ),
        (
            "bindings",
            format!(
                "{} of {} (tcp {tcp}, udp {udp}, icmp {icmp})",
                tcp + udp + icmp,
                status.capacity
            ),
        ),
        ("sessions", status.sessions.to_string()),
        ("blocks", format!("{} of {} used", pool.blocks_used, pool.blocks_total)),
        ("hosts", format!("{} can have a block at one time", pool.hosts)),
        (
            "pool",
            format!(
                "{} bindings per protocol, {} ports per address",
                pool.bindings, pool.ports_per_address
            ),
        ),
        ("memory", bytes(status.memory_bytes)),
        (
            "sweep",
            format!(
                "{} of CPU for {} bindings in the last of {} passes, at most {} in the last ten",
                milliseconds(sweep.cpu_us),
                sweep.bindings_visited,
                sweep.passes,
                milliseconds(sweep.cpu_us_max)
            ),
        ),
        (
            "exhausted",
            format!(
                "{} times the quota, {} times the pool",
                exhaustion.quota, exhaustion.pool
            ),
        ),
    ];
    write_facts(out, facts)?;
    writeln!(out)?;

    let columns = ["INTERFACE", "ROLE", "MODE", ">INDEX", ">MTU", ">VLAN"];
    let mut interfaces = table(&columns);
    for interface in &status.interfaces {
        let row = [
            interface.name.clone(),
            interface.role.clone(),
            interface.mode.clone(),
            interface.ifindex.to_string(),
            interface.mtu.to_string(),
            interface.vlan.map_or("-".into(), |vlan| vlan.to_string()),
        ];
        add(&mut interfaces, &columns, row);
    }
    print(out, &interfaces)
}

/// A warning without its reason and remedy: preflight says `where: what: why`, others a first sentence.
fn short(warning: &str) -> &str {
    let line = warning.lines().next().unwrap_or_default();
    let what = line.find(": ").map_or(0, |end| end + 2);
    let end = [": ", "; ", ". "]
        .iter()
        .filter_map(|stop| line[what..].find(stop))
        .min();
    end.map_or(line, |end| &line[..what + end])
}

/// One line of `sipnat events`.
pub fn event(record: &EventRecord) -> String {
    let what = match &record.event {
        Event::BlockAssigned { block, .. } => {
            format!(
                "{} {}:{}-{}",
                block.host, block.external_ip, block.first_port, block.last_port
            )
        }
        Event::BlockReleased { block, duration_s } => format!(
            "{} {}:{}-{} after {}",
            block.host,
            block.external_ip,
            block.first_port,
            block.last_port,
            seconds(*duration_s)
        ),
        Event::Exhausted { host, proto, cause } => {
            format!("{host} {} ({cause})", proto.map_or("any", |proto| proto.name()))
        }
        Event::AddressesChanged { added, removed } => {
            format!("added {added:?}, removed {removed:?}")
        }
        Event::Reloaded { message } | Event::Warning { message } => message.clone(),
        Event::Missed { count } => format!("{count} events"),
    };
    format!("{} {:<17} {what}", record.time, record.event.name())
}

/// `sipnat lookup`.
pub fn lookup(record: &LookupRecord) -> String {
    let until = record
        .until
        .map_or("now, as far as the log knows".into(), |until| until.to_string());
    format!(
        "{} had {}:{}-{} from {} until {until}",
        record.host, record.external_ip, record.first_port, record.last_port, record.from
    )
}

/// Prints a table without the blanks at the ends of its lines.
pub fn print(out: &mut impl Write, table: &Table) -> io::Result<()> {
    writeln!(out, "{}", trimmed(table))
}

/// A table without lines; a column whose name begins with `>` is right-aligned. On a terminal it takes no
/// more than its width; in a pipe, what it needs.
fn table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(
        columns
            .iter()
            .map(|name| cell(name, name.trim_start_matches('>').to_owned())),
    );
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

fn add(table: &mut Table, columns: &[&str], row: impl IntoIterator<Item = String>) {
    table.add_row(columns.iter().zip(row).map(|(column, text)| cell(column, text)));
}

fn cell(column: &str, text: String) -> Cell {
    let alignment = if column.starts_with('>') {
        CellAlignment::Right
    } else {
        CellAlignment::Left
    };
    Cell::new(text).set_alignment(alignment)
}

fn trimmed(table: &Table) -> String {
    table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

fn seconds(seconds: u64) -> String {
    show_duration(Duration::from_secs(seconds))
}

fn milliseconds(us: u64) -> String {
    format!("{:.1} ms", us as f64 / 1000.0)
}

/// A number of bytes with three digits and a unit of 1024.
fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    for next in units {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {unit}")
    }
}
