// SPDX-License-Identifier: Apache-2.0
//! Each rule broken once, in a tree that keeps all others.

mod firmware;
mod gic;
mod memory;
mod nodes;
mod power_key;
mod vcpus;
mod vdevices;
mod vm_config;

use nix::errno::Errno;

use super::super::fixture;
use super::super::{build, Node, Seeds};
use super::*;
use crate::image::elf::Load;

/// The built trees that everything here starts from: hypervisor-scheduled with two CPUs, and
/// proxy-scheduled with console and a further region.
fn built(config: &VmConfig) -> (Tree, LaunchPlan) {
    let plan = fixture::plan(config, 0x8100_0000, 0x1000);
    let built = build(config, None, &plan, &Seeds::default()).unwrap();
    assert_eq!(built.warnings, []);
    (built.tree, plan)
}

fn names(faults: &[Diagnostic]) -> Vec<&str> {
    faults.iter().map(|fault| &*fault.name).collect()
}

/// Breaks the tree of `config` and wants exactly these faults, and START's answer to the first of them.
fn broken(config: &VmConfig, wanted: &[&str], errno: Option<Errno>, breaks: impl Fn(&mut Tree)) {
    let (mut tree, plan) = built(config);
    breaks(&mut tree);
    let faults = check(&tree, config, &plan);
    let mut found = names(&faults);
    found.sort_unstable();
    let mut sorted = wanted.to_vec();
    sorted.sort_unstable();
    assert_eq!(found, sorted, "{faults:#?}");
    let answer = errno.map(|errno| errno as i32);
    for fault in &faults {
        assert!(fault.place.is_some() && fault.lasting, "{fault:#?}");
        assert!(fault.name != wanted[0] || fault.start_answers == answer, "{fault:#?}");
    }
}

/// Changes the tree of `config` and wants no fault.
fn good(config: &VmConfig, changes: impl Fn(&mut Tree)) {
    let (mut tree, plan) = built(config);
    changes(&mut tree);
    assert_eq!(check(&tree, config, &plan), []);
}

fn node<'a>(tree: &'a mut Tree, path: &str) -> &'a mut Node {
    tree.find_mut(path).unwrap()
}

const NODEV: Option<Errno> = Some(Errno::ENODEV);
const INVAL: Option<Errno> = Some(Errno::EINVAL);
