//! Running other programs: announced, timed, as root where needed, and with the reason.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// The directory of the workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask is in a workspace")
        .into()
}

/// The release binary that `build` makes.
pub fn binary() -> PathBuf {
    root().join("target/release/sipnat")
}

/// A cargo command in the workspace.
pub fn cargo<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new("cargo");
    command.args(args).current_dir(root());
    // `cargo xtask` is told about the crate xtask. Build scripts that look at such variables (ring's does) would run anew whenever cargo is
    // started from here and by hand in turn, and with them all that depends on them.
    let of_xtask = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(of_xtask)) {
        command.env_remove(name);
    }
    command
}

/// A binary of tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TestTarget {
    /// One of the crate `tests`, by its name.
    Tests(&'static str),
    /// The unit tests of the library of `nat-user`.
    NatUser,
}

impl TestTarget {
    /// Its crate, which is also its directory.
    pub fn package(self) -> &'static str {
        match self {
            Self::Tests(_) => "tests",
            Self::NatUser => "nat-user",
        }
    }

    /// What cargo calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Tests(name) => name,
            Self::NatUser => "nat_user",
        }
    }
}

/// Builds a test binary and returns its path.
pub fn test_binary(target: TestTarget) -> Result<String> {
    let which = match target {
        TestTarget::Tests(name) => vec!["--test", name],
        TestTarget::NatUser => vec!["--lib"],
    };
    let mut args = vec!["test", "-p", target.package(), "--no-run", "--message-format", "json"];
    args.extend(which);
    let name = target.name();
    let output = cargo(args)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("build the tests {name}"))?;
    if !output.status.success() {
        bail!("the tests {name} do not build");
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let executable = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let ours = message["target"]["name"] == name && message["profile"]["test"] == true;
        message["executable"].as_str().filter(|_| ours).map(String::from)
    };
    text.lines()
        .find_map(executable)
        .with_context(|| format!("cargo names no binary of the tests {name}"))
}

/// Announces a step, runs it with its output shown, and says how long it took. A failure is an error.
pub fn step(what: &str, command: &mut Command) -> Result<()> {
    run_step(what, command, |command| command.status())
}

/// The same, and `seen` is given each line of its standard output.
pub fn step_lines(what: &str, command: &mut Command, mut seen: impl FnMut(&str)) -> Result<()> {
    run_step(what, command, |command| {
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().expect("is piped");
        for line in BufReader::new(output).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            seen(&line);
        }
        child.wait()
    })
}

fn run_step(
    what: &str,
    command: &mut Command,
    run: impl FnOnce(&mut Command) -> std::io::Result<ExitStatus>,
) -> Result<()> {
    let shown = shown(command);
    eprintln!("\n==> {what}: {shown}");
    let start = Instant::now();
    let status = run(command).with_context(|| format!("{what}: cannot run `{shown}`"))?;
    let seconds = start.elapsed().as_secs_f64();
    if !status.success() {
        bail!("{what}: `{shown}` failed with {status} after {seconds:.1} s");
    }
    eprintln!("==> {what}: done in {seconds:.1} s");
    Ok(())
}

/// The standard output of a program, or `None` if it is not there or fails.
pub fn output_of(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The target that rustc builds for by default.
pub fn host() -> Result<String> {
    let version = output_of("rustc", &["-vV"]).context("ask rustc for its host")?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(String::from).context("rustc names no host")
}

/// Whether a program of that name can be found.
pub fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps some of the tools where only root's PATH looks.
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(more)
        .any(|dir| dir.join(program).is_file())
}

/// Whether this process is root.
pub fn is_root() -> bool {
    // SAFETY: no arguments, no memory.
    unsafe { libc::geteuid() == 0 }
}

/// Set for what runs as root in a user's name: setup and build are done, with the user's rights, and root's PATH has no cargo.
pub const PREPARED: &str = "SIPNAT_XTASK_PREPARED";

/// Whether setup and build have been done by whoever started this.
pub fn prepared() -> bool {
    std::env::var_os(PREPARED).is_some()
}

/// Runs this same command as root, without setup and build.
pub fn again_as_root(why: &str) -> Result<()> {
    let own = std::env::current_exe().context("find the path of xtask itself")?;
    let status = as_root(why, &words_again(&own.display().to_string(), std::env::args().skip(1)))?.status()?;
    if status.success() {
        return Ok(());
    }
    bail!("the command run as root ended with {status}")
}

fn words_again(own: &str, args: impl Iterator<Item = String>) -> Vec<String> {
    let first = ["env".into(), format!("{PREPARED}=1"), own.into()];
    first.into_iter().chain(args).collect()
}

/// A command that runs as root: by itself if we are, through sudo otherwise, which then says why.
/// Without sudo, the error gives the command to run by hand.
pub fn as_root<S: AsRef<str>>(why: &str, args: &[S]) -> Result<Command> {
    let args: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
    let (program, rest) = args.split_first().expect("a command has a program");
    if is_root() {
        let mut command = Command::new(program);
        command.args(rest);
        return Ok(command);
    }
    if !has("sudo") {
        bail!(
            "{why} needs root, and there is no sudo here; run as root:\n    {}",
            args.join(" ")
        );
    }
    eprintln!("sudo: {why} needs root");
    let mut command = Command::new("sudo");
    command.args(args);
    Ok(command)
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_again_as_root_needs_no_cargo() {
        let words = words_again(
            "/src/target/debug/xtask",
            ["lab", "up", "--phones", "3"].map(String::from).into_iter(),
        );
        assert_eq!(
            words,
            [
                "env",
                "SIPNAT_XTASK_PREPARED=1",
                "/src/target/debug/xtask",
                "lab",
                "up",
                "--phones",
                "3"
            ]
        );
    }
}
