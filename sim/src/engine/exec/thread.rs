// SPDX-License-Identifier: Apache-2.0
//! A vCPU's thread: from VCPU_RUN to VCPU_RUN.

use std::sync::Arc;

use gunyahd::gunyah::uapi;

use crate::engine::{Event, Exit, MmioAccess, RunPage, VcpuExit};

use super::cpu::{Cpu, Fault, Mmio, Stop};
use super::gic;
use super::link::{Link, Woken};
use super::{psci, Machine};

// QEMU's exception numbers, target/arm/cpu.h.
const UNDEFINED: u32 = 1;
const SUPERVISOR_CALL: u32 = 2;
const BREAKPOINT: u32 = 7;
const HYPERVISOR_CALL: u32 = 11;

// ESR_EL1, exception class in bits 31 to 26, instruction length bit 25 (Arm ARM D17.2.37).
const EC_UNKNOWN: u64 = 0;
const EC_SVC: u64 = 0x15;
const EC_INSTRUCTION_ABORT: u64 = 0x21;
const EC_DATA_ABORT: u64 = 0x25;
const EC_BRK: u64 = 0x3c;
const LENGTH_32: u64 = 1 << 25;
/// Synchronous external abort.
const EXTERNAL_ABORT: u64 = 0x10;
const WRITE_NOT_READ: u64 = 1 << 6;

const HVC_MASK: u32 = 0xffe0_001f;
const HVC: u32 = 0xd400_0002;

/// Vector offsets of a group (D1.3.1).
const VECTOR_SYNCHRONOUS: u64 = 0;
const VECTOR_IRQ: u64 = 0x80;

/// MMIO by way of the caller of VCPU_RUN.
struct Exits {
    machine: Arc<Machine>,
    link: Arc<Link>,
    vcpu: u32,
}

impl Exits {
    /// Tells the access and waits for the next VCPU_RUN, which brings its answer.
    fn exit(&self, access: MmioAccess) -> Option<Arc<RunPage>> {
        self.machine
            .events
            .send(Event::Vcpu(self.vcpu, VcpuExit::Mmio(access)));
        self.link.wait_run()
    }

    fn with_gic<T>(&self, work: impl FnOnce(&mut gic::Gic) -> T) -> Option<T> {
        let mut gic = self.machine.gic.lock().ok()?;
        let value = work(&mut gic);
        if let Some(boot) = self.machine.links.first() {
            boot.set_line(gic.line());
        }
        Some(value)
    }
}

impl Mmio for Exits {
    fn read(&mut self, address: u64, len: u32) -> Option<u64> {
        if gic::WINDOW.contains(&address) {
            return self.with_gic(|gic| gic.read(address));
        }
        let page = self.exit(MmioAccess {
            address,
            len,
            written: None,
        })?;
        // 0 on older drivers, where the byte is padding.
        (page.mmio_resume_action() != uapi::RESUME_FAULT).then(|| page.mmio_answer(len))
    }

    fn write(&mut self, address: u64, len: u32, value: u64) -> bool {
        if gic::WINDOW.contains(&address) {
            return self.with_gic(|gic| gic.write(address, value)).is_some();
        }
        let page = self.exit(MmioAccess {
            address,
            len,
            written: Some(value),
        });
        page.is_some_and(|page| page.mmio_resume_action() != uapi::RESUME_FAULT)
    }
}

/// What the loop does next.
enum Next {
    /// On with the guest.
    Go,
    /// The CPU is off.
    Off,
    /// WFI.
    Wait,
    /// The VM is at its end.
    End(Exit),
}

/// The thread's whole life.
pub fn run(machine: &Arc<Machine>, vcpu: u32, boot_context: &[(u32, u64)]) {
    let Some(link) = usize::try_from(vcpu)
        .ok()
        .and_then(|index| machine.links.get(index))
    else {
        return;
    };
    let exits = Exits {
        machine: Arc::clone(machine),
        link: Arc::clone(link),
        vcpu,
    };
    let mut cpu = match Cpu::new(&machine.ram, link, exits) {
        Ok(cpu) => cpu,
        Err(error) => {
            let what = format!("vCPU {vcpu} cannot be made: {error:?}");
            machine.events.send(Event::Note(what));
            return;
        }
    };
    let tell = |exit| machine.events.send(Event::Vcpu(vcpu, exit));
    let mut on = false;
    let mut idle = false;
    while link.wait_run().is_some() {
        loop {
            if !on {
                match link.wait_power() {
                    Woken::With((pc, x0)) => {
                        on = true;
                        idle = false;
                        let set = cpu.reset(pc, x0);
                        if set.is_err() || (vcpu == 0 && !apply(&mut cpu, boot_context)) {
                            machine.events.send(Event::Note("registers".to_string()));
                        }
                    }
                    Woken::Interrupted => {
                        tell(VcpuExit::Interrupted);
                        break;
                    }
                    Woken::Stopped => return,
                }
            }
            if idle {
                match link.wait_line() {
                    Woken::With(()) => idle = false,
                    Woken::Interrupted => {
                        tell(VcpuExit::Interrupted);
                        break;
                    }
                    Woken::Stopped => return,
                }
            }
            let stop = cpu.run();
            if link.stopped() {
                return;
            }
            match handle(machine, &mut cpu, stop) {
                Next::Go => {}
                Next::Wait => idle = true,
                Next::Off => {
                    on = false;
                    link.powered_off();
                }
                Next::End(exit) => {
                    machine.events.send(Event::Exited(exit));
                    return;
                }
            }
            if link.interrupted() && on && !idle {
                tell(VcpuExit::Interrupted);
                break;
            }
        }
    }
}

/// SET_BOOT_CONTEXT's registers. False: one could not be set.
fn apply(cpu: &mut Cpu<'_>, boot_context: &[(u32, u64)]) -> bool {
    boot_context.iter().all(|&(register, value)| {
        let index = u8::try_from(register & 0xff).unwrap_or(31);
        match register >> 8 {
            uapi::BOOT_CONTEXT_X => cpu.set_x(index, value),
            uapi::BOOT_CONTEXT_PC => cpu.set_pc(value),
            _ => cpu.set_sp(value),
        }
        .is_ok()
    })
}

fn handle(machine: &Machine, cpu: &mut Cpu<'_>, stop: Stop) -> Next {
    match stop {
        Stop::Asked => {
            if cpu.link().line() && cpu.takes_interrupts() {
                // The line is looked at again when the guest has acknowledged.
                cpu.link().set_line(false);
                return enter(cpu, VECTOR_IRQ, None);
            }
            Next::Go
        }
        // A line that is high already ends the wait, even while interrupts are masked.
        Stop::Idle => Next::Wait,
        Stop::Fault(fault) => enter(cpu, VECTOR_SYNCHRONOUS, Some(abort(&fault))),
        Stop::Exception(HYPERVISOR_CALL) => hypervisor_call(machine, cpu),
        Stop::Exception(UNDEFINED) => undefined(machine, cpu),
        Stop::Exception(SUPERVISOR_CALL) => {
            enter(cpu, VECTOR_SYNCHRONOUS, Some((EC_SVC << 26 | LENGTH_32, 0)))
        }
        Stop::Exception(BREAKPOINT) => {
            enter(cpu, VECTOR_SYNCHRONOUS, Some((EC_BRK << 26 | LENGTH_32, 0)))
        }
        Stop::Exception(number) => {
            machine
                .events
                .send(Event::Note(format!("exception {number}")));
            let esr = EC_DATA_ABORT << 26 | LENGTH_32 | EXTERNAL_ABORT;
            enter(cpu, VECTOR_SYNCHRONOUS, Some((esr, 0)))
        }
        Stop::Broken(error) => {
            machine
                .events
                .send(Event::Note(format!("the CPU stopped: {error:?}")));
            Next::End(Exit::of_type(uapi::EXIT_TYPE_HYP_ERROR))
        }
    }
}

fn abort(fault: &Fault) -> (u64, u64) {
    let class = if fault.fetch {
        EC_INSTRUCTION_ABORT
    } else {
        EC_DATA_ABORT
    };
    let write = if fault.write { WRITE_NOT_READ } else { 0 };
    (
        class << 26 | LENGTH_32 | EXTERNAL_ABORT | write,
        fault.address,
    )
}

/// Takes an exception; a guest without vectors is in an exception loop, which ends it.
fn enter(cpu: &mut Cpu<'_>, offset: u64, syndrome: Option<(u64, u64)>) -> Next {
    match cpu.enter(offset, syndrome) {
        Ok(true) => Next::Go,
        _ => Next::End(Exit::of_type(uapi::EXIT_TYPE_HYP_ERROR)),
    }
}

fn hypervisor_call(machine: &Machine, cpu: &mut Cpu<'_>) -> Next {
    let mut x = [0; 4];
    for (index, value) in (0..).zip(&mut x) {
        *value = cpu.x(index).unwrap_or(0);
    }
    let call = if machine.psci {
        psci::call(&machine.links, x)
    } else {
        psci::Call::Return(-1)
    };
    let mut answer = |value: i64| {
        cpu.set_x(0, u64::from_ne_bytes(value.to_ne_bytes()))
            .is_ok()
    };
    match call {
        psci::Call::Return(value) if answer(value) => Next::Go,
        psci::Call::Suspend if answer(0) => Next::Wait,
        psci::Call::Off => Next::Off,
        psci::Call::End(exit) => Next::End(exit),
        _ => Next::End(Exit::of_type(uapi::EXIT_TYPE_HYP_ERROR)),
    }
}

/// What this CPU does not know: HVC without EL2, and the GIC's system registers.
fn undefined(machine: &Machine, cpu: &mut Cpu<'_>) -> Next {
    let unknown = Some((EC_UNKNOWN << 26 | LENGTH_32, 0));
    let (Ok(pc), Some(instruction)) = (cpu.pc(), cpu.pc().and_then(|pc| cpu.instruction(pc)).ok())
    else {
        return enter(cpu, VECTOR_SYNCHRONOUS, unknown);
    };
    if instruction & HVC_MASK == HVC {
        return match cpu.set_pc(pc + 4) {
            Ok(()) => hypervisor_call(machine, cpu),
            Err(_) => Next::End(Exit::of_type(uapi::EXIT_TYPE_HYP_ERROR)),
        };
    }
    let done = gic::decode(instruction).is_some_and(|access| {
        let Ok(mut gic) = machine.gic.lock() else {
            return false;
        };
        let known = if access.read {
            gic.read_system(access.register)
                .is_some_and(|value| cpu.set_x(access.general, value).is_ok())
        } else {
            let value = cpu.x(access.general).unwrap_or(0);
            gic.write_system(access.register, value)
        };
        cpu.link().set_line(gic.line());
        known && cpu.set_pc(pc + 4).is_ok()
    });
    if done {
        Next::Go
    } else {
        enter(cpu, VECTOR_SYNCHRONOUS, unknown)
    }
}
