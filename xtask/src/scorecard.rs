//! `cargo xtask scorecard`: what the NAT and the SIP server do about each requirement, and others beside them, as the tests just saw it.

mod report;
mod requirements;
pub mod results;
pub mod suites;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use tests::router::NAT_VARIABLE;
use tests::sip::under_test::SIP_VARIABLE;

use crate::build;
use crate::run::{TestTarget, root};
use report::Column;
use requirements::{Requirement, media, nat, sip, torture};
use results::Results;
use suites::{Built, Suite};

/// Where the tables are written.
const FILE: &str = "docs/scorecard.md";

/// One table: requirements, and who is asked.
pub struct Scorecard {
    /// Its heading.
    title: &'static str,
    /// What its columns are and how they are made.
    about: &'static str,
    requirements: &'static [&'static [Requirement]],
    suites: &'static [Suite],
    /// The environment variable that the tests choose by, and what it is set to: sipnat first.
    variable: &'static str,
    columns: [&'static str; 2],
}

const SCORECARDS: [Scorecard; 2] = [
    Scorecard {
        title: "NAT",
        about: "The tests are in `tests/tests/rfc`: packets by hand and real programs, in a lab of network namespaces, for sipnat and for nftables \
                masquerade behind a stateful filter.",
        requirements: &[nat::REQUIREMENTS],
        suites: &[Suite {
            target: TestTarget::Tests("rfc"),
            whole: true,
            comparable: true,
        }],
        variable: NAT_VARIABLE,
        columns: ["sipnat", "nftables"],
    },
    Scorecard {
        title: "SIP",
        about: "The tests are in `tests/tests/rfc_sip`: messages by hand over real sockets, for `sipnat run` and for kamailio with the configuration of \
                this lab (`tests/src/sip/kamailio.rs`, a registrar and proxy for phones behind NATs), which says more about that configuration than about \
                what kamailio can be made to do. Only sipnat is asked in tests whose name begins with `sip::` (unit tests of `nat-user`, most of them with a simulated clock, \
                because what they are about takes minutes or days) and in those of RFC 4475 and RFC 5118 (`tests/tests/sip_torture`: every byte that sipnat's \
                core would send is compared).",
        requirements: &[sip::REQUIREMENTS, media::REQUIREMENTS, torture::REQUIREMENTS],
        suites: &[
            Suite {
                target: TestTarget::Tests("rfc_sip"),
                whole: true,
                comparable: true,
            },
            Suite {
                target: TestTarget::Tests("sip_torture"),
                whole: true,
                comparable: false,
            },
            Suite {
                target: TestTarget::NatUser,
                whole: false,
                comparable: false,
            },
        ],
        variable: SIP_VARIABLE,
        columns: ["sipnat", "kamailio"],
    },
];

impl Scorecard {
    fn requirements(&self) -> impl Iterator<Item = &'static Requirement> {
        self.requirements.iter().copied().flatten()
    }

    /// The tests of all requirements.
    fn tests(&self) -> BTreeSet<&'static str> {
        self.requirements()
            .flat_map(|requirement| requirement.tests)
            .copied()
            .collect()
    }
}

/// Runs the requirement tests against each of those who are compared and writes the tables; sipnat is built first unless `SIPNAT_BIN` names a binary.
/// A requirement that sipnat fails is an error, after the tables have been written.
pub fn run() -> Result<()> {
    let sipnat = build::under_test()?;
    let mut built = Vec::new();
    for scorecard in &SCORECARDS {
        let suites: Vec<Built> = scorecard
            .suites
            .iter()
            .copied()
            .map(Built::new)
            .collect::<Result<_>>()?;
        check_table(scorecard, &suites)?;
        built.push((scorecard, suites));
    }
    let (mut text, mut failed) = (report::head(), Vec::new());
    for (scorecard, suites) in &built {
        let columns = columns(scorecard, suites, &sipnat)?;
        let requirements: Vec<Requirement> = scorecard.requirements().copied().collect();
        text += &report::section(scorecard.title, scorecard.about, &requirements, &columns);
        failed.extend(columns[0].results.failed());
    }
    let path = root().join(FILE);
    std::fs::create_dir_all(path.parent().expect("a file in a directory"))?;
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    eprintln!("wrote {}", path.display());
    ensure!(
        failed.is_empty(),
        "sipnat fails {}:\n{}",
        failed.len(),
        failed.join("\n")
    );
    Ok(())
}

fn columns(scorecard: &Scorecard, suites: &[Built], sipnat: &Path) -> Result<Vec<Column>> {
    let tests = scorecard.tests();
    let mut columns = Vec::new();
    for name in scorecard.columns {
        let start = Instant::now();
        eprintln!("\n==> {} requirement tests against {name}", scorecard.title);
        let mut results = Results::default();
        for suite in suites {
            if suite.suite.comparable || name == scorecard.columns[0] {
                results.add(suite.run(&tests, (scorecard.variable, name), sipnat)?);
            } else {
                results.add_inapplicable(suite.names.iter().filter(|test| tests.contains(test.as_str())));
            }
        }
        eprintln!(
            "==> {name}: {} in {:.0} s",
            results.summary(),
            start.elapsed().as_secs_f64()
        );
        columns.push(Column { name, results });
    }
    Ok(columns)
}

/// Every requirement has tests, every test is in one suite, and every test of a whole suite has a requirement.
fn check_table(scorecard: &Scorecard, suites: &[Built]) -> Result<()> {
    let mut wrong = Vec::new();
    for requirement in scorecard.requirements() {
        if requirement.tests.is_empty() {
            wrong.push(format!("RFC {} {} has no test", requirement.rfc, requirement.id));
        }
        for test in requirement.tests {
            let found = suites.iter().filter(|suite| suite.names.contains(*test)).count();
            if found != 1 {
                wrong.push(format!(
                    "RFC {} {} names {test}, which is {found} tests",
                    requirement.rfc, requirement.id
                ));
            }
        }
    }
    let claimed = scorecard.tests();
    for suite in suites.iter().filter(|suite| suite.suite.whole) {
        let others = suite.names.iter().filter(|test| !claimed.contains(test.as_str()));
        wrong.extend(others.map(|test| format!("{test} belongs to no requirement")));
    }
    if !wrong.is_empty() {
        bail!(
            "xtask/src/scorecard/requirements and the tests disagree:\n{}",
            wrong.join("\n")
        );
    }
    Ok(())
}
