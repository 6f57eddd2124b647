//! `baresip -f DIR` as a phone: a generated configuration, driven over its ctrl_tcp module.
//!
//! Each phone plays one tone and records what it hears, so a test can tell whose media arrived where: [`Phone::hears`].

use std::cell::RefCell;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::certificates::{Authority, Certificate};
use super::{Transport, netstring, sound};
use crate::child::Child;
use crate::lab::{DEV, Host};
use crate::programs::TempDir;
use crate::sockets;
use crate::wait::{SOON, wait_for};

/// A phone to be started.
#[derive(Clone, Debug)]
pub struct Account {
    user: String,
    domain: String,
    port: u16,
    parameters: Vec<String>,
    transport: Transport,
    dns: Option<Ipv4Addr>,
    tone: u32,
    rtp: (u16, u16),
    register: u32,
    authority: Option<PathBuf>,
    certificate: Option<Certificate>,
    config: String,
}

impl Account {
    /// The password; the name is the user's.
    pub fn password(self, password: &str) -> Self {
        let user = self.user.clone();
        self.parameter(&format!("auth_user={user}"))
            .parameter(&format!("auth_pass={password}"))
    }

    /// Where all requests go first.
    pub fn outbound(self, proxy: SocketAddrV4, transport: Transport) -> Self {
        self.parameter(&format!("outbound=\"sip:{proxy};transport={transport}\""))
            .transport(transport)
    }

    /// The transport of its own requests and of its contact.
    pub fn transport(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    /// Its port for SIP (default 5060).
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// The expiry it asks for, in seconds (default 300; 0: it does not register). It renews after nine tenths.
    pub fn register_every(mut self, seconds: u32) -> Self {
        self.register = seconds;
        self
    }

    /// Its name server.
    pub fn dns(mut self, server: Ipv4Addr) -> Self {
        self.dns = Some(server);
        self
    }

    /// The pitch that it plays, in Hz (default 440).
    pub fn tone(mut self, hertz: u32) -> Self {
        self.tone = hertz;
        self
    }

    /// Its ports for RTP and RTCP (default 10000 to 10019).
    pub fn rtp_ports(mut self, first: u16, last: u16) -> Self {
        self.rtp = (first, last);
        self
    }

    /// RFC 5626: registers with reg-id and instance, and keeps its flow alive by itself.
    pub fn outbound_extension(self) -> Self {
        self.parameter("sipnat=outbound")
    }

    /// Whom it trusts for TLS.
    pub fn trust(mut self, authority: &Authority) -> Self {
        self.authority = Some(authority.file.clone());
        self
    }

    /// The certificate that it shows when others connect to it.
    pub fn certificate(mut self, certificate: &Certificate) -> Self {
        self.certificate = Some(certificate.clone());
        self
    }

    /// Media encryption, such as `srtp-mand`.
    pub fn media_encryption(self, kind: &str) -> Self {
        self.parameter(&format!("mediaenc={kind}"))
    }

    /// A parameter of the account, as baresip's accounts file has it.
    pub fn parameter(mut self, parameter: &str) -> Self {
        self.parameters.push(parameter.into());
        self
    }

    /// One more line of the configuration.
    pub fn config(mut self, line: &str) -> Self {
        self.config += &format!("{line}\n");
        self
    }

    /// Starts the phone in a host's namespace.
    pub fn start(self, host: &Host) -> Result<Phone> {
        let files = TempDir::new()?;
        // Anything that no other phone of this host has.
        let control = 20_000 + self.port % 10_000;
        fs::write(files.file("config"), self.config_file(host, &files, control)?)?;
        fs::write(files.file("accounts"), self.account_line())?;
        // Otherwise it writes examples that dial people.
        fs::write(files.file("contacts"), "")?;
        let mut child = host.spawn("baresip", ["-4", "-v", "-f", &files.path().display().to_string()])?;
        child.wait_log("baresip is ready.", SOON)?;
        let stream = sockets::tcp_connect(host, (Ipv4Addr::LOCALHOST, control))?;
        stream.set_read_timeout(Some(Duration::from_millis(100)))?;
        Ok(Phone {
            aor: format!("sip:{}@{}", self.user, self.domain),
            endpoint: SocketAddrV4::new(host.ip, self.port),
            child,
            files,
            control: RefCell::new(Control {
                stream,
                buffer: Vec::new(),
                events: Vec::new(),
                read: 0,
            }),
        })
    }

    fn config_file(&self, host: &Host, files: &TempDir, control: u16) -> Result<String> {
        let (directory, (first, last)) = (files.path().display(), self.rtp);
        let tls_port = self.port + 1;
        let mut text = format!(
            "poll_method epoll\nsip_listen {ip}:{port}\nnet_interface {DEV}\ncall_local_timeout 120\ncall_max_calls 20\n\
             audio_source ausine,{tone}\naudio_player aubridge,sink{port}\naudio_alert aubridge,alert{port}\naudio_level no\n\
             ausrc_srate 48000\nausrc_channels 2\nausrc_format s16\nauplay_format s16\nrtp_ports {first}-{last}\n\
             module_path /usr/lib/baresip/modules\nmodule g711.so\nmodule ausine.so\nmodule aubridge.so\nmodule sndfile.so\n\
             module srtp.so\nmodule_tmp uuid.so\nmodule_tmp account.so\nmodule_app menu.so\nmodule_app ctrl_tcp.so\n\
             ctrl_tcp_listen 127.0.0.1:{control}\nsnd_path {directory}\nringback_disabled yes\nmenu_bell no\n",
            ip = host.ip,
            port = self.port,
            tone = self.tone,
        );
        // A name server that is not there is asked for nothing: addresses need none. Without a line it takes the machine's.
        text += &format!("dns_server {}:53\n", self.dns.unwrap_or(Ipv4Addr::LOCALHOST));
        if let Some(authority) = &self.authority {
            text += &format!("sip_cafile {}\nsip_verify_server yes\n", authority.display());
        }
        if let Some(certificate) = &self.certificate {
            // One file with both.
            let both = fs::read_to_string(&certificate.key)? + &fs::read_to_string(&certificate.certificate)?;
            fs::write(files.file("certificate.pem"), both)?;
            text += &format!(
                "sip_certificate {}\n# TLS on port {tls_port}\n",
                files.file("certificate.pem")
            );
        }
        Ok(text + &self.config)
    }

    fn account_line(&self) -> String {
        let parameters: String = self
            .parameters
            .iter()
            .map(|parameter| format!(";{parameter}"))
            .collect();
        format!(
            "<sip:{}@{};transport={}>;regint={};answermode=manual{parameters}\n",
            self.user, self.domain, self.transport, self.register
        )
    }
}

/// A running phone. It is killed on drop.
#[derive(Debug)]
pub struct Phone {
    /// Its address of record.
    pub aor: String,
    /// Its own address and port for SIP.
    pub endpoint: SocketAddrV4,
    child: Child,
    files: TempDir,
    control: RefCell<Control>,
}

/// Something that happened, as ctrl_tcp tells it.
#[derive(Clone, Debug)]
pub struct Event {
    /// Such as `CALL_INCOMING`.
    pub kind: String,
    /// The whole JSON object.
    pub value: Value,
}

impl Event {
    /// The text of a member, such as `param` or `peeruri`; empty if it is not there.
    pub fn text(&self, member: &str) -> &str {
        self.value[member].as_str().unwrap_or_default()
    }
}

impl Phone {
    /// Describes the phone of this user.
    pub fn account(user: &str, domain: &str) -> Account {
        Account {
            user: user.into(),
            domain: domain.into(),
            port: 5060,
            parameters: Vec::new(),
            transport: Transport::Udp,
            dns: None,
            tone: 440,
            rtp: (10_000, 10_019),
            register: 300,
            authority: None,
            certificate: None,
            config: String::new(),
        }
    }

    /// Waits until it is registered.
    pub fn registered(&self) -> Result<()> {
        let what = format!("{} to register", self.aor);
        let state = wait_for(&what, SOON, || {
            // Asked, because the event may come before anybody listens.
            let info = self.command("reginfo", "").ok()?;
            info.contains("OK ")
                .then_some(Ok(()))
                .or(info.contains("ERR ").then_some(Err(info)))
        });
        match state.with_context(|| format!("it printed:\n{}", self.child.log()))? {
            Ok(()) => Ok(()),
            Err(info) => bail!("{} cannot register: {info}\n{}", self.aor, self.child.log()),
        }
    }

    /// Calls somebody.
    pub fn dial(&self, uri: &str) -> Result<()> {
        self.command("dial", uri).map(drop)
    }

    /// Waits for a call, and returns who calls.
    pub fn incoming(&self) -> Result<String> {
        self.event("CALL_INCOMING")
            .map(|event| event.text("peeruri").to_string())
    }

    /// Picks up.
    pub fn accept(&self) -> Result<()> {
        self.command("accept", "").map(drop)
    }

    /// Ends the call, or refuses it.
    pub fn hang_up(&self) -> Result<()> {
        self.command("hangup", "").map(drop)
    }

    /// Puts the call on hold, by another INVITE (RFC 3264 §8.4).
    pub fn hold(&self) -> Result<()> {
        self.command("hold", "").map(drop)
    }

    /// Takes it back.
    pub fn resume(&self) -> Result<()> {
        self.command("resume", "").map(drop)
    }

    /// Waits until the call stands.
    pub fn established(&self) -> Result<()> {
        let ends = ["CALL_ESTABLISHED", "CALL_CLOSED"];
        let event = self.event_where("the call", |event| ends.contains(&event.kind.as_str()))?;
        ensure!(
            event.kind == ends[0],
            "{}: the call ended with {:?}",
            self.aor,
            event.text("param")
        );
        Ok(())
    }

    /// Waits until the call is over, and returns why.
    pub fn closed(&self) -> Result<String> {
        self.event("CALL_CLOSED").map(|event| event.text("param").to_string())
    }

    /// Waits until what it hears is a tone of this pitch, in Hz.
    pub fn hears(&self, hertz: u32) -> Result<()> {
        let mut last = None;
        let heard = wait_for(&format!("{} to hear {hertz} Hz", self.aor), SOON, || {
            last = self.pitch().ok()?;
            (last == Some(hertz)).then_some(())
        });
        heard.with_context(|| format!("it hears {last:?}; it printed:\n{}", self.child.log()))
    }

    /// The pitch of what it heard last in its newest call; `None` for silence.
    pub fn pitch(&self) -> Result<Option<u32>> {
        let mut recordings: Vec<PathBuf> = fs::read_dir(self.files.path())?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.to_string_lossy().ends_with("-dec.wav"))
            .collect();
        recordings.sort();
        let newest = recordings.last().context("it has not heard anything")?;
        sound::pitch(newest)
    }

    /// Waits for the next event of this kind that nobody waited for yet; those before it are passed over.
    pub fn event(&self, kind: &str) -> Result<Event> {
        self.event_where(kind, |event| event.kind == kind)
    }

    /// Waits for the next event that `wanted` accepts; those before it are passed over.
    pub fn event_where(&self, what: &str, wanted: impl Fn(&Event) -> bool) -> Result<Event> {
        let end = Instant::now() + SOON;
        let mut control = self.control.borrow_mut();
        loop {
            while control.read < control.events.len() {
                control.read += 1;
                let event = &control.events[control.read - 1];
                if wanted(event) {
                    return Ok(event.clone());
                }
            }
            if Instant::now() >= end {
                bail!(
                    "{} waited for {what}, in vain; it printed:\n{}",
                    self.aor,
                    self.child.log()
                );
            }
            control.fill()?;
        }
    }

    /// Everything that happened so far.
    pub fn events(&self) -> Result<Vec<Event>> {
        let mut control = self.control.borrow_mut();
        control.fill()?;
        Ok(control.events.clone())
    }

    /// Runs one of its commands (`help` lists them) and returns what it prints.
    pub fn command(&self, command: &str, params: &str) -> Result<String> {
        let mut control = self.control.borrow_mut();
        let request = json!({ "command": command, "params": params, "token": "test" }).to_string();
        control
            .stream
            .write_all(&netstring::encode(&request))
            .context("write to ctrl_tcp")?;
        let end = Instant::now() + SOON;
        while Instant::now() < end {
            if let Some(response) = control.fill()? {
                ensure!(
                    response["ok"] == true,
                    "{}: /{command} {params}: {}",
                    self.aor,
                    response["data"]
                );
                return Ok(response["data"].as_str().unwrap_or_default().to_string());
            }
        }
        bail!(
            "{}: no answer to /{command}; it printed:\n{}",
            self.aor,
            self.child.log()
        )
    }

    /// What it printed.
    pub fn log(&self) -> String {
        self.child.log()
    }

    /// Ends it as a user would: it unregisters.
    pub fn quit(mut self) -> Result<()> {
        // The connection may close before the answer.
        let request = json!({ "command": "quit", "params": "" }).to_string();
        self.control
            .borrow_mut()
            .stream
            .write_all(&netstring::encode(&request))?;
        self.child.wait_exit(SOON).map(drop)
    }

    /// Takes it off the network at once, as a power cut does.
    pub fn kill(mut self) {
        self.child.kill9();
    }
}

#[derive(Debug)]
struct Control {
    stream: TcpStream,
    buffer: Vec<u8>,
    events: Vec<Event>,
    /// So many events have been looked at.
    read: usize,
}

impl Control {
    /// Reads what is there, waiting a moment for it; events are kept, a response is returned.
    fn fill(&mut self) -> Result<Option<Value>> {
        loop {
            while let Some(text) = netstring::take(&mut self.buffer)? {
                let value: Value = serde_json::from_slice(&text).context("ctrl_tcp sent no JSON")?;
                match value["type"].as_str() {
                    Some(kind) if value["event"] == true => self.events.push(Event {
                        kind: kind.into(),
                        value,
                    }),
                    _ => return Ok(Some(value)),
                }
            }
            let mut chunk = [0; 16384];
            match self.stream.read(&mut chunk) {
                Ok(0) => bail!("baresip closed ctrl_tcp"),
                Ok(length) => self.buffer.extend(&chunk[..length]),
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ) =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(error).context("read from ctrl_tcp"),
            }
        }
    }
}
