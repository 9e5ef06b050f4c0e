// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench`: how long a launch takes, compared with what every launcher has to do, and what gunyahd costs
//! at rest. `cargo xtask bench devices`: what devices cost, compared with others' and with the host's own files.

mod chart;

use std::fs;
use std::path::Path;

use anyhow::{bail, Context, Result};
use serde_json::Value;

use crate::hugepages::{Pool, Reservation};
use crate::tree;

/// Twice the largest VM that is timed: the simulator frees a VM's pages a little after its worker's end, a driver
/// before it.
const HUGE_PAGE_BYTES: u64 = 8 << 30;
/// The same for `--brief`.
const BRIEF_BYTES: u64 = 2 << 30;
/// Parts of what is free that are left to others: huge pages are taken from what nothing else can have then.
const LEFT_TO_OTHERS: u64 = 2;

/// Runs the command: `--brief`, `--docs` and names of parts.
pub fn run(words: &[&str]) -> Result<()> {
    let binaries = tree::build(tree::FAST)?;
    let brief = words.contains(&"--brief");
    let wanted = if brief { BRIEF_BYTES } else { HUGE_PAGE_BYTES };
    let huge_pages = Reservation::up_to(wanted.min(available()? / LEFT_TO_OTHERS));
    if let Err(reason) = &huge_pages {
        println!("no huge pages reserved: {reason:#}");
    }
    println!("huge pages free: {}", Pool::now()?.free);
    let folder = tree::target().join("bench");
    fs::create_dir_all(&folder)?;
    let results = folder.join("launch.json");
    let docs = words.contains(&"--docs");
    let words: Vec<&str> = words.iter().copied().filter(|word| *word != "--docs").collect();
    // What it times is other programs and the kernel; it need not be built as they are.
    bench("launch", "dev", &binaries, &words, Some(&results))?;
    drop(huge_pages);
    let results: Value = serde_json::from_str(&fs::read_to_string(&results)?)?;
    let chart = chart::of(&results);
    fs::write(folder.join("launch.svg"), &chart)?;
    println!("\nresults and chart are in {}", folder.display());
    if docs {
        fs::write(tree::root().join("docs/performance.svg"), chart)?;
    }
    Ok(())
}

/// Runs the command with the word `devices`.
pub fn devices() -> Result<()> {
    let binaries = tree::build(tree::EXECUTING)?;
    bench("devices", "bench", &binaries, &[], None)?;
    crate::demo::costs::measure(&binaries)
}

fn bench(
    name: &str,
    profile: &str,
    binaries: &Path,
    words: &[&str],
    results: Option<&Path>,
) -> Result<()> {
    let mut command = tree::cargo();
    command.args(["bench", "--profile", profile, "--bench", name, "--"]).args(words);
    command.env("GUNYAHD_BIN_DIR", binaries);
    if let Some(results) = results {
        command.env("GUNYAHD_BENCH_JSON", results);
    }
    let status = command.status().context("cargo bench")?;
    if !status.success() {
        bail!("the benchmark failed: {status}");
    }
    Ok(())
}

/// Bytes that the host can give without swapping.
fn available() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib: u64 = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0);
    Ok(kib * 1024)
}
