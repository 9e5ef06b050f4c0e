// SPDX-License-Identifier: Apache-2.0
//! The tree, and the programs of this machine that a test needs.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::skip::skip;

/// True if all of `names` are on PATH. Otherwise the test is skipped.
pub fn present(names: &[&str]) -> bool {
    let missing: Vec<&&str> = names.iter().filter(|name| !on_path(name)).collect();
    if missing.is_empty() {
        return true;
    }
    skip(&format!("not installed: {missing:?}"));
    false
}

/// Whether a program is on PATH.
pub fn on_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

/// The root of the tree.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the tree.
pub fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Files of a folder of the tree whose names end in `.extension`, sorted.
pub fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    found.sort();
    found
}

/// Names in the tables of Cargo.toml whose headings begin with one of `tables`.
pub fn dependencies(tables: &[&str]) -> Vec<String> {
    let mut within = false;
    let mut found = Vec::new();
    for line in read("Cargo.toml").lines() {
        if line.starts_with('[') {
            let chosen = tables.iter().any(|table| line.starts_with(table));
            within = chosen && line.ends_with("dependencies]");
        } else if let (true, Some((name, _))) = (within, line.split_once(" = ")) {
            found.push(name.to_owned());
        }
    }
    assert!(found.len() >= 8, "{found:?}");
    found
}

/// Runs a program; what it prints, or what it complains about.
pub fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
