// SPDX-License-Identifier: Apache-2.0
//! One VM as the driver keeps it.

use std::collections::BTreeMap;

use gunyah::uapi::{DtbConfig, FwConfig};

use crate::caller::Caller;
use crate::vm::{Exit, VmId};

use super::functions::{Ioeventfd, Irqfd};
use super::memory::Region;

/// Where a VM's life is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Created; may be configured.
    Configuring,
    /// START is under way.
    Starting,
    /// The resource manager dropped a message: START never comes back.
    Hung,
    /// Runs.
    Running,
    /// START failed; nothing brings it back.
    Failed,
    /// It failed when the resource manager had everything already; vCPUs are told of a crash.
    FailedLate,
    /// The guest ended.
    Exited(Exit),
}

impl State {
    /// The word in lists and records.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Configuring => "configuring",
            State::Starting => "starting",
            State::Hung => "hung",
            State::Running => "running",
            State::Failed | State::FailedLate => "failed",
            State::Exited(_) => "exited",
        }
    }
}

/// A VM.
#[derive(Debug)]
pub struct Vm {
    /// Its number.
    pub id: VmId,
    /// Who created it; only this process may give it memory.
    pub creator: Caller,
    /// Where its life is.
    pub state: State,
    /// In the order of the calls.
    pub regions: Vec<Region>,
    /// SET_DTB_CONFIG's; zeros until then, as in the driver.
    pub dtb: DtbConfig,
    /// SET_FW_CONFIG's.
    pub firmware: Option<FwConfig>,
    /// The legacy driver's image.
    pub firmware_name: Option<[u8; 16]>,
    /// vCPU functions: id -> whether the devicetree has it, known from START on.
    pub vcpus: BTreeMap<u32, bool>,
    /// By label.
    pub irqfds: BTreeMap<u32, Irqfd>,
    /// In the order of the calls.
    pub ioeventfds: Vec<Ioeventfd>,
    /// reg -> value.
    pub boot_context: BTreeMap<u32, u64>,
    /// Where the guest begins: address in its creator, guest address. Known from START on.
    pub entry: Option<(u64, u64)>,
    /// Bytes that are pinned where the dialect pins later: the devicetree's, and the guest's faults.
    pub pinned_later: u64,
    /// The guest has touched its first page.
    pub touched: bool,
    /// CPUs of the devicetree; 0 until START has read it.
    pub cpus: u32,
    /// The guest runs only inside VCPU_RUN.
    pub proxy: bool,
    /// Open VM and vCPU files; at 0 the VM is torn down.
    pub open_files: u32,
    /// Its last close has come.
    pub closing: bool,
}

impl Vm {
    /// A new one, with its VM file open.
    pub fn new(id: VmId, creator: Caller) -> Self {
        Self {
            id,
            creator,
            state: State::Configuring,
            regions: Vec::new(),
            dtb: DtbConfig::default(),
            firmware: None,
            firmware_name: None,
            vcpus: BTreeMap::new(),
            irqfds: BTreeMap::new(),
            ioeventfds: Vec::new(),
            boot_context: BTreeMap::new(),
            entry: None,
            pinned_later: 0,
            touched: false,
            cpus: 0,
            proxy: false,
            open_files: 1,
            closing: false,
        }
    }

    /// A vCPU was run that the devicetree does not have: the host's kernel oopses at the VM's end.
    pub fn oopses(&self) -> bool {
        !matches!(
            self.state,
            State::Configuring | State::Failed | State::FailedLate
        ) && self.vcpus.values().any(|present| !present)
    }

    /// Bytes charged to its creator.
    pub fn charged(&self) -> u64 {
        let at_ioctl: u64 = self.regions.iter().map(Region::charged).sum();
        at_ioctl.saturating_add(self.pinned_later)
    }
}
