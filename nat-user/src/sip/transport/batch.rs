//! What a batch of datagrams becomes.

use std::{collections::VecDeque, net::IpAddr};

use bytes::Bytes;

use super::{
    Counters, Reason,
    mmsg::Arena,
    stun::{self, Stun},
    trace::{Direction, Taps, Traced},
    udp::{Kind, Udp, classify},
};
use crate::sip::{command::Input, flow::Transport, time::Time};

/// Where the datagrams of a batch go.
pub struct Batch<'a> {
    pub arena: &'a Arena,
    /// Bytes of a message.
    pub limit: usize,
    pub now: Time,
    pub counters: &'a mut Counters,
    pub taps: &'a mut Taps,
    pub inputs: &'a mut VecDeque<Input>,
}

impl Batch<'_> {
    /// Takes one datagram of the arena.
    pub fn take(&mut self, udp: &mut Udp, i: usize) {
        let datagram = self
            .arena
            .datagram(i)
            .filter(|datagram| answerable(datagram.from.ip(), datagram.from.port()));
        let Some(datagram) = datagram else {
            return self.counters.drop(Reason::BadSource);
        };
        let flow = udp.flow(datagram.from);
        let local = udp.local(datagram.from, datagram.local);
        let message = match classify(datagram.bytes) {
            Kind::Message(message) => message,
            Kind::KeepAlive => {
                self.counters.udp.keep_alives += 1;
                return self.inputs.push_back(Input::KeptAlive(flow));
            }
            Kind::Stun => {
                return match stun::answer(datagram.bytes, datagram.from) {
                    Stun::Answer(answer) => {
                        self.counters.udp.keep_alives += 1;
                        // Without room for it, the client asks again.
                        let _ = udp.push(datagram.from, answer, None);
                        self.inputs.push_back(Input::KeptAlive(flow));
                    }
                    Stun::Ignore => self.counters.drop(Reason::BadStun),
                };
            }
        };
        if message.len() > self.limit {
            return self.counters.drop(Reason::TooLarge);
        }
        self.counters.received(Transport::Udp, message.len());
        // A copy of its own: a message that a transaction keeps must not hold the memory of its neighbours.
        let bytes = Bytes::copy_from_slice(message);
        self.taps.tell(self.counters, || Traced {
            time: self.now,
            direction: Direction::In,
            flow,
            local,
            bytes: bytes.clone(),
        });
        self.inputs.push_back(Input::Received { flow, local, bytes });
    }
}

/// Whether an answer can go there: not to port 0, not to many, not to nobody.
fn answerable(address: IpAddr, port: u16) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    port != 0 && !address.is_multicast() && !address.is_unspecified() && !broadcast
}
