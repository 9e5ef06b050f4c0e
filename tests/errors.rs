// SPDX-License-Identifier: Apache-2.0
//! The kinds of errors and warnings: `docs/errors.md` is theirs, and a test raises each of them.

#![allow(clippy::unwrap_used)] // All of it is test.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use gunyahd::diagnostic::Severity;
use gunyahd::explain;

const HEAD: &str = "\
<!-- SPDX-License-Identifier: Apache-2.0 -->
<!-- Made from the program by tests/errors.rs: GUNYAHD_WRITE_DOCS=1 cargo test --test errors -->
# Errors and their cures

Every error and warning is one line, in the log, in `gunyahctl status`, in `vendor.gunyah.VM.reason` and from
`gunyahd check`:

    STEP or FILE:LINE:COLUMN: KEY: what is wrong: ERRNO (its meaning); likely cause: …; cure: … [NAME]

The name in brackets never changes its meaning. `gunyahd explain NAME` prints its entry on the device;
this page has all of them, by step. `gunyahctl log VM` shows the steps before the failed one, each with its
time. `gunyahd check FILE` on a workstation finds everything that needs no device, all at once.
";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `docs/errors.md`.
fn page() -> String {
    let mut page = HEAD.to_owned();
    let mut step = None;
    for kind in explain::kinds() {
        if step != Some(kind.step) {
            step = Some(kind.step);
            let _ = write!(
                page,
                "\n## {}\n\n| name | what is wrong | likely cause | cure |\n| --- | --- | --- | --- |\n",
                kind.step
            );
        }
        let warning = match kind.severity {
            Severity::Error => "",
            Severity::Warning => "warning: ",
        };
        let answers = kind
            .start_answers
            .map_or_else(String::new, |errno| format!(" (START would answer {errno:?})"));
        let _ = writeln!(
            page,
            "| `{}` | {warning}{}{answers} | {} | {} |",
            kind.name(),
            cell(&kind.summary()),
            cell(&kind.cause()),
            cell(&kind.cure())
        );
    }
    page
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}

#[test]
fn the_page_has_every_kind_as_the_program_has_it() {
    let path = root().join("docs/errors.md");
    let page = page();
    if std::env::var_os("GUNYAHD_WRITE_DOCS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let there = fs::read_to_string(path).unwrap();
    assert!(
        there == page,
        "docs/errors.md is not current: GUNYAHD_WRITE_DOCS=1 cargo test --test errors"
    );
}

#[test]
fn names_are_unique_plain_and_whole() {
    let mut names = BTreeSet::new();
    for kind in explain::kinds() {
        let name = kind.name();
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(name.chars().all(plain) && name.contains('-'), "{name}");
        assert!(names.insert(name.clone()), "{name} stands twice");
        assert!(!kind.summary().is_empty(), "{name} says nothing");
        assert!(!kind.cure().is_empty(), "{name} has no cure");
        for text in [kind.summary(), kind.cause(), kind.cure()] {
            assert!(!text.ends_with('.') && !text.contains('\n'), "{name}: {text}");
        }
        let entry = explain::explain(&name).unwrap();
        assert!(entry.starts_with(&name) && entry.contains(&kind.cure()), "{entry}");
    }
    assert!(names.len() > 100, "{}", names.len());
}

/// The text of every test: files of tests, and what stands behind `#[cfg(test)]` elsewhere.
fn test_code() -> String {
    let mut code = String::new();
    let mut folders: Vec<PathBuf> =
        ["src", "tests", "sim/tests"].iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let product = path.starts_with(root().join("src"));
            let name = path.file_stem().unwrap().to_str().unwrap();
            let whole = !product
                || ["test", "tests"].contains(&name)
                || name.ends_with("_test")
                || path.iter().any(|part| part == "tests");
            let tests = match whole {
                true => Some(text.as_str()),
                false => text.find("#[cfg(test)]").map(|at| &text[at..]),
            };
            code.push_str(tests.unwrap_or_default());
        }
    }
    code
}

#[test]
fn a_test_raises_each_kind() {
    let code = test_code();
    let part_of_a_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let words: BTreeSet<&str> = code.split(|c| !part_of_a_name(c)).collect();
    let names = explain::kinds().into_iter().map(|kind| kind.name());
    let missing: Vec<String> = names.filter(|name| !words.contains(name.as_str())).collect();
    assert_eq!(missing, Vec::<String>::new(), "no test names these");
}

#[test]
fn a_name_is_explained_and_a_slip_is_helped() {
    let near = explain::explain("no-chosen").unwrap_err();
    assert!(near.contains("did you mean dtb-no-chosen"), "{near}");
    // As it is copied from a message.
    assert!(explain::explain("[dtb-no-chosen]").unwrap().starts_with("dtb-no-chosen:"));
    let none = explain::explain("bananas").unwrap_err();
    assert!(none.contains("`gunyahd explain` lists all names"), "{none}");
    assert!(explain::list().lines().count() > 100);
}
