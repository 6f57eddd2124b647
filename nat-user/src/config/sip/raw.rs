//! `[sip]` as people write it; see `config/raw.rs`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use serde::Deserialize;
use toml::Spanned;

use super::{
    Callers, DigestAlgorithm, Fork, Prompt, RecordRoute, Role, TimeoutEnds,
    uri::{Host, Uri},
};
use crate::{
    config::{
        LogTarget, Prefix, Rate,
        raw::At,
        text::{FromText, Text},
    },
    media::{
        policy::{Anchor, SameNat},
        sdp::edit::IceMode,
    },
    sip::flow::Transport,
};

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sip {
    pub listen: Vec<Spanned<Listen>>,
    pub domain: Vec<Spanned<Domain>>,
    pub route: Vec<Spanned<Route>>,
    pub tls: Option<Spanned<Tls>>,
    pub store: At<Text<Store>>,
    pub secret: At<PathBuf>,
    pub trusted: Vec<Spanned<Text<Prefix>>>,
    pub emergency: Option<Vec<Spanned<String>>>,
    pub emergency_route: At<Text<Uri>>,
    pub dns: Vec<Spanned<Text<Resolver>>>,
    pub registrar: Registrar,
    pub proxy: Proxy,
    pub paths: Paths,
    pub auth: Auth,
    pub limits: Limits,
    pub observe: Observe,
    pub media: Media,
    pub calls: Calls,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    pub transport: Transport,
    pub address: At<Text<IpAddr>>,
    pub interface: At<String>,
    pub port: At<i64>,
    pub advertise: At<Text<Host>>,
    pub role: Option<Role>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Domain {
    pub names: Spanned<Vec<Spanned<Text<Host>>>>,
    pub users: At<PathBuf>,
    pub authenticate: Option<bool>,
    pub role: At<Role>,
    #[serde(default)]
    pub aliases: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    pub contacts: Vec<Spanned<Contact>>,
    pub calls_per_user: At<i64>,
    pub callers: Option<Callers>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contact {
    pub user: Spanned<String>,
    pub contact: Spanned<Text<Uri>>,
    pub q: At<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    #[serde(default)]
    pub prefix: String,
    pub domain: At<Text<Host>>,
    pub strip: At<i64>,
    pub prepend: At<String>,
    pub to: Spanned<Vec<Spanned<Text<Uri>>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    pub certificate: Spanned<PathBuf>,
    pub key: Spanned<PathBuf>,
    pub authorities: At<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Registrar {
    pub default_expires: At<Text<Duration>>,
    pub min_expires: At<Text<Duration>>,
    pub max_expires: At<Text<Duration>>,
    pub allow_short_expires: bool,
    pub nat_expires: At<Text<Duration>>,
    pub max_contacts: At<i64>,
    pub max_registrations: At<i64>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Proxy {
    pub record_route: Option<RecordRoute>,
    pub fork: Option<Fork>,
    pub timer_c: At<Text<Duration>>,
    pub serial_ring: At<Text<Duration>>,
    pub t1: At<Text<Duration>>,
    pub t2: At<Text<Duration>>,
    pub t4: At<Text<Duration>>,
    pub max_breadth: At<i64>,
    pub max_calls: At<i64>,
    pub max_call_duration: At<Text<Duration>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Paths {
    pub udp: Option<Prompt>,
    pub stream: Option<Prompt>,
    pub everyone: Option<bool>,
    pub while_registered: Option<bool>,
    pub during_dialogs: Option<bool>,
    pub interval: At<Text<Duration>>,
    pub jitter_percent: At<i64>,
    pub tail: At<Text<Duration>>,
    pub max_lost: At<i64>,
    pub remove_lost: Option<bool>,
    pub adapt: At<Adapt>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adapt {
    pub min: Spanned<Text<Duration>>,
    pub max: Spanned<Text<Duration>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    pub algorithms: At<Vec<Spanned<DigestAlgorithm>>>,
    pub nonce_lifetime: At<Text<Duration>>,
    pub ban_after: At<i64>,
    pub ban_window: At<Text<Duration>>,
    pub ban: At<Text<Duration>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    pub rate_per_source: Option<Text<Rate>>,
    pub burst_per_source: At<i64>,
    pub connections: At<i64>,
    pub connections_per_source: At<i64>,
    pub idle: At<Text<Duration>>,
    pub message_time: At<Text<Duration>>,
    pub message_size: At<i64>,
    pub transactions: At<i64>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Observe {
    pub enabled: Option<bool>,
    pub ports: At<Vec<Spanned<i64>>>,
    pub max: At<Text<Duration>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Media {
    pub anchor: Option<Anchor>,
    pub same_nat: Option<SameNat>,
    pub ice: Option<IceMode>,
    pub gate_prefix: At<i64>,
    pub timeout: At<Text<Duration>>,
    pub timeout_ends: Option<TimeoutEnds>,
    pub reserve: At<i64>,
    pub max_streams: At<i64>,
    pub inside: Option<Vec<Spanned<Text<Prefix>>>>,
    pub dscp: Option<Text<Dscp>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Calls {
    pub records: Option<Text<LogTarget>>,
}

/// A DSCP by its name or number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dscp(pub u8);

impl FromText for Dscp {
    const EXPECTED: &'static str = "a DSCP like \"ef\", \"af41\" or 46";
    fn from_text(text: &str) -> Result<Self, String> {
        let digit = |byte: u8, least: u8, most: u8| (least..=most).contains(&byte).then(|| byte - b'0');
        let code = match text.to_ascii_lowercase().as_bytes() {
            b"ef" => Some(46),
            b"va" => Some(44),
            // Class selectors (RFC 2474 section 4.2.2), assured forwarding (RFC 2597 section 6).
            [b'c', b's', class] => digit(*class, b'0', b'7').map(|class| class << 3),
            [b'a', b'f', class, drop] => digit(*class, b'1', b'4')
                .zip(digit(*drop, b'1', b'3'))
                .map(|(class, drop)| class << 3 | drop << 1),
            _ => text.parse().ok().filter(|code| *code < 64),
        };
        code.map(Dscp).ok_or_else(|| {
            format!("`{text}` is no DSCP; write ef, va, cs0 to cs7, af11 to af43 or a number from 0 to 63")
        })
    }
}

/// `sip.store` and `pap.store`.
#[derive(Clone, Debug)]
pub struct Store(pub Option<PathBuf>);

impl FromText for Store {
    const EXPECTED: &'static str = "\"off\" or an absolute path";
    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Store(None)),
            path if path.starts_with('/') => Ok(Store(Some(path.into()))),
            _ => Err(format!(
                "`{text}` is no file to keep things in; write off or an absolute path"
            )),
        }
    }
}

impl FromText for IpAddr {
    const EXPECTED: &'static str = "an address like \"192.0.2.1\" or \"2001:db8::1\"";
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| {
            format!("`{text}` is no address; write it like 192.0.2.1 or 2001:db8::1, or interface = \"IF\" to follow an interface's")
        })
    }
}

/// A name server: an address, with a port if it is not 53.
#[derive(Clone, Copy, Debug)]
pub struct Resolver(pub SocketAddr);

impl FromText for Resolver {
    const EXPECTED: &'static str = "a name server like \"192.0.2.53\" or \"127.0.0.1:5353\"";
    fn from_text(text: &str) -> Result<Self, String> {
        let bare = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 53));
        bare.or_else(|_| text.parse())
            .map(Resolver)
            .map_err(|_| format!("`{text}` is no name server; write its address, like 192.0.2.53 or 127.0.0.1:5353"))
    }
}
