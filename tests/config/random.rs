// SPDX-License-Identifier: Apache-2.0
//! Random texts: none may panic, and every good one comes back as it was rendered.

use std::path::{Path, PathBuf};

use gunyahd::config::{changed_keys, parse, render, Places, VmConfig};
use gunyahd::diagnostic::Diagnostic;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde_json::{json, Map, Value};

use crate::reference::schema;
use crate::schema::faults;
use crate::text_of;

fn read(text: &str) -> Result<VmConfig, Vec<Diagnostic>> {
    parse(Path::new("x.json"), text)
}

/// Problems of a refused text point into it.
fn holds(text: &str) {
    let Err(problems) = read(text) else { return };
    assert!(!problems.is_empty());
    let lines: Vec<&str> = text.split('\n').collect();
    for problem in problems {
        let place = problem.place.as_ref().unwrap();
        let line = lines.get(place.line.saturating_sub(1));
        let line = line.unwrap_or_else(|| panic!("{problem}: no such line"));
        // One past the end is where something is missing.
        assert!(place.column <= line.chars().count() + 1, "{problem}");
        assert!(!problem.to_string().contains(['\n', '\0']), "{problem:?}");
    }
}

/// A change of a text: at a place, so many bytes go and others come.
fn edits() -> impl Strategy<Value = Vec<(usize, usize, String)>> {
    let token = prop_oneof![
        "[{}\\[\\]\",:0-9a-z\\\\.-]{0,3}",
        Just("null".to_owned()),
        Just("-1".to_owned()),
        Just("1e999".to_owned()),
        Just("99999999999999999999999".to_owned()),
        Just("\"\\ud800\"".to_owned()),
        Just("{}".to_owned()),
        Just("\u{feff}".to_owned()),
    ];
    vec((0..4096_usize, 0..12_usize, token), 1..4)
}

fn edited(text: &str, edits: &[(usize, usize, String)]) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for (at, gone, put) in edits {
        let start = at % (bytes.len() + 1);
        let end = (start + gone).min(bytes.len());
        bytes.splice(start..end, put.bytes());
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn size() -> impl Strategy<Value = Value> {
    prop_oneof![
        (1..2048_u64).prop_map(|mib| format!("{mib}M").into()),
        (1..512_u64).prop_map(|pages| (pages * 4096).into()),
        (1..512_u64).prop_map(|pages| format!("{:#x}", pages * 4096).into()),
        Just("1G".into()),
    ]
}

fn duration() -> impl Strategy<Value = Value> {
    prop_oneof![
        (1000..100_000_u64).prop_map(Value::from),
        (1000..100_000_u64).prop_map(|n| format!("{n}ms").into()),
        (1..1000_u64).prop_map(|n| format!("{n}s").into()),
        (1..24_u64).prop_map(|n| format!("{n}h").into()),
    ]
}

fn path() -> impl Strategy<Value = Value> {
    "(/[a-zA-Z0-9 ä_.-]{1,8}[a-z]){1,3}".prop_map(Value::from)
}

fn words(words: &'static [&'static str]) -> impl Strategy<Value = Value> {
    proptest::sample::select(words).prop_map(Value::from)
}

/// Pages, and a page size only with hugetlb.
fn pages() -> impl Strategy<Value = Vec<(&'static str, Value)>> {
    let lists = [
        json!(["hugetlb"]),
        json!(["hugetlb", "thp", "base"]),
        json!("thp"),
        json!(["base", "thp"]),
    ];
    (0..lists.len(), option::of(words(&["2M", "32M", "1G"]))).prop_map(move |(index, page)| {
        let mut keys = vec![("backing", lists[index].clone())];
        if let Some(page) = page.filter(|_| index < 2) {
            keys.push(("page_size", page));
        }
        keys
    })
}

fn object(keys: Vec<(&str, Option<Value>)>) -> Value {
    keys.into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect::<Map<_, _>>()
        .into()
}

fn memory() -> impl Strategy<Value = Value> {
    let access = words(&["auto", "share", "lend"]);
    (option::of(600..1024_u64), size(), pages(), option::of(access), option::of(any::<bool>()))
        .prop_map(|(base, size, pages, access, prefault)| {
            let base = base.map(|number| format!("{:#x}", number << 21).into());
            let mut keys = vec![
                ("base", base),
                ("size", Some(size)),
                ("access", access),
                ("prefault", prefault.map(Value::from)),
            ];
            keys.extend(pages.into_iter().map(|(key, value)| (key, Some(value))));
            object(keys)
        })
}

/// Regions one after the other, beyond any main memory.
fn regions() -> impl Strategy<Value = Value> {
    let region = (size(), pages(), option::of(words(&["r", "rw", "xwr"])), option::of(path()));
    vec(region, 0..4).prop_map(|regions| {
        let each = regions.into_iter().enumerate().map(|(index, (size, pages, flags, file))| {
            let mut keys = vec![
                ("label", Some((index + 1).into())),
                ("base", Some(format!("{:#x}", (8_u64 << 30) + ((index as u64) << 32)).into())),
                ("size", Some(size)),
                ("flags", flags),
                ("file", file),
            ];
            keys.extend(pages.into_iter().map(|(key, value)| (key, Some(value))));
            object(keys)
        });
        each.collect()
    })
}

fn scheduling() -> impl Strategy<Value = Vec<(&'static str, Value)>> {
    let bools = (any::<bool>(), any::<bool>(), any::<bool>());
    (1..5_u32, bools, -20..20_i8, "[a-zA-Z0-9 *:äß]{1,20}").prop_map(
        |(count, (proxy, bind, power_key), nice, line)| {
            let affinity: Vec<u32> = (0..if bind { count } else { 0 }).collect();
            let mut vcpus = json!({ "count": count, "affinity": affinity });
            if !proxy {
                return vec![("vcpus", vcpus)];
            }
            vcpus["scheduling"] = "proxy".into();
            vcpus["nice"] = nice.into();
            let console = json!({ "device": "16550", "label": count });
            vec![
                ("vcpus", vcpus),
                ("console", console),
                ("ready", json!({ "console_line": line })),
                (
                    "stop",
                    if power_key {
                        json!({ "power_key": true })
                    } else {
                        json!({ "console_line": line })
                    },
                ),
            ]
        },
    )
}

fn config() -> impl Strategy<Value = Value> {
    let start = (vec("[m-z][a-z0-9_-]{5,20}(:ready)?", 0..2), any::<i32>(), duration());
    let parts = (memory(), regions(), scheduling(), path(), option::of(path()), start, duration());
    ("[a-l][a-z0-9_-]{0,30}", "[ -~äß]{0,60}", parts).prop_map(|(name, cmdline, parts)| {
        let (memory, regions, scheduling, kernel, initrd, start, stop) = parts;
        let (after, priority, timeout) = start;
        let mut keys = vec![
            ("name", Some(name.into())),
            ("memory", Some(memory)),
            ("regions", Some(regions)),
            ("kernel", Some(json!({ "path": kernel, "cmdline": cmdline }))),
            ("initrd", initrd.map(|path| json!({ "path": path }))),
            ("start", Some(json!({ "priority": priority, "timeout": timeout }))),
            ("restart", Some(json!({ "window": stop }))),
            ("stop_timeout", Some(stop)),
        ];
        if let Some(first) = after.first() {
            keys.push(("start", Some(json!({ "after": [first] }))));
        }
        keys.extend(scheduling.into_iter().map(|(key, value)| (key, Some(value))));
        object(keys)
    })
}

/// Without what the text alone decides.
fn plain(config: VmConfig) -> VmConfig {
    VmConfig { file: PathBuf::new(), places: Places::default(), ..config }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in vec(any::<u8>(), 0..512)) {
        holds(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn any_json_like_text(text in "([{}\\[\\],:\"\n ]|\"[a-z]{0,4}\"|-?[0-9]{1,3}|true|null){0,60}") {
        holds(&text);
    }

    #[test]
    fn a_good_text_with_changes(edits in edits()) {
        holds(&edited(&text_of("docs/examples/full.json"), &edits));
    }

    #[test]
    fn a_good_config_comes_back(value in config()) {
        let first = match read(&value.to_string()) {
            Ok(config) => config,
            Err(problems) => return Err(TestCaseError::fail(format!("{value:#}\n{problems:#?}"))),
        };
        let rendered = render(&first);
        let again = read(&format!("{rendered:#}")).unwrap();
        prop_assert_eq!(changed_keys(&first, &again), [] as [String; 0]);
        prop_assert_eq!(plain(first), plain(again));
        prop_assert_eq!(faults(&schema(), &value), [] as [String; 0]);
        prop_assert_eq!(faults(&schema(), &serde_json::from_str(&rendered.to_string()).unwrap()), [] as [String; 0]);
    }
}

#[test]
fn changes_are_named_by_their_keys() {
    let text = text_of("docs/examples/full.json");
    let old = read(&text).unwrap();
    let new = text
        .replace("\"512M\"", "\"520M\"")
        .replace("\"priority\": 10,", "")
        .replace("\"offset\": \"256M\"", "\"offset\": 268435456");
    let changed = changed_keys(&old, &read(&new).unwrap());
    assert_eq!(changed, ["memory.size", "start.priority"]);
}
