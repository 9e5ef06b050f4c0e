// SPDX-License-Identifier: Apache-2.0
//! VCPU_RUN: held, handed to an engine that runs vCPUs, and answered.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;

use gunyah::uapi;
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use serde_json::json;

use crate::engine::{Exit, Faults, MmioAccess, VcpuExit, VmId};
use crate::intercept::Notification;
use crate::model::{Paged, RunStep, State};
use crate::record::CallLine;

use super::{Held, Session, Waits};

/// vCPUs between an engine and their callers.
#[derive(Debug, Default)]
pub struct Vcpus {
    /// At the engine.
    running: BTreeSet<(VmId, u32)>,
    /// Exits that came when nobody waited: the next VCPU_RUN tells them.
    pending: BTreeMap<(VmId, u32), MmioAccess>,
    /// An MMIO exit is in the page: the next VCPU_RUN completes it.
    told: BTreeSet<(VmId, u32)>,
    /// At how many exits a signal is pending.
    pub(super) signals: BTreeMap<VmId, u64>,
    /// VMs whose next VCPU_RUN never comes back.
    pub(super) spins: BTreeSet<VmId>,
    /// VMs whose vCPUs are not woken for their end.
    pub(super) untold: BTreeSet<VmId>,
    /// How many VCPU_RUNs answer EBUSY.
    pub(super) busy: BTreeMap<VmId, u64>,
    /// The page fault that a VCPU_RUN comes back with: guest address and what became of it.
    pub(super) faults: BTreeMap<VmId, (u64, Errno)>,
}

impl Vcpus {
    /// A VM is gone.
    pub fn forget(&mut self, vm: VmId) {
        self.running.retain(|(of, _)| *of != vm);
        self.pending.retain(|(of, _), _| *of != vm);
        self.told.retain(|(of, _)| *of != vm);
        self.signals.remove(&vm);
        self.spins.remove(&vm);
        self.untold.remove(&vm);
        self.busy.remove(&vm);
        self.faults.remove(&vm);
    }
}

impl Session {
    /// VCPU_RUN came in.
    pub(super) fn run_vcpu(
        &mut self,
        notification: Notification,
        line: CallLine,
        vm: VmId,
        vcpu: u32,
    ) {
        let Some(page) = self.files.page(vm, vcpu) else {
            self.answer(&notification, &line, Err(Errno::ENODEV));
            return;
        };
        if let Some(left) = self.vcpus.busy.get_mut(&vm).filter(|left| **left > 0) {
            *left -= 1;
            self.answer(&notification, &line, Err(Errno::EBUSY));
            return;
        }
        let due = self.vcpus.faults.get(&vm).copied();
        if let Some((address, errno)) = due.filter(|_| self.model.settings().dialect.since_66()) {
            self.vcpus.faults.remove(&vm);
            page.set_page_fault(address, errno);
            self.answer(&notification, &line, Ok(0));
            return;
        }
        if self.vcpus.spins.remove(&vm) {
            self.spin(vm, vcpu, Held { notification, line, waits: Waits::Forever });
            return;
        }
        let mut step = self.model.vcpu_run(vm, line.caller, vcpu, page.immediate_exit());
        let goes_on = matches!(step, RunStep::Run | RunStep::Errno(Errno::EPERM | Errno::EINTR));
        if goes_on && self.vcpus.told.contains(&(vm, vcpu)) {
            // The resume action is checked before the caller and immediate_exit.
            let known = [uapi::RESUME_HANDLED, uapi::RESUME_FAULT];
            let since_66 = self.model.settings().dialect.since_66();
            if since_66 && !known.contains(&page.mmio_resume_action()) {
                step = RunStep::Errno(Errno::EINVAL);
            } else {
                self.vcpus.told.remove(&(vm, vcpu));
            }
        }
        match step {
            RunStep::Errno(errno) => {
                if errno == Errno::EINTR {
                    self.interrupt_vcpu(vm, vcpu);
                }
                self.answer(&notification, &line, Err(errno));
            }
            RunStep::Ended(exit) => {
                page.set_status(&exit);
                self.answer(&notification, &line, Ok(0));
            }
            RunStep::StartFirst => self.start(notification, line, vm),
            RunStep::Run => {
                if let Some(access) = self.vcpus.pending.remove(&(vm, vcpu)) {
                    page.set_mmio(&access);
                    self.vcpus.told.insert((vm, vcpu));
                    self.answer(&notification, &line, Ok(0));
                    return;
                }
                match self.untold_faults(vm) {
                    None => {}
                    Some((address, Paged::Failed(errno))) => {
                        page.set_page_fault(address, errno);
                        self.answer(&notification, &line, Ok(0));
                        return;
                    }
                    Some(_) => {
                        self.hold(notification, line, Waits::Run(vm, vcpu));
                        return;
                    }
                }
                // A call that was interrupted and comes again takes the place of the first.
                self.drop_interrupted();
                self.hold(notification, line, Waits::Run(vm, vcpu));
                self.hand_over(vm, vcpu);
            }
        }
    }

    /// The faults of a guest whose engine does not report them, served at its first VCPU_RUN.
    fn untold_faults(&mut self, vm: VmId) -> Option<(u64, Paged)> {
        if !self.model.settings().dialect.since_66() {
            return None;
        }
        match self.running.get(&vm)?.faults() {
            Faults::First => self.model.touch(vm, false),
            Faults::All => self.model.touch(vm, true),
            Faults::Told => None,
        }
    }

    /// Gives a vCPU to the engine, where the engine runs vCPUs and does not have it already.
    fn hand_over(&mut self, vm: VmId, vcpu: u32) {
        let Some(page) = self.files.page(vm, vcpu) else {
            return;
        };
        if let Some(engine_vm) = self.running.get_mut(&vm) {
            if engine_vm.runs_vcpus() && self.vcpus.running.insert((vm, vcpu)) {
                engine_vm.run_vcpu(vcpu, page);
            }
        }
    }

    /// The caller does not wait any more.
    pub(super) fn interrupt_vcpu(&mut self, vm: VmId, vcpu: u32) {
        if self.vcpus.running.contains(&(vm, vcpu)) {
            if let Some(engine_vm) = self.running.get_mut(&vm) {
                engine_vm.interrupt_vcpu(vcpu);
            }
        }
    }

    /// The engine reports a vCPU's exit.
    pub(super) fn vcpu_exited(&mut self, vm: VmId, vcpu: u32, exit: VcpuExit) {
        self.vcpus.running.remove(&(vm, vcpu));
        match exit {
            VcpuExit::Interrupted => {
                // A later caller still waits for it to run.
                let page = self.files.page(vm, vcpu);
                if self.somebody_runs(vm, vcpu) && !page.is_some_and(|page| page.immediate_exit()) {
                    self.hand_over(vm, vcpu);
                } else {
                    self.answer_run(vm, vcpu, Err(Errno::EINTR), None);
                }
            }
            VcpuExit::Spins => {
                let waits = Waits::Run(vm, vcpu);
                for held in self.take_held(|of| of == waits) {
                    self.spin(vm, vcpu, held);
                }
            }
            VcpuExit::Failed(errno) => self.answer_run(vm, vcpu, Err(errno), None),
            VcpuExit::Fault { address, write } => {
                let served = self.model.page_fault(vm, address, write);
                self.faulted(vm, vcpu, address, served);
            }
            VcpuExit::Mmio(access) => {
                if let Some(served) = self.model.shared_fault(vm, access.address) {
                    self.faulted(vm, vcpu, access.address, served);
                    return;
                }
                let taken = access.written.is_some_and(|value| {
                    self.fire_ioeventfd(vm, access.address, access.len, value)
                });
                if taken {
                    self.hand_over(vm, vcpu);
                } else {
                    self.tell_mmio(vm, vcpu, access);
                }
            }
        }
    }

    /// A VCPU_RUN never returns, and burns a CPU.
    fn spin(&mut self, vm: VmId, vcpu: u32, held: Held) {
        let what = "a vCPU spins in the kernel without an exit";
        self.record.event(Some(vm), json!({"event": "spin", "vcpu": vcpu, "what": what}));
        // Where the thread cannot be made to do so, it waits.
        match held.line.caller.spin() {
            Ok(()) => self.record.answered(&held.line, Err(Errno::EINTR), Some("spins")),
            Err(_) => self.hold(held.notification, held.line, Waits::Forever),
        }
    }

    /// A fault was served: the guest goes on, or its VCPU_RUN comes back with why it cannot.
    fn faulted(&mut self, vm: VmId, vcpu: u32, address: u64, served: Paged) {
        match served {
            Paged::Provided { address, size } => {
                if let Some(engine_vm) = self.running.get_mut(&vm) {
                    engine_vm.provide(address, size);
                }
                if self.somebody_runs(vm, vcpu) {
                    self.hand_over(vm, vcpu);
                }
            }
            Paged::Failed(errno) => {
                let page = self.files.page(vm, vcpu);
                if let Some(page) = page.filter(|_| self.somebody_runs(vm, vcpu)) {
                    page.set_page_fault(address, errno);
                    self.answer_run(vm, vcpu, Ok(0), None);
                }
            }
            Paged::Retries => {
                let what = "a folio overlaps another: the driver retries for ever";
                let address = format!("{address:#x}");
                self.record.event(
                    Some(vm),
                    json!({"event": "spin", "vcpu": vcpu, "address": address, "what": what}),
                );
            }
        }
    }

    /// An MMIO exit. The driver fills the page in also where a signal is pending: then VCPU_RUN is
    /// EINTR, and the next one completes the access all the same.
    fn tell_mmio(&mut self, vm: VmId, vcpu: u32, access: MmioAccess) {
        let Some(page) = self.files.page(vm, vcpu) else {
            return;
        };
        if !self.somebody_runs(vm, vcpu) {
            self.vcpus.pending.insert((vm, vcpu), access);
            return;
        }
        page.set_mmio(&access);
        self.vcpus.told.insert((vm, vcpu));
        match self.vcpus.signals.get_mut(&vm).filter(|left| **left > 0) {
            Some(left) => {
                *left -= 1;
                self.answer_run(vm, vcpu, Err(Errno::EINTR), Some("a signal was pending"));
            }
            None => self.answer_run(vm, vcpu, Ok(0), None),
        }
    }

    /// A caller of VCPU_RUN waits, and was not interrupted meanwhile.
    fn somebody_runs(&self, vm: VmId, vcpu: u32) -> bool {
        let waits = Waits::Run(vm, vcpu);
        let mut held = self.held.iter().filter(|held| held.waits == waits);
        held.any(|held| self.launched.listener.waits(held.notification.id))
    }

    fn answer_run(&mut self, vm: VmId, vcpu: u32, result: Result<i64, Errno>, note: Option<&str>) {
        let waits = Waits::Run(vm, vcpu);
        for held in self.take_held(|of| of == waits) {
            self.answer_with(&held.notification, &held.line, result, note);
        }
    }

    /// True: an ioeventfd took the write and the guest goes on.
    fn fire_ioeventfd(&self, vm: VmId, address: u64, len: u32, value: u64) -> bool {
        let Some(vm) = self.model.vm(vm) else {
            return false;
        };
        let Some(event) = vm.ioeventfds.iter().find(|event| event.matches(address, len, value))
        else {
            return false;
        };
        nix::unistd::write(&event.eventfd, &1u64.to_ne_bytes()).is_ok()
    }

    /// The eventfds behind the interrupt lines of VMs that run.
    pub(super) fn interrupt_fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.model
            .vms()
            .filter(|vm| vm.state == State::Running)
            .flat_map(|vm| vm.irqfds.values())
            .map(|line| PollFd::new(line.eventfd.as_fd(), PollFlags::POLLIN))
    }

    /// Takes what the eventfds hold and passes it to the engine.
    pub(super) fn take_interrupts(&mut self) {
        for vm in self.model.vms().filter(|vm| vm.state == State::Running) {
            for line in vm.irqfds.values() {
                let mut fds = [PollFd::new(line.eventfd.as_fd(), PollFlags::POLLIN)];
                if !poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0) {
                    continue;
                }
                let _ = nix::unistd::read(&line.eventfd, &mut [0; 8]);
                if let Some(engine_vm) = self.running.get_mut(&vm.id) {
                    engine_vm.interrupt_line(line.label, line.level);
                }
            }
        }
    }

    /// The VM ended: every VCPU_RUN that waits returns, and vCPUs that still run are stopped.
    pub(super) fn tell_end(&mut self, vm: VmId, exit: Exit) {
        if self.vcpus.untold.contains(&vm) {
            return;
        }
        for held in self.take_held(|waits| matches!(waits, Waits::Run(of, _) if of == vm)) {
            if let Waits::Run(_, vcpu) = held.waits {
                if let Some(page) = self.files.page(vm, vcpu) {
                    page.set_status(&exit);
                }
            }
            self.answer(&held.notification, &held.line, Ok(0));
        }
        self.vcpus.pending.retain(|(of, _), _| *of != vm);
        let running: Vec<_> = self.vcpus.running.iter().filter(|(of, _)| *of == vm).collect();
        if let Some(engine_vm) = self.running.get_mut(&vm) {
            for (_, vcpu) in running {
                engine_vm.interrupt_vcpu(*vcpu);
            }
        }
    }
}
