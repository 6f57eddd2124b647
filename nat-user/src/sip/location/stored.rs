//! Registrations as they are stored: what has changed since the last time, and how a contact comes back after a restart.

use std::num::NonZeroU32;

use super::{ContactId, Location, NewContact, Number, contact::Unsaved};
use crate::sip::{
    flow::{ConnectionId, Flow, ListenerId, Transport},
    path::Paths,
    time::Time,
};
use crate::store::codec::{Reader, put_text};

/// What has changed since the last time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Contacts that are new or changed, each as [`StoredContact`] writes it.
    pub contacts: Vec<(Number, Vec<u8>)>,
    pub refreshes: Vec<Refresh>,
    pub gone: Vec<Number>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.contacts.is_empty() && self.refreshes.is_empty() && self.gone.is_empty()
    }
}

/// A contact was registered again and nothing else about it has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refresh {
    pub number: Number,
    pub expires: Time,
    pub updated: Time,
    pub cseq: u32,
}

/// A contact with its address of record, as it is stored.
#[derive(Clone, Copy, Debug)]
pub struct StoredContact<'a> {
    pub aor: &'a str,
    pub updated: Time,
    pub contact: NewContact<'a>,
}

impl Location {
    /// Whether [`Location::take_changes`] has something.
    pub fn has_changes(&self) -> bool {
        !self.unsaved.is_empty() || !self.gone.is_empty()
    }

    /// What has changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        let mut changes = Changes {
            gone: std::mem::take(&mut self.gone),
            ..Changes::default()
        };
        for index in std::mem::take(&mut self.unsaved) {
            let Some(record) = self.contacts.get_mut(index as usize) else {
                continue; // gone again
            };
            let what = std::mem::replace(&mut record.unsaved, Unsaved::Nothing);
            let contact = self.view(index);
            match what {
                // Its index was used again and that one has been dealt with.
                Unsaved::Nothing => {}
                Unsaved::Refresh => changes.refreshes.push(Refresh {
                    number: contact.number,
                    expires: contact.expires,
                    updated: contact.updated,
                    cseq: contact.cseq,
                }),
                Unsaved::All => {
                    let stored = StoredContact {
                        aor: contact.aor,
                        updated: contact.updated,
                        contact: NewContact {
                            uri: contact.uri,
                            params: contact.params,
                            call_id: contact.call_id,
                            cseq: contact.cseq,
                            path: contact.path,
                            flow: contact.flow,
                            behind_nat: contact.behind_nat,
                            keeps_alive: contact.keeps_alive,
                            reg_id: contact.reg_id,
                            q: contact.q,
                            expires: contact.expires,
                            user_agent: contact.user_agent.map(str::as_bytes),
                            fixed: contact.fixed,
                        },
                    };
                    changes.contacts.push((contact.number, stored.encode()));
                }
            }
        }
        changes
    }

    /// Takes a contact back after a restart, with the refresh that followed if there was one. A contact on a stream has lost its flow
    /// (RFC 5626 section 7): it is dropped if it can be reached in no other way, as is what has expired meanwhile. `listener` says which
    /// listener it is today that had this id, `None` if there is none any more. Says the contact's new id, `None` if it was dropped.
    pub fn restore(
        &mut self,
        number: Number,
        stored: &StoredContact<'_>,
        refresh: Option<&Refresh>,
        listener: impl Fn(ListenerId) -> Option<ListenerId>,
        paths: &mut Paths,
        now: Time,
    ) -> Option<ContactId> {
        let mut new = stored.contact;
        let mut updated = stored.updated;
        if let Some(refresh) = refresh {
            (new.expires, new.cseq, updated) = (refresh.expires, refresh.cseq, refresh.updated);
        }
        if let Some(flow) = new.flow {
            new.flow = listener(flow.listener)
                .filter(|_| !flow.transport.reliable())
                .map(|listener| Flow { listener, ..flow });
        }
        let lost = stored.contact.flow.is_some() && new.flow.is_none();
        if new.expires <= now || (lost && (new.reg_id.is_some() || new.behind_nat)) {
            self.number = self.number.max(number.0 + 1);
            self.gone.push(number);
            return None;
        }
        let id = self.insert(stored.aor, Some(number), &new, paths, now);
        let record = &mut self.contacts[id.index as usize];
        record.updated = updated;
        record.alarm.set(new.expires, &mut self.timers, id);
        // It is stored already, unless its flow is another one now.
        if stored.contact.flow == new.flow && self.unsaved.last() == Some(&id.index) {
            record.unsaved = Unsaved::Nothing;
            self.unsaved.pop();
        }
        Some(id)
    }
}

impl<'a> StoredContact<'a> {
    /// The record's bytes: numbers in little endian, texts with their length in front.
    pub fn encode(&self) -> Vec<u8> {
        let new = &self.contact;
        let texts = [self.aor.as_bytes(), new.uri, new.params, new.call_id, new.path];
        let length: usize = texts.iter().map(|text| text.len() + 4).sum();
        let mut out = Vec::with_capacity(length + 96);
        for text in texts {
            put_text(&mut out, text);
        }
        put_text(&mut out, new.user_agent.unwrap_or_default());
        for time in [new.expires, self.updated] {
            out.extend_from_slice(&time.0.to_le_bytes());
        }
        for number in [new.cseq, new.reg_id.map_or(0, NonZeroU32::get)] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&new.q.to_le_bytes());
        out.push(u8::from(new.behind_nat) | u8::from(new.keeps_alive) << 1 | u8::from(new.user_agent.is_some()) << 2);
        match new.flow {
            None => out.push(0),
            Some(flow) => {
                out.push(1 + flow.transport as u8);
                out.extend_from_slice(&flow.listener.0.to_le_bytes());
                put_text(&mut out, flow.remote.to_string().as_bytes());
            }
        }
        out
    }

    /// `None`: these bytes were not written by [`StoredContact::encode`].
    pub fn decode(bytes: &'a [u8]) -> Option<StoredContact<'a>> {
        let mut reader = Reader::new(bytes);
        let aor = std::str::from_utf8(reader.text()?).ok()?;
        let (uri, params, call_id, path) = (reader.text()?, reader.text()?, reader.text()?, reader.text()?);
        let user_agent = reader.text()?;
        let (expires, updated) = (
            Time(u64::from_le_bytes(reader.array()?)),
            Time(u64::from_le_bytes(reader.array()?)),
        );
        let cseq = u32::from_le_bytes(reader.array()?);
        let reg_id = NonZeroU32::new(u32::from_le_bytes(reader.array()?));
        let q = u16::from_le_bytes(reader.array()?);
        let [flags] = reader.array()?;
        let flow = match reader.array::<1>()? {
            [0] => None,
            [transport] => {
                let transport = *[Transport::Udp, Transport::Tcp, Transport::Tls].get(usize::from(transport) - 1)?;
                let listener = ListenerId(u16::from_le_bytes(reader.array()?));
                let remote = std::str::from_utf8(reader.text()?).ok()?.parse().ok()?;
                // Connections do not outlive the daemon, and ids of connections mean others then.
                Some(Flow::stream(listener, transport, remote, ConnectionId::NONE))
            }
        };
        reader.is_empty().then_some(StoredContact {
            aor,
            updated,
            contact: NewContact {
                uri,
                params,
                call_id,
                cseq,
                path,
                flow,
                behind_nat: flags & 1 != 0,
                keeps_alive: flags & 2 != 0,
                reg_id,
                q,
                expires,
                user_agent: (flags & 4 != 0).then_some(user_agent),
                fixed: false,
            },
        })
    }
}
