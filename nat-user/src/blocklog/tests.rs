use std::{
    net::{Ipv4Addr, SocketAddrV4},
    os::unix::net::UnixDatagram,
    path::PathBuf,
};

use super::*;
use crate::records::{Block, BlockRecord, Time};

const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const EXTERNAL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

fn at(second: u8) -> Time {
    format!("2026-01-02T03:04:{second:02}Z").parse().unwrap()
}

fn block(host: Ipv4Addr) -> Block {
    Block {
        host,
        external_ip: EXTERNAL,
        first_port: 40000,
        last_port: 40063,
    }
}

fn assigned(second: u8, host: Ipv4Addr) -> EventRecord {
    EventRecord {
        time: at(second),
        event: Event::BlockAssigned {
            block: block(host),
            since: None,
        },
    }
}

fn released(second: u8, host: Ipv4Addr, duration_s: u64) -> EventRecord {
    EventRecord {
        time: at(second),
        event: Event::BlockReleased {
            block: block(host),
            duration_s,
        },
    }
}

fn lines(records: &[EventRecord]) -> String {
    records
        .iter()
        .map(|record| serde_json::to_string(record).unwrap() + "\n")
        .collect()
}

fn who(log: &str, second: u8) -> Option<Ipv4Addr> {
    let answer = lookup(log.as_bytes(), SocketAddrV4::new(EXTERNAL, 40063), at(second)).unwrap();
    answer.holder.map(|holder| holder.host)
}

/// A directory of this test's own, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("sipnat-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Directory(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn intervals_begin_with_the_assignment_and_end_before_the_release() {
    let log = lines(&[assigned(10, A), released(20, A, 10), assigned(30, B)]);
    let answers = [9, 10, 19, 20, 29, 30, 59].map(|second| who(&log, second));
    assert_eq!(answers, [None, Some(A), Some(A), None, None, Some(B), Some(B)]);
    for (port, expected) in [(39999, None), (40000, Some(A)), (40064, None)] {
        let answer = lookup(log.as_bytes(), SocketAddrV4::new(EXTERNAL, port), at(15)).unwrap();
        assert_eq!(answer.holder.map(|holder| holder.host), expected, "{port}");
    }
    let answer = lookup(log.as_bytes(), SocketAddrV4::new(EXTERNAL, 40000), at(25)).unwrap();
    assert_eq!(answer.before.unwrap().until, Some(at(20)));
}

#[test]
fn the_log_may_be_imperfect() {
    let disorder = lines(&[released(20, A, 10), assigned(20, B), assigned(10, A)]);
    assert_eq!(
        [15, 20, 25].map(|second| who(&disorder, second)),
        [Some(A), Some(B), Some(B)]
    );
    let lost_release = lines(&[assigned(10, A), assigned(20, B)]);
    assert_eq!([15, 25].map(|second| who(&lost_release, second)), [Some(A), Some(B)]);
    let first = lookup(lost_release.as_bytes(), SocketAddrV4::new(EXTERNAL, 40000), at(15))
        .unwrap()
        .holder
        .unwrap();
    assert_eq!(first.until, Some(at(20)), "a port has one owner");
    let twice = lines(&[
        assigned(10, A),
        assigned(10, A),
        released(20, A, 10),
        released(20, A, 10),
        assigned(20, B),
    ]);
    assert_eq!([15, 20].map(|second| who(&twice, second)), [Some(A), Some(B)]);
    let rotated = lines(&[released(20, A, 5)]);
    assert_eq!([14, 15, 20].map(|second| who(&rotated, second)), [None, Some(A), None]);
    let repeated = lines(&[assigned(10, A), assigned(15, A), released(20, A, 10)]);
    assert_eq!(
        [12, 17, 22].map(|second| who(&repeated, second)),
        [Some(A), Some(A), None]
    );
    let torn = lines(&[assigned(10, A)]) + "{\"time\":\"2026-01-02T03:04:11Z\",\"event\":\"block_rel\n\u{1}\n";
    let answer = lookup(torn.as_bytes(), SocketAddrV4::new(EXTERNAL, 40000), at(12)).unwrap();
    assert_eq!(
        (answer.holder.map(|holder| holder.host), answer.unreadable),
        (Some(A), 2)
    );
    let whole = lines(&[assigned(10, A), released(20, A, 10)]);
    assert_eq!(
        who(whole.trim_end(), 25),
        None,
        "the last line counts without its newline too"
    );
}

#[test]
fn a_daemon_that_was_away_catches_up() {
    let record = |host, second| BlockRecord {
        external_ip: EXTERNAL,
        first_port: 40000,
        last_port: 40063,
        host,
        since: at(second),
        ports_used: 1,
    };
    let log = lines(&[assigned(10, A)]);
    let catch_up = |blocks: &[BlockRecord]| reconcile(log.as_bytes(), blocks, at(30)).unwrap();
    assert_eq!(catch_up(&[record(A, 10)]), [], "nothing changed");
    assert_eq!(catch_up(&[]), [released(30, A, 20)]);
    let now_b = EventRecord {
        time: at(30),
        event: Event::BlockAssigned {
            block: block(B),
            since: Some(at(20)),
        },
    };
    assert_eq!(catch_up(&[record(B, 20)]), [released(20, A, 10), now_b.clone()]);
    let repaired = log.clone() + &lines(&[now_b]);
    assert_eq!(
        [15, 19, 20, 40].map(|second| who(&repaired, second)),
        [Some(A), Some(A), Some(B), Some(B)]
    );
}

#[test]
fn files_are_appended_to_and_reopened() {
    let directory = Directory::new("blocklog");
    let path = directory.0.join("blocks.jsonl");
    std::fs::write(&path, "{\"torn").unwrap();
    let mut log = BlockLog::open(&LogTarget::File(path.clone())).unwrap();
    log.record(&assigned(10, A)).unwrap();
    log.record(&EventRecord {
        time: at(11),
        event: Event::Missed { count: 1 },
    })
    .unwrap();
    log.flush().unwrap();
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        format!("{{\"torn\n{}", lines(&[assigned(10, A)]))
    );

    let rotated = directory.0.join("blocks.jsonl.1");
    std::fs::rename(&path, &rotated).unwrap();
    log.record(&released(20, A, 10)).unwrap();
    log.reopen().unwrap();
    log.record(&assigned(30, B)).unwrap();
    drop(log);
    assert!(
        std::fs::read_to_string(&rotated)
            .unwrap()
            .ends_with(&lines(&[released(20, A, 10)]))
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), lines(&[assigned(30, B)]));
}

#[test]
fn a_directory_that_is_missing_is_named() {
    let error = BlockLog::open(&LogTarget::File("/nonexistent/blocks.jsonl".into())).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("/nonexistent/blocks.jsonl; create its directory"),
        "{error}"
    );
}

#[test]
fn syslog_lines_are_rfc_3164_and_survive_a_restart() {
    let directory = Directory::new("syslog");
    let path = directory.0.join("log");
    assert!(
        BlockLog::open_syslog(&path)
            .unwrap_err()
            .to_string()
            .contains("start a syslog daemon")
    );
    let receive = |socket: &UnixDatagram| {
        let mut line = [0; 1024];
        let length = socket.recv(&mut line).unwrap();
        String::from_utf8(line[..length].to_vec()).unwrap()
    };
    let first = UnixDatagram::bind(&path).unwrap();
    let mut log = BlockLog::open_syslog(&path).unwrap();
    log.record(&assigned(10, A)).unwrap();
    let line = receive(&first);
    let tag = format!(" sipnat[{}]: ", std::process::id());
    let (head, json) = line.split_once(&tag).unwrap_or_else(|| panic!("{line}"));
    assert!(
        head.starts_with("<30>") && head.len() == "<30>Jan  2 03:04:05".len(),
        "{line}"
    );
    assert_eq!(serde_json::from_str::<EventRecord>(json).unwrap(), assigned(10, A));

    drop(first);
    std::fs::remove_file(&path).unwrap();
    assert!(log.record(&assigned(11, A)).is_err());
    let second = UnixDatagram::bind(&path).unwrap();
    log.record(&assigned(12, A)).unwrap();
    assert!(receive(&second).contains("block_assigned"));
}
