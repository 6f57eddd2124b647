//! Calls that outlive the daemon, and calls whose media has ended.

use super::{media::*, *};
use crate::{
    config::sip::TimeoutEnds,
    media::{
        command::{Command as Media, RelayId},
        policy::Policy,
    },
    sip::core::kept,
};

/// A call through the relay, answered and acknowledged: the INVITE as the phone got it, and the 200 as the caller did.
fn answered(world: &mut World, more: &str) -> (Sent, Sent) {
    let mut out = world.receive(udp(CALLER), &with(&invite().text(), &audio("10.0.0.9", 4000)));
    let sent = out.remove(1);
    let answer = reply(&sent, 200, "phone", &format!("{CONTACT}{more}"));
    let ok = world
        .receive(udp(PHONE), &with(&answer, &audio("192.168.1.10", 5000)))
        .remove(0);
    world.receive(udp(CALLER), &within("ACK", &ok));
    (sent, ok)
}

/// Another daemon takes over what this one has stored; the data path has gone on meanwhile.
pub(super) fn restarted(mut world: World, path: &Path) -> World {
    let mut after = without_media(&mut world);
    anchor(&mut after, path);
    after
}

fn without_media(world: &mut World) -> World {
    world.pass(Duration::from_secs(1));
    let mut after = World::new(|config| *config = (**world.core.config()).clone());
    after.now = world.now;
    after.core.registry.contacts = std::mem::take(&mut world.core.registry.contacts);
    after.core.registry.stored = std::mem::take(&mut world.core.registry.stored);
    for (number, record) in after.core.registry.stored.clone() {
        after.core.restore_call(number, &record, after.now);
    }
    after
}

fn anchor(world: &mut World, path: &Path) {
    let policy = Policy::new(&world.core.config().media, Vec::new());
    world.core.anchor_media(policy, Box::new(path.clone()), world.now);
}

#[test]
fn a_call_goes_on_after_a_restart() {
    let (mut world, path) = world(phone());
    let (_, ok) = answered(&mut world, "Session-Expires: 1800;refresher=uac\n");
    let before: Vec<String> = world
        .core
        .dialogs()
        .iter()
        .map(|(_, dialog)| format!("{dialog:?}"))
        .collect();
    let mut world = restarted(world, &path);
    let (id, dialog) = world.core.dialogs().iter().next().unwrap();
    assert_eq!(&*dialog.call_id, b"call-1@elsewhere.com");
    assert_eq!((dialog.session, dialog.callees.len()), (Some(1800), 1));
    assert!(
        dialog.caller.path.is_some() && dialog.callees[0].leg.path.is_some(),
        "{before:?}"
    );
    assert_eq!(world.core.media_of(id).unwrap().streams().count(), 1);
    // An offer finds the places that its stream has.
    let out = world.receive(udp(CALLER), &with(&within("INVITE", &ok), &audio("10.0.0.9", 4002)));
    assert_eq!(whats(&out), ["100", "INVITE"]);
    assert_eq!((body(&out[1]), out[1].remote()), (ours(20004), addr(PHONE)));
    let answer = with(&reply(&out[1], 200, "phone", CONTACT), &audio("192.168.1.10", 5000));
    assert_eq!(body(&world.receive(udp(PHONE), &answer)[0]), ours(20002));
    assert!(matches!(path.commands()[..], [Media::Rearm { relatch: true, .. }]));
    let bye = world.receive(udp(CALLER), &within("BYE", &ok));
    world.receive(udp(PHONE), &reply(&bye[0], 200, "phone", ""));
    assert_eq!(path.commands(), [Media::CloseRelay(RelayId(20002))]);
    world.pass(Duration::from_secs(40));
    assert_eq!((world.core.dialogs().calls(), world.core.registry.stored.len()), (0, 0));
    world.assert_idle();
}

#[test]
fn a_call_of_before_a_restart_ends_by_its_session_timer() {
    let (mut world, path) = world(phone());
    answered(&mut world, "Session-Expires: 300;refresher=uac\n");
    let mut world = restarted(world, &path);
    world.pass(Duration::from_secs(330));
    assert_eq!(world.core.dialogs().calls(), 1);
    world.pass(Duration::from_secs(3));
    assert_eq!(world.core.dialogs().calls(), 0);
    assert_eq!(path.commands(), [Media::CloseRelay(RelayId(20002))]);
    // The daemon was dead for longer than that.
    let (mut world, path) = self::world(phone());
    answered(&mut world, "Session-Expires: 300;refresher=uac\n");
    world.pass(Duration::from_secs(1));
    let stored = world.core.registry.stored.clone();
    world.now = world.now + Duration::from_secs(400);
    world.core.registry.stored = stored;
    let mut after = World::new(|_| {});
    after.now = world.now;
    for (number, record) in &world.core.registry.stored {
        assert!(!after.core.restore_call(*number, record, after.now));
    }
    anchor(&mut after, &path);
    assert_eq!(after.core.dialogs().calls(), 0);
}

#[test]
fn only_answered_calls_are_kept_and_only_until_they_end() {
    let (mut world, _path) = world(phone());
    let out = world.receive(udp(CALLER), &with(&invite().text(), &audio("10.0.0.9", 4000)));
    world.receive(udp(PHONE), &reply(&out[1], 180, "phone", CONTACT));
    world.pass(Duration::from_secs(1));
    assert_eq!(world.core.registry.stored.len(), 0, "it rings");
    let answer = with(&reply(&out[1], 200, "phone", CONTACT), &audio("192.168.1.10", 5000));
    let ok = world.receive(udp(PHONE), &answer).remove(0);
    world.pass(Duration::from_millis(300));
    let first = world.core.registry.stored.clone();
    assert_eq!(first.len(), 1);
    let bye = world.receive(udp(CALLER), &within("BYE", &ok));
    world.receive(udp(PHONE), &reply(&bye[0], 200, "phone", ""));
    world.pass(Duration::from_millis(300));
    assert_eq!(world.core.registry.stored.len(), 0);
    // What is not understood is no call, and is not kept any longer.
    let mut after = World::new(|_| {});
    let record = &first[&1];
    for wrong in [
        &b""[..],
        &[9],
        &record[..record.len() - 1],
        &[&record[..], b"x"].concat(),
    ] {
        assert!(!after.core.restore_call(1, wrong, after.now));
        assert!(kept::translate(wrong, |listener| listener).is_none());
    }
    assert!(after.core.restore_call(1, record, after.now));
    assert!(!after.core.restore_call(2, record, after.now), "the same one");
    assert_eq!(kept::translate(record, |listener| listener).as_ref(), Some(record));
    let moved = kept::translate(record, |_| ListenerId(1)).unwrap();
    assert_ne!(moved, *record);
}

/// Stored before the data path is there, and ended before it is.
#[test]
fn a_call_ends_before_its_media_is_known() {
    let (mut world, path) = world(phone());
    let (_, ok) = answered(&mut world, "");
    let mut after = without_media(&mut world);
    assert_eq!(after.core.dialogs().calls(), 1);
    // It is written again as it was.
    let before = after.core.registry.stored.clone();
    after.receive(udp(CALLER), &within("OPTIONS", &ok));
    after.pass(Duration::from_millis(300));
    assert_eq!(after.core.registry.stored[&1].len(), before[&1].len());
    let bye = after.receive(udp(CALLER), &within("BYE", &ok).replace("CSeq: 2", "CSeq: 3"));
    after.receive(udp(PHONE), &reply(&bye[0], 200, "phone", ""));
    assert_eq!(path.commands(), []);
    anchor(&mut after, &path);
    assert_eq!(path.commands(), [Media::CloseRelay(RelayId(20002))]);
}

#[test]
fn a_place_that_is_gone_is_made_anew() {
    let (mut world, path) = world(phone());
    let two = |address: &str, port: u16| {
        let audio = audio(address, port);
        format!("{audio}m=video {} RTP/AVP 96\na=rtpmap:96 VP8/90000\n", port + 2)
    };
    let out = world.receive(udp(CALLER), &with(&invite().text(), &two("10.0.0.9", 4000)));
    let answer = with(&reply(&out[1], 200, "phone", CONTACT), &two("192.168.1.10", 5000));
    let ok = world.receive(udp(PHONE), &answer).remove(0);
    world.receive(udp(CALLER), &within("ACK", &ok));
    path.0.lock().unwrap().open.remove(&RelayId(20006));
    let mut world = restarted(world, &path);
    let (id, _) = world.core.dialogs().iter().next().unwrap();
    assert_eq!(world.core.media_of(id).unwrap().streams().count(), 1);
    let out = world.receive(udp(CALLER), &with(&within("INVITE", &ok), &two("10.0.0.9", 4000)));
    let told = body(&out[1]);
    assert!(
        told.contains("m=audio 20004 ") && told.contains("m=video 20012 "),
        "{told}"
    );
}

/// The call ended, and the daemon before it was written.
#[test]
fn a_call_whose_places_are_all_gone_is_over() {
    let (mut world, path) = world(phone());
    answered(&mut world, "");
    path.0.lock().unwrap().open.clear();
    let mut world = restarted(world, &path);
    assert_eq!(world.core.dialogs().calls(), 0);
    world.pass(Duration::from_millis(300));
    assert_eq!(world.core.registry.stored.len(), 0);
}

/// The data path knows what the store does not know yet.
#[test]
fn a_hold_of_the_last_moment_is_not_forgotten() {
    let (mut world, path) = world(phone());
    let (_, ok) = answered(&mut world, "");
    world.pass(Duration::from_secs(1));
    path.0.lock().unwrap().held.insert(RelayId(20002));
    let mut world = restarted(world, &path);
    path.commands();
    let out = world.receive(udp(CALLER), &with(&within("INVITE", &ok), &audio("10.0.0.9", 4000)));
    let answer = with(&reply(&out[1], 200, "phone", CONTACT), &audio("192.168.1.10", 5000));
    world.receive(udp(PHONE), &answer);
    let off = Media::Hold {
        relay: RelayId(20002),
        held: false,
    };
    assert!(path.commands().contains(&off));
}

fn silent(world: &mut World, streams: &[u64]) -> (Vec<Sent>, Vec<RelayId>) {
    let streams: Vec<RelayId> = streams.iter().copied().map(RelayId).collect();
    let mut out = Vec::new();
    let unknown = world.core.media_silent(&streams, world.now, &mut out);
    (sent(out), unknown)
}

#[test]
fn a_call_without_media_is_hung_up_on_both_sides() {
    let (mut world, path) = world(phone());
    let (_, ok) = answered(&mut world, "");
    // The caller has sent more since.
    world.receive(udp(CALLER), &within("OPTIONS", &ok).replace("CSeq: 2", "CSeq: 7"));
    let (out, unknown) = silent(&mut world, &[20002, 5]);
    assert!(out.is_empty(), "for how long is not known yet");
    assert_eq!(unknown, [RelayId(5)]);
    world.pass(Duration::from_secs(300));
    let mut world = restarted(world, &path);
    silent(&mut world, &[]);
    world.pass(Duration::from_secs(300));
    let (out, _) = silent(&mut world, &[20002]);
    assert_eq!(whats(&out), ["BYE", "BYE"]);
    let find = |remote: &str| out.iter().find(|sent| sent.remote() == addr(remote)).unwrap();
    let (to_caller, to_phone) = (find(CALLER), find(PHONE));
    for part in [
        "BYE sip:caller@10.0.0.9:5060 SIP/2.0\r\n",
        "From: <sip:user@net.com>;tag=phone\r\n",
        "To: <sip:caller@elsewhere.com>;tag=caller\r\n",
        "CSeq: 1 BYE\r\n",
        "Call-ID: call-1@elsewhere.com\r\n",
        "Max-Forwards: 70\r\n",
        "Via: SIP/2.0/UDP 134.56.3.1:5060;branch=z9hG4bK",
        "Reason: SIP;cause=408;text=\"No media\"\r\n",
    ] {
        assert!(to_caller.text().contains(part), "{part} in {}", to_caller.text());
    }
    assert_eq!(to_caller.text().matches("Via:").count(), 1);
    for part in [
        "BYE sip:user@192.168.1.10:5060 SIP/2.0\r\n",
        "From: <sip:caller@elsewhere.com>;tag=caller\r\n",
        "To: <sip:user@net.com>;tag=phone\r\n",
        "CSeq: 8 BYE\r\n",
    ] {
        assert!(to_phone.text().contains(part), "{part} in {}", to_phone.text());
    }
    // Not again, while they are on their way.
    world.pass(Duration::from_millis(100));
    assert!(silent(&mut world, &[20002]).0.is_empty());
    let again = whats(&world.pass(Duration::from_millis(500)));
    assert_eq!(
        again.iter().filter(|what| *what == "BYE").count(),
        2,
        "nobody has answered"
    );
    let given = world.receive(udp(CALLER), &reply(to_caller, 200, "", ""));
    assert!(given.is_empty(), "nobody waits for it");
    assert_eq!(world.core.dialogs().calls(), 0);
    assert_eq!(path.commands(), [Media::CloseRelay(RelayId(20002))]);
    assert!(world.receive(udp(PHONE), &reply(to_phone, 481, "", "")).is_empty());
    world.pass(Duration::from_secs(40));
    world.assert_idle();
}

#[test]
fn a_call_that_nobody_ends_is_over_when_no_bye_is_answered() {
    let (mut world, path) = world(phone());
    answered(&mut world, "");
    silent(&mut world, &[]);
    world.pass(Duration::from_secs(300));
    assert_eq!(silent(&mut world, &[20002]).0.len(), 2);
    world.pass(Duration::from_secs(33));
    assert_eq!(world.core.dialogs().calls(), 0);
    assert_eq!(path.commands(), [Media::CloseRelay(RelayId(20002))]);
    world.pass(Duration::from_secs(40));
    world.assert_idle();
}

#[test]
fn silence_ends_no_call_that_rings_or_was_on_hold() {
    let (mut world, path) = world(phone());
    let out = world.receive(udp(CALLER), &with(&invite().text(), &audio("10.0.0.9", 4000)));
    silent(&mut world, &[20002]);
    world.receive(udp(PHONE), &reply(&out[1], 180, "phone", ""));
    world.pass(Duration::from_secs(100));
    world.receive(udp(PHONE), &reply(&out[1], 180, "phone", ""));
    world.pass(Duration::from_secs(150));
    world.receive(udp(PHONE), &reply(&out[1], 180, "phone", ""));
    world.pass(Duration::from_secs(60));
    let (ended, unknown) = silent(&mut world, &[20002]);
    assert!(ended.is_empty() && unknown.is_empty(), "it rings");
    let answer = with(&reply(&out[1], 200, "phone", CONTACT), &audio("192.168.1.10", 5000));
    let ok = world.receive(udp(PHONE), &answer).remove(0);
    silent(&mut world, &[20002]);
    world.pass(Duration::from_secs(299));
    assert!(
        silent(&mut world, &[20002]).0.is_empty(),
        "it was answered a moment ago"
    );
    // Taken off hold: its last packet is old, but nobody was to send any.
    let out = world.receive(udp(CALLER), &with(&within("INVITE", &ok), &audio("10.0.0.9", 4000)));
    let answer = with(&reply(&out[1], 200, "phone", CONTACT), &audio("192.168.1.10", 5000));
    world.receive(udp(PHONE), &answer);
    world.pass(Duration::from_secs(60));
    assert!(silent(&mut world, &[20002]).0.is_empty());
    // On hold again.
    let hold = audio("10.0.0.9", 4000) + "a=inactive\n";
    let offer = within("INVITE", &ok)
        .replace("bKINVITE", "bKhold")
        .replace("CSeq: 2", "CSeq: 3");
    let out = world.receive(udp(CALLER), &with(&offer, &hold));
    let answer = with(&reply(&out[1], 200, "phone", CONTACT), &audio("192.168.1.10", 5000));
    world.receive(udp(PHONE), &answer);
    silent(&mut world, &[20002]);
    world.pass(Duration::from_secs(3000));
    let (ended, unknown) = silent(&mut world, &[20002]);
    assert!(ended.is_empty() && unknown.is_empty(), "for as long as it takes");
    let offer = within("INVITE", &ok)
        .replace("bKINVITE", "bKtalk")
        .replace("CSeq: 2", "CSeq: 4");
    let out = world.receive(udp(CALLER), &with(&offer, &audio("10.0.0.9", 4000)));
    let answer = with(&reply(&out[1], 200, "phone", CONTACT), &audio("192.168.1.10", 5000));
    world.receive(udp(PHONE), &answer);
    silent(&mut world, &[20002]);
    world.pass(Duration::from_secs(300));
    assert_eq!(silent(&mut world, &[20002]).0.len(), 2);
    assert!(!path.commands().contains(&Media::CloseRelay(RelayId(20002))));
}

#[test]
fn silence_may_end_the_media_alone() {
    let (mut world, path) = world(phone());
    let mut config = (**world.core.config()).clone();
    config.media.timeout_ends = TimeoutEnds::Media;
    let listeners = (0..).map(ListenerId).zip(config.listeners.clone());
    let listeners = listeners.map(|(id, listener)| (id, listener, None)).collect();
    world.core.configure(Arc::new(config), listeners, world.now);
    let (_, ok) = answered(&mut world, "");
    silent(&mut world, &[]);
    world.pass(Duration::from_secs(300));
    assert!(silent(&mut world, &[20002]).0.is_empty());
    assert_eq!(path.commands(), [Media::CloseRelay(RelayId(20002))]);
    assert_eq!(world.core.dialogs().calls(), 1);
    // It may get media again.
    let out = world.receive(udp(CALLER), &with(&within("INVITE", &ok), &audio("10.0.0.9", 4000)));
    assert_eq!(body(&out[1]), ours(20008));
    let answer = with(&reply(&out[1], 200, "phone", CONTACT), &audio("192.168.1.10", 5000));
    assert_eq!(body(&world.receive(udp(PHONE), &answer)[0]), ours(20006));
}
