// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask cycles`: a thousand lives of four VMs, and two hundred crashes.

use anyhow::{bail, Context, Result};
use std::process::Command;

use crate::tree;

/// Start and stop cycles; of crashes there are a fifth as many.
const CYCLES: &str = "1000";

/// The command.
pub fn run() -> Result<()> {
    let binaries = tree::build(&[])?;
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(tree::root())
        .args(["test", "--test", "nothing_lost", "--", "cycles::"])
        .args(["--nocapture", "--test-threads", "1"])
        .env("GUNYAHD_BIN_DIR", binaries)
        .env("GUNYAHD_CYCLES", CYCLES)
        .status()
        .context("cargo test")?;
    if !status.success() {
        bail!("the cycles left something behind: {status}");
    }
    Ok(())
}
