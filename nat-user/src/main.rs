//! `sipnat`: reads the command line and hands on.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, ErrorKind, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser};
use nat_user::{
    blocklog,
    cli::{Cli, Command, EXIT_ERROR, EXIT_NOT_FOUND, EXIT_OK, LeaseAction, Lookup, Run},
    client::{Client, ClientError},
    commands::{self, done, list, print_done, sip},
    config::{Config, ConfigError, DEFAULT_PIN_DIR, DEFAULT_SOCKET, Overrides, RunOptions},
    control::{Done, Request},
    daemon, output,
    records::{BlockRecord, CounterRecord, LeaseRecord, RelayRecord, StatusRecord},
};

fn main() -> ExitCode {
    match dispatch(Cli::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sipnat: {error:#}");
            ExitCode::from(error.downcast_ref().map_or(EXIT_ERROR, ClientError::exit_code))
        }
    }
}

/// `sipnat bindings | head` is no error.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let kind = match error.downcast_ref::<ClientError>() {
        Some(ClientError::Output(error)) => Some(error.kind()),
        _ => error.downcast_ref::<io::Error>().map(io::Error::kind),
    };
    kind == Some(ErrorKind::BrokenPipe)
}

fn dispatch(cli: Cli) -> Result<u8> {
    let socket = cli.socket.clone().unwrap_or_else(|| DEFAULT_SOCKET.into());
    let json = cli.json;
    let mut out = BufWriter::new(io::stdout().lock());
    match cli.command {
        Command::Run(run) => {
            drop(out);
            daemon::run(run_options(run, cli.socket.clone()))?;
            return Ok(EXIT_OK);
        }
        Command::Check { config } => return check(&mut out, &config, json),
        Command::Lookup(query) => return lookup(&mut out, &query, json),
        Command::Completions { shell } => clap_complete::generate(shell, &mut Cli::command(), "sipnat", &mut out),
        Command::Man { dir } => man(&dir)?,
        Command::Status => {
            let status: StatusRecord = Client::connect(&socket)?.one(&Request::Status)?;
            if json {
                serde_json::to_writer_pretty(&mut out, &status)?;
                writeln!(out)?;
            } else {
                output::status(&mut out, &status)?;
            }
        }
        Command::Bindings(wanted) => commands::bindings(&mut out, &socket, wanted, json)?,
        Command::Blocks { host } => {
            let request = Request::Blocks { host };
            list::<BlockRecord>(&mut out, &socket, &request, json, output::blocks)?;
        }
        Command::Relays { call } => {
            let request = Request::Relays { call };
            list::<RelayRecord>(&mut out, &socket, &request, json, output::relays)?;
        }
        Command::Leases(leases) => match leases.action {
            None => list::<LeaseRecord>(&mut out, &socket, &Request::Leases, json, output::leases)?,
            Some(LeaseAction::Revoke { protocol, inside }) => {
                done(&mut out, &socket, &Request::RevokeLease { protocol, inside }, json)?;
            }
        },
        Command::Counters { all } => {
            let request = Request::Counters { all };
            list::<CounterRecord>(&mut out, &socket, &request, json, output::counters)?;
        }
        Command::Events { follow } => commands::events(&mut out, &socket, follow, json)?,
        Command::Reload => done(&mut out, &socket, &Request::Reload, json)?,
        Command::Registrations(wanted) => sip::registrations(&mut out, &socket, wanted, json)?,
        Command::Unregister(wanted) => sip::unregister(&mut out, &socket, wanted, json)?,
        Command::Paths(wanted) => sip::paths(&mut out, &socket, wanted, json)?,
        Command::Dialogs(wanted) => sip::dialogs(&mut out, &socket, wanted, json)?,
        Command::Transactions(wanted) => sip::transactions(&mut out, &socket, wanted, json)?,
        Command::Users { domain } => sip::users(&mut out, &socket, domain, json)?,
        Command::Bans(wanted) => sip::bans(&mut out, &socket, wanted, json)?,
        Command::Trace(wanted) => sip::trace(&mut out, &socket, wanted, json)?,
        Command::Capture(wanted) => sip::capture(&mut out, &socket, wanted, json)?,
        Command::User(wanted) => commands::user::user(&mut out, wanted, json)?,
        Command::Detach { config, pin_dir } => {
            let config = config
                .as_deref()
                .map(Config::load)
                .transpose()?
                .map(|config| config.daemon);
            let pin_dir = pin_dir.or(config.as_ref().map(|daemon| daemon.pin_dir.clone()));
            let pin_dir = pin_dir.unwrap_or_else(|| DEFAULT_PIN_DIR.into());
            let socket = cli.socket.or(config.map(|daemon| daemon.socket)).unwrap_or(socket);
            match Client::connect(&socket) {
                Err(ClientError::NoDaemon { .. }) => print_done(&mut out, daemon::detach(&pin_dir)?, json)?,
                Err(error) => return Err(error.into()),
                Ok(mut client) => print_done(&mut out, client.one::<Done>(&Request::Detach)?.message, json)?,
            }
        }
    }
    out.flush()?;
    Ok(EXIT_OK)
}

fn run_options(run: Run, socket: Option<PathBuf>) -> RunOptions {
    RunOptions {
        config: run.config,
        overrides: Overrides {
            inside: run.inside,
            outside: run.outside,
            socket,
            pin_dir: run.pin_dir,
            skb_mode: run.skb_mode,
        },
        lifetime_scale: run.lifetime_scale,
        allow_sysctl: run.allow_sysctl,
    }
}

fn check(out: &mut impl Write, path: &Path, json: bool) -> Result<u8> {
    let result = Config::load(path);
    if json {
        let report = match &result {
            Ok(_) => serde_json::json!({ "ok": true }),
            Err(ConfigError {
                file,
                position,
                message,
                remedy,
            }) => serde_json::json!({
                "ok": false, "file": file, "line": position.map(|(line, _)| line),
                "column": position.map(|(_, column)| column), "message": message, "remedy": remedy,
            }),
        };
        writeln!(out, "{report}")?;
    }
    match result {
        Ok(_) if json => {}
        Ok(config) => writeln!(out, "{} is valid: {}", path.display(), summary(&config))?,
        Err(_) if json => {
            out.flush()?;
            return Ok(EXIT_ERROR);
        }
        Err(error) => return Err(error.into()),
    }
    out.flush()?;
    Ok(EXIT_OK)
}

/// What a configuration runs.
fn summary(config: &Config) -> String {
    let nat = config.nat.runs().then(|| {
        format!(
            "{} inside, {} outside, {} forwards, {} policy rules",
            names(&config.nat.inside),
            names(&config.nat.outside),
            config.forwards.len(),
            config.policy.rules.len()
        )
    });
    let sip = config.sip.as_ref().map(|sip| {
        format!(
            "a SIP server with {} listeners, {} domains, {} routes",
            sip.listeners.len(),
            sip.domains.len(),
            sip.routes.len()
        )
    });
    nat.into_iter().chain(sip).collect::<Vec<_>>().join("; ")
}

fn names(interfaces: &[nat_user::config::Interface]) -> String {
    interfaces.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn lookup(out: &mut impl Write, query: &Lookup, json: bool) -> Result<u8> {
    let shown = query.log.display();
    let log = File::open(&query.log)
        .with_context(|| format!("cannot open {shown}; name the file that log.blocks of the config has"))?;
    let answer = blocklog::lookup(BufReader::with_capacity(1 << 20, log), query.external, query.time)
        .with_context(|| format!("cannot read {shown}"))?;
    if answer.unreadable > 0 {
        eprintln!(
            "sipnat: {} lines of {shown} are no records and were ignored",
            answer.unreadable
        );
    }
    match (&answer.holder, json) {
        (Some(holder), true) => writeln!(out, "{}", serde_json::to_string(holder)?)?,
        (Some(holder), false) => writeln!(out, "{}", output::lookup(holder))?,
        (None, _) => {
            eprintln!(
                "sipnat: nobody had {} {} at {}",
                query.external, query.proto, query.time
            );
            if let Some(before) = &answer.before {
                eprintln!("sipnat: the last one before: {}", output::lookup(before));
            }
            return Ok(EXIT_NOT_FOUND);
        }
    }
    out.flush()?;
    Ok(EXIT_OK)
}

fn man(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), dir))
        .with_context(|| format!("cannot write man pages to {}; choose another directory", dir.display()))
}
