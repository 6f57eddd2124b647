//! RFC 5508: NAT behaviour for ICMP.

mod errors;
mod own;
mod queries;
