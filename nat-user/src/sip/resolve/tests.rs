//! Against a name server of the test's own.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use hickory_resolver::proto::{
    op::{Message, ResponseCode},
    rr::{
        Name, RData, Record,
        rdata::{A, AAAA, NAPTR, SRV},
    },
};
use tokio::{net::UdpSocket, task::AbortHandle};

use super::{Resolver, select::Can};
use crate::sip::{
    command::{Hop, Target},
    flow::Transport,
};

/// Answers from a list of records, and remembers what it was asked.
pub struct NameServer {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    task: AbortHandle,
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl NameServer {
    pub async fn start(records: Vec<Record>) -> NameServer {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
        let address = socket.local_addr().expect("address");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let serve = async move {
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let query = Message::from_vec(&buffer[..length]).expect("a query");
                let question = query.queries[0].clone();
                log.lock()
                    .expect("not poisoned")
                    .push(format!("{} {}", question.name(), question.query_type()));
                let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
                answer.add_query(question.clone());
                let known = records.iter().filter(|record| record.name == *question.name());
                if known.clone().count() == 0 {
                    answer.metadata.response_code = ResponseCode::NXDomain;
                }
                answer.add_answers(
                    known
                        .filter(|record| record.record_type() == question.query_type())
                        .cloned(),
                );
                let bytes = answer.to_vec().expect("encoded");
                socket.send_to(&bytes, from).await.expect("sent");
            }
        };
        NameServer {
            address,
            asked,
            task: tokio::spawn(serve).abort_handle(),
        }
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().expect("not poisoned"))
    }
}

pub fn address(name: &str, address: &str) -> Record {
    let data = match address.parse().expect("address") {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    };
    Record::from_rdata(self::name(name), 300, data)
}

pub fn srv(name: &str, priority: u16, port: u16, target: &str) -> Record {
    let data = RData::SRV(SRV::new(priority, 10, port, self::name(target)));
    Record::from_rdata(self::name(name), 300, data)
}

fn naptr(name: &str, order: u16, service: &str, replacement: &str) -> Record {
    let (flags, service) = (b"s".to_vec().into(), service.as_bytes().into());
    let data = RData::NAPTR(NAPTR::new(
        order,
        10,
        flags,
        service,
        Box::default(),
        self::name(replacement),
    ));
    Record::from_rdata(self::name(name), 300, data)
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).expect("a name")
}

fn target(host: &str) -> Target {
    Target {
        host: host.into(),
        port: None,
        transport: None,
        secure: false,
    }
}

fn can() -> Can {
    Can {
        transports: vec![Transport::Udp, Transport::Tcp, Transport::Tls],
        ipv4: true,
        ipv6: false,
    }
}

fn hop(transport: Transport, address: &str, name: Option<&str>) -> Hop {
    Hop {
        transport,
        address: address.parse().expect("address"),
        name: name.map(Into::into),
    }
}

#[tokio::test]
async fn naptr_leads_to_srv_and_srv_to_addresses_in_order() {
    let server = NameServer::start(vec![
        naptr("example.test.", 50, "SIP+D2U", "_sip._udp.example.test."),
        naptr("example.test.", 10, "SIPS+D2T", "_sips._tcp.example.test."),
        srv("_sips._tcp.example.test.", 1, 5071, "tls.example.test."),
        srv("_sip._udp.example.test.", 20, 5080, "second.example.test."),
        srv("_sip._udp.example.test.", 10, 5070, "first.example.test."),
        address("tls.example.test.", "192.0.2.1"),
        address("first.example.test.", "192.0.2.2"),
        address("first.example.test.", "2001:db8::2"),
        address("second.example.test.", "192.0.2.3"),
    ])
    .await;
    let resolver = Resolver::new(&[server.address]).expect("set up");
    let expected = [
        hop(Transport::Tls, "192.0.2.1:5071", Some("example.test")),
        hop(Transport::Udp, "192.0.2.2:5070", None),
        hop(Transport::Udp, "192.0.2.3:5080", None),
    ];
    assert_eq!(resolver.resolve(&target("example.test"), &can()).await, expected);
    assert!(!server.asked().is_empty());
    assert_eq!(resolver.resolve(&target("example.test"), &can()).await, expected);
    assert_eq!(server.asked(), [""; 0], "answers are cached");
    let both = Can { ipv6: true, ..can() };
    let hops = resolver.resolve(&target("example.test"), &both).await;
    assert_eq!(hops[1], hop(Transport::Udp, "[2001:db8::2]:5070", None));
    assert_eq!(hops.len(), 4);
}

#[tokio::test]
async fn without_naptr_srv_is_asked_and_without_srv_the_host() {
    let server = NameServer::start(vec![
        srv("_sip._tcp.services.test.", 10, 5070, "host.test."),
        address("host.test.", "192.0.2.5"),
        srv("_sip._udp.off.test.", 10, 0, "."),
        address("off.test.", "192.0.2.6"),
    ])
    .await;
    let resolver = Resolver::new(&[server.address]).expect("set up");
    let found = |target: Target| {
        let resolver = resolver.clone();
        async move { resolver.resolve(&target, &can()).await }
    };
    assert_eq!(
        found(target("services.test")).await,
        [hop(Transport::Tcp, "192.0.2.5:5070", None)]
    );
    assert_eq!(
        found(target("host.test")).await,
        [hop(Transport::Udp, "192.0.2.5:5060", None)]
    );
    let secure = Target {
        secure: true,
        ..target("host.test")
    };
    assert_eq!(
        found(secure).await,
        [hop(Transport::Tls, "192.0.2.5:5061", Some("host.test"))]
    );
    server.asked();
    let port = Target {
        port: Some(5090),
        ..target("host.test")
    };
    assert_eq!(found(port).await, [hop(Transport::Udp, "192.0.2.5:5090", None)]);
    assert_eq!(
        server.asked(),
        [""; 0],
        "with a port nothing but addresses is asked for, and those are known"
    );
    let udp = Target {
        transport: Some(Transport::Udp),
        ..target("off.test")
    };
    assert_eq!(found(udp).await, [], "the service is declared absent");
    assert_eq!(found(target("nobody.test")).await, []);
    assert_eq!(found(target("no name at all")).await, []);
    assert_eq!(
        found(target("192.0.2.9")).await,
        [hop(Transport::Udp, "192.0.2.9:5060", None)]
    );
}
