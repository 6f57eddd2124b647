//! What a killed test leaves behind, and nothing else, is removed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::ns::{self, NETNS_DIR, PREFIX};
use crate::sipnat::{RUN_DIR, remove_place};

/// Removes what test processes that no longer exist have left: namespaces under our prefix, what still runs in them, and
/// the directories of their daemons. Returns what was removed. Whatever belongs to a running process, and everything
/// under other names, is not touched.
pub fn remove_stale() -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for name in stale_entries(NETNS_DIR)? {
        let path = Path::new(NETNS_DIR).join(&name);
        removed.extend(unless_gone(path, ns::remove(&name))?);
    }
    for name in stale_entries(RUN_DIR)? {
        let path = Path::new(RUN_DIR).join(&name);
        let result = remove_place(&path);
        removed.extend(unless_gone(path, result)?);
    }
    Ok(removed)
}

/// Two sweeps may meet: what the other one removed first is no error.
fn unless_gone(path: PathBuf, result: Result<()>) -> Result<Option<String>> {
    match result {
        Ok(()) => Ok(Some(path.display().to_string())),
        Err(_) if !path.exists() => Ok(None),
        Err(error) => Err(error),
    }
}

fn stale_entries(dir: &str) -> Result<Vec<String>> {
    if !Path::new(dir).is_dir() {
        return Ok(Vec::new());
    }
    let mut stale = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("list {dir}"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if owner(&name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            stale.push(name);
        }
    }
    Ok(stale)
}

/// The process that made something under this name, if it is one of our names.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split_once('-')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_names_have_owners() {
        assert_eq!(owner("snt123-4-h1"), Some(123));
        for foreign in ["snt", "sntx-1", "snt12", "sipnat-lab-h1", "router"] {
            assert_eq!(owner(foreign), None, "{foreign}");
        }
        let own = crate::ns::unique_prefix();
        assert_eq!(owner(&own), Some(std::process::id()));
    }
}
