//! The built binary against a NAT in memory: every command, the shapes of its JSON, its exit codes.

mod support;

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Output, Stdio},
};

use nat_user::{control::Ended, records::*};
use serde_json::{Value, json};
use support::{Directory, MemoryService, Server};

fn sipnat(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sipnat"));
    command.args(args).stdin(Stdio::null());
    command
}

/// Exit code, standard output, standard error.
fn run(args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = sipnat(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        status.code().expect("not ended by a signal"),
        text(stdout),
        text(stderr),
    )
}

fn ask(server: &Server, args: &[&str]) -> (i32, String, String) {
    run(&[&["--socket", server.socket().to_str().unwrap()], args].concat())
}

fn ask_json(server: &Server, args: &[&str]) -> Value {
    let (code, out, err) = ask(server, &[args, &["--json"]].concat());
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}\n{out}"))
}

#[test]
fn status() {
    let server = Server::start(MemoryService::default());
    let status = ask_json(&server, &["status"]);
    assert_eq!(status["pid"], std::process::id());
    assert_eq!(status["interfaces"][0]["mode"], "native");
    assert_eq!(status["external_addresses"], json!(["203.0.113.1"]));
    assert_eq!(status["pool"]["blocks_total"], 1008);
    assert_eq!(status["bindings"], json!({ "tcp": 1, "udp": 2, "icmp": 3 }));
    let (code, out, _) = ask(&server, &["status"]);
    assert_eq!(code, 0);
    for part in [
        "0.0.0-test (schema 1)",
        "up 1m 1s",
        "6 of 100000",
        "eth1       inside",
        "warning: eth1 runs",
    ] {
        assert!(out.contains(part), "{part}\n{out}");
    }
}

#[test]
fn bindings_with_every_filter() {
    let server = Server::start(MemoryService {
        bindings: 300,
        ..Default::default()
    });
    let all = ask_json(&server, &["bindings"]);
    assert_eq!(all.as_array().unwrap().len(), 300);
    assert_eq!(
        all[0],
        json!({
            "proto": "tcp", "inside": "10.0.0.0:1024", "external": "203.0.113.1:1024", "kind": "dynamic", "idle_s": 0,
            "expires_s": 300, "created_s": 60, "filtering": "endpoint-independent", "sessions": 1,
            "remotes": ["198.51.100.10:5060"], "packets_out": 1, "bytes_out": 60, "packets_in": 2, "bytes_in": 120,
        })
    );
    assert_eq!(all[1].get("packets_out"), None, "not counted, not shown");
    let count = |args: &[&str]| {
        ask_json(&server, &[&["bindings"], args].concat())
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!(count(&["--host", "10.0.0.1"]), 100);
    assert_eq!(count(&["--proto", "icmp"]), 100);
    assert_eq!(count(&["--port", "1030"]), 3);
    assert_eq!(count(&["--external", "203.0.113.1"]), 300);
    assert_eq!(count(&["--external", "203.0.113.1:1030"]), 1);
    assert_eq!(count(&["--external", "203.0.113.2"]), 0);
    assert_eq!(count(&["--limit", "5", "--proto", "udp"]), 5);
    assert_eq!(count(&["--limit", "0"]), 0);
}

#[test]
fn tables_stop_at_their_limit_and_say_so() {
    let server = Server::start(MemoryService {
        bindings: 3000,
        ..Default::default()
    });
    let (code, out, err) = ask(&server, &["bindings"]);
    assert_eq!((code, out.lines().count()), (0, 1 + 1000), "{err}");
    assert!(err.contains("more than 1000; use --limit"), "{err}");
    let (_, out, err) = ask(&server, &["bindings", "--limit", "3000"]);
    assert_eq!((out.lines().count(), err.as_str()), (3001, ""));
}

#[test]
fn a_million_bindings_stream_and_a_closed_pipe_is_no_error() {
    let server = Server::start(MemoryService {
        bindings: 1_000_000,
        ..Default::default()
    });
    let mut child = sipnat(&["bindings", "--json", "--socket", server.socket().to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    reader.read_line(&mut first).unwrap();
    assert_eq!(first, "[\n");
    drop(reader);
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), String::from_utf8(output.stderr).unwrap()),
        (Some(0), String::new())
    );
    // The service was told to stop: another request is answered, and far from all records were made.
    assert_eq!(ask(&server, &["status"]).0, 0);
    let made = server.service.handed_out.load(std::sync::atomic::Ordering::Relaxed);
    assert!(made < 900_000, "{made}");
}

#[test]
fn forwards_come_and_go() {
    let server = Server::start(MemoryService::default());
    let add = [
        "bindings",
        "add-forward",
        "tcp",
        "203.0.113.1:8000-8010",
        "192.168.1.10:80-90",
    ];
    let (code, out, _) = ask(&server, &add);
    assert_eq!(
        (code, out.as_str()),
        (0, "tcp 203.0.113.1:8000-8010 now leads to 192.168.1.10:80-90\n")
    );
    let listed = ask_json(&server, &["bindings"]);
    assert_eq!(
        (&listed[0]["kind"], &listed[0]["expires_s"]),
        (&json!("runtime"), &Value::Null)
    );
    let (code, _, err) = ask(&server, &["bindings", "add-forward", "tcp", "8005", "192.168.1.11:80"]);
    assert_eq!(code, 1);
    assert!(err.contains("already forwarded to 192.168.1.10:80-90"), "{err}");
    let delete = ["bindings", "delete-forward", "tcp", "203.0.113.1:8000-8010"];
    assert_eq!(
        ask_json(&server, &delete)["message"],
        "tcp 203.0.113.1:8000-8010 leads nowhere now"
    );
    let (code, _, err) = ask(&server, &delete);
    assert_eq!(
        (code, err.as_str()),
        (4, "sipnat: there is no forward of tcp 203.0.113.1:8000-8010\n")
    );
    for (wrong, message) in [
        (["icmp", "1", "10.0.0.1:1"], "no ports to forward"),
        (["tcp", "1-2", "10.0.0.1:1"], "equal length"),
        (["tcp", "1.2.3:1", "10.0.0.1:1"], "write it like"),
        (["tcp", "1", "10.0.0.1"], "write it like"),
    ] {
        let (code, _, err) = ask(&server, &[&["bindings", "add-forward"], &wrong[..]].concat());
        assert!(code == 1 && err.contains(message), "{code} {err}");
    }
}

#[test]
fn blocks_and_counters() {
    let server = Server::start(MemoryService::default());
    let blocks = json!([{
        "external_ip": "203.0.113.1", "first_port": 40000, "last_port": 40063, "host": "10.0.0.2",
        "since": "2026-01-02T03:04:05.000Z", "ports_used": 7,
    }]);
    assert_eq!(ask_json(&server, &["blocks"]), blocks);
    assert_eq!(ask_json(&server, &["blocks", "--host", "10.0.0.2"]), blocks);
    assert_eq!(ask_json(&server, &["blocks", "--host", "10.0.0.3"]), json!([]));
    assert!(ask(&server, &["blocks"]).1.contains("40000-40063"));
    let forwarded = json!({ "name": "forwarded", "direction": "out", "value": 7 });
    assert_eq!(ask_json(&server, &["counters"]), json!([forwarded]));
    assert_eq!(ask_json(&server, &["counters", "--all"])[1]["value"], 0);
    assert!(ask(&server, &["counters"]).1.lines().nth(1).unwrap().starts_with("out"));
}

#[test]
fn events_are_remembered_and_followed() {
    let server = Server::start(MemoryService::default());
    server.events.publish(Event::Warning {
        message: "early".into(),
    });
    let (code, out, _) = ask(&server, &["events"]);
    assert_eq!(code, 0);
    assert!(out.ends_with("warning           early\n"), "{out}");

    let mut child = sipnat(&[
        "events",
        "--follow",
        "--json",
        "--socket",
        server.socket().to_str().unwrap(),
    ])
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<EventRecord>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(
        next().event,
        Event::Warning {
            message: "early".into()
        }
    );
    let block = Block {
        host: "10.0.0.2".parse().unwrap(),
        external_ip: support::EXTERNAL,
        first_port: 40000,
        last_port: 40063,
    };
    for event in [
        Event::BlockAssigned { block, since: None },
        Event::BlockReleased { block, duration_s: 3 },
    ] {
        server.events.publish(event.clone());
        assert_eq!(next().event, event);
    }
    // The daemon goes away under it: that is an error, told from the end of what was asked for.
    drop(server);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("closed the connection")
    );
}

#[test]
fn reload_and_detach() {
    let failing = Server::start(MemoryService {
        reload_fails: true,
        ..Default::default()
    });
    let (code, _, err) = ask(&failing, &["reload"]);
    assert_eq!(
        (code, err.as_str()),
        (1, "sipnat: nothing was changed: x.toml:1:1: unknown field\n")
    );
    let server = Server::start(MemoryService::default());
    assert_eq!(ask_json(&server, &["reload"]), json!({ "message": "nothing changed" }));
    let socket = server.socket().to_owned();
    let (code, out, _) = ask(&server, &["detach"]);
    assert_eq!((code, out.as_str()), (0, "detached from eth1\n"));
    assert_eq!(server.ended(), Ended::Detached);
    assert!(!socket.exists());
}

#[test]
fn without_a_daemon_the_code_is_3() {
    let directory = Directory::new();
    let socket = directory.0.join("none.sock");
    let socket = socket.to_str().unwrap();
    let commands: &[&[&str]] = &[
        &["status"],
        &["bindings"],
        &["blocks"],
        &["counters"],
        &["events"],
        &["reload"],
        &["bindings", "delete-forward", "tcp", "80"],
    ];
    for command in commands {
        let (code, out, err) = run(&[command, &["--socket", socket][..]].concat());
        assert_eq!((code, out.as_str()), (3, ""), "{command:?}: {err}");
        assert!(
            err.contains("no daemon answers on") && err.contains("sipnat run"),
            "{err}"
        );
    }
    // A socket that nobody listens on any more.
    drop(std::os::unix::net::UnixListener::bind(socket).unwrap());
    assert_eq!(run(&["status", "--socket", socket]).0, 3);
    // A daemon of something else.
    let foreign = std::os::unix::net::UnixListener::bind(directory.0.join("other.sock")).unwrap();
    let answer = std::thread::spawn(move || drop(foreign.accept().unwrap()));
    let (code, _, err) = run(&["status", "--socket", directory.0.join("other.sock").to_str().unwrap()]);
    answer.join().unwrap();
    assert!(code == 1 && err.contains("broke off"), "{code} {err}");
}

#[test]
fn a_wrong_command_line_is_2_and_help_is_0() {
    let wrong: &[&[&str]] = &[
        &[],
        &["reboot"],
        &["run"],
        &["run", "--inside", "eth1"],
        &["bindings", "--host", "::1"],
        &["bindings", "--proto", "sctp"],
        &["bindings", "add-forward", "tcp", "80"],
        &["lookup", "--log", "x", "203.0.113.1", "udp", "2026-01-02T03:04:05Z"],
        &["lookup", "--log", "x", "203.0.113.1:1", "udp", "2026-01-02T03:04:05"],
    ];
    for args in wrong {
        let (code, _, err) = run(args);
        assert_eq!(code, 2, "{args:?} {err}");
    }
    let (code, out, _) = run(&["--help"]);
    assert!(code == 0 && out.contains("3  no daemon answers on the socket"), "{out}");
    assert!(!run(&["run", "--help"]).1.contains("lifetime-scale"));
}

#[test]
fn check_names_line_and_column() {
    let directory = Directory::new();
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../sipnat.sample.toml");
    let (code, out, _) = run(&["check", sample]);
    assert!(
        code == 0 && out.contains("is valid: eth1 inside, eth0 outside"),
        "{out}"
    );
    let minimal = "[nat]\ninside = [\"eth1\"]\noutside = [\"eth0\"]\n";
    for (text, place, part) in [
        ("[nat]\ninsid = [\"eth1\"]\n", "2:1", "unknown field `insid`"),
        (
            &format!("{minimal}[lifetimes]\nudp = \"5 parsecs\"\n"),
            "5:7",
            "no duration",
        ),
        (
            &format!("{minimal}[lifetimes]\nudp = \"1m\"\n"),
            "5:7",
            "RFC 4787 REQ-5",
        ),
        (
            &format!("{minimal}[ports]\nblock_size = 65\n"),
            "5:14",
            "no power of two",
        ),
        ("[nat\n", "1:5", ""),
    ] {
        let path = directory.file("broken.toml", text);
        let path = path.to_str().unwrap();
        let (code, out, err) = run(&["check", path]);
        assert_eq!((code, out.as_str()), (1, ""), "{text}");
        assert!(
            err.starts_with(&format!("sipnat: {path}:{place}: ")) && err.contains(part),
            "{err}"
        );
        let (code, out, err) = run(&["check", path, "--json"]);
        let report: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((code, err.as_str(), &report["ok"]), (1, "", &json!(false)));
        assert_eq!(format!("{}:{}", report["line"], report["column"]), place);
        assert!(!report["remedy"].as_str().unwrap().is_empty());
        // `run` says the same and does not start.
        assert_eq!(run(&["run", "--config", path]).0, 1);
    }
    let (code, _, err) = run(&["check", "/nonexistent.toml"]);
    assert!(
        code == 1 && err.contains("/nonexistent.toml: cannot read the config"),
        "{err}"
    );
    let binary = directory.0.join("binary");
    std::fs::write(&binary, [0xff; 64]).unwrap();
    assert_eq!(run(&["check", binary.to_str().unwrap()]).0, 1);
}

#[test]
fn lookup_answers_from_the_file() {
    let directory = Directory::new();
    let log = directory.file(
        "blocks.jsonl",
        concat!(
            r#"{"time":"2026-01-02T03:00:00.000Z","event":"block_assigned","host":"10.0.0.2","external_ip":"203.0.113.1","first_port":40000,"last_port":40063}"#,
            "\n",
            r#"{"time":"2026-01-02T04:00:00.000Z","event":"block_released","host":"10.0.0.2","external_ip":"203.0.113.1","first_port":40000,"last_port":40063,"duration_s":3600}"#,
            "\n",
            r#"{"time":"2026-01-02T05:00:00.000Z","event":"blo"#,
        ),
    );
    let log = log.to_str().unwrap();
    let lookup =
        |time: &str, more: &[&str]| run(&[&["lookup", "--log", log, "203.0.113.1:40000", "udp", time], more].concat());
    let (code, out, err) = lookup("2026-01-02T04:30:00+01:00", &[]);
    let expected =
        "10.0.0.2 had 203.0.113.1:40000-40063 from 2026-01-02T03:00:00.000Z until 2026-01-02T04:00:00.000Z\n";
    assert_eq!((code, out.as_str()), (0, expected));
    assert!(err.contains("1 lines"), "{err}");
    let (code, out, _) = lookup("2026-01-02T03:30:00Z", &["--json"]);
    let record: LookupRecord = serde_json::from_str(&out).unwrap();
    assert_eq!((code, record.host.to_string().as_str()), (0, "10.0.0.2"));
    let (code, out, err) = lookup("2026-01-02T04:00:00Z", &[]);
    assert_eq!((code, out.as_str()), (4, ""));
    assert!(
        err.contains("nobody had 203.0.113.1:40000 udp at") && err.contains("the last one before: 10.0.0.2"),
        "{err}"
    );
    let (code, _, err) = run(&[
        "lookup",
        "--log",
        "/nonexistent",
        "203.0.113.1:1",
        "tcp",
        "2026-01-02T03:04:05Z",
    ]);
    assert!(code == 1 && err.contains("cannot open /nonexistent"), "{err}");
}

#[test]
fn completions_and_man_pages() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, out, _) = run(&["completions", shell]);
        assert!(code == 0 && out.contains("add-forward"), "{shell}");
    }
    let directory = Directory::new();
    let pages = directory.0.join("man");
    assert_eq!(run(&["man", pages.to_str().unwrap()]).0, 0);
    let page = |name: &str| std::fs::read_to_string(Path::new(&pages).join(name)).unwrap();
    assert!(page("sipnat.1").contains("no daemon answers"));
    assert!(page("sipnat-bindings-add-forward.1").contains("add\\-forward"));
    assert!(!page("sipnat-run.1").contains("lifetime"));
}
