// SPDX-License-Identifier: Apache-2.0
//! Every rule that a guest's devicetree must keep, for given and generated trees alike.
//!
//! `docs/devicetree.md` has the list with the source of each.

mod agreement;
mod console;
mod devices;
mod reservations;
#[cfg(test)]
mod tests;
mod vm_config;

use std::collections::HashSet;

pub(super) use console::devices_at;

use crate::config::{ConsoleConfig, Scheduling, VmConfig};
use crate::plan::LaunchPlan;

use super::complete::affinity_map;
use super::problem::DtbProblem;
use super::tree::Tree;

/// The page of the hypervisor.
const PAGE: u64 = 4096;
/// End of a guest's address space.
const HIGH_LIMIT: u64 = 1 << 36;
/// Levels of the resource manager's parser, the root included.
const RM_DEPTH: usize = 16;
/// Bytes of its path buffer, with the NUL.
const RM_PATH: usize = 256;

/// What config and plan say that the tree must agree with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Main memory's guest address.
    pub base: u64,
    /// Main memory's bytes.
    pub size: u64,
    /// Further regions: label, guest address, bytes.
    pub regions: Vec<(u32, u64, u64)>,
    /// How many vCPUs.
    pub vcpus: u32,
    /// Who schedules them.
    pub scheduling: Scheduling,
    /// Physical CPU of each vCPU of a hypervisor-scheduled VM; empty: any.
    pub affinity_map: Vec<u32>,
    /// The console.
    pub console: Option<ConsoleConfig>,
    /// The initrd's first byte and the one after its last, once it is planned.
    pub initrd: Option<(u64, u64)>,
    /// What the plan puts into main memory: first byte and the one after the last.
    pub placed: Vec<(&'static str, (u64, u64))>,
}

impl Expected {
    /// What the config alone says.
    pub fn of_config(config: &VmConfig) -> Self {
        Self {
            base: config.memory.base,
            size: config.memory.size,
            regions: config
                .regions
                .iter()
                .map(|region| (region.label, region.base, region.size))
                .collect(),
            vcpus: config.vcpus.count,
            scheduling: config.vcpus.scheduling,
            affinity_map: match config.vcpus.scheduling {
                Scheduling::Hypervisor => affinity_map(config),
                Scheduling::Proxy => Vec::new(),
            },
            console: config.console.clone(),
            initrd: None,
            placed: Vec::new(),
        }
    }

    /// With the plan's addresses; its first region is main memory.
    pub fn with_plan(&self, plan: &LaunchPlan) -> Self {
        let mut expected = self.clone();
        if let Some((main, further)) = plan.regions.split_first() {
            expected.base = main.base;
            expected.size = main.size;
            expected.regions = further
                .iter()
                .map(|region| (region.label, region.base, region.size))
                .collect();
        }
        let range = |base: u64, size: u64| (base, base.saturating_add(size));
        expected.initrd = plan
            .initrd
            .as_ref()
            .map(|initrd| range(initrd.base, initrd.size));
        let segments = plan.kernel.segments.iter();
        expected.placed = segments
            .map(|segment| ("kernel", range(segment.base, segment.memory_size)))
            .chain(plan.kernel.branch.map(|_| {
                // One A64 instruction at the base of main memory.
                ("branch to the kernel's entry", range(expected.base, 4))
            }))
            .chain(expected.initrd.map(|initrd| ("initrd", initrd)))
            .chain([("devicetree", range(plan.dtb.base, plan.dtb.size))])
            .collect();
        expected
    }
}

/// Every rule that `tree` breaks. Without `expected`, those that the tree alone can break.
pub fn check(tree: &Tree, expected: Option<&Expected>) -> Vec<DtbProblem> {
    let mut found = Vec::new();
    whole_tree(tree, &mut found);
    reservations::check(tree, &mut found);
    vm_config::check(tree, &mut found);
    devices::check(tree, &mut found);
    if let Some(expected) = expected {
        agreement::check(tree, expected, &mut found);
        reservations::against(tree, expected, &mut found);
    }
    found
}

fn whole_tree(tree: &Tree, found: &mut Vec<DtbProblem>) {
    let mut handles = HashSet::new();
    // One of each is enough: a hostile tree could have thousands.
    let (mut deep, mut long, mut twin) = (None, None, None);
    for at in tree.walk() {
        let path = || at.path().to_owned();
        let mut names = HashSet::new();
        let twice = at
            .node
            .children
            .iter()
            .find(|child| !names.insert(&child.name));
        twin = twin.or_else(|| {
            let above = at.path().trim_end_matches('/');
            Some(DtbProblem::DuplicateNode(format!(
                "{above}/{}",
                twice?.name
            )))
        });
        if at.depth() >= RM_DEPTH {
            deep = deep.or_else(|| Some(DtbProblem::Depth(path())));
        } else if at.path().len() >= RM_PATH {
            let max = RM_PATH - 1;
            long = long.or_else(|| Some(DtbProblem::PathLength { path: path(), max }));
        }
        if at.lists("device_type", "memory") && at.path() != "/memory" {
            found.push(DtbProblem::MemoryNodeName(path()));
        }
        if let Some(handle) = at.phandle() {
            if !handles.insert(handle) {
                found.push(DtbProblem::DuplicatePhandle {
                    path: path(),
                    handle,
                });
            }
        }
    }
    found.extend(deep.into_iter().chain(long).chain(twin));
    if tree.root.child("chosen").is_none() {
        found.push(DtbProblem::NoChosen);
    }
    if tree.find("/hypervisor").is_some() {
        found.push(DtbProblem::HypervisorNode);
    }
}
