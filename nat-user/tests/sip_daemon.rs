//! The daemon with a SIP server and no NAT, on loopback: no root, no BPF. Start, questions, reload, end.

mod support;

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpStream, UdpSocket},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use support::Directory;

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Daemon {
    child: Child,
    directory: Directory,
    port: u16,
}

impl Daemon {
    /// Starts one with a listener on a port of loopback and returns when it answers.
    fn start(more: &str) -> Daemon {
        let (directory, port) = (Directory::new(), free_port());
        std::fs::write(directory.0.join("sipnat.toml"), config(&directory, port, more)).unwrap();
        let child = spawn(&directory);
        let mut daemon = Daemon { child, directory, port };
        let began = Instant::now();
        while !daemon.ask(&["status"]).status.success() {
            if let Some(status) = daemon.child.try_wait().unwrap() {
                panic!("{status}: {}", daemon.log());
            }
            assert!(began.elapsed() < PATIENCE, "{}", daemon.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        daemon
    }

    fn ask(&self, args: &[&str]) -> Output {
        let socket = self.directory.0.join("sock");
        let socket = ["--socket", socket.to_str().unwrap()];
        Command::new(env!("CARGO_BIN_EXE_sipnat"))
            .args([args, &socket].concat())
            .output()
            .unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = self.ask(&[args, &["--json"]].concat());
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    fn write(&self, more: &str) {
        let text = config(&self.directory, self.port, more);
        std::fs::write(self.directory.0.join("sipnat.toml"), text).unwrap();
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.0.join("log")).unwrap_or_default()
    }

    /// Sends a datagram and returns the answer.
    fn say(&self, socket: &UdpSocket, message: &str) -> String {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(message.as_bytes(), ("127.0.0.1", self.port)).unwrap();
        let mut buffer = [0; 65_536];
        let (length, _) = socket
            .recv_from(&mut buffer)
            .unwrap_or_else(|error| panic!("{error}: {}", self.log()));
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// What Prometheus reads.
    fn metrics(&self, port: u16) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Asks it to end, as systemd does.
    fn end(mut self) -> (Option<i32>, String) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let code = self.child.wait().unwrap().code();
        (code, self.log())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(directory: &Directory) -> Child {
    let log = std::fs::File::create(directory.0.join("log")).unwrap();
    Command::new(env!("CARGO_BIN_EXE_sipnat"))
        .args(["run", "--config", directory.0.join("sipnat.toml").to_str().unwrap()])
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn config(directory: &Directory, port: u16, more: &str) -> String {
    let at = |name: &str| directory.0.join(name).display().to_string();
    format!(
        "[daemon]\nsocket = \"{}\"\n[sip]\nstore = \"{}\"\nsecret = \"{}\"\n[[sip.listen]]\ntransport = \"udp\"\naddress = \"127.0.0.1\"\nport = {port}\n{more}",
        at("sock"),
        at("lib/registrations.redb"),
        at("lib/secret"),
    )
}

const OPEN_DOMAIN: &str = "[[sip.domain]]\nnames = [\"net.com\"]\nauthenticate = false\n";

fn register(call: &str, contact: &str, branch: &str) -> String {
    format!(
        "REGISTER sip:net.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.168.1.10:5060;branch=z9hG4bK{branch};rport\r\n\
         From: <sip:user@net.com>;tag=1\r\nTo: <sip:user@net.com>\r\nCall-ID: {call}\r\nCSeq: 1 REGISTER\r\n\
         Max-Forwards: 70\r\nContact: <{contact}>\r\nExpires: 300\r\nUser-Agent: phone\r\nContent-Length: 0\r\n\r\n"
    )
}

#[test]
fn it_serves_answers_and_ends() {
    let metrics = free_port();
    let more = format!("[metrics]\nlisten = \"127.0.0.1:{metrics}\"\n{OPEN_DOMAIN}");
    let daemon = Daemon::start(&more);
    let status = daemon.json(&["status"]);
    assert_eq!((&status["nat"], &status["interfaces"]), (&json!(false), &json!([])));
    assert_eq!(status["sip"]["domains"], json!(["net.com"]));
    let address = format!("127.0.0.1:{}", daemon.port);
    assert_eq!(status["sip"]["listeners"][0]["address"], json!(address));
    let shown = String::from_utf8(daemon.ask(&["status"]).stdout).unwrap();
    assert!(
        shown.contains("runs       SIP server\n") && !shown.contains("bindings"),
        "{shown}"
    );

    // The phone of the founding document: the address inside is not the one that counts.
    let phone = UdpSocket::bind("127.0.0.1:0").unwrap();
    let answer = daemon.say(&phone, &register("1", "sip:user@192.168.1.10:5060", "1"));
    assert!(answer.starts_with("SIP/2.0 200 "), "{answer}");
    let rows = daemon.json(&["registrations", "--aor", "user@net.com", "--behind-nat"]);
    let received = phone.local_addr().unwrap().to_string();
    assert_eq!(
        (&rows[0]["aor"], &rows[0]["received"]),
        (&json!("user@net.com"), &json!(received))
    );
    assert_eq!(rows[0]["contact"], "sip:user@192.168.1.10:5060");
    assert_eq!(rows[0]["local"], json!(address));
    let paths = daemon.json(&["paths", "--state", "registration", "--remote", &received]);
    assert_eq!(
        (&paths[0]["registrations"], &paths[0]["prompt"]),
        (&json!(1), &json!("options"))
    );
    for empty in ["dialogs", "bans", "users"] {
        assert_eq!(daemon.json(&[empty]), json!([]), "{empty}");
    }
    assert_eq!(daemon.json(&["status"])["sip"]["registrations_behind_nat"], 1);
    let text = daemon.metrics(metrics);
    for line in [
        "sipnat_sip_requests_total{direction=\"in\",method=\"REGISTER\"} 1\n",
        "sipnat_sip_responses_total{direction=\"out\",method=\"REGISTER\",code=\"200\"} 1\n",
        "sipnat_sip_registrations_behind_nat 1\n",
        "sipnat_sip_contacts_total{event=\"added\"} 1\n",
        "sipnat_sip_paths{state=\"registration\"} 1\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
    assert!(!text.contains("sipnat_bindings"), "there is no NAT: {text}");
    let counters = daemon.json(&["counters", "--all"]);
    let stray = |counter: &Value| counter["name"] == "stray" && counter["direction"] == "sip";
    assert!(counters.as_array().unwrap().iter().any(stray), "{counters}");
    assert_eq!(
        daemon.json(&["unregister", "user@net.com"])["message"],
        "removed 1 contact of user@net.com"
    );
    assert_eq!(daemon.ask(&["unregister", "user@net.com"]).status.code(), Some(4));
    assert_eq!(daemon.json(&["registrations"]), json!([]));

    // What needs a NAT says that there is none.
    for args in [
        &["bindings"][..],
        &["detach"],
        &["bindings", "delete-forward", "tcp", "80"],
    ] {
        let output = daemon.ask(args);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(
            output.status.code() == Some(1) && error.contains("no NAT runs here"),
            "{args:?} {error}"
        );
    }
    let (code, log) = daemon.end();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn a_reload_is_whole_or_nothing() {
    let daemon = Daemon::start(OPEN_DOMAIN);
    let refused = |more: &str, part: &str| {
        daemon.write(more);
        let output = daemon.ask(&["reload"]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(
            error.contains("nothing has changed") && error.contains(part),
            "{part}: {error}"
        );
    };
    let users = daemon
        .directory
        .file("users", "user:net.com:MD5:x\n")
        .display()
        .to_string();
    let closed = format!("[[sip.domain]]\nnames = [\"net.com\", \"net.org\"]\nusers = \"{users}\"\n");
    refused(&closed, &format!("{users}:1: the MD5 hash"));
    refused("[[sip.domain]]\nnames = [\"net com\"]\n", "no host");
    refused(
        &format!("[[sip.listen]]\ntransport = \"tcp\"\naddress = \"192.0.2.77\"\n{OPEN_DOMAIN}"),
        "192.0.2.77",
    );
    refused(
        &format!("[[sip.listen]]\ntransport = \"tcp\"\ninterface = \"wan77\"\n{OPEN_DOMAIN}"),
        "no interface wan77",
    );
    let (certificate, key) = (daemon.directory.file("crt", "x"), daemon.directory.file("key", "x"));
    let tls = format!(
        "[[sip.listen]]\ntransport = \"tls\"\naddress = \"127.0.0.1\"\nport = {}\n[sip.tls]\ncertificate = \"{}\"\nkey = \"{}\"\n{OPEN_DOMAIN}",
        free_port(),
        certificate.display(),
        key.display()
    );
    refused(&tls, certificate.to_str().unwrap());
    // Everybody may register still.
    let phone = UdpSocket::bind("127.0.0.1:0").unwrap();
    let answer = daemon.say(&phone, &register("1", "sip:user@192.168.1.10:5060", "1"));
    assert!(answer.starts_with("SIP/2.0 200 "), "{answer}");

    std::fs::write(&users, "user:net.com:plain:secret\n").unwrap();
    daemon.write(&closed);
    let done = daemon.json(&["reload"])["message"].clone();
    assert_eq!(
        done,
        "applied the changed configuration: sip; users files and certificates were read again"
    );
    let answer = daemon.say(&phone, &register("2", "sip:user@192.168.1.10:5060", "2"));
    assert!(answer.starts_with("SIP/2.0 401 "), "{answer}");
    assert_eq!(daemon.json(&["users"])[0]["user"], "user");
    // The registration of before is there.
    assert_eq!(daemon.json(&["registrations"]).as_array().unwrap().len(), 1);
    // SIGHUP does the same.
    daemon.write(OPEN_DOMAIN);
    let pid = daemon.child.id().to_string();
    assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    let began = Instant::now();
    let mut branch = 3;
    loop {
        let answer = daemon.say(
            &phone,
            &register(&branch.to_string(), "sip:user@192.168.1.10:5060", &branch.to_string()),
        );
        if answer.starts_with("SIP/2.0 200 ") {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{answer}");
        branch += 1;
    }
}

#[test]
fn what_keeps_it_from_starting_is_named() {
    let directory = Directory::new();
    let run = |text: &str| {
        std::fs::write(directory.0.join("sipnat.toml"), text).unwrap();
        let code = spawn(&directory).wait().unwrap().code();
        (code, std::fs::read_to_string(directory.0.join("log")).unwrap())
    };
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for (port, more, part) in [
        (port, OPEN_DOMAIN, "is used by another program"),
        (
            free_port(),
            "[[sip.domain]]\nnames = [\"a\"]\nusers = \"/nonexistent\"\n",
            "/nonexistent: cannot read the users file",
        ),
        (free_port(), "[[sip.domain]]\nnames = [\"a\"]\n", "has no users file"),
    ] {
        let (code, log) = run(&config(&directory, port, more));
        assert!(code == Some(1) && log.contains(part), "{part}: {code:?} {log}");
        assert!(!directory.0.join("sock").exists(), "{part}");
    }
    let store = directory.0.join("lib/registrations.redb");
    std::fs::create_dir_all(store.parent().unwrap()).unwrap();
    let mut file = std::fs::File::create(&store).unwrap();
    file.write_all(b"precious and no database").unwrap();
    let (code, log) = run(&config(&directory, free_port(), OPEN_DOMAIN));
    assert!(
        code == Some(1) && log.contains(store.to_str().unwrap()),
        "{code:?} {log}"
    );
    assert_eq!(
        std::fs::read(PathBuf::from(&store)).unwrap(),
        b"precious and no database"
    );
}

#[test]
fn a_trace_shows_what_comes_and_goes() {
    let daemon = Daemon::start(OPEN_DOMAIN);
    let socket = daemon.directory.0.join("sock");
    let mut child = Command::new(env!("CARGO_BIN_EXE_sipnat"))
        .args([
            "trace",
            "--json",
            "--count",
            "3",
            "--aor",
            "user@net.com",
            "--socket",
            socket.to_str().unwrap(),
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let shown = std::thread::spawn(move || lines.map(Result::unwrap).collect::<Vec<String>>());
    let phone = UdpSocket::bind("127.0.0.1:0").unwrap();
    // It follows from some moment on.
    let began = Instant::now();
    let mut branch = 0;
    while child.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < PATIENCE, "nothing was traced");
        branch += 1;
        let call = branch.to_string();
        daemon.say(&phone, &register(&call, "sip:user@192.168.1.10:5060", &call));
    }
    let records: Vec<Value> = shown
        .join()
        .unwrap()
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(records.len(), 3);
    // It may have begun between a request and its answer.
    let records = if records[0]["direction"] == "out" {
        &records[1..]
    } else {
        &records[..]
    };
    assert_eq!(
        (&records[0]["direction"], &records[0]["summary"]),
        (&json!("in"), &json!("REGISTER sip:net.com"))
    );
    assert_eq!(
        (&records[1]["direction"], &records[1]["summary"]),
        (&json!("out"), &json!("200 OK"))
    );
    assert_eq!(records[0]["call_id"], records[1]["call_id"]);
    assert_eq!(records[0]["remote"], json!(phone.local_addr().unwrap().to_string()));
}
