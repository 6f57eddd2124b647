//! The place in the daemon of those who watch registrations that cross the NAT: ring and tables around [`Observer`]. Copies of the media of captured
//! calls come by the same ring and are handed on.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};
use bytes::Bytes;
use nat_common::{
    flow::{Endpoint, Proto},
    session::{self, Flow},
    tables::Tables as _,
    watch::{self, Copied},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::watch as channel,
};

use super::state::{MediaCopy, State};
use crate::{
    records::Time as Moment,
    relays,
    sip::{
        observe::{Action, Binding, Observed, Observer},
        time::Time,
    },
};

/// Copies that are read before other tasks have their turn.
const BATCH: usize = 64;

/// Starts to watch; ends when `stopped` turns true. Without `[sip]` the data path copies nothing, so nothing is done.
pub fn start(state: &Arc<State>, mut stopped: channel::Receiver<bool>) -> Result<()> {
    let watcher = Watcher {
        state: state.clone(),
        observer: Observer::default(),
        clock: Clock::new(),
    };
    let ring = state.kernel.ring("WATCHED")?;
    let ready = readiness(&ring).context("cannot wait for the ring WATCHED")?;
    tokio::spawn(async move {
        tokio::select! {
            // An error means that the sender is gone, which is the end as well.
            _ = stopped.wait_for(|stop| *stop) => {}
            error = watcher.run(ring, ready) => tracing::error!(
                "nobody watches registrations any more: {error}; bindings to registrars elsewhere live as long as others until a restart"
            ),
        }
    });
    Ok(())
}

struct Watcher {
    state: Arc<State>,
    observer: Observer,
    clock: Clock,
}

impl Watcher {
    /// Returns why it cannot go on.
    async fn run(mut self, mut ring: RingBuf<MapData>, ready: AsyncFd<OwnedFd>) -> io::Error {
        loop {
            let now = self.clock.now();
            let wait = match self.observer.next() {
                Some(at) => at.since(now).max(Duration::from_millis(10)),
                None => Duration::from_secs(3600),
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => self.tick(),
                guard = ready.readable() => {
                    let mut guard = match guard {
                        Ok(guard) => guard,
                        Err(error) => return error,
                    };
                    let mut left = BATCH;
                    while left > 0 && let Some(record) = ring.next() {
                        self.copied(&record);
                        left -= 1;
                    }
                    if left > 0 {
                        guard.clear_ready();
                    } else {
                        drop(guard);
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
    }

    fn tick(&mut self) {
        let mut actions = Vec::new();
        self.observer.tick(self.clock.now(), &mut actions);
        self.carry_out(actions);
    }

    fn copied(&mut self, record: &[u8]) {
        let read = read(record);
        if let Some((observed, length)) = &read
            && let Some(copy) = media_copy(&self.state, observed, *length)
        {
            // Nobody may capture any more.
            let _ = self.state.copies.send(Arc::new(copy));
            return;
        }
        let Some((observed, _)) = read else {
            tracing::debug!(
                "a record of {} bytes in the ring WATCHED is not understood",
                record.len()
            );
            return;
        };
        // Switched off by a reload: what was still in the ring.
        let Some(most) = self.most() else { return };
        let mut actions = Vec::new();
        self.observer.observed(&observed, most, self.clock.now(), &mut actions);
        self.carry_out(actions);
    }

    /// The longest life of a binding, if registrations are watched.
    fn most(&self) -> Option<Duration> {
        let current = self.state.current();
        let sip = current.config.sip.as_ref()?;
        sip.observe.enabled.then_some(sip.observe.max)
    }

    fn carry_out(&self, actions: Vec<Action>) {
        let (tables, clock) = (&self.state.kernel.tables, &self.state.kernel.clock);
        let usual = self.state.current().numbers.udp;
        let slot = |binding: Binding| tables.slot(binding.slot);
        for action in actions {
            match action {
                Action::Extend {
                    binding,
                    lifetime,
                    registrar,
                } => {
                    // Never shorter than that of other bindings.
                    let ticks = Some(clock.ticks(lifetime)).filter(|ticks| *ticks > usual).unwrap_or(0);
                    if slot(binding).is_some_and(|slot| watch::extend(slot, binding.generation, ticks)) {
                        self.let_through(binding, registrar, ticks);
                        tracing::debug!(
                            slot = binding.slot,
                            ?lifetime,
                            "a binding lives as long as its registration"
                        );
                    }
                }
                Action::Restore(binding) => {
                    if let Some(slot) = slot(binding) {
                        watch::extend(slot, binding.generation, 0);
                    }
                }
                Action::Unwatch(binding) => {
                    if let Some(slot) = slot(binding) {
                        watch::watch(slot, binding.generation, false);
                    }
                }
            }
        }
    }

    /// With a filter, the registrar may send for as long as the binding lives: the next call comes from there.
    fn let_through(&self, binding: Binding, registrar: SocketAddrV4, ticks: u32) {
        let (tables, numbers) = (&self.state.kernel.tables, self.state.current().numbers);
        let Some(slot) = tables.slot(binding.slot).filter(|_| ticks != 0) else {
            return;
        };
        let now = self.state.now();
        let flow = Flow {
            slot: binding.slot,
            generation: binding.generation,
            proto: Proto::Udp,
            flags: 0,
            inside: nat_common::binding::inside_of(slot),
            remote: Endpoint::new((*registrar.ip()).into(), registrar.port()),
        };
        session::keep(tables, &numbers, &flow, now.wrapping_add(ticks), now);
    }
}

/// The media in a record of the ring; `None` if it is of a binding.
fn media_copy(state: &State, observed: &Observed, length: u16) -> Option<MediaCopy> {
    let tables = &state.kernel.tables;
    let slot = tables.slot(observed.binding.slot).filter(|slot| slot.is_relay())?;
    let leg = relays::in_use(tables, slot.inside_addr.get())?;
    let partner = relays::in_use(tables, leg.partner);
    let onward = partner.and_then(|partner| Some((partner.external?, partner.peer.or(partner.fallback)?)));
    Some(MediaCopy {
        time: Moment::now(),
        relay: leg.call,
        peer: Endpoint::new((*observed.remote.ip()).into(), observed.remote.port()),
        alias: leg.external?,
        onward,
        payload: observed.payload.to_vec(),
        length: length.into(),
    })
}

/// A record of the ring, and how long the payload was.
fn read(record: &[u8]) -> Option<(Observed, u16)> {
    let (header, payload) = record.split_at_checked(size_of::<Copied>())?;
    // SAFETY: as many bytes as the struct has, which has no padding and no invalid values.
    let copied: Copied = unsafe { header.as_ptr().cast::<Copied>().read_unaligned() };
    let remote = copied.seen.remote();
    let observed = Observed {
        binding: Binding {
            slot: copied.seen.slot,
            generation: copied.generation,
        },
        remote: SocketAddrV4::new(Ipv4Addr::from(remote.addr), remote.port),
        outbound: copied.seen.outbound(),
        // What is left of a message that was cut is not a whole one.
        payload: Bytes::copy_from_slice(payload),
    };
    Some((observed, copied.seen.len))
}

/// Tells when there are records.
fn readiness(ring: &RingBuf<MapData>) -> io::Result<AsyncFd<OwnedFd>> {
    let fd = ring.as_fd().try_clone_to_owned()?;
    // SAFETY: an owned descriptor stays open and the same until the `AsyncFd` drops it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// Time that never jumps.
struct Clock {
    start: Time,
    since: Instant,
}

impl Clock {
    fn new() -> Clock {
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock {
            start: Time(0) + epoch,
            since: Instant::now(),
        }
    }

    fn now(&self) -> Time {
        self.start + self.since.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nat_common::{flow::Side, watch::Seen};

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let copied = Copied {
            seen: Seen {
                slot: 70_000,
                remote_addr: 0xcb00_7105,
                remote_port: 5060,
                offset: 42,
                len: 3,
                side: Side::Outside as u8,
                reserved: 0,
            },
            generation: 9,
            reserved: 0,
        };
        // SAFETY: a struct without padding.
        let header = unsafe { std::slice::from_raw_parts((&raw const copied).cast::<u8>(), size_of::<Copied>()) };
        let (observed, length) = read(&[header, b"abc"].concat()).unwrap();
        assert_eq!(length, 3);
        assert_eq!(
            observed.binding,
            Binding {
                slot: 70_000,
                generation: 9
            }
        );
        assert_eq!(observed.remote, "203.0.113.5:5060".parse().unwrap());
        assert!(!observed.outbound);
        assert_eq!(&observed.payload[..], b"abc");
        assert!(read(&header[1..]).is_none());
    }
}
