// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask test [--quick | --list | PART…]`: everything, or parts of it, and a summary.

mod binaries;
mod summary;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, Context, Result};

use crate::hugepages::{Pool, Reservation};
use crate::{packages, setup, tree};
use binaries::Binary;
use summary::Summary;

/// Room for the guests and the worker tests that run side by side.
const HUGE_PAGE_BYTES: u64 = 512 << 20;

/// Shared by all fuzz targets: enough to notice a new parser that panics at once.
const FUZZ_SECONDS: u64 = 45;

/// The parts that are not test crates, in the order in which they run.
const PARTS: [(&str, &str); 6] = [
    ("format", "cargo fmt --check"),
    ("lints", "clippy on everything; a warning is an error"),
    ("unit", "the unit tests of every crate"),
    ("doc", "the examples in the documentation"),
    (
        "bionic",
        "a type check for Android's libc, with and without liblog",
    ),
    ("fuzz", "the parsers under libFuzzer, 45 seconds in all"),
];

/// The one launch of `--quick`, with the engine that runs no guest.
const QUICK_LAUNCH: &str = "launch_order";

/// What to run.
#[derive(Debug, PartialEq, Eq)]
struct Selection {
    parts: Vec<String>,
    /// With the programs as a device gets them, or with those that the tests' build makes anyway.
    released: bool,
    /// With guests, which have to be fetched once.
    guests: bool,
}

impl Selection {
    fn from(words: &[&str], crates: &[String]) -> Result<Self> {
        let all = || {
            PARTS
                .iter()
                .map(|(name, _)| (*name).to_owned())
                .chain(crates.iter().cloned())
        };
        match words {
            [] => Ok(Self {
                parts: all().collect(),
                released: true,
                guests: true,
            }),
            ["--quick"] => Ok(Self {
                parts: ["format", "lints", "unit", QUICK_LAUNCH]
                    .map(str::to_owned)
                    .into(),
                released: false,
                guests: false,
            }),
            names => {
                for name in names {
                    if !all().any(|known| known == *name) {
                        bail!("no part {name}; cargo xtask test --list shows them");
                    }
                }
                Ok(Self {
                    parts: names.iter().map(|&name| name.to_owned()).collect(),
                    released: true,
                    guests: true,
                })
            }
        }
    }

    fn has(&self, part: &str) -> bool {
        self.parts.iter().any(|known| known == part)
    }

    /// Those of `crates` that are selected.
    fn crates<'a>(&self, crates: &'a [String]) -> Vec<&'a str> {
        crates
            .iter()
            .map(String::as_str)
            .filter(|name| self.has(name))
            .collect()
    }
}

/// The command.
pub fn run(words: &[&str]) -> Result<()> {
    let crates = binaries::test_crates()?;
    if words == ["--list"] {
        for (name, about) in PARTS {
            println!("  {name:<22} {about}");
        }
        for name in &crates {
            println!("  {name:<22} whole programs");
        }
        return Ok(());
    }
    let selection = Selection::from(words, &crates)?;
    let mut summary = Summary::default();
    let before = Pool::now()?;
    summary.step("set-up", || match selection.guests {
        true => setup::run().map(|()| String::new()),
        false => packages::ensure(packages::TEST_TOOLS),
    })?;

    if selection.has("format") {
        let _ = summary.step("format", || cargo(&["fmt", "--all", "--check"]));
    }
    if selection.has("lints") {
        let _ = summary.step("lints", || {
            let clippy = [
                "clippy",
                "--workspace",
                "--features",
                tree::EXECUTING_ENGINE,
            ];
            cargo(&[&clippy[..], &["--all-targets", "--", "-D", "warnings"]].concat())
        });
    }
    if selection.has("bionic") {
        let _ = summary.step("bionic", bionic);
    }
    test_programs(&selection, &crates, &mut summary)?;
    if selection.has("doc") {
        let _ = summary.step("doc", || {
            cargo(&[
                "test",
                "--workspace",
                "--doc",
                "--features",
                tree::EXECUTING_ENGINE,
            ])
        });
    }
    if selection.has("fuzz") {
        let _ = summary.step("fuzz", || crate::fuzz::attack(FUZZ_SECONDS, &[]));
    }
    if !selection.crates(&crates).is_empty() {
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
    }
    summary.close()
}

/// Unit tests and whole-program tests.
fn test_programs(selection: &Selection, crates: &[String], summary: &mut Summary) -> Result<()> {
    let chosen = selection.crates(crates);
    let unit = selection.has("unit");
    if chosen.is_empty() && !unit {
        return Ok(());
    }
    let mut built = Vec::new();
    let mut programs = PathBuf::new();
    let built_all = summary.step("build", || {
        built = binaries::build(unit, &chosen)?;
        programs = match selection.released {
            true => tree::programs(&binaries::programs(&built))?,
            false => binaries::folder(&built)?,
        };
        sizes(&programs)
    });
    if built_all.is_err() {
        return Ok(());
    }
    // As root everything can be had, so no test may skip; the summary reports what others skip.
    let strict = nix::unistd::geteuid().is_root() && selection.guests;
    let mut huge_pages = None;
    if !chosen.is_empty() {
        let _ = summary.optional("huge pages", strict, || {
            let before = Pool::now()?;
            let pages = Reservation::add(HUGE_PAGE_BYTES)?;
            let added = format!("{} added to {}", pages.added(), before.total);
            huge_pages = Some(pages);
            Ok(added)
        });
    }
    forget_matrices();
    let (units, whole): (Vec<&Binary>, Vec<&Binary>) = built
        .iter()
        .filter(|binary| binary.test)
        .partition(|binary| !binary.whole_programs);
    let run = |summary: &mut Summary, name: &str, tests: &[&Binary]| {
        let mut skips = Vec::new();
        let _ = summary.step(name, || binaries::run(tests, &programs, strict, &mut skips));
        summary.skipped(skips);
    };
    if unit {
        run(summary, "unit", &units);
    }
    for binary in whole
        .iter()
        .filter(|binary| chosen.contains(&binary.name.as_str()))
    {
        run(summary, &binary.name, &[binary]);
    }
    for file in matrices() {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        println!("\n== fault matrix: {text}");
    }
    Ok(())
}

fn cargo(arguments: &[&str]) -> Result<String> {
    let status = tree::cargo().args(arguments).status().context("cargo")?;
    if !status.success() {
        bail!("cargo {}: {status}", arguments.join(" "));
    }
    Ok(String::new())
}

/// What Soong builds for devices, as far as it goes without bionic's own files: checked, not linked.
fn bionic() -> Result<String> {
    const TARGET: &str = "aarch64-linux-android";
    let sysroot = tree::quiet(Command::new("rustc").args(["--print", "sysroot"]))?;
    let std = Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET);
    if !std.is_dir() {
        return Ok(format!("not tried: no std for {TARGET} here"));
    }
    for flags in ["", "--cfg gunyahd_android_logger"] {
        let status = tree::cargo()
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

fn sizes(programs: &Path) -> Result<String> {
    let size = |name: &str| -> Result<String> {
        let bytes = std::fs::metadata(programs.join(name))?.len();
        Ok(format!("{name} {} KiB", bytes / 1024))
    };
    Ok(format!("{}, {}", size("gunyahd")?, size("gunyahctl")?))
}

/// The tables that the fault matrix leaves in cargo's folder for tests.
fn matrices() -> Vec<PathBuf> {
    let listed = |folder: PathBuf| {
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        entries.filter_map(|entry| Some(entry.ok()?.path()))
    };
    // Each target has a folder, and cargo's for tests is in it.
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

/// Removes the tables of an earlier run.
fn forget_matrices() {
    for file in matrices() {
        let _ = std::fs::remove_file(file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_chosen_by_name() {
        let crates = ["proxy".to_owned(), QUICK_LAUNCH.to_owned()];
        let all = Selection::from(&[], &crates).unwrap();
        assert!(all.released && all.guests && all.has("fuzz"));
        assert_eq!(all.crates(&crates), ["proxy", QUICK_LAUNCH]);
        let quick = Selection::from(&["--quick"], &crates).unwrap();
        assert!(!quick.released && !quick.has("fuzz"));
        assert_eq!(quick.crates(&crates), [QUICK_LAUNCH]);
        let two = Selection::from(&["lints", "proxy"], &crates).unwrap();
        assert_eq!(two.crates(&crates), ["proxy"]);
        assert!(two.has("lints") && !two.has("unit"));
        assert!(Selection::from(&["lint"], &crates).is_err());
        let here = binaries::test_crates().unwrap();
        assert!(here.iter().any(|name| name == QUICK_LAUNCH), "{here:?}");
    }
}
