// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask test`: everything, real guests included, and a summary.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
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

    // Where everything can be had, nothing may be skipped; elsewhere the summary tells what was.
    let strict = nix::unistd::geteuid().is_root();
    let mut huge_pages = None;
    let _ = summary.optional("huge pages", strict, || {
        let pages = Reservation::add(HUGE_PAGE_BYTES)?;
        let told = format!("{} added to {}", pages.added(), before.total);
        huge_pages = Some(pages);
        Ok(told)
    });

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
    let _ = summary.step("bionic", bionic);
    let mut binaries = None;
    let _ = summary.step("programs", || {
        let dir = tree::build(&[EXECUTING_ENGINE])?;
        let sizes = sizes(&dir)?;
        binaries = Some(dir);
        Ok(sizes)
    });
    if let Some(binaries) = binaries {
        let mut skips = Skips::default();
        let _ = summary.step("tests", || tests(&binaries, strict, &mut skips));
        summary.skips = skips;
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

/// What Soong builds for devices, as far as it can be had without bionic's own files: compiled, not linked.
fn bionic() -> Result<String> {
    const TARGET: &str = "aarch64-linux-android";
    let sysroot = tree::quiet(Command::new("rustc").args(["--print", "sysroot"]))?;
    let std = Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET);
    if !std.is_dir() {
        return Ok(format!("not tried: no std for {TARGET} here"));
    }
    for flags in ["", "--cfg gunyahd_android_logger"] {
        let status = cargo_command()
            .args([
                "check",
                "--package",
                "gunyahd",
                "--lib",
                "--bins",
                "--target",
                TARGET,
            ])
            .env("CARGO_TARGET_DIR", tree::target().join("bionic"))
            .env("RUSTFLAGS", flags)
            .status()?;
        if !status.success() {
            bail!("cargo check for {TARGET} with {flags:?}: {status}");
        }
    }
    Ok(format!("{TARGET}, with and without liblog"))
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

/// What tests said that they skipped, and how often.
#[derive(Debug, Default, PartialEq, Eq)]
struct Skips(BTreeMap<String, u64>);

impl Skips {
    /// Takes in one line of stderr. Tests on several threads write beside the lines of others.
    fn take(&mut self, line: &str) {
        if let Some((_, why)) = line.split_once("SKIPPED: ") {
            *self.0.entry(why.trim_end().to_owned()).or_default() += 1;
        }
    }

    fn count(&self) -> u64 {
        self.0.values().sum()
    }
}

/// Passes stderr on, and keeps what it says of skips.
fn pass_on(stderr: impl Read) -> Skips {
    let mut skips = Skips::default();
    // Whatever a test prints: bytes, not text.
    for line in BufReader::new(stderr)
        .split(b'\n')
        .map_while(|line| line.ok())
    {
        let line = String::from_utf8_lossy(&line);
        eprintln!("{line}");
        skips.take(&line);
    }
    skips
}

fn tests(binaries: &Path, strict: bool, skips: &mut Skips) -> Result<String> {
    forget_matrices();
    let mut command = cargo_command();
    command
        .args(["test", "--workspace", "--no-fail-fast"])
        .args(["--features", EXECUTING_ENGINE])
        .env("GUNYAHD_BIN_DIR", binaries)
        .env("GUNYAHD_GUEST_DIR", tree::guest())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if strict {
        command
            .env("GUNYAHD_NO_SKIP", "1")
            .env("GUNYAHD_REQUIRE_TOOLS", "1");
    }
    let mut child = command.spawn().context("cargo test")?;
    let mut counts = Counts::default();
    let output = child.stdout.take().context("cargo test has no output")?;
    let errors = child.stderr.take().context("cargo test has no stderr")?;
    let errors = std::thread::spawn(|| pass_on(errors));
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        counts.take(&line);
    }
    let status = child.wait()?;
    if let Ok(said) = errors.join() {
        *skips = said;
    }
    print_matrices();
    let told = format!(
        "{} passed, {} failed, {} ignored, {} skips told in {} runs",
        counts.passed,
        counts.failed,
        counts.ignored,
        skips.count(),
        counts.binaries
    );
    if !status.success() || counts.failed != 0 || counts.ignored != 0 {
        bail!("{told}; cargo test: {status}");
    }
    Ok(told)
}

/// What became of a step.
enum Outcome {
    Passed(String),
    Skipped(String),
    Failed(String),
}

#[derive(Default)]
struct Summary {
    rows: Vec<(String, Duration, Outcome)>,
    skips: Skips,
}

impl Summary {
    /// A step that may be missing on this machine, but not where it is `required`.
    fn optional(
        &mut self,
        name: &str,
        required: bool,
        work: impl FnOnce() -> Result<String>,
    ) -> Result<()> {
        let result = self.step(name, work);
        if let (false, Some((_, _, outcome))) = (required, self.rows.last_mut()) {
            if let Outcome::Failed(why) = outcome {
                *outcome = Outcome::Skipped(std::mem::take(why));
            }
        }
        result
    }

    fn step(&mut self, name: &str, work: impl FnOnce() -> Result<String>) -> Result<()> {
        println!("\n== {name}");
        let begin = Instant::now();
        let result = work();
        let row = match &result {
            Ok(detail) => Outcome::Passed(detail.clone()),
            Err(error) => {
                println!("{name}: {error:#}");
                Outcome::Failed(format!("{error:#}"))
            }
        };
        self.rows.push((name.to_owned(), begin.elapsed(), row));
        result.map(drop)
    }

    fn close(self) -> Result<()> {
        println!("\n== summary");
        for (name, time, outcome) in &self.rows {
            let (word, detail) = match outcome {
                Outcome::Passed(detail) => ("ok", detail),
                Outcome::Skipped(detail) => ("skipped", detail),
                Outcome::Failed(detail) => ("FAILED", detail),
            };
            println!(
                "  {word:<7} {name:<22} {:>7.1} s  {detail}",
                time.as_secs_f64()
            );
        }
        for (why, count) in &self.skips.0 {
            println!("  skipped {count:>3} x in tests: {why}");
        }
        let count = |is: fn(&Outcome) -> bool| self.rows.iter().filter(|row| is(&row.2)).count();
        let failed = count(|outcome| matches!(outcome, Outcome::Failed(_)));
        if failed != 0 {
            bail!("{failed} of {} steps failed", self.rows.len());
        }
        match count(|outcome| matches!(outcome, Outcome::Skipped(_))) {
            0 => println!("  all {} steps passed", self.rows.len()),
            skipped => println!(
                "  {} of {} steps passed, {skipped} skipped",
                self.rows.len() - skipped,
                self.rows.len()
            ),
        }
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

    #[test]
    fn skips_are_kept_with_their_reasons() {
        let skips = pass_on(
            &b"SKIPPED: no huge pages are free\nwarning: \xff\ntest a ... SKIPPED: no cc\r\n\
               SKIPPED: no huge pages are free\n"[..],
        );
        let expected = [
            ("no cc".to_owned(), 1),
            ("no huge pages are free".to_owned(), 2),
        ];
        assert_eq!(skips, Skips(expected.into()));
        assert_eq!(skips.count(), 3);
    }

    #[test]
    fn a_step_that_cannot_be_had_fails_only_where_it_is_required() {
        for required in [false, true] {
            let mut summary = Summary::default();
            let _ = summary.optional("pages", required, || bail!("no room"));
            assert_eq!(summary.close().is_err(), required);
        }
    }
}
