//! What the NAT answers on the control socket: read from the tables that it shares with the data path.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddrV4},
    ops::ControlFlow,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use smallvec::SmallVec;

use nat_common::{
    binding,
    config::{FOREVER, Filtering as Number},
    flow::{PROTOCOLS, Side},
    maps::{
        AddressWord, BlockState, BlockWord, KIND_DYNAMIC, KIND_MAPPED, KIND_STATIC, PORTS, ROLE_INSIDE, SCHEMA, Slot,
        SlotState, SlotWord,
    },
    ports::{block_parts, slot_parts},
    session::{SessionState, SessionWord},
    tables::Tables as _,
};

use crate::{
    config::Filtering,
    control::{BindingFilter, ServiceError},
    daemon::state::{State, Totals},
    dataplane::{geometry, kernel::cpus},
    pool::{Closed, used_in_block},
    preflight::Mode,
    records::{
        BindingCounts, BindingKind, BindingRecord, BlockRecord, CounterRecord, ExhaustionRecord, InterfaceRecord,
        PoolRecord, REMOTES, SLOW, StatusRecord, SweepRecord, Traffic,
    },
    slowpath,
    sweep::Stats,
    units::Proto,
};

/// A running NAT, for reading.
pub struct Nat {
    pub state: Arc<State>,
    /// The slow path, for its counters.
    pub slow_path: slowpath::Handle,
    /// `None`: nobody can ask for ports.
    pub pap: Option<crate::daemon::pap::Handle>,
}

impl Nat {
    /// What there is to know of it; the rest of the record is empty.
    pub fn status(&self) -> StatusRecord {
        let (current, stats, kernel) = (self.state.current(), *self.state.stats(), &self.state.kernel);
        let external = &current.topology.external;
        let shift = current.numbers.block_shift;
        let open = current.closed.open_ports();
        let addresses = external.len().min(kernel.capacity.addresses as usize) as u64;
        StatusRecord {
            interfaces: interfaces(&current.topology, current.mode),
            external_addresses: external.clone(),
            pool: PoolRecord {
                hosts: u64::from(current.closed.open_blocks(shift)) * addresses,
                bindings: u64::from(open) * addresses,
                ports_per_address: open,
                blocks_total: stats.blocks_total,
                blocks_used: stats.blocks_used,
            },
            capacity: geometry::bindings(&current.config, &kernel.capacity),
            memory_bytes: kernel.capacity.bytes(cpus()),
            bindings: BindingCounts {
                tcp: stats.bindings[0],
                udp: stats.bindings[1],
                icmp: stats.bindings[2],
            },
            sessions: stats.sessions,
            sweep: sweep(&stats, self.state.totals()),
            exhaustion: ExhaustionRecord {
                quota: self.state.totals().quota.load(Relaxed),
                pool: self.state.totals().pool.load(Relaxed),
            },
            warnings: current.warnings.clone(),
            schema_version: SCHEMA,
            nat: true,
            ..StatusRecord::default()
        }
    }

    /// See [`Service::bindings`](crate::control::Service::bindings).
    pub fn bindings(
        &self,
        filter: &BindingFilter,
        each: &mut dyn FnMut(BindingRecord) -> ControlFlow<()>,
    ) -> Result<(), ServiceError> {
        let (state, numbers) = (&self.state, self.state.current().numbers);
        let (tables, clock) = (&state.kernel.tables, &state.kernel.clock);
        let mut sessions = sessions_of_slots(state);
        let now = state.now();
        for place in 0..numbers.addresses * PROTOCOLS * (PORTS / 64) {
            let mut bits = tables.used_ports(place).map_or(0, |word| word.get());
            while bits != 0 {
                let index = place * 64 + bits.trailing_zeros();
                bits &= bits - 1;
                let Some(slot) = tables.slot(index) else { return Ok(()) };
                let Some(word) = binding::live(tables, &numbers, index, slot, now) else {
                    continue;
                };
                if slot.is_relay() {
                    continue;
                }
                let (proto, inside, external) = endpoints(tables, index, slot);
                if !filter.matches(proto, inside, external) {
                    continue;
                }
                let kind = match slot.kind.get() {
                    KIND_MAPPED => BindingKind::Mapped,
                    KIND_DYNAMIC if slot.lifetime.get() != 0 => BindingKind::Registered,
                    KIND_DYNAMIC => BindingKind::Dynamic,
                    KIND_STATIC => BindingKind::Static,
                    _ => BindingKind::Runtime,
                };
                let common = geometry::common(proto);
                let life = binding::lifetime(&numbers, common, slot);
                let idle = clock.age(binding::last_use(tables, &numbers, index));
                let Sessions { count, remotes } = sessions.remove(&index).unwrap_or_default();
                let record = BindingRecord {
                    proto,
                    inside,
                    external,
                    kind,
                    idle_s: idle.as_secs(),
                    expires_s: (life != FOREVER).then(|| clock.duration(life).saturating_sub(idle).as_secs()),
                    created_s: clock.age(slot.created.get()).as_secs(),
                    filtering: match (kind, numbers.filtering(common)) {
                        (BindingKind::Dynamic | BindingKind::Registered, Number::AddressDependent) => {
                            Filtering::AddressDependent
                        }
                        (BindingKind::Dynamic | BindingKind::Registered, Number::AddressAndPortDependent) => {
                            Filtering::AddressAndPortDependent
                        }
                        _ => Filtering::EndpointIndependent,
                    },
                    sessions: numbers.tracks(common).then_some(count),
                    remotes: remotes.into_vec(),
                    traffic: traffic(state, index),
                };
                // A slot that has changed hands while it was read is not reported with parts of both.
                if SlotWord(slot.word.get()).generation() != word.generation() {
                    continue;
                }
                if each(record).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// See [`Service::blocks`](crate::control::Service::blocks).
    pub fn blocks(
        &self,
        host: Option<Ipv4Addr>,
        each: &mut dyn FnMut(BlockRecord) -> ControlFlow<()>,
    ) -> Result<(), ServiceError> {
        let (shift, closed) = {
            let current = self.state.current();
            (current.numbers.block_shift, current.closed.clone())
        };
        for number in 0..self.state.kernel.tables.blocks.len() as u32 {
            let Some(record) = block_record(&self.state, number, shift, &closed) else {
                continue;
            };
            if host.is_none_or(|host| host == record.host) && each(record).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Packets by direction and reason, and what the slow path did.
    pub fn counters(&self) -> Result<Vec<CounterRecord>, ServiceError> {
        let record =
            |(reason, side, count): (nat_common::counters::Reason, Side, nat_common::counters::Count)| CounterRecord {
                name: reason.name().into(),
                direction: if side == Side::Inside { "out" } else { "in" }.into(),
                value: count.packets,
            };
        let slow = self
            .slow_path
            .counters()
            .into_iter()
            .map(|(name, value)| CounterRecord {
                name: name.into(),
                direction: SLOW.into(),
                value,
            });
        Ok(self
            .state
            .kernel
            .counters()?
            .into_iter()
            .map(record)
            .chain(slow)
            .collect())
    }
}

/// A block that somebody has, also while it drains.
pub fn block_record(state: &State, number: u32, shift: u32, closed: &Closed) -> Option<BlockRecord> {
    let tables = &state.kernel.tables;
    let block = tables.block(number)?;
    let word = BlockWord(block.word.get());
    if !matches!(word.state(), BlockState::Owned | BlockState::Draining) {
        return None;
    }
    let (address, first_port) = block_parts(number, shift);
    Some(BlockRecord {
        external_ip: AddressWord(tables.address(address)?.word.get()).addr().into(),
        first_port,
        last_port: first_port + ((1u32 << shift) - 1) as u16,
        host: word.owner().into(),
        since: state.kernel.clock.time(block.since.get()).into(),
        ports_used: used_in_block(tables, number, shift, closed),
    })
}

fn sweep(last: &Stats, totals: &Totals) -> SweepRecord {
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    SweepRecord {
        passes: last.passes,
        cpu_us: micros(last.cpu),
        cpu_us_max: micros(last.cpu_max),
        bindings_visited: last.visited,
        expired: totals.expired.load(Relaxed),
        repaired: totals.repaired.load(Relaxed),
    }
}

fn interfaces(topology: &crate::daemon::topology::Topology, mode: Mode) -> Vec<InterfaceRecord> {
    topology
        .ports
        .iter()
        .map(|port| InterfaceRecord {
            name: port.name.name.clone(),
            role: if port.role == ROLE_INSIDE { "inside" } else { "outside" }.into(),
            mode: match mode {
                Mode::Native => "native",
                Mode::Generic => "generic",
            }
            .into(),
            ifindex: port.device.index,
            mtu: port.device.mtu,
            vlan: port.name.vlan,
        })
        .collect()
}

fn endpoints<T: nat_common::tables::Tables>(t: &T, index: u32, slot: &Slot) -> (Proto, SocketAddrV4, SocketAddrV4) {
    let (address, proto, port) = slot_parts(index);
    let inside = binding::inside_of(slot);
    let external = t
        .address(address)
        .map_or(0, |address| AddressWord(address.word.get()).addr());
    (
        geometry::shown(proto),
        SocketAddrV4::new(inside.addr.into(), inside.port),
        SocketAddrV4::new(external.into(), port),
    )
}

fn traffic(state: &State, index: u32) -> Option<Traffic> {
    if !state.kernel.capacity.counting {
        return None;
    }
    let traffic = state.kernel.tables.traffic(index)?;
    Some(Traffic {
        packets_out: traffic.packets_out.get(),
        bytes_out: traffic.bytes_out.get(),
        packets_in: traffic.packets_in.get(),
        bytes_in: traffic.bytes_in.get(),
    })
}

/// The sessions of one slot.
#[derive(Default)]
struct Sessions {
    count: u64,
    /// Of the first [`REMOTES`].
    remotes: SmallVec<[SocketAddrV4; 1]>,
}

/// Sessions by slot; what has ended and was not freed yet is left out, permissions are no sessions.
fn sessions_of_slots(state: &State) -> HashMap<u32, Sessions> {
    let (tables, numbers, now) = (&state.kernel.tables, state.current().numbers, state.now());
    let mut found: HashMap<u32, Sessions> = HashMap::new();
    for session in tables.sessions.iter() {
        let word = SessionWord(session.word.get());
        if word.0 == 0 || matches!(word.state(), SessionState::Claimed | SessionState::Permission) {
            continue;
        }
        let index = session.slot.get();
        let live = tables
            .slot(index)
            .is_some_and(|slot| SlotWord(slot.word.get()).state() == SlotState::Live);
        if live && !nat_common::session::stale(tables, &numbers, session, word, now) {
            let sessions = found.entry(index).or_default();
            sessions.count += 1;
            if sessions.remotes.len() < REMOTES {
                let address = session.remote_addr.get().into();
                sessions
                    .remotes
                    .push(SocketAddrV4::new(address, session.remote_port.get()));
            }
        }
    }
    found
}
