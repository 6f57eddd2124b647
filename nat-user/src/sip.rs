//! The SIP server: registrar, proxy, redirect server and outbound proxy for phones behind NATs (RFC 3261, 3581, 5626).
//!
//! Everything that decides is sans-IO: [`command::Input`] and the time go in, [`command::Command`]s come out. Sockets, clocks, files
//! and DNS are at the edge (`transport`), so registrar, transactions, paths and dialogs are tested with a simulated clock.

pub mod auth;
pub mod calls;
pub mod command;
pub mod compose;
pub mod core;
pub mod dialog;
pub mod directory;
pub mod edge;
pub mod engine;
pub mod flow;
pub mod limits;
pub mod location;
pub mod message;
pub mod metrics;
pub mod observe;
pub mod overload;
pub mod path;
pub mod proxy;
pub mod query;
pub mod redirect;
pub mod registrar;
pub mod resolve;
pub mod route;
pub mod server;
pub mod targets;
pub mod time;
pub mod timers;
pub mod token;
pub mod trace;
pub mod transaction;
pub mod transport;
pub mod users;
