//! The story of S1 and S2, with the figures of the document: a phone behind a NAT registers with a proxy outside, somebody outside calls it, and
//! its binding outlives the NAT's timeout; by prompts, and in a second act by registering again alone. With sipnat as the NAT and with nftables.

use std::{
    fmt::Write as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use tests::{
    prelude::*,
    sip::{Transport, baresip::Phone, document},
    sipnat::Daemon,
};

use crate::run::binary;

/// What keeps the binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// The proxy prompts a phone that registers once in a long time.
    Prompts,
    /// The phone registers again before the NAT forgets it; the proxy prompts nobody.
    Registering,
}

/// How long the story waits: more than twice the NAT's timeout.
const WAIT: Duration = Duration::from_secs(2 * document::TIMEOUT as u64 + 5);

/// All four at once, each in a lab of its own, told one after the other.
pub fn run() -> Result<String> {
    println!(
        "   four labs at once: phone 192.168.1.10:5060, NAT 134.56.1.1 (UDP timeout {} s), proxy 134.56.3.1:5060, caller 134.56.3.2",
        document::TIMEOUT
    );
    let stories = [
        (Nat::Sipnat, Act::Prompts),
        (Nat::Nftables, Act::Prompts),
        (Nat::Sipnat, Act::Registering),
        (Nat::Nftables, Act::Registering),
    ];
    let threads = stories.map(|(nat, act)| (nat, act, thread::spawn(move || tell(nat, act))));
    let mut failed = Vec::new();
    for (nat, act, thread) in threads {
        println!("\n   -- {}, {}", nat_name(nat), act_name(act));
        let result = match thread.join() {
            Ok(result) => result,
            Err(_) => bail!("the story with {nat:?} panicked"),
        };
        match result {
            Ok(story) => story.lines().for_each(|line| println!("   {line}")),
            Err(error) => {
                println!("   FAILED: {error:#}");
                failed.push(format!("{}, {}", nat_name(nat), act_name(act)));
            }
        }
    }
    ensure!(failed.is_empty(), "not with {}", failed.join("; "));
    Ok(format!(
        "registered, called, and still called after {} s without a packet of the phone's own that was not asked for or due",
        WAIT.as_secs()
    ))
}

fn tell(nat: Nat, act: Act) -> Result<String> {
    let mut story = String::new();
    let lab = document::lab().build()?;
    let running = document::start_nat(&lab, nat, document::WITH_SESSIONS)?;
    let proxy = start_proxy(&lab, act)?;

    let every = match act {
        Act::Prompts => 3600,
        Act::Registering => 15,
    };
    let phone = Phone::account("user", "net.com").register_every(every).tone(440);
    let phone = phone.outbound(document::PROXY, Transport::Udp).start(lab.h(1))?;
    phone.registered()?;
    writeln!(
        story,
        "the proxy's table (110i):\n{}",
        table(&proxy, &["registrations"])?
    )?;
    let registered = json(&proxy, &["registrations", "--json"])?;
    let (received, contact) = (&registered[0]["received"], &registered[0]["contact"]);
    ensure!(
        *received == document::TRANSLATED.to_string() && contact.to_string().contains(&document::PHONE.to_string()),
        "the table says {received} and {contact}"
    );
    writeln!(story, "the NAT's binding (106i):\n{}", bindings(&running, &lab)?)?;

    call(&lab, &phone, "the first call", &mut story)?;

    let (began, before) = (Instant::now(), prompts(&proxy)?);
    thread::sleep(WAIT);
    let prompted = prompts(&proxy)? - before;
    let after = json(&proxy, &["registrations", "--json"])?;
    ensure!(
        after[0]["received"] == *received,
        "the phone is at {} now: its binding has ended",
        after[0]["received"]
    );
    match act {
        Act::Prompts => ensure!(prompted > 0, "nobody was prompted"),
        Act::Registering => ensure!(prompted == 0, "{prompted} prompts, but they are switched off"),
    }
    writeln!(
        story,
        "{} s later, {prompted} prompts answered, {} CSeq further, it is still at {received}",
        began.elapsed().as_secs(),
        after[0]["cseq"].as_u64().unwrap_or(0) - registered[0]["cseq"].as_u64().unwrap_or(0),
    )?;
    call(&lab, &phone, "the second call", &mut story)?;
    writeln!(
        story,
        "the NAT's bindings (106i and 106ii):\n{}",
        bindings(&running, &lab)?
    )?;
    Ok(story)
}

/// The caller calls, the phone picks up, what the phone says is heard, the caller hangs up.
fn call(lab: &Lab, phone: &Phone, which: &str, story: &mut String) -> Result<()> {
    let caller = Phone::account("caller", "example.org").register_every(0).tone(620);
    let caller = caller.outbound(document::PROXY, Transport::Udp).start(lab.o(2))?;
    caller.dial("sip:user@net.com")?;
    phone.incoming()?;
    phone.accept()?;
    caller.established()?;
    phone.established()?;
    caller.hears(440)?;
    caller.hang_up()?;
    phone.closed()?;
    writeln!(story, "{which}: connected, the phone is heard, ended")?;
    caller.quit()
}

fn start_proxy(lab: &Lab, act: Act) -> Result<Daemon> {
    let mut proxy = Daemon::prepare(lab.o(1), NatConfig::toml("").binary(&binary()))?;
    let prompt = match act {
        Act::Prompts => "options",
        Act::Registering => "off",
    };
    let toml = format!(
        r#"
[sip]
store = {:?}
secret = {:?}
[[sip.listen]]
transport = "udp"
address = "{}"
[[sip.domain]]
names = ["net.com"]
authenticate = false
[sip.registrar]
min_expires = "10s"
allow_short_expires = true
[sip.paths]
udp = "{prompt}"
interval = "10s"
"#,
        proxy.dir().join("registrations.redb"),
        proxy.dir().join("secret"),
        document::PROXY.ip(),
    );
    proxy.write_config(&toml)?;
    proxy.restart()?;
    Ok(proxy)
}

fn prompts(proxy: &Daemon) -> Result<u64> {
    let paths = json(proxy, &["paths", "--json"])?;
    paths[0]["prompts_answered"]
        .as_u64()
        .with_context(|| format!("the path table is {paths}"))
}

fn bindings(nat: &RunningNat, lab: &Lab) -> Result<String> {
    match nat.nat() {
        Nat::Sipnat => super::text_of(nat, &["bindings", "--host", &document::PHONE.ip().to_string()]),
        _ => lab.router.run(
            "conntrack",
            ["-L", "-p", "udp", "-s", &document::PHONE.ip().to_string()],
        ),
    }
}

fn table(proxy: &Daemon, args: &[&str]) -> Result<String> {
    let output = proxy.cli(args)?;
    ensure!(
        output.status.success(),
        "sipnat {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn json(proxy: &Daemon, args: &[&str]) -> Result<serde_json::Value> {
    serde_json::from_str(&table(proxy, args)?).context("sipnat printed no JSON")
}

fn nat_name(nat: Nat) -> &'static str {
    match nat {
        Nat::Sipnat => "sipnat as the NAT",
        _ => "nftables masquerade as the NAT",
    }
}

fn act_name(act: Act) -> &'static str {
    match act {
        Act::Prompts => "kept by prompts",
        Act::Registering => "kept by registering every 15 s, prompts switched off",
    }
}
