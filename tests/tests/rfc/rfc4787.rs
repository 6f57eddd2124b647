//! RFC 4787: NAT behaviour for UDP.

mod discovery;
mod filtering;
mod fragments;
mod hairpin;
mod icmp;
mod lifetime;
mod mapping;
mod ports;
