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
use std::net::SocketAddrV4;

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
    role: String,
    certificate: Option<Certificate>,
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
        let files = TempDir::new()?;
        let toml = self.text(host, &files)?;
        Ok(Server {
            endpoint: SocketAddrV4::new(host.ip, Transport::Udp.default_port()),
            daemon: Daemon::start(host, NatConfig::toml(&toml))?,
            _files: files,
        })
    }

    fn text(&self, host: &Host, files: &TempDir) -> Result<String> {
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
                "[[sip.listen]]\ntransport = \"{transport}\"\naddress = \"{}\"\nrole = {:?}",
                host.ip, self.role
            );
        }
        if !self.domain.is_empty() {
            let _ = writeln!(
                out,
                "[[sip.domain]]\nnames = [{:?}, \"{}\"]\n{}",
                self.domain,
                host.ip,
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
        if self.users.is_empty() {
            return Ok("authenticate = false".into());
        }
        let lines = self.users.iter();
        let lines = lines.map(|(name, password)| format!("{name}:{}:plain:{password}\n", self.domain));
        fs::write(files.file("users"), lines.collect::<String>()).context("write the users file")?;
        Ok(format!("users = {:?}", files.file("users")))
    }
}

/// A running server. Dropping it ends it; if the test failed, its log is printed.
#[derive(Debug)]
pub struct Server {
    /// Where it serves UDP and TCP.
    pub endpoint: SocketAddrV4,
    daemon: Daemon,
    _files: TempDir,
}

impl Server {
    /// Describes a server for one domain; with an empty name for none (an outbound proxy).
    pub fn config(domain: &str) -> Config {
        Config {
            domain: domain.into(),
            users: Vec::new(),
            role: "proxy".into(),
            certificate: None,
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
