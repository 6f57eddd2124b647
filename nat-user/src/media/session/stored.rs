//! A call's media as it is stored: the dialogs that were accepted, with their streams.

use super::{Dialog, Fork, Session, Table};
use crate::{
    media::{command::DataPath, policy::Policy},
    store::codec::{Reader, Stored},
};

impl Session {
    /// Appends what outlives the daemon. What is offered and not answered does not: nor does the transaction that it was offered in.
    pub fn put(&self, out: &mut Vec<u8>) {
        self.emergency.put(out);
        let lasting = || self.forks.iter().filter(|fork| fork.settled().next().is_some());
        (lasting().count() as u32).put(out);
        for fork in lasting() {
            fork.id.put(out);
            let tags: Vec<Box<[u8]>> = fork.settled().map(|dialog| dialog.tag.clone()).collect();
            tags.put(out);
            fork.table.put(out);
        }
    }

    /// Reads it back. `None`: these bytes were not written by [`Session::put`].
    pub fn take(from: &mut Reader<'_>, policy: Policy) -> Option<Session> {
        let emergency = bool::take(from)?;
        let count = u32::take(from)?;
        let forks = (0..count).map(|_| Fork::take(from)).collect::<Option<_>>()?;
        Some(Session {
            policy,
            emergency,
            forks,
        })
    }

    /// Takes over what the data path has of this call; what it has not is forgotten. False: it had places, and they are all gone: the call has ended,
    /// a moment before the daemon did.
    pub fn adopt(&mut self, path: &mut dyn DataPath) -> bool {
        let adopted = self.forks.iter_mut().map(|fork| fork.table.adopt(path));
        let (left, all) = adopted.fold((0, 0), |(left, all), (more, of)| (left + more, all + of));
        left > 0 || all == 0
    }
}

impl Fork {
    fn settled(&self) -> impl Iterator<Item = &Dialog> {
        self.dialogs.iter().filter(|dialog| dialog.settled)
    }

    fn take(from: &mut Reader<'_>) -> Option<Fork> {
        let id = u32::take(from)?;
        let tags = Vec::<Box<[u8]>>::take(from)?;
        let settled = tags.into_iter().map(|tag| Dialog {
            tag,
            settled: true,
            ..Dialog::default()
        });
        Some(Fork {
            id,
            dialogs: std::iter::once(Dialog::default()).chain(settled).collect(),
            table: Table::take(from)?,
        })
    }
}
