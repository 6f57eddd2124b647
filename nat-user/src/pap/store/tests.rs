use std::{fs, path::PathBuf};

use super::*;

/// A directory that is removed with its value.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("sipnat-pap-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("deep/mappings.redb")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn mapping(port: u16) -> (Key, Mapping) {
    let key = Key {
        inside: format!("192.168.1.10:{port}").parse().unwrap(),
        proto: Proto::Udp,
    };
    let mapping = Mapping {
        external: format!("203.0.113.1:{port}").parse().unwrap(),
        nonce: port.is_multiple_of(2).then_some(*b"nonce of one"),
        expires: 1_800_000_000 + u64::from(port),
        client: "192.168.1.10:4000".parse().unwrap(),
        description: format!("number {port}"),
    };
    (key, mapping)
}

#[test]
fn what_was_written_is_there_after_a_restart() {
    let scratch = Scratch::new("written");
    let (mut store, kept) = Store::open(&scratch.file()).unwrap();
    assert_eq!(kept, Kept::default());
    let all: Vec<_> = (1..=3).map(mapping).collect();
    let changes: Vec<_> = all.iter().cloned().map(|(key, mapping)| (key, Some(mapping))).collect();
    store.write(7, &changes).unwrap();
    store.write(9, &[(all[1].0, None)]).unwrap();
    drop(store);
    let (_, kept) = Store::open(&scratch.file()).unwrap();
    assert_eq!(kept.epoch, Some(9));
    assert_eq!(kept.mappings, [all[0].clone(), all[2].clone()]);
}

#[test]
fn a_file_that_is_not_ours_is_refused_and_left_alone() {
    let scratch = Scratch::new("foreign");
    let open = || {
        Store::open(&scratch.file())
            .map(drop)
            .map_err(|error| error.to_string())
    };
    let (mut store, _) = Store::open(&scratch.file()).unwrap();
    store.write(7, &[]).unwrap();
    assert!(open().unwrap_err().contains("another process has it open"));
    drop(store);
    let database = Database::create(scratch.file()).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(META).unwrap().insert("schema", 77).unwrap();
    transaction.commit().unwrap();
    drop(database);
    assert!(open().unwrap_err().contains("another version"));
    fs::remove_file(scratch.file()).unwrap();
    let database = Database::create(scratch.file()).unwrap();
    let transaction = database.begin_write().unwrap();
    let other: TableDefinition<'_, &str, u64> = TableDefinition::new("others");
    transaction.open_table(other).unwrap().insert("x", 1).unwrap();
    transaction.commit().unwrap();
    drop(database);
    assert!(open().unwrap_err().contains("something else"));
    fs::write(scratch.file(), "no database at all, just some text that is long enough").unwrap();
    let said = open().unwrap_err();
    assert!(said.contains("mappings.redb") && said.contains("[pap]"), "{said}");
    assert!(fs::read_to_string(scratch.file()).unwrap().starts_with("no database"));
}
