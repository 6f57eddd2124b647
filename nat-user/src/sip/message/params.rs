//! Parameters: `;name=value;flag` behind a value or in a URI.

use super::{Class, lists::quote_end};

/// What ends a parameter or its name, or may hide what does.
static SPECIAL: Class = Class::of(b";=\"<");

/// The parameters behind a value, from their first semicolon (or empty).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Params<'a>(pub &'a [u8]);

/// One parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param<'a> {
    pub name: &'a [u8],
    /// `None`: there is no `=`. Quotes are taken off, escapes inside them stay.
    pub value: Option<&'a [u8]>,
}

impl<'a> Params<'a> {
    /// The value of the first parameter of this name, in any case; `Some(b"")` for one without a value.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.iter()
            .find(|param| param.name.eq_ignore_ascii_case(name.as_bytes()))
            .map(|param| param.value.unwrap_or_default())
    }

    /// Whether there is such a parameter.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// All of them in order.
    pub fn iter(&self) -> impl Iterator<Item = Param<'a>> + use<'a> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            loop {
                rest = rest.strip_prefix(b";")?;
                let (equals, end) = ends(rest);
                let text = &rest[..end];
                rest = &rest[end..];
                match equals {
                    None if text.trim_ascii().is_empty() => {}
                    None => {
                        return Some(Param {
                            name: text.trim_ascii(),
                            value: None,
                        });
                    }
                    Some(equals) => {
                        return Some(Param {
                            name: text[..equals].trim_ascii(),
                            value: Some(unquote(text[equals + 1..].trim_ascii())),
                        });
                    }
                }
            }
        })
    }
}

/// Where the first equals sign of a parameter is, and where the parameter ends. Quoted strings and angle brackets are passed over; one that is
/// never closed reaches to the end.
fn ends(text: &[u8]) -> (Option<usize>, usize) {
    let (mut equals, mut at) = (None, 0);
    while let Some(byte) = text.get(at) {
        // Parameters are short, so that a plain search is the quicker one.
        if !SPECIAL.has(*byte) {
            at += 1;
            continue;
        }
        let next = match byte {
            b';' => return (equals, at),
            b'=' => {
                equals = equals.or(Some(at));
                Some(at + 1)
            }
            b'"' => quote_end(text, at),
            _ => memchr::memchr(b'>', &text[at..]).map(|length| at + length + 1),
        };
        let Some(next) = next else { break };
        at = next;
    }
    (equals, text.len())
}

/// Without the quotes around it, if there are any.
pub fn unquote(text: &[u8]) -> &[u8] {
    match text {
        [b'"', inner @ .., b'"'] => inner,
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_found() {
        let params = Params(b"; rport ;branch = z9hG4bK77;x=\"a;b\";;last");
        assert_eq!(params.get("RPORT"), Some(&b""[..]));
        assert_eq!(params.get("branch"), Some(&b"z9hG4bK77"[..]));
        assert_eq!(params.get("x"), Some(&b"a;b"[..]));
        assert!(params.has("last") && !params.has("nothing"));
        assert_eq!(params.iter().count(), 4);
        assert_eq!(Params(b"").iter().count(), 0);
        assert_eq!(Params(b"x=1").iter().count(), 0, "no semicolon, no parameter");
    }
}
