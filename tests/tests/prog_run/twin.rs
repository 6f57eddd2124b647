//! A host build beside the kernel program that can make no other choice than the kernel did.
//!
//! Both choose ports at random. So the kernel goes first, and then the host finds every port taken but the one that the
//! kernel took: if its answer is the same, the kernel's choice was one that the host could have made, and every byte can be
//! compared.

use nat_common::counters::Action;
use nat_common::flow::{Endpoint, Side};
use nat_common::memory::oracle::{self, View, ones};
use nat_common::memory::{MemTables, Setup};
use nat_common::packet::Bytes;
use nat_common::raw::Word64;
use nat_common::relay::Leg;
use nat_common::tables::Tables;
use nat_common::verdict::Verdict;
use nat_common::watch::Copied;
use nat_user::dataplane::tables::UserTables;

use crate::rig::{DROP, PASS, REDIRECT, Ran, Rig};

/// What the daemon is told of a registration, and the message.
pub type HostCopy = (Copied, Vec<u8>);

/// A NAT that is asked twice: in the kernel and on the host.
pub struct Twin<'r> {
    rig: &'r mut Rig,
    host: MemTables,
    /// Goes before the kernel, with the choice that the kernel will have, to learn which destinations are asked for.
    scout: MemTables,
    setup: Setup,
}

impl<'r> Twin<'r> {
    /// Fresh tables on both sides.
    pub fn new(rig: &'r mut Rig, setup: &Setup) -> Self {
        let [host, scout] = [0; 2].map(|_| rig.memory(setup));
        rig.reset(&host);
        Self {
            rig,
            host,
            scout,
            setup: setup.clone(),
        }
    }

    /// A frame from inside that has to be forwarded: the external endpoint that it got.
    pub fn first(&mut self, frame: &[u8]) -> Endpoint {
        let (verdict, ran) = self.both(Side::Inside, frame).unwrap_or_else(|wrong| panic!("{wrong}"));
        assert!(matches!(verdict, Verdict::Forward(..)), "the first packet: {verdict:?}");
        // The scout has chosen another port. A new one makes the kernel's choice too.
        self.scout = self.rig.memory(&self.setup);
        let device = self.rig.device(Side::Inside);
        let seen = View::of(&ran.bytes).expect("a packet");
        confine(&self.scout, self.rig);
        self.scout.run(Side::Inside, device, &mut Bytes(frame.to_vec()));
        relax(&self.scout, self.rig);
        Endpoint::new(seen.source, seen.ports.0)
    }

    /// The registrations that the daemon got copies of since this was asked last: from the kernel, and from the host.
    pub fn copies(&mut self) -> (Vec<Vec<u8>>, Vec<HostCopy>) {
        (self.rig.copies(), self.host.copies())
    }

    /// Changes the tables of the kernel, and in the same way those of the host.
    pub fn each(&mut self, kernel: impl Fn((&UserTables, u32)), host: impl Fn((&MemTables, u32))) {
        let now = self.host.time();
        kernel((&self.rig.tables, now));
        host((&self.host, now));
        host((&self.scout, now));
    }

    /// A leg of the kernel's and the same of the host's.
    pub fn legs(&self, number: u32) -> (&Leg, &Leg) {
        let [kernel, host] = [self.rig.tables.leg(number), self.host.leg(number)];
        (kernel.expect("a leg"), host.expect("a leg"))
    }

    /// One frame through both; the error says in what they differ.
    pub fn both(&mut self, side: Side, frame: &[u8]) -> Result<(Verdict, Ran), String> {
        let device = self.rig.device(side);
        self.scout.run(side, device, &mut Bytes(frame.to_vec()));
        self.rig.believe(&self.scout);
        let ran = self.rig.run(side, frame);
        confine(&self.host, self.rig);
        let mut after = Bytes(frame.to_vec());
        let verdict = self.host.run(side, device, &mut after);
        relax(&self.host, self.rig);
        if !self.rig.asked_nobody() {
            return Err(ASKED.into());
        }
        let action = match verdict {
            Verdict::Forward(..) => REDIRECT,
            Verdict::Pass(_) => PASS,
            Verdict::Drop(_) | Verdict::Punt(..) => DROP,
        };
        if (action, verdict.reason()) != (ran.action, ran.reason) {
            return Err(format!(
                "the host says {verdict:?}, the kernel {:?} {:?}",
                ran.action, ran.reason
            ));
        }
        oracle::check(&self.host, side, frame, &verdict, &ran.bytes).map_err(|wrong| format!("the kernel {wrong}"))?;
        let mut bytes = ran.bytes.clone();
        if verdict.reason().action() == Action::Forward {
            same_id(&mut bytes, &after.0);
        }
        if bytes != after.0 {
            return Err(format!(
                "{verdict:?} of {frame:02x?}\nkernel {bytes:02x?}\nhost   {:02x?}",
                after.0
            ));
        }
        Ok((verdict, ran))
    }
}

/// Two destinations of one packet are at the same place in the cache, so the program had to ask the kernel for routes.
pub const ASKED: &str = "the program asked for a route";

/// Gives the kernel's packet the identification of the host's, if the NAT may have chosen it.
fn same_id(kernel: &mut [u8], host: &[u8]) {
    let (Some(ours), Some(theirs)) = (View::of(kernel), View::of(host)) else {
        return;
    };
    // RFC 6864: what cannot be fragmented keeps its identification.
    if theirs.fragment & 0x4000 != 0 && theirs.fragment & 0x3fff == 0 {
        return;
    }
    let header = &mut kernel[ours.ip.start..ours.ip.start + ours.header_len];
    header[4..6].copy_from_slice(&theirs.id.to_be_bytes());
    header[10..12].fill(0);
    let check = !ones(&[header]);
    header[10..12].copy_from_slice(&check.to_be_bytes());
}

/// Leaves `t` only the ports and blocks that the kernel has taken. If that is nothing new, `t` keeps its choice: whether a
/// port is taken matters to other packets than those that need one, too.
fn confine(t: &MemTables, rig: &Rig) {
    let known = |(index, kernel): (u32, &Word64)| t.used_ports(index).unwrap().get() == kernel.get();
    if (0..).zip(rig.tables.used_ports.iter()).all(known) {
        return;
    }
    for (index, kernel) in (0..).zip(rig.tables.used_ports.iter()) {
        t.used_ports(index).unwrap().or(!kernel.get());
    }
    for (index, kernel) in (0..).zip(rig.tables.free_blocks.iter()) {
        t.free_blocks(index).unwrap().and(!kernel.get());
    }
    count(t, rig);
}

/// All that is free in the kernel is free in `t` again.
fn relax(t: &MemTables, rig: &Rig) {
    for (index, kernel) in (0..).zip(rig.tables.used_ports.iter()) {
        t.used_ports(index).unwrap().and(kernel.get());
    }
    for (index, kernel) in (0..).zip(rig.tables.free_blocks.iter()) {
        t.free_blocks(index).unwrap().or(kernel.get());
    }
    count(t, rig);
}

/// There is one external address.
fn count(t: &MemTables, rig: &Rig) {
    let words = 0..rig.tables.free_blocks.len() as u32;
    let free = words.map(|index| t.free_blocks(index).unwrap().get().count_ones());
    t.address(0).unwrap().free_blocks.set(u64::from(free.sum::<u32>()));
}
