//! S1 and S2: a phone behind a NAT registers, and the world reaches it through the binding of its REGISTER.

use std::net::SocketAddrV4;
use std::time::Duration;

use serde_json::Value;
use tests::prelude::*;
use tests::sip::Transport;
use tests::sip::baresip::{Account, Phone};
use tests::sip::document::{self, PHONE, PROXY, TRANSLATED};
use tests::sip::server::{Config, Server};

use crate::{DOMAIN, PROMPTS};

/// Seconds after which the NATs forget a binding (20 in the document).
const TIMEOUT: u32 = 4;

struct Scene {
    nat: RunningNat,
    server: Server,
    caller: Phone,
    phone: Phone,
    lab: Lab,
}

impl Scene {
    /// Everything but the phone's behaviour, which `account` adds.
    fn new(nat: Nat, server: impl Fn(Config) -> Config, account: impl Fn(Account) -> Account) -> Scene {
        Scene::with_nat(nat, "", server, account)
    }

    /// The same with more for sipnat's configuration as the NAT.
    fn with_nat(
        nat: Nat,
        toml: &str,
        server: impl Fn(Config) -> Config,
        account: impl Fn(Account) -> Account,
    ) -> Scene {
        let lab = document::lab().build().unwrap();
        let nat = document::start_nat_with_timeout(&lab, nat, toml, TIMEOUT).unwrap();
        let config = Server::config(DOMAIN).user("user", "secret").user("caller", "secret2");
        let server = server(config).start(lab.o(1)).unwrap();
        assert_eq!(server.endpoint, PROXY);
        // The server says where the phone's media comes from (STUN on the SIP port): anchored media is another story.
        let phone = Phone::account("user", DOMAIN).password("secret").tone(440);
        let phone = phone
            .outbound(PROXY, Transport::Udp)
            .config("module stun.so")
            .parameter("medianat=stun")
            .parameter(&format!("stunserver=stun:{PROXY}"));
        let phone = account(phone).start(lab.h(1)).unwrap();
        let caller = Phone::account("caller", DOMAIN).password("secret2").register_every(0);
        let caller = caller
            .tone(620)
            .outbound(PROXY, Transport::Udp)
            .start(lab.o(2))
            .unwrap();
        phone.registered().unwrap();
        Scene {
            nat,
            server,
            caller,
            phone,
            lab,
        }
    }

    /// The call is put through to the phone, which picks up.
    fn connect(&self) {
        self.caller.dial("sip:user@net.com").unwrap();
        assert_eq!(self.phone.incoming().unwrap(), "sip:caller@net.com");
        self.phone.accept().unwrap();
        self.caller.established().unwrap();
        self.phone.established().unwrap();
    }

    fn both_are_heard(&self) {
        self.caller.hears(440).unwrap();
        self.phone.hears(620).unwrap();
    }

    /// The binding of the phone's signalling, if sipnat is the NAT and knows one: its external endpoint.
    fn binding(&self) -> Option<SocketAddrV4> {
        Some(self.row()?["external"].as_str().unwrap().parse().unwrap())
    }

    /// The same as the table has it.
    fn row(&self) -> Option<Value> {
        let bindings = self.nat.json(&["bindings", "--proto", "udp"]).unwrap();
        let of_the_phone = |binding: &&Value| binding["inside"] == PHONE.to_string();
        bindings.as_array().unwrap().iter().find(of_the_phone).cloned()
    }

    /// Whether the table says that the phone's signalling has to do with this endpoint (106ii).
    fn row_names(&self, remote: SocketAddrV4) -> bool {
        let row = self.row();
        let remotes = row.as_ref().and_then(|row| row["remotes"].as_array());
        remotes.is_some_and(|remotes| remotes.contains(&remote.to_string().into()))
    }
}

/// Nothing but time: five timeouts of the NAT have to pass.
fn five_timeouts() {
    std::thread::sleep(5 * Duration::from_secs(TIMEOUT.into()));
}

fn a_call_reaches_the_phone(nat: Nat) {
    let scene = Scene::new(nat, |config| config.toml(PROMPTS), |account| account);
    // 110i: the address abstraction, the translated address and port; the address inside is the phone's URI only.
    let table = scene.server.registrations().unwrap();
    let [row] = table.as_slice() else {
        panic!("one row, not {table:?}")
    };
    assert_eq!(row["aor"], "user@net.com");
    assert_eq!(row["received"], TRANSLATED.to_string());
    assert!(row["contact"].as_str().unwrap().contains(&format!("@{PHONE}")), "{row}");
    assert_eq!(
        (&row["behind_nat"], &row["local"]),
        (&true.into(), &PROXY.to_string().into())
    );
    if nat == Nat::Sipnat {
        assert_eq!(scene.binding(), Some(TRANSLATED), "106i");
    }

    scene.connect();
    scene.both_are_heard();
    let path = scene
        .server
        .path_becomes(TRANSLATED, "dialog-and-registration")
        .unwrap();
    assert_eq!(
        (&path["registrations"], &path["dialogs"]),
        (&1.into(), &1.into()),
        "{path}"
    );
    scene.caller.hang_up().unwrap();
    scene.phone.closed().unwrap();
    // And the phone can be the one who calls and who hangs up.
    scene
        .phone
        .dial(&format!("sip:caller@{}:5060", scene.lab.o(2).ip))
        .unwrap();
    scene.caller.incoming().unwrap();
    scene.caller.accept().unwrap();
    scene.phone.established().unwrap();
    scene.phone.hang_up().unwrap();
    scene.caller.closed().unwrap();
}

#[test]
fn a_call_reaches_the_phone_behind_sipnat() {
    a_call_reaches_the_phone(Nat::Sipnat);
}

#[test]
fn a_call_reaches_the_phone_behind_a_masquerade() {
    a_call_reaches_the_phone(Nat::Nftables);
}

fn prompts_keep_the_binding(nat: Nat) {
    let scene = Scene::new(
        nat,
        |config| config.toml(PROMPTS),
        |account| account.register_every(300),
    );
    let capture = Capture::host(scene.lab.h(1)).unwrap();
    five_timeouts();
    let packets = capture.packets();
    let sent: Vec<String> = packets
        .iter()
        .filter(|packet| packet.as_udp().is_some() && packet.src() == PHONE)
        .map(|packet| String::from_utf8_lossy(packet.payload()).into_owned())
        .collect();
    assert!(sent.len() >= 5, "it answered prompts: {sent:?}");
    for text in &sent {
        assert!(text.starts_with("SIP/2.0 200 "), "nothing but answers: {text}");
    }
    if nat == Nat::Sipnat {
        assert_eq!(scene.binding(), Some(TRANSLATED), "106i");
    }
    scene.connect();
    scene.caller.hang_up().unwrap();
}

#[test]
fn prompts_keep_the_binding_of_sipnat() {
    prompts_keep_the_binding(Nat::Sipnat);
}

#[test]
fn prompts_keep_the_binding_of_a_masquerade() {
    prompts_keep_the_binding(Nat::Nftables);
}

const NO_PROMPTS: &str = "[sip.paths]\nudp = \"off\"\n";

/// Every two seconds, a twentieth of the expiry: 15 s of 300 in the document.
fn registering_keeps_the_binding(nat: Nat) {
    let often = |account: Account| account.register_every(40).parameter("rwait=5");
    let scene = Scene::new(nat, |config| config.toml(&format!("{NO_PROMPTS}{SHORT}")), often);
    let capture = Capture::host(scene.lab.h(1)).unwrap();
    five_timeouts();
    let packets = capture.packets();
    let prompts = packets.iter().filter(|packet| packet.payload().starts_with(b"OPTIONS"));
    assert_eq!(prompts.count(), 0);
    assert_eq!(
        scene.server.registrations().unwrap()[0]["received"],
        TRANSLATED.to_string()
    );
    scene.connect();
    scene.caller.hang_up().unwrap();
}

const SHORT: &str = "[sip.registrar]\nmin_expires = \"1s\"\nallow_short_expires = true\n";

#[test]
fn registering_keeps_the_binding_of_sipnat() {
    registering_keeps_the_binding(Nat::Sipnat);
}

#[test]
fn registering_keeps_the_binding_of_a_masquerade() {
    registering_keeps_the_binding(Nat::Nftables);
}

/// What the two before must not be confused with.
#[test]
fn without_either_the_phone_is_lost() {
    let scene = Scene::new(Nat::Nftables, |config| config.toml(NO_PROMPTS), |account| account);
    let entry = || {
        scene
            .lab
            .router
            .run("conntrack", ["-L", "-p", "udp"])
            .unwrap_or_default()
    };
    wait_until("the binding to end", SOON, || !entry().contains("src=192.168.1.10")).unwrap();
    scene.caller.dial("sip:user@net.com").unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let rang = scene.phone.events().unwrap();
    assert!(!rang.iter().any(|event| event.kind == "CALL_INCOMING"), "{rang:?}");
}

/// `record_route = "never"`: after the INVITE, ACK and BYE go from client to client through 106ii.
#[test]
fn the_proxy_leaves_the_dialog() {
    let never = |config: Config| config.toml(&format!("{PROMPTS}[sip.proxy]\nrecord_route = \"never\"\n"));
    let scene = Scene::with_nat(Nat::Sipnat, document::WITH_SESSIONS, never, |account| account);
    let caller = SocketAddrV4::new(scene.lab.o(2).ip, 5060);
    assert!(
        scene.row_names(PROXY) && !scene.row_names(caller),
        "106i: {:?}",
        scene.row()
    );
    let capture = Capture::host(scene.lab.o(2)).unwrap();
    scene.connect();
    scene.both_are_heard();
    scene.caller.hang_up().unwrap();
    scene.phone.closed().unwrap();
    assert!(
        scene.row_names(caller),
        "106ii, with the caller's endpoint: {:?}",
        scene.row()
    );
    let way = |method: &str| -> Vec<(SocketAddrV4, SocketAddrV4)> {
        let packets = capture.packets();
        let of_the_method = packets.iter().filter(|p| p.payload().starts_with(method.as_bytes()));
        of_the_method.map(|packet| (packet.src(), packet.dst())).collect()
    };
    // The ACK of the challenge is for the URI that was called, and went the way of the INVITE.
    for method in ["ACK sip:user-", "BYE sip:user-"] {
        let (seen, direct) = (way(method), (caller, TRANSLATED));
        assert!(
            !seen.is_empty() && seen.iter().all(|way| *way == direct),
            "{method}: {seen:?}"
        );
    }
    // What the phone says to the caller comes from the same binding: 106ii.
    let answers = capture.received();
    assert!(
        answers
            .iter()
            .any(|packet| packet.src() == TRANSLATED && packet.payload().starts_with(b"SIP/2.0 200"))
    );
    assert_eq!(scene.binding(), Some(TRANSLATED));
}
