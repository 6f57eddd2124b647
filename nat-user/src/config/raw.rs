//! The TOML as people write it: every key optional, every value with its place in the text, so that
//! `validate.rs` can point at it. What a single value can get wrong is refused here already.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use toml::Spanned;

use super::{
    Action, Filtering, FlowDirection, Interface, LogTarget, MssClamp, PortRange, Prefix, Rate, Refresh, Refuse,
    XdpMode, sip,
    text::{ExternalPorts, InsidePorts, PortList, Text},
};

/// An optional value with its place.
pub type At<T> = Option<Spanned<T>>;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Raw {
    pub daemon: Daemon,
    pub nat: Option<Nat>,
    pub ports: Ports,
    pub filtering: FilteringByProto,
    pub lifetimes: Lifetimes,
    pub forward: Vec<Spanned<Forward>>,
    pub policy: Policy,
    pub icmp: Icmp,
    pub fragments: Fragments,
    pub log: Log,
    pub metrics: Metrics,
    pub pap: Option<Spanned<Pap>>,
    pub sip: Option<Spanned<sip::raw::Sip>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Daemon {
    pub socket: At<PathBuf>,
    pub pin_dir: At<PathBuf>,
    pub log: At<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nat {
    pub inside: Vec<Spanned<RawInterface>>,
    pub outside: Vec<Spanned<RawInterface>>,
    pub addresses: Vec<Spanned<Text<Prefix>>>,
    pub inside_prefixes: Vec<Spanned<Text<Prefix>>>,
    pub bypass: Vec<Spanned<Text<Prefix>>>,
    pub xdp_mode: Option<Text<XdpMode>>,
    pub counting: Option<bool>,
    pub hairpin: Option<bool>,
    pub mss_clamp: Option<Text<MssClamp>>,
    pub capacity: At<i64>,
    pub sessions: At<i64>,
    pub destinations: At<i64>,
    pub relay_legs: At<i64>,
    pub staged_from: At<i64>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ports {
    pub range: At<Text<PortRange>>,
    pub allow_well_known: bool,
    pub exclude: Vec<Spanned<Text<PortRange>>>,
    pub exclude_local: Option<bool>,
    pub block_size: At<i64>,
    pub blocks_per_host: At<i64>,
    pub rest: At<Text<Duration>>,
    pub hosts: At<i64>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FilteringByProto {
    pub udp: Option<Filtering>,
    pub tcp: Option<Filtering>,
    pub icmp: Option<Filtering>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lifetimes {
    pub udp: At<Text<Duration>>,
    pub tcp_established: At<Text<Duration>>,
    pub tcp_opening: At<Text<Duration>>,
    pub tcp_closing: At<Text<Duration>>,
    pub allow_short: bool,
    pub icmp: At<Text<Duration>>,
    pub refresh: Option<Refresh>,
    pub fragments: At<Text<Duration>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pap {
    pub store: At<Text<sip::raw::Store>>,
    pub min_lifetime: At<Text<Duration>>,
    pub max_lifetime: At<Text<Duration>>,
    pub mappings_per_host: At<i64>,
    pub strict_nonce: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    pub protocol: ForwardProto,
    pub external: Spanned<Text<ExternalPorts>>,
    pub inside: Spanned<Text<InsidePorts>>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardProto {
    Tcp,
    Udp,
    Both,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    pub default: Option<Action>,
    pub refuse: Option<Refuse>,
    pub rule: Vec<Spanned<Rule>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    pub action: Action,
    #[serde(default)]
    pub direction: Option<FlowDirection>,
    #[serde(default)]
    pub source: Vec<Text<Prefix>>,
    #[serde(default)]
    pub destination: Vec<Text<Prefix>>,
    #[serde(default)]
    pub protocol: Option<RuleProto>,
    #[serde(default)]
    pub source_ports: At<Text<PortList>>,
    #[serde(default)]
    pub destination_ports: At<Text<PortList>>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RuleProto {
    Any,
    Tcp,
    Udp,
    Icmp,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Icmp {
    pub unreachable: Option<bool>,
    pub time_exceeded: Option<bool>,
    pub fragmentation_needed: Option<bool>,
    pub rate: At<Text<Rate>>,
    pub rate_per_source: At<Text<Rate>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fragments {
    pub memory: At<i64>,
    pub timeout: At<Text<Duration>>,
    pub datagrams: At<i64>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    pub blocks: Option<Text<LogTarget>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    pub listen: At<Text<SocketAddr>>,
    pub allow_remote: bool,
}

/// `"eth1"` or `{ interface = "eth1", vlan = 100 }`.
pub struct RawInterface(pub Interface);

impl RawInterface {
    /// Checks a name as the kernel's `dev_valid_name` does, so that a typo is found without asking the kernel.
    pub fn named(name: &str, vlan: Option<i64>) -> Result<RawInterface, String> {
        if name.is_empty()
            || name.len() > 15
            || name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c == '\0')
        {
            return Err(format!(
                "`{name}` cannot be an interface's name; write it as `ip link` shows it (1 to 15 characters)"
            ));
        }
        let vlan = match vlan {
            None => None,
            Some(vlan @ 1..=4094) => Some(vlan as u16),
            Some(vlan) => {
                return Err(format!("there is no VLAN {vlan}; write an id from 1 to 4094"));
            }
        };
        Ok(RawInterface(Interface {
            name: name.to_owned(),
            vlan,
        }))
    }
}

impl<'de> Deserialize<'de> for RawInterface {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            interface: String,
            vlan: Option<i64>,
        }
        struct InterfaceVisitor;
        impl<'de> Visitor<'de> for InterfaceVisitor {
            type Value = RawInterface;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an interface like \"eth1\" or { interface = \"eth1\", vlan = 100 }")
            }
            fn visit_str<E: Error>(self, name: &str) -> Result<RawInterface, E> {
                RawInterface::named(name, None).map_err(E::custom)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawInterface, A::Error> {
                let table = Table::deserialize(MapAccessDeserializer::new(map))?;
                RawInterface::named(&table.interface, table.vlan).map_err(A::Error::custom)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<RawInterface, A::Error> {
                Err(A::Error::custom(
                    "a list inside the list of interfaces; write each interface once, as text or table",
                ))
            }
        }
        deserializer.deserialize_any(InterfaceVisitor)
    }
}
