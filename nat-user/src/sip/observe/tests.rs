use proptest::prelude::*;

use super::*;

const START: Time = Time(1_790_000_000_000);
const MOST: Duration = Duration::from_secs(3632);
const BINDING: Binding = Binding {
    slot: 70_000,
    generation: 3,
};

fn registrar() -> SocketAddrV4 {
    "203.0.113.5:5060".parse().unwrap()
}

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

/// A REGISTER of alice with these contacts and further header lines.
fn request(call_id: &str, cseq: u32, lines: &str) -> Observed {
    let text = format!(
        "REGISTER sip:example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.168.1.10:5060;branch=z9hG4bK1\r\nMax-Forwards: 70\r\n\
         From: <sip:alice@example.com>;tag=1\r\nTo: <sip:alice@example.com>\r\nCall-ID: {call_id}\r\nCSeq: {cseq} REGISTER\r\n\
         {lines}Content-Length: 0\r\n\r\n"
    );
    seen(true, registrar(), text)
}

fn answer(code: u16, call_id: &str, cseq: &str, lines: &str) -> Observed {
    let text = format!(
        "SIP/2.0 {code} OK\r\nVia: SIP/2.0/UDP 192.168.1.10:5060;branch=z9hG4bK1;received=198.51.100.1\r\n\
         From: <sip:alice@example.com>;tag=1\r\nTo: <sip:alice@example.com>;tag=2\r\nCall-ID: {call_id}\r\nCSeq: {cseq}\r\n\
         {lines}Content-Length: 0\r\n\r\n"
    );
    seen(false, registrar(), text)
}

fn extend(lifetime: Duration) -> Action {
    Action::Extend {
        binding: BINDING,
        lifetime,
        registrar: registrar(),
    }
}

fn seen(outbound: bool, remote: SocketAddrV4, text: String) -> Observed {
    Observed {
        binding: BINDING,
        remote,
        outbound,
        payload: text.into(),
    }
}

const CONTACT: &str = "Contact: <sip:alice@192.168.1.10:5060>\r\n";

fn feed(observer: &mut Observer, seen: &Observed, now: Time) -> Vec<Action> {
    let mut actions = Vec::new();
    observer.observed(seen, MOST, now, &mut actions);
    actions
}

/// Up to `until`: what was said, and when in seconds after START.
fn run(observer: &mut Observer, until: Time) -> Vec<(u64, Action)> {
    let mut log = Vec::new();
    while let Some(at) = observer.next().filter(|at| *at <= until) {
        let mut actions = Vec::new();
        observer.tick(at, &mut actions);
        log.extend(actions.into_iter().map(|action| (at.since(START).as_secs(), action)));
    }
    log
}

/// The answer to a plain registration with these lines.
fn granted(asked: &str, said: &str) -> Vec<Action> {
    let mut observer = Observer::default();
    assert_eq!(feed(&mut observer, &request("a", 1, asked), START), []);
    feed(&mut observer, &answer(200, "a", "1 REGISTER", said), START)
}

#[test]
fn the_grant_is_what_the_phone_takes_it_for() {
    let extended = |granted: u64| vec![Action::Unwatch(BINDING), extend(seconds(granted + 32))];
    let own = "Contact: <sip:alice@192.168.1.10:5060>;expires=600\r\n";
    assert_eq!(granted(CONTACT, own), extended(600));
    let header = "Contact: \"A, B\" <sip:alice@192.168.1.10:5060>\r\nExpires: 120\r\n";
    assert_eq!(granted(CONTACT, header), extended(120));
    let both = "Expires: 120\r\nContact: <sip:alice@192.168.1.10:5060>;expires=600\r\n";
    assert_eq!(granted(CONTACT, both), extended(600), "the contact's own goes first");
    let others = "Contact: <sip:alice@10.0.0.1>;expires=3600, <sip:alice@192.168.1.10:5060>;q=1;expires=60,\r\n <sip:x@y>;expires=7\r\n";
    assert_eq!(
        granted(CONTACT, others),
        extended(60),
        "those of other devices do not count"
    );
    let compact = "m: <sip:alice@198.51.100.1:40000>;expires=90\r\n";
    assert_eq!(
        granted(CONTACT, compact),
        extended(90),
        "one that the registrar has rewritten"
    );
    assert_eq!(
        granted(CONTACT, "Contact: <sip:a@x>, <sip:b@y>\r\nExpires: 77\r\n"),
        extended(77)
    );
    let too_long = "Contact: <sip:alice@192.168.1.10:5060>;expires=4294967296\r\n";
    assert_eq!(granted(CONTACT, too_long)[1], extend(MOST));
    assert_eq!(
        granted(CONTACT, ""),
        [Action::Unwatch(BINDING)],
        "nothing is said, nothing is done"
    );
    assert_eq!(granted(CONTACT, "Contact: <sip:a@x>\r\n"), [Action::Unwatch(BINDING)]);
}

#[test]
fn what_does_not_match_changes_nothing() {
    let own = "Contact: <sip:alice@192.168.1.10:5060>;expires=600\r\n";
    let good = answer(200, "a", "7 REGISTER", own);
    let mut observer = Observer::default();
    assert_eq!(feed(&mut observer, &good, START), [], "nobody has asked");
    feed(&mut observer, &request("a", 7, CONTACT), START);
    let forged = [
        answer(200, "b", "7 REGISTER", own),
        answer(200, "A", "7 REGISTER", own),
        answer(200, "a", "8 REGISTER", own),
        answer(200, "a", "7 INVITE", own),
        answer(200, "a", "x", own),
        answer(401, "a", "7 REGISTER", own),
        Observed {
            remote: "203.0.113.5:5061".parse().unwrap(),
            ..good.clone()
        },
        Observed {
            remote: "203.0.113.6:5060".parse().unwrap(),
            ..good.clone()
        },
        Observed {
            binding: Binding {
                generation: 4,
                ..BINDING
            },
            ..good.clone()
        },
        Observed {
            binding: Binding { slot: 1, ..BINDING },
            ..good.clone()
        },
        Observed {
            payload: good.payload.slice(..good.payload.len() - 40),
            ..good.clone()
        },
        Observed {
            payload: Bytes::from_static(b"SIP/2.0 200"),
            ..good.clone()
        },
        Observed {
            payload: request("a", 7, CONTACT).payload,
            ..good.clone()
        },
    ];
    for forged in forged {
        assert_eq!(feed(&mut observer, &forged, START), [], "{forged:?}");
    }
    assert_eq!(
        feed(&mut observer, &good, START).len(),
        2,
        "and the right one still does"
    );
    assert_eq!(feed(&mut observer, &good, START), [], "once");
    assert_eq!(observer.counts().answers, 1);
}

#[test]
fn an_answer_is_waited_for_no_longer_than_the_phone_does() {
    let mut observer = Observer::default();
    feed(&mut observer, &request("a", 1, CONTACT), START);
    assert_eq!(
        run(&mut observer, START + seconds(100)),
        [(32, Action::Unwatch(BINDING))]
    );
    assert!(observer.is_empty());
    assert_eq!(feed(&mut observer, &answer(200, "a", "1 REGISTER", CONTACT), START), []);
}

#[test]
fn a_challenge_is_followed_by_the_request_that_counts() {
    let mut observer = Observer::default();
    feed(&mut observer, &request("a", 1, CONTACT), START);
    feed(&mut observer, &request("a", 2, CONTACT), START + seconds(1));
    let own = "Contact: <sip:alice@192.168.1.10:5060>;expires=600\r\n";
    assert_eq!(feed(&mut observer, &answer(200, "a", "1 REGISTER", own), START), []);
    let actions = feed(&mut observer, &answer(200, "a", "2 REGISTER", own), START);
    assert_eq!(actions, [Action::Unwatch(BINDING), extend(seconds(632))]);
}

#[test]
fn unregistering_gives_the_binding_its_own_lifetime_back() {
    for removal in [
        "Contact: <sip:alice@192.168.1.10:5060>;expires=0\r\n",
        "Contact: *\r\nExpires: 0\r\n",
    ] {
        let mut observer = Observer::default();
        feed(&mut observer, &request("a", 1, CONTACT), START);
        feed(
            &mut observer,
            &answer(
                200,
                "a",
                "1 REGISTER",
                "Contact: <sip:alice@192.168.1.10:5060>;expires=600\r\n",
            ),
            START,
        );
        // With another Call-ID, as after a reboot.
        assert_eq!(feed(&mut observer, &request("b", 1, removal), START), []);
        let actions = feed(&mut observer, &answer(200, "b", "1 REGISTER", ""), START);
        assert_eq!(actions, [Action::Unwatch(BINDING), Action::Restore(BINDING)]);
        assert!(observer.is_empty());
    }
}

#[test]
fn unregistering_works_for_a_registration_from_before_a_restart() {
    let mut observer = Observer::default();
    feed(&mut observer, &request("b", 1, "Contact: *\r\nExpires: 0\r\n"), START);
    let actions = feed(&mut observer, &answer(200, "b", "1 REGISTER", ""), START);
    assert_eq!(actions, [Action::Unwatch(BINDING), Action::Restore(BINDING)]);
}

#[test]
fn the_last_of_several_registrations_decides() {
    let mut observer = Observer::default();
    let line = |name: &str, observed: Observed| Observed {
        payload: String::from_utf8_lossy(&observed.payload)
            .replace("alice@example.com", name)
            .into(),
        ..observed
    };
    let mut register = |name: &str, cseq: u32, expires: u32, now: Time| {
        feed(&mut observer, &line(name, request(name, cseq, CONTACT)), now);
        let said = format!("Contact: <sip:alice@192.168.1.10:5060>;expires={expires}\r\n");
        feed(
            &mut observer,
            &line(name, answer(200, name, &format!("{cseq} REGISTER"), &said)),
            now,
        )[1..]
            .to_vec()
    };
    assert_eq!(register("a@x", 1, 600, START), [extend(seconds(632))]);
    assert_eq!(register("b@x", 1, 60, START), [extend(seconds(632))]);
    assert_eq!(register("b@x", 2, 900, START), [extend(seconds(932))]);
    assert_eq!(register("a@x", 2, 0, START), [extend(seconds(932))]);
    // A refresh when half the time is over begins anew.
    assert_eq!(register("b@x", 3, 900, START + seconds(450)), [extend(seconds(932))]);
    assert_eq!(
        run(&mut observer, START + seconds(10_000)),
        [(450 + 932, Action::Restore(BINDING))]
    );
    assert!(observer.is_empty());
}

#[test]
fn a_request_that_only_asks_is_not_followed() {
    let mut observer = Observer::default();
    assert_eq!(
        feed(&mut observer, &request("a", 1, ""), START),
        [Action::Unwatch(BINDING)]
    );
    assert!(observer.is_empty());
}

proptest! {
    /// Whatever comes, in whatever order: a binding is extended only by a 200 to a request of its own, every extension is within bounds and
    /// taken back in the end, and nothing is kept for ever.
    #[test]
    fn nothing_is_kept_and_nothing_is_invented(
        steps in prop::collection::vec((0u32..3, any::<bool>(), 0u16..2, 0u32..3, 0u32..3, 0u32..5000, 0u64..200), 1..60)
    ) {
        let mut observer = Observer::default();
        let (mut now, mut asked, mut extended) = (START, std::collections::HashSet::new(), std::collections::HashSet::new());
        let mut check = |actions: Vec<Action>, allowed: bool| -> Result<(), TestCaseError> {
            for action in actions {
                match action {
                    Action::Extend { binding, lifetime, .. } => {
                        prop_assert!(allowed && lifetime <= MOST && lifetime > MARGIN);
                        extended.insert(binding);
                    }
                    Action::Restore(binding) => drop(extended.remove(&binding)),
                    Action::Unwatch(_) => {}
                }
            }
            Ok(())
        };
        for (slot, outbound, generation, call, cseq, expires, wait) in steps {
            let binding = Binding { slot, generation };
            let call_id = call.to_string();
            let contact = format!("Contact: <sip:alice@192.168.1.10:5060>;expires={expires}\r\n");
            let key = (binding, call_id.clone(), cseq);
            let observed = if outbound {
                asked.insert(key);
                Observed { binding, ..request(&call_id, cseq, &contact) }
            } else {
                Observed { binding, ..answer(200, &call_id, &format!("{cseq} REGISTER"), &contact) }
            };
            let allowed = !outbound && asked.contains(&(binding, call_id, cseq));
            check(feed(&mut observer, &observed, now), allowed)?;
            now = now + seconds(wait);
            while let Some(at) = observer.next().filter(|at| *at <= now) {
                let mut actions = Vec::new();
                observer.tick(at, &mut actions);
                check(actions, false)?;
            }
        }
        let end = now + seconds(100_000);
        let mut actions = Vec::new();
        observer.tick(end, &mut actions);
        check(actions, false)?;
        prop_assert!(extended.is_empty() && observer.is_empty() && observer.next().is_none());
    }
}
