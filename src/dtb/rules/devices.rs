// SPDX-License-Identifier: Apache-2.0
//! The virtio devices: the doorbell and the node of each, and the pool.

use super::broken;
use crate::config::{Transport, VmConfig};
use crate::diagnostic::kinds;
use crate::dtb::build::Faults;
use crate::dtb::devices::{interrupt_map, pool_node, trigger_cell, MMIO_MODEL, PCI_MODEL};
use crate::dtb::lookup::{devices_at, doorbell, spi};
use crate::dtb::property::NodeAt;
use crate::dtb::tree::Tree;
use crate::layout::{PCI_CAM_BASE, PCI_CAM_SIZE};
use crate::plan::{LaunchPlan, PlannedDevice};

kinds! {
    // Read in the driver: an edge irqfd of a level interrupt is raised for ever.
    DEVICE_DOORBELL: Error "dtb-device-doorbell" in Dtb {
        "a doorbell with a device's label raises another interrupt than the device's",
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
        "another node has the interrupt of a device",
        cause: "gunyahd gives devices labels and SPIs from 6 on",
        cure: "give the other node another SPI",
    }
}

pub(super) fn check(tree: &Tree, config: &VmConfig, plan: &LaunchPlan, faults: &mut Faults<'_>) {
    for device in &plan.devices {
        let trigger = trigger_cell(tree, config, device);
        let key = device.model.key();
        let nodes = devices_at(tree, device.registers.base, device.registers.size);
        for node in &nodes {
            if let Some(why) = mmio_difference(node, config, device, plan, tree) {
                let what = format!("{} {why}", node.path());
                faults.add_at(&key, DEVICE_DIFFERS.case(what));
            }
        }
        line(tree, &key, device.label, (device.interrupt, trigger), &nodes, faults);
    }
    if config.transport == Transport::Pci && !plan.devices.is_empty() {
        let nodes = devices_at(tree, PCI_CAM_BASE, PCI_CAM_SIZE);
        if nodes.is_empty() {
            let what = "there is no PCI bus: the tree's interrupt controller has no phandle";
            faults.add_at("transport", DEVICE_DIFFERS.case(what));
        }
        for node in nodes {
            if let Some(why) = pci_difference(&node, plan, tree) {
                faults.add_at("transport", DEVICE_DIFFERS.case(format!("{} {why}", node.path())));
            }
        }
    }
}

/// The doorbell with the label of what is `key` in the file raises its interrupt, number and trigger, which
/// no node has but its `own`.
pub(super) fn line(
    tree: &Tree,
    key: &str,
    label: u32,
    (number, trigger): (u32, u32),
    own: &[NodeAt<'_>],
    faults: &mut Faults<'_>,
) {
    let bell = doorbell(tree, label).filter(|bell| spi(bell) != Some((number, trigger)));
    if let Some(bell) = bell {
        let what = format!(
            "{} with label {label} does not raise SPI {number} with trigger {trigger}",
            bell.path()
        );
        faults.add_at(key, DEVICE_DOORBELL.case(what));
    }
    let own =
        |at: &NodeAt<'_>| at.has("vdevice-type") || own.iter().any(|node| node.path() == at.path());
    let same = |at: &NodeAt<'_>| spi(at).is_some_and(|(found, _)| found == number);
    if let Some(other) = tree.walk().into_iter().find(|at| same(at) && !own(at)) {
        let what = format!("{} has SPI {number} of {key}", other.path());
        faults.add_at(key, DEVICE_INTERRUPT.case(what));
    }
}

/// What of a bus and a device both have to be.
fn difference(node: &NodeAt<'_>, plan: &LaunchPlan, tree: &Tree) -> Option<&'static str> {
    let pool = plan.pool.and_then(|pool| pool_node(tree, pool)?.phandle());
    let faults = [
        (
            pool.is_some() && node.u32("memory-region") != pool,
            "has no memory-region, or another one than the pool: main memory is lent, and its devices cannot reach it",
        ),
        (
            !matches!(node.str("status"), None | Some("okay" | "ok")),
            "has a status other than okay: the guest leaves it alone",
        ),
    ];
    broken(&faults).first().copied()
}

/// What keeps the node at a device's registers from being this device.
fn mmio_difference(
    node: &NodeAt<'_>,
    config: &VmConfig,
    device: &PlannedDevice,
    plan: &LaunchPlan,
    tree: &Tree,
) -> Option<&'static str> {
    let range = device.registers;
    let faults = [
        (config.transport == Transport::Pci, "lies in the memory of the PCI bus"),
        (!node.is_compatible(MMIO_MODEL), "is not a virtio-mmio device"),
        (node.reg() != Some(vec![(range.base, range.size)]), "has other registers than the device"),
        (
            spi(node) != Some((device.interrupt, trigger_cell(tree, config, device))),
            "has another interrupt than the device",
        ),
    ];
    broken(&faults).first().copied().or_else(|| difference(node, plan, tree))
}

/// What keeps the node from being the devices' PCI bus.
fn pci_difference(node: &NodeAt<'_>, plan: &LaunchPlan, tree: &Tree) -> Option<&'static str> {
    let faults = [
        (!node.is_compatible(PCI_MODEL), "is not a PCI bus of pci-host-cam-generic"),
        (
            node.reg() != Some(vec![(PCI_CAM_BASE, PCI_CAM_SIZE)]),
            "has other registers than the bus",
        ),
        (
            node.cells("interrupt-map") != interrupt_map(tree, plan),
            "has another interrupt-map than the devices",
        ),
    ];
    broken(&faults).first().copied().or_else(|| difference(node, plan, tree))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::parse;
    use crate::dtb::fixture::{add_pool, plan};
    use crate::dtb::rules;
    use crate::dtb::{build, Seeds};

    fn config(keys: &str) -> VmConfig {
        let text = format!(
            r#"{{"name": "vm", "memory": {{"size": "64M"}}, "kernel": {{"path": "/Image"}},
                 "console": {{}}, "disks": [{{"path": "/a"}}, {{"path": "/b"}}] {keys}}}"#
        );
        parse(Path::new("vm.json"), &text).unwrap()
    }

    fn planned(config: &VmConfig) -> LaunchPlan {
        let mut plan = plan(config, 0, 0);
        add_pool(&mut plan);
        plan
    }

    /// The names of what is wrong with the generated tree after a change.
    fn wrong_after(config: &VmConfig, change: impl FnOnce(&mut Tree)) -> Vec<String> {
        let plan = planned(config);
        let mut tree = build(config, None, &plan, &Seeds::default()).unwrap().tree;
        assert_eq!(rules::check(&tree, config, &plan), []);
        change(&mut tree);
        let faults = rules::check(&tree, config, &plan).into_iter();
        faults.map(|fault| fault.name.to_string()).collect()
    }

    #[test]
    fn the_generated_tree_has_devices_by_either_transport_and_each_part_counts() {
        let mmio = config("");
        let part = |path: &'static str, property: &'static str, cells: &'static [u32]| {
            move |tree: &mut Tree| {
                tree.find_mut(path).unwrap().set_cells(property, cells);
            }
        };
        let device = "/virtio_mmio@a000200";
        for (path, property, cells) in [
            (device, "interrupts", &[0, 8, 1][..]),
            (device, "interrupts", &[0, 7, 8]),
            (device, "reg", &[0, 0xa00_0200, 0, 0x100]),
            (device, "memory-region", &[77]),
        ] {
            let wrong = wrong_after(&mmio, part(path, property, cells));
            assert_eq!(wrong, ["dtb-device-differs"], "{property}");
        }
        let wrong = wrong_after(&mmio, |tree| {
            tree.find_mut(device).unwrap().set_str("compatible", "other,device");
        });
        assert_eq!(wrong, ["dtb-device-differs"]);
        let bell = "/gunyah-vm-config/vdevices/bell-7";
        // The doorbell is to be what the device is.
        let wrong = wrong_after(&mmio, part(device, "interrupts", &[0, 7, 4]));
        assert_eq!(wrong, ["dtb-device-doorbell"]);
        let wrong = wrong_after(&mmio, part(bell, "interrupts", &[0, 7, 4]));
        assert_eq!(wrong, ["dtb-device-doorbell"]);
        let wrong = wrong_after(&mmio, |tree| {
            tree.root.ensure_child("button").set_cells("interrupts", &[0, 6, 4]);
        });
        assert_eq!(wrong, ["dtb-device-interrupt"]);

        let pci = config(r#", "transport": "pci""#);
        let bus = "/pci@10000";
        for (property, cells) in [
            ("interrupt-map", &[0x800, 0, 0, 1, 1, 0, 0, 0, 9, 4][..]),
            ("reg", &[0, 0x1_0000, 0, 0x2000]),
            ("memory-region", &[77]),
        ] {
            let wrong = wrong_after(&pci, part(bus, property, cells));
            assert_eq!(wrong, ["dtb-device-differs"], "{property}");
        }
        let wrong = wrong_after(&pci, |tree| drop(tree.root.remove_child("pci@10000")));
        assert_eq!(wrong, ["dtb-device-differs"]);
    }

    #[test]
    fn a_given_node_says_whether_its_interrupt_is_edge_or_level() {
        let config = config("");
        let plan = planned(&config);
        let mut given = build(&config, None, &plan, &Seeds::default()).unwrap();
        let level = [0, 7, 4];
        given.tree.find_mut("/virtio_mmio@a000200").unwrap().set_cells("interrupts", &level);
        given.tree.find_mut("/gunyah-vm-config/vdevices").unwrap().remove_child("bell-7");
        let blob = given.tree.to_blob().unwrap();
        let built = build(&config, Some(&blob), &plan, &Seeds::default()).unwrap();
        let bell = built.tree.at("/gunyah-vm-config/vdevices/bell-7").unwrap();
        assert_eq!(bell.cells("interrupts").unwrap(), level);
        let triggers: Vec<_> =
            plan.devices.iter().map(|device| built.trigger(&config, device)).collect();
        assert_eq!(triggers, [gunyah::Trigger::Edge, gunyah::Trigger::Level]);
    }

    #[test]
    fn a_given_tree_is_completed_once() {
        for keys in ["", r#", "transport": "pci""#] {
            let config = config(keys);
            let plan = planned(&config);
            let first = build(&config, None, &plan, &Seeds::default()).unwrap();
            let (main, pool) = (plan.main(), plan.pool.unwrap());
            let ranges = vec![(main.base, main.size), (pool.base, pool.size)];
            assert_eq!(first.tree.at("/memory").unwrap().reg(), Some(ranges));
            let again = build(&config, Some(&first.blob), &plan, &Seeds::default()).unwrap();
            assert_eq!(again.tree, first.tree);
            assert_eq!(again.warnings, [], "{keys}");
        }
    }
}
