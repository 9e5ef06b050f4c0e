// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench`: how long a launch takes, against what no launcher can do without.

use anyhow::{bail, Context, Result};
use std::process::Command;

use crate::hugepages::Reservation;
use crate::tree;

/// Room for the largest VM that is timed, twice: the simulator gives a VM's pages back a little after
/// its worker's end, where a driver does so before.
const HUGE_PAGE_BYTES: u64 = 512 << 20;

/// The command.
pub fn run() -> Result<()> {
    let binaries = tree::build(&[])?;
    let huge_pages = Reservation::add(HUGE_PAGE_BYTES);
    if let Err(reason) = &huge_pages {
        println!("no huge pages reserved: {reason:#}");
    }
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(tree::root())
        .args(["bench", "--bench", "launch"])
        .env("GUNYAHD_BIN_DIR", binaries)
        .status()
        .context("cargo bench")?;
    if !status.success() {
        bail!("the benchmark failed: {status}");
    }
    Ok(())
}
