//! Parameters: `;name=value;flag` behind a value or in a URI.

use super::lists::find_outside;

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
                let end = find_outside(rest, b';').unwrap_or(rest.len());
                let text = rest[..end].trim_ascii();
                rest = &rest[end..];
                if text.is_empty() {
                    continue;
                }
                return Some(match memchr::memchr(b'=', text) {
                    None => Param {
                        name: text,
                        value: None,
                    },
                    Some(equals) => Param {
                        name: text[..equals].trim_ascii_end(),
                        value: Some(unquote(text[equals + 1..].trim_ascii_start())),
                    },
                });
            }
        })
    }
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
