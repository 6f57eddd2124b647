//! The preflight on real interfaces, in namespaces of our own.

use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::net::XdpAttachMode;
use crate::net::testns::{TestNs, pair};

use super::*;

fn input(inside: &str, outside: &str) -> PreflightInput {
    let spec = |name: &str| {
        vec![InterfaceSpec {
            name: name.into(),
            vlan: None,
        }]
    };
    PreflightInput {
        inside: spec(inside),
        outside: spec(outside),
        external: vec![],
        inside_prefixes: vec![],
        capacity_bytes: 1 << 20,
        pinned_bytes: 0,
        max_bindings: 1000,
        nat_ports: 1024..=65535,
        mode: WantedMode::Auto,
        socket_path: "/run/sipnat-test.sock".into(),
        pin_dir: "/proc/no-such/dir".into(),
        own_prog_ids: vec![],
    }
}

/// A router "ns" with veths lan0 and wan0, whose peers are in "far".
fn router() -> Option<(TestNs, TestNs)> {
    let (router, far) = pair()?;
    router.ip("link set va down");
    router.ip("link set va name lan0");
    router.ip("link set lan0 up");
    router.ip(&format!("link add name wan0 type veth peer name vw netns {}", far.name));
    router.ip("link set wan0 up");
    far.ip("link set vw up");
    router.ip("addr add 192.168.1.1/24 dev lan0");
    router.ip("addr add 203.0.113.2/24 dev wan0");
    Some((router, far))
}

#[test]
fn gathers_what_the_kernel_says() {
    let Some((router, _far)) = router() else {
        return;
    };
    router.enter(|| fs::write("/proc/sys/net/ipv4/conf/lan0/forwarding", "1").unwrap());
    router.enter(|| fs::write("/proc/sys/net/ipv4/conf/wan0/rp_filter", "1").unwrap());
    let facts = router.block_on(async || Facts::gather(&input("lan0", "wan0")).await.unwrap());
    assert_eq!(facts.euid, 0);
    assert!(facts.capabilities >> 12 & 1 == 1, "CAP_NET_ADMIN");
    assert!(facts.mem_available.unwrap() > 1 << 20);
    assert_eq!(
        facts.pin_dir,
        Some(PinDir {
            existing: "/proc".into(),
            fs_magic: 0x9fa0
        }),
        "the nearest existing directory"
    );
    let (lan0, wan0) = (facts.by_name("lan0").unwrap(), facts.by_name("wan0").unwrap());
    assert_eq!(facts.devices.len(), 2, "{:?}", facts.devices);
    assert_eq!(facts.devices[&lan0.index].forwarding, Some(true));
    assert_eq!(facts.devices[&wan0.index].rp_filter, Some(1));
    assert_eq!(facts.devices[&wan0.index].ethtool.as_ref().unwrap().driver, "veth");
    assert!(facts.own_ports.is_some());
}

#[test]
fn a_peer_in_this_namespace_is_looked_at_too() {
    let Some(ns) = TestNs::new() else { return };
    ns.add_d0();
    let facts = ns.block_on(async || Facts::gather(&input("d0", "none")).await.unwrap());
    let peer = facts.by_name("d1").unwrap();
    assert!(facts.devices[&peer.index].ethtool.as_ref().unwrap().tx_checksum());
}

#[test]
fn fixes_repair_what_they_were_found_for_and_only_on_request() {
    let Some((router, far)) = router() else {
        return;
    };
    far.run("ethtool -K vb tx off gro on");
    let look = || router.block_on(async || preflight(&input("lan0", "wan0")).await.unwrap());
    let errors = |report: &Report| report.errors.iter().map(|f| f.code).collect::<Vec<_>>();
    let before = look();
    assert_eq!(errors(&before), ["bpffs", "forwarding"], "{before}");
    assert_eq!(look(), before, "looking changes nothing");
    let facts = router.block_on(async || Facts::gather(&input("lan0", "wan0")).await.unwrap());
    if facts.devices.values().all(|device| device.xdp.is_some()) {
        let no_napi: Vec<_> = before.warnings.iter().filter(|f| f.code == "veth-no-napi").collect();
        let places: Vec<_> = no_napi.iter().map(|f| f.where_.as_str()).collect();
        assert_eq!(places, ["wan0"], "lan0's peer polls: {before}");
    }

    let written = router.enter(|| apply_fixes(&before).unwrap());
    assert!(
        written.iter().all(|fix| fix.path.ends_with("forwarding")),
        "{written:?}"
    );
    let after = look();
    assert_eq!(errors(&after), ["bpffs"], "{after}");
    assert!(after.warnings.iter().all(|f| f.code != "forwarding"), "{after}");
}

#[test]
fn a_foreign_program_is_named() {
    let Some((router, _far)) = router() else {
        return;
    };
    let (input, index) = (input("lan0", "wan0"), |facts: &Facts| facts.by_name("wan0").cloned());
    let program = pass_program("foreign_one");
    router.ip("link set dev wan0 up");
    router.enter(|| attach_generic("wan0", &program));
    let facts = router.block_on(async || Facts::gather(&input).await.unwrap());
    let attached = index(&facts).unwrap().xdp.unwrap();
    assert_eq!(attached.mode, XdpAttachMode::Generic);
    let report = judge(&input, &facts);
    let finding = report.errors.iter().find(|f| f.code == "foreign-xdp").expect("found");
    assert!(
        finding
            .why
            .contains(&format!("program {} \"foreign_one\"", attached.prog_id)),
        "{finding}"
    );

    let own = PreflightInput {
        own_prog_ids: vec![attached.prog_id],
        ..input
    };
    assert!(judge(&own, &facts).errors.iter().all(|f| f.code != "foreign-xdp"));
}

#[test]
fn software_devices_on_a_real_kernel() {
    let Some((router, _far)) = router() else {
        return;
    };
    router.ip("link add name br0 type bridge");
    router.ip("link set br0 up");
    router.ip("addr add 10.1.0.1/24 dev br0");
    router.ip("link add link lan0 name mv0 type macvlan mode bridge");
    router.ip("link set mv0 up");
    router.ip("tuntap add tun0 mode tun");
    router.ip("link set tun0 up");
    let look = |inside: &str| router.block_on(async || preflight(&input(inside, "wan0")).await.unwrap());
    for generic_only in ["br0", "mv0"] {
        let report = look(generic_only);
        assert_eq!(report.mode, Mode::Generic, "{generic_only}: {report}");
        let warned = |f: &Finding| f.code == "not-native" && f.where_ == generic_only;
        assert!(report.warnings.iter().any(warned), "{report}");
    }
    assert!(look("tun0").errors.iter().any(|f| f.code == "no-ethernet"));
    assert_eq!(look("lan0").mode, Mode::Native);
    router.ip("link del mv0");
    router.ip("link set lan0 master br0");
    assert!(look("lan0").errors.iter().any(|f| f.code == "bridge-port"));
}

#[test]
fn a_mounted_bpffs_is_recognised() {
    let Some(ns) = TestNs::new() else { return };
    let report = ns.block_on(async || {
        // A mount namespace of this thread's own: the mount goes with it.
        // SAFETY: plain system calls on C strings; unshare affects this thread alone.
        unsafe {
            assert_eq!(libc::unshare(libc::CLONE_NEWNS), 0);
            let private = libc::MS_REC | libc::MS_PRIVATE;
            let none = std::ptr::null();
            assert_eq!(libc::mount(none, c"/".as_ptr(), none, private, none.cast()), 0);
            let (bpf, at) = (c"bpf".as_ptr(), c"/mnt".as_ptr());
            assert_eq!(libc::mount(bpf, at, bpf, 0, none.cast()), 0);
        }
        let input = PreflightInput {
            pin_dir: "/mnt/sipnat/v1".into(),
            ..input("lo", "lo")
        };
        preflight(&input).await.unwrap()
    });
    assert!(report.errors.iter().all(|f| f.code != "bpffs"), "{report}");
    assert!(report.errors.iter().any(|f| f.code == "loopback"), "{report}");
}

/// "r0 = XDP_PASS; exit", loaded by hand: the tests of this crate need no eBPF toolchain.
fn pass_program(name: &str) -> OwnedFd {
    const BPF_PROG_LOAD: libc::c_long = 5;
    const BPF_PROG_TYPE_XDP: u32 = 6;
    let code: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];
    let license = c"GPL";
    // The head of union bpf_attr for BPF_PROG_LOAD, up to prog_name.
    let mut attr = [0u8; 64];
    attr[0..4].copy_from_slice(&BPF_PROG_TYPE_XDP.to_ne_bytes());
    attr[4..8].copy_from_slice(&2u32.to_ne_bytes());
    attr[8..16].copy_from_slice(&(code.as_ptr() as u64).to_ne_bytes());
    attr[16..24].copy_from_slice(&(license.as_ptr() as u64).to_ne_bytes());
    attr[48..48 + name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: attr, code and license outlive the call; the kernel copies them.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, attr.as_ptr(), attr.len()) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: just opened.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

/// BPF_LINK_CREATE would vanish with its descriptor, so this one leaks it into the test process.
fn attach_generic(interface: &str, program: &OwnedFd) {
    const BPF_LINK_CREATE: libc::c_long = 28;
    const BPF_XDP: u32 = 37;
    const XDP_FLAGS_SKB_MODE: u32 = 2;
    let name = std::ffi::CString::new(interface).unwrap();
    // SAFETY: a valid C string.
    let ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) };
    let attr = [program.as_raw_fd() as u32, ifindex, BPF_XDP, XDP_FLAGS_SKB_MODE];
    // SAFETY: attr outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_CREATE, attr.as_ptr(), 16) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
}
