//! What one source may ask: request rates, and temporary bans for guessing passwords.
//!
//! All tables have a fixed size, so floods with forged sources take no memory. A flood that uses up the table of rates makes it forget the sources
//! that have asked least, which then start afresh: nobody is refused who is within the rate.
//!
//! Trusted peers pass everything; so does a request for an emergency number, which the caller does not ask about here.

mod bans;
mod buckets;

use std::{
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    time::Duration,
};

use self::{bans::Bans, buckets::Buckets};
use super::time::Time;
use crate::config::{
    self, Prefix,
    sip::{Auth, SipLimits},
};

/// Whether a request is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Pass,
    /// More requests than its source may send: no answer, or one 503 where that costs nothing.
    OverRate,
    /// Its source has guessed too many passwords: no answer.
    Banned,
}

/// A source that is banned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    pub source: IpAddr,
    pub until: Time,
    /// Wrong passwords that led to it, and since.
    pub failures: u32,
    /// The user of the last one.
    pub user: String,
}

/// How much is allowed.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub rate_per_source: config::Rate,
    pub burst_per_source: u32,
    pub trusted: Vec<Prefix>,
    /// 0: nobody is banned.
    pub ban_after: u32,
    pub ban_window: Duration,
    pub ban: Duration,
}

impl Settings {
    /// From the configuration.
    pub fn new(limits: &SipLimits, auth: &Auth, trusted: &[Prefix]) -> Settings {
        Settings {
            rate_per_source: limits.rate_per_source,
            burst_per_source: limits.burst_per_source,
            trusted: trusted.to_vec(),
            ban_after: auth.ban_after,
            ban_window: auth.ban_window,
            ban: auth.ban,
        }
    }
}

/// The limits of all sources.
#[derive(Debug)]
pub struct Limits {
    settings: Settings,
    buckets: Buckets,
    bans: Bans,
    hasher: RandomState,
}

impl Limits {
    pub fn new(settings: Settings) -> Limits {
        Limits {
            settings,
            buckets: Buckets::new(),
            bans: Bans::default(),
            hasher: RandomState::new(),
        }
    }

    /// Other settings, after a reload. Bans stay.
    pub fn configure(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// Whether a source is a peer that need not authenticate.
    pub fn is_trusted(&self, source: IpAddr) -> bool {
        match source.to_canonical() {
            IpAddr::V4(address) => self.settings.trusted.iter().any(|prefix| prefix.contains(address)),
            IpAddr::V6(_) => false,
        }
    }

    /// To be asked for each request that would open a transaction.
    pub fn admit(&mut self, source: IpAddr, now: Time) -> Admission {
        if self.is_trusted(source) {
            return Admission::Pass;
        }
        if self.bans.is_banned(source, now) {
            return Admission::Banned;
        }
        let Settings {
            rate_per_source: rate,
            burst_per_source: burst,
            ..
        } = &self.settings;
        let hash = self.hasher.hash_one(key(source));
        if self.buckets.take(hash, rate.interval_ns(), *burst, now) {
            Admission::Pass
        } else {
            Admission::OverRate
        }
    }

    /// A wrong password came from here, with a nonce that was made for this source. True: the source is banned now.
    pub fn wrong_password(&mut self, source: IpAddr, user: &str, now: Time) -> bool {
        let settings = &self.settings;
        !self.is_trusted(source)
            && settings.ban_after > 0
            && self
                .bans
                .failed(source, user, settings.ban_after, settings.ban_window, settings.ban, now)
    }

    /// A right password came from here: what was wrong before was a slip.
    pub fn right_password(&mut self, source: IpAddr) {
        self.bans.forget_failures(source);
    }

    /// The bans at this moment, in no particular order.
    pub fn bans(&self, now: Time) -> impl Iterator<Item = Ban> {
        self.bans.iter(now)
    }

    /// Lifts a ban; says whether there was one.
    pub fn lift(&mut self, source: IpAddr, now: Time) -> bool {
        self.bans.lift(source, now)
    }
}

/// What counts as one source: an address, and of IPv6 the /64 that one host can have to itself.
fn key(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time(1_790_000_000_000);

    fn limits() -> Limits {
        Limits::new(Settings {
            rate_per_source: config::Rate::per_second(10),
            burst_per_source: 20,
            trusted: vec![Prefix::containing("198.51.100.0".parse().unwrap(), 24).unwrap()],
            ban_after: 3,
            ban_window: Duration::from_secs(60),
            ban: Duration::from_secs(300),
        })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn after(ms: u64) -> Time {
        NOW + Duration::from_millis(ms)
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut limits = limits();
        let mut passes = |source: &str, at, count: u32| {
            let source = ip(source);
            (0..count)
                .filter(|_| limits.admit(source, after(at)) == Admission::Pass)
                .count()
        };
        assert_eq!(passes("192.0.2.1", 0, 100), 20);
        assert_eq!(passes("192.0.2.1", 1000, 100), 10);
        assert_eq!(passes("192.0.2.1", 1050, 100), 0);
        assert_eq!(passes("192.0.2.1", 100_000, 100), 20);
        assert_eq!(passes("192.0.2.2", 0, 100), 20, "nobody pays for others");
        assert_eq!(
            passes("2001:db8::1", 0, 15) + passes("2001:db8::ffff:2", 0, 15),
            20,
            "one host has a /64"
        );
        assert_eq!(passes("::ffff:198.51.100.7", 0, 1000), 1000);
        // A day of silence, a second more than a day of half the rate.
        assert!((0..86_400).all(|second| passes("192.0.2.3", second * 1000, 5) == 5));
    }

    #[test]
    fn forged_sources_take_no_memory_and_hurt_nobody_within_the_rate() {
        let mut limits = limits();
        let phone = ip("192.0.2.1");
        let size = limits.buckets.memory();
        for n in 0..300_000u32 {
            assert_eq!(
                limits.admit(IpAddr::V4(n.into()), after(u64::from(n) / 100)),
                Admission::Pass
            );
            if n % 10_000 == 0 {
                assert_eq!(limits.admit(phone, after(u64::from(n) / 100)), Admission::Pass);
            }
        }
        assert_eq!(limits.buckets.memory(), size);
        // One who asks for much is remembered as such in the middle of it.
        let greedy = ip("203.0.113.1");
        let mut passed = 0;
        for n in 0..200_000u32 {
            limits.admit(IpAddr::V4((n + 1_000_000).into()), after(3000));
            passed += u32::from(n % 20 == 0 && limits.admit(greedy, after(3000)) == Admission::Pass);
        }
        assert_eq!(passed, 20);
    }

    #[test]
    fn guessing_is_banned_for_a_time() {
        let mut limits = limits();
        let source = ip("192.0.2.1");
        assert!(!limits.wrong_password(source, "a", after(0)));
        assert!(!limits.wrong_password(source, "a", after(30_000)));
        assert!(
            !limits.wrong_password(source, "a", after(60_000)),
            "another window has begun"
        );
        assert!(!limits.wrong_password(source, "a", after(61_000)));
        assert!(limits.wrong_password(source, "b", after(61_001)));
        assert_eq!(limits.admit(source, after(61_002)), Admission::Banned);
        assert_eq!(limits.admit(ip("192.0.2.2"), after(61_002)), Admission::Pass);
        let bans: Vec<Ban> = limits.bans(after(61_002)).collect();
        let expected = Ban {
            source,
            until: after(361_001),
            failures: 3,
            user: "b".into(),
        };
        assert_eq!(bans, [expected]);
        assert_eq!(limits.admit(source, after(361_000)), Admission::Banned);
        assert_eq!(limits.admit(source, after(361_001)), Admission::Pass);
        assert_eq!(limits.bans(after(361_001)).count(), 0);
    }

    #[test]
    fn slips_are_forgiven_and_bans_can_be_lifted() {
        let mut limits = limits();
        let source = ip("2001:db8::1");
        for _ in 0..10 {
            assert!(!limits.wrong_password(source, "a", NOW) && !limits.wrong_password(source, "a", NOW));
            limits.right_password(source);
        }
        for _ in 0..3 {
            limits.wrong_password(source, "a", NOW);
        }
        assert_eq!(limits.admit(source, NOW), Admission::Banned);
        assert!(limits.lift(source, NOW) && !limits.lift(source, NOW));
        assert_eq!(limits.admit(source, NOW), Admission::Pass);
        assert!(!limits.wrong_password(source, "a", NOW), "it starts afresh");
        for _ in 0..100 {
            assert!(!limits.wrong_password(ip("198.51.100.1"), "a", NOW));
        }
        let mut never = Limits::new(Settings {
            ban_after: 0,
            ..limits.settings.clone()
        });
        assert!((0..100).all(|_| !never.wrong_password(source, "a", NOW)));
    }

    #[test]
    fn a_flood_of_failures_is_bounded_and_frees_no_one_who_is_banned() {
        let mut limits = limits();
        let guesser = ip("192.0.2.1");
        for _ in 0..3 {
            limits.wrong_password(guesser, "a", after(1000));
        }
        for n in 0..100_000u32 {
            limits.wrong_password(IpAddr::V4((n + 7_000_000).into()), "x", after(2000));
        }
        assert!(limits.bans.len() <= bans::MOST);
        assert_eq!(limits.admit(guesser, after(3000)), Admission::Banned);
    }
}
