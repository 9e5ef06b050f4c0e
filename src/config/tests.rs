// SPDX-License-Identifier: Apache-2.0
//! Whole files: what is read, and what is reported of mistakes.

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
    format!("{},\n{keys} }}", SMALL.trim_end_matches(" }").to_owned() + " }")
}

fn problems(text: &str) -> Vec<String> {
    match read(text) {
        Ok(config) => panic!("was read: {config:?}"),
        Err(problems) => problems.iter().map(Diagnostic::to_string).collect(),
    }
}

/// `text` has one mistake, of this name, with this in its message.
fn one(name: &str, text: &str, message: &str, found: &[String]) {
    let [found] = found else { panic!("{text}: {found:#?}") };
    assert!(
        found.contains(message) && found.ends_with(&format!(" [{name}]")),
        "{text}\n  expected: {message} [{name}]\n  found:    {found}"
    );
}

#[test]
fn a_small_file_gets_the_defaults() {
    let config = read(SMALL).unwrap();
    assert_eq!(config.name.as_str(), "a");
    assert!(config.autostart);
    assert_eq!(config.memory.base, 0x8000_0000);
    assert_eq!(config.memory.size, 64 << 20);
    assert_eq!(config.memory.backing, [None]);
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
fn what_only_other_launchers_do_is_named() {
    for key in ["qtvm", "auth", "vm-id", "pas_id"] {
        let text = with(&format!(r#""{key}": 1"#));
        one("config-authenticated", &text, "authenticated VMs (QTVM)", &problems(&text));
    }
    let text = SMALL.replace("\"64M\"", r#""64M", "backing": "cma""#);
    one("config-cma", &text, "memory.backing: gunyahd does not make", &problems(&text));
    let text = SMALL.replace("\"64M\"", r#""64M", "backing": ["CMA", "base"]"#);
    one("config-cma", &text, "memory.backing[0]: gunyahd", &problems(&text));
}

#[test]
fn every_mistake_is_reported_at_once() {
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
        "a.json:2:3: name: expected 1 to 31 of a-z, 0-9, _ and -, a letter first, found \"Loud\"; cure: see the limits of the key in docs/config.md [config-value]",
        "a.json:3:3: autostart: expected true or false, found the string \"yes\"; cure: see the type of the key in docs/config.md [config-type]",
        "a.json:4:15: memory.size: expected a size, which is an integer or a string like \"256M\", found \"64MB\"; cure: units are binary: write \"64M\" [config-value]",
        "a.json:4:31: memory.base: 0x80001000 is not a multiple of 2M; cure: the nearest are 0x80000000 and 0x80200000 [config-value]",
        "a.json:5:15: kernel.path: expected an absolute path, which begins with /, found \"Image\"; cure: see the limits of the key in docs/config.md [config-value]",
        "a.json:5:32: kernel.cmd_line: unknown key; cure: did you mean `cmdline`? [config-unknown-key]",
        "a.json:6:14: vcpus.count: expected a whole number from 1 to 64, found 0; cure: see the limits of the key in docs/config.md [config-value]",
        "a.json:6:26: vcpus.count: given twice, first at 6:14; cure: remove one of them [config-twice]",
        "a.json:7:3: stop_timeout: expected a whole number without fraction or exponent, found 1.5; cure: see the limits of the key in docs/config.md [config-value]",
        "a.json:8:3: initrd: expected an object {…}, found null (leave the key out to get its default); cure: see the type of the key in docs/config.md [config-type]",
    ];
    assert_eq!(problems(text), expected);
}

#[test]
fn one_mistake_each() {
    for (name, keys, message) in [
        // Types and words.
        ("config-type", r#""autostart": 1"#, "autostart: expected true or false, found the number 1"),
        ("config-type", r#""regions": {}"#, "regions: expected a list […], found an object"),
        ("config-value", r#""restart": { "policy": "on_failure" }"#, "did you mean \"on-failure\"?"),
        ("config-value", r#""restart": { "policy": "sometimes" }"#, "restart.policy: expected one of \"on-failure\", \"never\", \"always\", found \"sometimes\""),
        ("config-unknown-key", r#""cmdline": "x""#, "cmdline: unknown key"),
        // Durations.
        ("config-value", r#""stop_timeout": "10""#, "stop_timeout: expected a duration, which is a number of milliseconds or a string like \"500ms\", \"10s\", \"5m\", found \"10\""),
        ("config-value", r#""stop_timeout": "s""#, "stop_timeout: expected a duration, which is a number of milliseconds or a string like \"500ms\", \"10s\", \"5m\", found \"s\""),
        ("config-value", r#""stop_timeout": -1"#, "must not be negative, found -1"),
        ("config-value", r#""stop_timeout": "99999999999999999999h""#, "stop_timeout: is larger than 64 bits can hold, found \"99999999999999999999h\""),
        ("config-value", r#""stop_timeout": "25h""#, "stop_timeout: expected 0ms to 24h, found 25h"),
        ("config-value", r#""start": { "timeout": 0 }"#, "start.timeout: expected 1ms to 24h, found 0"),
        // Devicetree, initrd.
        ("config-value", r#""dtb": { "room": 100 }"#, "dtb.room: expected 4K to 1M, found 100"),
        ("config-value", r#""dtb": { "room": 5000 }"#, "0x1388 is not a multiple of 4K"),
        ("config-beyond", r#""dtb": { "offset": "64M" }"#, "dtb.offset: 0x4000000 is beyond main memory, which has 64M"),
        ("config-missing", r#""initrd": { }"#, "initrd.path: missing"),
        ("config-value", r#""initrd": { "path": "/a/../b" }"#, "must not have `..`"),
        ("config-value", r#""initrd": { "path": "/a\u0000b" }"#, "initrd.path: must not have the control character '\\0', found \"/a\\0b\""),
        ("config-value", r#""initrd": { "path": "/a\nb\u001b[31m" }"#, "initrd.path: must not have the control character '\\n', found \"/a\\nb\\u{1b}[31m\""),
        ("config-value", r#""initrd": { "path": "/a/" }"#, "not a directory"),
        // vCPUs, console, ready.
        ("config-conflict", r#""vcpus": { "scheduling": "hypervisor", "nice": 3 }"#, "vcpus.nice: is for the threads of proxy"),
        ("config-conflict", r#""vcpus": { "affinity": [1, 2] }"#, "has 2 entries for 1 vCPU"),
        ("config-conflict", r#""vcpus": { "scheduling": "hypervisor", "affinity": [[1, 2]] }"#, "vcpus.affinity[0]: has 2 host CPUs"),
        ("config-type", r#""vcpus": { "affinity": ["1"] }"#, "vcpus.affinity[0]: expected a whole number from 0 to 1023, found the string \"1\""),
        ("config-value", r#""vcpus": { "affinity": [[]] }"#, "vcpus.affinity[0]: expected at least one item, found an empty list"),
        ("config-value", r#""vcpus": { "affinity": [1024] }"#, "from 0 to 1023"),
        ("config-conflict", r#""vcpus": { "count": 4, "scheduling": "proxy", "affinity": [[1], [2]] }"#, "vcpus.affinity: has 2 entries for 4 vCPUs"),
        ("config-conflict", r#""console": {}, "vcpus": { "scheduling": "hypervisor" }"#, "console: needs proxy-scheduled vCPUs"),
        ("config-value", r#""vcpus": { "scheduling": "proxy" }, "console": { "base": "0x50000000" }"#, "is not in device space"),
        ("config-value", r#""vcpus": { "scheduling": "proxy" }, "console": { "interrupt": 988 }"#, "from 0 to 987"),
        ("config-overlap", r#""vcpus": { "scheduling": "proxy", "count": 2 }, "console": { "base": "0x3ffb0000" }"#, "console.base: 0x3ffb0000 lies in the interrupt controller"),
        ("config-conflict", r#""ready": { "console_line": "up" }"#, "the VM has none"),
        ("config-conflict", r#""ready": { "vsock_port": 9 }"#, "a port of a socket device, and the VM has none"),
        ("config-conflict", r#""vhost_user": [{ "type": "fs", "socket": "/s" }]"#, "vhost_user[0].tag: a shared directory has a tag"),
        ("config-conflict", r#""vhost_user": [{ "type": "net", "socket": "/s", "tag": "t" }]"#, "vhost_user[0].tag: is for shared directories"),
        ("config-conflict", r#""nets": [{ "tap": "t" }], "vcpus": { "scheduling": "hypervisor" }"#, "nets: takes proxy-scheduled vCPUs"),
        ("config-value", r#""nets": [{ "tap": "no/tap" }]"#, "only a-z, A-Z, 0-9"),
        ("config-value", r#""nets": [{ "tap": "a-name-of-16-byte" }]"#, "at most 15"),
        ("config-value", r#""nets": [{ "tap": "t", "mac": "03:00:00:00:00:01" }]"#, "its first byte is odd"),
        ("config-value", r#""nets": [{ "tap": "t", "mac": "02:00:00:00:00:zz" }]"#, "expected six bytes"),
        ("config-value", r#""nets": [{ "tap": "t", "mac": "02:00:00:00:00" }]"#, "expected six bytes"),
        ("config-value", r#""nets": [{ "tap": "t", "mac": "" }]"#, "must not be empty"),
        ("config-twice", r#""nets": [{ "tap": "t" }, { "tap": "t" }]"#, "nets[1].tap: t is the tap of nets[0], too"),
        ("config-twice", r#""disks": [{ "path": "/d" }, { "path": "/d", "readonly": true }]"#, "disks[1].path: /d is the disk of disks[0], too"),
        ("config-value", r#""nets": [{ "tap": "t", "mtu": 60 }]"#, "a whole number from 68 to 65535"),
        ("config-value", r#""vsock": { "cid": 2 }"#, "a whole number from 3 to"),
        ("config-conflict", r#""stop": { "console_line": "off" }"#, "stop.console_line: is typed on a console, and the VM has none"),
        ("config-conflict", r#""stop": { }"#, "stop.console_line: neither it nor `power_key` says"),
        ("config-conflict", r#""console": {}, "stop": { "console_line": "off", "power_key": true }"#, "stop.power_key: the guest is asked by `console_line` already"),
        ("config-conflict", r#""vcpus": { "scheduling": "hypervisor" }, "stop": { "power_key": true }"#, "stop.power_key: takes proxy-scheduled vCPUs"),
        // Start and restart.
        ("config-conflict", r#""start": { "after": ["a"] }"#, "a would wait for itself"),
        ("config-twice", r#""start": { "after": ["b", "b:ready"] }"#, "start.after[1]: names b twice"),
        ("config-value", r#""start": { "after": ["b:up"] }"#, "or \"name:ready\", found \"b:up\""),
        ("config-value", r#""start": { "property": { "name": "a..b", "value": "1" } }"#, "two dots in a row"),
        ("config-value", r#""start": { "property": { "name": ".a", "value": "1" } }"#, "begin or end with a dot"),
        ("config-value", r#""start": { "property": { "name": "a b", "value": "1" } }"#, "has ' '"),
        ("config-value", r#""start": { "property": { "name": "a", "value": "" } }"#, "start.property.value: must not be empty"),
        ("config-conflict", r#""restart": { "backoff": "2m" }"#, "restart.backoff: 2m is more than backoff_max, 1m"),
        ("config-value", r#""restart": { "max": 1001 }"#, "from 1 to 1000"),
        // Regions.
        ("config-twice", r#""regions": [{ "label": 0, "base": "0xa0000000", "size": "1M" }]"#, "regions[0].label: 0 is the label of memory too"),
        ("config-overlap", r#""regions": [{ "label": 1, "base": "0x83000000", "size": "64M" }]"#, "regions[0].base: 0x83000000+0x4000000 overlaps 0x80000000+0x4000000 of memory"),
        ("config-value", r#""regions": [{ "label": 1, "base": "0x100000", "size": "1M" }]"#, "regions[0].base: 0x100000 is too low for memory; guest memory is 0x200000 to 0xfffffffff"),
        ("config-beyond", r#""regions": [{ "label": 1, "base": "0xffff00000", "size": "2M" }]"#, "regions[0].base: 0xffff00000+0x200000 ends beyond the 36 bits of guest addresses, which end at 0x1000000000"),
        ("config-value", r#""regions": [{ "label": 1, "base": "0xfffffffffffff000", "size": "1M" }]"#, "regions[0].base: 0xfffffffffffff000 is beyond the 36 bits of guest addresses; guest memory is 0x200000 to 0xfffffffff"),
        ("config-value", r#""regions": [{ "label": 1, "base": 4097, "size": "1M" }]"#, "regions[0].base: 0x1001 is too low for memory; guest memory is 0x200000 to 0xfffffffff"),
        ("config-value", r#""regions": [{ "label": 1, "base": "a0000000", "size": "1M" }]"#, "regions[0].base: expected an address, which is an integer or a string like \"0x80000000\", found \"a0000000\""),
        ("config-value", r#""regions": [{ "label": 1, "base": "80000000", "size": "1M" }]"#, "found \"80000000\"; cure: write 80000000 if it is decimal, \"0x80000000\" if hexadecimal"),
        ("config-value", r#""regions": [{ "label": 1, "base": "0xa0000000", "size": 0 }]"#, "regions[0].size: expected 4K to 64G, found 0"),
        ("config-value", r#""regions": [{ "label": 1, "base": "0xa0000000", "size": "1M", "flags": "rr" }]"#, "has r twice"),
        ("config-value", r#""regions": [{ "label": 1, "base": "0xa0000000", "size": "1M", "flags": "" }]"#, "must not be empty"),
        ("config-value", r#""regions": [{ "label": 1, "base": "0xa0000000", "size": "1M", "backing": [] }]"#, "regions[0].backing: expected at least one item, found an empty list"),
        ("config-conflict", r#""regions": [{ "label": 1, "base": "0xa0000000", "size": "1M", "page_size": "2M" }]"#, "is for hugetlb"),
        ("config-value", r#""regions": [{ "label": 4294967296, "base": "0xa0000000", "size": "1M" }]"#, "from 0 to 4294967295"),
    ] {
        let found = problems(&with(keys));
        one(name, keys, message, &found);
    }
}

#[test]
fn mistakes_of_main_memory() {
    for (name, memory, message) in [
        ("config-missing", r#"{ }"#, "memory.size: missing, and it has no default"),
        ("config-value", r#"{ "size": "1.5G" }"#, "write it whole, in a smaller unit"),
        ("config-value", r#"{ "size": 1e9 }"#, "without fraction or exponent, found 1e9"),
        ("config-value", r#"{ "size": "99999999999G" }"#, "larger than 64 bits can hold"),
        ("config-value", r#"{ "size": 99999999999999999999 }"#, "larger than 64 bits can hold"),
        ("config-value", r#"{ "size": "65G" }"#, "memory.size: expected 4K to 64G, found 65G"),
        ("config-value", r#"{ "size": "-1M" }"#, "a size is not negative"),
        ("config-value", r#"{ "size": "M" }"#, "memory.size: expected a size, which is an integer or a string like \"256M\", found \"M\""),
        ("config-value", r#"{ "size": "256 m" }"#, "write \"256M\""),
        ("config-value", r#"{ "size": 4097 }"#, "memory.size: 0x1001 is not a multiple of 4K"),
        ("config-value", r#"{ "size": "64M", "base": "0xfffffffffff00000" }"#, "memory.base: 0xfffffffffff00000 is beyond the 36 bits of guest addresses; guest memory is 0x200000 to 0xfffffffff"),
        ("config-value", r#"{ "size": "64M", "base": "0x100000" }"#, "memory.base: 0x100000 is too low for memory; guest memory is 0x200000 to 0xfffffffff"),
        ("config-value", r#"{ "size": "64M", "base": "0x" }"#, "hexadecimal digits after 0x"),
        ("config-value", r#"{ "size": "64M", "base": "0x10000000000000000" }"#, "larger than 64 bits"),
        ("config-value", r#"{ "size": "64M", "base": "0x0" }"#, "memory.base: 0x0 is too low for memory; guest memory is 0x200000 to 0xfffffffff"),
        ("config-beyond", r#"{ "size": "64M", "base": 68717379584 }"#, "memory.base: 0xfffe00000+0x4000000 ends beyond the 36 bits of guest addresses, which end at 0x1000000000"),
        ("config-value", r#"{ "size": "64M", "backing": "hugetbl" }"#, "did you mean \"hugetlb\"?"),
        ("config-twice", r#"{ "size": "64M", "backing": ["thp", "thp"] }"#, "memory.backing[1]: names \"thp\" twice"),
        ("config-value", r#"{ "size": "64M", "page_size": "3M" }"#, "memory.page_size: 3M is not a huge page size; use one of 2M, 32M, 512M, 1G"),
        ("config-type", r#"{ "size": "64M", "prefault": null }"#, "found null (leave the key out"),
        ("config-type", r#"{ "size": [64] }"#, "memory.size: expected a size, which is an integer or a string like \"256M\", found a list of 1"),
    ] {
        let text =
            format!(r#"{{ "name": "a", "memory": {memory}, "kernel": {{ "path": "/v/Image" }} }}"#);
        let found = problems(&text);
        one(name, memory, message, &found);
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
        "\"0X4000000\"",
        "\"67108864\"",
    ] {
        let text = SMALL.replace("\"64M\"", size);
        assert_eq!(read(&text).unwrap().memory.size, 64 << 20, "{size}");
    }
    for base in ["2147483648", "\"0x80000000\"", "\"0X80000000\""] {
        let text = SMALL.replace("{ \"size\"", &format!("{{ \"base\": {base}, \"size\""));
        assert_eq!(read(&text).unwrap().memory.base, 0x8000_0000, "{base}");
    }
    for (text, milliseconds) in
        [("1500", 1500), ("\"1500ms\"", 1500), ("\"2m\"", 120_000), ("0", 0)]
    {
        let config = read(&with(&format!("\"stop_timeout\": {text}"))).unwrap();
        assert_eq!(config.stop_timeout, Duration::from_millis(milliseconds), "{text}");
    }
}

#[test]
fn long_values_are_refused_and_shortened_in_messages() {
    let long = "x".repeat(2048);
    let text = SMALL.replace("\"/v/Image\"", &format!("\"/v/Image\", \"cmdline\": \"{long}\""));
    assert!(problems(&text)[0].contains("has 2048 bytes; at most 2047 are possible"));
    let fits = text.replace(&long, &long[1..]);
    assert_eq!(read(&fits).unwrap().kernel.cmdline.len(), 2047);
    let name = problems(&SMALL.replace("\"a\"", &format!("\"{long}\"")));
    assert!(name[0].len() < 200, "{name:?}");
    assert!(problems(&SMALL.replace("/v/Image", "/v/Image\", \"cmdline\": \"a\\nb"))[0]
        .contains("control character '\\n'"));
}

#[test]
fn a_file_of_rubbish_gives_a_bounded_list() {
    let keys: String = (0..60_000).map(|n| format!("\"k{n}\": 0,")).collect();
    let found = problems(&format!("{{ {keys} \"name\": \"a\" }}"));
    assert_eq!(found.len(), 101);
    assert_eq!(
        found[100],
        "a.json: the file has 59902 more mistakes; \
         cure: correct the mistakes above, then check the file again [config-more]"
    );
}

#[test]
fn a_wrong_value_hides_no_rule_of_other_keys() {
    let text = with(
        r#""autostart": 1, "initrd": { "path": "/i", "offset": "64M" }, "stop": { "console_line": "x" },
           "vcpus": { "scheduling": "hypervisor", "count": 2, "affinity": [1], "nice": 99 }"#,
    );
    let keys: Vec<String> = read(&text)
        .unwrap_err()
        .into_iter()
        .map(|mistake| format!("{}: {}", mistake.place.as_ref().unwrap().key, mistake.name))
        .collect();
    assert_eq!(
        keys,
        [
            "autostart: config-type",
            "initrd.offset: config-beyond",
            "stop.console_line: config-conflict",
            "vcpus.affinity: config-conflict",
            "vcpus.nice: config-value",
        ]
    );
}

#[test]
fn not_an_object() {
    assert_eq!(
        problems("[]"),
        ["a.json:1:1: expected an object {…}, found a list of 0; cure: see the type of the key in docs/config.md [config-type]"]
    );
    assert_eq!(
        problems(" \n"),
        ["a.json:2:1: the file is empty; cure: correct the text at this place [config-json]"]
    );
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
        ("0x200000", "4K", true),
        ("0x1ff000", "4K", false),
        ("0xffffff000", "4K", true),
        ("0xffffff000", "8K", false),
    ] {
        let region = format!(r#"{{ "label": 1, "base": "{base}", "size": "{size}" }}"#);
        let result = read(&with(&format!("\"regions\": [{region}]")));
        assert_eq!(result.is_ok(), fits, "{base}+{size}: {result:?}");
    }
}

#[test]
fn names_that_are_not_valid() {
    let long = "a".repeat(32);
    let huge = "a".repeat(4096);
    for name in ["", "A", "1a", "-a", "a.b", "a/b", "a b", "ä", "a\\u0000", "..", &long, &huge] {
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
