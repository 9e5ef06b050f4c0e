// SPDX-License-Identifier: Apache-2.0
//! The bare-metal guest of tests/peer, built: with rustup's core, else with Debian's compiler and its sources.

use std::path::{Path, PathBuf};
use std::process::Command;

pub const TARGET: &str = "aarch64-unknown-none";

/// Builds it from the tree `root` in the folder `out`; `Err` says why it cannot be.
pub fn build(root: &Path, out: &Path) -> Result<PathBuf, String> {
    let target =
        Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]).output();
    let own = target
        .is_ok_and(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir());
    let mut cargo = Command::new(if own { "cargo" } else { "/usr/bin/cargo" });
    if !own {
        cargo.args(["-Zbuild-std=core,alloc"]).env("RUSTC_BOOTSTRAP", "1");
        cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_NONE_LINKER", "aarch64-linux-gnu-ld");
        cargo.env("RUSTC", "/usr/bin/rustc").env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
    }
    cargo.args(["build", "--release", "--locked", "--target", TARGET, "--target-dir"]);
    let built = cargo
        .arg(out)
        .current_dir(root.join("tests/peer"))
        .output()
        .map_err(|error| error.to_string())?;
    match built.status.success() {
        true => Ok(out.join(TARGET).join("release/peer")),
        false => {
            Err(String::from_utf8_lossy(&built.stderr).lines().last().unwrap_or("").to_owned())
        }
    }
}
