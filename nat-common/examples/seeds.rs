//! Writes what the fuzzers begin with: `seeds DIRECTORY` makes one directory per target with a file per seed.

use nat_common::memory::targets::{TARGETS, seeds};
use std::error::Error;
use std::fs;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let root = std::env::args_os().nth(1).ok_or("say where to: seeds DIRECTORY")?;
    for (target, _) in TARGETS {
        let dir = Path::new(&root).join(target);
        fs::create_dir_all(&dir)?;
        for (number, seed) in seeds(target).iter().enumerate() {
            fs::write(dir.join(format!("seed-{number:04}")), seed)?;
        }
        println!("{target}");
    }
    Ok(())
}
