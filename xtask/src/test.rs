// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask test`: everything, real guests included, and a summary.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};

use crate::hugepages::{Pool, Reservation};
use crate::{setup, tree};

// The demo and a plain build do without it, as it takes a minute to build.
const EXECUTING_ENGINE: &str = "gunyah-sim/exec";
// Room for the guests and worker tests that run side by side.
const HUGE_PAGE_BYTES: u64 = 512 << 20;

/// Shared by all fuzz targets: enough to notice a new parser that panics at once.
const FUZZ_SECONDS: u64 = 45;

/// The command.
pub fn run() -> Result<()> {
    let mut summary = Summary::default();
    let before = Pool::now()?;
    summary.step("set-up", || setup::run().map(|()| String::new()))?;

    let huge_pages = match Reservation::add(HUGE_PAGE_BYTES) {
        Ok(pages) => Some(pages),
        Err(reason) => {
            println!("  huge pages    none reserved: {reason:#}");
            None
        }
    };
    if let Some(pages) = &huge_pages {
        println!(
            "  huge pages    {} added to {}",
            pages.added(),
            before.total
        );
    }
    // Where everything is at hand, a skipped test is a failed one.
    let strict = huge_pages.is_some();

    let _ = summary.step("format", || cargo(&["fmt", "--all", "--check"]));
    let _ = summary.step("lints", || {
        cargo(&[
            "clippy",
            "--workspace",
            "--features",
            EXECUTING_ENGINE,
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ])
    });
    let mut binaries = None;
    let _ = summary.step("programs", || {
        let dir = tree::build(&[EXECUTING_ENGINE])?;
        let sizes = sizes(&dir)?;
        binaries = Some(dir);
        Ok(sizes)
    });
    if let Some(binaries) = binaries {
        let _ = summary.step("tests", || tests(&binaries, strict));
    }
    let _ = summary.step("fuzz", || crate::fuzz::attack(FUZZ_SECONDS, &[]));

    drop(huge_pages);
    let _ = summary.step("huge pages given back", || {
        let after = Pool::settled(before)?;
        if after != before {
            bail!(
                "{} of {} free before, {} of {} after",
                before.free,
                before.total,
                after.free,
                after.total
            );
        }
        Ok(format!("{} of {} free, as before", after.free, after.total))
    });
    summary.close()
}

fn cargo(arguments: &[&str]) -> Result<String> {
    let status = cargo_command().args(arguments).status().context("cargo")?;
    if !status.success() {
        bail!("cargo {}: {status}", arguments.join(" "));
    }
    Ok(String::new())
}

fn cargo_command() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(tree::root());
    command
}

fn sizes(binaries: &Path) -> Result<String> {
    let size = |name: &str| -> Result<String> {
        let bytes = std::fs::metadata(binaries.join(name))?.len();
        Ok(format!("{name} {} KiB", bytes / 1024))
    };
    Ok(format!("{}, {}", size("gunyahd")?, size("gunyahctl")?))
}

/// Counts from the lines that libtest closes each binary with.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
    binaries: u64,
}

impl Counts {
    /// Takes in one line of output; true if it was a closing line.
    fn take(&mut self, line: &str) -> bool {
        let Some(result) = line.strip_prefix("test result: ") else {
            return false;
        };
        self.binaries += 1;
        for part in result.split(['.', ';']) {
            let mut words = part.split_whitespace();
            let (Some(number), Some(what)) = (words.next(), words.next()) else {
                continue;
            };
            let Ok(number) = number.parse::<u64>() else {
                continue;
            };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
        true
    }
}

/// The tables that the fault matrix leaves in cargo's folder for tests.
fn matrices() -> Vec<std::path::PathBuf> {
    let listed = |folder: std::path::PathBuf| {
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        entries.filter_map(|entry| Some(entry.ok()?.path()))
    };
    // A folder a target, and cargo's for tests in it.
    let mut files: Vec<_> = listed(tree::target())
        .flat_map(|target| listed(target.join("tmp")))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("matrix-")
        })
        .collect();
    files.sort();
    files
}

// One of an earlier run would tell of that.
fn forget_matrices() {
    for file in matrices() {
        let _ = std::fs::remove_file(file);
    }
}

fn print_matrices() {
    for file in matrices() {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        println!("\n== fault matrix: {text}");
    }
}

fn tests(binaries: &Path, strict: bool) -> Result<String> {
    forget_matrices();
    let mut command = cargo_command();
    command
        .args(["test", "--workspace", "--no-fail-fast"])
        .args(["--features", EXECUTING_ENGINE])
        .env("GUNYAHD_BIN_DIR", binaries)
        .env("GUNYAHD_GUEST_DIR", tree::guest())
        .stdout(Stdio::piped());
    if strict {
        command
            .env("GUNYAHD_NO_SKIP", "1")
            .env("GUNYAHD_REQUIRE_TOOLS", "1");
    }
    let mut child = command.spawn().context("cargo test")?;
    let mut counts = Counts::default();
    let output = child.stdout.take().context("cargo test has no output")?;
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        counts.take(&line);
    }
    let status = child.wait()?;
    print_matrices();
    let told = format!(
        "{} passed, {} failed, {} ignored in {} runs",
        counts.passed, counts.failed, counts.ignored, counts.binaries
    );
    if !status.success() || counts.failed != 0 || counts.ignored != 0 {
        bail!("{told}; cargo test: {status}");
    }
    Ok(told)
}

#[derive(Default)]
struct Summary {
    rows: Vec<(String, Duration, Result<String, String>)>,
}

impl Summary {
    fn step(&mut self, name: &str, work: impl FnOnce() -> Result<String>) -> Result<()> {
        println!("\n== {name}");
        let begin = Instant::now();
        let result = work();
        let row = match &result {
            Ok(detail) => Ok(detail.clone()),
            Err(error) => {
                println!("{name}: {error:#}");
                Err(format!("{error:#}"))
            }
        };
        self.rows.push((name.to_owned(), begin.elapsed(), row));
        result.map(drop)
    }

    fn close(self) -> Result<()> {
        println!("\n== summary");
        for (name, time, result) in &self.rows {
            let (word, detail) = match result {
                Ok(detail) => ("ok", detail),
                Err(detail) => ("FAILED", detail),
            };
            println!(
                "  {word:<7} {name:<22} {:>7.1} s  {detail}",
                time.as_secs_f64()
            );
        }
        let failed = self.rows.iter().filter(|row| row.2.is_err()).count();
        if failed != 0 {
            bail!("{failed} of {} steps failed", self.rows.len());
        }
        println!("  all {} steps passed", self.rows.len());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libtests_closing_lines_are_summed() {
        let mut counts = Counts::default();
        assert!(!counts.take("test a::b ... ok"));
        assert!(counts.take("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s"));
        assert!(counts.take("test result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.50s"));
        let expected = Counts {
            passed: 5,
            failed: 4,
            ignored: 1,
            binaries: 2,
        };
        assert_eq!(counts, expected);
    }
}
