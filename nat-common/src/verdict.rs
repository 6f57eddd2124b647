//! What is to be done with a packet.

use crate::counters::Reason;

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

/// The result of a step: `Err` ends the packet's way.
pub type Step<T> = Result<T, Verdict>;

impl From<Reason> for Verdict {
    /// The verdict of a reason that needs no argument.
    #[inline(always)]
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Quota
            | Reason::Exhausted
            | Reason::Policy
            | Reason::TtlExpired
            | Reason::Unreachable
            | Reason::FragmentOrphan
            | Reason::TooBig
            | Reason::NoNeighbour => Verdict::Punt(reason, Argument { value: 0, out: 0 }),
            Reason::NotIpv4
            | Reason::ForeignVlan
            | Reason::ToRouter
            | Reason::Multicast
            | Reason::Bypass
            | Reason::Elsewhere
            | Reason::Unbound => Verdict::Pass(reason),
            _ => Verdict::Drop(reason),
        }
    }
}

impl Verdict {
    /// The reason.
    #[inline(always)]
    pub fn reason(&self) -> Reason {
        match self {
            Verdict::Forward(r, _) | Verdict::Pass(r) | Verdict::Drop(r) | Verdict::Punt(r, _) => *r,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::Action;

    #[test]
    fn verdicts_agree_with_the_table_of_reasons() {
        for &reason in Reason::ALL {
            let expected = reason.action();
            match Verdict::from(reason) {
                Verdict::Pass(_) => assert_eq!(expected, Action::Pass, "{reason:?}"),
                Verdict::Punt(..) => assert_eq!(expected, Action::Punt, "{reason:?}"),
                _ => assert!(matches!(expected, Action::Drop | Action::Forward), "{reason:?}"),
            }
        }
    }
}
