//! The domains that are served here, and the canonical form of an address of record (RFC 3261 section 10.3 step 5).

use rustc_hash::FxHashMap;

use crate::{
    config,
    sip::message::{Uri, uri},
};

/// A domain: its place in the configuration's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainId(pub u16);

/// The names of all domains and the aliases of their users. Only the configuration puts anything in, so nobody can choose keys that collide.
#[derive(Debug, Default)]
pub struct Domains {
    by_name: FxHashMap<Box<[u8]>, DomainId>,
    list: Vec<Domain>,
}

#[derive(Debug)]
struct Domain {
    name: Box<str>,
    aliases: FxHashMap<Box<str>, Box<str>>,
}

impl Domains {
    /// From the configuration. Where two domains claim one name, the first has it.
    pub fn new(domains: &[config::sip::Domain]) -> Domains {
        let mut all = Domains::default();
        for (id, domain) in (0..).map(DomainId).zip(domains) {
            for name in &domain.names {
                all.by_name
                    .entry(name.to_ascii_lowercase().into_bytes().into())
                    .or_insert(id);
            }
            all.list.push(Domain {
                name: domain.names.first().map(String::as_str).unwrap_or_default().into(),
                aliases: domain
                    .aliases
                    .iter()
                    .map(|(alias, user)| (alias.as_str().into(), user.as_str().into()))
                    .collect(),
            });
        }
        all
    }

    /// The domain that a host means: its name in any case, an IPv6 address in brackets in any notation. `None`: it is not served here.
    pub fn find(&self, host: &[u8]) -> Option<DomainId> {
        if let Some(id) = self.by_name.get(host) {
            return Some(*id);
        }
        let host = std::str::from_utf8(host).ok()?;
        let plain = match uri::host_address(host.as_bytes()) {
            Some(address) => address.to_string(),
            None => host.trim_end_matches('.').to_ascii_lowercase(),
        };
        self.by_name.get(plain.as_bytes()).copied()
    }

    /// The domain's name, which is the digest realm as well.
    pub fn name(&self, id: DomainId) -> &str {
        self.list.get(usize::from(id.0)).map_or("", |domain| &domain.name)
    }

    /// The user that a name means: itself, or the one that it is an alias of.
    pub fn user<'a>(&'a self, id: DomainId, user: &'a str) -> &'a str {
        self.list
            .get(usize::from(id.0))
            .and_then(|domain| domain.aliases.get(user))
            .map_or(user, |user| user)
    }

    /// Writes the address of record that a URI means, `user@domain`: aliases resolved, the user unescaped, the domain by its first name, no
    /// parameters. `sip` and `sips` mean the same one (RFC 5630 section 3.3). `None`: it is not of a domain served here, or has no user.
    pub fn aor(&self, uri: &Uri<'_>, aor: &mut String) -> Option<DomainId> {
        aor.clear();
        if !uri.is_sip() {
            return None;
        }
        let id = self.find(uri.host)?;
        let user = uri.user_text().filter(|user| !user.is_empty())?;
        aor.push_str(self.user(id, &user));
        aor.push('@');
        aor.push_str(self.name(id));
        Some(id)
    }
}

/// The user of an address of record.
pub fn user_of(aor: &str) -> &str {
    aor.rsplit_once('@').map_or(aor, |(user, _)| user)
}

/// The domain's name of an address of record.
pub fn domain_of(aor: &str) -> &str {
    aor.rsplit_once('@').map_or("", |(_, domain)| domain)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;

    pub(crate) fn domain(names: &[&str]) -> config::sip::Domain {
        config::sip::Domain {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            users: None,
            authenticate: false,
            role: None,
            aliases: vec![("sales".into(), "user".into())],
            contacts: Vec::new(),
            calls_per_user: None,
            callers: config::sip::Callers::Anyone,
        }
    }

    /// What servers of tests have in common: nothing but the defaults, and limits that no test meets by accident.
    pub(crate) fn sip() -> config::sip::Sip {
        config::sip::Sip {
            listeners: vec![],
            domains: vec![],
            routes: vec![],
            tls: None,
            dns: vec![],
            store: None,
            secret: "secret".into(),
            trusted: vec![],
            emergency: vec![],
            emergency_route: None,
            registrar: config::sip::Registrar::default(),
            proxy: config::sip::Proxy::default(),
            paths: config::sip::Paths::default(),
            auth: config::sip::Auth::default(),
            limits: config::sip::SipLimits {
                rate_per_source: "100/s".parse().unwrap(),
                burst_per_source: 200,
                connections: 100,
                connections_per_source: 100,
                idle: Duration::from_secs(120),
                message_time: Duration::from_secs(10),
                message_size: 65535,
                transactions: 1000,
            },
            observe: config::sip::Observe::default(),
            media: config::sip::Media::default(),
            calls: config::sip::Calls::default(),
        }
    }

    #[test]
    fn one_address_of_record_has_one_form() {
        let domains = Domains::new(&[
            domain(&["net.com", "134.56.3.1", "2001:db8::1"]),
            domain(&["b.example", "net.com"]),
        ]);
        let aor = |text: &str| {
            let mut aor = String::new();
            domains
                .aor(&Uri::parse(text.as_bytes()).unwrap(), &mut aor)
                .map(|id| (id.0, aor))
        };
        let user = Some((0, "user@net.com".to_owned()));
        for same in [
            "sip:user@net.com",
            "sips:us%65r@NET.com:5061;transport=tls?x=y",
            "sip:user:secret@134.56.3.1",
            "sip:sales@net.com.",
            "sip:user@[2001:DB8:0::1]",
        ] {
            assert_eq!(aor(same), user, "{same}");
        }
        assert_eq!(aor("sip:a%40b@b.example"), Some((1, "a@b@b.example".to_owned())));
        assert_eq!(aor("sip:User@net.com").unwrap().1, "User@net.com");
        for none in ["sip:net.com", "sip:user@other.com", "tel:+1", "sip:user@134.56.3.2"] {
            assert_eq!(aor(none), None, "{none}");
        }
        assert_eq!((user_of("a@b@c"), domain_of("a@b@c")), ("a@b", "c"));
    }
}
