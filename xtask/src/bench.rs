// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench`: how long a launch takes, compared with what every launcher has to do. `cargo xtask bench
//! devices`: what devices cost, compared with others' and with the host's own files.

use std::path::Path;

use anyhow::{bail, Context, Result};

use crate::hugepages::Reservation;
use crate::tree;

/// Twice the largest VM that is timed: the simulator frees a VM's pages a little after its worker's end, a driver
/// before it.
const HUGE_PAGE_BYTES: u64 = 512 << 20;

/// Runs the command.
pub fn run() -> Result<()> {
    let binaries = tree::build(false)?;
    let huge_pages = Reservation::add(HUGE_PAGE_BYTES);
    if let Err(reason) = &huge_pages {
        println!("no huge pages reserved: {reason:#}");
    }
    bench("launch", &binaries)
}

/// Runs the command with the word `devices`.
pub fn devices() -> Result<()> {
    bench("devices", &tree::build(false)?)
}

fn bench(name: &str, binaries: &Path) -> Result<()> {
    let status = tree::cargo()
        .args(["bench", "--bench", name])
        .env("GUNYAHD_BIN_DIR", binaries)
        .status()
        .context("cargo bench")?;
    if !status.success() {
        bail!("the benchmark failed: {status}");
    }
    Ok(())
}
