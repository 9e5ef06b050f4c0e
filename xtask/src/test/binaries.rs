// SPDX-License-Identifier: Apache-2.0
//! The tests' programs: built once, with one set of features for all, and run.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{bail, Context, Result};
use serde_json::Value;

use crate::tree;

/// A program that cargo built.
#[derive(Debug)]
pub struct Binary {
    /// Of the target: `gunyahd`, `nothing_lost`.
    pub name: String,
    path: PathBuf,
    /// The folder of its package, in which its tests run.
    package: PathBuf,
    /// Tests, in which case the harness is in it.
    pub test: bool,
    /// Tests that stand in `tests/`.
    pub whole_programs: bool,
}

/// The names of all test crates in `tests/` folders of the workspace, but for those with `test = false`, which need
/// what no set-up makes.
pub fn test_crates() -> Result<Vec<String>> {
    // Without dependencies, so that nothing has to be fetched.
    let text = tree::quiet(tree::cargo().args(["metadata", "--no-deps", "--format-version=1"]))?;
    let metadata: Value = serde_json::from_str(&text).context("cargo metadata")?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let targets = packages.flat_map(|package| package["targets"].as_array().into_iter().flatten());
    let tests = targets.filter(|target| target["kind"][0] == "test" && target["test"] == true);
    let mut names: Vec<String> =
        tests.filter_map(|target| Some(target["name"].as_str()?.to_owned())).collect();
    names.sort();
    Ok(names)
}

/// Builds unit tests and test crates with the programs beside them. Always of the whole workspace: a selection of
/// packages would change features of the dependencies, and build these once more.
pub fn build(unit: bool, crates: &[&str]) -> Result<Vec<Binary>> {
    let mut arguments = vec!["test", "--workspace", "--no-run"];
    arguments.extend(["--features", tree::EXECUTING_ENGINE]);
    if unit {
        arguments.extend(["--lib", "--bins"]);
    }
    for name in crates {
        arguments.extend(["--test", name]);
    }
    if !crates.is_empty() {
        // Cargo builds a package's programs for its test crates: this one's is the simulator.
        arguments.extend(["--test", "clocks"]);
    }
    let messages = tree::cargo_messages(&arguments)?;
    if !crates.is_empty() {
        // Some test crates run an example. With targets named, `cargo test` makes none but as a test.
        let examples = ["build", "--workspace", "--examples", "--features", tree::EXECUTING_ENGINE];
        tree::cargo_messages(&examples)?;
    }
    Ok(messages.iter().filter_map(binary).collect())
}

fn binary(message: &Value) -> Option<Binary> {
    let path = PathBuf::from(message["executable"].as_str()?);
    let kind = message["target"]["kind"][0].as_str()?;
    Some(Binary {
        name: message["target"]["name"].as_str()?.to_owned(),
        path,
        package: Path::new(message["manifest_path"].as_str()?).parent()?.to_owned(),
        test: message["profile"]["test"] == true,
        whole_programs: kind == "test",
    })
}

/// The programs among what was built.
pub fn programs(built: &[Binary]) -> Vec<&Path> {
    let programs = built.iter().filter(|binary| !binary.test);
    programs.map(|binary| binary.path.as_path()).collect()
}

/// The folder in which the programs are.
pub fn folder(built: &[Binary]) -> Result<PathBuf> {
    let program = built.iter().find(|binary| !binary.test).context("no program was built")?;
    Ok(program.path.parent().unwrap_or(Path::new(".")).to_owned())
}

/// Runs tests one after the other; `skips` gets the reasons of those that skip.
pub fn run(
    tests: &[&Binary],
    programs: &Path,
    strict: bool,
    skips: &mut Vec<String>,
) -> Result<String> {
    let mut counts = Counts::default();
    let mut failed = Vec::new();
    for test in tests {
        println!("   {} of {}", test.name, test.package.display());
        let mut command = Command::new(&test.path);
        command
            .current_dir(&test.package)
            .env("CARGO_MANIFEST_DIR", &test.package)
            .env("GUNYAHD_BIN_DIR", programs)
            .env("GUNYAHD_GUEST_DIR", tree::guest())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if strict {
            command.env("GUNYAHD_NO_SKIP", "1");
        }
        let mut child = command.spawn().with_context(|| test.path.display().to_string())?;
        let output = child.stdout.take().context("no stdout")?;
        let errors = child.stderr.take().context("no stderr")?;
        let errors = std::thread::spawn(|| pass_on(errors));
        for line in BufReader::new(output).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            counts.take(&line);
        }
        if !child.wait()?.success() {
            failed.push(test.name.as_str());
        }
        skips.extend(errors.join().unwrap_or_default());
    }
    let sum = format!(
        "{} passed, {} failed, {} ignored, {} skipped",
        counts.passed,
        counts.failed,
        counts.ignored,
        skips.len()
    );
    if !failed.is_empty()
        || counts.failed != 0
        || counts.ignored != 0
        || counts.binaries != tests.len()
    {
        bail!("{sum}; failed: {}", failed.join(", "));
    }
    Ok(sum)
}

/// Passes stderr on; the reasons of tests that skipped. Whatever a test prints: bytes, not text.
fn pass_on(stderr: impl Read) -> Vec<String> {
    let mut skips = Vec::new();
    for line in BufReader::new(stderr).split(b'\n').map_while(std::io::Result::ok) {
        let line = String::from_utf8_lossy(&line);
        eprintln!("{line}");
        // Tests on several threads write into each other's lines.
        if let Some((_, why)) = line.split_once("SKIPPED: ") {
            skips.push(why.trim_end().to_owned());
        }
    }
    skips
}

/// Counts from the lines with which libtest closes each program.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
    binaries: usize,
}

impl Counts {
    /// Takes in one line of output, if it is a closing line.
    fn take(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else {
            return;
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libtests_closing_lines_are_summed() {
        let mut counts = Counts::default();
        counts.take("test a::b ... ok");
        assert_eq!(counts, Counts::default());
        counts.take("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        counts.take("test result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.50s");
        let expected = Counts { passed: 5, failed: 4, ignored: 1, binaries: 2 };
        assert_eq!(counts, expected);
    }

    #[test]
    fn skips_are_kept_with_their_reasons() {
        let skips = pass_on(
            &b"SKIPPED: no huge pages are free\nwarning: \xff\ntest a ... SKIPPED: no cc\r\n"[..],
        );
        assert_eq!(skips, ["no huge pages are free", "no cc"]);
    }
}
