//! Calls through the proxy, both ends of which the bench is: INVITE, 180, 200, ACK, BYE, 200; with media if the proxy relays it.

use std::collections::HashMap;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use ::tests::ns::Namespace;
use anyhow::{Result, bail, ensure};

use super::phones::{Phones, copy, field, lines, status, value};
use super::rates::Round;
use super::server::{DOMAIN, SERVER};
use super::socket::Socket;

/// Where the callers are: one address, which is not behind a NAT.
const CALLER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const PORT: u16 = 5070;
/// Where both ends have their media.
const MEDIA_PORT: u16 = 6000;
/// Bytes of 20 ms of G.711 in RTP.
const SOUND: usize = 172;
/// Calls in progress at a time, unless a rate is given.
const WINDOW: usize = 32;
/// RFC 3261 §17.1.1.2, T1.
const T1: Duration = Duration::from_millis(500);
/// A call that is not over by then has failed.
const PATIENCE: Duration = Duration::from_secs(10);

struct Call {
    /// The phone that is called.
    phone: u32,
    /// When the call began.
    begun: Instant,
    /// When its current request was sent last.
    sent: Instant,
    state: State,
    /// Where the phone is, and where it is to send its media.
    called: Option<(Ipv4Addr, SocketAddrV4)>,
    /// Where the caller is to send its media.
    calling: Option<SocketAddrV4>,
}

enum State {
    /// INVITE is sent; nothing has come back yet.
    Inviting,
    /// A provisional response has come.
    Proceeding,
    /// ACK is sent, and media by both ends. The BYE, to be sent when both have heard each other; bit 0: the caller has, bit 1: the phone.
    Talking(Vec<u8>, u8),
    /// ACK and BYE are sent. The BYE, to be sent again.
    Ending(Vec<u8>),
}

/// The callers.
pub struct Calls {
    socket: Socket,
    /// For the media of both ends.
    media: Option<Socket>,
    phones: u32,
    /// The number of the next call: none is used twice, because a server remembers calls for a while.
    next: u32,
    open: HashMap<u32, Call>,
    round: Round,
}

impl Calls {
    /// Callers of the phones numbered below `phones`.
    pub fn new(ns: &Namespace, phones: u32) -> Result<Self> {
        Ok(Self {
            socket: Socket::open(ns, PORT)?,
            media: None,
            phones,
            next: 0,
            open: HashMap::new(),
            round: Round::default(),
        })
    }

    /// The same with media: a call ends only after each end has heard the other one through the relay.
    pub fn with_media(ns: &Namespace, phones: u32) -> Result<Self> {
        Ok(Self {
            media: Some(Socket::open(ns, MEDIA_PORT)?),
            ..Self::new(ns, phones)?
        })
    }

    /// Makes so many calls, as fast as they are answered, or at a rate per second. The latency is what the proxy adds: from the
    /// caller's INVITE to its arrival at the phone.
    pub fn make(&mut self, crowd: &mut Phones, count: u32, rate: Option<f64>) -> Result<Round> {
        let (first, end) = (self.next, self.next + count);
        let (start, mut swept) = (Instant::now(), Instant::now());
        while self.next < end || !self.open.is_empty() {
            let now = Instant::now();
            let due = match rate {
                Some(rate) => first + (now.duration_since(start).as_secs_f64() * rate) as u32,
                None => self.next.saturating_add(WINDOW.saturating_sub(self.open.len()) as u32),
            };
            while self.next < due.min(end) {
                self.begin(self.next, self.next % self.phones, now)?;
                self.next += 1;
            }
            self.socket.flush()?;
            self.answer(crowd)?;
            self.proceed()?;
            self.listen()?;
            if now.duration_since(swept) > T1 / 10 {
                swept = now;
                self.sweep(now)?;
            }
        }
        let mut round = std::mem::take(&mut self.round);
        round.time = start.elapsed();
        round.latencies.sort_unstable();
        ensure!(round.completed > 0, "not one of {count} calls was completed");
        Ok(round)
    }

    fn begin(&mut self, number: u32, phone: u32, now: Instant) -> Result<()> {
        self.open.insert(
            number,
            Call {
                phone,
                begun: now,
                sent: now,
                state: State::Inviting,
                called: None,
                calling: None,
            },
        );
        self.invite(number, phone)
    }

    fn invite(&mut self, number: u32, phone: u32) -> Result<()> {
        self.socket.send(CALLER, SERVER, |out| {
            let sdp = format!(
                "v=0\r\no=- 1 1 IN IP4 {CALLER}\r\ns=-\r\nc=IN IP4 {CALLER}\r\nt=0 0\r\nm=audio {MEDIA_PORT} RTP/AVP 0 8 101\r\n\
                 a=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:101 telephone-event/8000\r\na=sendrecv\r\n"
            );
            let _ = write!(
                out,
                "INVITE sip:u{phone}@{DOMAIN} SIP/2.0\r\n\
                 Via: SIP/2.0/UDP {CALLER}:{PORT};branch=z9hG4bKi{number:x};rport\r\n\
                 Max-Forwards: 70\r\n\
                 From: <sip:caller@{DOMAIN}>;tag=c{number:x}\r\n\
                 To: <sip:u{phone}@{DOMAIN}>\r\n\
                 Call-ID: {number:x}@calls\r\n\
                 CSeq: 1 INVITE\r\n\
                 Contact: <sip:caller@{CALLER}:{PORT}>\r\n\
                 User-Agent: load of the bench\r\n\
                 Allow: INVITE, ACK, CANCEL, OPTIONS, BYE\r\n\
                 Content-Type: application/sdp\r\n\
                 Content-Length: {}\r\n\r\n{sdp}",
                sdp.len()
            );
        })
    }

    /// The phones' side.
    fn answer(&mut self, crowd: &mut Phones) -> Result<()> {
        let now = Instant::now();
        let mut replies = Vec::new();
        for datagram in crowd.socket.receive()? {
            let bytes = &datagram.bytes;
            let respond = |code: &str, more: &str| {
                let mut out = format!("SIP/2.0 {code}\r\n").into_bytes();
                copy(
                    bytes,
                    &[b"Via", b"Record-Route", b"From", b"Call-ID", b"CSeq"],
                    &mut out,
                );
                out.extend(b"To: ");
                out.extend(field(bytes, b"To").unwrap_or_default());
                if !field(bytes, b"To").is_some_and(|to| find(to, b";tag=").is_some()) {
                    out.extend(b";tag=phone");
                }
                out.extend(more.as_bytes());
                (datagram.own, datagram.other, out)
            };
            if bytes.starts_with(b"INVITE ") {
                if let Some(call) = number(bytes).and_then(|number| self.open.get(&number))
                    && matches!(call.state, State::Inviting | State::Proceeding)
                    && call.sent == call.begun
                {
                    self.round
                        .latencies
                        .push(now.duration_since(call.begun).as_micros() as u32);
                }
                let contact = "\r\nContact: <sip:phone@192.168.1.10:5060>\r\n";
                replies.push(respond("180 Ringing", &format!("{contact}Content-Length: 0\r\n\r\n")));
                if let Some(call) = number(bytes).and_then(|number| self.open.get_mut(&number)) {
                    call.called = described(bytes).map(|leg| (datagram.own, leg));
                }
                let sdp = format!(
                    "v=0\r\no=- 1 1 IN IP4 192.168.1.10\r\ns=-\r\nc=IN IP4 192.168.1.10\r\nt=0 0\r\n\
                     m=audio {MEDIA_PORT} RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n"
                );
                let head = format!(
                    "{contact}Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{sdp}",
                    sdp.len()
                );
                replies.push(respond("200 OK", &head));
            } else if bytes.starts_with(b"BYE ") || bytes.starts_with(b"OPTIONS ") {
                replies.push(respond("200 OK", "\r\nContent-Length: 0\r\n\r\n"));
            }
        }
        for (own, other, bytes) in replies {
            crowd.socket.send(own, other, |out| out.extend(bytes))?;
        }
        crowd.socket.flush()
    }

    /// The callers' side.
    fn proceed(&mut self) -> Result<()> {
        let now = Instant::now();
        let (mut out, mut talking) = (Vec::new(), Vec::new());
        for datagram in self.socket.receive()? {
            let bytes = &datagram.bytes;
            let (Some(code), Some(number)) = (status(bytes), number(bytes)) else {
                continue;
            };
            let invite = field(bytes, b"CSeq").is_some_and(|cseq| cseq.ends_with(b"INVITE"));
            let Some(call) = self.open.get_mut(&number) else {
                continue;
            };
            match (code, &call.state, invite) {
                (100..200, State::Inviting, true) => call.state = State::Proceeding,
                (200, State::Inviting | State::Proceeding, true) => {
                    let bye = within(bytes, "BYE", 2, number, call.phone);
                    out.push(within(bytes, "ACK", 1, number, call.phone));
                    call.sent = now;
                    if self.media.is_some() {
                        call.calling = described(bytes);
                        call.state = State::Talking(bye, 0);
                        talking.push(number);
                    } else {
                        out.push(bye.clone());
                        call.state = State::Ending(bye);
                    }
                }
                // The 200 again: so the ACK was lost.
                (200, State::Talking(..) | State::Ending(_), true) => {
                    out.push(within(bytes, "ACK", 1, number, call.phone))
                }
                (200, State::Ending(_), false) => {
                    self.open.remove(&number);
                    self.round.completed += 1;
                }
                (300.., ..) => {
                    self.open.remove(&number);
                    self.round.failed += 1;
                }
                _ => {}
            }
        }
        for bytes in out {
            self.socket.send(CALLER, SERVER, |out| out.extend(bytes))?;
        }
        talking.into_iter().try_for_each(|number| self.talk(number))?;
        self.socket.flush()
    }

    /// Both ends send media: the phone twice, because its first packet finds nobody yet at the other end.
    fn talk(&mut self, number: u32) -> Result<()> {
        let (Some(socket), Some(call)) = (&mut self.media, self.open.get(&number)) else {
            return Ok(());
        };
        let (Some((phone, to_phone_leg)), Some(to_caller_leg)) = (call.called, call.calling) else {
            return Ok(());
        };
        for (sequence, own, leg, side) in [
            (1u16, phone, to_phone_leg, 1u8),
            (1, CALLER, to_caller_leg, 0),
            (2, phone, to_phone_leg, 1),
        ] {
            socket.send(own, leg, |out| {
                out.extend([0x80, 0]);
                out.extend(sequence.to_be_bytes());
                out.extend((u32::from(sequence) * 160).to_be_bytes());
                out.extend(number.to_be_bytes());
                out.resize(SOUND, side);
            })?;
        }
        socket.flush()
    }

    /// Media that has come, for either end; calls whose ends have both heard each other are ended.
    fn listen(&mut self) -> Result<()> {
        let (Some(socket), now) = (&mut self.media, Instant::now()) else {
            return Ok(());
        };
        for datagram in socket.receive()? {
            let bytes = &datagram.bytes;
            let Some(number) = bytes
                .get(8..12)
                .and_then(|ssrc| ssrc.try_into().ok())
                .map(u32::from_be_bytes)
            else {
                continue;
            };
            let Some(call) = self.open.get_mut(&number) else {
                continue;
            };
            let State::Talking(bye, heard) = &mut call.state else {
                continue;
            };
            // What the phone says is heard by the caller, and the other way round.
            *heard |= match bytes.last() {
                Some(1) if datagram.own == CALLER => 1,
                Some(0) if call.called.is_some_and(|(phone, _)| phone == datagram.own) => 2,
                _ => bail!("media of call {number} reached {}", datagram.own),
            };
            if *heard == 3 {
                let bye = std::mem::take(bye);
                self.socket.send(CALLER, SERVER, |out| out.extend(&bye))?;
                (call.state, call.sent) = (State::Ending(bye), now);
            }
        }
        self.socket.flush()
    }

    /// Sends again what was not answered, and gives up what takes too long.
    fn sweep(&mut self, now: Instant) -> Result<()> {
        let before = self.open.len();
        self.open.retain(|_, call| now.duration_since(call.begun) < PATIENCE);
        self.round.failed += (before - self.open.len()) as u32;
        let late: Vec<u32> = self
            .open
            .iter()
            .filter(|(_, call)| now.duration_since(call.sent) > T1)
            .map(|(n, _)| *n)
            .collect();
        for number in late {
            let Some(call) = self.open.get_mut(&number) else {
                continue;
            };
            call.sent = now;
            let phone = call.phone;
            match &call.state {
                State::Inviting => self.invite(number, phone)?,
                State::Proceeding => continue,
                State::Talking(..) => self.talk(number)?,
                State::Ending(bye) => {
                    let bye = bye.clone();
                    self.socket.send(CALLER, SERVER, |out| out.extend(bye))?;
                }
            }
            self.round.again += 1;
        }
        self.socket.flush()
    }
}

/// A request within the dialog that a 200 made: to its Contact, along its Record-Route from the end (RFC 3261 §12.1.2, §12.2.1.1).
fn within(response: &[u8], method: &str, cseq: u32, number: u32, phone: u32) -> Vec<u8> {
    let contact = field(response, b"Contact").unwrap_or_default();
    let contact = bracketed(contact);
    let mut out = format!("{method} ").into_bytes();
    out.extend(contact);
    let _ = write!(
        out,
        " SIP/2.0\r\nVia: SIP/2.0/UDP {CALLER}:{PORT};branch=z9hG4bK{method}{number:x};rport\r\nMax-Forwards: 70\r\n"
    );
    let routes: Vec<&[u8]> = lines(response)
        .filter_map(|line| value(line, b"Record-Route"))
        .collect();
    for route in routes.iter().rev().flat_map(|list| list.rsplit(|byte| *byte == b',')) {
        out.extend(b"Route: ");
        out.extend(route.trim_ascii());
        out.extend(b"\r\n");
    }
    let to = field(response, b"To").unwrap_or_default();
    let _ = write!(out, "From: <sip:caller@{DOMAIN}>;tag=c{number:x}\r\nTo: ");
    out.extend(to);
    let _ = write!(
        out,
        "\r\nCall-ID: {number:x}@calls\r\nCSeq: {cseq} {method}\r\nUser-Agent: load of the bench, u{phone}\r\nContent-Length: 0\r\n\r\n"
    );
    out
}

/// Where the first stream of a message's session description wants its media.
fn described(bytes: &[u8]) -> Option<SocketAddrV4> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (_, sdp) = text.split_once("\r\n\r\n")?;
    let after = |start: &str| sdp.lines().find_map(|line| line.strip_prefix(start));
    let address = after("c=IN IP4 ")?.trim().parse().ok()?;
    let port = after("m=audio ")?.split(' ').next()?.parse().ok()?;
    Some(SocketAddrV4::new(address, port))
}

fn number(bytes: &[u8]) -> Option<u32> {
    let value = field(bytes, b"Call-ID")?.strip_suffix(b"@calls")?;
    u32::from_str_radix(std::str::from_utf8(value).ok()?, 16).ok()
}

fn bracketed(value: &[u8]) -> &[u8] {
    let start = value.iter().position(|byte| *byte == b'<').map_or(0, |at| at + 1);
    let rest = &value[start..];
    &rest[..rest.iter().position(|byte| *byte == b'>').unwrap_or(rest.len())]
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_in_the_dialog_go_along_the_route_set() {
        let ok = b"SIP/2.0 200 OK\r\nRecord-Route: <sip:b;lr>, <sip:a;lr>\r\nRecord-Route: <sip:z;lr>\r\nTo: <sip:u1@d>;tag=t\r\n\
                   Contact: <sip:phone@h>;x=1\r\nCall-ID: a@calls\r\n\r\n";
        let bye = String::from_utf8(within(ok, "BYE", 2, 10, 1)).unwrap();
        assert!(bye.starts_with("BYE sip:phone@h SIP/2.0\r\n"), "{bye}");
        assert!(
            bye.contains("Route: <sip:z;lr>\r\nRoute: <sip:a;lr>\r\nRoute: <sip:b;lr>\r\n"),
            "{bye}"
        );
        assert!(
            bye.contains("To: <sip:u1@d>;tag=t\r\n") && bye.contains("CSeq: 2 BYE\r\n"),
            "{bye}"
        );
        assert_eq!(number(ok), Some(10));
        let offer = b"INVITE sip:x SIP/2.0\r\n\r\nv=0\r\nc=IN IP4 192.0.2.1\r\nm=audio 7000 RTP/AVP 0\r\n";
        assert_eq!(described(offer), Some("192.0.2.1:7000".parse().unwrap()));
        assert_eq!(described(ok), None);
    }
}
