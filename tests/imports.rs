// SPDX-License-Identifier: Apache-2.0
//! Arrows only down: a folder of `src` imports only what stands below it in the picture of
//! `docs/architecture.md`.

#![allow(clippy::unwrap_used)] // All of it is test.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// The folders in the picture's order, the topmost first.
fn picture() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let picture = page.split("```layers\n").nth(1).unwrap();
    let picture = picture.split("```").next().unwrap();
    let name = |line: &str| line.split_whitespace().next().map(str::to_owned);
    picture.lines().filter_map(name).collect()
}

/// The folder of `src` or the file beside them that `path` belongs to.
fn folder(path: &Path) -> String {
    let first = path.iter().next().unwrap().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The product's source, tests apart: path below `src`, text.
fn sources() -> Vec<(PathBuf, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![src.clone()];
    let mut sources = Vec::new();
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap();
            let test = ["test", "tests", "fixture"].contains(&name) || name.ends_with("_test");
            if test {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                sources.push((path.strip_prefix(&src).unwrap().to_owned(), text));
            }
        }
    }
    sources
}

/// What the text imports of this crate, by `crate::` or by more `super::` than its folder is deep.
fn imports(path: &Path, text: &str) -> BTreeSet<String> {
    // Test modules stand last and may look anywhere.
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap();
    let is_root = path.file_name().is_some_and(|name| name == "mod.rs");
    let to_crate = path.iter().count() - usize::from(is_root);
    let arrow = Regex::new(r"crate::\{?(\w+)|((?:super::)+)(\w+)").unwrap();
    let mut found = BTreeSet::new();
    for line in code.lines().filter(|line| !line.trim().starts_with("//")) {
        for arrow in arrow.captures_iter(line) {
            let name = match (arrow.get(1), arrow.get(2), arrow.get(3)) {
                (Some(name), _, _) => name,
                (_, Some(supers), Some(name))
                    if supers.as_str().matches("super").count() >= to_crate =>
                {
                    name
                }
                _ => continue,
            };
            found.insert(name.as_str().to_owned());
        }
    }
    found
}

/// Every arrow that does not point down, and every folder that the picture does not have.
fn faults(order: &[String], sources: &[(PathBuf, String)]) -> Vec<String> {
    let place = |name: &str| order.iter().position(|folder| folder == name);
    let mut faults = BTreeSet::new();
    for (path, text) in sources {
        let from = folder(path);
        // The crate's root and the programs stand above all.
        if ["lib", "main", "bin"].contains(&from.as_str()) {
            continue;
        }
        let Some(at) = place(&from) else {
            faults.insert(format!("{from} is not in the picture"));
            continue;
        };
        for to in imports(path, text) {
            // Macros and functions of the crate's root have no place.
            if to != from && place(&to).is_some_and(|below| below < at) {
                faults.insert(format!("{} imports {to}, which is above", path.display()));
            }
        }
    }
    faults.into_iter().collect()
}

#[test]
fn arrows_point_down() {
    let order = picture();
    let sources = sources();
    assert!(sources.len() > 60, "{}", sources.len());
    assert_eq!(faults(&order, &sources), Vec::<String>::new());
    // Nothing in the picture that is not there.
    let there: BTreeSet<String> = sources.iter().map(|(path, _)| folder(path)).collect();
    for name in &order {
        assert!(there.contains(name), "{name} is in the picture alone");
    }
}

#[test]
fn a_planted_arrow_upward_is_found() {
    let order = picture();
    let plant = |path: &str, text: &str| {
        let mut sources = sources();
        sources.push((path.into(), text.to_owned()));
        faults(&order, &sources)
    };
    for (path, text, fault) in [
        (
            "config/planted.rs",
            "use crate::plan::Host;",
            "config/planted.rs imports plan, which is above",
        ),
        (
            "image/deep/planted.rs",
            "fn f() { crate::memory::host(); }",
            "image/deep/planted.rs imports memory, which is above",
        ),
        ("dtb/mod.rs", "use super::console::Port;", "dtb/mod.rs imports console, which is above"),
        ("text.rs", "use super::config;", "text.rs imports config, which is above"),
        ("novelty/mod.rs", "", "novelty is not in the picture"),
    ] {
        assert_eq!(plant(path, text), [fault], "{text}");
    }
    let below = plant("plan/planted.rs", "use crate::config::VmConfig;");
    assert_eq!(below, Vec::<String>::new());
}
