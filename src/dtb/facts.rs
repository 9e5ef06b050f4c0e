// SPDX-License-Identifier: Apache-2.0
//! What a devicetree says that the other steps must agree with.

use crate::config::Scheduling;

use super::tree::Tree;
use super::value::NodeAt;

/// The resource manager's view of a tree, without any judgement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DtbFacts {
    /// Bytes of the final blob at most, whatever the addresses. 0 for a tree that is no draft.
    pub blob_len_max: u64,
    /// `image-name` of the vm-config.
    pub image_name: Option<String>,
    /// `memory/base-address` of the vm-config.
    pub base_address: Option<u64>,
    /// CPUs that the resource manager makes vCPUs of.
    pub cpus: u32,
    /// Who schedules them; `None` if the tree does not say.
    pub scheduling: Option<Scheduling>,
    /// `affinity-map` of the vm-config, one physical CPU a vCPU.
    pub affinity_map: Vec<u32>,
    /// Doorbells into the guest.
    pub doorbells: Vec<Doorbell>,
    /// Shared memory vdevices.
    pub shm: Vec<Shm>,
    /// The interrupt controller.
    pub gic: Option<Gic>,
    /// Serial ports that a VMM would have to be behind.
    pub serials: Vec<Serial>,
    /// `/chosen/bootargs`.
    pub bootargs: Option<String>,
    /// First byte and the one after the last of the initrd in `/chosen`.
    pub initrd: Option<(u64, u64)>,
    /// `reg` of `/memory`.
    pub memory: Vec<(u64, u64)>,
}

/// A doorbell vdevice: the irqfd with its label raises its interrupt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doorbell {
    /// Path of the vdevice's node.
    pub path: String,
    /// Its label.
    pub label: u32,
    /// SPI number and trigger (1 rising edge, 4 level high), where the tree fixes them.
    pub spi: Option<(u32, u32)>,
}

/// A shared memory vdevice: the region with its label appears at its base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shm {
    /// Path of the vdevice's node.
    pub path: String,
    /// Its label.
    pub label: u32,
    /// `memory/base`; `None`: `allocate-base`.
    pub base: Option<u64>,
}

/// The interrupt controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gic {
    /// Path of its node.
    pub path: String,
    /// Address and size of the distributor, then of the redistributors; empty: the resource manager
    /// chooses.
    pub ranges: Vec<(u64, u64)>,
}

/// A serial port's registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serial {
    /// Path of its node.
    pub path: String,
    /// First string of `compatible` that names a model of serial port.
    pub compatible: String,
    /// Guest address.
    pub base: u64,
    /// Bytes.
    pub size: u64,
    /// SPI number and trigger.
    pub spi: Option<(u32, u32)>,
}

/// The names that a vm-config node may have; the resource manager looks for both.
pub(super) const VM_CONFIG_NAMES: [&str; 2] = ["gunyah-vm-config", "qcom,vm-config"];

/// The vm-config nodes; there should be one.
pub(super) fn vm_configs(tree: &Tree) -> Vec<NodeAt<'_>> {
    NodeAt::root(&tree.root)
        .children()
        .filter(|child| VM_CONFIG_NAMES.contains(&child.name.as_str()))
        .collect()
}

/// Address and size cells that `at` sets for its children; the defaults of the specification are 2
/// and 1.
pub(super) fn child_cells(at: &NodeAt<'_>) -> (usize, usize) {
    let cells = |name, default| {
        at.u32(name)
            .ok()
            .and_then(|cells| usize::try_from(cells).ok())
            .unwrap_or(default)
    };
    (cells("#address-cells", 2), cells("#size-cells", 1))
}

/// Shared peripheral interrupts of a GIC: 1020 less the 32 private ones.
const SPIS: u32 = 988;

/// A device's `interrupts` if it is one SPI: number and trigger.
pub(super) fn spi(at: &NodeAt<'_>) -> Option<(u32, u32)> {
    match at.cells("interrupts").ok()?[..] {
        [0, number, trigger] if number < SPIS => Some((number, trigger & 0xf)),
        _ => None,
    }
}

/// Where the CPUs are: the vm-config may name another place than `/cpus`.
pub(super) fn cpus_path(tree: &Tree) -> &str {
    vm_configs(tree)
        .first()
        .and_then(|config| config.child("vcpus"))
        .and_then(|vcpus| vcpus.str("config").ok())
        .unwrap_or("/cpus")
}

/// The nodes that the resource manager makes vCPUs of, in its order: `device_type = "cpu"`, without
/// those whose `status` begins with `fail`.
pub(super) fn cpu_nodes(tree: &Tree) -> Vec<NodeAt<'_>> {
    let Some(cpus) = tree.at(cpus_path(tree)) else {
        return Vec::new();
    };
    cpus.children()
        .filter(|cpu| cpu.str("device_type") == Ok("cpu"))
        .filter(|cpu| !matches!(cpu.str("status"), Ok(status) if status == "fail" || status.starts_with("fail-")))
        .collect()
}

/// Nodes with this first `vdevice-type`. The resource manager looks for them in the whole tree.
pub(super) fn vdevices<'a>(tree: &'a Tree, kind: &str) -> Vec<NodeAt<'a>> {
    tree.walk()
        .into_iter()
        .filter(|at| at.lists("vdevice-type", kind))
        .collect()
}

/// `qcom,label`, else `label`.
pub(super) fn label(at: &NodeAt<'_>) -> Option<u32> {
    at.u32("qcom,label").or_else(|_| at.u32("label")).ok()
}

/// The interrupt controller as the resource manager finds it: by the vm-config's
/// `interrupts/config`, else by the root's `interrupt-parent`.
pub(super) fn gic_node(tree: &Tree) -> Option<NodeAt<'_>> {
    let explicit = vm_configs(tree)
        .first()
        .and_then(|config| config.child("interrupts"))
        .and_then(|interrupts| match interrupts.str("config") {
            Ok(path) if path.len() > 1 && path.starts_with('/') => tree.at(path),
            _ => tree.by_phandle(interrupts.u32("config").ok()?),
        });
    explicit.or_else(|| {
        let root = NodeAt::root(&tree.root);
        tree.by_phandle(root.u32("interrupt-parent").ok()?)
    })
}

/// Cells of the parent of the node at `path`.
pub(super) fn cells_around(tree: &Tree, path: &str) -> (usize, usize) {
    let above = match path.rfind('/') {
        Some(0) | None => "/",
        Some(at) => &path[..at],
    };
    tree.at(above).map_or((2, 1), |parent| child_cells(&parent))
}

impl DtbFacts {
    /// Reads a tree. What is missing or malformed is left out: `rules` says so.
    pub fn of(tree: &Tree) -> Self {
        let mut facts = Self {
            cpus: u32::try_from(cpu_nodes(tree).len()).unwrap_or(u32::MAX),
            ..Self::default()
        };
        if let Some(config) = vm_configs(tree).first() {
            facts.image_name = config.str("image-name").ok().map(str::to_owned);
            facts.base_address = config
                .child("memory")
                .and_then(|memory| memory.number("base-address").ok());
            if let Some(vcpus) = config.child("vcpus") {
                facts.affinity_map = vcpus.cells("affinity-map").unwrap_or_default();
                facts.scheduling = if vcpus.str("affinity") == Ok("proxy") {
                    Some(Scheduling::Proxy)
                } else if vcpus.has("affinity-map") {
                    Some(Scheduling::Hypervisor)
                } else {
                    None
                };
            }
        }
        facts.doorbells = vdevices(tree, "doorbell")
            .iter()
            .filter_map(|bell| {
                Some(Doorbell {
                    path: bell.path().to_owned(),
                    label: label(bell)?,
                    spi: spi(bell),
                })
            })
            .collect();
        facts.shm = vdevices(tree, "shm")
            .iter()
            .filter_map(|shm| {
                let memory = shm.child("memory")?;
                Some(Shm {
                    path: shm.path().to_owned(),
                    label: label(shm).or_else(|| label(&memory))?,
                    base: memory.number("base").ok(),
                })
            })
            .collect();
        facts.gic = gic_node(tree).map(|gic| {
            let (address, size) = cells_around(tree, gic.path());
            Gic {
                path: gic.path().to_owned(),
                ranges: gic.ranges("reg", address, size).unwrap_or_default(),
            }
        });
        facts.serials = tree
            .walk()
            .iter()
            .filter_map(|at| serial(tree, at))
            .collect();
        if let Some(chosen) = tree.at("/chosen") {
            facts.bootargs = chosen.str("bootargs").ok().map(str::to_owned);
            facts.initrd = chosen
                .number("linux,initrd-start")
                .ok()
                .zip(chosen.number("linux,initrd-end").ok());
        }
        let root = NodeAt::root(&tree.root);
        let (address, size) = child_cells(&root);
        facts.memory = root
            .child("memory")
            .and_then(|memory| memory.ranges("reg", address, size).ok())
            .unwrap_or_default();
        facts
    }
}

fn serial(tree: &Tree, at: &NodeAt<'_>) -> Option<Serial> {
    const MODELS: [&str; 4] = ["arm,pl011", "arm,sbsa-uart", "ns16550a", "ns16550"];
    let listed = at.strings("compatible").ok()?;
    let compatible = listed.into_iter().find(|model| MODELS.contains(model))?;
    let (address, size) = cells_around(tree, at.path());
    let (base, size) = at.ranges("reg", address, size).ok()?.first().copied()?;
    Some(Serial {
        path: at.path().to_owned(),
        compatible: compatible.to_owned(),
        base,
        size,
        spi: spi(at),
    })
}
