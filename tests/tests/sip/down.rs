//! A device that does not answer prompts any more.

use tests::prelude::*;
use tests::sip::message::Message;
use tests::sip::peer::Peer;
use tests::sip::phone::Request;
use tests::sip::server::Server;

use crate::DOMAIN;

#[test]
fn a_path_whose_prompts_are_lost_is_down_and_calls_end_at_once_until_the_device_is_back() {
    let lab = Lab::builder().inside_hosts(0).outside_hosts(3).build().unwrap();
    let prompts = "[sip.paths]\ninterval = \"1s\"\neveryone = true\nmax_lost = 3\n";
    let server = Server::config(DOMAIN).toml(prompts).start(lab.o(3)).unwrap();
    let (phone, caller) = (Peer::udp(lab.o(1), 5060).unwrap(), Peer::udp(lab.o(2), 5060).unwrap());
    phone.send_message(server.endpoint, &register(&phone, 1)).unwrap();
    assert_eq!(phone.recv_final("the 200").unwrap().status(), Some(200));

    // It answers: the path is up.
    let (prompt, from) = phone.recv_request("OPTIONS").unwrap();
    phone.send_message(from, &prompt.reply(200, "OK", &[], "")).unwrap();
    wait_until("the prompt to count as answered", SOON, || {
        server.path_to(phone.endpoint).unwrap()["prompts_answered"].as_u64() >= Some(1)
    })
    .unwrap();
    assert_eq!(server.path_to(phone.endpoint).unwrap()["down"], false);

    // It is silent: the path is down, and nobody waits for it.
    wait_until("the path to be down", SOON, || {
        server.path_to(phone.endpoint).unwrap()["down"] == true
    })
    .unwrap();
    assert_eq!(server.registrations().unwrap()[0]["path_down"], true);
    caller.send_message(server.endpoint, &invite(&caller, "down")).unwrap();
    assert_eq!(caller.recv_final("an answer").unwrap().status(), Some(480));
    phone
        .nothing(std::time::Duration::from_millis(300), |m| {
            m.method().as_deref() == Some("INVITE")
        })
        .unwrap();

    // It is back: the call reaches it.
    phone.send_message(server.endpoint, &register(&phone, 2)).unwrap();
    wait_until("the path to be up", SOON, || {
        server.path_to(phone.endpoint).unwrap()["down"] == false
    })
    .unwrap();
    caller.send_message(server.endpoint, &invite(&caller, "up")).unwrap();
    phone.recv_request("INVITE").unwrap();
}

fn register(phone: &Peer, cseq: u32) -> Message {
    let contact = format!("Contact: <sip:anna@{}>", phone.endpoint);
    let register = Request::register("anna", DOMAIN).call("register").cseq(cseq);
    register.line(&contact).line("Expires: 300").over_udp(phone.endpoint)
}

fn invite(caller: &Peer, call_id: &str) -> Message {
    let invite = Request::new("INVITE", "sip:anna@net.com").from("bob@elsewhere.org");
    invite.call(call_id).over_udp(caller.endpoint)
}
