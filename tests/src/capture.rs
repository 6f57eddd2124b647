//! Captures: everything that passes an interface, checked for bad checksums, saved as a pcap when a test fails.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use crate::checksum::verify_checksums;
use crate::lab::{DEV, Host};
use crate::ns::Namespace;
use crate::packet::Packet;
use crate::wire::{Frame, RawSocket, describe};

/// Frames are kept up to this many bytes; beyond it they are only counted and checked.
const KEPT_BYTES: usize = 64 << 20;

/// A running capture of one interface, both directions.
#[derive(Debug)]
pub struct Capture {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    what: String,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    socket: RawSocket,
    frames: Vec<Frame>,
    bytes: usize,
    seen: usize,
    bad: Vec<String>,
}

impl Capture {
    /// Starts to capture at a host: what it sends and receives, as on the wire.
    pub fn host(host: &Host) -> Result<Self> {
        Self::start(host, DEV)
    }

    /// Starts to capture on any interface. Frames that XDP redirects are not seen on the redirecting router's own
    /// interfaces, and its peers on a switch show what GRO merged: prefer hosts.
    pub fn start(ns: &Namespace, dev: &str) -> Result<Self> {
        let socket = RawSocket::open(ns, dev, true)?;
        let state = State {
            socket,
            frames: Vec::new(),
            bytes: 0,
            seen: 0,
            bad: Vec::new(),
        };
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            state: Mutex::new(state),
        });
        let reader = shared.clone();
        let thread = std::thread::spawn(move || {
            while !reader.stop.load(Ordering::Relaxed) {
                reader.state.lock().unwrap().drain();
                // Not a wait for an event: just how often the (large) socket buffer is emptied.
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Ok(Self {
            shared,
            thread: Some(thread),
            what: format!("{}-{dev}", ns.name()),
        })
    }

    /// All frames so far, including those still in the socket's buffer.
    pub fn frames(&self) -> Vec<Frame> {
        self.drained(|state| state.frames.clone())
    }

    /// All whole IPv4 packets so far.
    pub fn packets(&self) -> Vec<Packet> {
        self.frames().iter().filter_map(Frame::packet).collect()
    }

    /// The IPv4 packets that the namespace received.
    pub fn received(&self) -> Vec<Packet> {
        self.frames()
            .iter()
            .filter(|frame| !frame.outgoing)
            .filter_map(Frame::packet)
            .collect()
    }

    /// How many frames passed.
    pub fn seen(&self) -> usize {
        self.drained(|state| state.seen)
    }

    /// An error that lists the frames with a bad checksum or contradicting lengths, if there were any; an error, too,
    /// if there were no frames at all, for then nothing was shown.
    pub fn assert_no_bad_checksums(&self) -> Result<()> {
        let (seen, bad) = self.drained(|state| (state.seen, state.bad.clone()));
        ensure!(seen > 0, "the capture on {} saw no frames", self.what);
        ensure!(
            bad.is_empty(),
            "{} of {seen} frames on {} are bad: {:#?}",
            bad.len(),
            self.what,
            &bad[..bad.len().min(10)]
        );
        Ok(())
    }

    /// Writes what was captured as a pcap file.
    pub fn write_pcap(&self, path: &Path) -> Result<()> {
        let mut out = Vec::new();
        for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 262_144, 1] {
            out.extend(word.to_le_bytes());
        }
        for frame in self.frames() {
            let at = frame.at.duration_since(UNIX_EPOCH).unwrap_or_default();
            let length = frame.bytes.len() as u32;
            for word in [at.as_secs() as u32, at.subsec_micros(), length, length] {
                out.extend(word.to_le_bytes());
            }
            out.extend(&frame.bytes);
        }
        fs::File::create(path)
            .and_then(|mut file| file.write_all(&out))
            .with_context(|| format!("write {}", path.display()))
    }

    fn drained<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        let mut state = self
            .shared
            .state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        state.drain();
        read(&state)
    }
}

impl State {
    fn drain(&mut self) {
        // An error here means that the interface went away with its namespace: there is nothing more to see.
        while let Ok(Some(frame)) = self.socket.next(Duration::ZERO) {
            self.seen += 1;
            if let Err(error) = verify_checksums(&frame.bytes) {
                self.bad.push(format!(
                    "{}{}: {error}",
                    if frame.outgoing { "sent " } else { "received " },
                    describe(&frame)
                ));
            }
            if self.bytes < KEPT_BYTES {
                self.bytes += frame.bytes.len();
                self.frames.push(frame);
            }
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if std::thread::panicking() {
            let test = std::thread::current().name().unwrap_or("test").replace("::", "-");
            match artifacts().and_then(|dir| {
                let path = dir.join(format!("{test}-{}.pcap", self.what));
                self.write_pcap(&path).map(|()| path)
            }) {
                Ok(path) => eprintln!("captured: {}", path.display()),
                Err(error) => eprintln!("the capture of {} is lost: {error:#}", self.what),
            }
        }
    }
}

/// Where failed tests leave what explains them: `target/tests` of the workspace.
pub fn artifacts() -> Result<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .with_file_name("target")
        .join("tests");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    Ok(dir)
}
