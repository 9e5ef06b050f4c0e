// SPDX-License-Identifier: Apache-2.0
//! CPUs, and who schedules them.

use super::is_first;
use super::nodes::{path_length, PATH_MAX};
use super::vm_config::{property, COMPLETE_IT};
use crate::config::{Scheduling, VmConfig};
use crate::diagnostic::kinds;
use crate::dtb::build::Faults;
use crate::dtb::complete::affinity_map;
use crate::dtb::lookup::{cpu_nodes, cpus_node, scheduling, vm_config_part, vm_configs};
use crate::dtb::property::NodeAt;
use crate::dtb::tree::Tree;
use crate::list::Listed;
use crate::text::{array, excerpt, Count};

const AGREE: &str = "make devicetree and config agree";

kinds! {
    // Seen.
    NO_VCPUS: Error "dtb-no-vcpus" in Dtb, START answers ENODEV {
        "the vm-config has no vcpus node",
        cause: "the resource manager would make no vCPU",
        cure: COMPLETE_IT,
    }
    // Seen.
    NO_SCHEDULING: Error "dtb-no-scheduling" in Dtb, START answers EINVAL {
        "the vm-config's vcpus has neither affinity = \"proxy\" nor an affinity-map",
        cause: "the hypervisor must know who schedules, and on which physical CPU",
        cure: "add affinity = \"proxy\", or an affinity-map with a CPU for each vCPU",
    }
    // Seen.
    SCHEDULING_DIFFERS: Error "dtb-scheduling-differs" in Dtb {
        "devicetree and config differ in who schedules the vCPUs",
        cause: "a proxy-scheduled VM never runs without vCPU threads, and another has no use for them",
        cure: AGREE,
    }
    // Read.
    AFFINITY_MAP_LENGTH: Error "dtb-affinity-map-length" in Dtb, START answers EINVAL {
        "affinity-map does not have one entry for each CPU",
        cause: "the map gives each vCPU its physical CPU",
        cure: "give one physical CPU for each vCPU",
    }
    // Ours.
    AFFINITY_DIFFERS: Error "dtb-affinity-differs" in Dtb {
        "the devicetree's affinity-map is not what vcpus.affinity says",
        cause: "the resource manager goes by the devicetree alone",
        cure: AGREE,
    }
    // Read.
    SCHED_PRIORITY: Error "dtb-sched-priority" in Dtb, START answers ENODEV {
        "sched-priority is missing or not negative",
        cause: "it counts from the host's own priority, and a VM must stay below",
        cure: "set sched-priority = <0xffffffff> (-1)",
    }
    // Read.
    SCHED_TIMESLICE: Error "dtb-sched-timeslice" in Dtb, START answers ENODEV {
        "sched-timeslice is missing or not within 100 and 100000 microseconds",
        cause: "the resource manager takes a missing one as 0, and the hypervisor has limits",
        cure: "set sched-timeslice = <2000> (2 ms)",
    }
    // Seen. A vCPU too many answers ENODEV to VCPU_RUN.
    CPU_COUNT: Error "dtb-cpu-count" in Dtb {
        "the devicetree does not have as many CPUs as vcpus.count says",
        cause: "a vCPU that the devicetree lacks answers ENODEV to VCPU_RUN and makes the host kernel oops at the end",
        cure: AGREE,
    }
    // Read.
    NO_CPUS: Error "dtb-no-cpus" in Dtb, START answers EINVAL {
        "no CPU is enabled at boot",
        cause: "what boots is the first CPU without a status, or one with \"okay\"",
        cure: "add cpu nodes with device_type = \"cpu\" to /cpus",
    }
    // Read.
    CPU_STATUS: Error "dtb-cpu-status" in Dtb, START answers EINVAL {
        "a CPU has an unknown status",
        cause: "the resource manager knows okay, disabled, fail and fail-…",
        cure: "use one of them, or remove it",
    }
    // Seen.
    ENABLE_METHOD: Error "dtb-enable-method" in Dtb, START answers EINVAL {
        "a secondary CPU has no enable-method that the resource manager knows",
        cause: "the resource manager wants psci or qcom,gunyah-hvc",
        cure: "add enable-method = \"psci\"",
    }
    // Seen, read.
    IDLE_STATES: Error "dtb-idle-states" in Dtb, START answers EINVAL {
        "a CPU of a hypervisor-scheduled VM with PSCI has no cpu-idle-states",
        cause: "the hypervisor's power management wants all CPUs to take part",
        cure: "add cpu-idle-states (it may be empty) to every CPU",
    }
    // Read in newer ones, spec.
    CPU_REG: Error "dtb-cpu-reg" in Dtb, START answers EINVAL {
        "a CPU has no reg, or that of another CPU",
        cause: "reg is the CPU's MPIDR, by which the guest starts it; newer resource managers want one of its own for each",
        cure: "give each CPU a reg of its own: <0>, <1> … or <0x0>, <0x100> …",
    }
    // Read in newer ones, spec.
    CPUS_NODE: Error "dtb-cpus-node" in Dtb, START answers EINVAL {
        "/cpus has ranges, or #size-cells other than 0",
        cause: "a CPU's reg is a number, not a range; newer resource managers refuse it",
        cure: "set #size-cells = <0> in /cpus, and remove ranges",
    }
    // Seen.
    NO_PSCI: Warning "dtb-no-psci" in Dtb {
        "the devicetree has no psci node",
        cause: "the guest's PSCI calls return -1: it cannot power off or start a second CPU",
        cure: "add psci { compatible = \"arm,psci-1.0\"; method = \"hvc\"; }",
    }
}

/// Bytes of a CPU's path: the resource manager's buffer for it has 128 with the NUL.
const CPU_PATH_MAX: usize = 127;
/// The hypervisor's shortest and longest timeslice in microseconds.
const TIMESLICES: std::ops::RangeInclusive<u32> = 100..=100_000;

pub(super) fn check(tree: &Tree, config: &VmConfig, wanted: Scheduling, faults: &mut Faults<'_>) {
    match vm_config_part(tree, "vcpus") {
        Some(vcpus) => vcpus_node(tree, &vcpus, (config, wanted), faults),
        // Without a vm-config, that is the fault.
        None if vm_configs(tree).next().is_none() => {}
        None => faults.add(NO_VCPUS.case("the vm-config has no vcpus node")),
    }
    let cpus = cpu_nodes(tree);
    if u32::try_from(cpus.len()) != Ok(config.vcpus.count) {
        let what = format!(
            "the devicetree has {}, vcpus.count is {}",
            Count::of(cpus.len(), "CPU"),
            config.vcpus.count
        );
        faults.add_at("vcpus.count", CPU_COUNT.case(what));
    }
    numbers(tree, &cpus, faults);
    let by_psci = cpus_enabled(tree, &cpus, faults);
    power(tree, &cpus, by_psci, faults);
}

fn vcpus_node(
    tree: &Tree,
    vcpus: &NodeAt<'_>,
    (config, wanted): (&VmConfig, Scheduling),
    faults: &mut Faults<'_>,
) {
    let Some(scheduled) = scheduling(tree) else {
        return faults.add(NO_SCHEDULING.case(format!(
            "{} has neither affinity = \"proxy\" nor an affinity-map",
            vcpus.path()
        )));
    };
    if scheduled != wanted {
        let who = |scheduling| match scheduling {
            Scheduling::Hypervisor => "the hypervisor",
            Scheduling::Proxy => "proxy",
        };
        let what = format!(
            "the devicetree's vCPUs are scheduled by {}, those of this launch by {}",
            who(scheduled),
            who(wanted)
        );
        let cure =
            format!("set \"scheduling\": \"{scheduled}\" in vcpus, or change the devicetree");
        faults.add_at("vcpus.scheduling", SCHEDULING_DIFFERS.case(what).cure(cure));
    }
    if scheduled == Scheduling::Proxy {
        return;
    }
    match vcpus.cells("affinity-map") {
        None => faults.add(property(vcpus, "affinity-map", "a list of cells")),
        Some(map) => physical_cpus(tree, &map, (config, wanted), faults),
    }
    // It counts from the host's own priority, which a VM must not reach; absent means 0.
    let priority = vcpus.u32("sched-priority").unwrap_or(0);
    if priority <= i32::MAX.unsigned_abs() {
        faults.add(SCHED_PRIORITY.case(format!("sched-priority {priority} is not negative")));
    }
    let timeslice = vcpus.u32("sched-timeslice").unwrap_or(0);
    if !TIMESLICES.contains(&timeslice) {
        faults.add(SCHED_TIMESLICE.case(format!(
            "sched-timeslice {timeslice} is not within 100 and 100000 microseconds"
        )));
    }
}

fn physical_cpus(
    tree: &Tree,
    map: &[u32],
    (config, scheduling): (&VmConfig, Scheduling),
    faults: &mut Faults<'_>,
) {
    let cpus = cpu_nodes(tree).len();
    if map.len() != cpus {
        let what = {
            let (entries, cpus) = (Count::of(map.len(), "entry"), Count::of(cpus, "CPU"));
            format!("affinity-map has {entries} for {cpus}")
        };
        faults.add_at("vcpus.affinity", AFFINITY_MAP_LENGTH.case(what));
    }
    let wanted = affinity_map(config);
    let by_hypervisor = scheduling == Scheduling::Hypervisor;
    if by_hypervisor && !wanted.is_empty() && wanted != map {
        let [map, wanted] = [map, &wanted].map(|cpus| excerpt(&array(cpus)));
        let what = format!("the devicetree's affinity-map is {map}, vcpus.affinity says {wanted}");
        faults.add_at("vcpus.affinity", AFFINITY_DIFFERS.case(what));
    }
}

/// What CPUs are numbered by. Any MPIDR is good, as long as it is one CPU's alone.
fn numbers(tree: &Tree, cpus: &[NodeAt<'_>], faults: &mut Faults<'_>) {
    let mut seen = Vec::new();
    let unnumbered =
        |cpu: &&NodeAt<'_>| !cpu.number("reg").is_some_and(|reg| is_first(&mut seen, reg));
    let paths = cpus.iter().filter(unnumbered).map(NodeAt::path).listed();
    if let Some(paths) = listed(&paths) {
        faults.add(CPU_REG.case(format!("no reg, or that of another CPU: {paths}")));
    }
    let Some(node) = cpus_node(tree) else {
        return;
    };
    let path = node.path();
    if node.has("ranges") {
        faults.add(CPUS_NODE.case(format!("{path} has ranges")));
    } else if let Some(cells) = node.u32("#size-cells").filter(|cells| *cells != 0) {
        faults.add(CPUS_NODE.case(format!("{path} has #size-cells {cells}")));
    }
}

/// The first of these, and how many more there are; nothing of none.
fn listed(paths: &[&str]) -> Option<String> {
    let (first, more) = paths.split_first()?;
    Some(match more.len() {
        0 => (*first).to_owned(),
        more => format!("{first} and {more} more"),
    })
}

/// Which CPUs boot at once, and whether the others can be started. Returns whether PSCI starts one.
fn cpus_enabled(tree: &Tree, cpus: &[NodeAt<'_>], faults: &mut Faults<'_>) -> bool {
    let mut booting = 0;
    let mut by_psci = false;
    // One complaint each: a tree may have dozens of CPUs.
    let (mut without_method, mut without_known_status) = (Vec::new(), Vec::new());
    for cpu in cpus {
        let path = cpu.path();
        // What is longer than any node's path may be is a fault of the whole tree.
        if path.len() > CPU_PATH_MAX && path.len() <= PATH_MAX {
            faults.add(path_length(path, CPU_PATH_MAX));
        }
        match cpu.str("status") {
            // Without a status the first CPU boots; the resource manager counts only those.
            None if booting == 0 => booting += 1,
            Some("okay") => booting += 1,
            None | Some("disabled") => {
                let method = enable_method(tree, cpu);
                by_psci |= method == Some("psci");
                if !matches!(method, Some("psci" | "qcom,gunyah-hvc")) {
                    without_method.push(path);
                }
            }
            Some(_) => without_known_status.push(path),
        }
    }
    if let Some(paths) = listed(&without_method) {
        let what = format!("no enable-method that is known for the secondary CPU {paths}");
        faults.add(ENABLE_METHOD.case(what));
    }
    if let Some(paths) = listed(&without_known_status) {
        faults.add(CPU_STATUS.case(format!("unknown status of {paths}")));
    }
    if booting == 0 {
        faults.add(NO_CPUS.case("no CPU is enabled at boot"));
    }
    by_psci
}

/// A CPU's own `enable-method`, or the one that all share.
fn enable_method<'a>(tree: &'a Tree, cpu: &NodeAt<'a>) -> Option<&'a str> {
    let own = cpu.node.str("enable-method");
    own.or_else(|| cpus_node(tree)?.node.str("enable-method"))
}

/// PSCI, and what follows from it.
fn power(tree: &Tree, cpus: &[NodeAt<'_>], by_psci: bool, faults: &mut Faults<'_>) {
    let psci =
        |at: &NodeAt<'_>| at.is_compatible("arm,psci-0.2") || at.is_compatible("arm,psci-1.0");
    let has_psci = tree.walk().iter().any(psci);
    if !has_psci {
        faults.add(NO_PSCI.case("there is no psci node"));
    }
    let idle = |cpu: &NodeAt<'_>| cpu.has("cpu-idle-states");
    let takes_part = has_psci || by_psci || cpus.iter().any(idle);
    if !takes_part || scheduling(tree) == Some(Scheduling::Proxy) {
        return;
    }
    let without = cpus.iter().filter(|cpu| !idle(cpu));
    let without = without.map(NodeAt::path).listed();
    if let Some(paths) = listed(&without) {
        faults.add(IDLE_STATES.case(format!(
            "no cpu-idle-states, and the VM has PSCI and is scheduled by the hypervisor: {paths}"
        )));
    }
}
