//! Kernel memory of a running sipnat, as the kernel accounts it.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result};
use aya::maps::MapInfo;
use aya::programs::{ProgramInfo, loaded_programs};
use tests::ns::Namespace;

use super::report::Table;

/// A map of the program.
#[derive(Clone, Debug)]
pub struct MapMemory {
    pub name: String,
    pub entries: u32,
    pub value_size: u32,
    /// What the kernel says that it takes.
    pub bytes: u64,
}

/// The XDP program on an interface.
pub fn program_on(ns: &Namespace, dev: &str) -> Result<ProgramInfo> {
    let text = ns.run("ip", ["-json", "link", "show", "dev", dev])?;
    let link: serde_json::Value = serde_json::from_str(&text).context("ip printed no JSON")?;
    let id = link[0]["xdp"]["prog"]["id"]
        .as_u64()
        .with_context(|| format!("{dev} has no XDP program"))?;
    loaded_programs()
        .filter_map(Result::ok)
        .find(|program| u64::from(program.id()) == id)
        .with_context(|| format!("the kernel does not list program {id}"))
}

/// Its maps.
pub fn maps_of(program: &ProgramInfo) -> Result<Vec<MapMemory>> {
    let ids = program
        .map_ids()?
        .context("this kernel does not tell which maps a program has")?;
    ids.into_iter().map(map).collect()
}

fn map(id: u32) -> Result<MapMemory> {
    let info = MapInfo::from_id(id)?;
    Ok(MapMemory {
        name: info.name_as_str().unwrap_or("?").into(),
        entries: info.max_entries(),
        value_size: info.value_size(),
        bytes: memory_of(&info)?,
    })
}

/// Bytes that the kernel accounts for a map.
pub fn memory_of(info: &MapInfo) -> Result<u64> {
    let fd = info.fd()?;
    let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let bytes = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    Ok(bytes.context("no memlock in fdinfo")?.trim().parse()?)
}

/// Bytes of everything but the sessions.
pub fn without_sessions(maps: &[MapMemory]) -> u64 {
    maps.iter()
        .filter(|map| map.name != "SESSIONS")
        .map(|map| map.bytes)
        .sum()
}

/// The table of the larger ones.
pub fn table(maps: &[MapMemory], bindings: u32) -> Table {
    let text = format!(
        "Every map of the program, as the kernel accounts it (`memlock`), with {bindings} bindings of UDP on 16 addresses. \
         Maps below 64 KiB are summed up."
    );
    let mut table = Table::new(
        "Memory",
        &text,
        &["map", "entries", "bytes each", "MiB", "bytes per binding"],
    );
    let mut maps = maps.to_vec();
    maps.sort_by_key(|map| std::cmp::Reverse(map.bytes));
    let mib = |bytes: u64| format!("{:.1}", bytes as f64 / 1048576.0);
    let each = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(bindings));
    let (large, small): (Vec<_>, Vec<_>) = maps.iter().partition(|map| map.bytes >= 65536);
    for map in large {
        let (entries, size) = (map.entries.to_string(), map.value_size.to_string());
        table
            .rows
            .push(vec![map.name.clone(), entries, size, mib(map.bytes), each(map.bytes)]);
    }
    let rest: u64 = small.iter().map(|map| map.bytes).sum();
    let dash = || "-".to_string();
    table.rows.push(vec![
        format!("{} others", small.len()),
        dash(),
        dash(),
        mib(rest),
        each(rest),
    ]);
    let apart = without_sessions(&maps);
    table
        .rows
        .push(vec!["all but SESSIONS".into(), dash(), dash(), mib(apart), each(apart)]);
    table
}
