//! Wrong input, with the real binary: one clear message that names the remedy, an exit code that is not 0, and nothing
//! attached or pinned that was not there before. Needs root.
//!
//! An unsupported kernel is not among these, because the kernel of the machine is what it is; what preflight says to one
//! is tested in `nat-user/src/preflight/tests.rs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tests::prelude::*;
use tests::programs::TempDir;
use tests::sipnat::{Daemon, binary};

#[path = "wrong_input/foreign.rs"]
mod foreign;

/// A refusal that tries the tables first may take this long on a busy machine.
const REFUSAL: Duration = Duration::from_secs(60);

#[test]
fn an_unknown_interface() {
    let (lab, daemon) = lab_with("[nat]\ninside = [\"lan7\"]\n");
    let message = refused(&lab, &daemon);
    says(
        &message,
        &["lan7", "no such interface", "in0", "remedy: correct the name"],
    );
}

#[test]
fn no_address_on_the_outside() {
    let (lab, daemon) = lab_with("");
    lab.router.run("ip", ["addr", "flush", "dev", "out0"]).unwrap();
    let message = refused(&lab, &daemon);
    says(&message, &["out0", "address", "remedy:"]);
}

#[test]
fn overlapping_inside_and_outside_networks() {
    let (lab, daemon) = lab_with("");
    lab.router
        .run("ip", ["addr", "add", "203.0.113.129/25", "dev", "in0"])
        .unwrap();
    let message = refused(&lab, &daemon);
    says(&message, &["overlap", "203.0.113.0/24", "203.0.113.128/25", "remedy:"]);
}

#[test]
fn inside_prefixes_that_contain_an_external_address() {
    let (lab, daemon) = lab_with("[nat]\ninside_prefixes = [\"203.0.0.0/16\"]\naddresses = [\"203.0.113.1\"]\n");
    let message = refused(&lab, &daemon);
    says(
        &message,
        &["203.0.113.1", "203.0.0.0/16", "REQ-7", "take one of them out"],
    );
}

#[test]
fn a_port_range_below_1024_without_saying_so() {
    let (lab, daemon) = lab_with("[ports]\nrange = \"512-65535\"\n");
    let message = refused(&lab, &daemon);
    says(&message, &[&at(&daemon, "\"512-65535\""), "1024", "allow_well_known"]);
}

#[test]
fn a_block_size_that_is_no_power_of_two() {
    let (lab, daemon) = lab_with("[ports]\nblock_size = 100\n");
    let message = refused(&lab, &daemon);
    says(&message, &[&at(&daemon, "100"), "block_size", "power of two"]);
}

/// The machine of the test may have any amount of memory, so the daemon is shown another `/proc/meminfo`.
#[test]
fn more_memory_than_there_is() {
    let (lab, daemon) = lab_with("[nat]\naddresses = [\"198.18.0.0/24\"]\ncapacity = 40000000\ncounting = true\n");
    let place = TempDir::new().unwrap();
    let meminfo = place.file("meminfo");
    fs::write(
        &meminfo,
        "MemTotal: 1048576 kB\nMemFree: 900000 kB\nMemAvailable: 900000 kB\n",
    )
    .unwrap();
    let mut command = lab.router.command("unshare");
    command.args(["--mount", "sh", "-c"]);
    command.args([
        "mount --bind \"$1\" /proc/meminfo && exec \"$2\" run --config \"$3\"",
        "sh",
    ]);
    command.arg(meminfo).arg(binary().unwrap()).arg(daemon.config_file());
    let message = refused_by(&lab, &daemon, || Child::spawn(command).unwrap());
    says(
        &message,
        &[
            "more memory asked than there is",
            "40000000 bindings",
            "878.9 MiB available",
            "remedy: lower the number",
        ],
    );
}

#[test]
fn more_external_addresses_than_there_is_room_for() {
    let (lab, daemon) = lab_with("[nat]\naddresses = [\"198.18.0.0/23\"]\n");
    let message = refused(&lab, &daemon);
    says(
        &message,
        &[
            &at(&daemon, "\"198.18.0.0/23\""),
            "more than 256",
            "write a longer prefix",
        ],
    );
}

#[test]
fn a_second_instance_on_the_same_interfaces() {
    let (lab, mut first) = lab_with("");
    first.restart().unwrap();
    let echo = UdpEcho::start(lab.o(1), 7).unwrap();
    let socket = host_udp(lab.h(1), 5060).unwrap();
    let seen = seen_by(&echo, &socket).unwrap();
    // Its socket and its pin directory are others than those of the first.
    let second = Daemon::prepare(&lab.router, NatConfig::toml(&lab.complete(""))).unwrap();
    assert_ne!((first.socket(), first.pin_dir()), (second.socket(), second.pin_dir()));
    let message = refused(&lab, &second);
    says(&message, &["another XDP program", "sipnat detach", "in0", "out0"]);
    assert_eq!(seen_by(&echo, &socket).unwrap(), seen, "the first goes on");
}

#[test]
fn a_second_instance_over_the_same_pins() {
    let (lab, mut first) = lab_with("");
    first.restart().unwrap();
    let message = refused(&lab, &first);
    says(&message, &["another sipnat"]);
    assert!(first.cli(&["status"]).unwrap().status.success());
}

#[test]
fn someone_elses_program_on_an_interface() {
    for interface in ["in0", "out0"] {
        let (lab, daemon) = lab_with("");
        let program = foreign::Program::load("not_sipnat").unwrap();
        let _link = lab.router.enter(|| program.attach(interface)).unwrap();
        let message = refused(&lab, &daemon);
        says(
            &message,
            &[
                interface,
                "another XDP program",
                "\"not_sipnat\"",
                "remedy: stop what attached it",
            ],
        );
    }
}

#[test]
fn not_root() {
    let (lab, daemon) = lab_with("");
    // The build directory may be closed to others; where everybody can read it, the binary is not the obstacle.
    let place = TempDir::new().unwrap();
    let copy = place.path().join("sipnat");
    fs::copy(binary().unwrap(), &copy).unwrap();
    let before = State::of(&lab, &daemon);
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"];
    let mut command = lab.router.command("setpriv");
    command
        .args(nobody)
        .arg(&copy)
        .args(["run", "--config"])
        .arg(daemon.config_file());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let message = the_message(&String::from_utf8_lossy(&output.stderr));
    says(
        &message,
        &["not root", "CAP_BPF", "CAP_NET_ADMIN", "remedy: run it with sudo"],
    );
    assert_eq!(State::of(&lab, &daemon), before);
}

#[test]
fn an_unknown_key() {
    let (lab, daemon) = lab_with("[ports]\nblok_size = 64\n");
    let message = refused(&lab, &daemon);
    says(&message, &[&at(&daemon, "blok_size"), "blok_size", "block_size"]);
}

#[test]
fn a_bad_unit() {
    let (lab, daemon) = lab_with("[lifetimes]\nudp = \"5 fortnights\"\n");
    let message = refused(&lab, &daemon);
    says(
        &message,
        &[&at(&daemon, "\"5 fortnights\""), "fortnights", "write it like 300s"],
    );
    // `check` finds the same without a daemon, and changes nothing either.
    let before = State::of(&lab, &daemon);
    let file = daemon.config_file();
    let output = daemon.command(&["check", file.to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let checked = the_message(&String::from_utf8_lossy(&output.stderr));
    says(&checked, &[&at(&daemon, "\"5 fortnights\"")]);
    assert_eq!(State::of(&lab, &daemon), before);
}

#[test]
fn a_config_file_that_is_not_there() {
    let (lab, daemon) = lab_with("");
    fs::remove_file(daemon.config_file()).unwrap();
    let message = refused(&lab, &daemon);
    says(&message, &[daemon.config_file().to_str().unwrap(), "No such file"]);
}

#[test]
fn stale_pins_of_another_schema() {
    let (lab, mut daemon) = lab_with("");
    let stale = daemon.pin_dir().join("v0");
    fs::create_dir_all(&stale).unwrap();
    let program = foreign::Program::load("older").unwrap();
    program.pin(&stale.join("OLD")).unwrap();
    let message = refused(&lab, &daemon);
    let remedy = format!("sipnat detach --pin-dir {}", daemon.pin_dir().display());
    says(&message, &["pins of another sipnat (v0", &remedy]);
    // The remedy works.
    daemon.detach().unwrap();
    daemon.restart().unwrap();
}

#[test]
fn a_command_line_without_a_daemon() {
    let (lab, daemon) = lab_with("");
    let before = State::of(&lab, &daemon);
    let add = ["bindings", "add-forward", "udp", "9000", "192.168.1.10:80"];
    let commands: [&[&str]; 8] = [
        &["status"],
        &["status", "--json"],
        &["bindings"],
        &["blocks"],
        &["counters"],
        &["events", "--follow"],
        &["reload"],
        &add,
    ];
    for command in commands {
        let output = daemon.cli(command).unwrap();
        assert_eq!(output.status.code(), Some(3), "{command:?}: {output:?}");
        assert!(output.stdout.is_empty(), "{command:?}: {output:?}");
        let message = the_message(&String::from_utf8_lossy(&output.stderr));
        says(&message, &[daemon.socket().to_str().unwrap(), "sipnat run"]);
    }
    assert_eq!(State::of(&lab, &daemon), before);
}

/// A lab with a daemon that has this configuration and has not been started.
fn lab_with(toml: &str) -> (Lab, Daemon) {
    let lab = Lab::builder().build().unwrap();
    let daemon = Daemon::prepare(&lab.router, NatConfig::toml(&lab.complete(toml))).unwrap();
    (lab, daemon)
}

/// Starts the daemon, which must refuse and change nothing; returns its message.
fn refused(lab: &Lab, daemon: &Daemon) -> String {
    refused_by(lab, daemon, || daemon.spawn(&[]).unwrap())
}

/// The same for a start of another kind.
fn refused_by(lab: &Lab, daemon: &Daemon, start: impl FnOnce() -> Child) -> String {
    let before = State::of(lab, daemon);
    let mut child = start();
    let status = child.wait_exit(REFUSAL).unwrap();
    let log = child.log();
    assert_eq!(status.code(), Some(1), "{log}");
    assert_eq!(State::of(lab, daemon), before, "{log}");
    the_message(&log)
}

/// The one message: it begins with the program's name and is the last thing said.
fn the_message(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let starts: Vec<usize> = (0..lines.len())
        .filter(|at| lines[*at].starts_with("sipnat: "))
        .collect();
    let [start] = starts[..] else {
        panic!("{} messages in {log:?}", starts.len())
    };
    lines[start..].join("\n")
}

fn says(message: &str, all: &[&str]) {
    for part in all {
        assert!(message.contains(part), "{part:?} is missing in: {message}");
    }
}

/// `FILE:LINE:COLUMN` of a text in the daemon's config file.
fn at(daemon: &Daemon, text: &str) -> String {
    let file = fs::read_to_string(daemon.config_file()).unwrap();
    let place = file.find(text).unwrap_or_else(|| panic!("no {text} in {file}"));
    let line = file[..place].matches('\n').count();
    let column = place - file[..place].rfind('\n').map_or(0, |end| end + 1);
    format!("{}:{}:{}", daemon.config_file().display(), line + 1, column + 1)
}

/// What a refused start must leave as it was.
#[derive(Debug, PartialEq, Eq)]
struct State {
    /// XDP, TCX and clsact programs on the router's interfaces, by `ip -d link`.
    attached: Vec<String>,
    /// Everything on the daemon's bpffs.
    pinned: Vec<PathBuf>,
    /// Everything in its directory, such as its socket.
    files: Vec<PathBuf>,
    /// The system settings that preflight looks at.
    settings: Vec<String>,
}

impl State {
    fn of(lab: &Lab, daemon: &Daemon) -> Self {
        let links = lab.router.run("ip", ["-d", "link"]).unwrap();
        let attached = links
            .lines()
            .filter(|line| line.contains("xdp") || line.contains("prog/"));
        let mut pinned = Vec::new();
        below(&daemon.dir().join("bpf"), &mut pinned);
        // A lock file stays for good, since removing it would be a race; it holds nothing.
        let kept = |file: &PathBuf| file.extension().is_none_or(|end| end != "lock");
        let mut files: Vec<_> = fs::read_dir(daemon.dir())
            .unwrap()
            .map(|e| e.unwrap().path())
            .filter(kept)
            .collect();
        files.sort();
        let keys = [
            "ip_forward",
            "conf.in0.forwarding",
            "conf.out0.forwarding",
            "ip_local_port_range",
        ];
        let setting = |key| lab.router.read_sysctl(&format!("net.ipv4.{key}")).unwrap();
        Self {
            attached: attached.map(|line| line.trim().to_string()).collect(),
            pinned,
            files,
            settings: keys.map(setting).into(),
        }
    }
}

fn below(dir: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            below(&entry, found);
        }
        found.push(entry);
    }
}
