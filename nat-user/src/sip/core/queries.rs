//! Names that are being looked up, and who waits for each (RFC 3263).

use rustc_hash::FxHashMap;

use super::{Id, request::Ack};
use crate::sip::{
    command::{Command, QueryId, Target},
    time::Time,
    timers::Timers,
    transaction::Due,
};

/// The look-ups that are under way. One that is never answered ends with its time limit, so nothing depends on the resolver's own.
#[derive(Debug, Default)]
pub(super) struct Queries {
    // Ids are given out here, so nobody can choose them.
    open: FxHashMap<QueryId, Waiting>,
    last: u64,
}

/// Who waits for a name to be looked up.
#[derive(Debug)]
pub(super) enum Waiting {
    Branch { context: Id, branch: usize },
    Ack(Box<Ack>),
}

impl Queries {
    /// Has a name looked up. At `until` nobody waits for the answer any more, and [`Due::Query`] says so.
    pub fn ask(
        &mut self,
        waiting: Waiting,
        target: Target,
        until: Time,
        timers: &mut Timers<Due>,
        out: &mut Vec<Command>,
    ) -> QueryId {
        self.last += 1;
        let query = QueryId(self.last);
        self.open.insert(query, waiting);
        timers.arm(until, Due::Query(query));
        out.push(Command::Resolve { query, target });
        query
    }

    /// It is answered, or its time is over, or nobody wants to know any more: who has waited. `None`: it had ended before.
    pub fn end(&mut self, query: QueryId) -> Option<Waiting> {
        self.open.remove(&query)
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}
