//! What a driver can do with XDP, asked from the kernel's "netdev" generic netlink family (kernel ≥ 6.3).

use std::io;

use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};

/// The XDP capabilities of one interface (NETDEV_XDP_ACT_*).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XdpFeatures(pub u64);

impl XdpFeatures {
    /// Asks about an interface of the calling thread's network namespace.
    ///
    /// None where the kernel is older than 6.3 or does not know the interface.
    pub fn gather(ifindex: u32) -> io::Result<Option<Self>> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let name = attribute(CTRL_ATTR_FAMILY_NAME, b"netdev\0");
        let Some(reply) = ask(&socket, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, &name)? else {
            return Ok(None);
        };
        let Some(&[a, b]) = find(&reply, CTRL_ATTR_FAMILY_ID) else {
            return Ok(None);
        };
        let index = attribute(NETDEV_A_DEV_IFINDEX, &ifindex.to_ne_bytes());
        let Some(reply) = ask(&socket, u16::from_ne_bytes([a, b]), NETDEV_CMD_DEV_GET, &index)? else {
            return Ok(None);
        };
        let bits = find(&reply, NETDEV_A_DEV_XDP_FEATURES).and_then(|v| v.try_into().ok());
        Ok(bits.map(|bits| Self(u64::from_ne_bytes(bits))))
    }

    /// Programs run in the driver and can redirect what they receive.
    pub fn native(self) -> bool {
        self.0 & 0b11 == 0b11
    }

    /// Other programs can redirect to this interface. A network card may say so only once a program is attached;
    /// a veth says so if its peer polls its queue (GRO on, or an XDP program there).
    pub fn redirect_target(self) -> bool {
        self.0 & 1 << 2 != 0
    }

    /// Receives frames that do not fit one buffer (jumbo frames with `xdp.frags`).
    pub fn multi_buffer(self) -> bool {
        self.0 & 1 << 5 != 0
    }
}

// linux/netlink.h, linux/genetlink.h, linux/netdev.h
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
/// The netlink and the generic netlink header.
const HEADERS: usize = 20;

/// One request, one answer: its attributes, or None if the kernel does not know what was asked for.
fn ask(socket: &Socket, family: u16, command: u8, attributes: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut request = Vec::with_capacity(HEADERS + attributes.len());
    request.extend(((HEADERS + attributes.len()) as u32).to_ne_bytes());
    request.extend(family.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    request.extend([0; 8]);
    request.extend([command, 1, 0, 0]);
    request.extend(attributes);
    socket.send(&request, 0)?;

    let (reply, _) = socket.recv_from_full()?;
    let short = || io::Error::new(io::ErrorKind::InvalidData, "a short netlink answer");
    let kind = reply.get(4..6).ok_or_else(short)?;
    if kind == NLMSG_ERROR.to_ne_bytes() {
        let code = reply.get(16..20).and_then(|c| c.try_into().ok()).ok_or_else(short)?;
        return match -i32::from_ne_bytes(code) {
            libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP => Ok(None),
            errno => Err(io::Error::from_raw_os_error(errno)),
        };
    }
    Ok(Some(reply.get(HEADERS..).ok_or_else(short)?.to_vec()))
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend((4 + value.len() as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    while let Some(&[a, b, c, d]) = attributes.get(..4) {
        let (length, kind) = (u16::from_ne_bytes([a, b]).into(), u16::from_ne_bytes([c, d]));
        let value = attributes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(usize::next_multiple_of(length, 4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::testns::{TestNs, pair};

    fn index(ns: &TestNs, name: &str) -> u32 {
        let name = std::ffi::CString::new(name).unwrap();
        // SAFETY: a valid C string.
        ns.enter(|| unsafe { libc::if_nametoindex(name.as_ptr()) })
    }

    #[test]
    fn a_veth_is_a_target_once_its_peer_polls() {
        let Some((left, right)) = pair() else { return };
        let va = index(&left, "va");
        let Some(before) = left.enter(|| XdpFeatures::gather(va).unwrap()) else {
            eprintln!("skipped: this kernel has no netdev family");
            return;
        };
        assert!(before.native() && before.multi_buffer(), "{before:?}");
        assert!(!before.redirect_target(), "{before:?}");
        right.run("ethtool -K vb gro on");
        let after = left.enter(|| XdpFeatures::gather(va).unwrap()).unwrap();
        assert!(after.redirect_target(), "{after:?}");
    }

    #[test]
    fn bridges_have_none_and_unknown_interfaces_no_answer() {
        let Some(ns) = TestNs::new() else { return };
        ns.ip("link add br0 type bridge");
        let br0 = index(&ns, "br0");
        if let Some(features) = ns.enter(|| XdpFeatures::gather(br0).unwrap()) {
            assert!(!features.native());
        }
        assert_eq!(ns.enter(|| XdpFeatures::gather(4711).unwrap()), None);
    }

    #[test]
    fn finds_an_attribute_among_others_and_survives_nonsense() {
        let mut bytes = attribute(7, b"abc");
        bytes.extend(attribute(3, &5u64.to_ne_bytes()));
        assert_eq!(find(&bytes, 3), Some(&5u64.to_ne_bytes()[..]));
        assert_eq!(find(&bytes, 9), None);
        assert_eq!(find(&[0, 0, 3, 0], 3), None);
        assert_eq!(find(&bytes[..9], 3), None);
    }
}
