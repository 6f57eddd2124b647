//! `cargo xtask verifier`: every program through the kernel's verifier, against a budget.
//!
//! The kernel gives up at a million instructions; how many a program takes grows by surprise (a loop that it cannot see
//! the end of costs a hundred times the one that it can), and older kernels need more. So growth is a decision here.

/// Loads all programs and compares.
#[cfg(not(feature = "bench"))]
pub fn run() -> anyhow::Result<()> {
    crate::bench::again::with_kernel_side("loading programs into the kernel")
}

#[cfg(feature = "bench")]
pub use check::run;

#[cfg(feature = "bench")]
mod stack;

#[cfg(feature = "bench")]
mod check {
    use anyhow::{Context, Result, bail};
    use aya::Ebpf;
    use aya::maps::MapInfo;
    use aya::programs::{ProgramInfo, Xdp};
    use nat_common::maps::Capacity;
    use nat_user::dataplane::object;

    use super::stack;
    use crate::bench;

    /// Most verified instructions of each program: a quarter above what they take on Linux 6.18.
    const BUDGETS: [(&str, u32); 13] = [
        ("sipnat_inside", 520_000),
        ("sipnat_outside", 280_000),
        ("sipnat_trunk", 200),
        ("sipnat_late", 520_000),
        ("sipnat_clock", 20),
        ("bench_generate", 280),
        ("bench_restore", 280),
        ("bench_empty", 10),
        ("bench_sink", 100),
        ("bench_bare", 420),
        ("bench_media_generate", 320),
        ("bench_media_restore", 320),
        ("bench_media_sink", 270),
    ];

    /// Loads all programs, prints what they took, and fails if one of them takes more than its budget.
    pub fn run() -> Result<()> {
        let (mut lines, mut refused) = (Vec::new(), Vec::new());
        let mut add = |name, program: Result<&mut Xdp>| -> Result<()> {
            match program {
                Ok(program) => lines.push(Line::of(name, program)?),
                Err(error) => refused.push(tail(&format!("{error:#}"))),
            }
            Ok(())
        };
        let mut sipnat = object::open(&capacity(), None)?;
        for name in object::PROGRAMS {
            add(name, object::load(&mut sipnat, name))?;
        }
        let mut tools = bench::object::open()?;
        for (name, _) in BUDGETS.iter().filter(|(name, _)| name.starts_with("bench_")) {
            add(name, bench::object::load(&mut tools, name))?;
        }
        println!(
            "{:<20} {:>12} {:>9} {:>6} {:>10}",
            "program", "instructions", "budget", "used", "JIT bytes"
        );
        lines.iter().for_each(Line::print);
        println!(
            "\nAll maps at the default capacity: {:.1} MiB",
            memory(&sipnat)? as f64 / 1048576.0
        );
        for name in object::PROGRAMS {
            let chain = stack::deepest(object::OBJECT, name)?;
            println!(
                "{name:<20} {:>5} of {} bytes of stack in its deepest chain of calls",
                chain.bytes,
                stack::LIMIT
            );
            if chain.bytes > stack::LIMIT {
                refused.push(format!(
                    "the stack of {name} is too deep for kernels before 6.13: {:?}; move what is kept over a call out of one of these functions",
                    chain.functions
                ));
            }
        }
        if !refused.is_empty() {
            bail!("{}", refused.join("\n\n"));
        }
        let over: Vec<&str> = lines
            .iter()
            .filter(|line| line.verified > line.budget)
            .map(|line| line.name)
            .collect();
        if !over.is_empty() {
            bail!(
                "over budget: {}; make the verifier's work easier, or raise the budget in xtask/src/verifier.rs with a reason",
                over.join(", ")
            );
        }
        Ok(())
    }

    /// The first line and the last ones of a verifier's log, which can have a million.
    fn tail(log: &str) -> String {
        let lines: Vec<&str> = log.lines().collect();
        match lines.as_slice() {
            [first, rest @ ..] if rest.len() > 12 => format!("{first}\n…\n{}", rest[rest.len() - 12..].join("\n")),
            _ => log.into(),
        }
    }

    struct Line {
        name: &'static str,
        verified: u32,
        budget: u32,
        jited: u32,
    }

    impl Line {
        fn of(name: &'static str, program: &Xdp) -> Result<Self> {
            let info: ProgramInfo = program.info()?;
            let verified = info.verified_instruction_count();
            let budget = BUDGETS.iter().find(|(other, _)| *other == name);
            Ok(Self {
                name,
                verified: verified.context("this kernel does not count verified instructions (Linux 5.16 does)")?,
                budget: budget
                    .with_context(|| format!("{name} has no budget in xtask/src/verifier.rs"))?
                    .1,
                jited: info.size_jitted(),
            })
        }

        fn print(&self) {
            let used = 100.0 * f64::from(self.verified) / f64::from(self.budget);
            let over = if self.verified > self.budget { "  OVER" } else { "" };
            println!(
                "{:<20} {:>12} {:>9} {used:>5.0}% {:>10}{over}",
                self.name, self.verified, self.budget, self.jited
            );
        }
    }

    /// What a daemon with the sample configuration and one external address makes.
    fn capacity() -> Capacity {
        Capacity {
            addresses: 1,
            index_buckets: 1 << 15,
            session_buckets: 1 << 16,
            fragment_buckets: 1 << 10,
            hosts: 1 << 16,
            destinations: 1 << 14,
            counting: false,
            legs: 20_000,
            block_shift: 6,
        }
    }

    /// What the kernel accounts for the maps.
    fn memory(ebpf: &Ebpf) -> Result<u64> {
        let mut ids: Vec<u32> = Vec::new();
        for (_, program) in ebpf.programs() {
            if let Ok(info) = <&Xdp>::try_from(program)?.info() {
                ids.extend(info.map_ids()?.unwrap_or_default());
            }
        }
        ids.sort_unstable();
        ids.dedup();
        ids.into_iter().map(|id| bench::memory_of(&MapInfo::from_id(id)?)).sum()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        /// As root in CI.
        #[test]
        fn every_program_is_within_its_budget() {
            if !crate::run::prepared() {
                bench::object::build().unwrap();
            }
            run().unwrap();
        }
    }
}
