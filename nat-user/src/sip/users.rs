//! The users file: who may register and call, with which password, and how much.
//!
//! One line says one thing about one user. The format is Apache's htdigest with the algorithm named:
//!
//! ```text
//! # comment
//! alice:example.com:SHA-256:HA1        HA1 = H(user:realm:password) in hexadecimal (RFC 7616 section 3.4.2)
//! alice:example.com:MD5:HA1            one line for each algorithm that is offered
//! bob:example.com:plain:PASSWORD       the password itself, up to the end of the line: serves all algorithms
//! carol:example.com:HA1                htdigest's own three fields: MD5
//! alice:example.com:limits:calls=2 allow=+49,0
//! ```
//!
//! `sipnat user add` writes such lines. The realm is the name of a `[[sip.domain]]`.

mod edit;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, fmt, fs, io::Read as _, path::Path};

use md5::Md5;
use sha2::{Digest, Sha256, Sha512_256};

pub use edit::{Secret, UsersText};

use crate::config::sip::DigestAlgorithm;

/// Users files may be this large, in bytes; a million users with three hashes each fit.
const MAX_FILE: u64 = 512 << 20;

/// All users of one file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Users {
    /// By realm, then by name, so that finding one takes no memory.
    realms: HashMap<Box<str>, HashMap<Box<str>, UserEntry>>,
}

/// One user of one realm.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct UserEntry {
    /// HA1 in lower-case hexadecimal by [`index`] of the algorithm.
    ha1: [Option<Box<str>>; 3],
    /// Calls at a time; `None`: what the domain says.
    pub calls: Option<u32>,
    /// What the user part of a request URI must begin with, one of these; empty: anything may be called. Emergency numbers always may.
    pub allow: Vec<Box<str>>,
    /// Where the user is first mentioned, for messages; from 1.
    pub line: usize,
}

/// What is wrong with a users file. Prints as `FILE:LINE: MESSAGE; REMEDY`, never with a password or hash in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}{}: {message}; {remedy}", line.map_or(String::new(), |line| format!(":{line}")))]
pub struct UsersError {
    pub file: String,
    /// From 1; `None`: the file as a whole.
    pub line: Option<usize>,
    pub message: String,
    pub remedy: String,
}

impl Users {
    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, or the first line that is wrong.
    pub fn load(path: &Path) -> Result<Users, UsersError> {
        Users::parse(&read(path)?, &path.display().to_string())
    }

    /// Reads the text of a file; `file` is its name in errors.
    ///
    /// # Errors
    /// The first line that is wrong.
    pub fn parse(text: &str, file: &str) -> Result<Users, UsersError> {
        let mut users = Users::default();
        let fail = |line, (message, remedy): Fault| UsersError {
            file: file.to_owned(),
            line: Some(line),
            message,
            remedy,
        };
        for (number, line) in (1..).zip(text.lines()) {
            if let Some(line) = Line::parse(line).map_err(|fault| fail(number, fault))? {
                users.add(&line, number).map_err(|fault| fail(number, fault))?;
            }
        }
        let helpless = users.iter().filter(|(_, _, entry)| entry.algorithms().next().is_none());
        if let Some((realm, user, entry)) = helpless.min_by_key(|(_, _, entry)| entry.line) {
            let message = format!("{user} of {realm} has limits but no password");
            let remedy = format!("add one with `sipnat user add FILE {user}@{realm}`, or remove the line");
            return Err(fail(entry.line, (message, remedy)));
        }
        Ok(users)
    }

    /// The user of this name in this realm. Both are compared byte by byte (RFC 3261 section 19.1.4).
    pub fn find(&self, realm: &str, user: &str) -> Option<&UserEntry> {
        self.realms.get(realm)?.get(user)
    }

    /// Realm, name and entry of each user, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &UserEntry)> {
        self.realms
            .iter()
            .flat_map(|(realm, users)| users.iter().map(|(user, entry)| (&**realm, &**user, entry)))
    }

    /// How many users there are in a realm.
    pub fn count(&self, realm: &str) -> usize {
        self.realms.get(realm).map_or(0, HashMap::len)
    }

    fn add(&mut self, line: &Line, number: usize) -> Result<(), Fault> {
        let users = self.realms.entry(line.realm.into()).or_default();
        let entry = users.entry(line.user.into()).or_insert_with(|| UserEntry {
            line: number,
            ..UserEntry::default()
        });
        let twice = |what: &str| {
            Err((
                format!(
                    "{} of {} has {what} already (first named in line {})",
                    line.user, line.realm, entry.line
                ),
                "keep one of the two".into(),
            ))
        };
        match line.what {
            What::Ha1(algorithm, ha1) => match &mut entry.ha1[index(algorithm)] {
                Some(_) => return twice(&format!("a password for {}", name(algorithm))),
                free => *free = Some(ha1.to_ascii_lowercase().into()),
            },
            What::Plain(_) if entry.algorithms().next().is_some() => return twice("a password"),
            What::Plain(password) => {
                for algorithm in ALGORITHMS {
                    entry.ha1[index(algorithm)] = Some(ha1(algorithm, line.user, line.realm, password).into());
                }
            }
            What::Limits { calls, ref allow } => {
                if entry.calls.is_some() || !entry.allow.is_empty() {
                    return twice("limits");
                }
                entry.calls = calls;
                entry.allow = allow.iter().map(|&prefix| prefix.into()).collect();
            }
        }
        Ok(())
    }
}

impl UserEntry {
    /// HA1 = H(user:realm:password) in lower-case hexadecimal (RFC 7616 section 3.4.2); `None`: the file has none for this algorithm.
    pub fn ha1(&self, algorithm: DigestAlgorithm) -> Option<&str> {
        self.ha1[index(algorithm)].as_deref()
    }

    /// The algorithms that the user can authenticate with.
    pub fn algorithms(&self) -> impl Iterator<Item = DigestAlgorithm> {
        ALGORITHMS
            .into_iter()
            .filter(|&algorithm| self.ha1(algorithm).is_some())
    }

    /// Whether the user may call a request URI with this user part. Whoever asks lets emergency numbers pass before.
    pub fn may_call(&self, destination: &str) -> bool {
        self.allow.is_empty() || self.allow.iter().any(|prefix| destination.starts_with(&**prefix))
    }
}

impl fmt::Debug for UserEntry {
    /// Without what a password could be guessed from.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserEntry")
            .field("algorithms", &self.algorithms().collect::<Vec<_>>())
            .field("calls", &self.calls)
            .field("allow", &self.allow)
            .finish_non_exhaustive()
    }
}

/// H(user:realm:password) in lower-case hexadecimal (RFC 7616 section 3.4.2).
pub fn ha1(algorithm: DigestAlgorithm, user: &str, realm: &str, password: &str) -> String {
    let text = format!("{user}:{realm}:{password}");
    match algorithm {
        DigestAlgorithm::Md5 => hex(&Md5::digest(text)),
        DigestAlgorithm::Sha256 => hex(&Sha256::digest(text)),
        DigestAlgorithm::Sha512_256 => hex(&Sha512_256::digest(text)),
    }
}

/// The algorithm's name in Digest headers and users files (RFC 7616 section 3.3).
pub fn name(algorithm: DigestAlgorithm) -> &'static str {
    match algorithm {
        DigestAlgorithm::Md5 => "MD5",
        DigestAlgorithm::Sha256 => "SHA-256",
        DigestAlgorithm::Sha512_256 => "SHA-512-256",
    }
}

/// All algorithms, in the order of a file that `sipnat user add` writes.
pub const ALGORITHMS: [DigestAlgorithm; 3] = [
    DigestAlgorithm::Sha512_256,
    DigestAlgorithm::Sha256,
    DigestAlgorithm::Md5,
];

fn index(algorithm: DigestAlgorithm) -> usize {
    match algorithm {
        DigestAlgorithm::Md5 => 0,
        DigestAlgorithm::Sha256 => 1,
        DigestAlgorithm::Sha512_256 => 2,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or_default();
        text.push(digit(byte >> 4));
        text.push(digit(byte & 15));
        text
    })
}

/// Message and remedy.
type Fault = (String, String);

/// A line that says something.
struct Line<'a> {
    user: &'a str,
    realm: &'a str,
    what: What<'a>,
}

enum What<'a> {
    Ha1(DigestAlgorithm, &'a str),
    Plain(&'a str),
    Limits { calls: Option<u32>, allow: Vec<&'a str> },
}

impl<'a> Line<'a> {
    /// `None` for comments and empty lines.
    fn parse(line: &'a str) -> Result<Option<Line<'a>>, Fault> {
        if line.trim().is_empty() || line.starts_with('#') {
            return Ok(None);
        }
        let form = || {
            (
                "the line is not USER:REALM:ALGORITHM:SECRET".to_owned(),
                "write it like alice:example.com:SHA-256:HA1, or use `sipnat user add`".to_owned(),
            )
        };
        let (user, rest) = line.split_once(':').ok_or_else(form)?;
        let (realm, rest) = split_realm(rest).ok_or_else(form)?;
        check_names(user, realm)?;
        let what = match rest.split_once(':') {
            // htdigest's own form.
            None => What::Ha1(DigestAlgorithm::Md5, hash(DigestAlgorithm::Md5, rest)?),
            Some(("plain", "")) => {
                return Err((
                    format!("the password of {user} is empty"),
                    "write one behind `plain:`".into(),
                ));
            }
            Some(("plain", password)) => What::Plain(password),
            Some(("limits", limits)) => parse_limits(limits)?,
            Some((algorithm, text)) => {
                let algorithm = ALGORITHMS
                    .into_iter()
                    .find(|known| name(*known).eq_ignore_ascii_case(algorithm))
                    .ok_or_else(|| {
                        (
                            // What stands here may be a password with a colon in it.
                            "the third field is no digest algorithm".to_owned(),
                            "write MD5, SHA-256, SHA-512-256, plain or limits".to_owned(),
                        )
                    })?;
                What::Ha1(algorithm, hash(algorithm, text)?)
            }
        };
        Ok(Some(Line { user, realm, what }))
    }
}

/// The realm and what is behind it; an IPv6 address in brackets has colons of its own.
fn split_realm(text: &str) -> Option<(&str, &str)> {
    if text.starts_with('[') {
        let end = text.find("]:")?;
        Some((&text[..=end], &text[end + 2..]))
    } else {
        text.split_once(':')
    }
}

/// Whether a user and a realm can stand in a file, and can be told by each other.
fn check_names(user: &str, realm: &str) -> Result<(), Fault> {
    for (what, text) in [("user", user), ("realm", realm)] {
        if text.is_empty() || text.contains(|c: char| c.is_control() || c.is_whitespace() || matches!(c, '"' | '@')) {
            return Err((
                format!("`{}` is no {what}", text.escape_debug()),
                format!("write the {what} without blanks, quotes and @"),
            ));
        }
    }
    if user.contains(':') || user.starts_with('#') || (realm.contains(':') && !realm.starts_with('[')) {
        return Err((
            format!("`{user}` of `{realm}` cannot be written to a users file"),
            "choose a user without colons that does not begin with #".into(),
        ));
    }
    if realm.contains(|c: char| c.is_ascii_uppercase()) {
        return Err((
            format!("the realm `{realm}` has upper-case letters, and domains are compared in lower case"),
            "write it as the [[sip.domain]] names it; HA1 has to be made anew for it".into(),
        ));
    }
    Ok(())
}

fn hash(algorithm: DigestAlgorithm, text: &str) -> Result<&str, Fault> {
    let length = if algorithm == DigestAlgorithm::Md5 { 32 } else { 64 };
    if text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(text);
    }
    Err((
        format!(
            "the {} hash is not {length} hexadecimal digits (it has {} characters)",
            name(algorithm),
            text.chars().count()
        ),
        "make it with `sipnat user add`, or write plain instead of the algorithm for a password".into(),
    ))
}

fn parse_limits(text: &str) -> Result<What<'_>, Fault> {
    let (mut calls, mut allow) = (None, Vec::new());
    for limit in text.split_whitespace() {
        match limit.split_once('=') {
            Some(("calls", number)) if calls.is_none() => match number.parse() {
                Ok(number) => calls = Some(number),
                Err(_) => {
                    return Err((
                        format!("`{number}` is no number of calls"),
                        "write it like calls=2 (0: none at all)".into(),
                    ));
                }
            },
            Some(("allow", prefixes)) if allow.is_empty() && prefixes.split(',').all(|prefix| !prefix.is_empty()) => {
                allow = prefixes.split(',').collect();
            }
            _ => {
                return Err((
                    format!("`{limit}` is no limit, or is there twice"),
                    "write calls=2, allow=+49,0 or both with a blank between".into(),
                ));
            }
        }
    }
    if calls.is_none() && allow.is_empty() {
        return Err((
            "there is no limit behind `limits:`".into(),
            "write calls=2, allow=+49,0 or both, or remove the line".into(),
        ));
    }
    Ok(What::Limits { calls, allow })
}

fn read(path: &Path) -> Result<String, UsersError> {
    let fail = |message: String, remedy: &str| UsersError {
        file: path.display().to_string(),
        line: None,
        message,
        remedy: remedy.into(),
    };
    let mut text = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut text))
        .map_err(|error| {
            fail(
                format!("cannot read the users file: {error}"),
                "check the path and its permissions; `sipnat user add` makes one",
            )
        })?;
    if text.len() as u64 > MAX_FILE {
        return Err(fail("the users file is larger than 512 MiB".into(), "check the path"));
    }
    String::from_utf8(text).map_err(|error| {
        let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count();
        UsersError {
            line: Some(line),
            ..fail("the users file is not UTF-8 text".into(), "save it as UTF-8")
        }
    })
}
