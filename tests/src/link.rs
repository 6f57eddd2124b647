//! Links of the lab: veth pairs, and switches, which are bridges in namespaces of their own.
//!
//! XDP in the router redirects raw frames, so two things must hold around it, and the lab arranges both:
//!
//! - A packet from a local socket normally carries a partial checksum that "hardware" completes. A redirect never
//!   completes it, so every end that originates traffic has transmit checksumming off and sums in software.
//! - A veth accepts redirected frames only if its peer end polls (NAPI), which GRO turns on. The peers of the router's
//!   interfaces have it. GRO merges TCP segments there; the switch ports towards hosts have transmit checksumming (and
//!   so TSO) off, which splits and sums them again, so that a capture at a host sees packets as on a wire.
//!
//! Tried with an XDP router between two switches: without GRO on the router's peers nothing arrives; with transmit
//! checksumming on at a host or at the switch's port towards it, or with GRO at a host, everything arrives, but captures
//! show merged segments and partial checksums. In a direct lab the host is itself the router's peer, so it has GRO, and
//! captures there are of that kind.
//!
//! VLAN offload is off on all ends, so that an 802.1Q tag stays in the frame where XDP can see it.

use anyhow::{Context, Result};

use crate::ns::Namespace;
use crate::packet::{Mac, mac_text};

/// One end of a veth pair to be made.
#[derive(Clone, Debug)]
pub struct End<'a> {
    /// The namespace that the end lives in.
    pub ns: &'a Namespace,
    /// Its interface name there.
    pub dev: &'a str,
    /// A fixed Ethernet address; the kernel draws one otherwise.
    pub mac: Option<Mac>,
    /// What the end is for, which decides about offloads.
    pub duty: Duty,
}

/// What an end of a link is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// The router's own interface: as the kernel makes it.
    Router,
    /// Faces the router: must accept redirected frames (NAPI), and complete what it sends.
    FacesRouter,
    /// Anything else: sums what it sends, and sees packets as on a wire.
    Plain,
}

/// Whether the lab turns off the offloads that XDP cannot live with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offloads {
    /// Suitable for XDP, and for true checksums in captures (see the module's text).
    #[default]
    Xdp,
    /// As the kernel makes veth: partial checksums and 64 KiB super-packets everywhere. Only for comparison figures.
    KernelDefault,
}

/// Makes a veth pair and brings both ends up.
pub fn veth(a: &End, b: &End, mtu: u32, offloads: Offloads) -> Result<()> {
    let mac = |end: &End| {
        end.mac
            .map(|mac| format!(" address {}", mac_text(mac)))
            .unwrap_or_default()
    };
    let line = format!(
        "link add {} mtu {mtu}{} type veth peer name {} mtu {mtu}{} netns {}",
        a.dev,
        mac(a),
        b.dev,
        mac(b),
        b.ns.name()
    );
    a.ns.ip_batch(&[line])
        .with_context(|| format!("link {} {} to {} {}", a.ns.name(), a.dev, b.ns.name(), b.dev))?;
    // All offloads before the first "up": a veth learns whether its peer polls, and so whether it accepts redirected
    // frames, when it comes up or when its peer's GRO changes while up; not when GRO changes while the peer is down.
    if offloads == Offloads::Xdp {
        set_offloads(a)?;
        set_offloads(b)?;
    }
    for end in [a, b] {
        end.ns.ip_batch(&[format!("link set {} up", end.dev)])?;
    }
    Ok(())
}

/// Sets one `ethtool -K` feature, such as `("tx", false)`.
pub fn ethtool_feature(ns: &Namespace, dev: &str, feature: &str, on: bool) -> Result<()> {
    ns.run("ethtool", ["-K", dev, feature, if on { "on" } else { "off" }])
        .map(drop)
}

/// The Ethernet address of an interface.
pub fn mac(ns: &Namespace, dev: &str) -> Result<Mac> {
    let text = ns.run("ip", ["-json", "link", "show", "dev", dev])?;
    let value: serde_json::Value = serde_json::from_str(&text).context("ip printed no JSON")?;
    let address = value[0]["address"].as_str().context("ip names no address")?;
    let bytes: Vec<u8> = address
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<_, _>>()?;
    bytes
        .try_into()
        .map_err(|_| anyhow::anyhow!("{dev} has the address {address}, which is not Ethernet"))
}

/// Sets the MTU of an interface.
pub fn set_mtu(ns: &Namespace, dev: &str, mtu: u32) -> Result<()> {
    ns.ip_batch(&[format!("link set {dev} mtu {mtu}")])
}

fn set_offloads(end: &End) -> Result<()> {
    let wanted: &[&str] = match end.duty {
        Duty::Router => &["txvlan", "off", "rxvlan", "off"],
        Duty::FacesRouter => &["tx", "off", "txvlan", "off", "rxvlan", "off", "gro", "on"],
        Duty::Plain => &["tx", "off", "txvlan", "off", "rxvlan", "off"],
    };
    end.ns.run("ethtool", ["-K", end.dev].iter().chain(wanted)).map(drop)
}

/// A learning Ethernet switch: a bridge in a namespace of its own, whose ports are named after what hangs on them.
#[derive(Clone, Debug)]
pub struct Switch {
    /// The namespace; its bridge is `br0`.
    pub ns: Namespace,
    mtu: u32,
    offloads: Offloads,
}

impl Switch {
    /// Makes the switch in the given namespace.
    pub fn new(ns: Namespace, mtu: u32, offloads: Offloads) -> Result<Self> {
        ns.ip_batch(&[
            // No multicast snooping: its own queries would only disturb captures.
            "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0".into(),
            format!("link set br0 mtu {mtu} up"),
        ])?;
        // Where the machine has br_netfilter, it would check and drop the malformed packets that tests send on purpose.
        for key in ["iptables", "ip6tables", "arptables"] {
            let key = format!("net.bridge.bridge-nf-call-{key}");
            if ns.read_sysctl(&key).is_ok() {
                ns.sysctl(&key, 0)?;
            }
        }
        Ok(Self { ns, mtu, offloads })
    }

    /// Plugs `device` into a new port called `port`.
    pub fn plug(&self, port: &str, device: &End) -> Result<()> {
        let duty = if device.duty == Duty::Router {
            Duty::FacesRouter
        } else {
            Duty::Plain
        };
        let side = End {
            ns: &self.ns,
            dev: port,
            mac: None,
            duty,
        };
        veth(&side, device, self.mtu, self.offloads)?;
        self.ns.ip_batch(&[format!("link set {port} master br0")])
    }
}
