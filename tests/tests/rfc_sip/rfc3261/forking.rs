//! RFC 3261 section 16.7: several branches, and which of their responses is given.

use tests::sip::message::Message;
use tests::sip::peer::Peer;
use tests::sip::request::{Request, ack};

use crate::digest::challenges;
use crate::scene::{ANNA, Scene, is};

const FORK: &str = "this asks for sipnat's setting `fork`";

/// Two phones ring: the INVITE as the caller has sent it, and as it came to each.
struct Fork {
    scene: Scene,
    sent: Message,
    phone: Message,
    second: Message,
}

impl Fork {
    fn new() -> Self {
        let scene = Scene::open();
        scene.register(&scene.phone, "anna");
        scene.register(&scene.second, "anna");
        let sent = Request::new("INVITE", ANNA, &scene.caller).message();
        scene.send(&scene.caller, &sent);
        let (phone, second) = (scene.arrived(&scene.phone, &sent), scene.arrived(&scene.second, &sent));
        Self {
            scene,
            sent,
            phone,
            second,
        }
    }

    /// Both refuse, and this comes to the caller, who has never seen more than one final response.
    fn refused(&self, by_phone: (u16, &[&str]), by_second: (u16, &[&str])) -> Message {
        for (peer, invite, (code, lines)) in [
            (&self.scene.phone, &self.phone, by_phone),
            (&self.scene.second, &self.second, by_second),
        ] {
            self.scene.send(peer, &invite.reply(code, "No", lines, ""));
            // Section 17.1.1.3: each refusal is acknowledged by the proxy.
            self.scene.arrived_ack(peer, invite);
        }
        let answer = self.scene.final_of(&self.scene.caller, &self.sent);
        self.scene.acknowledge(&self.sent, &answer);
        answer
    }
}

impl Scene {
    /// The ACK of the proxy for a refusal.
    fn arrived_ack(&self, at: &Peer, invite: &Message) -> Message {
        let (branch, call_id) = (invite.branch(), invite.header("Call-ID"));
        let wanted = |message: &Message| {
            is("ACK")(message) && message.header("Call-ID") == call_id && message.branch() == branch
        };
        at.recv_where("the ACK", wanted).unwrap().0
    }
}

#[test]
fn sec_16_6_all_contacts_ring_with_branches_of_their_own() {
    let fork = Fork::new();
    assert_ne!(fork.phone.branch(), fork.second.branch());
    assert_ne!(fork.phone.request_uri(), fork.second.request_uri());
}

#[test]
fn sec_16_6_by_q_one_after_the_other() {
    let Some(scene) = Scene::sipnat(FORK, |config| config.toml("[sip.proxy]\nfork = \"by-q\"\n")) else {
        return;
    };
    for (peer, q) in [(&scene.second, "0.3"), (&scene.phone, "0.9")] {
        let contact = format!("<sip:anna@{}>;q={q}", peer.endpoint);
        let register = Request::register("anna", "net.com", peer).set("Contact", &contact);
        assert_eq!(scene.ask(peer, &register.message()).status(), Some(200));
    }
    let sent = Request::new("INVITE", ANNA, &scene.caller).message();
    scene.send(&scene.caller, &sent);
    let first = scene.arrived(&scene.phone, &sent);
    scene.second.nothing(crate::scene::QUIET, is("INVITE")).unwrap();
    scene.reply(&scene.phone, &first, 486, "Busy Here");
    let next = scene.arrived(&scene.second, &sent);
    scene.reply(&scene.second, &next, 200, "OK");
    assert_eq!(scene.final_of(&scene.caller, &sent).status(), Some(200));
}

#[test]
fn sec_16_7_3_the_proxys_own_via_is_taken_out_of_responses() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let call = scene.call();
    let vias = call.ok.headers("Via");
    assert!(
        vias.len() == 1 && call.ok.branch() == call.sent.branch(),
        "{:?}",
        call.ok
    );
}

#[test]
fn sec_16_7_5_provisional_responses_pass_but_for_100() {
    let fork = Fork::new();
    let scene = &fork.scene;
    scene.send(&scene.phone, &fork.phone.reply(100, "Phone Tries", &[], ""));
    scene.send(&scene.phone, &fork.phone.reply(180, "Ringing", &[], ""));
    scene.send(&scene.second, &fork.second.reply(183, "Session Progress", &[], ""));
    for code in [180, 183] {
        let wanted = |message: &Message| message.status() == Some(code);
        scene.caller.recv_where("a provisional response", wanted).unwrap();
    }
    let of_the_phone = |message: &Message| message.start_line().contains("Phone Tries");
    scene.caller.nothing(std::time::Duration::ZERO, of_the_phone).unwrap();
}

#[test]
fn sec_16_7_5_a_2xx_passes_at_once_and_the_others_are_cancelled() {
    let fork = Fork::new();
    let scene = &fork.scene;
    scene.send(&scene.second, &fork.second.reply(180, "Ringing", &[], ""));
    scene.reply(&scene.phone, &fork.phone, 200, "OK");
    let ok = scene.final_of(&scene.caller, &fork.sent);
    assert_eq!(ok.status(), Some(200));
    assert_eq!(ok.uri_of("Contact"), format!("sip:anna@{}", scene.phone.endpoint));
    // Item 10.
    let (cancel, _) = scene.second.recv_request("CANCEL").unwrap();
    assert_eq!(cancel.branch(), fork.second.branch());
    scene.send(&scene.second, &cancel.reply(200, "OK", &[], ""));
    scene.send(&scene.second, &fork.second.reply(487, "Request Terminated", &[], ""));
    scene.arrived_ack(&scene.second, &fork.second);
    // The 487 is for nobody.
    scene.register(&scene.caller, "caller");
    let refusal = |message: &Message| message.status() == Some(487);
    scene.nothing_came("caller", &scene.caller, refusal);
}

#[test]
fn sec_16_7_5_every_2xx_to_an_invite_passes() {
    let fork = Fork::new();
    let scene = &fork.scene;
    let contact = |peer: &Peer| format!("Contact: <sip:anna@{}>", peer.endpoint);
    for (peer, invite, tag) in [(&scene.phone, &fork.phone, "one"), (&scene.second, &fork.second, "two")] {
        let ok = invite.reply(200, "OK", &[&contact(peer)], "");
        let ok = ok.head().replace(";tag=peer", &format!(";tag={tag}"));
        scene.send(peer, &Message::new(ok).unwrap());
        let wanted = |message: &Message| message.status() == Some(200) && message.tag("To").as_deref() == Some(tag);
        scene.caller.recv_where("the 200", wanted).unwrap();
    }
}

#[test]
fn sec_16_7_5_a_6xx_ends_all() {
    let fork = Fork::new();
    let scene = &fork.scene;
    scene.send(&scene.second, &fork.second.reply(180, "Ringing", &[], ""));
    scene
        .caller
        .recv_where("180", |message| message.status() == Some(180))
        .unwrap();
    scene.reply(&scene.phone, &fork.phone, 603, "Decline");
    let (cancel, _) = scene.second.recv_request("CANCEL").unwrap();
    assert_eq!(cancel.branch(), fork.second.branch());
    scene.send(&scene.second, &cancel.reply(200, "OK", &[], ""));
    scene.send(&scene.second, &fork.second.reply(487, "Request Terminated", &[], ""));
    let answer = scene.final_of(&scene.caller, &fork.sent);
    scene.send(&scene.caller, &ack(&fork.sent, &answer));
    assert_eq!(answer.status(), Some(603), "{answer:?}");
}

#[test]
fn sec_16_7_6_the_lowest_class_is_chosen() {
    let answer = Fork::new().refused((500, &[]), (404, &[]));
    assert_eq!(answer.status(), Some(404), "{answer:?}");
    let answer = Fork::new().refused((486, &[]), (302, &["Contact: <sip:x@192.0.2.9>"]));
    assert_eq!(answer.status(), Some(302), "{answer:?}");
}

#[test]
fn sec_16_7_6_what_the_caller_can_repair_comes_before_others_of_its_class() {
    let answer = Fork::new().refused((404, &[]), (415, &["Accept: text/plain"]));
    if answer.status() == Some(404) {
        return tests::router::not_met("a SHOULD: of 404 and 415 the caller gets 404");
    }
    assert_eq!(answer.status(), Some(415), "{answer:?}");
}

#[test]
fn sec_16_7_6_a_503_is_given_as_500() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let invite = Request::new("INVITE", ANNA, &scene.caller);
    let came = scene.pass(&invite);
    scene.send(
        &scene.phone,
        &came.reply(503, "Service Unavailable", &["Retry-After: 60"], ""),
    );
    let answer = scene.final_of(&scene.caller, &invite.message());
    scene.acknowledge(&invite.message(), &answer);
    if answer.status() == Some(503) {
        return tests::router::not_met("a SHOULD NOT: the 503 of one place is passed on");
    }
    assert_eq!(answer.status(), Some(500), "{answer:?}");
}

#[test]
fn sec_16_7_7_the_challenges_of_all_are_given_together() {
    let challenge = |realm: &str| format!("WWW-Authenticate: Digest realm=\"{realm}\", nonce=\"n\"");
    let proxy = "Proxy-Authenticate: Digest realm=\"three\", nonce=\"n\"";
    let answer = Fork::new().refused((401, &[&challenge("one")]), (407, &[proxy, &challenge("two")]));
    assert!(matches!(answer.status(), Some(401 | 407)), "{answer:?}");
    let text = challenges(&answer).join("\n");
    for realm in ["one", "two", "three"] {
        assert!(text.contains(realm), "{realm}: {answer:?}");
    }
}
