//! RFC 7422 and RFC 8158: logs of low volume that answer who it was, and RFC 6888 REQ-12 to REQ-14 about logs.

use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tests::prelude::*;
use tests::programs::TempDir;
use tests::sipnat;

use crate::scene::{H, O, Scene, udp};

const WHY: &str = "conntrack logs, if at all, every connection with its destination (ctnetlink events), and no blocks";

struct Logged {
    s: Scene,
    file: PathBuf,
    _dir: TempDir,
}

impl Logged {
    fn new(ports: &str, scale: Option<f64>) -> Self {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("blocks.jsonl");
        let config = NatConfig::toml(&format!("[log]\nblocks = {file:?}\n{ports}"));
        let config = match scale {
            Some(scale) => config.lifetime_scale(scale),
            None => config,
        };
        let s = Scene::new(Lab::builder().inside_hosts(2), config);
        Self { s, file, _dir: dir }
    }

    fn records(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits for so many records of a kind, and returns them.
    fn wait(&self, event: &str, count: usize) -> Vec<Value> {
        let of_kind = || {
            let all = self.records().into_iter();
            all.filter(|record| record["event"] == event).collect::<Vec<Value>>()
        };
        wait_until(&format!("{count} records {event}"), SOON, || of_kind().len() >= count).unwrap();
        of_kind()
    }

    /// What `sipnat lookup` says without any daemon; `None` for "nobody".
    fn lookup(&self, external: SocketAddrV4, time: &str) -> Option<Value> {
        let output = Command::new(sipnat::binary().unwrap())
            .args(["lookup", "--json", "--log"])
            .arg(&self.file)
            .args([&external.to_string(), "udp", time])
            .output()
            .unwrap();
        match output.status.code() {
            Some(0) => Some(serde_json::from_slice(&output.stdout).unwrap()),
            Some(4) => None,
            other => panic!(
                "lookup ended with {other:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            ),
        }
    }
}

#[test]
fn one_record_for_a_block_of_ports() {
    if !applies_to(&[Nat::Sipnat], WHY) {
        return;
    }
    let mut log = Logged::new("", None);
    let seen: Vec<SocketAddrV4> = (6000..6032).map(|port| log.s.mapped(H(1), port, O(1), 9)).collect();
    let records = log.wait("block_assigned", 1);
    assert_eq!(records.len(), 1, "32 bindings of one host: {records:?}");
    let block = &records[0];
    assert_eq!(block["host"], "192.168.1.10", "{block}");
    assert_eq!(block["external_ip"], log.s.external(0).to_string(), "{block}");
    let port = |name: &str| block[name].as_u64().unwrap() as u16;
    let range = port("first_port")..=port("last_port");
    assert!(
        seen.iter().all(|external| range.contains(&external.port())),
        "{block} for {seen:?}"
    );
}

#[test]
fn lookup_finds_the_host_offline() {
    if !applies_to(&[Nat::Sipnat], WHY) {
        return;
    }
    let mut log = Logged::new("", Some(0.005));
    let seen = [H(1), H(2)].map(|h| log.s.mapped(h, 6000, O(1), 9));
    let assigned = log.wait("block_assigned", 2);
    // Bindings live 1.5 s; ports rest; then the blocks go back.
    let released = log.wait("block_released", 2);
    log.s.nat.kill9();
    for (external, host) in [(seen[0], "192.168.1.10"), (seen[1], "192.168.1.11")] {
        let of = |records: &[Value]| {
            let found = records.iter().find(|record| record["host"] == host);
            found.expect("a record of each host")["time"]
                .as_str()
                .unwrap()
                .to_string()
        };
        let answer = log.lookup(external, &of(&assigned));
        let hosts = answer.expect("somebody had it").to_string();
        assert!(hosts.contains(host), "{external}: {hosts}");
        assert_eq!(
            log.lookup(external, "2020-01-01T00:00:00Z"),
            None,
            "before it was assigned"
        );
        let after = "2100-01-01T00:00:00Z";
        assert_eq!(
            log.lookup(external, after),
            None,
            "after it was released at {}",
            of(&released)
        );
    }
}

#[test]
fn req_12_no_destination_is_logged() {
    if !applies_to(&[Nat::Sipnat], WHY) {
        return;
    }
    let mut log = Logged::new("[ports]\nblock_size = 16\nblocks_per_host = 1\n", None);
    for port in 6000..6016 {
        log.s.mapped(H(1), port, O(1), 54_321);
    }
    // One more than fits, so that exhaustion is an event as well.
    let more = udp(log.s.on(H(1), 6016), log.s.on(O(1), 54_321));
    log.s.send(H(1), &more);
    log.wait("block_assigned", 1);
    let events = wait_for("the event of exhaustion", SOON, || {
        let output = log.s.nat.sipnat(&["events", "--json"]).ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.contains("exhausted").then_some(text)
    })
    .unwrap();
    for text in [events, std::fs::read_to_string(&log.file).unwrap()] {
        for destination in [log.s.host(O(1)).ip.to_string(), "54321".into()] {
            assert!(!text.contains(&destination), "{destination} is in {text}");
        }
    }
}

#[test]
fn req_14_a_thousand_bindings_make_few_records() {
    if !applies_to(&[Nat::Sipnat], WHY) {
        return;
    }
    let mut log = Logged::new("", None);
    let mut last = None;
    for port in 6000..7000 {
        last = Some(log.s.mapped(H(1), port, O(1), 9));
    }
    let covers = |record: &Value, port: u64| {
        let bound = |name: &str| record[name].as_u64().unwrap_or_default();
        (bound("first_port")..=bound("last_port")).contains(&port)
    };
    let last = u64::from(last.expect("a thousand").port());
    wait_until("the last block's record", Duration::from_secs(5), || {
        log.records().iter().any(|record| covers(record, last))
    })
    .unwrap();
    let count = log.records().len();
    assert!(count <= 1000 / 64 + 2, "{count} records for a thousand bindings");
}
