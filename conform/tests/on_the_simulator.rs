// SPDX-License-Identifier: Apache-2.0
//! All rules on every dialect of the simulator: none may differ, and no fewer may hold than now.
//!
//! `gunyah-sim` is that of GUNYAHD_BIN_DIR, or the one beside our binary. Without it, or without its
//! engine `exec`, this says so; GUNYAHD_NO_SKIP makes that a failure.

#![allow(clippy::unwrap_used)] // All of it is test.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const CONFORM: &str = env!("CARGO_BIN_EXE_gunyah-conform");

fn simulator() -> Option<PathBuf> {
    let beside = Path::new(CONFORM).with_file_name("gunyah-sim");
    let path = match std::env::var_os("GUNYAHD_BIN_DIR") {
        Some(dir) => Path::new(&dir).join("gunyah-sim"),
        None => beside,
    };
    if path.is_file() {
        return Some(path);
    }
    skip("gunyah-sim", "cargo build -p gunyah-sim");
    None
}

/// Something is missing: a loud word, or a failure where nothing may be skipped.
fn skip(missing: &str, cure: &str) {
    assert!(
        std::env::var_os("GUNYAHD_NO_SKIP").is_none(),
        "no {missing}, and nothing may be skipped"
    );
    // Past the test harness, which keeps what a passing test prints.
    let _ = writeln!(std::io::stderr(), "SKIPPED: no {missing}; {cure} makes it");
}

/// Runs the checks in the simulator; None: there is none.
fn run(simulated: &[&str], options: &[&str]) -> Option<Run> {
    let output = Command::new(simulator()?)
        .args(simulated)
        .arg("--")
        .arg(CONFORM)
        .args(["--patience", "200", "--timeout", "30"])
        .args(options)
        .output()
        .unwrap();
    Some(Run::new(&output))
}

struct Run {
    code: Option<i32>,
    lines: Vec<String>,
    told: String,
}

impl Run {
    fn new(output: &Output) -> Self {
        Self {
            code: output.status.code(),
            lines: String::from_utf8_lossy(&output.stdout).lines().map(str::to_string).collect(),
            told: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    fn with(&self, word: &str) -> Vec<&str> {
        self.lines.iter().map(String::as_str).filter(|line| line.contains(word)).collect()
    }

    fn holding(&self) -> usize {
        self.lines.iter().filter(|line| line.ends_with(": holds")).count()
    }

    /// Nothing differs and at least so many hold.
    fn assert_conforms(&self, at_least: usize) {
        assert_eq!(self.with(": differs"), [""; 0]);
        assert_eq!(self.code, Some(0), "{} {:?}", self.told, self.lines);
        // Without root there is no CAP_IPC_LOCK to be exempt by.
        let unprivileged = usize::from(!self.with("memlock.exempt: skipped").is_empty());
        assert!(
            self.holding() + unprivileged >= at_least,
            "{} hold, {at_least} did; skipped: {:#?}",
            self.holding(),
            self.with(": skipped")
        );
        let last = self.lines.last().unwrap();
        let counted = format!("{} passed, 0 failed, ", self.holding());
        assert!(last.starts_with(&counted), "{last}");
    }
}

fn all_of(dialect: &str, at_least: usize) {
    let simulated = ["--dialect", dialect];
    if let Some(run) = run(&simulated, &["--dialect", dialect, "--unsafe"]) {
        run.assert_conforms(at_least);
    }
}

#[test]
fn lkml_conforms() {
    all_of("lkml", 168);
}

#[test]
fn ack61_conforms() {
    all_of("ack61", 175);
}

#[test]
fn lkml_base_conforms() {
    all_of("lkml-base", 114);
}

#[test]
fn ack66_conforms() {
    all_of("ack66", 170);
}

#[test]
fn ack66_early_conforms() {
    all_of("ack66-early", 170);
}

#[test]
fn ack612_conforms() {
    all_of("ack612", 170);
}

#[test]
fn guests_that_are_executed_conform() {
    let Some(simulator) = simulator() else { return };
    let known = Command::new(simulator).args(["--engine", "exec", "--", "true"]).output().unwrap();
    if !known.status.success() {
        skip("engine exec in gunyah-sim", "cargo build -p gunyah-sim --features exec");
        return;
    }
    // Every exit comes with a signal pending: EINTR, though the page has it.
    let signals: String = (1..200).map(|vm| format!("vm {vm} signal 1000\n")).collect();
    let signals = script("signals", &signals);
    for (dialect, rules) in [("ack61", 5), ("ack66", 7)] {
        let simulated = ["--engine", "exec", "--dialect", dialect, "--script", &signals];
        let options = ["--dialect", dialect, "--patience", "10000", "--only", "mmio."];
        if let Some(run) = run(&simulated, &options) {
            run.assert_conforms(rules);
        }
    }
    for (dialect, at_least) in [("lkml", 183), ("ack61", 190), ("ack66", 192), ("ack612", 192)] {
        let simulated = ["--engine", "exec", "--dialect", dialect];
        let options = ["--dialect", dialect, "--patience", "10000"];
        if let Some(run) = run(&simulated, &options) {
            run.assert_conforms(at_least);
        }
    }
}

#[test]
fn hosts_without_this_driver_conform() {
    all_of("none", 1);
    all_of("qcom-b2", 4);
}

#[test]
fn a_production_resource_manager_conforms() {
    for kind in ["production", "old-production"] {
        let simulated = ["--dialect", "ack61", "--rm", kind];
        if let Some(run) = run(&simulated, &["--dialect", "ack61"]) {
            run.assert_conforms(169);
        }
    }
    let simulated = ["--dialect", "ack66", "--rm", "new-production"];
    if let Some(run) = run(&simulated, &["--dialect", "ack66"]) {
        run.assert_conforms(160);
    }
}

#[test]
fn the_dialect_is_found_out() {
    for (dialect, found) in [
        ("lkml", &["lkml"][..]),
        ("ack61", &["ack61"]),
        ("lkml-base", &["lkml-base"]),
        ("ack66-early", &["ack66"]),
        ("ack66", &["ack66"]),
        ("ack612", &["ack612"]),
        ("none", &["none"]),
        ("qcom-b2", &["qcom-b2"]),
    ] {
        let options = ["--only", "device.", "--only", "none.", "--only", "legacy."];
        let Some(run) = run(&["--dialect", dialect], &options) else {
            return;
        };
        let told = run.told.lines().next().unwrap_or_default();
        let named = |name: &&str| told.ends_with(&format!("dialect {name}"));
        assert!(found.iter().any(named), "{dialect}: {told}");
        assert_eq!(run.code, Some(0), "{:?}", run.lines);
    }
}

#[test]
fn another_driver_than_said_differs() {
    let options = ["--dialect", "ack61", "--only", "memlock.", "--only", "region."];
    let Some(run) = run(&["--dialect", "ack66"], &options) else {
        return;
    };
    assert_eq!(run.code, Some(1));
    for rule in ["memlock.beyond", "memlock.vms", "region.hole", "region.populates"] {
        assert_eq!(run.with(&format!("{rule}: differs (")).len(), 1, "{rule}");
    }
    let last = run.lines.last().unwrap();
    assert!(!last.contains(" 0 failed"), "{last}");
}

/// A script of the simulator's in a file of its own.
fn script(name: &str, text: &str) -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_string()
}

#[test]
fn a_fault_is_the_result_of_its_rule_alone() {
    let script = script("fault", "call SET_DTB_CONFIG * errno EIO\n");
    let options = ["--only", "dtb.overflow", "--only", "function.", "--only", "start.twice"];
    let Some(run) = run(&["--script", &script], &options) else {
        return;
    };
    assert_eq!(run.code, Some(1));
    assert_eq!(
        run.with("differs"),
        ["dtb.overflow: differs (SET_DTB_CONFIG: EIO, expected success)"]
    );
    assert!(run.holding() > 5);
    assert_eq!(run.with("function.").len(), run.holding());
    assert_eq!(
        run.with("start.twice"),
        ["start.twice: skipped (a good guest does not start: SET_DTB_CONFIG: EIO, expected \
             success)"]
    );
}

#[test]
fn a_hang_is_the_result_of_its_rule_alone() {
    let script = script("hang", "call REMOVE_FUNCTION * hang\n");
    let options = [
        "--timeout",
        "1",
        "--only",
        "irqfd.taken",
        "--only",
        "irqfd.removed",
        "--only",
        "irqfd.order",
        "--unsafe",
    ];
    let Some(run) = run(&["--script", &script], &options) else {
        return;
    };
    assert_eq!(
        run.lines,
        [
            "irqfd.taken: holds",
            "irqfd.order: holds",
            "irqfd.removed: differs (no end within 1 s)",
            "2 passed, 1 failed, 0 skipped; of 3 rules 0 come from the real stack, 3 from source, 0 from \
             inference"
        ]
    );
}

#[test]
fn a_guest_that_ends_by_a_script_ends_by_the_rules() {
    let script = script("ends", "vm * exit off after 20\n");
    let options = ["--patience", "5000", "--only", "exit."];
    let Some(run) = run(&["--script", &script], &options) else {
        return;
    };
    for rule in ["exit.off", "exit.again", "exit.start"] {
        assert_eq!(run.with(rule), [format!("{rule}: holds")]);
    }
}

#[test]
fn json_says_the_same() {
    let options = ["--json", "--only", "region."];
    let Some(run) = run(&["--dialect", "ack61"], &options) else {
        return;
    };
    let lines: Vec<serde_json::Value> =
        run.lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (summary, rules) = lines.split_last().unwrap();
    let holds = |line: &&serde_json::Value| line["verdict"] == "holds";
    let holding = rules.iter().filter(holds).count();
    assert!(holding > 15);
    assert_eq!(summary["passed"], holding);
    assert_eq!(summary["failed"], 0);
    let known = ["seen", "read", "inferred"].map(|source| summary[source].as_u64().unwrap());
    assert_eq!(known.iter().sum::<u64>(), summary["rules"]);
    assert_eq!(summary["dialect"], "ack61");
    assert!(rules.iter().all(|line| line["source"].is_string()));
}
