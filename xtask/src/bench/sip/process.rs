//! CPU time and memory of a server with all its processes.

use std::fs;
use std::mem::zeroed;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// The CPU time that these processes have used, in user and kernel mode, to the nanosecond: `/proc/PID/stat` has steps of 10 ms.
pub fn cpu(pids: &[u32]) -> Result<Duration> {
    pids.iter().map(|pid| cpu_of(*pid)).sum()
}

fn cpu_of(pid: u32) -> Result<Duration> {
    // SAFETY: both calls write to locals, for which zeroes are a value.
    let (found, time) = unsafe {
        let (mut clock, mut time) = (zeroed(), zeroed::<libc::timespec>());
        let found = libc::clock_getcpuclockid(pid as libc::pid_t, &raw mut clock) == 0
            && libc::clock_gettime(clock, &raw mut time) == 0;
        (found, time)
    };
    ensure!(found, "process {pid} has no CPU time; it has ended");
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
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
