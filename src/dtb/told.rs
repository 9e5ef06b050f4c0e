// SPDX-License-Identifier: Apache-2.0
//! The words for every [`DtbProblem`].

use nix::errno::Errno;

use crate::config::Scheduling;

use super::problem::DtbProblem;

/// A problem in words.
pub(super) struct Told {
    /// Short name, as in `docs/devicetree.md`.
    pub rule: &'static str,
    /// What is wrong, with its values.
    pub what: String,
    /// Why that is bad.
    pub cause: &'static str,
    /// What to do.
    pub cure: &'static str,
    /// What START would answer.
    pub errno: Option<Errno>,
}

const COMPLETE_IT: &str =
    "add it, or remove the whole vm-config: then one is generated from the config";
const GOOD_BASE: &str = "use a multiple of 2 MiB above 0x40000000; 0x80000000 is a good one";
const AGREE: &str = "make devicetree and config agree";
const BY_LABEL: &str = "the driver finds doorbells and memory by their labels";

impl DtbProblem {
    pub(super) fn told(&self) -> Told {
        use DtbProblem as P;
        let nodev = Some(Errno::ENODEV);
        let inval = Some(Errno::EINVAL);
        let (rule, what, cause, cure, errno) = match self {
            P::Unreadable(error) => (
                "unreadable",
                format!("the devicetree cannot be read: {error}"),
                "the file is not a flattened devicetree, or is damaged",
                "compile the source again with dtc -O dtb",
                None,
            ),
            P::Unwritable(error) => (
                "unwritable",
                format!("the devicetree cannot be written: {error}"),
                "a name or a size is outside what a flattened devicetree may have",
                "keep to the specification: names begin with a letter and have at most 31 characters, the whole has at most 2 MiB",
                None,
            ),
            P::Property(error) => (
                "property",
                error.to_string(),
                "the property has another type than its readers expect",
                "correct the property",
                None,
            ),
            P::NoChosen => (
                "no-chosen",
                "there is no /chosen".to_owned(),
                "the resource manager's overlay adds to /chosen and fails without it",
                "add /chosen as the root's first child",
                nodev,
            ),
            P::FirstChildCells { first, cells, wanted } => (
                "first-child-cells",
                format!("the root's first child {first} has #address-cells {cells}, but base-address has {wanted} cells"),
                "the resource manager reads everything at depth 2 with the cells of the root's first child",
                "put /chosen, without cell properties of its own, first, and give base-address two cells",
                nodev,
            ),
            P::HypervisorNode => (
                "hypervisor-node",
                "there is a /hypervisor".to_owned(),
                "the resource manager makes /hypervisor itself",
                "remove it",
                nodev,
            ),
            P::MemoryNodeName(path) => (
                "memory-node-name",
                format!("{path} has device_type \"memory\" and is not /memory"),
                "the resource manager writes /memory itself and refuses every other memory node",
                "remove the node, or name it memory and put it under the root",
                inval,
            ),
            P::NoVmConfig => (
                "no-vm-config",
                "there is no /gunyah-vm-config".to_owned(),
                "without it the resource manager knows neither memory nor vCPUs",
                "add it",
                nodev,
            ),
            P::TwoVmConfigs => (
                "two-vm-configs",
                "there are both /gunyah-vm-config and /qcom,vm-config".to_owned(),
                "the resource manager reads both, one over the other",
                "keep /gunyah-vm-config",
                None,
            ),
            P::NoImageName => (
                "no-image-name",
                "the vm-config has no image-name".to_owned(),
                "the resource manager names the VM by it",
                COMPLETE_IT,
                inval,
            ),
            P::ImageNameLength(len) => (
                "image-name-length",
                format!("the vm-config's image-name has {len} bytes, 79 are allowed"),
                "the resource manager has room for 79",
                "shorten it",
                inval,
            ),
            P::NoBaseAddress => (
                "no-base-address",
                "the vm-config has no memory/base-address".to_owned(),
                "the resource manager would map main memory at an address of its own",
                COMPLETE_IT,
                nodev,
            ),
            P::BaseAddressPage(base) => (
                "base-address-page",
                format!("base-address {base:#x} is not a multiple of the 4 KiB page"),
                "memory is mapped by the page",
                GOOD_BASE,
                inval,
            ),
            P::BaseAddressRounded(base) => (
                "base-address-rounded",
                format!("base-address {base:#x} is not a multiple of 2 MiB"),
                "the resource manager rounds it up in silence: the guest would find its memory elsewhere",
                GOOD_BASE,
                None,
            ),
            P::BaseAddressTaken(base) => (
                "base-address-taken",
                format!("base-address {base:#x} is not above the page at 0x40000000"),
                "the space up to there belongs to devices",
                GOOD_BASE,
                nodev,
            ),
            P::BaseAddressLimit(base) => (
                "base-address-limit",
                format!("main memory at {base:#x} does not end within 36 bits of address"),
                "a guest has 36 bits of address, 64 GiB",
                "move or shrink main memory",
                nodev,
            ),
            P::NoVcpus => (
                "no-vcpus",
                "the vm-config has no vcpus node".to_owned(),
                "the resource manager would make no vCPU",
                COMPLETE_IT,
                nodev,
            ),
            P::NoScheduling => (
                "no-scheduling",
                "the vm-config's vcpus has neither affinity = \"proxy\" nor an affinity-map".to_owned(),
                "the hypervisor must know who schedules, and on which physical CPU",
                "add affinity = \"proxy\", or an affinity-map with a CPU for each vCPU",
                inval,
            ),
            P::AffinityMapLength { entries, cpus } => (
                "affinity-map-length",
                format!("affinity-map has {entries} entries for {cpus} CPUs"),
                "the map gives each vCPU its physical CPU",
                "give one physical CPU for each vCPU",
                inval,
            ),
            P::AffinityDiffers { tree, config } => (
                "affinity-differs",
                format!("the devicetree's affinity-map is {tree:?}, vcpus.affinity says {config:?}"),
                "the resource manager goes by the devicetree alone",
                AGREE,
                None,
            ),
            P::SchedPriority => (
                "sched-priority",
                "sched-priority is not negative".to_owned(),
                "it counts from the host's own priority, and a VM must stay below",
                "set sched-priority = <0xffffffff> (-1)",
                nodev,
            ),
            P::SchedTimeslice(slice) => (
                "sched-timeslice",
                match slice {
                    Some(micros) => format!("sched-timeslice {micros} is not within 100 and 100000 microseconds"),
                    None => "there is no sched-timeslice".to_owned(),
                },
                "the resource manager takes a missing one as 0, and the hypervisor has limits",
                "set sched-timeslice = <2000> (2 ms)",
                nodev,
            ),
            P::NoCpus => (
                "no-cpus",
                "no CPU is enabled at boot".to_owned(),
                "what boots is the first CPU without a status, or one with \"okay\"",
                "add cpu nodes with device_type = \"cpu\" to /cpus",
                inval,
            ),
            P::EnableMethod(path) => (
                "enable-method",
                format!("secondary CPU {path} has no enable-method that is known"),
                "the resource manager wants psci or qcom,gunyah-hvc",
                "add enable-method = \"psci\"",
                inval,
            ),
            P::CpuStatus(path) => (
                "cpu-status",
                format!("{path} has an unknown status"),
                "the resource manager knows okay, disabled and fail",
                "use one of them, or remove it",
                inval,
            ),
            P::IdleStates(path) => (
                "idle-states",
                format!("{path} has no cpu-idle-states, and the VM has PSCI and is scheduled by the hypervisor"),
                "the hypervisor's power management wants all CPUs to take part",
                "add cpu-idle-states (it may be empty) to every CPU",
                inval,
            ),
            P::CpuNumber { path, place } => (
                "cpu-number",
                format!("{path} is CPU {place} in order, and its reg says otherwise"),
                "vCPU n has MPIDR n, so the guest cannot start this CPU",
                "number the CPUs from 0 in their order",
                None,
            ),
            P::NoPsci => (
                "no-psci",
                "there is no psci node".to_owned(),
                "the guest's PSCI calls return -1: it cannot power off or start a second CPU",
                "add psci { compatible = \"arm,psci-1.0\"; method = \"hvc\"; }",
                None,
            ),
            P::NoGic => (
                "no-gic",
                "no interrupt controller can be found".to_owned(),
                "neither interrupts/config nor the root's interrupt-parent leads to one",
                "set interrupts/config of the vm-config to the path of a GICv3 node",
                nodev,
            ),
            P::GicUnusable { path, named, why } => (
                "gic-unusable",
                format!("the interrupt controller {path} {why}"),
                "the virtual interrupt controller is a GICv3 with one redistributor region",
                "describe it so",
                if *named { inval } else { nodev },
            ),
            P::GicRedistributors { path, size } => (
                "gic-redistributors",
                format!("the interrupt controller {path} has {size:#x} bytes of redistributors"),
                "each CPU has 128 KiB of them",
                "enlarge the second range of reg",
                None,
            ),
            P::GicPhandle => (
                "gic-phandle",
                "the vm-config's interrupts/config is a phandle".to_owned(),
                "the resource manager wants a path and warns",
                "write the path of the interrupt controller: config = \"/interrupt-controller@3fff0000\"",
                None,
            ),
            P::GicPath(path) => (
                "gic-path",
                format!("the vm-config's interrupts/config {path:?} leads to no node"),
                "the path is looked up as it stands",
                "write the path of the interrupt controller",
                inval,
            ),
            P::NoLabel(path) => (
                "no-label",
                format!("{path} has no label and counts as label 0"),
                BY_LABEL,
                "give it a label of its own",
                None,
            ),
            P::DuplicateLabel { path, label } => (
                "duplicate-label",
                format!("{path} has label {label}, as another of its kind has"),
                BY_LABEL,
                "give one of them another label",
                None,
            ),
            P::DuplicateInterrupt { path, spi } => (
                "duplicate-interrupt",
                format!("{path} has SPI {spi}, as another doorbell has"),
                "one interrupt can be bound to one doorbell",
                "give one of them another interrupt",
                nodev,
            ),
            P::NoPeer(path) => (
                "no-peer",
                format!("{path} has no peer-default"),
                "the resource manager must know who is at the other end",
                "add peer-default",
                inval,
            ),
            P::ShmMemory { path, why } => (
                "shm-memory",
                format!("{path} {why}"),
                "the resource manager reads label and base in a child named memory",
                "give it one child named memory with a label and a page-aligned base of two cells",
                inval,
            ),
            P::ReservedMemory { path, why } => (
                "reserved-memory",
                format!("{path} {why}"),
                "the resource manager looks for a region behind every fixed range there",
                "remove the node, give it size instead of reg, or make it a region of the config",
                nodev,
            ),
            P::ReservationRange { base, size } => (
                "memreserve-range",
                format!("/memreserve/ {base:#x} {size:#x} goes past 64 bits"),
                "readers differ in what is reserved then",
                "correct its address and size",
                None,
            ),
            P::ReservationsOverlap { low, high } => (
                "memreserve-overlap",
                format!(
                    "/memreserve/ {:#x} {:#x} overlaps /memreserve/ {:#x} {:#x}",
                    high.0, high.1, low.0, low.1
                ),
                "a devicetree with overlapping reservations cannot be written",
                "make one /memreserve/ of them, or shorten one",
                None,
            ),
            P::ReservationTaken { reserved, what, range } => (
                "memreserve-taken",
                format!(
                    "/memreserve/ {:#x} {:#x} overlaps the {what} at {:#x}..{:#x}",
                    reserved.0, reserved.1, range.0, range.1
                ),
                "what is reserved is not to be written to, and the guest would have this there",
                "remove or move the /memreserve/, or move what it overlaps by kernel.offset, initrd.offset or dtb.offset",
                None,
            ),
            P::DuplicateNode(path) => (
                "duplicate-node",
                format!("{path} is there twice"),
                "readers differ in which one they take, and the kernel drops the second",
                "rename one of them",
                None,
            ),
            P::DuplicatePhandle { path, handle } => (
                "duplicate-phandle",
                format!("{path} has phandle {handle:#x}, as another node has"),
                "readers differ in which node they take",
                "let dtc number them",
                None,
            ),
            P::Depth(path) => (
                "depth",
                format!("{path} is more than 15 nodes deep"),
                "the resource manager's parser has 16 levels and dies at the next",
                "flatten the tree",
                None,
            ),
            P::PathLength { path, max } => (
                "path-length",
                format!("the path of a node has {} bytes, {max} are allowed: {path}", path.len()),
                "the resource manager's parser has room for 255, and for 127 where it is a CPU's",
                "shorten the names, or flatten the tree",
                inval,
            ),
            P::BaseAddressDiffers { tree, config } => (
                "base-address-differs",
                format!("the devicetree's base-address is {tree:#x}, memory.base is {config:#x}"),
                "main memory is mapped at base-address, whatever the driver was told",
                AGREE,
                None,
            ),
            P::CpuCount { tree, config } => (
                "cpu-count",
                format!("the devicetree has {tree} CPUs, vcpus.count is {config}"),
                "a vCPU that the devicetree lacks answers ENODEV to VCPU_RUN and makes the host kernel oops at the end",
                AGREE,
                None,
            ),
            P::SchedulingDiffers { tree, config } => (
                "scheduling-differs",
                format!("the devicetree's vCPUs are scheduled by {}, the config's by {}", who(*tree), who(*config)),
                "a proxy VM never runs without vCPU threads, and another has no use for them",
                AGREE,
                None,
            ),
            P::NoShm(label) => (
                "no-shm",
                format!("no shm vdevice has the label {label} of a region"),
                "without it the resource manager places the region where it likes",
                "add a vdevice with vdevice-type \"shm\" to the vm-config's vdevices",
                None,
            ),
            P::ShmBase { label, tree, config } => (
                "shm-base",
                match tree {
                    Some(tree) => format!("the shm vdevice {label} has base {tree:#x}, the region {config:#x}"),
                    None => format!("the shm vdevice {label} has no base, the region has {config:#x}"),
                },
                "the resource manager maps the region at the vdevice's base",
                AGREE,
                None,
            ),
            P::NoDoorbell(label) => (
                "no-doorbell",
                format!("no doorbell vdevice has the console's label {label}"),
                "the driver accepts an unknown label, and no interrupt ever comes",
                "add a doorbell vdevice with this label, or change console.label",
                None,
            ),
            P::DoorbellInterrupt { label, tree, config } => (
                "doorbell-interrupt",
                match tree {
                    Some((spi, trigger)) => format!(
                        "doorbell {label} has SPI {spi} with trigger {trigger}, the console SPI {config} with trigger 4"
                    ),
                    None => format!("doorbell {label} has no fixed SPI, the console has SPI {config}"),
                },
                "the guest's driver waits for the serial port's own interrupt",
                AGREE,
                None,
            ),
            P::ConsoleDiffers { path, why } => (
                "console-differs",
                format!("{path} {why}"),
                "the guest would talk to a device that is not there",
                AGREE,
                None,
            ),
            P::StrayInitrd => (
                "stray-initrd",
                "/chosen names an initrd and the config has none".to_owned(),
                "the kernel would unpack whatever lies there",
                "add initrd to the config, or remove linux,initrd-start and linux,initrd-end",
                None,
            ),
            P::InitrdDiffers => (
                "initrd-differs",
                "/chosen names another initrd range than the plan".to_owned(),
                "the kernel would unpack whatever lies there",
                "remove linux,initrd-start and linux,initrd-end, so that they are filled in",
                None,
            ),
            P::MemoryCells { address, size } => (
                "memory-cells",
                format!("#address-cells {address} and #size-cells {size} of the root cannot describe main memory"),
                "/memory is written with them, here and by the resource manager",
                "set both to 2",
                None,
            ),
            P::DeviceInMemory { path, base } => (
                "device-in-memory",
                format!("the registers of {path} at {base:#x} lie in the guest's memory"),
                "accesses would reach memory instead of the device",
                "move the device or the memory",
                None,
            ),
            P::MemoryReplaced => (
                "memory-replaced",
                "the given /memory is not main memory and is replaced".to_owned(),
                "main memory is what the config says",
                "remove the reg of /memory, or make it the config's",
                None,
            ),
            P::SymbolsDropped => (
                "symbols-dropped",
                "the symbol tables of dtc -@ are left out".to_owned(),
                "their names cannot be written, and nothing reads them here",
                "compile without -@",
                None,
            ),
        };
        Told {
            rule,
            what,
            cause,
            cure,
            errno,
        }
    }
}

fn who(scheduling: Scheduling) -> &'static str {
    match scheduling {
        Scheduling::Hypervisor => "the hypervisor",
        Scheduling::Proxy => "proxy",
    }
}
