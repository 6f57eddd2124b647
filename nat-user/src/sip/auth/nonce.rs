//! Nonces that need no memory: each says when it was made, and an HMAC over that, the realm and the network of the phone proves it.

use std::net::IpAddr;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::sip::time::Time;

/// Bytes of the HMAC that a nonce carries.
const MAC: usize = 16;
/// Moment and serial number.
const CONTENT: usize = 8 + 4;

/// Makes and reads nonces.
#[derive(Debug)]
pub(super) struct Nonces {
    key: Hmac<Sha256>,
    /// Tells nonces of one millisecond apart.
    serial: u32,
}

/// What a nonce says that was made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub made: Time,
    pub serial: u32,
}

impl Nonces {
    pub fn new(secret: &[u8]) -> Nonces {
        Nonces {
            // HMAC takes keys of any length.
            key: Hmac::new_from_slice(secret).unwrap_or_else(|_| Hmac::new(&Default::default())),
            serial: 0,
        }
    }

    /// A new one.
    pub fn make(&mut self, realm: &str, source: IpAddr, now: Time) -> String {
        self.serial = self.serial.wrapping_add(1);
        let mut bytes = [0; CONTENT + MAC];
        bytes[..8].copy_from_slice(&now.0.to_be_bytes());
        bytes[8..CONTENT].copy_from_slice(&self.serial.to_be_bytes());
        let mac = self.mac(&bytes[..CONTENT], realm, source).finalize().into_bytes();
        bytes[CONTENT..].copy_from_slice(&mac[..MAC]);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// `None`: it was not made here, or for another realm or network.
    pub fn read(&self, nonce: &str, realm: &str, source: IpAddr) -> Option<Known> {
        let mut bytes = [0; (CONTENT + MAC).div_ceil(3) * 3];
        let length = URL_SAFE_NO_PAD.decode_slice(nonce, &mut bytes).ok()?;
        let (content, mac) = bytes[..length].split_at_checked(CONTENT)?;
        if mac.len() != MAC {
            return None;
        }
        self.mac(content, realm, source).verify_truncated_left(mac).ok()?;
        let (made, serial) = content.split_first_chunk()?;
        Some(Known {
            made: Time(u64::from_be_bytes(*made)),
            serial: u32::from_be_bytes(serial.try_into().ok()?),
        })
    }

    fn mac(&self, content: &[u8], realm: &str, source: IpAddr) -> Hmac<Sha256> {
        let mut mac = self.key.clone();
        mac.update(b"sipnat nonce ");
        mac.update(content);
        match source.to_canonical() {
            IpAddr::V4(address) => mac.update(&address.octets()[..3]),
            IpAddr::V6(address) => mac.update(&address.octets()[..7]),
        }
        mac.update(realm.as_bytes());
        mac
    }
}
