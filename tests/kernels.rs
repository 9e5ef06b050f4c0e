// SPDX-License-Identifier: Apache-2.0
//! What a VM's file can ask for, on every driver: docs/kernels.md has the table, and each of its cells
//! names a test here or elsewhere.
#![allow(clippy::unwrap_used)] // A test ends there.

mod host;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use regex::Regex;
use serde_json::{json, Value};

use host::assemble::assembled;
use host::Host;

const ALL: [&str; 6] = ["lkml-base", "lkml", "ack61", "ack66-early", "ack66", "ack612"];
/// Drivers with vCPUs, whose guests tell of their end.
const VCPUS: [&str; 5] = ["lkml", "ack61", "ack66-early", "ack66", "ack612"];

fn newer(dialect: &str) -> bool {
    dialect.starts_with("ack66") || dialect == "ack612"
}

fn guest() -> Option<&'static [u8]> {
    static GUEST: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    GUEST.get_or_init(|| assembled("guest")).as_deref()
}

/// A VM of 16 MiB of transparent huge pages with `changes` to its file.
fn boot(dialect: &str, test: &str, engine: &str, changes: &Value) -> Option<Host> {
    let mut config = json!({ "memory": { "size": "16M", "backing": ["thp"] } });
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    Host::boot_on(dialect, test, engine, "", guest()?, &config)
}

/// Whether the VM runs, or the name of what it was refused for before anything was taken.
fn outcome(dialect: &str, test: &str, changes: &Value) -> Option<String> {
    let host = boot(dialect, test, "null", changes)?;
    let status = host
        .wait_until(|status| ["running", "failed"].iter().any(|state| status["state"] == *state));
    if status["state"] == "running" {
        return Some("runs".to_owned());
    }
    let reason = status["reason"].as_str().unwrap();
    assert!(host.record().iter().all(|line| line["call"] != "VM_START"), "{dialect}: {reason}");
    Some(reason.rsplit_once('[').unwrap().1.trim_end_matches(']').to_owned())
}

/// What each driver makes of `changes`, in the order of [`ALL`].
fn on_all(test: &str, changes: &Value, wanted: [&str; 6]) {
    for (dialect, wanted) in ALL.into_iter().zip(wanted) {
        let Some(found) = outcome(dialect, test, changes) else { return };
        assert_eq!(found, wanted, "{dialect}: {changes}");
    }
}

#[test]
fn scheduling() {
    let scheduling = |word: &str| json!({ "vcpus": { "scheduling": word } });
    on_all("by-auto", &scheduling("auto"), ["runs"; 6]);
    // What `auto` is there: the end is seen of vCPUs that gunyahd runs.
    for dialect in VCPUS {
        let Some(host) = boot(dialect, "by-default", "null", &json!({})) else { return };
        let status = host.wait_for("running");
        assert_eq!(status["end_visible"], true, "{dialect}: {status:#}");
    }
    let base = "plan-no-vcpus";
    on_all("by-proxy", &scheduling("proxy"), [base, "runs", "runs", "runs", "runs", "runs"]);
    let no = "plan-hypervisor-scheduling";
    on_all("by-hypervisor", &scheduling("hypervisor"), ["runs", "runs", "runs", no, no, no]);
}

#[test]
fn backing() {
    let backing = |word: &str| json!({ "memory": { "size": "16M", "backing": word } });
    for word in ["thp", "base"] {
        on_all("made-of", &backing(word), ["runs"; 6]);
    }
    // Whether the pool has pages depends on the host; on newer drivers nobody looks.
    for dialect in ALL {
        let Some(found) = outcome(dialect, "made-of-hugetlb", &backing("hugetlb")) else { return };
        let wanted: &[&str] = match newer(dialect) {
            true => &["plan-hugetlb"],
            false => &["runs", "pool-short", "pool-no-such-pages"],
        };
        assert!(wanted.contains(&found.as_str()), "{dialect}: {found}");
    }
    // Hosts here have no reserve; tests/supervision/reserve.rs has some that do.
    let (no, none) = ("plan-reserve", "reserve-none");
    on_all("made-of-reserve", &backing("reserve"), [no, no, no, none, none, none]);
}

#[test]
fn access() {
    let access =
        |word: &str| json!({ "memory": { "size": "16M", "backing": "thp", "access": word } });
    on_all("kept-auto", &access("auto"), ["runs"; 6]);
    let no = "plan-cannot-lend";
    on_all("kept-lend", &access("lend"), [no, no, "runs", "runs", "runs", "runs"]);
    let no = "plan-main-shared";
    on_all("kept-share", &access("share"), ["runs", "runs", "runs", no, no, no]);
    let Some(host) = boot("ack61", "lends", "null", &access("auto")) else { return };
    host.wait_for("running");
    assert!(host.calls().iter().any(|(name, _)| name == "VM_ANDROID_LEND_USER_MEM"));
    let Some(host) = boot("ack61", "shares", "null", &access("share")) else { return };
    host.wait_for("running");
    assert!(host.log().contains("[plan-shared-memory]"), "{}", host.log());
}

#[test]
fn place_of_the_devicetree() {
    let at = |offset: &str| json!({ "dtb": { "offset": offset } });
    on_all("dtb-2m", &at("4M"), ["runs"; 6]);
    // On a page, and not on a folio.
    let no = "plan-dtb-folio";
    on_all("dtb-page", &at("5M"), ["runs", "runs", "runs", no, no, no]);
    // Without room for a slot.
    let small = json!({ "memory": { "size": "4M", "backing": "thp" } });
    on_all("dtb-small", &small, ["runs"; 6]);
}

#[test]
fn console() {
    for device in ["pl011", "16550"] {
        let changes = json!({ "console": { "device": device }, "cmdline": "end=off" });
        for dialect in VCPUS {
            let Some(host) = boot(dialect, "console", "exec", &changes) else { return };
            host.wait_for("stopped");
            let lines = host.printed();
            let line = "guest: cmdline end=off".to_owned();
            assert!(lines.contains(&line), "{dialect} {device}: {lines:#?}");
        }
        let refused = outcome("lkml-base", "console", &json!({ "console": { "device": device } }));
        assert_eq!(refused.as_deref().unwrap_or("plan-no-vcpus"), "plan-no-vcpus");
    }
}

#[test]
fn end_of_the_guest() {
    for (end, state, reason) in [
        ("off", "stopped", "power-off"),
        ("reset", "stopped", "reset"),
        ("undef", "crashed", "hypervisor-error"),
    ] {
        for dialect in VCPUS {
            let changes = json!({ "console": {}, "cmdline": format!("end={end}") });
            let Some(host) = boot(dialect, "ends", "exec", &changes) else { return };
            let status = host.wait_for(state);
            assert_eq!(status["last_end"]["reason"], reason, "{dialect} {end}: {status:#}");
        }
    }
    // Nobody is told of the end of what the hypervisor schedules, and status says so.
    let Some(host) = boot("lkml-base", "ends", "null", &json!({})) else { return };
    assert_eq!(host.wait_for("running")["end_visible"], false);
}

#[test]
fn restart() {
    for dialect in VCPUS {
        let changes = json!({
            "console": {},
            "cmdline": "end=undef",
            "restart": { "policy": "on-failure", "max": 1, "backoff": "0s" },
        });
        let Some(host) = boot(dialect, "restarts", "exec", &changes) else { return };
        let status = host.wait_for("failed");
        assert_eq!(status["restarts"], 1, "{dialect}: {status:#}");
        // Both lives were whole: the second one found its kernel and its devicetree again.
        let lives = host.printed().iter().filter(|line| *line == "guest: ready").count();
        assert_eq!(lives, 2, "{dialect}");
    }
    // The open-source resource manager does not survive this stop; another one does.
    let survives: [&OsStr; 2] = ["--rm".as_ref(), "debug".as_ref()];
    let config = json!({ "memory": { "size": "16M", "backing": ["thp"] } });
    let Some(guest) = guest() else { return };
    let base = Host::boot_with(&survives, "lkml-base", "restarts", "null", "", guest, &config);
    let Some(host) = base else { return };
    host.wait_for("running");
    assert!(host.ask(&["stop", "vm"]).status.success());
    assert!(host.ask(&["start", "vm"]).status.success());
    host.wait_for("running");
}

/// docs/kernels.md names a test in each cell; each of them is there.
#[test]
fn every_cell_names_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/kernels.md")).unwrap();
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| ---"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert_eq!(rows[0][1..], ALL, "the columns");
    let names: Vec<&str> = rows[1..].iter().map(|row| row[0]).collect();
    let wanted = [
        "scheduling",
        "backing",
        "access",
        "devicetree's place",
        "console",
        "end of the guest",
        "restart",
        "firmware",
    ];
    assert_eq!(names, wanted, "the rows");
    let named = Regex::new(r"`([\w/]+\.rs)::(\w+)`").unwrap();
    let mut missing = BTreeSet::new();
    for row in &rows[1..] {
        assert_eq!(row.len(), 1 + ALL.len(), "{row:?}");
        for cell in &row[1..] {
            let tests: Vec<[&str; 2]> =
                named.captures_iter(cell).map(|found| found.extract().1).collect();
            assert!(!tests.is_empty(), "{}: `{cell}` names no test", row[0]);
            for [file, test] in tests {
                let text = fs::read_to_string(root.join(file)).unwrap_or_default();
                let there = text.contains(&format!("#[test]\nfn {test}("))
                    || text.contains(&format!("#[test]\n    fn {test}("));
                if !there {
                    missing.insert(format!("{file}::{test}"));
                }
            }
        }
    }
    assert!(missing.is_empty(), "no such tests: {missing:#?}");
}
