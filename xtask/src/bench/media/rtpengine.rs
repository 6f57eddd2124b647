//! rtpengine in user space, and its control protocol: one bencoded dictionary in each UDP datagram, behind a cookie.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tests::child::Child;
use tests::ns::Namespace;
use tests::process::raise_file_limit;
use tests::sockets;

use super::traffic::{Leg, PORT, peer};
use crate::bench::sip::process;

/// Where it listens for commands.
const CONTROL: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 2223);
/// It has to answer within this.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running rtpengine. Dropping it ends it.
pub struct Rtpengine {
    child: Child,
    control: UdpSocket,
    cookie: u64,
}

impl Rtpengine {
    /// Starts it on one core, with its media on this address.
    pub fn start(ns: &Namespace, address: Ipv4Addr, cpu: usize) -> Result<Self> {
        let mut command = ns.command("taskset");
        command.args([
            "-c",
            &cpu.to_string(),
            "rtpengine",
            "--foreground",
            "--log-stderr",
            "--log-level=4",
            "--table=-1",
        ]);
        command.args([
            format!("--interface={address}"),
            format!("--listen-ng={CONTROL}"),
            // One worker, as it has one core.
            "--num-threads=1".into(),
            "--port-min=10000".into(),
            "--port-max=60000".into(),
            "--timeout=3600".into(),
        ]);
        // A stream is two sockets, and each is a file.
        // SAFETY: between fork and exec only what may be done there.
        unsafe { command.pre_exec(raise_file_limit) };
        let child = Child::spawn(command)?;
        let control = sockets::udp(ns, sockets::ANY)?;
        control.set_read_timeout(Some(Duration::from_millis(200)))?;
        let mut engine = Self {
            child,
            control,
            cookie: 0,
        };
        let start = std::time::Instant::now();
        while engine.ask(&[("command", "ping")]).is_err() {
            ensure!(
                engine.child.running() && start.elapsed() < PATIENCE,
                "rtpengine does not answer: {}",
                engine.child.log()
            );
        }
        engine.control.set_read_timeout(Some(PATIENCE))?;
        Ok(engine)
    }

    /// Sets up a call between two peers; where each of them sends.
    pub fn call(&mut self, number: u32) -> Result<[Leg; 2]> {
        let (call, peers) = (format!("call{number}"), [2 * number, 2 * number + 1].map(peer));
        let common = [("call-id", &*call), ("from-tag", "a"), ("ICE", "remove")];
        let sdp = peers.map(describe);
        let offer = [&[("command", "offer"), ("sdp", &sdp[0])], &common[..]].concat();
        let to_callee = port_of(&self.ask(&offer)?)?;
        let answer = [&[("command", "answer"), ("to-tag", "b"), ("sdp", &sdp[1])], &common[..]].concat();
        let to_caller = port_of(&self.ask(&answer)?)?;
        // What the answer says is where the caller sends.
        Ok([to_caller, to_callee].map(|port| Leg { address: 0, port }))
    }

    /// Ends a call.
    pub fn end(&mut self, number: u32) -> Result<()> {
        let call = format!("call{number}");
        self.ask(&[
            ("command", "delete"),
            ("call-id", &call),
            ("from-tag", "a"),
            ("delete-delay", "0"),
        ])
        .map(drop)
    }

    /// Its processes, and the kernel's thread for the soft interrupts of its core.
    pub fn pids(&self, cpu: usize) -> Result<Vec<u32>> {
        let mut pids = process::family(self.child.pid())?;
        pids.push(soft_interrupts_of(cpu)?);
        Ok(pids)
    }

    /// Bytes of memory that it has.
    pub fn memory(&self) -> Result<u64> {
        process::memory(&process::family(self.child.pid())?)
    }

    /// Sends a command and returns the answer, of which anything but `ok` and `pong` is an error.
    fn ask(&mut self, command: &[(&str, &str)]) -> Result<String> {
        self.cookie += 1;
        let cookie = format!("{} ", self.cookie);
        let datagram = cookie.clone() + &bencoded(command);
        self.control.send_to(datagram.as_bytes(), CONTROL)?;
        loop {
            let (bytes, _) = sockets::receive(&self.control).context("no answer from rtpengine")?;
            let text = String::from_utf8_lossy(&bytes).into_owned();
            // Answers to a command that was given up are passed over.
            let Some(answer) = text.strip_prefix(&cookie) else {
                continue;
            };
            if answer.contains("6:result2:ok") || answer.contains("6:result4:pong") {
                return Ok(answer.into());
            }
            bail!("rtpengine refuses {datagram:?}: {answer}");
        }
    }
}

/// A dictionary of texts (BEP 3).
fn bencoded(entries: &[(&str, &str)]) -> String {
    let text = |text: &str| format!("{}:{text}", text.len());
    let all: String = entries.iter().map(|(key, value)| text(key) + &text(value)).collect();
    format!("d{all}e")
}

/// G.711 at an address.
fn describe(address: Ipv4Addr) -> String {
    format!(
        "v=0\r\no=- 1 1 IN IP4 {address}\r\ns=-\r\nc=IN IP4 {address}\r\nt=0 0\r\nm=audio {PORT} RTP/AVP 0\r\n\
         a=rtpmap:0 PCMU/8000\r\na=sendrecv\r\n"
    )
}

/// The port of the first stream of an answer's session description.
fn port_of(answer: &str) -> Result<u16> {
    let (_, rest) = answer
        .split_once("m=audio ")
        .with_context(|| format!("no stream in {answer}"))?;
    let port = rest.split(' ').next().unwrap_or_default();
    port.parse().with_context(|| format!("the port {port:?} of {answer}"))
}

/// `ksoftirqd` of a core.
fn soft_interrupts_of(cpu: usize) -> Result<u32> {
    let name = format!("ksoftirqd/{cpu}");
    let processes = fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let named = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name);
    processes
        .into_iter()
        .find(named)
        .with_context(|| format!("there is no {name}"))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn commands_are_bencoded() {
        assert_eq!(bencoded(&[("command", "ping")]), "d7:command4:pinge");
        assert_eq!(port_of("d3:sdp20:v=0\r\nm=audio 10002 RTP/AVP 0e").unwrap(), 10002);
        assert!(port_of("d6:result2:oke").is_err());
    }
}
