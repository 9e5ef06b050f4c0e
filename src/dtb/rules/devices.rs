// SPDX-License-Identifier: Apache-2.0
//! The interrupt controller and the vdevices.

use std::collections::HashSet;

use super::super::facts::{
    cells_around, child_cells, cpu_nodes, gic_node, label, spi, vdevices, vm_configs,
};
use super::super::generate::GICR_SIZE;
use super::super::problem::DtbProblem;
use super::super::tree::Tree;
use super::super::value::NodeAt;
use super::PAGE;

/// Frames of the GIC are 64 KiB and aligned to it.
const GIC_FRAME: u64 = 0x1_0000;

pub(super) fn check(tree: &Tree, found: &mut Vec<DtbProblem>) {
    gic(tree, found);
    doorbells(tree, found);
    shared_memory(tree, found);
}

fn gic(tree: &Tree, found: &mut Vec<DtbProblem>) {
    let named = vm_configs(tree)
        .first()
        .and_then(|config| config.child("interrupts"))
        .filter(|interrupts| interrupts.has("config"));
    if let Some(interrupts) = &named {
        match (interrupts.str("config"), interrupts.u32("config")) {
            (Ok(path), _) if path.len() > 1 && path.starts_with('/') => {
                if tree.at(path).is_none() {
                    found.push(DtbProblem::GicPath(path.to_owned()));
                    return;
                }
            }
            (_, Ok(_)) => found.push(DtbProblem::GicPhandle),
            (Ok(path), Err(_)) => {
                found.push(DtbProblem::GicPath(path.to_owned()));
                return;
            }
            (_, Err(error)) => {
                found.push(DtbProblem::Property(error));
                return;
            }
        }
    }
    let Some(gic) = gic_node(tree) else {
        found.push(DtbProblem::NoGic);
        return;
    };
    let path = || gic.path().to_owned();
    found.extend(
        gic_faults(tree, &gic)
            .into_iter()
            .map(|why| DtbProblem::GicUnusable {
                path: path(),
                named: named.is_some(),
                why,
            }),
    );
    let cpus = u64::try_from(cpu_nodes(tree).len()).unwrap_or(u64::MAX);
    if let Some((_, size)) = gic_ranges(tree, &gic).get(1) {
        if *size < cpus.saturating_mul(GICR_SIZE) {
            found.push(DtbProblem::GicRedistributors {
                path: path(),
                size: *size,
            });
        }
    }
}

/// Distributor, redistributors; empty if `reg` is missing or malformed.
fn gic_ranges(tree: &Tree, gic: &NodeAt<'_>) -> Vec<(u64, u64)> {
    let (address, size) = cells_around(tree, gic.path());
    gic.ranges("reg", address, size).unwrap_or_default()
}

fn gic_faults(tree: &Tree, gic: &NodeAt<'_>) -> Vec<&'static str> {
    let mut faults = Vec::new();
    let mut wrong = |broken: bool, why| {
        if broken {
            faults.push(why);
        }
    };
    wrong(
        !gic.is_compatible("arm,gic-v3"),
        "is not compatible with \"arm,gic-v3\"",
    );
    wrong(
        !gic.has("interrupt-controller"),
        "has no interrupt-controller property",
    );
    wrong(
        gic.u32("#interrupt-cells") != Ok(3),
        "does not have 3 #interrupt-cells",
    );
    wrong(gic.phandle().is_none(), "has no phandle");
    wrong(
        gic.u32("#redistributor-regions")
            .is_ok_and(|regions| regions != 1),
        "has more than one redistributor region",
    );
    wrong(
        gic.number("redistributor-stride")
            .is_ok_and(|stride| stride < GICR_SIZE || stride % GIC_FRAME != 0),
        "has a redistributor-stride below 128 KiB or off 64 KiB",
    );
    // Without reg the resource manager fills it in.
    if gic.has("reg") {
        match gic_ranges(tree, gic)[..] {
            [distributor, redistributors, ..] => wrong(
                distributor.0 % GIC_FRAME != 0 || redistributors.0 % GIC_FRAME != 0,
                "has ranges that are not aligned to 64 KiB",
            ),
            _ => wrong(true, "has no distributor and redistributor range in reg"),
        }
    }
    faults
}

fn doorbells(tree: &Tree, found: &mut Vec<DtbProblem>) {
    let mut labels = HashSet::new();
    let mut interrupts = HashSet::new();
    for bell in vdevices(tree, "doorbell") {
        let path = || bell.path().to_owned();
        let label = label(&bell);
        if label.is_none() {
            found.push(DtbProblem::NoLabel(path()));
        }
        let label = label.unwrap_or(0);
        if !labels.insert(label) {
            found.push(DtbProblem::DuplicateLabel {
                path: path(),
                label,
            });
        }
        if let Some((spi, _)) = spi(&bell) {
            if !interrupts.insert(spi) {
                found.push(DtbProblem::DuplicateInterrupt { path: path(), spi });
            }
        }
        if !bell.has("peer-default") && bell.str("peer").is_err() {
            found.push(DtbProblem::NoPeer(path()));
        }
    }
}

fn shared_memory(tree: &Tree, found: &mut Vec<DtbProblem>) {
    let mut labels = HashSet::new();
    for shm in vdevices(tree, "shm") {
        let path = || shm.path().to_owned();
        if !shm.has("peer-default") {
            found.push(DtbProblem::NoPeer(path()));
        }
        if let Some(why) = memory_fault(tree, &shm) {
            found.push(DtbProblem::ShmMemory { path: path(), why });
        }
        let memory = shm.child("memory");
        if let Some(label) = label(&shm).or_else(|| label(memory.as_ref()?)) {
            if !labels.insert(label) {
                found.push(DtbProblem::DuplicateLabel {
                    path: path(),
                    label,
                });
            }
        }
    }
}

fn memory_fault(tree: &Tree, shm: &NodeAt<'_>) -> Option<&'static str> {
    let Some(memory) = shm.child("memory").filter(|_| shm.children.len() == 1) else {
        return Some("does not have exactly one child, named memory");
    };
    if label(&memory).is_none() {
        return Some("has a memory child without label");
    }
    match (memory.has("allocate-base"), memory.value("base")) {
        (true, None) => None,
        (true, Some(_)) => Some("has a memory child with both base and allocate-base"),
        (false, None) => Some("has a memory child with neither base nor allocate-base"),
        (false, Some(base)) => {
            if base.len() != sibling_cells(tree, shm.path()).saturating_mul(4) {
                return Some("has a base of other cells than its first sibling sets (default 2)");
            }
            let aligned = memory.number("base").is_ok_and(|base| base % PAGE == 0);
            (!aligned).then_some("has a base that is not a multiple of the page")
        }
    }
}

/// Address cells with which the resource manager reads below the node at `path`: as at the root, the
/// first sibling decides.
fn sibling_cells(tree: &Tree, path: &str) -> usize {
    let above = &path[..path.rfind('/').unwrap_or(0)];
    let parent = tree.at(if above.is_empty() { "/" } else { above });
    let first = parent.and_then(|parent| parent.children().next());
    first.map_or(2, |first| child_cells(&first).0)
}
