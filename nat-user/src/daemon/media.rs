//! The media of calls, as the SIP server wants it, on the tables of the NAT beside it: legs of the relay, and bindings of phones inside.

use std::{collections::HashMap, fmt, net::Ipv4Addr, sync::Arc, time::Duration};

use nat_common::{
    binding,
    counters::REFUSED,
    flow::{Endpoint as Flow, InsideKey, Proto},
    maps::{AddressWord, KIND_RELAY},
    ports::slot_index,
    tables::Tables as _,
};

use super::state::State;
use crate::{
    media::command::{
        self, Carrier, Command, DataPath, Exhausted, Expect, Leg, Pinhole, PinholeId, Ports, Relay, RelayId, Want,
    },
    media::{mos::Codec, sdp::Endpoint},
    records::RelayRecord,
    relays::{
        self, Arming, CLASS_ANY, CLASS_DTLS, CLASS_RTP, CLASS_STUN, Gate, LegId, OpenedSide, Peer, RelayError, Side,
        Stream, record::record,
    },
};

/// How long a binding of a call lives after its last packet, should nobody end it: its dialog does, or else the session timer of the call.
const PINHOLE: Duration = Duration::from_secs(2 * 3600);

/// The data path of media. Its owner is the thread of the SIP server; packets need nothing of it.
pub struct Media {
    state: Arc<State>,
    /// Where the next number begins. Numbers of other daemons, whose legs may still be there, begin elsewhere.
    next: u64,
    /// The legs of each stream, of caller and callee.
    open: HashMap<RelayId, [OpenedSide; 2]>,
    /// Those that the daemon before has left, until the call of each is known.
    left: HashMap<RelayId, [OpenedSide; 2]>,
    holes: HashMap<PinholeId, Vec<Hole>>,
    /// Streams that are open for emergency calls: with legs and ports, and closed to everybody.
    reserve: Vec<[OpenedSide; 2]>,
}

/// A binding of a call: its slot, and whose it was.
#[derive(Clone, Copy, Debug)]
struct Hole {
    key: InsideKey,
    slot: u32,
}

impl Media {
    /// Takes the tables of a NAT that runs.
    pub fn new(state: Arc<State>) -> Media {
        let start = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        let tables = &state.kernel.tables;
        let left = relays::streams(tables, false).into_iter();
        let mut media = Media {
            left: left.map(|(call, sides)| (RelayId(call), sides)).collect(),
            reserve: relays::streams(tables, true).into_values().collect(),
            state,
            next: start.as_micros() as u64,
            open: HashMap::new(),
            holes: HashMap::new(),
        };
        media.see_to_reserve();
        media
    }

    /// Opens or closes streams until as many are in reserve as are wanted, or there is no room for more.
    fn see_to_reserve(&mut self) {
        let wanted = self
            .state
            .current()
            .config
            .sip
            .as_ref()
            .map_or(0, |sip| match sip.emergency[..] {
                [] => 0,
                _ => sip.media.reserve as usize,
            });
        while self.reserve.len() > wanted
            && let Some(legs) = self.reserve.pop()
        {
            self.close(legs);
        }
        while self.reserve.len() < wanted
            && let Some(address) = self.addresses().first().copied()
        {
            let side = || Side {
                address,
                peer: Peer::default(),
            };
            let stream = Stream {
                call: self.number(),
                number: relays::RESERVED,
                pair: true,
                classes: 0,
                clock_rate: 0,
                dscp: None,
                follow: false,
                sides: [side(), side()],
            };
            match self.state.relays(|relays, at| relays.open(at, &stream)) {
                Ok(legs) => self.reserve.push(legs),
                Err(error) => {
                    tracing::debug!("{} of {wanted} streams are in reserve: {error}", self.reserve.len());
                    return;
                }
            }
        }
    }

    /// Opens a stream; that of an emergency call from the reserve, if there is no other way.
    fn open(&mut self, stream: &mut Stream, emergency: bool) -> Result<[OpenedSide; 2], Exhausted> {
        let opened = self.open_on(&self.addresses(), stream);
        if opened.is_ok() || !emergency {
            return opened;
        }
        let legs = self.reserve.pop().ok_or(Exhausted)?;
        tracing::info!(
            "an emergency call gets a relay that was kept for it; {} are left",
            self.reserve.len()
        );
        Ok(self.state.relays(|relays, at| relays.reopen(at, legs, stream)))
    }

    fn close(&self, sides: [OpenedSide; 2]) {
        for leg in sides.iter().flat_map(OpenedSide::legs) {
            self.state.relays(|relays, at| relays.close(at, leg.id));
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// The numbers of the external addresses that are in use, each time beginning with another one: so the ports of all of them are used
    /// alike, and a port has rested for long when it is needed again.
    fn addresses(&self) -> Vec<u32> {
        let tables = &self.state.kernel.tables;
        let active = |number: &u32| {
            let address = tables.address(*number);
            address.is_some_and(|address| AddressWord(address.word.get()).active())
        };
        let mut numbers: Vec<u32> = (0..self.state.kernel.capacity.addresses).filter(active).collect();
        if !numbers.is_empty() {
            let first = self.next % numbers.len() as u64;
            numbers.rotate_left(first as usize);
        }
        numbers
    }

    /// Opens a stream on the first of these addresses that has ports for it.
    fn open_on(&self, addresses: &[u32], stream: &mut Stream) -> Result<[OpenedSide; 2], Exhausted> {
        for address in addresses {
            stream.sides.iter_mut().for_each(|side| side.address = *address);
            match self.state.relays(|relays, at| relays.open(at, stream)) {
                Ok(sides) => return Ok(sides),
                Err(error @ RelayError::NoPort(_)) => tracing::debug!("no relay on address {address}: {error}"),
                Err(error) => {
                    tracing::warn!("a call gets no relay: {error}");
                    return Err(Exhausted);
                }
            }
        }
        tracing::warn!("a call gets no relay: no external address has ports for it");
        Err(Exhausted)
    }

    fn bind(&self, inside: Ipv4Addr, port: u16, carrier: Carrier) -> Option<Hole> {
        let tables = &self.state.kernel.tables;
        let numbers = self.state.current().numbers;
        let key = key(inside, port, carrier);
        let now = self.state.now();
        let slot = match binding::find(tables, &numbers, &key, now) {
            Some(slot) => slot,
            None => Some(binding::create(tables, &numbers, &key, now)).filter(|slot| slot & REFUSED == 0)?,
        };
        self.live_for(slot, Some(PINHOLE));
        Some(Hole { key, slot })
    }

    /// Lets a binding live so long after its last packet; `None`: as long as any other.
    fn live_for(&self, slot: u32, time: Option<Duration>) {
        if let Some(slot) = self.state.kernel.tables.slot(slot) {
            slot.lifetime
                .set(time.map_or(0, |time| self.state.kernel.clock.ticks(time)));
        }
    }

    /// The binding is like any other again, unless it has become somebody else's.
    fn let_go(&self, hole: Hole) {
        let numbers = self.state.current().numbers;
        let now = self.state.now();
        if binding::find(&self.state.kernel.tables, &numbers, &hole.key, now) == Some(hole.slot) {
            self.live_for(hole.slot, None);
        }
    }

    /// The binding that an endpoint inside has already.
    fn bound(&self, inside: Ipv4Addr, port: u16, carrier: Carrier) -> Option<Hole> {
        let numbers = self.state.current().numbers;
        let key = key(inside, port, carrier);
        let slot = binding::find(&self.state.kernel.tables, &numbers, &key, self.state.now())?;
        Some(Hole { key, slot })
    }

    fn external(&self, hole: Hole) -> Option<Flow> {
        binding::external_of(&self.state.kernel.tables, hole.slot)
    }

    fn arm(&self, legs: OpenedSide, leg: &Leg, keep: bool) {
        let components = [Some((legs.rtp.id, false)), legs.rtcp.map(|rtcp| (rtcp.id, true))];
        for (id, rtcp) in components.into_iter().flatten() {
            let arming = Arming {
                gates: gates(leg),
                fallback: leg.fallback.and_then(|fallback| component(&fallback, rtcp)),
                keep,
            };
            // A leg that has gone is what an old command is about.
            let _ = self.state.relays(|_, at| relays::arm(at, id, &arming));
        }
    }

    /// All legs of a stream; none if it has gone.
    fn legs(&self, relay: RelayId) -> Vec<LegId> {
        let sides = self.open.get(&relay).into_iter().flatten();
        sides.flat_map(OpenedSide::legs).map(|leg| leg.id).collect()
    }
}

impl Ports for Media {
    fn relay(&mut self, want: &Want, legs: [Leg; 2], expect: Expect) -> Result<Relay, Exhausted> {
        let id = RelayId(self.number());
        let side = |leg: &Leg| Side {
            address: 0,
            peer: Peer {
                gates: gates(leg),
                rtp: leg.fallback.and_then(|fallback| component(&fallback, false)),
                rtcp: leg.fallback.and_then(|fallback| component(&fallback, true)),
            },
        };
        let mut stream = Stream {
            call: id.0,
            number: 0,
            pair: want.rtcp,
            classes: classes(&expect),
            clock_rate: expect.clock,
            dscp: self.state.current().config.sip.as_ref().and_then(|sip| sip.media.dscp),
            follow: true,
            sides: [side(&legs[0]), side(&legs[1])],
        };
        let sides = self.open(&mut stream, want.emergency)?;
        self.open.insert(id, sides);
        Ok(Relay {
            id,
            aliases: sides.map(|side| Endpoint {
                address: side.rtp.external.addr.into(),
                port: side.rtp.external.port,
                rtcp: side.rtcp.map(|rtcp| rtcp.external.port),
            }),
        })
    }

    fn pinhole(&mut self, inside: Endpoint, want: &Want) -> Result<Pinhole, Exhausted> {
        let hole = self.bind(inside.address, inside.port, want.carrier).ok_or(Exhausted)?;
        let rtcp = inside.rtcp.filter(|_| want.rtcp);
        let rtcp = rtcp.and_then(|port| self.bind(inside.address, port, want.carrier));
        let outside = self.external(hole).ok_or(Exhausted)?;
        let rtcp_port = rtcp.and_then(|hole| self.external(hole)).map(|rtcp| rtcp.port);
        let id = PinholeId(self.number());
        let holes = [Some(hole), rtcp].into_iter().flatten().collect();
        let place = Pinhole {
            id,
            outside: Endpoint {
                address: outside.addr.into(),
                port: outside.port,
                rtcp: rtcp_port,
            },
        };
        self.holes.insert(id, holes);
        Ok(place)
    }

    fn is_ours(&self, address: Ipv4Addr, port: u16) -> bool {
        let current = self.state.current();
        let place = current
            .topology
            .external
            .iter()
            .position(|external| *external == address);
        let Some(place) = place else {
            let own = u32::from(address);
            return current.topology.local.contains(&own)
                || current.topology.ports.iter().any(|port| port.addr == Some(address));
        };
        // Somebody's binding there is a phone of the inside that knows how it is seen.
        let tables = &self.state.kernel.tables;
        let index = slot_index(place as u32, Proto::Udp, port);
        let slot = tables.slot(index).filter(|slot| slot.kind.get() != KIND_RELAY);
        let bound = slot.and_then(|slot| binding::live(tables, &current.numbers, index, slot, self.state.now()));
        bound.is_none()
    }
}

impl DataPath for Media {
    fn run(&mut self, command: Command) {
        match command {
            Command::Rearm {
                relay,
                side,
                leg,
                relatch,
            } => {
                if let Some(sides) = self.open.get(&relay) {
                    let place = match side {
                        command::Side::Caller => 0,
                        command::Side::Callee => 1,
                    };
                    self.arm(sides[place], &leg, !relatch);
                }
            }
            Command::Expect { relay, expect } => {
                for leg in self.legs(relay) {
                    let classes = classes(&expect);
                    // As above.
                    let _ = self
                        .state
                        .relays(|_, at| relays::expect(at, leg, classes, expect.clock));
                }
            }
            Command::Hold { relay, held } => {
                for leg in self.legs(relay) {
                    let _ = self.state.relays(|_, at| relays::hold(at, leg, held));
                }
            }
            Command::CloseRelay(relay) => {
                if let Some(sides) = self.open.remove(&relay) {
                    self.close(sides);
                    self.see_to_reserve();
                }
            }
            Command::ClosePinhole(id) => {
                let holes = self.holes.remove(&id).unwrap_or_default();
                holes.into_iter().for_each(|hole| self.let_go(hole));
            }
        }
    }

    fn adopt(&mut self, relay: RelayId) -> Option<bool> {
        let legs = self.left.remove(&relay)?;
        let leg = relays::find(&self.state.kernel.tables, legs[0].rtp.id)?;
        self.open.insert(relay, legs);
        Some(leg.hold)
    }

    fn adopt_pinhole(&mut self, pinhole: &Pinhole, inside: Endpoint, carrier: Carrier) -> bool {
        let rtp = self.bound(inside.address, inside.port, carrier);
        let outside = Flow::new(pinhole.outside.address.into(), pinhole.outside.port);
        let Some(rtp) = rtp.filter(|hole| self.external(*hole) == Some(outside)) else {
            return false;
        };
        let rtcp = inside.rtcp.filter(|_| pinhole.outside.rtcp.is_some());
        let rtcp = rtcp.and_then(|port| self.bound(inside.address, port, carrier));
        self.holes
            .insert(pinhole.id, [Some(rtp), rtcp].into_iter().flatten().collect());
        true
    }

    fn carries(&mut self, relay: RelayId, codec: Codec) {
        for side in self.open.get(&relay).into_iter().flatten() {
            // A leg that has gone carries nothing.
            let _ = self.state.relays(|_, at| relays::carry(at, side.rtp.id, codec));
        }
    }

    fn legs(&self, relay: RelayId) -> Vec<RelayRecord> {
        let kernel = &self.state.kernel;
        let views = self.legs(relay).into_iter();
        let views = views.filter_map(|leg| relays::find(&kernel.tables, leg));
        views.map(|view| record(&kernel.clock, &view)).collect()
    }
}

impl fmt::Debug for Media {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Media of {} streams", self.open.len() + self.holes.len())
    }
}

/// The streams of which no leg has heard anything for so long, on hold or not: whose call is not known is on hold for nobody.
pub fn silent(state: &State, after: Duration) -> Vec<RelayId> {
    let mut streams: HashMap<u64, bool> = HashMap::new();
    for view in relays::views(&state.kernel.tables) {
        let silent = state.kernel.clock.age(view.last) >= after;
        *streams.entry(view.call).or_insert(true) &= silent;
    }
    let silent = streams.into_iter().filter(|(_, silent)| *silent);
    silent.map(|(call, _)| RelayId(call)).collect()
}

/// Closes streams; says how many legs that were.
pub fn close(state: &State, streams: &[RelayId]) -> usize {
    let close = |stream: &RelayId| state.relays(|relays, at| relays.close_call(at, stream.0));
    streams.iter().map(close).sum()
}

fn key(inside: Ipv4Addr, port: u16, carrier: Carrier) -> InsideKey {
    let proto = match carrier {
        Carrier::Udp => Proto::Udp,
        Carrier::Tcp => Proto::Tcp,
    };
    InsideKey {
        proto,
        inside: Flow::new(inside.into(), port),
    }
}

fn gates(leg: &Leg) -> Vec<Gate> {
    let gate = leg.gate.map(|prefix| Gate {
        addr: prefix.addr.into(),
        len: prefix.len,
    });
    gate.into_iter().collect()
}

/// RTP or RTCP of an endpoint.
fn component(of: &Endpoint, rtcp: bool) -> Option<Flow> {
    let port = if rtcp { of.rtcp? } else { of.port };
    Some(Flow::new(of.address.into(), port))
}

fn classes(expect: &Expect) -> u8 {
    if !expect.rtp {
        return CLASS_ANY;
    }
    let maybe = |yes: bool, class: u8| if yes { class } else { 0 };
    CLASS_RTP | maybe(expect.stun, CLASS_STUN) | maybe(expect.dtls, CLASS_DTLS)
}
