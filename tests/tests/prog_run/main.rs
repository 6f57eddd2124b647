//! The kernel program by itself, without a network: packets go through it by BPF_PROG_TEST_RUN.
//!
//! What the host build does with a packet is tested thoroughly in nat-common; here the program that the verifier accepted
//! does the same with the same packets, byte by byte. And what only the kernel has, two processors at the same tables, is
//! tried with the real atomic instructions and locks.
//!
//! The program's clock stands still (it counts in units of months), and every destination is in its cache before it asks:
//! so nothing depends on time or on the routing table. Needs root.

mod full;
mod race;
mod relay;
mod rig;
mod same;
mod trunk;
mod twin;
mod watch;
