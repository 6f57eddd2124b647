//! The addresses of the document on registration-based traversal (S1, S2): the phone 192.168.1.10:5060 behind a NAT whose outside
//! is 134.56.1.1, where the phone's signalling gets port 5070; the proxy 134.56.3.1:5060; a caller outside.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Result, bail};

use crate::lab::{Lab, LabBuilder};
use crate::router::{Nat, NatConfig, RunningNat};
use crate::sockets;

/// The phone on the inside: host `h1`.
pub const PHONE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 168, 1, 10), 5060);
/// The phone as the outside knows it.
pub const TRANSLATED: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(134, 56, 1, 1), 5070);
/// The proxy outside: host `o1`.
pub const PROXY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(134, 56, 3, 1), 5060);
/// The NAT's timeout for UDP, seconds.
pub const TIMEOUT: u32 = 20;

/// For [`start_nat`]: a policy that refuses nothing of the document's story. Where there is one, sipnat keeps a session for each remote endpoint, also over UDP, so
/// its table shows whom a binding is used with (106ii).
pub const WITH_SESSIONS: &str = "[[policy.rule]]\naction = \"deny\"\nprotocol = \"udp\"\ndestination_ports = \"19\"\n";

/// The lab with these addresses: `o1` is the proxy, `o2` (134.56.3.2) the caller. More can be added to it, but for inside hosts: the
/// whole range of ports is the phone's.
pub fn lab() -> LabBuilder {
    Lab::builder()
        .outside_hosts(2)
        .outside_network(*TRANSLATED.ip(), *PROXY.ip(), 16)
}

/// Starts the NAT of the document in a [`lab`]: UDP bindings last [`TIMEOUT`], and what the phone sends from port 5060 gets port 5070.
///
/// nftables is told so by a rule. sipnat chooses ports at random, but it places a port beside the one of its neighbour, so a
/// static forward to 5061 decides where 5060 goes, once the block of ports is the phone's; the binding itself is one like any
/// other, and ends like any other. (`toml` is added to sipnat's configuration; its `[ports]` and `[[forward]]` are taken.)
pub fn start_nat(lab: &Lab, nat: Nat, toml: &str) -> Result<RunningNat> {
    start_nat_with_timeout(lab, nat, toml, TIMEOUT)
}

/// [`start_nat`] with another timeout than the document's, in seconds, so that a test need not wait so long.
pub fn start_nat_with_timeout(lab: &Lab, nat: Nat, toml: &str, timeout: u32) -> Result<RunningNat> {
    match nat {
        Nat::Nftables => {
            let running = lab.start_nat_as(nat, NatConfig::default().nft(&rules()))?;
            for key in ["udp_timeout", "udp_timeout_stream"] {
                lab.router
                    .sysctl(&format!("net.netfilter.nf_conntrack_{key}"), timeout)?;
            }
            Ok(running)
        }
        Nat::Sipnat => {
            // 5 min, the default lifetime of UDP, scaled down.
            let scale = f64::from(timeout) / 300.0;
            let running = lab.start_nat_as(nat, NatConfig::toml(&format!("{PORTS}{toml}")).lifetime_scale(scale))?;
            // Any datagram but one from 5060 makes the block the phone's. Nobody listens at the discard port.
            sockets::udp(lab.h(1), (*PHONE.ip(), 4000))?.send_to(b"", (*PROXY.ip(), 9))?;
            crate::wait::wait_for("the NAT to give the phone its ports", crate::wait::SOON, || {
                let bindings = running.json(&["bindings"]).ok()?.to_string();
                bindings.contains("192.168.1.10:4000").then_some(())
            })?;
            Ok(running)
        }
        Nat::None => bail!("without a NAT there is nothing to traverse"),
    }
}

/// One block, all of which is the phone's, and the neighbour of the phone's own port.
const PORTS: &str = r#"
[ports]
range = "5056-5119"
block_size = 64
[[forward]]
protocol = "udp"
external = "5071"
inside = "192.168.1.10:5061"
"#;

fn rules() -> String {
    let (phone, port, translated) = (PHONE.ip(), PHONE.port(), TRANSLATED.port());
    format!(
        "table ip nat {{
            chain post {{
                type nat hook postrouting priority srcnat;
                oifname out0 ip saddr {phone} udp sport {port} masquerade to :{translated}
                oifname out0 masquerade
            }}
        }}
        table ip filter {{
            chain forward {{
                type filter hook forward priority filter; policy drop;
                ct state established,related accept
                iifname in0 accept
            }}
        }}"
    )
}
