//! The story of S3: two phones behind two NATs of others, whose session descriptions name addresses where nobody reaches them, talk through the
//! relay in the kernel; somebody who sprays its ports gets nothing.

use std::{net::SocketAddrV4, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::{
    lab::EXTERNAL,
    prelude::*,
    programs::TempDir,
    sip::{Transport, baresip::Phone, rtp, server::Server},
};

use super::{show, text_of};
use crate::run::binary;

/// The domain, and where its server is: on the router itself.
const DOMAIN: &str = "net.com";
const SERVER: SocketAddrV4 = SocketAddrV4::new(EXTERNAL, 5060);
/// What anna and berta say, in Hz.
const TONES: [u32; 2] = [440, 620];
/// Packets of the attacker to each port.
const SPRAYED: usize = 200;

/// Tells it.
pub fn run() -> Result<String> {
    let lab = Lab::builder().foreign_nats(2).build()?;
    let files = TempDir::new()?;
    let config = Server::config(DOMAIN).user("anna", "secret").user("berta", "secret");
    let config = NatConfig::toml(&config.text(EXTERNAL, &files)?).binary(&binary());
    let nat = lab.start_nat_as(Nat::Sipnat, config)?;
    println!(
        "   anna is {} behind {}, berta is {} behind {}, both NATs are nftables; sipnat is {EXTERNAL}",
        lab.f(1).ip,
        lab.n(1).ip,
        lab.f(2).ip,
        lab.n(2).ip
    );
    let anna = phone(&lab, 1, "anna")?;
    let berta = phone(&lab, 2, "berta")?;
    anna.dial(&berta.aor)?;
    berta.incoming()?;
    berta.accept()?;
    anna.established()?;
    berta.established()?;
    hear(&anna, &berta)?;
    println!("   they talk. $ sipnat relays");
    show(&text_of(&nat, &["relays"])?);

    let (sprayed, refused) = spray(&lab, &nat)?;
    more_media(&nat)?;
    hear(&anna, &berta)?;
    println!(
        "   {sprayed} packets sprayed, {refused} refused, nothing came back, both are still heard. $ sipnat relays"
    );
    show(&text_of(&nat, &["relays"])?);
    anna.hang_up()?;
    berta.closed()?;
    wait_until("the legs to go", SOON, || legs(&nat).is_ok_and(|legs| legs.is_empty()))?;
    Ok(format!(
        "both hear each other's tone through the relay, an attacker's {sprayed} packets got nothing and changed nothing"
    ))
}

fn phone(lab: &Lab, number: usize, user: &str) -> Result<Phone> {
    let phone = Phone::account(user, DOMAIN).password("secret").tone(TONES[number - 1]);
    let phone = phone.outbound(SERVER, Transport::Udp).start(lab.f(number))?;
    phone.registered()?;
    Ok(phone)
}

fn hear(anna: &Phone, berta: &Phone) -> Result<()> {
    anna.hears(TONES[1])?;
    berta.hears(TONES[0])
}

/// Waits for half a second of media in each direction: what is heard then was said after everything before.
fn more_media(nat: &RunningNat) -> Result<()> {
    let packets = || -> Result<Vec<u64>> {
        let legs = legs(nat)?;
        let of_rtp = legs.iter().filter(|leg| leg["rtcp"] == false);
        Ok(of_rtp.filter_map(|leg| leg["packets"].as_u64()).collect())
    };
    let before = packets()?;
    wait_until("half a second of media", SOON, || {
        packets().is_ok_and(|now| now.iter().zip(&before).all(|(now, before)| *now >= before + 25))
    })
}

/// Somebody outside sends to all ports of the call: how many packets, and how many of them the relay has refused.
fn spray(lab: &Lab, nat: &RunningNat) -> Result<(usize, u64)> {
    let attacker = rtp::Voice::bind(lab.o(1), 7000, 0xbad0_bad0)?;
    let ports: Vec<SocketAddrV4> = legs(nat)?
        .iter()
        .map(|leg| Ok(leg["external"].as_str().context("a leg without a port")?.parse()?))
        .collect::<Result<_>>()?;
    let before = refused(nat)?;
    for _ in 0..SPRAYED {
        ports.iter().try_for_each(|port| attacker.say(*port).map(drop))?;
    }
    let sent = SPRAYED * ports.len();
    wait_until("the relay to refuse all of it", SOON, || {
        refused(nat).is_ok_and(|now| now >= before + sent as u64)
    })?;
    let leaked = attacker.hear(Duration::from_millis(200))?;
    ensure!(leaked.is_none(), "the attacker got {leaked:?}");
    Ok((sent, refused(nat)? - before))
}

fn legs(nat: &RunningNat) -> Result<Vec<Value>> {
    let legs = nat.json(&["relays"])?;
    legs.as_array().cloned().context("`sipnat relays` prints no list")
}

/// Packets that were not from whom the gate lets in.
fn refused(nat: &RunningNat) -> Result<u64> {
    let legs = legs(nat)?;
    Ok(legs
        .iter()
        .filter_map(|leg| leg["refused"]["relay_gate"].as_u64())
        .sum())
}
