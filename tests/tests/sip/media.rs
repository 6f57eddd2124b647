//! S3: phones whose session descriptions say where nobody reaches them; the router's own sipnat relays what they say to each other, or
//! opens the NAT for it.

mod calls;
mod early;
mod hold;
mod lies;
mod moves;
mod same_nat;
mod voice;

use tests::prelude::*;
use tests::sip::Transport;
use tests::sip::baresip::{Account, Phone};
use tests::sip::edge::Edge;

use crate::DOMAIN;

/// The pitches of anna's and berta's voices, in Hz.
const ANNA: u32 = 440;
const BERTA: u32 = 620;

/// A router for two phones with passwords.
fn edge() -> Edge {
    Edge::closed(&[("anna", "secret"), ("berta", "secret")]).unwrap()
}

/// baresip, registered.
fn phone(edge: &Edge, user: &str, tone: u32, host: &Host) -> Phone {
    phone_with(edge, user, tone, host, |account| account)
}

fn phone_with(edge: &Edge, user: &str, tone: u32, host: &Host, more: impl Fn(Account) -> Account) -> Phone {
    let account = Phone::account(user, DOMAIN).password("secret").tone(tone);
    let account = more(account.outbound(edge.server, Transport::Udp));
    let phone = account.start(host).unwrap();
    phone.registered().unwrap();
    phone
}

/// Two of them, each behind a NAT of others.
fn phones(edge: &Edge) -> [Phone; 2] {
    [
        phone(edge, "anna", ANNA, edge.lab.f(1)),
        phone(edge, "berta", BERTA, edge.lab.f(2)),
    ]
}

/// One calls the other, and they hear each other.
fn talk(caller: &Phone, callee: &Phone) {
    caller.dial(&callee.aor).unwrap();
    callee.incoming().unwrap();
    callee.accept().unwrap();
    caller.established().unwrap();
    callee.established().unwrap();
    hear_each_other([caller, callee]);
}

/// anna hears berta, and berta hears anna, whichever of them is first.
fn hear_each_other(phones: [&Phone; 2]) {
    for phone in phones {
        let other = if phone.aor.contains("anna") { BERTA } else { ANNA };
        phone.hears(other).unwrap();
    }
}

fn hang_up(one: &Phone, other: &Phone) {
    one.hang_up().unwrap();
    other.closed().unwrap();
}
