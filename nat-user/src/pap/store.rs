//! What is kept of the mappings over restarts: one file, by `redb`. A mapping is on the disk before its answer goes out.

#[cfg(test)]
mod tests;

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::OpenOptionsExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use redb::{
    Builder, Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, TableDefinition, TableError,
    TableHandle as _,
};

use super::mappings::{Key, Mapping};
use crate::{store::StoreError, units::Proto};

/// The version of what is in the file. Another one is refused.
const SCHEMA: u32 = 1;

/// `schema` and `epoch`.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("pap");
/// Mappings in JSON by protocol and inside endpoint.
const MAPPINGS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("mappings");

const OTHER_FILE: &str = "name another file in `store` of [pap], or move this one away to begin with no mappings";
const IO: &str = "check the path in `store` of [pap], its directory, its owner and the space on the disk";

/// An open file.
pub struct Store {
    path: PathBuf,
    database: Database,
}

/// What a file has.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// When the epoch began, in seconds since 1970; `None`: the file is new.
    pub epoch: Option<u64>,
    pub mappings: Vec<(Key, Mapping)>,
}

enum Trouble {
    Foreign(&'static str),
    Redb(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for Trouble {
    fn from(error: E) -> Trouble {
        Trouble::Redb(error.into())
    }
}

impl Store {
    /// Opens a file, or makes one that only its owner can read.
    ///
    /// # Errors
    /// It cannot be opened, somebody else has it open, it is damaged, or it is not one of ours or of this version.
    pub fn open(path: &Path) -> Result<(Store, Kept), StoreError> {
        if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
            fs::create_dir_all(parent)
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
        // Its own checks of a damaged file may panic.
        let opened = catch_unwind(|| Builder::new().create(path)).map_err(|_| damaged(path))?;
        let database = opened.map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => StoreError::new(
                path,
                "another process has it open",
                "stop the other sipnat, or name another file in `store` of [pap]",
            ),
            error => failed(path, &error.into()),
        })?;
        let read = catch_unwind(AssertUnwindSafe(|| read(&database))).map_err(|_| damaged(path))?;
        let kept = read.map_err(|trouble| match trouble {
            Trouble::Foreign(what) => StoreError::new(path, what, OTHER_FILE),
            Trouble::Redb(error) => failed(path, &error),
        })?;
        let path = path.to_owned();
        Ok((Store { path, database }, kept))
    }

    /// Writes what has changed, all of it or nothing. It is safe when this returns.
    pub fn write(&mut self, epoch: u64, changes: &[(Key, Option<Mapping>)]) -> Result<(), StoreError> {
        self.commit(epoch, changes).map_err(|error| failed(&self.path, &error))
    }

    fn commit(&self, epoch: u64, changes: &[(Key, Option<Mapping>)]) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        transaction.open_table(META)?.insert("epoch", epoch)?;
        {
            let mut table = transaction.open_table(MAPPINGS)?;
            for (key, mapping) in changes {
                let name = name(key);
                match mapping {
                    Some(mapping) => {
                        let bytes = serde_json::to_vec(mapping).unwrap_or_default();
                        table.insert(&*name, &*bytes)?;
                    }
                    None => drop(table.remove(&*name)?),
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

fn read(database: &Database) -> Result<Kept, Trouble> {
    let transaction = database.begin_write()?;
    let ours = |name: &str| name == META.name() || name == MAPPINGS.name();
    if transaction.list_tables()?.any(|table| !ours(table.name())) {
        return Err(Trouble::Foreign("it is a database of something else"));
    }
    {
        let mut meta = match transaction.open_table(META) {
            Err(TableError::TableTypeMismatch { .. }) => {
                return Err(Trouble::Foreign("it is a database of something else"));
            }
            other => other?,
        };
        let schema = meta.insert("schema", u64::from(SCHEMA))?.map(|value| value.value());
        if schema.is_some_and(|schema| schema != u64::from(SCHEMA)) {
            return Err(Trouble::Foreign("its mappings are of another version of sipnat"));
        }
        transaction.open_table(MAPPINGS)?;
    }
    transaction.commit()?;
    let transaction = database.begin_read()?;
    let epoch = transaction.open_table(META)?.get("epoch")?.map(|value| value.value());
    let mut mappings = Vec::new();
    for entry in transaction.open_table(MAPPINGS)?.iter()? {
        let (name, bytes) = entry?;
        let mapping: Option<Mapping> = serde_json::from_slice(bytes.value()).ok();
        let (Some(key), Some(mapping)) = (key_of(name.value()), mapping) else {
            return Err(Trouble::Redb(redb::Error::Corrupted(name.value().into())));
        };
        mappings.push((key, mapping));
    }
    Ok(Kept { epoch, mappings })
}

fn name(key: &Key) -> String {
    format!("{} {}", key.proto, key.inside)
}

fn key_of(name: &str) -> Option<Key> {
    let (proto, inside) = name.split_once(' ')?;
    Some(Key {
        inside: inside.parse().ok()?,
        proto: Proto::ALL.into_iter().find(|one| one.name() == proto)?,
    })
}

fn damaged(path: &Path) -> StoreError {
    StoreError::new(
        path,
        "it is damaged",
        "move it away to begin with no mappings; clients ask again when they see the new epoch",
    )
}

fn failed(path: &Path, error: &redb::Error) -> StoreError {
    match error {
        redb::Error::Corrupted(_) | redb::Error::RepairAborted => damaged(path),
        error => StoreError::new(path, error.to_string(), IO),
    }
}
