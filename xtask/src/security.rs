//! `cargo xtask security`: what attacks on the media of calls come to, as the tests just saw it.

use std::collections::BTreeSet;
use std::fmt::Write;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::build;
use crate::run::{TestTarget, root};
use crate::scorecard::results::Results;
use crate::scorecard::suites::{Built, Suite};

/// Where the table is written.
const FILE: &str = "docs/security.md";
/// The tests that make it.
const TESTS: &str = "attacks::";
/// What their lines begin with.
const LINE: &str = "security: ";

const HEAD: &str = "# Attacks on the media of calls\n\n\
    Written by `cargo xtask security` from the tests that it just ran (`tests/tests/sip/attacks`); nothing here is written by hand.\n\n\
    Two phones, each behind a NAT of others, call each other through a router that runs sipnat, with the default configuration unless a line says otherwise. \
    The attackers are told all ports of the call, which is the worst that can be: the ports are random within their blocks, and nobody answers who asks for them. \
    *Leaked* are packets that came to the attacker, *reached* are packets of the attacker's that came to a phone. \
    (What leaks to svwar and svcrack are answers that say more than 401 does.)\n\n\
    - **nothing**: promised for every sender outside of the gate, which is the address that the phone's signalling comes from (`sip.media.gate_prefix`), at every moment of a call; and \
    for every sender at all, once the phone's first packet has been seen. The test fails if a single packet leaks or reaches a phone.\n\
    - **copies**: who can forge addresses on the phone's own way, and knows its endpoint and ours, adds packets to its stream. Nothing but encryption of media (SRTP, which passes) tells them apart.\n\
    - **residual**: what is left of a risk, measured. Before a phone's first packet nobody can tell which of those who share its address it is (RFC 7362 section 4), so whoever of them \
    is faster has the stream until the phone offers or answers with another place. And a stream that pauses is taken over by who goes on with its SSRC and sequence number from the same address, as a phone \
    does whose NAT gives it another port. Both need somebody behind the same address; SRTP makes both worthless.\n\n\
    Of the attackers' programs Debian's sipvicious is among them. SIPPTS is not: what PyPI has under that name lacks the modules that its scripts import. What its `rtpbleed` does, \
    sending RTP to ports and listening for what comes back, is done by hand in most lines.\n";

/// Runs the attacks and writes the table; sipnat is built first unless `SIPNAT_BIN` names a binary. If a test fails, nothing is written.
pub fn run() -> Result<()> {
    let sipnat = build::under_test()?;
    let built = Built::new(Suite {
        target: TestTarget::Tests("sip"),
        whole: false,
        comparable: false,
    })?;
    let tests: BTreeSet<&str> = built
        .names
        .iter()
        .map(String::as_str)
        .filter(|name| name.starts_with(TESTS))
        .collect();
    ensure!(!tests.is_empty(), "there are no tests called {TESTS}");
    let said = built.say(&tests, None, &sipnat)?;
    let failed = Results::parse(&said)?.failed();
    ensure!(
        failed.is_empty(),
        "an attack came to more than is promised:\n{}",
        failed.join("\n")
    );
    let path = root().join(FILE);
    std::fs::write(&path, document(&said)?).with_context(|| format!("write {}", path.display()))?;
    eprintln!("wrote {}", path.display());
    Ok(())
}

/// The document, from what the tests have printed.
fn document(said: &str) -> Result<String> {
    let lines = said.lines().filter_map(|line| line.strip_prefix(LINE));
    let mut rows: Vec<Value> = lines
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .context("the tests print no JSON")?;
    ensure!(!rows.is_empty(), "the tests print no rows");
    // Tests end in any order; each of them prints its own rows in theirs.
    let place = |row: &Value| PROMISES.iter().position(|promise| row["promise"] == *promise);
    rows.sort_by_cached_key(|row| (place(row), row["test"].to_string()));
    let mut out = format!(
        "{HEAD}\n| promise | attacker | when | what is sent | sent | leaked | reached |\n| --- | --- | --- | --- | ---: | ---: | ---: |\n"
    );
    for row in &rows {
        let text = |key: &str| row[key].as_str().map_or_else(|| row[key].to_string(), str::to_string);
        let cells = ["promise", "attacker", "when", "what", "sent", "leaked", "reached"].map(text);
        let _ = writeln!(out, "| {} |", cells.join(" | "));
    }
    Ok(out)
}

/// In the order of the table.
const PROMISES: [&str; 3] = ["nothing", "copies", "residual"];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_are_sorted_by_what_is_promised() {
        let row = |promise: &str, test: &str, sent: u32| {
            let row = json!({
                "promise": promise, "test": test, "attacker": "a", "when": "b", "what": "c", "sent": sent, "leaked": 0, "reached": 1,
            });
            format!("{LINE}{row}\n")
        };
        let rows = [
            row("residual", "a", 1),
            row("nothing", "z", 3),
            row("nothing", "z", 4),
            row("nothing", "b", 2),
        ];
        let text = format!("noise\n{}", rows.concat());
        let document = document(&text).unwrap();
        assert!(document.ends_with(
            "| nothing | a | b | c | 2 | 0 | 1 |\n| nothing | a | b | c | 3 | 0 | 1 |\n| nothing | a | b | c | 4 | 0 | 1 |\n\
             | residual | a | b | c | 1 | 0 | 1 |\n"
        ), "{document}");
        assert!(super::document("noise").is_err());
    }
}
