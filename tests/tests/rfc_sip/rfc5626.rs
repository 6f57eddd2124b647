//! RFC 5626: client-initiated connections.

mod edge;
mod keepalive;
mod registrar;
