//! What is to be done with a packet.

use crate::counters::{Action, Reason};

/// The outcome of the decision. Written changes are already in the packet when this says [`Verdict::Forward`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send it out by the interface with this number.
    Forward(Reason, u32),
    /// Leave it to the kernel, untouched.
    Pass(Reason),
    /// Drop it.
    Drop(Reason),
    /// Copy it to the slow path and drop it.
    Punt(Reason, Argument),
}

/// What the slow path has to know beside the packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Argument {
    /// MTU or next hop, see [`crate::event::Punt`].
    pub value: u32,
    /// Index of the interface of the way out.
    pub out: u32,
}

/// A verdict in one register: functions of the kernel program return this, because the verifier refuses what is left in
/// the return register of one that returns a struct by pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome(u64);

const FORWARD: u64 = 0;
const PASS: u64 = 1;
const DROP: u64 = 2;
const PUNT: u64 = 3;
/// Marks what is no outcome: no interface has such an index.
const OPEN: u64 = 0xffff_ffff << 32;

/// The result of a step: `Err` ends the packet's way.
pub type Step<T> = Result<T, Outcome>;

impl Outcome {
    /// No outcome yet: the next step decides.
    pub const GO_ON: Outcome = Outcome(u64::MAX);

    /// No outcome yet: the destination is slot `index`, a port of the media relay.
    #[inline(always)]
    pub const fn relay(index: u32) -> Self {
        Self(OPEN | index as u64)
    }

    /// Whether this is no outcome: [`Self::GO_ON`] or [`Self::relay`].
    #[inline(always)]
    pub const fn is_open(self) -> bool {
        self.0 & OPEN == OPEN
    }

    /// The slot of [`Self::relay`].
    #[inline(always)]
    pub const fn slot(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    const fn new(reason: Reason, action: u64, value: u32, out: u32) -> Self {
        Self(reason as u64 | action << 8 | (value as u64) << 10 | (out as u64) << 42)
    }

    /// Send it out by interface number `port`.
    #[inline(always)]
    pub const fn forward(reason: Reason, port: u32) -> Self {
        Self::new(reason, FORWARD, port, 0)
    }

    /// The same after [`crate::tables::Tables::announce`].
    #[inline(always)]
    pub const fn announced(reason: Reason, port: u32) -> Self {
        Self::new(reason, FORWARD, port, 1)
    }

    /// Hand it over to the second stage ([`crate::stage`]), which is on the way out by interface number `port`.
    #[inline(always)]
    pub const fn staged(port: u32) -> Self {
        Self::new(Reason::Outbound, FORWARD, port, 2)
    }

    /// Whether this is [`Self::staged`]: announced, and counted by the second stage.
    #[inline(always)]
    pub const fn is_staged(self) -> bool {
        self.0 >> 42 == 2 && self.0 >> 8 & 3 == FORWARD
    }

    /// Copy it to the slow path.
    #[inline(always)]
    pub const fn punt(reason: Reason, value: u32, out: u32) -> Self {
        Self::new(reason, PUNT, value, out)
    }

    /// As a plain number, for functions that return no other.
    #[inline(always)]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// From [`Self::number`].
    #[inline(always)]
    pub const fn of_number(number: u64) -> Self {
        Self(number)
    }

    /// The reason as a number.
    #[inline(always)]
    pub fn reason(self) -> u32 {
        (self.0 & 0xff) as u32
    }

    /// What is to be done.
    #[inline(always)]
    pub fn action(self) -> Action {
        match self.0 >> 8 & 3 {
            FORWARD => Action::Forward,
            PASS => Action::Pass,
            DROP => Action::Drop,
            _ => Action::Punt,
        }
    }

    /// Number of the interface of the way out, or the slow path's argument.
    #[inline(always)]
    pub fn argument(self) -> Argument {
        Argument {
            value: (self.0 >> 10) as u32,
            out: (self.0 >> 42) as u32,
        }
    }

    /// Taken apart.
    pub fn verdict(self) -> Verdict {
        let reason = Reason::ALL[self.reason() as usize];
        match self.action() {
            Action::Forward => Verdict::Forward(reason, self.argument().value),
            Action::Pass => Verdict::Pass(reason),
            Action::Drop => Verdict::Drop(reason),
            Action::Punt => Verdict::Punt(reason, self.argument()),
        }
    }
}

impl From<Reason> for Outcome {
    /// The outcome of a reason that needs no argument.
    #[inline(always)]
    fn from(reason: Reason) -> Self {
        let action = match reason.action() {
            Action::Punt => PUNT,
            Action::Pass => PASS,
            Action::Forward | Action::Drop => DROP,
        };
        Self::new(reason, action, 0, 0)
    }
}

impl Verdict {
    /// The reason.
    pub fn reason(&self) -> Reason {
        match self {
            Verdict::Forward(r, _) | Verdict::Pass(r) | Verdict::Drop(r) | Verdict::Punt(r, _) => *r,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_keep_what_they_are_made_of() {
        for &reason in Reason::ALL {
            let verdict = Outcome::from(reason).verdict();
            assert_eq!(verdict.reason(), reason);
            assert_eq!(Outcome::from(reason).reason(), reason as u32);
            match verdict {
                Verdict::Pass(_) => assert_eq!(reason.action(), Action::Pass),
                Verdict::Punt(..) => assert_eq!(reason.action(), Action::Punt),
                _ => assert!(matches!(reason.action(), Action::Drop | Action::Forward)),
            }
        }
        let staged = Outcome::staged(63);
        assert!(staged.is_staged() && !Outcome::announced(Reason::Outbound, 63).is_staged());
        assert_eq!(staged.verdict(), Verdict::Forward(Reason::Outbound, 63));
        let argument = Argument {
            value: u32::MAX,
            out: (1 << 22) - 1,
        };
        let punt = Outcome::punt(Reason::NoNeighbour, argument.value, argument.out);
        assert_eq!(punt.verdict(), Verdict::Punt(Reason::NoNeighbour, argument));
        assert_eq!(
            Outcome::forward(Reason::Outbound, 63).verdict(),
            Verdict::Forward(Reason::Outbound, 63)
        );
    }
}
