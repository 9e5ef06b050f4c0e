// SPDX-License-Identifier: Apache-2.0
//! Writes every target's seeds below a folder, and prints the targets' names.

use std::path::PathBuf;

use gunyahd_fuzz::{seeds, TARGETS};

fn main() -> std::io::Result<()> {
    let folder = PathBuf::from(std::env::args_os().nth(1).unwrap_or_else(|| "seeds".into()));
    for target in TARGETS {
        let below = folder.join(target.name);
        std::fs::create_dir_all(&below)?;
        for (index, seed) in seeds(target.name).iter().enumerate() {
            std::fs::write(below.join(index.to_string()), seed)?;
        }
        println!("{}", target.name);
    }
    Ok(())
}
