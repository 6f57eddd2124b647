//! A trace on a terminal: one column for each endpoint, an arrow for each message.

use std::{fmt::Write as _, net::SocketAddr};

use crate::records::TraceRecord;

/// Columns between two lifelines: an IPv4 endpoint and a blank.
const STEP: usize = 23;
/// The longest IPv4 endpoint.
const ENDPOINT: usize = 21;
/// The time stands before the first lifeline.
const MARGIN: usize = 13;
/// What an arrow needs beside its label: blanks, a dash at each end, the tip.
const SHAFT: usize = 5;
/// Endpoints that have columns; a message of further ones is shown as a line of text.
const MAX_ENDPOINTS: usize = 16;

/// Draws messages as they come. Endpoints get their columns in the order in which they appear.
#[derive(Debug)]
pub struct Ladder {
    endpoints: Vec<SocketAddr>,
    /// Characters of a line.
    width: usize,
}

impl Ladder {
    /// `width`: the terminal's; endpoints beyond it get no column.
    pub fn new(width: usize) -> Ladder {
        Ladder {
            endpoints: Vec::new(),
            width,
        }
    }

    /// The lines that one message adds, each with its end.
    pub fn draw(&mut self, record: &TraceRecord) -> String {
        let (from, to) = match record.direction.as_str() {
            "in" => (record.remote, record.local),
            _ => (record.local, record.remote),
        };
        let known = self.endpoints.len();
        let mut out = String::new();
        if record.missed > 0 {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{:MARGIN$}… {} messages were missed", "", record.missed);
        }
        let time = record.time.to_string();
        let time = time.get(11..23).unwrap_or(&time);
        match (self.column(from), self.column(to)) {
            (Some(from), Some(to)) if from != to => {
                if self.endpoints.len() != known {
                    out.push_str(&self.header());
                }
                let label = label(record, from.abs_diff(to) * STEP - 1 - SHAFT);
                let _ = writeln!(out, "{time} {}", self.arrow(from, to, &label));
            }
            _ => {
                let _ = writeln!(out, "{time} {from} → {to}: {}", label(record, usize::MAX));
            }
        }
        out
    }

    fn column(&mut self, endpoint: SocketAddr) -> Option<usize> {
        if let Some(column) = self.endpoints.iter().position(|known| *known == endpoint) {
            return Some(column);
        }
        let column = self.endpoints.len();
        if column >= MAX_ENDPOINTS || MARGIN + column * STEP + ENDPOINT > self.width {
            return None;
        }
        self.endpoints.push(endpoint);
        Some(column)
    }

    fn header(&self) -> String {
        let mut line = " ".repeat(MARGIN);
        for endpoint in &self.endpoints {
            let _ = write!(line, "{:<STEP$}", endpoint.to_string());
        }
        format!("{}\n", line.trim_end())
    }

    /// `│                      │──── 200 OK ─────────▶│`, over as many columns as there are between the two.
    fn arrow(&self, from: usize, to: usize, label: &str) -> String {
        let (left, right) = (from.min(to), from.max(to));
        let mut line = String::new();
        for column in 0..self.endpoints.len() {
            line.push('│');
            let room = STEP - 1;
            if column == left {
                let room = (right - left) * STEP - 1;
                line.push_str(&shaft(label, room, from < to));
            } else if column < left || column >= right {
                line.extend(std::iter::repeat_n(' ', room));
            }
            // Lifelines between the two are crossed.
            if (left + 1..right).contains(&column) {
                line.pop();
            }
        }
        line.trim_end().to_owned()
    }
}

/// The label within a line of `room` characters that points to the right or the left.
fn shaft(label: &str, room: usize, rightwards: bool) -> String {
    let label: String = label.chars().take(room.saturating_sub(SHAFT)).collect();
    let label = format!(" {label} ");
    let rest = room - 1 - label.chars().count();
    let before = rest / 2;
    let (before, after) = ("─".repeat(before), "─".repeat(rest - before));
    if rightwards {
        format!("{before}{label}{after}▶")
    } else {
        format!("◀{before}{label}{after}")
    }
}

/// What stands at an arrow: a request's method, or a response, with the method that it answers if there is room for it.
fn label(record: &TraceRecord, room: usize) -> String {
    let method = record.cseq.split_whitespace().nth(1).unwrap_or_default();
    let first = record.summary.split(' ').next().unwrap_or_default();
    if first.parse::<u16>().is_err() {
        return first.to_owned();
    }
    let whole = format!("{} ({method})", record.summary);
    if whole.chars().count() <= room {
        whole
    } else {
        record.summary.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{records::Time, sip::flow::Transport};

    fn record(direction: &str, local: &str, remote: &str, summary: &str) -> TraceRecord {
        TraceRecord {
            time: "2026-01-02T03:04:05.678Z".parse::<Time>().unwrap(),
            direction: direction.into(),
            transport: Transport::Udp,
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            summary: summary.into(),
            call_id: "a".into(),
            cseq: "1 INVITE".into(),
            message: String::new(),
            missed: 0,
        }
    }

    const US: &str = "134.56.3.1:5060";
    const CALLER: &str = "134.56.2.1:5060";
    const PHONE: &str = "134.56.1.1:5070";

    #[test]
    fn a_call_is_a_ladder() {
        let mut ladder = Ladder::new(80);
        let invite = "INVITE sip:user@net.com";
        let mut drawn = String::new();
        for (direction, remote, summary) in [
            ("in", CALLER, invite),
            ("out", PHONE, invite),
            ("in", PHONE, "180 Ringing"),
            ("out", CALLER, "180 Ringing"),
        ] {
            drawn += &ladder.draw(&record(direction, US, remote, summary));
        }
        let expected = "             134.56.2.1:5060        134.56.3.1:5060
03:04:05.678 │────── INVITE ───────▶│
             134.56.2.1:5060        134.56.3.1:5060        134.56.1.1:5070
03:04:05.678 │                      │────── INVITE ───────▶│
03:04:05.678 │                      │◀──── 180 Ringing ────│
03:04:05.678 │◀──── 180 Ringing ────│                      │
";
        assert_eq!(drawn, expected);
    }

    #[test]
    fn arrows_cross_the_columns_between() {
        let mut ladder = Ladder::new(80);
        for remote in [CALLER, PHONE] {
            ladder.draw(&record("in", US, remote, "OPTIONS sip:a"));
        }
        // Another socket of ours talks to the caller.
        let line = ladder.draw(&record("out", PHONE, CALLER, "200 OK"));
        assert_eq!(line, "03:04:05.678 │◀───────────── 200 OK (INVITE) ──────────────│\n");
        let line = ladder.draw(&record("in", PHONE, CALLER, "BYE sip:a"));
        assert_eq!(line, "03:04:05.678 │─────────────────── BYE ────────────────────▶│\n");
    }

    #[test]
    fn what_has_no_room_is_text() {
        let mut ladder = Ladder::new(60);
        ladder.draw(&record("in", US, CALLER, "INVITE sip:a"));
        let mut missed = record("out", US, PHONE, "INVITE sip:a");
        missed.missed = 3;
        let drawn = ladder.draw(&missed);
        assert_eq!(
            drawn,
            "             … 3 messages were missed\n03:04:05.678 134.56.3.1:5060 → 134.56.1.1:5070: INVITE\n"
        );
        // Nothing is drawn wider than it may be.
        assert!(
            ladder
                .draw(&record("in", US, CALLER, "486 x"))
                .trim_end()
                .chars()
                .count()
                <= 60
        );
    }
}
