//! Media of calls, the control plane's part: from offers and answers to pinholes and relays (RFC 3264, RFC 8866).
//!
//! Sans-IO like the SIP core: a [`Session`](session::Session) is one call. Messages with the facts about both sides go in; splices of their
//! session descriptions and [`Command`](command::Command)s for the data path come out. Ports come from whoever implements
//! [`Ports`](command::Ports), because a description must name them at once; everything else may happen later.

pub mod command;
pub mod end;
pub mod mos;
pub mod policy;
pub mod sdp;
pub mod session;
mod stored;
