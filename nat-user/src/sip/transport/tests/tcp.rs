//! Connections.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::echo::{Ask, Lab, PATIENCE, listener, options};
use crate::{
    config::sip::ListenAddress,
    sip::{
        command::{Command, Destination, Hop, Input, SendError, Ticket},
        flow::{Flow, ListenerId, Transport},
        transport::{Direction, Options, Place, Reason},
    },
};

/// A message with a body of so many bytes.
fn message(name: &str, body: usize) -> Vec<u8> {
    let head = format!("MESSAGE sip:{name} SIP/2.0\r\nl: {body}\r\n\r\n");
    [head.into_bytes(), vec![b'x'; body]].concat()
}

async fn expect(stream: &mut TcpStream, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    let read = timeout(PATIENCE, stream.read_exact(&mut got)).await;
    read.expect("an answer").expect("received");
    assert_eq!(got, expected);
}

/// What comes until the other side closes.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    read.expect("it is closed").expect("closed in order");
    rest
}

async fn connected(lab: &mut Lab, listener: u16) -> (TcpStream, Flow) {
    let stream = TcpStream::connect(lab.at(listener)).await.expect("connected");
    let remote = stream.local_addr().expect("address");
    let flow = lab
        .wait(|input| match input {
            Input::Opened(flow) if flow.remote == remote => Some(*flow),
            _ => None,
        })
        .await;
    (stream, flow)
}

async fn closed(lab: &mut Lab, flow: Flow) {
    lab.wait(|input| matches!(input, Input::Closed(gone) if *gone == flow).then_some(()))
        .await;
}

async fn dropped(lab: &Lab, reason: Reason) -> u64 {
    lab.handle.counters().await.expect("counters").dropped(reason)
}

fn send(address: SocketAddr, bytes: impl Into<Bytes>, ticket: u64) -> Command {
    let (transport, name) = (Transport::Tcp, None);
    let hop = Hop {
        transport,
        address,
        name,
    };
    Command::Send {
        to: Destination::Hop {
            listener: ListenerId(0),
            hop,
        },
        bytes: bytes.into(),
        ticket: Some(Ticket(ticket)),
    }
}

fn send_on(flow: Flow, bytes: impl Into<Bytes>, ticket: u64) -> Command {
    Command::Send {
        to: Destination::Flow(flow),
        bytes: bytes.into(),
        ticket: Some(Ticket(ticket)),
    }
}

#[tokio::test]
async fn messages_come_back_however_they_are_cut() {
    let mut lab = Lab::start(options(&[Transport::Tcp])).await;
    let (mut phone, flow) = connected(&mut lab, 0).await;
    let stream: Vec<u8> = (0..20).flat_map(|i| message(&format!("m{i}"), i * 333)).collect();
    for piece in stream.chunks(701) {
        phone.write_all(piece).await.expect("sent");
    }
    expect(&mut phone, &stream).await;
    match lab.input().await {
        Input::Received { flow: of, local, bytes } => {
            assert_eq!((of, local), (flow, lab.at(0)));
            assert_eq!(bytes, message("m0", 0));
        }
        other => panic!("{other:?}"),
    }
    drop(phone);
    closed(&mut lab, flow).await;
    let tcp = lab.handle.counters().await.expect("counters").tcp;
    assert_eq!(
        (tcp.accepted, tcp.open, tcp.messages_in, tcp.messages_out),
        (1, 0, 20, 20)
    );
    assert_eq!(tcp.bytes_in, stream.len() as u64);
}

#[tokio::test]
async fn a_ping_gets_a_pong_and_a_pong_gets_nothing() {
    let mut lab = Lab::start(options(&[Transport::Tcp])).await;
    let (mut phone, flow) = connected(&mut lab, 0).await;
    phone.write_all(b"\r\n\r\n").await.expect("sent");
    expect(&mut phone, b"\r\n").await;
    assert!(matches!(lab.input().await, Input::KeptAlive(of) if of == flow));
    phone.write_all(b"\r\n").await.expect("sent");
    assert!(matches!(lab.input().await, Input::KeptAlive(of) if of == flow));
    lab.tell(Command::KeepAlive(flow)).await;
    expect(&mut phone, b"\r\n\r\n").await;
}

#[tokio::test]
async fn a_message_that_cannot_be_cut_is_answered_and_the_connection_closed() {
    let mut lab = Lab::start(options(&[Transport::Tcp])).await;
    let (mut phone, flow) = connected(&mut lab, 0).await;
    let head = b"INVITE sip:a SIP/2.0\r\nContent-Length: -1\r\n\r\n";
    phone
        .write_all(&[head, &[b'x'; 5000][..]].concat())
        .await
        .expect("sent");
    assert_eq!(rest(&mut phone).await, head);
    closed(&mut lab, flow).await;
    assert_eq!(dropped(&lab, Reason::Unframeable).await, 1);
    let (mut other, flow) = connected(&mut lab, 0).await;
    other.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("sent");
    assert_eq!(rest(&mut other).await, b"");
    closed(&mut lab, flow).await;
    assert_eq!(dropped(&lab, Reason::Unframeable).await, 2);
}

#[tokio::test]
async fn who_closes_his_side_still_gets_the_answer() {
    let mut lab = Lab::start(options(&[Transport::Tcp])).await;
    let (mut phone, _) = connected(&mut lab, 0).await;
    let request = message("a", 3);
    phone.write_all(&request).await.expect("sent");
    // Shorter than its Content-Length says: the core answers that.
    let short = &message("b", 10)[..35];
    phone.write_all(short).await.expect("sent");
    phone.shutdown().await.expect("half closed");
    assert_eq!(rest(&mut phone).await, [&request, short].concat());
}

#[tokio::test]
async fn slow_messages_and_silent_connections_are_closed() {
    let mut options = options(&[Transport::Tcp]);
    options.limits.message_time = Duration::from_millis(150);
    options.limits.idle = Duration::from_millis(300);
    let mut lab = Lab::start(options).await;
    let (mut slow, slow_flow) = connected(&mut lab, 0).await;
    let (mut held, held_flow) = connected(&mut lab, 0).await;
    let (mut idle, idle_flow) = connected(&mut lab, 0).await;
    lab.handle.call(Ask::Use(Some(held_flow))).await.expect("runs");
    // A byte now and then does not help.
    let dripping = async {
        for byte in b"OPTIONS sip:a SIP/2.0\r\nX: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" {
            if slow.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = dripping => panic!("it took it all"),
        () = closed(&mut lab, slow_flow) => {}
    }
    assert_eq!(rest(&mut idle).await, b"");
    closed(&mut lab, idle_flow).await;
    let request = message("a", 3);
    held.write_all(&request).await.expect("sent");
    expect(&mut held, &request).await;
    lab.handle.call(Ask::Use(None)).await.expect("runs");
    assert_eq!(rest(&mut held).await, b"");
    assert_eq!(
        (dropped(&lab, Reason::Slow).await, dropped(&lab, Reason::Idle).await),
        (1, 2)
    );
}

#[tokio::test]
async fn connections_are_limited_by_source_and_in_all() {
    let mut options = options(&[Transport::Tcp]);
    options.limits.connections_per_source = 2;
    let mut lab = Lab::start(options.clone()).await;
    let (first, flow) = connected(&mut lab, 0).await;
    let (_second, _) = connected(&mut lab, 0).await;
    let mut third = TcpStream::connect(lab.at(0)).await.expect("connected");
    assert_eq!(rest(&mut third).await, b"");
    assert_eq!(dropped(&lab, Reason::ConnectionsPerSource).await, 1);
    drop(first);
    closed(&mut lab, flow).await;
    let (_fourth, _) = connected(&mut lab, 0).await;

    options.limits.connections = 1;
    let mut lab = Lab::start(options).await;
    let (_first, _) = connected(&mut lab, 0).await;
    let mut second = TcpStream::connect(lab.at(0)).await.expect("connected");
    assert_eq!(rest(&mut second).await, b"");
    assert_eq!(dropped(&lab, Reason::Connections).await, 1);
    lab.tell(send(second.local_addr().expect("address"), "x", 1)).await;
    assert!(matches!(
        lab.input().await,
        Input::Failed {
            ticket: Ticket(1),
            reason: SendError::Overloaded
        }
    ));
}

#[tokio::test]
async fn a_connection_to_a_place_is_made_once_and_told() {
    let mut lab = Lab::start(options(&[Transport::Tcp])).await;
    let server = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let there = server.local_addr().expect("address");
    for (ticket, bytes) in [(1, "OPTIONS 1"), (2, "OPTIONS 2")] {
        lab.tell(send(there, bytes, ticket)).await;
    }
    let (mut accepted, from) = server.accept().await.expect("accepted");
    assert_eq!(from.ip(), lab.at(0).ip());
    expect(&mut accepted, b"OPTIONS 1OPTIONS 2").await;
    let Input::Opened(flow) = lab.input().await else {
        panic!("opened first")
    };
    assert_eq!(
        (flow.listener, flow.transport, flow.remote),
        (ListenerId(0), Transport::Tcp, there)
    );
    for expected in [1, 2] {
        assert!(
            matches!(lab.input().await, Input::Sent { ticket: Ticket(t), flow: on } if t == expected && on == flow)
        );
    }
    // Now that it is open, the news is immediate.
    lab.tell(send(there, "OPTIONS 3", 3)).await;
    assert!(matches!(lab.input().await, Input::Sent { ticket: Ticket(3), flow: on } if on == flow));
    expect(&mut accepted, b"OPTIONS 3").await;
    // What is sent on the flow needs no telling.
    lab.tell(send_on(flow, "OPTIONS 4", 4)).await;
    expect(&mut accepted, b"OPTIONS 4").await;
    let request = message("back", 9);
    accepted.write_all(&request).await.expect("sent");
    expect(&mut accepted, &request).await;
    assert!(matches!(lab.input().await, Input::Received { flow: on, .. } if on == flow));
    lab.tell(Command::Close(flow)).await;
    assert_eq!(rest(&mut accepted).await, b"");
    drop(accepted);
    closed(&mut lab, flow).await;
    lab.tell(send_on(flow, "OPTIONS 5", 5)).await;
    assert!(matches!(
        lab.input().await,
        Input::Failed {
            ticket: Ticket(5),
            reason: SendError::Unreachable
        }
    ));
    // A new one for the same place.
    lab.tell(send(there, "OPTIONS 6", 6)).await;
    let (mut accepted, _) = server.accept().await.expect("accepted");
    expect(&mut accepted, b"OPTIONS 6").await;
    assert_eq!(lab.handle.counters().await.expect("counters").tcp.connected, 2);
}

#[tokio::test]
async fn a_place_where_nobody_listens_fails_all_that_waited() {
    let mut lab = Lab::start(options(&[Transport::Tcp])).await;
    let nobody = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("bound")
        .local_addr()
        .expect("address");
    lab.tell(send(nobody, "OPTIONS 1", 1)).await;
    lab.tell(send(nobody, "OPTIONS 2", 2)).await;
    for expected in [1, 2] {
        let failed = lab.input().await;
        assert!(
            matches!(failed, Input::Failed { ticket: Ticket(t), reason: SendError::Unreachable } if t == expected),
            "{failed:?}"
        );
    }
    assert!(dropped(&lab, Reason::Connect).await > 0);
    lab.tell(send("[::1]:5060".parse().expect("address"), "OPTIONS 3", 3))
        .await;
    assert!(matches!(
        lab.input().await,
        Input::Failed {
            ticket: Ticket(3),
            reason: SendError::Unreachable
        }
    ));
}

#[tokio::test]
async fn who_does_not_read_loses_his_connection() {
    let mut lab = Lab::start(options(&[Transport::Tcp])).await;
    let (phone, flow) = connected(&mut lab, 0).await;
    let bytes = Bytes::from(vec![b'x'; 60_000]);
    let mut sent = 0;
    let reason = loop {
        // Loopback's buffers hold some megabytes.
        assert!(sent < 2000, "there is no bound");
        lab.tell(send_on(flow, bytes.clone(), sent)).await;
        sent += 1;
        if let Some(reason) = lab.glance(|input| match input {
            Input::Failed { reason, .. } => Some(*reason),
            _ => None,
        }) {
            break reason;
        }
    };
    assert_eq!(reason, SendError::Overloaded);
    closed(&mut lab, flow).await;
    drop(phone);
}

#[tokio::test]
async fn an_accepted_connection_serves_for_where_it_comes_from_and_its_alias() {
    let mut lab = Lab::start(options(&[Transport::Tcp])).await;
    let (mut phone, flow) = connected(&mut lab, 0).await;
    let remote = phone.local_addr().expect("address");
    lab.tell(send(remote, "OPTIONS 1", 1)).await;
    assert!(matches!(lab.input().await, Input::Sent { ticket: Ticket(1), flow: on } if on == flow));
    let advertised = SocketAddr::new(remote.ip(), 5060);
    lab.tell(Command::Alias {
        flow,
        address: advertised,
    })
    .await;
    lab.tell(send(advertised, "OPTIONS 2", 2)).await;
    assert!(matches!(lab.input().await, Input::Sent { ticket: Ticket(2), flow: on } if on == flow));
    expect(&mut phone, b"OPTIONS 1OPTIONS 2").await;
    // Somebody else's address is not his to name.
    let others = "127.0.0.9:5060".parse().expect("address");
    lab.tell(Command::Alias { flow, address: others }).await;
    lab.tell(send(others, "OPTIONS 3", 3)).await;
    assert!(matches!(lab.input().await, Input::Failed { ticket: Ticket(3), .. }));
    assert_eq!(dropped(&lab, Reason::Alias).await, 1);
}

#[tokio::test]
async fn connections_are_traced() {
    let mut lab = Lab::start(options(&[Transport::Tcp])).await;
    let mut tap = lab.handle.trace(16).await.expect("runs");
    let (mut phone, flow) = connected(&mut lab, 0).await;
    let request = message("a", 3);
    phone.write_all(&request).await.expect("sent");
    expect(&mut phone, &request).await;
    for direction in [Direction::In, Direction::Out] {
        let traced = tap.recv().await.expect("traced");
        assert_eq!(
            (traced.direction, traced.flow, traced.local),
            (direction, flow, lab.at(0))
        );
        assert_eq!(traced.bytes, request);
    }
}

#[tokio::test]
async fn a_flood_on_one_connection_does_not_starve_the_others() {
    let lab = Lab::start(options(&[Transport::Tcp, Transport::Udp])).await;
    let mut flood = TcpStream::connect(lab.at(0)).await.expect("connected");
    let (mut reader, mut writer) = flood.split();
    let silent = "SILENT SIP/2.0\r\n\r\n".repeat(1000);
    let flooding = async {
        loop {
            writer.write_all(silent.as_bytes()).await.expect("sent");
        }
    };
    let phone = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    phone.connect(lab.at(1)).await.expect("connected");
    let calling = async {
        for i in 0..200 {
            let text = format!("OPTIONS {i}");
            phone.send(text.as_bytes()).await.expect("sent");
            let mut got = [0; 100];
            let length = timeout(PATIENCE, phone.recv(&mut got))
                .await
                .expect("in time")
                .expect("received");
            assert_eq!(&got[..length], text.as_bytes());
        }
    };
    let mut nothing = [0; 1];
    tokio::select! {
        () = flooding => {}
        _ = reader.read(&mut nothing) => panic!("closed"),
        () = calling => {}
    }
}

#[tokio::test]
async fn connections_of_an_address_that_is_gone_end() {
    let mut lab = Lab::start(Options {
        listeners: vec![Place {
            id: ListenerId(0),
            listener: listener(Transport::Tcp, ListenAddress::Interface("ppp0".into())),
            found: Some("127.0.0.2".parse().expect("address")),
        }],
        ..options(&[])
    })
    .await;
    let (mut phone, flow) = connected(&mut lab, 0).await;
    lab.handle
        .moved(ListenerId(0), Some("127.0.0.3".parse().expect("address")))
        .await
        .expect("bound");
    let mut end = Vec::new();
    let read = timeout(PATIENCE, phone.read_to_end(&mut end)).await.expect("it ends");
    assert!(read.is_err() || end.is_empty());
    closed(&mut lab, flow).await;
    lab.locals = lab.handle.locals().await.expect("runs");
    let (mut phone, _) = connected(&mut lab, 0).await;
    let request = message("a", 3);
    phone.write_all(&request).await.expect("sent");
    expect(&mut phone, &request).await;
}

#[tokio::test]
async fn a_reload_keeps_connections_of_listeners_that_stay() {
    let before = options(&[Transport::Tcp, Transport::Tcp]);
    let mut lab = Lab::start(before.clone()).await;
    let (mut stays, _) = connected(&mut lab, 0).await;
    let (mut goes, gone) = connected(&mut lab, 1).await;
    let mut after = before;
    after.listeners.pop();
    lab.handle.reload(after).await.expect("reloaded");
    closed(&mut lab, gone).await;
    let mut end = Vec::new();
    assert!(goes.read_to_end(&mut end).await.is_err() || end.is_empty());
    let request = message("a", 3);
    stays.write_all(&request).await.expect("sent");
    expect(&mut stays, &request).await;
}

#[tokio::test]
async fn at_its_end_it_sends_what_is_queued() {
    let mut lab = Lab::start(options(&[Transport::Tcp])).await;
    let (mut phone, flow) = connected(&mut lab, 0).await;
    lab.tell(send_on(flow, "BYE", 1)).await;
    lab.handle.stop().await.expect("runs");
    assert_eq!(rest(&mut phone).await, b"BYE");
}
