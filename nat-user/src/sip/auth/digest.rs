//! The hash that proves a password (RFC 7616 section 3.4.1).

use md5::Md5;
use sha2::{Digest, Sha256, Sha512_256};

use super::Credentials;
use crate::config::sip::DigestAlgorithm;

/// Stands for the HA1 of users that are not there.
pub(super) const NOBODY: &str = "00000000000000000000000000000000";

/// The `response` that credentials must have, in lower-case hexadecimal. `ha1` as in a users file.
pub(super) fn response(algorithm: DigestAlgorithm, ha1: &str, method: &[u8], credentials: &Credentials<'_>) -> String {
    match algorithm {
        DigestAlgorithm::Md5 => compute::<Md5>(ha1, method, credentials),
        DigestAlgorithm::Sha256 => compute::<Sha256>(ha1, method, credentials),
        DigestAlgorithm::Sha512_256 => compute::<Sha512_256>(ha1, method, credentials),
    }
}

fn compute<H: Digest>(ha1: &str, method: &[u8], credentials: &Credentials<'_>) -> String {
    let hash = |parts: &[&[u8]]| {
        let mut hash = H::new();
        for part in parts {
            hash.update(part);
        }
        hex(&hash.finalize())
    };
    let a2 = hash(&[method, b":", credentials.uri.as_bytes()]);
    let nonce = credentials.nonce.as_bytes();
    match &credentials.qop {
        None => hash(&[ha1.as_bytes(), b":", nonce, b":", a2.as_bytes()]),
        Some(qop) => hash(&[
            ha1.as_bytes(),
            b":",
            nonce,
            b":",
            credentials.nc_text.as_bytes(),
            b":",
            credentials.cnonce.as_bytes(),
            b":",
            qop.as_bytes(),
            b":",
            a2.as_bytes(),
        ]),
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}
