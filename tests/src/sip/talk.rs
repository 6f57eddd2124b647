//! Many calls by hand between two hosts, with media of which every packet is counted.
//!
//! Each host has one socket for SIP and one for the media of all its calls: what tells the calls apart is where the relay has its places, and the SSRC.
//!
//! ```no_run
//! # use tests::prelude::*;
//! # use tests::sip::talk::{Party, Stage};
//! # let lab = Lab::builder().outside_hosts(2).build().unwrap();
//! # let server = "203.0.113.1:5060".parse().unwrap();
//! let stage = Stage::new(server, "net.com", lab.o(1), lab.o(2)).unwrap();
//! let mut call = stage.call(&[]).unwrap();
//! stage.exchange([&call], 1).unwrap(); // one packet in each direction, each of which arrives once
//! stage.offer(&mut call, Party::Callee, "sendonly").unwrap();
//! stage.bye(call, Party::Caller).unwrap();
//! ```

use std::cell::Cell;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::net::{SocketAddrV4, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::message::Message;
use super::peer::Peer;
use super::request::{Dialog, Request, ack, cancel, contact};
use crate::lab::Host;
use crate::sockets;

/// Packets that are under way at one time: what a socket's buffer holds for sure.
const BATCH: usize = 50;
/// The user who is called.
const CALLED: &str = "berta";

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    Caller,
    Callee,
}

impl Party {
    fn other(self) -> Self {
        match self {
            Self::Caller => Self::Callee,
            Self::Callee => Self::Caller,
        }
    }
}

/// Two hosts, one of which calls the other.
#[derive(Debug)]
pub struct Stage {
    server: SocketAddrV4,
    domain: String,
    /// Caller and callee.
    peers: [Peer; 2],
    media: [UdpSocket; 2],
    begun: Cell<u32>,
}

/// A call that was answered.
#[derive(Clone, Debug)]
pub struct Call {
    /// From 1.
    pub number: u32,
    dialogs: [Dialog; 2],
    cseqs: [u32; 2],
    /// Where caller and callee are told to send.
    pub places: [SocketAddrV4; 2],
}

impl Call {
    /// Its Call-ID.
    pub fn id(&self) -> &str {
        &self.dialogs[0].call_id
    }
}

/// A call that rings.
#[derive(Debug)]
pub struct Ringing {
    number: u32,
    invite: Message,
    /// As the callee has it, and from whom.
    received: Message,
    from: SocketAddrV4,
}

impl Stage {
    /// Opens the sockets and registers the callee, who need not authenticate.
    pub fn new(server: SocketAddrV4, domain: &str, caller: &Host, callee: &Host) -> Result<Self> {
        let stage = Self {
            server,
            domain: domain.into(),
            peers: [Peer::udp(caller, 5060)?, Peer::udp(callee, 5060)?],
            media: [sockets::host_udp(caller, 4000)?, sockets::host_udp(callee, 4000)?],
            begun: Cell::new(0),
        };
        stage.register()?;
        Ok(stage)
    }

    /// Registers the callee.
    pub fn register(&self) -> Result<()> {
        let callee = self.peer(Party::Callee);
        let register = Request::register(CALLED, &self.domain, callee).message();
        callee.send_message(self.server, &register)?;
        let answer = callee.recv_final("the answer to its REGISTER")?;
        ensure!(answer.status() == Some(200), "{answer:?}");
        Ok(())
    }

    /// Calls, and is answered.
    pub fn call(&self, answer: &[&str]) -> Result<Call> {
        let ringing = self.ring()?;
        self.answer(ringing, answer)
    }

    /// Calls; the callee rings. An error that is a [`Refused`] if the server refuses.
    pub fn ring(&self) -> Result<Ringing> {
        self.dial(&format!("sip:{CALLED}@{}", self.domain))
    }

    /// Calls a URI that leads to the callee.
    pub fn dial(&self, uri: &str) -> Result<Ringing> {
        let number = self.begun.get() + 1;
        self.begun.set(number);
        let (caller, callee) = (self.peer(Party::Caller), self.peer(Party::Callee));
        let invite = Request::new("INVITE", uri, caller).body("application/sdp", &self.sdp(Party::Caller, "sendrecv"));
        let invite = invite.message();
        caller.send_message(self.server, &invite)?;
        let id = invite.header("Call-ID");
        let said = caller.recv_where(
            "what becomes of its call",
            of(&id, |message| message.status().is_some()),
        )?;
        ensure!(said.0.status() == Some(100), "{:?}", said.0);
        let came = |message: &Message| message.method().as_deref() == Some("INVITE");
        // What is refused here is told to the caller alone.
        for _ in 0..150 {
            if let Some((received, from)) = callee.wait(Duration::from_millis(100), of(&id, came))? {
                callee.send_message(
                    from,
                    &received.reply(180, "Ringing", &[&self.contact(Party::Callee)], ""),
                )?;
                return Ok(Ringing {
                    number,
                    invite,
                    received,
                    from,
                });
            }
            let refused = of(&id, |message| message.status().is_some_and(|code| code >= 300));
            if let Some((answer, _)) = caller.wait(Duration::from_millis(1), refused)? {
                caller.send_message(self.server, &ack(&invite, &answer))?;
                return Err(anyhow::Error::new(Refused(answer)));
            }
        }
        bail!("the callee got no INVITE of {id}")
    }

    /// The callee answers, with these further header fields.
    pub fn answer(&self, ringing: Ringing, more: &[&str]) -> Result<Call> {
        let (caller, callee) = (self.peer(Party::Caller), self.peer(Party::Callee));
        let lines = self.answer_lines(Party::Callee, more);
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let answer = ringing
            .received
            .reply(200, "OK", &lines, &self.sdp(Party::Callee, "sendrecv"));
        callee.send_message(ringing.from, &answer)?;
        let ok = self.response(Party::Caller, &ringing.invite)?;
        ensure!(ok.status() == Some(200), "{ok:?}");
        let call = Call {
            number: ringing.number,
            dialogs: [
                Dialog::of_caller(&ringing.invite, &ok, caller),
                Dialog::of_callee(&ringing.received, &answer, callee),
            ],
            cseqs: [1, 0],
            places: [place(&ok)?, place(&ringing.received)?],
        };
        self.acknowledge(&call, Party::Caller, 1)?;
        Ok(call)
    }

    /// The callee does not want to talk.
    pub fn reject(&self, ringing: &Ringing) -> Result<()> {
        let callee = self.peer(Party::Callee);
        callee.send_message(ringing.from, &ringing.received.reply(486, "Busy Here", &[], ""))?;
        self.refused(ringing)
    }

    /// The caller does not wait any longer.
    pub fn cancel(&self, ringing: &Ringing) -> Result<()> {
        let (caller, callee) = (self.peer(Party::Caller), self.peer(Party::Callee));
        caller.send_message(self.server, &cancel(&ringing.invite))?;
        let is_cancel = |message: &Message| message.method().as_deref() == Some("CANCEL");
        let (cancel, from) = callee.recv_where("the CANCEL", of(&ringing.invite.header("Call-ID"), is_cancel))?;
        callee.send_message(from, &cancel.reply(200, "OK", &[], ""))?;
        callee.send_message(
            ringing.from,
            &ringing.received.reply(487, "Request Terminated", &[], ""),
        )?;
        self.refused(ringing)
    }

    fn refused(&self, ringing: &Ringing) -> Result<()> {
        let caller = self.peer(Party::Caller);
        let answer = self.response(Party::Caller, &ringing.invite)?;
        ensure!(answer.status().is_some_and(|code| code >= 300), "{answer:?}");
        caller.send_message(self.server, &ack(&ringing.invite, &answer))
    }

    /// A new offer of one side, with this direction (RFC 3264 section 5.1), which the other takes.
    pub fn offer(&self, call: &mut Call, by: Party, direction: &str) -> Result<()> {
        let answer = match direction {
            "sendonly" => "recvonly",
            "recvonly" => "sendonly",
            same => same,
        };
        let invite = self.within(call, by, "INVITE", Some(direction));
        let (received, from) = self.arrives(by, &invite)?;
        let answering = by.other();
        let lines = self.answer_lines(answering, &[]);
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let ok = received.reply(200, "OK", &lines, &self.sdp(answering, answer));
        self.peer(answering).send_message(from, &ok)?;
        let ok = self.response(by, &invite)?;
        ensure!(ok.status() == Some(200), "{ok:?}");
        call.places[by as usize] = place(&ok)?;
        call.places[answering as usize] = place(&received)?;
        self.acknowledge(call, by, call.cseqs[by as usize])
    }

    /// One side hangs up.
    pub fn bye(&self, mut call: Call, by: Party) -> Result<()> {
        let bye = self.within(&mut call, by, "BYE", None);
        let (received, from) = self.arrives(by, &bye)?;
        self.peer(by.other())
            .send_message(from, &received.reply(200, "OK", &[], ""))?;
        let ok = self.response(by, &bye)?;
        ensure!(ok.status() == Some(200), "{ok:?}");
        Ok(())
    }

    /// Takes the BYEs that have come without being waited for, and answers them; whose they were.
    pub fn hung_up(&self, party: Party) -> Result<Vec<String>> {
        let mut calls = Vec::new();
        let is_bye = |message: &Message| message.method().as_deref() == Some("BYE");
        while let Some((bye, from)) = self.peer(party).wait(Duration::from_millis(1), is_bye)? {
            self.peer(party).send_message(from, &bye.reply(200, "OK", &[], ""))?;
            calls.push(bye.header("Call-ID"));
        }
        Ok(calls)
    }

    /// Both sides of each call send a packet, and each arrives, once, from where it shall come. `round` tells the packets of a call apart.
    /// Says how many packets that were.
    pub fn exchange<'a>(&self, calls: impl IntoIterator<Item = &'a Call>, round: u16) -> Result<usize> {
        let calls: Vec<&Call> = calls.into_iter().collect();
        for batch in calls.chunks(BATCH) {
            for from in [Party::Caller, Party::Callee] {
                self.one_way(batch, from, round)?;
            }
        }
        Ok(calls.len() * 2)
    }

    fn one_way(&self, calls: &[&Call], from: Party, round: u16) -> Result<()> {
        let (sender, receiver) = (&self.media[from as usize], &self.media[from.other() as usize]);
        let mut expected = BTreeMap::new();
        for call in calls {
            let packet = rtp(call.number * 2 + from as u32, round);
            let to = call.places[from as usize];
            sender
                .send_to(&packet, to)
                .with_context(|| format!("send media to {to}"))?;
            expected.insert(packet, call);
        }
        while !expected.is_empty() {
            let (packet, source) = sockets::receive(receiver).with_context(|| {
                let missing: Vec<u32> = expected.values().map(|call| call.number).collect();
                format!("packets of round {round} from the {from:?} of the calls {missing:?} are lost")
            })?;
            let call = expected.remove(&packet);
            let call =
                call.with_context(|| format!("a packet from {source} came twice, or is nobody's: {packet:x?}"))?;
            let place = call.places[from.other() as usize];
            ensure!(
                source == place,
                "a packet of call {} came from {source} and not from {place}",
                call.number
            );
        }
        Ok(())
    }

    fn within(&self, call: &mut Call, by: Party, method: &str, direction: Option<&str>) -> Message {
        call.cseqs[by as usize] += 1;
        let request = call.dialogs[by as usize].request(method, call.cseqs[by as usize]);
        match direction {
            Some(direction) => request.body("application/sdp", &self.sdp(by, direction)).message(),
            None => request.message(),
        }
    }

    /// Sends a request, which the other side gets.
    fn arrives(&self, from: Party, request: &Message) -> Result<(Message, SocketAddrV4)> {
        self.peer(from).send_message(self.server, request)?;
        let (method, cseq) = (request.method(), request.cseq());
        let is_it = move |message: &Message| message.method() == method && message.cseq() == cseq;
        let what = request.start_line();
        self.peer(from.other())
            .recv_where(&what, of(&request.header("Call-ID"), is_it))
    }

    /// The final response to a request.
    fn response(&self, to: Party, request: &Message) -> Result<Message> {
        let cseq = request.header("CSeq");
        let is_it =
            move |message: &Message| message.status().is_some_and(|code| code >= 200) && message.header("CSeq") == cseq;
        let what = format!("the answer to {}", request.start_line());
        let found = self.peer(to).recv_where(&what, of(&request.header("Call-ID"), is_it));
        found.map(|(message, _)| message)
    }

    fn acknowledge(&self, call: &Call, by: Party, cseq: u32) -> Result<()> {
        let ack = call.dialogs[by as usize].request("ACK", cseq).message();
        self.arrives(by, &ack).map(drop)
    }

    fn peer(&self, party: Party) -> &Peer {
        &self.peers[party as usize]
    }

    fn contact(&self, party: Party) -> String {
        let user = match party {
            Party::Caller => "caller",
            Party::Callee => CALLED,
        };
        format!("Contact: {}", contact(user, self.peer(party)))
    }

    fn answer_lines(&self, party: Party, more: &[&str]) -> Vec<String> {
        let lines = [self.contact(party), "Content-Type: application/sdp".into()];
        lines
            .into_iter()
            .chain(more.iter().map(|line| line.to_string()))
            .collect()
    }

    fn sdp(&self, party: Party, direction: &str) -> String {
        let ip = self.peer(party).endpoint.ip();
        format!(
            "v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio 4000 RTP/AVP 8\r\na={direction}\r\n"
        )
    }
}

/// The server has refused a call.
#[derive(Debug)]
pub struct Refused(pub Message);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the call was refused: {:?}", self.0)
    }
}

impl Error for Refused {}

/// Messages of this call that are wanted.
fn of(id: &str, wanted: impl Fn(&Message) -> bool) -> impl Fn(&Message) -> bool {
    let id = id.to_string();
    move |message| message.header("Call-ID") == id && wanted(message)
}

/// Where a session description says that its one stream is.
fn place(message: &Message) -> Result<SocketAddrV4> {
    let body = String::from_utf8_lossy(message.body()).into_owned();
    let value = |prefix: &str| {
        body.lines()
            .find_map(|line| line.strip_prefix(prefix)?.split(' ').next())
    };
    let (ip, port) = (value("c=IN IP4 "), value("m=audio "));
    let place = ip.zip(port).and_then(|(ip, port)| format!("{ip}:{port}").parse().ok());
    place.with_context(|| format!("no place in {message:?}"))
}

/// G.711, 20 ms.
fn rtp(ssrc: u32, sequence: u16) -> Vec<u8> {
    let mut packet = vec![0x80, 8];
    packet.extend(sequence.to_be_bytes());
    packet.extend((u32::from(sequence) * 160).to_be_bytes());
    packet.extend(ssrc.to_be_bytes());
    packet.extend([0xd5; 160]);
    packet
}
