//! The commands of the SIP server through the built binary: shapes of JSON, tables, exit codes, users files.

mod support;

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};
use support::{Directory, MemoryService, MemorySip, Server};

fn sipnat(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sipnat"));
    command.args(args).stdin(Stdio::null());
    command
}

fn result(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = output.status.code().expect("not ended by a signal");
    (code, text(output.stdout), text(output.stderr))
}

fn ask(server: &Server, args: &[&str]) -> (i32, String, String) {
    let socket = server.socket().to_str().unwrap();
    result(sipnat(&[&["--socket", socket], args].concat()).output().unwrap())
}

fn ask_json(server: &Server, args: &[&str]) -> Value {
    let (code, out, err) = ask(server, &[args, &["--json"]].concat());
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}\n{out}"))
}

fn server(registrations: u32) -> Server {
    let sip = MemorySip {
        registrations,
        banned: [[192, 0, 2, 1].into()]
            .into_iter()
            .collect::<std::collections::BTreeSet<_>>()
            .into(),
        ..MemorySip::default()
    };
    Server::start(MemoryService {
        sip: Some(sip),
        ..MemoryService::default()
    })
}

fn count(server: &Server, args: &[&str]) -> usize {
    ask_json(server, args).as_array().unwrap().len()
}

/// Table 110i of the founding document: address abstraction, translated address, translated port.
#[test]
fn registrations_are_the_table_of_the_document() {
    let server = server(1);
    let expected = json!([{
        "aor": "user@net.com", "contact": "sip:user@192.168.1.10:5060", "received": "134.56.1.1:5070",
        "local": "134.56.3.1:5060", "transport": "udp", "behind_nat": true, "expires_s": 280, "q": 1000,
        "call_id": "0@192.168.1.10", "cseq": 1, "user_agent": "phone", "path_state": "registration", "path_down": false,
        "instance": null, "reg_id": null, "static": false,
    }]);
    assert_eq!(ask_json(&server, &["registrations"]), expected);
    let (_, out, _) = ask(&server, &["registrations"]);
    let words: Vec<&str> = out.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(words[..3], ["user@net.com", "134.56.1.1", "5070"], "{out}");
    assert!(out.starts_with("AOR           TRANSLATED  PORT"), "{out}");
}

/// Each leg of a call's media is a row: who sends, what was lost, how it sounds.
#[test]
fn the_media_of_calls() {
    let server = server(0);
    assert_eq!(ask_json(&server, &["calls"])[0].get("media"), None, "not asked for");
    let calls = ask_json(&server, &["calls", "--media"]);
    assert_eq!(calls.as_array().unwrap().len(), 1, "subscriptions have none");
    let leg = &calls[0]["media"][0]["legs"][1];
    assert_eq!(
        (&leg["mos"], &leg["lost"], &leg["codec"]),
        (&json!(4.31), &json!(30), &json!("G.711"))
    );
    let (_, out, _) = ask(&server, &["calls", "--media"]);
    let words: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0].last(), Some(&"MOS"), "{out}");
    for (row, party) in words[1..].iter().zip(["caller", "callee"]) {
        assert_eq!(
            row[2..7],
            ["INVITE", "4711", party, "G.711", "134.56.1.1:6000"],
            "{out}"
        );
        assert_eq!(row.last(), Some(&"4.31"), "{out}");
    }
    assert_eq!(words.len(), 3, "{out}");
}

#[test]
fn registrations_with_every_filter() {
    let server = server(3000);
    assert_eq!(count(&server, &["registrations"]), 3000);
    assert_eq!(count(&server, &["registrations", "--aor", "sip:user7@NET.com"]), 1);
    assert_eq!(
        count(&server, &["registrations", "--domain", "net.com", "--limit", "10"]),
        10
    );
    assert_eq!(count(&server, &["registrations", "--domain", "net.org"]), 0);
    assert_eq!(count(&server, &["registrations", "--contact", "192.168.1.10"]), 3000);
    assert_eq!(count(&server, &["registrations", "--ip", "134.56.1.2"]), 1000);
    assert_eq!(count(&server, &["registrations", "--behind-nat"]), 1500);
    assert_eq!(
        count(&server, &["registrations", "--behind-nat=false", "--ip", "134.56.1.1"]),
        500
    );
    let (code, out, err) = ask(&server, &["registrations"]);
    assert_eq!((code, out.lines().count()), (0, 1001));
    assert!(err.contains("more than 1000; use --limit"), "{err}");
}

#[test]
fn paths_dialogs_transactions_and_users() {
    let server = server(0);
    let paths = ask_json(&server, &["paths"]);
    assert_eq!(
        paths,
        json!([{
            "transport": "udp", "local": "134.56.3.1:5060", "remote": "134.56.1.1:5070", "state": "dialog-and-registration",
            "behind_nat": true, "registrations": 1, "subscriptions": 2, "dialogs": 3, "silence_s": 7, "prompt": "options",
            "interval_ms": 15000, "prompts_sent": 9, "prompts_answered": 8, "prompts_lost": 1, "in_flight": true,
            "next_prompt_s": 11, "down": false,
        }])
    );
    assert_eq!(
        count(
            &server,
            &[
                "paths",
                "--state",
                "dialog-and-registration",
                "--remote",
                "134.56.1.1:5070"
            ]
        ),
        1
    );
    assert_eq!(count(&server, &["paths", "--state", "idle"]), 0);
    assert_eq!(count(&server, &["paths", "--down"]), 0);
    let (_, out, _) = ask(&server, &["paths"]);
    for part in ["134.56.1.1:5070", "1/2/3", "options (out)", "15s", "11s", "9/8/1"] {
        assert!(out.contains(part), "{part}\n{out}");
    }
    for name in ["dialogs", "calls"] {
        assert_eq!(count(&server, &[name, "--user", "user"]), 2);
        assert_eq!(count(&server, &[name, "--no-subscriptions"]), 1);
        assert_eq!(count(&server, &[name, "--call-id", "SUBSCRIBE"]), 1);
    }
    let (_, out, _) = ask(&server, &["calls"]);
    assert!(out.contains("caller@example.org") && out.contains("1m 1s"), "{out}");
    assert_eq!(
        ask_json(&server, &["transactions", "--method", "INVITE"])[0]["age_ms"],
        1500
    );
    assert_eq!(count(&server, &["transactions", "--method", "BYE"]), 0);
    assert_eq!(
        ask_json(&server, &["users", "--domain", "net.com"])[0]["allow"],
        json!(["+49"])
    );
    assert!(ask(&server, &["users"]).1.contains("SHA-256 MD5"));
}

#[test]
fn orders_say_what_was_done_or_that_there_is_nothing() {
    let server = server(1);
    assert_eq!(ask_json(&server, &["bans"])[0]["failures"], 10);
    assert_eq!(
        ask(&server, &["bans", "lift", "192.0.2.1"]).1,
        "192.0.2.1 is heard again\n"
    );
    assert_eq!(ask(&server, &["bans", "lift", "192.0.2.1"]).0, 4);
    assert_eq!(ask_json(&server, &["bans"]), json!([]));
    assert_eq!(
        ask(&server, &["unregister", "sip:user@net.com"]).1,
        "removed 1 contact\n"
    );
    let (code, _, err) = ask(&server, &["unregister", "user@net.com", "sip:other"]);
    assert_eq!((code, err.as_str()), (4, "sipnat: user@net.com has no such contact\n"));
}

#[test]
fn status_says_what_runs() {
    let server = server(4);
    let status = ask_json(&server, &["status"]);
    assert_eq!(
        (&status["nat"], &status["sip"]["registrations"]),
        (&json!(true), &json!(4))
    );
    let (_, out, _) = ask(&server, &["status"]);
    for part in [
        "runs       NAT, SIP server\n",
        "registered 4 contacts, 2 of them behind a NAT",
        "134.56.3.1:5060 (eth0)  udp   proxy",
    ] {
        assert!(out.contains(part), "{part}\n{out}");
    }
    let none = Server::start(MemoryService::default());
    assert!(ask(&none, &["status"]).1.contains("runs       NAT\n"));
    for command in [
        &["registrations"][..],
        &["paths"],
        &["trace"],
        &["bans", "lift", "192.0.2.1"],
    ] {
        let (code, _, err) = ask(&none, command);
        assert!(
            code == 1 && err.contains("no SIP server runs here; write [sip]"),
            "{command:?} {err}"
        );
    }
}

/// A tracing child and the server's end of its trace.
#[expect(clippy::zombie_processes, reason = "the caller waits for it")]
fn trace(
    server: &Server,
    args: &[&str],
) -> (
    std::process::Child,
    tokio::sync::mpsc::Sender<nat_user::records::TraceRecord>,
) {
    let socket = server.socket().to_str().unwrap();
    let child = sipnat(&[&["trace", "--socket", socket], args].concat())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let traces = &server.service.sip.as_ref().unwrap().traces;
    loop {
        if let Some((_, sender)) = traces.lock().unwrap().pop() {
            return (child, sender);
        }
        std::thread::yield_now();
    }
}

#[test]
fn traces_are_ladders_json_or_captures() {
    let server = server(0);
    let (mut child, sender) = trace(&server, &["--aor", "user@net.com"]);
    sender
        .blocking_send(MemorySip::message("OPTIONS sip:user@net.com"))
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(
        lines.next().unwrap().split_whitespace().collect::<Vec<_>>(),
        ["134.56.1.1:5070", "134.56.3.1:5060"]
    );
    assert!(lines.next().unwrap().starts_with("03:04:05.678 │"));
    // The server's end ends the command.
    drop(sender);
    assert_eq!(child.wait().unwrap().code(), Some(0));

    let (child, sender) = trace(&server, &["--json", "--count", "2"]);
    for summary in ["OPTIONS sip:a", "200 OK", "never shown"] {
        // The third may find the command gone.
        let _ = sender.blocking_send(MemorySip::message(summary));
    }
    let (code, out, _) = result(child.wait_with_output().unwrap());
    let records: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((code, records.len()), (0, 2));
    assert_eq!(
        (&records[1]["summary"], &records[1]["message"]),
        (&json!("200 OK"), &json!("T1BUSU9OUw=="))
    );

    let directory = Directory::new();
    let path = directory.0.join("trace.pcap");
    let (child, sender) = trace(&server, &["--count", "1", "--pcap", path.to_str().unwrap()]);
    sender.blocking_send(MemorySip::message("OPTIONS sip:a")).unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
    let capture = std::fs::read(&path).unwrap();
    assert!(capture.ends_with(b"OPTIONS"));
}

#[test]
fn users_files_are_made_by_commands() {
    let directory = Directory::new();
    let path = directory.0.join("users");
    let file = path.to_str().unwrap();
    let user = |args: &[&str], input: &str| {
        let mut child = sipnat(&[&["user"], args].concat())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that reads nothing may be gone.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        result(child.wait_with_output().unwrap())
    };
    let (code, out, err) = user(
        &[
            "add",
            file,
            "user@Net.com",
            "--calls",
            "2",
            "--allow",
            "+49",
            "--allow",
            "0",
        ],
        "secret\n",
    );
    assert_eq!(
        (code, out.as_str()),
        (0, "added user@net.com; `sipnat reload` puts it in force\n"),
        "{err}"
    );
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("secret") && text.lines().count() == 4, "{text}");
    assert!(text.ends_with("user:net.com:limits:calls=2 allow=+49,0\n"), "{text}");
    // The domain of the file is enough; what is not named stays.
    assert_eq!(
        user(&["add", file, "user", "--plain", "--password", "p:w"], "")
            .1
            .split(' ')
            .next(),
        Some("changed")
    );
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        "user:net.com:limits:calls=2 allow=+49,0\nuser:net.com:plain:p:w\n"
    );
    let (_, out, _) = user(&["list", file, "--json"], "");
    assert_eq!(
        serde_json::from_str::<Value>(&out).unwrap(),
        json!([{ "user": "user", "domain": "net.com", "algorithms": ["SHA-512-256", "SHA-256", "MD5"], "calls": 2, "allow": ["+49", "0"] }])
    );
    assert!(user(&["list", file], "").1.contains("+49… 0…"));
    assert_eq!(user(&["remove", file, "nobody"], "").0, 4);
    assert_eq!(
        user(&["remove", file, "user"], "").1,
        "removed user@net.com; `sipnat reload` puts it in force\n"
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    for (args, input, part) in [
        (&["add", file, "user"][..], "x\n", "names no domain"),
        (&["add", file, "user@net.com"], "\n", "password is empty"),
        (&["add", file, "us er@net.com"], "x\n", "no user"),
        (&["list", "/nonexistent/users"], "", "cannot read the users file"),
        (&["add", "/nonexistent/users", "a@b"], "x\n", "nothing was changed"),
    ] {
        let (code, _, err) = user(args, input);
        assert!(code == 1 && err.contains(part), "{args:?}: {err}");
    }
    std::fs::write(&path, "a:b:MD5:x\n").unwrap();
    let (code, _, err) = user(&["add", file, "c@b"], "x\n");
    assert!(
        code == 1 && err.contains(&format!("{file}:1: the MD5 hash is not 32")),
        "{err}"
    );
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        "a:b:MD5:x\n",
        "a damaged file is not touched"
    );
}
