//! The table as Markdown.

use std::fmt::Write;

use super::requirements::Requirement;
use super::results::{Outcome, Results};

/// One of those who are compared, and what its tests said.
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// What was seen.
    pub results: Results,
}

/// What stands above all tables.
pub fn head() -> String {
    "# Scorecard\n\n\
     Written by `cargo xtask scorecard` from the tests that it just ran; nothing here is written by hand. Each requirement is shown by the tests named. \
     *Not met* is a recommendation that is not followed, or a rule that is not followed on purpose: the last column says which and why. *n/a* is what cannot be \
     asked of this one, with the reason.\n"
        .into()
}

/// One table with its heading and its sums.
pub fn section(title: &str, about: &str, requirements: &[Requirement], columns: &[Column]) -> String {
    let mut out = format!("\n## {title}\n\n{about}\n\n");
    let names: Vec<&str> = columns.iter().map(|column| column.name).collect();
    let _ = writeln!(
        out,
        "| {title} | pass | fail | not met | n/a |\n| --- | --- | --- | --- | --- |"
    );
    for column in columns {
        let marks: Vec<Mark> = requirements.iter().map(|r| judge(r, &column.results).0).collect();
        let count = |wanted| marks.iter().filter(|mark| **mark == wanted).count();
        let counts = [Mark::Pass, Mark::Fail, Mark::NotMet, Mark::NotApplicable].map(count);
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} |",
            column.name, counts[0], counts[1], counts[2], counts[3]
        );
    }
    let _ = writeln!(
        out,
        "\n| RFC | requirement | what it asks | tests | {} | why |",
        names.join(" | ")
    );
    let _ = writeln!(out, "| --- | --- | --- | --- |{} --- |", " --- |".repeat(columns.len()));
    for requirement in requirements {
        line(&mut out, requirement, columns);
    }
    out
}

fn line(out: &mut String, requirement: &Requirement, columns: &[Column]) {
    let tests: Vec<String> = requirement.tests.iter().map(|test| format!("`{test}`")).collect();
    let (mut marks, mut reasons) = (Vec::new(), Vec::new());
    for column in columns {
        let (mark, why) = judge(requirement, &column.results);
        marks.push(mark.text());
        reasons.extend(why.into_iter().map(|why| format!("{}: {}", column.name, plain(&why))));
    }
    let _ = writeln!(
        out,
        "| {} | {} | {} | {} | {} | {} |",
        requirement.rfc,
        requirement.id,
        requirement.text,
        tests.join("<br>"),
        marks.join(" | "),
        reasons.join("<br>")
    );
}

/// What is said of a requirement, by the worst of its tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Pass,
    NotMet,
    Fail,
    NotApplicable,
}

impl Mark {
    fn text(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::NotMet => "not met",
            Self::Fail => "**fail**",
            Self::NotApplicable => "n/a",
        }
    }
}

/// The mark, and the reasons of everything but passes. Tests that do not apply decide only if none of the others does.
fn judge(requirement: &Requirement, results: &Results) -> (Mark, Vec<String>) {
    let (mut failed, mut not_met, mut inapplicable, mut passes) = (vec![], vec![], vec![], 0);
    for test in requirement.tests {
        let short = test.rsplit("::").next().unwrap_or(test);
        match results.of(test) {
            Outcome::Pass => passes += 1,
            Outcome::NotMet(why) => not_met.push(why),
            Outcome::NotApplicable(why) => inapplicable.push(why),
            Outcome::Fail(why) => failed.push(format!("{short}: {why}")),
        }
    }
    inapplicable.retain(|why| !why.is_empty());
    inapplicable.dedup();
    if !failed.is_empty() {
        (Mark::Fail, failed)
    } else if !not_met.is_empty() {
        (Mark::NotMet, not_met)
    } else if passes > 0 {
        (Mark::Pass, Vec::new())
    } else {
        (Mark::NotApplicable, inapplicable)
    }
}

/// Text that cannot break the table.
fn plain(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUIREMENT: Requirement = Requirement {
        rfc: "9999",
        id: "REQ-1",
        text: "asks",
        tests: &["a::one", "a::two"],
    };

    fn document(one: &str, two: &str, printed: &str) -> String {
        let text =
            format!("test a::one ... {one}\ntest a::two ... {two}\nsuccesses:\n---- a::two stdout ----\n{printed}\n");
        let results = Results::parse(&text).unwrap();
        section(
            "Things",
            "About them.",
            &[REQUIREMENT],
            &[Column { name: "x", results }],
        )
    }

    #[test]
    fn the_worst_test_decides() {
        let failed = document("ok", "FAILED", "thread 'a::two' panicked at x:\nleft | right <a>");
        assert!(
            failed.ends_with("| **fail** | x: two: left \\| right &lt;a> |\n"),
            "{failed}"
        );
        let inapplicable = document("ok", "ok", "scorecard: not applicable: never");
        assert!(
            inapplicable.ends_with("`a::one`<br>`a::two` | pass |  |\n"),
            "{inapplicable}"
        );
        let not_met = document("ok", "ok", "scorecard: not met: a SHOULD");
        assert!(not_met.ends_with("| not met | x: a SHOULD |\n"), "{not_met}");
        assert!(not_met.contains("| x | 0 | 0 | 1 | 0 |"), "{not_met}");
    }
}
