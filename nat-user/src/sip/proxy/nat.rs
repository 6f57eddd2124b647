//! Whether the sender of a request is behind a NAT (S1: the address inside its message is not the one that it came from).

use std::net::IpAddr;

use crate::sip::{
    flow::Flow,
    message::{HeaderName, Message, NameAddr, uri::host_address, value::same_address},
};

/// Whether requests to the sender of this one find it only on the flow that it came on: it is a device (no proxy has added a Via before
/// us) behind a NAT, or connected by a stream, on which it may not listen.
pub fn needs_flow(request: &Message, flow: &Flow) -> bool {
    is_device(request) && (flow.transport.reliable() || translated(request, flow))
}

/// Whether the sender is a device behind a NAT: its Via or Contact does not say where it came from. On a stream only the address counts, for
/// a connection leaves from any port.
pub fn is_behind(request: &Message, flow: &Flow) -> bool {
    is_device(request) && translated(request, flow)
}

/// Whether the sender speaks with us itself: no proxy has added a Via before us.
pub fn is_device(request: &Message) -> bool {
    request.items(HeaderName::Via).nth(1).is_none()
}

fn translated(request: &Message, flow: &Flow) -> bool {
    let stream = flow.transport.reliable();
    let is_source = |ip: Option<IpAddr>, port: u16| {
        ip.is_some_and(|ip| same_address(ip, flow.remote.ip())) && (stream || port == flow.remote.port())
    };
    let by_via = request.via().is_none_or(|via| {
        !is_source(
            host_address(via.host),
            via.port.unwrap_or(flow.transport.default_port()),
        )
    });
    if by_via {
        return true;
    }
    let Some(contact) = request.items(HeaderName::Contact).next() else {
        return false;
    };
    let contact = NameAddr::parse(request, contact.span).and_then(|contact| contact.parsed());
    contact.is_none_or(|contact| !is_source(contact.address(), contact.port_or_default()))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::sip::flow::{ConnectionId, ListenerId, Transport};

    fn request(via: &str, contact: &str) -> Message {
        let text = format!("INVITE sip:b@y SIP/2.0\r\nVia: {via}\r\nContact: <{contact}>\r\n\r\n");
        Message::parse(Bytes::from(text)).unwrap()
    }

    #[test]
    fn addresses_inside_are_compared_with_the_source() {
        let udp = Flow::udp(ListenerId(0), "134.56.1.1:5070".parse().unwrap());
        let tcp = Flow::stream(ListenerId(1), Transport::Tcp, udp.remote, ConnectionId(1));
        let of = |via: &str, contact: &str, flow: &Flow| {
            let request = request(via, contact);
            (is_behind(&request, flow), needs_flow(&request, flow))
        };
        assert_eq!(
            of("SIP/2.0/UDP 134.56.1.1:5070", "sip:a@134.56.1.1:5070", &udp),
            (false, false)
        );
        assert_eq!(
            of("SIP/2.0/UDP 192.168.1.10:5060", "sip:a@134.56.1.1:5070", &udp),
            (true, true)
        );
        assert_eq!(
            of("SIP/2.0/UDP 134.56.1.1", "sip:a@134.56.1.1:5070", &udp),
            (true, true),
            "the port"
        );
        assert_eq!(
            of("SIP/2.0/UDP 134.56.1.1:5070", "sip:a@192.168.1.10", &udp),
            (true, true)
        );
        assert_eq!(
            of("SIP/2.0/UDP 134.56.1.1:5070", "sip:a@phone.example", &udp),
            (true, true)
        );
        assert_eq!(
            of("SIP/2.0/TCP 134.56.1.1:5060", "sip:a@134.56.1.1", &tcp),
            (false, true)
        );
        assert_eq!(of("SIP/2.0/TCP 192.168.1.10", "sip:a@192.168.1.10", &tcp), (true, true));
        let behind_proxy = "SIP/2.0/UDP 10.0.0.1, SIP/2.0/UDP 192.168.1.10";
        assert_eq!(of(behind_proxy, "sip:a@192.168.1.10", &udp), (false, false));
    }
}
