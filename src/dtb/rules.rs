// SPDX-License-Identifier: Apache-2.0
//! Every rule that a guest's devicetree must keep, for given and generated trees alike.
//!
//! `docs/devicetree.md` has the list with the source of each.

use std::collections::HashSet;

use crate::config::{ConsoleConfig, ConsoleDevice, Scheduling, VmConfig};
use crate::plan::LaunchPlan;

use super::facts::{
    cells_around, child_cells, cpu_nodes, gic_node, label, vdevices, vm_configs, DtbFacts,
};
use super::problem::DtbProblem;
use super::tree::Tree;
use super::value::NodeAt;

/// Bytes of the longest `image-name`: the resource manager's buffer has 80 with the NUL.
const IMAGE_NAME_MAX: usize = 79;
/// The page of the hypervisor.
const PAGE: u64 = 4096;
/// What the resource manager rounds the base address up to.
const BASE_ALIGN: u64 = 2 << 20;
/// Main memory begins above the page at this address.
const LOW_LIMIT: u64 = 0x4000_0000;
/// End of a guest's address space.
const HIGH_LIMIT: u64 = 1 << 36;
/// Levels of the resource manager's parser, the root included.
const RM_DEPTH: usize = 16;
/// Bytes of its path buffer, with the NUL.
const RM_PATH: usize = 256;

/// What config and plan say that the tree must agree with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Main memory's guest address.
    pub base: u64,
    /// Main memory's bytes.
    pub size: u64,
    /// Further regions: label, guest address, bytes.
    pub regions: Vec<(u32, u64, u64)>,
    /// How many vCPUs.
    pub vcpus: u32,
    /// Who schedules them.
    pub scheduling: Scheduling,
    /// The console.
    pub console: Option<ConsoleConfig>,
    /// The initrd's first byte and the one after its last, once it is planned.
    pub initrd: Option<(u64, u64)>,
}

impl Expected {
    /// What the config alone says.
    pub fn of_config(config: &VmConfig) -> Self {
        Self {
            base: config.memory.base,
            size: config.memory.size,
            regions: config
                .regions
                .iter()
                .map(|region| (region.label, region.base, region.size))
                .collect(),
            vcpus: config.vcpus.count,
            scheduling: config.vcpus.scheduling,
            console: config.console.clone(),
            initrd: None,
        }
    }

    /// With the plan's addresses; its first region is main memory.
    pub fn with_plan(&self, plan: &LaunchPlan) -> Self {
        let mut expected = self.clone();
        if let Some((main, further)) = plan.regions.split_first() {
            expected.base = main.base;
            expected.size = main.size;
            expected.regions = further
                .iter()
                .map(|region| (region.label, region.base, region.size))
                .collect();
        }
        expected.initrd = plan
            .initrd
            .as_ref()
            .map(|initrd| (initrd.base, initrd.base.saturating_add(initrd.size)));
        expected
    }
}

/// Every rule that `tree` breaks. Without `expected`, those that the tree alone can break.
pub fn check(tree: &Tree, expected: Option<&Expected>) -> Vec<DtbProblem> {
    let mut found = Vec::new();
    whole_tree(tree, &mut found);
    vm_config(tree, &mut found);
    cpus(tree, &mut found);
    gic(tree, &mut found);
    devices(tree, &mut found);
    if let Some(expected) = expected {
        against(tree, expected, &mut found);
    }
    found
}

fn whole_tree(tree: &Tree, found: &mut Vec<DtbProblem>) {
    let mut handles = HashSet::new();
    for at in tree.walk() {
        let path = || at.path().to_owned();
        if at.depth() >= RM_DEPTH {
            found.push(DtbProblem::Depth(path()));
        } else if at.path().len() >= RM_PATH {
            found.push(DtbProblem::PathLength(path()));
        }
        if at.lists("device_type", "memory") && at.path() != "/memory" {
            found.push(DtbProblem::MemoryNodeName(path()));
        }
        if let Some(handle) = at.phandle() {
            if !handles.insert(handle) {
                found.push(DtbProblem::DuplicatePhandle {
                    path: path(),
                    handle,
                });
            }
        }
    }
    if tree.root.child("chosen").is_none() {
        found.push(DtbProblem::NoChosen);
    }
    if tree.find("/hypervisor").is_some() {
        found.push(DtbProblem::HypervisorNode);
    }
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
}

fn cpus(tree: &Tree, found: &mut Vec<DtbProblem>) {
    let has_psci = tree
        .walk()
        .iter()
        .any(|at| at.is_compatible("arm,psci-0.2") || at.is_compatible("arm,psci-1.0"));
    if !has_psci {
        found.push(DtbProblem::NoPsci);
    }
    let proxy = DtbFacts::of(tree).scheduling == Some(Scheduling::Proxy);
    let cpus = cpu_nodes(tree);
    let shared_method = tree
        .at("/cpus")
        .and_then(|cpus| cpus.str("enable-method").ok());
    let mut methods = Vec::new();
    let mut booting = 0;
    for (place, cpu) in cpus.iter().enumerate() {
        let path = || cpu.path().to_owned();
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

fn gic(tree: &Tree, found: &mut Vec<DtbProblem>) {
    let interrupts = vm_configs(tree)
        .first()
        .and_then(|config| config.child("interrupts"));
    if let Some(interrupts) = interrupts.filter(|node| node.has("config")) {
        match interrupts.str("config") {
            Ok(path) if path.len() > 1 && path.starts_with('/') => {
                if tree.at(path).is_none() {
                    found.push(DtbProblem::GicPath(path.to_owned()));
                    return;
                }
            }
            _ => match interrupts.u32("config") {
                Ok(_) => found.push(DtbProblem::GicPhandle),
                Err(error) => {
                    found.push(DtbProblem::Property(error));
                    return;
                }
            },
        }
    }
    let Some(gic) = gic_node(tree) else {
        found.push(DtbProblem::NoGic);
        return;
    };
    let mut unusable = |why| {
        found.push(DtbProblem::GicUnusable {
            path: gic.path().to_owned(),
            why,
        });
    };
    if !gic.is_compatible("arm,gic-v3") {
        unusable("is not compatible with \"arm,gic-v3\"");
    }
    if !gic.has("interrupt-controller") {
        unusable("has no interrupt-controller property");
    }
    if gic.u32("#interrupt-cells") != Ok(3) {
        unusable("has not 3 #interrupt-cells");
    }
    if gic.phandle().is_none() {
        unusable("has no phandle");
    }
    if gic
        .u32("#redistributor-regions")
        .is_ok_and(|regions| regions != 1)
    {
        unusable("has more than one redistributor region");
    }
    if let Ok(stride) = gic.number("redistributor-stride") {
        if stride < super::generate::GICR_SIZE || stride % 0x1_0000 != 0 {
            unusable("has a redistributor-stride below 128 KiB or off 64 KiB");
        }
    }
    if gic.has("reg") {
        let (address, size) = cells_around(tree, gic.path());
        let ranges = gic.ranges("reg", address, size).unwrap_or_default();
        if ranges.len() < 2 {
            unusable("has no distributor and redistributor range in reg");
        } else if ranges.iter().take(2).any(|(base, _)| base % 0x1_0000 != 0) {
            unusable("has ranges that are not aligned to 64 KiB");
        } else {
            let cpus = u64::try_from(cpu_nodes(tree).len()).unwrap_or(u64::MAX);
            if ranges[1].1 < cpus.saturating_mul(super::generate::GICR_SIZE) {
                unusable("has less than 128 KiB of redistributors for each CPU");
            }
        }
    }
}

fn devices(tree: &Tree, found: &mut Vec<DtbProblem>) {
    let mut labels = HashSet::new();
    for bell in vdevices(tree, "doorbell") {
        let path = bell.path().to_owned();
        match label(&bell) {
            None => found.push(DtbProblem::NoLabel(path.clone())),
            Some(label) => {
                if !labels.insert(label) {
                    found.push(DtbProblem::DuplicateLabel {
                        path: path.clone(),
                        label,
                    });
                }
            }
        }
        if !bell.has("peer-default") && bell.str("peer").is_err() {
            found.push(DtbProblem::NoPeer(path));
        }
    }
    labels.clear();
    for shm in vdevices(tree, "shm") {
        let path = shm.path().to_owned();
        if !shm.has("peer-default") {
            found.push(DtbProblem::NoPeer(path.clone()));
        }
        if let Some(why) = shm_memory(&shm) {
            found.push(DtbProblem::ShmMemory {
                path: path.clone(),
                why,
            });
        }
        let memory = shm.child("memory");
        if let Some(label) = label(&shm).or_else(|| label(memory.as_ref()?)) {
            if !labels.insert(label) {
                found.push(DtbProblem::DuplicateLabel { path, label });
            }
        }
    }
}

fn shm_memory(shm: &NodeAt<'_>) -> Option<&'static str> {
    let Some(memory) = shm.child("memory").filter(|_| shm.children.len() == 1) else {
        return Some("has not exactly one child, named memory");
    };
    if label(&memory).is_none() {
        return Some("has a memory child without label");
    }
    match (memory.has("allocate-base"), memory.has("base")) {
        (true, false) => None,
        (true, true) => Some("has a memory child with both base and allocate-base"),
        (false, false) => Some("has a memory child with neither base nor allocate-base"),
        // Two cells: the default, which the children of vdevices keep.
        (false, true) => match memory.value("base") {
            Some(base) if base.len() != 8 => Some("has a base that is not two cells"),
            _ if memory.number("base").is_ok_and(|base| base % PAGE == 0) => None,
            _ => Some("has a base that is not page aligned"),
        },
    }
}

fn against(tree: &Tree, expected: &Expected, found: &mut Vec<DtbProblem>) {
    let facts = DtbFacts::of(tree);
    if let Some(base) = facts.base_address.filter(|base| *base != expected.base) {
        found.push(DtbProblem::BaseAddressDiffers {
            tree: base,
            config: expected.base,
        });
    }
    let end = expected.base.checked_add(expected.size);
    if expected.base < HIGH_LIMIT && end.is_none_or(|end| end > HIGH_LIMIT) {
        found.push(DtbProblem::BaseAddressLimit(expected.base));
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
        serial(&facts, console, found);
    }
    if expected.initrd.is_some() && facts.initrd != expected.initrd {
        found.push(DtbProblem::InitrdDiffers);
    }
    registers(&facts, expected, found);
}

fn serial(facts: &DtbFacts, console: &ConsoleConfig, found: &mut Vec<DtbProblem>) {
    let bell = facts
        .doorbells
        .iter()
        .find(|bell| bell.label == console.label);
    match bell {
        None => found.push(DtbProblem::NoDoorbell(console.label)),
        Some(bell) if bell.spi != Some((console.interrupt, 4)) => {
            found.push(DtbProblem::DoorbellInterrupt {
                label: console.label,
                tree: bell.spi,
                config: console.interrupt,
            });
        }
        Some(_) => {}
    }
    let Some(serial) = facts
        .serials
        .iter()
        .find(|serial| serial.base == console.base)
    else {
        return;
    };
    let (names, why): (&[&str], _) = match console.device {
        ConsoleDevice::Pl011 => (&["arm,pl011", "arm,sbsa-uart"], "is no PL011"),
        ConsoleDevice::Ns16550 => (&["ns16550a", "ns16550"], "is no 16550"),
    };
    let mut differs = |why| {
        found.push(DtbProblem::ConsoleDiffers {
            path: serial.path.clone(),
            why,
        });
    };
    if !names.contains(&serial.compatible.as_str()) {
        differs(why);
    }
    if serial.spi.is_some_and(|spi| spi != (console.interrupt, 4)) {
        differs("has another interrupt than the console");
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
