//! The machine that is measured on: its cores, and what a reader of the figures wants to know about it.

use std::fs;

use anyhow::{Context, Result, ensure};

/// Ties the calling thread to one core.
pub fn pin(cpu: usize) -> Result<()> {
    // SAFETY: an all-zero set is an empty set; CPU_SET stays within it by the check.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        ensure!(cpu < 8 * size_of::<libc::cpu_set_t>(), "there is no core {cpu}");
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    ensure!(
        result == 0,
        "cannot run on core {cpu}: {}; choose another one with --cpu",
        std::io::Error::last_os_error()
    );
    Ok(())
}

/// The last core that this process may use: interrupts and everything else prefer the first.
pub fn last_cpu() -> Result<usize> {
    // SAFETY: an all-zero set is an empty set, which the kernel fills.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set);
        set
    };
    let last = (0..8 * size_of::<libc::cpu_set_t>()).rev();
    // SAFETY: the index is within the set.
    last.into_iter()
        .find(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) })
        .context("no core to run on")
}

/// CPU model, cores, kernel, memory, and whether something else was running: one line each.
pub fn describe(cpu: usize) -> Vec<(&'static str, String)> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let of = |key: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(key));
        line.and_then(|line| line.split(':').nth(1))
            .unwrap_or("unknown")
            .trim()
            .to_string()
    };
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let virtual_machine = cpuinfo
        .lines()
        .any(|line| line.starts_with("flags") && line.contains(" hypervisor"));
    let memory = read("/proc/meminfo");
    let memory = memory
        .split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<u64>().ok())
        .unwrap_or(0);
    let load = read("/proc/loadavg");
    vec![
        (
            "processor",
            format!(
                "{}{}",
                of("model name"),
                if virtual_machine { " (a virtual machine)" } else { "" }
            ),
        ),
        ("cores", format!("{cores}; generator, router and sink share core {cpu}")),
        ("kernel", read("/proc/sys/kernel/osrelease").trim().into()),
        ("memory", format!("{:.1} GiB", memory as f64 / 1048576.0)),
        (
            "load before",
            load.split_whitespace().next().unwrap_or("unknown").into(),
        ),
    ]
}
