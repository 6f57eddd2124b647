//! Contacts from the configuration, which never expire and are not stored.

use super::{ContactId, Location, NewContact};
use crate::sip::{path::Paths, time::Time};

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fixed {
    /// In canonical form.
    pub aor: String,
    pub uri: String,
    /// Thousandths.
    pub q: u16,
}

impl Location {
    /// Puts contacts of the configuration in and takes out those that are not in it any more; what stays, stays as it is.
    pub fn set_fixed(&mut self, wanted: &[Fixed], paths: &mut Paths, now: Time) {
        let old: Vec<ContactId> = self
            .iter(now)
            .filter(|contact| contact.fixed)
            .map(|contact| contact.id)
            .collect();
        for id in old {
            let Some(contact) = self.get(id, now) else { continue };
            let same = |one: &Fixed| one.aor == contact.aor && one.uri.as_bytes() == contact.uri && one.q == contact.q;
            if !wanted.iter().any(same) {
                self.remove(id, paths, now);
            }
        }
        for one in wanted {
            let there = self
                .contacts(&one.aor, now)
                .any(|contact| contact.fixed && contact.uri == one.uri.as_bytes());
            if there {
                continue;
            }
            let new = NewContact {
                uri: one.uri.as_bytes(),
                params: b"",
                call_id: b"",
                cseq: 0,
                path: b"",
                flow: None,
                behind_nat: false,
                keeps_alive: false,
                reg_id: None,
                q: one.q,
                expires: Time::MAX,
                user_agent: None,
                fixed: true,
            };
            self.put(&one.aor, None, &new, paths, now);
        }
    }

    /// All contacts at this moment, in no particular order.
    pub fn iter(&self, now: Time) -> impl Iterator<Item = super::Contact<'_>> {
        self.contacts
            .iter()
            .map(|(index, _)| self.view(index as u32))
            .filter(move |contact| contact.is_current(now))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{config, sip::path::Settings};

    const NOW: Time = Time(1_000_000);

    fn fixed(aor: &str, uri: &str) -> Fixed {
        Fixed {
            aor: aor.into(),
            uri: uri.into(),
            q: 1000,
        }
    }

    fn uris(location: &Location, aor: &str) -> Vec<String> {
        let contacts = location.contacts(aor, NOW);
        contacts
            .map(|contact| String::from_utf8_lossy(contact.uri).into_owned())
            .collect()
    }

    #[test]
    fn a_reload_changes_what_has_changed() {
        let settings = Settings {
            paths: config::sip::Paths::default(),
            t1: Duration::from_millis(500),
            t2: Duration::from_secs(4),
        };
        let (mut location, mut paths) = (Location::new(), Paths::new(settings, [0; 32]));
        let (desk, door) = (
            fixed("desk@net.com", "sip:desk@10.0.0.1"),
            fixed("door@net.com", "sip:door@10.0.0.2"),
        );
        location.set_fixed(&[desk.clone(), door.clone()], &mut paths, NOW);
        assert_eq!(uris(&location, "desk@net.com"), ["sip:desk@10.0.0.1"]);
        let before = location.contacts("door@net.com", NOW).next().map(|contact| contact.id);
        location.set_fixed(&[fixed("desk@net.com", "sip:desk@10.0.0.9"), door], &mut paths, NOW);
        assert_eq!(uris(&location, "desk@net.com"), ["sip:desk@10.0.0.9"]);
        assert_eq!(
            location.contacts("door@net.com", NOW).next().map(|contact| contact.id),
            before
        );
        location.set_fixed(&[], &mut paths, NOW);
        assert!(
            location.is_empty() && !location.has_changes(),
            "nothing of them is stored"
        );
    }
}
