// SPDX-License-Identifier: Apache-2.0
//! The driver and the resource manager, as facts of real ones have it, call by call.
//!
//! Every method is one ioctl: it checks in the driver's order and changes the books. Who waits for
//! what, and what an engine does, is the session's business.

pub mod dialect;
pub mod functions;
pub mod legacy;
pub mod memory;
mod newer;
mod paging;
pub mod rm;
mod vm;

use std::collections::BTreeMap;

use gunyah::uapi::{self, BootContext, FunctionDesc, GuestRange, UserMemoryRegion};
use nix::errno::Errno;
use serde_json::{json, Value};

use crate::caller::{Caller, Piece};
use crate::vm::{Access, Exit, StartVm, VmId};

pub use dialect::Dialect;
use functions::FunctionArgument;
pub use paging::Paged;
pub use vm::{State, Vm};

/// What START leads to.
#[derive(Debug)]
pub enum StartStep {
    /// It answers at once.
    Answer(Result<i64, Errno>),
    /// Another thread's START is under way: wait for its end.
    Wait,
    /// It never answers.
    Hang,
    /// The host's kernel panics, and why.
    Panic(String),
    /// The model has nothing against it: the engine's turn.
    Go(Box<StartVm>),
}

/// What VCPU_RUN leads to.
#[derive(Debug)]
pub enum RunStep {
    /// It answers at once with an errno.
    Errno(Errno),
    /// It answers 0 with the VM's end in the page.
    Ended(Exit),
    /// The VM is not started yet: the driver starts it first.
    StartFirst,
    /// The guest runs.
    Run,
}

/// What ADD_FUNCTION made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// A vCPU, which needs a file of its own.
    Vcpu(u32),
    /// Something without a file: answer 0.
    Plain,
}

/// How the model is set up.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Flavour of the API.
    pub dialect: Dialect,
    /// The resource manager behind it.
    pub rm: rm::Kind,
    /// Memory entries that the resource manager survives.
    pub rm_entries: u64,
    /// The firmware for protected VMs that the boot loader gave the resource manager.
    pub firmware: Option<&'static [u8]>,
    /// CHECK_EXTENSION exists (on 6.12), and what it answers for timer wake-ups.
    pub timer_wakeups: Option<u32>,
}

/// As many as phones have.
const CORES: u32 = 8;
/// Numbers that the resource manager has for VMs.
const VMIDS: usize = 63;

impl Default for Settings {
    fn default() -> Self {
        Self {
            dialect: Dialect::Ack61,
            rm: rm::Kind::Debug,
            rm_entries: rm::ENTRIES_SURVIVED,
            firmware: None,
            timer_wakeups: None,
        }
    }
}

/// The books of all VMs.
#[derive(Debug)]
pub struct Model {
    settings: Settings,
    vms: BTreeMap<VmId, Vm>,
    next: VmId,
    notes: Vec<(VmId, Value)>,
    /// Messages of STARTs that the resource manager will refuse.
    refusals: BTreeMap<VmId, (rm::Stage, Errno)>,
    /// VMs' numbers that failed STARTs lost.
    lost_vmids: usize,
    /// Bytes that failed STARTs left pinned, by process.
    lost_bytes: BTreeMap<i32, u64>,
    /// The host's cores.
    cores: u32,
    /// A failed START took the resource manager along.
    manager_lost: bool,
}

impl Model {
    /// No VMs yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            vms: BTreeMap::new(),
            next: 1,
            notes: Vec::new(),
            refusals: BTreeMap::new(),
            lost_vmids: 0,
            lost_bytes: BTreeMap::new(),
            cores: CORES,
            manager_lost: false,
        }
    }

    /// Another number of cores than a phone has.
    pub fn set_cores(&mut self, cores: u32) {
        self.cores = cores;
    }

    /// How it is set up.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// All VMs that are not torn down.
    pub fn vms(&self) -> impl Iterator<Item = &Vm> {
        self.vms.values()
    }

    /// A VM.
    pub fn vm(&self, id: VmId) -> Option<&Vm> {
        self.vms.get(&id)
    }

    fn get(&mut self, id: VmId) -> Result<&mut Vm, Errno> {
        self.vms.get_mut(&id).ok_or(Errno::EBADF)
    }

    /// What was worth a line in the record since the last time.
    pub fn take_notes(&mut self) -> Vec<(VmId, Value)> {
        std::mem::take(&mut self.notes)
    }

    fn note(&mut self, vm: VmId, note: Value) {
        self.notes.push((vm, note));
    }

    /// CREATE_VM.
    pub fn create_vm(&mut self, caller: Caller, argument: u64) -> Result<VmId, Errno> {
        if argument != 0 {
            return Err(Errno::EINVAL);
        }
        let id = self.next;
        self.next += 1;
        self.vms.insert(id, Vm::new(id, caller));
        Ok(id)
    }

    /// SET_USER_MEM_REGION and LEND_USER_MEM.
    pub fn memory(
        &mut self,
        id: VmId,
        caller: Caller,
        argument: u64,
        access: Access,
    ) -> Result<i64, Errno> {
        let dialect = self.settings.dialect;
        if access == Access::Lend && !dialect.android() {
            return Err(Errno::ENOTTY);
        }
        let charged = self.charged(caller.pid);
        let vm = self.get(id)?;
        if vm.creator.pid != caller.pid {
            return Err(Errno::EPERM);
        }
        let given: UserMemoryRegion = caller.read(argument)?;
        memory::check_argument(&given)?;
        memory::check_against(dialect, &vm.regions, &given)?;
        let region = memory::take(dialect, &caller, given, access, charged)?;
        if let Some(pinned) = region.pinned {
            let note = json!({
                "event": "pinned", "label": given.label, "pages": pinned.pages,
                "faulted": pinned.faulted, "entries": pinned.runs,
            });
            vm.regions.push(region);
            self.note(id, note);
        } else {
            vm.regions.push(region);
        }
        Ok(0)
    }

    /// Bytes that a process's VMs have pinned and not given back.
    pub fn charged(&self, pid: i32) -> u64 {
        let held: u64 = self.vms.values().filter(|vm| vm.creator.pid == pid).map(Vm::charged).sum();
        held.saturating_add(self.lost_bytes.get(&pid).copied().unwrap_or(0))
    }

    /// SET_DTB_CONFIG: everything is checked at START.
    pub fn set_dtb_config(
        &mut self,
        id: VmId,
        caller: Caller,
        argument: u64,
    ) -> Result<i64, Errno> {
        let vm = self.get(id)?;
        let given: GuestRange = caller.read(argument)?;
        vm.dtb = given;
        Ok(0)
    }

    /// SET_FW_CONFIG, Android only.
    pub fn set_fw_config(&mut self, id: VmId, caller: Caller, argument: u64) -> Result<i64, Errno> {
        if !self.settings.dialect.android() {
            return Err(Errno::ENOTTY);
        }
        let vm = self.get(id)?;
        let given: GuestRange = caller.read(argument)?;
        vm.firmware = Some(given);
        Ok(0)
    }

    /// SET_BOOT_CONTEXT, 6.6 and later.
    pub fn set_boot_context(
        &mut self,
        id: VmId,
        caller: Caller,
        argument: u64,
    ) -> Result<i64, Errno> {
        if !self.settings.dialect.since_66() {
            return Err(Errno::ENOTTY);
        }
        let vm = self.get(id)?;
        let given: BootContext = caller.read(argument)?;
        // The highest index of each register set: X, PC, SP.
        let highest = match given.reg >> 8 {
            0 => 31,
            1 => 0,
            2 => 2,
            _ => return Err(Errno::EINVAL),
        };
        if given.reg & 0xff > highest || vm.state != State::Configuring {
            return Err(Errno::EINVAL);
        }
        vm.boot_context.insert(given.reg, given.value);
        Ok(0)
    }

    /// ADD_FUNCTION.
    pub fn add_function(
        &mut self,
        id: VmId,
        caller: Caller,
        argument: u64,
    ) -> Result<Added, Errno> {
        if !self.settings.dialect.has_functions() {
            return Err(Errno::ENOTTY);
        }
        let vm = self.get(id)?;
        let desc: FunctionDesc = caller.read(argument)?;
        match functions::read_argument(&caller, &desc)? {
            FunctionArgument::Vcpu(given) => {
                if vm.vcpus.contains_key(&given.id) {
                    return Err(Errno::EEXIST);
                }
                // One that comes after START finds its resource waiting; before, no id is below 0.
                vm.vcpus.insert(given.id, given.id < vm.cpus);
                vm.open_files += 1;
                Ok(Added::Vcpu(given.id))
            }
            FunctionArgument::Irqfd(given) => {
                let made = functions::irqfd(&caller, &given)?;
                if vm.irqfds.contains_key(&given.label) {
                    return Err(Errno::EEXIST);
                }
                vm.irqfds.insert(given.label, made);
                Ok(Added::Plain)
            }
            FunctionArgument::Ioeventfd(given) => {
                let made = functions::ioeventfd(&caller, &given)?;
                if vm.ioeventfds.iter().any(|other| other.clashes(&given)) {
                    return Err(Errno::EEXIST);
                }
                vm.ioeventfds.push(made);
                Ok(Added::Plain)
            }
        }
    }

    /// REMOVE_FUNCTION.
    pub fn remove_function(
        &mut self,
        id: VmId,
        caller: Caller,
        argument: u64,
    ) -> Result<i64, Errno> {
        if !self.settings.dialect.has_functions() {
            return Err(Errno::ENOTTY);
        }
        let unmended = self.settings.dialect.pins_at_ioctl();
        let vm = self.get(id)?;
        let desc: FunctionDesc = caller.read(argument)?;
        // What has another size than its type's, or no type, is compared with none.
        let argument = functions::read_argument(&caller, &desc).map_err(|errno| match errno {
            Errno::EINVAL => Errno::ENOENT,
            other => other,
        })?;
        let removed = match argument {
            // The file stays open, but there is no vCPU behind it any more.
            FunctionArgument::Vcpu(given) => vm.vcpus.remove(&given.id).is_some(),
            FunctionArgument::Irqfd(given) => match vm.irqfds.remove(&given.label) {
                Some(line) => {
                    if unmended && !vm.doorbells.contains(&line.label) {
                        self.note(id, functions::dangling(&line));
                    }
                    true
                }
                None => false,
            },
            FunctionArgument::Ioeventfd(given) => {
                let before = vm.ioeventfds.len();
                vm.ioeventfds.retain(|other| !other.is(&given));
                vm.ioeventfds.len() != before
            }
        };
        if removed {
            Ok(0)
        } else {
            Err(Errno::ENOENT)
        }
    }

    /// START by the VM's maker.
    pub fn start(&mut self, id: VmId) -> StartStep {
        match self.vm(id).map(|vm| vm.creator) {
            Some(maker) => self.start_by(id, maker),
            None => StartStep::Answer(Err(Errno::EBADF)),
        }
    }

    /// START by any process.
    pub fn start_by(&mut self, id: VmId, caller: Caller) -> StartStep {
        let settings = self.settings;
        let cores = self.cores;
        let taken = self.taken(id);
        let charged = self.charged(caller.pid);
        let refusal = self.refusals.remove(&id);
        let vmids = self.vms().filter(|vm| vm.has_vmid()).count() + self.lost_vmids;
        let vm = match self.get(id) {
            Ok(vm) => vm,
            Err(errno) => return StartStep::Answer(Err(errno)),
        };
        match vm.state {
            State::Configuring => {}
            State::Running => return StartStep::Answer(Ok(0)),
            State::Starting => return StartStep::Wait,
            State::Hung => return StartStep::Hang,
            State::Failed | State::FailedLate | State::Exited(_) => {
                return StartStep::Answer(Err(Errno::ENODEV))
            }
        }
        if vmids >= VMIDS && settings.rm != rm::Kind::Off {
            // Nothing has begun: this one may be tried again.
            self.note(
                id,
                json!({"event": "rm-refused", "errno": "ENODEV", "why": "no VM number is left"}),
            );
            return StartStep::Answer(Err(Errno::ENODEV));
        }
        let refusal = refusal.filter(|_| settings.rm != rm::Kind::Off);
        let host = rm::Host { settings: &settings, cores, caller, taken: &taken, charged, refusal };
        let (verdict, mut notes) = rm::start(&host, vm);
        let mut lost = rm::Lost::default();
        let step = match verdict {
            rm::Verdict::Refused(refused) => {
                vm.state = match refused.late {
                    // 6.12 has a number for it by then, and leaves its state as it was.
                    _ if refused.again => State::Configuring,
                    true => State::FailedLate,
                    false => State::Failed,
                };
                lost = refused.lost;
                notes.push(json!({
                    "event": "rm-refused", "errno": errno_name(refused.errno), "why": refused.why,
                }));
                StartStep::Answer(Err(refused.errno))
            }
            rm::Verdict::Hangs { why } => {
                vm.state = State::Hung;
                notes.push(json!({"event": "rm-hung", "why": why}));
                StartStep::Hang
            }
            rm::Verdict::Panics { why } => {
                vm.state = State::Hung;
                StartStep::Panic(why)
            }
            rm::Verdict::Accepted(start, given) => {
                vm.accepted(&start, given);
                StartStep::Go(start)
            }
        };
        if lost != rm::Lost::default() {
            notes.push(json!({"event": "lost", "vmid": lost.vmid, "bytes": lost.bytes}));
        }
        self.lost_vmids += usize::from(lost.vmid);
        self.manager_lost |= lost.manager;
        *self.lost_bytes.entry(caller.pid).or_default() += lost.bytes;
        if settings.dialect.since_612() {
            // Reported as soon as the VM has its number, before anything can go wrong.
            let create = json!({"event": "uevent", "EVENT": "create", "vm_id": id});
            self.note(id, create);
        }
        for note in notes {
            self.note(id, note);
        }
        step
    }

    /// The resource manager refuses a message of this VM's START.
    pub fn refuse_at(&mut self, id: VmId, stage: rm::Stage, errno: Errno) {
        self.refusals.insert(id, (stage, errno));
    }

    /// Whether a failed START has killed the resource manager.
    pub fn manager_lost(&self) -> bool {
        self.manager_lost
    }

    /// What belongs to other VMs, as far as it was handed over at their START.
    fn taken(&self, id: VmId) -> Vec<Piece> {
        let since_66 = self.settings.dialect.since_66();
        self.vms
            .values()
            .filter(|vm| vm.id != id && vm.state != State::Configuring)
            .flat_map(|vm| {
                let regions = vm.regions.iter().filter(|_| !since_66);
                let whole = regions.flat_map(|region| &region.pieces);
                whole.chain(&vm.handed).cloned()
            })
            .collect()
    }

    /// The engine has it running.
    pub fn started(&mut self, id: VmId) {
        if let Ok(vm) = self.get(id) {
            if vm.state == State::Starting {
                vm.state = State::Running;
            }
        }
    }

    /// The engine refused it.
    pub fn refused(&mut self, id: VmId) {
        if let Ok(vm) = self.get(id) {
            vm.state = State::FailedLate;
        }
    }

    /// The guest ended. False: it was not running.
    pub fn exited(&mut self, id: VmId, exit: Exit) -> bool {
        match self.get(id) {
            Ok(vm) if vm.state == State::Running => {
                vm.state = State::Exited(exit);
                true
            }
            _ => false,
        }
    }

    /// VCPU_RUN, with what the caller's page says about immediate_exit.
    pub fn vcpu_run(
        &mut self,
        id: VmId,
        caller: Caller,
        vcpu: u32,
        immediate_exit: bool,
    ) -> RunStep {
        let dialect = self.settings.dialect;
        let vm = match self.get(id) {
            Ok(vm) => vm,
            Err(errno) => return RunStep::Errno(errno),
        };
        let Some(&present) = vm.vcpus.get(&vcpu) else {
            // Removed: its file is all that is left.
            return RunStep::Errno(Errno::ENODEV);
        };
        match vm.state {
            // The first versions of the series start the VM here; later there is no resource yet.
            State::Configuring | State::Starting | State::Hung if dialect == Dialect::Lkml => {
                return RunStep::StartFirst;
            }
            State::Configuring | State::Starting | State::Hung | State::Failed => {
                return RunStep::Errno(Errno::ENODEV)
            }
            State::Exited(exit) => return RunStep::Ended(exit),
            State::FailedLate => return RunStep::Ended(FAILED_LATE),
            State::Running => {}
        }
        // A vCPU that the devicetree lacks, or of a VM that the hypervisor schedules, got no resource.
        if !present {
            return RunStep::Errno(Errno::ENODEV);
        }
        if !vm.proxy {
            return RunStep::Errno(if dialect.since_66() { Errno::EBUSY } else { Errno::ENODEV });
        }
        // Newer drivers pin pages as the guest faults, so it must be the process that has them.
        if dialect.since_66() && vm.creator.pid != caller.pid {
            return RunStep::Errno(Errno::EPERM);
        }
        if immediate_exit {
            return RunStep::Errno(Errno::EINTR);
        }
        // What is shared is mapped without execution, the devicetree's parcel too: the guest's first
        // instruction there is the hypervisor's error.
        if dialect.since_66() && vm.provided_at(vm.entry) && !vm.executes_at(vm.entry) {
            return RunStep::Errno(Errno::EINVAL);
        }
        RunStep::Run
    }

    /// A VM or vCPU file saw its last close. True: it was the VM's last, teardown begins.
    pub fn file_closed(&mut self, id: VmId) -> bool {
        match self.get(id) {
            Ok(vm) => {
                vm.open_files = vm.open_files.saturating_sub(1);
                vm.open_files == 0 && !std::mem::replace(&mut vm.closing, true)
            }
            Err(_) => false,
        }
    }

    /// The last close of all its files is known to come. True: teardown begins.
    pub fn closed(&mut self, id: VmId) -> bool {
        self.get(id).is_ok_and(|vm| !std::mem::replace(&mut vm.closing, true))
    }

    /// What the driver reports to udev at the end of a VM's release, also of one that never started.
    pub fn farewell(&self, id: VmId) -> Option<Value> {
        let vm = self.vm(id)?;
        let exit_type = match vm.state {
            State::Exited(exit) => exit.exit_type,
            State::Running => uapi::EXIT_TYPE_FORCE_STOPPED,
            _ => 0,
        };
        let vm_id = if vm.has_vmid() { id } else { 0 };
        self.settings.dialect.since_612().then(
            || json!({"event": "uevent", "EVENT": "destroy", "vm_exit": exit_type, "vm_id": vm_id}),
        )
    }

    /// Interrupt lines that a VM's release leaves on the wait queue of an eventfd which somebody still
    /// has: up to 6.1 those that never got a doorbell.
    pub fn dangling_irqfds(&self, id: VmId) -> Vec<Value> {
        let Some(vm) = self.vm(id).filter(|_| self.settings.dialect.pins_at_ioctl()) else {
            return Vec::new();
        };
        vm.irqfds
            .values()
            .filter(|line| !vm.doorbells.contains(&line.label) && line.is_open_elsewhere())
            .map(functions::dangling)
            .collect()
    }

    /// Whether a START has to wait: the resource manager does one thing after the other.
    pub fn rm_is_busy(&self, id: VmId) -> bool {
        let known = |vm: &Vm| vm.closing && vm.state != State::Configuring;
        self.settings.rm != rm::Kind::Off
            && self.vm(id).is_some_and(|vm| vm.state == State::Configuring)
            && self.vms().any(known)
    }

    /// Whether a resource manager of this kind survives that the VM is stopped.
    pub fn stop_kills_rm(&self, id: VmId) -> bool {
        self.settings.rm.dies()
            && self.vm(id).is_some_and(|vm| vm.state == State::Running && !vm.proxy)
    }

    /// Teardown is done: everything is given back.
    pub fn remove(&mut self, id: VmId) {
        self.vms.remove(&id);
    }
}

/// What VCPU_RUN reports where START failed late.
const FAILED_LATE: Exit =
    Exit { status: uapi::STATUS_CRASHED, exit_type: uapi::EXIT_TYPE_VM_EXIT, reason: 0 };

/// The errno's name, such as `EINVAL`.
pub fn errno_name(errno: Errno) -> String {
    format!("{errno:?}")
}

#[cfg(test)]
mod tests;
