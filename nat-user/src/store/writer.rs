//! The thread that writes.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread::{Builder, JoinHandle},
    time::Duration,
};

use super::{Batch, Store};

/// How long the thread waits before it tries a batch again that could not be written.
const RETRY: Duration = Duration::from_secs(1);

/// Hands batches to a thread that writes them. One batch waits at most: while the disk is slow, changes stay where they come from, so
/// that memory is bounded.
#[derive(Debug)]
pub struct Writer {
    batches: SyncSender<Batch>,
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    /// A batch waits.
    full: AtomicBool,
    /// What went wrong, for as long as it does.
    error: Mutex<Option<String>>,
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system has no room for a thread.
    pub fn start(store: impl Store + 'static) -> io::Result<Writer> {
        let (batches, inbox) = sync_channel(1);
        let shared = Arc::new(Shared::default());
        let its = shared.clone();
        let thread = Builder::new()
            .name("store".into())
            .spawn(move || run(store, &inbox, &its))?;
        Ok(Writer {
            batches,
            shared,
            thread,
        })
    }

    /// Whether [`Writer::write`] would take a batch now.
    pub fn is_ready(&self) -> bool {
        !self.shared.full.load(Ordering::Acquire)
    }

    /// Has a batch written. Gives it back if one waits already.
    #[expect(clippy::result_large_err, reason = "it is the batch itself that comes back")]
    pub fn write(&self, batch: Batch) -> Result<(), Batch> {
        if batch.is_empty() {
            return Ok(());
        }
        self.shared.full.store(true, Ordering::Release);
        self.batches.try_send(batch).map_err(|error| match error {
            TrySendError::Full(batch) | TrySendError::Disconnected(batch) => batch,
        })
    }

    /// Why nothing can be written at the moment. `None`: all is well.
    pub fn error(&self) -> Option<String> {
        self.shared.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes a last batch and ends the thread. What cannot be written now is lost; the error says why.
    pub fn finish(self, batch: Batch) -> Result<(), String> {
        // The thread takes what waits even if it has been retrying, and then this.
        let sent = self.batches.send(batch);
        drop(self.batches);
        let ended = self.thread.join();
        let error = self.shared.error.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (sent, ended, error) {
            (Ok(()), Ok(()), None) => Ok(()),
            (_, _, Some(error)) => Err(error),
            _ => Err("the thread that writes registrations has ended before".into()),
        }
    }
}

fn run(mut store: impl Store, inbox: &Receiver<Batch>, shared: &Shared) {
    let set = |error: Option<String>| {
        let mut place = shared.error.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = &error
            && place.as_ref() != Some(error)
        {
            tracing::error!("registrations are not written: {error}");
        } else if error.is_none() && place.is_some() {
            tracing::info!("registrations are written again");
        }
        *place = error;
    };
    let mut pending: Option<Batch> = None;
    let mut closed = false;
    loop {
        let batch = match pending.take() {
            Some(batch) => batch,
            None => match inbox.recv() {
                Ok(batch) => {
                    shared.full.store(false, Ordering::Release);
                    batch
                }
                Err(_) => return,
            },
        };
        match store.write(&batch) {
            Ok(()) => set(None),
            Err(_) if closed => return,
            Err(error) => {
                set(Some(error.to_string()));
                pending = Some(batch);
                // One that comes meanwhile is the last, or it waits its turn.
                match inbox.recv_timeout(RETRY) {
                    Ok(next) => {
                        shared.full.store(false, Ordering::Release);
                        let mut both = pending.take().unwrap_or_default();
                        merge(&mut both, next);
                        pending = Some(both);
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => closed = true,
                }
            }
        }
    }
}

/// Adds a later batch to one that could not be written.
fn merge(batch: &mut Batch, later: Batch) {
    batch.listeners = later.listeners.or(batch.listeners.take());
    batch.calls.append(later.calls);
    for (changes, mut more) in [
        (&mut batch.registrations, later.registrations),
        (&mut batch.edge, later.edge),
    ] {
        changes.contacts.append(&mut more.contacts);
        changes.refreshes.append(&mut more.refreshes);
        changes.gone.append(&mut more.gone);
    }
}
