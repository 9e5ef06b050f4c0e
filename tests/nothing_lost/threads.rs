// SPDX-License-Identifier: Apache-2.0
//! A launch whose memory is made by several threads: each of their calls may fail, and each of them may be
//! missing.

use std::collections::BTreeSet;

use gunyah::Dialect;
use serde_json::{json, Value};

use crate::fault_matrix::{fail_each, Ground, Target};
use crate::host::{Boot, Stage};
use crate::steps;

const DIALECT: Dialect = Dialect::Ack612;

const WATCH: [&str; 3] = ["madvise", "thread", "sched_getaffinity"];

/// Large enough for three threads, and small enough for one core.
fn large() -> Value {
    let mut vm = steps::victim(DIALECT, "base");
    vm["memory"]["size"] = json!("48M");
    vm["vcpus"]["count"] = json!(1);
    vm
}

/// The calls on memory and threads of a launch on a host of so many cores, up to START.
fn calls_on(stage: &Stage, cores: u32, test: &str) -> (Ground, BTreeSet<Target>) {
    let vms = [large()];
    let cores = Some(cores);
    let boot = Boot { dialect: DIALECT, vms: &vms, watch: &WATCH, cores, ..Boot::default() };
    let mut ground = Ground::of(stage, test, &boot);
    let targets = ground.targets();
    let meant = |target: &Target| !target.started && WATCH.contains(&target.call.as_str());
    (ground, targets.into_iter().filter(meant).collect())
}

fn threads(targets: &BTreeSet<Target>) -> usize {
    targets.iter().filter(|target| target.call == "thread").count()
}

#[test]
fn each_thread_of_a_launch_may_fail() {
    let Some(stage) = Stage::of(DIALECT) else { return };
    let (ground, alone) = calls_on(&stage, 1, "one-core");
    ground.end();
    let (ground, targets) = calls_on(&stage, 8, "eight-cores");
    // They and the launch's own make three; the console has its own either way.
    assert_eq!(threads(&targets), threads(&alone) + 2);
    fail_each(ground, &format!("{DIALECT} by three threads"), targets);
}
