//! The slow path on a real kernel: live frames, the raw socket, neighbours. In namespaces; skipped without root.

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use nat_common::checksum::full;
use nat_common::counters::Reason;
use nat_common::flow::Side;
use nat_common::fragment::Datagram;
use nat_common::maps::{Interface, ROLE_INSIDE};

use super::outlet::Sockets;
use super::reinject::{KernelPrograms, LIVE_FRAME_MAX, Reinject};
use super::*;
use crate::config::Config;
use crate::net::testns::{TestNs, pair};

const SOON: Duration = Duration::from_secs(5);
/// The router "vb" 10.9.0.1, the host "va" 10.9.0.2.
pub(super) const ROUTER: [u8; 4] = [10, 9, 0, 1];
pub(super) const HOST: [u8; 4] = [10, 9, 0, 2];

/// Host and router, and the router's interface index.
pub(super) fn lab() -> Option<(TestNs, TestNs, u32)> {
    let (host, router) = pair()?;
    host.ip("addr add 10.9.0.2/24 dev va");
    router.ip("addr add 10.9.0.1/24 dev vb");
    let index = router.enter(|| if_index("vb"));
    Some((host, router, index))
}

pub(super) fn if_index(name: &str) -> u32 {
    let name = std::ffi::CString::new(name).unwrap();
    // SAFETY: a string that ends in 0.
    unsafe { libc::if_nametoindex(name.as_ptr()) }
}

/// UDP from `source` to `destination` port 9999; without a checksum.
pub(super) fn udp(source: [u8; 4], destination: [u8; 4], ttl: u8, payload: &[u8]) -> Vec<u8> {
    let mut f = vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0];
    f.extend((28 + payload.len() as u16).to_be_bytes());
    f.extend([0x12, 0x34, 0, 0, ttl, 17, 0, 0]);
    f.extend(source);
    f.extend(destination);
    let check = full(&f[14..34]);
    f[24..26].copy_from_slice(&check.to_be_bytes());
    f.extend(7777u16.to_be_bytes());
    f.extend(9999u16.to_be_bytes());
    f.extend((8 + payload.len() as u16).to_be_bytes());
    f.extend([0, 0]);
    f.extend_from_slice(payload);
    f
}

fn receiver(at: [u8; 4]) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::from(at), 9999)).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

/// Receives all ICMP messages to this namespace, with their IP header.
pub(super) fn icmp_receiver() -> UdpSocket {
    // SAFETY: no pointers; the descriptor is checked and owned by nobody else.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_ICMP);
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        UdpSocket::from_raw_fd(fd)
    };
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

/// Loads an XDP program of these instructions.
fn load(instructions: &[u64]) -> OwnedFd {
    const PROG_LOAD: libc::c_long = 5;
    const XDP: u32 = 6;
    let licence = c"GPL";
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        licence: u64,
        rest: [u64; 14],
    }
    let attr = Load {
        kind: XDP,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr().expose_provenance() as u64,
        licence: licence.as_ptr().expose_provenance() as u64,
        rest: [0; 14],
    };
    // SAFETY: the start of `union bpf_attr`, zeroes after it; what it points at lives during the call.
    unsafe {
        let fd = libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const attr, size_of::<Load>());
        assert!(fd >= 0, "load: {}", io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd as i32)
    }
}

/// `r0 = action; exit`.
fn returns(action: u64) -> OwnedFd {
    load(&[0xb7 | action << 32, 0x95])
}

/// `return bpf_redirect(ifindex, 0)`.
fn redirects(ifindex: u32) -> OwnedFd {
    load(&[0x01b7 | u64::from(ifindex) << 32, 0x02b7, 0x85 | 23 << 32, 0x95])
}

const XDP_DROP: u64 = 1;
const XDP_PASS: u64 = 2;

fn programs(inside: OwnedFd) -> KernelPrograms {
    KernelPrograms::of(inside, returns(XDP_DROP))
}

#[test]
fn a_passed_frame_reaches_the_stack_of_its_interface_and_a_dropped_one_does_not() {
    let Some((_host, router, vb)) = lab() else { return };
    router.enter(|| {
        let socket = receiver(ROUTER);
        let mut programs = programs(returns(XDP_PASS));
        programs
            .reinject(Side::Outside, vb, &udp(HOST, ROUTER, 64, b"dropped"))
            .unwrap();
        programs
            .reinject(Side::Inside, vb, &udp(HOST, ROUTER, 64, b"passed"))
            .unwrap();
        let mut buffer = [0; 100];
        let (len, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(
            (&buffer[..len], from.to_string().as_str()),
            (&b"passed"[..], "10.9.0.2:7777")
        );
    });
}

#[test]
fn a_redirected_frame_leaves_by_the_other_interface() {
    let Some((host, router, vb)) = lab() else { return };
    // Without NAPI on its peer a veth drops what is redirected to it.
    host.run("ethtool -K va gro on");
    let socket = host.enter(|| receiver(HOST));
    router.enter(|| {
        let lo = if_index("lo");
        let mut programs = programs(redirects(vb));
        programs
            .reinject(Side::Inside, lo, &udp(ROUTER, HOST, 64, b"redirected"))
            .unwrap();
    });
    let mut buffer = [0; 100];
    let len = socket.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"redirected");
}

#[test]
fn the_interface_is_one_of_the_callers_namespace() {
    let Some((host, router, vb)) = lab() else { return };
    let frame = udp(HOST, ROUTER, 64, b"x");
    router.ip("link add name spare0 type veth peer name spare1");
    let spare = router.enter(|| if_index("spare1"));
    let run = |ns: &TestNs, ifindex| ns.enter(|| programs(returns(XDP_DROP)).reinject(Side::Inside, ifindex, &frame));
    assert!(run(&router, vb).is_ok() && run(&router, spare).is_ok());
    let error = run(&host, spare).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
}

#[test]
fn frames_up_to_the_limit_are_taken() {
    let Some((_host, router, vb)) = lab() else { return };
    router.enter(|| {
        let mut programs = programs(returns(XDP_DROP));
        let mut takes = |len: usize| programs.reinject(Side::Inside, vb, &vec![0; len]).is_ok();
        for len in [14, 60, 1514, 2048, LIVE_FRAME_MAX] {
            assert!(takes(len), "{len}");
        }
        let begun = Instant::now();
        (0..1000).for_each(|_| assert!(takes(1514)));
        println!("a live frame of 1514 bytes takes {:?}", begun.elapsed() / 1000);
        let most = (LIVE_FRAME_MAX..9000).take_while(|len| takes(*len)).last();
        println!("the largest live frame here has {most:?} bytes");
        assert!(!takes(13) && !takes(9000));
    });
}

/// Records from a test instead of from the ring.
struct Feed(UnixDatagram);

impl AsFd for Feed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Punts for Feed {
    fn next(&mut self, take: &mut dyn FnMut(&[u8])) -> bool {
        let mut buffer = [0; 4096];
        match self.0.recv(&mut buffer) {
            Ok(len) => {
                take(&buffer[..len]);
                true
            }
            Err(_) => false,
        }
    }
}

/// Frames that were given back.
struct Recorder(mpsc::Sender<(Side, u32, Vec<u8>)>);

impl Reinject for Recorder {
    fn reinject(&mut self, side: Side, ifindex: u32, frame: &[u8]) -> io::Result<()> {
        self.0.send((side, ifindex, frame.to_vec())).map_err(io::Error::other)
    }
}

pub(super) struct Nothing(pub HashSet<Datagram>);

impl KnownDatagrams for Nothing {
    fn known(&self, datagram: &Datagram) -> bool {
        self.0.contains(datagram)
    }
}

/// Runs a slow path in `router` while `work` feeds it.
fn with_slow_path(
    router: &TestNs,
    vb: u32,
    work: impl AsyncFnOnce(&UnixDatagram, &Handle, &mpsc::Receiver<(Side, u32, Vec<u8>)>) + Send,
) {
    router.block_on(async || {
        let (feed, records) = UnixDatagram::pair().unwrap();
        records.set_nonblocking(true).unwrap();
        let (sender, given_back) = mpsc::channel();
        let config = Config::parse("[nat]\ninside = [\"vb\"]\noutside = [\"out\"]\n", "test").unwrap();
        let slow_path = SlowPath::new(SlowPathParts {
            punts: Feed(records),
            settings: Settings::from(&config),
            interfaces: vec![Interface {
                ifindex: vb,
                device: vb,
                addr: u32::from_be_bytes(ROUTER),
                role: ROLE_INSIDE,
                ..Interface::default()
            }],
            table: Box::new(Nothing(HashSet::new())),
            reinject: Box::new(Recorder(sender)),
            outlet: Box::new(Sockets::open().unwrap()),
            net: Arc::new(Net::open().unwrap()),
        });
        let handle = slow_path.handle();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let run = tokio::spawn(slow_path.run(async { drop(stopped.await) }));
        work(&feed, &handle, &given_back).await;
        stop.send(()).unwrap();
        run.await.unwrap().unwrap();
    });
}

fn record(reason: Reason, ifindex: u32, frame: &[u8], argument: (u32, u32)) -> Vec<u8> {
    let len = frame.len() as u32;
    let words = [reason as u32, ifindex, argument.0, argument.1, len, len];
    let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
    bytes.extend_from_slice(frame);
    bytes
}

/// Waits for a value of a counter.
async fn counted(handle: &Handle, name: &str, value: u64) {
    while !handle.counters().contains(&(name, value)) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[test]
fn time_exceeded_reaches_the_host() {
    let Some((host, router, vb)) = lab() else { return };
    let icmp = host.enter(icmp_receiver);
    let mut frame = udp(HOST, [198, 51, 100, 7], 1, b"traceroute");
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    with_slow_path(&router, vb, async |feed, handle, _| {
        feed.send(&record(Reason::TtlExpired, vb, &frame, (0, 0))).unwrap();
        counted(handle, "sent_time_exceeded", 1).await;
    });
    let mut buffer = [0; 1000];
    let len = icmp.recv(&mut buffer).unwrap();
    let packet = &buffer[..len];
    assert_eq!((packet[9], packet[1], &packet[12..16]), (1, 0, &ROUTER[..]));
    assert_eq!((&packet[20..22], &packet[28..]), (&[11, 0][..], &frame[14..]));
    assert_eq!((full(&packet[..20]), full(&packet[20..])), (0, 0));
}

#[test]
fn a_cold_neighbour_is_resolved_and_the_frame_given_back() {
    let Some((_host, router, vb)) = lab() else { return };
    let frame = udp(ROUTER, HOST, 64, b"first packet");
    with_slow_path(&router, vb, async |feed, handle, given_back| {
        feed.send(&record(Reason::NoNeighbour, vb, &frame, (u32::from_be_bytes(HOST), vb)))
            .unwrap();
        counted(handle, "reinjected", 1).await;
        assert_eq!(given_back.try_recv().unwrap(), (Side::Inside, vb, frame.clone()));
        assert!(handle.counters().contains(&("neighbour_expired", 0)));
    });
}

#[test]
fn news_about_a_neighbour_release_the_frame_too() {
    let Some((_host, router, vb)) = lab() else { return };
    let frame = udp(ROUTER, HOST, 64, b"first packet");
    // Nobody has this address: only the news can release the frame.
    let nobody = Ipv4Addr::new(10, 9, 0, 77);
    with_slow_path(&router, vb, async |feed, handle, given_back| {
        feed.send(&record(Reason::NoNeighbour, vb, &frame, (u32::from(nobody), vb)))
            .unwrap();
        counted(handle, "neighbour_held", 1).await;
        handle.neighbour_changed(vb, nobody, false);
        handle.neighbour_changed(vb, nobody, true);
        counted(handle, "reinjected", 1).await;
        assert_eq!(given_back.try_recv().unwrap().2, frame);
    });
}

#[test]
fn more_records_than_one_batch_are_all_taken() {
    let Some((_host, router, vb)) = lab() else { return };
    with_slow_path(&router, vb, async |feed, handle, _| {
        let wanted = 5 * BATCH as u64;
        for _ in 0..wanted {
            let bytes = record(Reason::Outbound, vb, &[0; 60], (0, 0));
            // The socket's queue is short.
            while sent(feed, &bytes).is_err() {
                tokio::task::yield_now().await;
            }
        }
        counted(handle, "received", wanted).await;
        assert!(handle.counters().contains(&("malformed", wanted)));
    });
}

/// Sends without waiting.
fn sent(feed: &UnixDatagram, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: a buffer that lives during the call, with its length.
    let sent = unsafe { libc::send(feed.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_DONTWAIT) };
    if sent < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
