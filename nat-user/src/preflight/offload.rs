//! Offloads that corrupt, join or hide packets before an XDP program sees them.

use crate::net::{Ethtool, Kind};

use super::finding::{Finding, Report};
use super::judge::Port;
use super::{Device, Facts, Mode};

pub(super) fn judge(port: &Port, facts: &Facts, report: &mut Report) {
    let device = facts.devices.get(&port.device.index);
    if let Some(ethtool) = device.and_then(|d| d.ethtool.as_ref()) {
        joined_packets(port, ethtool, report);
        stripped_tags(port, ethtool, facts, report);
    }
    match port.device.kind {
        Kind::Veth => veth_peer(port, device, facts, report),
        Kind::Tap => report.warning(
            partial_checksums(port)
                .why("packets of a virtual machine come with unfinished checksums if its driver offloads them, and leave so")
                .remedy("switch it off in the guest (ethtool -K IF tx off) or in its virtio device (csum=off, guest_csum=off)"),
        ),
        _ => {}
    }
}

/// Super-packets exceed the MTU of the way out; only the kernel's own forwarding can cut them up again.
fn joined_packets(port: &Port, ethtool: &Ethtool, report: &mut Report) {
    let name = &port.device.name;
    for (on, feature, option) in [
        (ethtool.lro(), "large receive offload", "lro"),
        (ethtool.gro_hw(), "GRO in hardware", "rx-gro-hw"),
    ] {
        if on {
            report.warning(
                Finding::new("receive-offload", name, format!("{feature} is on"))
                    .why("the card joins TCP segments to packets that are larger than the next link's MTU; drivers with native XDP switch it off or refuse the program")
                    .remedy(format!("ethtool -K {name} {option} off")),
            );
        }
    }
    let software = [(ethtool.gro(), "gro"), (ethtool.gso(), "gso"), (ethtool.tso(), "tso")];
    let on: Vec<_> = software
        .iter()
        .filter(|(on, _)| *on)
        .map(|(_, option)| *option)
        .collect();
    if report.mode == Mode::Generic && !on.is_empty() {
        report.warning(
            Finding::new("super-packets", name, "segmentation offloads are on in generic mode")
                .why(format!("generic XDP sees packets of up to 64 KiB ({} on); they cannot leave through an MTU of {}: TCP will stall", on.join(", "), port.device.mtu))
                .remedy(format!("ethtool -K {name} gro off gso off tso off, and tx off at local veth peers")),
        );
    }
}

fn stripped_tags(port: &Port, ethtool: &Ethtool, facts: &Facts, report: &mut Report) {
    let (name, index) = (&port.device.name, port.device.index);
    // A veth strips nothing: there the tag stays beside the frame if the *sender* leaves it there.
    if port.device.kind == Kind::Veth {
        if port.spec.vlan.is_some() {
            report.warning(
                Finding::new(
                    "veth-vlan",
                    port.label(),
                    "the peer must put 802.1Q tags into the frames",
                )
                .why(
                    "with VLAN offload on at the sending end a tag travels beside the frame, where XDP does not see it",
                )
                .remedy("at the other end: ethtool -K PEER txvlan off"),
            );
        }
        return;
    }
    if !ethtool.rxvlan() {
        return;
    }
    let uppers: Vec<_> = facts
        .interfaces
        .iter()
        .filter(|i| matches!(i.kind, Kind::Vlan { parent, .. } if parent == index))
        .map(|i| i.name.as_str())
        .collect();
    let remedy = format!("ethtool -K {name} rxvlan off");
    if let Some(id) = port.spec.vlan {
        report.error(
            Finding::new("rxvlan", port.label(), "the card takes 802.1Q tags out of the frames")
                .why(format!("XDP could not tell the frames of VLAN {id} from others"))
                .remedy(remedy),
        );
    } else if !uppers.is_empty() {
        report.error(
            Finding::new("rxvlan", name, "the card takes 802.1Q tags out of the frames")
                .why(format!(
                    "frames of {} would look untagged to XDP and be translated as traffic of {name}",
                    uppers.join(", ")
                ))
                .remedy(remedy),
        );
    }
}

fn veth_peer(port: &Port, device: Option<&Device>, facts: &Facts, report: &mut Report) {
    let link = port.device.link;
    let peer = link.filter(|l| l.netns.is_none()).and_then(|l| facts.by_index(l.index));
    let peer_name = peer.map_or("PEER", |p| p.name.as_str());
    let place = if peer.is_some() {
        ""
    } else {
        "in the namespace of the other end: "
    };

    let peer_ethtool = peer
        .and_then(|p| facts.devices.get(&p.index))
        .and_then(|d| d.ethtool.as_ref());
    match peer_ethtool {
        Some(ethtool) if !ethtool.tx_checksum() => {}
        known => {
            let why = "a packet from a local socket leaves a veth with an unfinished checksum and keeps it through a redirect, so that receivers drop it";
            let why = match known {
                Some(_) => format!("transmit checksum offload is on at {peer_name}: {why}"),
                None => format!("the other end is in a namespace where its offloads cannot be read: {why}"),
            };
            report.warning(
                partial_checksums(port)
                    .why(why)
                    .remedy(format!("{place}ethtool -K {peer_name} tx off (nothing on this end can repair it; containers and other namespaces only, not hosts behind a real cable)")),
            );
        }
    }
    let polls = device.and_then(|d| d.xdp).map(|features| features.redirect_target());
    if polls == Some(false) && report.mode == Mode::Native {
        report.warning(
            Finding::new("veth-no-napi", &port.device.name, "redirected packets will be lost")
                .why("the other end of the veth does not poll its queue, so the kernel drops every frame that XDP redirects to this one")
                .remedy(format!("{place}ethtool -K {peer_name} gro on (or attach any XDP program there)")),
        );
    }
}

fn partial_checksums(port: &Port) -> Finding {
    Finding::new(
        "partial-checksums",
        &port.device.name,
        "the other end must not offload transmit checksums",
    )
}
