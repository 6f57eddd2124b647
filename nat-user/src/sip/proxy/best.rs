//! Which of several final responses is given (RFC 3261 section 16.7 items 6 and 7).

use crate::sip::message::{HeaderName, Message};

/// A final response that waits for the others.
#[derive(Debug)]
pub enum Best {
    /// It came, on this branch.
    Received { branch: usize, message: Box<Message> },
    /// We make it: a timeout, a place that cannot be reached.
    Own(u16),
}

impl Best {
    pub fn code(&self) -> u16 {
        match self {
            Best::Received { message, .. } => message.code().unwrap_or(500),
            Best::Own(code) => *code,
        }
    }

    /// Takes whichever is better.
    pub fn choose(known: &mut Option<Best>, other: Best) {
        let better = match known {
            None => true,
            Some(known) => rank(other.code()) < rank(known.code()),
        };
        if better {
            *known = Some(other);
        }
    }
}

/// Less is better: 6xx, then the lowest class, in class 4 those that say how the request can be repaired.
fn rank(code: u16) -> (u16, u16) {
    match code {
        600.. => (0, 0),
        401 | 407 | 415 | 420 | 484 => (4, 0),
        // A branch of ours that timed out or was cancelled tells less than any answer.
        408 | 487 => (4, 2),
        // 503 says nothing about others (section 16.7 item 6).
        503 => (5, 1),
        code if code / 100 == 4 => (4, 1),
        code => (code / 100, 0),
    }
}

/// The challenges of a response, as header lines.
pub fn challenges(response: &Message) -> Vec<u8> {
    let mut lines = Vec::new();
    for header in response.headers() {
        if matches!(header.name, HeaderName::WwwAuthenticate | HeaderName::ProxyAuthenticate) {
            lines.extend_from_slice(header.name.name().as_bytes());
            lines.extend_from_slice(b": ");
            lines.extend_from_slice(response.text(header.value));
            lines.extend_from_slice(b"\r\n");
        }
    }
    lines
}

/// What we say with our own codes.
pub fn reason(code: u16) -> &'static str {
    match code {
        100 => "Trying",
        200 => "OK",
        302 => "Moved Temporarily",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        408 => "Request Timeout",
        416 => "Unsupported URI Scheme",
        420 => "Bad Extension",
        430 => "Flow Failed",
        440 => "Max-Breadth Exceeded",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        482 => "Loop Detected",
        483 => "Too Many Hops",
        486 => "Busy Here",
        487 => "Request Terminated",
        488 => "Not Acceptable Here",
        500 => "Server Internal Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        513 => "Message Too Large",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_is_chosen() {
        let best = |codes: &[u16]| {
            let mut best = None;
            codes.iter().for_each(|code| Best::choose(&mut best, Best::Own(*code)));
            best.unwrap().code()
        };
        assert_eq!(best(&[486, 302, 503]), 302);
        assert_eq!(best(&[404, 401, 500]), 401);
        assert_eq!(best(&[404, 603, 302]), 603);
        assert_eq!(best(&[408, 486]), 486);
        assert_eq!(best(&[503, 500]), 500);
        assert_eq!(best(&[486, 480]), 486, "the first of equals");
    }
}
