//! Made-up machines for the tests: a sound router, to be changed one thing at a time.

use crate::net::{Address, Ethtool, Interface, Kind, Scope, XdpFeatures};

use super::*;

pub(super) const INSIDE: u32 = 2;
pub(super) const OUTSIDE: u32 = 3;
/// BASIC, REDIRECT, NDO_XMIT, RX_SG.
pub(super) const ALL_XDP: u64 = 0b10_0111;

pub(super) fn spec(name: &str) -> InterfaceSpec {
    InterfaceSpec {
        name: name.into(),
        vlan: None,
    }
}

pub(super) fn input() -> PreflightInput {
    PreflightInput {
        inside: vec![spec("lan0")],
        outside: vec![spec("wan0")],
        external: vec![],
        inside_prefixes: vec![],
        capacity_bytes: 256 << 20,
        pinned_bytes: 0,
        max_bindings: 1 << 20,
        nat_ports: 1024..=65535,
        mode: WantedMode::Auto,
        socket_path: "/run/sipnat/sipnat.sock".into(),
        pin_dir: "/sys/fs/bpf/sipnat".into(),
        own_prog_ids: vec![],
    }
}

pub(super) fn interface(name: &str, index: u32, kind: Kind) -> Interface {
    Interface {
        name: name.into(),
        index,
        ethernet: !matches!(kind, Kind::Ppp | Kind::Tun | Kind::Wireguard | Kind::Loopback),
        kind,
        mac: None,
        mtu: 1500,
        up: true,
        carrier: true,
        master: None,
        link: None,
        xdp: None,
    }
}

pub(super) fn address(ifindex: u32, cidr: &str) -> Address {
    let (addr, len) = cidr.split_once('/').unwrap();
    Address {
        ifindex,
        addr: addr.parse().unwrap(),
        prefix_len: len.parse().unwrap(),
        peer: None,
        scope: Scope::Universe,
        broadcast: None,
        flags: 0,
    }
}

pub(super) fn facts() -> Facts {
    let device = || Device {
        ethtool: Some(Ethtool {
            driver: "ixgbe".into(),
            ..Ethtool::default()
        }),
        xdp: Some(XdpFeatures(ALL_XDP)),
        forwarding: Some(true),
        rp_filter: Some(0),
    };
    Facts {
        euid: 0,
        capabilities: u64::MAX,
        kernel_release: "6.12.0-9-amd64".into(),
        bpf_jit: Some(1),
        pin_dir: Some(PinDir {
            existing: "/sys/fs/bpf".into(),
            fs_magic: 0xcafe_4a11,
        }),
        mem_available: Some(4 << 30),
        interfaces: vec![
            interface("lan0", INSIDE, Kind::Physical),
            interface("wan0", OUTSIDE, Kind::Physical),
        ],
        addresses: vec![address(INSIDE, "192.168.1.1/24"), address(OUTSIDE, "203.0.113.2/24")],
        devices: [(INSIDE, device()), (OUTSIDE, device())].into(),
        prog_names: [(77, "mystery".into())].into(),
        own_ports: None,
    }
}

pub(super) fn codes(findings: &[Finding]) -> Vec<&'static str> {
    findings.iter().map(|f| f.code).collect()
}

/// The sound router with one change: exactly these errors and warnings.
#[track_caller]
pub(super) fn expect(
    change: impl FnOnce(&mut PreflightInput, &mut Facts),
    errors: &[&str],
    warnings: &[&str],
) -> Report {
    let (mut input, mut facts) = (input(), facts());
    change(&mut input, &mut facts);
    let report = judge(&input, &facts);
    assert_eq!(
        (&*codes(&report.errors), &*codes(&report.warnings)),
        (errors, warnings),
        "{report}"
    );
    for finding in report.errors.iter().chain(&report.warnings) {
        assert!(!finding.why.is_empty() && !finding.remedy.is_empty(), "{finding:?}");
    }
    report
}

pub(super) fn kind(facts: &mut Facts, kind: Kind) {
    facts.interfaces[0] = interface("lan0", INSIDE, kind);
}

pub(super) fn features(facts: &mut Facts, names: &[&str]) {
    let ethtool = facts.devices.get_mut(&INSIDE).unwrap().ethtool.as_mut().unwrap();
    ethtool.features = names.iter().map(|n| (n.to_string(), true)).collect();
}
