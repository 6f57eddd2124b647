//! sipvicious, which scans and guesses: the ports of a call, and the users of the server.

use std::fs;

use tests::lab::EXTERNAL;
use tests::prelude::*;
use tests::sip::edge::Edge;

use super::arena::{Attacker, Victims, ports};
use super::{Attack, Outcome, Promise};

/// Where it sends from, so that the harness's own sockets are told apart.
const PORT: &str = "7070";
/// What it is called in its messages.
const AGENT: &[u8] = b"friendly-scanner";

/// Runs one of its programs on a host to its end; what it printed.
fn sipvicious(host: &Host, program: &str, args: &[&str]) -> String {
    let files = tests::programs::TempDir::new().unwrap();
    let mut command = host.command(program);
    command.args(args).args(["-P", PORT, &EXTERNAL.to_string()]);
    // Sessions are kept in the home directory.
    let output = command
        .env("HOME", files.path())
        .current_dir(files.path())
        .output()
        .unwrap();
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Its packets at a host: those that left, and those that came.
fn packets(capture: &Capture, outgoing: bool) -> Vec<Packet> {
    let port: u16 = PORT.parse().unwrap();
    let frames = capture.frames();
    let packets = frames
        .iter()
        .filter(|frame| frame.outgoing == outgoing)
        .filter_map(|frame| frame.packet());
    let its = |packet: &Packet| packet.as_udp().is_some() && [packet.src().port(), packet.dst().port()].contains(&port);
    packets.filter(its).collect()
}

/// `svmap` asks each media port whether a SIP device is there.
#[test]
fn svmap_finds_nobody_at_media_ports() {
    let edge = Edge::far("").unwrap();
    let victims = Victims::new(&edge);
    let attacker = Attacker::new(&edge, edge.lab.o(1));
    let capture = Capture::host(edge.lab.o(1)).unwrap();
    let ears = [1, 2].map(|number| Capture::host(edge.lab.f(number)).unwrap());
    let call = victims.call();
    call.connect().unwrap();
    let first = ports(&edge).iter().map(|port| port.port()).min().unwrap();
    let range = format!("-p{first}-{}", first.saturating_add(300));
    let mut said = String::new();
    attacker.acts(&victims, || {
        said = sipvicious(edge.lab.o(1), "svmap", &[&range, "-q"]);
        0
    });
    let heard = ears.iter().flat_map(Capture::received);
    let outcome = Outcome {
        sent: packets(&capture, true).len(),
        leaked: packets(&capture, false).len(),
        reached: heard
            .filter(|packet| packet.payload().windows(AGENT.len()).any(|bytes| bytes == AGENT))
            .count(),
    };
    assert!(outcome.sent >= 300, "{outcome:?}: {said}");
    Attack {
        attacker: "sipvicious: svmap",
        when: "both phones talk",
        what: "OPTIONS to 301 ports, those of the call among them",
        promise: Promise::Nothing,
    }
    .came_to(outcome);
    call.compare(5).unwrap();
    call.bye(0).unwrap();
}

/// `svwar` and `svcrack` against the server itself: no name is told from another, no password is found, and no phone hears of it. What leaks is
/// counted in answers that say more than 401 does.
#[test]
fn svwar_and_svcrack_find_nobody() {
    let edge = Edge::closed(&[("100", "correct horse"), ("105", "battery staple")]).unwrap();
    let capture = Capture::host(edge.lab.o(1)).unwrap();
    let words = edge.files.file("words");
    fs::write(&words, (0..60).map(|n| format!("word{n}\n")).collect::<String>()).unwrap();
    for (program, args, what) in [
        (
            "svwar",
            vec!["--force", "-e100-120", "-mREGISTER"],
            "REGISTER of users 100 to 120, until it gives up: no answer tells those who are there from the others",
        ),
        (
            "svcrack",
            vec!["-u100", "-d", &words],
            "passwords for user 100, until it gives up: its source is banned after ten",
        ),
    ] {
        let before = packets(&capture, false).len();
        let sent = packets(&capture, true).len();
        let said = sipvicious(edge.lab.o(1), program, &args);
        let answers = packets(&capture, false).split_off(before);
        let telling = answers
            .iter()
            .filter(|answer| !answer.payload().starts_with(b"SIP/2.0 401"))
            .count();
        let outcome = Outcome {
            sent: packets(&capture, true).len() - sent,
            leaked: telling,
            reached: 0,
        };
        assert!(!said.contains("reqauth") && !said.contains("correct horse"), "{said}");
        Attack {
            attacker: if program == "svwar" {
                "sipvicious: svwar"
            } else {
                "sipvicious: svcrack"
            },
            when: "at any time",
            what,
            promise: Promise::Nothing,
        }
        .came_to(outcome);
    }
}
