//! The system's packages: what bpf-linker is built with, and the real programs that tests and demo run.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::run::{as_root, has, is_root, output_of, step};

/// A Debian package, and a program or file by which another distribution's equivalent is recognised.
pub type Package = (&'static str, &'static str);

#[rustfmt::skip]
const PACKAGES: [Package; 36] = [
    ("build-essential", "cc"), ("llvm-22-dev", "/usr/lib/llvm-22/bin/llvm-config"), ("libpolly-22-dev", ""),
    ("libzstd-dev", "/usr/include/zstd.h"), ("zlib1g-dev", "/usr/include/zlib.h"),
    ("iproute2", "ip"), ("ethtool", "ethtool"), ("tcpdump", "tcpdump"), ("nftables", "nft"), ("conntrack", "conntrack"),
    ("iperf3", "iperf3"), ("dnsmasq-base", "dnsmasq"), ("coturn", "turnserver"), ("stun-client", "stun"),
    ("iputils-ping", "ping"), ("traceroute", "traceroute"), ("mtr-tiny", "mtr"), ("curl", "curl"), ("hping3", "hping3"),
    ("python3", "/usr/bin/python3"), ("python3-scapy", ""), ("procps", "ps"), ("socat", "socat"),
    ("netcat-openbsd", "nc"), ("util-linux", "nsenter"), ("libc-bin", "ldd"),
    ("sip-tester", "sipp"), ("sipsak", "sipsak"), ("sipvicious", "svmap"), ("baresip-core", "baresip"), ("kamailio", "kamailio"),
    ("kamailio-tls-modules", ""), ("kamailio-outbound-modules", ""),
    ("natpmpc", "natpmpc"), ("python3-libtorrent", ""), ("tshark", "tshark"),
];

/// Packages that start a service when they are installed.
const SERVICES: [&str; 3] = ["coturn", "kamailio", "rtpengine-daemon"];

/// Installs what everything needs and is missing. Returns whether there was anything.
pub fn ensure() -> Result<bool> {
    ensure_these(&PACKAGES)
}

/// Installs those packages that are missing. Returns whether there were any.
pub fn ensure_these(packages: &[Package]) -> Result<bool> {
    if !has("apt-get") || !has("dpkg-query") {
        return elsewhere(packages).map(|()| false);
    }
    let missing = missing_packages(packages);
    if missing.is_empty() {
        return Ok(false);
    }
    eprintln!("setup: Debian packages missing: {}", missing.join(" "));
    let update = ["apt-get", "update"];
    #[rustfmt::skip]
    let install = [
        &["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "--no-install-recommends"], &missing[..],
    ]
    .concat();
    if !is_root() && !has("sudo") {
        let lines = [update.join(" "), install.join(" ")].join("\n    ");
        bail!("setup: installing packages needs root, and there is no sudo here; run as root:\n    {lines}");
    }
    step("package lists", &mut as_root("updating the package lists", &update)?)?;
    step("packages", &mut as_root("installing packages", &install)?).context(
        "setup: if a package is unknown to your release, get it from elsewhere (LLVM 22: its project's own apt repository)",
    )?;
    for service in SERVICES.into_iter().filter(|service| missing.contains(service)) {
        stop(service)?;
    }
    Ok(true)
}

fn missing_packages(packages: &[Package]) -> Vec<&'static str> {
    let names: Vec<&str> = packages.iter().map(|(name, _)| *name).collect();
    let query = [&["-W", "-f=${Package} ${db:Status-Status}\n"], &names[..]].concat();
    // It fails when a package is unknown, and still lists the others.
    let output = std::process::Command::new("dpkg-query").args(query).output();
    let text = output
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    names
        .into_iter()
        .filter(|name| !text.lines().any(|line| line == format!("{name} installed")))
        .collect()
}

/// Stops a service that came with a package: the tests start what they need themselves.
fn stop(service: &str) -> Result<()> {
    let systemd = Path::new("/run/systemd/system").is_dir();
    let (running, command) = if systemd {
        (
            output_of("systemctl", &["is-active", service]).is_some(),
            ["systemctl", "stop", service],
        )
    } else {
        (
            output_of("service", &[service, "status"]).is_some(),
            ["service", service, "stop"],
        )
    };
    if running {
        eprintln!(
            "setup: the package {service} has started its service; it is stopped, whether it starts at boot is left as it is"
        );
        step("stop a service", &mut as_root("stopping a service", &command)?)?;
    }
    Ok(())
}

/// On another distribution: nothing is installed, but what is missing is named.
fn elsewhere(packages: &[Package]) -> Result<()> {
    let there = |sign: &str| {
        if sign.starts_with('/') {
            Path::new(sign).exists()
        } else {
            has(sign)
        }
    };
    let missing: Vec<String> = packages
        .iter()
        .filter(|(_, sign)| !sign.is_empty() && !there(sign))
        .map(|(package, sign)| format!("    {sign} (on Debian in {package})"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .unwrap_or("this system");
    bail!(
        "setup: {} has no apt-get, so nothing is installed here. Install these yourself, then run this again:\n{}",
        name.trim_matches('"'),
        missing.join("\n")
    )
}
