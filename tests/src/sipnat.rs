//! The daemon under test: the built binary, with a socket, a config and a bpffs of its own.

use std::ffi::CString;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::child::Child;
use crate::ns::{Namespace, unique_prefix};
use crate::router::{NatConfig, fill_in};

/// Everything that daemons of tests leave in the file system is below this directory.
pub const RUN_DIR: &str = "/run/sipnat-test";

/// The environment variable that names the binary to test; otherwise it is `target/release/sipnat` of the workspace.
pub const BINARY_VARIABLE: &str = "SIPNAT_BIN";

/// How long a daemon may take to load its programs on a busy machine.
const START: Duration = Duration::from_secs(60);

/// A sipnat daemon in a namespace. Dropping it detaches the data path and removes everything.
#[derive(Debug)]
pub struct Daemon {
    ns: Namespace,
    binary: PathBuf,
    place: Place,
    config: NatConfig,
    child: Option<Child>,
    earlier_logs: String,
    kept: bool,
}

impl Daemon {
    /// Starts `sipnat run` in the namespace and returns when `sipnat status` answers.
    pub fn start(ns: &Namespace, config: NatConfig) -> Result<Self> {
        let mut daemon = Self::prepare(ns, config)?;
        daemon.restart()?;
        Ok(daemon)
    }

    /// Prepares directory, bpffs and config without starting anything: for starts that shall fail, with
    /// [`Self::spawn`].
    pub fn prepare(ns: &Namespace, config: NatConfig) -> Result<Self> {
        let binary = config.binary.clone().map_or_else(binary, existing)?;
        let place = match &config.detached {
            Some(dir) => Place::new(dir)?,
            None => Place::new(&Path::new(RUN_DIR).join(unique_prefix()))?,
        };
        let (ns, earlier_logs) = (ns.clone(), String::new());
        let daemon = Self {
            ns,
            binary,
            place,
            config,
            child: None,
            earlier_logs,
            kept: false,
        };
        daemon.write_config(&daemon.config.toml)?;
        Ok(daemon)
    }

    /// Uses another binary from the next start on, as an upgrade does.
    pub fn set_binary(&mut self, path: &Path) {
        self.binary = path.into();
    }

    /// Writes a new config file, with socket and pin directory filled in; `sipnat reload` or a restart applies it.
    pub fn write_config(&self, toml: &str) -> Result<()> {
        let toml = fill_in(toml, "daemon", "pin_dir", &format!("{:?}", self.place.pins()));
        let toml = fill_in(&toml, "daemon", "socket", &format!("{:?}", self.socket()));
        fs::write(self.config_file(), toml).context("write the daemon's config")
    }

    /// The config file.
    pub fn config_file(&self) -> PathBuf {
        self.place.dir.join("sipnat.toml")
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.place.dir.join("sipnat.sock")
    }

    /// The directory of its pinned maps and links.
    pub fn pin_dir(&self) -> PathBuf {
        self.place.pins()
    }

    /// A directory for whatever else the test wants the daemon to write; it goes away with the daemon.
    pub fn dir(&self) -> &Path {
        &self.place.dir
    }

    /// The process id; panics if the daemon is stopped.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the daemon is stopped").pid()
    }

    /// Sends a signal, such as `libc::SIGHUP`.
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.child.as_ref().context("the daemon is stopped")?.signal(signal)
    }

    /// Starts the daemon if it does not run, over whatever is pinned.
    pub fn restart(&mut self) -> Result<()> {
        ensure!(
            self.child.is_none(),
            "the daemon still runs: stop() or kill9() it first"
        );
        let mut child = self.spawn(&[])?;
        let ready = child.wait_ready("`sipnat status` to answer", START, |_| {
            self.cli(&["status"]).ok().filter(|output| output.status.success())
        });
        self.child = Some(child);
        match &self.config.detached {
            // Its output went to a file, so the error does not have it yet.
            Some(_) => ready.with_context(|| format!("it logged:\n{}", self.log())),
            None => ready,
        }
        .map(drop)
    }

    /// Starts `sipnat run` once more beside whatever runs, with further arguments, and does not wait for anything:
    /// for tests of wrong starts.
    pub fn spawn(&self, more: &[&str]) -> Result<Child> {
        let mut command = match &self.config.cpus {
            Some(cpus) => {
                let mut command = self.ns.command("taskset");
                command.args(["-c", cpus]).arg(&self.binary);
                command
            }
            None => self.ns.command(&self.binary),
        };
        command
            .args(["run", "--config"])
            .arg(self.config_file())
            .args(&self.config.args)
            .args(more);
        command.envs(self.config.env.iter().map(|(name, value)| (name, value)));
        if self.config.detached.is_some() {
            std::os::unix::process::CommandExt::process_group(&mut command, 0);
            return Child::spawn_detached(command, &self.log_file());
        }
        Child::spawn(command)
    }

    /// Runs `sipnat ARGS --socket …` to its end.
    pub fn cli(&self, args: &[&str]) -> Result<Output> {
        self.command(args)
            .arg("--socket")
            .arg(self.socket())
            .output()
            .context("run sipnat's command line")
    }

    /// Asks for something on the control socket, for which the command line has no command; the records of the answer.
    pub fn request(&self, request: &Value) -> Result<Vec<Value>> {
        let socket = self.socket();
        let mut stream = UnixStream::connect(&socket).with_context(|| format!("connect to {}", socket.display()))?;
        writeln!(stream, "{request}")?;
        let mut records = Vec::new();
        for line in BufReader::new(stream).lines() {
            let record: Value = serde_json::from_str(&line?).context("the daemon answered no JSON")?;
            ensure!(record.get("error").is_none(), "{request}: {record}");
            if record.get("end").is_some() {
                break;
            }
            records.push(record);
        }
        Ok(records)
    }

    /// A `sipnat` command in the namespace with just these arguments.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.ns.command(&self.binary);
        command.args(args);
        command
    }

    /// Ends the daemon with SIGKILL.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill9();
            self.earlier_logs += &child.log();
        }
    }

    /// Ends the daemon with SIGTERM; an exit status but 0 is an error.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else {
            bail!("the daemon is stopped already")
        };
        let status = child.stop();
        self.earlier_logs += &child.log();
        ensure!(status?.success(), "the daemon ended badly:\n{}", self.log());
        Ok(())
    }

    /// Ends the daemon if it runs, and removes its data path with `sipnat detach`.
    pub fn detach(&mut self) -> Result<()> {
        if self.child.is_some() {
            self.kill9();
        }
        let mut command = self.command(&["detach", "--pin-dir"]);
        let output = command
            .arg(self.pin_dir())
            .arg("--socket")
            .arg(self.socket())
            .output()?;
        ensure!(
            output.status.success(),
            "sipnat detach: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// What was logged so far, over all starts.
    pub fn log(&self) -> String {
        let now = match &self.child {
            Some(_) if self.config.detached.is_some() => fs::read_to_string(self.log_file()).unwrap_or_default(),
            Some(child) => child.log(),
            None => String::new(),
        };
        self.earlier_logs.clone() + &now
    }

    /// Leaves everything in place when this is dropped.
    pub fn keep(&mut self) {
        self.kept = true;
        self.place.kept = true;
        if let Some(child) = &mut self.child {
            child.keep();
        }
    }

    fn log_file(&self) -> PathBuf {
        self.place.dir.join("sipnat.log")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(60)..];
            eprintln!(
                "--- the last {} lines of sipnat's log ---\n{}\n---",
                tail.len(),
                tail.join("\n")
            );
        }
        if let Err(error) = self.detach() {
            eprintln!("{error:#}");
        }
    }
}

/// The binary under test.
pub fn binary() -> Result<PathBuf> {
    existing(match std::env::var_os(BINARY_VARIABLE) {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR"))
            .with_file_name("target")
            .join("release/sipnat"),
    })
}

fn existing(path: PathBuf) -> Result<PathBuf> {
    ensure!(
        path.is_file(),
        "there is no sipnat binary at {}: build it with `cargo xtask build`, or name it in {BINARY_VARIABLE}",
        path.display()
    );
    Ok(path)
}

/// Unmounts and removes what a daemon left in a directory below [`RUN_DIR`].
pub fn remove_place(dir: &Path) -> Result<()> {
    let bpf = dir.join("bpf");
    let path = CString::new(bpf.as_os_str().as_encoded_bytes())?;
    // SAFETY: a valid C string. A place that is not mounted (any more) gives an error that does not matter, because
    // removing the directory fails on anything still mounted.
    unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))
}

/// A directory of its own, with a bpffs of its own.
#[derive(Debug)]
struct Place {
    dir: PathBuf,
    kept: bool,
}

impl Place {
    fn new(dir: &Path) -> Result<Self> {
        let bpf = dir.join("bpf");
        fs::create_dir_all(&bpf).with_context(|| format!("create {}", bpf.display()))?;
        let place = Self {
            dir: dir.into(),
            kept: false,
        };
        let path = CString::new(bpf.as_os_str().as_encoded_bytes())?;
        // SAFETY: four valid C strings and no data.
        let mounted = unsafe { libc::mount(c"bpf".as_ptr(), path.as_ptr(), c"bpf".as_ptr(), 0, std::ptr::null()) };
        if mounted != 0 {
            bail!(
                "mount a bpffs on {}: {}",
                bpf.display(),
                std::io::Error::last_os_error()
            );
        }
        Ok(place)
    }

    fn pins(&self) -> PathBuf {
        self.dir.join("bpf/sipnat")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = remove_place(&self.dir)
        {
            eprintln!("{error:#}");
        }
    }
}
