//! `[sip]`: what may be written, what it means, and every class of wrong input with its place and remedy.

use std::{net::IpAddr, time::Duration};

use super::*;
use crate::{
    config::{Config, ConfigError},
    media::{
        policy::{Anchor, SameNat},
        sdp::edit::IceMode,
    },
    sip::flow::Transport,
};

const MINIMAL: &str = "[sip]\n[[sip.listen]]\ntransport = \"udp\"\naddress = \"192.0.2.1\"\n[[sip.domain]]\nnames = [\"net.com\"]\nauthenticate = false\n";

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, "test.toml")
}

fn sip(text: &str) -> Sip {
    parse(text).unwrap().sip.unwrap()
}

/// What `MINIMAL` says; the rest is default.
fn minimal() -> Sip {
    Sip {
        listeners: vec![Listener {
            transport: Transport::Udp,
            address: ListenAddress::Ip(IpAddr::from([192, 0, 2, 1])),
            port: 5060,
            advertise: None,
            role: Role::Proxy,
        }],
        domains: vec![Domain {
            names: vec!["net.com".into()],
            users: None,
            authenticate: false,
            role: None,
            aliases: Vec::new(),
            contacts: Vec::new(),
            calls_per_user: None,
            callers: Callers::Anyone,
        }],
        routes: Vec::new(),
        tls: None,
        store: Some("/var/lib/sipnat/registrations.redb".into()),
        secret: "/var/lib/sipnat/secret".into(),
        trusted: Vec::new(),
        emergency: vec!["112".into(), "911".into()],
        emergency_route: None,
        dns: Vec::new(),
        registrar: Registrar::default(),
        proxy: Proxy::default(),
        paths: Paths::default(),
        auth: Auth::default(),
        limits: SipLimits::default(),
        observe: Observe::default(),
        media: Media::default(),
        calls: Calls::default(),
    }
}

#[test]
fn a_server_alone_needs_no_nat() {
    let config = parse(MINIMAL).unwrap();
    assert!(!config.nat.runs());
    assert_eq!(config.sip, Some(minimal()));
    // Beside a NAT it is the same.
    let both = format!("[nat]\ninside = [\"a\"]\noutside = [\"b\"]\n{MINIMAL}");
    let config = parse(&both).unwrap();
    assert!(config.nat.runs());
    assert_eq!(config.sip, Some(minimal()));
    // Whoever writes [nat] means one.
    let error = parse(&format!("[nat]\nhairpin = true\n{MINIMAL}")).unwrap_err();
    assert!(error.message.contains("no inside interface"), "{error}");
}

/// What `sipnat.sample.toml` shows of `[sip]`: defaults, and examples where there are none.
pub fn is_the_sample(sample: &Sip) {
    let listen = |transport, address, advertise: Option<&str>| Listener {
        transport,
        address,
        port: 5060,
        advertise: advertise.map(Into::into),
        role: Role::Proxy,
    };
    let expected = Sip {
        listeners: vec![
            listen(Transport::Udp, ListenAddress::Ip(IpAddr::from([203, 0, 113, 1])), None),
            listen(
                Transport::Tcp,
                ListenAddress::Interface("eth0".into()),
                Some("sip.example.com"),
            ),
        ],
        domains: vec![Domain {
            names: vec!["example.com".into(), "203.0.113.1".into()],
            users: Some("/etc/sipnat/users".into()),
            authenticate: true,
            role: Some(Role::Redirect),
            aliases: [("100", "alice"), ("info", "bob")]
                .map(|(a, b)| (a.into(), b.into()))
                .to_vec(),
            contacts: vec![StaticContact {
                user: "door".into(),
                contact: "sip:door@192.168.1.30:5060".into(),
                q: 500,
            }],
            calls_per_user: Some(4),
            callers: Callers::Anyone,
        }],
        routes: vec![
            Route {
                prefix: "00".into(),
                domain: None,
                strip: 2,
                prepend: "+".into(),
                to: vec![
                    "sip:gateway.example.net;transport=tcp".into(),
                    "sip:192.0.2.65:5060".into(),
                ],
            },
            Route {
                prefix: String::new(),
                domain: Some("partner.example.org".into()),
                strip: 0,
                prepend: String::new(),
                to: vec!["sip:192.0.2.66".into()],
            },
        ],
        tls: Some(Tls {
            certificate: "/etc/sipnat/sip.crt".into(),
            key: "/etc/sipnat/sip.key".into(),
            authorities: Some("/etc/ssl/certs/ca-certificates.crt".into()),
        }),
        trusted: vec!["192.0.2.64/28".parse().unwrap()],
        emergency_route: Some("sip:192.0.2.65".into()),
        registrar: Registrar {
            nat_expires: Some(Duration::from_secs(120)),
            ..Registrar::default()
        },
        paths: Paths {
            adapt: Some((Duration::from_secs(10), Duration::from_secs(60))),
            ..Paths::default()
        },
        media: Media {
            inside: Some(vec!["192.168.0.0/16".parse().unwrap()]),
            dscp: Some(46),
            ..Media::default()
        },
        calls: Calls {
            records: LogTarget::File("/var/log/sipnat/calls.jsonl".into()),
        },
        ..minimal()
    };
    assert_eq!(*sample, expected);
}

#[test]
fn everything_can_be_said() {
    let config = sip(r#"
        [sip]
        store = "off"
        secret = "/tmp/secret"
        emergency = []
        dns = ["127.0.0.1:5353", "2001:db8::53"]
        [[sip.listen]]
        transport = "tls"
        address = "::"
        advertise = "[2001:DB8::1]"
        role = "outbound"
        [[sip.listen]]
        transport = "udp"
        interface = "wan"
        port = 5070
        role = "redirect"
        [[sip.domain]]
        names = ["Net.COM"]
        users = "/tmp/users"
        calls_per_user = 0
        callers = "authenticated"
        [[sip.route]]
        prefix = "0"
        to = ["sips:gw.example.com"]
        [sip.tls]
        certificate = "/tmp/c"
        key = "/tmp/k"
        [sip.registrar]
        min_expires = "10s"
        allow_short_expires = true
        default_expires = "20s"
        max_expires = "20s"
        nat_expires = "15s"
        [sip.proxy]
        record_route = "never"
        fork = "by-q"
        [sip.paths]
        udp = "off"
        stream = "options"
        everyone = true
        while_registered = false
        during_dialogs = false
        [sip.auth]
        algorithms = ["SHA-512-256"]
        ban_after = 0
        [sip.limits]
        rate_per_source = "10/m"
        [sip.observe]
        enabled = false
        ports = [5060, 5062]
        [sip.media]
        anchor = "always"
        same_nat = "direct"
        ice = "remove"
        gate_prefix = 24
        timeout = "90s"
        timeout_ends = "media"
        reserve = 0
        max_streams = 1
        inside = ["192.168.1.0/24", "192.168.2.0/24"]
        dscp = 34
        [sip.calls]
        records = "syslog"
    "#);
    assert_eq!(config.store, None);
    assert_eq!(
        config.dns,
        ["127.0.0.1:5353", "[2001:db8::53]:53"].map(|text| text.parse().unwrap())
    );
    assert_eq!(config.listeners[0].port, 5061);
    assert_eq!(config.listeners[0].advertise.as_deref(), Some("[2001:db8::1]"));
    assert_eq!(config.listeners[1].address, ListenAddress::Interface("wan".into()));
    assert_eq!(
        (config.listeners[1].port, config.listeners[1].role),
        (5070, Role::Redirect)
    );
    assert_eq!(config.domains[0].names, ["net.com"], "compared in lower case");
    assert!(config.domains[0].authenticate && config.domains[0].calls_per_user == Some(0));
    assert_eq!(config.domains[0].callers, Callers::Authenticated);
    let seconds = [
        config.registrar.min_expires,
        config.registrar.default_expires,
        config.registrar.nat_expires.unwrap(),
    ];
    assert_eq!(seconds.map(|time| time.as_secs()), [10, 20, 15]);
    assert_eq!(
        (config.proxy.record_route, config.proxy.fork),
        (RecordRoute::Never, Fork::ByQ)
    );
    assert_eq!(
        config.paths,
        Paths {
            udp: Prompt::Off,
            stream: Prompt::Options,
            everyone: true,
            while_registered: false,
            during_dialogs: false,
            ..Paths::default()
        }
    );
    assert_eq!(config.auth.algorithms, [DigestAlgorithm::Sha512_256]);
    assert_eq!(config.observe.ports, [5060, 5062]);
    let media = Media {
        anchor: Anchor::Always,
        same_nat: SameNat::Direct,
        ice: IceMode::Remove,
        gate_prefix: 24,
        timeout: Duration::from_secs(90),
        timeout_ends: TimeoutEnds::Media,
        reserve: 0,
        max_streams: 1,
        inside: Some(
            ["192.168.1.0/24", "192.168.2.0/24"]
                .map(|text| text.parse().unwrap())
                .to_vec(),
        ),
        dscp: Some(34),
    };
    assert_eq!(config.media, media);
    assert_eq!(config.calls.records, LogTarget::Syslog);
}

/// What is inside of the NAT: what is said, what the NAT says, private addresses; nothing without one.
#[test]
fn the_inside_of_the_nat() {
    let inside = |nat: &str, media: &str| {
        let config = parse(&format!("{nat}{MINIMAL}[sip.media]\n{media}")).unwrap();
        let inside = config.sip.unwrap().media.inside(&config.nat);
        inside.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    let nat = "[nat]\ninside = [\"a\"]\noutside = [\"b\"]\n";
    assert_eq!(inside("", ""), "");
    assert_eq!(inside(nat, ""), "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10");
    let with_prefixes = format!("{nat}inside_prefixes = [\"192.168.7.0/24\"]\n");
    assert_eq!(inside(&with_prefixes, ""), "192.168.7.0/24");
    assert_eq!(inside(&with_prefixes, "inside = [\"10.1.0.0/16\"]"), "10.1.0.0/16");
    assert_eq!(inside(nat, "inside = []"), "");
}

/// A default that does not fit bounds which the file moves is moved along.
#[test]
fn defaults_follow_what_bounds_them() {
    let text = format!(
        "{MINIMAL}[sip.registrar]\nmin_expires = \"1h\"\nmax_expires = \"90m\"\n[sip.limits]\nconnections = 7\n[sip.proxy]\nt1 = \"5s\"\n"
    );
    let config = sip(&text);
    assert_eq!(config.registrar.default_expires, Duration::from_secs(3600));
    assert_eq!(config.limits.connections_per_source, 7);
    assert_eq!(config.proxy.t2, Duration::from_secs(5));
    let text = format!("{MINIMAL}[sip.registrar]\nmax_expires = \"2m\"\n");
    assert_eq!(sip(&text).registrar.default_expires, Duration::from_secs(120));
}

/// Wrong text, where the error points (line, column), a part of the message, a part of the remedy.
type Wrong = (&'static str, Option<(usize, usize)>, &'static str, &'static str);

/// All of these come behind `MINIMAL`, so their first line is line 8, within its domain.
#[rustfmt::skip]
const BEHIND_MINIMAL: &[Wrong] = &[
    ("users = \"users\"", Some((8, 9)), "where the daemon is started", "absolute path"),
    ("role = \"outbound\"", Some((8, 8)), "served here", "[[sip.listen]]"),
    ("role = \"gateway\"", Some((8, 8)), "unknown variant `gateway`", "one of the values"),
    ("aliases = { a = \"b\", b = \"c\" }", Some((8, 17)), "an alias itself", "name the user"),
    ("aliases = { a = \"\" }", Some((8, 17)), "is empty", "aliases ="),
    ("contacts = [{ user = \"\", contact = \"sip:a@b\" }]", Some((8, 22)), "user is empty", "name a user"),
    ("contacts = [{ user = \"a\", contact = \"tel:1\" }]", Some((8, 37)), "no SIP URI", "sip:gateway"),
    ("contacts = [{ user = \"a\", contact = \"sip:b@c\", q = 1.1 }]", Some((8, 52)), "RFC 3261 section 20.10", "0.0 to 1.0"),
    ("calls_per_user = -1", Some((8, 18)), "-1 calls", "0 to 100000"),
    ("callers = \"me\"", Some((8, 11)), "unknown variant `me`", "one of the values"),
    ("[[sip.domain]]\nnames = [\"x.com\", \"NET.com\"]\nauthenticate = false", Some((9, 19)), "a name of the domain net.com already", "keep one"),
    ("[[sip.domain]]\nnames = [\"x.com\", \"x.com\"]\nauthenticate = false", Some((9, 19)), "there twice", "keep one"),
    ("[[sip.domain]]\nnames = []\nauthenticate = false", Some((9, 9)), "no name", "digest realm"),
    ("[[sip.domain]]\nnames = [\"a b\"]", Some((9, 10)), "no host", "example.com"),
    ("[[sip.domain]]\nnames = [\"2001:db8::1\"]", Some((9, 10)), "without brackets", "[2001:db8::1]"),
    ("[[sip.domain]]\nnames = [\"x.com\"]", Some((8, 1)), "no users file", "authenticate = false"),
    ("[[sip.domain]]\nusers = \"/x\"", Some((8, 1)), "missing field `names`", "add the key"),
    ("[[sip.listen]]\ntransport = \"udp\"\naddress = \"192.0.2.1\"\nport = 5060", Some((8, 1)), "has udp port 5060 there already", "another port"),
    ("[[sip.listen]]\ntransport = \"udp\"\naddress = \"0.0.0.0\"\nadvertise = \"x.com\"", Some((8, 1)), "has udp port 5060 there already", "keep one"),
    ("[[sip.listen]]\ntransport = \"udp\"\naddress = \"0.0.0.0\"\nport = 5061", Some((10, 11)), "nobody can tell", "advertise = \"HOST\""),
    ("[[sip.listen]]\ntransport = \"udp\"\naddress = \"224.0.0.1\"", Some((10, 11)), "cannot bind", "unicast"),
    ("[[sip.listen]]\ntransport = \"udp\"\naddress = \"eth0\"", Some((10, 11)), "no address", "interface = \"IF\""),
    ("[[sip.listen]]\ntransport = \"udp\"", Some((8, 1)), "neither an address nor an interface", "interface ="),
    ("[[sip.listen]]\ntransport = \"udp\"\naddress = \"192.0.2.2\"\ninterface = \"eth0\"", Some((11, 13)), "both an address and an interface", "keep one"),
    ("[[sip.listen]]\ntransport = \"udp\"\ninterface = \"eth 0\"", Some((10, 13)), "cannot be an interface's name", "ip link"),
    ("[[sip.listen]]\ntransport = \"sctp\"\naddress = \"192.0.2.2\"", Some((9, 13)), "unknown variant `sctp`", "one of the values"),
    ("[[sip.listen]]\ntransport = \"udp\"\naddress = \"192.0.2.2\"\nport = 0", Some((11, 8)), "port is 0", "1 to 65535"),
    ("[[sip.listen]]\ntransport = \"udp\"\naddress = \"192.0.2.2\"\nadvertise = \"a:5060\"", Some((11, 13)), "no host", "without port"),
    ("[[sip.listen]]\ntransport = \"tls\"\naddress = \"192.0.2.1\"", Some((8, 1)), "needs a certificate", "[sip.tls]"),
    ("[[sip.listen]]\ntransport = \"tcp\"\naddress = \"192.0.2.1\"\n[[sip.listen]]\ntransport = \"tls\"\naddress = \"192.0.2.1\"\nport = 5060", Some((11, 1)), "has tcp port 5060", "another port"),
    ("[sip.tls]\ncertificate = \"c\"\nkey = \"/k\"", Some((9, 15)), "sip.tls.certificate is `c`", "absolute path"),
    ("[sip.tls]\ncertificate = \"/c\"", Some((8, 1)), "missing field `key`", "add the key"),
    ("[[sip.route]]\nto = []", Some((9, 6)), "leads nowhere", "sip:gateway"),
    ("[[sip.route]]\nto = [\"gateway\"]", Some((9, 7)), "no SIP URI", "sip:gateway"),
    ("[[sip.route]]\nto = [\"sip:x@gateway\"]", Some((9, 7)), "names the user `x`", "before @"),
    ("[[sip.route]]\nto = [\"sip:gateway;transport=tcp\"]", Some((9, 7)), "no tcp listener", "transport = \"tcp\""),
    ("[[sip.route]]\nto = [\"sip:gateway\"]\nstrip = 65", Some((10, 9)), "strip is 65", "0 to 64"),
    ("[[sip.route]]\nto = [\"sip:gateway\"]\nprepend = \"a b\"", Some((10, 11)), "cannot have", "digits"),
    ("[[sip.route]]\nto = [\"sip:gateway\"]\ndomain = \"net.com\"", Some((8, 1)), "served here", "leave domain out"),
    ("[[sip.route]]\nprefix = \"0\"\nto = [\"sip:a\"]\n[[sip.route]]\nprefix = \"00\"\nto = [\"sip:b\"]", Some((11, 1)), "never taken: route 1", "longer prefix first"),
    ("[sip.registrar]\nmin_expires = \"30s\"", Some((9, 15)), "below 60s only", "from 1m to 1h"),
    ("[sip.registrar]\nmin_expires = \"2h\"", Some((9, 15)), "RFC 3261 section 10.3", "from 1m to 1h"),
    ("[sip.registrar]\nmax_expires = \"10s\"", Some((9, 15)), "not below min_expires", "from 1m to"),
    ("[sip.registrar]\ndefault_expires = \"3h\"", Some((9, 19)), "between min_expires and max_expires", "from 1m to 2h"),
    ("[sip.registrar]\nnat_expires = \"59s\"", Some((9, 15)), "between min_expires", "from 1m to 2h"),
    ("[sip.registrar]\nmax_contacts = 0", Some((9, 16)), "0 contacts", "1 to 1000"),
    ("[sip.registrar]\nmax_registrations = 0", Some((9, 21)), "0 registrations", "1 to"),
    ("[sip.proxy]\ntimer_c = \"3m\"", Some((9, 11)), "RFC 3261 section 16.6", "from 3m 1s"),
    ("[sip.proxy]\nserial_ring = \"0s\"", Some((9, 15)), "sip.proxy.serial_ring", "from 1s"),
    ("[sip.proxy]\nt1 = \"1ms\"", Some((9, 6)), "RFC 3261 section 17.1.1.1", "from 100ms"),
    ("[sip.proxy]\nt2 = \"100ms\"", Some((9, 6)), "from t1 to t2", "from 500ms"),
    ("[sip.proxy]\nt4 = \"1h\"", Some((9, 6)), "RFC 3261 section 17.1.2.2", "to 1m"),
    ("[sip.proxy]\nmax_breadth = 0", Some((9, 15)), "0 branches", "1 to 1000"),
    ("[sip.proxy]\nmax_calls = 0", Some((9, 13)), "0 calls", "1 to"),
    ("[sip.proxy]\nmax_call_duration = \"1s\"", Some((9, 21)), "RFC 4028", "from 1m"),
    ("[sip.proxy]\nrecord_route = true", Some((9, 16)), "", ""),
    ("[sip.paths]\nudp = \"stun\"", Some((9, 7)), "unknown variant `stun`", "one of the values"),
    ("[sip.paths]\ninterval = \"11m\"", Some((9, 12)), "RFC 4787 REQ-5", "from 1s to 10m"),
    ("[sip.paths]\njitter_percent = 51", Some((9, 18)), "51 percent", "0 to 50"),
    ("[sip.paths]\ntail = \"2h\"", Some((9, 8)), "64 times t1", "from 0s to 1h"),
    ("[sip.paths]\nmax_lost = 0", Some((9, 12)), "0 prompts", "1 to 100"),
    ("[sip.paths]\nadapt = { min = \"20s\", max = \"60s\" }", Some((9, 9)), "not within sip.paths.adapt", "adapt.min to adapt.max"),
    ("[sip.paths]\ninterval = \"30s\"\nadapt = { min = \"10s\", max = \"20s\" }", Some((9, 12)), "not within sip.paths.adapt", "adapt.min"),
    ("[sip.paths]\nadapt = { min = \"20s\", max = \"10s\" }", Some((9, 30)), "not below min", "from 20s"),
    ("[sip.paths]\nadapt = \"10s\"", Some((9, 9)), "", ""),
    ("[sip.auth]\nalgorithms = []", Some((9, 14)), "no digest algorithm", "RFC 8760"),
    ("[sip.auth]\nalgorithms = [\"MD5\", \"MD5\"]", Some((9, 22)), "there twice", "keep one"),
    ("[sip.auth]\nalgorithms = [\"SHA-1\"]", Some((9, 15)), "unknown variant `SHA-1`", "one of the values"),
    ("[sip.auth]\nnonce_lifetime = \"1s\"", Some((9, 18)), "RFC 7616 section 5.4", "from 10s"),
    ("[sip.auth]\nban_after = -1", Some((9, 13)), "-1 wrong passwords", "0 to"),
    ("[sip.auth]\nban_window = \"0s\"", Some((9, 14)), "sip.auth.ban_window", "from 1s"),
    ("[sip.auth]\nban = \"31days\"", Some((9, 7)), "ban_after = 0", "to 30days"),
    ("[sip.limits]\nrate_per_source = \"100\"", Some((9, 19)), "no rate", "100/s"),
    ("[sip.limits]\nburst_per_source = 0", Some((9, 20)), "0 requests", "1 to"),
    ("[sip.limits]\nconnections = 0", Some((9, 15)), "0 connections", "1 to"),
    ("[sip.limits]\nconnections = 10\nconnections_per_source = 11", Some((10, 26)), "11 connections", "1 to 10"),
    ("[sip.limits]\nidle = \"1s\"", Some((9, 8)), "RFC 5626 section 4.4.1", "from 10s"),
    ("[sip.limits]\nmessage_time = \"1h\"", Some((9, 16)), "for ever", "to 2m"),
    ("[sip.limits]\nmessage_size = 1500", Some((9, 16)), "RFC 3261 section 18.1.1", "65535 to"),
    ("[sip.limits]\ntransactions = 1", Some((9, 16)), "1 transactions", "100 to"),
    ("[sip.observe]\nports = []", Some((9, 9)), "0 ports", "enabled = false"),
    ("[sip.observe]\nports = [0]", Some((9, 10)), "a port of sip.observe.ports is 0", "1 to 65535"),
    ("[sip.observe]\nmax = \"1s\"", Some((9, 7)), "sip.observe.max", "from 1m"),
    ("[sip.media]\nanchor = \"yes\"", Some((9, 10)), "unknown variant `yes`", "one of the values"),
    ("[sip.media]\nsame_nat = \"relay\"", Some((9, 12)), "unknown variant `relay`", "one of the values"),
    ("[sip.media]\nice = true", Some((9, 7)), "", ""),
    ("[sip.media]\ngate_prefix = 8", Some((9, 15)), "RFC 7362 section 4", "24 to 32"),
    ("[sip.media]\ntimeout_ends = \"all\"", Some((9, 16)), "unknown variant `all`", "one of the values"),
    ("[sip.media]\nreserve = 1001", Some((9, 11)), "1001 streams", "0 to 1000"),
    ("[sip.media]\nmax_streams = 0", Some((9, 15)), "0 m= lines", "1 to 256"),
    ("[sip.media]\ninside = [\"10.0.0.1\", \"10.0.0.0/8\"]", Some((9, 23)), "overlaps", "the wider one"),
    ("[sip.media]\ninside = [\"10.0.0.0/33\"]", Some((9, 11)), "", "192.0.2.0/24"),
    ("[sip.media]\ndscp = 64", Some((9, 8)), "`64` is no DSCP", "0 to 63"),
    ("[sip.media]\ndscp = \"af14\"", Some((9, 8)), "`af14` is no DSCP", "af43"),
    ("[sip.calls]\nrecords = \"calls.jsonl\"", Some((9, 11)), "no target for records", "an absolute path"),
    ("[sip.store]", Some((8, 1)), "", ""),
    ("[[forward]]\nprotocol = \"udp\"\nexternal = \"80\"\ninside = \"10.0.0.1:80\"", Some((8, 1)), "a forward needs a NAT", "[nat]"),
];

/// As they are.
#[rustfmt::skip]
const ALONE: &[Wrong] = &[
    ("[sip]", None, "no [[sip.listen]]", "transport = \"udp\""),
    ("[sip]\n[[sip.listen]]\ntransport = \"udp\"\naddress = \"192.0.2.1\"", Some((2, 1)), "neither a [[sip.domain]] nor a [[sip.route]]", "role = \"outbound\""),
    ("[sip]\nstore = \"x\"", Some((2, 9)), "no file to keep things in", "off or an absolute path"),
    ("[sip]\nsecret = \"x\"", Some((2, 10)), "where the daemon is started", "absolute path"),
    ("[sip]\ntrusted = [\"x\"]", Some((2, 12)), "no IPv4 prefix", "192.0.2.0/24"),
    ("[sip]\nemergency = [\"1 2\"]", Some((2, 14)), "cannot be the user part", "112"),
    ("[sip]\nemergency_route = \"gw\"", Some((2, 19)), "no SIP URI", "sip:gateway"),
    ("[sip]\nemergency_route = \"sip:a@gw\"", Some((2, 19)), "names the user `a`", "before @"),
    ("[sip]\nemergency_route = \"sips:gw\"\n[[sip.listen]]\ntransport = \"udp\"\naddress = \"192.0.2.1\"", Some((2, 19)), "no tls listener", "transport = \"tls\""),
    ("[sip]\ndns = [\"ns.example.com\"]", Some((2, 8)), "no name server", "its address"),
    ("[sip]\nlisten = 1", Some((2, 10)), "", ""),
    ("[sip]\nports = 1", Some((2, 1)), "unknown field `ports`", "spelling"),
    ("[sip]\n[[sip.listen]]\ntransport = \"udp\"\ninterface = \"b\"\nrole = \"outbound\"\n[nat]\ninside = [\"a\"]\noutside = [\"b\"]\n[[forward]]\nprotocol = \"udp\"\nexternal = \"5060\"\ninside = \"10.0.0.1:5060\"", Some((1, 1)), "the forward of udp 5060 takes the packets", "another port"),
    ("[sip]\n[[sip.listen]]\ntransport = \"udp\"\naddress = \"192.0.2.1\"\nrole = \"outbound\"\n[nat]\ninside = [\"a\"]\noutside = [\"b\"]\naddresses = [\"192.0.2.1\"]\n[ports]\nexclude_local = false", Some((1, 1)), "may give the SIP listener's port 5060", "ports.exclude"),
];

#[test]
fn each_wrong_value_has_a_place_and_a_remedy() {
    let behind_minimal = BEHIND_MINIMAL
        .iter()
        .filter_map(|&wrong| difference(&format!("{MINIMAL}{}", wrong.0), wrong));
    let alone = ALONE.iter().filter_map(|&wrong| difference(wrong.0, wrong));
    let differences: Vec<String> = behind_minimal.chain(alone).collect();
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
}

/// What differs from the expectation, if anything.
fn difference(text: &str, (_, position, message, remedy): Wrong) -> Option<String> {
    let error = match parse(text) {
        Ok(_) => return Some(format!("accepted:\n{text}")),
        Err(error) => error,
    };
    let as_expected = error.message.contains(message)
        && error.remedy.contains(remedy)
        && error.position == position
        && !error.to_string().contains('\n');
    (!as_expected).then(|| format!("{error}\n  expected {position:?} {message}..{remedy}\n{text}"))
}

#[test]
fn what_does_not_collide_is_allowed() {
    let beside_a_nat = |sip: &str, nat: &str| {
        let text = format!(
            "[sip]\n[[sip.listen]]\ntransport = \"udp\"\n{sip}\nrole = \"outbound\"\n[nat]\ninside = [\"a\"]\noutside = [\"b\"]\n{nat}"
        );
        parse(&text).map(|config| config.forwards.len())
    };
    let forward = |protocol: &str, port: u16| {
        format!("[[forward]]\nprotocol = \"{protocol}\"\nexternal = \"{port}\"\ninside = \"10.0.0.1:80\"")
    };
    assert_eq!(beside_a_nat("interface = \"b\"", &forward("tcp", 5060)), Ok(1));
    assert_eq!(beside_a_nat("interface = \"a\"", &forward("udp", 5060)), Ok(1));
    assert_eq!(beside_a_nat("address = \"192.168.1.1\"", &forward("udp", 5060)), Ok(1));
    let ports = "[ports]\nexclude_local = false\nexclude = [5060]";
    assert_eq!(beside_a_nat("interface = \"b\"", ports), Ok(0));
    // One port for udp and tcp, one address for two ports, one port on two addresses.
    let more = "[[sip.listen]]\ntransport = \"tcp\"\naddress = \"192.0.2.1\"\n[[sip.listen]]\ntransport = \"udp\"\naddress = \"192.0.2.1\"\nport = 5070\n[[sip.listen]]\ntransport = \"udp\"\naddress = \"::1\"\n";
    assert_eq!(sip(&format!("{MINIMAL}{more}")).listeners.len(), 4);
    // The general route behind the special one, and one prefix in two domains.
    let routes = "[[sip.route]]\nprefix = \"00\"\nto = [\"sip:a\"]\n[[sip.route]]\nto = [\"sip:b\"]\n[[sip.route]]\ndomain = \"x.org\"\nto = [\"sip:b\"]\n";
    assert_eq!(sip(&format!("{MINIMAL}{routes}")).routes.len(), 3);
}
