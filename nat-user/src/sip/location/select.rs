//! Which contacts a request goes to, in which order (RFC 3261 section 16.5, RFC 5626 section 7).

use std::cmp::Reverse;

use smallvec::SmallVec;

use super::{Contact, ContactId, Location};
use crate::sip::time::Time;

/// Where a request for an address of record can go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    /// Usable contacts: the highest q first, among equals the one that registered last. One for each device.
    pub usable: SmallVec<[ContactId; 4]>,
    /// How many contacts are registered, but down. If nothing is usable and this is not zero, the answer is 480 and not 404.
    pub down: u32,
}

impl Location {
    /// The targets of an address of record in canonical form. Of several flows (or contacts) of one device, told by its instance, the one
    /// that registered last is a target; the others are for [`Location::fallback`].
    pub fn lookup(&self, aor: &str, now: Time) -> Targets {
        let mut found: SmallVec<[Contact<'_>; 4]> = self.contacts(aor, now).collect();
        let all = found.len();
        found.retain(|contact| contact.is_usable(now));
        let down = (all - found.len()) as u32;
        found.sort_by_key(|contact| Reverse((contact.q, contact.updated, contact.number)));
        let mut usable = SmallVec::new();
        for (place, contact) in found.iter().enumerate() {
            let instance = contact.instance();
            let newest = |other: &Contact<'_>| (other.updated, other.number) <= (contact.updated, contact.number);
            let best = instance.is_none()
                || found
                    .iter()
                    .enumerate()
                    .all(|(at, other)| at == place || other.instance() != instance || newest(other));
            if best {
                usable.push(contact.id);
            }
        }
        Targets { usable, down }
    }

    /// Another way to the same device when a request over `failed` was answered with 430 or 408, or could not be sent (RFC 5626 section 7):
    /// the next usable flow of its instance that is not in `tried`. To be asked before the failed contact is removed.
    pub fn fallback(&self, failed: ContactId, tried: &[ContactId], now: Time) -> Option<ContactId> {
        let failed = self.get(failed, now)?;
        let instance = failed.instance()?;
        self.contacts(failed.aor, now)
            .filter(|contact| contact.is_usable(now) && contact.instance() == Some(instance))
            .filter(|contact| contact.id != failed.id && !tried.contains(&contact.id))
            .max_by_key(|contact| (contact.updated, contact.number))
            .map(|contact| contact.id)
    }
}
