//! From the TOML of `[sip]` to a valid [`Sip`]: each table by itself. What the tables may not have in common is in `check.rs`.

use std::{net::IpAddr, ops::Range, path::PathBuf, time::Duration};

use toml::Spanned;

use super::{
    Auth, Callers, Calls, DigestAlgorithm, Domain, ListenAddress, Listener, Media, Observe, Paths, Proxy, Registrar,
    Role, Route, Sip, SipLimits, StaticContact, Tls, check, defaults, raw, uri::Uri,
};
use crate::config::{
    Prefix,
    error::Fault,
    raw::{At, RawInterface},
    text::Text,
    validate::{duration, number},
};

const MAX_LISTENERS: usize = 64;
const MAX_DOMAINS: usize = 10_000;
const MAX_ROUTES: usize = 1024;
const DAY: Duration = Duration::from_secs(86_400);

pub use check::with_nat;

/// `[sip]` with all its tables.
pub fn sip(mut raw: raw::Sip) -> Result<Sip, Fault> {
    let places = check::Places::of(&raw);
    let trusted: Vec<Prefix> = raw.trusted.iter().map(|prefix| prefix.get_ref().0).collect();
    let tls = raw.tls.take().map(|tls| self::tls(tls.into_inner())).transpose()?;
    let sip = Sip {
        listeners: list(raw.listen, MAX_LISTENERS, "[[sip.listen]]", listener)?,
        domains: list(raw.domain, MAX_DOMAINS, "[[sip.domain]]", domain)?,
        routes: list(raw.route, MAX_ROUTES, "[[sip.route]]", route)?,
        tls,
        store: raw
            .store
            .map_or(Some(defaults::STORE.into()), |store| store.into_inner().0.0),
        secret: absolute(raw.secret, "sip.secret")?.unwrap_or_else(|| defaults::SECRET.into()),
        trusted,
        emergency: emergency(raw.emergency)?,
        emergency_route: raw
            .emergency_route
            .map(|uri| without_user(&uri, "sip.emergency_route").map(|()| uri.into_inner().0.text))
            .transpose()?,
        dns: raw.dns.into_iter().map(|server| server.into_inner().0.0).collect(),
        registrar: registrar(raw.registrar)?,
        proxy: proxy(raw.proxy)?,
        paths: paths(raw.paths)?,
        auth: auth(raw.auth)?,
        limits: limits(raw.limits)?,
        observe: observe(raw.observe)?,
        media: media(raw.media)?,
        calls: Calls {
            records: raw.calls.records.map(|target| target.0).unwrap_or_default(),
        },
    };
    check::sip(&sip, &places)?;
    Ok(sip)
}

fn list<R, T>(
    raw: Vec<Spanned<R>>,
    most: usize,
    name: &str,
    each: impl Fn(R, Range<usize>) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    if let Some(too_many) = raw.get(most) {
        let message = format!("there are more than {most} {name} tables");
        return Err(Fault::at(too_many.span(), message, "remove some"));
    }
    raw.into_iter()
        .map(|item| {
            let span = item.span();
            each(item.into_inner(), span)
        })
        .collect()
}

fn listener(raw: raw::Listen, span: Range<usize>) -> Result<Listener, Fault> {
    let address = match (raw.address, raw.interface) {
        (Some(address), None) => {
            let ip = address.get_ref().0;
            if ip.is_multicast() || ip == IpAddr::from([255; 4]) {
                let message = format!("a listener cannot bind {ip}");
                return Err(Fault::at(
                    address.span(),
                    message,
                    "write a unicast address of this machine",
                ));
            }
            if ip.is_unspecified() && raw.advertise.is_none() {
                let message = format!("with the address {ip} nobody can tell which address phones shall send to");
                let remedy =
                    "write one of this machine's addresses, interface = \"IF\", or advertise = \"HOST\" beside it";
                return Err(Fault::at(address.span(), message, remedy));
            }
            ListenAddress::Ip(ip)
        }
        (None, Some(name)) => {
            RawInterface::named(name.get_ref(), None).map_err(|error| {
                let (message, remedy) = error.split_once("; ").unwrap_or((&error, "correct the name"));
                Fault::at(name.span(), message, remedy)
            })?;
            ListenAddress::Interface(name.into_inner())
        }
        (None, None) => {
            return Err(Fault::at(
                span,
                "the listener has neither an address nor an interface",
                "write address = \"192.0.2.1\", or interface = \"IF\" to follow its first global IPv4 address",
            ));
        }
        (Some(_), Some(interface)) => {
            return Err(Fault::at(
                interface.span(),
                "the listener has both an address and an interface",
                "keep one of the two",
            ));
        }
    };
    Ok(Listener {
        transport: raw.transport,
        address,
        port: number(
            raw.port,
            raw.transport.default_port(),
            1..=65535,
            "port",
            "(a port number)",
        )?,
        advertise: raw.advertise.map(|host| host.into_inner().0.0),
        role: raw.role.unwrap_or(Role::Proxy),
    })
}

fn domain(raw: raw::Domain, span: Range<usize>) -> Result<Domain, Fault> {
    let names: Vec<String> = raw
        .names
        .get_ref()
        .iter()
        .map(|name| name.get_ref().0.0.clone())
        .collect();
    if names.is_empty() {
        return Err(Fault::at(
            raw.names.span(),
            "the domain has no name",
            "write names = [\"example.com\"]; the first is the digest realm too",
        ));
    }
    let users = absolute(raw.users, "users")?;
    let authenticate = raw.authenticate.unwrap_or(true);
    if authenticate && users.is_none() {
        return Err(Fault::at(
            span,
            format!("{} has no users file, so nobody could authenticate", names[0]),
            "write users = \"/etc/sipnat/users\" (`sipnat user add` makes one), or authenticate = false to let everybody register",
        ));
    }
    if let Some(role) = raw.role.as_ref().filter(|role| *role.get_ref() == Role::Outbound) {
        return Err(Fault::at(
            role.span(),
            format!(
                "{} is served here, but an outbound proxy passes on to who serves a domain",
                names[0]
            ),
            "write proxy or redirect, or give the role to the [[sip.listen]]",
        ));
    }
    let aliases = raw.aliases;
    for (alias, user) in &aliases {
        if user.get_ref().is_empty() || alias.is_empty() {
            return Err(Fault::at(
                user.span(),
                "an alias or its user is empty",
                "write aliases = { \"100\" = \"alice\" }",
            ));
        }
        if aliases.contains_key(user.get_ref()) {
            return Err(Fault::at(
                user.span(),
                format!("`{alias}` stands for `{}`, which is an alias itself", user.get_ref()),
                "name the user",
            ));
        }
    }
    let contacts = raw.contacts.into_iter().map(Spanned::into_inner).map(contact);
    let contacts: Vec<StaticContact> = contacts.collect::<Result<_, _>>()?;
    Ok(Domain {
        names,
        users,
        authenticate,
        role: raw.role.map(Spanned::into_inner),
        aliases: aliases
            .into_iter()
            .map(|(alias, user)| (alias, user.into_inner()))
            .collect(),
        contacts,
        calls_per_user: match raw.calls_per_user {
            None => None,
            some => Some(number(some, 0, 0..=100_000, "calls_per_user", "calls")?),
        },
        callers: raw.callers.unwrap_or(Callers::Anyone),
    })
}

fn contact(raw: raw::Contact) -> Result<StaticContact, Fault> {
    if raw.user.get_ref().is_empty() {
        return Err(Fault::at(raw.user.span(), "the contact's user is empty", "name a user"));
    }
    let q = match raw.q {
        None => 1000,
        Some(q) if (0.0..=1.0).contains(q.get_ref()) => (q.get_ref() * 1000.0).round() as u16,
        Some(q) => {
            return Err(Fault::at(
                q.span(),
                format!("q is {} (RFC 3261 section 20.10)", q.get_ref()),
                "write a number from 0.0 to 1.0",
            ));
        }
    };
    Ok(StaticContact {
        user: raw.user.into_inner(),
        contact: raw.contact.into_inner().0.text,
        q,
    })
}

fn route(raw: raw::Route, _: Range<usize>) -> Result<Route, Fault> {
    if raw.to.get_ref().is_empty() {
        return Err(Fault::at(
            raw.to.span(),
            "the route leads nowhere",
            "write to = [\"sip:gateway.example.com\"]",
        ));
    }
    for uri in raw.to.get_ref() {
        without_user(uri, "a route")?;
    }
    let prepend = raw.prepend.map(|text| match plain_user(text.get_ref()) {
        true => Ok(text.into_inner()),
        false => Err(Fault::at(
            text.span(),
            "what is put in front has characters that the user part of a URI cannot have",
            "write digits, + or letters",
        )),
    });
    Ok(Route {
        prefix: raw.prefix,
        domain: raw.domain.map(|host| host.into_inner().0.0),
        strip: number(raw.strip, 0, 0..=64, "strip", "characters")?,
        prepend: prepend.transpose()?.unwrap_or_default(),
        to: raw
            .to
            .into_inner()
            .into_iter()
            .map(|uri| uri.into_inner().0.text)
            .collect(),
    })
}

/// RFC 3261 section 25.1: unreserved and user-unreserved characters.
fn plain_user(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,;?/".contains(&byte))
}

fn without_user(uri: &Spanned<Text<Uri>>, what: &str) -> Result<(), Fault> {
    match &uri.get_ref().0.user {
        None => Ok(()),
        Some(user) => Err(Fault::at(
            uri.span(),
            format!("{what} leads to a place, but the URI names the user `{user}`"),
            "leave out the part before @",
        )),
    }
}

fn tls(raw: raw::Tls) -> Result<Tls, Fault> {
    Ok(Tls {
        certificate: absolute_path(raw.certificate, "sip.tls.certificate")?,
        key: absolute_path(raw.key, "sip.tls.key")?,
        authorities: absolute(raw.authorities, "sip.tls.authorities")?,
    })
}

fn absolute(raw: At<PathBuf>, name: &str) -> Result<Option<PathBuf>, Fault> {
    raw.map(|path| absolute_path(path, name)).transpose()
}

fn absolute_path(raw: Spanned<PathBuf>, name: &str) -> Result<PathBuf, Fault> {
    if raw.get_ref().is_absolute() {
        return Ok(raw.into_inner());
    }
    Err(Fault::at(
        raw.span(),
        format!(
            "{name} is `{}`, which depends on where the daemon is started",
            raw.get_ref().display()
        ),
        "write an absolute path",
    ))
}

fn emergency(raw: Option<Vec<Spanned<String>>>) -> Result<Vec<String>, Fault> {
    let Some(raw) = raw else {
        return Ok(defaults::EMERGENCY.map(Into::into).to_vec());
    };
    raw.into_iter()
        .map(
            |number| match plain_user(number.get_ref()) && !number.get_ref().is_empty() {
                true => Ok(number.into_inner()),
                false => Err(Fault::at(
                    number.span(),
                    format!("`{}` cannot be the user part of a URI", number.get_ref().escape_debug()),
                    "write a number like \"112\"",
                )),
            },
        )
        .collect()
}

fn registrar(raw: raw::Registrar) -> Result<Registrar, Fault> {
    let default = Registrar::default();
    let seconds = Duration::from_secs;
    let least = if raw.allow_short_expires {
        seconds(1)
    } else {
        seconds(60)
    };
    let min_expires = duration(
        raw.min_expires,
        default.min_expires,
        least,
        seconds(3600),
        "sip.registrar.min_expires",
        "RFC 3261 section 10.3 lets a registrar refuse less than 1h at most; below 60s only with allow_short_expires = true",
    )?;
    let max_expires = duration(
        raw.max_expires,
        default.max_expires.max(min_expires),
        min_expires,
        7 * DAY,
        "sip.registrar.max_expires",
        "not below min_expires",
    )?;
    let between = "between min_expires and max_expires";
    Ok(Registrar {
        default_expires: duration(
            raw.default_expires,
            default.default_expires.clamp(min_expires, max_expires),
            min_expires,
            max_expires,
            "sip.registrar.default_expires",
            between,
        )?,
        min_expires,
        max_expires,
        nat_expires: match raw.nat_expires {
            None => None,
            some => Some(duration(
                some,
                max_expires,
                min_expires,
                max_expires,
                "sip.registrar.nat_expires",
                between,
            )?),
        },
        max_contacts: number(
            raw.max_contacts,
            default.max_contacts,
            1..=1000,
            "sip.registrar.max_contacts",
            "contacts",
        )?,
        max_registrations: number(
            raw.max_registrations,
            default.max_registrations,
            1..=50_000_000,
            "sip.registrar.max_registrations",
            "registrations",
        )?,
    })
}

fn proxy(raw: raw::Proxy) -> Result<Proxy, Fault> {
    let default = Proxy::default();
    let (seconds, millis) = (Duration::from_secs, Duration::from_millis);
    let t1 = duration(
        raw.t1,
        default.t1,
        millis(100),
        seconds(10),
        "sip.proxy.t1",
        "RFC 3261 section 17.1.1.1 recommends no less than 500ms",
    )?;
    Ok(Proxy {
        record_route: raw.record_route.unwrap_or(default.record_route),
        fork: raw.fork.unwrap_or(default.fork),
        timer_c: duration(
            raw.timer_c,
            default.timer_c,
            seconds(181),
            seconds(3600),
            "sip.proxy.timer_c",
            "RFC 3261 section 16.6 item 11 asks for more than 3m",
        )?,
        serial_ring: duration(
            raw.serial_ring,
            default.serial_ring,
            seconds(1),
            seconds(180),
            "sip.proxy.serial_ring",
            "timer C ends what rings for longer than 3m",
        )?,
        t1,
        t2: duration(
            raw.t2,
            default.t2.max(t1),
            t1,
            seconds(60),
            "sip.proxy.t2",
            "RFC 3261 section 17.1.2.2: intervals grow from t1 to t2",
        )?,
        t4: duration(
            raw.t4,
            default.t4,
            millis(500),
            seconds(60),
            "sip.proxy.t4",
            "RFC 3261 section 17.1.2.2: how long messages may be on their way",
        )?,
        max_breadth: number(
            raw.max_breadth,
            default.max_breadth,
            1..=1000,
            "sip.proxy.max_breadth",
            "branches",
        )?,
        max_calls: number(
            raw.max_calls,
            default.max_calls,
            1..=10_000_000,
            "sip.proxy.max_calls",
            "calls",
        )?,
        max_call_duration: duration(
            raw.max_call_duration,
            default.max_call_duration,
            seconds(60),
            7 * DAY,
            "sip.proxy.max_call_duration",
            "what has no session timer (RFC 4028) must end at some time",
        )?,
    })
}

fn paths(raw: raw::Paths) -> Result<Paths, Fault> {
    let default = Paths::default();
    let seconds = Duration::from_secs;
    let interval_span = raw.interval.as_ref().map(Spanned::span);
    let rule = "a NAT keeps a UDP binding for 2m at least (RFC 4787 REQ-5), and many keep it for 30s only";
    let interval = duration(
        raw.interval,
        default.interval,
        seconds(1),
        seconds(600),
        "sip.paths.interval",
        rule,
    )?;
    let adapt = raw.adapt.map(|adapt| {
        let (span, raw::Adapt { min, max }) = (adapt.span(), adapt.into_inner());
        let min = duration(
            Some(min),
            interval,
            seconds(1),
            seconds(600),
            "sip.paths.adapt.min",
            rule,
        )?;
        let max = duration(
            Some(max),
            interval,
            min,
            seconds(600),
            "sip.paths.adapt.max",
            "not below min",
        )?;
        if !(min..=max).contains(&interval) {
            return Err(Fault::at(
                interval_span.clone().unwrap_or(span),
                "sip.paths.interval is not within sip.paths.adapt, but each path begins with it",
                "write an interval from adapt.min to adapt.max",
            ));
        }
        Ok((min, max))
    });
    Ok(Paths {
        udp: raw.udp.unwrap_or(default.udp),
        stream: raw.stream.unwrap_or(default.stream),
        everyone: raw.everyone.unwrap_or(default.everyone),
        while_registered: raw.while_registered.unwrap_or(default.while_registered),
        during_dialogs: raw.during_dialogs.unwrap_or(default.during_dialogs),
        interval,
        jitter_percent: number(
            raw.jitter_percent,
            default.jitter_percent,
            0..=50,
            "sip.paths.jitter_percent",
            "percent",
        )?,
        tail: duration(
            raw.tail,
            default.tail,
            Duration::ZERO,
            seconds(3600),
            "sip.paths.tail",
            "32s are the longest that a transaction of the dialog can last (64 times t1)",
        )?,
        max_lost: number(raw.max_lost, default.max_lost, 1..=100, "sip.paths.max_lost", "prompts")?,
        remove_lost: raw.remove_lost.unwrap_or(default.remove_lost),
        adapt: adapt.transpose()?,
    })
}

fn auth(raw: raw::Auth) -> Result<Auth, Fault> {
    let default = Auth::default();
    let seconds = Duration::from_secs;
    let algorithms = match raw.algorithms {
        None => default.algorithms,
        Some(list) if list.get_ref().is_empty() => {
            return Err(Fault::at(
                list.span(),
                "no digest algorithm is offered",
                "write algorithms = [\"SHA-256\", \"MD5\"], best first (RFC 8760 section 2.4)",
            ));
        }
        Some(list) => {
            let mut algorithms: Vec<DigestAlgorithm> = Vec::new();
            for algorithm in list.into_inner() {
                if algorithms.contains(algorithm.get_ref()) {
                    return Err(Fault::at(
                        algorithm.span(),
                        "the algorithm is there twice",
                        "keep one of the two",
                    ));
                }
                algorithms.push(algorithm.into_inner());
            }
            algorithms
        }
    };
    let (window, longest) = (DAY, 30 * DAY);
    Ok(Auth {
        algorithms,
        nonce_lifetime: duration(
            raw.nonce_lifetime,
            default.nonce_lifetime,
            seconds(10),
            DAY,
            "sip.auth.nonce_lifetime",
            "longer gives who overhears a nonce more time, shorter has phones authenticate twice (RFC 7616 section 5.4)",
        )?,
        ban_after: number(
            raw.ban_after,
            default.ban_after,
            0..=1_000_000,
            "sip.auth.ban_after",
            "wrong passwords",
        )?,
        ban_window: duration(
            raw.ban_window,
            default.ban_window,
            seconds(1),
            window,
            "sip.auth.ban_window",
            "wrong passwords are counted for so long",
        )?,
        ban: duration(
            raw.ban,
            default.ban,
            seconds(1),
            longest,
            "sip.auth.ban",
            "ban_after = 0 bans nobody",
        )?,
    })
}

fn limits(raw: raw::Limits) -> Result<SipLimits, Fault> {
    let default = SipLimits::default();
    let seconds = Duration::from_secs;
    let connections = number(
        raw.connections,
        default.connections,
        1..=1_000_000,
        "sip.limits.connections",
        "connections",
    )?;
    Ok(SipLimits {
        rate_per_source: raw.rate_per_source.map_or(default.rate_per_source, |rate| rate.0),
        burst_per_source: number(
            raw.burst_per_source,
            default.burst_per_source,
            1..=1_000_000,
            "sip.limits.burst_per_source",
            "requests",
        )?,
        connections,
        connections_per_source: number(
            raw.connections_per_source,
            default.connections_per_source.min(connections),
            1..=connections,
            "sip.limits.connections_per_source",
            "connections",
        )?,
        idle: duration(
            raw.idle,
            default.idle,
            seconds(10),
            DAY,
            "sip.limits.idle",
            "keep-alives come every 95s to 120s (RFC 5626 section 4.4.1)",
        )?,
        message_time: duration(
            raw.message_time,
            default.message_time,
            seconds(1),
            seconds(120),
            "sip.limits.message_time",
            "whoever sends a byte a minute must not hold a connection for ever",
        )?,
        message_size: number(
            raw.message_size,
            default.message_size,
            65_535..=1_048_576,
            "sip.limits.message_size",
            "bytes (RFC 3261 section 18.1.1 asks for 65535)",
        )?,
        transactions: number(
            raw.transactions,
            default.transactions,
            100..=10_000_000,
            "sip.limits.transactions",
            "transactions",
        )?,
    })
}

fn observe(raw: raw::Observe) -> Result<Observe, Fault> {
    let default = Observe::default();
    let ports = match raw.ports {
        None => default.ports,
        Some(list) if list.get_ref().is_empty() || list.get_ref().len() > 16 => {
            return Err(Fault::at(
                list.span(),
                format!("sip.observe.ports has {} ports", list.get_ref().len()),
                "write 1 to 16 ports, or enabled = false",
            ));
        }
        Some(list) => list
            .into_inner()
            .into_iter()
            .map(|port| {
                number(
                    Some(port),
                    0,
                    1..=65535,
                    "a port of sip.observe.ports",
                    "(a port number)",
                )
            })
            .collect::<Result<_, _>>()?,
    };
    Ok(Observe {
        enabled: raw.enabled.unwrap_or(default.enabled),
        ports,
        max: duration(
            raw.max,
            default.max,
            Duration::from_secs(60),
            DAY,
            "sip.observe.max",
            "a binding must end at some time after its phone is gone",
        )?,
    })
}

fn media(raw: raw::Media) -> Result<Media, Fault> {
    let default = Media::default();
    let inside = raw.inside.map(|prefixes| {
        let mut inside: Vec<Prefix> = Vec::new();
        for prefix in prefixes {
            let one = prefix.get_ref().0;
            if inside.iter().any(|other| other.overlaps(&one)) {
                let message = format!("{one} overlaps another prefix of sip.media.inside");
                return Err(Fault::at(prefix.span(), message, "keep the wider one of the two"));
            }
            inside.push(one);
        }
        Ok(inside)
    });
    Ok(Media {
        anchor: raw.anchor.unwrap_or(default.anchor),
        same_nat: raw.same_nat.unwrap_or(default.same_nat),
        ice: raw.ice.unwrap_or(default.ice),
        gate_prefix: number(
            raw.gate_prefix,
            default.gate_prefix,
            24..=32,
            "sip.media.gate_prefix",
            "bits (whoever is within the prefix can take a stream before its first packet, RFC 7362 section 4)",
        )?,
        timeout: duration(
            raw.timeout,
            default.timeout,
            Duration::from_secs(30),
            DAY,
            "sip.media.timeout",
            "speakers that detect silence send nothing for seconds; streams on hold are not counted",
        )?,
        timeout_ends: raw.timeout_ends.unwrap_or(default.timeout_ends),
        reserve: number(
            raw.reserve,
            default.reserve,
            0..=1000,
            "sip.media.reserve",
            "streams (each keeps 4 legs of nat.relay_legs and 4 ports from others)",
        )?,
        max_streams: number(
            raw.max_streams,
            default.max_streams,
            1..=256,
            "sip.media.max_streams",
            "m= lines",
        )?,
        inside: inside.transpose()?,
        dscp: raw.dscp.map(|dscp| dscp.0.0),
    })
}
