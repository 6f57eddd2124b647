//! Calls out of nowhere: the generator of media, and the packets that it and the load send.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, MapData, PerCpuArray, ProgramArray};
use aya::programs::{ProgramFd, Xdp};
use aya::{Ebpf, Pod, TestRun, TestRunAttrs, TestRunOptions};
use tests::lab::{DEV, EXTERNAL, Host};
use tests::ns::Namespace;
use tests::packet::Packet;

use crate::bench::generator::{BATCH, Order, ifindex, sum};
use crate::bench::layout::Cursor;
use crate::bench::media_layout::{MEDIA_FRAME, MEDIA_PAYLOAD, MEDIA_SOUND, MediaTraffic};
use crate::bench::{machine, object};

// SAFETY: plain numbers without padding, any bytes are a value.
unsafe impl Pod for MediaTraffic {}

/// The first peer. The others follow it, each with an address of its own.
const FIRST_PEER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 0);
/// The UDP port of every peer.
pub const PORT: u16 = 9;
/// How far the sequence number of a stream is from that of its last packet, in the mean, when streams are hit at random: few packets
/// then have the number of the one before, and none is so far ahead that the stream would begin anew (RFC 3550 §A.1).
const MEAN_STEP: u64 = 64;

/// The address of the peer that sends stream number `n`.
pub fn peer(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(FIRST_PEER) + n)
}

/// Where a stream's peer sends: a port of the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leg {
    /// How many addresses behind the relay's first one.
    pub address: u16,
    /// Port.
    pub port: u16,
}

/// The packets of stream 0, to a port of the relay.
fn template(host: &Host, leg: Leg) -> Packet {
    let mut payload = [0x55; MEDIA_FRAME - MEDIA_PAYLOAD];
    // Version 2, payload type 0; sequence number, timestamp and SSRC are 0.
    payload[..MEDIA_SOUND - MEDIA_PAYLOAD].fill(0);
    payload[0] = 0x80;
    let relay = Ipv4Addr::from(u32::from(EXTERNAL) + u32::from(leg.address));
    let (from, to) = (format!("{}:{PORT}", peer(0)), format!("{relay}:{}", leg.port));
    Packet::udp(&*from, &*to, &payload)
        .df()
        .macs(host.mac, host.gateway_mac)
}

/// A packet of a stream with a sequence number, complete but for its UDP checksum (0: none), and the sum for that (RFC 1071).
pub fn packet(host: &Host, stream: u32, leg: Leg) -> Vec<u8> {
    let mut packet = template(host, leg);
    packet.ip.src = peer(stream);
    let mut bytes = packet.build();
    bytes[MEDIA_PAYLOAD + 8..MEDIA_PAYLOAD + 12].copy_from_slice(&stream.to_be_bytes());
    bytes
}

/// Sends media from a host to its router, as fast as they go.
pub struct Generator {
    ebpf: Ebpf,
    ns: Namespace,
    ifindex: u32,
    template: Packet,
}

impl Generator {
    /// A generator of this host's.
    pub fn new(host: &Host) -> Result<Self> {
        let mut ebpf = object::open()?;
        for name in ["bench_media_generate", "bench_media_restore", "bench_empty"] {
            object::load(&mut ebpf, name)?;
        }
        Ok(Self {
            ebpf,
            ns: (**host).clone(),
            ifindex: ifindex(host, DEV)?,
            template: template(host, Leg { address: 0, port: PORT }),
        })
    }

    /// What comes next: so many streams in this order; where they go.
    pub fn set(&mut self, streams: u32, order: Order, legs: &[Leg]) -> Result<()> {
        ensure!(
            legs.len() >= streams as usize,
            "{streams} streams for {} legs",
            legs.len()
        );
        let mut map: Array<_, u32> = self.ebpf.map_mut("MEDIA_LEGS").context("no MEDIA_LEGS")?.try_into()?;
        for (n, leg) in (0..streams).zip(legs) {
            map.set(n, &(u32::from(leg.address) << 16 | u32::from(leg.port)), 0)?;
        }
        let traffic = traffic(self.template.build(), streams, order, self.ifindex)?;
        let map = self.ebpf.map_mut("MEDIA_TRAFFIC").context("no MEDIA_TRAFFIC")?;
        Array::<_, MediaTraffic>::try_from(map)?.set(0, &traffic, 0)?;
        let map = self.ebpf.map_mut("MEDIA_CURSOR").context("no MEDIA_CURSOR")?;
        let mut map: PerCpuArray<_, Cursor> = map.try_into()?;
        let again = |cursor: &Cursor| Cursor { next: 0, ..*cursor };
        let cursors: Vec<Cursor> = map.get(&0, 0)?.iter().map(again).collect();
        map.set(0, cursors.try_into()?, 0)?;
        Ok(())
    }

    /// Sends so many packets from the calling thread's core. Must run in [`Self::namespace`].
    pub fn send(&self, packets: u32) -> Result<()> {
        let program = self.ebpf.program("bench_media_generate").context("no generator")?;
        let program: &Xdp = program.try_into()?;
        let frame = self.template.build();
        let options = TestRunOptions {
            data_in: Some(&frame),
            repeat: packets,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::new()
        };
        program
            .test_run(options)
            .context("run the generator with live frames (Linux 5.18 and newer)")?;
        Ok(())
    }

    /// Nanoseconds that a program takes for each of so many packets, with the writing of the packet, on one core; they come in by an
    /// interface of the namespace. The last of its actions is returned too.
    pub fn time_of(
        &mut self,
        program: &ProgramFd,
        ns: &Namespace,
        ingress: u32,
        cpu: usize,
        repeat: u32,
    ) -> Result<(f64, u32)> {
        let map = self.ebpf.map_mut("TARGET").context("no TARGET")?;
        ProgramArray::try_from(map)?.set(0, program, 0)?;
        let restore = self.ebpf.program("bench_media_restore").context("no restorer")?;
        let restore: &Xdp = restore.try_into()?;
        let frame = self.template.build();
        // `struct xdp_md` of a frame that came in on the interface.
        let context = [0, MEDIA_FRAME as u32, 0, ingress, 0, 0].map(u32::to_ne_bytes).concat();
        ns.enter(|| {
            machine::pin(cpu)?;
            let options = TestRunOptions {
                data_in: Some(&frame),
                ctx_in: Some(&context),
                repeat,
                ..TestRunOptions::new()
            };
            let result = restore.test_run(options)?;
            Ok((result.duration.as_nanos() as f64, result.return_value))
        })
    }

    /// One of the bench's own programs.
    pub fn program(&self, name: &str) -> Result<ProgramFd> {
        let program: &Xdp = self.ebpf.program(name).context("no such program")?.try_into()?;
        Ok(program.fd()?.try_clone()?)
    }

    /// Packets made so far, on all cores.
    pub fn sent(&self) -> Result<u64> {
        let map = self.ebpf.map("MEDIA_CURSOR").context("no MEDIA_CURSOR")?;
        let map: PerCpuArray<&MapData, Cursor> = map.try_into()?;
        Ok(map.get(&0, 0)?.iter().map(|cursor| cursor.sent).sum())
    }

    /// Where it has to run.
    pub fn namespace(&self) -> &Namespace {
        &self.ns
    }
}

fn traffic(mut bytes: Vec<u8>, streams: u32, order: Order, ifindex: u32) -> Result<MediaTraffic> {
    ensure!(
        bytes.len() == MEDIA_FRAME,
        "the template has {} bytes instead of {MEDIA_FRAME}",
        bytes.len()
    );
    for range in [24..34, 36..38, 40..42] {
        bytes[range].fill(0);
    }
    let pseudo = [&[0, 17], &bytes[38..40]].concat();
    let mut words = [0; 5];
    for (word, eight) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_ne_bytes(*eight);
    }
    let step = match order {
        Order::InTurn => (1 << 16) / u64::from(streams),
        Order::Random => (MEAN_STEP << 16) / u64::from(streams),
    };
    Ok(MediaTraffic {
        template: words,
        ip_sum: sum(&bytes[14..34]),
        udp_sum: sum(&bytes[34..]) + sum(&pseudo),
        peer: FIRST_PEER.into(),
        relay: EXTERNAL.into(),
        streams,
        random: u32::from(order == Order::Random),
        step: step as u32,
        ifindex,
    })
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::bench::stand::on_core;
    use tests::checksum::verify_checksums;
    use tests::lab::Lab;

    /// As root in CI: what the generator writes over any earlier contents is right to the last bit.
    #[test]
    fn generated_calls_are_complete_and_right() {
        object::build().unwrap();
        let lab = Lab::builder().direct().build().unwrap();
        let mut generator = Generator::new(lab.o(1)).unwrap();
        let legs: Vec<Leg> = (0..300)
            .map(|n| Leg {
                address: n % 3,
                port: 65000 + n,
            })
            .collect();
        generator.set(300, Order::InTurn, &legs).unwrap();
        let program: &Xdp = generator
            .ebpf
            .program("bench_media_generate")
            .unwrap()
            .try_into()
            .unwrap();
        on_core(machine::last_cpu().unwrap(), || {
            for n in 0..900u32 {
                let stream = n % 300;
                let mut input = [0xff; MEDIA_FRAME];
                input[MEDIA_SOUND..].fill(0x55);
                let mut out = [0; 2048];
                let options = TestRunOptions {
                    data_in: Some(&input),
                    data_out: Some(&mut out),
                    ..TestRunOptions::new()
                };
                program.test_run(options).unwrap();
                let got = &out[..MEDIA_FRAME];
                verify_checksums(got).unwrap();
                let mut expected = packet(lab.o(1), stream, legs[stream as usize]);
                // Sequence number, timestamp and checksum are the generator's.
                for range in [40..42, 44..50] {
                    expected[range.clone()].copy_from_slice(&got[range]);
                }
                assert_eq!(got, expected, "packet {n}");
                let sequence = u16::from_be_bytes([got[44], got[45]]);
                assert!(sequence.abs_diff((n / 300) as u16) <= 1, "{sequence} of packet {n}");
            }
        });
    }
}
