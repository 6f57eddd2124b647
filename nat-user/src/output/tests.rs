//! What a terminal shows.

use super::*;
use crate::{
    config::Filtering,
    records::{BindingKind, SweepRecord, Traffic},
    units::Proto,
};

fn binding() -> BindingRecord {
    BindingRecord {
        proto: Proto::Tcp,
        inside: "192.168.100.200:65535".parse().unwrap(),
        external: "203.203.113.100:65535".parse().unwrap(),
        kind: BindingKind::Dynamic,
        idle_s: 61,
        expires_s: Some(7440),
        created_s: 100,
        filtering: Filtering::AddressDependent,
        sessions: None,
        remotes: Vec::new(),
        traffic: None,
    }
}

#[test]
fn a_table_of_bindings() {
    let shown = trimmed(&bindings(&[
        binding(),
        BindingRecord {
            expires_s: None,
            ..binding()
        },
    ]));
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines.len(), 3, "{shown}");
    let words: Vec<&str> = lines[1].split_whitespace().collect();
    assert_eq!(
        words,
        [
            "tcp",
            "192.168.100.200:65535",
            "203.203.113.100:65535",
            "dynamic",
            "1m",
            "1s",
            "2h",
            "4m"
        ]
    );
    assert!(lines[2].ends_with('-'), "{shown}");
    assert!(lines.iter().all(|line| line.len() <= 80), "{shown}");
    let traffic = Some(Traffic {
        packets_out: 7,
        bytes_out: 2048,
        ..Traffic::default()
    });
    let shown = trimmed(&bindings(&[BindingRecord { traffic, ..binding() }]));
    assert!(shown.contains("7 / 0") && shown.contains("2.0 KiB / 0 B"), "{shown}");
}

#[test]
fn a_table_of_bindings_with_remote_endpoints() {
    let with = |remotes: &[&str]| BindingRecord {
        sessions: Some(remotes.len() as u64),
        remotes: remotes.iter().map(|remote| remote.parse().unwrap()).collect(),
        ..binding()
    };
    let shown = trimmed(&bindings(&[
        with(&["198.51.100.1:80", "198.51.100.2:80", "198.51.100.3:80"]),
        with(&["198.51.100.4:443"]),
        with(&[]),
    ]));
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[0].ends_with("REMOTES"), "{shown}");
    assert!(lines[1].ends_with("198.51.100.1:80 +2"), "{shown}");
    assert!(lines[2].ends_with("198.51.100.4:443"), "{shown}");
    assert!(lines[3].ends_with('-'), "{shown}");
}

#[test]
fn a_table_fits_a_narrow_terminal_with_its_endpoints_whole() {
    let mut table = bindings(&[BindingRecord {
        traffic: Some(Traffic::default()),
        ..binding()
    }]);
    table.set_width(80);
    let shown = trimmed(&table);
    assert!(shown.lines().all(|line| line.len() <= 80), "{shown}");
    assert!(
        shown.contains("192.168.100.200:65535  203.203.113.100:65535"),
        "{shown}"
    );
}

#[test]
fn json_arrays_are_valid_at_any_length() {
    for count in 0..3 {
        let mut out = Vec::new();
        let mut array = JsonArray::begin(&mut out).unwrap();
        for number in 0..count {
            array.push(&format!("{{\"n\":{number}}}")).unwrap();
        }
        array.end().unwrap();
        assert_eq!(
            serde_json::from_slice::<Vec<serde_json::Value>>(&out).unwrap().len(),
            count
        );
    }
}

#[test]
fn byte_counts() {
    let shown = [0, 1023, 1024, 1536, u64::MAX].map(bytes);
    assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "16777216.0 TiB"]);
}

#[test]
fn a_status_names_warnings_without_their_reasons() {
    let warnings = [
        "sh1: the other end must not offload: because: of it\n    remedy: ethtool -K PEER tx off",
        "eth1 runs in generic mode",
    ];
    let mut record = StatusRecord {
        nat: true,
        warnings: warnings.map(Into::into).to_vec(),
        sweep: SweepRecord {
            passes: 12,
            cpu_us: 1234,
            cpu_us_max: 90_000,
            bindings_visited: 77,
            ..SweepRecord::default()
        },
        ..StatusRecord::default()
    };
    let shown = |record: &StatusRecord| {
        let mut out = Vec::new();
        status(&mut out, record).unwrap();
        String::from_utf8(out).unwrap()
    };
    let text = shown(&record);
    for line in [
        "sweep      1.2 ms of CPU for 77 bindings in the last of 12 passes, at most 90.0 ms in the last ten\n",
        "warning: sh1: the other end must not offload\nwarning: eth1 runs in generic mode\nreasons and remedies",
    ] {
        assert!(text.contains(line), "{text}");
    }
    record.warnings.remove(0);
    assert!(!shown(&record).contains("remedies"));
    assert_eq!(short("a: b. Then c"), "a: b");
}
