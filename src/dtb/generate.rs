// SPDX-License-Identifier: Apache-2.0
//! The hardware of a generated guest: CPUs, PSCI, interrupt controller and timer. Everything else is
//! what completing a given tree adds as well.
//!
//! Addresses and timer interrupts are crosvm's for arm64.

use crate::config::{Scheduling, VmConfig};
use crate::layout::{GICD_BASE, GICD_SIZE, GICR_SIZE};

use super::tree::{Node, Tree};

const GIC_PHANDLE: u32 = 1;
/// Interrupt specifier cells: a private interrupt, level low.
const PPI: u32 = 1;
const LEVEL_LOW: u32 = 8;

/// A tree with the hardware, to be completed.
pub(super) fn hardware(config: &VmConfig, scheduling: Scheduling) -> Tree {
    let mut tree = Tree::default();
    tree.root
        .set_u32("#address-cells", 2)
        .set_u32("#size-cells", 2)
        .set_u32("interrupt-parent", GIC_PHANDLE)
        .set_str("model", "gunyahd guest")
        .set_str("compatible", "linux,dummy-virt");
    // First, because the resource manager takes the cells of depth 2 from the root's first child.
    tree.root.ensure_child("chosen");
    tree.root
        .push(cpus(config, scheduling))
        .push(psci())
        .push(gic(config.vcpus.count))
        .push(timer());
    tree
}

fn cpus(config: &VmConfig, scheduling: Scheduling) -> Node {
    let mut cpus = Node::new("cpus");
    cpus.set_u32("#address-cells", 1).set_u32("#size-cells", 0);
    for number in 0..config.vcpus.count {
        let mut cpu = Node::new(&format!("cpu@{number:x}"));
        cpu.set_str("device_type", "cpu")
            .set_str("compatible", "arm,armv8")
            .set_u32("reg", number)
            .set_str("enable-method", "psci");
        if scheduling == Scheduling::Hypervisor {
            // The resource manager wants the property to be there; no state is needed.
            cpu.set_empty("cpu-idle-states");
        }
        cpus.push(cpu);
    }
    cpus
}

fn psci() -> Node {
    let mut psci = Node::new("psci");
    psci.set_str("compatible", "arm,psci-1.0").set_str("method", "hvc");
    psci
}

fn gic(cpus: u32) -> Node {
    let redistributors = GICR_SIZE.saturating_mul(u64::from(cpus));
    let below = GICD_BASE.saturating_sub(redistributors);
    let mut gic = Node::new(&format!("interrupt-controller@{GICD_BASE:x}"));
    gic.set_str("compatible", "arm,gic-v3")
        .set_u32("#interrupt-cells", 3)
        .set_u32("#address-cells", 2)
        .set_u32("#size-cells", 2)
        .set_empty("interrupt-controller")
        .set_u64s("reg", &[GICD_BASE, GICD_SIZE, below, redistributors])
        .set_u32("phandle", GIC_PHANDLE);
    gic
}

fn timer() -> Node {
    // Secure, non-secure, virtual and hypervisor timer of the Arm architecture.
    let interrupts = [13, 14, 11, 10].map(|number| [PPI, number, LEVEL_LOW]);
    let mut timer = Node::new("timer");
    timer
        .set_str("compatible", "arm,armv8-timer")
        .set_empty("always-on")
        .set_cells("interrupts", interrupts.as_flattened());
    timer
}
