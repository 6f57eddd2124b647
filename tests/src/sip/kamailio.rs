//! Kamailio as a registrar and proxy that is not ours: the upstream of the outbound proxy role, the other side of the bench, and
//! proof that the harness itself works.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Transport;
use super::certificates::Certificate;
use crate::child::Child;
use crate::lab::Host;
use crate::ns::Namespace;
use crate::programs::TempDir;
use crate::wait::SOON;

/// Where Debian has the modules.
const MODULES: &str = "/usr/lib/x86_64-linux-gnu/kamailio/modules/:/usr/lib/aarch64-linux-gnu/kamailio/modules/";

/// A configuration to be started.
#[derive(Clone, Debug)]
pub struct Config {
    domain: String,
    users: Vec<(String, String)>,
    port: u16,
    transports: Vec<Transport>,
    certificate: Option<Certificate>,
    workers: u32,
    ping: Option<u32>,
    record_route: bool,
    fix_sdp: bool,
    gateway: Option<SocketAddrV4>,
    expires: (u32, u32, u32),
    shared_megabytes: u32,
    hash_size: u32,
    cpus: Option<String>,
}

impl Config {
    /// A user who must authenticate. Without users, everybody may register everything.
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.users.push((name.into(), password.into()));
        self
    }

    /// The port for UDP and TCP (default 5060); TLS is on the next one.
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Serves TLS too.
    pub fn tls(mut self, certificate: &Certificate) -> Self {
        self.certificate = Some(certificate.clone());
        self.transports.push(Transport::Tls);
        self
    }

    /// Only UDP: fewer processes.
    pub fn udp_only(mut self) -> Self {
        self.transports = vec![Transport::Udp];
        self
    }

    /// Worker processes of each listening socket (default 2).
    pub fn workers(mut self, count: u32) -> Self {
        self.workers = count;
        self
    }

    /// Sends OPTIONS to contacts behind a NAT that often, in seconds (default: never).
    pub fn ping_every(mut self, seconds: u32) -> Self {
        self.ping = Some(seconds);
        self
    }

    /// Leaves dialogs after their first request.
    pub fn without_record_route(mut self) -> Self {
        self.record_route = false;
        self
    }

    /// Puts the packet's source into the SDP of phones behind a NAT, so that media can be sent there.
    pub fn fix_sdp(mut self) -> Self {
        self.fix_sdp = true;
        self
    }

    /// Where numbers (request URIs whose user begins with a digit) go that nobody has registered.
    pub fn gateway(mut self, gateway: SocketAddrV4) -> Self {
        self.gateway = Some(gateway);
        self
    }

    /// Least, default and greatest expiry in seconds (default 10, 300, 3600).
    pub fn expires(mut self, least: u32, default: u32, greatest: u32) -> Self {
        self.expires = (least, default, greatest);
        self
    }

    /// For many registrations: shared memory in MiB, and the logarithm to base 2 of the location table's buckets.
    pub fn capacity(mut self, megabytes: u32, hash_size: u32) -> Self {
        (self.shared_megabytes, self.hash_size) = (megabytes, hash_size);
        self
    }

    /// Runs it on these cores only, as `taskset` names them.
    pub fn cpus(mut self, cpus: &str) -> Self {
        self.cpus = Some(cpus.into());
        self
    }

    /// Starts it on a host's address and returns when it answers.
    pub fn start(self, host: &Host) -> Result<Kamailio> {
        self.start_at(host, host.ip)
    }

    /// [`Self::start`] in any namespace, on one of its addresses.
    pub fn start_at(self, ns: &Namespace, ip: Ipv4Addr) -> Result<Kamailio> {
        let files = TempDir::new()?;
        let endpoint = SocketAddrV4::new(ip, self.port);
        fs::write(files.file("kamailio.cfg"), self.text(ip, &files))?;
        let megabytes = self.shared_megabytes.to_string();
        #[rustfmt::skip]
        let args = [
            "-DD", "-E", "-f", &files.file("kamailio.cfg"), "-m", &megabytes, "-M", "16", "-w", &files.path().display().to_string(),
            "-P", &files.file("pid"), "-Y", &files.path().display().to_string(),
        ];
        let mut command = match &self.cpus {
            Some(cpus) => {
                let mut command = ns.command("taskset");
                command.args(["-c", cpus, "kamailio"]);
                command
            }
            None => ns.command("kamailio"),
        };
        command.args(args);
        let child = Child::spawn(command)?;
        let mut kamailio = Kamailio { endpoint, child, files };
        let Kamailio { child, files, .. } = &mut kamailio;
        child.wait_ready("kamailio to answer", SOON, |_| {
            rpc(files, "core.version", json!([])).ok()
        })?;
        Ok(kamailio)
    }

    /// The configuration file.
    fn text(&self, ip: Ipv4Addr, files: &TempDir) -> String {
        let mut out = format!(
            "#!KAMAILIO\ndebug=1\nlog_stderror=yes\nchildren={workers}\ntcp_children={workers}\nauto_aliases=no\nalias=\"{domain}\"\n\
             mpath=\"{MODULES}\"\ndns=no\nrev_dns=no\ndns_try_ipv6=no\ntcp_connection_lifetime=3605\ntcp_max_connections=4096\n\
             server_header=\"Server: kamailio\"\nuser_agent_header=\"User-Agent: kamailio\"\n",
            workers = self.workers,
            domain = self.domain,
        );
        for transport in &self.transports {
            let port = if *transport == Transport::Tls {
                self.port + 1
            } else {
                self.port
            };
            let _ = writeln!(out, "listen={transport}:{ip}:{port}");
        }
        if self.transports == [Transport::Udp] {
            out += "disable_tcp=yes\n";
        }
        if let Some(certificate) = &self.certificate {
            out += "enable_tls=yes\nloadmodule \"tls.so\"\n";
            let _ = writeln!(
                out,
                "modparam(\"tls\", \"tls_method\", \"TLSv1.2+\")\nmodparam(\"tls\", \"certificate\", {:?})\n\
                 modparam(\"tls\", \"private_key\", {:?})",
                certificate.certificate, certificate.key
            );
        }
        out += MODULE_LINES;
        self.parameters(&mut out, files);
        self.routes(&mut out);
        out
    }

    fn parameters(&self, out: &mut String, files: &TempDir) {
        let (least, default, greatest) = self.expires;
        let mut set = |module: &str, name: &str, value: &str| {
            let _ = writeln!(out, "modparam(\"{module}\", \"{name}\", {value})");
        };
        set("jsonrpcs", "dgram_socket", &format!("{:?}", files.file("rpc")));
        set("jsonrpcs", "transport", "4");
        set("tm", "fr_inv_timer", "120000");
        set("rr", "append_fromtag", "0");
        set("usrloc", "db_mode", "0");
        set("usrloc", "nat_bflag", "6");
        set("usrloc", "hash_size", &self.hash_size.to_string());
        set("registrar", "min_expires", &least.to_string());
        set("registrar", "default_expires", &default.to_string());
        set("registrar", "max_expires", &greatest.to_string());
        set("registrar", "received_avp", "\"$avp(rcv)\"");
        set("nathelper", "received_avp", "\"$avp(rcv)\"");
        set("registrar", "use_path", "1");
        set("registrar", "path_mode", "0");
        set("registrar", "path_use_received", "1");
        set("registrar", "max_contacts", "10");
        if let Some(seconds) = self.ping {
            set("nathelper", "natping_interval", &seconds.to_string());
            set("nathelper", "ping_nated_only", "1");
            set("nathelper", "sipping_bflag", "7");
            set("nathelper", "sipping_method", "\"OPTIONS\"");
            set("nathelper", "sipping_from", &format!("\"sip:ping@{}\"", self.domain));
        }
        set("htable", "htable", "\"passwords=>size=8;\"");
    }

    fn routes(&self, out: &mut String) {
        let mut challenge = String::new();
        if !self.users.is_empty() {
            *out += "event_route[htable:mod-init] {\n";
            for (name, password) in &self.users {
                let _ = writeln!(out, "    $sht(passwords=>{name}) = {password:?};");
            }
            *out += "}\n";
            challenge = CHALLENGE.replace("DOMAIN", &self.domain);
        }
        let gateway = match self.gateway {
            Some(gateway) => format!("if ($rU =~ \"^[0-9]\") {{ $du = \"sip:{gateway}\"; route(RELAY); }}"),
            None => String::new(),
        };
        *out += &ROUTES
            .replace("CHALLENGE", &challenge)
            .replace("GATEWAY", &gateway)
            .replace("RECORD_ROUTE", if self.record_route { RECORD_ROUTE } else { "" })
            .replace("FIX_SDP", if self.fix_sdp { FIX_SDP } else { "" });
    }
}

/// A running kamailio. It and its workers are stopped on drop.
#[derive(Debug)]
pub struct Kamailio {
    /// Where it serves UDP and TCP.
    pub endpoint: SocketAddrV4,
    child: Child,
    files: TempDir,
}

/// One registered contact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// As the phone sent it.
    pub uri: String,
    /// The packet's source, as a URI, if it was noted.
    pub received: String,
    /// The Path that came with it; empty if none did.
    pub path: String,
    /// Seconds until it expires.
    pub expires: i64,
}

impl Kamailio {
    /// Describes a server for one domain.
    pub fn config(domain: &str) -> Config {
        Config {
            domain: domain.into(),
            users: Vec::new(),
            port: 5060,
            transports: vec![Transport::Udp, Transport::Tcp],
            certificate: None,
            workers: 2,
            ping: None,
            record_route: true,
            fix_sdp: false,
            gateway: None,
            expires: (10, 300, 3600),
            shared_megabytes: 64,
            hash_size: 10,
            cpus: None,
        }
    }

    /// Where it serves TLS, if it does.
    pub fn tls_endpoint(&self) -> SocketAddrV4 {
        SocketAddrV4::new(*self.endpoint.ip(), self.endpoint.port() + 1)
    }

    /// What a user has registered.
    pub fn contacts(&self, user: &str) -> Result<Vec<Contact>> {
        let answer = self.rpc("ul.lookup", json!(["location", user]));
        let answer = match answer {
            // Nobody of that name.
            Err(error) if format!("{error:#}").contains("AOR not found") => return Ok(Vec::new()),
            other => other?,
        };
        let entries = answer["Contacts"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| match value.as_str() {
            Some("[not set]") | None => String::new(),
            Some(text) => text.to_string(),
        };
        let contact = |entry: &Value| {
            let contact = &entry["Contact"];
            Contact {
                uri: text(&contact["Address"]),
                received: text(&contact["Received"]),
                path: text(&contact["Path"]),
                expires: contact["Expires"].as_i64().unwrap_or_default(),
            }
        };
        Ok(entries.iter().map(contact).collect())
    }

    /// Calls one of its procedures over JSON-RPC.
    pub fn rpc(&self, method: &str, params: Value) -> Result<Value> {
        rpc(&self.files, method, params)
    }

    /// The process id of the first process; its workers are its children.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// What it printed.
    pub fn log(&self) -> String {
        self.child.log()
    }

    /// Stops it, with all its workers.
    pub fn stop(mut self) -> Result<()> {
        self.child.stop().map(drop)
    }
}

impl Drop for Kamailio {
    fn drop(&mut self) {
        // SIGKILL, which Child would send, would leave its workers behind.
        if self.child.running()
            && let Err(error) = self.child.stop()
        {
            eprintln!("kamailio: {error:#}");
        }
        if std::thread::panicking() {
            eprintln!("--- kamailio's log ---\n{}\n---", self.child.log());
        }
    }
}

fn rpc(files: &TempDir, method: &str, params: Value) -> Result<Value> {
    let own = files.file(&format!("rpc-{}", crate::ns::unique_prefix()));
    let socket = UnixDatagram::bind(&own).with_context(|| format!("bind {own}"))?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let request = json!({ "jsonrpc": "2.0", "method": method, "params": params, "id": 1 }).to_string();
    let answered = socket.send_to(request.as_bytes(), files.file("rpc")).and_then(|_| {
        let mut buffer = vec![0; 1 << 18];
        let length = socket.recv(&mut buffer)?;
        buffer.truncate(length);
        Ok(buffer)
    });
    let _ = fs::remove_file(&own);
    let answer: Value = serde_json::from_slice(&answered.context("ask kamailio")?).context("kamailio sent no JSON")?;
    ensure!(answer["error"].is_null(), "kamailio: {method}: {}", answer["error"]);
    Ok(answer["result"].clone())
}

const MODULE_LINES: &str = r#"loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "rr.so"
loadmodule "pv.so"
loadmodule "maxfwd.so"
loadmodule "textops.so"
loadmodule "siputils.so"
loadmodule "usrloc.so"
loadmodule "registrar.so"
loadmodule "nathelper.so"
loadmodule "path.so"
loadmodule "auth.so"
loadmodule "kex.so"
loadmodule "tmx.so"
loadmodule "htable.so"
loadmodule "jsonrpcs.so"
"#;

const CHALLENGE: &str = r#"if ($au == $null || !pv_auth_check("DOMAIN", "$sht(passwords=>$au)", "0", "1")) { auth_challenge("DOMAIN", "0"); exit; }"#;

const RECORD_ROUTE: &str = r#"if (is_method("INVITE|SUBSCRIBE")) { record_route(); }"#;

/// For requests and responses of phones whose SDP names a private address.
const FIX_SDP: &str = r#"if (nat_uac_test("8") && has_body("application/sdp")) { fix_nated_sdp("10"); }"#;

/// Registrar, location, dialogs, and what phones behind a NAT need. The words in capitals are replaced.
const ROUTES: &str = r#"
request_route {
    if (!mf_process_maxfwd_header("10")) { sl_send_reply("483", "Too Many Hops"); exit; }
    if (is_method("OPTIONS") && uri == myself && $rU == $null) { sl_send_reply("200", "OK"); exit; }
    force_rport();
    if (nat_uac_test("19")) {
        if (is_method("REGISTER")) { fix_nated_register(); } else if (is_first_hop()) { set_contact_alias(); }
        setflag(5);
    }
    if (is_method("CANCEL")) { if (t_check_trans()) { t_relay(); } exit; }
    if (has_totag()) {
        if (loose_route()) { handle_ruri_alias(); route(RELAY); }
        if (is_method("ACK")) { if (t_check_trans()) { t_relay(); } exit; }
        if (uri != myself) { handle_ruri_alias(); route(RELAY); }
        sl_send_reply("481", "Call/Transaction Does Not Exist"); exit;
    }
    t_check_trans();
    if (is_method("REGISTER")) {
        if (isflagset(5)) { setbflag(6); setbflag(7); }
        CHALLENGE
        if (!save("location")) { sl_reply_error(); }
        exit;
    }
    RECORD_ROUTE
    if (uri == myself) {
        if (!lookup("location")) {
            GATEWAY
            t_newtran(); t_reply("404", "Not Found"); exit;
        }
    }
    route(RELAY);
}
route[RELAY] {
    FIX_SDP
    t_on_reply("NAT");
    if (!t_relay()) { sl_reply_error(); }
    exit;
}
onreply_route[NAT] {
    if (nat_uac_test("64") || isbflagset(6)) { set_contact_alias(); }
    FIX_SDP
}
"#;
