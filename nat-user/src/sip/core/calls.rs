//! What is told of calls: their streams while they last, and a record of each that has ended.

use std::{net::SocketAddrV4, sync::Arc};

use super::{Core, Id, seam::Registry};
use crate::{
    media::{
        command::{DataPath, RelayId, Side},
        sdp::Endpoint,
        session::StreamInfo,
    },
    records::StreamRecord,
    sip::{
        calls::{Over, Recorder},
        dialog::{Dialog, End},
        metrics::CallEnd,
        time::Time,
    },
};

impl<R: Registry> Core<R> {
    /// Calls that end from now on are told to `recorder`.
    pub fn record_calls(&mut self, recorder: Arc<Recorder>) {
        self.recorder = Some(recorder);
    }

    /// The streams of a call that go through us, with what was seen of them so far; those that ended within the call last.
    pub fn streams_of(&self, dialog: Id) -> Vec<StreamRecord> {
        self.media.as_ref().map_or_else(Vec::new, |media| media.streams(dialog))
    }

    /// A call has ended; its media is still there.
    pub(super) fn call_over(&mut self, id: Id, dialog: Box<Dialog>, now: Time) {
        let end = dialog.end.unwrap_or(End::of(CallEnd::Error));
        self.metrics.call_ended(end.why);
        if let Some(recorder) = self.recorder.as_ref().filter(|recorder| recorder.wanted()) {
            let media = self.streams_of(id);
            recorder.record(Over {
                dialog,
                end,
                media,
                ended: now,
            });
        }
    }

    /// The external address that these relays are on is not ours any more: their streams end, and the next offer of a call gets it others. Gives those
    /// that no call knows.
    pub fn media_stranded(&mut self, relays: &[RelayId]) -> Vec<RelayId> {
        let Some(media) = &mut self.media else {
            return relays.to_vec();
        };
        let mut unknown = relays.to_vec();
        for (dialog, ended) in media.strand(relays) {
            unknown.retain(|relay| !ended.contains(relay));
            self.metrics.streams_lost += ended.len() as u64;
            self.dialogs.because(dialog, End::of(CallEnd::AddressChanged));
            if let Some(call) = self.dialogs.get(dialog) {
                tracing::warn!(
                    call_id = %String::from_utf8_lossy(&call.call_id),
                    relays = ?ended.iter().map(|relay| relay.0).collect::<Vec<_>>(),
                    "media of a call has ended: the external address that relayed it is not ours any more"
                );
            }
        }
        unknown
    }
}

/// How a call ends that a final response of this code ends. `came`: from a callee; else it is our own.
pub(super) fn end_of_refused(code: u16, came: bool, cancelled: bool) -> End {
    let (why, by) = match code {
        487 if cancelled => (CallEnd::Cancel, Some(Side::Caller)),
        _ if came => (CallEnd::Refused, Some(Side::Callee)),
        408 => (CallEnd::Timeout, None),
        500.. => (CallEnd::Error, None),
        _ => (CallEnd::Refused, None),
    };
    End {
        why,
        by,
        code: Some(code),
    }
}

/// A stream that goes through us.
pub(super) fn running(stream: &StreamInfo<'_>, path: &dyn DataPath) -> StreamRecord {
    let said = |of: Option<Endpoint>| of.map(|of| SocketAddrV4::new(of.address, of.port));
    StreamRecord {
        relay: stream.relay.map(|relay| relay.id.0),
        codec: stream.codec.to_owned(),
        held: stream.held,
        ended: false,
        caller: said(stream.said[Side::Caller.index()]),
        callee: said(stream.said[Side::Callee.index()]),
        legs: stream.relay.map_or_else(Vec::new, |relay| path.legs(relay.id)),
    }
}

/// A relay that is about to be closed while its call goes on. `None`: nobody has sent anything to it.
pub(super) fn ended(relay: RelayId, path: &dyn DataPath) -> Option<StreamRecord> {
    let legs = path.legs(relay);
    legs.iter().any(|leg| leg.packets != 0).then(|| StreamRecord {
        relay: Some(relay.0),
        codec: legs.iter().find_map(|leg| leg.codec.clone()).unwrap_or_default(),
        held: false,
        ended: true,
        caller: None,
        callee: None,
        legs,
    })
}
