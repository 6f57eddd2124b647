//! Values that TOML has no type for and that people write as text.

use std::{fmt, marker::PhantomData, net::SocketAddr, str::FromStr, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{Error, Visitor},
};

use super::{LogTarget, MssClamp, PortRange, Prefix, Rate, XdpMode};
use crate::units;

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
        text.parse()
            .map_err(|_| format!("`{text}` is no address with a port; write it like 127.0.0.1:9473"))
    }
}

impl FromText for XdpMode {
    const EXPECTED: &'static str = "\"auto\", \"native\" or \"generic\"";
    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(XdpMode::Auto),
            "native" => Ok(XdpMode::Native),
            "generic" => Ok(XdpMode::Generic),
            _ => Err(format!("`{text}` is no XDP mode; write auto, native or generic")),
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

impl FromText for LogTarget {
    const EXPECTED: &'static str = "\"off\", \"syslog\" or an absolute path";
    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(LogTarget::Off),
            "syslog" => Ok(LogTarget::Syslog),
            path if path.starts_with('/') => Ok(LogTarget::File(path.into())),
            _ => Err(format!(
                "`{text}` is no target for records; write off, syslog or an absolute path"
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
    const EXPECTED: &'static str = "external ports like \"203.0.113.1:8080\", \"8080\" or \"8000-8010\"";
    fn from_text(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no external port; write it like 203.0.113.1:8080, 8080 or 8000-8010");
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
        let wrong =
            || format!("`{text}` is no inside endpoint; write it like 192.168.1.10:80 or 192.168.1.10:8000-8010");
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
