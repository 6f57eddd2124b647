//! The decisions of the slow path, without sockets, maps or a clock: `(input, now) -> commands`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nat_common::counters::Reason;
use nat_common::error::{self, IcmpError, Message};
use nat_common::flow::Side;
use nat_common::fragment::Datagram;
use nat_common::maps::{Interface, ROLE_INSIDE, ROLE_OUTSIDE};
use nat_common::packet::{Bytes, ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_VLAN, VLAN_LEN};
use nat_common::parse::{DF, Headers, parse};

use super::counters::{Counter, Counters};
use super::frame::{Held, Record};
use super::limits::Limits;
use super::neighbours::{Neighbours, NextHop};
use super::orphans::{KnownDatagrams, Orphans};
use super::reinject::LIVE_FRAME_MAX;
use super::split;
use crate::config::{Config, Refuse};
use crate::units::Rate;

/// What the configuration says about the slow path.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Say host and net unreachable.
    pub unreachable: bool,
    /// Say time exceeded.
    pub time_exceeded: bool,
    /// Say fragmentation needed.
    pub fragmentation_needed: bool,
    /// Say "prohibited" about what the policy refuses.
    pub prohibited: bool,
    /// All errors together.
    pub rate: Rate,
    /// Errors to one receiver.
    pub rate_per_source: Rate,
    /// Bytes for fragments that wait.
    pub fragment_memory: usize,
    /// How long they wait.
    pub fragment_timeout: Duration,
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        Self {
            unreachable: config.icmp.unreachable,
            time_exceeded: config.icmp.time_exceeded,
            fragmentation_needed: config.icmp.fragmentation_needed,
            prohibited: config.policy.refuse == Refuse::Icmp,
            rate: config.icmp.rate,
            rate_per_source: config.icmp.rate_per_source,
            fragment_memory: config.fragments.memory as usize,
            fragment_timeout: config.fragments.timeout,
        }
    }
}

/// What the shell has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Send an ICMP error.
    Send {
        /// The error.
        message: Box<Message>,
        /// `None`: as the kernel routes it.
        link: Option<Link>,
    },
    /// Run the kernel program of `side` on a frame as if it had just come in on `ifindex`.
    Reinject {
        /// Which of the two programs.
        side: Side,
        /// Device that the frame came in on.
        ifindex: u32,
        /// The frame.
        frame: Vec<u8>,
    },
    /// Have the kernel find out a MAC address.
    Resolve(NextHop),
    /// See whether the kernel knows these by now.
    Poll(Vec<NextHop>),
}

/// A VLAN that has no interface of the kernel's, so that its frames are made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Index of the device.
    pub device: u32,
    /// Ethernet header with tag.
    pub header: [u8; ETHERNET_LEN + VLAN_LEN],
}

/// The state of the slow path.
pub struct Engine {
    settings: Settings,
    /// Those of the data path's map `INTERFACES` that are in use.
    interfaces: Vec<Interface>,
    limits: Limits,
    neighbours: Neighbours,
    orphans: Orphans,
    table: Box<dyn KnownDatagrams>,
    counters: Arc<Counters>,
}

impl Engine {
    /// An empty one. `table` is asked about datagrams, `counters` are counted in.
    pub fn new(settings: Settings, table: Box<dyn KnownDatagrams>, counters: Arc<Counters>, now: Instant) -> Self {
        Self {
            limits: Limits::new(settings.rate, settings.rate_per_source, now),
            orphans: Orphans::new(settings.fragment_memory, settings.fragment_timeout, now),
            neighbours: Neighbours::default(),
            interfaces: Vec::new(),
            settings,
            table,
            counters,
        }
    }

    /// The configuration or the interfaces changed; what waits goes on waiting.
    pub fn configure(&mut self, settings: Settings, interfaces: Vec<Interface>) {
        self.limits.configure(settings.rate, settings.rate_per_source);
        let dropped = self
            .orphans
            .configure(settings.fragment_memory, settings.fragment_timeout);
        self.counters.add(Counter::FragmentRefused, dropped);
        self.settings = settings;
        self.interfaces = interfaces;
    }

    /// A record of the ring.
    pub fn punted(&mut self, record: &[u8], now: Instant) -> Vec<Command> {
        self.counters.count(Counter::Received);
        let mut commands = Vec::new();
        if self.handle(record, now, &mut commands).is_none() {
            self.counters.count(Counter::Malformed);
        }
        commands
    }

    /// The kernel knows the MAC address of a next hop.
    pub fn neighbour_known(&mut self, hop: NextHop, now: Instant) -> Vec<Command> {
        let frames = self.neighbours.known(hop, now);
        self.counters.add(Counter::NeighbourReleased, frames.len());
        self.give_back(frames)
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant) -> Vec<Command> {
        let due = self.neighbours.due(now);
        self.counters.add(Counter::NeighbourReleased, due.release.len());
        self.counters.add(Counter::NeighbourExpired, due.expired.len());
        let mut commands = self.give_back(due.release);
        for frame in due.expired {
            self.say(
                IcmpError::HostUnreachable,
                frame.ifindex,
                &frame.bytes,
                now,
                &mut commands,
            );
        }
        if due.poll {
            commands.push(Command::Poll(self.neighbours.unknown()));
        }
        let due = self.orphans.due(&*self.table, now);
        self.counters.add(Counter::FragmentExpired, due.expired);
        self.counters.add(Counter::FragmentReleased, due.release.len());
        commands.extend(self.give_back(due.release));
        commands
    }

    /// When [`Self::tick`] has something to do next.
    pub fn wake(&self) -> Option<Instant> {
        [self.neighbours.wake(), self.orphans.wake()]
            .into_iter()
            .flatten()
            .min()
    }

    /// `None` for a record that makes no sense.
    fn handle(&mut self, record: &[u8], now: Instant, commands: &mut Vec<Command>) -> Option<()> {
        let record = Record::read(record)?;
        let (ifindex, frame) = (record.punt.ifindex, record.frame);
        let error = match record.reason {
            Reason::Quota | Reason::Exhausted => IcmpError::HostUnreachable,
            Reason::Policy => IcmpError::Prohibited,
            Reason::TtlExpired => IcmpError::TimeExceeded,
            Reason::Unreachable => IcmpError::NetUnreachable,
            Reason::TooBig => {
                let mtu = u16::try_from(record.punt.argument).ok().filter(|mtu| *mtu != 0)?;
                if !dont_fragment(frame)? {
                    return self.cut(&record, mtu, commands);
                }
                IcmpError::FragmentationNeeded(mtu)
            }
            Reason::NoNeighbour => return self.hold_for_neighbour(&record, now, commands),
            Reason::FragmentOrphan => return self.hold_orphan(&record, now),
            _ => return None,
        };
        self.say(error, ifindex, frame, now, commands);
        Some(())
    }

    /// Sends an error about a frame, if configuration, RFC 1812 and the rates allow it.
    fn say(&mut self, error: IcmpError, ifindex: u32, frame: &[u8], now: Instant, commands: &mut Vec<Command>) {
        match self.compose(error, ifindex, frame, now) {
            Ok(message) => commands.push(Command::Send {
                message: Box::new(message),
                link: self.interface(ifindex, frame).and_then(|i| link(i, frame)),
            }),
            Err(why) => self.counters.count(why),
        }
    }

    fn compose(&mut self, error: IcmpError, ifindex: u32, frame: &[u8], now: Instant) -> Result<Message, Counter> {
        if !self.wanted(error) {
            return Err(Counter::SwitchedOff);
        }
        let interface = self.interface(ifindex, frame).ok_or(Counter::Malformed)?;
        let packet = error::ip_packet(frame).ok_or(Counter::Silent)?;
        let from_outside = interface.role == ROLE_OUTSIDE;
        // To the outside the router speaks with the external address that it was spoken to with: a source address of its own
        // there may be private, or filtered on the way.
        let source = if from_outside {
            u32::from_be_bytes([packet[16], packet[17], packet[18], packet[19]])
        } else {
            self.address(interface)
        };
        if source == 0 {
            return Err(Counter::NoSource);
        }
        let message = error::about(frame, error, source).map_err(|_| Counter::Silent)?;
        if self.limits.allow(message.destination(), from_outside, now) {
            Ok(message)
        } else {
            Err(Counter::RateLimited)
        }
    }

    fn wanted(&self, error: IcmpError) -> bool {
        match error {
            IcmpError::TimeExceeded => self.settings.time_exceeded,
            IcmpError::NetUnreachable | IcmpError::HostUnreachable => self.settings.unreachable,
            IcmpError::FragmentationNeeded(_) => self.settings.fragmentation_needed,
            IcmpError::Prohibited => self.settings.prohibited,
        }
    }

    /// Cuts a packet into pieces that fit, and has them translated as the fragments they are.
    fn cut(&mut self, record: &Record, mtu: u16, commands: &mut Vec<Command>) -> Option<()> {
        if !record.whole() {
            self.counters.count(Counter::TooLarge);
            return Some(());
        }
        let side = side(self.interface(record.punt.ifindex, record.frame)?)?;
        match pieces(record.frame, usize::from(mtu)) {
            Some(frames) => {
                self.counters.count(Counter::Split);
                commands.extend(frames.into_iter().map(|frame| Command::Reinject {
                    side,
                    ifindex: record.punt.ifindex,
                    frame,
                }));
            }
            None => self.counters.count(Counter::Uncut),
        }
        Some(())
    }

    fn hold_for_neighbour(&mut self, record: &Record, now: Instant, commands: &mut Vec<Command>) -> Option<()> {
        let hop = (record.punt.out, record.punt.argument);
        if hop.0 == 0 || hop.1 == 0 {
            return None;
        }
        let Some(frame) = self.keep(record, now) else {
            // Its successors shall find the way.
            commands.push(Command::Resolve(hop));
            return Some(());
        };
        let taken = self.neighbours.hold(hop, frame, now);
        self.counters.count(Counter::NeighbourHeld);
        self.counters.add(Counter::NeighbourRefused, taken.dropped);
        if taken.resolve {
            commands.push(Command::Resolve(hop));
        }
        Some(())
    }

    fn hold_orphan(&mut self, record: &Record, now: Instant) -> Option<()> {
        let side = side(self.interface(record.punt.ifindex, record.frame)?)?;
        let Some(frame) = self.keep(record, now) else {
            return Some(());
        };
        let mut headers = Headers::default();
        parse(&mut Bytes(frame.bytes.clone()), &mut headers).ok()?;
        let refused = self.orphans.hold(Datagram::of(&headers, side), frame, now);
        self.counters.count(Counter::FragmentHeld);
        self.counters.add(Counter::FragmentRefused, refused);
        Some(())
    }

    /// A frame to be kept; only a whole one is worth it.
    fn keep(&self, record: &Record, now: Instant) -> Option<Held> {
        if !record.whole() {
            self.counters.count(Counter::TooLarge);
            return None;
        }
        Some(Held::new(record.punt.ifindex, record.frame.to_vec(), now))
    }

    fn give_back(&self, frames: Vec<Held>) -> Vec<Command> {
        let mut commands = Vec::with_capacity(frames.len());
        for held in frames {
            let Some(side) = self.interface(held.ifindex, &held.bytes).and_then(side) else {
                // The interface went while the frame waited.
                self.counters.count(Counter::ReinjectFailed);
                continue;
            };
            let Some(frames) = fitting(held.bytes) else {
                self.counters.count(Counter::TooLarge);
                continue;
            };
            if frames.len() > 1 {
                self.counters.count(Counter::Split);
            }
            commands.extend(frames.into_iter().map(|frame| Command::Reinject {
                side,
                ifindex: held.ifindex,
                frame,
            }));
        }
        commands
    }

    /// The interface that a frame came in on, by device and VLAN.
    fn interface(&self, ifindex: u32, frame: &[u8]) -> Option<&Interface> {
        let vlan = vlan(frame);
        self.interfaces
            .iter()
            .find(|i| i.device == ifindex && i.vlan == vlan && side(i).is_some())
    }

    /// The router's address on an interface; without one there, another one on the same side (RFC 1812 §4.3.2.4: the
    /// router-id). 0 if there is none at all.
    fn address(&self, interface: &Interface) -> u32 {
        let same_side = self.interfaces.iter().filter(|i| i.role == interface.role);
        std::iter::once(interface)
            .chain(same_side)
            .map(|i| i.addr)
            .find(|addr| *addr != 0)
            .unwrap_or(0)
    }
}

fn side(interface: &Interface) -> Option<Side> {
    match interface.role {
        ROLE_INSIDE => Some(Side::Inside),
        ROLE_OUTSIDE => Some(Side::Outside),
        _ => None,
    }
}

/// The frame, or if it is longer than what the kernel takes back, its packet in pieces, which RFC 791 §3.2 allows anyone on
/// the way. `None` if it says "don't fragment".
fn fitting(frame: Vec<u8>) -> Option<Vec<Vec<u8>>> {
    if frame.len() <= LIVE_FRAME_MAX {
        return Some(vec![frame]);
    }
    pieces(&frame, usize::from(u16::MAX))
}

/// The packet of a frame cut into frames of at most `mtu` bytes of IP packet, and no longer than what the kernel takes back.
fn pieces(frame: &[u8], mtu: usize) -> Option<Vec<Vec<u8>>> {
    let packet = error::ip_packet(frame)?;
    let start = packet.as_ptr() as usize - frame.as_ptr() as usize;
    let pieces = split::split(packet, mtu.min(LIVE_FRAME_MAX - start)).ok()?;
    let frame = |piece: &Vec<u8>| [&frame[..start], piece].concat();
    Some(pieces.iter().map(frame).collect())
}

/// How an error about `frame` gets back to where the frame came from, where the kernel could not send it.
fn link(interface: &Interface, frame: &[u8]) -> Option<Link> {
    if interface.vlan == 0 || interface.ifindex != interface.device {
        return None;
    }
    let mut header = [0; ETHERNET_LEN + VLAN_LEN];
    header[..6].copy_from_slice(frame.get(6..12)?);
    header[6..12].copy_from_slice(&interface.mac);
    header[12..14].copy_from_slice(&ETHERTYPE_VLAN.to_be_bytes());
    header[14..16].copy_from_slice(&interface.vlan.to_be_bytes());
    header[16..].copy_from_slice(&ETHERTYPE_IPV4.to_be_bytes());
    Some(Link {
        device: interface.device,
        header,
    })
}

fn dont_fragment(frame: &[u8]) -> Option<bool> {
    let packet = error::ip_packet(frame)?;
    Some(u16::from_be_bytes([packet[6], packet[7]]) & DF != 0)
}

/// The VLAN id of a frame, 0 for none.
fn vlan(frame: &[u8]) -> u16 {
    match frame.get(12..16) {
        Some([hi, lo, tag @ ..]) if u16::from_be_bytes([*hi, *lo]) == ETHERTYPE_VLAN => {
            u16::from_be_bytes([tag[0], tag[1]]) & 0xfff
        }
        _ => 0,
    }
}
