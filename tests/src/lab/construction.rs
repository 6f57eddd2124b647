//! Building the lab: namespaces, switches, links, addresses, routes, neighbours.

use std::net::Ipv4Addr;

use anyhow::Result;

use super::{
    DEEP_GATEWAY, DEV, FAR_GATEWAY, FOREIGN_GATEWAY, Host, INSIDE_GATEWAY, INSIDE_ROUTER, Lab, LabBuilder,
    OUTSIDE_ROUTER, SECOND_EXTERNAL, SECOND_INSIDE_GATEWAY, offset,
};
use crate::link::{Duty, End, Switch, veth};
use crate::ns::Namespace;
use crate::packet::{Mac, mac_text};

/// Builds what is planned, in namespaces under this prefix.
pub fn build(prefix: String, plan: LabBuilder) -> Result<Lab> {
    let mut construction = Construction::new(prefix, plan)?;
    construction.sides()?;
    construction.inside_router()?;
    construction.outside_router()?;
    construction.foreign_nats()?;
    Ok(construction.lab)
}

/// The line for `ip -batch` that makes a neighbour known for good.
pub fn neighbour(ip: Ipv4Addr, mac: Mac, dev: &str) -> String {
    format!("neigh replace {ip} lladdr {} dev {dev} nud permanent", mac_text(mac))
}

struct Construction {
    plan: LabBuilder,
    lab: Lab,
    /// The switches of `in0` and `out0`; a direct lab has none.
    inside: Option<Switch>,
    outside: Option<Switch>,
}

/// A home router: it translates, and lets nothing in that was not asked for.
const FOREIGN_RULES: &str = "
    table ip nat {
        chain post { type nat hook postrouting priority srcnat; oifname eth0 masquerade; }
    }
    table ip filter {
        chain forward {
            type filter hook forward priority filter; policy drop;
            ct state established,related accept
            iifname eth1 accept
        }
    }";

/// One interface of the router and the network on it.
struct Side {
    dev: &'static str,
    switch: &'static str,
    gateway: Ipv4Addr,
    length: u8,
    mtu: u32,
}

impl Construction {
    fn new(prefix: String, plan: LabBuilder) -> Result<Self> {
        let router = namespace(&prefix, "router", plan.ipv6)?;
        router.sysctl("net.ipv4.ip_forward", 1)?;
        let lab = Lab {
            router: router.clone(),
            prefix,
            inside: Vec::new(),
            outside: Vec::new(),
            deep: None,
            far: None,
            second_inside: None,
            second_outside: None,
            foreign: Vec::new(),
            others: vec![("router", router)],
            external: plan.outside.external,
            external_addresses: plan.external_addresses,
            cold: plan.cold,
        };
        Ok(Self {
            plan,
            lab,
            inside: None,
            outside: None,
        })
    }

    /// The router's interfaces and the hosts on them.
    fn sides(&mut self) -> Result<()> {
        let (inside_mtu, outside_mtu) = (self.plan.inside_mtu, self.plan.outside_mtu);
        let inside = Side {
            dev: "in0",
            switch: "inside",
            gateway: INSIDE_GATEWAY,
            length: 24,
            mtu: inside_mtu,
        };
        let outside = Side {
            dev: "out0",
            switch: "outside",
            gateway: self.plan.outside.external,
            length: self.plan.outside.length,
            mtu: outside_mtu,
        };
        let first = Ipv4Addr::new(192, 168, 1, 10);
        (self.inside, self.lab.inside) = self.side(&inside, "h", first, self.plan.inside_hosts)?;
        let first = self.plan.outside.first_host;
        (self.outside, self.lab.outside) = self.side(&outside, "o", first, self.plan.outside_hosts)?;
        if self.plan.second_inside {
            let gateway = SECOND_INSIDE_GATEWAY;
            let side = Side {
                dev: "in1",
                switch: "inside1",
                gateway,
                length: 24,
                mtu: inside_mtu,
            };
            let (_, mut hosts) = self.side(&side, "g", Ipv4Addr::new(192, 168, 2, 10), 1)?;
            self.lab.second_inside = hosts.pop();
        }
        if self.plan.second_outside {
            let gateway = SECOND_EXTERNAL;
            let side = Side {
                dev: "out1",
                switch: "outside1",
                gateway,
                length: 24,
                mtu: outside_mtu,
            };
            let (_, mut hosts) = self.side(&side, "p", Ipv4Addr::new(192, 0, 2, 100), 1)?;
            self.lab.second_outside = hosts.pop();
        }
        for host in self.lab.inside.iter().chain(&self.lab.second_inside) {
            host.ip_batch(&[format!("route add default via {}", host.gateway)])?;
        }
        let further = 1..self.plan.external_addresses;
        let further = further.map(|index| format!("addr add {}/32 dev out0", offset(self.lab.external, index)));
        self.lab.router.ip_batch(&further.collect::<Vec<_>>())
    }

    /// One interface of the router, its switch, and hosts with consecutive addresses.
    fn side(&mut self, side: &Side, letter: &str, first: Ipv4Addr, hosts: u8) -> Result<(Option<Switch>, Vec<Host>)> {
        let router = self.lab.router.clone();
        let port = end(&router, side.dev, side.gateway, Duty::Router);
        let switch = if self.plan.direct {
            None
        } else {
            let ns = self.namespace(side.switch)?;
            self.lab.others.push((side.switch, ns.clone()));
            let switch = Switch::new(ns, side.mtu, self.plan.offloads)?;
            switch.plug("router", &port)?;
            Some(switch)
        };
        let mut made = Vec::new();
        for number in 1..=hosts {
            let role = format!("{letter}{number}");
            let host = self.host(&role, offset(first, number - 1), side.gateway, Some(side.dev))?;
            match &switch {
                Some(switch) => switch.plug(&role, &end(&host, DEV, host.ip, Duty::Plain))?,
                None => {
                    let peer = end(&host, DEV, host.ip, Duty::FacesRouter);
                    veth(&port, &peer, side.mtu, self.plan.offloads)?;
                }
            }
            host.ip_batch(&[format!("addr add {}/{} dev {DEV}", host.ip, side.length)])?;
            made.push(host);
        }
        router.ip_batch(&[format!("addr add {}/{} dev {}", side.gateway, side.length, side.dev)])?;
        for host in &made {
            self.introduce(host.ip, side.dev)?;
        }
        Ok((switch, made))
    }

    /// `ir` on the inside switch, and `deep` behind it.
    fn inside_router(&mut self) -> Result<()> {
        let (true, Some(switch)) = (self.plan.inside_router, self.inside.clone()) else {
            return Ok(());
        };
        let hop = self.hop(&switch, "ir", INSIDE_ROUTER, "in0")?;
        hop.ip_batch(&[format!("route add default via {INSIDE_GATEWAY}")])?;
        let host = self.host("deep", Ipv4Addr::new(10, 9, 0, 10), DEEP_GATEWAY, None)?;
        self.behind(&hop, &host, 16, self.plan.inside_mtu)?;
        host.ip_batch(&[format!("route add default via {DEEP_GATEWAY}")])?;
        self.lab
            .router
            .ip_batch(&[format!("route add 10.9.0.0/16 via {INSIDE_ROUTER}")])?;
        self.lab.deep = Some(host);
        Ok(())
    }

    /// `or` on the outside switch, and `far` behind it.
    fn outside_router(&mut self) -> Result<()> {
        let (Some(mtu), Some(switch)) = (self.plan.far_mtu, self.outside.clone()) else {
            return Ok(());
        };
        let hop = self.hop(&switch, "or", OUTSIDE_ROUTER, "out0")?;
        let host = self.host("far", Ipv4Addr::new(198, 51, 100, 10), FAR_GATEWAY, None)?;
        self.behind(&hop, &host, 24, mtu)?;
        // Only what is public is reachable from out there; the router itself uses this way for everything.
        host.ip_batch(&[format!("route add 203.0.113.0/24 via {FAR_GATEWAY}")])?;
        self.lab
            .router
            .ip_batch(&[format!("route add default via {OUTSIDE_ROUTER}")])?;
        for outside in &self.lab.outside {
            outside.ip_batch(&[format!("route add 198.51.100.0/24 via {OUTSIDE_ROUTER}")])?;
        }
        self.lab.far = Some(host);
        Ok(())
    }

    /// `n1` … on the outside switch, and `f1` … behind them.
    fn foreign_nats(&mut self) -> Result<()> {
        let Some(switch) = self.outside.clone() else {
            return Ok(());
        };
        for number in 1..=self.plan.foreign_nats {
            let (role, mtu) = (format!("n{number}"), self.plan.outside_mtu);
            let ip = offset(self.plan.outside.first_host, 100 + number);
            let nat = self.host(&role, ip, self.plan.outside.external, Some("out0"))?;
            nat.sysctl("net.ipv4.ip_forward", 1)?;
            switch.plug(&role, &end(&nat, DEV, ip, Duty::Plain))?;
            nat.ip_batch(&[format!("addr add {ip}/{} dev {DEV}", self.plan.outside.length)])?;
            self.introduce(ip, "out0")?;
            let host = self.host(
                &format!("f{number}"),
                Ipv4Addr::new(192, 168, 7, 10),
                FOREIGN_GATEWAY,
                None,
            )?;
            self.behind(&nat, &host, 24, mtu)?;
            host.ip_batch(&[format!("route add default via {FOREIGN_GATEWAY}")])?;
            nat.nft(FOREIGN_RULES)?;
            self.lab.foreign.push((nat, host));
        }
        Ok(())
    }

    /// A further router on a switch.
    fn hop(&mut self, switch: &Switch, role: &'static str, ip: Ipv4Addr, dev: &str) -> Result<Namespace> {
        let ns = self.namespace(role)?;
        ns.sysctl("net.ipv4.ip_forward", 1)?;
        switch.plug(role, &end(&ns, DEV, ip, Duty::Plain))?;
        ns.ip_batch(&[format!("addr add {ip}/24 dev {DEV}")])?;
        self.introduce(ip, dev)?;
        self.lab.others.push((role, ns.clone()));
        Ok(ns)
    }

    /// The link between a further router and the host behind it.
    fn behind(&self, hop: &Namespace, host: &Host, length: u8, mtu: u32) -> Result<()> {
        let near = end(hop, "eth1", host.gateway, Duty::Plain);
        veth(&near, &end(host, DEV, host.ip, Duty::Plain), mtu, self.plan.offloads)?;
        hop.ip_batch(&[format!("addr add {}/{length} dev eth1", host.gateway)])?;
        host.ip_batch(&[format!("addr add {}/{length} dev {DEV}", host.ip)])
    }

    fn host(&self, role: &str, ip: Ipv4Addr, gateway: Ipv4Addr, router_dev: Option<&'static str>) -> Result<Host> {
        let (mac, gateway_mac) = (mac_of(ip), mac_of(gateway));
        Ok(Host {
            ns: self.namespace(role)?,
            ip,
            mac,
            gateway,
            gateway_mac,
            router_dev,
        })
    }

    fn introduce(&self, ip: Ipv4Addr, dev: &str) -> Result<()> {
        if self.plan.cold {
            Ok(())
        } else {
            self.lab.router.ip_batch(&[neighbour(ip, mac_of(ip), dev)])
        }
    }

    fn namespace(&self, role: &str) -> Result<Namespace> {
        namespace(&self.lab.prefix, role, self.plan.ipv6)
    }
}

fn namespace(prefix: &str, role: &str, ipv6: bool) -> Result<Namespace> {
    let ns = Namespace::create(&format!("{prefix}-{role}"))?;
    // A new namespace copies the machine's own IPv4 settings; the lab must not depend on them.
    for key in ["ip_forward", "conf.all.rp_filter", "conf.default.rp_filter"] {
        ns.sysctl(&format!("net.ipv4.{key}"), 0)?;
    }
    if role != "router" {
        // Hosts answer every probe; limits are a matter of the router under test.
        ns.sysctl("net.ipv4.icmp_ratelimit", 0)?;
    }
    for scope in ["all", "default"] {
        let key = format!("net.ipv6.conf.{scope}.disable_ipv6");
        if !ipv6 && ns.read_sysctl(&key).is_ok() {
            ns.sysctl(&key, 1)?;
        }
    }
    Ok(ns)
}

fn end<'a>(ns: &'a Namespace, dev: &'a str, ip: Ipv4Addr, duty: Duty) -> End<'a> {
    End {
        ns,
        dev,
        mac: Some(mac_of(ip)),
        duty,
    }
}

/// A locally administered Ethernet address that shows the IP address it belongs to.
fn mac_of(ip: Ipv4Addr) -> Mac {
    let [a, b, c, d] = ip.octets();
    [2, 0, a, b, c, d]
}
