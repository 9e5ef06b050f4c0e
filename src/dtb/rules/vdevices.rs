// SPDX-License-Identifier: Apache-2.0
//! Doorbells and shared memory. The driver finds both by their labels.

use super::is_first;
use crate::diagnostic::kinds;
use crate::dtb::build::Faults;
use crate::dtb::lookup::{label, shm_label, spi, vdevices};
use crate::dtb::property::{Cells, NodeAt};
use crate::dtb::tree::Tree;
use crate::layout::PAGE;
use crate::plan::LaunchPlan;

const BY_LABEL: &str = "the driver finds doorbells and memory by their labels";

kinds! {
    // Read.
    NO_PEER: Error "dtb-no-peer" in Dtb, START answers EINVAL {
        "a vdevice has no peer-default",
        cause: "the resource manager must know who is at the other end",
        cure: "add peer-default",
    }
    // Read.
    NO_LABEL: Warning "dtb-no-label" in Dtb {
        "a doorbell has no label and counts as label 0",
        cause: BY_LABEL,
        cure: "give it a label of its own",
    }
    // Ours.
    DUPLICATE_LABEL: Error "dtb-duplicate-label" in Dtb {
        "two vdevices of a kind have the same label",
        cause: BY_LABEL,
        cure: "give one of them another label",
    }
    // Read.
    DUPLICATE_INTERRUPT: Error "dtb-duplicate-interrupt" in Dtb, START answers ENODEV {
        "two doorbells have the same interrupt",
        cause: "one interrupt can be bound to one doorbell",
        cure: "give one of them another interrupt",
    }
    // Read.
    SHM_MEMORY: Error "dtb-shm-memory" in Dtb, START answers EINVAL {
        "the memory child of a shm vdevice is not as the resource manager needs it",
        cause: "the resource manager reads label and base in a child named memory",
        cure: "give it one child named memory with a label and a page-aligned base of two cells",
    }
    // Seen.
    NO_SHM: Error "dtb-no-shm" in Dtb {
        "a region has no shm vdevice",
        cause: "without it the resource manager places the region where it likes",
        cure: "add a vdevice with vdevice-type \"shm\" to the vm-config's vdevices",
    }
    // Seen.
    SHM_BASE: Error "dtb-shm-base" in Dtb {
        "a region and its shm vdevice differ in the address",
        cause: "the resource manager maps the region at the vdevice's base",
        cure: "make devicetree and config agree",
    }
}

pub(super) fn check(tree: &Tree, plan: &LaunchPlan, faults: &mut Faults<'_>) {
    let mut labels = Vec::new();
    let mut interrupts = Vec::new();
    for bell in vdevices(tree, "doorbell") {
        let path = bell.path();
        let label = label(&bell);
        if label.is_none() {
            faults.add(NO_LABEL.case(format!("{path} has no label and counts as label 0")));
        }
        first_with(&mut labels, label.unwrap_or(0), path, faults);
        if let Some((spi, _)) = spi(&bell) {
            if !is_first(&mut interrupts, u64::from(spi)) {
                faults.add(
                    DUPLICATE_INTERRUPT
                        .case(format!("{path} has SPI {spi}, as another doorbell has")),
                );
            }
        }
        if !bell.has("peer-default") && bell.str("peer").is_none() {
            faults.add(NO_PEER.case(format!("{path} has no peer-default")));
        }
    }
    let all = vdevices(tree, "shm");
    let mut labels = Vec::new();
    for shm in &all {
        let path = shm.path();
        if !shm.has("peer-default") {
            faults.add(NO_PEER.case(format!("{path} has no peer-default")));
        }
        if let Some(why) = memory_fault(tree, shm) {
            faults.add(SHM_MEMORY.case(format!("{path} {why}")));
        }
        if let Some(label) = shm_label(shm) {
            first_with(&mut labels, label, path, faults);
        }
    }
    // Later drivers never tell the resource manager of them.
    if !plan.dialect.pages_on_demand() {
        regions(&all, plan, faults);
    }
}

fn first_with(labels: &mut Vec<u64>, label: u32, path: &str, faults: &mut Faults<'_>) {
    if !is_first(labels, u64::from(label)) {
        faults.add(
            DUPLICATE_LABEL.case(format!("{path} has label {label}, as another of its kind has")),
        );
    }
}

fn memory_fault(tree: &Tree, shm: &NodeAt<'_>) -> Option<&'static str> {
    let Some(memory) = shm.child("memory").filter(|_| shm.children.len() == 1) else {
        return Some("does not have exactly one child, named memory");
    };
    if label(&memory).is_none() {
        return Some("has a memory child without label");
    }
    let base = match (memory.has("allocate-base"), memory.value("base")) {
        (true, None) => return None,
        (true, Some(_)) => return Some("has a memory child with both base and allocate-base"),
        (false, None) => return Some("has a memory child with neither base nor allocate-base"),
        (false, Some(base)) => base,
    };
    // The resource manager reads it with the cells of the first sibling, as at the root.
    let parent = tree.at(shm.above());
    let sibling = parent.and_then(|parent| parent.children().next());
    let cells = sibling.map_or(2, |first| Cells::below(&first).address);
    if base.len() != cells.saturating_mul(4) {
        return Some("has a base of other cells than its first sibling sets (default 2)");
    }
    let aligned = memory.number("base").is_some_and(|base| base % PAGE == 0);
    (!aligned).then_some("has a base that is not a multiple of the page")
}

/// Each region of the config has a vdevice at its address.
fn regions(shm: &[NodeAt<'_>], plan: &LaunchPlan, faults: &mut Faults<'_>) {
    for region in plan.regions.iter().skip(1) {
        let label = region.label;
        let mut same = shm.iter().filter(|shm| shm_label(shm) == Some(label));
        let fault = match same.find_map(|shm| shm.child("memory")) {
            None => NO_SHM.case(format!("no shm vdevice has the label {label} of a region")),
            Some(memory) => match memory.number("base") {
                Some(base) if base == region.base => continue,
                Some(base) => SHM_BASE.case(format!(
                    "the shm vdevice {label} has base {base:#x}, the region {:#x}",
                    region.base
                )),
                // The resource manager chooses.
                None => SHM_BASE.case(format!(
                    "the shm vdevice {label} has no base, the region has {:#x}",
                    region.base
                )),
            },
        };
        faults.add_at(&region.key, fault);
    }
}
