//! Records of calls that have ended. The server hands over what a call was; a thread of its own writes it down as a line of JSON, so that a disk that is
//! slow or full costs records, which are counted, and never a call.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, RecvError, SyncSender, TryRecvError, sync_channel},
    },
    thread::JoinHandle,
};

use super::{
    dialog::{Dialog, End},
    engine::records,
    time::Time,
};
use crate::{
    config::LogTarget,
    lines::{Lines, Name},
    records::StreamRecord,
};

/// Calls that wait for being written.
const QUEUE: usize = 4096;

/// What the records are called in messages.
pub const NAME: Name = Name {
    what: "the records of calls",
    key: "sip.calls.records",
};

/// A call that has ended.
#[derive(Debug)]
pub struct Over {
    pub dialog: Box<Dialog>,
    pub end: End,
    /// Its streams, with their last figures.
    pub media: Vec<StreamRecord>,
    pub ended: Time,
}

/// Takes records of calls. Shared by the core, which hands them over, and the daemon, which says where they go.
#[derive(Debug)]
pub struct Recorder {
    queue: SyncSender<Note>,
    wanted: AtomicBool,
    lost: Arc<AtomicU64>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread is told.
#[derive(Debug)]
enum Note {
    Over(Box<Over>),
    /// The file may have been rotated.
    Reopen,
    /// Another place from now on.
    Replace(Lines),
    End,
}

/// Opens a place for records.
///
/// # Errors
/// With its name and the remedy.
pub fn open(target: &LogTarget) -> anyhow::Result<Lines> {
    Lines::open(target, NAME)
}

impl Recorder {
    /// Starts the thread that writes to `lines`, which were opened for `target`.
    ///
    /// # Errors
    /// If there is no room for a thread.
    pub fn start(lines: Lines, target: &LogTarget) -> io::Result<Arc<Recorder>> {
        Recorder::with_queue(lines, target, QUEUE)
    }

    pub(super) fn with_queue(lines: Lines, target: &LogTarget, length: usize) -> io::Result<Arc<Recorder>> {
        let (queue, notes) = sync_channel(length);
        let lost = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            lines,
            lost: lost.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("call-records".into())
            .spawn(move || writer.run(&notes))?;
        Ok(Arc::new(Recorder {
            queue,
            wanted: AtomicBool::new(*target != LogTarget::Off),
            lost,
            thread: Mutex::new(Some(thread)),
        }))
    }

    /// Whether records go anywhere.
    pub fn wanted(&self) -> bool {
        self.wanted.load(Relaxed)
    }

    /// Takes the record of a call. Never waits: what there is no room for is lost and counted.
    pub fn record(&self, over: Over) {
        if self.queue.try_send(Note::Over(Box::new(over))).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
    }

    /// How many records were lost.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// The file may have been rotated: it is opened anew. May wait for the disk.
    pub fn reopen(&self) {
        self.tell(Note::Reopen);
    }

    /// Records go to another place, which was opened for `target`. May wait for the disk.
    pub fn replace(&self, lines: Lines, target: &LogTarget) {
        self.tell(Note::Replace(lines));
        self.wanted.store(*target != LogTarget::Off, Relaxed);
    }

    /// Returns when everything has been written that was handed over. Nothing is written afterwards.
    pub fn finish(&self) {
        self.tell(Note::End);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that writes the records of calls panicked");
        }
    }

    fn tell(&self, note: Note) {
        // An error means that the thread has ended, after which nobody expects anything of it.
        let _ = self.queue.send(note);
    }
}

/// The thread.
struct Writer {
    lines: Lines,
    lost: Arc<AtomicU64>,
}

impl Writer {
    fn run(mut self, notes: &Receiver<Note>) {
        while let Ok(note) = self.next(notes) {
            match note {
                Note::Over(over) => {
                    let written = self.lines.push(&records::call(*over));
                    self.count(written);
                }
                Note::Reopen => {
                    if let Err(error) = self.lines.reopen() {
                        tracing::error!("{error:#}; the old file stays in use");
                    }
                }
                Note::Replace(lines) => self.lines = lines,
                Note::End => break,
            }
        }
        self.flush();
    }

    /// The next thing to do. What is buffered is written before it waits.
    fn next(&mut self, notes: &Receiver<Note>) -> Result<Note, RecvError> {
        match notes.try_recv() {
            Ok(note) => Ok(note),
            Err(TryRecvError::Disconnected) => Err(RecvError),
            Err(TryRecvError::Empty) => {
                self.flush();
                notes.recv()
            }
        }
    }

    fn flush(&mut self) {
        // Lines that were not written stay for the next attempt.
        if let Err(error) = self.lines.flush() {
            self.lines.complain(&error);
        }
    }

    fn count(&mut self, written: io::Result<()>) {
        if let Err(error) = written {
            self.lost.fetch_add(1, Relaxed);
            self.lines.complain(&error);
        }
    }
}
