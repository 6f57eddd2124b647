//! What became of a message, judged by the bytes that the core would send.

use nat_user::sip::message::{HeaderName, Message};

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Passed on, with all bytes as they were but those that a proxy changes.
    Forwarded,
    /// Answered with this code by us.
    Answered(u16),
    /// A REGISTER that has made a contact.
    Registered,
    /// Nobody is told.
    Silent,
}

/// Whether a forwarded message is the received one but for what RFC 3261 section 16.6 has a proxy change: Via, Max-Forwards, Route, Record-Route
/// and the request line, and Max-Breadth (RFC 5393). The error says what else differs.
pub fn check_forwarded(received: &Message, sent: &Message) -> Result<(), String> {
    let (before, after) = (rest(received), rest(sent));
    if before != after {
        return Err(format!(
            "more has changed than a proxy may change:\n{}\n---\n{}",
            String::from_utf8_lossy(&before),
            String::from_utf8_lossy(&after)
        ));
    }
    // Ours is on top; of the others only the first may have got what it asked for.
    let vias = |message: &Message| -> Vec<Vec<u8>> {
        message
            .items(HeaderName::Via)
            .map(|item| message.text(item.span).to_vec())
            .collect()
    };
    let (before, after) = (vias(received), vias(sent));
    if after.len() != before.len() + 1 || (before.len() > 1 && before[1..] != after[2..]) {
        return Err("the Vias of others have changed".into());
    }
    if !after[1].starts_with(before[0].split(|byte| *byte == b';').next().unwrap_or_default()) {
        return Err("the topmost Via has changed in more than its parameters".into());
    }
    let left = received.number(HeaderName::MaxForwards).map_or(70, |left| left - 1);
    if sent.number(HeaderName::MaxForwards) != Some(left) {
        return Err(format!("Max-Forwards is not {left}"));
    }
    Ok(())
}

/// All bytes but those lines that a proxy changes.
fn rest(message: &Message) -> Vec<u8> {
    let changed: [HeaderName; 5] = [
        HeaderName::Via,
        HeaderName::MaxForwards,
        HeaderName::Route,
        HeaderName::RecordRoute,
        HeaderName::MaxBreadth,
    ];
    let mut bytes = Vec::new();
    for header in message
        .headers()
        .iter()
        .filter(|header| !changed.contains(&header.name))
    {
        bytes.extend_from_slice(message.text(header.line));
    }
    // What a datagram has behind its Content-Length is no part of the message (section 18.3).
    bytes.extend_from_slice(&message.bytes()[message.headers_end() as usize..message.body_start() as usize]);
    bytes.extend_from_slice(message.body());
    bytes
}
