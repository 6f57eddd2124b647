//! Addresses: which are ours, and whether what a request says of its sender is where it came from.

use std::net::{IpAddr, SocketAddr};

use crate::sip::{
    flow::Flow,
    message::{Uri, Via, uri, value::same_address},
};

/// The places at which we listen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ourselves {
    addresses: Vec<SocketAddr>,
    /// Names that listeners advertise, in lower case, with their ports.
    names: Vec<(Box<str>, u16)>,
}

impl Ourselves {
    /// Nowhere yet.
    pub fn new() -> Ourselves {
        Ourselves::default()
    }

    /// A listener. An unspecified address means all of the machine's.
    pub fn add(&mut self, address: SocketAddr, advertise: Option<&str>) {
        self.addresses
            .push(SocketAddr::new(address.ip().to_canonical(), address.port()));
        match advertise.map(|host| (host, uri::host_address(host.as_bytes()))) {
            None => {}
            Some((_, Some(ip))) => self.addresses.push(SocketAddr::new(ip.to_canonical(), address.port())),
            Some((name, None)) => self.names.push((name.to_ascii_lowercase().into(), address.port())),
        }
    }

    /// Whether a request for this URI would come to us. `local`: an address of ours for listeners that are bound to all.
    pub fn are(&self, uri: &Uri<'_>, local: SocketAddr) -> bool {
        if !uri.is_sip() {
            return false;
        }
        let host = uri
            .params
            .get("maddr")
            .filter(|host| !host.is_empty())
            .unwrap_or(uri.host);
        let port = uri.port_or_default();
        match uri::host_address(host) {
            Some(ip) => {
                let is_ours = |ours: IpAddr| ours == ip.to_canonical();
                self.addresses.iter().any(|address| {
                    address.port() == port
                        && (is_ours(address.ip())
                            || (address.ip().is_unspecified() && (is_ours(local.ip().to_canonical()))))
                })
            }
            None => self
                .names
                .iter()
                .any(|(name, at)| *at == port && host.eq_ignore_ascii_case(name.as_bytes())),
        }
    }
}

/// Whether the address in a contact is the one that its request came from, as far as can be told: a name says nothing. On streams the
/// port is not compared, because connections are made from other ports than the one that is listened on.
pub(in crate::sip) fn is_source(uri: &Uri<'_>, flow: &Flow) -> bool {
    uri.address().is_none_or(|ip| same_address(ip, flow.remote.ip()))
        && (flow.transport.reliable() || uri.address().is_none() || uri.port_or_default() == flow.remote.port())
}

/// The same for sent-by of a Via.
pub(in crate::sip) fn is_sent_by(via: &Via<'_>, flow: &Flow) -> bool {
    let Some(ip) = uri::host_address(via.host) else {
        return true;
    };
    same_address(ip, flow.remote.ip())
        && (flow.transport.reliable()
            || via.port.unwrap_or_else(|| flow.transport.default_port()) == flow.remote.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::flow::{ConnectionId, ListenerId, Transport};

    #[test]
    fn what_points_at_us() {
        let mut ourselves = Ourselves::new();
        ourselves.add("134.56.3.1:5060".parse().unwrap(), Some("SIP.net.com"));
        ourselves.add("[2001:db8::1]:5061".parse().unwrap(), Some("203.0.113.9"));
        ourselves.add("0.0.0.0:5070".parse().unwrap(), None);
        let local = "192.0.2.7:5070".parse().unwrap();
        let are = |text: &str| ourselves.are(&Uri::parse(text.as_bytes()).unwrap(), local);
        for ours in [
            "sip:x@134.56.3.1",
            "sip:134.56.3.1:5060;transport=tcp",
            "sip:x@sip.NET.com",
            "sips:x@[2001:db8:0::1]",
            "sip:x@203.0.113.9:5061",
            "sip:x@192.0.2.7:5070",
            "sip:x@elsewhere.example;maddr=134.56.3.1",
        ] {
            assert!(are(ours), "{ours}");
        }
        for other in [
            "sip:x@134.56.3.1:5061",
            "sips:x@134.56.3.1",
            "sip:x@net.com",
            "sip:x@192.0.2.8:5070",
            "sip:x@134.56.3.1;maddr=192.0.2.1",
            "tel:+1",
        ] {
            assert!(!are(other), "{other}");
        }
    }

    #[test]
    fn where_it_says_it_is() {
        let udp = Flow::udp(ListenerId(0), "134.56.1.1:5070".parse().unwrap());
        let tcp = Flow::stream(ListenerId(0), Transport::Tcp, udp.remote, ConnectionId(1));
        let uri = |text: &str, flow: &Flow| is_source(&Uri::parse(text.as_bytes()).unwrap(), flow);
        assert!(uri("sip:u@134.56.1.1:5070", &udp) && uri("sip:u@phone.example:1", &udp));
        assert!(!uri("sip:u@192.168.1.10:5070", &udp) && !uri("sip:u@134.56.1.1", &udp));
        assert!(uri("sip:u@134.56.1.1", &tcp) && !uri("sip:u@192.168.1.10", &tcp));
        let mapped = Flow::udp(ListenerId(0), "[::ffff:134.56.1.1]:5070".parse().unwrap());
        assert!(uri("sip:u@134.56.1.1:5070", &mapped));
    }
}
