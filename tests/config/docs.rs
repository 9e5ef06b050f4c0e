// SPDX-License-Identifier: Apache-2.0
//! The reference and the schema are made from the code's tables; the examples keep both.
//!
//! `GUNYAHD_WRITE_DOCS=1 cargo test -p gunyahd --test config` writes the schema, and the tables and
//! examples of docs/config.md.

use std::fs;
use std::path::Path;

use gunyahd::config::{parse, render, VmConfig};
use serde_json::Value;

use crate::schema::faults;
use crate::{reference, repository, text_of};

fn read(name: &str, text: &str) -> VmConfig {
    parse(Path::new(name), text).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// `text` with every part between the lines `<!-- begin NAME -->` and `<!-- end -->` made anew.
fn with_parts(text: &str, part: impl Fn(&str) -> String) -> String {
    const BEGIN: &str = "<!-- begin ";
    const END: &str = "<!-- end -->";
    let mut whole = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(BEGIN) {
        let (before, after) = rest.split_at(at);
        let (line, after) = after.split_once('\n').unwrap();
        let name = line[BEGIN.len()..].trim_end_matches(" -->");
        let end = after.find(END).unwrap_or_else(|| panic!("{line} has no end"));
        whole.push_str(&format!("{before}{line}\n{}", part(name)));
        rest = &after[end..];
    }
    whole + rest
}

/// A part of docs/config.md: the table of a section, or an example.
fn part(name: &str) -> String {
    match name.split_once(' ') {
        Some(("keys", section)) => reference::table(section),
        Some(("example", file)) => {
            format!("```json\n{}```\n", text_of(&format!("docs/examples/{file}")))
        }
        _ => match name {
            "keys" => reference::table(""),
            _ => panic!("nothing is called {name}"),
        },
    }
}

#[test]
fn reference_and_schema_are_those_of_the_tables() {
    let page = text_of("docs/config.md");
    let schema = format!("{:#}\n", reference::schema());
    for (path, found, wanted) in [
        ("docs/config.md", page.clone(), with_parts(&page, part)),
        ("docs/gunyah-vm.schema.json", text_of("docs/gunyah-vm.schema.json"), schema),
    ] {
        if std::env::var_os("GUNYAHD_WRITE_DOCS").is_some() {
            fs::write(repository(path), wanted).unwrap();
            continue;
        }
        let line = wanted.lines().zip(found.lines()).find(|(a, b)| a != b);
        assert!(
            wanted == found,
            "{path} is not what the tables say; write it with GUNYAHD_WRITE_DOCS=1: {line:#?}"
        );
    }
}

#[test]
fn the_reference_has_every_key() {
    let page = text_of("docs/config.md");
    for path in reference::keys() {
        assert!(page.contains(&format!("\n| `{path}` | ")), "{path}");
    }
}

#[test]
fn examples_are_read_and_keep_the_schema() {
    let mut count = 0;
    for entry in fs::read_dir(repository("docs/examples")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let config = read(&path.display().to_string(), &text);
        assert_eq!(faults(&reference::schema(), &json(&text)), [] as [String; 0], "{path:?}");
        assert_eq!(
            faults(&reference::schema(), &json(&render(&config).to_string())),
            [] as [String; 0],
            "{path:?}"
        );
        count += 1;
    }
    assert!(count >= 2);
}

#[test]
fn the_full_example_has_every_key() {
    fn has(node: &Value, path: &str) -> bool {
        let (step, rest) = path.split_once('.').unwrap_or((path, ""));
        let (key, list) = match step.strip_suffix("[]") {
            Some(key) => (key, true),
            None => (step, false),
        };
        match node.get(key) {
            Some(Value::Array(items)) if list => items.iter().any(|item| has(item, rest)),
            Some(node) => rest.is_empty() || has(node, rest),
            None => false,
        }
    }
    let full = json(&text_of("docs/examples/full.json"));
    for path in reference::keys() {
        assert!(has(&full, &path), "{path}");
    }
}

#[test]
fn schema_and_parser_refuse_the_same() {
    let full = json(&text_of("docs/examples/full.json"));
    for (path, wrong) in [
        ("/name", "5"),
        ("/memory/size", "true"),
        ("/memory/backing", "[]"),
        ("/memory/backing", r#"["thp", "thp"]"#),
        ("/memory/backing", r#""paper""#),
        ("/memory/access", r#""keep""#),
        ("/regions/0/label", "4294967296"),
        ("/kernel/format", r#""zip""#),
        ("/vcpus/count", "0"),
        ("/vcpus/count", "65"),
        ("/vcpus/affinity/0", "[]"),
        ("/vcpus/affinity/0/0", "1024"),
        ("/vcpus/nice", "20"),
        ("/console/interrupt", "988"),
        ("/console/device", r#""uart""#),
        ("/ready/console_line", r#""""#),
        ("/start/priority", "2147483648"),
        ("/restart/max", "0"),
        ("/restart/max", "1001"),
        ("/stop_timeout", "86400001"),
        ("/stop_timeout", "-1"),
        ("/kernel", "null"),
    ] {
        let mut config = full.clone();
        *config.pointer_mut(path).unwrap() = json(wrong);
        assert!(!faults(&reference::schema(), &config).is_empty(), "schema takes {path} {wrong}");
        assert!(parse(Path::new("x"), &config.to_string()).is_err(), "parser takes {path} {wrong}");
    }
}
