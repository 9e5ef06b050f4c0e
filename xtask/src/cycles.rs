// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask cycles`: a thousand lives of four VMs, and two hundred crashes.

use anyhow::{bail, Context, Result};
use std::process::Command;

use crate::hugepages::Reservation;
use crate::tree;

/// Two of the VMs have two pages of 2 MiB each; as much again is room for what is given back late.
const HUGE_PAGE_BYTES: u64 = 16 << 20;

/// Start and stop cycles; of crashes there are a fifth as many.
const CYCLES: &str = "1000";

/// The command.
pub fn run() -> Result<()> {
    let binaries = tree::build(&[])?;
    let root = nix::unistd::geteuid().is_root();
    // A pool that is there already may do for somebody who is not root; the test says if it does not.
    let huge_pages = match Reservation::add(HUGE_PAGE_BYTES) {
        Ok(pages) => Some(pages),
        Err(error) if root => return Err(error.context("huge pages for the cycles")),
        Err(error) => {
            println!("no huge pages reserved: {error:#}");
            None
        }
    };
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(tree::root())
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
