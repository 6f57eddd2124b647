//! CPU time and memory of a server with all its processes.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// The CPU time that these processes have used, in user and kernel mode, from `/proc/PID/stat`: in steps of 10 ms.
pub fn cpu(pids: &[u32]) -> Result<Duration> {
    // SAFETY: asks for a constant of the system.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as u64;
    let mut sum = 0;
    for pid in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
        // The name, in parentheses, may have spaces in it.
        let fields = text.rsplit_once(')').context("stat has no name")?.1;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        for at in [11, 12] {
            sum += fields.get(at).context("stat is too short")?.parse::<u64>()?;
        }
    }
    Ok(Duration::from_micros(sum * 1_000_000 / ticks))
}

/// The memory of these processes in bytes: their proportional set size, which counts what they share once.
pub fn memory(pids: &[u32]) -> Result<u64> {
    let mut sum = 0;
    for pid in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).with_context(|| format!("process {pid}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        let kib = line.and_then(|line| line.split_whitespace().next()).context("no Pss")?;
        sum += kib.parse::<u64>()? * 1024;
    }
    Ok(sum)
}

/// A process and all that descend from it.
pub fn family(pid: u32) -> Result<Vec<u32>> {
    let mut pids = vec![pid];
    let mut at = 0;
    while at < pids.len() {
        let tasks = format!("/proc/{}/task", pids[at]);
        for task in fs::read_dir(&tasks).with_context(|| format!("process {}", pids[at]))? {
            let children = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
            pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        at += 1;
    }
    Ok(pids)
}
