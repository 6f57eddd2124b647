//! A lab whose hosts are mute, so that a test is the only one who speaks: it sends packets by hand and sees all.

use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tests::packet::IntoEndpoint;
use tests::packet::flags::{ACK, FIN, SYN};
use tests::prelude::*;
use tests::wire::summary;

pub use At::{Deep, Far, H, O};

/// Who sends or receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum At {
    /// Inside host, from 1.
    H(usize),
    /// Outside host, from 1.
    O(usize),
    /// The host behind the inside router.
    Deep,
    /// The host behind the outside router.
    Far,
}

/// How long a packet that must arrive may take on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(6);

/// How long nothing must come where no packet can be made to follow the one that must be stopped.
pub const QUIET: Duration = Duration::from_millis(400);

/// A lab with its NAT, a packet socket and a capture on every host. When it ends well, no capture may have a bad checksum.
pub struct Scene {
    pub nat: RunningNat,
    sockets: HashMap<At, RawSocket>,
    captures: Vec<Capture>,
    sentinels: HashMap<(At, At), SocketAddrV4>,
    bad_checksums_on_purpose: bool,
    pub lab: Lab,
}

impl Deref for Scene {
    type Target = Lab;
    fn deref(&self) -> &Lab {
        &self.lab
    }
}

impl Scene {
    /// Builds the lab, starts the NAT, mutes all hosts.
    pub fn new(builder: LabBuilder, config: impl Into<NatConfig>) -> Self {
        let mut scene = Self::unwatched(builder, config);
        for (_, host) in scene.lab.hosts() {
            scene.captures.push(Capture::host(host).unwrap());
        }
        scene
    }

    /// Without captures, for floods.
    pub fn unwatched(builder: LabBuilder, config: impl Into<NatConfig>) -> Self {
        let lab = builder.build().unwrap();
        let nat = lab.start_nat(config).unwrap();
        let mut sockets = HashMap::new();
        for (name, host) in lab.hosts() {
            host.mute().unwrap();
            sockets.insert(at(&name), RawSocket::host(host).unwrap());
        }
        Self {
            nat,
            sockets,
            captures: Vec::new(),
            sentinels: HashMap::new(),
            bad_checksums_on_purpose: false,
            lab,
        }
    }

    /// One inside host and these many outside hosts.
    pub fn with_outside(hosts: u8, config: impl Into<NatConfig>) -> Self {
        Self::new(Lab::builder().outside_hosts(hosts), config)
    }

    /// The test sends wrong checksums itself.
    pub fn expect_bad_checksums(&mut self) {
        self.bad_checksums_on_purpose = true;
    }

    /// The host.
    pub fn host(&self, at: At) -> &Host {
        match at {
            H(number) => self.lab.h(number),
            O(number) => self.lab.o(number),
            Deep => self.lab.deep(),
            Far => self.lab.far(),
        }
    }

    /// An endpoint of a host.
    pub fn on(&self, at: At, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(self.host(at).ip, port)
    }

    /// The host's packet socket.
    pub fn socket(&mut self, at: At) -> &mut RawSocket {
        self.sockets.get_mut(&at).expect("every host has a socket")
    }

    /// Sends a packet by way of the host's router.
    pub fn send(&self, from: At, packet: &Packet) {
        let packet = packet.clone().via(self.host(from));
        self.sockets[&from].send_packet(&packet).unwrap();
    }

    /// Waits for a packet at a host.
    pub fn wait(&mut self, at: At, what: &str, wanted: impl FnMut(&Packet) -> bool) -> Packet {
        self.socket(at).recv_packet(what, LIMIT, wanted).unwrap()
    }

    /// Sends a packet and returns it as it arrives; fails if it does not.
    #[track_caller]
    pub fn pass(&mut self, from: At, to: At, packet: &Packet) -> Packet {
        self.send(from, packet);
        let what = format!("the packet from {from:?} ({} > {})", packet.src(), packet.dst());
        let socket = self.socket(to);
        match socket.recv_packet(&what, LIMIT, |got| same(packet, got)) {
            Ok(got) => got,
            Err(error) => panic!("{error:#}"),
        }
    }

    /// Whether a packet from outside arrives at the inside host: another one, that certainly passes, follows it.
    pub fn passes(&mut self, from: At, to: At, packet: &Packet) -> bool {
        let sentinel = self.sentinel(from, to);
        self.send(from, packet);
        self.send(from, &sentinel);
        let mut passed = false;
        self.wait(to, "the packet that follows", |got| {
            passed |= same(packet, got);
            same(&sentinel, got)
        });
        passed
    }

    /// Sends a packet that must not arrive.
    #[track_caller]
    pub fn stop(&mut self, from: At, to: At, packet: &Packet) {
        let passed = self.passes(from, to, packet);
        assert!(!passed, "arrived at {to:?}, but must not: {}", summary(packet));
    }

    /// The external endpoint of an inside one, as `o` sees it.
    #[track_caller]
    pub fn mapped(&mut self, from: At, port: u16, to: At, remote: u16) -> SocketAddrV4 {
        let packet = udp(self.on(from, port), self.on(to, remote));
        self.pass(from, to, &packet).src()
    }

    /// Opens a TCP connection from inside with a three-way handshake.
    #[track_caller]
    pub fn connect(&mut self, from: At, port: u16, to: At, remote: u16) -> Talk {
        let mut talk = Talk::new(self.on(from, port), self.on(to, remote));
        talk.external = self.pass(from, to, &talk.out(SYN, b"")).src();
        self.pass(to, from, &talk.back(SYN | ACK, b""));
        self.pass(from, to, &talk.out(ACK, b""));
        talk
    }

    /// Shows that a connection carries data in both directions under its external endpoint.
    #[track_caller]
    pub fn carries(&mut self, from: At, to: At, talk: &mut Talk) {
        self.pass(to, from, &talk.back(ACK, b"data from outside"));
        let got = self.pass(from, to, &talk.out(ACK, b"data from inside"));
        assert_eq!(got.src(), talk.external);
    }

    /// Prepares what [`Self::stop`] needs, for tests that exhaust the ports later.
    pub fn prepare_sentinel(&mut self, from: At, to: At) {
        self.sentinel(from, to);
    }

    /// A packet that passes from one host to the other.
    fn sentinel(&mut self, from: At, to: At) -> Packet {
        const PORT: u16 = 47_011;
        let (outside, inside) = match from {
            O(_) | Far => (from, to),
            H(_) | Deep => (to, from),
        };
        let opener = udp(self.on(inside, PORT), self.on(outside, PORT));
        if outside == to {
            return opener;
        }
        // Sent each time, so that it holds however short the lifetimes are.
        let external = self.pass(inside, outside, &opener).src();
        self.sentinels.insert((from, to), external);
        udp(self.on(outside, PORT), external)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() || self.bad_checksums_on_purpose {
            return;
        }
        for capture in &self.captures {
            if capture.seen() > 0 {
                capture.assert_no_bad_checksums().unwrap();
            }
        }
    }
}

/// A datagram with a payload that no other packet of this process has.
pub fn udp(src: impl IntoEndpoint, dst: impl IntoEndpoint) -> Packet {
    Packet::udp(src, dst, format!("datagram {}", unique()).as_bytes())
}

/// A SYN with a sequence number that no other packet of this process has.
pub fn syn(src: impl IntoEndpoint, dst: impl IntoEndpoint) -> Packet {
    Packet::tcp(src, dst, SYN, unique() << 8, 0)
}

/// Both ends of a TCP connection, with the sequence numbers that they would have.
#[derive(Clone, Debug)]
pub struct Talk {
    /// The inside host's endpoint, as it knows it.
    pub inside: SocketAddrV4,
    /// The outside host's.
    pub remote: SocketAddrV4,
    /// The inside host's, as the outside host knows it; the inside one until the first packet has shown it.
    pub external: SocketAddrV4,
    mine: u32,
    theirs: u32,
}

impl Talk {
    /// Nothing said so far.
    pub fn new(inside: SocketAddrV4, remote: SocketAddrV4) -> Self {
        let (mine, theirs) = (unique() << 8, unique() << 8);
        Self {
            inside,
            remote,
            external: inside,
            mine,
            theirs,
        }
    }

    /// The next segment from inside.
    pub fn out(&mut self, flags: u8, payload: &[u8]) -> Packet {
        let packet = Self::segment((self.inside, self.remote), flags, (self.mine, self.theirs), payload);
        self.mine += Self::length(flags, payload);
        packet
    }

    /// The next segment from outside.
    pub fn back(&mut self, flags: u8, payload: &[u8]) -> Packet {
        let packet = Self::segment((self.remote, self.external), flags, (self.theirs, self.mine), payload);
        self.theirs += Self::length(flags, payload);
        packet
    }

    /// Lets the next segment from inside be a copy of the last one's sequence number, as a second SYN is.
    pub fn again_out(&mut self) {
        self.mine -= 1;
    }

    /// The same for the outside.
    pub fn again_back(&mut self) {
        self.theirs -= 1;
    }

    fn segment(ends: (SocketAddrV4, SocketAddrV4), flags: u8, numbers: (u32, u32), payload: &[u8]) -> Packet {
        let ack = if flags & ACK == 0 { 0 } else { numbers.1 };
        Packet::tcp(ends.0, ends.1, flags, numbers.0, ack).with_payload(payload)
    }

    fn length(flags: u8, payload: &[u8]) -> u32 {
        payload.len() as u32 + u32::from(flags & (SYN | FIN) != 0)
    }
}

/// An echo request with data that no other packet of this process has; the port of `src` is its identifier.
pub fn ping(src: SocketAddrV4, dst: SocketAddrV4) -> Packet {
    let data = format!("echo number {}", unique());
    Packet::echo(*src.ip(), *dst.ip(), src.port(), 1, data.as_bytes())
}

/// The reply to an echo request.
pub fn pong(request: &Packet) -> Packet {
    let icmp = request.as_icmp().expect("an echo request");
    let id = icmp.query_id().expect("an echo request");
    Packet::echo_reply(request.ip.dst, request.ip.src, id, icmp.sequence(), &icmp.body)
}

/// Waits for a moment. Only for the passing of lifetimes, where time itself is what is tested.
pub fn wait_till(moment: Instant) {
    std::thread::sleep(moment.saturating_duration_since(Instant::now()));
}

fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Whether a packet is this one, apart from what a NAT and routers may change.
pub fn same(sent: &Packet, got: &Packet) -> bool {
    let raw = sent.ip.mf || sent.ip.offset > 0;
    match (&sent.l4, &got.l4) {
        (L4::Udp(a), L4::Udp(b)) => a.payload == b.payload,
        (L4::Tcp(a), L4::Tcp(b)) => (a.flags, a.seq, a.ack, &a.payload) == (b.flags, b.seq, b.ack, &b.payload),
        (L4::Icmp(a), L4::Icmp(b)) if a.query_id().is_none() => {
            // Of the quoted packet, ports and checksums change; its lengths and what follows do not.
            (a.kind, a.code, a.rest, a.body.len()) == (b.kind, b.code, b.rest, b.body.len())
        }
        (L4::Icmp(a), L4::Icmp(b)) => {
            (a.kind, a.code, &a.rest[2..], &a.body) == (b.kind, b.code, &b.rest[2..], &b.body)
        }
        // A first fragment has ports and a checksum that change.
        (L4::Raw(a, one), L4::Raw(b, two)) if raw => {
            let skip = if sent.ip.offset == 0 { 8 } else { 0 };
            a == b && sent.ip.offset == got.ip.offset && one.get(skip..) == two.get(skip..)
        }
        (a, b) => a == b,
    }
}

fn at(name: &str) -> At {
    let number = |text: &str| text.parse().expect("hosts are numbered");
    match name {
        "deep" => Deep,
        "far" => Far,
        _ => match name.split_at(1) {
            ("h", rest) => H(number(rest)),
            ("o", rest) => O(number(rest)),
            _ => panic!("no scene with the host {name}"),
        },
    }
}
