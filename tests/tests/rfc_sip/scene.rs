//! A server on a host of its own, and raw peers on three others that send and see every byte.

use std::ops::Deref;
use std::time::Duration;

use tests::prelude::*;
use tests::sip::message::Message;
use tests::sip::peer::Peer;
use tests::sip::request::{Request, ack};
use tests::sip::server::{Config, Server};
use tests::sip::under_test::{UnderTest, only_sipnat};

/// The domain that the servers serve.
pub const DOMAIN: &str = "net.com";

/// The user whom the callers call.
pub const ANNA: &str = "sip:anna@net.com";

/// The user and the password of [`Scene::closed`].
pub const SECRET: (&str, &str) = ("anna", "secret");

/// How long a message must not come that nothing can be made to follow.
pub const QUIET: Duration = Duration::from_millis(300);

/// A running server and its peers, each on port 5060 of its host.
pub struct Scene {
    server: UnderTest,
    /// Calls.
    pub caller: Peer,
    /// Is called.
    pub phone: Peer,
    /// Another phone, or a gateway, or whatever the test needs.
    pub second: Peer,
    pub lab: Lab,
}

impl Scene {
    /// Everybody may register everything.
    pub fn open() -> Self {
        Self::new(|host| UnderTest::start(host, DOMAIN, &[]))
    }

    /// [`SECRET`] must authenticate.
    pub fn closed() -> Self {
        Self::new(|host| UnderTest::start(host, DOMAIN, &[SECRET]))
    }

    /// sipnat with a configuration of its own; nobody must authenticate unless the configuration says so. `None` if another server is asked,
    /// to which the reason applies.
    pub fn sipnat(why_not_kamailio: &str, configure: impl FnOnce(Config) -> Config) -> Option<Self> {
        only_sipnat(why_not_kamailio)
            .then(|| Self::new(|host| UnderTest::start_sipnat(host, configure(Server::config(DOMAIN)))))
    }

    fn new(start: impl FnOnce(&Host) -> anyhow::Result<UnderTest>) -> Self {
        let lab = Lab::builder().inside_hosts(0).outside_hosts(5).build().unwrap();
        let server = start(lab.o(4)).unwrap();
        let peer = |number| Peer::udp(lab.o(number), 5060).unwrap();
        let (caller, phone, second) = (peer(1), peer(2), peer(3));
        Self {
            server,
            caller,
            phone,
            second,
            lab,
        }
    }

    /// Sends a message to the server.
    pub fn send(&self, from: &Peer, message: &Message) {
        from.send_message(self.endpoint(), message).unwrap();
    }

    /// Sends a request and returns its final response.
    pub fn ask(&self, from: &Peer, request: &Message) -> Message {
        self.send(from, request);
        self.final_of(from, request)
    }

    /// The final response to this request.
    pub fn final_of(&self, from: &Peer, request: &Message) -> Message {
        let (call_id, method) = (request.header("Call-ID"), request.method().unwrap());
        let wanted = |message: &Message| {
            message.status().is_some_and(|code| code >= 200)
                && message.header("Call-ID") == call_id
                && message.header("CSeq").ends_with(&method)
        };
        let what = format!("the final response to {}", request.start_line());
        from.recv_where(&what, wanted).unwrap().0
    }

    /// Registers a peer as a user for an hour.
    pub fn register(&self, peer: &Peer, user: &str) -> Message {
        let answer = self.ask(peer, &Request::register(user, DOMAIN, peer).message());
        assert_eq!(answer.status(), Some(200), "{answer:?}");
        answer
    }

    /// Sends a request and returns it as the phone gets it.
    pub fn pass(&self, request: &Request) -> Message {
        let request = request.message();
        self.send(&self.caller, &request);
        self.arrived(&self.phone, &request)
    }

    /// The copy of a request that a peer gets.
    pub fn arrived(&self, at: &Peer, request: &Message) -> Message {
        let (line, call_id) = (request.method(), request.header("Call-ID"));
        let wanted = |message: &Message| message.method() == line && message.header("Call-ID") == call_id;
        at.recv_where(&format!("the copy of {}", request.start_line()), wanted)
            .unwrap()
            .0
    }

    /// Whichever of the phone and the second gets a request first, what it gets, and the other one.
    pub fn first_of(&self, request: &Message) -> (&Peer, Message, &Peer) {
        let call_id = request.header("Call-ID");
        let wanted = |message: &Message| message.method() == request.method() && message.header("Call-ID") == call_id;
        let step = Duration::from_millis(20);
        let found = wait_for("one of two to get a request", SOON, || {
            let pairs = [(&self.phone, &self.second), (&self.second, &self.phone)];
            pairs.into_iter().find_map(|(one, other)| {
                let (came, _) = one.wait(step, wanted).unwrap()?;
                Some((one, came, other))
            })
        });
        found.unwrap()
    }

    /// A peer answers what came from the server.
    pub fn reply(&self, from: &Peer, request: &Message, code: u16, reason: &str) -> Message {
        let contact = format!("Contact: <sip:anna@{}>", from.endpoint);
        let reply = request.reply(code, reason, &[&contact], "");
        self.send(from, &reply);
        reply
    }

    /// A call from the caller to [`ANNA`], at the phone, up to the ACK: the INVITE as it was sent and as it came, the 200 as it was given and
    /// as it came.
    pub fn call(&self) -> Call {
        let sent = Request::new("INVITE", ANNA, &self.caller).message();
        self.send(&self.caller, &sent);
        let came = self.arrived(&self.phone, &sent);
        let given = self.reply(&self.phone, &came, 200, "OK");
        let ok = self.final_of(&self.caller, &sent);
        assert_eq!(ok.status(), Some(200), "{ok:?}");
        Call { sent, came, given, ok }
    }

    /// Ends an INVITE that was refused: its ACK.
    pub fn acknowledge(&self, invite: &Message, refusal: &Message) {
        self.send(&self.caller, &ack(invite, refusal));
    }

    /// Shows that the server has done with everything before: a MESSAGE from the caller gets to this registered peer, and nothing that is
    /// unwanted has come before it.
    pub fn nothing_came(&self, user: &str, at: &Peer, unwanted: impl Fn(&Message) -> bool) {
        let sentinel = Request::new("MESSAGE", &format!("sip:{user}@{DOMAIN}"), &self.caller).message();
        self.send(&self.caller, &sentinel);
        let came = self.arrived(at, &sentinel);
        self.reply(at, &came, 200, "OK");
        self.final_of(&self.caller, &sentinel);
        at.nothing(Duration::ZERO, unwanted).unwrap();
    }

    /// sipnat, where the test is about it.
    pub fn sipnat_server(&self) -> &Server {
        self.server.sipnat()
    }

    /// The contacts that a REGISTER without Contact is told of.
    pub fn contacts(&self, user: &str) -> Vec<String> {
        let query = Request::register(user, DOMAIN, &self.caller)
            .without("Contact")
            .message();
        let answer = self.ask(&self.caller, &query);
        assert_eq!(answer.status(), Some(200), "{answer:?}");
        contacts(&answer)
    }
}

impl Deref for Scene {
    type Target = UnderTest;
    fn deref(&self) -> &UnderTest {
        &self.server
    }
}

/// What [`Scene::call`] has seen.
pub struct Call {
    pub sent: Message,
    pub came: Message,
    pub given: Message,
    pub ok: Message,
}

/// The values of Contact, one by one.
pub fn contacts(message: &Message) -> Vec<String> {
    let fields = message.headers("Contact");
    let values = fields.iter().flat_map(|field| field.split(", "));
    values.map(String::from).collect()
}

/// Whether a message is a request of this method.
pub fn is(method: &str) -> impl Fn(&Message) -> bool {
    let method = Some(method.to_string());
    move |message| message.method() == method
}

/// All lines of a message's head but those that a proxy changes (RFC 3261 §16.6), and its body.
pub fn unchanged(message: &Message) -> (Vec<String>, Vec<u8>) {
    let changed = ["via", "v", "max-forwards", "record-route", "route", "max-breadth"];
    let head = message.head();
    let mut skipping = false;
    let kept = head.split("\r\n").skip(1).filter(|line| {
        // Folded lines go with the one that they belong to.
        if !line.starts_with([' ', '\t']) {
            let name = line.split(':').next().unwrap_or_default().trim().to_ascii_lowercase();
            skipping = changed.contains(&name.as_str());
        }
        !skipping
    });
    let lines = kept.map(String::from).collect();
    (lines, message.body().to_vec())
}
