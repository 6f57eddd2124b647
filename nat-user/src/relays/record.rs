//! A leg as people see it.

use std::{net::SocketAddrV4, time::Duration};

use nat_common::{counters::Reason, flow::Endpoint};

use super::LegView;
use crate::{
    dataplane::clock::Clock,
    media::mos::{self, Mos, Seen},
    records::RelayRecord,
};

impl LegView {
    /// Packets of the peer that went on.
    pub fn relayed(&self) -> u64 {
        let stayed = self
            .refused
            .iter()
            .find(|(reason, _)| *reason == Reason::PeerNotLatched);
        self.packets
            .saturating_sub(stayed.map_or(0, |(_, count)| u64::from(*count)))
    }

    /// Interarrival jitter in microseconds (RFC 3550). `None`: the clock of the stream is not known.
    pub fn jitter_us(&self) -> Option<u64> {
        let clock = u64::from(self.clock_rate);
        (clock != 0).then(|| u64::from(self.quality.jitter) * 1_000_000 / clock)
    }

    /// Round-trip time between relay and peer in microseconds, if RTCP has told it.
    pub fn round_trip_us(&self) -> Option<u64> {
        let micros = |time| Duration::from_secs(u64::from(time)).as_micros() as u64 >> 16;
        self.round_trip.map(micros)
    }

    /// How the stream of the peer sounds here, if anything can be said of it.
    pub fn mos(&self) -> Option<Mos> {
        let ms = |us: Option<u64>| us.unwrap_or_default() as f64 / 1000.0;
        let seen = Seen {
            received: if self.quality.ssrc.is_some() {
                self.quality.received
            } else {
                0
            },
            lost: self.quality.lost,
            jitter_ms: ms(self.jitter_us()),
            round_trip_ms: ms(self.round_trip_us()),
        };
        mos::estimate(self.codec, &seen)
    }
}

/// The record of a leg.
pub fn record(clock: &Clock, view: &LegView) -> RelayRecord {
    let quality = &view.quality;
    RelayRecord {
        call: view.call,
        stream: view.tag.stream,
        side: view.tag.side,
        rtcp: view.tag.rtcp,
        leg: view.id.number,
        partner: view.partner,
        external: view.external.map(shown),
        peer: view.peer.map(shown),
        fallback: view.fallback.map(shown),
        hold: view.hold,
        created_s: clock.age(view.created).as_secs(),
        latched_s: view.latched.map(|when| clock.age(when).as_secs()),
        idle_s: clock.age(view.last).as_secs(),
        packets: view.packets,
        bytes: view.bytes,
        ssrc: quality.ssrc,
        ssrc_changes: quality.ssrc_changes,
        lost: quality.lost,
        late: quality.late,
        jitter_us: view.jitter_us(),
        round_trip_us: view.round_trip_us(),
        moves: view.moves,
        refused: view
            .refused
            .iter()
            .map(|(reason, count)| (reason.name().to_owned(), *count))
            .collect(),
        codec: view.codec.name().map(Into::into),
        mos: view.mos(),
        dscp: view.dscp,
    }
}

/// An endpoint of the data path, for people.
pub fn shown(of: Endpoint) -> SocketAddrV4 {
    SocketAddrV4::new(of.addr.into(), of.port)
}
