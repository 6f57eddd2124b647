//! `docs/performance.md`: one section for each bench command, and each command writes only its own.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::report::Report;
use crate::run::root;

/// What the document begins with; what is written by hand there goes away with the next run.
const HEAD: &str = "# Performance\n\nEach section of this file is written by the command that it names; nothing is written by hand. All \
                    figures of a section come from one run on one machine: read them as ratios.\n";

/// Prints the goals and how long it took, and writes the section: into the document after a `whole` run, or to `output`.
pub fn finish(report: &Report, name: &str, start: Instant, whole: bool, output: Option<&Path>) -> Result<()> {
    let summary = report.summary();
    println!("\n{}\n\n{}", summary.title, summary.render());
    println!("The whole took {:.0} s.", start.elapsed().as_secs_f64());
    let document = whole.then(|| root().join("docs/performance.md"));
    if let Some(path) = output.or(document.as_deref()) {
        write(path, name, &report.section())?;
        println!("{} is written.", path.display());
    }
    Ok(())
}

/// Puts a section into the document, in place of the one of the same name, or at its end. Other sections stay as they are.
pub fn write(path: &Path, name: &str, section: &str) -> Result<()> {
    let old = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    }
    let new = replaced(&old, name, section).with_context(|| format!("in {}", path.display()))?;
    fs::write(path, new).with_context(|| format!("write {}", path.display()))
}

fn replaced(old: &str, name: &str, section: &str) -> Result<String> {
    let (begin, end) = (mark("begin", name), mark("end", name));
    let mine = format!("{begin}\n{}\n{end}\n", section.trim_end());
    let others = old.find("<!-- begin ").map_or("", |start| &old[start..]);
    let Some((before, rest)) = others.split_once(&format!("{begin}\n")) else {
        ensure!(!others.contains(&end), "the section {name:?} ends without beginning");
        let gap = if others.is_empty() { "" } else { "\n" };
        return Ok(format!("{HEAD}\n{others}{gap}{mine}"));
    };
    let (_, after) = rest
        .split_once(&format!("{end}\n"))
        .with_context(|| format!("the section {name:?} begins and does not end"))?;
    Ok(format!("{HEAD}\n{before}{mine}{after}"))
}

fn mark(what: &str, name: &str) -> String {
    format!("<!-- {what} {name} -->")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_section_is_replaced_alone() {
        let one = replaced("", "nat", "## NAT\n\n1\n").unwrap();
        let two = replaced(&one, "sip", "## SIP\n\n2\n").unwrap();
        assert!(two.starts_with(HEAD));
        assert!(
            two.ends_with("1\n<!-- end nat -->\n\n<!-- begin sip -->\n## SIP\n\n2\n<!-- end sip -->\n"),
            "{two}"
        );
        let three = replaced(&two, "nat", "## NAT\n\n3\n").unwrap();
        assert_eq!(three, two.replace("\n1\n", "\n3\n"));
        assert_eq!(replaced(&three, "sip", "## SIP\n\n2\n").unwrap(), three);
        assert!(replaced("<!-- begin nat -->\nno end\n", "nat", "").is_err());
    }
}
