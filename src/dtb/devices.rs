// SPDX-License-Identifier: Apache-2.0
//! The virtio devices in a tree: a doorbell and a node for each, and the pool that they share with the
//! guest.

use crate::config::VmConfig;
use crate::plan::{trigger, LaunchPlan, PlannedDevice, Range};

use super::complete::free_name;
use super::console::{free_phandle, LEVEL_HIGH};
use super::lookup::{devices_at, label, vdevices};
use super::property::{Cells, NodeAt};
use super::tree::{Node, Tree};

/// Trigger cell of an edge interrupt.
const EDGE_RISING: u32 = 1;

/// What Linux looks for in a pool and in a device (Documentation/devicetree/bindings).
pub(super) const POOL_MODEL: &str = "restricted-dma-pool";
pub(super) const MMIO_MODEL: &str = "virtio,mmio";

/// The trigger cell of the devices' interrupts: the irqfds' flag says the same.
pub(super) fn trigger_cell(config: &VmConfig) -> u32 {
    match trigger(config.transport) {
        gunyah::Trigger::Edge => EDGE_RISING,
        gunyah::Trigger::Level => LEVEL_HIGH,
    }
}

/// The doorbell with a device's label.
pub(super) fn doorbell<'a>(tree: &'a Tree, device: &PlannedDevice) -> Option<NodeAt<'a>> {
    let mut bells = vdevices(tree, "doorbell").into_iter();
    bells.find(|bell| label(bell) == Some(device.label))
}

/// The doorbell of `device`.
pub(super) fn doorbell_vdevice(name: &str, device: &PlannedDevice, trigger: u32) -> Node {
    super::console::doorbell_node(name, device.label, [0, device.interrupt, trigger])
}

/// The node of the pool: fixed in /reserved-memory, without a label and within /memory.
pub(super) fn pool_node(tree: &Tree, pool: Range) -> Option<NodeAt<'_>> {
    let reserved = tree.at("/reserved-memory")?;
    let mut nodes = reserved.children().collect::<Vec<_>>().into_iter();
    nodes.find(|node| {
        node.is_compatible(POOL_MODEL) && node.reg() == Some(vec![(pool.base, pool.size)])
    })
}

/// Adds the pool, if it is not there, and what its phandle says to the devices.
pub(super) fn pool(tree: &mut Tree, pool: Range) {
    let found = pool_node(tree, pool).map(|node| (node.path().to_owned(), node.phandle()));
    let phandle = free_phandle(tree);
    match found {
        Some((_, Some(_))) => {}
        Some((path, None)) => {
            if let Some(node) = tree.find_mut(&path) {
                node.set_u32("phandle", phandle);
            }
        }
        None => {
            let reserved = super::complete::reserved_memory(tree);
            let mut node = Node::new(&format!("pool@{:x}", pool.base));
            node.set_str("compatible", POOL_MODEL)
                .set("reg", Cells::below(reserved).range(pool.base, pool.size))
                .set_u32("phandle", phandle);
            reserved.push(node);
        }
    }
}

/// Adds each device that is not there. Another thing at its registers is left to the rules.
pub(super) fn complete(tree: &mut Tree, config: &VmConfig, plan: &LaunchPlan) {
    let pool = plan.pool.and_then(|pool| pool_node(tree, pool)?.phandle());
    for device in &plan.devices {
        let Range { base, size } = device.registers;
        if devices_at(tree, base, size).is_empty() {
            let name = free_name("virtio_mmio", |name| {
                tree.root.child(&format!("{name}@{base:x}")).is_some()
            });
            let mut node = Node::new(&format!("{name}@{base:x}"));
            node.set_str("compatible", MMIO_MODEL)
                .set("reg", Cells::below(&tree.root).range(base, size))
                .set_cells("interrupts", &[0, device.interrupt, trigger_cell(config)])
                .set_empty("dma-coherent");
            if let Some(pool) = pool {
                node.set_u32("memory-region", pool);
            }
            tree.root.push(node);
        }
    }
}
