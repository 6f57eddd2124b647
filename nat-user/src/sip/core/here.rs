//! Who we are: the listeners, by what they are called in URIs and Vias.

use std::net::{IpAddr, SocketAddr};

use crate::{
    config::sip::{ListenAddress, Listener, Role},
    sip::{
        flow::{Flow, ListenerId, Transport},
        message::{
            Uri,
            uri::host_address,
            value::{host_port, same_address},
        },
    },
};

/// One listener.
#[derive(Clone, Debug)]
pub struct Place {
    pub id: ListenerId,
    pub transport: Transport,
    /// Where it is bound, or was reached last if it is bound to any address; `None`: its interface has none.
    pub ip: Option<IpAddr>,
    pub port: u16,
    pub role: Role,
    /// `host:port` for Via, Record-Route and Path; IPv6 in brackets.
    pub sent_by: String,
    /// What a Via of ours says before the branch: `SIP/2.0/UDP host:port;branch=`.
    pub via: String,
    pub advertise: Option<String>,
    any: bool,
}

/// All listeners.
#[derive(Clone, Debug, Default)]
pub struct Here {
    places: Vec<Place>,
}

impl Here {
    /// The listeners with their ids and the addresses that those which follow an interface have at the moment.
    pub fn new(listeners: impl IntoIterator<Item = (ListenerId, Listener, Option<IpAddr>)>) -> Here {
        let places = listeners
            .into_iter()
            .map(|(id, listener, found)| Place::new(id, &listener, found))
            .collect();
        Here { places }
    }

    pub fn get(&self, id: ListenerId) -> Option<&Place> {
        self.places.iter().find(|place| place.id == id)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Place> {
        self.places.iter()
    }

    /// A listener has another address, or none.
    pub fn moved(&mut self, id: ListenerId, address: Option<IpAddr>) {
        if let Some(place) = self.places.iter_mut().find(|place| place.id == id) {
            place.ip = address;
            place.name();
        }
    }

    /// A message came in at this address: what a listener that is bound to any address calls itself from now on. True: that has changed.
    pub fn reached(&mut self, id: ListenerId, local: SocketAddr) -> bool {
        match self.places.iter_mut().find(|place| place.id == id) {
            Some(place) if place.any && place.ip != Some(local.ip()) && !local.ip().is_unspecified() => {
                place.ip = Some(local.ip());
                place.name();
                true
            }
            _ => false,
        }
    }

    /// Whether a URI's host and port are one of our listeners. `local`: where the message with the URI came in.
    pub fn is_me(&self, uri: &Uri<'_>, local: SocketAddr) -> bool {
        let host = host_address(uri.host);
        let is_port = |place: &Place| match uri.port {
            Some(port) => port == place.port,
            None => place.port == place.transport.default_port(),
        };
        if host.is_some_and(|host| same_address(host, local.ip())) && self.places.iter().any(is_port) {
            return true;
        }
        self.places
            .iter()
            .any(|place| is_port(place) && place.is_host(uri.host, host))
    }

    /// Whether one of our listeners has this port.
    pub fn has_port(&self, port: u16) -> bool {
        self.places.iter().any(|place| place.port == port)
    }

    /// The listener to send from to a place that is no flow: the one that the request came in on if it has the transport and can reach it, else
    /// the one whose address is most like the destination's.
    pub fn choose(&self, transport: Transport, to: IpAddr, came: &Flow) -> Option<ListenerId> {
        let to = to.to_canonical();
        let likeness = |place: &&Place| {
            let ip = place.ip.map_or(to, |ip| ip.to_canonical());
            let private = is_private(ip) == is_private(to) || place.any;
            (private, common_prefix(ip, to), place.id == came.listener)
        };
        self.places
            .iter()
            .filter(|place| {
                place.transport == transport && place.ip.is_none_or(|ip| ip.to_canonical().is_ipv4() == to.is_ipv4())
            })
            .filter(|place| place.ip.is_some() || place.any)
            .max_by_key(likeness)
            .map(|place| place.id)
    }
}

impl Place {
    fn new(id: ListenerId, listener: &Listener, found: Option<IpAddr>) -> Place {
        let (ip, any) = match listener.address {
            ListenAddress::Ip(ip) => (Some(ip), ip.is_unspecified()),
            ListenAddress::Interface(_) => (found, false),
        };
        let mut place = Place {
            id,
            transport: listener.transport,
            ip,
            port: listener.port,
            role: listener.role,
            sent_by: String::new(),
            via: String::new(),
            advertise: listener.advertise.clone(),
            any,
        };
        place.name();
        place
    }

    fn name(&mut self) {
        let port = self.port;
        self.sent_by = match (&self.advertise, self.ip) {
            (Some(name), _) => match name.parse::<std::net::Ipv6Addr>() {
                Ok(ip) => format!("[{ip}]:{port}"),
                Err(_) if matches!(host_port(name.as_bytes()), Some((_, Some(_)))) => name.clone(),
                Err(_) => format!("{name}:{port}"),
            },
            (None, Some(ip)) => SocketAddr::new(ip, port).to_string(),
            (None, None) => format!("0.0.0.0:{port}"),
        };
        self.via = format!("SIP/2.0/{} {};branch=", self.transport.via(), self.sent_by);
    }

    fn is_host(&self, host: &[u8], address: Option<IpAddr>) -> bool {
        match (address, self.ip) {
            (Some(a), Some(b)) if same_address(a, b) => return true,
            _ => {}
        }
        let advertised = self.advertise.as_ref().and_then(|name| host_port(name.as_bytes()));
        advertised.is_some_and(|(name, _)| {
            name.eq_ignore_ascii_case(host)
                || matches!((host_address(name), address), (Some(a), Some(b)) if same_address(a, b))
        })
    }

    /// `;transport=tcp` as in URIs; empty for UDP.
    pub fn transport_param(&self) -> &'static str {
        match self.transport {
            Transport::Udp => "",
            Transport::Tcp => ";transport=tcp",
            Transport::Tls => ";transport=tls",
        }
    }
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || (ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64)
        }
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

fn common_prefix(a: IpAddr, b: IpAddr) -> u32 {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u32::from(a) ^ u32::from(b)).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (u128::from(a) ^ u128::from(b)).leading_zeros(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(transport: Transport, ip: &str, port: u16, advertise: Option<&str>) -> Listener {
        Listener {
            transport,
            address: ListenAddress::Ip(ip.parse().unwrap()),
            port,
            advertise: advertise.map(str::to_owned),
            role: Role::Proxy,
        }
    }

    fn here() -> Here {
        Here::new([
            (ListenerId(0), listener(Transport::Udp, "192.168.1.1", 5060, None), None),
            (ListenerId(1), listener(Transport::Udp, "134.56.3.1", 5060, None), None),
            (
                ListenerId(2),
                listener(Transport::Tcp, "134.56.3.1", 5070, Some("sip.net.com")),
                None,
            ),
            (ListenerId(3), listener(Transport::Tls, "::", 5061, None), None),
        ])
    }

    #[test]
    fn we_know_our_names() {
        let here = here();
        let local = "10.0.0.9:5060".parse().unwrap();
        let is_me = |uri: &str| here.is_me(&Uri::parse(uri.as_bytes()).unwrap(), local);
        for mine in [
            "sip:134.56.3.1",
            "sip:x@192.168.1.1:5060;lr",
            "sip:SIP.net.com:5070",
            "sip:10.0.0.9",
        ] {
            assert!(is_me(mine), "{mine}");
        }
        for other in [
            "sip:134.56.3.2",
            "sip:134.56.3.1:5062",
            "sip:sip.net.com:5071",
            "sip:net.com",
        ] {
            assert!(!is_me(other), "{other}");
        }
        assert_eq!(
            here.get(ListenerId(2)).unwrap().via,
            "SIP/2.0/TCP sip.net.com:5070;branch="
        );
        assert_eq!(here.get(ListenerId(3)).unwrap().sent_by, "[::]:5061");
    }

    #[test]
    fn a_listener_is_chosen_by_where_it_goes() {
        let mut here = here();
        let came = Flow::udp(ListenerId(1), "134.56.9.9:5060".parse().unwrap());
        let choose =
            |here: &Here, transport, to: &str| here.choose(transport, to.parse().unwrap(), &came).map(|id| id.0);
        assert_eq!(choose(&here, Transport::Udp, "192.168.1.77"), Some(0));
        assert_eq!(choose(&here, Transport::Udp, "8.8.8.8"), Some(1));
        assert_eq!(choose(&here, Transport::Tcp, "192.168.1.77"), Some(2));
        assert_eq!(choose(&here, Transport::Udp, "2001:db8::1"), None);
        assert!(here.reached(ListenerId(3), "[2001:db8::3]:5061".parse().unwrap()));
        assert_eq!(here.get(ListenerId(3)).unwrap().sent_by, "[2001:db8::3]:5061");
        assert_eq!(choose(&here, Transport::Tls, "2001:db8::1"), Some(3));
        here.moved(ListenerId(1), None);
        assert_eq!(choose(&here, Transport::Udp, "8.8.8.8"), Some(0), "better than none");
    }
}
