//! The server side: reads requests, calls the [`Service`] on threads for blocking work, streams the answers.

use std::{io, ops::ControlFlow, sync::Arc};

use serde::Serialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, broadcast::error::RecvError, mpsc, watch},
    task::JoinSet,
};

use super::{Done, Each, Ending, Events, Listener, Request, Service, ServiceError};
use crate::{
    config::Forward,
    records::{Event, EventRecord},
};

/// Connections at one time; further ones wait.
const MAX_CONNECTIONS: usize = 64;
/// The longest request.
const MAX_REQUEST: u64 = 64 * 1024;
/// Records are handed to the socket in pieces of about this many bytes, a few of them at a time.
const PIECE: usize = 16 * 1024;

/// Why [`serve`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The `shutdown` future completed.
    Shutdown,
    /// Somebody asked to detach, it was done, and the answer has been sent.
    Detached,
}

/// Answers on `listener` until `shutdown` completes or a detach has been answered.
pub async fn serve(
    listener: Listener,
    service: Arc<dyn Service>,
    events: Arc<Events>,
    shutdown: impl Future<Output = ()>,
) -> Ended {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let (detached, mut was_detached) = watch::channel(false);
    // Dropping the set at the end aborts what is still connected.
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let next = async {
            let slot = slots.clone().acquire_owned().await;
            (slot, listener.socket.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            () = &mut shutdown => return Ended::Shutdown,
            Ok(()) = was_detached.changed() => return Ended::Detached,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            next = next => next,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: give connections time to end.
                tracing::warn!(%error, "control socket: cannot accept");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        // The mode of the socket says the same; this also holds in the moment before it is set.
        if !stream
            .peer_cred()
            .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == listener.owner)
        {
            continue;
        }
        let (service, events, detached) = (service.clone(), events.clone(), detached.clone());
        connections.spawn(async move {
            let _slot = slot;
            if let Err(error) = connection(stream, service, &events, &detached).await {
                tracing::debug!(%error, "control connection ended");
            }
        });
    }
}

async fn connection(
    stream: UnixStream,
    service: Arc<dyn Service>,
    events: &Events,
    detached: &watch::Sender<bool>,
) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        (&mut reader).take(MAX_REQUEST).read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            return Ok(());
        }
        let request = match serde_json::from_slice(&line) {
            Ok(request) => request,
            Err(error) => {
                let error =
                    format!("not a request that this sipnat knows: {error}; use a `sipnat` of the daemon's version");
                send(&mut writer, &Ending::Error { error, code: 2 }).await?;
                if !line.ends_with(b"\n") {
                    return Ok(());
                }
                continue;
            }
        };
        match request {
            Request::Events { follow } => {
                send_events(&mut reader, &mut writer, events, follow).await?;
                if follow {
                    return Ok(());
                }
            }
            Request::Trace(filter) => {
                let messages = service.sip().and_then(|sip| sip.trace(filter));
                follow(&mut reader, &mut writer, messages).await?;
                return Ok(());
            }
            Request::Capture { call } => {
                let service = service.clone();
                let records = tokio::task::spawn_blocking(move || service.capture(&call)).await;
                let records = records.unwrap_or_else(|error| Err(ServiceError::Failed(anyhow::anyhow!(error))));
                follow(&mut reader, &mut writer, records).await?;
                return Ok(());
            }
            request => {
                let detaching = request == Request::Detach;
                let ending = answer(&mut writer, service.clone(), request).await?;
                let done = matches!(ending, Ending::End { .. });
                send(&mut writer, &ending).await?;
                if detaching && done {
                    writer.shutdown().await?;
                    detached.send_replace(true);
                    return Ok(());
                }
            }
        }
    }
}

async fn send(writer: &mut OwnedWriteHalf, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    writer.write_all(&line).await
}

/// Runs the request on a thread for blocking work and streams its records.
async fn answer(writer: &mut OwnedWriteHalf, service: Arc<dyn Service>, request: Request) -> io::Result<Ending> {
    let (sender, mut pieces) = mpsc::channel(4);
    let work = tokio::task::spawn_blocking(move || {
        let mut records = Records {
            sender,
            piece: Vec::new(),
        };
        let result = run(&*service, request, &mut records);
        // Nobody reads any more if this breaks.
        let _ = records.flush();
        result
    });
    let mut written = Ok(());
    while let Some(piece) = pieces.recv().await {
        written = writer.write_all(&piece).await;
        if written.is_err() {
            break;
        }
    }
    // With the receiver gone, the service is told to break off at its next record.
    drop(pieces);
    let result = work.await;
    written?;
    Ok(match result {
        Ok(Ok(())) => Ending::End { end: true },
        Ok(Err(error)) => Ending::Error {
            error: error.to_string(),
            code: error.code(),
        },
        Err(error) => {
            tracing::error!(%error, "a control request failed");
            Ending::Error {
                error: "the daemon failed at this request; its log has the cause".into(),
                code: 1,
            }
        }
    })
}

fn run(service: &dyn Service, request: Request, records: &mut Records) -> Result<(), ServiceError> {
    let wrong = |message: String| ServiceError::Failed(anyhow::Error::msg(message));
    let done = match request {
        Request::Status => {
            let _ = records.push(&service.status()?);
            return Ok(());
        }
        Request::Bindings(filter) => {
            return records.limited(filter.limit, |each| service.bindings(&filter, each));
        }
        Request::Blocks { host } => {
            return service.blocks(host, &mut |record| records.push(&record));
        }
        Request::Relays { call } => {
            return records.limited(None, |each| service.relays(call, each));
        }
        Request::Leases => return records.limited(None, |each| service.leases(each)),
        Request::RevokeLease { protocol, inside } => service.revoke_lease(protocol, inside)?,
        Request::OpenRelay(plan) => {
            for leg in service.open_relay(&plan)? {
                let _ = records.push(&leg);
            }
            return Ok(());
        }
        Request::CloseRelay { call } => service.close_relay(call)?,
        Request::Counters { all } => {
            for counter in service.counters()? {
                if all || counter.value != 0 {
                    let _ = records.push(&counter);
                }
            }
            return Ok(());
        }
        Request::AddForward {
            protocol,
            external,
            inside,
        } => service.add_forward(Forward::from_words(protocol, &external, &inside).map_err(wrong)?)?,
        Request::DeleteForward { protocol, external } => {
            service.delete_forward(protocol, external.parse().map_err(wrong)?)?
        }
        Request::Reload => service.reload()?,
        Request::Detach => service.detach()?,
        Request::Registrations(filter) => {
            return records.limited(filter.limit, |each| service.sip()?.registrations(&filter, each));
        }
        Request::Paths(filter) => return records.limited(filter.limit, |each| service.sip()?.paths(&filter, each)),
        Request::Dialogs(filter) => return records.limited(filter.limit, |each| service.sip()?.dialogs(&filter, each)),
        Request::Transactions(filter) => {
            return records.limited(filter.limit, |each| service.sip()?.transactions(&filter, each));
        }
        Request::Bans(filter) => return records.limited(filter.limit, |each| service.sip()?.bans(&filter, each)),
        Request::Users { domain } => {
            return records.limited(None, |each| service.sip()?.users(domain.as_deref(), each));
        }
        Request::Unregister { aor, contact } => service.sip()?.unregister(&aor, contact.as_deref())?,
        Request::LiftBan { source } => service.sip()?.lift_ban(source)?,
        Request::Events { .. } | Request::Trace(_) | Request::Capture { .. } => {
            unreachable!("answered by the connection itself")
        }
    };
    let _ = records.push(&Done { message: done });
    Ok(())
}

/// Collects records into pieces; breaks when the reader has gone.
struct Records {
    sender: mpsc::Sender<Vec<u8>>,
    piece: Vec<u8>,
}

impl Records {
    /// Hands at most `limit` records of a list on.
    fn limited<R: Serialize>(
        &mut self,
        limit: Option<u64>,
        list: impl FnOnce(Each<R>) -> Result<(), ServiceError>,
    ) -> Result<(), ServiceError> {
        let mut left = limit.unwrap_or(u64::MAX);
        // Whether there is anybody to ask is told also if nothing is wanted.
        list(&mut |record| {
            if left == 0 {
                return ControlFlow::Break(());
            }
            left -= 1;
            self.push(&record)?;
            match left {
                0 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        })
    }

    fn push(&mut self, record: &impl Serialize) -> ControlFlow<()> {
        serde_json::to_writer(&mut self.piece, record).expect("records have only string keys");
        self.piece.push(b'\n');
        if self.piece.len() < PIECE {
            ControlFlow::Continue(())
        } else {
            self.flush()
        }
    }

    fn flush(&mut self) -> ControlFlow<()> {
        if self.piece.is_empty() {
            return ControlFlow::Continue(());
        }
        match self.sender.blocking_send(std::mem::take(&mut self.piece)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}

/// The remembered events; with `follow` then each new one, until the client closes.
async fn send_events(
    reader: &mut BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
    events: &Events,
    follow: bool,
) -> io::Result<()> {
    let (recent, mut news) = events.subscribe();
    for record in recent {
        send(writer, &record).await?;
    }
    if !follow {
        return send(writer, &Ending::End { end: true }).await;
    }
    let mut ignored = [0];
    loop {
        tokio::select! {
            read = reader.read(&mut ignored) => if read? == 0 { return Ok(()) },
            record = news.recv() => match record {
                Ok(record) => send(writer, &record).await?,
                Err(RecvError::Lagged(count)) => send(writer, &EventRecord::now(Event::Missed { count })).await?,
                Err(RecvError::Closed) => return send(writer, &Ending::End { end: true }).await,
            },
        }
    }
}

/// Records as they come, until the client closes or there are no more.
async fn follow<R: Serialize>(
    reader: &mut BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
    records: Result<mpsc::Receiver<R>, ServiceError>,
) -> io::Result<()> {
    let mut records = match records {
        Ok(records) => records,
        Err(error) => {
            let ending = Ending::Error {
                error: error.to_string(),
                code: error.code(),
            };
            return send(writer, &ending).await;
        }
    };
    let mut ignored = [0];
    loop {
        tokio::select! {
            read = reader.read(&mut ignored) => if read? == 0 { return Ok(()) },
            record = records.recv() => match record {
                Some(record) => send(writer, &record).await?,
                None => return send(writer, &Ending::End { end: true }).await,
            },
        }
    }
}
