//! Extracts the torture test messages of RFC 4475 and RFC 5118 from the RFCs' texts in a directory.

use std::path::Path;

use anyhow::{Context, Result};
use tests::sip::torture;

fn main() -> Result<()> {
    let texts = std::env::args()
        .nth(1)
        .context("usage: torture DIRECTORY-WITH-rfc4475.txt-AND-rfc5118.txt")?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/torture");
    for (path, bytes) in torture::extract(Path::new(&texts))? {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().context("a file is in a directory")?)?;
        std::fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
