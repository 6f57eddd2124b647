//! A voice-like stream: small datagrams at a steady pace, echoed, every one accounted for.

use std::{
    net::SocketAddrV4,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use tests::prelude::*;

/// G.711 at 20 ms is 172 bytes; here five times as often.
const PACE: Duration = Duration::from_millis(4);
const BYTES: usize = 172;

/// A running stream.
pub struct Stream {
    stop: Arc<AtomicBool>,
    sender: thread::JoinHandle<Result<u64>>,
    receiver: thread::JoinHandle<Result<u64>>,
}

impl Stream {
    /// Starts it from a host to an echo server.
    pub fn start(host: &Host, port: u16, to: SocketAddrV4) -> Result<Self> {
        let socket = host_udp(host, port)?;
        let answers = socket.try_clone()?;
        answers.set_read_timeout(Some(Duration::from_secs(1)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stop_sending, stopped) = (stop.clone(), stop.clone());
        let sender = thread::spawn(move || {
            let mut sent = 0u64;
            let mut next = Instant::now();
            while !stop_sending.load(Ordering::Relaxed) {
                let mut datagram = vec![0u8; BYTES];
                datagram[..8].copy_from_slice(&sent.to_be_bytes());
                socket.send_to(&datagram, to)?;
                sent += 1;
                next += PACE;
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            Ok(sent)
        });
        let receiver = thread::spawn(move || {
            let mut received = 0u64;
            let mut buffer = [0u8; 2048];
            loop {
                match answers.recv(&mut buffer) {
                    Ok(_) => received += 1,
                    Err(_) if stopped.load(Ordering::Relaxed) => return Ok(received),
                    Err(_) => {}
                }
            }
        });
        Ok(Self { stop, sender, receiver })
    }

    /// Stops it: datagrams sent, and echoes received until a second after the last.
    pub fn stop(self) -> Result<(u64, u64)> {
        self.stop.store(true, Ordering::Relaxed);
        let join = |handle: thread::JoinHandle<Result<u64>>| match handle.join() {
            Ok(result) => result,
            Err(_) => bail!("a thread of the stream panicked"),
        };
        Ok((join(self.sender)?, join(self.receiver)?))
    }
}
