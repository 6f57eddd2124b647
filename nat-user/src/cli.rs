//! The command line: types only, what they do is in `main.rs`.

mod sip;

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    path::PathBuf,
    str::FromStr,
};

use clap::{Args, Parser, Subcommand};

pub use sip::{
    AddUser, Bans, Capture, Dialogs, Lift, OneUser, Paths, Registrations, Remote, Trace, Transactions, Unregister, User,
};

use crate::{records::Time, units::Proto};

/// What the exit codes mean, shown by `--help`.
const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  an error; the message says what, where and the remedy
  2  the command line is wrong
  3  no daemon answers on the socket
  4  not found (delete-forward: no such forward; leases revoke: no such lease; lookup: nobody had it; unregister, bans lift, user remove: no such)";

/// Done.
pub const EXIT_OK: u8 = 0;
/// An error.
pub const EXIT_ERROR: u8 = 1;
/// The command line is wrong.
pub const EXIT_USAGE: u8 = 2;
/// No daemon answers on the socket.
pub const EXIT_NO_DAEMON: u8 = 3;
/// What was asked for does not exist.
pub const EXIT_NOT_FOUND: u8 = 4;

/// A NAT44 in XDP and a SIP server for Linux routers that telephones live behind.
#[derive(Debug, Parser)]
#[command(name = "sipnat", version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub struct Cli {
    /// Control socket of the daemon [default: /run/sipnat/sipnat.sock; `run` takes the config's]
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Print data as JSON
    #[arg(long, global = true)]
    pub json: bool,

    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the NAT, the SIP server or both in the foreground
    ///
    /// For a plain NAT --inside and --outside are enough. What the command line says wins over the file.
    Run(Run),
    /// Check a config file without applying it
    Check {
        /// The TOML file
        config: PathBuf,
    },
    /// What runs: interfaces, addresses, pool, memory, warnings; listeners, registrations, paths, calls
    Status,
    /// List bindings, or add and delete static forwards while the NAT runs
    Bindings(Bindings),
    /// List blocks of ports and the inside hosts that own them
    Blocks {
        /// Only this inside host's
        #[arg(long, value_name = "IP")]
        host: Option<Ipv4Addr>,
    },
    /// Legs of the media relay: who was learned, what came, and how well
    Relays {
        /// Only those of this call
        #[arg(long, value_name = "NUMBER")]
        call: Option<u64>,
    },
    /// List external ports that hosts asked for by PCP or NAT-PMP, or end one before its time
    Leases(Leases),
    /// Packets by direction and reason
    Counters {
        /// Also those that are zero
        #[arg(long)]
        all: bool,
    },
    /// The last events: blocks assigned and released, exhaustion, changed addresses
    Events {
        /// Go on with each event as it happens
        #[arg(long, short)]
        follow: bool,
    },
    /// Who had an external endpoint at a time? Answers from a block log, without the daemon
    ///
    /// Example: sipnat lookup --log /var/log/sipnat/blocks.jsonl 203.0.113.1:40000 udp 2026-01-02T03:04:05Z
    Lookup(Lookup),
    /// Apply the changed config (with users files and certificates) as a whole, or reject it as a whole
    Reload,
    /// Who is registered, and the translated address and port that reaches them
    Registrations(Registrations),
    /// Remove registrations of a user
    Unregister(Unregister),
    /// Mapped paths to devices, who holds them, and the prompts that keep them open
    Paths(Paths),
    /// Calls and subscriptions that are set up or established
    #[command(visible_alias = "calls")]
    Dialogs(Dialogs),
    /// SIP transactions that are under way
    Transactions(Transactions),
    /// Users that the SIP server knows
    Users {
        /// Only this domain's
        #[arg(long)]
        domain: Option<String>,
    },
    /// Sources that are not heard because of wrong passwords
    Bans(Bans),
    /// Add, remove and list users of a users file, without the daemon
    #[command(subcommand)]
    User(User),
    /// SIP messages as they come and go: a ladder, JSON lines, or a pcap file
    Trace(Trace),
    /// Signalling and media of one call as a pcap file, until it has ended
    ///
    /// Media that the relay carries is there twice, as it came and as it left, with the addresses of both sides.
    /// Example: sipnat capture --call 12345@10.0.0.2 --out call.pcap
    Capture(Capture),
    /// Take the NAT from its interfaces and remove everything it pinned
    Detach {
        /// The daemon's config, which says where its socket and its pins are
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Where the pins are, for when no daemon runs [default: /sys/fs/bpf/sipnat, or what the config says]
        #[arg(long, value_name = "DIR")]
        pin_dir: Option<PathBuf>,
    },
    /// Print shell completions
    Completions { shell: clap_complete::Shell },
    /// Write man pages into a directory
    Man { dir: PathBuf },
}

#[derive(Args, Debug)]
pub struct Leases {
    #[command(subcommand)]
    pub action: Option<LeaseAction>,
}

#[derive(Debug, Subcommand)]
pub enum LeaseAction {
    /// Ends a mapping; its host may ask for it again
    ///
    /// Example: sipnat leases revoke udp 192.168.1.10:5060
    Revoke {
        /// tcp or udp
        protocol: Proto,
        /// The host's address and port
        #[arg(value_name = "IP:PORT")]
        inside: SocketAddrV4,
    },
}

#[derive(Args, Debug)]
pub struct Run {
    /// The TOML file; sipnat.sample.toml explains it
    #[arg(long, value_name = "FILE", required_unless_present_all = ["inside", "outside"])]
    pub config: Option<PathBuf>,
    /// Interface with the private side (repeatable)
    #[arg(long, value_name = "IF")]
    pub inside: Vec<String>,
    /// Interface with the public side (repeatable)
    #[arg(long, value_name = "IF")]
    pub outside: Vec<String>,
    /// Where maps and links are pinned, on a bpffs [default: /sys/fs/bpf/sipnat, or what the config says]
    #[arg(long, value_name = "DIR")]
    pub pin_dir: Option<PathBuf>,
    /// Attach in generic (skb) mode: works with every driver, several times slower
    #[arg(long)]
    pub skb_mode: bool,
    /// Allow changing the system settings that the preflight check wants changed
    #[arg(long)]
    pub allow_sysctl: bool,
    /// Multiply all lifetimes, for tests
    #[arg(long, value_name = "FACTOR", hide = true, default_value = "1", value_parser = scale)]
    pub lifetime_scale: f64,
}

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Bindings {
    /// Only this inside address
    #[arg(long, value_name = "IP")]
    pub host: Option<Ipv4Addr>,
    /// Only this protocol: tcp, udp or icmp
    #[arg(long)]
    pub proto: Option<Proto>,
    /// Only this inside port or ICMP query id
    #[arg(long)]
    pub port: Option<u16>,
    /// Only this external address, or endpoint
    #[arg(long, value_name = "IP[:PORT]")]
    pub external: Option<ExternalFilter>,
    /// At most so many [default: all with --json, else 1000]
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,

    #[command(subcommand)]
    pub change: Option<ChangeForward>,
}

#[derive(Debug, Subcommand)]
pub enum ChangeForward {
    /// Forward external ports to an inside host until the forward is deleted
    ///
    /// Example: sipnat bindings add-forward tcp 203.0.113.1:8080 192.168.1.10:80
    AddForward {
        /// tcp or udp
        protocol: Proto,
        /// `[IP:]PORT` or `[IP:]FIRST-LAST`; without IP on all external addresses
        external: String,
        /// IP:PORT or IP:FIRST-LAST, as many ports
        inside: String,
    },
    /// Delete a forward that add-forward made
    DeleteForward {
        /// tcp or udp
        protocol: Proto,
        /// As it was given to add-forward
        external: String,
    },
}

#[derive(Args, Debug)]
pub struct Lookup {
    /// The block log's file
    #[arg(long, value_name = "FILE")]
    pub log: PathBuf,
    /// External address and port
    #[arg(value_name = "EXTERNAL:PORT")]
    pub external: std::net::SocketAddrV4,
    /// tcp, udp or icmp (a block serves all of them, so the answer is the same)
    pub proto: Proto,
    /// RFC 3339 time with a zone, like 2026-01-02T03:04:05Z
    pub time: Time,
}

/// `203.0.113.1` or `203.0.113.1:40000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExternalFilter {
    pub ip: Ipv4Addr,
    pub port: Option<u16>,
}

impl FromStr for ExternalFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |_| format!("`{text}` is no external endpoint; write it like 203.0.113.1 or 203.0.113.1:40000");
        match text.split_once(':') {
            None => Ok(ExternalFilter {
                ip: text.parse().map_err(wrong)?,
                port: None,
            }),
            Some(_) => {
                let endpoint: std::net::SocketAddrV4 = text.parse().map_err(wrong)?;
                Ok(ExternalFilter {
                    ip: *endpoint.ip(),
                    port: Some(endpoint.port()),
                })
            }
        }
    }
}

fn scale(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|factor| (1e-6..=1e3).contains(factor))
        .ok_or_else(|| "write a factor from 0.000001 to 1000".into())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_plain_nat_needs_no_file() {
        let parse = |args: &[&str]| Cli::try_parse_from([&["sipnat"], args].concat());
        let cli = parse(&[
            "run",
            "--inside",
            "a",
            "--inside",
            "b",
            "--outside",
            "c",
            "--socket",
            "/s",
        ])
        .unwrap();
        let Command::Run(run) = cli.command else {
            panic!("not run")
        };
        assert_eq!(
            (run.inside, run.outside, run.config),
            (vec!["a".into(), "b".into()], vec!["c".into()], None)
        );
        assert_eq!((cli.socket, run.lifetime_scale), (Some("/s".into()), 1.0));
        assert!(parse(&["run", "--inside", "a"]).is_err());
        assert!(parse(&["run"]).is_err());
        assert!(parse(&["run", "--config", "x", "--lifetime-scale", "0"]).is_err());
        assert!(parse(&["bindings", "--host", "10.0.0.1", "delete-forward", "tcp", "80"]).is_err());
        assert!(parse(&["lookup", "--log", "x", "1.2.3.4:5", "udp", "yesterday"]).is_err());
    }

    #[test]
    fn external_filters() {
        let parse = |text: &str| text.parse::<ExternalFilter>();
        let ip = Ipv4Addr::new(203, 0, 113, 1);
        assert_eq!(parse("203.0.113.1").unwrap(), ExternalFilter { ip, port: None });
        assert_eq!(
            parse("203.0.113.1:40000").unwrap(),
            ExternalFilter { ip, port: Some(40000) }
        );
        for wrong in ["", ":1", "203.0.113.1:", "203.0.113.1:65536", "::1"] {
            assert!(parse(wrong).unwrap_err().contains("write it like"), "{wrong}");
        }
    }
}
