// SPDX-License-Identifier: Apache-2.0
//! `docs/conformance.md` has the table that `--list` prints, row by row.

#![allow(clippy::unwrap_used)] // All of it is test.

use std::process::{Command, Output};

fn conform(options: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gunyah-conform")).args(options).output().unwrap()
}

fn rows(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.starts_with("| `")).collect()
}

#[test]
fn the_page_has_the_binarys_table() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/conformance.md");
    let page = std::fs::read_to_string(page).unwrap();
    let output = conform(&["--list"]);
    assert!(output.status.success());
    let list = String::from_utf8(output.stdout).unwrap();
    let (page, list) = (rows(&page), rows(&list));
    assert!(list.len() > 150, "only {} rules", list.len());
    for row in &list {
        assert!(page.contains(row), "not in the page:\n{row}");
    }
    for row in &page {
        assert!(list.contains(row), "no such rule:\n{row}");
    }
    assert_eq!(page, list, "another order");
}

#[test]
fn what_cannot_begin_says_so() {
    for (options, word) in [
        (&["--bogus"][..], "--bogus"),
        (&["--dialect", "moon"], "qcom-b2"),
        (&["--only", "no.such"], "--list"),
    ] {
        let output = conform(options);
        assert_eq!(output.status.code(), Some(2), "{options:?}");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains(word), "{options:?}: {told}");
    }
}

#[test]
fn a_device_that_is_not_there_is_the_dialect_none() {
    let output = conform(&["--device", "/nonexistent/gunyah"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "none.open: holds\n1 passed, 0 failed, 0 skipped; of 1 rules 0 come from the real stack, 1 from \
         source, 0 from inference\n"
    );
}
