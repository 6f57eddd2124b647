//! Reading what the test harness of Rust prints.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

/// What came of one test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It passed.
    Pass,
    /// It passed, and said that a recommendation is not followed, and why.
    NotMet(String),
    /// It said that it does not apply, and why (empty: what stands above the table says it).
    NotApplicable(String),
    /// It failed, with the first lines of the message.
    Fail(String),
}

/// The outcomes of one run.
#[derive(Clone, Debug, Default)]
pub struct Results(BTreeMap<String, Outcome>);

impl Results {
    /// Reads the output of a test binary run with `--show-output`. No result at all is an error.
    pub fn parse(text: &str) -> Result<Self> {
        let outputs = outputs(text);
        let mut results = BTreeMap::new();
        for line in text.lines() {
            let Some((name, word)) = line.strip_prefix("test ").and_then(|line| line.split_once(" ... ")) else {
                continue;
            };
            let output = outputs.get(name).map(String::as_str).unwrap_or_default();
            let outcome = match word {
                "ok" => passed(output),
                _ => Outcome::Fail(panic_message(output)),
            };
            results.insert(name.to_string(), outcome);
        }
        ensure!(!results.is_empty(), "there are no test results");
        Ok(Self(results))
    }

    /// Takes what another binary has said.
    pub fn add(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Takes tests that are not asked at all, for the reason that stands above the table.
    pub fn add_inapplicable<'a>(&mut self, tests: impl Iterator<Item = &'a String>) {
        self.0
            .extend(tests.map(|test| (test.clone(), Outcome::NotApplicable(String::new()))));
    }

    /// The outcome of a test; one that is missing did not get to its end.
    pub fn of(&self, test: &str) -> Outcome {
        let lost = || Outcome::Fail("the test did not run".into());
        self.0.get(test).cloned().unwrap_or_else(lost)
    }

    /// Tests that failed, with the reason.
    pub fn failed(&self) -> Vec<String> {
        let failed = |(name, outcome): (&String, &Outcome)| match outcome {
            Outcome::Fail(why) => Some(format!("  {name}: {why}")),
            _ => None,
        };
        self.0.iter().filter_map(failed).collect()
    }

    /// How many of each.
    pub fn summary(&self) -> String {
        let count = |wanted: fn(&Outcome) -> bool| self.0.values().filter(|outcome| wanted(outcome)).count();
        format!(
            "{} tests pass, {} fail, {} find a recommendation not followed, {} do not apply",
            count(|outcome| *outcome == Outcome::Pass),
            count(|outcome| matches!(outcome, Outcome::Fail(_))),
            count(|outcome| matches!(outcome, Outcome::NotMet(_))),
            count(|outcome| matches!(outcome, Outcome::NotApplicable(_))),
        )
    }
}

fn passed(output: &str) -> Outcome {
    let said = |what: &str| {
        let prefix = format!("scorecard: {what}: ");
        output
            .lines()
            .find_map(|line| line.strip_prefix(&prefix))
            .map(String::from)
    };
    if let Some(why) = said("not applicable") {
        return Outcome::NotApplicable(why);
    }
    said("not met").map_or(Outcome::Pass, Outcome::NotMet)
}

/// What each test printed: the sections that begin with `---- NAME stdout ----`.
fn outputs(text: &str) -> BTreeMap<&str, String> {
    let mut sections: BTreeMap<&str, String> = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        let header = line
            .strip_prefix("---- ")
            .and_then(|line| line.strip_suffix(" stdout ----"));
        if header.is_some() {
            current = header;
        } else if line == "successes:" || line == "failures:" {
            current = None;
        } else if let Some(name) = current {
            let section = sections.entry(name).or_default();
            section.push_str(line);
            section.push('\n');
        }
    }
    sections
}

/// Reasons are cut after this many bytes: the whole message is in the test's own output.
const LONGEST: usize = 200;

/// The message of the panic, in one line, without the place, what followed, and what differs from run to run.
fn panic_message(output: &str) -> String {
    let mut lines = output.lines().skip_while(|line| !line.contains(" panicked at "));
    if lines.next().is_none() {
        return "it failed without a message".into();
    }
    let noise = |line: &&str| !line.starts_with("note: ") && !line.starts_with("captured: ") && !line.trim().is_empty();
    let lines: Vec<&str> = lines.filter(noise).take(3).map(str::trim).collect();
    let message = lines
        .join(" ")
        .replace("called `Result::unwrap()` on an `Err` value: ", "");
    let words: Vec<&str> = message.split(' ').map(without_prefix).collect();
    let mut message = words.join(" ");
    if message.len() > LONGEST {
        let end = (0..=LONGEST)
            .rev()
            .find(|end| message.is_char_boundary(*end))
            .unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    message
}

/// The role in a namespace's name such as `snt123-4-h1`, which begins with the number of a process; other words as they are.
fn without_prefix(word: &str) -> &str {
    let numbered = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let Some(rest) = word.strip_prefix("snt") else {
        return word;
    };
    let mut parts = rest.splitn(3, '-');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(pid), Some(count), Some(role)) if numbered(pid) && numbered(count) => role,
        _ => word,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\nrunning 4 tests\ntest a::one ... ok\ntest a::two ... FAILED\ntest a::three ... ok\n\
        test a::four ... ok\n\nsuccesses:\n\n---- a::three stdout ----\nscorecard: not applicable: no such thing\n\n\
        ---- a::four stdout ----\nnoise\nscorecard: not met: a SHOULD\n\nsuccesses:\n    a::one\n\nfailures:\n\n\
        ---- a::two stdout ----\n\nthread 'a::two' (1) panicked at tests/x.rs:1:2:\non snt12-3-h1 eth0\n  left: 1\n right: 2\n\
        note: run with\n\nfailures:\n    a::two\n\ntest result: FAILED. 3 passed; 1 failed\n";

    #[test]
    fn every_outcome_is_read() {
        let results = Results::parse(TEXT).unwrap();
        assert_eq!(results.of("a::one"), Outcome::Pass);
        assert_eq!(
            results.of("a::two"),
            Outcome::Fail("on h1 eth0 left: 1 right: 2".into())
        );
        assert_eq!(results.of("a::three"), Outcome::NotApplicable("no such thing".into()));
        assert_eq!(results.of("a::four"), Outcome::NotMet("a SHOULD".into()));
        assert!(matches!(results.of("a::five"), Outcome::Fail(_)));
        assert_eq!(results.failed().len(), 1);
        assert!(
            results.summary().starts_with("1 tests pass, 1 fail, 1 find"),
            "{}",
            results.summary()
        );
    }

    #[test]
    fn no_results_are_an_error() {
        assert!(Results::parse("error: could not compile").is_err());
    }
}
