//! The harness around the daemon, tried with a stand-in that does what the harness relies on: `run` pins something and
//! stays, `status` tells whether it lives, `detach` removes the pins. Needs root.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tests::prelude::*;
use tests::programs::TempDir;

const STAND_IN: &str = r#"#!/bin/sh
value() { sed -n "s/^$2 = \"\(.*\)\"/\1/p" "$1"; }
case $1 in
run)
    socket=$(value "$3" socket) pins=$(value "$3" pin_dir)
    grep -q '^broken' "$3" && { echo "line 1: unknown key broken" >&2; exit 2; }
    mkdir -p "$pins" && echo $$ >"$socket"
    shift 3; echo "started with $*" >&2
    trap 'echo stopped >&2; rm "$socket"; exit 0' TERM
    while :; do sleep 0.05; done ;;
status) kill -0 "$(cat "$3")" ;;
echo) echo "[\"$2\", \"$3\"]" ;;
detach) rmdir "$(value "$3" pin_dir)" ;;
esac
"#;

fn stand_in() -> (TempDir, PathBuf) {
    let files = TempDir::new().unwrap();
    let path = files.path().join("sipnat");
    std::fs::write(&path, STAND_IN).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    (files, path)
}

#[test]
fn a_daemon_is_started_asked_killed_restarted_and_removed() {
    let (_files, binary) = stand_in();
    let lab = Lab::builder().second_outside().build().unwrap();
    let config = NatConfig::toml("[ports]\nblock_size = 64\n")
        .binary(&binary)
        .lifetime_scale(0.5);
    let mut nat = lab.start_nat_as(Nat::Sipnat, config).unwrap();
    wait_until("the first line of the log", SOON, || {
        nat.log() == "started with --lifetime-scale 0.5\n"
    })
    .unwrap();
    let text = std::fs::read_to_string(nat.daemon().config_file()).unwrap();
    assert!(text.contains("outside = [\"out0\", \"out1\"]"), "{text}");
    assert_eq!(nat.json(&["echo", "x"]).unwrap(), serde_json::json!(["x", "--json"]));

    let (dir, pins) = (nat.daemon().dir().to_path_buf(), nat.daemon().pin_dir());
    let pid = nat.daemon().pid();
    assert_eq!(
        lab.router
            .run("stat", ["-f", "-c", "%T", pins.to_str().unwrap()])
            .unwrap()
            .trim(),
        "bpf_fs"
    );
    nat.kill9();
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert!(pins.exists(), "a killed daemon leaves its pins");
    assert!(!nat.sipnat(&["status"]).unwrap().status.success());
    nat.restart().unwrap();
    nat.stop().unwrap();
    assert!(nat.log().ends_with("stopped\n"), "{}", nat.log());
    nat.restart().unwrap();
    drop(nat);
    assert!(!dir.exists(), "{} is left over", dir.display());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(dir.to_str().unwrap()), "{mounts}");
}

#[test]
fn a_daemon_that_ends_at_once_is_an_error_with_its_message() {
    let (_files, binary) = stand_in();
    let lab = Lab::builder().build().unwrap();
    let config = NatConfig::toml("broken = 1").binary(&binary);
    let error = format!("{:#}", lab.start_nat_as(Nat::Sipnat, config).unwrap_err());
    assert!(
        error.contains("unknown key broken") && error.contains("exit status: 2"),
        "{error}"
    );
}

#[test]
fn a_missing_binary_is_an_error_that_names_the_remedy() {
    let lab = Lab::builder().build().unwrap();
    let config = NatConfig::toml("").binary(Path::new("/nonexistent/sipnat"));
    let error = lab.start_nat_as(Nat::Sipnat, config).unwrap_err().to_string();
    assert!(
        error.contains("/nonexistent/sipnat") && error.contains("cargo xtask build"),
        "{error}"
    );
}
