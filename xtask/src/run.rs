//! Running other programs: announced, timed, as root where needed, and with the reason.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
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
    command
}

/// Announces a step, runs it with its output shown, and says how long it took. A failure is an error.
pub fn step(what: &str, command: &mut Command) -> Result<()> {
    let shown = shown(command);
    eprintln!("\n==> {what}: {shown}");
    let start = Instant::now();
    let status = command
        .status()
        .with_context(|| format!("{what}: cannot start `{shown}`"))?;
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

/// A command that runs as root: by itself if we are, through sudo otherwise, which then says why.
/// Without sudo, the error gives the command to run by hand.
pub fn as_root(why: &str, args: &[&str]) -> Result<Command> {
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
