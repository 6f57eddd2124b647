//! One value of Contact in a REGISTER, read and judged.

use std::{borrow::Cow, num::NonZeroU32};

use super::{Refusal, refuse};
use crate::{
    config,
    sip::{
        location::{Contact, instance},
        message::{HeaderName, Message, NameAddr, Span, Uri, number},
    },
};

/// What an expiry that is no number counts as (RFC 3261 section 10.2.1.1).
const MALFORMED_EXPIRES: u32 = 3600;

/// What a contact asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    ToRemove,
    /// To be registered for so many seconds.
    For(u32),
}

/// A contact that a device wants registered or removed.
#[derive(Clone, Debug)]
pub(super) struct Wanted<'a> {
    pub uri: &'a [u8],
    pub parsed: Uri<'a>,
    /// All parameters but `expires` and `q`.
    pub params: Cow<'a, [u8]>,
    pub asked: Asked,
    /// Thousandths.
    pub q: u16,
    /// Only with an instance.
    pub reg_id: Option<NonZeroU32>,
}

impl<'a> Wanted<'a> {
    pub fn read(message: &'a Message, span: Span, settings: &config::sip::Registrar) -> Result<Wanted<'a>, Refusal> {
        let Some(value) = NameAddr::parse(message, span) else {
            return refuse(400, "Malformed Contact");
        };
        let Some(parsed) = value.parsed() else {
            return refuse(400, "Malformed Contact URI");
        };
        // RFC 3261 section 20.10: such a URI must stand in angle brackets.
        if !value.bracketed && memchr::memchr(b'?', value.uri).is_some() {
            return refuse(400, "Contact URI With Headers Needs Angle Brackets");
        }
        let seconds =
            |text: &[u8]| number(text).map_or(MALFORMED_EXPIRES, |seconds| u32::try_from(seconds).unwrap_or(u32::MAX));
        let seconds = value
            .params
            .get("expires")
            .or_else(|| message.value(HeaderName::Expires))
            .map(seconds)
            .unwrap_or_else(|| u32::try_from(settings.default_expires.as_secs()).unwrap_or(u32::MAX));
        let q = match value.params.get("q") {
            None => 1000,
            Some(text) => match thousandths(text) {
                Some(q) => q,
                None => return refuse(400, "Malformed q of Contact"),
            },
        };
        let reg_id = match value.params.get("reg-id") {
            Some(text) if instance(value.params.0).is_some() => {
                let id = number(text)
                    .and_then(|id| u32::try_from(id).ok())
                    .and_then(NonZeroU32::new);
                if id.is_none() {
                    return refuse(400, "Malformed reg-id of Contact");
                }
                id
            }
            // Without an instance it is ignored (RFC 5626 section 6).
            _ => None,
        };
        Ok(Wanted {
            uri: value.uri,
            parsed,
            params: without_ours(value.params.0),
            asked: if seconds == 0 {
                Asked::ToRemove
            } else {
                Asked::For(seconds)
            },
            q,
            reg_id,
        })
    }

    /// Whether a binding is the one that this contact concerns: with a reg-id by instance and reg-id (RFC 5626 section 6), else by the URI
    /// (RFC 3261 section 19.1.4). Two devices behind two NATs may well have the same URI; where both name their instance and they
    /// differ, they are two bindings.
    pub fn means(&self, contact: &Contact<'_>) -> bool {
        if contact.fixed {
            return false;
        }
        let (own, other) = (instance(&self.params), contact.instance());
        match (self.reg_id, contact.reg_id) {
            (Some(own_id), Some(other_id)) => own_id == other_id && own == other,
            (Some(_), None) => false,
            // A binding by flow can be removed by its URI as well, but not be replaced.
            (None, Some(_)) if self.asked != Asked::ToRemove => false,
            (None, _) => {
                (own.is_none() || other.is_none() || own == other)
                    && (self.uri == contact.uri || Uri::parse(contact.uri).is_some_and(|uri| same(&uri, &self.parsed)))
            }
        }
    }
}

impl Wanted<'_> {
    /// Whether two contacts of one request would be one binding.
    pub fn collides(&self, other: &Wanted<'_>) -> bool {
        let instances = (instance(&self.params), instance(&other.params));
        match (self.reg_id, other.reg_id) {
            (None, None) => {
                (instances.0.is_none() || instances.1.is_none() || instances.0 == instances.1)
                    && (self.uri == other.uri || same(&self.parsed, &other.parsed))
            }
            (own, others) => own == others && instances.0 == instances.1,
        }
    }
}

/// Other schemes than SIP have rules of comparison of their own, which are not known here: they are the same if their text is.
fn same(a: &Uri<'_>, b: &Uri<'_>) -> bool {
    a.is_sip() && b.is_sip() && a.same_as(b)
}

/// The parameters without `expires` and `q`, which are the registrar's to say.
fn without_ours(params: &[u8]) -> Cow<'_, [u8]> {
    let ours = |name: &[u8]| name.eq_ignore_ascii_case(b"expires") || name.eq_ignore_ascii_case(b"q");
    let all = crate::sip::message::Params(params);
    if !all.iter().any(|param| ours(param.name)) {
        return Cow::Borrowed(params);
    }
    let mut kept = Vec::with_capacity(params.len());
    for param in all.iter().filter(|param| !ours(param.name)) {
        kept.push(b';');
        // From the name to the end of the value, with the quotes that were taken off.
        let start = param.name.as_ptr() as usize - params.as_ptr() as usize;
        let end = match param.value {
            None => start + param.name.len(),
            Some(value) => {
                let end = value.as_ptr() as usize - params.as_ptr() as usize + value.len();
                end + usize::from(
                    value.as_ptr() > params.as_ptr() && quoted_before(params, value) && params.get(end) == Some(&b'"'),
                )
            }
        };
        kept.extend_from_slice(&params[start..end]);
    }
    Cow::Owned(kept)
}

/// Whether a quote stands in front of a value.
fn quoted_before(params: &[u8], value: &[u8]) -> bool {
    let start = value.as_ptr() as usize - params.as_ptr() as usize;
    start > 0 && params[start - 1] == b'"'
}

/// A `qvalue` (RFC 3261 section 25.1) in thousandths.
fn thousandths(text: &[u8]) -> Option<u16> {
    let (whole, fraction) = match memchr::memchr(b'.', text) {
        None => (text, &b""[..]),
        Some(dot) => (&text[..dot], &text[dot + 1..]),
    };
    let whole = match whole {
        b"0" | b"" if !text.is_empty() => 0,
        b"1" => 1000,
        _ => return None,
    };
    if fraction.len() > 3 {
        return None;
    }
    let mut sum = whole;
    for (digit, unit) in fraction.iter().zip([100, 10, 1]) {
        sum += char::from(*digit).to_digit(10)? as u16 * unit;
    }
    (sum <= 1000).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quality_values() {
        for (text, value) in [
            ("1", Some(1000)),
            ("1.000", Some(1000)),
            ("0", Some(0)),
            ("0.5", Some(500)),
            (".25", Some(250)),
            ("0.123", Some(123)),
            ("0.", Some(0)),
            ("", None),
            ("1.1", None),
            ("0.1234", None),
            ("2", None),
            ("-0.1", None),
            ("0.x", None),
        ] {
            assert_eq!(thousandths(text.as_bytes()), value, "{text}");
        }
    }

    #[test]
    fn what_is_kept_of_parameters() {
        for (all, kept) in [
            (";a=1;b", ";a=1;b"),
            ("", ""),
            (";expires=3600", ""),
            (
                "; expires = 3600 ;q=0.5 ; +sip.instance=\"<urn;x>\" ;reg-id=1",
                ";+sip.instance=\"<urn;x>\";reg-id=1",
            ),
            (";Q=1;flag;x=\"a\\\"b\"", ";flag;x=\"a\\\"b\""),
            (";expires=\"1\";x=\"", ";x=\""),
        ] {
            assert_eq!(without_ours(all.as_bytes()), kept.as_bytes(), "{all}");
        }
    }
}
