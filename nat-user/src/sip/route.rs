//! The dial plan: where requests go that are not for registered users (`[[sip.route]]`).

use bytes::Bytes;

use crate::{
    config::sip::{Route, Sip},
    sip::message::{Uri, uri::Scheme},
};

/// Rules in their order; the first that matches decides.
#[derive(Clone, Debug, Default)]
pub struct DialPlan {
    rules: Vec<Route>,
    emergency: Option<String>,
}

/// Where a request goes by the dial plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dial {
    /// Request URIs, tried one after the other.
    pub uris: Vec<Bytes>,
}

impl DialPlan {
    pub fn new(config: &Sip) -> DialPlan {
        DialPlan {
            rules: config.routes.clone(),
            emergency: config.emergency_route.clone(),
        }
    }

    /// Where a request URI leads. `ours`: its host is one of our domains (or there is none, as in `tel`). `emergency`: its user is a number that
    /// passes every limit. `None`: no rule is for it.
    pub fn dial(&self, uri: &Uri<'_>, ours: bool, emergency: bool) -> Option<Dial> {
        let user = uri.user_text()?;
        // Visual separators do not count in telephone numbers (RFC 3966 section 5.1.1).
        let number: String = match uri.scheme {
            Scheme::Tel => user.chars().filter(|letter| !"-.()".contains(*letter)).collect(),
            _ => user.into_owned(),
        };
        if emergency && let Some(to) = &self.emergency {
            return Some(Dial {
                uris: vec![with_user(to, &number)],
            });
        }
        let rule = self.rules.iter().find(|rule| {
            let domain = match &rule.domain {
                None => ours,
                Some(domain) => domain.as_bytes().eq_ignore_ascii_case(uri.host),
            };
            domain && number.starts_with(&rule.prefix)
        })?;
        let mut letters = number.chars();
        letters.by_ref().take(usize::from(rule.strip)).for_each(drop);
        let number = format!("{}{}", rule.prepend, letters.as_str());
        let uris = rule.to.iter().map(|to| with_user(to, &number)).collect();
        Some(Dial { uris })
    }

    /// Where requests for a domain that name no user go, such as REGISTER (RFC 3261 section 10.2): the places of the first rule for it that takes
    /// any user, tried one after the other. Empty: there is none, and DNS says where.
    pub fn next_hops(&self, domain: &[u8]) -> Vec<Bytes> {
        let is_for = |rule: &&Route| {
            let name = rule.domain.as_ref();
            rule.prefix.is_empty() && name.is_some_and(|name| name.as_bytes().eq_ignore_ascii_case(domain))
        };
        let rule = self.rules.iter().find(is_for);
        let places = rule.into_iter().flat_map(|rule| &rule.to);
        places.map(|to| Bytes::copy_from_slice(to.as_bytes())).collect()
    }
}

/// Puts a user into a SIP URI that has none.
fn with_user(uri: &str, user: &str) -> Bytes {
    let (scheme, rest) = uri.split_once(':').unwrap_or(("sip", uri));
    let mut out = format!("{scheme}:");
    for byte in user.bytes() {
        match byte {
            b if b.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,;?/".contains(&b) => out.push(char::from(b)),
            b => out.push_str(&format!("%{b:02X}")),
        }
    }
    if !user.is_empty() {
        out.push('@');
    }
    out.push_str(rest);
    Bytes::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(prefix: &str, domain: Option<&str>, strip: u8, prepend: &str, to: &[&str]) -> Route {
        Route {
            prefix: prefix.into(),
            domain: domain.map(str::to_owned),
            strip,
            prepend: prepend.into(),
            to: to.iter().map(|to| (*to).to_owned()).collect(),
        }
    }

    #[test]
    fn numbers_find_their_gateway() {
        let plan = DialPlan {
            rules: vec![
                rule(
                    "00",
                    None,
                    2,
                    "+",
                    &["sip:gw1.example:5070;transport=tcp", "sip:192.0.2.9"],
                ),
                rule("", Some("other.example"), 0, "", &["sip:peer.example"]),
                rule("9", None, 1, "", &["sips:gw2.example"]),
            ],
            emergency: Some("sip:psap.example".into()),
        };
        let dial = |uri: &str, ours, emergency| {
            let dial = plan.dial(&Uri::parse(uri.as_bytes()).unwrap(), ours, emergency)?;
            Some(
                dial.uris
                    .iter()
                    .map(|uri| String::from_utf8_lossy(uri).into_owned())
                    .collect::<Vec<_>>(),
            )
        };
        let gateways = vec![
            "sip:+4930123@gw1.example:5070;transport=tcp".to_owned(),
            "sip:+4930123@192.0.2.9".into(),
        ];
        assert_eq!(dial("sip:004930123@net.com", true, false), Some(gateways.clone()));
        assert_eq!(dial("tel:00-49.30(123)", true, false), Some(gateways));
        assert_eq!(
            dial("sip:a%40b@other.example", false, false),
            Some(vec!["sip:a%40b@peer.example".to_owned()])
        );
        assert_eq!(
            dial("sip:912@net.com", true, false),
            Some(vec!["sips:12@gw2.example".to_owned()])
        );
        assert_eq!(dial("sip:alice@net.com", true, false), None);
        assert_eq!(dial("sip:004930123@elsewhere.example", false, false), None);
        assert_eq!(
            dial("sip:112@net.com", true, true),
            Some(vec!["sip:112@psap.example".to_owned()])
        );
    }

    #[test]
    fn requests_without_a_user_find_their_domain() {
        let plan = DialPlan {
            rules: vec![
                rule("00", Some("provider.example"), 2, "+", &["sip:gateway.example"]),
                rule("", None, 0, "", &["sip:192.0.2.8"]),
                rule(
                    "",
                    Some("provider.example"),
                    0,
                    "",
                    &["sip:192.0.2.9;transport=tcp", "sip:192.0.2.10"],
                ),
            ],
            emergency: None,
        };
        assert_eq!(
            plan.next_hops(b"PROVIDER.example"),
            [&b"sip:192.0.2.9;transport=tcp"[..], b"sip:192.0.2.10"]
        );
        assert!(plan.next_hops(b"other.example").is_empty());
    }
}
