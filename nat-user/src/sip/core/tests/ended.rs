//! Calls that have ended: why, and what is written down of them.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use super::*;
use crate::{
    config::LogTarget,
    records::CallRecord,
    sip::{
        calls::{self, Recorder},
        metrics::CallEnd,
    },
};

const CALLER: &str = "134.56.9.9:5060";
const PHONE: &str = "134.56.1.1:5070";

/// Records of calls in a file of a test's own, which goes with it.
pub(super) struct Book {
    recorder: Arc<Recorder>,
    path: PathBuf,
}

impl Book {
    pub(super) fn kept(core: &mut Core<Fake>) -> Book {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("sipnat-calls-{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        let target = LogTarget::File(path.clone());
        let recorder = Recorder::start(calls::open(&target).unwrap(), &target).unwrap();
        core.record_calls(recorder.clone());
        Book { recorder, path }
    }

    /// What was written, once that is all.
    pub(super) fn read(self) -> Vec<CallRecord> {
        self.recorder.finish();
        assert_eq!(self.recorder.lost(), 0);
        lines(&self.path)
    }
}

impl Drop for Book {
    fn drop(&mut self) {
        fs::remove_file(&self.path).unwrap();
    }
}

fn lines(path: &Path) -> Vec<CallRecord> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn world(change: impl FnOnce(&mut Sip)) -> (World, Book) {
    let mut world = World::new(change);
    world.register(
        "user@net.com",
        vec![found("sip:user@192.168.1.10:5060", udp(PHONE), true, 1000)],
    );
    let book = Book::kept(&mut world.core);
    (world, book)
}

/// Rings; the INVITE as the phone gets it.
fn ring(world: &mut World) -> Sent {
    let mut out = world.receive(udp(CALLER), &Ask::default().text());
    world.receive(udp(PHONE), &reply(&out[1], 180, "phone", ""));
    out.remove(1)
}

/// Answers; the 200 as the caller gets it.
fn answer(world: &mut World, invite: &Sent, more: &str) -> Sent {
    let answer = format!("Contact: <sip:user@192.168.1.10:5060>\n{more}");
    world
        .receive(udp(PHONE), &reply(invite, 200, "phone", &answer))
        .remove(0)
}

fn only(book: Book) -> CallRecord {
    let mut records = book.read();
    assert_eq!(records.len(), 1, "{records:?}");
    records.remove(0)
}

fn reason(record: &CallRecord) -> (&str, Option<&str>, Option<u16>) {
    (&record.reason, record.by.as_deref(), record.code)
}

#[test]
fn a_call_that_was_answered() {
    let (mut world, book) = world(|_| {});
    let invite = ring(&mut world);
    world.pass(Duration::from_secs(3));
    let ok = answer(&mut world, &invite, "");
    world.pass(Duration::from_millis(61_500));
    let bye = Ask {
        method: "BYE",
        uri: "sip:caller@134.56.9.9:5060",
        via: "SIP/2.0/UDP 192.168.1.10:5060;branch=z9hG4bKbye",
        from: "<sip:user@net.com>;tag=phone",
        to: "<sip:caller@elsewhere.com>;tag=caller",
        more: &route_set(&ok, false),
        cseq: 7,
        ..Ask::default()
    };
    let bye = world.receive(udp(PHONE), &bye.text()).remove(0);
    world.receive(udp(CALLER), &reply(&bye, 200, "caller", ""));
    assert_eq!(world.core.metrics.calls_ended[CallEnd::Bye as usize], 1);
    let record = only(book);
    assert_eq!(reason(&record), ("bye", Some("callee"), None));
    assert_eq!(
        [&record.call_id, &record.from, &record.to],
        ["call-1@elsewhere.com", "caller@elsewhere.com", "user@net.com"]
    );
    assert_eq!(
        (record.caller_aor.as_deref(), record.callee_aor.as_deref()),
        (None, Some("user@net.com"))
    );
    assert_eq!(record.caller.as_deref(), Some("udp:134.56.9.9:5060"));
    assert_eq!(record.callee.as_deref(), Some("udp:134.56.1.1:5070"));
    let rang = record.answered.unwrap().since(record.began);
    assert_eq!((rang, record.duration_ms), (Duration::from_secs(3), 61_500));
    assert_eq!(record.ended.since(record.began), Duration::from_millis(64_500));
    assert_eq!(record.media, []);
}

#[test]
fn calls_that_were_not_answered() {
    let (mut busy, book) = world(|_| {});
    let invite = ring(&mut busy);
    busy.receive(udp(PHONE), &reply(&invite, 486, "phone", ""));
    let record = only(book);
    assert_eq!(reason(&record), ("refused", Some("callee"), Some(486)));
    assert_eq!((record.answered, record.duration_ms), (None, 0));

    let (mut cancelled, book) = world(|_| {});
    let invite = ring(&mut cancelled);
    let cancel = Ask {
        method: "CANCEL",
        more: "",
        ..Ask::default()
    };
    cancelled.receive(udp(CALLER), &cancel.text());
    cancelled.receive(udp(PHONE), &reply(&invite, 487, "phone", ""));
    assert_eq!(reason(&only(book)), ("cancel", Some("caller"), Some(487)));

    let (mut silent, book) = world(|_| {});
    silent.receive(udp(CALLER), &Ask::default().text());
    silent.pass(Duration::from_secs(40));
    assert_eq!(reason(&only(book)), ("timeout", None, Some(408)));
}

#[test]
fn calls_that_end_without_a_word() {
    let (mut world, book) = world(|_| {});
    let invite = ring(&mut world);
    answer(&mut world, &invite, "Session-Expires: 300;refresher=uac\n");
    world.pass(Duration::from_secs(332));
    assert_eq!(reason(&only(book)), ("timeout", None, None));
}

#[test]
fn calls_that_go_on_without_us() {
    let (mut world, book) = world(|config| config.proxy.record_route = config::RecordRoute::Never);
    let invite = ring(&mut world);
    answer(&mut world, &invite, "");
    assert_eq!(reason(&only(book)), ("left", None, None));
}

/// A disk that takes nothing any more: calls go on, and what was lost is counted.
#[test]
fn a_slow_disk_holds_nobody_up() {
    let path = std::env::temp_dir().join(format!("sipnat-calls-fifo-{}", std::process::id()));
    let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: the name ends with a zero.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let target = LogTarget::File(path.clone());
    let recorder = Recorder::with_queue(calls::open(&target).unwrap(), &target, 2).unwrap();
    let mut world = World::new(|_| {});
    world.register(
        "user@net.com",
        vec![found("sip:user@192.168.1.10:5060", udp(PHONE), true, 1000)],
    );
    world.core.record_calls(recorder.clone());
    // A pipe takes 64 KiB, the writer's buffer a call, the queue two.
    let calls = 1000u64;
    for call in 0..calls {
        let via = format!("SIP/2.0/UDP 134.56.9.9:5060;branch=z9hG4bKcall{call}");
        let call_id = format!("{call}{}", "x".repeat(1000));
        let ask = Ask {
            via: &via,
            call: &call_id,
            ..Ask::default()
        };
        let out = world.receive(udp(CALLER), &ask.text());
        world.receive(udp(PHONE), &reply(&out[1], 486, "phone", ""));
        // Its transactions end, or there would be too many.
        world.pass(Duration::from_secs(40));
    }
    assert_eq!(world.core.metrics.calls_ended[CallEnd::Refused as usize], calls);
    let lost = recorder.lost();
    assert!(lost > 0, "the disk took everything");
    let reader = fs::File::open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let read = std::thread::spawn(move || {
        use std::io::BufRead as _;
        let lines = std::io::BufReader::new(reader).lines();
        lines.map_while(Result::ok).take((calls - lost) as usize).count() as u64
    });
    recorder.finish();
    assert_eq!(read.join().unwrap() + lost, calls, "what was not lost was written");
}
