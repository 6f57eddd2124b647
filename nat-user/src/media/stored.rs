//! What of the media of calls is stored, so that it outlives the daemon as its places in the data path do.

use std::net::Ipv4Addr;

use super::{
    command::{Carrier, Expect, Leg, Pinhole, PinholeId, Relay, RelayId},
    end::{End, Reach},
    sdp::Endpoint,
};
use crate::store::codec::{Reader, Stored, stored};

stored!(
    enum Carrier {
        Udp,
        Tcp,
    }
);
stored!(struct Endpoint { address, port, rtcp });
stored!(struct Expect { rtp, mux, stun, dtls, clock });
stored!(struct Leg { gate, fallback });
stored!(struct Pinhole { id, outside });
stored!(struct PinholeId(_));
stored!(struct Reach { signalling, behind_nat, device, trusted });
stored!(struct Relay { id, aliases });
stored!(struct RelayId(_));

impl Stored for End {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            End::Public => out.push(0),
            End::Private => out.push(1),
            End::Inside => out.push(2),
            End::Behind(nat) => {
                out.push(3);
                nat.put(out);
            }
            End::Unknown => out.push(4),
        }
    }

    fn take(from: &mut Reader<'_>) -> Option<Self> {
        match from.array()? {
            [0] => Some(End::Public),
            [1] => Some(End::Private),
            [2] => Some(End::Inside),
            [3] => Ipv4Addr::take(from).map(End::Behind),
            [4] => Some(End::Unknown),
            _ => None,
        }
    }
}
