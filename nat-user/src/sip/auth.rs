//! Digest authentication (RFC 3261 section 22, RFC 7616, RFC 8760; RFC 2617 and the form without `qop` of RFC 2069 for old phones with MD5).
//!
//! A challenge costs no memory: a nonce says when, for whom and for which realm it was made, and proves it by an HMAC. Only who has
//! shown a right password gets an entry in the table against replays.
//!
//! Decisions:
//! - A nonce is good for the network (/24, IPv6 /56) that it was made for. From elsewhere, as when a phone roams, and after its lifetime it is
//!   `stale`, so that the phone asks no human and tries again. This keeps others from guessing passwords under a victim's
//!   forged address and having it banned, and it makes floods with invented nonces cheap: no hash of a password is computed for them.
//! - `qop=auth` is offered; `auth-int` is not, because proxies on the way may change bodies. Without qop a nonce is good once, and only with MD5.
//! - `userhash` and `-sess` are not offered.
//! - The `uri` must agree with the request URI in its user if both have one, and in its host, unless that is an IP address: some phones,
//!   and sipp, write the address that they send to. What differs in a request that came through other proxies is theirs to have changed
//!   (RFC 3261 section 22.4); in one that comes directly it is answered with 400 (RFC 7616 section 3.4.6).

mod credentials;
mod digest;
mod nonce;
mod replay;
#[cfg(test)]
mod tests;

use std::{io::Write as _, net::IpAddr, time::Duration};

use subtle::ConstantTimeEq as _;

pub use self::credentials::{Credentials, Malformed};
use self::{
    nonce::{Known, Nonces},
    replay::Replays,
};
use super::{
    message::{HeaderName, Message, Uri},
    time::Time,
    users::{self, UserEntry, Users},
};
use crate::config::{self, sip::DigestAlgorithm};

/// Who asks: the server that a request is for, or a proxy on its way (RFC 3261 section 22).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// 401, WWW-Authenticate, Authorization.
    Server,
    /// 407, Proxy-Authenticate, Proxy-Authorization.
    Proxy,
}

impl Asker {
    /// Code and reason of a challenge.
    pub fn response(self) -> (u16, &'static str) {
        match self {
            Asker::Server => (401, "Unauthorized"),
            Asker::Proxy => (407, "Proxy Authentication Required"),
        }
    }

    /// The header that carries a challenge.
    pub fn challenge(self) -> HeaderName {
        match self {
            Asker::Server => HeaderName::WwwAuthenticate,
            Asker::Proxy => HeaderName::ProxyAuthenticate,
        }
    }

    /// The header that carries credentials.
    pub fn credentials(self) -> HeaderName {
        match self {
            Asker::Server => HeaderName::Authorization,
            Asker::Proxy => HeaderName::ProxyAuthorization,
        }
    }
}

/// What becomes of a request that must authenticate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This user of the realm has sent it.
    Granted { user: String },
    /// No credentials for this realm: to be challenged.
    Missing,
    /// To be challenged with `stale=true`: the nonce is too old, used before, or not from here.
    Stale,
    /// Unknown user or wrong password, which are not told apart: to be challenged, and to be counted
    /// ([`Limits::wrong_password`](super::limits::Limits::wrong_password)).
    Wrong { user: String },
    /// 400 with this reason.
    Malformed(&'static str),
}

/// Checks credentials and makes challenges.
#[derive(Debug)]
pub struct Authenticator {
    settings: config::sip::Auth,
    nonces: Nonces,
    replays: Replays,
    headers: Vec<u8>,
}

impl Authenticator {
    /// `secret`: the one that is kept over restarts. Nonces from before `now` are stale, because what was used is not known any more.
    pub fn new(settings: config::sip::Auth, secret: &[u8], now: Time) -> Authenticator {
        Authenticator {
            replays: Replays::new(settings.nonce_lifetime, now),
            settings,
            nonces: Nonces::new(secret),
            headers: Vec::new(),
        }
    }

    /// Other settings, after a reload.
    pub fn configure(&mut self, settings: config::sip::Auth) {
        self.replays.set_lifetime(settings.nonce_lifetime);
        self.settings = settings;
    }

    /// Whether a request may pass. `source`: where it came from.
    pub fn check(
        &mut self,
        message: &Message,
        asker: Asker,
        realm: &str,
        users: &Users,
        source: IpAddr,
        now: Time,
    ) -> Verdict {
        let mut stale = false;
        for header in message
            .headers()
            .iter()
            .filter(|header| header.name == asker.credentials())
        {
            let credentials = match Credentials::parse(message.text(header.value)) {
                Ok(Some(credentials)) => credentials,
                Ok(None) => continue, // another scheme
                Err(Malformed(reason)) => return Verdict::Malformed(reason),
            };
            if credentials.realm != realm {
                continue;
            }
            match self.judge(message, &credentials, realm, users, source, now) {
                Verdict::Missing => {}
                Verdict::Stale => stale = true,
                verdict => return verdict,
            }
        }
        if stale { Verdict::Stale } else { Verdict::Missing }
    }

    /// The header lines of a challenge, one for each algorithm in the order of the configuration (RFC 8760 section 2.2). `user`: who is
    /// expected; algorithms that there is no password for are left out.
    pub fn challenge(
        &mut self,
        asker: Asker,
        realm: &str,
        user: Option<&UserEntry>,
        stale: bool,
        source: IpAddr,
        now: Time,
    ) -> &[u8] {
        let nonce = self.nonces.make(realm, source, now);
        self.headers.clear();
        let can = |algorithm: &&DigestAlgorithm| user.is_none_or(|user| user.ha1(**algorithm).is_some());
        let all = &self.settings.algorithms;
        let none = !all.iter().any(|algorithm| can(&algorithm));
        for algorithm in all.iter().filter(|algorithm| none || can(algorithm)) {
            self.headers.extend_from_slice(asker.challenge().name().as_bytes());
            self.headers.extend_from_slice(b": Digest realm=\"");
            for byte in realm.bytes() {
                if matches!(byte, b'"' | b'\\') {
                    self.headers.push(b'\\');
                }
                self.headers.push(byte);
            }
            // Writing into memory does not fail.
            let _ = write!(
                self.headers,
                "\", nonce=\"{nonce}\", {}algorithm={}, qop=\"auth\"\r\n",
                if stale { "stale=true, " } else { "" },
                users::name(*algorithm)
            );
        }
        &self.headers
    }

    /// [`Verdict::Missing`]: these credentials are not for a challenge of ours.
    fn judge(
        &mut self,
        message: &Message,
        credentials: &Credentials<'_>,
        realm: &str,
        users: &Users,
        source: IpAddr,
        now: Time,
    ) -> Verdict {
        let Some(algorithm) = credentials
            .algorithm()
            .filter(|one| self.settings.algorithms.contains(one))
        else {
            return Verdict::Missing;
        };
        if credentials.qop.is_none() && algorithm != DigestAlgorithm::Md5 {
            return Verdict::Malformed("Digest Without qop");
        }
        if !agrees(message, &credentials.uri) {
            return Verdict::Malformed("Digest uri Differs From Request-URI");
        }
        let lifetime = self.settings.nonce_lifetime;
        let nonce = match self.nonces.read(&credentials.nonce, realm, source) {
            Some(nonce) if is_fresh(&nonce, lifetime, now) && self.replays.is_new(&nonce, credentials.nc) => nonce,
            _ => return Verdict::Stale,
        };
        let user = users.find(realm, &credentials.username);
        // The same work for users that are not there, so that the time does not tell.
        let ha1 = user.and_then(|user| user.ha1(algorithm)).unwrap_or(digest::NOBODY);
        let expected = digest::response(algorithm, ha1, message.method_text(), credentials);
        let right = expected
            .as_bytes()
            .ct_eq(credentials.response.to_ascii_lowercase().as_bytes());
        if !bool::from(right) || user.is_none() {
            return Verdict::Wrong {
                user: credentials.username.clone().into_owned(),
            };
        }
        self.replays.used(&nonce, credentials.nc, now);
        Verdict::Granted {
            user: credentials.username.clone().into_owned(),
        }
    }
}

/// A nonce from the future was made before the clock was set back.
fn is_fresh(nonce: &Known, lifetime: Duration, now: Time) -> bool {
    nonce.made <= now && now < nonce.made + lifetime
}

/// Whether the digest's `uri` names what the request is for.
fn agrees(message: &Message, uri: &str) -> bool {
    let request = message.request_uri();
    if uri.as_bytes() == request || message.items(HeaderName::Via).nth(1).is_some() {
        return true;
    }
    let (Some(own), Some(theirs)) = (Uri::parse(request), Uri::parse(uri.as_bytes())) else {
        return false;
    };
    let users_agree = match (own.user, theirs.user) {
        (Some(_), Some(_)) => own.user_text() == theirs.user_text(),
        _ => true,
    };
    let hosts_agree = own.host.eq_ignore_ascii_case(theirs.host) || is_address(theirs.host);
    own.is_sip() && theirs.is_sip() && hosts_agree && users_agree
}

/// Whether a URI's host is an IP address.
fn is_address(host: &[u8]) -> bool {
    let host = str::from_utf8(host).unwrap_or_default();
    host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}
