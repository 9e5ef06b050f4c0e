// SPDX-License-Identifier: Apache-2.0
//! What can be wrong with a guest's devicetree, each with its cause, its cure and what the resource
//! manager would answer.

use std::fmt;

use nix::errno::Errno;

use crate::config::Scheduling;
use crate::error::{LaunchError, Step};

use super::blob::{ParseError, WriteError};
use super::value::PropertyError;

/// One rule that a devicetree breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DtbProblem {
    /// The file is not a devicetree blob.
    Unreadable(ParseError),
    /// The finished tree cannot be written.
    Unwritable(WriteError),
    /// A property that the resource manager needs is not what it must be.
    Property(PropertyError),
    /// There is no `/chosen`.
    NoChosen,
    /// The root's first child sets cells with which the base address cannot be read.
    FirstChildCells {
        /// The first child.
        first: String,
        /// Its `#address-cells`.
        cells: usize,
        /// Cells of `base-address`.
        wanted: usize,
    },
    /// `/hypervisor` is there already.
    HypervisorNode,
    /// A memory node that is not `/memory`.
    MemoryNodeName(String),
    /// Neither `/gunyah-vm-config` nor `/qcom,vm-config`.
    NoVmConfig,
    /// Both of them.
    TwoVmConfigs,
    /// `image-name` is missing.
    NoImageName,
    /// `image-name` is too long.
    ImageNameLength(usize),
    /// `memory/base-address` is missing.
    NoBaseAddress,
    /// `memory/base-address` is not a multiple of the page.
    BaseAddressPage(u64),
    /// `memory/base-address` is not a multiple of 2 MiB.
    BaseAddressRounded(u64),
    /// Main memory is where no guest memory may be.
    BaseAddressTaken(u64),
    /// Main memory is beyond the guest's address space.
    BaseAddressLimit(u64),
    /// `vcpus` is missing.
    NoVcpus,
    /// `vcpus` says nothing of scheduling.
    NoScheduling,
    /// `affinity-map` and CPUs do not match.
    AffinityMapLength {
        /// Entries.
        entries: usize,
        /// CPUs.
        cpus: usize,
    },
    /// No CPU node, or none enabled at boot.
    NoCpus,
    /// A secondary CPU without a known `enable-method`.
    EnableMethod(String),
    /// A CPU whose `status` is none of the specification's.
    CpuStatus(String),
    /// A hypervisor-scheduled CPU with PSCI but without `cpu-idle-states`.
    IdleStates(String),
    /// A CPU whose `reg` is not its place.
    CpuNumber {
        /// The node.
        path: String,
        /// Its place among the CPUs.
        place: usize,
    },
    /// No psci node.
    NoPsci,
    /// No interrupt controller to be found.
    NoGic,
    /// The interrupt controller is not one that the resource manager takes.
    GicUnusable {
        /// The node.
        path: String,
        /// Why not.
        why: &'static str,
    },
    /// `interrupts/config` is a phandle instead of a path.
    GicPhandle,
    /// `interrupts/config` leads nowhere.
    GicPath(String),
    /// A doorbell without a label.
    NoLabel(String),
    /// Two vdevices of a kind with the same label.
    DuplicateLabel {
        /// The second one.
        path: String,
        /// The label.
        label: u32,
    },
    /// A vdevice that does not say who its peer is.
    NoPeer(String),
    /// A shared memory vdevice whose `memory` child is not as needed.
    ShmMemory {
        /// The vdevice.
        path: String,
        /// What is wrong.
        why: &'static str,
    },
    /// A phandle used twice.
    DuplicatePhandle {
        /// The second node.
        path: String,
        /// The value.
        handle: u32,
    },
    /// Nested deeper than the resource manager's parser can go.
    Depth(String),
    /// A path longer than the resource manager's parser can hold.
    PathLength(String),
    /// The tree's base address is not the config's.
    BaseAddressDiffers {
        /// The tree's.
        tree: u64,
        /// The config's.
        config: u64,
    },
    /// The tree's CPUs are not as many as the config's.
    CpuCount {
        /// The tree's.
        tree: usize,
        /// The config's.
        config: u32,
    },
    /// Tree and config differ in who schedules.
    SchedulingDiffers {
        /// The tree's.
        tree: Scheduling,
        /// The config's.
        config: Scheduling,
    },
    /// A region without a shared memory vdevice.
    NoShm(u32),
    /// A region and its vdevice differ in the address.
    ShmBase {
        /// The label.
        label: u32,
        /// The vdevice's; `None`: the resource manager chooses.
        tree: Option<u64>,
        /// The region's.
        config: u64,
    },
    /// No doorbell for the console's interrupt.
    NoDoorbell(u32),
    /// The console's doorbell raises another interrupt, or no fixed one.
    DoorbellInterrupt {
        /// The label.
        label: u32,
        /// SPI and trigger in the tree.
        tree: Option<(u32, u32)>,
        /// The config's SPI, with level trigger.
        config: u32,
    },
    /// The serial port at the console's address is not the config's.
    ConsoleDiffers {
        /// The node.
        path: String,
        /// What differs.
        why: &'static str,
    },
    /// `/chosen` names an initrd that the config does not have.
    StrayInitrd,
    /// `/chosen` names another initrd range than the plan.
    InitrdDiffers,
    /// A device's registers lie in guest memory.
    DeviceInMemory {
        /// The node.
        path: String,
        /// Where it begins.
        base: u64,
    },
    /// The given `/memory` names something else and is replaced.
    MemoryReplaced,
    /// Nodes of the compiler's symbol tables, which are left out.
    SymbolsDropped,
}

fn who(scheduling: Scheduling) -> &'static str {
    match scheduling {
        Scheduling::Hypervisor => "the hypervisor",
        Scheduling::Proxy => "proxy",
    }
}

impl DtbProblem {
    /// Whether the launch can go on nevertheless.
    pub fn is_warning(&self) -> bool {
        matches!(
            self,
            DtbProblem::NoPsci
                | DtbProblem::GicPhandle
                | DtbProblem::CpuNumber { .. }
                | DtbProblem::MemoryReplaced
                | DtbProblem::SymbolsDropped
        )
    }

    /// What the driver's START would answer, where it has been seen or read.
    pub fn errno(&self) -> Option<Errno> {
        use DtbProblem as P;
        match self {
            P::NoChosen
            | P::FirstChildCells { .. }
            | P::HypervisorNode
            | P::NoVmConfig
            | P::NoBaseAddress
            | P::BaseAddressTaken(_)
            | P::BaseAddressLimit(_)
            | P::NoVcpus
            | P::NoGic => Some(Errno::ENODEV),
            P::MemoryNodeName(_)
            | P::NoImageName
            | P::ImageNameLength(_)
            | P::BaseAddressPage(_)
            | P::NoScheduling
            | P::AffinityMapLength { .. }
            | P::NoCpus
            | P::EnableMethod(_)
            | P::CpuStatus(_)
            | P::IdleStates(_)
            | P::GicPath(_)
            | P::NoPeer(_)
            | P::ShmMemory { .. }
            | P::PathLength(_) => Some(Errno::EINVAL),
            _ => None,
        }
    }

    /// The config's key that is the nearest to it, for the place in the file.
    pub fn key(&self) -> &'static str {
        use DtbProblem as P;
        match self {
            P::BaseAddressPage(_)
            | P::BaseAddressRounded(_)
            | P::BaseAddressTaken(_)
            | P::BaseAddressLimit(_)
            | P::BaseAddressDiffers { .. } => "memory.base",
            P::CpuCount { .. } => "vcpus.count",
            P::SchedulingDiffers { .. } => "vcpus.scheduling",
            P::AffinityMapLength { .. } => "vcpus.affinity",
            P::NoShm(_) | P::ShmBase { .. } => "regions",
            P::NoDoorbell(_) => "console.label",
            P::DoorbellInterrupt { .. } => "console.interrupt",
            P::ConsoleDiffers { .. } => "console",
            P::StrayInitrd | P::InitrdDiffers => "initrd",
            _ => "dtb.path",
        }
    }

    /// What is wrong, with its values.
    pub fn what(&self) -> String {
        use DtbProblem as P;
        match self {
            P::Unreadable(error) => format!("the devicetree cannot be read: {error}"),
            P::Unwritable(error) => format!("the devicetree cannot be written: {error}"),
            P::Property(error) => error.to_string(),
            P::NoChosen => "there is no /chosen".to_owned(),
            P::FirstChildCells { first, cells, wanted } => format!(
                "the root's first child {first} has #address-cells {cells}, but base-address has {wanted} cells"
            ),
            P::HypervisorNode => "there is a /hypervisor".to_owned(),
            P::MemoryNodeName(path) => {
                format!("{path} has device_type \"memory\" and is not /memory")
            }
            P::NoVmConfig => "there is no /gunyah-vm-config".to_owned(),
            P::TwoVmConfigs => "there are both /gunyah-vm-config and /qcom,vm-config".to_owned(),
            P::NoImageName => "the vm-config has no image-name".to_owned(),
            P::ImageNameLength(len) => format!("the vm-config's image-name has {len} bytes, 79 are allowed"),
            P::NoBaseAddress => "the vm-config has no memory/base-address".to_owned(),
            P::BaseAddressPage(base) => {
                format!("base-address {base:#x} is not a multiple of the 4 KiB page")
            }
            P::BaseAddressRounded(base) => {
                format!("base-address {base:#x} is not a multiple of 2 MiB")
            }
            P::BaseAddressTaken(base) => {
                format!("base-address {base:#x} is not above the page at 0x40000000")
            }
            P::BaseAddressLimit(base) => {
                format!("main memory at {base:#x} does not end below 2^36")
            }
            P::NoVcpus => "the vm-config has no vcpus node".to_owned(),
            P::NoScheduling => {
                "the vm-config's vcpus has neither affinity = \"proxy\" nor an affinity-map".to_owned()
            }
            P::AffinityMapLength { entries, cpus } => {
                format!("affinity-map has {entries} entries for {cpus} CPUs")
            }
            P::NoCpus => "no CPU is enabled at boot".to_owned(),
            P::EnableMethod(path) => format!("secondary CPU {path} has no enable-method that is known"),
            P::CpuStatus(path) => format!("{path} has an unknown status"),
            P::IdleStates(path) => format!(
                "{path} has no cpu-idle-states, and the VM has PSCI and is scheduled by the hypervisor"
            ),
            P::CpuNumber { path, place } => format!("{path} is CPU {place} in order, its reg says otherwise"),
            P::NoPsci => "there is no psci node".to_owned(),
            P::NoGic => "no interrupt controller can be found".to_owned(),
            P::GicUnusable { path, why } => format!("the interrupt controller {path} {why}"),
            P::GicPhandle => "the vm-config's interrupts/config is a phandle".to_owned(),
            P::GicPath(path) => format!("the vm-config's interrupts/config {path} leads to no node"),
            P::NoLabel(path) => format!("{path} has no label"),
            P::DuplicateLabel { path, label } => format!("{path} has label {label}, as another of its kind has"),
            P::NoPeer(path) => format!("{path} has no peer-default"),
            P::ShmMemory { path, why } => format!("{path} {why}"),
            P::DuplicatePhandle { path, handle } => {
                format!("{path} has phandle {handle:#x}, as another node has")
            }
            P::Depth(path) => format!("{path} is more than 15 nodes deep"),
            P::PathLength(path) => format!("{path}: a path of {} bytes, 255 are allowed", path.len()),
            P::BaseAddressDiffers { tree, config } => format!(
                "the devicetree's base-address is {tree:#x}, memory.base is {config:#x}"
            ),
            P::CpuCount { tree, config } => {
                format!("the devicetree has {tree} CPUs, vcpus.count is {config}")
            }
            P::SchedulingDiffers { tree, config } => format!(
                "the devicetree has its vCPUs scheduled by {}, the config by {}",
                who(*tree),
                who(*config)
            ),
            P::NoShm(label) => format!("no shm vdevice has the label {label} of the region"),
            P::ShmBase { label, tree: Some(tree), config } => {
                format!("the shm vdevice {label} has base {tree:#x}, the region {config:#x}")
            }
            P::ShmBase { label, tree: None, config } => {
                format!("the shm vdevice {label} has no base, the region has {config:#x}")
            }
            P::NoDoorbell(label) => format!("no doorbell vdevice has the console's label {label}"),
            P::DoorbellInterrupt { label, tree, config } => {
                let has = match tree {
                    Some((spi, trigger)) => format!("SPI {spi}, trigger {trigger}"),
                    None => "no SPI".to_owned(),
                };
                format!("doorbell {label} has {has}; the console needs SPI {config}, trigger 4 (level)")
            }
            P::ConsoleDiffers { path, why } => format!("{path} {why}"),
            P::StrayInitrd => "/chosen names an initrd and the config has none".to_owned(),
            P::InitrdDiffers => "/chosen names another initrd range than the plan".to_owned(),
            P::DeviceInMemory { path, base } => {
                format!("the registers of {path} at {base:#x} lie in the guest's memory")
            }
            P::MemoryReplaced => "the given /memory does not name main memory and is replaced".to_owned(),
            P::SymbolsDropped => "the symbol tables of dtc -@ are left out".to_owned(),
        }
    }

    /// Why that is bad.
    pub fn cause(&self) -> &'static str {
        use DtbProblem as P;
        match self {
            P::Unreadable(_) => "the file is not a flattened devicetree, or is cut",
            P::Unwritable(_) => "a name or a size is outside what a flattened devicetree may have",
            P::Property(_) => "the property has another type than its readers expect",
            P::NoChosen => "the resource manager's overlay adds to /chosen and fails without it",
            P::FirstChildCells { .. } => {
                "the resource manager reads depth 2 with the cells of the root's first child"
            }
            P::HypervisorNode => "the resource manager makes /hypervisor itself",
            P::MemoryNodeName(_) => {
                "the resource manager writes /memory itself and refuses every other memory node"
            }
            P::NoVmConfig | P::NoVcpus => "the resource manager would make no vCPU",
            P::TwoVmConfigs => "the resource manager takes what comes last of each",
            P::NoImageName | P::ImageNameLength(_) => "the resource manager names the VM by it",
            P::NoBaseAddress | P::BaseAddressDiffers { .. } => {
                "the resource manager maps main memory at base-address, whatever the driver was told"
            }
            P::BaseAddressPage(_) => "memory is mapped by the page",
            P::BaseAddressRounded(_) => {
                "the resource manager rounds it up in silence, and the guest sees its memory elsewhere"
            }
            P::BaseAddressTaken(_) => "the space up to there belongs to devices",
            P::BaseAddressLimit(_) => "a guest has 36 bits of address",
            P::NoScheduling => "without proxy the hypervisor must know a physical CPU for each vCPU",
            P::AffinityMapLength { .. } => "the map gives each vCPU its physical CPU",
            P::NoCpus => "the first CPU without a status, or one with \"okay\", is what boots",
            P::EnableMethod(_) => "the resource manager wants psci or qcom,gunyah-hvc",
            P::CpuStatus(_) => "the resource manager knows okay, disabled and fail",
            P::IdleStates(_) => "the hypervisor's power management wants all CPUs to take part",
            P::CpuNumber { .. } => "vCPU n has MPIDR n, so the guest cannot start this CPU",
            P::NoPsci => "the guest's PSCI calls return -1: no power-off, no second CPU",
            P::NoGic => "neither interrupts/config nor the root's interrupt-parent leads to one",
            P::GicUnusable { .. } => "the virtual interrupt controller is a GICv3 with three cells",
            P::GicPhandle => "the resource manager wants a path and warns",
            P::GicPath(_) => "the path is looked up as it stands",
            P::NoLabel(_) | P::DuplicateLabel { .. } => {
                "the driver finds doorbells and memory by label, and takes any in silence"
            }
            P::NoPeer(_) => "the resource manager must know who is at the other end",
            P::ShmMemory { .. } => "the resource manager reads label and base in a child named memory",
            P::DuplicatePhandle { .. } => "readers differ in which node they take",
            P::Depth(_) => "the resource manager's parser has 16 levels and dies at the next",
            P::PathLength(_) => "the resource manager's parser holds 255 bytes",
            P::CpuCount { .. } => {
                "a vCPU that the devicetree lacks makes the host kernel oops at the VM's end"
            }
            P::SchedulingDiffers { .. } => {
                "a proxy VM never runs without vCPU threads, and they are useless for any other"
            }
            P::NoShm(_) => "without it the resource manager places the region where it likes",
            P::ShmBase { .. } => "the resource manager maps the region at the vdevice's base",
            P::NoDoorbell(_) => "the driver accepts an unknown label, and no interrupt ever comes",
            P::DoorbellInterrupt { .. } => "the guest's driver waits for the serial port's interrupt",
            P::ConsoleDiffers { .. } => "the guest would talk to a device that is not there",
            P::StrayInitrd | P::InitrdDiffers => "the kernel would unpack what lies there",
            P::DeviceInMemory { .. } => "accesses would reach memory instead of the device",
            P::MemoryReplaced => "main memory is what the config says, and the resource manager rewrites it",
            P::SymbolsDropped => "their names cannot be written, and nothing reads them here",
        }
    }

    /// What to do.
    pub fn cure(&self) -> &'static str {
        use DtbProblem as P;
        match self {
            P::Unreadable(_) => "compile the source again with dtc -O dtb",
            P::Unwritable(_) => "keep node and property names within 31 characters of the specification",
            P::Property(_) => "correct the property",
            P::NoChosen => "add /chosen as the root's first child",
            P::FirstChildCells { .. } => "put /chosen, without cell properties, first",
            P::HypervisorNode => "remove it",
            P::MemoryNodeName(_) => "remove the node, or name it /memory",
            P::NoVmConfig | P::NoVcpus | P::NoImageName | P::NoBaseAddress => {
                "remove the vm-config, so that it is generated, or add what is missing"
            }
            P::TwoVmConfigs => "keep /gunyah-vm-config",
            P::ImageNameLength(_) => "shorten it",
            P::BaseAddressPage(_) | P::BaseAddressRounded(_) => {
                "use a multiple of 2 MiB, 0x80000000 is a good one"
            }
            P::BaseAddressTaken(_) | P::BaseAddressLimit(_) => "move main memory, 0x80000000 is a good base",
            P::NoScheduling => "add affinity = \"proxy\", or an affinity-map with one CPU for each vCPU",
            P::AffinityMapLength { .. } => "give one physical CPU for each vCPU",
            P::NoCpus => "add cpu nodes with device_type = \"cpu\"",
            P::EnableMethod(_) => "add enable-method = \"psci\"",
            P::CpuStatus(_) => "use okay or disabled, or remove it",
            P::IdleStates(_) => "add cpu-idle-states (it may be empty) to every CPU",
            P::CpuNumber { .. } => "number the CPUs from 0 in their order",
            P::NoPsci => "add psci { compatible = \"arm,psci-1.0\"; method = \"hvc\"; }",
            P::NoGic | P::GicPhandle | P::GicPath(_) => {
                "set interrupts/config of the vm-config to the GIC's path, such as \"/interrupt-controller@3fff0000\""
            }
            P::GicUnusable { .. } => {
                "use compatible \"arm,gic-v3\", interrupt-controller, #interrupt-cells 3, one redistributor region and a phandle"
            }
            P::NoLabel(_) => "give it a label of its own",
            P::DuplicateLabel { .. } => "give one of them another label",
            P::NoPeer(_) => "add peer-default",
            P::ShmMemory { .. } => "give it one child named memory with label and a page-aligned base",
            P::DuplicatePhandle { .. } => "let dtc number them",
            P::Depth(_) | P::PathLength(_) => "flatten the tree",
            P::BaseAddressDiffers { .. }
            | P::CpuCount { .. }
            | P::SchedulingDiffers { .. }
            | P::ShmBase { .. }
            | P::DoorbellInterrupt { .. }
            | P::ConsoleDiffers { .. } => "make devicetree and config agree",
            P::NoShm(_) => "add a vdevice with vdevice-type \"shm\" to the vm-config's vdevices",
            P::NoDoorbell(_) => "add a doorbell vdevice with this label, or change console.label",
            P::StrayInitrd => "add initrd to the config, or remove linux,initrd-start and -end",
            P::InitrdDiffers => "remove linux,initrd-start and -end, so that they are filled in",
            P::DeviceInMemory { .. } => "move the device or the memory",
            P::MemoryReplaced => "remove the reg of /memory, or make it the config's",
            P::SymbolsDropped => "compile without -@",
        }
    }

    /// The problem as the error of a launch.
    pub fn to_launch_error(&self) -> LaunchError {
        LaunchError::new(Step::Dtb, self.what())
            .cause(self.cause())
            .cure(self.cure())
    }
}

impl fmt::Display for DtbProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}; {}; cure: {}",
            self.what(),
            self.cause(),
            self.cure()
        )?;
        match self.errno() {
            // Debug prints the name, which is what people search for.
            Some(errno) => write!(f, " (START would answer {errno:?})"),
            None => Ok(()),
        }
    }
}
