//! Fragmentation (RFC 791 §3.2): an IP packet that is too long for the way out, in pieces that fit.

use nat_common::checksum::full;
use nat_common::parse::{DF, MF, OFFSET};

/// No link has a smaller MTU (RFC 791 §3.2).
const SMALLEST_MTU: usize = 68;

/// Why a packet cannot be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uncut {
    /// Not a whole IPv4 packet.
    Malformed,
    /// It says "don't fragment".
    DontFragment,
    /// The MTU is below 68 bytes.
    Mtu,
}

/// Cuts `packet` (a whole IP packet) into packets of at most `mtu` bytes, in the order of their offsets. One that fits comes
/// back as it is. A packet that is itself a fragment gives fragments of the same datagram.
pub fn split(packet: &[u8], mtu: usize) -> Result<Vec<Vec<u8>>, Uncut> {
    if packet.len() < 20 {
        return Err(Uncut::Malformed);
    }
    let header_len = usize::from(packet[0] & 0xf) * 4;
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    if packet[0] >> 4 != 4 || header_len < 20 || total != packet.len() || header_len > total {
        return Err(Uncut::Malformed);
    }
    if mtu < SMALLEST_MTU {
        return Err(Uncut::Mtu);
    }
    if total <= mtu {
        return Ok(vec![packet.to_vec()]);
    }
    let word = u16::from_be_bytes([packet[6], packet[7]]);
    if word & DF != 0 {
        return Err(Uncut::DontFragment);
    }
    let (header, payload) = packet.split_at(header_len);
    let later = later_header(header).ok_or(Uncut::Malformed)?;
    let mut pieces = Vec::with_capacity(total.div_ceil(mtu - header_len) + 1);
    let mut at = 0;
    while at < payload.len() {
        let header = if at == 0 { header } else { &later };
        let room = (mtu - header.len()) & !7;
        let rest = payload.len() - at;
        let len = if header.len() + rest <= mtu { rest } else { room };
        let offset = usize::from(word & OFFSET) + at / 8;
        let offset = u16::try_from(offset)
            .ok()
            .filter(|o| *o <= OFFSET)
            .ok_or(Uncut::Malformed)?;
        // The last piece of a piece in the middle is not the datagram's last.
        let more = if at + len < payload.len() { MF } else { word & MF };
        pieces.push(piece(header, &payload[at..at + len], more | offset));
        at += len;
    }
    Ok(pieces)
}

fn piece(header: &[u8], payload: &[u8], fragment: u16) -> Vec<u8> {
    let mut bytes = [header, payload].concat();
    let total = bytes.len() as u16;
    bytes[2..4].copy_from_slice(&total.to_be_bytes());
    bytes[6..8].copy_from_slice(&fragment.to_be_bytes());
    bytes[10..12].fill(0);
    let check = full(&bytes[..header.len()]);
    bytes[10..12].copy_from_slice(&check.to_be_bytes());
    bytes
}

/// The header of pieces other than the first: of the options only those whose copy bit is set (RFC 791 §3.1).
fn later_header(header: &[u8]) -> Option<Vec<u8>> {
    let mut later = header[..20].to_vec();
    let mut options = &header[20..];
    while let Some(&kind) = options.first() {
        match kind {
            0 => break,
            1 => options = &options[1..],
            _ => {
                let len = usize::from(*options.get(1)?);
                if len < 2 || len > options.len() {
                    return None;
                }
                if kind & 0x80 != 0 {
                    later.extend_from_slice(&options[..len]);
                }
                options = &options[len..];
            }
        }
    }
    later.resize(later.len().next_multiple_of(4), 0);
    later[0] = 0x40 | (later.len() / 4) as u8;
    Some(later)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nat_common::checksum::{fold, sum};
    use proptest::prelude::*;

    /// A packet with these option bytes (padded by end of options) and that flags-and-offset word.
    fn packet(options: &[u8], word: u16, payload: &[u8]) -> Vec<u8> {
        let mut header = vec![
            0, 0, 0, 0, 0xab, 0xcd, 0, 0, 64, 17, 0, 0, 192, 168, 1, 2, 203, 0, 113, 9,
        ];
        header.extend_from_slice(options);
        header.resize(header.len().next_multiple_of(4), 0);
        header[0] = 0x40 | (header.len() / 4) as u8;
        piece(&header, payload, word)
    }

    fn word(p: &[u8]) -> u16 {
        u16::from_be_bytes([p[6], p[7]])
    }

    fn header_len(p: &[u8]) -> usize {
        usize::from(p[0] & 15) * 4
    }

    /// Puts pieces together by their offsets: (payload, offset of the first byte, whether more follow).
    fn reassemble(pieces: &[Vec<u8>]) -> (Vec<u8>, usize, bool) {
        let start = usize::from(word(&pieces[0]) & OFFSET) * 8;
        let mut payload = Vec::new();
        for p in pieces {
            assert_eq!(
                usize::from(word(p) & OFFSET) * 8,
                start + payload.len(),
                "neither gap nor overlap"
            );
            payload.extend_from_slice(&p[header_len(p)..]);
        }
        (payload, start, word(pieces.last().unwrap()) & MF != 0)
    }

    #[test]
    fn three_pieces_of_an_ordinary_datagram() {
        let payload: Vec<u8> = (0..3000u32).map(|i| i as u8).collect();
        let pieces = split(&packet(&[], 0, &payload), 1500).unwrap();
        let shape: Vec<_> = pieces.iter().map(|p| (p.len(), word(p))).collect();
        assert_eq!(shape, [(1500, MF), (1500, MF | 185), (60, 370)]);
    }

    #[test]
    fn what_fits_or_must_not_be_cut_is_left_alone() {
        let whole = packet(&[], 0, &[7; 1480]);
        assert_eq!(split(&whole, 1500).unwrap(), std::slice::from_ref(&whole));
        assert_eq!(split(&packet(&[], DF, &[7; 1480]), 1280), Err(Uncut::DontFragment));
        assert_eq!(split(&whole, 67), Err(Uncut::Mtu));
        assert_eq!(split(&whole[..1499], 1280), Err(Uncut::Malformed));
    }

    #[test]
    fn only_options_with_the_copy_bit_go_into_later_pieces() {
        // Record route (7, not copied), no-operation, security (0x82, copied), stream id (0x88, copied).
        let options = [7, 3, 4, 1, 0x82, 5, 1, 2, 3, 0x88, 4, 9, 9];
        let pieces = split(&packet(&options, 0, &[7; 200]), 128).unwrap();
        assert_eq!(&pieces[0][20..33], &options);
        for p in &pieces[1..] {
            assert_eq!(&p[20..header_len(p)], &[0x82, 5, 1, 2, 3, 0x88, 4, 9, 9, 0, 0, 0]);
        }
        // An option that runs over its header.
        assert_eq!(
            split(&packet(&[0x82, 9, 0, 0], 0, &[7; 200]), 128),
            Err(Uncut::Malformed)
        );
    }

    #[test]
    fn a_piece_beyond_the_largest_datagram_is_not_made() {
        assert_eq!(split(&packet(&[], MF | 8190, &[7; 2000]), 576), Err(Uncut::Malformed));
    }

    proptest! {
        #[test]
        fn reassembly_gives_the_original(
            payload in proptest::collection::vec(any::<u8>(), 1..2000), mtu in 68usize..1600,
            first in 0u16..4000, more: bool, copied in 0usize..3, plain in 0usize..3
        ) {
            let options = [[0x82, 4, 1, 1].repeat(copied), [7, 4, 1, 1].repeat(plain)].concat();
            let flags = if more { MF } else { 0 };
            // All but the last piece of a datagram are multiples of eight bytes long.
            let len = if more { payload.len().next_multiple_of(8) } else { payload.len() };
            let mut payload = payload;
            payload.resize(len, 0);
            let original = packet(&options, flags | first, &payload);
            let pieces = split(&original, mtu).unwrap();
            prop_assert_eq!(reassemble(&pieces), (payload, usize::from(first) * 8, more));
            for (i, p) in pieces.iter().enumerate() {
                let last = i + 1 == pieces.len();
                prop_assert!(p.len() <= mtu.max(original.len().min(mtu)));
                prop_assert_eq!(usize::from(u16::from_be_bytes([p[2], p[3]])), p.len());
                prop_assert_eq!(fold(sum(&p[..header_len(p)])), 0xffff);
                prop_assert!(last || (word(p) & MF != 0 && (p.len() - header_len(p)).is_multiple_of(8)));
                // Everything else in the header is the original's.
                prop_assert_eq!(p[1], original[1]);
                prop_assert_eq!(&p[4..6], &original[4..6]);
                prop_assert_eq!(&p[8..10], &original[8..10]);
                prop_assert_eq!(&p[12..20], &original[12..20]);
                let expected = if i == 0 { 20 + options.len() } else { 20 + copied * 4 };
                prop_assert_eq!(header_len(p), expected);
            }
            // No piece could have been spared.
            for p in pieces.iter().take(pieces.len() - 1) {
                prop_assert!(p.len() + 8 > mtu);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(mut p in proptest::collection::vec(any::<u8>(), 0..200), mtu in 0usize..300) {
            if p.len() >= 20 {
                let len = p.len() as u16;
                p[0] = 0x40 | p[0] & 0xf;
                p[2..4].copy_from_slice(&len.to_be_bytes());
            }
            if let Ok(pieces) = split(&p, mtu) {
                prop_assert!(pieces.iter().all(|piece| piece.len() <= mtu));
            }
        }
    }
}
