// SPDX-License-Identifier: Apache-2.0
//! VCPU_RUN: held, handed to an engine that runs vCPUs, and answered.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

use crate::engine::{Exit, VcpuExit, VmId};
use crate::intercept::Notification;
use crate::model::{RunStep, State};
use crate::record::CallLine;

use super::{Session, Waits};

/// vCPUs between an engine and their callers.
#[derive(Debug, Default)]
pub struct Vcpus {
    /// At the engine.
    running: BTreeSet<(VmId, u32)>,
    /// Exits that came when nobody waited; the page is filled in already.
    pending: BTreeSet<(VmId, u32)>,
    /// How many VCPU_RUNs answer EBUSY.
    pub(super) busy: BTreeMap<VmId, u64>,
    /// The page fault that a VCPU_RUN comes back with: guest address and what became of it.
    pub(super) faults: BTreeMap<VmId, (u64, Errno)>,
}

impl Vcpus {
    /// A VM is gone.
    pub fn forget(&mut self, vm: VmId) {
        self.running.retain(|(of, _)| *of != vm);
        self.pending.retain(|(of, _)| *of != vm);
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
        match self.model.vcpu_run(vm, line.caller, vcpu, page.immediate_exit()) {
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
            RunStep::Fault(address, errno) => {
                page.set_page_fault(address, errno);
                self.answer(&notification, &line, Ok(0));
            }
            RunStep::StartFirst => self.start(notification, line, vm),
            RunStep::Run => {
                if self.vcpus.pending.remove(&(vm, vcpu)) {
                    self.answer(&notification, &line, Ok(0));
                    return;
                }
                // A call that was interrupted and comes again takes the place of the first.
                self.drop_interrupted();
                self.hold(notification, line, Waits::Run(vm, vcpu));
                self.hand_over(vm, vcpu);
            }
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
        let Some(page) = self.files.page(vm, vcpu) else {
            return;
        };
        let waits = Waits::Run(vm, vcpu);
        let result = match exit {
            VcpuExit::Interrupted => {
                // Somebody who came since then still wants it to run.
                if self.held.iter().any(|held| held.waits == waits) && !page.immediate_exit() {
                    self.hand_over(vm, vcpu);
                    return;
                }
                Err(Errno::EINTR)
            }
            VcpuExit::Failed(errno) => Err(errno),
            VcpuExit::Mmio(access) => {
                if let Some(value) = access.written {
                    if self.fire_ioeventfd(vm, access.address, access.len, value) {
                        self.hand_over(vm, vcpu);
                        return;
                    }
                }
                page.set_mmio(&access);
                Ok(0)
            }
        };
        let waiting = self.take_held(|of| of == waits);
        if waiting.is_empty() && result.is_ok() {
            self.vcpus.pending.insert((vm, vcpu));
        }
        for held in waiting {
            self.answer(&held.notification, &held.line, result);
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
                    engine_vm.interrupt_line(line.label);
                }
            }
        }
    }

    /// The VM ended: every vCPU that waits is told, and those that still run are stopped.
    pub(super) fn tell_end(&mut self, vm: VmId, exit: Exit) {
        for held in self.take_held(|waits| matches!(waits, Waits::Run(of, _) if of == vm)) {
            if let Waits::Run(_, vcpu) = held.waits {
                if let Some(page) = self.files.page(vm, vcpu) {
                    page.set_status(&exit);
                }
            }
            self.answer(&held.notification, &held.line, Ok(0));
        }
        self.vcpus.pending.retain(|(of, _)| *of != vm);
        let running: Vec<_> = self.vcpus.running.iter().filter(|(of, _)| *of == vm).collect();
        if let Some(engine_vm) = self.running.get_mut(&vm) {
            for (_, vcpu) in running {
                engine_vm.interrupt_vcpu(*vcpu);
            }
        }
    }
}
