//! Which descriptions are offers and which are answers (RFC 3261 section 13.2.1, RFC 3262, RFC 3311, RFC 6337 section 2.1).

use crate::sip::message::Method;

/// What a description is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Offer,
    Answer,
    /// There is none, or one that means nothing where it is.
    Neither,
}

/// What has been offered in the transactions of a dialog that are under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exchange {
    /// The last INVITE had an offer. Without one its response has it, and ACK or PRACK the answer.
    invite: bool,
    /// An offer came in a provisional response, and PRACK has not answered it yet.
    waits_for_prack: bool,
    prack: bool,
    update: bool,
}

impl Exchange {
    /// A message passes. `code`: that of a response; `sdp`: it has a description.
    pub fn role(&mut self, method: Method, code: Option<u16>, sdp: bool) -> Role {
        let role = match (method, code) {
            (Method::Invite, None) => {
                self.invite = sdp;
                self.waits_for_prack = false;
                Role::Offer
            }
            (Method::Invite, Some(100..300)) if self.invite => Role::Answer,
            (Method::Invite, Some(code @ 100..300)) => {
                self.waits_for_prack |= sdp && code < 200;
                Role::Offer
            }
            (Method::Ack, None) if !self.invite => Role::Answer,
            (Method::Prack, None) => {
                let answers = self.waits_for_prack && sdp;
                self.waits_for_prack &= !answers;
                self.prack = sdp && !answers;
                if answers { Role::Answer } else { Role::Offer }
            }
            (Method::Prack, Some(200..300)) if self.prack => Role::Answer,
            (Method::Update, None) => {
                self.update = sdp;
                Role::Offer
            }
            (Method::Update, Some(200..300)) if self.update => Role::Answer,
            _ => Role::Neither,
        };
        if sdp { role } else { Role::Neither }
    }
}

#[cfg(test)]
mod tests {
    use super::{Method::*, Role::*, *};

    #[test]
    fn offers_and_answers_of_rfc_6337() {
        // Each: messages in their order, what their descriptions are.
        /// A method, the code of a response to it, whether it has a description, and what that is.
        type Seen = (Method, Option<u16>, bool, Role);
        let flows: &[&[Seen]] = &[
            // 1: INVITE, 2xx; an unreliable response before it shows the answer already.
            &[
                (Invite, None, true, Offer),
                (Invite, Some(180), false, Neither),
                (Invite, Some(183), true, Answer),
                (Invite, Some(200), true, Answer),
                (Ack, None, false, Neither),
            ],
            // 2: 2xx, ACK, and a copy of both.
            &[
                (Invite, None, false, Neither),
                (Invite, Some(180), false, Neither),
                (Invite, Some(200), true, Offer),
                (Ack, None, true, Answer),
                (Invite, Some(200), true, Offer),
                (Ack, None, true, Answer),
            ],
            // 3: INVITE, reliable 1xx; 4: PRACK, its 2xx; 5: UPDATE, its 2xx.
            &[
                (Invite, None, true, Offer),
                (Invite, Some(183), true, Answer),
                (Prack, None, true, Offer),
                (Prack, Some(200), true, Answer),
                (Update, None, true, Offer),
                (Update, Some(200), true, Answer),
                (Invite, Some(200), false, Neither),
                (Ack, None, true, Neither),
            ],
            // 6: reliable 1xx, PRACK.
            &[
                (Invite, None, false, Neither),
                (Invite, Some(183), true, Offer),
                (Prack, None, true, Answer),
                (Prack, Some(200), false, Neither),
                (Invite, Some(200), false, Neither),
                (Ack, None, false, Neither),
            ],
            // UPDATE without one (RFC 4028), and failures.
            &[
                (Update, None, false, Neither),
                (Update, Some(200), true, Neither),
                (Update, None, true, Offer),
                (Update, Some(488), true, Neither),
                (Invite, None, true, Offer),
                (Invite, Some(488), true, Neither),
                (Bye, None, true, Neither),
            ],
        ];
        for flow in flows {
            let mut exchange = Exchange::default();
            for (method, code, sdp, role) in *flow {
                assert_eq!(
                    exchange.role(*method, *code, *sdp),
                    *role,
                    "{method:?} {code:?} of {flow:?}"
                );
            }
        }
    }
}
