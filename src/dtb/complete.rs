// SPDX-License-Identifier: Apache-2.0
//! Adds to a tree what the config and the resource manager want, with room for the addresses.
//! A tree that has everything already comes out unchanged but for the values that are ours.

use crate::config::{ConsoleConfig, ConsoleDevice, Scheduling, VmConfig};

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
        serial(tree, console);
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
fn cells_of(number: u64, count: usize) -> Vec<u32> {
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
    let vdevices = node.ensure_child("vdevices", Position::Last);
    if !vdevices.has("generate") {
        vdevices.set_str("generate", "/hypervisor");
    }
    for region in &config.regions {
        if !facts.shm.iter().any(|shm| shm.label == region.label) {
            vdevices.push(shm(region.label, region.base));
        }
    }
    if let Some(console) = &config.console {
        let known = |label| facts.doorbells.iter().any(|bell| bell.label == label);
        if !known(console.label) {
            vdevices.push(doorbell(console));
        }
    }
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
fn shm(label: u32, base: u64) -> Node {
    let mut memory = Node::new("memory");
    memory
        .set_u32("label", label)
        .set_u32("#address-cells", 2)
        .set_u32("#size-cells", 2)
        .set_u64("base", base);
    let mut node = Node::new(&format!("shm-{label}"));
    node.set_str("vdevice-type", "shm")
        .set_str("generate", &format!("/hypervisor/shm-{label}"))
        .set_u32("label", label)
        .set_empty("peer-default")
        .set_u64("dma_base", 0)
        .push(memory);
    node
}

/// The console's doorbell: an irqfd with its label raises the level interrupt.
fn doorbell(console: &ConsoleConfig) -> Node {
    let mut node = Node::new(&format!("bell-{}", console.label));
    node.set_str("vdevice-type", "doorbell")
        .set_str("generate", &format!("/hypervisor/bell-{}", console.label))
        .set_u32("label", console.label)
        .set_empty("peer-default")
        .set_empty("source-can-clear")
        .set_cells("interrupts", &[0, console.interrupt, LEVEL_HIGH]);
    node
}

/// Trigger cell of a level interrupt.
const LEVEL_HIGH: u32 = 4;

/// The console's serial port, unless one is at its address.
fn serial(tree: &mut Tree, console: &ConsoleConfig) {
    let facts = DtbFacts::of(tree);
    let path = match facts
        .serials
        .iter()
        .find(|serial| serial.base == console.base)
    {
        Some(serial) => serial.path.clone(),
        None => add_serial(tree, console),
    };
    let chosen = tree.root.ensure_child("chosen", Position::First);
    if !chosen.has("stdout-path") {
        chosen.set_str("stdout-path", &path);
    }
}

fn add_serial(tree: &mut Tree, console: &ConsoleConfig) -> String {
    let (address_cells, size_cells) = child_cells(&NodeAt::root(&tree.root));
    let mut node = Node::new(&format!("serial@{:x}", console.base));
    let size = match console.device {
        ConsoleDevice::Pl011 => {
            let clock = clock(tree);
            node.set_strings("compatible", &["arm,pl011", "arm,primecell"])
                .set_cells("clocks", &[clock, clock])
                .set_strings("clock-names", &["uartclk", "apb_pclk"]);
            0x1000
        }
        ConsoleDevice::Ns16550 => {
            // 1.8432 MHz and 115200 baud: what the part had in the PC; nothing depends on it here.
            node.set_str("compatible", "ns16550a")
                .set_u32("clock-frequency", 1_843_200)
                .set_u32("current-speed", 115_200);
            0x100
        }
    };
    let mut reg = cells_of(console.base, address_cells);
    reg.append(&mut cells_of(size, size_cells));
    node.set_cells("reg", &reg)
        .set_cells("interrupts", &[0, console.interrupt, LEVEL_HIGH]);
    let path = format!("/{}", node.name);
    tree.root.push(node);
    path
}

/// The phandle of the clock that Linux wants for a PL011, 24 MHz as on Arm's boards.
fn clock(tree: &mut Tree) -> u32 {
    let next = tree
        .walk()
        .iter()
        .filter_map(|at| at.phandle())
        .max()
        .map_or(1, |highest| highest.saturating_add(1));
    let node = tree.root.ensure_child("apb-pclk", Position::Last);
    if node.phandle().is_none() {
        node.set_u32("phandle", next);
    }
    node.set_str("compatible", "fixed-clock")
        .set_u32("#clock-cells", 0)
        .set_u32("clock-frequency", 24_000_000)
        .set_str("clock-output-names", "clk24mhz");
    node.phandle().unwrap_or(next)
}
