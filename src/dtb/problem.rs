// SPDX-License-Identifier: Apache-2.0
//! What can be wrong with a guest's devicetree, each with its cause, its cure and what the resource
//! manager would answer. The words are in `told`.

use std::fmt;

use nix::errno::Errno;

use crate::config::Scheduling;
use crate::error::{LaunchError, Step};

use super::read::ParseError;
use super::value::PropertyError;
use super::write::WriteError;

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
        /// `interrupts/config` names it, not only the root's `interrupt-parent`.
        named: bool,
        /// Why not.
        why: &'static str,
    },
    /// The interrupt controller has no room for every CPU's redistributor.
    GicRedistributors {
        /// The node.
        path: String,
        /// Bytes that it has.
        size: u64,
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
    /// A node of `/reserved-memory` that no region backs.
    ReservedMemory {
        /// The node.
        path: String,
        /// What is wrong.
        why: &'static str,
    },
    /// A memory reservation that ends beyond 64 bits.
    ReservationRange {
        /// Its first byte.
        base: u64,
        /// Its bytes.
        size: u64,
    },
    /// Two memory reservations that overlap.
    ReservationsOverlap {
        /// The lower one's first byte and bytes.
        low: (u64, u64),
        /// The other one's.
        high: (u64, u64),
    },
    /// A memory reservation over what the plan puts there.
    ReservationTaken {
        /// Its first byte and bytes.
        reserved: (u64, u64),
        /// What is put there.
        what: &'static str,
        /// First byte of that and the one after its last.
        range: (u64, u64),
    },
    /// Tree and config name different physical CPUs.
    AffinityDiffers {
        /// The tree's map.
        tree: Vec<u32>,
        /// The config's.
        config: Vec<u32>,
    },
    /// `sched-priority` is not below the owner's.
    SchedPriority,
    /// `sched-timeslice` is missing, or outside the hypervisor's limits.
    SchedTimeslice(Option<u32>),
    /// Two doorbells with the same interrupt.
    DuplicateInterrupt {
        /// The second one.
        path: String,
        /// SPI number.
        spi: u32,
    },
    /// A node whose name another child of its parent has.
    DuplicateNode(String),
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
    PathLength {
        /// The node.
        path: String,
        /// Bytes that it may have.
        max: usize,
    },
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
    /// The root's cells cannot describe main memory.
    MemoryCells {
        /// `#address-cells` of the root.
        address: usize,
        /// `#size-cells` of the root.
        size: usize,
    },
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

impl DtbProblem {
    /// Whether the launch can go on nevertheless.
    pub fn is_warning(&self) -> bool {
        matches!(
            self,
            DtbProblem::NoPsci
                | DtbProblem::GicPhandle
                | DtbProblem::CpuNumber { .. }
                | DtbProblem::NoLabel(_)
                | DtbProblem::MemoryReplaced
                | DtbProblem::SymbolsDropped
        )
    }

    /// Whether it keeps the tree from being written.
    pub(super) fn is_unwritable(&self) -> bool {
        matches!(
            self,
            DtbProblem::Unwritable(_)
                | DtbProblem::ReservationRange { .. }
                | DtbProblem::ReservationsOverlap { .. }
        )
    }

    /// Its short name, as in `docs/devicetree.md`.
    pub fn rule(&self) -> &'static str {
        self.told().rule
    }

    /// What is wrong, with its values.
    pub fn what(&self) -> String {
        self.told().what
    }

    /// Why that is bad.
    pub fn cause(&self) -> &'static str {
        self.told().cause
    }

    /// What to do.
    pub fn cure(&self) -> &'static str {
        self.told().cure
    }

    /// What the driver's START would answer, where it has been seen or read.
    pub fn errno(&self) -> Option<Errno> {
        self.told().errno
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
            P::AffinityMapLength { .. } | P::AffinityDiffers { .. } => "vcpus.affinity",
            P::NoShm(_) | P::ShmBase { .. } => "regions",
            P::NoDoorbell(_) => "console.label",
            P::DoorbellInterrupt { .. } => "console.interrupt",
            P::ConsoleDiffers { .. } => "console",
            P::StrayInitrd | P::InitrdDiffers => "initrd",
            _ => "dtb.path",
        }
    }

    /// The problem as the error of a launch. Its errno stays out: nothing has been asked yet.
    pub fn to_launch_error(&self) -> LaunchError {
        let told = self.told();
        LaunchError::new(Step::Dtb, told.what)
            .cause(told.cause)
            .cure(told.cure)
    }
}

impl fmt::Display for DtbProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = self.told();
        write!(f, "{}; {}; cure: {}", told.what, told.cause, told.cure)?;
        match told.errno {
            // Debug prints the name, which is what people search for.
            Some(errno) => write!(f, " (START would answer {errno:?})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_reads_as_one_sentence_with_its_cure() {
        let problem = DtbProblem::CpuCount { tree: 1, config: 2 };
        assert_eq!(
            problem.to_string(),
            "the devicetree has 1 CPUs, vcpus.count is 2; a vCPU that the devicetree lacks answers \
             ENODEV to VCPU_RUN and makes the host kernel oops at the end; cure: make devicetree \
             and config agree"
        );
        assert_eq!(problem.key(), "vcpus.count");
        let problem = DtbProblem::NoChosen;
        assert!(problem.to_string().ends_with("(START would answer ENODEV)"));
        assert_eq!(problem.to_launch_error().step, Step::Dtb);
    }
}
