//! Network namespaces for tests: made with unique names, removed with the value.

use std::ffi::CString;
use std::future::Future;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

pub(crate) struct TestNs {
    pub name: String,
}

impl TestNs {
    /// None (and a message) where namespaces cannot be made: the tests that need them then have nothing to show.
    pub(crate) fn new() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if unsafe { libc::geteuid() } != 0 {
            eprintln!("skipped: network namespaces need root");
            return None;
        }
        let name = format!("snn-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        ip(&["netns", "add", &name]);
        let ns = Self { name };
        ns.ip("link set lo up");
        Some(ns)
    }

    /// `ip -n NS ...`, which must succeed.
    pub(crate) fn ip(&self, arguments: &str) {
        let mut all = vec!["-n", &self.name];
        all.extend(arguments.split_whitespace());
        ip(&all);
    }

    /// A pair of veth "d0" – "d1", both up: for tests that need just some device.
    pub(crate) fn add_d0(&self) {
        self.ip("link add name d0 type veth peer name d1");
        self.ip("link set d0 up");
        self.ip("link set d1 up");
    }

    /// Runs a program inside, with the rest of the system as it is outside.
    pub(crate) fn run(&self, command: &str) {
        let net = format!("--net=/run/netns/{}", self.name);
        let output = Command::new("nsenter")
            .arg(net)
            .args(command.split_whitespace())
            .output()
            .unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
    }

    /// Runs a future on a thread of its own inside the namespace; fails the test after 20 seconds.
    pub(crate) fn block_on<T: Send>(&self, work: impl AsyncFnOnce() -> T + Send) -> T {
        self.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(within(work()))
        })
    }

    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let path = CString::new(format!("/run/netns/{}", self.name)).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                // SAFETY: a valid path; the descriptor is closed after setns, which affects this thread alone.
                unsafe {
                    let fd = libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
                    assert!(fd >= 0, "open netns");
                    assert_eq!(libc::setns(fd, libc::CLONE_NEWNET), 0, "setns");
                    libc::close(fd);
                }
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for TestNs {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// Two namespaces joined by a veth pair "va" – "vb", both up.
pub(crate) fn pair() -> Option<(TestNs, TestNs)> {
    let (left, right) = (TestNs::new()?, TestNs::new()?);
    left.ip(&format!("link add name va type veth peer name vb netns {}", right.name));
    left.ip("link set va up");
    right.ip("link set vb up");
    Some((left, right))
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work)
        .await
        .expect("20 s have passed")
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip")
        .args(arguments)
        .status()
        .expect("iproute2 is installed");
    assert!(status.success(), "ip {arguments:?}: {status}");
}
