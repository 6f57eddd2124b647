//! The proxy's records (RFC 3261 section 16): a response context for each request that is being forwarded, with a branch for each place
//! that it goes to.
//!
//! What happens to them is in [`core`](super::core); what a message looks like when it leaves is in [`forward`], where it goes is
//! decided by [`routing`] (Route, request URI) and [`best`] says which of several responses is given.

pub mod best;
pub mod forward;
pub mod nat;
pub mod routing;

use std::collections::VecDeque;

use bytes::Bytes;
use smallvec::SmallVec;

use self::{best::Best, routing::Routing};
use super::{
    command::{Hop, QueryId},
    core::{arena::Id, seam::Found},
    flow::{Flow, ListenerId},
    location::ContactId,
    message::{Edits, Method},
    time::Time,
    timers::Alarm,
};

/// A place that a request goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The request URI; `None`: it stays.
    pub uri: Option<Bytes>,
    /// Route values that are put in front, separated by commas (RFC 3327 section 5.3); often empty.
    pub path: Bytes,
    pub way: Way,
    /// URIs that say where it is sent, where no Route does: the request URI stays (RFC 3261 section 16.6 item 7: a place that local policy
    /// names). The first one last; one is tried after the other, until one is reached.
    pub next: Vec<Bytes>,
    /// Thousandths.
    pub q: u16,
    /// The contact of the location service, if it is one.
    pub contact: Option<ContactId>,
}

impl Target {
    /// A contact of a user.
    pub fn contact(found: Found) -> Target {
        Target {
            way: match found.flow {
                Some(flow) => Way::Flow {
                    flow,
                    token: found.behind_nat || flow.transport.reliable(),
                    nat: found.behind_nat,
                },
                None => Way::Uri,
            },
            uri: Some(found.uri),
            path: found.path,
            next: Vec::new(),
            q: found.q,
            contact: found.contact,
        }
    }

    /// By Route and request URI; `None`: the one that it has.
    pub fn by_uri(uri: Option<Bytes>) -> Target {
        Target {
            uri,
            path: Bytes::new(),
            way: Way::Uri,
            next: Vec::new(),
            q: 1000,
            contact: None,
        }
    }

    /// As it is, to the first of these places that is reached; without any, by Route and request URI.
    pub fn by_next_hops(mut next: Vec<Bytes>) -> Target {
        next.reverse();
        Target {
            next,
            ..Target::by_uri(None)
        }
    }
}

/// How a place is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// On a flow. `token`: requests within the dialog must find it again, because the URI alone does not lead there. `nat`: its device is
    /// behind a NAT.
    Flow { flow: Flow, token: bool, nat: bool },
    /// By its first Route or its request URI (RFC 3263).
    Uri,
}

/// A request that is being forwarded.
#[derive(Debug)]
pub struct Context {
    /// Its server transaction, which may be gone.
    pub server: Id,
    pub flow: Flow,
    pub method: Method,
    pub routing: Routing,
    /// The hash of what routing depends on, for the branches (RFC 5393 section 4.2.1).
    pub loop_part: u64,
    /// Whether we stay in the dialog that it may make.
    pub record: bool,
    /// The caller is behind a NAT: requests to it must find its flow.
    pub caller_token: bool,
    /// The header with credentials that were for us.
    pub credentials: Option<usize>,
    /// Changes that are the same for all branches.
    pub edits: Edits,
    /// The outbound role's name for a REGISTER, for its response.
    pub register: Option<u64>,
    /// Max-Breadth for all branches together (RFC 5393 section 5.3).
    pub breadth: u32,
    pub branches: SmallVec<[Branch; 1]>,
    /// Places that are tried later, those with one q together.
    pub later: VecDeque<Vec<Target>>,
    /// When those are tried although others still ring.
    pub next_group: Alarm,
    pub best: Option<Best>,
    /// Challenges of the branches that were answered with 401 or 407.
    pub challenges: Vec<(usize, Vec<u8>)>,
    /// A response other than 100 was given.
    pub answered: bool,
    /// A final response was given.
    pub done: bool,
    pub cancelled: bool,
    /// The dialog that is followed.
    pub dialog: Option<Id>,
    /// The request belongs to a dialog, and does not make one.
    pub within: bool,
    pub created: Time,
}

impl Context {
    /// Whether every branch has its final response.
    pub fn settled(&self) -> bool {
        self.branches.iter().all(|branch| branch.over)
    }

    /// Whether nothing can come any more.
    pub fn finished(&self) -> bool {
        self.done
            && self.later.is_empty()
            && self
                .branches
                .iter()
                .all(|branch| branch.over && branch.client.is_none())
    }

    pub fn invite(&self) -> bool {
        self.method == Method::Invite
    }
}

/// One of the places.
#[derive(Debug)]
pub struct Branch {
    pub target: Target,
    /// The transaction that is under way, or that still takes responses.
    pub client: Option<Id>,
    pub query: Option<QueryId>,
    /// Where else it can be tried, the next one last (RFC 3263 section 4.3).
    pub hops: Vec<Hop>,
    /// Contacts of the same device that have failed.
    pub tried: SmallVec<[ContactId; 1]>,
    /// The listener that it was sent from.
    pub sent_from: Option<ListenerId>,
    /// It has its final response, or will not get any.
    pub over: bool,
    /// Timer C has fired, so whatever comes counts as 408.
    pub timed_out: bool,
    /// A provisional response has come.
    pub proceeding: bool,
}

impl Branch {
    pub fn new(target: Target) -> Branch {
        Branch {
            target,
            client: None,
            query: None,
            hops: Vec::new(),
            tried: SmallVec::new(),
            sent_from: None,
            over: false,
            timed_out: false,
            proceeding: false,
        }
    }
}
