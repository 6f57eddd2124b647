//! Registrations in one file, by `redb`.
//!
//! A contact is written as a whole when it is new or changes. Refreshes, which are nearly all that happens, go into a journal: one entry
//! holds thousands, so that a refresh costs a few bytes at the end of the file and no page of its own. When the journal is some times as long as
//! there are contacts, it is written anew with the last refresh of each.
//!
//! Tables: `meta` (schema version, listeners by their ids), for each [`Kind`] one of contacts and one journal, and one of calls.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use redb::{
    Builder, Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _,
    StorageError, TableDefinition, TableError, TableHandle as _, WriteTransaction,
};
use rustc_hash::FxHashMap;

use super::{Batch, CallChanges, Kind, Loaded, Store, StoreError};
use crate::sip::{
    core::kept,
    flow::ListenerId,
    location::{
        Number,
        stored::{Changes, Refresh, StoredContact},
    },
    time::Time,
};

/// The version of what is in the file. Another one is refused.
const SCHEMA: u32 = 1;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// Bytes of one refresh: number, expiry, last registration, CSeq.
const REFRESH: usize = 8 + 8 + 8 + 4;
/// Refreshes of one entry of the journal.
const CHUNK: usize = 2048;
/// The journal is rewritten when it is so many times as long as there are contacts …
const JOURNAL_TIMES: u64 = 3;
/// … and has this many refreshes at least.
const JOURNAL_LEAST: u64 = 200_000;
/// Stands for a listener that there is none of any more.
pub const NO_LISTENER: ListenerId = ListenerId(u16::MAX);

/// What of the file is kept in memory.
const CACHE: usize = 32 << 20;

const OTHER_FILE: &str = "name another file in `store` of [sip], or move this one away to begin with no registrations";
const IO: &str = "check the path in `store` of [sip], its directory, its owner and the space on the disk";

/// An open file.
pub struct RedbStore {
    path: PathBuf,
    database: Database,
    journals: [Journal; Kind::ALL.len()],
}

/// How a journal stands.
#[derive(Clone, Copy, Debug, Default)]
struct Journal {
    next: u64,
    refreshes: u64,
    contacts: u64,
    /// The greatest number in it when the file was opened: numbers up to here may be used again.
    greatest: u64,
}

/// Records of calls by their numbers. Files of sipnats that knew no calls get it when they are opened.
const CALLS: Table = TableDefinition::new("calls");

type Table = TableDefinition<'static, u64, &'static [u8]>;

fn tables(kind: Kind) -> (Table, Table) {
    match kind {
        Kind::Registration => (
            TableDefinition::new("registrations"),
            TableDefinition::new("registrations-journal"),
        ),
        Kind::Edge => (TableDefinition::new("edge"), TableDefinition::new("edge-journal")),
    }
}

impl RedbStore {
    /// Opens a file, or makes one that only its owner can read. `listeners`: what each listener is, in an unchanging form (`udp 134.56.3.1:5060`), by its
    /// id. Flows that are stored name their listener by its id of before; they get those of today, and [`NO_LISTENER`] if there is none any more.
    ///
    /// # Errors
    /// It cannot be opened, somebody else has it open, it is damaged, or it is not one of ours or of this version.
    pub fn open(path: &Path, listeners: &[String]) -> Result<RedbStore, StoreError> {
        let database = create(path)?;
        // The library's own checks of a damaged file may panic.
        let opened = catch_unwind(AssertUnwindSafe(|| prepare(&database, listeners)));
        let journals = match opened {
            Ok(Ok(journals)) => journals,
            Ok(Err(Trouble::Foreign(what))) => return Err(StoreError::new(path, what, OTHER_FILE)),
            Ok(Err(Trouble::Redb(error))) => return Err(failed(path, &error)),
            Err(_) => return Err(damaged(path)),
        };
        Ok(RedbStore {
            path: path.to_owned(),
            database,
            journals,
        })
    }

    /// How many contacts there are of a kind.
    pub fn contacts(&self, kind: Kind) -> u64 {
        self.journals[kind as usize].contacts
    }

    fn read(&self, each: &mut dyn FnMut(Loaded<'_>)) -> Result<(), redb::Error> {
        let transaction = self.database.begin_read()?;
        for kind in Kind::ALL {
            let (contacts, journal) = tables(kind);
            let mut last: FxHashMap<u64, Refresh> = FxHashMap::default();
            for entry in transaction.open_table(journal)?.iter()? {
                for refresh in refreshes(entry?.1.value()) {
                    last.insert(refresh.number.0, refresh);
                }
            }
            for entry in transaction.open_table(contacts)?.iter()? {
                let (number, bytes) = entry?;
                let number = number.value();
                each(Loaded {
                    kind,
                    number: Number(number),
                    bytes: bytes.value(),
                    refresh: last.get(&number).copied(),
                });
            }
        }
        Ok(())
    }

    fn read_calls(&self, each: &mut dyn FnMut(u64, &[u8])) -> Result<(), redb::Error> {
        let transaction = self.database.begin_read()?;
        for entry in transaction.open_table(CALLS)?.iter()? {
            let (number, bytes) = entry?;
            each(number.value(), bytes.value());
        }
        Ok(())
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), redb::Error> {
        let mut journals = self.journals;
        let transaction = self.database.begin_write()?;
        if let Some(listeners) = &batch.listeners {
            transaction
                .open_table(META)?
                .insert("listeners", listeners.join("\n").as_bytes())?;
        }
        put_calls(&transaction, &batch.calls)?;
        for kind in Kind::ALL {
            let changes = batch.of(kind);
            let journal = &mut journals[kind as usize];
            if changes.is_empty() {
                continue;
            }
            put(&transaction, kind, changes, journal)?;
            if journal.refreshes > JOURNAL_LEAST.max(journal.contacts * JOURNAL_TIMES) {
                rewrite(&transaction, kind, journal)?;
            }
        }
        transaction.commit()?;
        self.journals = journals;
        Ok(())
    }
}

impl Store for RedbStore {
    fn load(&mut self, each: &mut dyn FnMut(Loaded<'_>)) -> Result<(), StoreError> {
        match catch_unwind(AssertUnwindSafe(|| self.read(each))) {
            Ok(result) => result.map_err(|error| failed(&self.path, &error)),
            Err(_) => Err(damaged(&self.path)),
        }
    }

    fn load_calls(&mut self, each: &mut dyn FnMut(u64, &[u8])) -> Result<(), StoreError> {
        match catch_unwind(AssertUnwindSafe(|| self.read_calls(each))) {
            Ok(result) => result.map_err(|error| failed(&self.path, &error)),
            Err(_) => Err(damaged(&self.path)),
        }
    }

    fn write(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.commit(batch).map_err(|error| failed(&self.path, &error))
    }
}

/// Opens the file as such.
fn create(path: &Path) -> Result<Database, StoreError> {
    if let Some(parent) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty() && !parent.exists())
    {
        fs::create_dir_all(parent)
            .and_then(|()| fs::set_permissions(parent, fs::Permissions::from_mode(0o755)))
            .map_err(|error| StoreError::new(parent, format!("cannot be made: {error}"), IO))?;
    }
    // The library makes a database of an empty file; the mode is ours to say.
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| StoreError::new(path, format!("cannot be opened: {error}"), IO))?;
    let opened = catch_unwind(|| Builder::new().set_cache_size(CACHE).create(path));
    match opened {
        Err(_) => Err(damaged(path)),
        Ok(Ok(database)) => Ok(database),
        Ok(Err(DatabaseError::DatabaseAlreadyOpen)) => Err(StoreError::new(
            path,
            "another process has it open",
            "stop the other sipnat, or name another file in `store` of [sip]",
        )),
        Ok(Err(DatabaseError::UpgradeRequired(version))) => Err(StoreError::new(
            path,
            format!("it has format {version} of an older library"),
            OTHER_FILE,
        )),
        Ok(Err(DatabaseError::Storage(StorageError::Io(error)))) if error.kind() == io::ErrorKind::InvalidData => {
            Err(StoreError::new(path, "it is no file of registrations", OTHER_FILE))
        }
        Ok(Err(error)) => Err(failed(path, &error.into())),
    }
}

enum Trouble {
    Foreign(String),
    Redb(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for Trouble {
    fn from(error: E) -> Trouble {
        Trouble::Redb(error.into())
    }
}

/// Checks the version, or makes the tables of a new file, and translates flows to today's listeners.
fn prepare(database: &Database, listeners: &[String]) -> Result<[Journal; Kind::ALL.len()], Trouble> {
    let transaction = database.begin_write()?;
    let names: Vec<String> = transaction
        .list_tables()?
        .map(|table| table.name().to_owned())
        .collect();
    if !names.is_empty() && !names.iter().any(|name| name == META.name()) {
        return Err(Trouble::Foreign(format!(
            "it is a database of something else (table `{}`)",
            names[0]
        )));
    }
    let mut before = None;
    let mut journals = [Journal::default(); Kind::ALL.len()];
    {
        let mut meta = match transaction.open_table(META) {
            Err(TableError::TableTypeMismatch { .. }) => {
                return Err(Trouble::Foreign("it is a database of something else".into()));
            }
            other => other?,
        };
        let schema = meta.get("schema")?.map(|value| value.value().to_vec());
        match schema.as_deref() {
            None if names.is_empty() => {}
            Some(bytes) if bytes == SCHEMA.to_le_bytes() => {}
            Some(&[a, b, c, d]) => {
                let version = u32::from_le_bytes([a, b, c, d]);
                return Err(Trouble::Foreign(format!(
                    "it has version {version} of the registrations, and this sipnat knows version {SCHEMA}"
                )));
            }
            _ => return Err(Trouble::Foreign("it is a database of something else".into())),
        }
        if let Some(listeners) = meta.get("listeners")? {
            before = Some(String::from_utf8_lossy(listeners.value()).into_owned());
        }
        meta.insert("listeners", listeners.join("\n").as_bytes())?;
        meta.insert("schema", SCHEMA.to_le_bytes().as_slice())?;
    }
    for kind in Kind::ALL {
        let (contacts, journal) = tables(kind);
        let contacts = transaction.open_table(contacts)?;
        let journal = transaction.open_table(journal)?;
        let state = &mut journals[kind as usize];
        state.contacts = contacts.len()?;
        state.next = journal.last()?.map_or(0, |(last, _)| last.value() + 1);
        for entry in journal.iter()? {
            for refresh in refreshes(entry?.1.value()) {
                state.refreshes += 1;
                state.greatest = state.greatest.max(refresh.number.0);
            }
        }
    }
    transaction.open_table(CALLS)?;
    let before: Vec<&str> = before
        .as_deref()
        .map_or(Vec::new(), |before| before.split('\n').collect());
    if before.iter().zip(listeners).any(|(before, now)| before != now) || before.len() > listeners.len() {
        for kind in Kind::ALL {
            translate(&transaction, tables(kind).0, |bytes| {
                let mut stored = StoredContact::decode(bytes)?;
                let flow = stored.contact.flow.as_mut()?;
                flow.listener = today(flow.listener, &before, listeners);
                Some(stored.encode())
            })?;
        }
        translate(&transaction, CALLS, |bytes| {
            kept::translate(bytes, |listener| today(listener, &before, listeners))
        })?;
    }
    transaction.commit()?;
    Ok(journals)
}

/// Gives the flows of all records in a table the ids that their listeners have today. `None`: the record stays as it is.
fn translate(
    transaction: &WriteTransaction,
    table: Table,
    translated: impl Fn(&[u8]) -> Option<Vec<u8>>,
) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(table)?;
    let numbers: Vec<u64> = table
        .iter()?
        .map(|entry| Ok(entry?.0.value()))
        .collect::<Result<_, StorageError>>()?;
    for number in numbers {
        let new = table.get(number)?.and_then(|bytes| translated(bytes.value()));
        if let Some(new) = new {
            table.insert(number, new.as_slice())?;
        }
    }
    Ok(())
}

/// The id that a listener has today.
fn today(listener: ListenerId, before: &[&str], now: &[String]) -> ListenerId {
    let name = before.get(usize::from(listener.0));
    let place = now.iter().position(|now| Some(&now.as_str()) == name);
    place.map_or(NO_LISTENER, |place| ListenerId(place as u16))
}

fn put_calls(transaction: &WriteTransaction, changes: &CallChanges) -> Result<(), redb::Error> {
    if changes.is_empty() {
        return Ok(());
    }
    let mut calls = transaction.open_table(CALLS)?;
    for (number, record) in &changes.calls {
        calls.insert(*number, record.as_slice())?;
    }
    // A call does not come back, so what has ended ends last.
    for number in &changes.gone {
        calls.remove(*number)?;
    }
    Ok(())
}

fn put(transaction: &WriteTransaction, kind: Kind, changes: &Changes, state: &mut Journal) -> Result<(), redb::Error> {
    let (contacts, journal) = tables(kind);
    let mut contacts = transaction.open_table(contacts)?;
    let mut all = Vec::with_capacity(changes.refreshes.len());
    for (number, bytes) in &changes.contacts {
        let is_new = contacts.insert(number.0, bytes.as_slice())?.is_none();
        state.contacts += u64::from(is_new);
        // What the journal has of before, or of a contact that had this number before a restart, is older than this.
        if (!is_new || number.0 <= state.greatest)
            && let Some(stored) = StoredContact::decode(bytes)
        {
            all.push(Refresh {
                number: *number,
                expires: stored.contact.expires,
                updated: stored.updated,
                cseq: stored.contact.cseq,
            });
        }
    }
    all.extend_from_slice(&changes.refreshes);
    for number in &changes.gone {
        if contacts.remove(number.0)?.is_some() {
            state.contacts -= 1;
        }
    }
    let mut journal = transaction.open_table(journal)?;
    let mut bytes = Vec::new();
    for chunk in all.chunks(CHUNK) {
        bytes.clear();
        chunk.iter().for_each(|refresh| put_refresh(&mut bytes, refresh));
        journal.insert(state.next, bytes.as_slice())?;
        state.next += 1;
        state.refreshes += chunk.len() as u64;
    }
    Ok(())
}

/// Writes a journal anew with the last refresh of each contact.
fn rewrite(transaction: &WriteTransaction, kind: Kind, state: &mut Journal) -> Result<(), redb::Error> {
    let (contacts, journal) = tables(kind);
    let contacts = transaction.open_table(contacts)?;
    let mut last: FxHashMap<u64, Refresh> = FxHashMap::default();
    {
        let journal = transaction.open_table(journal)?;
        for entry in journal.iter()? {
            for refresh in refreshes(entry?.1.value()) {
                last.insert(refresh.number.0, refresh);
            }
        }
    }
    transaction.delete_table(journal)?;
    let mut journal = transaction.open_table(journal)?;
    *state = Journal {
        contacts: state.contacts,
        greatest: state.greatest,
        ..Journal::default()
    };
    let mut bytes = Vec::with_capacity(CHUNK * REFRESH);
    for entry in contacts.iter()? {
        let number = entry?.0.value();
        if let Some(refresh) = last.get(&number) {
            put_refresh(&mut bytes, refresh);
            state.refreshes += 1;
        }
        if bytes.len() == CHUNK * REFRESH {
            journal.insert(state.next, bytes.as_slice())?;
            state.next += 1;
            bytes.clear();
        }
    }
    if !bytes.is_empty() {
        journal.insert(state.next, bytes.as_slice())?;
        state.next += 1;
    }
    Ok(())
}

fn put_refresh(out: &mut Vec<u8>, refresh: &Refresh) {
    for number in [refresh.number.0, refresh.expires.0, refresh.updated.0] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&refresh.cseq.to_le_bytes());
}

fn refreshes(bytes: &[u8]) -> impl Iterator<Item = Refresh> {
    let (entries, _) = bytes.as_chunks::<REFRESH>();
    entries.iter().map(|entry| {
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&entry[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        Refresh {
            number: Number(number(0)),
            expires: Time(number(8)),
            updated: Time(number(16)),
            cseq: u32::from_le_bytes([entry[24], entry[25], entry[26], entry[27]]),
        }
    })
}

fn damaged(path: &Path) -> StoreError {
    StoreError::new(
        path,
        "it is damaged",
        "move it away to begin with no registrations; devices register again by themselves",
    )
}

fn failed(path: &Path, error: &redb::Error) -> StoreError {
    match error {
        redb::Error::Corrupted(_) | redb::Error::RepairAborted => damaged(path),
        error => StoreError::new(path, error.to_string(), IO),
    }
}
