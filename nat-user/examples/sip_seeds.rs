//! Writes what the fuzzers of the SIP side begin with: `sip_seeds DIRECTORY` makes one directory per target with a file per seed.

use std::{error::Error, fs, path::Path};

use nat_user::sip::targets::{TARGETS, seeds};

fn main() -> Result<(), Box<dyn Error>> {
    let root = std::env::args_os().nth(1).ok_or("say where to: sip_seeds DIRECTORY")?;
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
