//! One named test for each requirement of the NAT RFCs, with real traffic, against whatever NAT `SIPNAT_LAB_NAT` names.
//! `cargo xtask scorecard` runs them against sipnat and nftables, and writes `docs/scorecard.md` from what it saw.

mod scene;

mod rfc1191;
mod rfc1624;
mod rfc1812;
mod rfc4787;
mod rfc5382;
mod rfc5508;
mod rfc6864;
mod rfc6888;
mod rfc7422;
mod rfc7857;
