//! RFC 6864 §5.3.1 and RFC 7857 §10: the identification of packets that may be fragmented.

use std::collections::HashSet;

use tests::prelude::*;

use crate::scene::{H, O, Scene, udp};

#[test]
fn ids_of_two_hosts_do_not_collide() {
    let mut s = Scene::new(Lab::builder().inside_hosts(2), "");
    let mut seen = HashSet::new();
    for id in 1000..1100 {
        for h in [H(1), H(2)] {
            let packet = udp(s.on(h, 6000), s.on(O(1), 9)).id(id);
            let got = s.pass(h, O(1), &packet);
            assert!(
                seen.insert(got.ip.id),
                "identification {} twice within 200 packets",
                got.ip.id
            );
        }
    }
}

#[test]
fn fragments_of_two_hosts_with_one_id_do_not_mix() {
    let mut s = Scene::new(Lab::builder().inside_hosts(2), "");
    let whole = [(H(1), 1u8), (H(2), 2)].map(|(h, fill)| {
        let packet = udp(s.on(h, 6000), s.on(O(1), 9)).with_payload(&[fill; 2000]).id(4242);
        (h, packet.fragments(1200))
    });
    for index in 0..2 {
        for (h, pieces) in &whole {
            s.send(*h, &pieces[index]);
        }
    }
    let arrived: Vec<Packet> = (0..4)
        .map(|_| s.wait(O(1), "a fragment", |got| got.ip.mf || got.ip.offset > 0))
        .collect();
    let ids: HashSet<u16> = arrived.iter().map(|piece| piece.ip.id).collect();
    assert_eq!(ids.len(), 2, "two datagrams under the identifications {ids:?}");
    for id in ids {
        let pieces: Vec<Packet> = arrived.iter().filter(|piece| piece.ip.id == id).cloned().collect();
        let got = Packet::reassemble(&pieces).unwrap();
        let fill = got.payload()[0];
        assert_eq!(got.payload(), [fill; 2000]);
    }
}

#[test]
fn an_atomic_packet_stays_atomic() {
    let mut s = Scene::with_outside(1, "");
    let packet = udp(s.on(H(1), 6000), s.on(O(1), 9)).id(7).df();
    let got = s.pass(H(1), O(1), &packet);
    assert!(got.ip.df && !got.ip.mf && got.ip.offset == 0);
}
