// SPDX-License-Identifier: Apache-2.0
//! Where the resource manager finds what it needs in a tree.

use crate::config::{ConsoleDevice, Scheduling};
use crate::layout::SPIS;
use crate::list::Listed;

use super::property::NodeAt;
use super::tree::Tree;

/// The names that a vm-config node may have; the resource manager looks for both.
pub(super) const VM_CONFIG_NAMES: [&str; 2] = ["gunyah-vm-config", "qcom,vm-config"];

/// The vm-config nodes; there should be one.
pub(super) fn vm_configs(tree: &Tree) -> impl Iterator<Item = NodeAt<'_>> {
    let children = NodeAt::root(tree).children().listed();
    children.into_iter().filter(|child| VM_CONFIG_NAMES.contains(&child.name.as_str()))
}

/// A child of the vm-config.
pub(super) fn vm_config_part<'a>(tree: &'a Tree, name: &str) -> Option<NodeAt<'a>> {
    vm_configs(tree).next()?.child(name)
}

/// Who schedules the vCPUs; `None` if the tree does not say.
pub(super) fn scheduling(tree: &Tree) -> Option<Scheduling> {
    let vcpus = vm_config_part(tree, "vcpus")?;
    match vcpus.str("affinity") {
        Some("proxy") => Some(Scheduling::Proxy),
        _ if vcpus.has("affinity-map") => Some(Scheduling::Hypervisor),
        _ => None,
    }
}

/// Where the CPUs are: the vm-config may name another place than `/cpus`.
pub(super) fn cpus_node(tree: &Tree) -> Option<NodeAt<'_>> {
    let vcpus = vm_config_part(tree, "vcpus");
    let named = vcpus.and_then(|vcpus| vcpus.node.str("config"));
    tree.at(named.unwrap_or("/cpus"))
}

/// The nodes that the resource manager makes vCPUs of, in its order: `device_type = "cpu"`, without
/// those whose `status` begins with `fail`.
pub(super) fn cpu_nodes(tree: &Tree) -> Vec<NodeAt<'_>> {
    let failed = |cpu: &NodeAt<'_>| match cpu.str("status") {
        Some(status) => status == "fail" || status.starts_with("fail-"),
        None => false,
    };
    let Some(cpus) = cpus_node(tree) else {
        return Vec::new();
    };
    cpus.children().filter(|cpu| cpu.str("device_type") == Some("cpu") && !failed(cpu)).listed()
}

/// Nodes with this `vdevice-type`. The resource manager looks for them in the whole tree.
pub(super) fn vdevices<'a>(tree: &'a Tree, kind: &str) -> Vec<NodeAt<'a>> {
    let mut found = tree.walk();
    found.retain(|at| at.lists("vdevice-type", kind));
    found
}

/// The doorbell with this label.
pub(super) fn doorbell(tree: &Tree, wanted: u32) -> Option<NodeAt<'_>> {
    let mut bells = vdevices(tree, "doorbell").into_iter();
    bells.find(|bell| label(bell) == Some(wanted))
}

/// `qcom,label`, else `label`.
pub(super) fn label(at: &NodeAt<'_>) -> Option<u32> {
    at.u32("qcom,label").or_else(|| at.u32("label"))
}

/// The label of a `shm` vdevice: its own, else its memory's.
pub(super) fn shm_label(shm: &NodeAt<'_>) -> Option<u32> {
    label(shm).or_else(|| label(&shm.child("memory")?))
}

/// A device's `interrupts` if it is one SPI: number and trigger (1 rising edge, 4 level high).
pub(super) fn spi(at: &NodeAt<'_>) -> Option<(u32, u32)> {
    match at.cells("interrupts")?[..] {
        [0, number, trigger] if number < SPIS => Some((number, trigger & 0xf)),
        _ => None,
    }
}

/// The interrupt controller as the resource manager finds it: by the vm-config's
/// `interrupts/config`, else by the root's `interrupt-parent`.
pub(super) fn gic(tree: &Tree) -> Option<NodeAt<'_>> {
    let named =
        vm_config_part(tree, "interrupts").and_then(|interrupts| match interrupts.str("config") {
            Some(path) if path.len() > 1 && path.starts_with('/') => tree.at(path),
            _ => tree.by_phandle(interrupts.u32("config")?),
        });
    named.or_else(|| tree.by_phandle(tree.root.u32("interrupt-parent")?))
}

/// The models of serial port that the console can be, as `compatible` names them.
pub(super) fn models(device: ConsoleDevice) -> [&'static str; 2] {
    match device {
        ConsoleDevice::Pl011 => ["arm,pl011", "arm,sbsa-uart"],
        ConsoleDevice::Ns16550 => ["ns16550a", "ns16550"],
    }
}

/// Nodes of these models, whichever, each with its first range of registers.
pub(super) fn serial_ports(tree: &Tree) -> Vec<(NodeAt<'_>, (u64, u64))> {
    let known = [ConsoleDevice::Pl011, ConsoleDevice::Ns16550].map(models);
    let walk = tree.walk().into_iter();
    walk.filter(|at| known.iter().flatten().any(|model| at.is_compatible(model)))
        .filter_map(|at| {
            let registers = at.reg()?.first().copied()?;
            Some((at, registers))
        })
        .listed()
}

/// Nodes whose registers overlap the `size` bytes at `base`.
pub(super) fn devices_at(tree: &Tree, base: u64, size: u64) -> Vec<NodeAt<'_>> {
    let end = base.saturating_add(size);
    let overlaps = |(start, len): &(u64, u64)| *start < end && base < start.saturating_add(*len);
    let mut found = Vec::new();
    let mut open = vec![NodeAt::root(tree)];
    while let Some(parent) = open.pop() {
        for node in parent.children() {
            if node.reg().is_some_and(|reg| reg.iter().any(overlaps)) {
                found.push(node.clone());
            }
            // Only below an empty `ranges` are addresses those of the guest.
            if node.value("ranges").is_some_and(<[u8]>::is_empty) {
                open.push(node);
            }
        }
    }
    found
}
