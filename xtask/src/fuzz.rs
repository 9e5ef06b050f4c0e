// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask fuzz [--seconds N] [TARGET…]`: runs the parsers under libFuzzer, guided by coverage.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{bail, Context, Result};

use crate::packages::{self, Tool};
use crate::tree;

/// An hour, shared by all targets.
const SECONDS: u64 = 3600;

/// Coverage counters and comparisons for libFuzzer. The stable compiler has them: no nightly is needed.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions=on \
    -Coverflow-checks=on --cfg fuzzing";

/// Runs the command.
pub fn run(words: &[&str]) -> Result<()> {
    let (seconds, names) = match words {
        ["--seconds", seconds, names @ ..] => (seconds.parse().context("--seconds")?, names),
        names => (SECONDS, names),
    };
    attack(seconds, names).map(|counts| println!("{counts}"))
}

/// Runs the targets called `names`, or all of them, for `seconds` in all; returns how many inputs each took.
pub fn attack(seconds: u64, names: &[&str]) -> Result<String> {
    packages::ensure(&[Tool { program: "g++", package: "g++" }])?;
    let program = build()?;
    let known = targets()?;
    for name in names {
        if !known.iter().any(|known| known == name) {
            bail!("no target {name}; there are {}", known.join(", "));
        }
    }
    let chosen: Vec<&String> =
        known.iter().filter(|name| names.is_empty() || names.contains(&name.as_str())).collect();
    let each = (seconds / u64::try_from(chosen.len().max(1))?).max(1);
    let mut counts = Vec::new();
    for name in chosen {
        counts.push(format!("{name} {}", one(&program, name, each)?));
    }
    Ok(counts.join(", "))
}

fn folder() -> PathBuf {
    tree::target().join("fuzz")
}

fn build() -> Result<PathBuf> {
    let host = tree::quiet(Command::new("rustc").arg("-vV"))?;
    let triple = host
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("rustc -vV names no host")?;
    let status = tree::cargo()
        .env("CARGO_TARGET_DIR", folder())
        .env("RUSTFLAGS", FLAGS)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        // Not the release profile, which aborts and strips: a panic has to name its place.
        .args([
            "build",
            "--package",
            "gunyahd-fuzz",
            "--features",
            "libfuzzer",
            "--bin",
            "fuzz",
            "--target",
            triple,
        ])
        .args(["--config", "profile.dev.opt-level=2"])
        .status()
        .context("cargo build")?;
    if !status.success() {
        bail!("building the fuzz targets: {status}");
    }
    Ok(folder().join(triple).join("debug/fuzz"))
}

/// The targets' names, from the library itself, which also writes the seeds.
fn targets() -> Result<Vec<String>> {
    // With the tests' features, so that no dependency is built again.
    let messages = tree::cargo_messages(&["test", "--workspace", "--no-run", "--test", "seeds"])?;
    let writer = messages
        .iter()
        .find(|message| message["target"]["name"] == "write-seeds")
        .and_then(|message| message["executable"].as_str())
        .context("cargo built no write-seeds")?;
    let list = tree::quiet(Command::new(writer).arg(folder().join("seeds")))?;
    Ok(list.lines().map(str::to_owned).collect())
}

fn one(program: &Path, name: &str, seconds: u64) -> Result<String> {
    let corpus = folder().join("corpus").join(name);
    let crashes = folder().join("crashes").join(name);
    fs::create_dir_all(&corpus)?;
    fs::create_dir_all(&crashes)?;
    println!("fuzz: {name} for {seconds} s");
    let output = Command::new(program)
        .current_dir(&crashes)
        .env("GUNYAHD_FUZZ_TARGET", name)
        .arg(format!("-max_total_time={seconds}"))
        .args([
            "-max_len=8192",
            "-timeout=20",
            "-rss_limit_mb=2048",
            "-print_final_stats=1",
            "-verbosity=1",
        ])
        .arg(&corpus)
        .arg(folder().join("seeds").join(name))
        .stdin(Stdio::null())
        .output()
        .with_context(|| program.display().to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let last: Vec<&str> = said.lines().rev().take(25).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        bail!(
            "{name}: {}; the input is in {}\n{}",
            output.status,
            crashes.display(),
            last.join("\n")
        );
    }
    let executed = said
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))
        .map_or("?", str::trim);
    Ok(executed.to_owned())
}
