// SPDX-License-Identifier: Apache-2.0
//! The vm-config node and the CPUs.

use super::super::facts::{child_cells, cpu_nodes, cpus_path, vm_configs};
use super::super::problem::DtbProblem;
use super::super::tree::Tree;
use super::super::value::NodeAt;
use super::{HIGH_LIMIT, PAGE, RM_PATH};

/// Bytes of the longest `image-name`: the resource manager's buffer has 80 with the NUL.
const IMAGE_NAME_MAX: usize = 79;
/// What the resource manager rounds the base address up to.
const BASE_ALIGN: u64 = 2 << 20;
/// Main memory begins above the page at this address.
const LOW_LIMIT: u64 = 0x4000_0000;
/// Bytes of a CPU's path: the resource manager's buffer for it has 128 with the NUL.
const CPU_PATH_MAX: usize = 127;
/// The hypervisor's shortest and longest timeslice in microseconds.
const TIMESLICES: std::ops::RangeInclusive<u32> = 100..=100_000;

pub(super) fn check(tree: &Tree, found: &mut Vec<DtbProblem>) {
    vm_config(tree, found);
    cpus(tree, found);
}

fn vm_config(tree: &Tree, found: &mut Vec<DtbProblem>) {
    let configs = vm_configs(tree);
    let Some(config) = configs.first() else {
        found.push(DtbProblem::NoVmConfig);
        return;
    };
    if configs.len() > 1 {
        found.push(DtbProblem::TwoVmConfigs);
    }
    match config.str("image-name") {
        Ok("") => found.push(DtbProblem::NoImageName),
        Ok(name) if name.len() > IMAGE_NAME_MAX => {
            found.push(DtbProblem::ImageNameLength(name.len()));
        }
        Ok(_) => {}
        Err(_) if !config.has("image-name") => found.push(DtbProblem::NoImageName),
        Err(error) => found.push(DtbProblem::Property(error)),
    }
    match config.child("memory") {
        Some(memory) if memory.has("base-address") => base_address(tree, &memory, found),
        _ => found.push(DtbProblem::NoBaseAddress),
    }
    match config.child("vcpus") {
        None => found.push(DtbProblem::NoVcpus),
        Some(vcpus) => scheduling(tree, &vcpus, found),
    }
}

fn base_address(tree: &Tree, memory: &NodeAt<'_>, found: &mut Vec<DtbProblem>) {
    let base = match memory.number("base-address") {
        Ok(base) => base,
        Err(error) => {
            found.push(DtbProblem::Property(error));
            return;
        }
    };
    if base % PAGE != 0 {
        found.push(DtbProblem::BaseAddressPage(base));
    } else if base % BASE_ALIGN != 0 {
        found.push(DtbProblem::BaseAddressRounded(base));
    }
    if base < LOW_LIMIT + PAGE {
        found.push(DtbProblem::BaseAddressTaken(base));
    }
    if base >= HIGH_LIMIT {
        found.push(DtbProblem::BaseAddressLimit(base));
    }
    let wanted = memory.value("base-address").map_or(0, <[u8]>::len) / 4;
    if let Some(first) = NodeAt::root(&tree.root).children().next() {
        let (cells, _) = child_cells(&first);
        if cells != wanted {
            found.push(DtbProblem::FirstChildCells {
                first: first.path().to_owned(),
                cells,
                wanted,
            });
        }
    }
}

fn scheduling(tree: &Tree, vcpus: &NodeAt<'_>, found: &mut Vec<DtbProblem>) {
    if vcpus.str("affinity") == Ok("proxy") {
        return;
    }
    if !vcpus.has("affinity-map") {
        found.push(DtbProblem::NoScheduling);
        return;
    }
    let cpus = cpu_nodes(tree).len();
    match vcpus.cells("affinity-map") {
        Ok(map) if map.len() != cpus => found.push(DtbProblem::AffinityMapLength {
            entries: map.len(),
            cpus,
        }),
        Ok(_) => {}
        Err(error) => found.push(DtbProblem::Property(error)),
    }
    // It counts from the host's own priority, which a VM must not reach; absent means 0.
    let below = vcpus
        .u32("sched-priority")
        .is_ok_and(|priority| priority > i32::MAX.unsigned_abs());
    if !below {
        found.push(DtbProblem::SchedPriority);
    }
    let timeslice = vcpus.u32("sched-timeslice").ok();
    if !timeslice.is_some_and(|micros| TIMESLICES.contains(&micros)) {
        found.push(DtbProblem::SchedTimeslice(timeslice));
    }
}

fn cpus(tree: &Tree, found: &mut Vec<DtbProblem>) {
    let has_psci = tree
        .walk()
        .iter()
        .any(|at| at.is_compatible("arm,psci-0.2") || at.is_compatible("arm,psci-1.0"));
    if !has_psci {
        found.push(DtbProblem::NoPsci);
    }
    let proxy = vm_configs(tree)
        .first()
        .and_then(|config| config.child("vcpus"))
        .is_some_and(|vcpus| vcpus.str("affinity") == Ok("proxy"));
    let cpus = cpu_nodes(tree);
    let shared_method = tree
        .at(cpus_path(tree))
        .and_then(|cpus| cpus.str("enable-method").ok());
    let mut methods = Vec::new();
    let mut booting = 0;
    for (place, cpu) in cpus.iter().enumerate() {
        let path = || cpu.path().to_owned();
        // What is longer than any node's path may be is told of the whole tree.
        if (CPU_PATH_MAX + 1..RM_PATH).contains(&cpu.path().len()) {
            found.push(DtbProblem::PathLength {
                path: path(),
                max: CPU_PATH_MAX,
            });
        }
        let boots = match cpu.str("status") {
            // Without a status the first CPU boots; the resource manager counts only those.
            Err(_) => booting == 0,
            Ok("okay") => true,
            Ok("disabled") => false,
            Ok(_) => {
                found.push(DtbProblem::CpuStatus(path()));
                continue;
            }
        };
        let method = cpu.str("enable-method").ok().or(shared_method);
        if boots {
            booting += 1;
        } else {
            if !matches!(method, Some("psci" | "qcom,gunyah-hvc")) {
                found.push(DtbProblem::EnableMethod(path()));
            }
            methods.extend(method);
        }
        if cpu.value("reg").is_some_and(|reg| number(reg) != place) {
            found.push(DtbProblem::CpuNumber {
                path: path(),
                place,
            });
        }
    }
    if booting == 0 {
        found.push(DtbProblem::NoCpus);
    }
    let idle = |cpu: &&NodeAt<'_>| cpu.has("cpu-idle-states");
    let psci = has_psci || methods.contains(&"psci") || cpus.iter().any(|cpu| idle(&cpu));
    if psci && !proxy {
        found.extend(
            cpus.iter()
                .filter(|cpu| !idle(cpu))
                .map(|cpu| DtbProblem::IdleStates(cpu.path().to_owned())),
        );
    }
}

/// A `reg` of one or two cells as a number; what does not fit is no CPU's.
fn number(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .try_fold(0usize, |number, byte| {
            Some(number.checked_mul(256)? | usize::from(*byte))
        })
        .unwrap_or(usize::MAX)
}
