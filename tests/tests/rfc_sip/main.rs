//! One named test for each requirement of the SIP RFCs that the server has to meet, with real messages over real sockets, against whatever
//! server `SIPNAT_LAB_SIP` names. `cargo xtask scorecard` runs them against sipnat and kamailio, and writes `docs/scorecard.md` from what it saw.
//!
//! What takes minutes (timer C, session timers) is shown by tests of `nat-user` with a simulated clock, which the scorecard runs too. The messages of
//! RFC 4475 and RFC 5118 are in `sip_torture`.

mod digest;
mod media;
mod scene;

mod rfc3261;
mod rfc3262;
mod rfc3263;
mod rfc3264;
mod rfc3327;
mod rfc3550;
mod rfc3581;
mod rfc3605;
mod rfc3665;
mod rfc4028;
mod rfc4961;
mod rfc5393;
mod rfc5626;
mod rfc5761;
mod rfc5923;
mod rfc6026;
mod rfc6223;
mod rfc6665;
mod rfc7339;
mod rfc7616;
mod rfc7983;
mod rfc8760;
