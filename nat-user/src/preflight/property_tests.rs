//! Judgement on nonsense: whatever the facts, it does not panic, and whoever reads it is told what to do.

use proptest::prelude::*;

use crate::net::{Address, AttachedXdp, Ethtool, Interface, Kind, Link, OwnPorts, Prefix, XdpAttachMode, XdpFeatures};

use super::samples::{address, interface};
use super::*;

fn any_kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Physical),
        Just(Kind::Veth),
        Just(Kind::Bridge),
        Just(Kind::Bond),
        (0u32..6, any::<u16>()).prop_map(|(parent, id)| Kind::Vlan { parent, id }),
        Just(Kind::Macvlan),
        Just(Kind::Ppp),
        Just(Kind::Tun),
        Just(Kind::Tap),
        Just(Kind::Dummy),
        Just(Kind::Wireguard),
        Just(Kind::Loopback),
        ".{0,8}".prop_map(Kind::Other),
    ]
}

prop_compose! {
    fn any_interface()(
        index in 0u32..6, kind in any_kind(), ethernet: bool, mtu: u32, up: bool,
        master in proptest::option::of(0u32..8),
        link in proptest::option::of((0u32..8, proptest::option::of(any::<i32>()))),
        prog_id in proptest::option::of(0u32..4),
    ) -> Interface {
        Interface {
            ethernet, mtu, up, master,
            link: link.map(|(index, netns)| Link { index, netns }),
            xdp: prog_id.map(|prog_id| AttachedXdp { mode: XdpAttachMode::Generic, prog_id }),
            ..interface(&format!("if{index}"), index, kind)
        }
    }
}

prop_compose! {
    fn any_device()(
        on in proptest::collection::vec(proptest::sample::select(vec![
            "rx-lro", "rx-gro", "rx-gro-hw", "rx-vlan-hw-parse", "tx-checksum-ip-generic",
        ]), 0..5),
        known: bool, xdp in proptest::option::of(any::<u64>()),
        forwarding: Option<bool>, rp_filter: Option<u8>,
    ) -> Device {
        let features = on.into_iter().map(|name| (name.to_string(), true)).collect();
        let ethtool = known.then(|| Ethtool { driver: "x".into(), features });
        Device { ethtool, xdp: xdp.map(XdpFeatures), forwarding, rp_filter }
    }
}

prop_compose! {
    fn any_facts()(
        interfaces in proptest::collection::vec(any_interface(), 0..6),
        addresses in proptest::collection::vec((0u32..6, any::<u32>(), any::<u8>()), 0..6),
        devices in proptest::collection::btree_map(0u32..6, any_device(), 0..6),
        capabilities: u64, kernel_release in ".{0,12}", bpf_jit: Option<u32>,
        mem_available: Option<u64>, magic in proptest::option::of(any::<u64>()),
        local in any::<(u16, u16)>(),
    ) -> Facts {
        let addresses = addresses.into_iter().map(|(ifindex, addr, prefix_len)| Address {
            addr: addr.into(), prefix_len, ..address(ifindex, "0.0.0.0/0")
        }).collect();
        let own_ports = (local.0 <= local.1).then(|| OwnPorts {
            local_range: local.0..=local.1,
            reserved: Default::default(), tcp: Default::default(), udp: Default::default(),
        });
        Facts {
            euid: 0, capabilities, kernel_release, bpf_jit, mem_available, interfaces, addresses,
            pin_dir: magic.map(|fs_magic| PinDir { existing: "/".into(), fs_magic }),
            devices, prog_names: Default::default(), own_ports,
        }
    }
}

prop_compose! {
    fn any_input()(
        names in proptest::collection::vec((0u32..8, proptest::option::of(any::<u16>())), 0..5),
        split in 0usize..5, external in proptest::collection::vec(any::<u32>(), 0..3),
        prefixes in proptest::collection::vec(any::<(u32, u8)>(), 0..3),
        bytes in any::<(u64, u64, u64)>(), ports in any::<(u16, u16)>(),
        mode in proptest::sample::select(vec![WantedMode::Auto, WantedMode::Native, WantedMode::Generic]),
        path in "[a-z/]{0,120}",
    ) -> PreflightInput {
        let mut specs: Vec<_> = names.into_iter()
            .map(|(i, vlan)| InterfaceSpec { name: format!("if{i}"), vlan }).collect();
        let outside = specs.split_off(split.min(specs.len()));
        PreflightInput {
            inside: specs, outside,
            external: external.into_iter().map(Into::into).collect(),
            inside_prefixes: prefixes.into_iter().map(|(a, l)| Prefix::new(a.into(), l)).collect(),
            capacity_bytes: bytes.0, pinned_bytes: bytes.1, max_bindings: bytes.2,
            nat_ports: ports.0..=ports.1, mode,
            socket_path: path.clone().into(), pin_dir: path.into(), own_prog_ids: vec![1, 2],
        }
    }
}

proptest! {
    #[test]
    fn judging_never_panics_and_every_error_has_a_remedy(input in any_input(), facts in any_facts()) {
        let report = judge(&input, &facts);
        for finding in report.errors.iter().chain(&report.warnings) {
            prop_assert!(!finding.what.is_empty() && !finding.why.is_empty(), "{:?}", finding);
            prop_assert!(!finding.remedy.is_empty(), "{:?}", finding);
        }
        for fix in report.fixes() {
            prop_assert!(fix.path.starts_with("/proc/sys/"));
        }
    }
}
