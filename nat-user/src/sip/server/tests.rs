//! A server on loopback with a core that knows nothing but numbers; files that it reads.

use std::{
    net::{SocketAddr, UdpSocket},
    ops::ControlFlow,
    time::Duration,
};

use super::*;
use crate::{
    config::Config,
    records::TransactionRecord,
    sip::{
        command::{Command, Input},
        flow::{Flow, ListenerId},
        query::{Snapshot, TransactionFilter},
    },
};

/// Has as many transactions as are named, and remembers what it was configured with.
struct Numbers {
    transactions: u64,
    listeners: usize,
}

impl Engine for Numbers {
    type Call = Query;

    fn input(&mut self, _: Input, _: Time, _: &mut Vec<Command>) {}

    fn next(&self) -> Option<Time> {
        None
    }

    fn tick(&mut self, _: Time, _: &mut Vec<Command>) {}

    fn uses(&self, _: &Flow) -> bool {
        false
    }

    fn call(&mut self, call: Query, _: Time, _: &mut Vec<Command>) {
        match call {
            Query::Transactions(list) => {
                let end = self.transactions.min(list.from.0 + list.look_at as u64);
                let records = (list.from.0..end).map(transaction).collect();
                let next = (end < self.transactions).then_some(Cursor(end));
                let _ = list.reply.send(Page { records, next });
            }
            Query::Snapshot(reply) => {
                let mut snapshot = Box::new(Snapshot::default());
                snapshot.gauges.aors = self.listeners as u64;
                let _ = reply.send(snapshot);
            }
            Query::Configure(setup, reply) => {
                self.listeners = setup.listeners.len();
                let _ = reply.send(());
            }
            other => panic!("{other:?}"),
        }
    }
}

fn transaction(number: u64) -> TransactionRecord {
    TransactionRecord {
        side: "server".into(),
        method: "INVITE".into(),
        state: "proceeding".into(),
        branch: number.to_string(),
        age_ms: 0,
        remote: None,
    }
}

/// A directory of one test's own, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("sipnat-server-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Directory(path)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn config(text: &str) -> Sip {
    let text = format!("[sip]\n[[sip.domain]]\nnames = [\"net.com\"]\nauthenticate = false\n{text}");
    Config::parse(&text, "test").unwrap().sip.unwrap()
}

/// Listeners on these ports of loopback.
fn listeners(ports: &[u16]) -> String {
    let listener =
        |port: &u16| format!("[[sip.listen]]\ntransport = \"udp\"\naddress = \"127.0.0.1\"\nport = {port}\n");
    ports.iter().map(listener).collect()
}

fn nowhere(name: &str) -> Result<Option<IpAddr>> {
    bail!("there is no interface {name}")
}

fn read(text: &str, old: &[Place]) -> Result<Setup> {
    Setup::read(&config(text), old, &nowhere)
}

/// Ports that were free a moment ago.
fn free<const N: usize>() -> [u16; N] {
    let sockets = [(); N].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    sockets.map(|socket| socket.local_addr().unwrap().port())
}

fn is_taken(port: u16) -> bool {
    UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], port))).is_err()
}

fn start(setup: Setup, transactions: u64) -> Result<(Arc<Server>, JoinHandle<()>)> {
    Server::start(setup, move |setup, locals, _| {
        assert_eq!(setup.listeners.len(), locals.len());
        Ok(Numbers {
            transactions,
            listeners: setup.listeners.len(),
        })
    })
}

#[tokio::test]
async fn lists_are_read_to_their_end_or_until_they_are_broken_off() {
    let [port] = free();
    let many = 3 * LOOK_AT as u64 + 7;
    let (server, thread) = start(read(&listeners(&[port]), &[]).unwrap(), many).unwrap();
    let asked = server.clone();
    let read = tokio::task::spawn_blocking(move || {
        let filter = TransactionFilter::default();
        let mut all = Vec::new();
        let each = &mut |record: TransactionRecord| {
            all.push(record.branch.parse::<u64>().unwrap());
            ControlFlow::Continue(())
        };
        asked.list(&filter, Query::Transactions, each).unwrap();
        assert!(all.iter().copied().eq(0..many), "each once, in order");
        let mut seen = 0;
        let each = &mut |_| {
            seen += 1;
            if seen == 600 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        asked.list(&filter, Query::Transactions, each).unwrap();
        seen
    });
    assert_eq!(read.await.unwrap(), 600);
    server.stop().await;
    thread.join().unwrap();
    let ended = tokio::task::spawn_blocking(move || server.ask(Query::Snapshot).map(|_| ()));
    assert!(ended.await.unwrap().unwrap_err().to_string().contains("has ended"));
}

#[tokio::test]
async fn a_reload_takes_effect_as_a_whole_or_not_at_all() {
    let [first, second, third] = free();
    let (server, thread) = start(read(&listeners(&[first, second]), &[]).unwrap(), 0).unwrap();
    assert!(is_taken(first) && is_taken(second));
    let listening = |server: &Server| server.setup().listeners.clone();
    let old = listening(&server);

    // One of two new listeners cannot be had: both old ones stay, and nothing else is open.
    let blocker = UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], third))).unwrap();
    let refused = read(&listeners(&[second, third]), &old).unwrap();
    let error = format!("{:#}", server.listen(&refused).await.unwrap_err());
    assert!(error.contains(&format!("127.0.0.1:{third}")), "{error}");
    assert!(is_taken(first) && is_taken(second));
    assert_eq!(listening(&server), old);
    drop(blocker);

    let next = read(&listeners(&[second, third]), &old).unwrap();
    assert_eq!(next.listeners[0].id, ListenerId(1), "who stays keeps its id");
    server.listen(&next).await.unwrap();
    server.configure(next.clone()).await.unwrap();
    assert_eq!(listening(&server), next.listeners);
    assert!(is_taken(second) && is_taken(third));
    // And back, as when another part of the daemon refuses.
    server
        .listen(&read(&listeners(&[first]), &next.listeners).unwrap())
        .await
        .unwrap();
    server.listen(&server.setup()).await.unwrap();
    assert!(is_taken(second) && is_taken(third));
    let asked = server.clone();
    let snapshot = tokio::task::spawn_blocking(move || asked.ask(Query::Snapshot).unwrap());
    assert_eq!(
        snapshot.await.unwrap().gauges.aors,
        2,
        "the core knows of two listeners"
    );
    server.stop().await;
    thread.join().unwrap();
}

#[tokio::test]
async fn listeners_follow_their_interface() {
    let [port] = free();
    let text = format!("[[sip.listen]]\ntransport = \"udp\"\ninterface = \"wan\"\nport = {port}\n");
    let at = |address: Option<[u8; 4]>| move |_: &str| Ok(address.map(IpAddr::from));
    let setup = Setup::read(&config(&text), &[], &at(None)).unwrap();
    let (server, thread) = start(setup, 0).unwrap();
    assert!(!is_taken(port), "there is no address yet");
    let moved = server.follow(&at(Some([127, 0, 0, 1]))).await;
    assert_eq!((moved.len(), moved[0].1), (1, Some(IpAddr::from([127, 0, 0, 1]))));
    assert!(is_taken(port));
    assert!(server.follow(&at(Some([127, 0, 0, 1]))).await.is_empty(), "told once");
    let place = server.setup().listeners[0].clone();
    assert_eq!(place.found, Some(IpAddr::from([127, 0, 0, 1])));
    // The interface goes away.
    assert_eq!(server.follow(&nowhere).await[0].1, None);
    tokio::time::timeout(Duration::from_secs(10), async {
        while is_taken(port) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("the socket is closed");
    server.stop().await;
    thread.join().unwrap();
}

#[test]
fn what_is_not_there_is_named_before_anything_is_started() {
    let directory = Directory::new("files");
    let users = directory.file("users", "a:net.com:MD5:x\n");
    let domain = |users: &str| format!("users = \"{users}\"\n{}", listeners(&[5060]));
    let error = read(&domain(&users), &[]).unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("{users}:1: the MD5 hash is not 32")),
        "{error}"
    );
    let error = read(&domain("/nonexistent/users"), &[]).unwrap_err().to_string();
    assert!(
        error.contains("/nonexistent/users: cannot read the users file"),
        "{error}"
    );
    let follows = "[[sip.listen]]\ntransport = \"tcp\"\ninterface = \"wan0\"\n";
    let error = format!("{:#}", read(follows, &[]).unwrap_err());
    assert!(
        error.contains("transport = \"tcp\"") && error.contains("no interface wan0"),
        "{error}"
    );

    let users = directory.file("good", "user:net.com:plain:x\nuser:net.org:plain:x\n");
    let two = format!(
        "{}[[sip.domain]]\nnames = [\"net.org\"]\nusers = \"{users}\"\n",
        domain(&users)
    );
    let setup = read(&two, &[]).unwrap();
    let counts: Vec<_> = setup
        .domains()
        .map(|(domain, users)| users.count(&domain.names[0]))
        .collect();
    assert_eq!(counts, [1, 1]);
    let files: Vec<_> = setup.users.iter().flatten().collect();
    assert!(Arc::ptr_eq(files[0], files[1]), "one file is read once");
}

#[test]
fn people_may_use_any_name_of_a_domain_and_its_users() {
    let text = format!("aliases = {{ \"100\" = \"user\" }}\n{}", listeners(&[5060]));
    let text = text + "[[sip.domain]]\nnames = [\"net.org\", \"192.0.2.1\"]\nauthenticate = false\n";
    let setup = read(&text, &[]).unwrap();
    for (aor, canonical) in [
        ("user@net.com", "user@net.com"),
        ("100@NET.com", "user@net.com"),
        ("100@192.0.2.1", "100@net.org"),
        ("a@b@net.org", "a@b@net.org"),
        ("x@example.com", "x@example.com"),
        ("net.com", "net.com"),
    ] {
        assert_eq!(setup.canonical(aor), canonical);
    }
}

#[test]
fn a_secret_is_made_once_and_for_nobody_else() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = Directory::new("secret");
    let path = directory.0.join("lib/sipnat/secret");
    let first = secret(&path).unwrap();
    assert_eq!(secret(&path).unwrap(), first);
    assert_ne!(first, [0; 32]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    for wrong in ["", "abc", &"g".repeat(64), &"é".repeat(32)] {
        let path = directory.file("wrong", wrong);
        let error = secret(Path::new(&path)).unwrap_err().to_string();
        assert!(error.contains(&path) && error.contains("name another"), "{error}");
    }
    let file = directory.file("file", "");
    let below = PathBuf::from(file).join("secret");
    assert!(secret(&below).is_err(), "a file is no directory");
}
