//! Where a configuration comes from: a file, the command line, or both.

use std::path::{Path, PathBuf};

use super::{Config, ConfigError, error::Fault, validate};

/// What `sipnat run` was asked to do. The daemon keeps it, because a reload reads the file again.
#[derive(Clone, Debug, PartialEq)]
pub struct RunOptions {
    /// The config file; `None`: defaults and `overrides` only.
    pub config: Option<PathBuf>,
    /// What the command line says, which wins over the file, also at a reload.
    pub overrides: Overrides,
    /// Factor on all lifetimes, 1.0 outside tests.
    pub lifetime_scale: f64,
    /// Whether preflight may change the system settings that it wants changed.
    pub allow_sysctl: bool,
}

impl RunOptions {
    /// Reads the config as it is now, with the overrides and the scale applied.
    pub fn load(&self) -> Result<Config, ConfigError> {
        let mut config = match &self.config {
            Some(path) => load(path, &self.overrides)?,
            None => validate::config("", "command line", &self.overrides)?,
        };
        if self.lifetime_scale != 1.0 {
            config.scale_lifetimes(self.lifetime_scale);
        }
        Ok(config)
    }
}

/// Parts of the command line that replace what the file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overrides {
    /// Inside interfaces; empty: those of the file.
    pub inside: Vec<String>,
    /// Outside interfaces; empty: those of the file.
    pub outside: Vec<String>,
    pub socket: Option<PathBuf>,
    pub pin_dir: Option<PathBuf>,
    /// Attach in generic mode whatever the file says.
    pub skb_mode: bool,
}

/// Reads a file that may be at most 1 MiB, so that a wrong path (a device, a disk image) ends in a message.
pub(super) fn load(path: &Path, overrides: &Overrides) -> Result<Config, ConfigError> {
    use std::io::Read;
    const LIMIT: u64 = 1 << 20;
    let file = path.display().to_string();
    let fail = |error: String, remedy: &str| {
        Fault::missing(format!("cannot read the config: {error}"), remedy).locate("", &file)
    };
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|open| open.take(LIMIT + 1).read_to_string(&mut text))
        .map_err(|error| {
            fail(
                error.to_string(),
                "check the path and its permissions (sipnat.sample.toml is a start)",
            )
        })?;
    if text.len() as u64 > LIMIT {
        return Err(fail("it is larger than 1 MiB".into(), "check the path"));
    }
    validate::config(&text, &file, overrides)
}
