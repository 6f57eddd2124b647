//! The redirect server (RFC 3261 sections 8.3 and 21.3.3): the caller is told where the user is.

use crate::sip::{
    core::seam::{Answer, Found},
    flow::Transport,
    message::Uri,
    proxy::best::reason,
};

/// 302 with the places where the user can be reached: for a device behind a NAT its translated address and port, for others the contact as
/// they have sent it.
pub fn moved(found: &[Found]) -> Answer {
    let mut answer = Answer::new(302, reason(302));
    for place in found {
        answer.headers.extend_from_slice(b"Contact: <");
        answer.headers.extend_from_slice(&reachable(place));
        answer.headers.extend_from_slice(b">");
        if place.q < 1000 {
            answer
                .headers
                .extend_from_slice(format!(";q=0.{:03}", place.q).as_bytes());
        }
        answer.headers.extend_from_slice(b"\r\n");
    }
    answer
}

/// The URI under which somebody else reaches this contact.
pub fn reachable(place: &Found) -> Vec<u8> {
    match place.flow {
        Some(flow) if place.behind_nat => translated(&place.uri, flow.transport, flow.remote),
        _ => place.uri.to_vec(),
    }
}

/// A contact with the address and port that it is seen at from outside. Its user and all its parameters but `maddr` and `transport` stay.
pub fn translated(contact: &[u8], transport: Transport, remote: std::net::SocketAddr) -> Vec<u8> {
    let Some(uri) = Uri::parse(contact).filter(Uri::is_sip) else {
        return contact.to_vec();
    };
    let mut out = Vec::with_capacity(contact.len() + 24);
    let secure = uri.scheme == crate::sip::message::uri::Scheme::Sips;
    out.extend_from_slice(if secure { b"sips:" } else { b"sip:" });
    if let Some(user) = uri.user {
        out.extend_from_slice(user);
        out.push(b'@');
    }
    let remote = std::net::SocketAddr::new(remote.ip().to_canonical(), remote.port());
    out.extend_from_slice(remote.to_string().as_bytes());
    if transport != Transport::Udp && !secure {
        out.extend_from_slice(format!(";transport={transport}").as_bytes());
    }
    for param in uri.params.iter() {
        let dropped = [&b"transport"[..], b"maddr", b"received", b"rport"];
        if dropped.iter().any(|name| param.name.eq_ignore_ascii_case(name)) {
            continue;
        }
        out.push(b';');
        out.extend_from_slice(param.name);
        if let Some(value) = param.value {
            out.push(b'=');
            out.extend_from_slice(value);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::sip::flow::{Flow, ListenerId};

    #[test]
    fn contacts_are_told_as_they_can_be_reached() {
        let mut place = Found {
            contact: None,
            uri: Bytes::from_static(b"sip:user@192.168.1.10:5060;transport=udp;ob"),
            path: Bytes::new(),
            flow: Some(Flow::udp(ListenerId(0), "134.56.1.1:5070".parse().unwrap())),
            behind_nat: true,
            q: 1000,
        };
        let mut other = place.clone();
        other.behind_nat = false;
        other.q = 500;
        place.q = 1000;
        let answer = moved(&[place, other]);
        assert_eq!(answer.code, 302);
        let text = String::from_utf8(answer.headers).unwrap();
        let expected = "Contact: <sip:user@134.56.1.1:5070;ob>\r\nContact: <sip:user@192.168.1.10:5060;transport=udp;ob>;q=0.500\r\n";
        assert_eq!(text, expected);
        let tcp = translated(
            b"sip:[2001:db8::1]:5060",
            Transport::Tcp,
            "[2001:db8::2]:7000".parse().unwrap(),
        );
        assert_eq!(tcp, b"sip:[2001:db8::2]:7000;transport=tcp");
        assert_eq!(
            translated(b"tel:+1", Transport::Tcp, "1.2.3.4:5".parse().unwrap()),
            b"tel:+1"
        );
    }
}
