//! The control socket as a stranger would use it: the wire format, limits, second instances, stale sockets.

mod support;

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
};

use nat_user::control::Listener;
use support::{Directory, MemoryService, Server};

struct Wire(BufReader<UnixStream>);

impl Wire {
    fn to(server: &Server) -> Wire {
        Wire(BufReader::new(UnixStream::connect(server.socket()).unwrap()))
    }

    /// Sends a line and returns the lines of its answer.
    fn ask(&mut self, line: &str) -> Vec<String> {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut answer = Vec::new();
        loop {
            let mut line = String::new();
            assert_ne!(self.0.read_line(&mut line).unwrap(), 0, "closed after {answer:?}");
            let last = line.starts_with("{\"end\"") || line.starts_with("{\"error\"");
            answer.push(line.trim_end().to_owned());
            if last {
                return answer;
            }
        }
    }
}

#[test]
fn one_connection_carries_many_requests_and_survives_wrong_ones() {
    let server = Server::start(MemoryService {
        bindings: 3,
        ..Default::default()
    });
    let mut wire = Wire::to(&server);
    let answer = wire.ask(r#"{"cmd":"bindings","proto":"udp"}"#);
    assert_eq!(answer.len(), 2);
    assert!(
        answer[0].starts_with(r#"{"proto":"udp","inside":"10.0.0.0:1025""#),
        "{answer:?}"
    );
    assert_eq!(answer[1], r#"{"end":true}"#);
    for wrong in [
        "",
        "x",
        "{}",
        r#"{"cmd":"reboot"}"#,
        r#"{"cmd":"bindings","host":7}"#,
        "\u{0}\u{fffd}",
    ] {
        let answer = wire.ask(wrong);
        assert!(
            answer[0].starts_with("{\"error\":") && answer[0].ends_with("\"code\":2}"),
            "{wrong}: {answer:?}"
        );
    }
    assert_eq!(
        wire.ask(r#"{"cmd":"delete_forward","protocol":"tcp","external":"80"}"#)[0],
        r#"{"error":"there is no forward of tcp 80","code":4}"#
    );
    assert_eq!(wire.ask(r#"{"cmd":"events"}"#), [r#"{"end":true}"#]);
}

#[test]
fn a_request_without_end_is_refused_at_its_limit() {
    let server = Server::start(MemoryService::default());
    let mut stream = UnixStream::connect(server.socket()).unwrap();
    stream.write_all(&[b'x'; 64 * 1024]).unwrap();
    let mut lines = BufReader::new(stream).lines();
    assert!(lines.next().unwrap().unwrap().contains("not a request"));
    assert!(
        lines.next().is_none_or(|line| line.is_err()),
        "the connection is closed"
    );
}

#[test]
fn followers_leave_without_a_trace() {
    let server = Server::start(MemoryService::default());
    let mut follower = UnixStream::connect(server.socket()).unwrap();
    follower.write_all(b"{\"cmd\":\"events\",\"follow\":true}\n").unwrap();
    let wait_for = |count| {
        while server.events.followers() != count {
            std::thread::yield_now();
        }
    };
    wait_for(1);
    drop(follower);
    wait_for(0);
}

#[test]
fn only_root_and_the_owner_may_use_the_socket() {
    let server = Server::start(MemoryService::default());
    let mode = std::fs::symlink_metadata(server.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_second_instance_is_refused_and_harms_nothing() {
    let server = Server::start(MemoryService::default());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _context = runtime.enter();
    let error = Listener::bind(server.socket()).unwrap_err().to_string();
    assert!(
        error.contains("another sipnat is running on") && error.contains("--socket"),
        "{error}"
    );
    assert_eq!(Wire::to(&server).ask(r#"{"cmd":"counters"}"#).len(), 2);
    // The socket's file may be gone, the daemon is not.
    std::fs::remove_file(server.socket()).unwrap();
    assert!(
        Listener::bind(server.socket())
            .unwrap_err()
            .to_string()
            .contains("another sipnat")
    );
}

#[test]
fn stale_sockets_are_replaced_and_other_things_are_not() {
    let directory = Directory::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _context = runtime.enter();
    let stale = directory.0.join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let listener = Listener::bind(&stale).unwrap();
    drop(listener);
    assert!(!stale.exists(), "a daemon that ends leaves no socket");

    // Somebody who answers but holds no lock.
    let foreign = directory.0.join("foreign.sock");
    let _answering = std::os::unix::net::UnixListener::bind(&foreign).unwrap();
    assert!(
        Listener::bind(&foreign)
            .unwrap_err()
            .to_string()
            .contains("another sipnat")
    );
    let file = directory.file("file.sock", "precious");
    assert!(Listener::bind(&file).unwrap_err().to_string().contains("is no socket"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    let long = directory.0.join("x".repeat(108));
    assert!(
        Listener::bind(&long)
            .unwrap_err()
            .to_string()
            .contains("longer than 107 bytes")
    );
}
