// SPDX-License-Identifier: Apache-2.0
//! What the tree must have in common with config and plan.

use super::super::facts::{child_cells, cpu_nodes, DtbFacts};
use super::super::problem::DtbProblem;
use super::super::tree::Tree;
use super::super::value::NodeAt;
use super::{console, Expected, HIGH_LIMIT};

pub(super) fn check(tree: &Tree, expected: &Expected, found: &mut Vec<DtbProblem>) {
    let facts = DtbFacts::of(tree);
    if let Some(base) = facts.base_address.filter(|base| *base != expected.base) {
        found.push(DtbProblem::BaseAddressDiffers {
            tree: base,
            config: expected.base,
        });
    }
    // A base that is itself beyond is told of the vm-config alone.
    let ends_beyond = |base: &u64| {
        let end = base.checked_add(expected.size);
        *base < HIGH_LIMIT && end.is_none_or(|end| end > HIGH_LIMIT)
    };
    let bases = [Some(expected.base), facts.base_address];
    if let Some(base) = bases.into_iter().flatten().find(ends_beyond) {
        found.push(DtbProblem::BaseAddressLimit(base));
    }
    if facts.memory != [(expected.base, expected.size)] {
        let (address, size) = child_cells(&NodeAt::root(&tree.root));
        found.push(DtbProblem::MemoryCells { address, size });
    }
    if facts.cpus != expected.vcpus {
        found.push(DtbProblem::CpuCount {
            tree: cpu_nodes(tree).len(),
            config: expected.vcpus,
        });
    }
    if let Some(scheduling) = facts
        .scheduling
        .filter(|scheduling| *scheduling != expected.scheduling)
    {
        found.push(DtbProblem::SchedulingDiffers {
            tree: scheduling,
            config: expected.scheduling,
        });
    }
    let map = &expected.affinity_map;
    if !map.is_empty() && !facts.affinity_map.is_empty() && *map != facts.affinity_map {
        found.push(DtbProblem::AffinityDiffers {
            tree: facts.affinity_map.clone(),
            config: map.clone(),
        });
    }
    for (label, base, _) in &expected.regions {
        match facts.shm.iter().find(|shm| shm.label == *label) {
            None => found.push(DtbProblem::NoShm(*label)),
            Some(shm) if shm.base != Some(*base) => found.push(DtbProblem::ShmBase {
                label: *label,
                tree: shm.base,
                config: *base,
            }),
            Some(_) => {}
        }
    }
    if let Some(console) = &expected.console {
        console::check(tree, &facts, console, found);
    }
    if expected.initrd.is_some() && facts.initrd != expected.initrd {
        found.push(DtbProblem::InitrdDiffers);
    }
    registers(&facts, expected, found);
    reserved(tree, expected, found);
}

/// Nodes of `/reserved-memory` with a fixed range must be regions: the resource manager looks one up
/// for each, by `qcom,label` or by the very range.
fn reserved(tree: &Tree, expected: &Expected, found: &mut Vec<DtbProblem>) {
    let Some(reserved) = tree.at("/reserved-memory") else {
        return;
    };
    let (address, size) = child_cells(&reserved);
    for node in reserved.children() {
        let wanted = node.u32("qcom,label").ok();
        if wanted.is_none() && node.has("size") && !node.has("reg") {
            // Linux allocates it by itself.
            continue;
        }
        let why = match node.ranges("reg", address, size).as_deref() {
            Ok([range]) => {
                let fits = |(label, base, len): &(u32, u64, u64)| {
                    (*base, *len) == *range && wanted.is_none_or(|wanted| wanted == *label)
                };
                (!expected.regions.iter().any(fits)).then_some("is no region of the config")
            }
            _ => Some("has not exactly one range in reg"),
        };
        if let Some(why) = why {
            found.push(DtbProblem::ReservedMemory {
                path: node.path().to_owned(),
                why,
            });
        }
    }
}

fn registers(facts: &DtbFacts, expected: &Expected, found: &mut Vec<DtbProblem>) {
    let mut ranges = vec![(expected.base, expected.size)];
    ranges.extend(
        expected
            .regions
            .iter()
            .map(|(_, base, size)| (*base, *size)),
    );
    let mut devices: Vec<(&str, u64, u64)> = facts
        .serials
        .iter()
        .map(|serial| (serial.path.as_str(), serial.base, serial.size))
        .collect();
    if let Some(gic) = &facts.gic {
        devices.extend(
            gic.ranges
                .iter()
                .map(|(base, size)| (gic.path.as_str(), *base, *size)),
        );
    }
    for (path, base, size) in devices {
        let overlaps = ranges.iter().any(|(start, len)| {
            base < start.saturating_add(*len) && *start < base.saturating_add(size)
        });
        if overlaps {
            found.push(DtbProblem::DeviceInMemory {
                path: path.to_owned(),
                base,
            });
        }
    }
}
