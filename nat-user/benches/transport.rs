//! What the SIP transport costs: messages over loopback with a core that sends each one back.
//!
//! `cargo bench -p nat-user --bench transport` prints, for UDP and TCP, the CPU time of the SIP thread per message that came and went.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nat_user::{
    config::{
        Rate,
        sip::{ListenAddress, Listener, Role, SipLimits},
    },
    sip::{
        command::{Command, Destination, Input},
        flow::{Flow, ListenerId, Transport},
        time::Time,
        transport::{Engine, Handle, Options, Place, start},
    },
};
use tokio::sync::oneshot;

const CLIENTS: usize = 16;
const BURST: usize = 16;
const ROUNDS: usize = 2000;

/// Sends back what it gets, and tells the CPU time of its thread.
struct Echo;

impl Engine for Echo {
    type Call = oneshot::Sender<Duration>;

    fn input(&mut self, input: Input, _: Time, out: &mut Vec<Command>) {
        if let Input::Received { flow, bytes, .. } = input {
            let (to, ticket) = (Destination::Flow(flow), None);
            out.push(Command::Send { to, bytes, ticket });
        }
    }

    fn next(&self) -> Option<Time> {
        None
    }

    fn tick(&mut self, _: Time, _: &mut Vec<Command>) {}

    fn uses(&self, _: &Flow) -> bool {
        true
    }

    fn call(&mut self, reply: Self::Call, _: Time, _: &mut Vec<Command>) {
        let _ = reply.send(thread_time());
    }
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let head = "OPTIONS sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bK1\r\nX: ";
    let message = format!("{head}{}\r\nContent-Length: 0\r\n\r\n", "x".repeat(480 - head.len())).into_bytes();
    for transport in [Transport::Udp, Transport::Tcp] {
        let running = start(options(transport), |_, _| Ok(Echo))?;
        let locals = runtime.block_on(running.handle.locals())?;
        let there = locals[0].address.context("no address")?;
        let before = used(&runtime, &running.handle)?;
        let began = Instant::now();
        match transport {
            Transport::Udp => datagrams(there, &message)?,
            Transport::Tcp | Transport::Tls => stream(there, &message)?,
        }
        let wall = began.elapsed();
        let count = (CLIENTS * BURST * ROUNDS) as u32;
        let each = (used(&runtime, &running.handle)? - before) / count;
        println!(
            "{transport}: {count} messages of {} bytes in {wall:.2?}; {} ns of CPU each in the SIP thread, {:.0} per CPU-second",
            message.len(),
            each.as_nanos(),
            1.0 / each.as_secs_f64()
        );
        runtime.block_on(running.handle.stop())?;
        let _ = running.thread.join();
    }
    Ok(())
}

fn used(runtime: &tokio::runtime::Runtime, handle: &Handle<oneshot::Sender<Duration>>) -> Result<Duration> {
    runtime.block_on(async {
        let (reply, answer) = oneshot::channel();
        handle.call(reply).await?;
        Ok(answer.await?)
    })
}

fn datagrams(there: SocketAddr, message: &[u8]) -> Result<()> {
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        client.connect(there)?;
        client.set_read_timeout(Some(Duration::from_secs(5)))?;
        clients.push(client);
    }
    let mut buffer = [0; 2048];
    for _ in 0..ROUNDS {
        for client in &clients {
            for _ in 0..BURST {
                client.send(message)?;
            }
        }
        for client in &clients {
            for _ in 0..BURST {
                client.recv(&mut buffer).context("a datagram was lost")?;
            }
        }
    }
    Ok(())
}

fn stream(there: SocketAddr, message: &[u8]) -> Result<()> {
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(TcpStream::connect(there)?);
    }
    let mut buffer = vec![0; message.len()];
    for _ in 0..ROUNDS {
        for client in &mut clients {
            for _ in 0..BURST {
                client.write_all(message)?;
            }
        }
        for client in &mut clients {
            for _ in 0..BURST {
                client.read_exact(&mut buffer)?;
            }
        }
    }
    Ok(())
}

fn options(transport: Transport) -> Options {
    let listener = Listener {
        transport,
        address: ListenAddress::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        port: 0,
        advertise: None,
        role: Role::Proxy,
    };
    let second = Duration::from_secs(1);
    Options {
        listeners: vec![Place {
            id: ListenerId(0),
            listener,
            found: None,
        }],
        limits: SipLimits {
            rate_per_source: Rate { count: 1, per: second },
            burst_per_source: 1,
            connections: 100,
            connections_per_source: 100,
            idle: 100 * second,
            message_time: 100 * second,
            message_size: 65_535,
            transactions: 1,
        },
        tls: None,
        dns: vec![SocketAddr::from(([127, 0, 0, 1], 9))],
    }
}

fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the struct lives through the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
