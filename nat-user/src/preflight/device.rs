//! Each interface by itself: can the program run on this kind of device, in which mode, and is the place free?

use crate::net::{Interface, Kind};

use super::finding::{Finding, Report};
use super::judge::Port;
use super::{Facts, Mode, PreflightInput, WantedMode, offload};

pub(super) fn judge(port: &Port, input: &PreflightInput, facts: &Facts, report: &mut Report) {
    let device = port.device;
    if !device.up {
        report.error(
            Finding::new("interface-down", &device.name, "the interface is down")
                .why("nothing can be received or sent on it")
                .remedy(format!("ip link set {} up", device.name)),
        );
    }
    if let Some(reason) = refused(port, facts) {
        report.error(reason);
        return;
    }
    vlan(port, report);
    foreign_program(device, input, facts, report);
    master(device, facts, report);
    jumbo(device, facts, report);
    offload::judge(port, facts, report);
}

/// Native if every interface can, because a native program can only redirect to devices that take frames from XDP.
pub(super) fn choose_mode(wanted: WantedMode, ports: &[Port], facts: &Facts, report: &mut Report) -> Mode {
    if wanted == WantedMode::Generic {
        return Mode::Generic;
    }
    let mut mode = Mode::Native;
    for port in ports.iter().filter(|port| refused(port, facts).is_none()) {
        let Some(why) = not_native(port.device, facts) else {
            continue;
        };
        let finding = Finding::new("not-native", &port.device.name, "no native XDP").why(why);
        if wanted == WantedMode::Native {
            report.error(finding.remedy("use another network card or device, or set the mode to auto or generic"));
        } else {
            mode = Mode::Generic;
            report.warning(finding.remedy(
                "all interfaces are attached in generic mode, which is about as slow as nftables; for speed use a device with native XDP",
            ));
        }
    }
    mode
}

/// None if native mode works, or if only trying can tell.
fn not_native(device: &Interface, facts: &Facts) -> Option<String> {
    let info = facts.devices.get(&device.index);
    let driver = info.and_then(|d| d.ethtool.as_ref()).map_or("", |e| e.driver.as_str());
    match (info.and_then(|d| d.xdp), &device.kind) {
        (Some(features), _) if features.native() => None,
        (Some(_), Kind::Veth) => Some("the peer sends on more queues than this end receives on, or the pair is not complete; create both ends with the same number of queues".into()),
        (Some(_), kind) => Some(format!("the driver \"{driver}\" of this {kind} cannot run programs that redirect")),
        // Kernels before 6.3 do not say; these are known to have none.
        (None, Kind::Bridge | Kind::Macvlan | Kind::Dummy | Kind::Vlan { .. }) => {
            Some(format!("a {} runs XDP in generic mode only", device.kind))
        }
        (None, _) => None,
    }
}

/// Devices on which the program cannot do its work in any mode.
fn refused(port: &Port, facts: &Facts) -> Option<Finding> {
    let device = port.device;
    let finding = |code, why: String| {
        Finding::new(
            code,
            &device.name,
            format!("a {} interface cannot be used", device.kind),
        )
        .why(why)
    };
    match &device.kind {
        Kind::Loopback => Some(
            finding(
                "loopback",
                "its packets never leave the machine, so there is nobody to translate for".into(),
            )
            .remedy("name the interface that leads to the network"),
        ),
        Kind::Vlan { parent, id } => {
            let parent = facts.by_index(*parent).map_or("its parent", |p| p.name.as_str());
            Some(
                finding("vlan-upper", "XDP runs below VLANs: on the parent it sees the tagged frames at full speed, on the VLAN interface only copies of them".into())
                    .remedy(format!("configure the parent with the tag: name = \"{parent}\", vlan = {id}; and switch off tag stripping: ethtool -K {parent} rxvlan off")),
            )
        }
        Kind::Ppp | Kind::Tun | Kind::Wireguard => Some(no_ethernet(finding)),
        _ if !device.ethernet => Some(no_ethernet(finding)),
        _ => master_kind(device, facts).and_then(|(name, kind)| member(device, name, kind)),
    }
}

fn no_ethernet(finding: impl Fn(&'static str, String) -> Finding) -> Finding {
    finding("no-ethernet", "its packets have no Ethernet header, which the program needs to parse and to redirect between interfaces".into())
        .remedy("let a device in front terminate the link (a modem in router mode for PPPoE) and use its Ethernet side, or keep nftables for this interface")
}

fn master_kind<'a>(device: &Interface, facts: &'a Facts) -> Option<(&'a str, &'a Kind)> {
    let master = facts.by_index(device.master?)?;
    Some((&master.name, &master.kind))
}

fn member(device: &Interface, master: &str, kind: &Kind) -> Option<Finding> {
    let finding = |code, why: String| {
        Some(
            Finding::new(code, &device.name, format!("it is a port of the {kind} {master}"))
                .why(why)
                .remedy(format!("name {master} instead (slower, in generic mode, for a bridge), or take the port out: ip link set {} nomaster", device.name)),
        )
    };
    match kind {
        Kind::Bridge => finding("bridge-port", "the addresses and routes are on the bridge, and a program on a port would take packets that the bridge should switch".into()),
        Kind::Bond => finding("bond-port", "the addresses are on the bond, and the other ports would not be translated".into()),
        Kind::Other(other) if other == "vrf" => None,
        _ => finding("port-of-master", "packets of this interface belong to its master".into()),
    }
}

/// A VRF is the one master that leaves addresses and routes with its port.
fn master(device: &Interface, facts: &Facts, report: &mut Report) {
    if let Some((name, kind)) = master_kind(device, facts) {
        report.warning(
            Finding::new("vrf", &device.name, format!("it is a port of the {kind} {name}"))
                .why("routes are looked up in that table for this interface; inside and outside must both find each other there")
                .remedy("see that the table of the VRF has the routes to both sides"),
        );
    }
}

/// A VLAN without an interface of its own: packets are translated, but the router itself speaks without a tag.
fn vlan(port: &Port, report: &mut Report) {
    let Some(id) = port.spec.vlan.filter(|_| port.layer3.index == port.device.index) else {
        return;
    };
    let name = &port.spec.name;
    report.warning(
        Finding::new("vlan-missing", port.label(), "there is no VLAN interface for this tag")
            .why(format!("addresses, routes and neighbours are taken from {name}, whose own packets have no tag: unless something adds and removes it there (tc vlan), neighbours must be permanent entries on both ends"))
            .remedy(format!("ip link add link {name} name {name}.{id} type vlan id {id}; give it an address and set it up")),
    );
}

fn foreign_program(device: &Interface, input: &PreflightInput, facts: &Facts, report: &mut Report) {
    let Some(xdp) = device.xdp else { return };
    if input.own_prog_ids.contains(&xdp.prog_id) {
        return;
    }
    let named = match facts.prog_names.get(&xdp.prog_id).map(String::as_str) {
        None | Some("") => String::new(),
        Some(name) => format!(" \"{name}\""),
    };
    report.error(
        Finding::new("foreign-xdp", &device.name, "another XDP program is attached")
            .why(format!("program {}{named} ({} mode) is not one of those pinned in {}, and an interface runs one program", xdp.prog_id, xdp.mode, input.pin_dir.display()))
            .remedy(format!("stop what attached it; another sipnat: sipnat detach with its --socket and pin directory; a leftover: ip link set dev {} xdp off", device.name)),
    );
}

/// The largest MTU whose frames fit one 4096-byte page with head and tail room, on common drivers.
const SINGLE_BUFFER_MTU: u32 = 3500;

fn jumbo(device: &Interface, facts: &Facts, report: &mut Report) {
    if report.mode != Mode::Native || device.mtu <= SINGLE_BUFFER_MTU {
        return;
    }
    let finding = |what| {
        Finding::new("jumbo", &device.name, what).remedy(format!(
            "if attaching fails: ip link set {} mtu {SINGLE_BUFFER_MTU}",
            device.name
        ))
    };
    match facts.devices.get(&device.index).and_then(|d| d.xdp) {
        Some(features) if features.multi_buffer() => {}
        Some(_) => report.warning(
            finding("the driver has no XDP for frames of several buffers").why(format!(
                "with an MTU of {} it will probably refuse the program (\"Numerical result out of range\")",
                device.mtu
            )),
        ),
        None => report.note(finding("XDP on jumbo frames depends on the driver").why(format!(
            "the MTU is {} and this kernel does not say whether the driver takes frames of several buffers",
            device.mtu
        ))),
    }
}
