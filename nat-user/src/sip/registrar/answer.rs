//! What responses to REGISTER say (RFC 3261 section 10.3 step 8).

use std::io::Write as _;

use super::{Circumstances, Registrar};
use crate::sip::{
    location::{Contact, ContactId, Location},
    message::{HeaderName, put_number},
    time::Time,
};

/// What every 200 says that we can do.
const SUPPORTED: &[u8] = b"Supported: path, outbound\r\n";

impl Registrar {
    /// The headers of a 200: all contacts with what is left of their time.
    pub(super) fn success(&mut self, done: &Circumstances<'_>, aor: &str, location: &Location, now: Time) {
        let message = done.request.message;
        let mut outbound = false;
        let mut show = |contact: Contact<'_>| {
            write_contact(&mut self.headers, &contact, now);
            outbound |= contact.reg_id.is_some()
                && contact.call_id == done.call_id
                && contact.cseq == done.cseq
                && done.supports_outbound;
        };
        // Whose contact is known need not be looked up again.
        match done.registered {
            Some(id) => location.beside(id, now).for_each(&mut show),
            None => location.contacts(aor, now).for_each(&mut show),
        }
        self.date(now);
        if !done.path.is_empty() && message.has_token(HeaderName::Supported, "path") {
            self.headers.extend_from_slice(b"Path: ");
            self.headers.extend_from_slice(&done.path);
            self.headers.extend_from_slice(b"\r\n");
        }
        if outbound {
            self.headers.extend_from_slice(b"Require: outbound\r\n");
            if done.first_hop {
                let _ = write!(self.headers, "Flow-Timer: {}\r\n", self.keep(&done.request.flow));
            }
        }
        self.headers.extend_from_slice(SUPPORTED);
    }

    /// The same for a request that has nothing but this contact refreshed.
    pub(super) fn refreshed(&mut self, id: ContactId, location: &Location, now: Time) {
        for contact in location.beside(id, now) {
            write_contact(&mut self.headers, &contact, now);
        }
        self.date(now);
        self.headers.extend_from_slice(SUPPORTED);
    }

    fn date(&mut self, now: Time) {
        self.headers.extend_from_slice(b"Date: ");
        self.headers.extend_from_slice(self.date.at(now).as_bytes());
        self.headers.extend_from_slice(b"\r\n");
    }

    /// The headers of a refusal.
    pub(super) fn refusal(&mut self, code: u16) {
        // Writing into memory does not fail.
        let _ = match code {
            420 => write!(self.headers, "Unsupported: path\r\n"),
            423 => write!(
                self.headers,
                "Min-Expires: {}\r\n",
                self.settings.registrar.min_expires.as_secs()
            ),
            503 => write!(self.headers, "Retry-After: 60\r\n"),
            _ => Ok(()),
        };
    }
}

/// Adds a value to a header that is being written: `Name: a, b`, without its end.
pub(super) fn list_value(out: &mut Vec<u8>, name: HeaderName, value: &[u8]) {
    if out.is_empty() {
        out.extend_from_slice(name.name().as_bytes());
        out.extend_from_slice(b": ");
    } else {
        out.extend_from_slice(b", ");
    }
    out.extend_from_slice(value);
}

fn write_contact(out: &mut Vec<u8>, contact: &Contact<'_>, now: Time) {
    out.extend_from_slice(b"Contact: <");
    out.extend_from_slice(contact.uri);
    out.push(b'>');
    out.extend_from_slice(contact.params);
    if contact.q < 1000 {
        let _ = write!(out, ";q=0.{:03}", contact.q);
        while out.ends_with(b"0") && !out.ends_with(b".0") {
            out.pop();
        }
    }
    // A contact of the configuration never expires; 32 bits are as near as the header gets.
    out.extend_from_slice(b";expires=");
    put_number(out, contact.remaining(now).unwrap_or(u32::MAX.into()));
    out.extend_from_slice(b"\r\n");
}

/// The Date header, printed once a second.
#[derive(Debug, Default)]
pub(super) struct Date {
    second: u64,
    text: String,
}

impl Date {
    /// As RFC 3261 section 20.17 wants it: `Sat, 13 Nov 2010 23:29:00 GMT`.
    fn at(&mut self, now: Time) -> &str {
        if self.second != now.seconds() || self.text.is_empty() {
            self.second = now.seconds();
            let moment = i64::try_from(self.second)
                .ok()
                .and_then(|s| jiff::Timestamp::from_second(s).ok());
            let printer = jiff::fmt::rfc2822::DateTimePrinter::new();
            self.text = printer
                .timestamp_to_rfc9110_string(&moment.unwrap_or(jiff::Timestamp::UNIX_EPOCH))
                .unwrap_or_default();
        }
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_gmt() {
        let mut date = Date::default();
        assert_eq!(date.at(Time(1_289_690_940_999)), "Sat, 13 Nov 2010 23:29:00 GMT");
        assert_eq!(date.at(Time(1_289_690_941_000)), "Sat, 13 Nov 2010 23:29:01 GMT");
    }
}
