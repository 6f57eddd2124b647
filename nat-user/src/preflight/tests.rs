//! Judgement on made-up facts: a sound router, and that router with one thing wrong at a time.

use crate::net::{AttachedXdp, Ethtool, Kind, Link, OwnPorts, XdpAttachMode, XdpFeatures};

use super::samples::*;
use super::*;

#[test]
fn a_sound_router_has_no_findings() {
    let report = expect(|_, _| {}, &[], &[]);
    assert_eq!((report.notes, report.mode), (vec![], Mode::Native));
}

#[test]
fn the_machine() {
    expect(|_, f| f.capabilities = 0, &["privileges"], &[]);
    expect(|_, f| f.capabilities &= !(1 << 39), &[], &[]); // CAP_SYS_ADMIN includes CAP_BPF
    expect(|_, f| f.capabilities &= !(1 << 39 | 1 << 21), &["privileges"], &[]);
    let old = expect(
        |_, f| f.kernel_release = "6.1.0-56-cloud-amd64".into(),
        &["kernel"],
        &[],
    );
    assert!(old.to_string().contains("boot a kernel of 6.12 or later"), "{old}");
    expect(|_, f| f.kernel_release = "6.6.30".into(), &[], &["kernel-untried"]);
    expect(|_, f| f.kernel_release = "6.12.0".into(), &[], &[]);
    let jit = expect(|_, f| f.bpf_jit = Some(0), &["jit-off"], &[]);
    assert_eq!(jit.fixes()[0].to_string(), "/proc/sys/net/core/bpf_jit_enable = 1");
    expect(|_, f| f.bpf_jit = None, &[], &[]);
    expect(|i, _| i.socket_path = "/x".repeat(60).into(), &["socket-path"], &[]);
}

#[test]
fn the_pin_directory() {
    let on = |magic| {
        Some(PinDir {
            existing: "/sys/fs".into(),
            fs_magic: magic,
        })
    };
    let sysfs = expect(|_, f| f.pin_dir = on(0x6265_6572), &["bpffs"], &[]).to_string();
    assert!(
        sysfs.contains("mount -t bpf bpf /sys/fs/bpf") && sysfs.contains("nsenter"),
        "{sysfs}"
    );
    let elsewhere = expect(
        |i, f| {
            i.pin_dir = "/run/nat/bpf/pins".into();
            f.pin_dir = on(0x0102_1994);
        },
        &["bpffs"],
        &[],
    );
    assert!(
        elsewhere.to_string().contains("mount -t bpf bpf /run/nat/bpf"),
        "{elsewhere}"
    );
    expect(|_, f| f.pin_dir = None, &["bpffs"], &[]);
}

#[test]
fn memory_is_compared_with_what_is_not_yet_allocated() {
    let report = expect(|i, _| i.capacity_bytes = 5 << 30, &["memory"], &[]);
    assert!(report.to_string().contains("5.0 GiB"), "{report}");
    let pinned = |i: &mut PreflightInput, _: &mut Facts| {
        (i.capacity_bytes, i.pinned_bytes) = (5 << 30, 5 << 30);
    };
    expect(pinned, &[], &[]);
    expect(|i, _| i.capacity_bytes = 7 << 29, &[], &["memory-tight"]);
}

#[test]
fn ports_of_the_router() {
    let own = |local_range| OwnPorts {
        local_range,
        reserved: Default::default(),
        tcp: "22,8080".parse().unwrap(),
        udp: Default::default(),
    };
    let report = expect(|_, f| f.own_ports = Some(own(32768..=60999)), &[], &[]);
    let note = report.notes[0].to_string();
    assert!(
        note.contains("8080,32768-60999") && note.contains("28233 stay"),
        "{note}"
    );
    let full = |i: &mut PreflightInput, f: &mut Facts| {
        i.nat_ports = 40000..=50000;
        f.own_ports = Some(own(32768..=60999));
    };
    expect(full, &["no-ports"], &[]);
}

#[test]
fn interfaces_that_are_not_there_or_named_twice() {
    let report = expect(|i, _| i.inside = vec![spec("eth7")], &["interface-missing"], &[]);
    assert!(report.to_string().contains("has lan0, wan0"), "{report}");
    expect(|i, _| i.inside.push(spec("lan0")), &["interface-twice"], &[]);
    expect(|i, _| i.outside.push(spec("lan0")), &["interface-twice"], &[]);
    expect(|i, _| i.outside.clear(), &["no-interface"], &[]);
    expect(|_, f| f.interfaces[1].up = false, &["interface-down"], &[]);
}

#[test]
fn kinds_of_devices() {
    for (bad, code) in [
        (Kind::Loopback, "loopback"),
        (Kind::Ppp, "no-ethernet"),
        (Kind::Tun, "no-ethernet"),
        (Kind::Wireguard, "no-ethernet"),
        (Kind::Vlan { parent: OUTSIDE, id: 7 }, "vlan-upper"),
    ] {
        expect(|_, f| kind(f, bad), &[code], &[]);
    }
    for good in [Kind::Physical, Kind::Bond, Kind::Dummy, Kind::Other("netkit".into())] {
        expect(|_, f| kind(f, good), &[], &[]);
    }
    expect(|_, f| kind(f, Kind::Tap), &[], &["partial-checksums"]);
    let upper = expect(
        |_, f| kind(f, Kind::Vlan { parent: OUTSIDE, id: 7 }),
        &["vlan-upper"],
        &[],
    );
    assert!(upper.to_string().contains("name = \"wan0\", vlan = 7"), "{upper}");
}

#[test]
fn ports_of_bridges_bonds_and_vrfs() {
    let master = |kind: Kind| {
        move |_: &mut PreflightInput, f: &mut Facts| {
            f.interfaces.push(interface("br0", 9, kind));
            f.interfaces[0].master = Some(9);
        }
    };
    let report = expect(master(Kind::Bridge), &["bridge-port"], &[]);
    assert!(report.to_string().contains("ip link set lan0 nomaster"), "{report}");
    expect(master(Kind::Bond), &["bond-port"], &[]);
    expect(master(Kind::Other("team".into())), &["port-of-master"], &[]);
    expect(master(Kind::Other("vrf".into())), &[], &["vrf"]);
}

#[test]
fn one_interface_without_native_xdp_makes_all_generic() {
    let bridge = |f: &mut Facts| {
        kind(f, Kind::Bridge);
        f.devices.get_mut(&INSIDE).unwrap().xdp = Some(XdpFeatures(0));
    };
    let report = expect(|_, f| bridge(f), &[], &["not-native"]);
    assert_eq!(report.mode, Mode::Generic);
    let native = |i: &mut PreflightInput, f: &mut Facts| {
        i.mode = WantedMode::Native;
        bridge(f);
    };
    assert_eq!(expect(native, &["not-native"], &[]).mode, Mode::Native);
    // A kernel that does not tell.
    let silent = |_: &mut PreflightInput, f: &mut Facts| {
        f.devices.values_mut().for_each(|d| d.xdp = None);
    };
    assert_eq!(expect(silent, &[], &[]).mode, Mode::Native);
    let silent_bridge = |i: &mut PreflightInput, f: &mut Facts| {
        kind(f, Kind::Bridge);
        silent(i, f);
    };
    assert_eq!(expect(silent_bridge, &[], &["not-native"]).mode, Mode::Generic);
}

#[test]
fn somebody_elses_program() {
    let attach = |f: &mut Facts| {
        f.interfaces[1].xdp = Some(AttachedXdp {
            mode: XdpAttachMode::Native,
            prog_id: 77,
        });
    };
    let report = expect(|_, f| attach(f), &["foreign-xdp"], &[]).to_string();
    assert!(
        report.contains("program 77 \"mystery\"") && report.contains("wan0"),
        "{report}"
    );
    let own = |i: &mut PreflightInput, f: &mut Facts| {
        i.own_prog_ids = vec![5, 77];
        attach(f);
    };
    expect(own, &[], &[]);
}

#[test]
fn jumbo_frames() {
    let mtu = |mtu, xdp| {
        move |_: &mut PreflightInput, f: &mut Facts| {
            f.interfaces[0].mtu = mtu;
            f.devices.get_mut(&INSIDE).unwrap().xdp = xdp;
        }
    };
    expect(mtu(9000, Some(XdpFeatures(ALL_XDP))), &[], &[]);
    expect(mtu(9000, Some(XdpFeatures(0b111))), &[], &["jumbo"]);
    expect(mtu(3500, Some(XdpFeatures(0b111))), &[], &[]);
    assert_eq!(codes(&expect(mtu(9000, None), &[], &[]).notes), ["jumbo"]);
}

#[test]
fn offloads() {
    expect(|_, f| features(f, &["rx-lro"]), &[], &["receive-offload"]);
    let hw = expect(|_, f| features(f, &["rx-gro-hw"]), &[], &["receive-offload"]);
    assert!(hw.to_string().contains("ethtool -K lan0 rx-gro-hw off"), "{hw}");
    expect(|_, f| features(f, &["rx-gro", "tx-generic-segmentation"]), &[], &[]);
    let generic = |i: &mut PreflightInput, f: &mut Facts| {
        i.mode = WantedMode::Generic;
        features(f, &["rx-gro"]);
    };
    expect(generic, &[], &["super-packets"]);
}

#[test]
fn veth_peers() {
    const PEER: u32 = 8;
    let veth = |f: &mut Facts, netns| {
        kind(f, Kind::Veth);
        f.interfaces[0].link = Some(Link { index: PEER, netns });
    };
    let hidden = expect(|_, f| veth(f, Some(0)), &[], &["partial-checksums"]).to_string();
    assert!(hidden.contains("cannot be read"), "{hidden}");
    let here = |f: &mut Facts, on| {
        veth(f, None);
        f.interfaces.push(interface("vx", PEER, Kind::Veth));
        let ethtool = Ethtool {
            driver: "veth".into(),
            features: [("tx-checksum-ip-generic".to_string(), on)].into(),
        };
        f.devices.insert(
            PEER,
            Device {
                ethtool: Some(ethtool),
                ..Device::default()
            },
        );
    };
    expect(|_, f| here(f, false), &[], &[]);
    let on = expect(|_, f| here(f, true), &[], &["partial-checksums"]).to_string();
    assert!(on.contains("ethtool -K vx tx off"), "{on}");
    let idle = |_: &mut PreflightInput, f: &mut Facts| {
        here(f, false);
        f.devices.get_mut(&INSIDE).unwrap().xdp = Some(XdpFeatures(0b10_0011));
    };
    let idle = expect(idle, &[], &["veth-no-napi"]).to_string();
    assert!(idle.contains("ethtool -K vx gro on"), "{idle}");
}

#[test]
fn vlans() {
    const UPPER: u32 = 20;
    let upper = |f: &mut Facts| {
        f.interfaces
            .push(interface("lan0.5", UPPER, Kind::Vlan { parent: INSIDE, id: 5 }));
        f.addresses[0].ifindex = UPPER;
    };
    let bare = expect(|i, _| i.inside[0].vlan = Some(5), &[], &["vlan-missing"]);
    let text = bare.to_string();
    assert!(
        text.contains("ip link add link lan0 name lan0.5 type vlan id 5"),
        "{text}"
    );
    let vlan = |i: &mut PreflightInput, f: &mut Facts| {
        i.inside[0].vlan = Some(5);
        upper(f);
    };
    expect(vlan, &[], &[]);
    let strips = |i: &mut PreflightInput, f: &mut Facts| {
        vlan(i, f);
        features(f, &["rx-vlan-hw-parse"]);
    };
    let report = expect(strips, &["rxvlan"], &[]);
    assert!(report.to_string().contains("ethtool -K lan0 rxvlan off"), "{report}");
    let hidden = |_: &mut PreflightInput, f: &mut Facts| {
        upper(f);
        features(f, &["rx-vlan-hw-parse"]);
    };
    expect(hidden, &["rxvlan"], &[]);
    expect(|_, f| features(f, &["rx-vlan-hw-parse"]), &[], &[]);
    // The overlap is looked for where the addresses are.
    let overlap = |i: &mut PreflightInput, f: &mut Facts| {
        vlan(i, f);
        f.addresses[0] = address(UPPER, "203.0.113.200/28");
    };
    expect(overlap, &["overlap"], &[]);
    // Two VLANs of one wire may be the two sides.
    let stick = |i: &mut PreflightInput, f: &mut Facts| {
        vlan(i, f);
        i.outside = vec![spec("lan0")];
        f.addresses[1].ifindex = INSIDE;
    };
    expect(stick, &[], &[]);
    // But not without an interface that tells them apart.
    let ambiguous = |i: &mut PreflightInput, f: &mut Facts| {
        stick(i, f);
        f.interfaces.pop();
        f.addresses[0].ifindex = INSIDE;
    };
    let report = expect(ambiguous, &["overlap", "overlap", "vlan-ambiguous"], &["vlan-missing"]);
    let text = report.to_string();
    assert!(text.contains("lan0 VLAN 5 and lan0"), "{text}");
}

#[test]
fn addresses_and_overlap() {
    expect(|_, f| f.addresses.truncate(1), &["no-address"], &[]);
    let configured = |i: &mut PreflightInput, f: &mut Facts| {
        i.external = vec!["198.51.100.7".parse().unwrap()];
        f.addresses.truncate(1);
    };
    expect(configured, &[], &["no-address", "external-unassigned"]);
    let assigned = |i: &mut PreflightInput, _: &mut Facts| {
        i.external = vec!["203.0.113.2".parse().unwrap()];
    };
    expect(assigned, &[], &[]);

    let same = expect(
        |_, f| f.addresses[1] = address(OUTSIDE, "192.168.1.77/24"),
        &["overlap"],
        &[],
    );
    assert!(same.to_string().contains("RFC 4787 REQ-7"), "{same}");
    let prefix =
        |s: &'static str| move |i: &mut PreflightInput, _: &mut Facts| i.inside_prefixes = vec![s.parse().unwrap()];
    expect(prefix("203.0.0.0/8"), &["overlap"], &[]);
    expect(prefix("0.0.0.0/0"), &[], &[]);
    expect(prefix("10.0.0.0/8"), &[], &[]);
    let external = |i: &mut PreflightInput, _: &mut Facts| {
        i.external = vec!["192.168.1.9".parse().unwrap()];
    };
    expect(external, &["overlap"], &["external-unassigned"]);
    let twins = |i: &mut PreflightInput, f: &mut Facts| {
        i.inside.push(spec("lan1"));
        f.interfaces.push(interface("lan1", 4, Kind::Physical));
        f.addresses.push(address(4, "192.168.1.2/25"));
    };
    expect(twins, &[], &["inside-overlap"]);
}

#[test]
fn forwarding_and_reverse_path() {
    let off = |index: u32| {
        move |_: &mut PreflightInput, f: &mut Facts| {
            f.devices.get_mut(&index).unwrap().forwarding = Some(false);
        }
    };
    let report = expect(off(INSIDE), &["forwarding"], &[]);
    assert_eq!(
        report.fixes()[0].to_string(),
        "/proc/sys/net/ipv4/conf/lan0/forwarding = 1"
    );
    expect(off(OUTSIDE), &[], &["forwarding"]);

    let strict = |f: &mut Facts| f.devices.get_mut(&OUTSIDE).unwrap().rp_filter = Some(1);
    assert_eq!(codes(&expect(|_, f| strict(f), &[], &[]).notes), ["rp-filter"]);
    let two = |i: &mut PreflightInput, f: &mut Facts| {
        strict(f);
        i.outside.push(spec("wan1"));
        f.interfaces.push(interface("wan1", 4, Kind::Physical));
        f.addresses.push(address(4, "198.51.100.2/24"));
    };
    expect(two, &[], &["rp-filter"]);
}

#[test]
fn a_finding_reads_as_one_message() {
    let report = expect(|_, f| f.interfaces[0].up = false, &["interface-down"], &[]);
    assert_eq!(
        report.to_string(),
        "error: lan0: the interface is down: nothing can be received or sent on it\n    remedy: ip link set lan0 up\n"
    );
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["errors"][0]["where"], "lan0");
    assert_eq!(json["mode"], "native");
}
