//! A crowd of phones behind NATs: each has its own outside address, registers, refreshes, and answers what the server asks.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ::tests::ns::Namespace;
use anyhow::{Result, bail, ensure};

use super::rates::Round;
use super::server::{DOMAIN, SERVER};
use super::socket::{Datagram, Socket};

/// The port of every phone's NAT.
const PORT: u16 = 5060;
/// The first phone's outside address.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 0);
/// Without an answer after this long, a request is sent again (RFC 3261 §17.1.2.2, T1).
const T1: Duration = Duration::from_millis(500);
/// So many requests without an answer at a time, unless a rate is given.
const WINDOW: usize = 64;
/// Nothing is waited for longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// The crowd.
pub struct Phones {
    pub(super) socket: Socket,
    count: u32,
    cseq: u32,
}

/// The prompts that came in a time.
#[derive(Debug, Default)]
pub struct Prompts {
    /// Prompts in each second.
    pub by_second: Vec<u32>,
    /// How many phones got at least one.
    pub reached: u32,
}

impl Phones {
    /// Places for this many phones in the load's namespace.
    pub fn new(ns: &Namespace, count: u32) -> Result<Self> {
        Ok(Self {
            socket: Socket::open(ns, PORT)?,
            count,
            cseq: 0,
        })
    }

    /// Registers the phones numbered `from` to `to`, as fast as the server answers. A refusal is an error.
    pub fn register(&mut self, from: u32, to: u32) -> Result<Round> {
        let round = self.send_registers(from, to, None)?;
        ensure!(
            round.failed == 0,
            "{} of {} phones were refused",
            round.failed,
            to - from
        );
        Ok(round)
    }

    /// So many refreshes, of one phone after the other: as fast as the server answers, or at a rate per second.
    pub fn refresh(&mut self, count: u32, rate: Option<f64>) -> Result<Round> {
        let mut round = Round::default();
        let mut left = count;
        while left > 0 {
            let some = left.min(self.count);
            round.join(self.send_registers(0, some, rate)?);
            left -= some;
        }
        Ok(round)
    }

    fn send_registers(&mut self, from: u32, to: u32, rate: Option<f64>) -> Result<Round> {
        ensure!(to <= self.count, "there are {} phones", self.count);
        self.cseq += 1;
        let mut waiting: Vec<Waiting> = Vec::new();
        let (mut round, mut next, start) = (Round::default(), from, Instant::now());
        let mut progress = start;
        let mut answers = Vec::new();
        while next < to || !waiting.is_empty() {
            let now = Instant::now();
            let due = match rate {
                Some(rate) => (f64::from(from) + now.duration_since(start).as_secs_f64() * rate) as u32,
                None => next.saturating_add(WINDOW.saturating_sub(waiting.len()) as u32),
            };
            while next < due.min(to) {
                self.send_register(next)?;
                waiting.push(Waiting {
                    phone: next,
                    sent: now,
                    again: false,
                });
                next += 1;
            }
            // Those that waited longest are in front.
            while let Some(first) = waiting.first().filter(|first| now.duration_since(first.sent) > T1) {
                let phone = first.phone;
                self.send_register(phone)?;
                waiting.remove(0);
                waiting.push(Waiting {
                    phone,
                    sent: now,
                    again: true,
                });
                round.again += 1;
            }
            self.socket.flush()?;
            answers.clear();
            self.answers(&mut answers)?;
            let now = Instant::now();
            for (phone, code) in answers.drain(..) {
                let Some(at) = waiting.iter().position(|waiting| waiting.phone == phone) else {
                    continue;
                };
                if code < 200 {
                    continue;
                }
                let answered = waiting.remove(at);
                progress = now;
                if code != 200 {
                    round.failed += 1;
                    continue;
                }
                round.completed += 1;
                if !answered.again {
                    round
                        .latencies
                        .push(now.duration_since(answered.sent).as_micros() as u32);
                }
            }
            if now.duration_since(progress) > PATIENCE {
                bail!(
                    "the server does not answer any more; {} of {} did it",
                    round.completed,
                    to - from
                );
            }
        }
        round.time = start.elapsed();
        round.latencies.sort_unstable();
        Ok(round)
    }

    /// Answers prompts for this long, and counts them.
    pub fn be_prompted(&mut self, time: Duration) -> Result<Prompts> {
        let (start, mut prompts) = (Instant::now(), Prompts::default());
        let mut reached = vec![false; self.count as usize];
        let mut heard = Vec::new();
        while start.elapsed() < time {
            heard.clear();
            self.prompts(&mut heard)?;
            let second = start.elapsed().as_secs() as usize;
            if prompts.by_second.len() <= second {
                prompts.by_second.resize(second + 1, 0);
            }
            prompts.by_second[second] += heard.len() as u32;
            for phone in &heard {
                if let Some(reached) = reached.get_mut(*phone as usize) {
                    prompts.reached += u32::from(!std::mem::replace(reached, true));
                }
            }
            if heard.is_empty() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(prompts)
    }

    fn send_register(&mut self, phone: u32) -> Result<()> {
        let cseq = self.cseq;
        self.socket.send(address(phone), SERVER, |out| {
            let _ = write!(
                out,
                "REGISTER sip:{DOMAIN} SIP/2.0\r\n\
                 Via: SIP/2.0/UDP 192.168.1.10:5060;branch=z9hG4bK{phone:x}.{cseq:x};rport\r\n\
                 Max-Forwards: 70\r\n\
                 From: <sip:u{phone}@{DOMAIN}>;tag={phone:x}\r\n\
                 To: <sip:u{phone}@{DOMAIN}>\r\n\
                 Call-ID: {phone:x}@load\r\n\
                 CSeq: {cseq} REGISTER\r\n\
                 Contact: <sip:u{phone}@192.168.1.10:5060>\r\n\
                 Expires: 3600\r\n\
                 User-Agent: load of the bench\r\n\
                 Content-Length: 0\r\n\r\n"
            );
        })
    }

    /// Answers to REGISTER that have come: phone and code. Prompts among them are answered too.
    fn answers(&mut self, answers: &mut Vec<(u32, u16)>) -> Result<()> {
        let mut replies = Vec::new();
        for datagram in self.socket.receive()? {
            match status(&datagram.bytes) {
                Some(code) => answers.extend(number(datagram).map(|phone| (phone, code))),
                None => replies.extend(reply(datagram)),
            }
        }
        self.send_replies(replies)
    }

    /// The phones that prompts have come to; they are answered.
    fn prompts(&mut self, heard: &mut Vec<u32>) -> Result<()> {
        let mut replies = Vec::new();
        for datagram in self.socket.receive()? {
            if status(&datagram.bytes).is_none()
                && let Some(reply) = reply(datagram)
            {
                heard.push(u32::from(datagram.own).wrapping_sub(u32::from(FIRST)));
                replies.push(reply);
            }
        }
        self.send_replies(replies)
    }

    fn send_replies(&mut self, replies: Vec<(Ipv4Addr, std::net::SocketAddrV4, Vec<u8>)>) -> Result<()> {
        for (own, other, bytes) in replies {
            self.socket.send(own, other, |out| out.extend(bytes))?;
        }
        self.socket.flush()
    }
}

struct Waiting {
    phone: u32,
    sent: Instant,
    again: bool,
}

/// The outside address of a phone.
pub fn address(phone: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(FIRST) + phone)
}

/// The status code, if it is a response.
pub fn status(bytes: &[u8]) -> Option<u16> {
    let code = bytes.strip_prefix(b"SIP/2.0 ")?.get(..3)?;
    std::str::from_utf8(code).ok()?.parse().ok()
}

/// Whose Call-ID it is.
fn number(datagram: &Datagram) -> Option<u32> {
    let value = field(&datagram.bytes, b"Call-ID")?;
    let end = value.iter().position(|byte| *byte == b'@')?;
    u32::from_str_radix(std::str::from_utf8(&value[..end]).ok()?, 16).ok()
}

/// The value of the first header field of this name, as both servers write it.
pub fn field<'a>(bytes: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    lines(bytes).find_map(|line| value(line, name))
}

/// The lines of the header.
pub fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = bytes
        .split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines.take_while(|line| !line.is_empty())
}

/// What follows `NAME:`, if the line is such a field.
pub fn value<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let rest = line.get(name.len()..)?.strip_prefix(b":")?;
    line[..name.len()]
        .eq_ignore_ascii_case(name)
        .then(|| rest.trim_ascii_start())
}

/// 200 to a request such as OPTIONS (RFC 3261 §8.2.6).
fn reply(datagram: &Datagram) -> Option<(Ipv4Addr, std::net::SocketAddrV4, Vec<u8>)> {
    let mut out = b"SIP/2.0 200 OK\r\n".to_vec();
    copy(&datagram.bytes, &[b"Via", b"From", b"Call-ID", b"CSeq"], &mut out);
    out.extend(b"To: ");
    out.extend(field(&datagram.bytes, b"To")?);
    out.extend(b";tag=phone\r\nContent-Length: 0\r\n\r\n");
    Some((datagram.own, datagram.other, out))
}

/// Copies header fields of these names, in their order.
pub fn copy(bytes: &[u8], names: &[&[u8]], out: &mut Vec<u8>) {
    for line in lines(bytes).filter(|line| names.iter().any(|name| value(line, name).is_some())) {
        out.extend(line);
        out.extend(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_far_as_the_load_needs() {
        let text = b"SIP/2.0 200 OK\r\nVia: a\r\nvia: b\r\nCall-ID: 1f@load\r\nTo: x\r\n\r\nCall-ID: 2@load\r\n";
        let datagram = Datagram {
            bytes: text.to_vec(),
            own: address(7),
            other: SERVER,
        };
        assert_eq!((status(text), number(&datagram)), (Some(200), Some(0x1f)));
        let mut out = Vec::new();
        copy(text, &[b"Via"], &mut out);
        assert_eq!(out, b"Via: a\r\nvia: b\r\n");
        assert_eq!(reply(&datagram).unwrap().0, Ipv4Addr::new(10, 1, 0, 7));
        assert_eq!(status(b"OPTIONS sip:a SIP/2.0\r\n"), None);
    }
}
