//! The core in its thread: what the transport drives, and what answers people's [`Query`]s.

#[cfg(test)]
mod bench;
pub mod records;
#[cfg(test)]
mod repeat_tests;
#[cfg(test)]
mod tests;

use std::{net::IpAddr, sync::Arc};

use anyhow::{Result, anyhow};

use super::{
    calls::Recorder,
    command::{Command, Input},
    core::{Beginning, Core, seam::Registry},
    directory::{self, Directory},
    flow::Flow,
    limits::Ban,
    location::{Contact, Location},
    metrics::{SipGauges, SipMetrics},
    path::{self, Paths},
    query::{
        Cursor, DialogFilter, List, Page, PathFilter, Query, RegistrationFilter, Setup, Snapshot, TransactionFilter,
    },
    time::Time,
    transaction::{client::Client, server::Server},
    transport,
};
use crate::records::{DialogRecord, PathRecord, RegistrationRecord, TransactionRecord};
use crate::store::redb::RedbStore;

/// What people ask of those who know users and registrations.
pub trait Office: Registry {
    /// The registrations.
    fn location(&self) -> &Location;

    /// What devices have registered elsewhere through us.
    fn elsewhere(&self) -> &Location;

    /// Removes contacts of an AoR: the one whose URI this is as it was sent, or all; says how many. Static ones stay.
    fn unregister(&mut self, aor: &str, contact: Option<&[u8]>, paths: &mut Paths, now: Time) -> u32;

    /// The sources that are banned.
    fn bans(&self, now: Time) -> Vec<Ban>;

    /// Lifts a ban; whether there was one.
    fn lift(&mut self, source: IpAddr, now: Time) -> bool;

    /// Takes over another configuration and the users that came with it.
    fn configure(&mut self, setup: &Setup, paths: &mut Paths, now: Time);

    /// Adds what it has counted itself.
    fn count(&self, metrics: &mut SipMetrics);
}

/// The core, driven by the transport.
pub struct Engine<R: Office> {
    core: Core<R>,
    /// A NAT is about to run beside the server.
    waits_for_media: bool,
}

impl<R: Office> Engine<R> {
    pub fn new(core: Core<R>) -> Engine<R> {
        Engine {
            core,
            waits_for_media: false,
        }
    }

    /// The same, telling of calls that have ended.
    pub fn recording(mut self, recorder: Arc<Recorder>) -> Engine<R> {
        self.core.record_calls(recorder);
        self
    }

    /// Reads nothing until there is a data path for media ([`Query::AnchorMedia`]): a call that passed before would go without, and one of before a
    /// restart would lose what it has.
    pub fn wait_for_media(mut self) -> Engine<R> {
        self.waits_for_media = true;
        self
    }

    fn answer(&mut self, query: Query, now: Time, out: &mut Vec<Command>) {
        // Whoever asked may be gone; an answer that finds nobody is no error, here and below.
        match query {
            Query::Registrations(list) => self.registrations(list, now),
            Query::Paths(list) => self.paths(list, now),
            Query::Dialogs(list) => self.dialogs(list, now),
            Query::Transactions(list) => self.transactions(list, now),
            Query::Bans(list) => {
                let bans = self.core.registry.bans(now);
                let records = bans.iter().map(records::ban).collect();
                let _ = list.reply.send(Page { records, next: None });
            }
            Query::Unregister { aor, contact, reply } => {
                let Core { registry, paths, .. } = &mut self.core;
                let contact = contact.as_ref().map(|contact| contact.as_bytes());
                let _ = reply.send(registry.unregister(&aor, contact, paths, now));
            }
            Query::LiftBan { source, reply } => {
                let _ = reply.send(self.core.registry.lift(source, now));
            }
            Query::Snapshot(reply) => {
                let _ = reply.send(Box::new(self.snapshot(now)));
            }
            Query::AnchorMedia(policy, path) => {
                self.core.anchor_media(policy, path, now);
                self.waits_for_media = false;
            }
            Query::SilentMedia(silent, reply) => {
                let _ = reply.send(self.core.media_silent(&silent, now, out));
            }
            Query::MediaPolicy(policy) => self.core.media_policy(policy),
            Query::MediaStranded(relays, reply) => {
                let _ = reply.send(self.core.media_stranded(&relays));
            }
            Query::Configure(setup, reply) => {
                self.core.configure(setup.config.clone(), setup.places().collect(), now);
                let Core { registry, paths, .. } = &mut self.core;
                registry.configure(&setup, paths, now);
                let _ = reply.send(());
            }
        }
    }

    fn snapshot(&self, now: Time) -> Snapshot {
        let registry = &self.core.registry;
        let mut metrics = self.core.counted();
        registry.count(&mut metrics);
        let location = registry.location();
        Snapshot {
            metrics,
            gauges: SipGauges {
                registrations: location.len() as u64,
                registrations_behind_nat: location.behind_nat() as u64,
                aors: location.aors() as u64,
                banned: registry.bans(now).len() as u64,
                ..self.core.gauges()
            },
            media_left: self.core.media_left().collect(),
        }
    }

    fn registrations(&self, list: List<RegistrationFilter, RegistrationRecord>, now: Time) {
        let List {
            filter,
            from,
            look_at,
            reply,
        } = list;
        // Our own first, then those at registrars elsewhere.
        const ELSEWHERE: u64 = 1 << 32;
        let core = &self.core;
        let (own, elsewhere) = (core.registry.location(), core.registry.elsewhere());
        let mut found = Vec::new();
        let mut show = |contact: Contact<'_>| {
            let received = contact.flow.map(|flow| flow.remote.ip().to_canonical());
            let uri = String::from_utf8_lossy(contact.uri);
            if filter.matches(contact.aor, &uri, received, contact.behind_nat) {
                found.push(records::registration(&contact, &core.paths, core.here(), now));
            }
        };
        // Who asks for one AoR need not wait until all are looked at.
        let next = match &filter.aor {
            Some(aor) => {
                own.contacts(aor, now).for_each(&mut show);
                elsewhere.contacts(aor, now).for_each(&mut show);
                None
            }
            None if from.0 < ELSEWHERE => Some(own.page(from.0, look_at, now, show).unwrap_or(ELSEWHERE)),
            None => elsewhere
                .page(from.0 - ELSEWHERE, look_at, now, show)
                .map(|next| next + ELSEWHERE),
        };
        let next = next
            .filter(|next| *next != ELSEWHERE || !elsewhere.is_empty())
            .map(Cursor);
        let _ = reply.send(Page { records: found, next });
    }

    fn paths(&self, list: List<PathFilter, PathRecord>, now: Time) {
        let List {
            filter,
            from,
            look_at,
            reply,
        } = list;
        let mut found = Vec::new();
        let next = self.core.paths.page(from.0, look_at, |path| {
            let state = path.state.name();
            if filter.matches(state, records::canonical(path.flow.remote), path.down_since.is_some()) {
                found.push(records::path(&path, self.core.here(), now));
            }
        });
        let _ = reply.send(Page {
            records: found,
            next: next.map(Cursor),
        });
    }

    fn dialogs(&self, list: List<DialogFilter, DialogRecord>, now: Time) {
        let filter = &list.filter;
        let all = self
            .core
            .dialogs()
            .iter()
            .map(|(id, dialog)| (u64::from(id.index), (id, dialog)));
        let page = page(all, list.from, list.look_at, |(id, dialog)| {
            let mut record = records::dialog(dialog, now);
            if !filter.matches(&record.method, &record.call_id, &record.from, &record.to) {
                return None;
            }
            record.media = filter.media.then(|| self.core.streams_of(id));
            Some(record)
        });
        let _ = list.reply.send(page);
    }

    /// Server transactions first, then client ones.
    fn transactions(&self, list: List<TransactionFilter, TransactionRecord>, now: Time) {
        const CLIENTS: u64 = 1 << 32;
        enum Side<'a> {
            Server(&'a Server),
            Client(&'a Client),
        }
        let servers = self.core.servers().iter();
        let servers = servers.map(|(id, server)| (u64::from(id.index), Side::Server(server)));
        let clients = self.core.clients().iter();
        let clients = clients.map(|(id, client)| (CLIENTS + u64::from(id.index), Side::Client(client)));
        let method = list.filter.method.as_deref();
        let page = page(servers.chain(clients), list.from, list.look_at, |side| {
            let record = match side {
                Side::Server(server) => records::server(server, now),
                Side::Client(client) => records::client(client, now),
            };
            method.is_none_or(|wanted| wanted == record.method).then_some(record)
        });
        let _ = list.reply.send(page);
    }
}

/// A page of what is listed by rising numbers.
fn page<T, R>(
    all: impl Iterator<Item = (u64, T)>,
    from: Cursor,
    look_at: usize,
    record: impl Fn(T) -> Option<R>,
) -> Page<R> {
    let mut records = Vec::new();
    let mut left = look_at;
    for (number, item) in all.skip_while(|(number, _)| *number < from.0) {
        if left == 0 {
            return Page {
                records,
                next: Some(Cursor(number)),
            };
        }
        left -= 1;
        records.extend(record(item));
    }
    Page { records, next: None }
}

impl<R: Office> Drop for Engine<R> {
    /// Calls go on when the daemon stops.
    fn drop(&mut self) {
        self.core.keep_calls(Time::MAX);
    }
}

impl<R: Office + 'static> transport::Engine for Engine<R> {
    type Call = Query;

    fn input(&mut self, input: Input, now: Time, out: &mut Vec<Command>) {
        self.core.input(input, now, out);
    }

    fn next(&self) -> Option<Time> {
        self.core.next()
    }

    fn tick(&mut self, now: Time, out: &mut Vec<Command>) {
        self.core.tick(now, out);
    }

    fn uses(&self, flow: &Flow) -> bool {
        let paths = &self.core.paths;
        let path = paths.find(flow).map_or(path::State::Idle, |path| paths.state(path));
        // A telephone that rings for minutes: its answer goes back here. Seldom asked, so looking at all of them does not matter.
        let answers = |(_, server): (_, &Server)| server.open() && server.flow == *flow;
        path != path::State::Idle || self.core.servers().iter().any(answers)
    }

    fn is_ready(&self) -> bool {
        !self.waits_for_media
    }

    fn call(&mut self, call: Query, now: Time, out: &mut Vec<Command>) {
        self.answer(call, now, out);
    }
}

/// Makes the engine of a server: with what the configuration says, and the registrations that its store holds. `secret`: for tokens and
/// nonces.
///
/// # Errors
/// If the store cannot be used: with its file and the remedy.
pub fn make(setup: Setup, secret: &[u8; 32], now: Time) -> Result<Engine<Directory>> {
    let config = &setup.config;
    let mut directory = Directory::new(config.clone(), setup.users.clone(), secret, now);
    // Answers to prompts of before a restart are not answers to those of now.
    let mut fresh = [0; 32];
    getrandom::fill(&mut fresh).map_err(|error| anyhow!("the system gives no random numbers for prompts: {error}"))?;
    let mut paths = Paths::new(path::Settings::of(config), fresh);
    let mut calls = Vec::new();
    if let Some(file) = &config.store {
        let store = RedbStore::open(file, &directory::names(&setup))?;
        let contacts;
        (contacts, calls) = directory.keep_in(store, &mut paths, now)?;
        tracing::info!(contacts, "registrations of before are back");
    }
    directory.put_fixed(&mut paths, now);
    let beginning = Beginning {
        config: config.clone(),
        listeners: setup.places().collect(),
        secret: secret.to_vec(),
    };
    let mut core = Core::new(beginning, paths, directory);
    let stored = calls.len();
    let back = calls
        .iter()
        .filter(|(number, record)| core.restore_call(*number, record, now))
        .count();
    if stored > 0 {
        tracing::info!(calls = back, over = stored - back, "calls of before are back");
    }
    Ok(Engine::new(core))
}
