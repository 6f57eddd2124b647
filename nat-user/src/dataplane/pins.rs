//! The directory of pinned maps and links: one subdirectory for each schema.

use std::{
    fs::{self, File, TryLockError},
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya::programs::links::PinnedLink;
use nat_common::maps::SCHEMA;

use super::object::MAPS;

const LINK: &str = "link_";

/// The pin directory, held by this process: no second daemon works on the same pins.
#[derive(Debug)]
pub struct Pins {
    root: PathBuf,
    _lock: File,
}

impl Pins {
    /// Takes the directory, which is made if it is missing.
    ///
    /// # Errors
    /// If another daemon has it, or if it holds pins of another schema.
    pub fn open(root: &Path) -> Result<Self> {
        check(root)?;
        let shown = root.display();
        fs::create_dir_all(root).with_context(|| {
            format!("cannot create {shown} for the pins; is a bpffs mounted there (mount -t bpf bpf /sys/fs/bpf)?")
        })?;
        let lock = lock(root)?;
        let pins = Self {
            root: root.into(),
            _lock: lock,
        };
        let dir = pins.dir();
        if !dir.exists() {
            fs::create_dir(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        Ok(pins)
    }

    /// Where the pins of this schema are.
    pub fn dir(&self) -> PathBuf {
        current(&self.root)
    }

    /// The pin of the link of a device.
    pub fn link(&self, ifindex: u32) -> PathBuf {
        self.dir().join(format!("{LINK}{ifindex}"))
    }

    /// The pinned links: interface index and path.
    pub fn links(&self) -> Vec<(u32, PathBuf)> {
        links(&self.dir())
    }

    /// Removes everything, links first.
    pub fn remove(&self) -> Result<Removed> {
        remove(&self.root)
    }
}

/// The directory of this schema below `root`.
pub fn current(root: &Path) -> PathBuf {
    root.join(format!("v{SCHEMA}"))
}

/// Whether everything below `root` belongs to this version of sipnat.
pub fn check(root: &Path) -> Result<()> {
    let wanted = format!("v{SCHEMA}");
    for name in names(root)? {
        if name != wanted {
            bail!(
                "{} holds pins of another sipnat ({name}; this one's schema is {wanted}); end that one's data path with \
                 `sipnat detach --pin-dir {}`, which ends all bindings, or choose another --pin-dir",
                root.display(),
                root.display()
            );
        }
    }
    for name in names(&root.join(&wanted))? {
        if !MAPS.contains(&name.as_str()) && !name.starts_with(LINK) {
            bail!(
                "{}/{wanted} holds {name}, which is no pin of this sipnat; remove all with `sipnat detach --pin-dir {}`",
                root.display(),
                root.display()
            );
        }
    }
    Ok(())
}

/// Program ids of the pinned links.
pub fn program_ids(root: &Path) -> Vec<u32> {
    links(&current(root))
        .into_iter()
        .filter_map(|(_, path)| {
            let link = aya::programs::links::FdLink::from(PinnedLink::from_pin(path).ok()?);
            Some(link.info().ok()?.program_id())
        })
        .collect()
}

/// What [`detach`] took away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Links, that is devices that the program is no longer attached to.
    pub links: usize,
    /// Maps.
    pub maps: usize,
}

/// Removes the pins of every schema, with no daemon running over them.
pub fn detach(root: &Path) -> Result<Removed> {
    if !root.exists() {
        return Ok(Removed::default());
    }
    let _lock = lock(root)?;
    remove(root)
}

fn remove(root: &Path) -> Result<Removed> {
    let mut removed = Removed::default();
    let versions: Vec<PathBuf> = names(root)?.into_iter().map(|name| root.join(name)).collect();
    // Without its link a program is gone; without its maps it would go on in the dark.
    for (_, path) in versions.iter().flat_map(|version| links(version)) {
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        removed.links += 1;
    }
    for version in versions {
        let what = || format!("cannot remove {}", version.display());
        if version.is_dir() {
            removed.maps += names(&version)?.len();
            fs::remove_dir_all(&version).with_context(what)?;
        } else {
            fs::remove_file(&version).with_context(what)?;
            removed.maps += 1;
        }
    }
    match fs::remove_dir(root) {
        // The bpffs itself is mounted there; that is not ours.
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
        result => result.with_context(|| format!("cannot remove {}", root.display()))?,
    }
    Ok(removed)
}

fn links(version: &Path) -> Vec<(u32, PathBuf)> {
    let index = |name: String| {
        let ifindex = name.strip_prefix(LINK)?.parse().ok()?;
        Some((ifindex, version.join(name)))
    };
    names(version)
        .unwrap_or_default()
        .into_iter()
        .filter_map(index)
        .collect()
}

/// Sorted names in a directory; none if it does not exist.
fn names(dir: &Path) -> Result<Vec<String>> {
    let read = || format!("cannot read {}", dir.display());
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error).with_context(read),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.with_context(read)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn lock(root: &Path) -> Result<File> {
    let shown = root.display();
    let file = File::open(root).with_context(|| format!("cannot open {shown}"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another sipnat works on the pins in {shown}; stop it, ask it with `sipnat detach --socket ITS_SOCKET`, or \
             choose another --pin-dir"
        ),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {shown}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> PathBuf {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        std::env::temp_dir().join(format!("sipnat-pins-{}-{number}", std::process::id()))
    }

    #[test]
    fn one_daemon_at_a_time_and_everything_goes() {
        let root = place();
        assert_eq!(detach(&root).unwrap(), Removed::default());
        let pins = Pins::open(&root).unwrap();
        let second = Pins::open(&root).unwrap_err().to_string();
        assert!(second.contains("another sipnat works"), "{second}");
        assert!(detach(&root).unwrap_err().to_string().contains("another sipnat works"));
        fs::write(pins.dir().join("SLOTS"), "").unwrap();
        fs::write(pins.link(7), "").unwrap();
        assert_eq!(pins.links(), [(7, pins.link(7))]);
        check(&root).unwrap();
        drop(pins);
        assert_eq!(detach(&root).unwrap(), Removed { links: 1, maps: 1 });
        assert!(!root.exists());
    }

    #[test]
    fn pins_of_others_are_refused_with_the_remedy() {
        let root = place();
        let dir = current(&root);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("UNHEARD_OF"), "").unwrap();
        let error = Pins::open(&root).unwrap_err().to_string();
        assert!(
            error.contains("UNHEARD_OF") && error.contains("sipnat detach"),
            "{error}"
        );
        fs::remove_file(dir.join("UNHEARD_OF")).unwrap();
        fs::create_dir(root.join("v0")).unwrap();
        let error = Pins::open(&root).unwrap_err().to_string();
        assert!(error.contains("v0") && error.contains("sipnat detach"), "{error}");
        assert_eq!(detach(&root).unwrap(), Removed::default());
        assert!(!root.exists());
    }
}
