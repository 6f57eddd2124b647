use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use proptest::prelude::*;

use super::{
    stored::{Changes, StoredContact},
    *,
};
use crate::{
    config,
    sip::{
        flow::{ConnectionId, ListenerId, Transport},
        path::{Settings, State},
    },
};

const NOW: Time = Time(1_790_000_000_000);
const AOR: &str = "user@net.com";

fn paths() -> Paths {
    let settings = Settings {
        paths: config::sip::Paths::default(),
        t1: Duration::from_millis(500),
        t2: Duration::from_secs(4),
    };
    Paths::new(settings, [7; 32])
}

fn udp(port: u16) -> Flow {
    Flow::udp(ListenerId(0), ([134, 56, 1, 1], port).into())
}

fn tcp(port: u16) -> Flow {
    Flow::stream(
        ListenerId(1),
        Transport::Tcp,
        ([134, 56, 1, 1], port).into(),
        ConnectionId(u64::from(port)),
    )
}

fn contact(uri: &str, flow: Flow) -> NewContact<'_> {
    NewContact {
        uri: uri.as_bytes(),
        params: b"",
        call_id: b"1@192.168.1.10",
        cseq: 1,
        path: b"",
        flow: Some(flow),
        behind_nat: true,
        keeps_alive: false,
        reg_id: None,
        q: 1000,
        expires: NOW + Duration::from_secs(60),
        user_agent: Some(b"phone/1"),
        fixed: false,
    }
}

fn after(seconds: u64) -> Time {
    NOW + Duration::from_secs(seconds)
}

#[test]
fn a_contact_holds_its_path_until_it_expires() {
    let (mut location, mut paths) = (Location::new(), paths());
    let first = location.put(
        AOR,
        None,
        &contact("sip:user@192.168.1.10:5060", udp(5070)),
        &mut paths,
        NOW,
    );
    let path = paths.find(&udp(5070)).unwrap();
    assert_eq!(paths.state(path), State::Registration);
    assert_eq!(location.lookup(AOR, NOW).usable.as_slice(), [first]);
    assert_eq!(
        location
            .on_flow(&udp(5070), &paths, NOW)
            .map(|c| c.id)
            .collect::<Vec<_>>(),
        [first]
    );
    assert_eq!(location.get(first, NOW).unwrap().remaining(NOW), Some(60));
    // Absent at that millisecond, whether it was freed or not.
    assert!(location.get(first, Time(after(60).0 - 1)).is_some());
    assert_eq!(location.lookup(AOR, after(60)), Targets::default());
    assert!(location.get(first, after(60)).is_none() && location.contacts(AOR, after(60)).next().is_none());
    let mut gone = Vec::new();
    location.tick(Time(after(60).0 - 1), &mut paths, |c| gone.push(c.id));
    assert_eq!((gone.len(), location.len(), location.aors()), (0, 1, 1));
    location.tick(after(60), &mut paths, |c| gone.push(c.id));
    assert_eq!(
        (gone.len(), location.len(), location.aors(), location.next()),
        (1, 0, 0, None)
    );
    assert!(paths.is_empty() && location.agents.len() == 0);
}

#[test]
fn a_refresh_moves_the_expiry_and_another_flow_the_path() {
    let (mut location, mut paths) = (Location::new(), paths());
    let new = contact("sip:user@192.168.1.10:5060", udp(5070));
    let id = location.put(AOR, None, &new, &mut paths, NOW);
    let refresh = NewContact {
        cseq: 2,
        expires: after(90),
        ..new
    };
    assert_eq!(location.put(AOR, Some(id), &refresh, &mut paths, after(30)), id);
    location.tick(after(60), &mut paths, |_| panic!("it was refreshed"));
    assert_eq!(location.get(id, after(60)).unwrap().cseq, 2);
    let moved = NewContact {
        flow: Some(udp(5071)),
        user_agent: Some(b"phone/2"),
        ..refresh
    };
    location.put(AOR, Some(id), &moved, &mut paths, after(31));
    assert!(paths.find(&udp(5070)).is_none());
    assert_eq!(paths.state(paths.find(&udp(5071)).unwrap()), State::Registration);
    assert_eq!((paths.len(), location.agents.len()), (1, 1));
    assert_eq!(location.get(id, after(60)).unwrap().user_agent, Some("phone/2"));
}

#[test]
fn targets_are_ordered_and_one_for_each_device() {
    let (mut location, mut paths) = (Location::new(), paths());
    let mut put = |uri: &str, port, q, params: &str, reg_id, at| {
        let new = NewContact {
            q,
            params: params.as_bytes(),
            reg_id: NonZeroU32::new(reg_id),
            ..contact(uri, udp(port))
        };
        location.put(AOR, None, &new, &mut paths, after(at))
    };
    let low = put("sip:a@1.1.1.1", 1, 500, "", 0, 0);
    let old = put("sip:b@1.1.1.1", 2, 1000, "", 0, 1);
    let young = put("sip:c@1.1.1.1", 3, 1000, "", 0, 2);
    let flow_1 = put("sip:d@1.1.1.1", 4, 700, ";+sip.instance=\"<urn:x>\";reg-id=1", 1, 3);
    let flow_2 = put("sip:d@1.1.1.1", 5, 700, ";+sip.instance=\"<urn:x>\";reg-id=2", 2, 4);
    let flow_3 = put("sip:d@1.1.1.1", 6, 900, ";+sip.instance=\"<urn:x>\";reg-id=3", 3, 2);
    assert_eq!(location.lookup(AOR, NOW).usable.as_slice(), [young, old, flow_2, low]);
    // RFC 5626 section 7: the next flow of the same instance, never another device.
    assert_eq!(location.fallback(flow_2, &[], NOW), Some(flow_1));
    assert_eq!(location.fallback(flow_1, &[flow_2], NOW), Some(flow_3));
    assert_eq!(location.fallback(flow_3, &[flow_2, flow_1], NOW), None);
    assert_eq!(location.fallback(old, &[], NOW), None);
    let path = paths.find(&udp(5)).unwrap();
    assert_eq!(location.path_down(path, Lost::Mark, &mut paths, NOW), 1);
    let targets = location.lookup(AOR, NOW);
    assert_eq!(
        (targets.usable.as_slice(), targets.down),
        (&[young, old, flow_1, low][..], 1)
    );
    location.path_up(path);
    assert_eq!(location.lookup(AOR, NOW).usable[2], flow_2);
    assert_eq!(location.path_down(path, Lost::Remove, &mut paths, NOW), 1);
    assert!(location.get(flow_2, NOW).is_none());
}

#[test]
fn a_connection_that_ends_takes_what_only_it_can_reach() {
    let (mut location, mut paths) = (Location::new(), paths());
    let behind = location.put(
        AOR,
        None,
        &contact("sip:a@10.0.0.1;transport=tcp", tcp(1)),
        &mut paths,
        NOW,
    );
    let public = NewContact {
        behind_nat: false,
        ..contact("sip:a@134.56.1.1;transport=tcp", tcp(1))
    };
    let public = location.put("other@net.com", None, &public, &mut paths, NOW);
    let elsewhere = location.put(
        AOR,
        None,
        &contact("sip:b@10.0.0.1;transport=tcp", tcp(2)),
        &mut paths,
        NOW,
    );
    assert_eq!(location.flow_ended(&tcp(1), &mut paths, NOW), 1);
    assert!(location.get(behind, NOW).is_none() && location.get(elsewhere, NOW).is_some());
    assert_eq!(location.get(public, NOW).unwrap().flow, None);
    assert_eq!(paths.len(), 1);
    assert_eq!(location.flow_ended(&tcp(1), &mut paths, NOW), 0);
}

#[test]
fn unregistering_leaves_what_the_configuration_says() {
    let (mut location, mut paths) = (Location::new(), paths());
    let fixed = NewContact {
        flow: None,
        expires: Time::MAX,
        fixed: true,
        ..contact("sip:desk@192.0.2.1", udp(1))
    };
    let fixed = location.put(AOR, None, &fixed, &mut paths, NOW);
    for port in 1..4 {
        location.put(
            AOR,
            None,
            &contact(&format!("sip:{port}@10.0.0.1"), udp(port)),
            &mut paths,
            NOW,
        );
    }
    assert_eq!(location.unregister(AOR, Some(b"sip:2@10.0.0.1"), &mut paths, NOW), 1);
    assert_eq!(location.unregister(AOR, Some(b"sip:2@10.0.0.1"), &mut paths, NOW), 0);
    assert_eq!(location.unregister(AOR, None, &mut paths, NOW), 2);
    assert_eq!(location.unregister("nobody@net.com", None, &mut paths, NOW), 0);
    assert_eq!(location.lookup(AOR, after(1_000_000)).usable.as_slice(), [fixed]);
    let view = location.get(fixed, NOW).unwrap();
    assert_eq!((view.remaining(NOW), view.fixed, paths.len()), (None, true, 0));
}

#[test]
fn pages_show_each_contact_once() {
    let (mut location, mut paths) = (Location::new(), paths());
    for port in 1..=100 {
        location.put(
            &format!("{port}@net.com"),
            None,
            &contact("sip:x@10.0.0.1", udp(port)),
            &mut paths,
            NOW,
        );
    }
    let (mut from, mut seen) = (0, Vec::new());
    for _ in 0..100 {
        match location.page(from, 7, NOW, |contact| seen.push(contact.aor.to_owned())) {
            Some(next) => from = next,
            None => break,
        }
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 100);
    assert_eq!(location.page(u64::MAX, 7, NOW, |_| panic!()), None);
    assert_eq!(Location::new().page(0, 7, NOW, |_| panic!()), None);
}

#[test]
fn what_is_stored_comes_back() {
    let (mut location, mut paths) = (Location::new(), paths());
    let new = NewContact {
        params: b";+sip.instance=\"<urn:x>\"",
        path: b"<sip:edge;lr>",
        q: 300,
        ..contact("sip:user@192.168.1.10:5060", udp(5070))
    };
    let id = location.put(AOR, None, &new, &mut paths, NOW);
    let stream = location.put(AOR, None, &contact("sip:b@10.0.0.1", tcp(1)), &mut paths, NOW);
    let public = NewContact {
        behind_nat: false,
        user_agent: None,
        ..contact("sip:c@10.0.0.1", tcp(1))
    };
    location.put(AOR, None, &public, &mut paths, NOW);
    let changes = location.take_changes();
    assert_eq!(
        (changes.contacts.len(), changes.refreshes.len(), changes.gone.len()),
        (3, 0, 0)
    );
    assert!(!location.has_changes() && location.take_changes().is_empty());
    let refreshed = NewContact {
        cseq: 2,
        expires: after(120),
        ..new
    };
    location.put(AOR, Some(id), &refreshed, &mut paths, after(10));
    location.remove(stream, &mut paths, NOW);
    let later = location.take_changes();
    assert_eq!((later.contacts.len(), later.refreshes.len()), (0, 1));
    assert_eq!(later.gone, [changes.contacts[1].0]);

    let (mut again, mut again_paths) = (Location::new(), self::paths());
    let back: Vec<_> = changes
        .contacts
        .iter()
        .map(|(number, bytes)| {
            let stored = StoredContact::decode(bytes).unwrap();
            let refresh = later.refreshes.iter().find(|refresh| refresh.number == *number);
            let listener = |id| (id == ListenerId(0)).then_some(ListenerId(3)).or(Some(id));
            again.restore(*number, &stored, refresh, listener, &mut again_paths, after(20))
        })
        .collect();
    assert!(back[0].is_some() && back[1].is_none() && back[2].is_some());
    let view = again.get(back[0].unwrap(), after(119)).unwrap();
    assert_eq!(
        (view.uri, view.params, view.path, view.q),
        (new.uri, new.params, new.path, 300)
    );
    assert_eq!(
        (view.cseq, view.updated, view.remaining(after(20))),
        (2, after(10), Some(100))
    );
    assert_eq!(
        view.flow,
        Some(Flow::udp(ListenerId(3), ([134, 56, 1, 1], 5070).into()))
    );
    assert_eq!(view.path_id, again_paths.find(&view.flow.unwrap()));
    assert_eq!(view.user_agent, Some("phone/1"));
    // The public one is reached by its URI now.
    assert_eq!(again.get(back[2].unwrap(), after(20)).unwrap().flow, None);
    let next = again.put(
        AOR,
        None,
        &contact("sip:d@10.0.0.1", udp(9)),
        &mut again_paths,
        after(20),
    );
    assert!(again.get(next, after(20)).unwrap().number > changes.contacts[2].0);
    // Expired meanwhile.
    let stored = StoredContact::decode(&changes.contacts[0].1).unwrap();
    let nobody = Location::new().restore(Number(1), &stored, None, Some, &mut self::paths(), after(60));
    assert_eq!(nobody, None);
    for length in 0..changes.contacts[0].1.len() {
        assert!(StoredContact::decode(&changes.contacts[0].1[..length]).is_none());
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put { aor: u8, uri: u8, port: u16, expires: u64 },
    Remove { aor: u8, uri: u8 },
    Wait(u64),
    Close(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..4u8, 0..3u8, 1..6u16, 1..50u64).prop_map(|(aor, uri, port, expires)| Step::Put { aor, uri, port, expires }),
        1 => (0..4u8, 0..3u8).prop_map(|(aor, uri)| Step::Remove { aor, uri }),
        2 => (0..30u64).prop_map(Step::Wait),
        1 => (1..6u16).prop_map(Step::Close),
    ];
    prop::collection::vec(step, 0..80)
}

proptest! {
    /// Against a plain map: the same contacts, each path held by exactly as many registrations as there are contacts on it, and the store
    /// follows.
    #[test]
    fn any_order_of_events(steps in steps()) {
        let (mut location, mut paths) = (Location::new(), paths());
        let mut model: BTreeMap<(u8, u8), (u16, Time)> = BTreeMap::new();
        let mut stored: BTreeMap<Number, Time> = BTreeMap::new();
        let mut now = NOW;
        for step in steps {
            let find = |location: &Location, aor: u8, uri: u8, now| {
                let uri = format!("sip:{uri}@10.0.0.1");
                location.contacts(&format!("{aor}@net.com"), now).find(|c| c.uri == uri.as_bytes()).map(|c| c.id)
            };
            match step {
                Step::Put { aor, uri, port, expires } => {
                    let old = find(&location, aor, uri, now);
                    let text = format!("sip:{uri}@10.0.0.1");
                    let new = NewContact { expires: now + Duration::from_secs(expires), ..contact(&text, tcp(port)) };
                    location.put(&format!("{aor}@net.com"), old, &new, &mut paths, now);
                    model.insert((aor, uri), (port, new.expires));
                }
                Step::Remove { aor, uri } => {
                    let id = find(&location, aor, uri, now);
                    prop_assert_eq!(id.is_some(), model.remove(&(aor, uri)).is_some());
                    if let Some(id) = id {
                        prop_assert!(location.remove(id, &mut paths, now));
                        prop_assert!(!location.remove(id, &mut paths, now));
                    }
                }
                Step::Wait(seconds) => now = now + Duration::from_secs(seconds),
                Step::Close(port) => {
                    location.flow_ended(&tcp(port), &mut paths, now);
                    model.retain(|_, (at, _)| *at != port);
                }
            }
            location.tick(now, &mut paths, |_| {});
            model.retain(|_, (_, expires)| *expires > now);
            prop_assert_eq!(location.len(), model.len());
            for ((aor, uri), (port, expires)) in &model {
                let id = find(&location, *aor, *uri, now);
                let contact = id.and_then(|id| location.get(id, now)).unwrap();
                prop_assert_eq!((contact.flow, contact.expires), (Some(tcp(*port)), *expires));
                prop_assert_eq!(location.next().is_some_and(|next| next <= *expires), true);
            }
            for port in 1..6 {
                let on_it = model.values().filter(|(at, _)| *at == port).count();
                let held = paths.find(&tcp(port)).and_then(|path| paths.get(path)).map_or(0, |path| path.registrations);
                prop_assert_eq!(held as usize, on_it);
                prop_assert_eq!(location.on_flow(&tcp(port), &paths, now).count(), on_it);
            }
            let Changes { contacts, refreshes, gone } = location.take_changes();
            for (number, bytes) in contacts {
                stored.insert(number, StoredContact::decode(&bytes).unwrap().contact.expires);
            }
            for refresh in refreshes {
                prop_assert!(stored.insert(refresh.number, refresh.expires).is_some());
            }
            for number in gone {
                stored.remove(&number);
            }
            let mut kept: Vec<_> = stored.values().collect();
            let mut there: Vec<_> = model.values().map(|(_, expires)| expires).collect();
            kept.sort();
            there.sort();
            prop_assert_eq!(kept, there);
        }
    }
}
