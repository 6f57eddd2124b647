// What the bench of the media relay tells its generator and its sink, seen from both sides: `cargo xtask bench` includes this file.

/// Bytes of the Ethernet frame of 20 ms of G.711: headers of Ethernet, IPv4, UDP and RTP, and 160 samples.
pub const MEDIA_FRAME: usize = 214;
/// Offset of the UDP payload.
pub const MEDIA_PAYLOAD: usize = 42;
/// Offset of the sound, whose first eight bytes are the time of sending where delays are measured: nanoseconds since boot, in the
/// machine's byte order.
pub const MEDIA_SOUND: usize = 54;

/// The packets to generate: G.711 in RTP. Stream number `n` is sent by peer number `n`, which has an address of its own, and has
/// `n` as SSRC; it is for peer `n ^ 1`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct MediaTraffic {
    /// The first 40 bytes of the frame as the machine's own words, with zeroes where both addresses, the destination port and the
    /// checksum of the IPv4 header are.
    pub template: [u64; 5],
    /// Sum (RFC 1071) over the 16-bit words of the IPv4 header in `template`, in the machine's byte order.
    pub ip_sum: u32,
    /// Sum over pseudo-header, UDP header and payload without addresses, destination port, sequence number, timestamp and SSRC.
    pub udp_sum: u32,
    /// Address of the first peer, host order.
    pub peer: u32,
    /// First external address of the relay, host order.
    pub relay: u32,
    /// Number of streams.
    pub streams: u32,
    /// 1: each packet is of a stream chosen at random; 0: of one after the other.
    pub random: u32,
    /// How much the sequence number grows with each packet, whichever stream it is of, in units of 2^-16.
    pub step: u32,
    /// Interface to send to.
    pub ifindex: u32,
}

/// What the sink looks for.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct MediaWanted {
    /// Address of the first peer, host order.
    pub peer: u32,
    /// 1: packets of the relay must be for the peer that they are meant for.
    pub strict: u32,
    /// 1: delays are measured.
    pub delays: u32,
    /// Always zero.
    pub reserved: u32,
}

/// Index of the sink's counter for packets that come straight from their peer.
pub const MEDIA_DIRECT: u32 = 0;
/// Index of the sink's counter for packets that have been relayed to the right peer.
pub const MEDIA_RELAYED: u32 = 1;
/// Index of the sink's counter for packets that have been relayed to somebody else.
pub const MEDIA_ASTRAY: u32 = 2;
/// Index of the sink's counter for everything else that arrives.
pub const MEDIA_OTHER: u32 = 3;

/// Buckets of delays: sixteen to a factor of two.
pub const DELAY_BUCKETS: u32 = 1024;

const _: () = assert!(size_of::<MediaTraffic>() == 72);
const _: () = assert!(size_of::<MediaWanted>() == 16);
