// SPDX-License-Identifier: Apache-2.0
//! Adds to a tree what the config and the resource manager want, with room for the addresses.
//! A tree that has everything already comes out unchanged but for the values that are ours.

use std::collections::HashSet;

use crate::config::{Scheduling, VmConfig};

use super::console;
use super::draft::Seeds;
use super::facts::{child_cells, gic_node, vm_configs, DtbFacts, VM_CONFIG_NAMES};
use super::problem::DtbProblem;
use super::tree::{Node, Position, Tree};
use super::value::NodeAt;

/// `sched-priority` of a generated hypervisor-scheduled VM: one below the default, as the real
/// resource manager took it. A VM's priority must be below its owner's.
const SCHED_PRIORITY: u32 = 0xffff_ffff;
/// `sched-timeslice` in microseconds, as the real resource manager took it.
const SCHED_TIMESLICE: u32 = 2000;

/// Tables that `dtc -@` makes for overlays by label. Their names cannot be written by `vm-fdt`, and
/// the resource manager's overlay goes by path and phandle.
const SYMBOL_NODES: [&str; 3] = ["__symbols__", "__fixups__", "__local_fixups__"];

/// Completes `tree`; what comes back is worth telling.
pub(super) fn complete(tree: &mut Tree, config: &VmConfig) -> Vec<DtbProblem> {
    let mut told = Vec::new();
    for name in SYMBOL_NODES {
        if tree.root.remove_child(name).is_some() && told.is_empty() {
            told.push(DtbProblem::SymbolsDropped);
        }
    }
    chosen(tree, config, &mut told);
    memory(tree, config, &mut told);
    vm_config(tree, config);
    if let Some(console) = &config.console {
        console::complete(tree, console);
    }
    told
}

fn chosen(tree: &mut Tree, config: &VmConfig, told: &mut Vec<DtbProblem>) {
    let chosen = tree.root.ensure_child("chosen", Position::First);
    if !config.kernel.cmdline.is_empty() || !chosen.has("bootargs") {
        chosen.set_str("bootargs", &config.kernel.cmdline);
    }
    if config.initrd.is_some() {
        chosen.set_u64("linux,initrd-start", 0);
        chosen.set_u64("linux,initrd-end", 0);
    } else if chosen.has("linux,initrd-start") || chosen.has("linux,initrd-end") {
        told.push(DtbProblem::StrayInitrd);
    }
    chosen.set("rng-seed", Seeds::PLACEHOLDER.rng.to_vec());
    chosen.set_u64("kaslr-seed", Seeds::PLACEHOLDER.kaslr);
    // The resource manager takes the cells of depth 2 from the root's first child.
    tree.root.move_first("chosen");
}

fn memory(tree: &mut Tree, config: &VmConfig, told: &mut Vec<DtbProblem>) {
    let ours = (config.memory.base, config.memory.size);
    let given = DtbFacts::of(tree).memory;
    if !given.is_empty() && given != [ours] {
        told.push(DtbProblem::MemoryReplaced);
    }
    set_memory(tree, ours.0, ours.1);
}

/// Writes `/memory` with the cells that the root sets.
pub(super) fn set_memory(tree: &mut Tree, base: u64, size: u64) {
    let (address_cells, size_cells) = child_cells(&NodeAt::root(&tree.root));
    let mut reg = cells_of(base, address_cells);
    reg.append(&mut cells_of(size, size_cells));
    tree.root
        .ensure_child("memory", Position::Last)
        .set_str("device_type", "memory")
        .set_cells("reg", &reg);
}

/// The lowest `count` cells of a number.
pub(super) fn cells_of(number: u64, count: usize) -> Vec<u32> {
    let bytes = number.to_be_bytes();
    let pair: Vec<u32> = bytes
        .chunks_exact(4)
        .map(|cell| {
            cell.iter()
                .fold(0, |number, byte| (number << 8) | u32::from(*byte))
        })
        .collect();
    pair[pair.len() - count.min(pair.len())..].to_vec()
}

fn vm_config(tree: &mut Tree, config: &VmConfig) {
    let found = vm_configs(tree).first().map(|at| at.name.clone());
    let gic = gic_node(tree)
        .map(|at| at.path().to_owned())
        .or_else(|| first_gic(tree));
    let name = found.unwrap_or_else(|| VM_CONFIG_NAMES[0].to_owned());
    let facts = DtbFacts::of(tree);

    let node = tree.root.ensure_child(&name, Position::Last);
    if !node.has("image-name") {
        node.set_str("image-name", config.name.as_str());
    }
    if !node.has("os-type") {
        node.set_str("os-type", "linux");
    }
    let memory = node.ensure_child("memory", Position::Last);
    if !memory.has("base-address") {
        memory
            .set_u32("#address-cells", 2)
            .set_u32("#size-cells", 2)
            .set_u64("base-address", config.memory.base);
    }
    if let Some(gic) = gic {
        let interrupts = node.ensure_child("interrupts", Position::Last);
        if !interrupts.has("config") {
            interrupts.set_str("config", &gic);
        }
    }
    if node.child("vcpus").is_none() {
        vcpus(node.ensure_child("vcpus", Position::Last), config);
    }
    let generated = generated(tree);
    let node = tree.root.ensure_child(&name, Position::Last);
    let vdevices = node.ensure_child("vdevices", Position::Last);
    if !vdevices.has("generate") {
        vdevices.set_str("generate", "/hypervisor");
    }
    for region in &config.regions {
        if !facts.shm.iter().any(|shm| shm.label == region.label) {
            let name = vdevice_name(vdevices, &generated, &format!("shm-{}", region.label));
            vdevices.push(shm(&name, region.label, region.base));
        }
    }
    if let Some(console) = &config.console {
        let known = |label| facts.doorbells.iter().any(|bell| bell.label == label);
        if !known(console.label) {
            let name = vdevice_name(vdevices, &generated, &format!("bell-{}", console.label));
            vdevices.push(console::doorbell(&name, console));
        }
    }
}

/// `wanted`, or the first of `wanted-2`, `wanted-3`, … that is free.
pub(super) fn free_name(wanted: &str, taken: impl Fn(&str) -> bool) -> String {
    let numbered = (2..).map(|number: u32| format!("{wanted}-{number}"));
    std::iter::once(wanted.to_owned())
        .chain(numbered)
        .find(|name| !taken(name))
        .unwrap_or_default()
}

/// Where the tree's vdevices will be: two of one path would be one too many.
fn generated(tree: &Tree) -> HashSet<String> {
    let walk = tree.walk();
    let paths = walk.iter().filter_map(|at| at.str("generate").ok());
    paths.map(str::to_owned).collect()
}

/// A free name for one more vdevice, free below `/hypervisor` too.
fn vdevice_name(vdevices: &Node, generated: &HashSet<String>, wanted: &str) -> String {
    free_name(wanted, |name| {
        vdevices.child(name).is_some() || generated.contains(&format!("/hypervisor/{name}"))
    })
}

fn first_gic(tree: &Tree) -> Option<String> {
    tree.walk()
        .iter()
        .find(|at| at.is_compatible("arm,gic-v3"))
        .map(|at| at.path().to_owned())
}

/// The physical CPU of each vCPU that the config names; empty if it names none.
pub(super) fn affinity_map(config: &VmConfig) -> Vec<u32> {
    let lists = config.vcpus.affinity.iter();
    lists.filter_map(|list| list.first().copied()).collect()
}

fn vcpus(node: &mut Node, config: &VmConfig) {
    match config.vcpus.scheduling {
        Scheduling::Proxy => {
            node.set_str("affinity", "proxy");
        }
        Scheduling::Hypervisor => {
            let mut map = affinity_map(config);
            if map.is_empty() {
                map = (0..config.vcpus.count).collect();
            }
            node.set_cells("affinity-map", &map)
                .set_u32("sched-priority", SCHED_PRIORITY)
                .set_u32("sched-timeslice", SCHED_TIMESLICE);
        }
    }
}

/// A region's vdevice: the resource manager maps the region with this label at `base`.
fn shm(name: &str, label: u32, base: u64) -> Node {
    let mut memory = Node::new("memory");
    memory
        .set_u32("label", label)
        .set_u32("#address-cells", 2)
        .set_u32("#size-cells", 2)
        .set_u64("base", base);
    let mut node = Node::new(name);
    node.set_str("vdevice-type", "shm")
        .set_str("generate", &format!("/hypervisor/{name}"))
        .set_u32("label", label)
        .set_empty("peer-default")
        .set_u64("dma_base", 0)
        .push(memory);
    node
}
