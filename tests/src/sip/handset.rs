//! Phones by hand: signalling and media are sockets of the test's own, so that each message and each packet is sent when the test wants, and says
//! what the test wants.
//!
//! ```no_run
//! # use tests::prelude::*;
//! # use tests::sip::handset::{Handset, ring};
//! # let lab = Lab::builder().foreign_nats(2).build().unwrap();
//! # let server = "203.0.113.1:5060".parse().unwrap();
//! let anna = Handset::register("anna", "net.com", server, lab.f(1), 4000).unwrap();
//! let berta = Handset::register("berta", "net.com", server, lab.f(2), 5000).unwrap();
//! let mut call = ring(&anna, &berta, &anna.sdp("sendrecv")).unwrap().answer(&berta.sdp("sendrecv")).unwrap();
//! call.connect().unwrap();
//! call.compare(10).unwrap();
//! call.offer(0, &anna.sdp("sendonly"), &berta.sdp("recvonly")).unwrap();
//! call.bye(1).unwrap();
//! ```

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::message::Message;
use super::peer::Peer;
use super::request::{Dialog, Request, ack};
use super::rtp::Voice;
use crate::lab::Host;
use crate::wait::{SOON, wait_for};

/// Its port for SIP.
const SIP: u16 = 5060;

/// The type of session descriptions.
const SDP: &str = "application/sdp";

/// A phone. Its RTP and RTCP ports are a pair.
#[derive(Debug)]
pub struct Handset {
    /// Its user part.
    pub user: String,
    /// Its signalling.
    pub sip: Peer,
    /// Its RTP.
    pub voice: Voice,
    /// Its RTCP.
    pub control: Voice,
    server: SocketAddrV4,
    domain: String,
}

impl Handset {
    /// Registers a user without a password, from port 5060 of a host; RTP has this port and RTCP the next.
    pub fn register(user: &str, domain: &str, server: SocketAddrV4, host: &Host, port: u16) -> Result<Self> {
        let ssrc = u32::from_be_bytes([0x5e, 0, 0, user.as_bytes()[0]]);
        let handset = Self {
            user: user.into(),
            sip: Peer::udp(host, SIP)?,
            voice: Voice::bind(host, port, ssrc)?,
            control: Voice::bind(host, port + 1, ssrc)?,
            server,
            domain: domain.into(),
        };
        let register = Request::register(user, domain, &handset.sip).message();
        handset.send(&register)?;
        let answer = handset.sip.recv_final("the answer to REGISTER")?;
        ensure!(answer.status() == Some(200), "{user} cannot register: {answer:?}");
        Ok(handset)
    }

    /// Its description with this direction (RFC 4566 §6), which names where it is behind its NAT.
    pub fn sdp(&self, direction: &str) -> String {
        sdp(self.voice.endpoint, direction)
    }

    /// Sends a message to the server.
    pub fn send(&self, message: &Message) -> Result<()> {
        self.sip.send_message(self.server, message)
    }

    /// An INVITE of a user with this description; it is not sent yet.
    pub fn invite(&self, user: &str, offer: &str) -> Message {
        Request::new("INVITE", &format!("sip:{user}@{}", self.domain), &self.sip)
            .body(SDP, offer)
            .message()
    }

    /// Sends an INVITE that must be refused, and returns the response, which is acknowledged.
    pub fn refused(&self, invite: &Message) -> Result<Message> {
        self.send(invite)?;
        let refusal = self.response(invite, |code| code >= 200)?;
        ensure!(refusal.status() >= Some(300), "not refused: {refusal:?}");
        self.send(&ack(invite, &refusal))?;
        Ok(refusal)
    }

    /// Refuses an INVITE that came.
    pub fn busy(&self, came: &Message) -> Result<()> {
        self.send(&came.reply(486, "Busy Here", &[], ""))
    }

    /// The INVITE with this Call-ID and sequence number, once it has come.
    pub fn invited(&self, call_id: &str, cseq: u32) -> Result<Message> {
        let what = format!("the INVITE {cseq} of {call_id}");
        let wanted = |message: &Message| {
            message.method().as_deref() == Some("INVITE")
                && message.header("Call-ID") == call_id
                && message.cseq() == cseq
        };
        Ok(self.sip.recv_where(&what, wanted)?.0)
    }

    fn reply(&self, came: &Message, code: u16, reason: &str, sdp: &str) -> Result<Message> {
        let contact = format!("Contact: <sip:{}@{}>", self.user, self.sip.endpoint);
        let kind = format!("Content-Type: {SDP}");
        let mut lines = vec![contact.as_str()];
        if !sdp.is_empty() {
            lines.push(&kind);
        }
        let reply = came.reply(code, reason, &lines, sdp);
        self.send(&reply)?;
        Ok(reply)
    }

    /// The response to this request whose code is as wanted.
    fn response(&self, request: &Message, wanted: impl Fn(u16) -> bool) -> Result<Message> {
        let (call_id, cseq) = (request.header("Call-ID"), request.header("CSeq"));
        let of_it = |message: &Message| {
            message.status().is_some_and(&wanted)
                && message.header("Call-ID") == call_id
                && message.header("CSeq") == cseq
        };
        let what = format!("a response to {}", request.start_line());
        Ok(self.sip.recv_where(&what, of_it)?.0)
    }
}

/// A description of one stream of PCMU.
pub fn sdp(at: SocketAddrV4, direction: &str) -> String {
    let (address, port) = (at.ip(), at.port());
    format!(
        "v=0\r\no=- 1 1 IN IP4 {address}\r\ns=-\r\nc=IN IP4 {address}\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\n\
         a=rtpmap:0 PCMU/8000\r\na={direction}\r\n"
    )
}

/// Where a message's description says that its first stream is taken.
pub fn told(message: &Message) -> Result<SocketAddrV4> {
    let text = String::from_utf8_lossy(message.body()).into_owned();
    let value = |start: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(start).map(str::to_string))
    };
    let address = value("c=IN IP4 ").with_context(|| format!("no c= in {text:?}"))?;
    let port = value("m=audio ").with_context(|| format!("no m= in {text:?}"))?;
    let port = port.split(' ').next().unwrap_or_default();
    Ok(SocketAddrV4::new(address.parse::<Ipv4Addr>()?, port.parse()?))
}

/// A call that rings.
#[derive(Debug)]
pub struct Ringing<'a> {
    caller: &'a Handset,
    callee: &'a Handset,
    /// As it was sent.
    invite: Message,
    /// As it came.
    pub came: Message,
}

/// A handset calls another with this description, and that one rings.
pub fn ring<'a>(caller: &'a Handset, callee: &'a Handset, offer: &str) -> Result<Ringing<'a>> {
    let invite = caller.invite(&callee.user, offer);
    caller.send(&invite)?;
    let came = callee.invited(&invite.header("Call-ID"), 1)?;
    callee.reply(&came, 180, "Ringing", "")?;
    caller.response(&invite, |code| code == 180)?;
    Ok(Ringing {
        caller,
        callee,
        invite,
        came,
    })
}

impl<'a> Ringing<'a> {
    /// The callee says 183 with this description; where the caller is told to send.
    pub fn early(&self, answer: &str) -> Result<SocketAddrV4> {
        self.callee.reply(&self.came, 183, "Session Progress", answer)?;
        told(&self.caller.response(&self.invite, |code| code == 183)?)
    }

    /// The callee picks up.
    pub fn answer(self, answer: &str) -> Result<Call<'a>> {
        let given = self.callee.reply(&self.came, 200, "OK", answer)?;
        let ok = self.caller.response(&self.invite, |code| code == 200)?;
        let of_caller = Dialog::of_caller(&self.invite, &ok, &self.caller.sip);
        let of_callee = Dialog::of_callee(&self.came, &given, &self.callee.sip);
        let call = Call {
            told: [told(&ok)?, told(&self.came)?],
            parties: [self.caller, self.callee],
            dialogs: [of_caller, of_callee],
            cseq: [1, 0],
        };
        call.acknowledge(0, 1)?;
        Ok(call)
    }
}

/// A call that stands. Party 0 has called party 1.
#[derive(Debug)]
pub struct Call<'a> {
    /// Where each party sends its RTP.
    pub told: [SocketAddrV4; 2],
    /// The phones.
    pub parties: [&'a Handset; 2],
    dialogs: [Dialog; 2],
    cseq: [u32; 2],
}

impl Call<'_> {
    /// A party sends another INVITE with this description, and the other one answers with that.
    pub fn offer(&mut self, by: usize, offer: &str, answer: &str) -> Result<()> {
        let (one, other) = (self.parties[by], self.parties[1 - by]);
        let cseq = self.next(by);
        let invite = self.dialogs[by].request("INVITE", cseq).body(SDP, offer).message();
        one.send(&invite)?;
        let came = other.invited(&self.dialogs[by].call_id, cseq)?;
        other.reply(&came, 200, "OK", answer)?;
        let ok = one.response(&invite, |code| code >= 200)?;
        ensure!(ok.status() == Some(200), "{ok:?}");
        self.told[by] = told(&ok)?;
        self.told[1 - by] = told(&came)?;
        self.acknowledge(by, cseq)
    }

    /// A party sends another INVITE with this description, and the other one says 488.
    pub fn offer_refused(&mut self, by: usize, offer: &str) -> Result<()> {
        let (one, other) = (self.parties[by], self.parties[1 - by]);
        let cseq = self.next(by);
        let invite = self.dialogs[by].request("INVITE", cseq).body(SDP, offer).message();
        one.send(&invite)?;
        let came = other.invited(&self.dialogs[by].call_id, cseq)?;
        other.send(&came.reply(488, "Not Acceptable Here", &[], ""))?;
        let refusal = one.response(&invite, |code| code >= 200)?;
        ensure!(refusal.status() == Some(488), "{refusal:?}");
        one.send(&ack(&invite, &refusal))
    }

    /// A party hangs up.
    pub fn bye(mut self, by: usize) -> Result<()> {
        let (one, other) = (self.parties[by], self.parties[1 - by]);
        let cseq = self.next(by);
        let bye = self.dialogs[by].request("BYE", cseq).message();
        one.send(&bye)?;
        let (came, _) = other.sip.recv_request("BYE")?;
        other.send(&came.reply(200, "OK", &[], ""))?;
        let ok = one.response(&bye, |code| code >= 200)?;
        ensure!(ok.status() == Some(200), "{ok:?}");
        Ok(())
    }

    /// Both say something until both have heard something, and then until nothing is under way any more: both are known to the relay.
    pub fn connect(&self) -> Result<()> {
        let mut heard = [false; 2];
        let both = |heard: [bool; 2]| heard == [true; 2];
        wait_for("both to hear each other", SOON, || {
            for (side, heard) in heard.iter_mut().enumerate() {
                self.say(side).ok()?;
                *heard |= self.parties[side].voice.hear(Duration::from_millis(20)).ok()?.is_some();
            }
            both(heard).then_some(())
        })
        .with_context(|| format!("heard by caller and callee: {heard:?}"))?;
        self.settle()
    }

    /// Each party says so many packets; each one must come to the other, once, unchanged, and from where that one sends.
    pub fn compare(&self, packets: usize) -> Result<()> {
        for side in [0, 1] {
            let ear = &self.parties[1 - side].voice;
            for number in 0..packets {
                let said = self.say(side)?;
                let heard = ear.hear(SOON)?;
                let (heard, from) = heard.with_context(|| format!("packet {number} of party {side} is lost"))?;
                ensure!(heard == said, "packet {number} of party {side} came as {heard:02x?}");
                ensure!(
                    from == self.told[1 - side],
                    "it came from {from}, not from {}",
                    self.told[1 - side]
                );
            }
        }
        Ok(())
    }

    /// A party says its next packet, which is returned.
    pub fn say(&self, side: usize) -> Result<Vec<u8>> {
        self.parties[side].voice.say(self.told[side])
    }

    /// Where a party sends its RTCP, next to its RTP.
    pub fn control(&self, side: usize) -> SocketAddrV4 {
        SocketAddrV4::new(*self.told[side].ip(), self.told[side].port() + 1)
    }

    /// Takes what is still under way: one more packet of each, up to it.
    fn settle(&self) -> Result<()> {
        for side in [0, 1] {
            let last = self.say(side)?;
            let ear = &self.parties[1 - side].voice;
            while ear.hear(SOON)?.context("the last packet is lost")?.0 != last {}
        }
        Ok(())
    }

    fn next(&mut self, side: usize) -> u32 {
        self.cseq[side] += 1;
        self.cseq[side]
    }

    fn acknowledge(&self, by: usize, cseq: u32) -> Result<()> {
        self.parties[by].send(&self.dialogs[by].request("ACK", cseq).message())?;
        let wanted = |message: &Message| message.method().as_deref() == Some("ACK") && message.cseq() == cseq;
        self.parties[1 - by].sip.recv_where("the ACK", wanted).map(drop)
    }
}
