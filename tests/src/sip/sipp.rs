//! sipp with the scenarios of `tests/fixtures/sipp`, in a host's namespace, in the foreground.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::Transport;
use crate::child::Child;
use crate::lab::Host;
use crate::programs::TempDir;
use crate::sockets::{Protocol, is_bound};
use crate::wait::SOON;

/// A run of sipp to be started.
#[derive(Clone, Debug)]
pub struct Sipp {
    scenario: PathBuf,
    remote: Option<SocketAddrV4>,
    port: u16,
    transport: Transport,
    calls: Option<u32>,
    args: Vec<String>,
    csv: Option<String>,
    keys: Vec<(String, String)>,
    fields: Vec<(String, String)>,
}

/// `[NAME]` in scenarios, unless the test says otherwise.
const KEYS: [(&str, &str); 3] = [("domain", "net.com"), ("from", "caller"), ("expires", "300")];

/// `{{NAME}}` in scenarios, unless the test says otherwise.
const FIELDS: [(&str, &str); 12] = [
    ("hold", "100"),
    ("ring", "100"),
    ("ack", ""),
    ("linger", "0"),
    ("protocol", "udp"),
    ("event", "dialog"),
    ("code", "200"),
    ("format", "0 PCMU/8000"),
    ("payload", "0"),
    ("voice", ""),
    ("response", "486 Busy Here"),
    (
        "contact",
        "Contact: <sip:[service]@[local_ip]:[local_port];transport=[transport]>",
    ),
];

impl Sipp {
    /// A scenario by the name of its file, without `.xml`. One call, over UDP, from a port that the system chooses.
    pub fn scenario(name: &str) -> Self {
        let scenario = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fixtures/sipp")
            .join(name)
            .with_extension("xml");
        Self {
            scenario,
            remote: None,
            port: 0,
            transport: Transport::Udp,
            calls: Some(1),
            args: Vec::new(),
            csv: None,
            keys: Vec::new(),
            fields: Vec::new(),
        }
    }

    /// Whom to call or register at which server: `[service]` and `[key domain]` of the scenario, and the remote endpoint.
    pub fn to(mut self, user: &str, domain: &str, server: SocketAddrV4) -> Self {
        self.args.extend(["-s".into(), user.into()]);
        self.remote = Some(server);
        self.key("domain", domain)
    }

    /// Who calls or registers: `[key from]` of the scenario.
    pub fn from(self, user: &str) -> Self {
        self.key("from", user)
    }

    /// The name and password for challenges (`[authentication]`).
    pub fn auth(mut self, user: &str, password: &str) -> Self {
        self.args.extend(["-au", user, "-ap", password].map(String::from));
        self
    }

    /// Its own port, on the host's address.
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// One socket for all calls, of this transport: UDP or TCP (Debian's sipp has no TLS; baresip has).
    pub fn transport(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    /// How many calls to make or answer before it ends.
    pub fn calls(mut self, calls: u32) -> Self {
        self.calls = Some(calls);
        self
    }

    /// Runs until it is stopped.
    pub fn endless(mut self) -> Self {
        self.calls = None;
        self
    }

    /// How many calls to begin per second.
    pub fn rate(mut self, per_second: u32) -> Self {
        self.args.extend(["-r".into(), per_second.to_string()]);
        self
    }

    /// How many percent of messages it loses, in both directions.
    pub fn lost(mut self, percent: u32) -> Self {
        self.args.extend(["-lost".into(), percent.to_string()]);
        self
    }

    /// The value of `[NAME]` in the scenario, where the scenario says so.
    pub fn key(mut self, name: &str, value: &str) -> Self {
        self.keys.push((name.into(), value.into()));
        self
    }

    /// The lines that `[field0]`, `[field1]` … are taken from, one per call, separated by semicolons.
    pub fn csv(mut self, order: &str, lines: &[&str]) -> Self {
        self.csv = Some(format!("{order}\n{}\n", lines.join("\n")));
        self
    }

    /// Replaces `{{NAME}}` in the scenario before it is started: for whole lines, and for numbers that sipp takes from no key.
    pub fn fill(mut self, name: &str, text: &str) -> Self {
        self.fields.push((name.into(), text.into()));
        self
    }

    /// Plays the voice of a capture of PCMA ([`super::pcap`]) once the call stands, where the scenario has it, and says so in its description.
    pub fn plays(self, pcap: &Path) -> Self {
        let action = format!(
            "<nop><action><exec play_pcap_audio={:?}/></action></nop>",
            pcap.display().to_string()
        );
        self.fill("voice", &action)
            .fill("payload", "8")
            .fill("format", "8 PCMA/8000")
    }

    /// Sends back whatever comes to its media port.
    pub fn echoes(self) -> Self {
        self.args(&["-rtp_echo"])
    }

    /// Its media port; the next but one is taken too.
    pub fn media_port(self, port: u16) -> Self {
        self.args(&["-mp", &port.to_string()])
    }

    /// Any further arguments.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| arg.to_string()));
        self
    }

    /// Starts it. A server is returned once it listens.
    pub fn start(self, host: &Host) -> Result<Running> {
        let files = TempDir::new()?;
        let text = fs::read_to_string(&self.scenario).with_context(|| format!("read {}", self.scenario.display()))?;
        let given = self.fields.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let text = given.chain(FIELDS).fold(text, |text, (name, value)| {
            text.replace(&format!("{{{{{name}}}}}"), value)
        });
        ensure!(
            !text.contains("{{"),
            "{} has places that nothing was given for",
            self.scenario.display()
        );
        fs::write(files.file("scenario.xml"), text)?;
        let mut args = self.arguments(&files, host.ip)?;
        args.extend(self.remote.map(|remote| remote.to_string()));
        let mut command = host.command("sipp");
        command.args(&args).current_dir(files.path()).env("TERM", "dumb");
        let mut child = Child::spawn(command)?;
        // One that begins by itself may be over before anybody has looked.
        if self.port != 0 && self.remote.is_none() {
            let protocol = if self.transport == Transport::Udp {
                Protocol::Udp
            } else {
                Protocol::Tcp
            };
            child.wait_ready(&format!("sipp to use port {}", self.port), SOON, |_| {
                is_bound(host, protocol, self.port).then_some(())
            })?;
        }
        Ok(Running {
            child,
            files,
            name: self.name(),
            endpoint: SocketAddrV4::new(host.ip, self.port),
        })
    }

    /// Starts it and waits for its end, which must be a success.
    pub fn run(self, host: &Host) -> Result<()> {
        self.start(host)?.finish()
    }

    fn arguments(&self, files: &TempDir, ip: Ipv4Addr) -> Result<Vec<String>> {
        let transport = match self.transport {
            Transport::Udp => "u1",
            Transport::Tcp => "t1",
            Transport::Tls => bail!("Debian's sipp is built without TLS: take baresip or a Stream"),
        };
        let ip = ip.to_string();
        #[rustfmt::skip]
        let mut args: Vec<String> = [
            "-sf", &files.file("scenario.xml"), "-i", &ip, "-mi", &ip, "-t", transport, "-nostdin",
            "-trace_err", "-error_file", &files.file("errors"), "-trace_msg", "-message_file", &files.file("messages"),
            "-cid_str", &format!("%u-%p-{}@%s", crate::ns::unique_prefix()),
        ]
        .map(String::from)
        .into();
        if self.port != 0 {
            args.extend(["-p".into(), self.port.to_string()]);
        }
        if let Some(calls) = self.calls {
            args.extend(["-m".into(), calls.to_string()]);
        }
        if let Some(csv) = &self.csv {
            fs::write(files.file("values.csv"), csv)?;
            args.extend(["-inf".into(), files.file("values.csv")]);
        }
        let given = self.keys.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let defaults = KEYS
            .into_iter()
            .filter(|(name, _)| !self.keys.iter().any(|(given, _)| given == name));
        for (name, value) in given.chain(defaults) {
            args.extend(["-key", name, value].map(String::from));
        }
        args.extend(self.args.iter().cloned());
        Ok(args)
    }

    fn name(&self) -> String {
        self.scenario
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }
}

/// A running sipp. It is killed on drop.
#[derive(Debug)]
pub struct Running {
    /// Its own endpoint; the port is 0 if the system chose it.
    pub endpoint: SocketAddrV4,
    child: Child,
    files: TempDir,
    name: String,
}

impl Running {
    /// Waits until all its calls are over; a call that failed is an error that shows what happened.
    pub fn finish(self) -> Result<()> {
        self.finish_within(Duration::from_secs(60))
    }

    /// [`Self::finish`] with another deadline.
    pub fn finish_within(mut self, deadline: Duration) -> Result<()> {
        let status = self.child.wait_exit(deadline);
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => bail!("sipp {} ended with {status}\n{}", self.name, self.trace()),
            Err(error) => bail!("sipp {} does not end: {error:#}\n{}", self.name, self.trace()),
        }
    }

    /// Whether it still runs.
    pub fn running(&mut self) -> bool {
        self.child.running()
    }

    /// All messages that it sent and received so far, as its own log has them.
    pub fn messages(&self) -> String {
        fs::read_to_string(self.files.file("messages")).unwrap_or_default()
    }

    /// Waits until its log of messages contains this text.
    pub fn saw(&mut self, text: &str) -> Result<()> {
        let messages = self.files.file("messages");
        let what = format!("sipp {} to see {text:?}", self.name);
        let seen = self.child.wait_ready(&what, SOON, |_| {
            fs::read_to_string(&messages)
                .unwrap_or_default()
                .contains(text)
                .then_some(())
        });
        seen.with_context(|| self.trace())
    }

    fn trace(&self) -> String {
        let errors = fs::read_to_string(self.files.file("errors")).unwrap_or_default();
        format!(
            "--- errors ---\n{}\n--- messages ---\n{}",
            tail(&errors, 20),
            tail(&self.messages(), 200)
        )
    }
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
