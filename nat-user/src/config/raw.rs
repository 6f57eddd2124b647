//! The TOML as people write it: every key optional, every value with its place in the text, so that
//! `validate.rs` can point at it. What a single value can get wrong is refused here already.

use std::{fmt, marker::PhantomData, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use toml::Spanned;

use super::{
    Action, BlockLogTarget, Filtering, FlowDirection, Interface, MssClamp, PortRange, Prefix, Rate,
    Refresh, Refuse, XdpMode,
};
use crate::units;

/// An optional value with its place.
pub type At<T> = Option<Spanned<T>>;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Raw {
    pub daemon: Daemon,
    pub nat: Nat,
    pub ports: Ports,
    pub filtering: FilteringByProto,
    pub lifetimes: Lifetimes,
    pub forward: Vec<Spanned<Forward>>,
    pub policy: Policy,
    pub icmp: Icmp,
    pub fragments: Fragments,
    pub log: Log,
    pub metrics: Metrics,
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
    pub blocks: Option<Text<BlockLogTarget>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    pub listen: At<Text<SocketAddr>>,
    pub allow_remote: bool,
}

/// A value written as TOML text (numbers are taken as their digits, so that `exclude = [5060]` works).
#[derive(Clone, Debug)]
pub struct Text<T>(pub T);

/// What can be written as text.
pub trait FromText: Sized {
    /// Ends the sentence "expected ...".
    const EXPECTED: &'static str;
    /// The error is `WHAT; REMEDY`.
    fn from_text(text: &str) -> Result<Self, String>;
}

impl<'de, T: FromText> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor<T>(PhantomData<T>);
        impl<T: FromText> Visitor<'_> for TextVisitor<T> {
            type Value = Text<T>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str(T::EXPECTED)
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Text<T>, E> {
                T::from_text(text).map(Text).map_err(E::custom)
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<Text<T>, E> {
                self.visit_str(&number.to_string())
            }
        }
        deserializer.deserialize_any(TextVisitor(PhantomData))
    }
}

/// Types whose `FromStr` already speaks to users.
macro_rules! from_text_by_from_str {
    ($($type:ty: $expected:literal),+) => {$(
        impl FromText for $type {
            const EXPECTED: &'static str = $expected;
            fn from_text(text: &str) -> Result<Self, String> {
                <$type>::from_str(text)
            }
        }
    )+};
}
from_text_by_from_str! {
    Prefix: "an IPv4 prefix like \"192.0.2.0/24\"",
    PortRange: "a port range like \"8000-8010\"",
    Rate: "a rate like \"100/s\""
}

impl FromText for Duration {
    const EXPECTED: &'static str = "a duration like \"300s\", \"5m\" or \"2h4m\"";
    fn from_text(text: &str) -> Result<Self, String> {
        units::parse_duration(text)
    }
}

impl FromText for SocketAddr {
    const EXPECTED: &'static str = "an address and port like \"127.0.0.1:9473\"";
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| {
            format!("`{text}` is no address with a port; write it like 127.0.0.1:9473")
        })
    }
}

impl FromText for XdpMode {
    const EXPECTED: &'static str = "\"auto\", \"native\" or \"generic\"";
    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(XdpMode::Auto),
            "native" => Ok(XdpMode::Native),
            "generic" => Ok(XdpMode::Generic),
            _ => Err(format!(
                "`{text}` is no XDP mode; write auto, native or generic"
            )),
        }
    }
}

impl FromText for MssClamp {
    const EXPECTED: &'static str = "\"off\", \"auto\" or a number of bytes";
    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(MssClamp::Off),
            "auto" => Ok(MssClamp::Auto),
            bytes => match bytes.parse() {
                Ok(bytes @ 536..=65495) => Ok(MssClamp::Bytes(bytes)),
                _ => Err(format!(
                    "`{text}` is no MSS clamp; write off, auto or a number from 536 to 65495"
                )),
            },
        }
    }
}

impl FromText for BlockLogTarget {
    const EXPECTED: &'static str = "\"off\", \"syslog\" or an absolute path";
    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(BlockLogTarget::Off),
            "syslog" => Ok(BlockLogTarget::Syslog),
            path if path.starts_with('/') => Ok(BlockLogTarget::File(path.into())),
            _ => Err(format!(
                "`{text}` is no target for the block log; write off, syslog or an absolute path"
            )),
        }
    }
}

/// Ports of a rule: `80,443,8000-8010`.
#[derive(Clone, Debug)]
pub struct PortList(pub Vec<PortRange>);

impl FromText for PortList {
    const EXPECTED: &'static str = "ports like \"80,443,8000-8010\"";
    fn from_text(text: &str) -> Result<Self, String> {
        text.split(',')
            .map(|part| part.trim().parse())
            .collect::<Result<_, _>>()
            .map(PortList)
    }
}

/// The external side of a forward: `203.0.113.1:8080`, `8080` or `8000-8010`.
#[derive(Clone, Copy, Debug)]
pub struct ExternalPorts {
    pub address: Option<std::net::Ipv4Addr>,
    pub ports: PortRange,
}

impl FromText for ExternalPorts {
    const EXPECTED: &'static str =
        "external ports like \"203.0.113.1:8080\", \"8080\" or \"8000-8010\"";
    fn from_text(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is no external port; write it like 203.0.113.1:8080, 8080 or 8000-8010"
            )
        };
        let (address, ports) = match text.rsplit_once(':') {
            Some((address, ports)) => (Some(address.parse().map_err(|_| wrong())?), ports),
            None => (None, text),
        };
        let ports: PortRange = ports.parse().map_err(|_| wrong())?;
        if ports.first == 0 {
            Err(wrong())
        } else {
            Ok(ExternalPorts { address, ports })
        }
    }
}

/// The inside of a forward: `192.168.1.10:80` or `192.168.1.10:8000-8010`.
#[derive(Clone, Copy, Debug)]
pub struct InsidePorts {
    pub address: std::net::Ipv4Addr,
    pub ports: PortRange,
}

impl FromText for InsidePorts {
    const EXPECTED: &'static str = "an inside endpoint like \"192.168.1.10:80\"";
    fn from_text(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is no inside endpoint; write it like 192.168.1.10:80 or 192.168.1.10:8000-8010"
            )
        };
        let (address, ports) = text.rsplit_once(':').ok_or_else(wrong)?;
        let ports: PortRange = ports.parse().map_err(|_| wrong())?;
        let address = address.parse().map_err(|_| wrong())?;
        if ports.first == 0 {
            Err(wrong())
        } else {
            Ok(InsidePorts { address, ports })
        }
    }
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
                return Err(format!(
                    "there is no VLAN {vlan}; write an id from 1 to 4094"
                ));
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
