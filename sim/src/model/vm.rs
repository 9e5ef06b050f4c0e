// SPDX-License-Identifier: Apache-2.0
//! One VM as the driver keeps it.

use std::collections::{BTreeMap, BTreeSet};

use gunyah::uapi::{GuestRange, BOOT_CONTEXT_PC, MEM_ALLOW_EXEC};

use crate::caller::{Caller, Piece};
use crate::vm::{Access, Exit, StartVm, VmId};

use super::functions::{Ioeventfd, Irqfd};
use super::memory::Region;
use super::rm::Given;

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
    /// It failed when the resource manager had everything already; VCPU_RUN reports a crash.
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
    pub dtb: GuestRange,
    /// SET_FW_CONFIG's.
    pub firmware: Option<GuestRange>,
    /// The legacy driver's image.
    pub firmware_name: Option<[u8; 16]>,
    /// vCPU functions: id -> whether the devicetree has it, known from START on.
    pub vcpus: BTreeMap<u32, bool>,
    /// By label.
    pub irqfds: BTreeMap<u32, Irqfd>,
    /// Labels of doorbells that interrupt lines find, from START on.
    pub doorbells: BTreeSet<u32>,
    /// In the order of the calls.
    pub ioeventfds: Vec<Ioeventfd>,
    /// reg -> value.
    pub boot_context: BTreeMap<u32, u64>,
    /// Guest address of the first instruction, from START on.
    pub entry: u64,
    /// Since 6.6: ranges, by address and bytes, that the devicetree has for shared memory, from START on.
    pub reserved: Vec<(u64, u64)>,
    /// Since 6.6: what the guest has of its memory, by guest address: whole folios and their bytes.
    pub provided: BTreeMap<u64, u64>,
    /// Since 6.6: what is behind the devicetree's parcel.
    pub handed: Vec<Piece>,
    /// Since 6.6: bytes that are charged for the devicetree's parcel and for faults.
    pub pinned_later: u64,
    /// The faults that the engine does not report have been served.
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
            dtb: GuestRange::default(),
            firmware: None,
            firmware_name: None,
            vcpus: BTreeMap::new(),
            irqfds: BTreeMap::new(),
            doorbells: BTreeSet::new(),
            ioeventfds: Vec::new(),
            boot_context: BTreeMap::new(),
            entry: 0,
            reserved: Vec::new(),
            provided: BTreeMap::new(),
            handed: Vec::new(),
            pinned_later: 0,
            touched: false,
            cpus: 0,
            proxy: false,
            open_files: 1,
            closing: false,
        }
    }

    /// The resource manager has nothing against a START.
    pub fn accepted(&mut self, start: &StartVm, given: Given) {
        self.state = State::Starting;
        self.proxy = start.guest.proxy;
        self.cpus = start.guest.cpus;
        // A VM with firmware begins in it, whatever was set.
        let set = self.boot_context.get(&(BOOT_CONTEXT_PC << 8)).copied();
        self.entry = set.filter(|_| self.firmware.is_none()).unwrap_or(start.entry.pc);
        self.reserved.clone_from(&start.guest.reserved);
        self.provided = given.folios.into_iter().collect();
        self.handed = given.pieces;
        self.pinned_later = given.bytes;
        self.doorbells = if start.guest.was_read {
            start.guest.doorbells.iter().map(|bell| bell.label).collect()
        } else {
            self.irqfds.keys().copied().collect()
        };
        for (vcpu, present) in &mut self.vcpus {
            *present = start.guest.has_vcpu(*vcpu);
        }
    }

    /// It has a number at the resource manager.
    pub fn has_vmid(&self) -> bool {
        self.state != State::Configuring
    }

    /// The region at a guest address.
    pub fn region_at(&self, address: u64) -> Option<&Region> {
        self.regions.iter().find(|region| region.contains(address, 1))
    }

    /// The guest may execute there: shared memory is mapped without.
    pub fn executes_at(&self, address: u64) -> bool {
        self.region_at(address).is_some_and(|region| {
            region.access == Access::Lend && region.given.flags & MEM_ALLOW_EXEC != 0
        })
    }

    /// Whether the guest has the page at this address.
    pub fn provided_at(&self, address: u64) -> bool {
        self.provided
            .range(..=address)
            .next_back()
            .is_some_and(|(&start, &size)| address - start < size)
    }

    /// A vCPU was run that the devicetree does not have: the host's kernel oopses at the VM's end.
    pub fn oopses(&self) -> bool {
        !matches!(self.state, State::Configuring | State::Failed | State::FailedLate)
            && self.vcpus.values().any(|present| !present)
    }

    /// Bytes charged to its creator.
    pub fn charged(&self) -> u64 {
        let at_ioctl: u64 = self.regions.iter().map(Region::charged).sum();
        at_ioctl.saturating_add(self.pinned_later)
    }
}
