//! What the preflight found, in words for the person who has to do something about it.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

use serde::Serialize;

use super::Mode;

/// The outcome of a preflight.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Report {
    /// sipnat must not start.
    pub errors: Vec<Finding>,
    /// sipnat may start, but something may not work as hoped.
    pub warnings: Vec<Finding>,
    /// Good to know.
    pub notes: Vec<Finding>,
    /// How to attach to all interfaces.
    pub mode: Mode,
}

/// One thing that is missing, wrong or worth knowing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A name for scripts and tests, which stays the same when the words change.
    pub code: &'static str,
    pub what: String,
    /// The interface, file or setting concerned.
    #[serde(rename = "where")]
    pub where_: String,
    pub why: String,
    /// What the user can do, with the command if there is one.
    pub remedy: String,
    /// A sysctl that would repair it.
    pub fix: Option<Fix>,
}

/// A sysctl to be written, as a path in /proc/sys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fix {
    pub path: PathBuf,
    pub value: String,
}

impl Report {
    /// Nothing stands against a start.
    pub fn is_ok(&self) -> bool {
        self.errors.is_empty()
    }

    /// The sysctls that [`apply_fixes`] would write, each once.
    pub fn fixes(&self) -> Vec<&Fix> {
        let mut fixes: Vec<&Fix> = Vec::new();
        for fix in self.errors.iter().chain(&self.warnings).filter_map(|f| f.fix.as_ref()) {
            if !fixes.contains(&fix) {
                fixes.push(fix);
            }
        }
        fixes
    }
}

/// Writes the sysctls of all errors and warnings that have a fix, in the network namespace of the calling thread,
/// and returns those written. Run the preflight again afterwards.
///
/// # Errors
/// The first one that could not be written; those before it stay written.
pub fn apply_fixes(report: &Report) -> io::Result<Vec<Fix>> {
    let mut done = Vec::new();
    for fix in report.fixes() {
        fs::write(&fix.path, &fix.value)
            .map_err(|e| io::Error::new(e.kind(), format!("cannot set {fix}: {e}; is /proc/sys writable here?")))?;
        done.push(fix.clone());
    }
    Ok(done)
}

impl fmt::Display for Fix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.path.display(), self.value)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.where_, self.what, self.why)?;
        if !self.remedy.is_empty() {
            write!(f, "\n    remedy: {}", self.remedy)?;
        }
        if self.fix.is_some() {
            write!(f, " (or start with --allow-sysctl)")?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            ("error", &self.errors),
            ("warning", &self.warnings),
            ("note", &self.notes),
        ];
        for (kind, findings) in kinds {
            for finding in findings {
                writeln!(f, "{kind}: {finding}")?;
            }
        }
        Ok(())
    }
}
