//! The shell over loopback, with a core that echoes.

mod echo;
mod names;
mod tcp;
mod tls;
mod udp;
