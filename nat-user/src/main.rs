//! `sipnat`: reads the command line and hands on.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, ErrorKind, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser};
use nat_user::{
    blocklog,
    cli::{Bindings, ChangeForward, Cli, Command, EXIT_ERROR, EXIT_NOT_FOUND, EXIT_OK, Lookup, Run},
    client::{Client, ClientError},
    config::{Config, ConfigError, DEFAULT_PIN_DIR, DEFAULT_SOCKET, Overrides, RunOptions},
    control::{BindingFilter, Done, Request},
    daemon,
    output::{self, JsonArray, TABLE_LIMIT},
    records::{BindingRecord, BlockRecord, CounterRecord, EventRecord, StatusRecord},
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
        Command::Bindings(Bindings {
            change: Some(change), ..
        }) => done(&mut out, &socket, &change_request(change), json)?,
        Command::Bindings(filter) => bindings(&mut out, &socket, filter, json)?,
        Command::Blocks { host } => {
            let request = Request::Blocks { host };
            list::<BlockRecord>(&mut out, &socket, &request, json, output::blocks)?;
        }
        Command::Counters { all } => {
            let request = Request::Counters { all };
            list::<CounterRecord>(&mut out, &socket, &request, json, output::counters)?;
        }
        Command::Events { follow } => events(&mut out, &socket, follow, json)?,
        Command::Reload => done(&mut out, &socket, &Request::Reload, json)?,
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
        Ok(config) => writeln!(
            out,
            "{} is valid: {} inside, {} outside, {} forwards, {} policy rules",
            path.display(),
            names(&config.nat.inside),
            names(&config.nat.outside),
            config.forwards.len(),
            config.policy.rules.len()
        )?,
        Err(_) if json => {
            out.flush()?;
            return Ok(EXIT_ERROR);
        }
        Err(error) => return Err(error.into()),
    }
    out.flush()?;
    Ok(EXIT_OK)
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

/// Records as a JSON array, straight through, or as a table.
fn list<T: serde::de::DeserializeOwned>(
    out: &mut impl Write,
    socket: &Path,
    request: &Request,
    json: bool,
    table: impl Fn(&[T]) -> comfy_table::Table,
) -> Result<()> {
    let mut client = Client::connect(socket)?;
    if json {
        let mut array = JsonArray::begin(out)?;
        client.request(request, |record| array.push(record))?;
        array.end()?;
    } else {
        output::print(out, &table(&client.collect(request)?))?;
    }
    Ok(())
}

fn bindings(out: &mut impl Write, socket: &Path, wanted: Bindings, json: bool) -> Result<()> {
    let mut filter = BindingFilter {
        host: wanted.host,
        proto: wanted.proto,
        port: wanted.port,
        external_ip: wanted.external.map(|external| external.ip),
        external_port: wanted.external.and_then(|external| external.port),
        limit: wanted.limit,
    };
    if json {
        return list::<BindingRecord>(out, socket, &Request::Bindings(filter), true, output::bindings);
    }
    // One more than is shown tells whether there are more.
    let shown = wanted.limit.unwrap_or(TABLE_LIMIT);
    filter.limit = Some(shown.saturating_add(1));
    let mut records: Vec<BindingRecord> = Client::connect(socket)?.collect(&Request::Bindings(filter))?;
    let more = records.len() as u64 > shown;
    records.truncate(usize::try_from(shown).unwrap_or(usize::MAX));
    output::print(out, &output::bindings(&records))?;
    if more {
        out.flush()?;
        eprintln!("sipnat: there are more than {shown}; use --limit, a filter, or --json");
    }
    Ok(())
}

fn events(out: &mut impl Write, socket: &Path, follow: bool, json: bool) -> Result<()> {
    // Whoever follows wants each event at once, on a terminal or in a pipe.
    let at_once = follow || io::stdout().is_terminal();
    Client::connect(socket)?.request(&Request::Events { follow }, |line| {
        match serde_json::from_str::<EventRecord>(line) {
            Ok(record) if !json => writeln!(out, "{}", output::event(&record))?,
            // An event that only a newer daemon knows is shown as it came.
            _ => writeln!(out, "{line}")?,
        }
        if at_once { out.flush() } else { Ok(()) }
    })?;
    Ok(())
}

fn done(out: &mut impl Write, socket: &Path, request: &Request, json: bool) -> Result<()> {
    print_done(out, Client::connect(socket)?.one::<Done>(request)?.message, json)
}

fn print_done(out: &mut impl Write, message: String, json: bool) -> Result<()> {
    if json {
        writeln!(out, "{}", serde_json::to_string(&Done { message })?)?;
    } else {
        writeln!(out, "{message}")?;
    }
    Ok(())
}

fn change_request(change: ChangeForward) -> Request {
    match change {
        ChangeForward::AddForward {
            protocol,
            external,
            inside,
        } => Request::AddForward {
            protocol,
            external,
            inside,
        },
        ChangeForward::DeleteForward { protocol, external } => Request::DeleteForward { protocol, external },
    }
}
