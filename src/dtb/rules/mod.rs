// SPDX-License-Identifier: Apache-2.0
//! Every rule that a guest's devicetree must keep, for given and generated trees alike.
//!
//! A rule is a [`Kind`](crate::diagnostic::Kind) and the lines that find the fault, in one file. A
//! comment above the kind says where the rule is from: *seen* on open-source Gunyah, *read* in its
//! resource manager, *Linux*, the devicetree *spec*ification, or *ours*.

pub(super) mod authenticated;
pub(super) mod console;
pub(super) mod devices;
pub(super) mod firmware;
pub(super) mod gic;
pub(super) mod memory;
pub(super) mod nodes;
pub(super) mod power_key;
#[cfg(test)]
mod tests;
pub(super) mod vcpus;
pub(super) mod vdevices;
pub(super) mod vm_config;

use crate::config::VmConfig;
use crate::diagnostic::Diagnostic;
use crate::plan::LaunchPlan;

use super::build::Faults;
use super::tree::Tree;

/// Every rule that the tree of a planned VM breaks.
pub fn check(tree: &Tree, config: &VmConfig, plan: &LaunchPlan) -> Vec<Diagnostic> {
    let mut faults = Faults::new(config);
    if authenticated::check(tree, &mut faults) {
        // What else is wrong with it does not matter: it is for another way of starting.
        return faults.found;
    }
    nodes::check(tree, &mut faults);
    memory::check(tree, config, plan, &mut faults);
    vm_config::check(tree, plan, &mut faults);
    firmware::check(tree, plan, &mut faults);
    vcpus::check(tree, config, plan.scheduling, &mut faults);
    gic::check(tree, &mut faults);
    vdevices::check(tree, plan, &mut faults);
    if let Some(console) = &config.console {
        console::check(tree, console, &mut faults);
    }
    devices::check(tree, config, plan, &mut faults);
    if let Some(key) = plan.power_key {
        power_key::check(tree, key, &mut faults);
    }
    faults.found
}

/// Whether a number is not in `seen`, and puts it there. A tree has 16,384 nodes at most.
fn is_first(seen: &mut Vec<u64>, number: u64) -> bool {
    let first = !seen.contains(&number);
    if first {
        seen.push(number);
    }
    first
}

/// Those faults that there are.
fn broken(faults: &[(bool, &'static str)]) -> Vec<&'static str> {
    faults.iter().filter(|(broken, _)| *broken).map(|(_, why)| *why).collect()
}
