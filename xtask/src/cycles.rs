// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask cycles`: starts and stops four VMs a thousand times, and lets them crash two hundred times.

use anyhow::{bail, Context, Result};

use crate::hugepages::Reservation;
use crate::tree;

/// Two of the VMs take two pages of 2 MiB each; twice that, because some become free late.
const HUGE_PAGE_BYTES: u64 = 16 << 20;

/// Cycles of start and stop. There are a fifth as many crashes.
const CYCLES: &str = "1000";

/// Runs the command.
pub fn run() -> Result<()> {
    let binaries = tree::build(&[])?;
    let root = nix::unistd::geteuid().is_root();
    // Without root, an existing pool may suffice; the test reports if it does not.
    let huge_pages = match Reservation::add(HUGE_PAGE_BYTES) {
        Ok(pages) => Some(pages),
        Err(error) if root => return Err(error.context("huge pages for the cycles")),
        Err(error) => {
            println!("no huge pages reserved: {error:#}");
            None
        }
    };
    let mut command = tree::cargo();
    command
        .args(["test", "--test", "nothing_lost", "--", "cycles::"])
        .args(["--nocapture", "--test-threads", "1"])
        .env("GUNYAHD_BIN_DIR", binaries)
        .env("GUNYAHD_CYCLES", CYCLES);
    if root {
        command.env("GUNYAHD_NO_SKIP", "1");
    }
    let status = command.status().context("cargo test")?;
    drop(huge_pages);
    if !status.success() {
        bail!("the cycles left something behind: {status}");
    }
    Ok(())
}
