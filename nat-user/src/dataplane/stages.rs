//! When packets from inside go through two stages (`nat_common::stage`), and how that begins and ends without a frame between
//! the stages that never meets the second.
//!
//! The kernel queues redirected frames by device, not by entry of the device map, and runs on all that are queued the program of
//! the entry that the first of them came by. So every entry of a device has the second stage's program or none has, and while that
//! changes nothing is staged: from before the first change until nothing is queued any more that came by an entry as it was.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use aya::{
    maps::{DevMap, MapData},
    programs::ProgramFd,
};
use nat_common::maps::{Capacity, Interface, MAX_INTERFACES, ROLE_OUTSIDE};

use super::{geometry, tables::UserTables};
use crate::{config::Config, preflight::Mode};

/// Longer than any frame is queued, for kernels that cannot say when the queues have been emptied.
const LONG: Duration = Duration::from_millis(200);

/// The number of bindings from which on there are two stages, if there can be so many. Only native XDP sends frames in batches.
pub fn from(config: &Config, capacity: &Capacity, mode: Mode) -> Option<u64> {
    let from = u64::from(config.nat.staged_from);
    (mode == Mode::Native && from <= geometry::bindings(config, capacity)).then_some(from)
}

/// The devices that staged packets can leave by: those of outside interfaces.
pub fn devices(interfaces: &[Interface]) -> BTreeSet<u32> {
    let outside = interfaces.iter().filter(|interface| interface.role == ROLE_OUTSIDE);
    outside.map(|interface| interface.device).collect()
}

/// From how many bindings on packets are staged, if they may be at all.
#[derive(Debug, Default)]
pub struct Stages(Mutex<Option<u64>>);

impl Stages {
    /// Stages packets if there are so many bindings, and it is allowed.
    pub fn follow(&self, tables: &UserTables, bindings: u64) {
        let from = self.lock();
        let wanted = from.is_some_and(|from| worth(tables.cells().staged.get() != 0, from, bindings));
        stage(tables, wanted);
    }

    /// Brings the device map up to date: these are its entries, number and device, and those of `late` get its program. Nothing
    /// is staged from now until [`Change::finish`] if that changes which devices have it.
    ///
    /// # Errors
    /// If a device has just gone. Then nothing is staged until another call succeeds, unless no device's program has changed.
    pub fn change(
        &self,
        tables: &UserTables,
        map: &mut DevMap<&mut MapData>,
        wanted: &[(u32, u32)],
        late: Option<&Late>,
    ) -> Result<Change<'_>> {
        let mut allowed = self.lock();
        let old: BTreeSet<u32> = entries(map)
            .filter(|entry| entry.program)
            .map(|entry| entry.device)
            .collect();
        let differs = old
            .iter()
            .copied()
            .ne(late.iter().flat_map(|late| late.devices.iter().copied()));
        if differs {
            *allowed = None;
            stage(tables, false);
            settle();
        }
        let program = |device| Some(&late.filter(|late| late.devices.contains(&device))?.program);
        let set = |map: &mut DevMap<&mut MapData>, number, device| {
            map.set(number, device, program(device), 0)
                .with_context(|| format!("cannot redirect to the device with index {device}"))
        };
        wanted
            .iter()
            .try_for_each(|(number, device)| set(map, *number, *device))?;
        // Packets may still remember the others.
        let wrong: Vec<Entry> = entries(map)
            .filter(|entry| entry.program != program(entry.device).is_some())
            .collect();
        wrong
            .iter()
            .try_for_each(|entry| set(map, entry.number, entry.device))?;
        Ok(Change { allowed, differs })
    }

    fn lock(&self) -> MutexGuard<'_, Option<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The second stage's program, and the devices that it is to be on: see [`devices`].
pub struct Late {
    /// Loaded.
    pub program: ProgramFd,
    /// By index.
    pub devices: BTreeSet<u32>,
}

/// The device map is up to date, but frames may be queued by what it was. Nothing begins to be staged while this lives.
pub struct Change<'s> {
    allowed: MutexGuard<'s, Option<u64>>,
    differs: bool,
}

impl Change<'_> {
    /// Waits until they are sent, then allows two stages from so many bindings on. No packet must be led to another entry any
    /// more.
    pub fn finish(mut self, from: Option<u64>) {
        if self.differs {
            settle();
        }
        *self.allowed = from;
    }
}

/// An entry of the device map.
struct Entry {
    number: u32,
    device: u32,
    /// Whether it has one.
    program: bool,
}

/// Begins or ends two stages, if they have not begun or ended.
fn stage(tables: &UserTables, wanted: bool) {
    let staged = &tables.cells().staged;
    if wanted != (staged.get() != 0) {
        staged.set(u32::from(wanted));
        let what = if wanted { "begun" } else { "ended" };
        tracing::info!("two stages for UDP from inside have {what}");
    }
}

/// Whether so many bindings are worth two stages, given whether there are two now: they end at half as many as they began at.
fn worth(staged: bool, from: u64, bindings: u64) -> bool {
    bindings >= if staged { from / 2 } else { from }
}

/// The entries that there are.
fn entries<'m>(map: &'m DevMap<&mut MapData>) -> impl Iterator<Item = Entry> + 'm {
    (0..MAX_INTERFACES).filter_map(|number| {
        let value = map.get(number, 0).ok()?;
        Some(Entry {
            number,
            device: value.if_index,
            program: value.prog_id.is_some(),
        })
    })
}

/// Waits until every processor has sent the frames that it has queued now. It sends them before it leaves the section of
/// code that the kernel's RCU waits for, which this system call does too.
fn settle() {
    const GLOBAL: libc::c_int = 1;
    // SAFETY: the call takes numbers.
    if unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) } != 0 {
        std::thread::sleep(LONG);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nat_common::maps::ROLE_INSIDE;

    #[test]
    fn only_where_there_can_be_so_many_and_in_native_mode() {
        let config = |text: &str| {
            let interfaces = "[nat]\ninside = [\"a\"]\noutside = [\"b\"]\n";
            Config::parse(&format!("{interfaces}{text}"), "test").unwrap()
        };
        let with = |text, addresses, mode| {
            let config = config(text);
            from(&config, &geometry::capacity(&config, addresses), mode)
        };
        assert_eq!(with("", 16, Mode::Native), Some(200_000));
        assert_eq!(with("", 16, Mode::Generic), None);
        assert_eq!(with("", 1, Mode::Native), None);
        assert_eq!(with("staged_from = 1000\n", 1, Mode::Native), Some(1000));
        assert_eq!(with("capacity = 100000\n", 16, Mode::Native), None);
    }

    #[test]
    fn a_few_bindings_more_or_less_change_nothing() {
        assert!(!worth(false, 100, 99) && worth(false, 100, 100));
        assert!(worth(true, 100, 50) && !worth(true, 100, 49));
    }

    #[test]
    fn every_device_with_an_outside_interface() {
        let interface = |device, role| Interface {
            device,
            role,
            ..Interface::default()
        };
        let all = [
            interface(1, ROLE_INSIDE),
            interface(2, ROLE_OUTSIDE),
            interface(3, ROLE_INSIDE),
            interface(3, ROLE_OUTSIDE),
        ];
        assert_eq!(devices(&all), BTreeSet::from([2, 3]));
    }
}
