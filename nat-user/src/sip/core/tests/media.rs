//! Session descriptions that pass the core: edited in place, with lengths that fit, and relays that end with their calls.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use super::{ended::Book, *};
use crate::{
    media::{
        command::{
            Carrier, Command as Media, DataPath, Exhausted, Expect, Leg, Pinhole, PinholeId, Ports, Relay, RelayId,
            Side, Want,
        },
        mos::Codec,
        policy::Policy,
        sdp::Endpoint,
    },
    records::RelayRecord,
};

/// The caller and the phone are behind NATs of others.
pub(super) const CALLER: &str = "134.56.9.9:5060";
pub(super) const PHONE: &str = "134.56.1.1:5070";

/// Ports in their order, as long as there are some.
#[derive(Debug, Default)]
pub(super) struct Places {
    given: u16,
    pub left: u16,
    emergencies: usize,
    commands: Vec<Media>,
    /// Relays that are open.
    pub open: BTreeSet<RelayId>,
    /// Those that are on hold.
    pub held: BTreeSet<RelayId>,
    /// What relays carry.
    carried: Vec<(RelayId, Codec)>,
}

#[derive(Clone, Debug)]
pub(super) struct Path(pub Arc<Mutex<Places>>);

impl Path {
    fn endpoint(&self, want: &Want) -> Result<Endpoint, Exhausted> {
        let mut places = self.0.lock().unwrap();
        places.left = places.left.checked_sub(1).ok_or(Exhausted)?;
        places.emergencies += usize::from(want.emergency);
        places.given += 2;
        let port = 20_000 + places.given;
        Ok(Endpoint {
            address: [134, 56, 3, 1].into(),
            port,
            rtcp: Some(port + 1),
        })
    }

    pub fn commands(&self) -> Vec<Media> {
        std::mem::take(&mut self.0.lock().unwrap().commands)
    }
}

impl Ports for Path {
    fn relay(&mut self, want: &Want, _: [Leg; 2], _: Expect) -> Result<Relay, Exhausted> {
        let before = self.0.lock().unwrap().left;
        if before < 2 {
            return Err(Exhausted);
        }
        let aliases = [self.endpoint(want)?, self.endpoint(want)?];
        let id = RelayId(aliases[0].port.into());
        self.0.lock().unwrap().open.insert(id);
        Ok(Relay { id, aliases })
    }

    fn pinhole(&mut self, _: Endpoint, want: &Want) -> Result<Pinhole, Exhausted> {
        let outside = self.endpoint(want)?;
        Ok(Pinhole {
            id: PinholeId(outside.port.into()),
            outside,
        })
    }

    fn is_ours(&self, address: Ipv4Addr, _: u16) -> bool {
        address == Ipv4Addr::new(134, 56, 3, 1)
    }
}

impl DataPath for Path {
    fn run(&mut self, command: Media) {
        let mut places = self.0.lock().unwrap();
        if let Media::CloseRelay(relay) = &command
            && places.open.remove(relay)
        {
            places.left += 2;
        }
        match command {
            Media::Hold { relay, held: true } => drop(places.held.insert(relay)),
            Media::Hold { relay, .. } | Media::CloseRelay(relay) => drop(places.held.remove(&relay)),
            _ => {}
        }
        places.commands.push(command);
    }

    fn adopt(&mut self, relay: RelayId) -> Option<bool> {
        let places = self.0.lock().unwrap();
        places.open.contains(&relay).then_some(places.held.contains(&relay))
    }

    fn adopt_pinhole(&mut self, _: &Pinhole, _: Endpoint, _: Carrier) -> bool {
        true
    }

    fn carries(&mut self, relay: RelayId, codec: Codec) {
        self.0.lock().unwrap().carried.push((relay, codec));
    }

    /// Two legs with packets, until they are closed.
    fn legs(&self, relay: RelayId) -> Vec<RelayRecord> {
        let closed = self.0.lock().unwrap().commands.contains(&Media::CloseRelay(relay));
        let sides = if closed { 0..0 } else { 0..2 };
        sides.map(|side| leg(relay, side)).collect()
    }
}

fn leg(relay: RelayId, side: u8) -> RelayRecord {
    let record = serde_json::json!({
        "call": relay.0, "stream": 0, "side": side, "rtcp": false, "leg": side, "partner": 1 - side,
        "external": null, "peer": "134.56.1.1:4000", "fallback": null, "hold": false, "created_s": 5, "latched_s": 4,
        "idle_s": 0, "packets": 100, "bytes": 20000, "ssrc": 1, "ssrc_changes": 0, "lost": 1, "late": 0,
        "jitter_us": 300, "round_trip_us": null, "moves": 0, "refused": {}, "codec": "G.711", "mos": 4.25,
    });
    serde_json::from_value(record).unwrap()
}

pub(super) fn world(contacts: Vec<Found>) -> (World, Path) {
    let mut world = World::new(|_| {});
    world.register("user@net.com", contacts);
    let path = Path(Arc::new(Mutex::new(Places {
        left: 100,
        ..Places::default()
    })));
    let policy = Policy::new(&world.core.config().media, Vec::new());
    world.core.anchor_media(policy, Box::new(path.clone()), world.now);
    (world, path)
}

pub(super) fn phone() -> Vec<Found> {
    vec![found("sip:user@192.168.1.10:5060", udp(PHONE), true, 1000)]
}

/// A message with this description, whose length is that with CRLF.
pub(super) fn with(text: &str, sdp: &str) -> String {
    let length = sdp.len() + sdp.matches('\n').count();
    let body = format!("Content-Type: application/sdp\nContent-Length: {length}\n\n{sdp}");
    text.replace("Content-Length: 0\n\n", &body)
}

pub(super) fn audio(address: &str, port: u16) -> String {
    format!("v=0\no=- 1 1 IN IP4 10.9.9.9\ns=-\nc=IN IP4 {address}\nt=0 0\nm=audio {port} RTP/AVP 8\n")
}

pub(super) fn ours(port: u16) -> String {
    audio("134.56.3.1", port)
}

/// The body of a message, which must be as long as it says.
pub(super) fn body(sent: &Sent) -> String {
    let body = sent.message.rest();
    assert_eq!(sent.message.content_length(), Some(body.len()), "{sent:?}");
    String::from_utf8_lossy(body).replace("\r\n", "\n")
}

/// An INVITE of the caller from behind its NAT.
pub(super) fn invite() -> Ask<'static> {
    Ask {
        via: "SIP/2.0/UDP 10.0.0.9:5060;branch=z9hG4bKcaller",
        more: "Contact: <sip:caller@10.0.0.9:5060>\n",
        ..Ask::default()
    }
}

/// A request of the caller within the dialog that `ok` made.
pub(super) fn within(method: &str, ok: &Sent) -> String {
    let via = format!("SIP/2.0/UDP 10.0.0.9:5060;branch=z9hG4bK{method}");
    Ask {
        method,
        uri: "sip:user@192.168.1.10:5060",
        via: &via,
        to: "<sip:user@net.com>;tag=phone",
        cseq: if method == "ACK" { 1 } else { 2 },
        more: &route_set(ok, true),
        ..invite()
    }
    .text()
}

pub(super) const CONTACT: &str = "Contact: <sip:user@192.168.1.10:5060>\n";

#[test]
fn a_call_is_relayed_until_its_end() {
    let (mut world, path) = world(phone());
    let out = world.receive(udp(CALLER), &with(&invite().text(), &audio("10.0.0.9", 4000)));
    assert_eq!(whats(&out), ["100", "INVITE"]);
    assert_eq!(body(&out[1]), ours(20004));
    let answer = with(&reply(&out[1], 200, "phone", CONTACT), &audio("192.168.1.10", 5));
    let ok = world.receive(udp(PHONE), &answer).remove(0);
    assert_eq!(body(&ok), ours(20002), "longer than it was");
    assert_eq!(body(&world.receive(udp(PHONE), &answer)[0]), ours(20002), "a copy");
    let ack = world.receive(udp(CALLER), &within("ACK", &ok));
    assert_eq!(body(&ack[0]), "");
    let (dialog, _) = world.core.dialogs().iter().next().unwrap();
    assert_eq!(world.core.media_of(dialog).unwrap().streams().count(), 1);
    // To a new port.
    let out = world.receive(udp(CALLER), &with(&within("INVITE", &ok), &audio("10.0.0.9", 4002)));
    assert_eq!(body(&out[1]), ours(20004));
    let answer = with(&reply(&out[1], 200, "phone", CONTACT), &audio("192.168.1.10", 5));
    assert_eq!(body(&world.receive(udp(PHONE), &answer)[0]), ours(20002));
    let commands = path.commands();
    assert!(
        matches!(
            commands[..],
            [Media::Rearm {
                side: Side::Caller,
                relatch: true,
                ..
            }]
        ),
        "{commands:?}"
    );
    let bye = world.receive(udp(CALLER), &within("BYE", &ok));
    world.receive(udp(PHONE), &reply(&bye[0], 200, "phone", ""));
    assert_eq!(path.commands(), [Media::CloseRelay(RelayId(20002))]);
    assert!(world.core.media_of(dialog).is_none());
}

#[test]
fn a_delayed_offer_is_answered_by_the_ack() {
    let (mut world, path) = world(phone());
    let out = world.receive(udp(CALLER), &invite().text());
    let offer = with(&reply(&out[1], 200, "phone", CONTACT), &audio("192.168.1.10", 5000));
    let ok = world.receive(udp(PHONE), &offer).remove(0);
    assert_eq!(body(&ok), ours(20002));
    let ack = world.receive(udp(CALLER), &with(&within("ACK", &ok), &audio("10.0.0.9", 4000)));
    assert_eq!(body(&ack[0]), ours(20004));
    assert_eq!(path.commands(), []);
}

#[test]
fn each_branch_has_its_own_relay() {
    let other = "134.56.2.2:5070";
    let (mut world, path) = world(vec![
        phone().remove(0),
        found("sip:user@192.168.1.11:5060", udp(other), true, 1000),
    ]);
    let out = world.receive(udp(CALLER), &with(&invite().text(), &audio("10.0.0.9", 4000)));
    assert_eq!([body(&out[1]), body(&out[2])], [ours(20004), ours(20008)]);
    let early = with(&reply(&out[2], 183, "other", ""), &audio("192.168.1.11", 5000));
    assert_eq!(body(&world.receive(udp(other), &early)[0]), ours(20006));
    world.receive(udp(other), &reply(&out[2], 486, "other", ""));
    assert_eq!(path.commands(), [Media::CloseRelay(RelayId(20006))]);
    let answer = with(&reply(&out[1], 200, "phone", CONTACT), &audio("192.168.1.10", 5000));
    let given = world.receive(udp(PHONE), &answer);
    assert_eq!(body(&given[0]), ours(20002));
    assert_eq!(path.commands(), []);
}

#[test]
fn calls_that_fail_give_everything_back() {
    let (mut world, path) = world(phone());
    let out = world.receive(udp(CALLER), &with(&invite().text(), &audio("10.0.0.9", 4000)));
    world.receive(udp(PHONE), &reply(&out[1], 486, "phone", ""));
    assert_eq!(path.commands(), [Media::CloseRelay(RelayId(20002))]);
    world.pass(Duration::from_secs(40));
    world.assert_idle();
}

#[test]
fn refusals_are_answered_and_go_nowhere() {
    let (mut world, path) = world(phone());
    let out = world.receive(udp(CALLER), &with(&invite().text(), &audio("127.0.0.1", 4000)));
    assert_eq!(whats(&out), ["100", "488"]);
    let text = String::from_utf8_lossy(&out[1].bytes).into_owned();
    assert!(
        text.contains("Warning: 399 sipnat \"the address is that of no host\"\r\n"),
        "{text}"
    );
    world.pass(Duration::from_secs(40));
    world.assert_idle();
    assert_eq!(world.core.dialogs().calls(), 0);
    path.0.lock().unwrap().left = 1;
    let again = Ask {
        call: "call-2@elsewhere.com",
        via: "SIP/2.0/UDP 10.0.0.9:5060;branch=z9hG4bKagain",
        ..invite()
    };
    let out = world.receive(udp(CALLER), &with(&again.text(), &audio("10.0.0.9", 4000)));
    assert_eq!(whats(&out), ["100", "503"]);
    assert!(String::from_utf8_lossy(&out[1].bytes).contains("Retry-After: 10\r\n"));
    assert_eq!(path.commands(), []);
}

#[test]
fn what_is_left_alone_is_counted_and_not_a_byte_changes() {
    let (mut world, path) = world(phone());
    let offer = audio("10.0.0.9", 4000).replace("RTP/AVP", "TCP/MSRP");
    let out = world.receive(udp(CALLER), &with(&invite().text(), &offer));
    assert_eq!(body(&out[1]), offer);
    assert_eq!(world.core.media_left().collect::<Vec<_>>(), [("tcp", 1)]);
    assert_eq!(path.0.lock().unwrap().given, 0);
}

#[test]
fn emergency_calls_may_use_the_reserve() {
    let (mut world, path) = world(phone());
    world.register("112@net.com", phone());
    let call = Ask {
        uri: "sip:112@net.com",
        ..invite()
    };
    let out = world.receive(udp(CALLER), &with(&call.text(), &audio("10.0.0.9", 4000)));
    assert_eq!(body(&out[1]), ours(20004));
    assert_eq!(path.0.lock().unwrap().emergencies, 2, "both legs");
}

/// Where the proxy leaves the dialog, nobody tells when a call ends.
#[test]
fn without_record_route_nothing_is_anchored() {
    let (mut world, path) = world(phone());
    let mut config = (**world.core.config()).clone();
    config.proxy.record_route = config::RecordRoute::Never;
    let listeners = (0..).map(ListenerId).zip(config.listeners.clone());
    let listeners = listeners.map(|(id, listener)| (id, listener, None)).collect();
    world.core.configure(Arc::new(config), listeners, world.now);
    let offer = audio("10.0.0.9", 4000);
    let out = world.receive(udp(CALLER), &with(&invite().text(), &offer));
    assert_eq!(body(&out[1]), offer);
    assert_eq!(path.0.lock().unwrap().given, 0);
}

#[test]
fn another_policy_is_for_calls_to_come() {
    let (mut world, _path) = world(phone());
    let never = Policy {
        anchor: crate::media::policy::Anchor::Never,
        ..Policy::new(&world.core.config().media, Vec::new())
    };
    world.core.media_policy(never);
    let offer = audio("10.0.0.9", 4000);
    let out = world.receive(udp(CALLER), &with(&invite().text(), &offer));
    assert_eq!(body(&out[1]), offer);
}

/// Sets a call up whose media is relayed; the 200 as the caller gets it.
fn relayed(world: &mut World) -> Sent {
    let out = world.receive(udp(CALLER), &with(&invite().text(), &audio("10.0.0.9", 4000)));
    let answer = with(&reply(&out[1], 200, "phone", CONTACT), &audio("192.168.1.10", 5000));
    world.receive(udp(PHONE), &answer).remove(0)
}

fn hang_up(world: &mut World, ok: &Sent) {
    let bye = world.receive(udp(CALLER), &within("BYE", ok));
    world.receive(udp(PHONE), &reply(&bye[0], 200, "phone", ""));
}

#[test]
fn a_record_has_the_last_figures_of_each_leg() {
    let (mut world, path) = world(phone());
    let book = Book::kept(&mut world.core);
    let ok = relayed(&mut world);
    let relay = RelayId(20002);
    assert!(path.0.lock().unwrap().carried.contains(&(relay, Codec::G711)));
    hang_up(&mut world, &ok);
    let record = book.read().remove(0);
    let [stream] = &record.media[..] else {
        panic!("{record:?}")
    };
    assert_eq!(
        (stream.relay, &*stream.codec, stream.ended),
        (Some(20002), "PCMA", false)
    );
    assert_eq!(
        [stream.caller, stream.callee].map(|at| at.unwrap().to_string()),
        ["10.0.0.9:4000", "192.168.1.10:5000"]
    );
    assert_eq!(stream.legs, [leg(relay, 0), leg(relay, 1)]);
}

/// The router gets another address in the middle of a call: the relay on the old one ends, and an offer gets another one.
#[test]
fn relays_on_an_address_that_is_gone() {
    let (mut world, path) = world(phone());
    let book = Book::kept(&mut world.core);
    let ok = relayed(&mut world);
    let (relay, foreign) = (RelayId(20002), RelayId(7));
    path.commands();
    assert_eq!(world.core.media_stranded(&[relay, foreign]), [foreign]);
    assert_eq!(path.commands(), [Media::CloseRelay(relay)]);
    assert_eq!(world.core.metrics.streams_lost, 1);
    let (dialog, _) = world.core.dialogs().iter().next().unwrap();
    let streams = world.core.streams_of(dialog);
    assert_eq!((streams.len(), streams[0].ended, streams[0].legs.len()), (1, true, 2));
    let out = world.receive(udp(CALLER), &with(&within("INVITE", &ok), &audio("10.0.0.9", 4000)));
    assert_eq!(body(&out[1]), ours(20008), "another relay");
    hang_up(&mut world, &ok);
    let record = book.read().remove(0);
    assert_eq!(
        (&*record.reason, record.by.as_deref()),
        ("address_changed", Some("caller"))
    );
    assert_eq!(record.media.iter().filter(|stream| stream.ended).count(), 1);
}
