//! RFC 3261: SIP.

mod cancel;
mod forking;
mod messages;
mod proxy;
mod redirect;
mod registrar;
mod security;
mod transactions;
mod transport;
