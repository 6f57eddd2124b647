//! The mappings that hosts asked for.

use std::{net::SocketAddrV4, ops::ControlFlow, time::SystemTime};

use anyhow::anyhow;

use super::Nat;
use crate::{
    control::{Each, ServiceError},
    daemon::pap::Handle,
    pap::mappings::Key,
    records::LeaseRecord,
    units::Proto,
};

fn handle(nat: &Nat) -> Result<&Handle, ServiceError> {
    nat.pap.as_ref().ok_or_else(|| {
        anyhow!("hosts cannot ask for ports here; write [pap] into the configuration and start again").into()
    })
}

/// See [`crate::control::Service::leases`].
pub fn list(nat: &Nat, each: Each<LeaseRecord>) -> Result<(), ServiceError> {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    for (key, mapping) in handle(nat)?.list()? {
        let record = LeaseRecord {
            proto: key.proto,
            inside: key.inside,
            external: mapping.external,
            by: if mapping.nonce.is_some() { "pcp" } else { "nat-pmp" }.into(),
            expires_s: mapping.left(now).into(),
            description: mapping.description,
        };
        if each(record) == ControlFlow::Break(()) {
            break;
        }
    }
    Ok(())
}

/// See [`crate::control::Service::revoke_lease`].
pub fn revoke(nat: &Nat, proto: Proto, inside: SocketAddrV4) -> Result<String, ServiceError> {
    match handle(nat)?.revoke(Key { inside, proto })? {
        Some(mapping) => Ok(format!("{proto} {} leads to {inside} no more", mapping.external)),
        None => Err(ServiceError::NotFound(format!(
            "there is no lease of {proto} {inside}; `sipnat leases` lists them"
        ))),
    }
}
