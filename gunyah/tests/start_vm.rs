// SPDX-License-Identifier: Apache-2.0
//! The example, in the simulator: every call of a launch and of a run loop, on each dialect.
//!
//! Needs `gunyah-sim` with its feature `exec` beside this test's folder or in GUNYAHD_BIN_DIR, and dtc.

#![allow(clippy::unwrap_used)] // All of it is test.

use std::path::{Path, PathBuf};
use std::process::Command;

#[allow(dead_code)] // Its main.
#[path = "../examples/start_vm.rs"]
mod start_vm;

/// Set in the program that the simulator runs, which is this one: the devicetree.
const DTB: &str = "GUNYAH_START_VM_DTB";

#[test]
fn the_example_runs_on_each_dialect() {
    if let Some(dtb) = std::env::var_os(DTB) {
        return start_vm::start(&std::fs::read(dtb).unwrap()).unwrap();
    }
    let (Some(simulator), Some(dtb)) = (simulator(), devicetree()) else {
        let required = std::env::var_os("GUNYAHD_NO_SKIP").is_some();
        assert!(!required, "gunyah-sim with its feature exec, or dtc, is missing");
        return eprintln!("SKIPPED: gunyah-sim with its feature exec, or dtc, is missing");
    };
    for dialect in ["lkml", "ack61", "ack66", "ack612"] {
        let ran = Command::new(&simulator)
            .args(["--dialect", dialect, "--engine", "exec", "--"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "the_example_runs_on_each_dialect", "--nocapture"])
            .env(DTB, &dtb)
            .output()
            .unwrap();
        let output = String::from_utf8_lossy(&ran.stdout);
        let ended = "hello from the guest\nthe VM has ended: status 2 (exited), exit type 1 (PSCI SYSTEM_OFF)";
        let errors = String::from_utf8_lossy(&ran.stderr);
        assert!(output.contains(ended), "{dialect}: {output}{errors}");
        assert!(ran.status.success(), "{dialect}: {errors}");
    }
}

fn simulator() -> Option<PathBuf> {
    let here = std::env::current_exe().unwrap();
    let beside = here.parent()?.parent()?.to_owned();
    let folder = std::env::var_os("GUNYAHD_BIN_DIR").map_or(beside, PathBuf::from);
    let simulator = folder.join("gunyah-sim");
    let tried = Command::new(&simulator).args(["--engine", "exec", "--", "/bin/true"]).output();
    tried.is_ok_and(|ran| ran.status.success()).then_some(simulator)
}

fn devicetree() -> Option<PathBuf> {
    let dtb = Path::new(env!("CARGO_TARGET_TMPDIR")).join("start_vm.dtb");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/start_vm.dts");
    let mut dtc = Command::new("dtc");
    let compiled = dtc.args(["-q", "-O", "dtb", "-o"]).arg(&dtb).arg(source);
    compiled.status().is_ok_and(|status| status.success()).then_some(dtb)
}

#[test]
fn the_documented_devicetree_is_the_examples() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
    let source = read("src/lib.rs");
    let documented = source.split("//! ```dts\n").nth(1).unwrap().split("//! ```").next().unwrap();
    let lines = documented.lines().map(|line| line.trim_start_matches("//!").trim());
    let example = read("examples/start_vm.dts");
    assert!(lines.eq(example.lines().skip(1).map(str::trim)), "{documented}");
}
