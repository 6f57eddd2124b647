//! Hosts and SIP URIs in the configuration (RFC 3261 section 25.1): strict, because what is written here is put into messages.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{config::text::FromText, sip::flow::Transport};

/// A host name, an IPv4 address or an IPv6 address in brackets; in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host(pub String);

impl FromText for Host {
    const EXPECTED: &'static str = "a host like \"example.com\", \"192.0.2.1\" or \"[2001:db8::1]\"";
    fn from_text(text: &str) -> Result<Self, String> {
        if is_host(text) {
            return Ok(Host(text.to_ascii_lowercase()));
        }
        Err(match text.parse::<Ipv6Addr>() {
            Ok(_) => format!("`{text}` is an IPv6 address without brackets; write [{text}]"),
            Err(_) => {
                format!("`{text}` is no host; write it like example.com, 192.0.2.1 or [2001:db8::1], without port")
            }
        })
    }
}

/// A `sip:` or `sips:` URI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uri {
    /// As written.
    pub text: String,
    pub user: Option<String>,
    /// The transport that it names, or that `sips` implies.
    pub transport: Option<Transport>,
}

impl FromText for Uri {
    const EXPECTED: &'static str = "a SIP URI like \"sip:gateway.example.com:5060;transport=tcp\"";
    fn from_text(text: &str) -> Result<Self, String> {
        parse(text)
            .ok_or_else(|| format!("`{text}` is no SIP URI; write it like sip:gateway.example.com:5060;transport=tcp"))
    }
}

fn parse(text: &str) -> Option<Uri> {
    let (scheme, rest) = text.split_once(':')?;
    let secure = match scheme.to_ascii_lowercase().as_str() {
        "sip" => false,
        "sips" => true,
        _ => return None,
    };
    if rest.contains(|c: char| {
        c.is_ascii_control() || c.is_whitespace() || !c.is_ascii() || matches!(c, '<' | '>' | '"' | '?')
    }) {
        return None;
    }
    let (user, rest) = match rest.split_once('@') {
        Some(("", _)) => return None,
        Some((user, rest)) => (Some(user.to_owned()), rest),
        None => (None, rest),
    };
    let (place, parameters) = rest
        .split_once(';')
        .map_or((rest, None), |(place, rest)| (place, Some(rest)));
    // The colon of a port is behind the bracket of an address.
    let port_from = place.rfind(']').map_or(0, |bracket| bracket + 1);
    let host = match place[port_from..].find(':') {
        Some(colon) => {
            let port = &place[port_from + colon + 1..];
            let digits = port.bytes().all(|byte| byte.is_ascii_digit());
            port.parse::<u16>().ok().filter(|port| digits && *port != 0)?;
            &place[..port_from + colon]
        }
        None => place,
    };
    if !is_host(host) {
        return None;
    }
    let mut transport = secure.then_some(Transport::Tls);
    for parameter in parameters.into_iter().flat_map(|parameters| parameters.split(';')) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if name.is_empty() {
            return None;
        }
        if name.eq_ignore_ascii_case("transport") {
            let named: Transport = value.parse().ok()?;
            // In a SIPS URI `transport=tcp` means TLS over TCP (RFC 3261 section 26.2.2).
            transport = Some(match (secure, named) {
                (true, Transport::Udp) => return None,
                (true, _) => Transport::Tls,
                (false, named) => named,
            });
        }
    }
    Some(Uri {
        text: text.to_owned(),
        user,
        transport,
    })
}

fn is_host(text: &str) -> bool {
    if let Some(inner) = text.strip_prefix('[') {
        return inner
            .strip_suffix(']')
            .is_some_and(|inner| inner.parse::<Ipv6Addr>().is_ok());
    }
    let text = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let numeric = text
        .rsplit('.')
        .next()
        .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    text.len() <= 253 && text.split('.').all(label) && (!numeric || text.parse::<Ipv4Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hosts() {
        for (text, host) in [
            ("Example.COM", "example.com"),
            ("pbx", "pbx"),
            ("192.0.2.1", "192.0.2.1"),
            ("[2001:DB8::1]", "[2001:db8::1]"),
            ("sip_1.example.com.", "sip_1.example.com."),
        ] {
            assert_eq!(Host::from_text(text), Ok(Host(host.into())));
        }
        for text in [
            "",
            ".",
            "a..b",
            "-a",
            "a b",
            "a:5060",
            "192.0.2.256",
            "1.2.3",
            "[::1",
            "[a]",
            "sip:a",
            "a@b",
            "ü",
        ] {
            assert!(Host::from_text(text).unwrap_err().contains("write it like"), "{text}");
        }
        assert!(Host::from_text("::1").unwrap_err().contains("write [::1]"));
    }

    #[test]
    fn uris() {
        let transport = |text| Uri::from_text(text).unwrap().transport;
        assert_eq!(transport("sip:gw.example.com"), None);
        assert_eq!(transport("SIP:gw:5070;lr;Transport=TCP"), Some(Transport::Tcp));
        assert_eq!(transport("sips:[2001:db8::1]:5061;transport=tcp"), Some(Transport::Tls));
        assert_eq!(
            Uri::from_text("sip:a;b=c@192.168.1.10:5060").unwrap().user.as_deref(),
            Some("a;b=c")
        );
        for text in [
            "",
            "gw",
            "tel:+49",
            "sip:",
            "sip:@gw",
            "sip:gw:",
            "sip:gw:0",
            "sip:gw:+1",
            "sip:gw:65536",
            "sip:gw;transport=sctp",
            "sips:gw;transport=udp",
            "sip:gw;;lr",
            "sip:g w",
            "<sip:gw>",
            "sip:gw?a=b",
            "sip:[::1",
            "sip:gw:1:2",
            "sip:gw\r\nVia: x",
        ] {
            assert!(Uri::from_text(text).unwrap_err().contains("write it like"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn random_text_never_panics(text in "\\PC{0,40}", uri in "sips?:[a-z@:;=\\[\\].0-9]{0,30}") {
            let _ = (Host::from_text(&text), Uri::from_text(&text), Uri::from_text(&uri));
        }
    }
}
