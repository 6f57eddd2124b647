//! Network namespaces: made under names nobody else uses, entered by `setns`, removed on drop.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::{io, process};

use anyhow::{Context, Result, bail};

use crate::child::Child;

/// Where `ip netns` keeps the handles of named namespaces.
pub(crate) const NETNS_DIR: &str = "/run/netns";

/// Names of namespaces made by tests start with this, then the process id, a counter and the role.
pub(crate) const PREFIX: &str = "snt";

/// A named network namespace. Clones share it; the last one to go removes it.
///
/// Only the *network* namespace is entered, never by `ip netns exec`, which remounts /sys and so hides every bpffs.
#[derive(Clone, Debug)]
pub struct Namespace(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    handle: File,
    keep: AtomicBool,
}

/// A prefix for namespace names and directories that no other test, thread or process on this machine uses.
pub fn unique_prefix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{PREFIX}{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Namespace {
    /// Makes the namespace `PREFIX-ROLE` under a prefix of its own, with loopback up.
    pub fn new(role: &str) -> Result<Self> {
        Self::create(&format!("{}-{role}", unique_prefix()))
    }

    /// Makes a namespace under exactly this name, with loopback up. Needs root.
    pub fn create(name: &str) -> Result<Self> {
        require_root()?;
        check(
            Command::new("ip").args(["netns", "add", name]),
            &format!("make the network namespace {name}"),
        )?;
        let ns = Self::open(name)?;
        ns.0.keep.store(false, Ordering::Relaxed);
        ns.run("ip", ["link", "set", "lo", "up"])?;
        Ok(ns)
    }

    /// Opens a namespace that exists already. It is not removed on drop.
    pub fn open(name: &str) -> Result<Self> {
        let path = format!("{NETNS_DIR}/{name}");
        let handle = File::open(&path).with_context(|| format!("open the network namespace {path}"))?;
        Ok(Self(Arc::new(Inner {
            name: name.into(),
            handle,
            keep: AtomicBool::new(true),
        })))
    }

    /// The name that `ip netns list` shows.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The file that `nsenter --net=` takes.
    pub fn path(&self) -> String {
        format!("{NETNS_DIR}/{}", self.0.name)
    }

    /// Leaves the namespace in place when the last handle to it is dropped.
    pub fn keep(&self) {
        self.0.keep.store(true, Ordering::Relaxed);
    }

    /// A command that will run inside the namespace, with the C locale and no standard input.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").stdin(Stdio::null());
        let ns = self.clone();
        // SAFETY: between fork and exec only `setns` is called, which is async-signal-safe; the closure owns the handle.
        unsafe { command.pre_exec(move || set_netns(ns.0.handle.as_raw_fd())) };
        command
    }

    /// Runs a program to its end and returns its standard output; any exit status but 0 is an error with all it printed.
    pub fn run<S: AsRef<OsStr>>(&self, program: &str, args: impl IntoIterator<Item = S>) -> Result<String> {
        check(self.command(program).args(args), &format!("in {}", self.name()))
    }

    /// Runs a program to its end and returns whatever came of it.
    pub fn output<S: AsRef<OsStr>>(&self, program: &str, args: impl IntoIterator<Item = S>) -> Result<Output> {
        let mut command = self.command(program);
        command
            .args(args)
            .output()
            .with_context(|| format!("start {command:?} in {}", self.name()))
    }

    /// Starts a program that is killed when the returned [`Child`] is dropped; its output is collected.
    pub fn spawn<S: AsRef<OsStr>>(&self, program: &str, args: impl IntoIterator<Item = S>) -> Result<Child> {
        let mut command = self.command(program);
        command.args(args);
        Child::spawn(command).with_context(|| format!("in {}", self.name()))
    }

    /// Runs `work` on a fresh thread inside the namespace: sockets it opens stay there wherever they are used later.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                set_netns(self.0.handle.as_raw_fd())
                    .unwrap_or_else(|error| panic!("cannot enter the network namespace {}: {error}", self.name()));
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Writes a sysctl of the namespace, such as `net.ipv4.conf.in0.forwarding`.
    pub fn sysctl(&self, key: &str, value: impl ToString) -> Result<()> {
        let (path, value) = (sysctl_path(key), value.to_string());
        self.enter(|| fs::write(&path, &value))
            .with_context(|| format!("set {key} = {value} in {}", self.name()))
    }

    /// Reads a sysctl of the namespace.
    pub fn read_sysctl(&self, key: &str) -> Result<String> {
        let path = sysctl_path(key);
        let text = self.enter(|| fs::read_to_string(&path));
        Ok(text
            .with_context(|| format!("read {key} in {}", self.name()))?
            .trim()
            .to_string())
    }

    /// Feeds lines to `ip -batch`, so that a whole set-up costs one process.
    pub fn ip_batch(&self, lines: &[String]) -> Result<()> {
        self.feed("ip", &["-batch", "-"], &lines.join("\n"))
    }

    /// Loads a ruleset into the namespace's nftables.
    pub fn nft(&self, rules: &str) -> Result<()> {
        self.feed("nft", &["-f", "-"], rules)
    }

    /// Drops every IPv4 packet before the namespace's own stack sees it, so that the kernel answers nothing (no RST, no
    /// port unreachable) while raw sockets still send and see everything. ARP goes on working.
    pub fn mute(&self) -> Result<()> {
        self.nft(
            "table ip mute {
                chain everything {
                    type filter hook prerouting priority -500; policy drop;
                }
            }",
        )
    }

    /// Counters of the IP stack as `nstat` names them, such as `UdpInCsumErrors`.
    pub fn stack_counter(&self, name: &str) -> Result<u64> {
        let text = self.enter(|| {
            Ok::<_, io::Error>(
                fs::read_to_string("/proc/thread-self/net/snmp")?
                    + &fs::read_to_string("/proc/thread-self/net/netstat")?,
            )
        })?;
        let lines: Vec<&str> = text.lines().collect();
        for pair in lines.chunks(2) {
            let [titles, values] = pair else { continue };
            let group = titles.split(':').next().unwrap_or_default();
            for (title, value) in titles.split_whitespace().zip(values.split_whitespace()).skip(1) {
                if format!("{group}{title}") == name {
                    return value.parse().with_context(|| format!("{name} = {value}"));
                }
            }
        }
        bail!("the kernel has no counter {name}")
    }

    fn feed(&self, program: &str, args: &[&str], input: &str) -> Result<()> {
        let mut command = self.command(program);
        command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .with_context(|| format!("start {program} in {}", self.name()))?;
        let mut stdin = child.stdin.take().context("no pipe to the program")?;
        // A program that refuses its input closes the pipe; its own message below says more than our EPIPE.
        let _ = io::Write::write_all(&mut stdin, input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!(
                "{program} {} in {}: {}\n{}\ninput was:\n{input}",
                args.join(" "),
                self.name(),
                output.status,
                both(&output)
            );
        }
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.keep.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = check(
            Command::new("ip").args(["netns", "delete", &self.name]),
            "remove the namespace",
        ) {
            eprintln!("{error:#}");
        }
    }
}

/// Kills what runs inside a namespace and removes it.
pub fn remove(name: &str) -> Result<()> {
    let pids = check(
        Command::new("ip").args(["netns", "pids", name]),
        "list the processes of the namespace",
    )?;
    for pid in pids.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()) {
        // SAFETY: kill has no memory effects; the pid was just reported to live in our own namespace.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    check(
        Command::new("ip").args(["netns", "delete", name]),
        "remove the namespace",
    )
    .map(drop)
}

/// Runs a command in the current namespace to its end; returns standard output, or an error with everything it printed.
pub fn check(command: &mut Command, why: &str) -> Result<String> {
    let shown = format!("{command:?}").replace('"', "");
    let output = command.stdin(Stdio::null()).output().with_context(|| {
        format!("{why}: cannot start `{shown}`; `cargo xtask setup` installs the programs that the lab uses")
    })?;
    if !output.status.success() {
        bail!("{why}: `{shown}`: {}\n{}", output.status, both(&output));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn require_root() -> Result<()> {
    // SAFETY: no arguments, no memory.
    if unsafe { libc::geteuid() } != 0 {
        bail!(
            "network namespaces need root: run the tests with `cargo xtask test`, which asks for it, or under sudo -E"
        );
    }
    Ok(())
}

fn set_netns(fd: RawFd) -> io::Result<()> {
    // SAFETY: takes a file descriptor and a constant.
    match unsafe { libc::setns(fd, libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn sysctl_path(key: &str) -> String {
    format!("/proc/sys/{}", key.replace('.', "/"))
}

fn both(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
    .trim()
    .to_string()
}
