//! Datagrams.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use tokio::{net::UdpSocket, time::timeout};

use super::echo::{Ask, Lab, PATIENCE, Saw, listener, options};
use crate::{
    config::sip::ListenAddress,
    sip::{
        command::{Command, Destination, Hop, Input, SendError, Ticket},
        flow::{Flow, ListenerId, Transport},
        transport::{Direction, Options, Place, Reason},
    },
};

async fn client(of: SocketAddr) -> UdpSocket {
    let address = if of.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let socket = UdpSocket::bind(address).await.expect("bind");
    socket.connect(of).await.expect("connect");
    socket
}

async fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_536];
    let length = timeout(PATIENCE, socket.recv(&mut buffer))
        .await
        .expect("an answer")
        .expect("received");
    buffer.truncate(length);
    buffer
}

#[tokio::test]
async fn a_datagram_comes_back_from_where_it_was_sent_to() {
    let mut lab = Lab::start(options(&[Transport::Udp])).await;
    let phone = client(lab.at(0)).await;
    phone.send(b"\r\n\r\nOPTIONS x").await.expect("sent");
    assert_eq!(receive(&phone).await, b"OPTIONS x");
    match lab.input().await {
        Input::Received { flow, local, bytes } => {
            assert_eq!(flow, Flow::udp(ListenerId(0), phone.local_addr().expect("address")));
            assert_eq!(local, lab.at(0));
            assert_eq!(bytes, "OPTIONS x");
        }
        other => panic!("{other:?}"),
    }
    let counters = lab.handle.counters().await.expect("counters");
    assert_eq!((counters.udp.messages_in, counters.udp.bytes_in), (1, 9));
    assert_eq!((counters.udp.messages_out, counters.udp.bytes_out), (1, 9));
}

#[tokio::test]
async fn thousands_of_datagrams_all_come_back() {
    const PHONES: usize = 8;
    const EACH: usize = 2000;
    let lab = Lab::start(options(&[Transport::Udp])).await;
    let mut phones = Vec::new();
    for _ in 0..PHONES {
        phones.push(client(lab.at(0)).await);
    }
    let work = phones.iter().enumerate().map(|(p, phone)| async move {
        let mut missing: BTreeSet<Vec<u8>> = BTreeSet::new();
        for first in (0..EACH).step_by(50) {
            for i in first..first + 50 {
                let text = format!("OPTIONS {p}.{i} {}", "x".repeat(i % 1200)).into_bytes();
                phone.send(&text).await.expect("sent");
                missing.insert(text);
            }
            for _ in 0..50 {
                assert!(missing.remove(&receive(phone).await), "came twice, or was never sent");
            }
        }
    });
    futures_util::future::join_all(work).await;
    let counters = lab.handle.counters().await.expect("counters");
    assert_eq!(counters.udp.messages_in, (PHONES * EACH) as u64);
    assert_eq!(counters.udp.messages_out, (PHONES * EACH) as u64);
}

#[tokio::test]
async fn keep_alives_are_signs_of_life_and_not_answered() {
    let mut lab = Lab::start(options(&[Transport::Udp])).await;
    let phone = client(lab.at(0)).await;
    for keep_alive in [&b"\r\n"[..], b"\r\n\r\n", b"\0\0\0\0", b""] {
        phone.send(keep_alive).await.expect("sent");
        assert!(matches!(lab.input().await, Input::KeptAlive(flow) if flow.transport == Transport::Udp));
    }
    phone.send(b"OPTIONS after").await.expect("sent");
    assert_eq!(receive(&phone).await, b"OPTIONS after", "nothing came before it");
    assert_eq!(lab.handle.counters().await.expect("counters").udp.keep_alives, 4);
}

#[tokio::test]
async fn a_keep_alive_of_ours_is_a_line_end() {
    let lab = Lab::start(options(&[Transport::Udp])).await;
    let phone = client(lab.at(0)).await;
    let flow = Flow::udp(ListenerId(0), phone.local_addr().expect("address"));
    lab.tell(Command::KeepAlive(flow)).await;
    assert_eq!(receive(&phone).await, b"\r\n");
}

#[tokio::test]
async fn stun_is_answered_on_the_sip_port() {
    let mut lab = Lab::start(options(&[Transport::Udp])).await;
    let phone = client(lab.at(0)).await;
    let mut request = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    request.extend([7; 12]);
    phone.send(&request).await.expect("sent");
    let answer = receive(&phone).await;
    let port = phone.local_addr().expect("address").port() ^ 0x2112;
    let mut expected = vec![1, 1, 0, 12, 0x21, 0x12, 0xa4, 0x42];
    expected.extend([7; 12]);
    expected.extend([0, 0x20, 0, 8, 0, 1]);
    expected.extend(port.to_be_bytes());
    expected.extend([127 ^ 0x21, 0x12, 0xa4, 1 ^ 0x42]);
    assert_eq!(answer, expected);
    assert!(matches!(lab.input().await, Input::KeptAlive(_)));
    request[1] = 0x11;
    phone.send(&request).await.expect("sent");
    phone.send(b"OPTIONS after").await.expect("sent");
    assert_eq!(receive(&phone).await, b"OPTIONS after", "an indication gets no answer");
    assert_eq!(
        lab.handle.counters().await.expect("counters").dropped(Reason::BadStun),
        1
    );
}

#[tokio::test]
async fn an_icmp_error_fails_what_was_sent_there() {
    let mut lab = Lab::start(options(&[Transport::Udp])).await;
    // A port that nobody has: taken and given back.
    let nobody = UdpSocket::bind("127.0.0.1:0")
        .await
        .expect("bind")
        .local_addr()
        .expect("address");
    let phone = client(lab.at(0)).await;
    for (ticket, address) in [(1, nobody), (2, phone.local_addr().expect("address"))] {
        lab.tell(send(address, Bytes::from_static(b"BYE x"), ticket)).await;
    }
    let failed = lab.input().await;
    assert!(
        matches!(
            failed,
            Input::Failed {
                ticket: Ticket(1),
                reason: SendError::Unreachable
            }
        ),
        "{failed:?}"
    );
    assert_eq!(receive(&phone).await, b"BYE x", "others are not harmed");
    assert_eq!(
        lab.handle.counters().await.expect("counters").dropped(Reason::Refused),
        1
    );
}

#[tokio::test]
async fn what_cannot_be_sent_fails_with_its_reason() {
    let mut lab = Lab::start(options(&[Transport::Udp])).await;
    let there = lab.at(0);
    let cases = [
        (there, vec![b'x'; 65_508], SendError::TooLarge),
        (
            "[::1]:5060".parse().expect("address"),
            vec![b'x'],
            SendError::Unreachable,
        ),
        (
            "127.0.0.1:0".parse().expect("address"),
            vec![b'x'],
            SendError::Unreachable,
        ),
        (
            "0.0.0.0:5060".parse().expect("address"),
            vec![b'x'],
            SendError::Unreachable,
        ),
    ];
    for (i, (address, bytes, expected)) in cases.into_iter().enumerate() {
        lab.tell(send(address, bytes.into(), i as u64)).await;
        match lab.input().await {
            Input::Failed { ticket, reason } => assert_eq!((ticket, reason), (Ticket(i as u64), expected)),
            other => panic!("{other:?}"),
        }
    }
    let to = Destination::Flow(Flow::udp(ListenerId(9), there));
    let (bytes, ticket) = (Bytes::from_static(b"x"), Some(Ticket(9)));
    lab.tell(Command::Send { to, bytes, ticket }).await;
    assert!(matches!(
        lab.input().await,
        Input::Failed {
            ticket: Ticket(9),
            reason: SendError::Unreachable
        }
    ));
}

#[tokio::test]
async fn a_message_beyond_the_limit_is_counted_and_the_rest_goes_on() {
    let mut options = options(&[Transport::Udp]);
    options.limits.message_size = 1000;
    let lab = Lab::start(options).await;
    let phone = client(lab.at(0)).await;
    phone.send(&[b'x'; 1001]).await.expect("sent");
    phone.send(&[b'x'; 1000]).await.expect("sent");
    assert_eq!(receive(&phone).await.len(), 1000);
    assert_eq!(
        lab.handle.counters().await.expect("counters").dropped(Reason::TooLarge),
        1
    );
}

#[tokio::test]
async fn bound_to_any_it_answers_from_the_address_that_was_asked() {
    for (any, asked) in [("0.0.0.0", "127.0.0.7"), ("::", "::1")] {
        let any = ListenAddress::Ip(any.parse().expect("address"));
        let mut lab = Lab::start(Options {
            listeners: vec![Place {
                id: ListenerId(3),
                listener: listener(Transport::Udp, any),
                found: None,
            }],
            ..options(&[])
        })
        .await;
        let asked = SocketAddr::new(asked.parse().expect("address"), lab.at(3).port());
        // Connected: it hears nobody but the address that it asked.
        let phone = client(asked).await;
        phone.send(b"OPTIONS x").await.expect("sent");
        assert_eq!(receive(&phone).await, b"OPTIONS x");
        assert!(matches!(lab.input().await, Input::Received { local, .. } if local == asked));
    }
}

#[tokio::test]
async fn ticks_come_when_they_are_due_and_not_before() {
    let mut lab = Lab::start(options(&[Transport::Udp])).await;
    let clock = super::super::clock::Clock::start();
    let due = clock.now() + Duration::from_millis(30);
    lab.handle.call(Ask::Wake(due)).await.expect("runs");
    match lab.saw().await {
        // The two clocks began within a moment of each other.
        Saw::Tick(at) => assert!(at + Duration::from_millis(2) >= due),
        Saw::Input(input) => panic!("{input:?}"),
    }
}

#[tokio::test]
async fn a_tap_gets_both_directions_and_a_slow_one_loses() {
    let lab = Lab::start(options(&[Transport::Udp])).await;
    let mut tap = lab.handle.trace(2).await.expect("runs");
    let phone = client(lab.at(0)).await;
    for text in [&b"OPTIONS 1"[..], b"OPTIONS 2"] {
        phone.send(text).await.expect("sent");
        assert_eq!(receive(&phone).await, text);
    }
    assert_eq!(lab.handle.counters().await.expect("counters").traces_lost, 2);
    for direction in [Direction::In, Direction::Out] {
        let traced = tap.recv().await.expect("traced");
        assert_eq!(traced.direction, direction);
        assert_eq!(traced.local, lab.at(0));
        assert_eq!(traced.flow.remote, phone.local_addr().expect("address"));
        assert_eq!(traced.bytes, "OPTIONS 1");
    }
}

#[tokio::test]
async fn a_listener_follows_its_interface() {
    let follows = |found| Options {
        listeners: vec![Place {
            id: ListenerId(0),
            listener: listener(Transport::Udp, ListenAddress::Interface("ppp0".into())),
            found,
        }],
        ..options(&[])
    };
    let mut lab = Lab::start(follows(None)).await;
    assert_eq!(lab.locals[0].address, None);
    for last in [2, 3] {
        let address = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
        lab.handle.moved(ListenerId(0), Some(address)).await.expect("bound");
        assert!(
            matches!(lab.input().await, Input::Moved { listener: ListenerId(0), address: Some(a) } if a == address)
        );
        lab.locals = lab.handle.locals().await.expect("runs");
        assert_eq!(lab.at(0).ip(), address);
        let phone = client(lab.at(0)).await;
        phone.send(b"OPTIONS x").await.expect("sent");
        assert_eq!(receive(&phone).await, b"OPTIONS x");
        assert!(matches!(lab.input().await, Input::Received { .. }));
    }
    let nowhere = "192.0.2.77".parse().expect("address");
    let error = lab
        .handle
        .moved(ListenerId(0), Some(nowhere))
        .await
        .expect_err("nobody has it");
    assert!(format!("{error:#}").contains("192.0.2.77"), "{error:#}");
    assert!(matches!(lab.input().await, Input::Moved { address: None, .. }));
    assert!(
        lab.handle.moved(ListenerId(7), None).await.is_err(),
        "there is no such listener"
    );
}

#[tokio::test]
async fn a_reload_keeps_sockets_that_stay_and_is_all_or_nothing() {
    let before = options(&[Transport::Udp, Transport::Udp]);
    let lab = Lab::start(before.clone()).await;
    let (first, second) = (lab.at(0), lab.at(1));
    let mut broken = before.clone();
    broken.listeners[0].listener.port = second.port();
    broken.listeners.remove(1);
    // Its port is still held by the listener that would go.
    lab.handle.reload(broken).await.expect_err("the port is taken");
    assert_eq!(lab.handle.locals().await.expect("runs"), lab.locals);
    let mut after = before;
    after.listeners.remove(1);
    lab.handle.reload(after).await.expect("reloaded");
    assert_eq!(lab.handle.locals().await.expect("runs"), lab.locals[..1]);
    let phone = client(first).await;
    phone.send(b"OPTIONS x").await.expect("sent");
    assert_eq!(receive(&phone).await, b"OPTIONS x");
}

#[tokio::test]
async fn it_ends_when_told() {
    let lab = Lab::start(options(&[Transport::Udp])).await;
    lab.handle.stop().await.expect("runs");
    timeout(PATIENCE, async {
        while lab.handle.counters().await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it ends");
}

fn send(address: SocketAddr, bytes: Bytes, ticket: u64) -> Command {
    let (transport, name) = (Transport::Udp, None);
    Command::Send {
        to: Destination::Hop {
            listener: ListenerId(0),
            hop: Hop {
                transport,
                address,
                name,
            },
        },
        bytes,
        ticket: Some(Ticket(ticket)),
    }
}
