//! NAT-PMP, version 0 of the protocol (RFC 6886 section 3).

use std::net::Ipv4Addr;

use super::wire::{TCP, UDP};

/// Opcodes from here on are responses.
const RESPONSE: u8 = 0x80;

/// What came of a request (RFC 6886 section 3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Code {
    Success = 0,
    UnsupportedVersion = 1,
    NotAuthorized = 2,
    NetworkFailure = 3,
    OutOfResources = 4,
    UnsupportedOpcode = 5,
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// For the external address (section 3.2).
    Address,
    /// For a mapping, or with a lifetime of 0 for its end (sections 3.3 and 3.4).
    Map(Map),
    /// Of an opcode that there is none of.
    Unknown(u8),
}

/// What a mapping is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// IP protocol number.
    pub protocol: u8,
    /// 0 with a lifetime of 0: all.
    pub internal_port: u16,
    /// What the client would like; 0: any.
    pub external_port: u16,
    /// Seconds.
    pub lifetime: u32,
}

/// Reads a request of version 0. `None`: it gets no answer.
pub fn read(bytes: &[u8]) -> Option<Request> {
    let &[0, opcode, ref rest @ ..] = bytes else {
        return None;
    };
    let protocol = match opcode {
        0 => return Some(Request::Address),
        1 => UDP,
        2 => TCP,
        RESPONSE.. => return None,
        other => return Some(Request::Unknown(other)),
    };
    // Two reserved octets lead; a longer message is one of a later revision, whose additions are ignored (section 3.3).
    let &[_, _, i0, i1, e0, e1, l0, l1, l2, l3, ..] = rest else {
        return None;
    };
    Some(Request::Map(Map {
        protocol,
        internal_port: u16::from_be_bytes([i0, i1]),
        external_port: u16::from_be_bytes([e0, e1]),
        lifetime: u32::from_be_bytes([l0, l1, l2, l3]),
    }))
}

/// The answer about the external address; with any code but success it is all zeros.
pub fn address(code: Code, external: Ipv4Addr, epoch: u32) -> Vec<u8> {
    let mut answer = head(0, code, epoch);
    answer.extend(external.octets());
    answer
}

/// The answer about a mapping: what it is now. `lifetime`: seconds; 0 if there is none.
pub fn mapping(code: Code, map: &Map, external_port: u16, lifetime: u32, epoch: u32) -> Vec<u8> {
    let mut answer = head(if map.protocol == UDP { 1 } else { 2 }, code, epoch);
    answer.extend(map.internal_port.to_be_bytes());
    answer.extend(external_port.to_be_bytes());
    answer.extend(lifetime.to_be_bytes());
    answer
}

/// The answer to an opcode that there is none of: the request with the code in it (section 3.5).
pub fn unknown(request: &[u8], epoch: u32) -> Vec<u8> {
    let mut answer = head(request[1], Code::UnsupportedOpcode, epoch);
    answer.extend(request.iter().skip(answer.len()).take(super::wire::MAX_LEN));
    answer
}

fn head(opcode: u8, code: Code, epoch: u32) -> Vec<u8> {
    let mut answer = vec![0, opcode | RESPONSE];
    answer.extend((code as u16).to_be_bytes());
    answer.extend(epoch.to_be_bytes());
    answer
}
