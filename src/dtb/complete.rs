// SPDX-License-Identifier: Apache-2.0
//! Adds to a tree what config, plan and resource manager want. A tree that has everything already comes
//! out unchanged but for the values that are ours.

use crate::config::{Access, Scheduling, VmConfig};
use crate::diagnostic::kinds;
use crate::list::Listed;
use crate::plan::{LaunchPlan, PlannedRegion, Range};

use super::build::{Faults, Seeds};
use super::console;
use super::devices;
use super::lookup::{doorbell, gic, shm_label, vdevices, vm_configs, VM_CONFIG_NAMES};
use super::power_key;
use super::property::{Cells, NodeAt};
use super::tree::{Node, Tree};

kinds! {
    SYMBOLS_DROPPED: Warning "dtb-symbols-dropped" in Dtb {
        "the devicetree has the symbol tables of dtc -@, which are left out",
        cause: "their names cannot be written, and nothing reads them in a guest",
        cure: "compile without -@",
    }
    MEMORY_REPLACED: Warning "dtb-memory-replaced" in Dtb {
        "the given /memory is not main memory and is replaced",
        cause: "main memory is what the config says",
        cure: "remove the reg of /memory, or make it the config's",
    }
    STRAY_INITRD: Error "dtb-stray-initrd" in Dtb {
        "/chosen names an initrd and the config has none",
        cause: "the kernel would unpack whatever lies there",
        cure: "add initrd to the config, or remove linux,initrd-start and linux,initrd-end",
    }
}

/// `sched-priority` of a hypervisor-scheduled VM: one below the default, as the real resource manager
/// took it. A VM's priority must be below its owner's.
const SCHED_PRIORITY: u32 = 0xffff_ffff;
/// `sched-timeslice` in microseconds, as the real resource manager took it.
const SCHED_TIMESLICE: u32 = 2000;

/// Tables that `dtc -@` makes for overlays by label. `vm-fdt` cannot write their names, and the resource
/// manager's overlay goes by path and phandle.
const SYMBOL_NODES: [&str; 3] = ["__symbols__", "__fixups__", "__local_fixups__"];

pub(super) fn complete(
    tree: &mut Tree,
    config: &VmConfig,
    plan: &LaunchPlan,
    seeds: &Seeds,
    faults: &mut Faults<'_>,
) {
    let mut dropped = false;
    for name in SYMBOL_NODES {
        dropped |= tree.root.remove_child(name).is_some();
    }
    if dropped {
        faults.add(SYMBOLS_DROPPED.case("the symbol tables of dtc -@ are left out"));
    }
    chosen(tree, config, plan, seeds, faults);
    memory(tree, plan, faults);
    if let Some(pool) = plan.pool {
        devices::pool(tree, pool);
    }
    if plan.dialect.pages_on_demand() {
        shared_memory(tree, plan);
    }
    vm_config(tree, config, plan);
    if plan.firmware.is_some() {
        kernel_range(tree, plan);
    }
    if let Some(console) = &config.console {
        console::complete(tree, console);
    }
    devices::complete(tree, config, plan);
    if let Some(key) = plan.power_key {
        power_key::complete(tree, key);
    }
}

fn chosen(
    tree: &mut Tree,
    config: &VmConfig,
    plan: &LaunchPlan,
    seeds: &Seeds,
    faults: &mut Faults<'_>,
) {
    let chosen = tree.root.ensure_child("chosen");
    if !config.kernel.cmdline.is_empty() || !chosen.has("bootargs") {
        chosen.set_str("bootargs", &config.kernel.cmdline);
    }
    if let Some(initrd) = &plan.initrd {
        chosen.set_u64("linux,initrd-start", initrd.base);
        chosen.set_u64("linux,initrd-end", initrd.base.saturating_add(initrd.size));
    } else if chosen.has("linux,initrd-start") || chosen.has("linux,initrd-end") {
        faults
            .add_at("initrd", STRAY_INITRD.case("/chosen names an initrd and the config has none"));
    }
    chosen.set("rng-seed", seeds.rng.to_vec());
    chosen.set_u64("kaslr-seed", seeds.kaslr);
    // The resource manager takes the cells of depth 2 from the root's first child.
    tree.root.move_first("chosen");
}

/// Writes `/memory` with the cells that the root sets.
fn memory(tree: &mut Tree, plan: &LaunchPlan, faults: &mut Faults<'_>) {
    let main = plan.main();
    let memory = NodeAt::root(tree).child("memory");
    let given = memory.and_then(|memory| memory.reg()).unwrap_or_default();
    // Linux has only what is in /memory in its linear map, where it expects the pool.
    let pool = plan.pool.map(|pool| (pool.base, pool.size));
    let mut ranges = vec![(main.base, main.size)];
    ranges.extend(pool);
    // As it was completed before, or would be for another kernel.
    if !given.is_empty() && given != ranges && given != ranges[..1] {
        faults.add(MEMORY_REPLACED.case(format!(
            "the given /memory is not main memory, {:#x}+{:#x}, and is replaced",
            main.base, main.size
        )));
    }
    let cells = Cells::below(&tree.root);
    let mut reg = Vec::new();
    for (base, size) in ranges {
        reg.append(&mut cells.range(base, size));
    }
    tree.root.ensure_child("memory").set_str("device_type", "memory").set("reg", reg);
}

/// Gives each shared region a node of /reserved-memory, without a label: so the resource manager lets the
/// guest reach it above device space, and the guest leaves it alone otherwise.
fn shared_memory(tree: &mut Tree, plan: &LaunchPlan) {
    for region in plan.regions.iter().skip(1).filter(|region| region.access != Access::Lend) {
        let range = (region.base, region.size);
        let reserved = tree.at("/reserved-memory");
        let there = reserved.is_some_and(|reserved| {
            reserved.children().any(|node| node.reg().is_some_and(|reg| reg.contains(&range)))
        });
        if there {
            continue;
        }
        let reserved = reserved_memory(tree);
        let mut node = Node::new(&format!("memory@{:x}", region.base));
        node.set("reg", Cells::below(reserved).range(region.base, region.size)).set_empty("no-map");
        reserved.push(node);
    }
}

/// /reserved-memory, made if it is missing.
pub(super) fn reserved_memory(tree: &mut Tree) -> &mut Node {
    let cells = Cells::below(&tree.root);
    let cells_of = |cells: usize| u32::try_from(cells).unwrap_or(2);
    let reserved = tree.root.ensure_child("reserved-memory");
    if !reserved.has("ranges") {
        reserved
            .set_u32("#address-cells", cells_of(cells.address))
            .set_u32("#size-cells", cells_of(cells.size))
            .set_empty("ranges");
    }
    reserved
}

fn vm_config(tree: &mut Tree, config: &VmConfig, plan: &LaunchPlan) {
    let found = vm_configs(tree).next().map(|at| at.name.clone());
    let name = found.unwrap_or_else(|| VM_CONFIG_NAMES[0].to_owned());
    let gic = gic(tree).or_else(|| {
        let mut walk = tree.walk().into_iter();
        walk.find(|at| at.is_compatible("arm,gic-v3"))
    });
    let gic = gic.map(|at| at.path().to_owned());

    let node = tree.root.ensure_child(&name);
    if !node.has("image-name") {
        node.set_str("image-name", config.name.as_str());
    }
    if !node.has("os-type") {
        node.set_str("os-type", "linux");
    }
    let memory = node.ensure_child("memory");
    if !memory.has("base-address") {
        memory
            .set_u32("#address-cells", 2)
            .set_u32("#size-cells", 2)
            .set_u64("base-address", config.memory.base);
    }
    if let Some(range) = plan.firmware {
        firmware(memory, range, plan);
    }
    if let Some(gic) = gic {
        let interrupts = node.ensure_child("interrupts");
        if !interrupts.has("config") {
            interrupts.set_str("config", &gic);
        }
    }
    if node.child("vcpus").is_none() {
        vcpus(node.ensure_child("vcpus"), config, plan);
    }
    let node = node.ensure_child("vdevices");
    if !node.has("generate") {
        node.set_str("generate", "/hypervisor");
    }
    add_vdevices(tree, config, plan, &name);
}

/// Says where the resource manager places the firmware, and bounds both ranges: without a bound each
/// reaches to the end of the address space, and so over the other one.
fn firmware(memory: &mut Node, range: Range, plan: &LaunchPlan) {
    for (name, value) in [
        ("firmware-address", range.base),
        ("firmware-size-max", range.size),
        ("size-max", plan.main().size),
    ] {
        if !memory.has(name) {
            memory.set_u64(name, value);
        }
    }
}

/// Says to the firmware where the kernel is, as crosvm does; the registers do not since 6.6.
fn kernel_range(tree: &mut Tree, plan: &LaunchPlan) {
    let word = |value: u64| u32::try_from(value).unwrap_or(0);
    let node = tree.root.ensure_child("config");
    node.set_u32("kernel-address", word(plan.kernel.entry))
        .set_u32("kernel-size", word(plan.kernel.size));
}

/// Adds the vdevices that the tree lacks to its vm-config, which has this name.
fn add_vdevices(tree: &mut Tree, config: &VmConfig, plan: &LaunchPlan, vm_config: &str) {
    let shm = vdevices(tree, "shm").iter().filter_map(shm_label).listed();
    // Where only the devicetree's range is handed over, a vdevice would wait for memory that never comes.
    let handed_over = !plan.dialect.pages_on_demand();
    let regions = plan.regions.iter().skip(1);
    let regions = regions.filter(|region| handed_over && !shm.contains(&region.label));
    let console = config.console.as_ref();
    let console = console.filter(|console| doorbell(tree, console.label).is_none());
    let devices = plan.devices.iter();
    let devices = devices
        .filter(|device| doorbell(tree, device.label).is_none())
        .map(|device| (device, devices::trigger_cell(tree, config, device)))
        .listed();
    let power_key = plan.power_key.filter(|key| doorbell(tree, key.label).is_none());
    // Two vdevices of one path below /hypervisor would be one too many.
    let walk = tree.walk();
    let generated = walk.iter().filter_map(|at| at.str("generate"));
    let generated = generated.map(str::to_owned).listed();
    let free = |vdevices: &Node, wanted: String| {
        free_name(&wanted, &|name| {
            vdevices.child(name).is_some() || generated.contains(&format!("/hypervisor/{name}"))
        })
    };

    let vdevices = tree.root.ensure_child(vm_config).ensure_child("vdevices");
    for region in regions {
        let name = free(vdevices, format!("shm-{}", region.label));
        vdevices.push(shm_vdevice(&name, region));
    }
    if let Some(console) = console {
        let name = free(vdevices, format!("bell-{}", console.label));
        vdevices.push(console::doorbell_vdevice(&name, console));
    }
    for (device, trigger) in devices {
        let name = free(vdevices, format!("bell-{}", device.label));
        vdevices.push(devices::doorbell_vdevice(&name, device, trigger));
    }
    if let Some(key) = power_key {
        let name = free(vdevices, format!("bell-{}", key.label));
        vdevices.push(power_key::doorbell_vdevice(&name, key));
    }
}

/// `wanted`, or the first of `wanted-2`, `wanted-3`, … that is free.
pub(super) fn free_name(wanted: &str, taken: &dyn Fn(&str) -> bool) -> String {
    let mut name = wanted.to_owned();
    for number in 2u32.. {
        if !taken(&name) {
            break;
        }
        name = format!("{wanted}-{number}");
    }
    name
}

/// The physical CPU of each vCPU that the config names; empty if it names none.
pub(super) fn affinity_map(config: &VmConfig) -> Vec<u32> {
    let lists = config.vcpus.affinity.iter();
    lists.filter_map(|list| list.first().copied()).listed()
}

fn vcpus(node: &mut Node, config: &VmConfig, plan: &LaunchPlan) {
    match plan.scheduling {
        Scheduling::Proxy => {
            node.set_str("affinity", "proxy");
            if plan.timer_wakeups {
                // The resource manager then passes the times on, and the driver wakes the vCPUs.
                node.set_empty("no-timer-wakeups");
            }
        }
        Scheduling::Hypervisor => {
            let mut map = affinity_map(config);
            if map.is_empty() {
                map = (0..config.vcpus.count).listed();
            }
            node.set_cells("affinity-map", &map)
                .set_u32("sched-priority", SCHED_PRIORITY)
                .set_u32("sched-timeslice", SCHED_TIMESLICE);
        }
    }
}

/// The resource manager maps the region with this label at `base`.
fn shm_vdevice(name: &str, region: &PlannedRegion) -> Node {
    let mut memory = Node::new("memory");
    memory
        .set_u32("label", region.label)
        .set_u32("#address-cells", 2)
        .set_u32("#size-cells", 2)
        .set_u64("base", region.base);
    let mut node = Node::new(name);
    node.set_str("vdevice-type", "shm")
        .set_str("generate", &format!("/hypervisor/{name}"))
        .set_u32("label", region.label)
        .set_empty("peer-default")
        .set_u64("dma_base", 0)
        .push(memory);
    node
}
