//! The sample file, every class of wrong input with its place and remedy, and random text.

use proptest::prelude::*;

use super::*;

const SAMPLE: &str = include_str!("../../../sipnat.sample.toml");
const MINIMAL: &str = "[nat]\ninside = [\"eth1\"]\noutside = [\"eth0\"]\n";

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, "test.toml")
}

/// What `MINIMAL` gives: the defaults.
fn defaults() -> Config {
    Config {
        daemon: Daemon::default(),
        nat: Nat {
            inside: vec![Interface {
                name: "eth1".into(),
                vlan: None,
            }],
            outside: vec![Interface {
                name: "eth0".into(),
                vlan: None,
            }],
            ..Nat::default()
        },
        ports: Ports::default(),
        filtering: FilteringByProto::default(),
        lifetimes: Lifetimes::default(),
        forwards: Vec::new(),
        policy: Policy::default(),
        icmp: Icmp::default(),
        fragments: Fragments::default(),
        log: Log::default(),
        metrics: Metrics::default(),
        pap: None,
        sip: None,
    }
}

#[test]
fn two_interfaces_are_enough_and_the_rest_is_default() {
    assert_eq!(parse(MINIMAL).unwrap(), defaults());
}

#[test]
fn defaults_are_those_of_the_rfcs() {
    let Lifetimes {
        udp,
        tcp_established,
        tcp_opening,
        tcp_closing,
        icmp,
        refresh,
        ..
    } = Lifetimes::default();
    let seconds = [udp, tcp_established, tcp_opening, tcp_closing, icmp].map(|time| time.as_secs());
    assert_eq!(seconds, [300, 7440, 240, 240, 60]);
    assert_eq!(refresh, Refresh::Outbound);
    assert_eq!(Ports::default().rest.as_secs(), 120);
}

#[test]
fn the_sample_shows_the_defaults() {
    assert_eq!(parse(SAMPLE).unwrap(), defaults());
}

/// Examples in the sample are lines that begin with `#` and no space; they replace the default before them.
#[test]
fn the_examples_of_the_sample_are_valid() {
    let mut text: Vec<&str> = Vec::new();
    for line in SAMPLE.lines() {
        let example = line
            .strip_prefix('#')
            .filter(|rest| !rest.is_empty() && !rest.starts_with(' '));
        if let Some((key, _)) = example.and_then(|example| example.split_once(" = "))
            && text.last().is_some_and(|last| last.starts_with(&format!("{key} = ")))
        {
            text.pop();
        }
        text.push(example.unwrap_or(line));
    }
    let config = parse(&text.join("\n")).unwrap();
    assert!(!config.forwards.is_empty() && !config.policy.rules.is_empty() && !config.nat.bypass.is_empty());
    assert_eq!(config.metrics.listen, Some("127.0.0.1:9473".parse().unwrap()));
    assert!(matches!(config.log.blocks, LogTarget::File(_)));
    assert!(config.nat.capacity.is_some());
    sip::tests::is_the_sample(&config.sip.unwrap());
}

#[test]
fn everything_can_be_said() {
    let config = parse(
        r#"
        [daemon]
        socket = "/tmp/s.sock"
        pin_dir = "/tmp/pins"
        log = "debug,hyper=warn"
        [nat]
        inside = ["eth1", { interface = "eth1", vlan = 100 }]
        outside = ["ppp0"]
        addresses = ["203.0.113.0/28", "198.51.100.7"]
        inside_prefixes = ["10.0.0.0/8"]
        bypass = ["172.16.0.0/12"]
        xdp_mode = "generic"
        counting = true
        hairpin = false
        mss_clamp = "1412"
        capacity = 10000000
        [ports]
        range = "512-65535"
        allow_well_known = true
        exclude = [5060, "32768-60999"]
        block_size = 128
        [filtering]
        udp = "address-and-port-dependent"
        [lifetimes]
        tcp_closing = "30s"
        allow_short = true
        refresh = "both"
        [[forward]]
        protocol = "both"
        external = "203.0.113.1:8000-8010"
        inside = "10.0.0.10:9000-9010"
        [[forward]]
        protocol = "tcp"
        external = "443"
        inside = "10.0.0.11:8443"
        [policy]
        default = "deny"
        refuse = "silent"
        [[policy.rule]]
        action = "allow"
        direction = "out"
        source = ["10.1.0.0/16", "10.2.0.0/16"]
        protocol = "tcp"
        destination_ports = "80, 443"
        [icmp]
        rate = "60/m"
        rate_per_source = "1/m"
        [log]
        blocks = "syslog"
        [metrics]
        listen = "0.0.0.0:9473"
        allow_remote = true
        "#,
    )
    .unwrap();
    assert_eq!(
        config.nat.inside[1],
        Interface {
            name: "eth1".into(),
            vlan: Some(100)
        }
    );
    assert_eq!(config.nat.mss_clamp, MssClamp::Bytes(1412));
    assert_eq!(
        config.ports.exclude,
        [
            PortRange::one(5060),
            PortRange {
                first: 32768,
                last: 60999
            }
        ]
    );
    assert_eq!(config.lifetimes.tcp_closing, Duration::from_secs(30));
    assert_eq!(config.forwards.len(), 3);
    let last = config.forwards[2];
    assert_eq!(
        (last.external(), last.inside()),
        ("443".into(), "10.0.0.11:8443".into())
    );
    let rules: Vec<_> = config
        .policy
        .rules
        .iter()
        .map(|r| (r.source.to_string(), r.destination_ports.first))
        .collect();
    let expect = [
        ("10.1.0.0/16", 80),
        ("10.1.0.0/16", 443),
        ("10.2.0.0/16", 80),
        ("10.2.0.0/16", 443),
    ];
    assert_eq!(rules, expect.map(|(source, port)| (source.to_string(), port)));
    assert_eq!(config.log.blocks, LogTarget::Syslog);
}

/// Wrong text, where the error points (line, column), a part of the message, a part of the remedy.
type Wrong = (&'static str, Option<(usize, usize)>, &'static str, &'static str);

/// All of these come behind `MINIMAL`, so their first line is line 4.
#[rustfmt::skip]
const WRONG_VALUES: &[Wrong] = &[
    ("[nat2]", Some((4, 2)), "unknown field `nat2`", "correct its spelling"),
    ("mss = 1", Some((4, 1)), "unknown field `mss`", "correct its spelling"),
    ("counting = 1", Some((4, 12)), "expected a boolean", "sipnat.sample.toml"),
    ("[ports]\nrange = 1024-65535", Some((5, 9)), "", "double quotes"),
    ("inside = [\"eth2\"]", Some((4, 1)), "duplicate key", "keep one"),
    ("xdp_mode = \"fast\"", Some((4, 12)), "no XDP mode", "auto, native or generic"),
    ("mss_clamp = 20", Some((4, 13)), "no MSS clamp", "536 to 65495"),
    ("capacity = 10", Some((4, 12)), "nat.capacity is 10", "1024 to"),
    ("sessions = -1", Some((4, 12)), "nat.sessions is -1", "1024 to"),
    ("addresses = [\"203.0.113.1\", \"224.0.0.1\"]", Some((4, 29)), "multicast", "public unicast"),
    ("addresses = [\"203.0.113.1/24\"]", Some((4, 14)), "behind the prefix length", "203.0.113.0/24"),
    ("addresses = [\"100.64.0.0/10\"]", Some((4, 14)), "more than 256", "longer prefix"),
    ("addresses = [\"198.51.100.0/30\", \"198.51.100.1\"]", Some((4, 33)), "already in", "keep one"),
    ("addresses = [\"10.0.0.1\"]\ninside_prefixes = [\"10.0.0.0/8\"]", Some((4, 14)), "overlaps", "inside or outside"),
    ("bypass = [\"fd00::/8\"]", Some((4, 11)), "no IPv4 prefix", "192.0.2.0/24"),
    ("[ports]\nrange = \"80-65535\"", Some((5, 9)), "below 1024", "allow_well_known"),
    ("[ports]\nrange = \"9-8\"", Some((5, 9)), "backwards", "8-9"),
    ("[ports]\nblock_size = 100", Some((5, 14)), "no power of two", "64 or 128"),
    ("[ports]\nblock_size = 8", Some((5, 14)), "ports.block_size is 8", "16 to 1024"),
    ("[ports]\nblocks_per_host = 65", Some((5, 19)), "65 blocks", "1 to 64"),
    ("[ports]\nrange = \"1024-1080\"", Some((5, 9)), "no whole block", "widen"),
    ("[ports]\nexclude = [\"1024-65535\"]", Some((5, 12)), "no whole block", "exclude less"),
    ("[ports]\nrest = 120", Some((5, 8)), "no duration", "300s"),
    ("[ports]\nrest = \"5 fortnights\"", Some((5, 8)), "no duration", "300s"),
    ("[lifetimes]\nudp = \"30s\"", Some((5, 7)), "RFC 4787 REQ-5", "from 2m to 1day"),
    ("[lifetimes]\nudp = \"25h\"", Some((5, 7)), "lifetimes.udp", "from 2m to 1day"),
    ("[lifetimes]\ntcp_established = \"2h\"", Some((5, 19)), "RFC 5382 REQ-5", "from 2h 4m"),
    ("[lifetimes]\ntcp_closing = \"1m\"", Some((5, 15)), "allow_short", "from 4m"),
    ("[lifetimes]\nicmp = \"59s\"", Some((5, 8)), "RFC 5508 REQ-2", "from 1m"),
    ("[filtering]\nudp = \"none\"", Some((5, 7)), "unknown variant `none`", "one of the values"),
    ("[[forward]]\nprotocol = \"tcp\"\nexternal = \"80\"", Some((4, 1)), "missing field `inside`", "add the key"),
    ("[[forward]]\nprotocol = \"tcp\"\nexternal = \"80-81\"\ninside = \"10.0.0.1:80\"", Some((7, 10)), "2 external and 1 inside", "equal length"),
    ("[[forward]]\nprotocol = \"tcp\"\nexternal = \"80\"\ninside = \"10.0.0.1\"", Some((7, 10)), "no inside endpoint", "192.168.1.10:80"),
    ("[[forward]]\nprotocol = \"tcp\"\nexternal = \"x\"\ninside = \"10.0.0.1:80\"", Some((6, 12)), "no external port", "203.0.113.1:8080"),
    ("[[forward]]\nprotocol = \"both\"\nexternal = \"80\"\ninside = \"10.0.0.1:80\"\n[[forward]]\nprotocol = \"udp\"\nexternal = \"1.2.3.4:80\"\ninside = \"10.0.0.2:80\"", Some((10, 12)), "already forwarded to 10.0.0.1:80", "one forward"),
    ("addresses = [\"203.0.113.1\"]\n[[forward]]\nprotocol = \"tcp\"\nexternal = \"203.0.113.2:80\"\ninside = \"10.0.0.1:80\"", Some((7, 12)), "not in nat.addresses", "add it there"),
    ("inside_prefixes = [\"10.0.0.0/24\"]\n[[forward]]\nprotocol = \"tcp\"\nexternal = \"80\"\ninside = \"10.0.1.1:80\"", Some((8, 10)), "not in nat.inside_prefixes", "inside address"),
    ("[[policy.rule]]\naction = \"drop\"", Some((5, 10)), "unknown variant `drop`", "one of the values"),
    ("[[policy.rule]]\naction = \"deny\"\ndestination_ports = \"80\"", Some((6, 21)), "neither tcp nor udp", "protocol ="),
    ("[[policy.rule]]\naction = \"deny\"\nprotocol = \"tcp\"\ndestination_ports = \"80,\"", Some((7, 21)), "no port", "8000-8010"),
    ("[[policy.rule]]\naction = \"deny\"\nprotocol = \"tcp\"\nsource_ports = \"1,2,3,4,5,6,7,8\"\ndestination_ports = \"1,2,3,4,5,6,7,8,9\"", Some((4, 1)), "more than 64 rules", "shorter prefixes"),
    ("[icmp]\nrate = \"100\"", Some((5, 8)), "no rate", "100/s"),
    ("[icmp]\nrate_per_source = \"101/s\"", Some((5, 19)), "more than icmp.rate", "raise rate"),
    ("[fragments]\nmemory = 1", Some((5, 10)), "fragments.memory is 1 bytes", "65536"),
    ("[fragments]\ntimeout = \"1h\"", Some((5, 11)), "fragments.timeout", "from 100ms to 30s"),
    ("[log]\nblocks = \"blocks.log\"", Some((5, 10)), "no target", "absolute path"),
    ("[metrics]\nlisten = \"0.0.0.0:9473\"", Some((5, 10)), "not loopback", "allow_remote"),
    ("[pap]\nmin_lifetime = \"2h\"\nmax_lifetime = \"1h\"", Some((6, 16)), "pap.max_lifetime 1h is below", "raise it"),
    ("[pap]\nstore = \"x\"", Some((5, 9)), "no file to keep things in", "absolute path"),
    ("[pap]\nmappings_per_host = 0", Some((5, 21)), "pap.mappings_per_host", "1 to 65535"),
    ("[metrics]\nlisten = \"localhost\"", Some((5, 10)), "no address with a port", "127.0.0.1:9473"),
    ("[daemon]\nsocket = \"sipnat.sock\"", Some((5, 10)), "where the daemon is started", "absolute path"),
    ("[daemon]\nlog = \"sip=nat=loud\"", Some((5, 7)), "no log filter", "info"),
    ("counting = \"ü\" x", Some((4, 16)), "", "correct the TOML"),
];

#[rustfmt::skip]
const WRONG_INTERFACES: &[Wrong] = &[
    ("", None, "no inside interface", "--inside IF"),
    ("[nat]\ninside = [\"a\"]", None, "no outside interface", "--outside IF"),
    ("[nat]\ninside = [\"a\"]\noutside = [\"a\"]", Some((3, 12)), "both inside and outside", "one list"),
    ("[nat]\ninside = [\"a\", \"a\"]\noutside = [\"b\"]", Some((2, 16)), "twice", "keep one"),
    ("[nat]\ninside = [\"a b\"]\noutside = [\"b\"]", Some((2, 11)), "cannot be an interface's name", "ip link"),
    ("[nat]\ninside = [{ interface = \"a\", vlan = 4095 }]", Some((2, 11)), "no VLAN 4095", "1 to 4094"),
    ("[nat]\ninside = [{ interface = \"a\", tag = 1 }]", Some((2, 30)), "unknown field `tag`", "spelling"),
    ("[nat]\ninside = \"a\"", Some((2, 10)), "expected a sequence", "sipnat.sample.toml"),
];

/// What differs from the expectation, if anything.
fn difference(text: &str, (_, position, message, remedy): Wrong) -> Option<String> {
    let error = match parse(text) {
        Ok(_) => return Some(format!("accepted:\n{text}")),
        Err(error) => error,
    };
    let place = position.map_or("test.toml: ".into(), |(line, column)| {
        format!("test.toml:{line}:{column}: ")
    });
    let shown = error.to_string();
    let as_expected = error.message.contains(message)
        && error.remedy.contains(remedy)
        && shown.starts_with(&place)
        && !shown.contains('\n');
    (!as_expected).then(|| format!("{shown}\n  expected {place}..{message}..{remedy}\n{text}"))
}

#[test]
fn each_wrong_value_has_a_place_and_a_remedy() {
    let behind_minimal = WRONG_VALUES
        .iter()
        .filter_map(|&wrong| difference(&format!("{MINIMAL}{}", wrong.0), wrong));
    let alone = WRONG_INTERFACES.iter().filter_map(|&wrong| difference(wrong.0, wrong));
    let differences: Vec<String> = behind_minimal.chain(alone).collect();
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
}

#[test]
fn the_command_line_wins_over_the_file() {
    let mut options = RunOptions {
        config: None,
        overrides: Overrides {
            inside: vec!["lan".into()],
            outside: vec!["wan".into()],
            ..Overrides::default()
        },
        lifetime_scale: 0.01,
        allow_sysctl: false,
    };
    let config = options.load().unwrap();
    assert_eq!(
        (config.nat.inside[0].name.as_str(), config.nat.outside[0].name.as_str()),
        ("lan", "wan")
    );
    assert_eq!(config.lifetimes.udp, Duration::from_secs(3));
    assert_eq!(
        config.lifetimes.icmp,
        Duration::from_secs(1),
        "the resolution is a second"
    );

    let overrides = Overrides {
        skb_mode: true,
        socket: Some("/x".into()),
        ..options.overrides.clone()
    };
    let config = validate::config(MINIMAL, "test.toml", &overrides).unwrap();
    assert_eq!(
        (config.nat.inside[0].name.as_str(), config.nat.xdp_mode),
        ("lan", XdpMode::Generic)
    );
    assert_eq!(
        (config.daemon.socket, config.daemon.pin_dir),
        ("/x".into(), DEFAULT_PIN_DIR.into())
    );

    options.overrides.outside = vec!["lan".into()];
    let error = options.load().unwrap_err().to_string();
    assert!(
        error.starts_with("command line: lan is both inside and outside"),
        "{error}"
    );
    options.config = Some("/nonexistent/sipnat.toml".into());
    assert!(
        options
            .load()
            .unwrap_err()
            .to_string()
            .starts_with("/nonexistent/sipnat.toml: cannot read the config")
    );
}

proptest! {
    #[test]
    fn random_text_never_panics(text in "\\PC{0,200}") {
        let _ = parse(&text);
        let _ = parse(&format!("{MINIMAL}{text}"));
    }

    /// Keys that exist with values that may not fit: deep into validation.
    #[test]
    fn random_values_never_panic(
        line in prop::sample::select(SAMPLE.lines().filter(|line| line.contains('=')).collect::<Vec<_>>()),
        value in prop_oneof![
            "[0-9]{1,20}[smhd]?".prop_map(|text| format!("\"{text}\"")),
            "[0-9.:/-]{0,24}".prop_map(|text| format!("[\"{text}\"]")),
            "[0-9.:/-]{0,24}".prop_map(|text| format!("\"{text}\"")),
            any::<i64>().prop_map(|number| number.to_string()),
            any::<f64>().prop_map(|number| format!("{number:?}")),
        ],
    ) {
        let (key, _) = line.split_once('=').unwrap();
        let changed = SAMPLE.replacen(line, &format!("{} = {value}", key.trim_start_matches('#')), 1);
        if let Err(error) = parse(&changed) {
            prop_assert!(!error.remedy.is_empty());
        }
    }

    #[test]
    fn random_scales_never_panic(factor: f64) {
        let mut config = parse(MINIMAL).unwrap();
        config.scale_lifetimes(factor);
        prop_assert!(config.lifetimes.udp >= Duration::from_secs(1) && config.lifetimes.udp <= validate::TCP_MAX);
    }
}
