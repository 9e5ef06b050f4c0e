// SPDX-License-Identifier: Apache-2.0
//! The virtio devices in a tree: a doorbell and a node for each, and the pool that they share with the
//! guest.

use gunyah::Trigger;

use crate::config::{Transport, VmConfig};
use crate::layout::{PCI_CAM_BASE, PCI_CAM_SIZE, PCI_MEMORY_BASE, PCI_MEMORY_SIZE};
use crate::list::Listed;
use crate::plan::{LaunchPlan, PlannedDevice, Range};

use super::complete::free_name;
use super::console::{free_phandle, LEVEL_HIGH};
use super::lookup::{devices_at, gic, spi};
use super::property::{Cells, NodeAt};
use super::tree::{Node, Tree};

/// Trigger cell of an edge interrupt.
pub(super) const EDGE_RISING: u32 = 1;

/// What Linux looks for in a pool and in a device (Documentation/devicetree/bindings).
pub(super) const POOL_MODEL: &str = "restricted-dma-pool";
pub(super) const MMIO_MODEL: &str = "virtio,mmio";
pub(super) const PCI_MODEL: &str = "pci-host-cam-generic";

/// The trigger of a device's interrupt, which its irqfd has to have, too: on the PCI bus level, as INTx is; else
/// edge, unless the tree's own node of the device says level. A guest that nobody built for gunyahd may know its
/// tree by heart.
pub(super) fn trigger(tree: &Tree, config: &VmConfig, device: &PlannedDevice) -> Trigger {
    let level = || {
        let nodes = devices_at(tree, device.registers.base, device.registers.size);
        nodes.iter().any(|node| spi(node) == Some((device.interrupt, LEVEL_HIGH)))
    };
    match config.transport {
        Transport::Mmio if !level() => Trigger::Edge,
        Transport::Mmio | Transport::Pci => Trigger::Level,
    }
}

/// The same as the third cell of `interrupts`.
pub(super) fn trigger_cell(tree: &Tree, config: &VmConfig, device: &PlannedDevice) -> u32 {
    match trigger(tree, config, device) {
        Trigger::Edge => EDGE_RISING,
        Trigger::Level => LEVEL_HIGH,
    }
}

/// The doorbell of `device`.
pub(super) fn doorbell_vdevice(name: &str, device: &PlannedDevice, trigger: u32) -> Node {
    super::console::doorbell_node(name, device.label, [0, device.interrupt, trigger])
}

/// The node of the pool: fixed in /reserved-memory, without a label and within /memory.
pub(super) fn pool_node(tree: &Tree, pool: Range) -> Option<NodeAt<'_>> {
    let reserved = tree.at("/reserved-memory")?;
    let mut nodes = reserved.children().listed().into_iter();
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
    if config.transport == Transport::Pci && !plan.devices.is_empty() {
        return pci_bus(tree, plan, pool);
    }
    for device in &plan.devices {
        let Range { base, size } = device.registers;
        if devices_at(tree, base, size).is_empty() {
            let reg = Cells::below(&tree.root).range(base, size);
            let node = add_node(tree, "virtio_mmio", base, MMIO_MODEL, pool);
            node.set("reg", reg).set_cells("interrupts", &[0, device.interrupt, EDGE_RISING]);
        }
    }
}

fn add_node<'a>(
    tree: &'a mut Tree,
    name: &str,
    base: u64,
    model: &str,
    pool: Option<u32>,
) -> &'a mut Node {
    let at = |name: &str| format!("{name}@{base:x}");
    let name = at(&free_name(name, &|name| tree.root.child(&at(name)).is_some()));
    let node = tree.root.ensure_child(&name);
    node.set_str("compatible", model).set_empty("dma-coherent");
    if let Some(pool) = pool {
        node.set_u32("memory-region", pool);
    }
    node
}

/// Of a PCI address: non-relocatable, 32-bit memory space (PCI bus binding to IEEE 1275, 2.2.1.1).
const MEMORY_SPACE: u32 = 0x0200_0000;

/// The bus with its devices (Documentation/devicetree/bindings/pci/host-generic-pci.yaml).
fn pci_bus(tree: &mut Tree, plan: &LaunchPlan, pool: Option<u32>) {
    if !devices_at(tree, PCI_CAM_BASE, PCI_CAM_SIZE).is_empty() {
        return;
    }
    let Some(map) = interrupt_map(tree, plan) else { return };
    let cells = Cells::below(&tree.root);
    let node = add_node(tree, "pci", PCI_CAM_BASE, PCI_MODEL, pool);
    // The child's address, the parent's, the size.
    let mut ranges =
        [MEMORY_SPACE, 0, low(PCI_MEMORY_BASE)].iter().flat_map(|cell| cell.to_be_bytes()).listed();
    ranges
        .extend(Cells { address: cells.address, size: 2 }.range(PCI_MEMORY_BASE, PCI_MEMORY_SIZE));
    node.set("reg", cells.range(PCI_CAM_BASE, PCI_CAM_SIZE))
        .set_str("device_type", "pci")
        .set_u32("#address-cells", 3)
        .set_u32("#size-cells", 2)
        .set_u32("#interrupt-cells", 1)
        .set_cells("bus-range", &[0, 0])
        .set("ranges", ranges)
        .set_cells("interrupt-map-mask", &[0xf800, 0, 0, 7])
        .set_cells("interrupt-map", &map);
    // The devices' memory stays where it is found.
    tree.root.ensure_child("chosen").set_u32("linux,pci-probe-only", 1);
}

/// INTA of each device's slot and the SPI that it is. None: there is no interrupt controller to name.
pub(super) fn interrupt_map(tree: &Tree, plan: &LaunchPlan) -> Option<Vec<u32>> {
    let gic = gic(tree)?;
    let phandle = gic.phandle()?;
    let address_cells = usize::try_from(gic.u32("#address-cells").unwrap_or(0)).ok()?;
    let mut map = Vec::new();
    for device in &plan.devices {
        map.extend([device.slot << 11, 0, 0, 1, phandle]);
        map.extend(std::iter::repeat_n(0, address_cells.min(2)));
        map.extend([0, device.interrupt, LEVEL_HIGH]);
    }
    Some(map)
}

/// Device space is below 4 GiB.
fn low(address: u64) -> u32 {
    u32::try_from(address).unwrap_or(0)
}
