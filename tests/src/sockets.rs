//! Ordinary sockets inside namespaces: they stay there wherever they are used.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::lab::Host;
use crate::ns::Namespace;
use crate::packet::IntoEndpoint;
use crate::wait::SOON;

/// A UDP socket bound in a namespace, with a receive timeout of [`SOON`].
pub fn udp(ns: &Namespace, bind: impl IntoEndpoint) -> Result<UdpSocket> {
    let bind = bind.endpoint();
    let socket = ns
        .enter(|| UdpSocket::bind(bind))
        .with_context(|| format!("bind UDP {bind} in {}", ns.name()))?;
    socket.set_read_timeout(Some(SOON))?;
    Ok(socket)
}

/// A UDP socket of a host, on its address and a port (0: any).
pub fn host_udp(host: &Host, port: u16) -> Result<UdpSocket> {
    udp(host, (host.ip, port))
}

/// A listening TCP socket in a namespace.
pub fn tcp_listen(ns: &Namespace, bind: impl IntoEndpoint) -> Result<TcpListener> {
    let bind = bind.endpoint();
    ns.enter(|| TcpListener::bind(bind))
        .with_context(|| format!("listen on TCP {bind} in {}", ns.name()))
}

/// A TCP connection from a namespace, with read and write timeouts of [`SOON`].
pub fn tcp_connect(ns: &Namespace, to: impl IntoEndpoint) -> Result<TcpStream> {
    let to = SocketAddr::V4(to.endpoint());
    let stream = ns
        .enter(|| TcpStream::connect_timeout(&to, SOON))
        .with_context(|| format!("connect from {} to {to}", ns.name()))?;
    stream.set_read_timeout(Some(SOON))?;
    stream.set_write_timeout(Some(SOON))?;
    Ok(stream)
}

/// Sends `text` and returns the answer and who sent it.
pub fn ask(socket: &UdpSocket, to: impl IntoEndpoint, text: &[u8]) -> Result<(Vec<u8>, SocketAddrV4)> {
    let to = to.endpoint();
    socket.send_to(text, to).with_context(|| format!("send to {to}"))?;
    receive(socket).with_context(|| format!("no answer from {to}"))
}

/// The next datagram and its sender.
pub fn receive(socket: &UdpSocket) -> Result<(Vec<u8>, SocketAddrV4)> {
    let mut buffer = vec![0; 65536];
    let (length, from) = loop {
        match socket.recv_from(&mut buffer) {
            // A signal that has nothing to do with it: a socket with a timeout is not asked again by the kernel (signal(7)).
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            received => break received?,
        }
    };
    buffer.truncate(length);
    match from {
        SocketAddr::V4(from) => Ok((buffer, from)),
        SocketAddr::V6(from) => bail!("IPv4 only, but {from} answered"),
    }
}

/// Waits up to `timeout` for a datagram; `None` when none comes.
pub fn try_receive(socket: &UdpSocket, timeout: Duration) -> Result<Option<(Vec<u8>, SocketAddrV4)>> {
    socket.set_read_timeout(Some(timeout))?;
    let received = receive(socket);
    socket.set_read_timeout(Some(SOON))?;
    match received {
        Ok(datagram) => Ok(Some(datagram)),
        Err(error) => match error.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
            Some(std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => Ok(None),
            _ => Err(error),
        },
    }
}

/// A UDP server that answers each datagram with the endpoint that it came from, as text like `203.0.113.1:1024`,
/// a space, and the datagram itself: so it echoes, and it tells how the NAT translated.
#[derive(Debug)]
pub struct UdpEcho {
    /// Where it listens.
    pub endpoint: SocketAddrV4,
    served: Arc<AtomicUsize>,
    worker: Worker,
}

impl UdpEcho {
    /// Starts the server on a host's address.
    pub fn start(host: &Host, port: u16) -> Result<Self> {
        Self::start_at(host, (host.ip, port))
    }

    /// Starts the server on any address of a namespace.
    pub fn start_at(ns: &Namespace, bind: impl IntoEndpoint) -> Result<Self> {
        let socket = udp(ns, bind)?;
        let SocketAddr::V4(endpoint) = socket.local_addr()? else {
            bail!("IPv4 only")
        };
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let served = Arc::new(AtomicUsize::new(0));
        let count = served.clone();
        let worker = Worker::start(move || {
            if let Ok((text, from)) = receive(&socket) {
                count.fetch_add(1, Ordering::Relaxed);
                let _ = socket.send_to(&[format!("{from} ").as_bytes(), &text].concat(), from);
            }
        });
        Ok(Self {
            endpoint,
            served,
            worker,
        })
    }

    /// How many datagrams came.
    pub fn served(&self) -> usize {
        self.served.load(Ordering::Relaxed)
    }

    /// Stops answering, and frees the port.
    pub fn stop(self) {
        drop(self.worker);
    }
}

/// How a [`UdpEcho`] server sees this socket: the external endpoint of its binding.
pub fn seen_by(echo: &UdpEcho, socket: &UdpSocket) -> Result<SocketAddrV4> {
    let probe = b"who am I?";
    let (answer, from) = ask(socket, echo.endpoint, probe)?;
    ensure!(
        from == echo.endpoint,
        "the answer came from {from} instead of {}",
        echo.endpoint
    );
    let text = String::from_utf8_lossy(&answer).into_owned();
    let (seen, echoed) = text.split_once(' ').with_context(|| format!("no echo: {text:?}"))?;
    ensure!(echoed.as_bytes() == probe, "the payload came back as {echoed:?}");
    seen.parse().with_context(|| format!("no endpoint: {seen:?}"))
}

/// A TCP server that first sends the endpoint it sees, as a line of text, and then echoes all it gets.
#[derive(Debug)]
pub struct TcpEcho {
    /// Where it listens.
    pub endpoint: SocketAddrV4,
    _worker: Worker,
}

impl TcpEcho {
    /// Starts the server on a host's address.
    pub fn start(host: &Host, port: u16) -> Result<Self> {
        let listener = tcp_listen(host, (host.ip, port))?;
        let SocketAddr::V4(endpoint) = listener.local_addr()? else {
            bail!("IPv4 only")
        };
        listener.set_nonblocking(true)?;
        let worker = Worker::start(move || match listener.accept() {
            Ok((stream, from)) => drop(std::thread::spawn(move || serve(stream, from))),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        });
        Ok(Self {
            endpoint,
            _worker: worker,
        })
    }
}

/// Connects to a [`TcpEcho`] server; returns the connection and how the server sees it.
pub fn tcp_seen_by(echo: &TcpEcho, ns: &Namespace) -> Result<(TcpStream, SocketAddrV4)> {
    let mut stream = tcp_connect(ns, echo.endpoint)?;
    let mut line = Vec::new();
    let mut byte = [0];
    while line.last() != Some(&b'\n') {
        stream
            .read_exact(&mut byte)
            .with_context(|| format!("greeting of {}", echo.endpoint))?;
        line.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&line);
    let seen = text.trim().parse().with_context(|| format!("no endpoint: {text:?}"))?;
    Ok((stream, seen))
}

/// Sends `text` over a connection to a [`TcpEcho`] server and checks that it comes back.
pub fn tcp_echo(stream: &mut TcpStream, text: &[u8]) -> Result<()> {
    let mut sender = stream.try_clone()?;
    let mut back = vec![0; text.len()];
    std::thread::scope(|scope| {
        let sending = scope.spawn(move || sender.write_all(text));
        stream.read_exact(&mut back).context("read the echo")?;
        sending.join().expect("the sending thread").context("send")
    })?;
    ensure!(back == text, "{} bytes came back changed", text.len());
    Ok(())
}

/// What [`is_bound`] asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Udp,
    /// A listening socket.
    Tcp,
}

/// Whether some IPv4 socket of the namespace has this port, whoever's it is.
pub fn is_bound(ns: &Namespace, protocol: Protocol, port: u16) -> bool {
    let (file, state) = match protocol {
        Protocol::Udp => ("udp", None),
        Protocol::Tcp => ("tcp", Some("0A")),
    };
    let table = ns.enter(|| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")));
    let port = format!(":{port:04X}");
    table.unwrap_or_default().lines().skip(1).any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.len() > 3 && words[1].ends_with(&port) && state.is_none_or(|state| words[3] == state)
    })
}

/// Any address, any port.
pub const ANY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);

fn serve(mut stream: TcpStream, from: SocketAddr) {
    let mut buffer = vec![0; 65536];
    // Errors end the connection, which the other side sees.
    if stream
        .set_nonblocking(false)
        .and_then(|()| stream.write_all(format!("{from}\n").as_bytes()))
        .is_err()
    {
        return;
    }
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

/// A thread that repeats a short step until dropped.
#[derive(Debug)]
struct Worker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn start(mut step: impl FnMut() + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                step();
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
