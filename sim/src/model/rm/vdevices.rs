// SPDX-License-Identifier: Apache-2.0
//! The virtual devices that a guest's devicetree asks the resource manager for.

use std::collections::BTreeSet;

use nix::errno::Errno;

use crate::fdt::{number, Node};
use crate::vm::{Doorbell, SharedMemory};

use super::guest::{refusal, Refusal};

/// Triggers of the binding arm,gic-v3: 4 level high, 8 level low.
const TRIGGER_LEVEL: u32 = 4 | 8;

/// Reads the vdevices, which it takes from anywhere in the tree.
pub fn read(root: &Node) -> Result<(Vec<Doorbell>, Vec<SharedMemory>), Refusal> {
    let mut doorbells = Vec::new();
    let mut shared = Vec::new();
    let mut interrupts = BTreeSet::new();
    for parent in root.walk() {
        for device in &parent.children {
            match device.string("vdevice-type") {
                Some("doorbell") => {
                    let bell = doorbell(device)?;
                    if bell.interrupt.is_some_and(|irq| !interrupts.insert(irq)) {
                        return refusal(
                            Errno::ENODEV,
                            format!("{}: its interrupt is another's already", device.name),
                        );
                    }
                    doorbells.push(bell);
                }
                Some("shm" | "shm-doorbell") => shared.push(shared_memory(parent, device)?),
                _ => {}
            }
        }
    }
    Ok((doorbells, shared))
}

fn label(node: &Node) -> Option<u32> {
    node.cell("qcom,label").or_else(|| node.cell("label"))
}

fn doorbell(device: &Node) -> Result<Doorbell, Refusal> {
    if device.property("peer-default").is_none() && device.string("peer").is_none() {
        return refusal(Errno::EINVAL, format!("{}: no peer", device.name));
    }
    let cells = device.property("interrupts").unwrap_or_default();
    let cell = |index: usize| u32::try_from(number(cells.get(index * 4..)?.get(..4)?)?).ok();
    let interrupt = cell(0).zip(cell(1));
    let level = cell(2).is_some_and(|trigger| trigger & TRIGGER_LEVEL != 0);
    Ok(Doorbell { label: label(device).unwrap_or(0), interrupt, level })
}

fn shared_memory(parent: &Node, device: &Node) -> Result<SharedMemory, Refusal> {
    let wrong = |what: &str| refusal(Errno::EINVAL, format!("{}: {what}", device.name));
    if device.property("peer-default").is_none() {
        return wrong("no peer-default");
    }
    let [memory] = &device.children[..] else {
        return wrong("not one child");
    };
    if memory.name != "memory" {
        return wrong("its child is not named memory");
    }
    let Some(label) = label(memory) else {
        return wrong("memory without a label");
    };
    // As at the root, the first sibling's cells are taken for all.
    let cells = parent.children.first().and_then(|first| first.cell("#address-cells")).unwrap_or(2);
    let base = match memory.property("base") {
        None if memory.property("allocate-base").is_some() => None,
        None => return wrong("memory with neither base nor allocate-base"),
        Some(_) if memory.property("allocate-base").is_some() => {
            return wrong("memory with both base and allocate-base")
        }
        Some(base) => {
            let fits = usize::try_from(cells).is_ok_and(|cells| base.len() == cells * 4);
            match number(base).filter(|_| fits) {
                Some(base) if base % crate::page_size() == 0 => Some(base),
                Some(_) => return wrong("memory with a base that is not page aligned"),
                None => return wrong("memory with a base of other cells than its first sibling's"),
            }
        }
    };
    Ok(SharedMemory { label, base })
}
