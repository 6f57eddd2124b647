//! What is refused when there is too much (in the spirit of RFC 7339): new registrations first, then new calls. What ends or goes on with
//! something that was begun is never refused.

use crate::sip::{core::seam::Answer, message::Method, proxy::best::reason};

/// Limits by the number of server transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overload {
    most: usize,
}

/// Seconds after which a refused request may come again.
const RETRY_AFTER: &[u8] = b"Retry-After: 10\r\n";

impl Overload {
    /// `most`: server transactions at one time.
    pub fn new(most: u32) -> Overload {
        Overload {
            most: most.max(1) as usize,
        }
    }

    /// Whether a new request is refused, while `open` server transactions are under way. `privileged`: within a dialog, or an emergency.
    pub fn refuses(&self, method: Method, privileged: bool, open: usize) -> Option<Answer> {
        let share = match method {
            Method::Ack | Method::Bye | Method::Cancel | Method::Prack | Method::Update => return None,
            _ if privileged => return None,
            Method::Register | Method::Options | Method::Publish => 80,
            _ => 95,
        };
        if open * 100 < self.most * share {
            return None;
        }
        let mut refused = Answer::new(503, reason(503));
        refused.headers.extend_from_slice(RETRY_AFTER);
        Some(refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registrations_go_first_then_calls_and_never_what_was_begun() {
        let overload = Overload::new(1000);
        let refused = |method, open| overload.refuses(method, false, open).map(|answer| answer.code);
        assert_eq!(refused(Method::Register, 799), None);
        assert_eq!(refused(Method::Register, 800), Some(503));
        assert_eq!(refused(Method::Invite, 949), None);
        assert_eq!(refused(Method::Invite, 950), Some(503));
        for method in [Method::Ack, Method::Bye, Method::Cancel] {
            assert_eq!(refused(method, 5000), None);
        }
        assert_eq!(
            overload.refuses(Method::Invite, true, 5000),
            None,
            "an emergency, or within a dialog"
        );
    }
}
