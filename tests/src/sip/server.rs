//! sipnat as a SIP server alone on a host, without a NAT: the daemon with a generated `[sip]`.
//!
//! ```no_run
//! # use tests::prelude::*;
//! # use tests::sip::server::Server;
//! # let lab = Lab::builder().build().unwrap();
//! let mut server = Server::config("net.com").user("user", "secret").start(lab.o(1)).unwrap();
//! assert_eq!(server.registrations().unwrap().len(), 0);
//! server.kill9();
//! server.restart().unwrap(); // with what it has stored
//! ```

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Transport;
use super::certificates::Certificate;
use crate::lab::Host;
use crate::programs::TempDir;
use crate::router::NatConfig;
use crate::sipnat::Daemon;
use crate::wait::{SOON, wait_for};

/// A configuration to be started.
#[derive(Clone, Debug)]
pub struct Config {
    domain: String,
    users: Vec<(String, String)>,
    users_text: Option<String>,
    role: String,
    certificate: Option<Certificate>,
    lifetime_scale: Option<f64>,
    server_lines: String,
    domain_lines: String,
    algorithms: Vec<String>,
    auth_lines: String,
    more: String,
}

impl Config {
    /// A user who must authenticate. Without users, everybody may register everything.
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.users.push((name.into(), password.into()));
        self
    }

    /// The users file as it is to be, instead of [`Self::user`].
    pub fn users_file(mut self, text: &str) -> Self {
        self.users_text = Some(text.into());
        self
    }

    /// `proxy` (default), `redirect` or `outbound`, of all its listeners.
    pub fn role(mut self, role: &str) -> Self {
        self.role = role.into();
        self
    }

    /// Serves TLS too, on port 5061.
    pub fn tls(mut self, certificate: &Certificate) -> Self {
        self.certificate = Some(certificate.clone());
        self
    }

    /// Multiplies the times that nobody can wait for in a test (`--lifetime-scale`).
    pub fn lifetime_scale(mut self, scale: f64) -> Self {
        self.lifetime_scale = Some(scale);
        self
    }

    /// A line of `[sip]`.
    pub fn line(mut self, line: &str) -> Self {
        self.server_lines += &format!("{line}\n");
        self
    }

    /// A line of `[[sip.domain]]`.
    pub fn domain_line(mut self, line: &str) -> Self {
        self.domain_lines += &format!("{line}\n");
        self
    }

    /// Lines of `[sip.auth]`.
    pub fn auth_line(mut self, lines: &str) -> Self {
        self.auth_lines += &format!("{lines}\n");
        self
    }

    /// The digest algorithms that are offered, best first (default MD5 alone).
    pub fn algorithms(mut self, names: &[&str]) -> Self {
        self.algorithms = names.iter().map(|name| name.to_string()).collect();
        self
    }

    /// Further sections, such as `[sip.paths]`.
    pub fn toml(mut self, toml: &str) -> Self {
        self.more += &format!("{toml}\n");
        self
    }

    /// Starts it on a host's address and returns when its command line answers.
    pub fn start(self, host: &Host) -> Result<Server> {
        let mut server = self.prepare(host)?;
        server.restart()?;
        Ok(server)
    }

    /// Starts it on a host's address, which it must refuse: with exit code 1 and one message, which is returned, and without
    /// leaving a socket.
    pub fn refused(self, host: &Host) -> Result<Refused> {
        let server = self.prepare(host)?;
        let mut child = server.daemon.spawn(&[])?;
        let status = child.wait_exit(REFUSAL)?;
        let message = child.log();
        ensure!(status.code() == Some(1), "{status} instead of a refusal:\n{message}");
        ensure!(!server.daemon.socket().exists(), "its socket was left behind");
        Ok(Refused { message, server })
    }

    fn prepare(self, host: &Host) -> Result<Server> {
        let files = TempDir::new()?;
        let mut config = NatConfig::toml(&self.text(host.ip, &files)?);
        if let Some(scale) = self.lifetime_scale {
            config = config.arg("--lifetime-scale").arg(&scale.to_string());
        }
        Ok(Server {
            endpoint: SocketAddrV4::new(host.ip, Transport::Udp.default_port()),
            daemon: Daemon::prepare(host, config)?,
            config: self,
            files,
        })
    }

    /// The configuration, for a server at this address that runs beside a NAT; its files are in `files`.
    pub fn text(&self, ip: Ipv4Addr, files: &TempDir) -> Result<String> {
        let mut out = format!(
            "[daemon]\nlog = \"info\"\n[sip]\nstore = {:?}\nsecret = {:?}\n{}",
            files.file("registrations.redb"),
            files.file("secret"),
            self.server_lines
        );
        let tls = self.certificate.iter().map(|_| Transport::Tls);
        for transport in [Transport::Udp, Transport::Tcp].into_iter().chain(tls) {
            let _ = writeln!(
                out,
                "[[sip.listen]]\ntransport = \"{transport}\"\naddress = \"{ip}\"\nrole = {:?}",
                self.role
            );
        }
        if !self.domain.is_empty() {
            let _ = writeln!(
                out,
                "[[sip.domain]]\nnames = [{:?}, \"{ip}\"]\n{}",
                self.domain,
                self.users(files)?
            );
            out += &self.domain_lines;
        }
        if let Some(certificate) = &self.certificate {
            let (certificate, key) = (&certificate.certificate, &certificate.key);
            let _ = writeln!(out, "[sip.tls]\ncertificate = {certificate:?}\nkey = {key:?}");
        }
        let _ = writeln!(
            out,
            "[sip.auth]\nalgorithms = {:?}\n{}",
            self.algorithms, self.auth_lines
        );
        Ok(out + &self.more)
    }

    fn users(&self, files: &TempDir) -> Result<String> {
        let lines = self.users.iter();
        let lines = lines.map(|(name, password)| format!("{name}:{}:plain:{password}\n", self.domain));
        let text = self.users_text.clone().unwrap_or_else(|| lines.collect());
        if text.is_empty() {
            return Ok("authenticate = false".into());
        }
        fs::write(files.file(USERS), text).context("write the users file")?;
        Ok(format!("users = {:?}", files.file(USERS)))
    }
}

/// How the users file is called.
const USERS: &str = "users";

/// A start that is refused may take this long on a busy machine.
const REFUSAL: Duration = Duration::from_secs(60);

/// A start that was refused.
#[derive(Debug)]
pub struct Refused {
    /// What it said.
    pub message: String,
    server: Server,
}

impl Refused {
    /// The config file that it was started with.
    pub fn config_file(&self) -> PathBuf {
        self.server.daemon.config_file()
    }

    /// The users file that it was started with.
    pub fn users_file(&self) -> String {
        self.server.users_file()
    }
}

/// A running server. Dropping it ends it; if the test failed, its log is printed.
#[derive(Debug)]
pub struct Server {
    /// Where it serves UDP and TCP.
    pub endpoint: SocketAddrV4,
    daemon: Daemon,
    config: Config,
    files: TempDir,
}

impl Server {
    /// Describes a server for one domain; with an empty name for none (an outbound proxy).
    pub fn config(domain: &str) -> Config {
        Config {
            domain: domain.into(),
            users: Vec::new(),
            users_text: None,
            role: "proxy".into(),
            certificate: None,
            lifetime_scale: None,
            server_lines: String::new(),
            domain_lines: String::new(),
            // sipp and the baresip of Debian give up when they are challenged with anything else, MD5 beside it or not.
            algorithms: vec!["MD5".into()],
            auth_lines: String::new(),
            more: String::new(),
        }
    }

    /// Where it serves TLS, if it does.
    pub fn tls_endpoint(&self) -> SocketAddrV4 {
        SocketAddrV4::new(*self.endpoint.ip(), Transport::Tls.default_port())
    }

    /// Runs `sipnat ARGS --json`, which must succeed, and returns what it prints.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let output = self.daemon.cli(&[args, &["--json"]].concat())?;
        ensure!(
            output.status.success(),
            "sipnat {} --json: {}\n{}",
            args.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("sipnat {} --json printed no JSON", args.join(" ")))
    }

    /// The registration table.
    pub fn registrations(&self) -> Result<Vec<Value>> {
        self.list("registrations")
    }

    /// The path table.
    pub fn paths(&self) -> Result<Vec<Value>> {
        self.list("paths")
    }

    /// The dialogs that it follows.
    pub fn dialogs(&self) -> Result<Vec<Value>> {
        self.list("dialogs")
    }

    /// The one path to a device; an error if there is none or more than one.
    pub fn path_to(&self, remote: SocketAddrV4) -> Result<Value> {
        let found = self.json(&["paths", "--remote", &remote.to_string()])?;
        let found = found.as_array().context("`sipnat paths` printed no list")?;
        ensure!(found.len() == 1, "not one path to {remote} but {found:?}");
        Ok(found[0].clone())
    }

    /// Waits until the path to a device is in this state.
    pub fn path_becomes(&self, remote: SocketAddrV4, state: &str) -> Result<Value> {
        let mut last = None;
        let found = wait_for(&format!("the path to {remote} to be in state {state:?}"), SOON, || {
            let path = self.path_to(remote);
            let is = path.as_ref().is_ok_and(|path| path["state"] == state);
            last = Some(path);
            is.then_some(())
        });
        match (found, last) {
            (Ok(()), Some(path)) => path,
            (Err(error), last) => Err(error.context(format!("last seen: {last:?}"))),
            (Ok(()), None) => unreachable!("it was seen"),
        }
    }

    /// Ends it with SIGKILL.
    pub fn kill9(&mut self) {
        self.daemon.kill9();
    }

    /// Starts it again after [`Self::kill9`].
    pub fn restart(&mut self) -> Result<()> {
        self.daemon.restart()
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// How much memory it has in use, in KiB (`VmRSS`).
    pub fn memory(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        kib.context("/proc/PID/status has no VmRSS")
    }

    /// The users file.
    pub fn users_file(&self) -> String {
        self.files.file(USERS)
    }

    /// Writes another users file, which a reload applies.
    pub fn write_users(&self, text: &str) -> Result<()> {
        fs::write(self.users_file(), text).context("write the users file")
    }

    /// Writes another config file, which a reload applies.
    pub fn write_config(&self, change: impl FnOnce(Config) -> Config) -> Result<()> {
        let config = change(self.config.clone());
        self.daemon
            .write_config(&config.text(*self.endpoint.ip(), &self.files)?)
    }

    /// Runs `sipnat ARGS`, whatever comes of it.
    pub fn cli(&self, args: &[&str]) -> Result<Output> {
        self.daemon.cli(args)
    }

    /// Runs `sipnat reload`, which must succeed.
    pub fn reload(&self) -> Result<()> {
        let output = self.cli(&["reload"])?;
        ensure!(
            output.status.success(),
            "sipnat reload: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Runs `sipnat reload`, which must be refused; returns what it says.
    pub fn reload_refused(&self) -> Result<String> {
        let output = self.cli(&["reload"])?;
        ensure!(output.status.code() == Some(1), "not refused: {output:?}");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Sends SIGHUP and waits until the log has a new line that contains `text`.
    pub fn hang_up(&self, text: &str) -> Result<()> {
        let before = self.log().len();
        self.daemon.signal(libc::SIGHUP)?;
        wait_for(&format!("{text:?} in sipnat's log"), SOON, || {
            self.log().get(before..)?.contains(text).then_some(())
        })
    }

    /// What it logged so far, over all starts.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    fn list(&self, command: &str) -> Result<Vec<Value>> {
        let list = self.json(&[command])?;
        let list = list.as_array().cloned();
        list.with_context(|| format!("`sipnat {command} --json` printed no list"))
    }
}
