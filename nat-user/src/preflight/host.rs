//! The machine as a whole: privileges, kernel, file systems, memory, ports.

use super::finding::{Finding, Report};
use super::{Facts, PreflightInput};

pub(super) fn judge(input: &PreflightInput, facts: &Facts, report: &mut Report) {
    privileges(facts, report);
    kernel(facts, report);
    pin_dir(input, facts, report);
    socket(input, report);
    memory(input, facts, report);
    ports(input, facts, report);
}

const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

fn privileges(facts: &Facts, report: &mut Report) {
    let has = |capability: u32| facts.capabilities >> capability & 1 == 1;
    let missing: Vec<_> = [
        (
            has(CAP_BPF) || has(CAP_SYS_ADMIN),
            "CAP_BPF",
            "load the program and its maps",
        ),
        (has(CAP_NET_ADMIN), "CAP_NET_ADMIN", "attach the program"),
        (
            has(CAP_NET_RAW),
            "CAP_NET_RAW",
            "send ICMP errors and reassembled fragments",
        ),
    ]
    .into_iter()
    .filter(|(present, ..)| !present)
    .map(|(_, name, purpose)| format!("{name} (to {purpose})"))
    .collect();
    if !missing.is_empty() {
        let who = if facts.euid == 0 {
            "root without capabilities"
        } else {
            "not root"
        };
        report.error(Finding::new("privileges", format!("user {}", facts.euid), "not allowed to run a data path")
            .why(format!("the process is {who} and lacks {}", missing.join(", ")))
            .remedy("run it with sudo, or from a systemd unit with AmbientCapabilities=CAP_BPF CAP_NET_ADMIN CAP_NET_RAW CAP_PERFMON"));
    }
}

/// The verifier of 6.1 gives up at a million instructions (`cargo xtask vm --kernel 6.1`); of those below, none does more.
const KERNEL_NEEDED: (u32, u32) = (6, 2);
/// The oldest kernel that the program was seen on (`cargo xtask vm`).
const KERNEL_TRIED: (u32, u32) = (6, 12);

fn kernel(facts: &Facts, report: &mut Report) {
    match version(&facts.kernel_release) {
        Some(version) if version < KERNEL_NEEDED => report.error(
            Finding::new("kernel", format!("kernel {}", facts.kernel_release), "too old")
                .why("its verifier cannot follow the program to the end and refuses it")
                .remedy(
                    "boot a kernel of 6.12 or later (Debian 13 has one, Debian 12 in its package linux-image-6.12)",
                ),
        ),
        Some(version) if version < KERNEL_TRIED => report.warning(
            Finding::new(
                "kernel-untried",
                format!("kernel {}", facts.kernel_release),
                "sipnat has not been tried on it",
            )
            .why("older verifiers follow less of the program, and may refuse it")
            .remedy("if it is refused, boot a kernel of 6.12 or later"),
        ),
        Some(_) => {}
        None => report.note(
            Finding::new("kernel-unknown", "kernel", "version not understood").why(format!(
                "\"{}\" does not begin with two numbers; 6.12 or later is wanted",
                facts.kernel_release
            )),
        ),
    }
    if facts.bpf_jit == Some(0) {
        report.error(
            Finding::new("jit-off", "net.core.bpf_jit_enable", "the BPF compiler is off")
                .why("the kernel would interpret the program, at a fraction of the speed and without some of the features it uses")
                .sysctl("/proc/sys/net/core/bpf_jit_enable".into(), "1"),
        );
    }
}

/// "6.1.0-56-cloud-amd64" is (6, 1).
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
const SYSFS_MAGIC: u64 = 0x6265_6572;

fn pin_dir(input: &PreflightInput, facts: &Facts, report: &mut Report) {
    let wanted = input.pin_dir.display();
    let finding = Finding::new("bpffs", wanted.to_string(), "not on a BPF file system");
    match &facts.pin_dir {
        Some(dir) if dir.fs_magic == BPF_FS_MAGIC => {}
        Some(dir) => {
            let mount = if input.pin_dir.starts_with("/sys/fs/bpf") {
                "/sys/fs/bpf".to_string()
            } else {
                input.pin_dir.parent().unwrap_or(&input.pin_dir).display().to_string()
            };
            let hint = if dir.fs_magic == SYSFS_MAGIC {
                "; `ip netns exec` hides a mounted one: enter the namespace with nsenter --net=/run/netns/NAME instead"
            } else {
                ""
            };
            report.error(
                finding
                    .why(format!("maps and links are pinned there, so that the NAT survives its daemon; {} is on a file system of another kind", dir.existing.display()))
                    .remedy(format!("mount -t bpf bpf {mount}{hint}")),
            );
        }
        None => report.error(
            finding
                .why("nothing on the way to it can be looked at")
                .remedy("check the path and its permissions"),
        ),
    }
}

/// The size of sun_path, less the closing zero.
const SOCKET_PATH_MAX: usize = 107;

fn socket(input: &PreflightInput, report: &mut Report) {
    let length = input.socket_path.as_os_str().len();
    if length == 0 || length > SOCKET_PATH_MAX {
        report.error(
            Finding::new(
                "socket-path",
                input.socket_path.display().to_string(),
                "no usable path for the control socket",
            )
            .why(format!(
                "it has {length} bytes; the kernel allows 1 to {SOCKET_PATH_MAX}"
            ))
            .remedy("choose a shorter one with --socket"),
        );
    }
}

fn memory(input: &PreflightInput, facts: &Facts, report: &mut Report) {
    let Some(available) = facts.mem_available else {
        return;
    };
    let needed = input.capacity_bytes.saturating_sub(input.pinned_bytes);
    let finding = |code, what| {
        Finding::new(code, format!("{} bindings", input.max_bindings), what)
            .why(format!(
                "the maps take {}, of which {} are still to be allocated, and the machine has {} available",
                size(input.capacity_bytes),
                size(needed),
                size(available)
            ))
            .remedy("lower the number of bindings or sessions in the configuration, or add memory")
    };
    if needed > available {
        report.error(finding("memory", "more memory asked than there is"));
    } else if needed > available / 4 * 3 {
        report.warning(finding("memory-tight", "little memory would be left"));
    }
}

fn ports(input: &PreflightInput, facts: &Facts, report: &mut Report) {
    let Some(own) = &facts.own_ports else { return };
    let excluded = crate::net::excluded_ports(own, input.nat_ports.clone());
    let all = input.nat_ports.clone().count();
    let (first, last) = (input.nat_ports.start(), input.nat_ports.end());
    let finding = |code, what: String| {
        Finding::new(code, format!("NAT ports {first}-{last}"), what)
            .why(format!(
                "net.ipv4.ip_local_port_range is {}-{}; with ip_local_reserved_ports and open sockets the router uses {excluded}",
                own.local_range.start(), own.local_range.end()
            ))
            .remedy("to serve more hosts, narrow the range of the router's own connections: sysctl net.ipv4.ip_local_port_range=\"60000 60999\", or add external addresses")
    };
    if all == excluded.len() {
        report.error(finding("no-ports", "the router itself uses all of them".into()));
    } else if !excluded.is_empty() {
        let rest = all - excluded.len();
        report.note(finding(
            "own-ports",
            format!(
                "{} stay with the router, {rest} are for the NAT on each address",
                excluded.len()
            ),
        ));
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{} KiB", bytes.div_ceil(1024)),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_versions() {
        for (release, expected) in [
            ("6.1.0-56-cloud-amd64", Some((6, 1))),
            ("5.18", Some((5, 18))),
            ("5.4.0", Some((5, 4))),
            ("10.20-rc1", Some((10, 20))),
            ("", None),
            ("vanilla", None),
            ("6", None),
        ] {
            assert_eq!(version(release), expected, "{release}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(size(1), "1 KiB");
        assert_eq!(size(256 << 20), "256.0 MiB");
        assert_eq!(size(5 << 29), "2.5 GiB");
    }
}
