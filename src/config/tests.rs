// SPDX-License-Identifier: Apache-2.0
//! Whole files: what is read, and what is said about mistakes.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::diagnostic::Diagnostic;

const SMALL: &str =
    r#"{ "name": "a", "memory": { "size": "64M" }, "kernel": { "path": "/v/Image" } }"#;

fn read(text: &str) -> Result<VmConfig, Vec<Diagnostic>> {
    parse(Path::new("a.json"), text)
}

/// [`SMALL`] with further keys.
fn with(keys: &str) -> String {
    format!(
        "{},\n{keys} }}",
        SMALL.trim_end_matches(" }").to_owned() + " }"
    )
}

fn problems(text: &str) -> Vec<String> {
    match read(text) {
        Ok(config) => panic!("was read: {config:?}"),
        Err(problems) => problems.iter().map(Diagnostic::to_string).collect(),
    }
}

#[test]
fn a_small_file_gets_the_defaults() {
    let config = read(SMALL).unwrap();
    assert_eq!(config.name.as_str(), "a");
    assert!(config.autostart);
    assert_eq!(config.memory.base, 0x8000_0000);
    assert_eq!(config.memory.size, 64 << 20);
    assert_eq!(config.memory.backing, [Backing::Hugetlb]);
    assert_eq!(config.dtb.room, 64 << 10);
    assert_eq!(config.vcpus.count, 1);
    assert_eq!(config.restart.policy, RestartPolicy::OnFailure);
    assert_eq!(config.stop_timeout, Duration::from_secs(10));
    for (key, column) in [("memory.size", 28), ("memory.base", 16), ("restart.max", 1)] {
        let place = config.place(key);
        assert_eq!((place.line, place.column), (1, column), "{key}");
        assert_eq!(place.key, key);
    }
}

#[test]
fn every_mistake_is_told_at_once() {
    let text = r#"{
  "name": "Loud",
  "autostart": "yes",
  "memory": { "size": "64MB", "base": "0x80001000" },
  "kernel": { "path": "Image", "cmd_line": "quiet" },
  "vcpus": { "count": 0, "count": 2 },
  "stop_timeout": 1.5,
  "initrd": null
}"#;
    let expected = [
        "a.json:2:3: name: \"Loud\" is no VM name: 1 to 31 of a-z, 0-9, _ and -, a letter first",
        "a.json:3:3: autostart: wants true or false, found the string \"yes\"",
        "a.json:4:15: memory.size: wants a size, an integer or a string like \"256M\", found \"64MB\"; units are binary: write \"64M\"",
        "a.json:4:31: memory.base: 0x80001000 is not a multiple of 2M; the nearest are 0x80000000 and 0x80200000",
        "a.json:5:15: kernel.path: wants an absolute path, one that begins with /, found \"Image\"",
        "a.json:5:32: kernel.cmd_line: unknown key; did you mean `cmdline`?",
        "a.json:6:14: vcpus.count: wants a whole number from 1 to 64, found the number 0",
        "a.json:6:26: vcpus.count: given twice, first at 6:14; remove one of them",
        "a.json:7:3: stop_timeout: wants a whole number without fraction or exponent, found 1.5",
        "a.json:8:3: initrd: wants an object {…}, found null (leave the key out to get its default)",
    ];
    assert_eq!(problems(text), expected);
}

#[test]
fn one_mistake_each() {
    for (keys, message) in [
        // Types and words.
        (
            r#""autostart": 1"#,
            "autostart: wants true or false, found the number 1",
        ),
        (
            r#""regions": {}"#,
            "regions: wants a list […], found an object",
        ),
        (
            r#""restart": { "policy": "on_failure" }"#,
            "did you mean \"on-failure\"?",
        ),
        (
            r#""restart": { "policy": "sometimes" }"#,
            "wants one of \"on-failure\", \"never\", \"always\", found \"sometimes\"",
        ),
        (
            r#""cmdline": "x""#,
            "cmdline: unknown key; did you mean `kernel.cmdline`?",
        ),
        // Durations.
        (r#""stop_timeout": "10""#, "wants a duration"),
        (r#""stop_timeout": "s""#, "wants a duration"),
        (r#""stop_timeout": -1"#, "must not be negative, found -1"),
        (
            r#""stop_timeout": "99999999999999999999h""#,
            "wants 0ms to 24h",
        ),
        (
            r#""start": { "timeout": 0 }"#,
            "wants 1ms to 24h, found the number 0",
        ),
        // Devicetree, initrd.
        (
            r#""dtb": { "room": 100 }"#,
            "dtb.room: wants 4K to 1M, found 100",
        ),
        (
            r#""dtb": { "room": 5000 }"#,
            "0x1388 is not a multiple of 4K",
        ),
        (
            r#""dtb": { "offset": "64M" }"#,
            "dtb.offset: 0x4000000 is beyond main memory, which has 64M",
        ),
        (r#""initrd": { }"#, "initrd.path: missing"),
        (r#""initrd": { "path": "/a/../b" }"#, "must not have `..`"),
        (r#""initrd": { "path": "/a\u0000b" }"#, "has a NUL"),
        (
            r#""initrd": { "path": "/a\nb\u001b[31m" }"#,
            "has a control character, which is not allowed, found \"/a\\nb\\u{1b}[31m\"",
        ),
        (r#""initrd": { "path": "/a/" }"#, "not a directory"),
        // vCPUs, console, ready.
        (
            r#""vcpus": { "nice": 3 }"#,
            "vcpus.nice: is for the threads of proxy",
        ),
        (
            r#""vcpus": { "affinity": [1, 2] }"#,
            "has 2 entries for 1 vCPUs",
        ),
        (
            r#""vcpus": { "affinity": [[1, 2]] }"#,
            "vcpus.affinity[0]: has 2 host CPUs",
        ),
        (
            r#""vcpus": { "affinity": ["1"] }"#,
            "wants a host CPU or a list of them",
        ),
        (r#""vcpus": { "affinity": [[]] }"#, "names no host CPU"),
        (r#""vcpus": { "affinity": [1024] }"#, "from 0 to 1023"),
        (
            r#""vcpus": { "count": 4, "scheduling": "proxy", "affinity": [[1], [2]] }"#,
            "one for all or one for each",
        ),
        (r#""console": {}"#, "console: needs proxy-scheduled vCPUs"),
        (
            r#""vcpus": { "scheduling": "proxy" }, "console": { "base": "0x50000000" }"#,
            "is not in device space",
        ),
        (
            r#""vcpus": { "scheduling": "proxy" }, "console": { "interrupt": 988 }"#,
            "from 0 to 987",
        ),
        (
            r#""vcpus": { "scheduling": "proxy", "count": 2 }, "console": { "base": "0x3ffb0000" }"#,
            "console.base: 0x3ffb0000 lies in the interrupt controller",
        ),
        (r#""ready": { "console_line": "up" }"#, "the VM has none"),
        (
            r#""stop": { "console_line": "off" }"#,
            "stop.console_line: is typed on a console, and the VM has none",
        ),
        (r#""stop": { }"#, "stop.console_line: missing"),
        // Start and restart.
        (r#""start": { "after": ["a"] }"#, "a would wait for itself"),
        (
            r#""start": { "after": ["b", "b:ready"] }"#,
            "start.after[1]: names b twice",
        ),
        (
            r#""start": { "after": ["b:up"] }"#,
            "or \"name:ready\", found \"b:up\"",
        ),
        (
            r#""start": { "property": { "name": "a..b", "value": "1" } }"#,
            "two dots in a row",
        ),
        (
            r#""start": { "property": { "name": ".a", "value": "1" } }"#,
            "begin or end with a dot",
        ),
        (
            r#""start": { "property": { "name": "a b", "value": "1" } }"#,
            "has ' '",
        ),
        (
            r#""start": { "property": { "name": "a", "value": "" } }"#,
            "start.property.value: must not be empty",
        ),
        (
            r#""restart": { "backoff": "2m" }"#,
            "restart.backoff: 2m is more than backoff_max, 1m",
        ),
        (r#""restart": { "max": 1001 }"#, "from 1 to 1000"),
        // Regions.
        (
            r#""regions": [{ "label": 0, "base": "0xa0000000", "size": "1M" }]"#,
            "regions[0].label: 0 is the label of memory too",
        ),
        (
            r#""regions": [{ "label": 1, "base": "0x83000000", "size": "64M" }]"#,
            "regions[0].base: 0x83000000+64M overlaps 0x80000000+64M of memory",
        ),
        (
            r#""regions": [{ "label": 1, "base": "0x9000000", "size": "1M" }]"#,
            "is device space",
        ),
        (
            r#""regions": [{ "label": 1, "base": "0xffff00000", "size": "2M" }]"#,
            "beyond the 36 bits",
        ),
        (
            r#""regions": [{ "label": 1, "base": "0xfffffffffffff000", "size": "1M" }]"#,
            "beyond the 36 bits",
        ),
        (
            r#""regions": [{ "label": 1, "base": 4097, "size": "1M" }]"#,
            "0x1001 is not a multiple of 4K",
        ),
        (
            r#""regions": [{ "label": 1, "base": "a0000000", "size": "1M" }]"#,
            "wants an address",
        ),
        (
            r#""regions": [{ "label": 1, "base": "80000000", "size": "1M" }]"#,
            "may be meant decimal or hexadecimal",
        ),
        (
            r#""regions": [{ "label": 1, "base": "0xa0000000", "size": 0 }]"#,
            "regions[0].size: wants 4K to 64G, found 0",
        ),
        (
            r#""regions": [{ "label": 1, "base": "0xa0000000", "size": "1M", "flags": "rr" }]"#,
            "has r twice",
        ),
        (
            r#""regions": [{ "label": 1, "base": "0xa0000000", "size": "1M", "flags": "" }]"#,
            "must not be empty",
        ),
        (
            r#""regions": [{ "label": 1, "base": "0xa0000000", "size": "1M", "backing": [] }]"#,
            "at least one of",
        ),
        (
            r#""regions": [{ "label": 1, "base": "0xa0000000", "size": "1M", "page_size": "2M" }]"#,
            "is for hugetlb",
        ),
        (
            r#""regions": [{ "label": 4294967296, "base": "0xa0000000", "size": "1M" }]"#,
            "from 0 to 4294967295",
        ),
    ] {
        let found = problems(&with(keys));
        println!("CASE|{keys}|{message}|{}", found.join("@@"));
    }
}

#[test]
fn mistakes_of_main_memory() {
    for (memory, message) in [
        (r#"{ }"#, "memory.size: missing, and it has no default"),
        (r#"{ "size": "1.5G" }"#, "write it whole, in a smaller unit"),
        (
            r#"{ "size": 1e9 }"#,
            "without fraction or exponent, found 1e9",
        ),
        (
            r#"{ "size": "99999999999G" }"#,
            "larger than 64 bits can hold",
        ),
        (
            r#"{ "size": 99999999999999999999 }"#,
            "larger than 64 bits can hold",
        ),
        (r#"{ "size": "65G" }"#, "wants 4K to 64G, found 65G"),
        (r#"{ "size": "-1M" }"#, "a size is not negative"),
        (r#"{ "size": "M" }"#, "wants a size"),
        (r#"{ "size": "256 m" }"#, "write \"256M\""),
        (
            r#"{ "size": 4097 }"#,
            "0x1001 is not a multiple of 4K; the nearest are 0x1000 and 0x2000",
        ),
        (
            r#"{ "size": "64M", "base": "0xfffffffffff00000" }"#,
            "0xfffffffffff00000 is not a multiple of 2M; and guest addresses end at 0x1000000000",
        ),
        (
            r#"{ "size": "64M", "base": "0x100000" }"#,
            "the nearest is 0x200000",
        ),
        (
            r#"{ "size": "64M", "base": "0x" }"#,
            "hexadecimal digits after 0x",
        ),
        (
            r#"{ "size": "64M", "base": "0x10000000000000000" }"#,
            "larger than 64 bits",
        ),
        (
            r#"{ "size": "64M", "base": "0x40000000" }"#,
            "is device space, guest memory begins at 0x40001000",
        ),
        (
            r#"{ "size": "64M", "base": 68717379584 }"#,
            "beyond the 36 bits",
        ),
        (
            r#"{ "size": "64M", "backing": "hugetbl" }"#,
            "did you mean \"hugetlb\"?",
        ),
        (
            r#"{ "size": "64M", "backing": ["thp", "thp"] }"#,
            "memory.backing[1]: names \"thp\" twice",
        ),
        (
            r#"{ "size": "64M", "page_size": "3M" }"#,
            "3M is no huge page size, wants one of 2M, 32M, 512M, 1G",
        ),
        (
            r#"{ "size": "64M", "prefault": null }"#,
            "found null (leave the key out",
        ),
        (
            r#"{ "size": [64] }"#,
            "wants a size, an integer or a string like \"256M\", found a list of 1",
        ),
    ] {
        let text =
            format!(r#"{{ "name": "a", "memory": {memory}, "kernel": {{ "path": "/v/Image" }} }}"#);
        let found = problems(&text);
        println!("CASE|{memory}|{message}|{}", found.join("@@"));
    }
}

#[test]
fn sizes_addresses_and_durations_have_several_forms() {
    for size in [
        "67108864",
        "\"64M\"",
        "\"64MiB\"",
        "\"65536K\"",
        "\"0x4000000\"",
        "\"67108864\"",
    ] {
        let text = SMALL.replace("\"64M\"", size);
        assert_eq!(read(&text).unwrap().memory.size, 64 << 20, "{size}");
    }
    for base in ["2147483648", "\"0x80000000\"", "\"0X80000000\""] {
        let text = SMALL.replace("{ \"size\"", &format!("{{ \"base\": {base}, \"size\""));
        assert_eq!(read(&text).unwrap().memory.base, 0x8000_0000, "{base}");
    }
    for (text, milliseconds) in [
        ("1500", 1500),
        ("\"1500ms\"", 1500),
        ("\"2m\"", 120_000),
        ("0", 0),
    ] {
        let config = read(&with(&format!("\"stop_timeout\": {text}"))).unwrap();
        assert_eq!(
            config.stop_timeout,
            Duration::from_millis(milliseconds),
            "{text}"
        );
    }
}

#[test]
fn long_values_are_refused_and_shortened_in_messages() {
    let long = "x".repeat(2048);
    let text = SMALL.replace(
        "\"/v/Image\"",
        &format!("\"/v/Image\", \"cmdline\": \"{long}\""),
    );
    assert!(problems(&text)[0].contains("has 2048 bytes, at most 2047 are possible"));
    let fits = text.replace(&long, &long[1..]);
    assert_eq!(read(&fits).unwrap().kernel.cmdline.len(), 2047);
    let name = problems(&SMALL.replace("\"a\"", &format!("\"{long}\"")));
    assert!(name[0].len() < 200, "{name:?}");
    assert!(
        problems(&SMALL.replace("/v/Image", "/v/Image\", \"cmdline\": \"a\\nb"))[0]
            .contains("control character '\\n'")
    );
}

#[test]
fn a_file_of_rubbish_gives_a_bounded_list() {
    let keys: String = (0..60_000).map(|n| format!("\"k{n}\": 0,")).collect();
    let found = problems(&format!("{{ {keys} \"name\": \"a\" }}"));
    assert_eq!(found.len(), 101);
    assert!(found[100].contains("more problems"), "{}", found[100]);
}

#[test]
fn not_an_object() {
    assert_eq!(
        problems("[]"),
        ["a.json:1:1: wants an object {…}, found a list of 0"]
    );
    assert_eq!(problems(" \n"), ["a.json:2:1: the file is empty"]);
}

#[test]
fn regions_may_touch_and_not_overlap() {
    // Main memory is 0x80000000 to 0x84000000.
    for (base, size, fits) in [
        ("0x7fff0000", "64K", true),
        ("0x7fff0000", "68K", false),
        ("0x7fff0000", "128M", false),
        ("0x80000000", "4K", false),
        ("0x83fff000", "4K", false),
        ("0x84000000", "4K", true),
        ("0x40001000", "4K", true),
        ("0x40000000", "4K", false),
        ("0xffffff000", "4K", true),
        ("0xffffff000", "8K", false),
    ] {
        let region = format!(r#"{{ "label": 1, "base": "{base}", "size": "{size}" }}"#);
        let result = read(&with(&format!("\"regions\": [{region}]")));
        assert_eq!(result.is_ok(), fits, "{base}+{size}: {result:?}");
    }
}

#[test]
fn names_that_are_none() {
    let long = "a".repeat(32);
    let huge = "a".repeat(4096);
    for name in [
        "", "A", "1a", "-a", "a.b", "a/b", "a b", "ä", "a\\u0000", "..", &long, &huge,
    ] {
        let found = problems(&SMALL.replace("\"a\"", &format!("\"{name}\"")));
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].starts_with("a.json:1:3: name: "), "{found:#?}");
        assert!(found[0].len() < 200, "{found:#?}");
    }
    for name in ["a", "a-1_b", &long[1..]] {
        let text = SMALL.replace("\"a\"", &format!("\"{name}\""));
        assert_eq!(read(&text).unwrap().name.as_str(), name);
    }
}
