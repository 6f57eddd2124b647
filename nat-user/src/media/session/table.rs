//! The streams of one fork and their places.

mod stored;

use smallvec::SmallVec;

use super::{Left, Lie, Passed, Passing, Refusal, Why};
use crate::{
    media::{
        command::{Carrier, Command, Expect, Leg, Pinhole, Ports, Relay, RelayId, Side, Want},
        end::{End, Reach, is_unusable},
        policy::{Plan, Policy},
        sdp::{Address, Endpoint, Media, Proto, Sdp, Unreadable, edit::Told},
    },
    sip::core::arena::{Arena, Id},
};

/// What there is to do with a message, and with what.
pub struct Work<'a> {
    pub policy: &'a Policy,
    pub emergency: bool,
    pub passing: &'a Passing<'a>,
    pub ports: &'a mut dyn Ports,
    pub out: &'a mut Vec<Command>,
    pub passed: Passed,
}

/// Streams by the m= lines that they belong to.
#[derive(Debug, Default)]
pub struct Table {
    /// The stream of each m= line; bundled lines share one (RFC 9143).
    lines: Vec<Option<Id>>,
    streams: Arena<Stream>,
}

/// What is offered.
#[derive(Clone, Debug)]
pub struct Offer {
    pub by: Side,
    lines: Vec<Option<(Id, Said)>>,
}

/// What was answered to it.
#[derive(Clone, Debug)]
pub struct Answer {
    lines: Vec<Option<(Id, Said)>>,
}

/// What one party says of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    endpoint: Option<Endpoint>,
    end: End,
    leg: Leg,
    carrier: Carrier,
    expect: Expect,
    held: bool,
    /// TCP that connects by itself (RFC 4145).
    active: bool,
    codec: Box<str>,
}

/// A stream that goes through us.
#[derive(Debug)]
struct Stream {
    way: Way,
    carrier: Carrier,
    /// What both have said and is in force: that of who has offered it first from the beginning.
    said: [Option<Said>; 2],
    expect: Expect,
    legs: [Leg; 2],
    held: bool,
    /// An answer has taken it.
    accepted: bool,
}

#[derive(Debug)]
enum Way {
    Relay(Relay),
    /// The bindings of caller and callee. A second one is there while a party is about to move.
    Pinholes([SmallVec<[Hole; 1]>; 2]),
}

#[derive(Debug)]
struct Hole {
    inside: Endpoint,
    pinhole: Pinhole,
}

/// A stream, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamInfo<'a> {
    /// The relay's place; `None`: it has pinholes.
    pub relay: Option<Relay>,
    /// What caller and callee have said about where they take it.
    pub said: [Option<Endpoint>; 2],
    /// Encoding name of the first format of the answer, or of the offer before there is one.
    pub codec: &'a str,
    pub expect: Expect,
    pub held: bool,
}

/// Why a stream is not taken.
enum Stop {
    Left(Left),
    Lie(Lie),
    Refused(Refusal),
}

type Tells = Vec<Option<Told>>;
/// A stream and what is said of it, and what the other side is told.
type Taken = (Option<(Id, Said)>, Option<Told>);

impl Table {
    /// An offer passes: its streams get places. If it is refused, those that it got are given back.
    pub fn offer(&mut self, sdp: &Sdp<'_>, work: &mut Work<'_>) -> Result<(Offer, Tells), Refusal> {
        let by = work.passing.from;
        let mut offer = Offer { by, lines: Vec::new() };
        let mut tells = Tells::new();
        let mut fresh: SmallVec<[Id; 4]> = SmallVec::new();
        for (index, media) in sdp.media.iter().enumerate() {
            let (line, told) = match self.propose(index, sdp, media, &offer, &mut fresh, work) {
                Ok(proposed) => proposed,
                Err(stop) => match self.stopped(stop, &fresh, work) {
                    Some(refusal) => return Err(refusal),
                    None => (None, None),
                },
            };
            work.passed.anchored += u32::from(told.is_some());
            offer.lines.push(line);
            tells.push(told);
        }
        Ok((offer, tells))
    }

    /// An answer passes.
    pub fn answer(&mut self, sdp: &Sdp<'_>, offer: &Offer, work: &mut Work<'_>) -> (Answer, Tells) {
        let mut answer = Answer { lines: Vec::new() };
        let mut tells = Tells::new();
        for (index, media) in sdp.media.iter().enumerate() {
            let shared = sdp.tagged(index).unwrap_or(index);
            let offered = offer.lines.get(shared).and_then(Option::as_ref);
            let stream = offered.map(|(id, _)| *id).filter(|_| media.port.value != 0);
            let (line, told) = match stream.map(|id| self.take(sdp, media, id, work)) {
                None => (None, None),
                Some(Ok(taken)) => taken,
                Some(Err(stop)) => {
                    work.passed.left.push(stop.late());
                    (None, None)
                }
            };
            work.passed.anchored += u32::from(told.is_some());
            answer.lines.push(line);
            tells.push(told);
        }
        (answer, tells)
    }

    /// What an offer and its answer say comes into force.
    pub fn apply(&mut self, offer: &Offer, answer: &Answer, out: &mut Vec<Command>) {
        let mut seen: SmallVec<[Id; 4]> = SmallVec::new();
        for (id, answered) in answer.lines.iter().flatten() {
            let offered = offer.lines.iter().flatten().find(|(other, _)| other == id);
            let (Some((_, offered)), Some(stream)) = (offered, self.streams.get_mut(*id)) else {
                continue;
            };
            if seen.contains(id) {
                continue; // a bundle is what its first line says
            }
            seen.push(*id);
            stream.accepted = true;
            stream.arm(offer.by, offered, out);
            stream.arm(offer.by.other(), answered, out);
            stream.agree(offered, answered, out);
        }
    }

    /// An answer is final: streams that it does not have are none any more.
    pub fn settle(&mut self, answer: &Answer) {
        self.lines = answer
            .lines
            .iter()
            .map(|line| line.as_ref().map(|(id, _)| *id))
            .collect();
    }

    /// Gives back what no answer has taken, and what nobody uses any more.
    pub fn collect(&mut self, out: &mut Vec<Command>) {
        let lines = &self.lines;
        let unused: SmallVec<[Id; 4]> = self
            .streams
            .iter()
            .filter(|(id, stream)| !stream.accepted || !lines.contains(&Some(*id)))
            .map(|(id, _)| id)
            .collect();
        for id in unused {
            self.remove(id, out);
        }
        for id in self.lines.iter().flatten() {
            if let Some(stream) = self.streams.get_mut(*id) {
                stream.close_old_holes(out);
            }
        }
    }

    /// Gives everything back.
    pub fn close(&mut self, out: &mut Vec<Command>) {
        let all: SmallVec<[Id; 4]> = self.streams.iter().map(|(id, _)| id).collect();
        for id in all {
            self.remove(id, out);
        }
    }

    /// Ends the streams of these relays.
    pub fn lose(&mut self, relays: &[RelayId], out: &mut Vec<Command>) {
        let lost = |stream: &Stream| matches!(&stream.way, Way::Relay(relay) if relays.contains(&relay.id));
        let ids: SmallVec<[Id; 4]> = self
            .streams
            .iter()
            .filter(|(_, stream)| lost(stream))
            .map(|(id, _)| id)
            .collect();
        for id in ids {
            self.remove(id, out);
        }
    }

    /// What there is, for people.
    pub fn info(&self) -> impl Iterator<Item = StreamInfo<'_>> {
        self.streams.iter().map(|(_, stream)| StreamInfo {
            relay: match &stream.way {
                Way::Relay(relay) => Some(*relay),
                Way::Pinholes(_) => None,
            },
            said: [0, 1].map(|side| stream.said[side].as_ref().and_then(|said| said.endpoint)),
            codec: stream.said.iter().flatten().last().map_or("", |said| &said.codec),
            expect: stream.expect,
            held: stream.held,
        })
    }

    /// One m= line of an answer, which takes this stream.
    fn take(&mut self, sdp: &Sdp<'_>, media: &Media, id: Id, work: &mut Work<'_>) -> Result<Taken, Stop> {
        let before = self
            .streams
            .get(id)
            .and_then(|stream| stream.said[work.passing.from.index()].as_ref());
        let said = work.judge(sdp, media, before)?;
        let told = self.tell(id, &said, work)?;
        Ok((Some((id, said)), told))
    }

    /// One m= line of an offer. `Ok` without a stream: it is refused by the offer itself.
    fn propose(
        &mut self,
        index: usize,
        sdp: &Sdp<'_>,
        media: &Media,
        offer: &Offer,
        fresh: &mut SmallVec<[Id; 4]>,
        work: &mut Work<'_>,
    ) -> Result<Taken, Stop> {
        if media.port.value == 0 {
            return Ok((None, None));
        }
        let before = self.lines.get(index).copied().flatten();
        let before = before.and_then(|id| self.streams.get(id).map(|stream| (id, stream)));
        let said = work.judge(
            sdp,
            media,
            before.and_then(|(_, stream)| stream.said[offer.by.index()].as_ref()),
        )?;
        // Two lines with one endpoint are one transport: a bundle (RFC 9143 section 7.1).
        let same = |(_, other): &&(Id, Said)| other.endpoint.is_some() && other.endpoint == said.endpoint;
        let shared = offer.lines.iter().flatten().find(same).map(|(id, _)| *id);
        let known = before
            .filter(|(_, stream)| stream.carrier == said.carrier)
            .map(|(id, _)| id);
        let id = match shared.or(known) {
            Some(id) => id,
            None => {
                let id = self.open(&said, work)?;
                fresh.push(id);
                id
            }
        };
        if self.lines.len() <= index {
            self.lines.resize(index + 1, None);
        }
        // What is in force stays so until there is an answer.
        self.lines[index].get_or_insert(id);
        let told = match self.tell(id, &said, work) {
            Err(Stop::Refused(_)) if work.emergency && fresh.contains(&id) => {
                self.relay_instead(id, &said, work)?;
                self.tell(id, &said, work)?
            }
            told => told?,
        };
        Ok((Some((id, said)), told))
    }

    /// A new stream that `said` offers.
    fn open(&mut self, said: &Said, work: &mut Work<'_>) -> Result<Id, Stop> {
        let passing = work.passing;
        let side = passing.from;
        let peer = End::of(&passing.receiver, None, &work.policy.inside);
        let ends = ordered(side, said.end, peer);
        let legs = ordered(side, said.leg, work.policy.leg(peer, &passing.receiver, None));
        let way = match work.policy.decide(ends) {
            Plan::Direct => return Err(Stop::Left(Left::Direct)),
            Plan::Pinhole => Way::Pinholes(Default::default()),
            Plan::Relay if said.carrier == Carrier::Tcp => return Err(Stop::Left(Left::Tcp)),
            Plan::Relay => {
                let want = work.want(said, ends);
                Way::Relay(work.ports.relay(&want, legs, said.expect)?)
            }
        };
        let mut stream = Stream {
            way,
            carrier: said.carrier,
            said: [None, None],
            expect: said.expect,
            legs,
            held: false,
            accepted: false,
        };
        stream.said[side.index()] = Some(said.clone());
        Ok(self.streams.insert(stream))
    }

    /// An emergency call finds no port for a binding: the relay has some in reserve.
    fn relay_instead(&mut self, id: Id, said: &Said, work: &mut Work<'_>) -> Result<(), Stop> {
        if let Some(stream) = self.streams.get_mut(id).filter(|_| said.carrier == Carrier::Udp) {
            let want = work.want(said, ordered(work.passing.from, said.end, End::Unknown));
            stream.way = Way::Relay(work.ports.relay(&want, stream.legs, said.expect)?);
        }
        Ok(())
    }

    /// What the other side is told of a stream: the alias that faces it, or the binding of who speaks.
    fn tell(&mut self, id: Id, said: &Said, work: &mut Work<'_>) -> Result<Option<Told>, Stop> {
        let side = work.passing.from;
        let Some(stream) = self.streams.get_mut(id) else {
            return Ok(None);
        };
        let receiver = stream.said[side.other().index()].as_ref();
        let (peer, receiver) = (receiver.map(|said| said.end), receiver.and_then(|said| said.endpoint));
        let holes = match &mut stream.way {
            Way::Relay(relay) => {
                let to = relay.aliases[side.other().index()];
                return Ok(Some(Told { to, receiver }));
            }
            Way::Pinholes(holes) => &mut holes[side.index()],
        };
        let Some(inside) = said.endpoint.filter(|_| said.end == End::Inside && !said.active) else {
            return Ok(None);
        };
        let to = match holes.iter().find(|hole| hole.inside == inside) {
            Some(hole) => hole.pinhole.outside,
            None => {
                let ends = ordered(side, said.end, peer.unwrap_or(End::Unknown));
                let pinhole = work.ports.pinhole(inside, &work.want(said, ends))?;
                holes.push(Hole { inside, pinhole });
                pinhole.outside
            }
        };
        Ok(Some(Told { to, receiver }))
    }

    /// A line of an offer is not taken. `Some`: nor is the offer.
    fn stopped(&mut self, stop: Stop, fresh: &[Id], work: &mut Work<'_>) -> Option<Refusal> {
        let refusal = match stop {
            Stop::Left(left) => {
                work.passed.left.push(left);
                return None;
            }
            // A response cannot be refused.
            stop if work.passing.message.code().is_some() => {
                work.passed.left.push(stop.late());
                return None;
            }
            Stop::Lie(lie) => Refusal::unacceptable(Why::Lie(lie)),
            Stop::Refused(refusal) => refusal,
        };
        for id in fresh {
            self.remove(*id, work.out);
        }
        Some(refusal)
    }

    fn remove(&mut self, id: Id, out: &mut Vec<Command>) {
        for line in self.lines.iter_mut().filter(|line| **line == Some(id)) {
            *line = None;
        }
        let Some(stream) = self.streams.remove(id) else { return };
        match stream.way {
            Way::Relay(relay) => out.push(Command::CloseRelay(relay.id)),
            Way::Pinholes(holes) => {
                let holes = holes.into_iter().flatten();
                out.extend(holes.map(|hole| Command::ClosePinhole(hole.pinhole.id)));
            }
        }
    }
}

impl Stream {
    /// What a party says is in force.
    fn arm(&mut self, side: Side, said: &Said, out: &mut Vec<Command>) {
        let before = self.said[side.index()].replace(said.clone());
        let moved = |before: Said| before.endpoint != said.endpoint || before.leg.gate != said.leg.gate;
        let relatch = before.is_some_and(moved);
        let other = std::mem::replace(&mut self.legs[side.index()], said.leg) != said.leg;
        if let Way::Relay(relay) = &self.way
            && (relatch || other)
        {
            out.push(Command::Rearm {
                relay: relay.id,
                side,
                leg: said.leg,
                relatch,
            });
        }
    }

    /// What follows from both together.
    fn agree(&mut self, offered: &Said, answered: &Said, out: &mut Vec<Command>) {
        let (one, other) = (&offered.expect, &answered.expect);
        let expect = Expect {
            rtp: one.rtp && other.rtp,
            mux: one.mux && other.mux,
            stun: one.stun || other.stun,
            dtls: one.dtls || other.dtls,
            clock: other.clock,
        };
        let held = offered.held || answered.held;
        let (changed, turned) = (
            std::mem::replace(&mut self.expect, expect) != expect,
            std::mem::replace(&mut self.held, held) != held,
        );
        let Way::Relay(Relay { id: relay, .. }) = self.way else {
            return;
        };
        if changed {
            out.push(Command::Expect { relay, expect });
        }
        if turned {
            out.push(Command::Hold { relay, held });
        }
    }

    fn close_old_holes(&mut self, out: &mut Vec<Command>) {
        let Way::Pinholes(holes) = &mut self.way else { return };
        for (holes, said) in holes.iter_mut().zip(&self.said) {
            let now = said.as_ref().and_then(|said| said.endpoint);
            holes.retain(|hole| {
                let stays = Some(hole.inside) == now;
                if !stays {
                    out.push(Command::ClosePinhole(hole.pinhole.id));
                }
                stays
            });
        }
    }
}

impl Work<'_> {
    /// What the sender of a message says of a stream that it wants. `before`: what it said last.
    fn judge(&mut self, sdp: &Sdp<'_>, media: &Media, before: Option<&Said>) -> Result<Said, Stop> {
        let carrier = match media.proto {
            Proto::Rtp { .. } | Proto::Udp { .. } => Carrier::Udp,
            Proto::Tcp => Carrier::Tcp,
            Proto::Other => return Err(Stop::Left(Left::Transport)),
        };
        if media.port.count != 1 {
            return Err(Stop::Left(Left::PortRange));
        }
        let connection = sdp
            .connection(media)
            .ok_or(Stop::Left(Left::Unreadable(Unreadable::Connection)))?;
        let address = match connection.address {
            Address::V6 => return Err(Stop::Left(Left::Ipv6)),
            Address::Name => None,
            Address::V4(address) if address.is_unspecified() => None,
            Address::V4(address) if address.is_multicast() => return Err(Stop::Left(Left::Multicast)),
            Address::V4(address) if is_unusable(address) => return Err(Stop::Lie(Lie::Unusable)),
            Address::V4(address) if self.ports.is_ours(address, media.port.value) => return Err(Stop::Lie(Lie::Ours)),
            Address::V4(address) => Some(address),
        };
        let reach: &Reach = &self.passing.sender;
        let (codec, clock) = sdp.codec(media);
        let endpoint = sdp.endpoint(media).filter(|_| address.is_some());
        let end = End::of(reach, address, &self.policy.inside);
        let mut said = Said {
            endpoint,
            end,
            leg: self.policy.leg(end, reach, endpoint),
            carrier,
            expect: Expect {
                rtp: media.proto.rtp(),
                mux: media.rtcp_mux,
                stun: sdp.ice(media),
                dtls: sdp.dtls(media),
                clock,
            },
            held: sdp.held(media),
            active: carrier == Carrier::Tcp && media.active,
            codec: String::from_utf8_lossy(&codec[..codec.len().min(32)]).into(),
        };
        // Who holds with 0.0.0.0 is still where it was.
        if let (None, Some(before)) = (address, before) {
            said.endpoint = before.endpoint;
            said.end = before.end;
            said.leg = before.leg;
        }
        Ok(said)
    }

    fn want(&self, said: &Said, ends: [End; 2]) -> Want {
        Want {
            carrier: said.carrier,
            rtcp: said.expect.rtp,
            ends,
            emergency: self.emergency,
        }
    }
}

/// What is mine and what is the other side's, in the order of caller and callee.
fn ordered<T>(side: Side, mine: T, other: T) -> [T; 2] {
    match side {
        Side::Caller => [mine, other],
        Side::Callee => [other, mine],
    }
}

impl Stop {
    /// The same for a response, which is too late to be refused.
    fn late(self) -> Left {
        match self {
            Stop::Left(left) => left,
            Stop::Lie(lie) => Left::Lie(lie),
            Stop::Refused(_) => Left::Exhausted,
        }
    }
}

impl From<crate::media::command::Exhausted> for Stop {
    fn from(exhausted: crate::media::command::Exhausted) -> Stop {
        Stop::Refused(exhausted.into())
    }
}
