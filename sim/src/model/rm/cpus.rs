// SPDX-License-Identifier: Apache-2.0
//! The vCPUs that the resource manager makes of a guest's devicetree, and who schedules them.

use std::collections::BTreeSet;

use nix::errno::Errno;

use crate::fdt::{number, Node};

use super::guest::{refusal, Reading, Refusal};
use super::Generation;

/// Bytes of the resource manager's buffer for a CPU's path, the NUL included (its parse_vcpus).
const CPU_PATH: usize = 128;
/// The hypervisor's shortest and longest timeslice in microseconds.
const TIMESLICES: std::ops::RangeInclusive<u32> = 100..=100_000;

/// What comes of `/cpus` and the vm-config's `vcpus`.
pub struct Cpus {
    /// How many vCPUs.
    pub count: u32,
    /// Scheduled by VCPU_RUN; else by the hypervisor.
    pub proxy: bool,
}

/// Goes through the CPUs in the resource manager's order.
pub fn read(
    root: &Node,
    config: &Node,
    reading: &Reading,
    warnings: &mut Vec<String>,
) -> Result<Cpus, Refusal> {
    let newer = reading.generation == Generation::New;
    let Some(vcpus) = config.child("vcpus") else {
        return refusal(Errno::ENODEV, "no vcpus node in the vm-config");
    };
    let proxy = vcpus.string("affinity") == Some("proxy");
    if !proxy && vcpus.property("affinity-map").is_none() {
        return refusal(
            Errno::EINVAL,
            "vcpus has neither affinity = \"proxy\" nor an affinity-map",
        );
    }
    let place = vcpus.string("config").unwrap_or("/cpus");
    let Some(cpus) = root.at(place) else {
        return refusal(Errno::EINVAL, format!("no {place}"));
    };
    let has_psci_node = root.walk().into_iter().any(|node| {
        node.lists("compatible", "arm,psci-0.2") || node.lists("compatible", "arm,psci-1.0")
    });
    if !has_psci_node {
        warnings.push("no psci node: the guest's PSCI calls return -1".to_string());
    }
    if newer {
        check_node(cpus)?;
    }
    let mut affinities = BTreeSet::new();
    let (mut count, mut booting, mut idle, mut by_psci) = (0u32, 0u32, 0u32, 0u32);
    for cpu in &cpus.children {
        if cpu.string("device_type") != Some("cpu") {
            continue;
        }
        let boots = match cpu.string("status") {
            None => booting == 0,
            Some("okay") => true,
            Some("disabled") => false,
            Some(status) if status == "fail" || status.starts_with("fail-") => continue,
            Some(status) => {
                return refusal(
                    Errno::EINVAL,
                    format!("{}: unexpected status {status:?}", cpu.name),
                )
            }
        };
        idle += u32::from(cpu.property("cpu-idle-states").is_some());
        if newer && !cpu.property("reg").and_then(number).is_some_and(|reg| affinities.insert(reg))
        {
            return refusal(Errno::EINVAL, format!("{}: no reg, or another CPU's", cpu.name));
        }
        match cpu.string("enable-method") {
            _ if boots => booting += 1,
            Some("psci") => by_psci += 1,
            Some("qcom,gunyah-hvc") => {}
            Some(method) => {
                return refusal(
                    Errno::EINVAL,
                    format!("{}: unknown enable-method {method:?}", cpu.name),
                )
            }
            None => {
                // A good one in /cpus is read, but the CPU gets no vCPU by it.
                let shared = cpus.string("enable-method");
                let good = matches!(shared, Some("psci" | "qcom,gunyah-hvc"));
                return refusal(
                    if good { Errno::ENODEV } else { Errno::EINVAL },
                    format!("{}: a secondary CPU must set enable-method", cpu.name),
                );
            }
        }
        if place.len() + 1 + cpu.name.len() >= CPU_PATH {
            return refusal(
                Errno::EINVAL,
                format!("{}: its path is longer than a CPU's may be", cpu.name),
            );
        }
        count += 1;
    }
    if newer && count > reading.cores {
        return refusal(Errno::ENODEV, format!("{count} CPUs, the host has {}", reading.cores));
    }
    if booting == 0 {
        return refusal(Errno::EINVAL, "no CPU is enabled at boot");
    }
    if !proxy {
        by_the_hypervisor(vcpus, count)?;
        if (has_psci_node || by_psci > 0 || idle > 0) && idle != count {
            return refusal(
                Errno::EINVAL,
                "PSCI for a hypervisor-scheduled VM, but not every CPU has cpu-idle-states",
            );
        }
    }
    Ok(Cpus { count, proxy })
}

/// What the newer one demands of `/cpus` itself.
fn check_node(cpus: &Node) -> Result<(), Refusal> {
    if cpus.cell("#size-cells").is_some_and(|cells| cells != 0) {
        return refusal(Errno::EINVAL, "/cpus: #size-cells is not 0");
    }
    if cpus.property("ranges").is_some() {
        return refusal(Errno::EINVAL, "/cpus has ranges");
    }
    Ok(())
}

/// What only the hypervisor's own scheduler looks at.
fn by_the_hypervisor(vcpus: &Node, count: u32) -> Result<(), Refusal> {
    let entries = vcpus.property("affinity-map").map_or(0, <[u8]>::len) / 4;
    if u32::try_from(entries) != Ok(count) {
        return refusal(
            Errno::EINVAL,
            format!("{entries} entries in the affinity-map for {count} CPUs"),
        );
    }
    // Counted from the host's own, which a VM must stay below; absent means 0.
    let priority = vcpus.cell("sched-priority").unwrap_or(0);
    if i32::try_from(priority).is_ok() {
        return refusal(
            Errno::ENODEV,
            format!("sched-priority {priority} is not below the host's"),
        );
    }
    let timeslice = vcpus.cell("sched-timeslice").unwrap_or(0);
    if !TIMESLICES.contains(&timeslice) {
        return refusal(Errno::ENODEV, format!("sched-timeslice of {timeslice} microseconds"));
    }
    Ok(())
}
