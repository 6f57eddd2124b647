//! The eBPF object: maps opened or made, programs loaded.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{MapData, ProgramArray},
    programs::{Program, ProgramFd, Xdp},
};
use nat_common::{
    flow::Side,
    maps::{Capacity, FRAGMENT_BUCKET, MAX_ADDRESSES, PORTS, SESSION_BUCKET},
};

/// The object file that the build made.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/nat-ebpf"));

/// The program of inside interfaces.
pub const INSIDE: &str = "sipnat_inside";
/// The program of outside interfaces.
pub const OUTSIDE: &str = "sipnat_outside";
/// The program of devices whose VLANs are on both sides.
pub const TRUNK: &str = "sipnat_trunk";
/// The map through which it hands packets to the programs of the sides.
pub const SIDES: &str = "SIDES";
/// The second stage of packets from inside, on what is redirected to the devices of outside interfaces.
pub const LATE: &str = "sipnat_late";
/// The program that tells the time.
pub const CLOCK: &str = "sipnat_clock";
/// The map that it writes jiffies to.
pub const CLOCK_MAP: &str = "CLOCK";
/// All programs.
pub const PROGRAMS: [&str; 5] = [INSIDE, OUTSIDE, TRUNK, LATE, CLOCK];

/// Every map of the object. They are pinned under these names.
pub const MAPS: [&str; 36] = [
    "STATE",
    "CONFIG",
    "ADDRESSES",
    "SLOTS",
    "TRAFFIC",
    "INDEX",
    "USED_PORTS",
    "FREE_BLOCKS",
    "BLOCKS",
    "HOSTS",
    "SESSIONS",
    "FRAGMENTS",
    "RULES",
    "LEGS",
    "DESTINATIONS",
    "EXTERNAL",
    "LOCAL",
    "BYPASS",
    "PREFIXES",
    "INTERFACE_OF",
    "INTERFACES",
    "DEVICES",
    "COUNTERS",
    "EVENTS",
    "PUNTS",
    "PUNT_TOTAL",
    "PUNT_SOURCE",
    "WATCHED",
    "WATCH_TOTAL",
    "MEDIA_TOTAL",
    "WATCH_SOURCE",
    "IDS",
    "BATCHES",
    "CLOCK",
    "LOCKS",
    SIDES,
];

/// Opens the maps pinned in `pins`, or makes and pins those that are missing, with the sizes of `capacity`.
/// Without `pins` the maps live as long as the returned value.
pub fn open(capacity: &Capacity, pins: Option<&Path>) -> Result<Ebpf> {
    if OBJECT.is_empty() {
        bail!("this sipnat was built without its eBPF program (SIPNAT_SKIP_EBPF); build it again without that");
    }
    let slots = u32::try_from(capacity.slots()).context("too many external addresses")?;
    if capacity.addresses > MAX_ADDRESSES {
        bail!(
            "{} external addresses are more than {MAX_ADDRESSES}; name those to be used in nat.addresses",
            capacity.addresses
        );
    }
    let blocks = capacity.addresses * (PORTS >> capacity.block_shift);
    let free_words = capacity.addresses * nat_common::ports::free_words(capacity.block_shift);
    let mut loader = EbpfLoader::new();
    loader
        .verifier_log_level(VerifierLogLevel::STATS)
        .map_max_entries("ADDRESSES", capacity.addresses)
        .map_max_entries("SLOTS", slots)
        .map_max_entries("TRAFFIC", if capacity.counting { slots } else { 1 })
        .map_max_entries("INDEX", capacity.index_buckets)
        .map_max_entries("USED_PORTS", slots / 64)
        .map_max_entries("FREE_BLOCKS", free_words)
        .map_max_entries("BLOCKS", blocks)
        .map_max_entries("HOSTS", capacity.hosts)
        .map_max_entries("SESSIONS", capacity.session_buckets * SESSION_BUCKET)
        .map_max_entries("FRAGMENTS", capacity.fragment_buckets * FRAGMENT_BUCKET)
        .map_max_entries("LEGS", capacity.legs.max(1))
        .map_max_entries("DESTINATIONS", capacity.destinations);
    #[cfg(feature = "ebpf-log")]
    let level = log_level();
    #[cfg(feature = "ebpf-log")]
    loader.override_global(aya_log::LEVEL, &level, true);
    if let Some(pins) = pins {
        for name in MAPS {
            loader.map_pin_path(name, pins.join(name));
        }
    }
    loader
        .load(OBJECT)
        .map_err(explain)
        .context("cannot load the eBPF object")
}

/// What the daemon's log is open for, as a level of aya-log: less is not even written by the kernel side.
#[cfg(feature = "ebpf-log")]
fn log_level() -> u8 {
    use tracing::level_filters::LevelFilter;
    [
        LevelFilter::ERROR,
        LevelFilter::WARN,
        LevelFilter::INFO,
        LevelFilter::DEBUG,
        LevelFilter::TRACE,
    ]
    .iter()
    .filter(|level| **level <= LevelFilter::current())
    .count() as u8
}

/// Loads one program into the kernel.
pub fn load<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut Xdp> {
    let program: &mut Xdp = program(ebpf, name)?;
    program
        .load()
        .with_context(|| format!("the kernel's verifier refused {name}"))?;
    Ok(program)
}

/// Loads one program into the kernel if it is not loaded yet.
pub fn loaded(ebpf: &mut Ebpf, name: &str) -> Result<ProgramFd> {
    if program(ebpf, name)?.fd().is_err() {
        load(ebpf, name)?;
    }
    Ok(program(ebpf, name)?.fd()?.try_clone()?)
}

/// Tells the program of trunks the programs of the sides, which are loaded.
pub fn connect(ebpf: &mut Ebpf) -> Result<()> {
    for (side, name) in [(Side::Inside, INSIDE), (Side::Outside, OUTSIDE)] {
        let program = program(ebpf, name)?.fd()?.try_clone()?;
        let map = ebpf
            .map_mut(SIDES)
            .with_context(|| format!("no map {SIDES} in the object"))?;
        let mut sides: ProgramArray<&mut MapData> = map.try_into()?;
        sides
            .set(side as u32, &program, 0)
            .with_context(|| format!("the kernel does not take {name} into {SIDES}"))?;
    }
    Ok(())
}

/// A program of the object.
pub fn program<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut Xdp> {
    let program: &mut Program = ebpf
        .program_mut(name)
        .with_context(|| format!("no program {name} in the object"))?;
    program.try_into().with_context(|| format!("{name} is no XDP program"))
}

/// Says what to do about pins that do not fit.
fn explain(error: aya::EbpfError) -> anyhow::Error {
    if let aya::EbpfError::MapError(aya::maps::MapError::IncompatiblePinnedMap { .. }) = error {
        return anyhow::Error::new(error).context(
            "the pinned maps have another size than the configuration asks for; restore the old sizes, or run \
             `sipnat detach`, which ends all bindings",
        );
    }
    error.into()
}
