//! A NAT with two sides to send frames into.

use super::frames::Frame;
use super::oracle::{self, View};
use super::tables::MemTables;
use crate::counters::Reason;
use crate::flow::{Endpoint, InsideKey, Proto, Side};
use crate::maps::{ROLE_INSIDE, ROLE_OUTSIDE};
use crate::packet::Bytes;
use crate::verdict::Verdict;
use std::vec::Vec;

/// Tables, and frames that go through them. Every frame's way is checked against [`oracle::check`].
pub struct World {
    /// The tables.
    pub tables: MemTables,
}

impl World {
    /// A frame from inside, on the first inside interface.
    pub fn inside(&self, frame: impl Into<Bytes>) -> (Verdict, Bytes) {
        self.on(Side::Inside, self.device(ROLE_INSIDE), frame)
    }

    /// A frame from outside, on the first outside interface.
    pub fn outside(&self, frame: impl Into<Bytes>) -> (Verdict, Bytes) {
        self.on(Side::Outside, self.device(ROLE_OUTSIDE), frame)
    }

    /// A frame on the device with index `device`.
    ///
    /// # Panics
    /// If the data path does something that it may do with no packet.
    pub fn on(&self, side: Side, device: u32, frame: impl Into<Bytes>) -> (Verdict, Bytes) {
        let before: Bytes = frame.into();
        let (verdict, after, checked) = self.try_on(side, device, &before);
        if let Err(wrong) = checked {
            panic!("{wrong}: {verdict:?} of {before:02x?} gave {after:02x?}");
        }
        (verdict, after)
    }

    /// The same with the outcome of the check.
    pub fn try_on(&self, side: Side, device: u32, before: &Bytes) -> (Verdict, Bytes, Result<(), std::string::String>) {
        let mut after = before.clone();
        let verdict = self.tables.run(side, device, &mut after);
        let checked = oracle::check(&self.tables, side, &before.0, &verdict, &after.0);
        (verdict, after, checked)
    }

    /// Sends a frame that must be forwarded from inside; says what came out.
    pub fn out(&self, frame: &Frame) -> View {
        forwarded(self.inside(frame))
    }

    /// Sends a frame that must be forwarded from outside; says what came out.
    pub fn back(&self, frame: &Frame) -> View {
        forwarded(self.outside(frame))
    }

    /// The reason that a frame from inside ends with.
    pub fn out_reason(&self, frame: &Frame) -> Reason {
        self.inside(frame).0.reason()
    }

    /// The reason that a frame from outside ends with.
    pub fn back_reason(&self, frame: &Frame) -> Reason {
        self.outside(frame).0.reason()
    }

    /// The external endpoint that an inside endpoint is bound to.
    pub fn external(&self, proto: Proto, inside: Endpoint) -> Option<Endpoint> {
        let t = &self.tables;
        let slot = crate::binding::find(t, t.active(), &InsideKey { proto, inside }, t.time())?;
        crate::binding::external_of(t, slot)
    }

    fn device(&self, role: u8) -> u32 {
        let first = self.tables.interfaces.iter().find(|i| i.role == role);
        first.expect("an interface on each side").device
    }
}

fn forwarded((verdict, bytes): (Verdict, Bytes)) -> View {
    assert!(matches!(verdict, Verdict::Forward(..)), "not forwarded: {verdict:?}");
    View::of(&bytes.0).expect("what is forwarded is a packet")
}

impl From<&Frame> for Bytes {
    fn from(frame: &Frame) -> Self {
        frame.bytes()
    }
}

impl From<Frame> for Bytes {
    fn from(frame: Frame) -> Self {
        frame.bytes()
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(frame: Vec<u8>) -> Self {
        Self(frame)
    }
}
