// What the bench tells its generator, seen from both sides: `cargo xtask bench` includes this file.

/// Bytes of a generated Ethernet frame.
pub const FRAME: usize = 64;

/// The packets to generate. All of them are UDP in IPv4 without options.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Traffic {
    /// The first 40 bytes of the frame as the machine's own words, with zeroes where source and destination address,
    /// source port and checksum of the IPv4 header are.
    pub template: [u64; 5],
    /// Sum (RFC 1071) over the 16-bit words of the IPv4 header in `template`, in the machine's byte order.
    pub ip_sum: u32,
    /// Sum over pseudo-header, UDP header and payload without addresses and source port.
    pub udp_sum: u32,
    /// Source address of the first flow, host order. Every 1024 flows have the next one.
    pub source: u32,
    /// Destination address of the first flow, host order.
    pub destination: u32,
    /// Source port of the first flow of each source address, host order.
    pub first_port: u32,
    /// Number of flows.
    pub flows: u32,
    /// The low bits of a flow's number that are added to `destination`.
    pub destination_mask: u32,
    /// 1: each packet is of a flow chosen at random; 0: of one after the other.
    pub random: u32,
    /// Interface to send to.
    pub ifindex: u32,
    /// Always zero.
    pub reserved: u32,
}

/// What one CPU's generator remembers.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Cursor {
    /// State of the random numbers.
    pub random: u64,
    /// Packets generated so far.
    pub sent: u64,
    /// Number of the next flow, when they are taken one after the other.
    pub next: u64,
}

/// What the sink has seen of one kind of packet on one CPU.
///
/// It takes the time itself, of every [`STAMP`]th packet: a test run with live frames takes some 20 ms more than its
/// packets, for making and ending its page pool.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// When the first came, in nanoseconds since boot.
    pub first: u64,
    /// When the last came whose number is a multiple of [`STAMP`].
    pub last: u64,
    /// How many came between these two.
    pub between: u64,
}

/// So many packets have one time stamp. A power of two.
pub const STAMP: u64 = 1024;

/// How the bare redirect changes a packet.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Rewrite {
    /// Destination and source MAC address as they are in the frame, one after the other.
    pub macs: [u8; 12],
    /// New source address, network order.
    pub source: [u8; 4],
}

/// Index of the sink's counter for packets of the bench that have a source address below `192.0.0.0`: untranslated.
pub const UNTRANSLATED: u32 = 0;
/// Index of the sink's counter for packets of the bench with any other source address: translated.
pub const TRANSLATED: u32 = 1;
/// Index of the sink's counter for everything else that arrives.
pub const OTHER: u32 = 2;
/// The UDP destination port that the sink knows the bench's packets by.
pub const PORT: u16 = 9;

const _: () = assert!(size_of::<Traffic>() == 80);
const _: () = assert!(size_of::<Cursor>() == 24);
const _: () = assert!(size_of::<Count>() == 32);
const _: () = assert!(size_of::<Rewrite>() == 16);
