//! The command line of `cargo xtask`: types only.

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Sets up, builds, tests and runs sipnat in this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Finds out what is missing on this machine (toolchain, bpf-linker, Debian packages) and installs it
    Setup,
    /// Builds the release binary, target/release/sipnat
    Build,
    /// Sets up, builds, and runs all checks and tests
    Test,
    /// Sets up, builds, and shows the NAT at work: real programs in a lab of network namespaces
    Demo,
    /// A lab of network namespaces to try things in by hand
    #[command(subcommand)]
    Lab(Lab),
    /// Runs the requirement tests against sipnat, nftables and kamailio, and writes docs/scorecard.md
    Scorecard,
    /// Attacks the media of calls, and writes what came of it to docs/security.md
    Security,
    /// Measures, with a packet generator of its own
    #[command(subcommand)]
    Bench(Bench),
    /// Loads all programs and compares what the kernel's verifier had to do with their budgets
    Verifier,
    /// Runs every fuzz target of the data path for a bounded time
    Fuzz(Fuzz),
    /// Boots another kernel of Debian's in an emulator and runs tests of the NAT there, also those that need VLAN interfaces
    Vm(Vm),
    /// What continuous integration runs: the same as test
    Ci,
}

#[derive(Args, Debug)]
pub struct Fuzz {
    /// Seconds for each target
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
    /// Only this target
    pub target: Option<String>,
}

#[derive(Args, Debug)]
pub struct Vm {
    /// Only tests with this in their names
    pub filter: Option<String>,
    /// Which kernel, by the beginning of its version
    #[arg(long, value_name = "VERSION", default_value = "6.12")]
    pub kernel: String,
    /// Give up after so many seconds
    #[arg(long, value_name = "N", default_value_t = 1800, value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
    /// Memory of the machine in MiB
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(512..))]
    pub memory: u32,
}

#[derive(Debug, Subcommand)]
pub enum Lab {
    /// Builds the lab: inside hosts, a router that translates, outside hosts
    Up(LabUp),
    /// Removes exactly what `up` made
    Down(LabName),
    /// Lists the labs, and what runs in them
    Status,
}

#[derive(Args, Debug)]
pub struct LabUp {
    #[command(flatten)]
    pub lab: LabName,
    /// How many inside hosts
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=200))]
    pub phones: u8,
    /// What the router translates with
    #[arg(long, value_enum, default_value_t = LabNat::Sipnat)]
    pub nat: LabNat,
}

#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Compares sipnat with nftables, plain forwarding and a bare redirect, side by side; writes its section of docs/performance.md
    Nat(BenchNat),
    /// Nanoseconds per packet of the programs themselves, by BPF_PROG_TEST_RUN
    Prog(BenchProg),
    /// Compares sipnat's SIP server with kamailio, under the same load; writes its section of docs/performance.md
    Sip(BenchSip),
    /// Compares sipnat's media relay with rtpengine, relaying the same calls; writes its section of docs/performance.md
    Media(BenchMedia),
}

#[derive(Args, Clone, Debug)]
pub struct BenchNat {
    /// Fewer and shorter rounds: shows that everything works, not how fast it is
    #[arg(long)]
    pub quick: bool,
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART")]
    pub only: Vec<BenchPart>,
    /// Only these routers (the generator alone is always measured)
    #[arg(long, value_enum, value_delimiter = ',', value_name = "ROUTER")]
    pub routers: Vec<BenchRouter>,
    /// Rounds of each measurement, interleaved between the routers [default: 5; quick: 2]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: Option<u32>,
    /// Length of one round in milliseconds [default: 500; quick: 150]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(20..=60_000))]
    pub round: Option<u64>,
    /// The core that generator, router and sink share [default: the last one]
    #[arg(long)]
    pub cpu: Option<usize>,
    /// Where to write the figures instead of docs/performance.md; nothing is written if parts or routers are chosen or with
    /// --quick, unless this is given
    #[arg(long, value_name = "FILE")]
    pub output: Option<std::path::PathBuf>,
}

#[derive(Args, Clone, Debug)]
pub struct BenchProg {
    /// The core to measure on [default: the last one]
    #[arg(long)]
    pub cpu: Option<usize>,
    /// Runs of each measurement
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1000..))]
    pub repeat: u32,
    /// Bindings that the random packets hit
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub flows: u32,
}

#[derive(Args, Clone, Debug)]
pub struct BenchSip {
    /// Fewer phones and shorter rounds: shows that everything works, not how fast it is
    #[arg(long)]
    pub quick: bool,
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART")]
    pub only: Vec<BenchSipPart>,
    /// Only these servers
    #[arg(long, value_enum, value_delimiter = ',', value_name = "SERVER")]
    pub servers: Vec<BenchServer>,
    /// The core that the server has for itself [default: the last one]
    #[arg(long)]
    pub cpu: Option<usize>,
    /// Where to write the figures instead of docs/performance.md; nothing is written if parts or servers are chosen or with
    /// --quick, unless this is given
    #[arg(long, value_name = "FILE")]
    pub output: Option<std::path::PathBuf>,
}

#[derive(Args, Clone, Debug)]
pub struct BenchMedia {
    /// Fewer and shorter rounds: shows that everything works, not how fast it is
    #[arg(long)]
    pub quick: bool,
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART")]
    pub only: Vec<BenchMediaPart>,
    /// The core that relays; load that has to wait for it comes from another one [default: the last one]
    #[arg(long)]
    pub cpu: Option<usize>,
    /// Where to write the figures instead of docs/performance.md; nothing is written if parts are chosen or with --quick, unless this
    /// is given
    #[arg(long, value_name = "FILE")]
    pub output: Option<std::path::PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchMediaPart {
    /// Packets per second and CPU for each of them, with few and many legs
    Relay,
    /// Nanoseconds per packet by BPF_PROG_TEST_RUN
    Prog,
    /// 1,000 calls at their own pace: delay, loss, CPU
    Calls,
    /// Memory per leg
    Memory,
    /// Calls set up and torn down per second, with media
    Setups,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchSipPart {
    /// Nanoseconds for reading a message
    Parse,
    /// REGISTER refreshes per CPU-second
    Refreshes,
    /// Proxied calls per CPU-second
    Calls,
    /// Memory per registration
    Memory,
    /// Seconds until registrations are back after a restart
    Restart,
    /// CPU for keeping paths open
    Paths,
    /// What a flood of REGISTERs from one source does to the phones of others
    Flood,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchServer {
    Kamailio,
    Sipnat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchPart {
    /// Packets per second with 1 and 50,000 flows
    Pps,
    /// Packets per second with 1,000,000 bindings hit at random, and with 1,000
    Million,
    /// New flows per second
    NewFlows,
    /// TCP through iperf3
    Iperf,
    /// Sweeping 1,000,000 bindings, and its effect on packets
    Expiry,
    /// Memory per binding
    Memory,
    /// Nanoseconds per packet by BPF_PROG_TEST_RUN
    Prog,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchRouter {
    Bare,
    Kernel,
    Nftables,
    Sipnat,
}

#[derive(Args, Debug)]
pub struct LabName {
    /// Several labs can be up side by side under different names
    #[arg(long, default_value = "default", value_parser = lab_name)]
    pub name: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LabNat {
    Sipnat,
    Nftables,
}

/// The name becomes part of namespace names and of a file name.
fn lab_name(text: &str) -> Result<String, String> {
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if (1..=20).contains(&text.len()) && plain {
        Ok(text.into())
    } else {
        Err("use 1 to 20 lower-case letters and digits".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn lab_names_cannot_leave_their_directory() {
        for bad in ["", "../x", "a-b", "a b", "Ä", "aaaaaaaaaaaaaaaaaaaaa"] {
            assert!(lab_name(bad).is_err(), "{bad:?}");
        }
        assert!(lab_name("lab2").is_ok());
    }
}
