//! From tables to records.

use std::net::SocketAddr;

use super::{records::canonical, *};
use crate::{
    config::sip::{ListenAddress, Listener, Role},
    sip::{
        core::here::Here,
        flow::{Flow, ListenerId, Transport},
        location::NewContact,
        path::{self, Holder, PathInfo},
    },
};

const NOW: Time = Time(1_000_000);

fn paths() -> Paths {
    let settings = path::Settings {
        paths: crate::config::sip::Paths::default(),
        t1: std::time::Duration::from_millis(500),
        t2: std::time::Duration::from_secs(4),
    };
    Paths::new(settings, [0; 32])
}

fn here() -> Here {
    let listener = Listener {
        transport: Transport::Udp,
        address: ListenAddress::Ip([134, 56, 3, 1].into()),
        port: 5060,
        advertise: None,
        role: Role::Proxy,
    };
    Here::new([(ListenerId(0), listener, None)])
}

fn flow() -> Flow {
    Flow::udp(ListenerId(0), "134.56.1.1:5070".parse().unwrap())
}

fn contact(uri: &str, fixed: bool) -> NewContact<'_> {
    NewContact {
        uri: uri.as_bytes(),
        params: b";+sip.instance=\"<urn:uuid:1>\"",
        call_id: b"1@192.168.1.10",
        cseq: 7,
        path: b"<sip:edge;lr>",
        flow: (!fixed).then(flow),
        behind_nat: !fixed,
        keeps_alive: false,
        reg_id: std::num::NonZeroU32::new(2),
        q: 500,
        expires: if fixed {
            Time::MAX
        } else {
            NOW + std::time::Duration::from_secs(300)
        },
        user_agent: Some(b"phone"),
        fixed,
    }
}

#[test]
fn a_contact_is_a_row_of_the_table() {
    let (mut location, mut paths, here) = (Location::new(), paths(), here());
    location.put(
        "user@net.com",
        None,
        &contact("sip:user@192.168.1.10:5060", false),
        &mut paths,
        NOW,
    );
    location.put(
        "door@net.com",
        None,
        &contact("sip:door@192.168.1.30", true),
        &mut paths,
        NOW,
    );
    let later = NOW + std::time::Duration::from_secs(20);
    let mut records = Vec::new();
    let show = |contact: Contact<'_>| records.push(records::registration(&contact, &paths, &here, later));
    assert_eq!(location.page(0, usize::MAX, later, show), None);
    let [user, door] = &records[..] else {
        panic!("{records:?}")
    };
    assert_eq!(
        (user.aor.as_str(), user.received),
        ("user@net.com", Some(flow().remote))
    );
    assert_eq!(user.local, Some("134.56.3.1:5060".parse().unwrap()));
    assert_eq!(
        (user.expires_s, user.path_state.as_deref()),
        (Some(280), Some("registration"))
    );
    assert_eq!((user.instance.as_deref(), user.reg_id), (Some("<urn:uuid:1>"), Some(2)));
    assert_eq!(user.path, ["<sip:edge;lr>"]);
    assert_eq!((door.received, door.expires_s, door.fixed), (None, None, true));
    assert_eq!((location.behind_nat(), location.len()), (1, 2));
    // The device is at home now, and leaves.
    let mut at_home = contact("sip:user@192.168.1.10:5060", false);
    at_home.behind_nat = false;
    let id = location.contacts("user@net.com", later).next().unwrap().id;
    location.put("user@net.com", Some(id), &at_home, &mut paths, later);
    assert_eq!(location.behind_nat(), 0);
    assert_eq!(location.unregister("user@net.com", None, &mut paths, later), 1);
    assert_eq!((location.behind_nat(), location.len()), (0, 1));
}

#[test]
fn a_path_shows_who_holds_it_and_when_it_is_prompted() {
    let (mut paths, here) = (paths(), here());
    let behind_nat = PathInfo {
        behind_nat: true,
        ..PathInfo::default()
    };
    paths.hold(flow(), Holder::Registration, behind_nat, NOW);
    paths.hold(flow(), Holder::Dialog, behind_nat, NOW);
    paths.touch(&flow(), NOW);
    let later = NOW + std::time::Duration::from_secs(2);
    let mut records = Vec::new();
    assert_eq!(
        paths.page(0, usize::MAX, |path| records.push(records::path(&path, &here, later))),
        None
    );
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!(record.state, "dialog-and-registration");
    assert_eq!((record.registrations, record.subscriptions, record.dialogs), (1, 0, 1));
    assert_eq!((record.prompt.as_str(), record.interval_ms), ("options", 15_000));
    assert_eq!(
        (record.silence_s, record.in_flight, record.down),
        (Some(2), false, false)
    );
    assert!(record.next_prompt_s.is_some_and(|next| next <= 15));
}

/// Every path exactly once, however few are looked at at a time.
#[test]
fn paths_are_paged() {
    let mut paths = paths();
    let flows: Vec<Flow> = (0..100)
        .map(|port| Flow::udp(ListenerId(0), SocketAddr::from(([192, 0, 2, 1], 1024 + port))))
        .collect();
    for flow in &flows {
        paths.hold(*flow, Holder::Dialog, PathInfo::default(), NOW);
    }
    let (mut seen, mut from, mut pages) = (Vec::new(), Some(0), 0);
    while let Some(at) = from {
        from = paths.page(at, 7, |path| seen.push(path.flow.remote.port()));
        pages += 1;
    }
    seen.sort_unstable();
    assert!(seen.iter().copied().eq(1024..1124) && pages > 14, "{pages} {seen:?}");
}

#[test]
fn lists_are_paged_by_their_numbers() {
    let numbers = [0, 1, 5, 6, 1 << 32];
    let all = || numbers.into_iter().map(|number: u64| (number, number));
    let odd = |number: u64| (number % 2 == 1).then_some(number);
    let first = page(all(), Cursor::START, 2, odd);
    assert_eq!((first.records.as_slice(), first.next), (&[1][..], Some(Cursor(5))));
    let second = page(all(), Cursor(5), 3, odd);
    assert_eq!((second.records.as_slice(), second.next), (&[5][..], None));
    assert!(page(all(), Cursor(1 << 40), 3, odd).records.is_empty());
}

#[test]
fn an_ipv4_address_is_shown_as_one() {
    let mapped: SocketAddr = "[::ffff:134.56.1.1]:5070".parse().unwrap();
    assert_eq!(canonical(mapped), flow().remote);
}
