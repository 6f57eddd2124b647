//! The media relay on the control socket.

use std::{net::SocketAddrV4, ops::ControlFlow};

use nat_common::flow::Endpoint;

use crate::{
    control::{Each, RelayPlan, ServiceError},
    daemon::state::State,
    media::mos::Codec,
    records::{RelayRecord, RelayTotals},
    relays::{self, CLASS_RTP, Gate, OpenedSide, Peer, RelayError, Side, Stream, record::record},
};

/// RTP clock rate of a relay that is opened by hand: that of G.711.
const CLOCK_RATE: u32 = 8000;

/// See [`Service::relays`](crate::control::Service::relays).
pub fn list(state: &State, call: Option<u64>, each: Each<RelayRecord>) {
    // Tables are read without a lock, so the reader may take its time.
    let views = relays::views(&state.kernel.tables).filter(|view| call.is_none_or(|call| call == view.call));
    for view in views {
        if let ControlFlow::Break(()) = each(record(&state.kernel.clock, &view)) {
            return;
        }
    }
}

/// See [`Service::relay_totals`](crate::control::Service::relay_totals). Nothing is opened or closed meanwhile, so that nothing is counted twice.
pub fn totals(state: &State) -> RelayTotals {
    state.relays(|relays, at| {
        let closed = *relays.closed();
        let mut totals = RelayTotals {
            seen: closed,
            closed,
            ..RelayTotals::default()
        };
        for view in relays::views(at.t) {
            totals.seen.add(&view);
            let place = match () {
                () if view.external.is_none() => 3,
                () if view.hold => 2,
                () => usize::from(view.peer.is_some()),
            };
            totals.legs[place] += 1;
        }
        totals
    })
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
        .relays(|relays, at| {
            let opened = relays.open(at, &stream)?;
            opened
                .iter()
                .try_for_each(|side| relays::carry(at, side.rtp.id, Codec::G711))?;
            Ok(opened)
        })
        .map_err(|error: RelayError| anyhow::Error::from(error))?;
    Ok(opened
        .iter()
        .flat_map(OpenedSide::legs)
        .filter_map(|leg| relays::find(&state.kernel.tables, leg.id))
        .map(|view| record(&state.kernel.clock, &view))
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
