// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask test [--quick | --list | PART…]`: everything, or parts of it, and a summary.

mod binaries;
mod summary;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{bail, Context, Result};

use crate::hugepages::{Pool, Reservation};
use crate::{host_test, setup, tree};
use binaries::Binary;
use summary::Summary;

/// Room for the guests and the worker tests that run side by side.
const HUGE_PAGE_BYTES: u64 = 512 << 20;

/// Shared by all fuzz targets: enough to notice a new parser that panics at once.
const FUZZ_SECONDS: u64 = 45;

/// The parts that are not test crates.
const PARTS: [(&str, &str); 8] = [
    ("format", "cargo fmt --check"),
    ("lints", "clippy on everything; a warning is an error"),
    ("unit", "the unit tests of every crate"),
    ("doc", "the examples in the documentation"),
    ("bionic", "a type check for Android's libc, with and without liblog"),
    ("fuzz", "the parsers under libFuzzer, 45 seconds in all"),
    ("demo", "what `cargo xtask demo` shows"),
    ("vhost", "guests with socket devices, by the vhost of an emulated x86-64 host's kernel"),
];

/// What keeps the processors busy. The tests of whole programs mostly wait, so they run at the same time.
const BESIDE: [&str; 5] = ["lints", "unit", "doc", "bionic", "fuzz"];

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
        let all = || PARTS.iter().map(|(name, _)| (*name).to_owned()).chain(crates.iter().cloned());
        match words {
            [] => Ok(Self { parts: all().collect(), released: true, guests: true }),
            ["--quick"] => Ok(Self {
                parts: ["format", "lints", "unit", QUICK_LAUNCH].map(str::to_owned).into(),
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
        crates.iter().map(String::as_str).filter(|name| self.has(name)).collect()
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
    let mut selection = Selection::from(words, &crates)?;
    let mut summary = Summary::default();
    let before = Pool::now()?;
    summary.step("set-up", || match selection.guests {
        true => setup::run().map(|()| String::new()),
        false => setup::for_tests(),
    })?;
    if selection.has("format") {
        let _ = summary.step("format", || cargo(&["fmt", "--all", "--check"]));
    }
    let mut beside = None;
    let programs = selection.has("demo") || selection.has("vhost");
    let whole = !selection.crates(&crates).is_empty() || programs;
    let pages = whole && selection.guests;
    let built = if words.is_empty() {
        // Both sides need it, and cargo builds one thing at a time.
        let built = build(&selection, &crates, &mut summary);
        selection.parts.retain(|part| !BESIDE.contains(&part.as_str()));
        beside = Some(Beside::start(&BESIDE)?);
        built
    } else {
        for part in &selection.parts {
            let _ = match part.as_str() {
                "lints" => summary.step(part, lints),
                "doc" => summary.step(part, doc),
                "bionic" => summary.step(part, bionic),
                "fuzz" => summary.step(part, || crate::fuzz::attack(FUZZ_SECONDS, &[])),
                _ => Ok(()),
            };
        }
        match whole || selection.has("unit") {
            true => build(&selection, &crates, &mut summary),
            false => None,
        }
    };
    if let Some(built) = built {
        test_programs(&built, &selection, &crates, &mut summary);
    }
    if let Some(beside) = beside {
        let _ = summary.step(&BESIDE.join(", "), || beside.end());
    }
    if pages {
        let _ = summary.step("huge pages given back", || {
            let after = Pool::settled(before)?;
            let counts = |pool: Pool| format!("{} of {} free", pool.free, pool.total);
            if after != before {
                bail!("{} before, {} after", counts(before), counts(after));
            }
            Ok(format!("{}, as before", counts(after)))
        });
    }
    summary.close()
}

/// Other parts, in a process of their own whose output appears when it ends.
struct Beside {
    child: Child,
    output: PathBuf,
}

impl Beside {
    fn start(parts: &[&str]) -> Result<Self> {
        let output = tree::target().join("test-beside.log");
        let file = File::create(&output).with_context(|| output.display().to_string())?;
        let child = Command::new(std::env::current_exe()?)
            .arg("test")
            .args(parts)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()?;
        Ok(Self { child, output })
    }

    fn end(mut self) -> Result<String> {
        let status = self.child.wait()?;
        let text = std::fs::read(&self.output)?;
        println!("{}", String::from_utf8_lossy(&text));
        if !status.success() {
            bail!("{status}; its summary is above");
        }
        Ok("its summary is above".to_owned())
    }
}

/// The programs of the tests, and where the programs are that they run.
struct Built {
    binaries: Vec<Binary>,
    programs: PathBuf,
}

fn build(selection: &Selection, crates: &[String], summary: &mut Summary) -> Option<Built> {
    let mut chosen = selection.crates(crates);
    if chosen.is_empty() && (selection.has("demo") || selection.has("vhost")) {
        // For the programs that are built beside it.
        chosen.push(QUICK_LAUNCH);
    }
    let mut built = None;
    let _ = summary.step("build", || {
        let binaries = binaries::build(selection.has("unit"), &chosen)?;
        let programs = match (chosen.is_empty(), selection.released) {
            (true, _) => PathBuf::new(),
            (_, true) => tree::programs(&binaries::programs(&binaries))?,
            (_, false) => binaries::folder(&binaries)?,
        };
        let about = match chosen.is_empty() {
            true => String::new(),
            false => sizes(&programs)?,
        };
        built = Some(Built { binaries, programs });
        Ok(about)
    });
    built
}

/// Unit tests and whole-program tests.
fn test_programs(built: &Built, selection: &Selection, crates: &[String], summary: &mut Summary) {
    let chosen = selection.crates(crates);
    // As root everything can be had, so no test may skip; the summary reports what others skip.
    let strict = nix::unistd::geteuid().is_root() && selection.guests;
    let mut huge_pages = None;
    if !chosen.is_empty() && selection.guests {
        let _ = summary.optional("huge pages", strict, || {
            let before = Pool::now()?;
            let pages = Reservation::add(HUGE_PAGE_BYTES)?;
            let added = format!("{} added to {}", pages.added(), before.total);
            huge_pages = Some(pages);
            Ok(added)
        });
    }
    forget_matrices();
    let tests = built.binaries.iter().filter(|binary| binary.test);
    let (whole, units): (Vec<&Binary>, Vec<&Binary>) =
        tests.partition(|binary| binary.whole_programs);
    let mut run = |name: &str, tests: &[&Binary]| {
        let mut skips = Vec::new();
        let _ = summary.step(name, || binaries::run(tests, &built.programs, strict, &mut skips));
        summary.skipped(skips);
    };
    if selection.has("unit") {
        run("unit", &units);
    }
    for name in chosen {
        let tests = whole.iter().copied().filter(|binary| binary.name == name);
        run(name, &tests.collect::<Vec<_>>());
    }
    if selection.has("demo") {
        let _ = summary.step("demo", || demo(&built.programs));
    }
    if selection.has("vhost") {
        let _ = summary.step("vhost", || host_test::vhost(&built.programs));
    }
    for file in matrices() {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        println!("\n== fault matrix: {text}");
    }
}

/// In a process of its own, because it takes the terminal's signals.
fn demo(programs: &Path) -> Result<String> {
    let mut command = Command::new(std::env::current_exe()?);
    let status =
        command.arg("demo").arg("--programs").arg(programs).stdin(Stdio::null()).status()?;
    match status.success() {
        true => Ok(String::new()),
        false => bail!("{status}"),
    }
}

fn lints() -> Result<String> {
    let clippy = ["clippy", "--workspace", "--features", tree::EXECUTING_ENGINE];
    cargo(&[&clippy[..], &["--all-targets", "--", "-D", "warnings"]].concat())
}

fn doc() -> Result<String> {
    cargo(&["test", "--workspace", "--doc", "--features", tree::EXECUTING_ENGINE])
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
            .args(["check", "--package", "gunyahd", "--lib", "--bins", "--target", TARGET])
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
        assert!(all.released && all.guests && all.has("fuzz") && all.has("demo"));
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
