//! What a flood of REGISTERs from one source does to the phones of others: the same phones register with and without it, in turns.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::message::Message;
use super::phone::Request;
use crate::ns::Namespace;
use crate::sockets;
use crate::wait::SOON;

/// RFC 3261 §17.1.2.2: an unanswered REGISTER goes out again after this.
const T1: Duration = Duration::from_millis(500);

/// Who floods whom while whose phones register.
#[derive(Clone, Copy, Debug)]
pub struct Flood<'a> {
    /// A registrar where everybody may register.
    pub server: SocketAddrV4,
    /// The domain that it serves.
    pub domain: &'a str,
    /// Where the phones are.
    pub phones: &'a Namespace,
    /// The phones' own addresses, which `phones` has: so that no source is over its rate, there should be some.
    pub addresses: &'a [Ipv4Addr],
    /// Where the flood comes from.
    pub flooder: &'a Namespace,
    /// REGISTERs of the flood per second.
    pub per_second: u32,
}

/// How long the phones of others waited for their answers.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// While nothing else was going on.
    pub quiet: Delays,
    /// During the flood.
    pub flooded: Delays,
    /// REGISTERs that the flood consisted of.
    pub sent: u64,
}

impl Outcome {
    /// How many times longer the slowest hundredth took at least during the flood.
    pub fn ratio(&self) -> f64 {
        self.flooded.percentile(99).as_secs_f64() / self.quiet.percentile(99).as_secs_f64()
    }
}

/// Times from a request to its answer.
#[derive(Clone, Debug, Default)]
pub struct Delays(Vec<Duration>);

impl Delays {
    /// How many were measured.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The time within which so many percent had their answers.
    pub fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        sorted
            .get((sorted.len() * percent / 100).min(last))
            .copied()
            .unwrap_or_default()
    }
}

impl Flood<'_> {
    /// In each round the phones register `registers` times one after the other, once in quiet and once during the flood. A REGISTER
    /// of theirs that gets no 200 at all is an error.
    pub fn measure(&self, rounds: u32, registers: u32) -> Result<Outcome> {
        let mut phones: Vec<Phone> = (0..)
            .zip(self.addresses)
            .map(|(at, ip)| self.phone(at, *ip))
            .collect::<Result<_>>()?;
        let mut outcome = Outcome::default();
        // What is done for the first time takes longer: not counted.
        round(&mut phones, self, registers.min(20), &mut Delays::default())?;
        for _ in 0..rounds {
            round(&mut phones, self, registers, &mut outcome.quiet)?;
            outcome.sent += self.while_flooded(|| round(&mut phones, self, registers, &mut outcome.flooded))?;
        }
        Ok(outcome)
    }

    fn phone(&self, number: usize, ip: Ipv4Addr) -> Result<Phone> {
        Ok(Phone {
            user: format!("phone{number}"),
            socket: sockets::udp(self.phones, (ip, 5060))?,
            at: SocketAddrV4::new(ip, 5060),
            cseq: 0,
        })
    }

    /// Does something during a flood; returns how many requests that was.
    fn while_flooded(&self, work: impl FnOnce() -> Result<()>) -> Result<u64> {
        let socket = sockets::udp(self.flooder, sockets::ANY)?;
        let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
        let done = thread::scope(|scope| {
            scope.spawn(|| self.flood(&socket, &stop, &sent));
            // It has begun before anything is measured.
            let begun = crate::wait::wait_until("the flood to begin", SOON, || sent.load(Ordering::Relaxed) > 0);
            let done = begun.and_then(|()| work());
            stop.store(true, Ordering::Relaxed);
            done
        });
        done.map(|()| sent.into_inner())
    }

    /// Registers somebody else each time, and looks at no answer.
    fn flood(&self, socket: &UdpSocket, stop: &AtomicBool, sent: &AtomicU64) {
        let (start, at) = (Instant::now(), SocketAddrV4::new(Ipv4Addr::new(192, 168, 0, 1), 5060));
        while !stop.load(Ordering::Relaxed) {
            let due = (start.elapsed().as_secs_f64() * f64::from(self.per_second)) as u64 + 1;
            // What a busy machine could not send in time is not made up for in one burst of any length.
            let most = sent.load(Ordering::Relaxed) + u64::from(self.per_second / 50).max(1);
            for number in sent.load(Ordering::Relaxed)..due.min(most) {
                let register =
                    Request::register(&format!("flood{number}"), self.domain).call(&format!("flood{number}"));
                let register = register.line(&format!("Contact: <sip:flood@{at}>")).over_udp(at);
                // A full send buffer is a part of a flood.
                let _ = socket.send_to(register.bytes(), self.server);
                sent.store(number + 1, Ordering::Relaxed);
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The phones register in turns, some 200 times a second in all.
fn round(phones: &mut [Phone], flood: &Flood, registers: u32, delays: &mut Delays) -> Result<()> {
    let count = phones.len().max(1);
    for number in 0..registers as usize {
        let phone = phones.get_mut(number % count).context("no phones")?;
        delays.0.push(phone.register(flood)?);
        thread::sleep(Duration::from_millis(4));
    }
    Ok(())
}

/// A phone that registers again and again.
struct Phone {
    user: String,
    socket: UdpSocket,
    at: SocketAddrV4,
    cseq: u32,
}

impl Phone {
    /// How long the 200 took.
    fn register(&mut self, flood: &Flood) -> Result<Duration> {
        self.cseq += 1;
        let register = Request::register(&self.user, flood.domain)
            .call(&self.user)
            .cseq(self.cseq);
        let register = register.line(&format!("Contact: <sip:{}@{}>", self.user, self.at));
        let register = register.over_udp(self.at);
        let start = Instant::now();
        while start.elapsed() < SOON {
            self.socket.send_to(register.bytes(), flood.server)?;
            if let Some(answer) = self.answer()? {
                match answer.status() {
                    Some(200) => return Ok(start.elapsed()),
                    _ => bail!("{} was answered {answer:?}", self.user),
                }
            }
        }
        bail!("{} got no answer to CSeq {} within {SOON:?}", self.user, self.cseq)
    }

    /// The final answer to the last request, if it comes in time. Answers to earlier ones, which went out twice, may still come.
    fn answer(&self) -> Result<Option<Message>> {
        let end = Instant::now() + T1;
        while let Some(left) = end
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
        {
            let Some((bytes, _)) = sockets::try_receive(&self.socket, left)? else {
                break;
            };
            let message = Message::new(bytes)?;
            if message.status().is_some_and(|code| code >= 200) && message.cseq() == self.cseq {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles() {
        let all = Delays((1..=200).rev().map(Duration::from_millis).collect());
        assert_eq!(
            (all.percentile(50), all.percentile(99)),
            (Duration::from_millis(101), Duration::from_millis(199))
        );
        assert_eq!(all.percentile(100), Duration::from_millis(200));
        assert_eq!(Delays::default().percentile(99), Duration::ZERO);
    }
}
