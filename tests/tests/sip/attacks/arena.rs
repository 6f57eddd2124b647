//! Two phones behind two NATs, what they hear, and where attackers are.

use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tests::prelude::*;
use tests::sip::edge::{Edge, endpoint};
use tests::sip::handset::{Call, Handset, Ringing, ring};
use tests::sip::peer::Peer;
use tests::sip::request::Request;
use tests::sip::rtp::{self, Voice};

use super::{Attack, Outcome};
use crate::DOMAIN;

/// What every packet of an attacker is full of.
pub const MARK: u8 = 0xee;
/// So many of it in a row are an attacker's.
const MARKS: [u8; 3] = [MARK; 3];
/// The attackers' SSRC.
const SSRC: u32 = 0xbad0_bad0;

/// Who is attacked.
pub struct Victims {
    pub anna: Handset,
    pub berta: Handset,
    ears: [Capture; 2],
}

impl Victims {
    pub fn new(edge: &Edge) -> Self {
        let [anna, berta] = edge.handsets().unwrap();
        let ears = [1, 2].map(|number| Capture::host(edge.lab.f(number)).unwrap());
        Self { anna, berta, ears }
    }

    pub fn ring(&self) -> Ringing<'_> {
        ring(&self.anna, &self.berta, &self.anna.sdp("sendrecv")).unwrap()
    }

    /// A call that stands; nobody has said anything yet.
    pub fn call(&self) -> Call<'_> {
        self.ring().answer(&self.berta.sdp("sendrecv")).unwrap()
    }

    /// Attackers' packets that a phone has got so far.
    fn reached(&self) -> usize {
        let packets = self.ears.iter().flat_map(Capture::received);
        let marked = packets.filter(|packet| packet.payload().windows(MARKS.len()).any(|bytes| bytes == MARKS));
        marked.count()
    }

    /// Waits until both phones have got everything that was sent before: a message from where the attacker is has come to each of them, by the
    /// way that media takes.
    fn settled(&self, from: &Peer, server: SocketAddrV4) {
        for phone in [&self.anna, &self.berta] {
            let request = Request::new("MESSAGE", &format!("sip:{}@{DOMAIN}", phone.user), from).message();
            from.send_message(server, &request).unwrap();
            let of_it = |message: &tests::sip::message::Message| {
                message.header("Call-ID") == request.header("Call-ID") && message.method().is_some()
            };
            let (came, _) = phone.sip.recv_where("the message that comes last", of_it).unwrap();
            phone.send(&came.reply(200, "OK", &[], "")).unwrap();
        }
    }

    /// Both talk as phones do, while something else happens.
    pub fn talk_during<T>(&self, call: &Call, work: impl FnOnce() -> T) -> T {
        let stop = AtomicBool::new(false);
        let voices = [0, 1].map(|side| (&call.parties[side].voice, call.told[side]));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                promptly();
                while !stop.load(Ordering::Relaxed) {
                    voices.iter().for_each(|(voice, to)| drop(voice.say(*to).unwrap()));
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
            // Told before a panic, too, which would wait for the thread for ever.
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            stop.store(true, Ordering::Relaxed);
            outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Takes what the phones have heard, so that what they hear next is new.
    pub fn forget(&self) {
        for phone in [&self.anna, &self.berta] {
            phone.voice.heard().unwrap();
            phone.control.heard().unwrap();
        }
    }
}

/// Runs this thread before others: a phone that pauses because the machine is busy would be one whose NAT may have rebound.
fn promptly() {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: a valid pointer to a structure that the call only reads; 0 is this thread. Where it is refused, all is as it was.
    let _ = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &parameters) };
}

/// An attacker with sockets of its own.
pub struct Attacker {
    pub voice: Voice,
    sentinel: Peer,
    server: SocketAddrV4,
}

impl Attacker {
    pub fn new(edge: &Edge, host: &Host) -> Self {
        Self {
            voice: Voice::bind(host, 7000, SSRC).unwrap(),
            sentinel: Peer::udp(host, 7060).unwrap(),
            server: edge.server,
        }
    }

    /// Sends each of these to each of the ports; what comes of it. Waits until all has come where it goes.
    pub fn sends(&self, victims: &Victims, packets: &[Vec<u8>], ports: &[SocketAddrV4]) -> Outcome {
        self.acts(victims, || {
            for packet in packets {
                for port in ports {
                    self.voice.send(*port, packet).unwrap();
                }
            }
            packets.len() * ports.len()
        })
    }

    /// Does something that sends so many packets.
    pub fn acts(&self, victims: &Victims, act: impl FnOnce() -> usize) -> Outcome {
        self.voice.heard().unwrap();
        let before = victims.reached();
        let sent = act();
        victims.settled(&self.sentinel, self.server);
        Outcome {
            sent,
            leaked: self.voice.heard().unwrap().len(),
            reached: victims.reached() - before,
        }
    }

    /// The whole of an attack by RTP.
    pub fn sprays(&self, victims: &Victims, ports: &[SocketAddrV4], attack: &Attack) {
        attack.came_to(self.sends(victims, &voices(50), ports));
    }
}

/// RTP of an attacker.
pub fn voices(count: u16) -> Vec<Vec<u8>> {
    (1..=count).map(|sequence| rtp::packet(SSRC, sequence, MARK)).collect()
}

/// RTP that claims to go on with the stream of this phone.
pub fn copies(of: &Voice, count: u16) -> Vec<Vec<u8>> {
    let next = of.next_sequence();
    (0..count)
        .map(|n| rtp::packet(of.ssrc, next.wrapping_add(n), MARK))
        .collect()
}

/// All ports of the relay's legs.
pub fn ports(edge: &Edge) -> Vec<SocketAddrV4> {
    let legs = edge.legs().unwrap();
    assert!(!legs.is_empty(), "there is no call to attack");
    legs.iter().map(|leg| endpoint(&leg["external"])).collect()
}
