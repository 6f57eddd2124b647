//! A NAT and a SIP server that exist only in memory, served on a real socket, for the tests of everything around them.
#![allow(dead_code, reason = "each test file uses a part of it")]

mod sip;

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use nat_user::{
    config::{ExternalSide, Filtering, Forward},
    control::{BindingFilter, Ended, Events, Listener, Service, ServiceError, SipService, serve},
    records::*,
    units::Proto,
};
pub use sip::MemorySip;
use tokio::sync::oneshot;

pub const EXTERNAL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
pub const REMOTE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);

/// The in-memory NAT: `bindings` dynamic bindings, spread over hosts 10.0.0.0 and up, and runtime forwards.
#[derive(Default)]
pub struct MemoryService {
    pub bindings: u32,
    pub forwards: Mutex<Vec<Forward>>,
    /// How many bindings were handed out, to see that listing stops when it should.
    pub handed_out: AtomicU64,
    pub reload_fails: bool,
    /// The SIP server beside it, if there is one.
    pub sip: Option<MemorySip>,
}

impl MemoryService {
    pub fn binding(number: u32) -> BindingRecord {
        let proto = Proto::ALL[number as usize % 3];
        BindingRecord {
            proto,
            inside: SocketAddrV4::new(Ipv4Addr::from(0x0a00_0000 + number / 100), 1024 + (number % 100) as u16),
            external: SocketAddrV4::new(EXTERNAL, 1024 + (number % 60_000) as u16),
            kind: BindingKind::Dynamic,
            idle_s: u64::from(number % 60),
            expires_s: Some(300),
            created_s: 60,
            filtering: Filtering::EndpointIndependent,
            sessions: Some(1),
            remotes: vec![SocketAddrV4::new(REMOTE, 5060)],
            traffic: number.is_multiple_of(2).then_some(Traffic {
                packets_out: 1,
                bytes_out: 60,
                packets_in: 2,
                bytes_in: 120,
            }),
        }
    }

    fn forward_record(forward: &Forward) -> BindingRecord {
        BindingRecord {
            proto: forward.protocol,
            inside: SocketAddrV4::new(forward.inside_address, forward.inside_ports.first),
            external: SocketAddrV4::new(
                forward.external_address.unwrap_or(EXTERNAL),
                forward.external_ports.first,
            ),
            kind: BindingKind::Runtime,
            idle_s: 0,
            expires_s: None,
            created_s: 0,
            filtering: Filtering::EndpointIndependent,
            sessions: None,
            remotes: Vec::new(),
            traffic: None,
        }
    }
}

impl Service for MemoryService {
    fn status(&self) -> Result<StatusRecord, ServiceError> {
        Ok(StatusRecord {
            version: "0.0.0-test".into(),
            pid: std::process::id(),
            started: Some(Time::now()),
            uptime_s: 61,
            interfaces: vec![InterfaceRecord {
                name: "eth1".into(),
                role: "inside".into(),
                mode: "native".into(),
                ifindex: 3,
                mtu: 1500,
                vlan: None,
            }],
            external_addresses: vec![EXTERNAL],
            pool: PoolRecord {
                hosts: 1008,
                bindings: 64512,
                ports_per_address: 64512,
                blocks_total: 1008,
                blocks_used: 1,
            },
            capacity: 100_000,
            memory_bytes: 1 << 20,
            bindings: BindingCounts {
                tcp: 1,
                udp: 2,
                icmp: 3,
            },
            sessions: 6,
            sweep: SweepRecord {
                passes: 4,
                cpu_us: 1500,
                cpu_us_max: 2500,
                bindings_visited: 6,
                expired: 7,
                repaired: 0,
            },
            exhaustion: ExhaustionRecord { quota: 8, pool: 9 },
            warnings: vec!["eth1 runs in generic mode".into()],
            schema_version: 1,
            nat: true,
            sip: self.sip.as_ref().map(MemorySip::status),
        })
    }

    fn relay_totals(&self) -> Result<RelayTotals, ServiceError> {
        Ok(RelayTotals::default())
    }

    fn bindings(
        &self,
        filter: &BindingFilter,
        each: &mut dyn FnMut(BindingRecord) -> ControlFlow<()>,
    ) -> Result<(), ServiceError> {
        let forwards: Vec<_> = self.forwards.lock().unwrap().iter().map(Self::forward_record).collect();
        for record in forwards.into_iter().chain((0..self.bindings).map(Self::binding)) {
            if filter.matches(record.proto, record.inside, record.external) {
                self.handed_out.fetch_add(1, Ordering::Relaxed);
                if each(record).is_break() {
                    break;
                }
            }
        }
        Ok(())
    }

    fn blocks(
        &self,
        host: Option<Ipv4Addr>,
        each: &mut dyn FnMut(BlockRecord) -> ControlFlow<()>,
    ) -> Result<(), ServiceError> {
        let record = BlockRecord {
            external_ip: EXTERNAL,
            first_port: 40000,
            last_port: 40063,
            host: Ipv4Addr::new(10, 0, 0, 2),
            since: "2026-01-02T03:04:05Z".parse().unwrap(),
            ports_used: 7,
        };
        if host.is_none_or(|host| host == record.host) {
            let _ = each(record);
        }
        Ok(())
    }

    fn counters(&self) -> Result<Vec<CounterRecord>, ServiceError> {
        let counter = |name: &str, value| CounterRecord {
            name: name.into(),
            direction: "out".into(),
            value,
        };
        Ok(vec![counter("forwarded", 7), counter("no_route", 0)])
    }

    fn add_forward(&self, forward: Forward) -> Result<String, ServiceError> {
        let mut forwards = self.forwards.lock().unwrap();
        if let Some(other) = forwards.iter().find(|other| other.collides_with(&forward)) {
            return Err(anyhow::anyhow!("{} is already forwarded to {}", other.external(), other.inside()).into());
        }
        forwards.push(forward);
        Ok(format!(
            "{} {} now leads to {}",
            forward.protocol,
            forward.external(),
            forward.inside()
        ))
    }

    fn delete_forward(&self, protocol: Proto, external: ExternalSide) -> Result<String, ServiceError> {
        let mut forwards = self.forwards.lock().unwrap();
        let same = |forward: &Forward| {
            forward.protocol == protocol
                && forward.external_address == external.address
                && forward.external_ports == external.ports
        };
        match forwards.iter().position(same) {
            Some(index) => {
                forwards.remove(index);
                Ok(format!("{protocol} {external} leads nowhere now"))
            }
            None => Err(ServiceError::NotFound(format!(
                "there is no forward of {protocol} {external}"
            ))),
        }
    }

    fn reload(&self) -> Result<String, ServiceError> {
        match self.reload_fails {
            true => Err(anyhow::anyhow!("x.toml:1:1: unknown field")
                .context("nothing was changed")
                .into()),
            false => Ok("nothing changed".into()),
        }
    }

    fn detach(&self) -> Result<String, ServiceError> {
        Ok("detached from eth1".into())
    }

    fn sip(&self) -> Result<&dyn SipService, ServiceError> {
        match &self.sip {
            Some(sip) => Ok(sip),
            None => Err(anyhow::anyhow!("no SIP server runs here; write [sip] into the configuration").into()),
        }
    }
}

/// A directory of one test's own, removed at the end.
pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new() -> Directory {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("sipnat-test-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Directory(path)
    }

    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A server on a thread of its own, stopped when dropped.
pub struct Server {
    pub service: Arc<MemoryService>,
    pub events: Arc<Events>,
    pub socket: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Ended>>,
    _directory: Directory,
}

impl Server {
    pub fn start(service: MemoryService) -> Server {
        let directory = Directory::new();
        let socket = directory.0.join("run/sipnat.sock");
        let (service, events) = (Arc::new(service), Arc::new(Events::new()));
        let (stop, stopped) = oneshot::channel::<()>();
        let (bound, is_bound) = std::sync::mpsc::channel();
        let (path, served, published) = (socket.clone(), service.clone(), events.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = Listener::bind(&path).unwrap();
                bound.send(()).unwrap();
                serve(listener, served, published, async { drop(stopped.await) }).await
            })
        });
        is_bound.recv().unwrap();
        Server {
            service,
            events,
            socket,
            stop: Some(stop),
            thread: Some(thread),
            _directory: directory,
        }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Waits until the server ends by itself.
    pub fn ended(mut self) -> Ended {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
