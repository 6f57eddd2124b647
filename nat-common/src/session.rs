//! Sessions: a binding used with one remote endpoint. They carry the TCP state (RFC 7857 §2), the filter's memory of whom
//! a host has sent to (RFC 4787 REQ-8), and are where the policy is asked about new flows.

use crate::config::{Config, FLAG_POLICY, FLAG_POLICY_DENY, Filtering};
use crate::counters::{Reason, refused};
use crate::flow::{Endpoint, Proto, Side};
use crate::hash::{mix, second};
use crate::maps::{SESSION_BUCKET, Session, Slot};
use crate::policy::{ACTION_ALLOW, MAX_RULES};
use crate::raw::{below, opaque};
use crate::tables::Tables;

/// TCP control bits.
pub const FIN: u8 = 1;
/// Synchronise.
pub const SYN: u8 = 2;
/// Reset.
pub const RST: u8 = 4;
/// Acknowledge.
pub const ACK: u8 = 16;

/// State of a session. The TCP states are those of RFC 7857 figure 1, seen from inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SessionState {
    /// Not in use.
    Free = 0,
    /// Being written.
    Claimed = 1,
    /// A SYN from inside.
    Opening = 2,
    /// A SYN from outside.
    OpeningIn = 3,
    /// Begun in mid-stream from inside, after the state was lost; no answer yet.
    PickedUp = 4,
    /// Established.
    Established = 5,
    /// FIN from inside.
    FinOut = 6,
    /// FIN from outside.
    FinIn = 7,
    /// FIN from both.
    Closing = 8,
    /// Reset (RFC 7857 §2.2).
    Reset = 9,
    /// Not TCP.
    Plain = 10,
    /// Leave of a remote address to send, with remote port 0.
    Permission = 11,
}

impl SessionState {
    /// From its number.
    #[inline(always)]
    pub fn of(number: u8) -> Self {
        match number {
            0 => Self::Free,
            1 => Self::Claimed,
            2 => Self::Opening,
            3 => Self::OpeningIn,
            4 => Self::PickedUp,
            5 => Self::Established,
            6 => Self::FinOut,
            7 => Self::FinIn,
            8 => Self::Closing,
            9 => Self::Reset,
            10 => Self::Plain,
            _ => Self::Permission,
        }
    }

    /// Whether the established lifetime holds: until both sides have said FIN.
    #[inline(always)]
    pub fn established(self) -> bool {
        matches!(self, Self::Established | Self::FinOut | Self::FinIn)
    }

    /// The state after a TCP segment with `flags` from `side` (RFC 7857 figure 1).
    #[inline(always)]
    pub fn after(self, side: Side, flags: u8) -> Self {
        if flags & RST != 0 {
            return Self::Reset;
        }
        let inside = matches!(side, Side::Inside);
        if flags & SYN != 0 {
            return match self {
                Self::Opening if !inside => Self::Established,
                Self::OpeningIn if inside => Self::Established,
                // A new connection on the same endpoints.
                Self::Closing | Self::Reset | Self::PickedUp if inside => Self::Opening,
                Self::Closing | Self::Reset => Self::OpeningIn,
                other => other,
            };
        }
        if flags & FIN != 0 {
            return match self {
                Self::Established | Self::PickedUp | Self::Reset => {
                    if inside {
                        Self::FinOut
                    } else {
                        Self::FinIn
                    }
                }
                Self::FinOut if !inside => Self::Closing,
                Self::FinIn if inside => Self::Closing,
                other => other,
            };
        }
        match self {
            Self::Reset => Self::Established,
            Self::PickedUp if !inside => Self::Established,
            other => other,
        }
    }

    /// Lifetime in ticks.
    #[inline(always)]
    pub fn lifetime(self, cfg: &Config, proto: Proto) -> u32 {
        match proto {
            Proto::Udp => cfg.udp,
            Proto::Icmp => cfg.icmp,
            Proto::Tcp => match self {
                Self::Opening | Self::OpeningIn | Self::PickedUp => cfg.tcp_opening,
                Self::Closing | Self::Reset => cfg.tcp_closing,
                _ => cfg.tcp_established,
            },
        }
    }
}

/// [`Session::word`], taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionWord(pub u64);

impl SessionWord {
    /// Puts a word together.
    #[inline(always)]
    pub fn new(state: SessionState, generation: u16, stamp: u32) -> Self {
        Self(u64::from(stamp) | (state as u64) << 32 | u64::from(generation) << 40)
    }

    /// Last use in ticks.
    #[inline(always)]
    pub fn stamp(self) -> u32 {
        self.0 as u32
    }

    /// State.
    #[inline(always)]
    pub fn state(self) -> SessionState {
        SessionState::of((self.0 >> 32) as u8)
    }

    /// Generation of the slot it belongs to.
    #[inline(always)]
    pub fn generation(self) -> u16 {
        (self.0 >> 40) as u16
    }
}

/// One packet of a flow, as far as sessions care.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Flow {
    /// Slot of the binding.
    pub slot: u32,
    /// Its generation.
    pub generation: u16,
    /// Protocol.
    pub proto: Proto,
    /// TCP control bits.
    pub flags: u8,
    /// Inside endpoint.
    pub inside: Endpoint,
    /// Remote endpoint; port 0 for ICMP.
    pub remote: Endpoint,
}

/// Whether a session has outlived its lifetime or its binding.
#[inline(always)]
pub fn expired(cfg: &Config, proto: Proto, word: SessionWord, now: u32) -> bool {
    let age = now.wrapping_sub(word.stamp()) as i32;
    age >= 0 && age as u32 >= word.state().lifetime(cfg, proto)
}

/// A packet from `side` uses a binding: 0, or `REFUSED` and the reason.
#[inline(always)]
pub fn track<T: Tables>(t: &T, cfg: &Config, flow: &Flow, side: Side, now: u32) -> u32 {
    let Some(slot) = t.slot(flow.slot) else {
        return refused(Reason::Contended);
    };
    let result = match side {
        Side::Inside => outbound(t, cfg, slot, flow, now),
        Side::Outside => inbound(t, cfg, slot, flow, now),
    };
    match result {
        Ok(()) => 0,
        Err(reason) => refused(reason),
    }
}

/// Lets a packet from inside through: finds or makes its session, and gives the remote side leave to answer.
#[inline(always)]
fn outbound<T: Tables>(t: &T, cfg: &Config, slot: &Slot, flow: &Flow, now: u32) -> Result<(), Reason> {
    let full = keeps_sessions(cfg, flow.proto);
    let mut renew = true;
    if full {
        match get(t, cfg, flow, flow.remote.port, now) {
            Some(session) => renew = advance(cfg, slot, session, flow, Side::Inside, now),
            None => {
                if !allowed(t, cfg, Side::Inside, flow) {
                    return Err(Reason::Policy);
                }
                let state = match flow.proto {
                    Proto::Tcp if flow.flags & RST != 0 => return Err(Reason::NoSession),
                    Proto::Tcp if flow.flags & SYN != 0 => SessionState::Opening,
                    Proto::Tcp => SessionState::PickedUp,
                    _ => SessionState::Plain,
                };
                add(t, cfg, flow, state, now)?;
            }
        }
    }
    if renew && cfg.filtering(flow.proto) == Filtering::AddressDependent {
        match get(t, cfg, flow, 0, now) {
            Some(session) => {
                touch(cfg, session, now);
            }
            None => add(t, cfg, flow, SessionState::Permission, now)?,
        }
    }
    Ok(())
}

/// Whether a packet from outside may pass to the binding (RFC 4787 §5), and what it does to its session.
#[inline(always)]
fn inbound<T: Tables>(t: &T, cfg: &Config, slot: &Slot, flow: &Flow, now: u32) -> Result<(), Reason> {
    let open = slot.is_open();
    let full = keeps_sessions(cfg, flow.proto);
    if full && let Some(session) = get(t, cfg, flow, flow.remote.port, now) {
        advance(cfg, slot, session, flow, Side::Outside, now);
        return Ok(());
    }
    if !open {
        match cfg.filtering(flow.proto) {
            Filtering::EndpointIndependent => {}
            Filtering::AddressDependent => {
                if get(t, cfg, flow, 0, now).is_none() {
                    return Err(Reason::Filtered);
                }
            }
            Filtering::AddressAndPortDependent => return Err(Reason::Filtered),
        }
    }
    if !full {
        return Ok(());
    }
    let state = if flow.proto == Proto::Tcp {
        if flow.flags & (SYN | ACK | RST | FIN) != SYN {
            return Err(Reason::NoSession);
        }
        SessionState::OpeningIn
    } else {
        SessionState::Plain
    };
    if !allowed(t, cfg, Side::Outside, flow) {
        return Err(Reason::Policy);
    }
    add(t, cfg, flow, state, now)
}

/// Lets the sessions of a UDP flow live until `until` (ticks) without a packet, and its remote address's leave to send. Not for the data
/// path: their stamps are set ahead of time, so that it needs to know nothing.
pub fn keep<T: Tables>(t: &T, cfg: &Config, flow: &Flow, until: u32, now: u32) {
    let stamp = until.wrapping_sub(cfg.udp);
    for port in [flow.remote.port, 0] {
        if let Some(session) = get(t, cfg, flow, port, now) {
            let word = SessionWord(session.word.get());
            let kept = SessionWord::new(word.state(), word.generation(), stamp);
            if stamp.wrapping_sub(word.stamp()) as i32 > 0 {
                // If a packet was quicker, the session is as young as can be; the next refresh keeps it.
                session.word.replace(word.0, kept.0);
            }
        }
    }
}

/// Whether there is a session with `flow.remote`, or none is kept for this protocol: for ICMP errors.
#[inline(always)]
pub fn known<T: Tables>(t: &T, cfg: &Config, flow: &Flow, now: u32) -> bool {
    if keeps_sessions(cfg, flow.proto) {
        return get(t, cfg, flow, flow.remote.port, now).is_some();
    }
    cfg.filtering(flow.proto) == Filtering::EndpointIndependent || get(t, cfg, flow, 0, now).is_some()
}

/// Whether each remote endpoint has a session, or permissions suffice.
#[inline(always)]
fn keeps_sessions(cfg: &Config, proto: Proto) -> bool {
    proto == Proto::Tcp || cfg.has(FLAG_POLICY) || cfg.filtering(proto) == Filtering::AddressAndPortDependent
}

#[inline(always)]
fn add<T: Tables>(t: &T, cfg: &Config, flow: &Flow, state: SessionState, now: u32) -> Result<(), Reason> {
    if t.make_session(cfg, flow, state, now) {
        Ok(())
    } else {
        Err(Reason::SessionsFull)
    }
}

/// Moves a session on; true if its stamp was renewed.
#[inline(always)]
fn advance(cfg: &Config, slot: &Slot, session: &Session, flow: &Flow, side: Side, now: u32) -> bool {
    let word = SessionWord(session.word.get());
    let old = word.state();
    let new = if flow.proto == Proto::Tcp {
        old.after(side, flow.flags)
    } else {
        old
    };
    let age = now.wrapping_sub(word.stamp()) as i32;
    if new == old && age < cfg.refresh as i32 {
        return false;
    }
    if session
        .word
        .replace(word.0, SessionWord::new(new, word.generation(), now).0)
    {
        if new.established() && !old.established() {
            slot.established.add(1);
        } else if old.established() && !new.established() {
            slot.established.add(u32::MAX);
        }
    }
    true
}

#[inline(always)]
fn touch(cfg: &Config, session: &Session, now: u32) {
    let word = SessionWord(session.word.get());
    if now.wrapping_sub(word.stamp()) as i32 >= cfg.refresh as i32 {
        session
            .word
            .replace(word.0, SessionWord::new(word.state(), word.generation(), now).0);
    }
}

#[inline(always)]
fn buckets(cfg: &Config, flow: &Flow, port: u16) -> [u32; 2] {
    let key = u64::from(flow.slot) << 32 | u64::from(flow.remote.addr);
    let h = mix(key, cfg.secret ^ u64::from(port).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    [h as u32 & cfg.session_mask, second(h, cfg.session_mask)]
}

/// The number of the `i`th entry that a session with these buckets may have.
#[inline(always)]
fn place(buckets: [u32; 2], i: u32) -> u32 {
    let bucket = if i < SESSION_BUCKET { buckets[0] } else { buckets[1] };
    bucket * SESSION_BUCKET + i % SESSION_BUCKET
}

/// No session.
pub const NONE: u32 = u32::MAX;

/// The number of the session of `flow` with remote port `port`, or `NONE`.
#[inline(always)]
pub fn find<T: Tables>(t: &T, cfg: &Config, flow: &Flow, port: u16, now: u32) -> u32 {
    let buckets = buckets(cfg, flow, port);
    let mut i = 0;
    while i < 2 * SESSION_BUCKET {
        let index = place(buckets, i);
        i += 1;
        let Some(session) = t.session(index) else { return NONE };
        let word = SessionWord(session.word.get());
        if word.0 != 0
            && session.slot.get() == flow.slot
            && session.remote_addr.get() == flow.remote.addr
            && session.remote_port.get() == port
            && word.generation() == flow.generation
            && word.state() != SessionState::Claimed
            && !expired(cfg, flow.proto, word, now)
        {
            return index;
        }
    }
    NONE
}

/// The session of `flow` with remote port `port`.
#[inline(always)]
fn get<'t, T: Tables>(t: &'t T, cfg: &Config, flow: &Flow, port: u16, now: u32) -> Option<&'t Session> {
    t.session(t.find_session(cfg, flow, port, now))
}

/// Makes a session in state `state`. If there is no room, one that has expired or, failing that, one that never got beyond
/// its first packet gives way; an established one never does. False if that does not help either.
#[inline(always)]
pub fn make<T: Tables>(t: &T, cfg: &Config, flow: &Flow, state: SessionState, now: u32) -> bool {
    let port = if state == SessionState::Permission {
        0
    } else {
        flow.remote.port
    };
    let index = claim(t, cfg, flow, port, now);
    let Some(session) = t.session(index) else { return false };
    session.slot.set(flow.slot);
    session.remote_addr.set(flow.remote.addr);
    session.remote_port.set(port);
    session.created.set(now);
    session.word.set(SessionWord::new(state, flow.generation, now).0);
    true
}

/// Takes an entry for a session; `NONE` if there is none.
#[inline(always)]
fn claim<T: Tables>(t: &T, cfg: &Config, flow: &Flow, port: u16, now: u32) -> u32 {
    let buckets = buckets(cfg, flow, port);
    let mut i = 0;
    while i < 6 * SESSION_BUCKET {
        let index = place(buckets, i % (2 * SESSION_BUCKET));
        let urgency = i / (2 * SESSION_BUCKET);
        i += 1;
        let Some(session) = t.session(index) else { return NONE };
        let word = SessionWord(session.word.get());
        let usable = match urgency {
            0 => word.0 == 0,
            1 => word.state() != SessionState::Claimed && stale(t, cfg, session, word, now),
            _ => matches!(
                word.state(),
                SessionState::Opening | SessionState::OpeningIn | SessionState::PickedUp
            ),
        };
        if !usable {
            continue;
        }
        // Put together here and not before the loop: the stack is short.
        let claimed = SessionWord::new(SessionState::Claimed, flow.generation, opaque(now));
        if session.word.replace(word.0, claimed.0) {
            if word.state().established()
                && let Some(slot) = t.slot(session.slot.get())
                && generation_of(slot) == word.generation()
            {
                slot.established.add(u32::MAX);
            }
            return index;
        }
    }
    NONE
}

#[inline(always)]
fn generation_of(slot: &Slot) -> u16 {
    crate::maps::SlotWord(slot.word.get()).generation()
}

/// Whether the session in an entry has ended, with its binding or by time.
#[inline(always)]
pub fn stale<T: Tables>(t: &T, cfg: &Config, session: &Session, word: SessionWord, now: u32) -> bool {
    let index = session.slot.get();
    let (_, proto, _) = crate::ports::slot_parts(index);
    let Some(slot) = t.slot(index) else { return true };
    expired(cfg, proto, word, now) || generation_of(slot) != word.generation()
}

/// What the policy says of a new flow. The first rule that matches decides.
#[inline(always)]
pub fn allowed<T: Tables>(t: &T, cfg: &Config, side: Side, flow: &Flow) -> bool {
    if !cfg.has(FLAG_POLICY) {
        return true;
    }
    t.policy(cfg, side, flow)
}

/// Runs through the rules.
#[inline(always)]
pub fn judge<T: Tables>(t: &T, cfg: &Config, side: Side, flow: &Flow) -> bool {
    let (source, destination) = match side {
        Side::Inside => (flow.inside, flow.remote),
        Side::Outside => (flow.remote, flow.inside),
    };
    let mut i = 0;
    while i < MAX_RULES && below(i, cfg.policy_len) {
        let Some(rule) = t.rule(cfg.policy_first + i) else {
            return false;
        };
        i += 1;
        if rule.matches(side, flow.proto, source, destination) {
            return rule.action == ACTION_ALLOW;
        }
    }
    !cfg.has(FLAG_POLICY_DENY)
}

#[cfg(test)]
mod tests {
    use super::SessionState::*;
    use super::*;
    use Side::*;

    /// One step: state, side, flags, state after.
    const STEPS: &[(SessionState, Side, u8, SessionState)] = &[
        (Opening, Outside, SYN | ACK, Established),
        (Opening, Outside, SYN, Established), // simultaneous open, RFC 5382 REQ-2
        (Opening, Inside, SYN, Opening),
        (Opening, Inside, ACK, Opening),
        (Opening, Outside, ACK, Opening),
        (Opening, Outside, RST | ACK, Reset),
        (OpeningIn, Inside, SYN | ACK, Established),
        (OpeningIn, Outside, SYN, OpeningIn),
        (PickedUp, Inside, ACK, PickedUp),
        (PickedUp, Outside, ACK, Established),
        (Established, Inside, ACK, Established),
        (Established, Outside, SYN, Established),
        (Established, Inside, FIN | ACK, FinOut),
        (Established, Outside, FIN | ACK, FinIn),
        (FinOut, Inside, FIN | ACK, FinOut),
        (FinOut, Outside, ACK, FinOut),
        (FinOut, Outside, FIN | ACK, Closing),
        (FinIn, Inside, FIN | ACK, Closing),
        (FinIn, Outside, FIN, FinIn),
        (Closing, Inside, ACK, Closing),
        (Closing, Inside, SYN, Opening),
        (Closing, Outside, SYN, OpeningIn),
        (Established, Outside, RST, Reset),
        (FinIn, Inside, RST, Reset),
        (Reset, Inside, ACK, Established),
        (Reset, Outside, RST, Reset),
        (Reset, Inside, SYN, Opening),
    ];

    #[test]
    fn tcp_state_table() {
        for &(state, side, flags, after) in STEPS {
            assert_eq!(state.after(side, flags), after, "{state:?} {side:?} {flags:#x}");
        }
    }
}
