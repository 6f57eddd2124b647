//! The programs on their devices: one pinned link for each, replaced without a gap.

use std::{fs, io, path::Path, time::Duration};

use anyhow::{Context as _, Error, Result, anyhow};
use aya::{
    Ebpf,
    programs::{
        ProgramError, Xdp, XdpMode,
        links::{FdLink, PinnedLink},
        xdp::XdpLink,
    },
    sys::SyscallError,
};

use super::{object, pins::Pins};
use crate::preflight::Mode;

/// A device and the program that it is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The device's index.
    pub ifindex: u32,
    /// Its name, for messages.
    pub name: String,
    /// `object::INSIDE`, `object::OUTSIDE` or `object::TRUNK`.
    pub program: &'static str,
    /// The mode that our link on it has, if it has one.
    pub attached: Option<Mode>,
}

/// Attaches the programs to the devices, and takes them from devices that are no longer among these. A link that is
/// there gets the new program; no packet sees a device without one. If one device fails, those that were attached in
/// this call are detached again; another call with what was wanted before puts everything back.
pub fn attach(ebpf: &mut Ebpf, pins: &Pins, wanted: &[Wanted], mode: Mode) -> Result<()> {
    let mut fresh = Vec::new();
    for device in wanted {
        let path = pins.link(device.ifindex);
        let result = one(ebpf, &path, device, mode);
        match result {
            Ok(true) => fresh.push(path),
            Ok(false) => {}
            Err(error) => {
                for path in fresh {
                    unpin(&path)?;
                }
                return Err(error);
            }
        }
    }
    for (ifindex, path) in pins.links() {
        if wanted.iter().all(|device| device.ifindex != ifindex) {
            unpin(&path)?;
            tracing::info!(ifindex, "detached from a device that is no longer configured");
        }
    }
    Ok(())
}

/// True if the link is new.
fn one(ebpf: &mut Ebpf, path: &Path, device: &Wanted, mode: Mode) -> Result<bool> {
    let program = object::program(ebpf, device.program)?;
    if path.exists() {
        let other_mode = device.attached.is_some_and(|attached| attached != mode);
        if !other_mode && replace(program, path, device)? {
            tracing::info!(device = %device.name, "replaced the program in its link");
            return Ok(false);
        }
        unpin(path)?;
    }
    fresh(program, path, device, mode)?;
    tracing::info!(device = %device.name, program = device.program, ?mode, "attached");
    Ok(true)
}

/// False if the link is dead, because its device has gone and come again.
fn replace(program: &mut Xdp, path: &Path, device: &Wanted) -> Result<bool> {
    let what = || format!("cannot replace the program on {}", device.name);
    let link = PinnedLink::from_pin(path).map_err(Error::from).with_context(what)?;
    let link = XdpLink::try_from(FdLink::from(link))
        .map_err(Error::from)
        .with_context(|| {
            format!(
                "{} is no pinned XDP link; remove it with `sipnat detach`",
                path.display()
            )
        })?;
    match program.attach_to_link(link) {
        Ok(id) => {
            // The pin holds the link; ours may go.
            drop(program.take_link(id)?);
            Ok(true)
        }
        Err(error) if os_error(&error) == Some(libc::ENOLINK) => Ok(false),
        Err(error) => Err(error).with_context(what),
    }
}

fn fresh(program: &mut Xdp, path: &Path, device: &Wanted, mode: Mode) -> Result<()> {
    let mode = match mode {
        Mode::Native => XdpMode::Driver,
        Mode::Generic => XdpMode::Skb,
    };
    // A link whose pin was just removed, here or by an attempt before, leaves its device a moment later.
    let mut patience = 100;
    let id = loop {
        match program.attach(device.ifindex, mode) {
            Ok(id) => break id,
            Err(error) if patience > 0 && os_error(&error) == Some(libc::EBUSY) => {
                patience -= 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => return Err(explain(error, device)),
        }
    };
    let link: FdLink = program
        .take_link(id)?
        .try_into()
        .map_err(|_| anyhow!("{} takes XDP programs, but not as links that outlive the daemon; it needs Linux 5.9 or later and a driver that accepts the program", device.name))?;
    link.pin(path)
        .map_err(Error::from)
        .with_context(|| format!("cannot pin the link of {} at {}", device.name, path.display()))?;
    Ok(())
}

fn unpin(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn explain(error: ProgramError, device: &Wanted) -> Error {
    let name = &device.name;
    match os_error(&error) {
        Some(libc::EBUSY | libc::EEXIST) => anyhow!(
            "{name} has someone else's XDP program, or a second sipnat is on it; `ip link show {name}` names the program; \
             stop what attached it, or end the other sipnat with `sipnat detach` and its --pin-dir or --socket"
        ),
        Some(libc::ERANGE) => anyhow!(
            "the driver of {name} refuses the program at this MTU; lower it (ip link set {name} mtu 3500), or run with --skb-mode"
        ),
        Some(libc::EOPNOTSUPP) => anyhow!("the driver of {name} has no native XDP; run with --skb-mode (slower)"),
        Some(libc::ENODEV) => anyhow!("{name} has disappeared; create it again and start once more"),
        _ => Error::new(error).context(format!("cannot attach to {name}")),
    }
}

fn os_error(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(SyscallError { io_error, .. }) => io_error.raw_os_error(),
        ProgramError::IOError(error) => error.raw_os_error(),
        _ => None,
    }
}

/// Each device once. One whose VLANs are on both sides gets the program that looks at the tag.
pub fn one_program_each(wanted: &[Wanted]) -> Vec<Wanted> {
    let mut unique: Vec<Wanted> = Vec::new();
    for device in wanted {
        match unique.iter_mut().find(|other| other.ifindex == device.ifindex) {
            None => unique.push(device.clone()),
            Some(other) if other.program == device.program => {}
            Some(other) => other.program = object::TRUNK,
        }
    }
    unique
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trunk_with_both_sides_gets_the_program_that_looks_at_the_tag() {
        let device = |ifindex, program| Wanted {
            ifindex,
            name: format!("if{ifindex}"),
            program,
            attached: None,
        };
        let (inside, outside, other) = (
            device(1, object::INSIDE),
            device(1, object::OUTSIDE),
            device(2, object::OUTSIDE),
        );
        assert_eq!(
            one_program_each(&[inside.clone(), inside.clone(), other.clone()]),
            [inside.clone(), other.clone()]
        );
        let trunk = device(1, object::TRUNK);
        assert_eq!(
            one_program_each(&[inside, other.clone(), outside.clone(), outside]),
            [trunk, other]
        );
    }
}
