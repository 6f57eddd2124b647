//! Records as JSON.

use super::*;

fn json(value: impl Serialize) -> serde_json::Value {
    serde_json::to_value(value).unwrap()
}

#[test]
fn a_binding_prints_as_promised() {
    let mut binding = BindingRecord {
        proto: Proto::Udp,
        inside: "10.0.0.2:5060".parse().unwrap(),
        external: "203.0.113.1:40000".parse().unwrap(),
        kind: BindingKind::Static,
        idle_s: 3,
        expires_s: None,
        created_s: 9,
        filtering: Filtering::AddressAndPortDependent,
        sessions: None,
        remotes: Vec::new(),
        traffic: None,
    };
    let expected = serde_json::json!({
        "proto": "udp", "inside": "10.0.0.2:5060", "external": "203.0.113.1:40000", "kind": "static",
        "idle_s": 3, "expires_s": null, "created_s": 9, "filtering": "address-and-port-dependent",
    });
    assert_eq!(json(&binding), expected);
    assert_eq!(serde_json::from_value::<BindingRecord>(expected).unwrap(), binding);
    binding.traffic = Some(Traffic {
        packets_out: 1,
        bytes_out: 2,
        packets_in: 3,
        bytes_in: 4,
    });
    binding.expires_s = Some(297);
    binding.remotes = vec!["198.51.100.10:5060".parse().unwrap()];
    let text = serde_json::to_string(&binding).unwrap();
    assert!(
        text.ends_with(r#""packets_out":1,"bytes_out":2,"packets_in":3,"bytes_in":4}"#),
        "{text}"
    );
    assert_eq!(serde_json::from_str::<BindingRecord>(&text).unwrap(), binding);
}

#[test]
fn events_are_flat_and_come_back() {
    let time: Time = "2026-01-02T03:04:05.678+01:00".parse().unwrap();
    let block = Block {
        host: Ipv4Addr::new(10, 0, 0, 2),
        external_ip: Ipv4Addr::new(203, 0, 113, 1),
        first_port: 40000,
        last_port: 40063,
    };
    let released = EventRecord {
        time,
        event: Event::BlockReleased { block, duration_s: 7 },
    };
    let text = serde_json::to_string(&released).unwrap();
    assert_eq!(
        text,
        r#"{"time":"2026-01-02T02:04:05.678Z","event":"block_released","host":"10.0.0.2","external_ip":"203.0.113.1","first_port":40000,"last_port":40063,"duration_s":7}"#
    );
    for event in [
        released.event,
        Event::BlockAssigned {
            block,
            since: Some(time),
        },
        Event::BlockAssigned { block, since: None },
        Event::Exhausted {
            host: block.host,
            proto: Some(Proto::Tcp),
            cause: "quota".into(),
        },
        Event::AddressesChanged {
            added: vec![block.external_ip],
            removed: vec![],
        },
        Event::Reloaded { message: "x".into() },
        Event::Warning { message: "x".into() },
        Event::Missed { count: 1 },
    ] {
        let record = EventRecord { time, event };
        let value = json(&record);
        assert_eq!(value["event"], record.event.name());
        assert_eq!(serde_json::from_value::<EventRecord>(value).unwrap(), record);
    }
}

#[test]
fn times_need_a_zone() {
    assert!(
        "2026-01-02T03:04:05"
            .parse::<Time>()
            .unwrap_err()
            .contains("write it like")
    );
    let early = Time::from(SystemTime::UNIX_EPOCH);
    assert_eq!(early.to_string(), "1970-01-01T00:00:00.000Z");
    let later: Time = "1970-01-01T00:01:00Z".parse().unwrap();
    assert_eq!((later.since(early).as_secs(), early.since(later).as_secs()), (60, 0));
    assert_eq!(later.before(Duration::from_secs(60)), early);
}
