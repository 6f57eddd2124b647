//! What the preflight looks at: one reading of the machine, without an opinion.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::net::{Address, Ethtool, Interface, Kind, Net, NetError, OwnPorts, XdpFeatures};

use super::PreflightInput;

/// The machine as it is. None and absence mean "could not be found out", which is never held against it.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub euid: u32,
    /// Effective capabilities of this thread, one bit each (linux/capability.h).
    pub capabilities: u64,
    /// As `uname -r` says it.
    pub kernel_release: String,
    /// net.core.bpf_jit_enable; not visible in a network namespace other than the first.
    pub bpf_jit: Option<u32>,
    pub pin_dir: Option<PinDir>,
    /// What can still be allocated, in bytes: MemAvailable of /proc/meminfo, or less where a control group (a
    /// systemd unit's MemoryMax) limits this process; BPF maps are charged to it.
    pub mem_available: Option<u64>,
    pub interfaces: Vec<Interface>,
    pub addresses: Vec<Address>,
    /// More about the interfaces that the configuration names, their VLAN uppers and their veth peers, by ifindex.
    pub devices: BTreeMap<u32, Device>,
    /// Names of the XDP programs that are attached to them, by program id.
    pub prog_names: BTreeMap<u32, String>,
    pub own_ports: Option<OwnPorts>,
}

/// More about one interface.
#[derive(Debug, Clone, Default)]
pub struct Device {
    pub ethtool: Option<Ethtool>,
    pub xdp: Option<XdpFeatures>,
    /// net.ipv4.conf.IF.forwarding
    pub forwarding: Option<bool>,
    /// The effective net.ipv4.conf.*.rp_filter: the larger of "all" and the interface's own.
    pub rp_filter: Option<u8>,
}

/// The nearest existing directory on the way to the pin directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinDir {
    pub existing: PathBuf,
    /// The magic number of its file system (statfs).
    pub fs_magic: u64,
}

impl Facts {
    /// Reads everything from the network namespace of the calling thread; changes nothing.
    ///
    /// # Errors
    /// If netlink does not answer.
    pub async fn gather(input: &PreflightInput) -> Result<Self, NetError> {
        let net = Net::open()?;
        let interfaces = net.interfaces().await?;
        let addresses = net.addresses().await?;
        let devices = devices_of_interest(input, &interfaces);
        let attached = interfaces.iter().filter_map(|i| Some(i.xdp?.prog_id)).collect();
        Ok(Self {
            // SAFETY: cannot fail.
            euid: unsafe { libc::geteuid() },
            capabilities: capabilities(),
            kernel_release: number_file("/proc/sys/kernel/osrelease").unwrap_or_default(),
            bpf_jit: number_file("/proc/sys/net/core/bpf_jit_enable"),
            pin_dir: pin_dir(&input.pin_dir),
            mem_available: mem_available().into_iter().chain(cgroup_rest()).min(),
            devices: devices.into_iter().map(|i| (i.index, device(i))).collect(),
            prog_names: prog_names(&attached),
            own_ports: OwnPorts::gather()
                .inspect_err(|error| tracing::debug!(%error, "own ports"))
                .ok(),
            interfaces,
            addresses,
        })
    }

    pub(super) fn by_name(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|i| i.name == name)
    }

    pub(super) fn by_index(&self, index: u32) -> Option<&Interface> {
        self.interfaces.iter().find(|i| i.index == index)
    }

    /// The VLAN interface `id` above `parent`.
    pub(super) fn vlan_upper(&self, parent: u32, id: u16) -> Option<&Interface> {
        self.interfaces.iter().find(|i| i.kind == Kind::Vlan { parent, id })
    }
}

fn devices_of_interest<'a>(input: &PreflightInput, interfaces: &'a [Interface]) -> Vec<&'a Interface> {
    let named = |i: &&Interface| {
        input
            .inside
            .iter()
            .chain(&input.outside)
            .any(|spec| spec.name == i.name)
    };
    let mut wanted: Vec<&Interface> = interfaces.iter().filter(named).collect();
    let uppers = |i: &&Interface| match i.kind {
        Kind::Vlan { parent, .. } => wanted.iter().any(|w| w.index == parent),
        _ => false,
    };
    let peers = |i: &&Interface| {
        let local = |w: &&Interface| w.link.filter(|l| l.netns.is_none()).map(|l| l.index);
        i.kind == Kind::Veth && wanted.iter().filter_map(local).any(|index| index == i.index)
    };
    let more: Vec<&Interface> = interfaces.iter().filter(|i| uppers(i) || peers(i)).collect();
    wanted.extend(more);
    wanted
}

fn device(interface: &Interface) -> Device {
    let conf = |interface: &str, key: &str| number_file::<u8>(&format!("/proc/sys/net/ipv4/conf/{interface}/{key}"));
    Device {
        ethtool: Ethtool::gather(&interface.name).ok(),
        xdp: XdpFeatures::gather(interface.index).ok().flatten(),
        forwarding: conf(&interface.name, "forwarding").map(|v| v != 0),
        rp_filter: conf("all", "rp_filter").max(conf(&interface.name, "rp_filter")),
    }
}

fn capabilities() -> u64 {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

fn pin_dir(path: &Path) -> Option<PinDir> {
    path.ancestors()
        .filter(|dir| !dir.as_os_str().is_empty())
        .find_map(|dir| {
            let c_path = CString::new(dir.as_os_str().as_bytes()).ok()?;
            // SAFETY: an all-zero statfs is valid, the path is a C string; the structure is read only on success.
            let (result, stat) = unsafe {
                let mut stat: libc::statfs = std::mem::zeroed();
                (libc::statfs(c_path.as_ptr(), &mut stat), stat)
            };
            // f_type is signed on some machines; the magic numbers have 32 bits.
            let fs_magic = u64::from(stat.f_type as u32);
            (result == 0).then(|| PinDir {
                existing: dir.to_owned(),
                fs_magic,
            })
        })
}

fn mem_available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The smallest rest of the memory limits of this process's control groups (version 2).
fn cgroup_rest() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let root = Path::new("/sys/fs/cgroup");
    let rest = |dir: &Path| {
        let value = |name: &str| number_file::<u64>(dir.join(name).to_str()?);
        Some(value("memory.max")?.saturating_sub(value("memory.current")?))
    };
    let own = root.join(path);
    own.ancestors()
        .take_while(|dir| dir.starts_with(root))
        .filter_map(rest)
        .min()
}

fn prog_names(ids: &BTreeSet<u32>) -> BTreeMap<u32, String> {
    if ids.is_empty() {
        return BTreeMap::new();
    }
    aya::programs::loaded_programs()
        .filter_map(Result::ok)
        .filter(|program| ids.contains(&program.id()))
        .map(|program| (program.id(), program.name_as_str().unwrap_or_default().to_owned()))
        .collect()
}

fn number_file<T: std::str::FromStr>(path: &str) -> Option<T> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
