//! Test binaries: which tests are in them, and what they say when they run.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use tests::sipnat::BINARY_VARIABLE;

use super::results::Results;
use crate::run::{TestTarget, as_root, is_root, root, test_binary};

/// A test binary that a scorecard is made of.
#[derive(Clone, Copy, Debug)]
pub struct Suite {
    /// What is built.
    pub target: TestTarget,
    /// Every test of it must belong to a requirement; otherwise only those that are named are run.
    pub whole: bool,
    /// Others than sipnat can be asked.
    pub comparable: bool,
}

/// One that is built.
pub struct Built {
    pub suite: Suite,
    path: String,
    /// The names of its tests.
    pub names: BTreeSet<String>,
}

impl Built {
    /// Builds it and asks it for its tests.
    pub fn new(suite: Suite) -> Result<Self> {
        let path = test_binary(suite.target)?;
        let output = Command::new(&path)
            .args(["--list", "--format", "terse"])
            .output()
            .with_context(|| format!("list the tests of {path}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let names = text.lines().filter_map(|line| line.strip_suffix(": test"));
        let names = names.map(String::from).collect();
        Ok(Self { suite, path, names })
    }

    /// Runs those of these tests that are in it. `choice`: the environment variable that says who is asked, and its value.
    pub fn run(&self, tests: &BTreeSet<&str>, choice: (&str, &str), sipnat: &Path) -> Result<Results> {
        Results::parse(&self.say(tests, Some(choice), sipnat)?)
    }

    /// The same, and everything that they print. An error if there is no result.
    pub fn say(&self, tests: &BTreeSet<&str>, choice: Option<(&str, &str)>, sipnat: &Path) -> Result<String> {
        let named: Vec<&str> = tests
            .iter()
            .copied()
            .filter(|test| self.names.contains(*test))
            .collect();
        // Many tests wait for lifetimes to pass, so more of them than there are CPUs make sense.
        let mut args = vec![self.path.as_str(), "--show-output", "--test-threads", "4"];
        if !self.suite.whole {
            args.push("--exact");
            args.extend(&named);
        }
        let binary = sipnat.display().to_string();
        let variables = [(BINARY_VARIABLE, binary.as_str())].into_iter().chain(choice);
        let variables: Vec<String> = variables.map(|(name, value)| format!("{name}={value}")).collect();
        let mut command = if is_root() {
            let mut command = Command::new("env");
            command.args(&variables).args(&args);
            command
        } else {
            let why = "making network namespaces and loading programs into the kernel";
            let variables = variables.iter().map(String::as_str);
            as_root(
                why,
                &["env"].into_iter().chain(variables).chain(args).collect::<Vec<_>>(),
            )?
        };
        command
            .env("RUST_BACKTRACE", "0")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .current_dir(root().join(self.suite.target.package()));
        let output = command.output().with_context(|| format!("run {}", self.path))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            said.contains("test result: "),
            "the tests {} ended with {} and said:\n{}",
            self.path,
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(said)
    }
}
