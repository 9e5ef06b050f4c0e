// SPDX-License-Identifier: Apache-2.0
//! The reference, the schema, the examples and the code say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use gunyahd::config::{parse, render, VmConfig, KEYS};
use serde_json::Value;

use crate::schema::{faults, is_required, keys, schema};
use crate::{repository, text_of};

fn read(name: &str, text: &str) -> VmConfig {
    parse(Path::new(name), text).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Keys of the code by their full path.
fn known_keys() -> BTreeSet<String> {
    KEYS.iter()
        .flat_map(|(object, keys)| {
            keys.iter().map(move |key| match *object {
                "" => (*key).to_owned(),
                _ => format!("{object}.{key}"),
            })
        })
        .collect()
}

/// A row of the reference's tables.
struct Row {
    default: String,
    example: String,
}

fn unquoted(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.strip_suffix('`')
}

fn rows() -> BTreeMap<String, Row> {
    let text = text_of("docs/config.md");
    let mut rows = BTreeMap::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let ["", key, _kind, default, _limits, example, _meaning, ""] = cells[..] else {
            continue;
        };
        let Some(key) = unquoted(key) else { continue };
        let row = Row {
            default: default.to_owned(),
            example: unquoted(example)
                .unwrap_or_else(|| panic!("{key} has no example"))
                .to_owned(),
        };
        assert!(
            rows.insert(key.to_owned(), row).is_none(),
            "{key} is told twice"
        );
    }
    rows
}

/// A config with every optional object, each left to its defaults.
fn all_defaults() -> Value {
    let text = r#"{
      "name": "a", "memory": { "size": "64M" }, "kernel": { "path": "/v/Image" },
      "initrd": { "path": "/v/initrd" }, "vcpus": { "scheduling": "proxy" }, "console": {}, "ready": {},
      "regions": [{ "label": 1, "base": "0xa0000000", "size": "1M" }],
      "start": { "property": { "name": "a", "value": "b" } }
    }"#;
    let mut value = render(&read("defaults", text));
    // Told only so that the console is allowed.
    value["vcpus"]["scheduling"] = "hypervisor".into();
    value
}

fn at<'a>(config: &'a Value, path: &str) -> Option<&'a Value> {
    let mut node = config;
    for step in path.split('.') {
        node = match step.strip_suffix("[]") {
            Some(list) => node.get(list)?.get(0)?,
            None => node.get(step)?,
        };
    }
    Some(node)
}

#[test]
fn reference_schema_and_code_have_the_same_keys() {
    let of_schema: BTreeSet<String> = keys(&schema()).into_keys().collect();
    let of_reference: BTreeSet<String> = rows().into_keys().collect();
    assert_eq!(known_keys(), of_schema, "code and schema");
    assert_eq!(known_keys(), of_reference, "code and docs/config.md");
}

#[test]
fn reference_schema_and_code_have_the_same_defaults() {
    let schema = schema();
    let defaults = all_defaults();
    let rows = rows();
    for (path, node) in keys(&schema) {
        let row = &rows[&path];
        if is_required(&schema, &path) {
            assert_eq!(row.default, "required", "{path}");
            continue;
        }
        if path == "regions" {
            assert_eq!(row.default, "`[]`");
            continue;
        }
        let of_code = at(&defaults, &path);
        if node["type"] == "object" {
            // `{}`: absent means its keys' defaults. None: absent means there is no such thing.
            let whole = render(&read("small", &text_of("docs/examples/small.json")));
            let implied = at(&whole, &path).is_some_and(Value::is_object) && path != "initrd";
            assert_eq!(row.default, if implied { "`{}`" } else { "none" }, "{path}");
            continue;
        }
        assert_eq!(node.get("default"), of_code, "{path}: schema and code");
        let of_reference = unquoted(&row.default).map(json);
        assert_eq!(
            of_reference.as_ref(),
            of_code,
            "{path}: docs/config.md and code"
        );
        if of_code.is_none() {
            assert_eq!(row.default, "none", "{path}");
        }
    }
}

#[test]
fn every_example_of_the_reference_is_read() {
    let full = json(&text_of("docs/examples/full.json"));
    for (path, row) in rows() {
        let mut config = full.clone();
        let mut node = &mut config;
        for step in path.split('.') {
            node = match step.strip_suffix("[]") {
                Some(list) => &mut node[list][0],
                None => &mut node[step],
            };
        }
        *node = json(&row.example);
        // Without its proxy or its console, the example lacks what others need.
        if ["vcpus", "console"].contains(&path.as_str()) {
            let object = config.as_object_mut().unwrap();
            object.retain(|key, _| {
                key == &path || !["console", "ready", "stop"].contains(&key.as_str())
            });
        }
        let faults = faults(&schema(), &config);
        assert!(faults.is_empty(), "{path}: {faults:#?}");
        read(&path, &config.to_string());
    }
}

#[test]
fn examples_are_read_and_keep_the_schema() {
    let mut count = 0;
    for entry in fs::read_dir(repository("docs/examples")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let config = read(&path.display().to_string(), &text);
        assert_eq!(
            faults(&schema(), &json(&text)),
            [] as [String; 0],
            "{path:?}"
        );
        assert_eq!(
            faults(&schema(), &render(&config)),
            [] as [String; 0],
            "{path:?}"
        );
        count += 1;
    }
    assert!(count >= 2);
}

#[test]
fn the_full_example_has_every_key() {
    let full = json(&text_of("docs/examples/full.json"));
    for key in known_keys() {
        let somewhere = at(&full, &key).is_some()
            || (key == "regions[].file" && full["regions"][1].get("file").is_some());
        assert!(somewhere, "{key}");
    }
}

#[test]
fn the_reference_shows_the_examples() {
    let text = text_of("docs/config.md");
    for name in ["docs/examples/small.json", "docs/examples/full.json"] {
        let shown = format!("<!-- {name} -->\n```json\n{}```\n", text_of(name));
        assert!(
            text.contains(&shown),
            "{name} is not what docs/config.md shows"
        );
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
        assert!(
            !faults(&schema(), &config).is_empty(),
            "schema takes {path} {wrong}"
        );
        assert!(
            parse(Path::new("x"), &config.to_string()).is_err(),
            "parser takes {path} {wrong}"
        );
    }
}
