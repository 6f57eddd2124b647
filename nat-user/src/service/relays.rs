//! The media relay on the control socket.

use std::{net::SocketAddrV4, ops::ControlFlow, time::Duration};

use nat_common::flow::Endpoint;

use crate::{
    control::{Each, RelayPlan, ServiceError},
    daemon::state::State,
    records::RelayRecord,
    relays::{self, CLASS_RTP, Gate, LegView, OpenedSide, Peer, Side, Stream},
};

/// RTP clock rate of a relay that is opened by hand: that of G.711.
const CLOCK_RATE: u32 = 8000;

/// See [`Service::relays`](crate::control::Service::relays).
pub fn list(state: &State, call: Option<u64>, each: Each<RelayRecord>) {
    // Tables are read without a lock, so the reader may take its time.
    let views = relays::views(&state.kernel.tables).filter(|view| call.is_none_or(|call| call == view.call));
    for view in views {
        if let ControlFlow::Break(()) = each(record(state, &view)) {
            return;
        }
    }
}

/// See [`Service::open_relay`](crate::control::Service::open_relay).
pub fn open(state: &State, plan: &RelayPlan) -> Result<Vec<RelayRecord>, ServiceError> {
    let side = |n: usize| {
        let rtp = plan.fallbacks[n].map(endpoint);
        Side {
            address: 0,
            peer: Peer {
                gates: vec![Gate::host(plan.gates[n].into())],
                rtp,
                rtcp: rtp.map(|rtp| Endpoint::new(rtp.addr, rtp.port.wrapping_add(1))),
            },
        }
    };
    let stream = Stream {
        call: plan.call,
        number: 0,
        pair: plan.pair,
        classes: CLASS_RTP,
        clock_rate: CLOCK_RATE,
        dscp: None,
        follow: true,
        sides: [side(0), side(1)],
    };
    let opened = state
        .relays(|relays, at| relays.open(at, &stream))
        .map_err(anyhow::Error::from)?;
    Ok(opened
        .iter()
        .flat_map(OpenedSide::legs)
        .filter_map(|leg| relays::find(&state.kernel.tables, leg.id))
        .map(|view| record(state, &view))
        .collect())
}

/// See [`Service::close_relay`](crate::control::Service::close_relay).
pub fn close(state: &State, call: u64) -> Result<String, ServiceError> {
    match state.relays(|relays, at| relays.close_call(at, call)) {
        0 => Err(ServiceError::NotFound(format!("call {call} has no relay"))),
        legs => Ok(format!("closed {legs} legs of call {call}")),
    }
}

fn endpoint(of: SocketAddrV4) -> Endpoint {
    Endpoint::new((*of.ip()).into(), of.port())
}

fn shown(of: Endpoint) -> SocketAddrV4 {
    SocketAddrV4::new(of.addr.into(), of.port)
}

fn record(state: &State, view: &LegView) -> RelayRecord {
    let clock = &state.kernel.clock;
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
        jitter_us: (view.clock_rate != 0).then(|| u64::from(quality.jitter) * 1_000_000 / u64::from(view.clock_rate)),
        round_trip_us: view
            .round_trip
            .map(|time| Duration::from_secs(u64::from(time)).as_micros() as u64 >> 16),
        moves: view.moves,
        refused: view
            .refused
            .iter()
            .map(|(reason, count)| (reason.name().to_owned(), *count))
            .collect(),
    }
}
