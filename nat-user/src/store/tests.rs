use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use ::redb::{Database, TableDefinition};

use super::{redb::*, *};
use crate::sip::{
    flow::{Flow, ListenerId},
    location::{NewContact, stored::StoredContact},
    time::Time,
};

/// A directory that is removed with its value.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("sipnat-store-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("registrations.redb")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn listeners(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn open(path: &Path) -> RedbStore {
    RedbStore::open(path, &listeners(&["udp 1", "tcp 2"])).unwrap()
}

fn contact(number: u64, listener: u16) -> (Number, Vec<u8>) {
    let uri = format!("sip:{number}@192.168.1.10:5060");
    let stored = StoredContact {
        aor: "user@net.com",
        updated: Time(1),
        contact: NewContact {
            uri: uri.as_bytes(),
            params: b"",
            call_id: b"1",
            cseq: 1,
            path: b"",
            flow: Some(Flow::udp(ListenerId(listener), "134.56.1.1:5070".parse().unwrap())),
            behind_nat: true,
            keeps_alive: false,
            reg_id: None,
            q: 1000,
            expires: Time(1000),
            user_agent: None,
            fixed: false,
        },
    };
    (Number(number), stored.encode())
}

fn refresh(number: u64, cseq: u32) -> Refresh {
    Refresh {
        number: Number(number),
        expires: Time(1000 + u64::from(cseq)),
        updated: Time(cseq.into()),
        cseq,
    }
}

/// Each contact's CSeq and listener, by kind and number.
fn content(store: &mut RedbStore) -> BTreeMap<(bool, u64), (u32, u16)> {
    let mut all = BTreeMap::new();
    store
        .load(&mut |loaded| {
            let stored = StoredContact::decode(loaded.bytes).unwrap();
            let cseq = loaded.refresh.map_or(stored.contact.cseq, |refresh| refresh.cseq);
            let listener = stored.contact.flow.unwrap().listener.0;
            all.insert((loaded.kind == Kind::Edge, loaded.number.0), (cseq, listener));
        })
        .unwrap();
    all
}

#[test]
fn what_is_written_is_there_again() {
    let scratch = Scratch::new("again");
    {
        let mut store = open(&scratch.file());
        let batch = Batch {
            registrations: Changes {
                contacts: (1..=3).map(|n| contact(n, 0)).collect(),
                ..Changes::default()
            },
            edge: Changes {
                contacts: vec![contact(1, 1)],
                ..Changes::default()
            },
            ..Batch::default()
        };
        store.write(&batch).unwrap();
        let later = Batch {
            registrations: Changes {
                contacts: vec![contact(3, 1)],
                refreshes: vec![refresh(1, 2), refresh(3, 7), refresh(1, 3)],
                gone: vec![Number(2), Number(9)],
            },
            ..Batch::default()
        };
        store.write(&later).unwrap();
        // A whole contact is newer than the refreshes before it.
        let last = Batch {
            registrations: Changes {
                contacts: vec![contact(3, 1)],
                ..Changes::default()
            },
            ..Batch::default()
        };
        store.write(&last).unwrap();
        assert_eq!((store.contacts(Kind::Registration), store.contacts(Kind::Edge)), (2, 1));
    }
    let expected = [((false, 1), (3, 0)), ((false, 3), (1, 1)), ((true, 1), (1, 1))];
    assert_eq!(content(&mut open(&scratch.file())), BTreeMap::from(expected));
    // Listeners in another order, one new, one gone.
    let mut moved = RedbStore::open(&scratch.file(), &listeners(&["tls 3", "udp 1"])).unwrap();
    let listeners_of: Vec<u16> = content(&mut moved).values().map(|(_, listener)| *listener).collect();
    assert_eq!(listeners_of, [1, NO_LISTENER.0, NO_LISTENER.0]);
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(scratch.file()).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

/// Numbers begin anew when nothing is stored at a start; refreshes of a contact of before are none of the new one's.
#[test]
fn a_number_that_is_used_again_begins_afresh() {
    let scratch = Scratch::new("numbers");
    let only = |contacts, refreshes, gone| Batch {
        registrations: Changes {
            contacts,
            refreshes,
            gone,
        },
        ..Batch::default()
    };
    let mut store = open(&scratch.file());
    store.write(&only(vec![contact(1, 0)], vec![], vec![])).unwrap();
    store.write(&only(vec![], vec![refresh(1, 9)], vec![])).unwrap();
    store.write(&only(vec![], vec![], vec![Number(1)])).unwrap();
    drop(store);
    let mut store = open(&scratch.file());
    store.write(&only(vec![contact(1, 0)], vec![], vec![])).unwrap();
    drop(store);
    assert_eq!(
        content(&mut open(&scratch.file())),
        BTreeMap::from([((false, 1), (1, 0))])
    );
}

#[test]
fn the_journal_does_not_grow_for_ever() {
    let scratch = Scratch::new("journal");
    let mut store = open(&scratch.file());
    let contacts = Changes {
        contacts: (1..=5000).map(|n| contact(n, 0)).collect(),
        ..Changes::default()
    };
    store
        .write(&Batch {
            registrations: contacts,
            ..Batch::default()
        })
        .unwrap();
    let mut sizes = Vec::new();
    for round in 2..140 {
        let changes = Changes {
            refreshes: (1..=5000).map(|n| refresh(n, round)).collect(),
            ..Changes::default()
        };
        store
            .write(&Batch {
                registrations: changes,
                ..Batch::default()
            })
            .unwrap();
        sizes.push(fs::metadata(scratch.file()).unwrap().len());
    }
    assert!(sizes.iter().max().unwrap() < &(40 << 20), "{sizes:?}");
    drop(store);
    let all = content(&mut open(&scratch.file()));
    assert!(all.len() == 5000 && all.values().all(|(cseq, _)| *cseq == 139));
}

#[test]
fn files_that_are_not_ours_are_refused_and_left_alone() {
    let scratch = Scratch::new("foreign");
    let path = scratch.file();
    let fails = |what: &str| {
        let before = fs::read(&path).unwrap();
        let error = RedbStore::open(&path, &[]).err().unwrap().to_string();
        assert!(
            error.contains("registrations.redb: ") && error.contains(what),
            "{error}"
        );
        assert!(
            error.contains("; name another file") || error.contains("; move it away"),
            "{error}"
        );
        before
    };
    fs::write(&path, "[sip]\nstore = \"x\"\n".repeat(1000)).unwrap();
    let before = fails("no file of registrations");
    assert_eq!(fs::read(&path).unwrap(), before);
    fs::remove_file(&path).unwrap();
    let other = Database::create(&path).unwrap();
    let write = other.begin_write().unwrap();
    write.open_table(TableDefinition::<u64, u64>::new("birds")).unwrap();
    write.commit().unwrap();
    drop(other);
    fails("something else (table `birds`)");
    fs::remove_file(&path).unwrap();
    drop(open(&path));
    let newer = Database::create(&path).unwrap();
    let write = newer.begin_write().unwrap();
    let meta = TableDefinition::<&str, &[u8]>::new("meta");
    write
        .open_table(meta)
        .unwrap()
        .insert("schema", 7u32.to_le_bytes().as_slice())
        .unwrap();
    write.commit().unwrap();
    drop(newer);
    fails("version 7");
}

#[test]
fn damaged_files_are_named() {
    let scratch = Scratch::new("damaged");
    let path = scratch.file();
    let mut store = open(&path);
    let contacts = Changes {
        contacts: (1..=2000).map(|n| contact(n, 0)).collect(),
        ..Changes::default()
    };
    store
        .write(&Batch {
            registrations: contacts,
            ..Batch::default()
        })
        .unwrap();
    let second = RedbStore::open(&path, &[]).err().unwrap().to_string();
    assert!(
        second.contains("another process has it open; stop the other sipnat"),
        "{second}"
    );
    drop(store);
    let whole = fs::read(&path).unwrap();
    // Half of it, and rubbish in every page: an error, or what is left; never a panic or rubbish as a contact.
    for damage in 0..24 {
        let mut bytes = whole.clone();
        match damage {
            0 => bytes.truncate(whole.len() / 2),
            1 => bytes.truncate(10),
            _ => {
                let at = whole.len() * (damage - 2) / 22;
                let end = (at + 5000).min(bytes.len());
                bytes[at..end].fill(0xa5);
            }
        }
        fs::write(&path, &bytes).unwrap();
        match RedbStore::open(&path, &listeners(&["udp 1", "tcp 2"])) {
            Err(error) => assert!(error.to_string().contains("registrations.redb: "), "{error}"),
            Ok(mut store) => {
                let _ = store.load(&mut |loaded| {
                    if let Some(stored) = StoredContact::decode(loaded.bytes) {
                        assert_eq!(stored.aor, "user@net.com");
                    }
                });
            }
        }
    }
}

/// The other process of the test below: writes for ever and says what is safe.
#[test]
#[ignore = "a part of `a_crash_loses_nothing_that_was_written`"]
fn child_that_is_killed() {
    let Ok(path) = std::env::var("SIPNAT_STORE_TEST") else {
        return;
    };
    let mut store = open(Path::new(&path));
    let first = content(&mut store).values().map(|(cseq, _)| *cseq).max().unwrap_or(1);
    for cseq in first + 1..u32::MAX {
        let changes = Changes {
            contacts: vec![contact(u64::from(cseq) % 50, 0)],
            refreshes: vec![refresh(u64::from(cseq) % 50, cseq)],
            gone: Vec::new(),
        };
        store
            .write(&Batch {
                registrations: changes,
                ..Batch::default()
            })
            .unwrap();
        println!("safe {cseq}");
    }
}

#[test]
fn a_crash_loses_nothing_that_was_written() {
    let scratch = Scratch::new("crash");
    let mut last = 1;
    for round in 0..8 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "store::tests::child_that_is_killed",
                "--ignored",
                "--nocapture",
            ])
            .env("SIPNAT_STORE_TEST", scratch.file())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = 0;
        for line in lines.map_while(Result::ok) {
            if let Some(cseq) = line.rsplit_once("safe ").and_then(|(_, cseq)| cseq.parse::<u32>().ok()) {
                last = cseq;
                said += 1;
                if said == 10 + 3 * round {
                    break;
                }
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let found = content(&mut open(&scratch.file()))
            .values()
            .map(|(cseq, _)| *cseq)
            .max()
            .unwrap();
        assert!(found >= last, "{found} after {last} was safe");
    }
}

fn calls(store: &mut RedbStore) -> BTreeMap<u64, Vec<u8>> {
    let mut all = BTreeMap::new();
    store
        .load_calls(&mut |number, record| drop(all.insert(number, record.to_vec())))
        .unwrap();
    all
}

fn of_calls(calls: &[(u64, &[u8])], gone: &[u64]) -> Batch {
    Batch {
        calls: CallChanges {
            calls: calls
                .iter()
                .map(|(number, record)| (*number, record.to_vec()))
                .collect(),
            gone: gone.to_vec(),
        },
        ..Batch::default()
    }
}

#[test]
fn calls_are_there_until_they_end() {
    let scratch = Scratch::new("calls");
    {
        let mut store = open(&scratch.file());
        store.write(&of_calls(&[(1, b"one"), (2, b"two")], &[])).unwrap();
        store.write(&of_calls(&[(2, b"later"), (3, b"")], &[1, 3, 9])).unwrap();
        assert_eq!(calls(&mut store), BTreeMap::from([(2, b"later".to_vec())]));
    }
    // What is no record of ours stays what it is, also where listeners have others' ids now.
    let mut moved = RedbStore::open(&scratch.file(), &listeners(&["tls 3"])).unwrap();
    assert_eq!(calls(&mut moved).len(), 1);
    drop(moved);
    // A file of a sipnat that knew no calls.
    let database = Database::open(scratch.file()).unwrap();
    let transaction = database.begin_write().unwrap();
    assert!(
        transaction
            .delete_table(TableDefinition::<u64, &[u8]>::new("calls"))
            .unwrap()
    );
    transaction.commit().unwrap();
    drop(database);
    let mut old = open(&scratch.file());
    assert_eq!(calls(&mut old).len(), 0);
    old.write(&of_calls(&[(4, b"new")], &[])).unwrap();
    assert_eq!(calls(&mut old).len(), 1);
}

/// A disk that is full for some time.
struct Flaky {
    failures: u32,
    written: Arc<Mutex<Vec<Batch>>>,
}

impl Store for Flaky {
    fn load(&mut self, _: &mut dyn FnMut(Loaded<'_>)) -> Result<(), StoreError> {
        Ok(())
    }

    fn load_calls(&mut self, _: &mut dyn FnMut(u64, &[u8])) -> Result<(), StoreError> {
        Ok(())
    }

    fn write(&mut self, batch: &Batch) -> Result<(), StoreError> {
        if self.failures > 0 {
            self.failures -= 1;
            return Err(StoreError::new(Path::new("f"), "no space", "make some"));
        }
        self.written.lock().unwrap().push(batch.clone());
        Ok(())
    }
}

fn gone(number: u64) -> Batch {
    Batch {
        registrations: Changes {
            gone: vec![Number(number)],
            ..Changes::default()
        },
        ..Batch::default()
    }
}

#[test]
fn the_writer_tries_again_and_takes_one_batch_at_a_time() {
    let written = Arc::new(Mutex::new(Vec::new()));
    let store = Flaky {
        failures: 1,
        written: written.clone(),
    };
    let writer = Writer::start(store).unwrap();
    assert!(writer.is_ready());
    writer.write(gone(1)).unwrap();
    while writer.error().is_none() && written.lock().unwrap().is_empty() {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(writer.error().as_deref(), Some("f: no space; make some"));
    writer.finish(gone(2)).unwrap();
    let all: Vec<Number> = written
        .lock()
        .unwrap()
        .iter()
        .flat_map(|batch| batch.registrations.gone.clone())
        .collect();
    assert_eq!(all, [Number(1), Number(2)]);
    let dead = Flaky {
        failures: u32::MAX,
        written,
    };
    let writer = Writer::start(dead).unwrap();
    assert_eq!(writer.finish(gone(3)), Err("f: no space; make some".to_owned()));
}
