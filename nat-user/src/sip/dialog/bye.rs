//! The BYE that this server sends itself, in the name of each side to the other (RFC 3261 section 15), because the media of a call has ended.
//!
//! It is the next request of the side that it seems to come from, as far as that side's requests have passed here. Where one has gone another way, its number
//! is too low, and the peer answers 500 (section 12.2.2): it ends by its session timer then, or when its user hangs up. So does a peer that asks the
//! sender of a BYE for a password.

use bytes::Bytes;

use super::{Callee, Dialog, Leg};
use crate::media::command::Side;

impl Dialog {
    /// The BYE to one side of the dialog with a callee, without a Via. `None`: that side has never said where it is reached.
    pub fn bye(&self, callee: &Callee, to: Side) -> Option<Bytes> {
        let caller = (&self.caller, &self.from, &self.caller_tag);
        let callee = (&callee.leg, &self.to, &callee.tag);
        let (sender, receiver) = match to {
            Side::Caller => (callee, caller),
            Side::Callee => (caller, callee),
        };
        let leg: &Leg = receiver.0;
        if leg.target.is_empty() {
            return None;
        }
        let mut out = Vec::with_capacity(512);
        let mut put = |parts: &[&[u8]]| parts.iter().for_each(|part| out.extend_from_slice(part));
        put(&[b"BYE ", &leg.target, b" SIP/2.0\r\nMax-Forwards: 71\r\n"]);
        if !leg.routes.is_empty() {
            put(&[b"Route: ", &leg.routes, b"\r\n"]);
        }
        put(&[b"From: <", sender.1, b">;tag=", sender.2, b"\r\n"]);
        put(&[b"To: <", receiver.1, b">;tag=", receiver.2, b"\r\n"]);
        let cseq = sender.0.cseq.saturating_add(1).to_string();
        put(&[b"Call-ID: ", &self.call_id, b"\r\nCSeq: ", cseq.as_bytes(), b" BYE\r\n"]);
        // RFC 3326.
        put(&[b"Reason: SIP;cause=408;text=\"No media\"\r\nContent-Length: 0\r\n\r\n"]);
        Some(out.into())
    }
}
