//! Look-ups.

use super::echo::{Lab, options};
use crate::sip::{
    command::{Command, Hop, Input, QueryId, Target},
    flow::Transport,
    resolve::tests::{NameServer, address, srv},
    transport::Options,
};

#[tokio::test]
async fn look_ups_come_back_with_their_number() {
    let server = NameServer::start(vec![
        srv("_sip._tcp.example.test.", 1, 5070, "host.example.test."),
        address("host.example.test.", "192.0.2.1"),
    ])
    .await;
    let mut lab = Lab::start(Options {
        dns: vec![server.address],
        ..options(&[Transport::Udp, Transport::Tcp])
    })
    .await;
    let cases = [
        ("example.test", Some((Transport::Tcp, "192.0.2.1:5070"))),
        ("127.0.0.1", Some((Transport::Udp, "127.0.0.1:5060"))),
        ("nobody.test", None),
    ];
    for (i, (host, expected)) in cases.into_iter().enumerate() {
        let target = Target {
            host: host.into(),
            port: None,
            transport: None,
            secure: false,
        };
        let query = QueryId(i as u64);
        lab.tell(Command::Resolve { query, target }).await;
        let Input::Resolved { query: of, hops } = lab.input().await else {
            panic!("something else")
        };
        let hop = |(transport, address): (Transport, &str)| Hop {
            transport,
            address: address.parse().expect("address"),
            name: None,
        };
        assert_eq!((of, hops), (query, Vec::from_iter(expected.map(hop))), "{host}");
    }
    let counters = lab.handle.counters().await.expect("counters");
    assert_eq!((counters.queries, counters.queries_failed), (3, 1));
}
