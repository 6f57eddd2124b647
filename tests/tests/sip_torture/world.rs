//! A core without sockets, whose peer is trusted and whose names all lead to one place.

use std::net::SocketAddr;

use bytes::Bytes;
use nat_user::{
    config::Config,
    sip::{
        command::{Command, Destination, Hop, Input},
        directory::Directory,
        engine::{self, Engine},
        flow::{Flow, ListenerId, Transport},
        message::Message,
        query::Setup,
        time::Time,
        transport::Engine as _,
    },
};

use crate::outcome::{Outcome, check_forwarded};

const NOW: Time = Time(1_700_000_000_000);
const CONFIG: &str = r#"
[sip]
store = "off"
trusted = ["192.0.2.77"]
emergency = []
[[sip.listen]]
transport = "udp"
address = "192.0.2.1"
[[sip.listen]]
transport = "udp"
address = "2001:db8::1"
[[sip.domain]]
names = ["example.com", "registrar.example.com"]
authenticate = false
contacts = [
    { user = "user", contact = "sip:user@192.0.2.99" },
]
[[sip.route]]
prefix = ""
to = ["sip:192.0.2.150"]
"#;

/// The core and its only peer.
pub struct World {
    engine: Engine<Directory>,
}

impl World {
    pub fn new() -> World {
        let config = Config::parse(CONFIG, "torture.toml")
            .expect("the configuration")
            .sip
            .expect("[sip]");
        let setup = Setup::read(&config, &[], &|name| panic!("nobody follows {name}")).expect("the setup");
        let engine = engine::make(setup, &[7; 32], NOW).expect("an engine");
        World { engine }
    }

    /// What becomes of a message. An error: it was forwarded with other bytes than it may be.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Outcome, String> {
        let remote: SocketAddr = "192.0.2.77:5060".parse().expect("an endpoint");
        let mut out = Vec::new();
        let received = Bytes::copy_from_slice(bytes);
        self.engine.input(
            Input::Received {
                flow: Flow::udp(ListenerId(0), remote),
                local: "192.0.2.1:5060".parse().expect("an endpoint"),
                bytes: received.clone(),
            },
            NOW,
            &mut out,
        );
        let mut outcome = Outcome::Silent;
        while !out.is_empty() {
            for command in std::mem::take(&mut out) {
                match command {
                    Command::Resolve { query, .. } => {
                        let hops = vec![Hop {
                            transport: Transport::Udp,
                            address: "192.0.2.200:5060".parse().expect("an endpoint"),
                            name: None,
                        }];
                        self.engine.input(Input::Resolved { query, hops }, NOW, &mut out);
                    }
                    Command::Send { to, bytes, .. } => {
                        let back = matches!(to, Destination::Flow(flow) if flow.remote == remote);
                        let sent = Message::parse(bytes).map_err(|error| error.to_string())?;
                        match sent.code() {
                            // The 100 of the way.
                            Some(100) => {}
                            Some(200) if sent.cseq().is_some_and(|cseq| cseq.method_text == b"REGISTER") => {
                                outcome = Outcome::Registered;
                            }
                            Some(code) if back => outcome = Outcome::Answered(code),
                            _ => {
                                let request = Message::parse(received.clone()).map_err(|error| error.to_string())?;
                                check_forwarded(&request, &sent)?;
                                outcome = Outcome::Forwarded;
                            }
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(outcome)
    }
}
