//! A program running in the foreground of a namespace, stopped by its process id.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::wait::wait_for;

/// A started program. Its standard output and error are collected line by line; it is killed on drop.
#[derive(Debug)]
pub struct Child {
    what: String,
    child: std::process::Child,
    output: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
    kept: bool,
}

impl Child {
    /// Starts the command with both outputs collected.
    pub fn spawn(mut command: Command) -> Result<Self> {
        let what = command.get_program().to_string_lossy().into_owned();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| {
            format!("cannot start {what}; `cargo xtask setup` installs the programs that the lab uses")
        })?;
        let output = Arc::new(Mutex::new(String::new()));
        let mut readers = Vec::new();
        if let Some(out) = child.stdout.take() {
            readers.push(collect(out, output.clone()));
        }
        if let Some(err) = child.stderr.take() {
            readers.push(collect(err, output.clone()));
        }
        Ok(Self {
            what,
            child,
            output,
            readers,
            kept: false,
        })
    }

    /// Starts the command with both outputs in a file, for a program that shall outlive this process.
    pub fn spawn_detached(mut command: Command, log: &std::path::Path) -> Result<Self> {
        let what = command.get_program().to_string_lossy().into_owned();
        let file = std::fs::File::create(log).with_context(|| format!("create the log {}", log.display()))?;
        command.stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("cannot start {what}"))?;
        Ok(Self {
            what,
            child,
            output: Arc::default(),
            readers: Vec::new(),
            kept: true,
        })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything that the program printed so far on both outputs.
    pub fn log(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// Whether the program is still running.
    pub fn running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal, such as `libc::SIGHUP`.
    pub fn signal(&self, signal: i32) -> Result<()> {
        // SAFETY: kill has no memory effects; the child has not been waited for, so the pid is still its own.
        if unsafe { libc::kill(self.child.id() as i32, signal) } != 0 {
            bail!(
                "cannot send signal {signal} to {}: {}",
                self.what,
                std::io::Error::last_os_error()
            );
        }
        Ok(())
    }

    /// Ends the program with SIGKILL and waits for its end.
    pub fn kill9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks the program to end (SIGTERM), waits for it, and kills it if it has not ended in 10 s (then it is an error).
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(libc::SIGTERM)?;
        let ended = self.wait_exit(Duration::from_secs(10));
        if ended.is_err() {
            self.kill9();
        }
        ended
    }

    /// Waits until the program ends by itself.
    pub fn wait_exit(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("{} (pid {}) to end", self.what, self.pid());
        let status = wait_for(&what, deadline, || self.child.try_wait().ok().flatten())
            .with_context(|| format!("it printed:\n{}", self.log()))?;
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        Ok(status)
    }

    /// Waits until the program has printed a line that contains `text`; an early end of the program is an error.
    pub fn wait_log(&mut self, text: &str, deadline: Duration) -> Result<()> {
        let what = format!("{} to print {text:?}", self.what);
        self.wait_ready(&what, deadline, |child| child.log().contains(text).then_some(()))
    }

    /// Waits for `ready`; an early end of the program, or the deadline, is an error that quotes its output.
    pub fn wait_ready<T>(
        &mut self,
        what: &str,
        deadline: Duration,
        mut ready: impl FnMut(&Self) -> Option<T>,
    ) -> Result<T> {
        let found = wait_for(what, deadline, || match (ready(self), self.running()) {
            (Some(value), _) => Some(Ok(value)),
            (None, true) => None,
            (None, false) => Some(Err(())),
        });
        match found {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(())) => {
                let status = self.wait_exit(Duration::from_secs(1))?;
                bail!(
                    "{} ended with {status} instead of waiting for {what}; it printed:\n{}",
                    self.what,
                    self.log()
                )
            }
            Err(error) => Err(error).with_context(|| format!("{} printed:\n{}", self.what, self.log())),
        }
    }

    /// Lets the program run on when this handle is dropped.
    pub fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.kept {
            self.kill9();
        }
    }
}

fn collect(source: impl Read + Send + 'static, into: Arc<Mutex<String>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(source);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(n) if n > 0) {
            into.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    })
}
