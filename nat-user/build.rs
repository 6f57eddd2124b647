//! Builds the eBPF object that the binary carries.
//!
//! The build is our own cargo call instead of aya-build's, because it wants BTF, instruction set v3, and to be run again when
//! nat-common changes. `SIPNAT_SKIP_EBPF=1` leaves an empty object in its place: enough for tests that need no kernel.

use std::{env, fs, path::PathBuf, process::Command};

fn main() {
    println!("cargo::rerun-if-env-changed=SIPNAT_SKIP_EBPF");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate is in a workspace")
        .to_path_buf();
    for part in [
        "nat-common/src",
        "nat-common/Cargo.toml",
        "nat-ebpf/src",
        "nat-ebpf/Cargo.toml",
        "rust-toolchain.toml",
    ] {
        // Relative, so that a target directory that was copied along watches its own tree.
        println!("cargo::rerun-if-changed=../{part}");
    }
    let object = out.join("nat-ebpf");
    if env::var_os("SIPNAT_SKIP_EBPF").is_some_and(|v| v == "1") {
        fs::write(&object, b"").expect("OUT_DIR is writable");
        return;
    }
    let target = out.join("ebpf-target");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(&root)
        .args([
            "build",
            "--quiet",
            "--package",
            "nat-ebpf",
            "--bin",
            "nat-ebpf",
            "--release",
            "--target",
            "bpfel-unknown-none",
        ])
        .args(["-Z", "build-std=core", "--target-dir"])
        .arg(&target)
        .env_remove("RUSTC")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", "-Cdebuginfo=2 -Clink-arg=--btf -Ctarget-cpu=v3");
    if env::var_os("CARGO_FEATURE_EBPF_LOG").is_some() {
        cargo.args(["--features", "log"]);
    }
    let status = cargo
        .status()
        .unwrap_or_else(|error| panic!("cannot run cargo for the eBPF program: {error}"));
    assert!(
        status.success(),
        "building the eBPF program failed; `cargo xtask setup` installs what it needs (bpf-linker that matches this toolchain)"
    );
    fs::copy(target.join("bpfel-unknown-none/release/nat-ebpf"), &object).expect("the eBPF object was built");
}
