// SPDX-License-Identifier: Apache-2.0
//! The virtio devices: the doorbell and the node of each, and the pool.

use crate::config::VmConfig;
use crate::diagnostic::kinds;
use crate::dtb::build::Faults;
use crate::dtb::devices::{doorbell, pool_node, trigger_cell, MMIO_MODEL};
use crate::dtb::lookup::{devices_at, spi};
use crate::dtb::property::NodeAt;
use crate::dtb::tree::Tree;
use crate::plan::{LaunchPlan, PlannedDevice};

kinds! {
    // Seen: an edge irqfd of a level interrupt is raised for ever.
    DEVICE_DOORBELL: Error "dtb-device-doorbell" in Dtb {
        "a doorbell with a virtio device's label raises another interrupt than the device's",
        cause: "gunyahd gives devices labels and SPIs from 6 on, and the devicetree uses the label for something else",
        cure: "give the devicetree's own doorbells other labels, or leave the device's doorbell out: it is added",
    }
    // Ours.
    DEVICE_DIFFERS: Error "dtb-device-differs" in Dtb {
        "what the devicetree has at a virtio device's registers is not that device",
        cause: "the guest would talk to a device that is not there",
        cure: "remove the node: it is added as it has to be",
    }
    // Ours.
    DEVICE_INTERRUPT: Error "dtb-device-interrupt" in Dtb {
        "another node has the interrupt of a virtio device",
        cause: "gunyahd gives devices labels and SPIs from 6 on",
        cure: "give the other node another SPI",
    }
}

pub(super) fn check(tree: &Tree, config: &VmConfig, plan: &LaunchPlan, faults: &mut Faults<'_>) {
    let trigger = trigger_cell(config);
    for device in &plan.devices {
        let key = device.model.key();
        let wanted = Some((device.interrupt, trigger));
        let bell = doorbell(tree, device);
        if let Some(bell) = bell.as_ref().filter(|bell| spi(bell) != wanted) {
            let what = format!(
                "{} with label {} does not raise SPI {} with trigger {trigger}",
                bell.path(),
                device.label,
                device.interrupt
            );
            faults.add_at(&key, DEVICE_DOORBELL.case(what));
        }
        let nodes = devices_at(tree, device.registers.base, device.registers.size);
        for node in &nodes {
            if let Some(why) = difference(node, tree, device, plan, trigger) {
                let what = format!("{} {why}", node.path());
                faults.add_at(&key, DEVICE_DIFFERS.case(what));
            }
        }
        let own = |at: &NodeAt<'_>| {
            at.has("vdevice-type") || nodes.iter().any(|node| node.path() == at.path())
        };
        let same = |at: &NodeAt<'_>| spi(at).is_some_and(|(number, _)| number == device.interrupt);
        if let Some(other) = tree.walk().into_iter().find(|at| same(at) && !own(at)) {
            let what = format!("{} has SPI {} of {key}", other.path(), device.interrupt);
            faults.add_at(&key, DEVICE_INTERRUPT.case(what));
        }
    }
}

/// What keeps the node from being this device.
fn difference(
    node: &NodeAt<'_>,
    tree: &Tree,
    device: &PlannedDevice,
    plan: &LaunchPlan,
    trigger: u32,
) -> Option<&'static str> {
    let range = device.registers;
    let pool = plan.pool.and_then(|pool| pool_node(tree, pool)?.phandle());
    let faults = [
        (!node.is_compatible(MMIO_MODEL), "is not a virtio-mmio device"),
        (node.reg() != Some(vec![(range.base, range.size)]), "has other registers than the device"),
        (spi(node) != Some((device.interrupt, trigger)), "has another interrupt than the device"),
        (
            pool.is_some() && node.u32("memory-region") != pool,
            "has no memory-region, or another one than the pool: main memory is lent, and the device cannot reach it",
        ),
        (
            !matches!(node.str("status"), None | Some("okay" | "ok")),
            "has a status other than okay: the guest leaves it alone",
        ),
    ];
    faults.into_iter().find(|(broken, _)| *broken).map(|(_, why)| why)
}
