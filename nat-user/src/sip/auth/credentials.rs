//! Digest credentials: the value of Authorization and Proxy-Authorization (RFC 7616 section 3.4).

use std::borrow::Cow;

use crate::{config::sip::DigestAlgorithm, sip::users};

/// Why credentials cannot be read: the reason for a 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// Digest credentials. Quotes are taken off and escapes resolved, which is how values go into the hash (RFC 7616 section 3.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials<'a> {
    pub username: Cow<'a, str>,
    pub realm: Cow<'a, str>,
    pub nonce: Cow<'a, str>,
    pub uri: Cow<'a, str>,
    pub response: Cow<'a, str>,
    /// As named; `None`: MD5.
    pub algorithm: Option<Cow<'a, str>>,
    /// Only `auth`, because that is what is offered. `None`: the form of RFC 2069.
    pub qop: Option<Cow<'a, str>>,
    pub cnonce: Cow<'a, str>,
    /// The count as written, which goes into the hash.
    pub nc_text: Cow<'a, str>,
    /// How many requests were made with the nonce, this one included; 1 without qop.
    pub nc: u32,
}

impl<'a> Credentials<'a> {
    /// Reads a header's value. `None`: another scheme than Digest.
    pub fn parse(value: &'a [u8]) -> Result<Option<Credentials<'a>>, Malformed> {
        let end = value.iter().position(u8::is_ascii_whitespace).unwrap_or(value.len());
        let (scheme, rest) = value.split_at(end);
        if !scheme.eq_ignore_ascii_case(b"Digest") {
            return Ok(None);
        }
        const FIELDS: [&str; 10] = [
            "username",
            "realm",
            "nonce",
            "uri",
            "response",
            "algorithm",
            "qop",
            "cnonce",
            "nc",
            "userhash",
        ];
        let mut found: [Option<Cow<'a, str>>; FIELDS.len()] = [const { None }; FIELDS.len()];
        for pair in Pairs(rest) {
            let (name, value) = pair?;
            if let Some(place) = FIELDS
                .iter()
                .position(|field| field.as_bytes().eq_ignore_ascii_case(name))
                && found[place].replace(value).is_some()
            {
                return Err(Malformed("Digest Parameter Given Twice"));
            }
        }
        let [
            username,
            realm,
            nonce,
            uri,
            response,
            algorithm,
            qop,
            cnonce,
            nc,
            userhash,
        ] = found;
        let must = |value: Option<Cow<'a, str>>, reason| value.ok_or(Malformed(reason));
        if userhash.is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Err(Malformed("Digest userhash Was Not Offered"));
        }
        let nc_text = nc.unwrap_or_default();
        let nc = match &qop {
            None => 1,
            Some(qop) if !qop.eq_ignore_ascii_case("auth") => return Err(Malformed("Digest qop Was Not Offered")),
            Some(_) if cnonce.is_none() => return Err(Malformed("Digest Without cnonce")),
            // Eight hexadecimal digits, from 1.
            Some(_) => match u32::from_str_radix(&nc_text, 16) {
                Ok(nc) if nc > 0 && nc_text.len() == 8 && !nc_text.starts_with('+') => nc,
                _ => return Err(Malformed("Malformed Digest nc")),
            },
        };
        Ok(Some(Credentials {
            username: must(username, "Digest Without username")?,
            realm: must(realm, "Digest Without realm")?,
            nonce: must(nonce, "Digest Without nonce")?,
            uri: must(uri, "Digest Without uri")?,
            response: must(response, "Digest Without response")?,
            algorithm,
            qop,
            cnonce: cnonce.unwrap_or_default(),
            nc_text,
            nc,
        }))
    }

    /// Which algorithm; `None`: one that is not known here.
    pub fn algorithm(&self) -> Option<DigestAlgorithm> {
        let Some(named) = &self.algorithm else {
            return Some(DigestAlgorithm::Md5);
        };
        users::ALGORITHMS
            .into_iter()
            .find(|algorithm| users::name(*algorithm).eq_ignore_ascii_case(named))
    }
}

/// `name=value` pairs between commas. A comma that is missing, as in RFC 3665's own examples, is not missed.
struct Pairs<'a>(&'a [u8]);

impl<'a> Iterator for Pairs<'a> {
    type Item = Result<(&'a [u8], Cow<'a, str>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let start = self
            .0
            .iter()
            .position(|byte| !byte.is_ascii_whitespace() && *byte != b',')?;
        let rest = &self.0[start..];
        self.0 = b"";
        let Some(equals) = memchr::memchr(b'=', rest) else {
            return Some(Err(Malformed("Malformed Digest Parameter")));
        };
        let name = rest[..equals].trim_ascii_end();
        let value = rest[equals + 1..].trim_ascii_start();
        if name.is_empty() || !crate::sip::message::TOKEN.has_all(name) {
            return Some(Err(Malformed("Malformed Digest Parameter")));
        }
        let (value, rest) = match value.strip_prefix(b"\"") {
            Some(quoted) => match unquote(quoted) {
                Some(found) => found,
                None => return Some(Err(Malformed("Digest Parameter With an Open Quote"))),
            },
            None => {
                let end = value
                    .iter()
                    .position(|byte| *byte == b',' || byte.is_ascii_whitespace())
                    .unwrap_or(value.len());
                (String::from_utf8_lossy(&value[..end]), &value[end..])
            }
        };
        self.0 = rest;
        Some(Ok((name, value)))
    }
}

/// The text of a quoted string behind its opening quote, and what comes behind the closing one.
fn unquote(quoted: &[u8]) -> Option<(Cow<'_, str>, &[u8])> {
    let mut escaped = false;
    let mut escapes = false;
    let end = quoted.iter().position(|byte| {
        let ends = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        escapes |= escaped;
        ends
    })?;
    let (text, rest) = (&quoted[..end], &quoted[end + 1..]);
    if !escapes {
        return Some((String::from_utf8_lossy(text), rest));
    }
    let mut plain = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        plain.push(if *byte == b'\\' {
            *bytes.next().unwrap_or(byte)
        } else {
            *byte
        });
    }
    Some((String::from_utf8_lossy(&plain).into_owned().into(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<Credentials<'_>>, Malformed> {
        Credentials::parse(text.as_bytes())
    }

    #[test]
    fn credentials_are_read() {
        let text = "digest  username=\"b\\\"o\\\\b\" ,realm=\"a, b\" nonce=n\t, uri = \"sip:x\",response=\"0A\", qop=auth, NC=0000000a,cnonce=\"c\",\r\n opaque=\"\", algorithm=SHA-512-256";
        let found = parse(text).unwrap().unwrap();
        assert_eq!(
            (&*found.username, &*found.realm, &*found.nonce),
            ("b\"o\\b", "a, b", "n")
        );
        assert_eq!((&*found.uri, &*found.response, &*found.cnonce), ("sip:x", "0A", "c"));
        assert_eq!((&*found.nc_text, found.nc), ("0000000a", 10));
        assert_eq!(found.algorithm(), Some(DigestAlgorithm::Sha512_256));
        let old = parse("Digest username=\"u\",realm=\"r\",nonce=\"n\",uri=\"u\",response=\"r\"")
            .unwrap()
            .unwrap();
        assert_eq!(
            (old.algorithm(), old.qop, old.nc),
            (Some(DigestAlgorithm::Md5), None, 1)
        );
        assert_eq!(parse("NoOneKnowsThisScheme opaque-data=here"), Ok(None));
        assert_eq!(parse(""), Ok(None));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let valid =
            "Digest username=\"u\",realm=\"r\",nonce=\"n\",uri=\"u\",response=\"r\",qop=auth,cnonce=c,nc=00000001";
        assert!(parse(valid).is_ok());
        for (old, new) in [
            ("username=\"u\",", ""),
            ("realm=\"r\",", ""),
            ("nonce=\"n\",", ""),
            ("uri=\"u\",", ""),
            ("response=\"r\",", ""),
            ("cnonce=c,", ""),
            ("00000001", "1"),
            ("00000001", "00000000"),
            ("00000001", "0000000x"),
            ("00000001", "+0000001"),
            ("nc=00000001", ""),
            ("qop=auth", "qop=auth-int"),
            ("qop=auth", "qop=auth,userhash=true"),
            ("qop=auth", "qop=auth,qop=auth"),
            ("qop=auth", "qop=auth,x"),
            ("qop=auth", "qop=auth,=x"),
            ("qop=auth", "qop=auth,x=\"y"),
            ("qop=auth", "qop=auth,x=\"y\\"),
        ] {
            assert!(valid.contains(old));
            assert!(parse(&valid.replacen(old, new, 1)).is_err(), "{new}");
        }
    }
}
