//! Real programs from Debian, started in the foreground of a host's namespace and waited for until they serve.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::child::Child;
use crate::lab::Host;
use crate::ns::{Namespace, unique_prefix};
use crate::sockets;
use crate::wait::SOON;

/// Debian's Python, not one that a version manager puts in front of it and that lacks Debian's modules.
pub const PYTHON: &str = "/usr/bin/python3";

/// A program that serves, and where. It is killed on drop.
#[derive(Debug)]
pub struct Server {
    /// Where it serves.
    pub endpoint: SocketAddrV4,
    /// The process.
    pub child: Child,
    _files: Option<TempDir>,
}

/// `python3 -m http.server` over a directory.
pub fn http_server(host: &Host, port: u16, directory: &Path) -> Result<Server> {
    let endpoint = SocketAddrV4::new(host.ip, port);
    let (port, bind, directory) = (port.to_string(), host.ip.to_string(), directory.display().to_string());
    let args = [
        "-u",
        "-m",
        "http.server",
        &port,
        "--bind",
        &bind,
        "--directory",
        &directory,
    ];
    let mut child = host.spawn(PYTHON, args)?;
    child.wait_log("Serving HTTP", SOON)?;
    Ok(Server {
        endpoint,
        child,
        _files: None,
    })
}

/// `dnsmasq --no-daemon` that answers for these names and no others.
pub fn dnsmasq(host: &Host, records: &[(&str, Ipv4Addr)]) -> Result<Server> {
    let records: Vec<Record> = records
        .iter()
        .map(|(name, address)| Record::A(name, *address))
        .collect();
    dns(host, &records)
}

/// A DNS record, with the fields in the order of its RFC.
#[derive(Clone, Copy, Debug)]
pub enum Record<'a> {
    /// Name and address.
    A(&'a str, Ipv4Addr),
    /// RFC 2782: name (`_sip._udp.net.com`), priority, weight, port, target.
    Srv(&'a str, u16, u16, u16, &'a str),
    /// RFC 3403: name, order, preference, flags, services (`SIP+D2U`), replacement; without a regular expression.
    Naptr(&'a str, u16, u16, &'a str, &'a str, &'a str),
}

impl Record<'_> {
    /// The argument of dnsmasq.
    fn argument(&self) -> String {
        match self {
            Self::A(name, address) => format!("--host-record={name},{address}"),
            Self::Srv(name, priority, weight, port, target) => {
                format!("--srv-host={name},{target},{port},{priority},{weight}")
            }
            Self::Naptr(name, order, preference, flags, services, replacement) => {
                format!("--naptr-record={name},{order},{preference},{flags},{services},,{replacement}")
            }
        }
    }
}

/// `dnsmasq --no-daemon` that answers with these records and no others.
pub fn dns(host: &Host, records: &[Record]) -> Result<Server> {
    let mut args: Vec<String> = [
        "--no-daemon",
        "--conf-file=/dev/null",
        "--no-hosts",
        "--no-resolv",
        "--bind-interfaces",
        "--user=root",
        "--group=root",
        "--pid-file=",
    ]
    .map(String::from)
    .into();
    args.push(format!("--listen-address={}", host.ip));
    args.extend(records.iter().map(Record::argument));
    let mut child = host.spawn("dnsmasq", &args)?;
    child.wait_log("started", SOON)?;
    Ok(Server {
        endpoint: SocketAddrV4::new(host.ip, 53),
        child,
        _files: None,
    })
}

/// `iperf3 -s`, for any number of tests.
pub fn iperf3_server(host: &Host) -> Result<Server> {
    let mut child = host.spawn("iperf3", ["-s", "-B", &host.ip.to_string(), "--forceflush"])?;
    child.wait_log("Server listening", SOON)?;
    Ok(Server {
        endpoint: SocketAddrV4::new(host.ip, 5201),
        child,
        _files: None,
    })
}

/// Runs `iperf3 -c` against a server with further arguments, and returns its JSON report.
pub fn iperf3_client(ns: &Namespace, server: &Server, args: &[&str]) -> Result<Value> {
    let address = server.endpoint.ip().to_string();
    let text = ns.run(
        "iperf3",
        ["-c", &address, "--json", "--connect-timeout", "15000"]
            .iter()
            .chain(args),
    )?;
    serde_json::from_str(&text).context("iperf3 printed no JSON")
}

/// coturn's `turnserver -n` as a STUN server (RFC 5780) on two addresses of a host and two ports, for
/// `turnutils_natdiscovery`. The second address must be on the host already (`Lab::add_address`).
pub fn turnserver(host: &Host, second: Ipv4Addr, port: u16) -> Result<Server> {
    let files = TempDir::new()?;
    let (first, second, alternate) = (host.ip.to_string(), second.to_string(), (port + 1).to_string());
    let (database, pid_file) = (files.file("turndb"), files.file("pid"));
    let port_text = port.to_string();
    #[rustfmt::skip]
    let args = [
        "-n", "--stun-only", "--no-cli", "--no-tls", "--no-dtls", "--log-file", "stdout", "--simple-log", "--verbose",
        "--db", &database, "--pidfile", &pid_file, "--realm", "sipnat.test", "--listening-port", &port_text,
        "--alt-listening-port", &alternate, "--listening-ip", &first, "--listening-ip", &second,
    ];
    let mut child = host.spawn("turnserver", args)?;
    for address in [&first, &second] {
        for port in [port, port + 1] {
            child.wait_ready(&format!("the STUN server on {address}:{port}"), SOON, |_| {
                stun_answers(host, address, port)
            })?;
        }
    }
    Ok(Server {
        endpoint: SocketAddrV4::new(host.ip, port),
        child,
        _files: Some(files),
    })
}

/// A directory that is removed on drop.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// Makes it in the system's directory for temporary files.
    pub fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("{}-files", unique_prefix()));
        std::fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The path of a file in it, as text for a command line.
    pub fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}

/// One STUN binding request (RFC 8489 §5) from the host itself.
fn stun_answers(host: &Host, address: &str, port: u16) -> Option<()> {
    let socket = sockets::udp(host, sockets::ANY).ok()?;
    let mut request = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    request.extend([7; 12]);
    socket.send_to(&request, format!("{address}:{port}")).ok()?;
    sockets::try_receive(&socket, std::time::Duration::from_millis(200))
        .ok()?
        .map(drop)
}
