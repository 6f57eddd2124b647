//! The SIP server's commands: types only.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use clap::{Args, Subcommand};

#[derive(Args, Debug)]
pub struct Registrations {
    /// Only this address of record, as USER@DOMAIN
    #[arg(long, value_name = "USER@DOMAIN", value_parser = aor)]
    pub aor: Option<String>,
    /// Only this domain's
    #[arg(long)]
    pub domain: Option<String>,
    /// Only contacts whose URI has this in it
    #[arg(long, value_name = "TEXT")]
    pub contact: Option<String>,
    /// Only what is reached at this address: behind a NAT the translated one
    #[arg(long)]
    pub ip: Option<IpAddr>,
    /// Only devices behind a NAT; `=false`: only others
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub behind_nat: Option<bool>,
    /// At most so many [default: all with --json, else 1000]
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
}

#[derive(Args, Debug)]
pub struct Unregister {
    /// The address of record
    #[arg(value_name = "USER@DOMAIN", value_parser = aor)]
    pub aor: String,
    /// The contact as `registrations` shows it; without it all
    pub contact: Option<String>,
}

#[derive(Args, Debug)]
pub struct Paths {
    /// Only paths in this state: idle, registration, dialog-and-registration or dialog
    #[arg(long, value_parser = ["idle", "registration", "dialog-and-registration", "dialog"])]
    pub state: Option<String>,
    /// Only paths to this address, or endpoint
    #[arg(long, value_name = "IP[:PORT]")]
    pub remote: Option<Remote>,
    /// Only paths that are down
    #[arg(long)]
    pub down: bool,
    /// At most so many [default: all with --json, else 1000]
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
}

#[derive(Args, Debug)]
pub struct Dialogs {
    /// Only dialogs of this user, as USER or USER@DOMAIN
    #[arg(long, value_name = "USER[@DOMAIN]")]
    pub user: Option<String>,
    /// Only the dialog with this Call-ID
    #[arg(long, value_name = "ID")]
    pub call_id: Option<String>,
    /// Calls only, no subscriptions
    #[arg(long)]
    pub no_subscriptions: bool,
    /// The media of calls, leg by leg: who sends, loss, jitter, round trip, estimated MOS
    #[arg(long)]
    pub media: bool,
    /// At most so many [default: all with --json, else 1000]
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
}

#[derive(Args, Debug)]
pub struct Transactions {
    /// Only this method's
    #[arg(long)]
    pub method: Option<String>,
    /// At most so many [default: all with --json, else 1000]
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
}

#[derive(Args, Debug)]
pub struct Bans {
    #[command(subcommand)]
    pub lift: Option<Lift>,
}

#[derive(Debug, Subcommand)]
pub enum Lift {
    /// Hear a source again
    Lift {
        /// The source's address
        address: IpAddr,
    },
}

#[derive(Debug, Subcommand)]
pub enum User {
    /// Add a user, or give one a new password
    ///
    /// The password is asked for, or read as one line from standard input. The daemon takes the changed file at `sipnat reload`.
    /// Example: sipnat user add /etc/sipnat/users alice@example.com
    Add(AddUser),
    /// Remove a user
    Remove(OneUser),
    /// List the users of a file
    List {
        /// The users file
        file: PathBuf,
    },
}

#[derive(Args, Debug)]
pub struct OneUser {
    /// The users file
    pub file: PathBuf,
    /// The user; @DOMAIN may be left out if the file has one domain only
    #[arg(value_name = "USER[@DOMAIN]")]
    pub user: String,
}

#[derive(Args, Debug)]
pub struct AddUser {
    #[command(flatten)]
    pub who: OneUser,
    /// Write the password down as it is, instead of hashes that stand for it
    #[arg(long)]
    pub plain: bool,
    /// The password; other users of this machine can see it while the command runs
    #[arg(long, value_name = "PASSWORD")]
    pub password: Option<String>,
    /// Calls that the user may have at a time
    #[arg(long, value_name = "N")]
    pub calls: Option<u32>,
    /// The user may only call what begins with this (repeatable)
    #[arg(long, value_name = "PREFIX")]
    pub allow: Vec<String>,
}

#[derive(Args, Debug)]
pub struct Capture {
    /// The call: its Call-ID, or the number of a relay of it, as `calls --media` and `relays` have them
    #[arg(long, value_name = "CALL-ID|NUMBER")]
    pub call: String,
    /// The pcap file; without it pcap goes to standard output
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct Trace {
    /// Only calls, registrations and subscriptions of this address of record, as USER@DOMAIN
    #[arg(long, value_name = "USER@DOMAIN", value_parser = aor)]
    pub aor: Option<String>,
    /// Only messages with this Call-ID
    #[arg(long, value_name = "ID")]
    pub call_id: Option<String>,
    /// Only messages from and to this address
    #[arg(long, value_name = "IP")]
    pub source: Option<IpAddr>,
    /// Write the messages into this file for Wireshark or sngrep, with made-up IP and UDP headers (TLS too is in clear text then)
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    pub pcap: Option<PathBuf>,
    /// End after so many messages
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
}

/// `134.56.1.1`, `134.56.1.1:5070`, `2001:db8::1` or `[2001:db8::1]:5070`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remote {
    pub ip: IpAddr,
    pub port: Option<u16>,
}

impl FromStr for Remote {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = text.parse().map(|ip| Remote { ip, port: None });
        let endpoint = |_| {
            text.parse().map(|endpoint: SocketAddr| Remote {
                ip: endpoint.ip(),
                port: Some(endpoint.port()),
            })
        };
        address
            .or_else(endpoint)
            .map_err(|_| format!("`{text}` is no endpoint; write it like 134.56.1.1 or 134.56.1.1:5070"))
    }
}

/// An address of record as records have it, without the scheme that people paste along.
fn aor(text: &str) -> Result<String, String> {
    let bare = ["sip:", "sips:"].iter().find_map(|scheme| text.strip_prefix(scheme));
    let bare = bare.unwrap_or(text);
    match bare.rsplit_once('@') {
        Some((user, domain)) if !user.is_empty() && !domain.is_empty() && !domain.contains([';', ' ', '>']) => {
            Ok(format!("{user}@{}", domain.to_ascii_lowercase()))
        }
        _ => Err(format!("`{text}` is no address of record; write it like user@net.com")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parse(args: &[&str]) -> Result<Command, clap::Error> {
        Cli::try_parse_from([&["sipnat"], args].concat()).map(|cli| cli.command)
    }

    #[test]
    fn filters_are_taken_and_checked() {
        let Ok(Command::Registrations(all)) = parse(&[
            "registrations",
            "--aor",
            "sip:user@NET.com",
            "--ip",
            "134.56.1.1",
            "--behind-nat",
            "--limit",
            "5",
        ]) else {
            panic!("not registrations")
        };
        assert_eq!((all.aor.as_deref(), all.behind_nat), (Some("user@net.com"), Some(true)));
        let Ok(Command::Registrations(public)) = parse(&["registrations", "--behind-nat=false"]) else {
            panic!("not registrations")
        };
        assert_eq!(public.behind_nat, Some(false));
        let Ok(Command::Paths(paths)) = parse(&["paths", "--remote", "[2001:db8::1]:5070", "--down"]) else {
            panic!("not paths")
        };
        assert_eq!((paths.remote.unwrap().port, paths.down), (Some(5070), true));
        for alias in ["dialogs", "calls"] {
            assert!(matches!(parse(&[alias, "--user", "user"]), Ok(Command::Dialogs(_))));
        }
        assert!(matches!(
            parse(&["bans", "lift", "192.0.2.1"]),
            Ok(Command::Bans(Bans { lift: Some(_) }))
        ));
        for wrong in [
            &["registrations", "--aor", "user"][..],
            &["registrations", "--aor", "@net.com"],
            &["registrations", "--ip", "net.com"],
            &["paths", "--state", "open"],
            &["paths", "--remote", "134.56.1.1:"],
            &["unregister"],
            &["bans", "lift", "x"],
            &["trace", "--source", "x"],
            &["trace", "--pcap", "x", "--json"],
            &["user", "add", "file"],
            &["user", "add", "file", "a@b", "--calls", "-1"],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn remotes() {
        let ip = |text: &str| {
            text.parse::<Remote>()
                .map(|remote| (remote.ip.to_string(), remote.port))
        };
        assert_eq!(ip("134.56.1.1"), Ok(("134.56.1.1".into(), None)));
        assert_eq!(ip("2001:db8::1"), Ok(("2001:db8::1".into(), None)));
        assert!(ip("5070").unwrap_err().contains("write it like"));
    }
}
