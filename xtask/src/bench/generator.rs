//! Packets out of nowhere: the generator, and what it is to generate.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail};
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::Xdp;
use aya::{Ebpf, Pod, TestRun, TestRunAttrs, TestRunOptions};
use tests::lab::Host;
use tests::ns::Namespace;
use tests::packet::{Mac, Packet};

use super::layout::{Cursor, FRAME, PORT, Traffic};
use super::object;

// SAFETY: plain numbers without padding, any bytes are a value.
unsafe impl Pod for Traffic {}
// SAFETY: as above.
unsafe impl Pod for Cursor {}

/// Source of the first flow. RFC 1918 space that no interface of the lab has.
pub const FIRST_SOURCE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 0);
/// Flows of one source address.
#[cfg(test)]
const FLOWS_PER_HOST: u32 = 1024;
/// First destination (RFC 2544's benchmark space).
pub const FIRST_DESTINATION: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// Source port of the first flow of each host. Multiple of 1024, so flows of one host have both parities equally.
pub const FIRST_PORT: u16 = 10240;
/// What the packets carry.
pub const PAYLOAD: [u8; FRAME - 42] = [0x5a; FRAME - 42];
/// Frames that the kernel takes through the generator before it flushes the veth. Its NAPI budget.
pub const BATCH: u32 = 64;

/// In what order flows get their packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// One after the other, beginning with the first.
    InTurn,
    /// Each packet is of any of them.
    Random,
}

/// Makes packets in an inside host's namespace and sends them to its router.
pub struct Generator {
    ebpf: Ebpf,
    ns: Namespace,
    ifindex: u32,
    template: Packet,
}

impl Generator {
    /// A generator that sends from this host.
    pub fn new(host: &Host) -> Result<Self> {
        let mut ebpf = object::open()?;
        object::load(&mut ebpf, "bench_generate")?;
        let ifindex = ifindex(host, tests::lab::DEV)?;
        let template = template(host.mac, host.gateway_mac);
        Ok(Self {
            ebpf,
            ns: (**host).clone(),
            ifindex,
            template,
        })
    }

    /// What comes next: so many flows in this order.
    pub fn set(&mut self, flows: u32, order: Order) -> Result<()> {
        let traffic = traffic(self.template.build(), flows, order, self.ifindex)?;
        let mut map: Array<_, Traffic> = self.ebpf.map_mut("TRAFFIC").context("no TRAFFIC")?.try_into()?;
        map.set(0, &traffic, 0)?;
        rewind(&mut self.ebpf)
    }

    /// Sends so many packets from the calling thread's core. Must run in [`Self::namespace`].
    pub fn send(&self, packets: u32) -> Result<()> {
        let program: &Xdp = self
            .ebpf
            .program("bench_generate")
            .context("no generator")?
            .try_into()?;
        let attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
        // The kernel fills the pages with this once; the generator overwrites all of it but the payload.
        let frame = self.template.build();
        let options = TestRunOptions {
            data_in: Some(&frame),
            repeat: packets,
            attrs,
            ..TestRunOptions::new()
        };
        program
            .test_run(options)
            .context("run the generator with live frames (Linux 5.18 and newer)")?;
        Ok(())
    }

    /// Packets made so far, on all cores.
    pub fn sent(&self) -> Result<u64> {
        let map: PerCpuArray<&MapData, Cursor> = self.ebpf.map("CURSOR").context("no CURSOR")?.try_into()?;
        Ok(map.get(&0, 0)?.iter().map(|cursor| cursor.sent).sum())
    }

    /// Where it has to run.
    pub fn namespace(&self) -> &Namespace {
        &self.ns
    }
}

/// The first flow's packet, for everything that is the same in all of them.
pub fn template(source: Mac, destination: Mac) -> Packet {
    let (from, to) = (
        format!("{FIRST_SOURCE}:{FIRST_PORT}"),
        format!("{FIRST_DESTINATION}:{PORT}"),
    );
    Packet::udp(&*from, &*to, &PAYLOAD).df().macs(source, destination)
}

/// The generator's orders for frames like this one, which has the first flow's endpoints.
pub fn traffic(mut bytes: Vec<u8>, flows: u32, order: Order, ifindex: u32) -> Result<Traffic> {
    if bytes.len() != FRAME {
        bail!("the template has {} bytes instead of {FRAME}", bytes.len());
    }
    let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let (source, destination) = (word(26), word(30));
    let first_port = u32::from(u16::from_be_bytes([bytes[34], bytes[35]]));
    for range in [24..34, 34..36, 40..42] {
        bytes[range].fill(0);
    }
    let udp_length = &bytes[38..40];
    let pseudo = [&[0, 17], udp_length].concat();
    let (ip_sum, udp_sum) = (sum(&bytes[14..34]), sum(&bytes[34..]) + sum(&pseudo));
    let mut words = [0; 5];
    for (word, eight) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_ne_bytes(*eight);
    }
    Ok(Traffic {
        template: words,
        ip_sum,
        udp_sum,
        source,
        destination,
        first_port,
        flows,
        // Sixteen remote hosts.
        destination_mask: if flows > 1 { 15 } else { 0 },
        random: u32::from(order == Order::Random),
        ifindex,
        reserved: 0,
    })
}

/// Lets the flows begin with the first again.
pub fn rewind(ebpf: &mut Ebpf) -> Result<()> {
    let mut map: PerCpuArray<_, Cursor> = ebpf.map_mut("CURSOR").context("no CURSOR")?.try_into()?;
    let cursors = map
        .get(&0, 0)?
        .iter()
        .map(|cursor| Cursor { next: 0, ..*cursor })
        .collect::<Vec<_>>();
    map.set(0, cursors.try_into()?, 0)?;
    Ok(())
}

/// The index of an interface of a namespace.
pub fn ifindex(ns: &Namespace, dev: &str) -> Result<u32> {
    let name = std::ffi::CString::new(dev)?;
    // SAFETY: a valid C string.
    match ns.enter(|| unsafe { libc::if_nametoindex(name.as_ptr()) }) {
        0 => bail!("{} has no interface {dev}", ns.name()),
        index => Ok(index),
    }
}

/// Sum of 16-bit words in the machine's byte order, not folded (RFC 1071 §2).
pub fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.as_chunks().0.iter();
    words.map(|two| u32::from(u16::from_ne_bytes(*two))).sum()
}

#[cfg(test)]
mod test {
    use super::*;
    use tests::checksum::verify_checksums;
    use tests::packet::L4;

    /// As root in CI: what the generator writes over any earlier contents is right to the last bit.
    #[test]
    fn generated_packets_are_complete_and_right() {
        object::build().unwrap();
        let mut ebpf = object::open().unwrap();
        object::load(&mut ebpf, "bench_restore").unwrap();
        let template = template([2; 6], [4; 6]);
        let traffic = traffic(template.build(), 5000, Order::InTurn, 1).unwrap();
        let mut map: Array<_, Traffic> = ebpf.map_mut("TRAFFIC").unwrap().try_into().unwrap();
        map.set(0, &traffic, 0).unwrap();
        rewind(&mut ebpf).unwrap();
        let program: &Xdp = ebpf.program("bench_restore").unwrap().try_into().unwrap();
        super::super::stand::on_core(super::super::machine::last_cpu().unwrap(), || {
            for flow in 0..5000u32 {
                let mut expected = template.clone();
                expected.ip.src = (u32::from(FIRST_SOURCE) + flow / FLOWS_PER_HOST).into();
                expected.ip.dst = (u32::from(FIRST_DESTINATION) + flow % 16).into();
                let L4::Udp(udp) = &mut expected.l4 else {
                    panic!("the template is no UDP")
                };
                udp.sport = FIRST_PORT + (flow % FLOWS_PER_HOST) as u16;
                let mut input = [0xff; FRAME];
                input[42..].fill(0x5a);
                let mut out = [0; 2048];
                let options = TestRunOptions {
                    data_in: Some(&input),
                    data_out: Some(&mut out),
                    ..TestRunOptions::new()
                };
                program.test_run(options).unwrap();
                verify_checksums(&out[..FRAME]).unwrap();
                assert_eq!(Packet::parse(&out[..FRAME]).unwrap(), expected);
            }
        });
    }
}
