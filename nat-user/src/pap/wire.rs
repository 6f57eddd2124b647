//! PCP messages (RFC 6887 sections 7, 11.1, 12.1, 13; RFC 7220).

use std::net::{Ipv4Addr, Ipv6Addr};

/// The version that this is.
pub const VERSION: u8 = 2;
/// No message is longer, in octets.
pub const MAX_LEN: usize = 1100;
/// Octets of the common header.
pub const HEADER: usize = 24;
/// Octets that belong to MAP.
const MAP: usize = 36;
/// Octets that belong to PEER.
const PEER: usize = 56;
/// In the second octet: the message is a response.
const RESPONSE: u8 = 0x80;
/// Option codes from here on need not be understood.
const OPTIONAL: u8 = 0x80;
/// A DESCRIPTION is no longer than so many octets (RFC 7220 section 3).
const MAX_DESCRIPTION: usize = 1016;

/// IP protocol numbers that have ports here.
pub const TCP: u8 = 6;
/// See [`TCP`].
pub const UDP: u8 = 17;

/// What came of a request (RFC 6887 section 7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    Success = 0,
    UnsuppVersion = 1,
    NotAuthorized = 2,
    MalformedRequest = 3,
    UnsuppOpcode = 4,
    UnsuppOption = 5,
    MalformedOption = 6,
    NetworkFailure = 7,
    NoResources = 8,
    UnsuppProtocol = 9,
    UserExQuota = 10,
    CannotProvideExternal = 11,
    AddressMismatch = 12,
    ExcessiveRemotePeers = 13,
}

impl Code {
    /// For how many seconds a client may expect the same answer, where nothing else says so (RFC 6887 section 7.4).
    pub fn lifetime(self) -> u32 {
        match self {
            Code::Success => 0,
            Code::NetworkFailure | Code::NoResources | Code::UserExQuota | Code::CannotProvideExternal => 30,
            _ => 30 * 60,
        }
    }
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Announce,
    Map(Map),
    Peer(Map, Remote),
}

/// What MAP and PEER have in common (RFC 6887 figures 9 and 11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    pub nonce: Nonce,
    /// IP protocol number; 0: all.
    pub protocol: u8,
    /// 0: all.
    pub internal_port: u16,
    /// What the client would like, and in a response what it gets. 0: any.
    pub external_port: u16,
    /// Likewise; all zeros of its family: any.
    pub external: Ipv6Addr,
}

/// By which a client shows that a mapping is its own.
pub type Nonce = [u8; 12];

/// The other end of a PEER request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remote {
    pub port: u16,
    pub address: Ipv6Addr,
}

/// The options of a request that are understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options<'a> {
    /// THIRD_PARTY: whom the mapping is for (RFC 6887 section 13.1).
    pub third_party: Option<Ipv6Addr>,
    /// PREFER_FAILURE (RFC 6887 section 13.2).
    pub prefer_failure: bool,
    /// DESCRIPTION (RFC 7220).
    pub description: Option<&'a str>,
    /// Mandatory ones that are not understood.
    unknown: bool,
}

/// A request that could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    bytes: &'a [u8],
    /// Seconds; 0 deletes.
    pub lifetime: u32,
    /// What the client thinks its address is.
    pub client: Ipv6Addr,
    pub operation: Operation,
    pub options: Options<'a>,
}

/// Why a datagram is no request that could be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// It gets no answer (RFC 6887 section 8.2).
    Silence,
    /// It gets this one.
    Answer(Code),
}

use Unread::{Answer, Silence};

/// Reads a request of version 2, in the order of RFC 6887 section 8.2. `source` is where it comes from.
pub fn read(bytes: &[u8], source: Ipv4Addr) -> Result<Request<'_>, Unread> {
    let &[version, opcode, ..] = bytes else {
        return Err(Silence);
    };
    if opcode & RESPONSE != 0 {
        return Err(Silence);
    }
    if version != VERSION {
        return Err(Answer(Code::UnsuppVersion));
    }
    if bytes.len() < HEADER {
        return Err(Silence);
    }
    if bytes.len() > MAX_LEN || !bytes.len().is_multiple_of(4) {
        return Err(Answer(Code::MalformedRequest));
    }
    let own = match opcode {
        0 => 0,
        1 => MAP,
        2 => PEER,
        _ => return Err(Answer(Code::UnsuppOpcode)),
    };
    let body = bytes[HEADER..].get(..own).ok_or(Answer(Code::MalformedRequest))?;
    let client = address(bytes, 8);
    if client != source.to_ipv6_mapped() {
        return Err(Answer(Code::AddressMismatch));
    }
    let operation = match opcode {
        0 => Operation::Announce,
        1 => Operation::Map(map(body)),
        _ => Operation::Peer(
            map(body),
            Remote {
                port: number(body, 36),
                address: address(body, 40),
            },
        ),
    };
    let options = options(&bytes[HEADER + own..], opcode)?;
    let request = Request {
        bytes,
        lifetime: u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        client,
        operation,
        options,
    };
    request.makes_sense()?;
    Ok(request)
}

impl Request<'_> {
    /// Where the parts fit one another (RFC 6887 sections 11.3, 13.1 and 13.2).
    fn makes_sense(&self) -> Result<(), Unread> {
        let options = &self.options;
        if options.third_party == Some(self.client) {
            return Err(Answer(Code::MalformedRequest));
        }
        if options.prefer_failure {
            let Operation::Map(map) = self.operation else {
                return Err(Answer(Code::MalformedOption));
            };
            if self.lifetime == 0 || map.external_port == 0 {
                return Err(Answer(Code::MalformedOption));
            }
        }
        match options.unknown {
            true => Err(Answer(Code::UnsuppOption)),
            false => Ok(()),
        }
    }
}

fn map(body: &[u8]) -> Map {
    let mut nonce = [0; 12];
    nonce.copy_from_slice(&body[..12]);
    Map {
        nonce,
        protocol: body[12],
        internal_port: number(body, 16),
        external_port: number(body, 18),
        external: address(body, 20),
    }
}

/// Reads options up to the end. A structure that makes no sense is MALFORMED_OPTION (RFC 6887 section 7.3).
fn options(mut rest: &[u8], opcode: u8) -> Result<Options<'_>, Unread> {
    const MALFORMED: Unread = Answer(Code::MalformedOption);
    let mut options = Options::default();
    while !rest.is_empty() {
        let (header, data) = rest.split_at_checked(4).ok_or(MALFORMED)?;
        let len = usize::from(number(header, 2));
        let padded = len.next_multiple_of(4);
        if padded > data.len() {
            return Err(MALFORMED);
        }
        let value = &data[..len];
        rest = &data[padded..];
        match (header[0], opcode) {
            (1, 1 | 2) => {
                if len != 16 || options.third_party.replace(address(value, 0)).is_some() {
                    return Err(MALFORMED);
                }
            }
            (2, 1) => {
                if len != 0 || std::mem::replace(&mut options.prefer_failure, true) {
                    return Err(MALFORMED);
                }
            }
            // Valid for MAP alone.
            (2, _) => return Err(MALFORMED),
            (128, 1 | 2) => {
                if let Ok(text) = std::str::from_utf8(value)
                    && len <= MAX_DESCRIPTION
                    && options.description.is_none()
                {
                    options.description = Some(text);
                }
            }
            (code, _) => options.unknown |= code < OPTIONAL,
        }
    }
    Ok(options)
}

fn number(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn address(bytes: &[u8], at: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&bytes[at..at + 16]);
    octets.into()
}

/// What a success says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Seconds.
    pub lifetime: u32,
    /// The external endpoint; of no concern for ANNOUNCE.
    pub external: (Ipv4Addr, u16),
}

/// The answer to a request that was carried out (RFC 6887 section 8.2). `epoch`: seconds.
pub fn success(request: &Request<'_>, granted: &Granted, epoch: u32) -> Vec<u8> {
    let own = match request.operation {
        Operation::Announce => 0,
        Operation::Map(_) => MAP,
        Operation::Peer(..) => PEER,
    };
    let mut answer = request.bytes[..HEADER + own].to_vec();
    answer[1] |= RESPONSE;
    head(&mut answer, Code::Success, granted.lifetime, epoch);
    answer[12..HEADER].fill(0);
    if own != 0 {
        let body = &mut answer[HEADER..];
        body[13..16].fill(0);
        body[18..20].copy_from_slice(&granted.external.1.to_be_bytes());
        body[20..36].copy_from_slice(&granted.external.0.to_ipv6_mapped().octets());
    }
    let options = &request.options;
    if let Some(address) = options.third_party {
        option(&mut answer, 1, &address.octets());
    }
    if options.prefer_failure {
        option(&mut answer, 2, &[]);
    }
    if let Some(text) = options.description {
        option(&mut answer, 128, text.as_bytes());
    }
    answer
}

fn option(answer: &mut Vec<u8>, code: u8, value: &[u8]) {
    answer.extend([code, 0]);
    answer.extend((value.len() as u16).to_be_bytes());
    answer.extend(value);
    answer.resize(answer.len().next_multiple_of(4), 0);
}

/// The answer to one that was not: a copy of it with a code (RFC 6887 section 8.2). `lifetime`: seconds for which it will be the same.
pub fn failure(request: &[u8], code: Code, lifetime: u32, epoch: u32) -> Vec<u8> {
    let mut answer = request[..request.len().min(MAX_LEN)].to_vec();
    answer.resize(answer.len().next_multiple_of(4).max(HEADER), 0);
    answer[0] = VERSION;
    answer[1] |= RESPONSE;
    // What could be parsed has zeros where the rest of the client's address was; the others keep it.
    let parsed = !matches!(
        code,
        Code::UnsuppVersion | Code::MalformedRequest | Code::UnsuppOpcode | Code::MalformedOption
    );
    if parsed {
        answer[12..HEADER].fill(0);
    }
    head(&mut answer, code, lifetime, epoch);
    answer
}

/// The unsolicited ANNOUNCE that tells clients to look at the epoch (RFC 6887 section 14.1.3).
pub fn announcement(epoch: u32) -> [u8; HEADER] {
    let mut message = [0; HEADER];
    message[0] = VERSION;
    message[1] = RESPONSE;
    head(&mut message, Code::Success, 0, epoch);
    message
}

/// The unsolicited answer that tells a client where its mapping is now (RFC 6887 section 14.2). `external`: `None` if it could not be had anywhere.
pub fn update(map: &Map, external: Option<(Ipv4Addr, u16)>, lifetime: u32, epoch: u32) -> Vec<u8> {
    let mut message = vec![0; HEADER + MAP];
    message[0] = VERSION;
    message[1] = RESPONSE | 1;
    let code = external.map_or(Code::NoResources, |_| Code::Success);
    head(&mut message, code, lifetime, epoch);
    let (address, port) = external.map_or((map.external, map.external_port), |(address, port)| {
        (address.to_ipv6_mapped(), port)
    });
    let body = &mut message[HEADER..];
    body[..12].copy_from_slice(&map.nonce);
    body[12] = map.protocol;
    body[16..18].copy_from_slice(&map.internal_port.to_be_bytes());
    body[18..20].copy_from_slice(&port.to_be_bytes());
    body[20..36].copy_from_slice(&address.octets());
    message
}

/// What the fuzzer runs: any bytes from the host 192.168.1.10.
pub fn target(bytes: &[u8]) {
    let valid = |answer: &[u8]| {
        assert!(answer.len() >= HEADER && answer.len() <= MAX_LEN && answer.len().is_multiple_of(4));
        assert!(answer[0] == VERSION && answer[1] & RESPONSE != 0);
    };
    match read(bytes, Ipv4Addr::new(192, 168, 1, 10)) {
        Ok(request) => {
            let granted = Granted {
                lifetime: 120,
                external: (Ipv4Addr::new(203, 0, 113, 1), 40_000),
            };
            let answer = success(&request, &granted, 1);
            valid(&answer);
            assert!(answer.len() <= bytes.len(), "more than the client has room for");
        }
        Err(Silence) => {}
        Err(Answer(code)) => valid(&failure(bytes, code, code.lifetime(), 1)),
    }
}

/// Something for the fuzzer to begin with: MAP with every option, PEER, ANNOUNCE.
pub fn seeds() -> Vec<Vec<u8>> {
    let client = Ipv4Addr::new(192, 168, 1, 10).to_ipv6_mapped().octets();
    let message = |opcode: u8, rest: &[u8]| [&[2, opcode, 0, 0, 0, 0, 14, 16][..], &client, rest].concat();
    let map = [&b"nonce of one\x11\0\0\0\x13\xc4\x9c\x40"[..], &client].concat();
    let options = [&[2, 0, 0, 0, 128, 0, 0, 5][..], b"phone\0\0\0", &[1, 0, 0, 16], &client].concat();
    vec![
        message(0, &[]),
        message(1, &[&map[..], &options].concat()),
        message(2, &[&map[..], &[1, 187, 0, 0], &client].concat()),
    ]
}

fn head(answer: &mut [u8], code: Code, lifetime: u32, epoch: u32) {
    answer[2] = 0;
    answer[3] = code as u8;
    answer[4..8].copy_from_slice(&lifetime.to_be_bytes());
    answer[8..12].copy_from_slice(&epoch.to_be_bytes());
}
