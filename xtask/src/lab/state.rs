//! What `lab up` leaves for `lab down`: a file that names exactly what was made.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Where the state of labs is kept, until the next boot at most.
const DIRECTORY: &str = "/run/sipnat-lab";

/// A lab that is up.
#[derive(Debug, PartialEq, Eq)]
pub struct State {
    /// Its name.
    pub name: String,
    /// What translates: `sipnat` or `nftables`.
    pub nat: String,
    /// Its network namespaces.
    pub namespaces: Vec<String>,
    /// The process ids of what was started in them.
    pub pids: Vec<u32>,
}

/// The directory of a lab's daemon.
pub fn directory(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// All labs that are up.
pub fn all() -> Result<Vec<State>> {
    let Ok(entries) = fs::read_dir(DIRECTORY) else {
        return Ok(Vec::new());
    };
    let mut labs = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some(name) = name.strip_suffix(".json") {
            labs.extend(State::load(name)?);
        }
    }
    labs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(labs)
}

impl State {
    /// The lab of that name, if it is up.
    pub fn load(name: &str) -> Result<Option<Self>> {
        let path = file(name);
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let broken = || {
            format!(
                "{} is damaged; remove the namespaces sipnat-lab-{name}-* and the file by hand",
                path.display()
            )
        };
        let value = serde_json::from_str(&text).with_context(broken)?;
        Self::from_json(name, &value).with_context(broken).map(Some)
    }

    /// Writes it down.
    pub fn save(&self) -> Result<()> {
        let path = file(&self.name);
        fs::create_dir_all(DIRECTORY)
            .and_then(|()| fs::write(&path, self.to_json().to_string()))
            .with_context(|| format!("write {}", path.display()))
    }

    /// Forgets it.
    pub fn remove(&self) -> Result<()> {
        let path = file(&self.name);
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
    }

    fn to_json(&self) -> Value {
        json!({ "nat": self.nat, "namespaces": self.namespaces, "pids": self.pids })
    }

    fn from_json(name: &str, value: &Value) -> Option<Self> {
        let namespaces = value["namespaces"]
            .as_array()?
            .iter()
            .map(|item| Some(item.as_str()?.to_string()));
        let pids = value["pids"]
            .as_array()?
            .iter()
            .map(|item| item.as_u64()?.try_into().ok());
        Some(Self {
            name: name.into(),
            nat: value["nat"].as_str()?.into(),
            namespaces: namespaces.collect::<Option<_>>()?,
            pids: pids.collect::<Option<_>>()?,
        })
    }
}

fn file(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{name}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let state = State {
            name: "a".into(),
            nat: "sipnat".into(),
            namespaces: vec!["sipnat-lab-a-h1".into()],
            pids: vec![7],
        };
        assert_eq!(State::from_json("a", &state.to_json()), Some(state));
        assert_eq!(State::from_json("a", &json!({ "nat": "sipnat", "pids": [] })), None);
    }
}
