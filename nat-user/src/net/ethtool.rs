//! What a device's driver does to packets before and after XDP sees them: offloads, by ethtool's ioctl.
//!
//! Offloads are read by name, as `ethtool -k` prints them, so that new ones need no new kernel interface.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// The driver and the offloads of one interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ethtool {
    /// The driver's name, as `ethtool -i` shows it ("veth", "ixgbe"); empty if it gives none.
    pub driver: String,
    /// Active features by the kernel's name ("rx-gro", "tx-checksum-ip-generic"), true if on.
    pub features: BTreeMap<String, bool>,
}

impl Ethtool {
    /// Asks about an interface of the calling thread's network namespace.
    ///
    /// # Errors
    /// ENODEV for an unknown name, EOPNOTSUPP where a device has no such interface.
    pub fn gather(interface: &str) -> io::Result<Self> {
        let socket = Socket::open(interface)?;
        let driver = match socket.driver() {
            Ok(driver) => driver,
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => String::new(),
            Err(error) => return Err(error),
        };
        Ok(Self {
            driver,
            features: socket.features()?,
        })
    }

    /// Whether a feature is on; None where the kernel does not know it.
    pub fn feature(&self, name: &str) -> Option<bool> {
        self.features.get(name).copied()
    }

    fn on(&self, name: &str) -> bool {
        self.feature(name) == Some(true)
    }

    /// Received checksums are verified by the device.
    pub fn rx_checksum(&self) -> bool {
        self.on("rx-checksum")
    }

    /// Sent IPv4 packets may leave the stack with a partial checksum, for the device to complete.
    pub fn tx_checksum(&self) -> bool {
        self.on("tx-checksum-ip-generic") || self.on("tx-checksum-ipv4")
    }

    pub fn tso(&self) -> bool {
        self.on("tx-tcp-segmentation")
    }

    pub fn gso(&self) -> bool {
        self.on("tx-generic-segmentation")
    }

    pub fn gro(&self) -> bool {
        self.on("rx-gro")
    }

    /// Receive coalescing in hardware that later hops cannot undo.
    pub fn lro(&self) -> bool {
        self.on("rx-lro")
    }

    pub fn gro_hw(&self) -> bool {
        self.on("rx-gro-hw")
    }

    /// 802.1Q tags are taken out of received frames before XDP sees them.
    pub fn rxvlan(&self) -> bool {
        self.on("rx-vlan-hw-parse")
    }

    /// 802.1Q tags of sent packets travel beside the frame.
    pub fn txvlan(&self) -> bool {
        self.on("tx-vlan-hw-insert")
    }
}

// linux/ethtool.h
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETH_SS_FEATURES: u32 = 4;
const ETH_GSTRING_LEN: usize = 32;
/// struct ethtool_drvinfo: cmd, driver[32], version[32], fw_version[32], bus_info[32], erom_version[32], 12 + 5 words.
const DRVINFO_LEN: usize = 196;

struct Socket {
    fd: OwnedFd,
    name: [libc::c_char; libc::IFNAMSIZ],
}

impl Socket {
    fn open(interface: &str) -> io::Result<Self> {
        let mut name = [0; libc::IFNAMSIZ];
        if interface.len() >= name.len() {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        for (to, from) in name.iter_mut().zip(interface.bytes()) {
            *to = from as libc::c_char;
        }
        // SAFETY: plain system call; the descriptor is ours alone.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just opened.
        Ok(Self {
            fd: unsafe { OwnedFd::from_raw_fd(fd) },
            name,
        })
    }

    fn driver(&self) -> io::Result<String> {
        let mut info = Buffer::new(DRVINFO_LEN);
        info.set(0, ETHTOOL_GDRVINFO);
        self.call(&mut info)?;
        Ok(text(&info.bytes()[4..4 + 32]))
    }

    fn features(&self) -> io::Result<BTreeMap<String, bool>> {
        let count = self.feature_count()?;
        let mut names = Buffer::new(12 + count * ETH_GSTRING_LEN);
        names.set(0, ETHTOOL_GSTRINGS);
        names.set(1, ETH_SS_FEATURES);
        names.set(2, count as u32);
        self.call(&mut names)?;

        // Per 32 features four words: available, requested, active, never_changed.
        let blocks = count.div_ceil(32);
        let mut bits = Buffer::new(8 + blocks * 16);
        bits.set(0, ETHTOOL_GFEATURES);
        bits.set(1, blocks as u32);
        self.call(&mut bits)?;

        let names = names.bytes()[12..]
            .as_chunks::<ETH_GSTRING_LEN>()
            .0
            .iter()
            .take(count)
            .map(|name| text(name));
        let active = |i: usize| bits.get(2 + i / 32 * 4 + 2) >> (i % 32) & 1 == 1;
        Ok(names
            .enumerate()
            .filter(|(_, n)| !n.is_empty())
            .map(|(i, n)| (n, active(i)))
            .collect())
    }

    fn feature_count(&self) -> io::Result<usize> {
        let mut info = Buffer::new(20);
        info.set(0, ETHTOOL_GSSET_INFO);
        info.set(2, 1 << ETH_SS_FEATURES);
        self.call(&mut info)?;
        Ok(info.get(4) as usize)
    }

    fn call(&self, buffer: &mut Buffer) -> io::Result<()> {
        // SAFETY: an all-zero ifreq is valid.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        request.ifr_name = self.name;
        request.ifr_ifru.ifru_data = buffer.0.as_mut_ptr().cast();
        // SAFETY: SIOCETHTOOL reads the command in the first word of ifru_data; every caller above has sized the
        // buffer by the structure that belongs to its command.
        let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::SIOCETHTOOL as _, &mut request) };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }
}

/// Words, so that the kernel's structures are aligned.
struct Buffer(Vec<u64>);

impl Buffer {
    fn new(bytes: usize) -> Self {
        Self(vec![0; bytes.div_ceil(8)])
    }

    fn set(&mut self, word: usize, value: u32) {
        let at = &mut self.bytes_mut()[word * 4..word * 4 + 4];
        at.copy_from_slice(&value.to_ne_bytes());
    }

    fn get(&self, word: usize) -> u32 {
        let at = &self.bytes()[word * 4..word * 4 + 4];
        u32::from_ne_bytes([at[0], at[1], at[2], at[3]])
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: any u64 is eight initialised bytes.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * 8) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and every bit pattern is a u64.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * 8) }
    }
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::testns::TestNs;

    #[test]
    fn follows_what_ethtool_sets() {
        let Some(ns) = TestNs::new() else { return };
        ns.add_d0();
        let look = || ns.enter(|| Ethtool::gather("d0").unwrap());
        let before = look();
        assert_eq!(before.driver, "veth");
        assert!(before.tx_checksum() && before.tso() && before.gso() && before.rx_checksum());
        assert!(!before.lro() && !before.gro() && !before.gro_hw(), "{before:?}");
        assert_eq!(before.feature("no-such-feature"), None);

        ns.run("ethtool -K d0 tx off gro on gso off rx off");
        let after = look();
        assert!(!after.tx_checksum() && !after.tso() && !after.gso() && !after.rx_checksum());
        assert!(after.gro());
    }

    #[test]
    fn unknown_interface() {
        for name in ["no-such-if0", "a-name-that-is-much-too-long", ""] {
            let error = Ethtool::gather(name).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENODEV), "{name}: {error}");
        }
    }
}
