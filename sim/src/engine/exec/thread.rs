// SPDX-License-Identifier: Apache-2.0
//! A vCPU's thread: from VCPU_RUN to VCPU_RUN.

use std::sync::Arc;
use std::time::Instant;

use gunyah::uapi;

use crate::engine::{Event, Exit, MmioAccess, RunPage, VcpuExit};

use super::cpu::{Cpu, Fault, Stop, MMIO_END};
use super::exception::{Syndrome, HYPERVISOR_CALL, SECURE_MONITOR_CALL, UNDEFINED};
use super::link::{Link, Woken};
use super::mmio::Access;
use super::{gic, psci, Machine};

// HVC and SMC, whatever their immediate.
const CALL_MASK: u32 = 0xffe0_001f;
const HVC: u32 = 0xd400_0002;
const SMC: u32 = 0xd400_0003;

/// Vector offsets of a group (D1.3.1).
const VECTOR_SYNCHRONOUS: u64 = 0;
const VECTOR_IRQ: u64 = 0x80;

/// A guest's address space has 36 bits.
const ADDRESS_SPACE: u64 = 1 << 36;

/// Bytes of an instruction.
const INSTRUCTION: u64 = 4;

/// What the loop does next.
enum Next {
    /// On with the guest.
    Go,
    /// The CPU is off.
    Off,
    /// WFI.
    Wait,
    /// The caller of VCPU_RUN is asked.
    Ask(MmioAccess),
    /// The guest touches memory that it does not have.
    Fault(Fault),
    /// The VM is at its end.
    End(Exit),
}

/// How a VCPU_RUN comes back.
enum Back {
    /// With an exit of its own.
    Tell(VcpuExit),
    /// With the VM's end.
    End(Exit),
    /// Not at all: the VM is torn down.
    Never,
}

struct Vcpu<'a> {
    machine: &'a Machine,
    link: &'a Arc<Link>,
    number: u32,
    /// None: off.
    cpu: Option<Cpu<'a>>,
    /// In WFI.
    idle: bool,
    /// An access that the next VCPU_RUN answers.
    asked: Option<(Access, Fault)>,
    /// SET_BOOT_CONTEXT's registers, until they are set.
    boot_context: Vec<(u32, u64)>,
}

/// The thread's whole life.
pub fn run(machine: &Machine, number: u32, boot_context: &[(u32, u64)]) {
    let Some(link) = machine.link(number) else {
        return;
    };
    let mut vcpu = Vcpu {
        machine,
        link,
        number,
        cpu: None,
        idle: false,
        asked: None,
        // The stack pointers go to all CPUs [i]: guests of real devices push before they set theirs.
        boot_context: boot_context
            .iter()
            .copied()
            .filter(|(register, _)| number == 0 || register >> 8 == uapi::BOOT_CONTEXT_SP)
            .collect(),
    };
    while let Some(page) = link.wait_run() {
        match vcpu.run(&page) {
            Back::Tell(exit) => machine.events.send(Event::Vcpu(number, exit)),
            Back::End(exit) => return machine.end(exit),
            Back::Never => return,
        }
    }
}

impl<'a> Vcpu<'a> {
    /// One VCPU_RUN.
    fn run(&mut self, page: &RunPage) -> Back {
        let mut next = self.answered(page);
        loop {
            match next {
                Next::Go => {}
                Next::Wait => self.idle = true,
                Next::Off => {
                    self.cpu = None;
                    self.link.powered_off();
                }
                Next::Ask(access) => return Back::Tell(VcpuExit::Mmio(access)),
                Next::Fault(fault) => {
                    return Back::Tell(VcpuExit::Fault {
                        address: fault.address,
                        write: fault.write,
                    })
                }
                Next::End(exit) => return Back::End(exit),
            }
            if self.link.stopped() {
                return Back::Never;
            }
            if self.link.interrupted() {
                return Back::Tell(VcpuExit::Interrupted);
            }
            if self.idle {
                match self.wait() {
                    Woken::With(()) => self.idle = false,
                    Woken::Interrupted => return Back::Tell(VcpuExit::Interrupted),
                    Woken::Stopped => return Back::Never,
                }
            }
            let Some(cpu) = &mut self.cpu else {
                match self.link.wait_power() {
                    Woken::With((pc, x0)) => next = self.power_on(pc, x0),
                    Woken::Interrupted => return Back::Tell(VcpuExit::Interrupted),
                    Woken::Stopped => return Back::Never,
                }
                continue;
            };
            let stop = cpu.run();
            tell_timer(self.machine, self.number, cpu);
            let on = On { machine: self.machine, link: self.link, number: self.number };
            next = on.handle(cpu, stop, &mut self.asked);
        }
    }

    /// WFI: until the interrupt line is high, of which the timer may be the reason.
    fn wait(&mut self) -> Woken<()> {
        let left = self.cpu.as_ref().and_then(Cpu::timer_left);
        let begin = Instant::now();
        let woken = self.link.wait_line(left);
        if let Some(cpu) = &self.cpu {
            cpu.was_idle(begin.elapsed());
            tell_timer(self.machine, self.number, cpu);
        }
        woken
    }

    /// A new CPU every time: nothing of an earlier life is left in it.
    fn power_on(&mut self, pc: u64, x0: u64) -> Next {
        let machine = self.machine;
        let made =
            Cpu::new(&machine.ram, self.link, self.number, &machine.clock).and_then(|mut cpu| {
                cpu.reset(pc, x0)?;
                for (register, value) in std::mem::take(&mut self.boot_context) {
                    let index = u8::try_from(register & 0xff).unwrap_or(31);
                    match register >> 8 {
                        uapi::BOOT_CONTEXT_X => cpu.set_x(index, value),
                        uapi::BOOT_CONTEXT_PC => cpu.set_pc(value),
                        uapi::BOOT_CONTEXT_SP if index == 0 => cpu.set_sp_el0(value),
                        _ => cpu.set_sp(value),
                    }?;
                }
                Ok(cpu)
            });
        match made {
            Ok(cpu) => {
                self.cpu = Some(cpu);
                Next::Go
            }
            Err(error) => broken(self.machine, &format!("vCPU {}: {error}", self.number)),
        }
    }

    /// Ends the access for which the last VCPU_RUN came back.
    fn answered(&mut self, page: &RunPage) -> Next {
        let (Some((access, fault)), Some(cpu)) = (self.asked.take(), &mut self.cpu) else {
            return Next::Go;
        };
        match cpu.map_given(&self.machine.ram, fault.address) {
            // It was memory after all: the access is made again.
            Ok(true) => return Next::Go,
            Ok(false) => {}
            Err(error) => return broken(self.machine, &format!("a shared page: {error}")),
        }
        // The byte is padding up to 6.1.
        if self.machine.paged && page.mmio_resume_action() == uapi::RESUME_FAULT {
            return abort(cpu, &fault);
        }
        done(cpu, &access, page.mmio_answer(access.len))
    }
}

/// The interrupt controller hears of the timer.
fn tell_timer(machine: &Machine, number: u32, cpu: &Cpu<'_>) {
    if let (Some(high), Ok(number)) = (cpu.timer_changed(), usize::try_from(number)) {
        machine.with_gic(|gic| gic.set_timer(number, high));
    }
}

/// What stops of a CPU are handled with.
struct On<'a> {
    machine: &'a Machine,
    link: &'a Link,
    number: u32,
}

impl On<'_> {
    fn handle(&self, cpu: &mut Cpu<'_>, stop: Stop, asked: &mut Option<(Access, Fault)>) -> Next {
        match stop {
            Stop::Asked if self.link.line() && cpu.takes_interrupts() => {
                enter(cpu, VECTOR_IRQ, None)
            }
            Stop::Asked => Next::Go,
            Stop::Idle => Next::Wait,
            Stop::Fault(fault) => self.fault(cpu, fault, asked),
            Stop::Exception(HYPERVISOR_CALL | SECURE_MONITOR_CALL, _) => {
                psci_call(self.machine, cpu)
            }
            Stop::Exception(UNDEFINED, syndrome) if !cpu.is_in_el0() => {
                self.undefined(cpu, syndrome)
            }
            Stop::Exception(_, syndrome) if self.machine.paged => {
                let table = syndrome.untranslated().and_then(|address| cpu.missing_table(address));
                match table {
                    Some(address) => {
                        self.absent(cpu, Fault { address, fetch: false, write: false })
                    }
                    None => enter(cpu, VECTOR_SYNCHRONOUS, Some(syndrome)),
                }
            }
            Stop::Exception(_, syndrome) => enter(cpu, VECTOR_SYNCHRONOUS, Some(syndrome)),
            Stop::Broken(error) => broken(self.machine, &format!("the CPU stopped: {error}")),
        }
    }

    /// An access that memory does not allow or have.
    fn fault(&self, cpu: &mut Cpu<'_>, fault: Fault, asked: &mut Option<(Access, Fault)>) -> Next {
        if fault.address < MMIO_END && !fault.fetch {
            return self.mmio(cpu, fault, asked);
        }
        if self.machine.paged && (MMIO_END..ADDRESS_SPACE).contains(&fault.address) {
            return self.absent(cpu, fault);
        }
        abort(cpu, &fault)
    }

    /// Memory that is given page by page: the guest has it meanwhile, or the driver is asked.
    fn absent(&self, cpu: &mut Cpu<'_>, fault: Fault) -> Next {
        if cpu.has_many_parts() {
            // As if the guest touched all of it, so that the rest is one part.
            if let Some(address) = self.machine.ram.first_lacking(fault.address) {
                return Next::Fault(Fault { address, fetch: false, write: false });
            }
        }
        match cpu.map_given(&self.machine.ram, fault.address) {
            Ok(true) => Next::Go,
            Ok(false) => {
                cpu.forget_translations();
                Next::Fault(fault)
            }
            Err(error) => broken(self.machine, &format!("a page: {error}")),
        }
    }

    /// An access below [`MMIO_END`]: the interrupt controller's, the caller's, or the guest's mistake.
    fn mmio(&self, cpu: &mut Cpu<'_>, fault: Fault, asked: &mut Option<(Access, Fault)>) -> Next {
        if cpu.map_given(&self.machine.ram, fault.address).is_ok_and(|mapped| mapped) {
            return Next::Go;
        }
        let instruction = cpu.pc().and_then(|pc| cpu.instruction(pc));
        let access = instruction.ok().and_then(Access::decode);
        let Some(access) = access.filter(|access| access.write == fault.write) else {
            return abort(cpu, &fault);
        };
        // The whole register is what the hypervisor passes on, and what ioeventfds compare.
        let written = access.write.then(|| cpu.x(access.register).unwrap_or(0));
        if gic::WINDOW.contains(&fault.address) {
            let value = self.machine.with_gic(|gic| match written {
                Some(value) => {
                    gic.write(fault.address, access.stored(value));
                    0
                }
                None => gic.read(fault.address),
            });
            return done(cpu, &access, value);
        }
        *asked = Some((access, fault));
        Next::Ask(MmioAccess { address: fault.address, len: access.len, written })
    }

    /// What this CPU does not know: HVC and SMC, and the interrupt controller's system registers.
    fn undefined(&self, cpu: &mut Cpu<'_>, syndrome: Syndrome) -> Next {
        let found = cpu.pc().and_then(|pc| Ok((pc, cpu.instruction(pc)?)));
        let Ok((pc, instruction)) = found else {
            return enter(cpu, VECTOR_SYNCHRONOUS, Some(syndrome));
        };
        if matches!(instruction & CALL_MASK, HVC | SMC) {
            return match cpu.set_pc(pc + INSTRUCTION) {
                Ok(()) => psci_call(self.machine, cpu),
                Err(error) => broken(self.machine, &format!("the CPU stopped: {error}")),
            };
        }
        let number = usize::try_from(self.number).unwrap_or(usize::MAX);
        let known = gic::decode(instruction).is_some_and(|access| {
            self.machine.with_gic(|gic| {
                if access.read {
                    gic.read_system(number, access.register)
                        .is_some_and(|value| cpu.set_x(access.general, value).is_ok())
                } else {
                    let value = cpu.x(access.general).unwrap_or(0);
                    gic.write_system(number, access.register, value)
                }
            })
        });
        if known && cpu.set_pc(pc + INSTRUCTION).is_ok() {
            Next::Go
        } else {
            enter(cpu, VECTOR_SYNCHRONOUS, Some(syndrome))
        }
    }
}

/// The access is over; `value` is what was read.
fn done(cpu: &mut Cpu<'_>, access: &Access, value: u64) -> Next {
    let set = if access.write { Ok(()) } else { cpu.set_x(access.register, access.loaded(value)) };
    match set.and_then(|()| cpu.pc()) {
        Ok(pc) if cpu.set_pc(pc + INSTRUCTION).is_ok() => Next::Go,
        _ => Next::End(Exit::of_type(uapi::EXIT_TYPE_HYP_ERROR)),
    }
}

fn abort(cpu: &mut Cpu<'_>, fault: &Fault) -> Next {
    let told = Syndrome::external(fault.address, fault.fetch, fault.write, cpu.is_in_el0());
    enter(cpu, VECTOR_SYNCHRONOUS, Some(told))
}

/// Takes an exception; a guest without vectors is in an exception loop, which ends it.
fn enter(cpu: &mut Cpu<'_>, offset: u64, syndrome: Option<Syndrome>) -> Next {
    match cpu.enter(offset, syndrome) {
        Ok(true) => Next::Go,
        _ => Next::End(Exit::of_type(uapi::EXIT_TYPE_HYP_ERROR)),
    }
}

fn broken(machine: &Machine, what: &str) -> Next {
    machine.events.send(Event::Note(what.to_string()));
    Next::End(Exit::of_type(uapi::EXIT_TYPE_HYP_ERROR))
}

fn psci_call(machine: &Machine, cpu: &mut Cpu<'_>) -> Next {
    let mut x = [0; 4];
    for (index, value) in (0..).zip(&mut x) {
        *value = cpu.x(index).unwrap_or(0);
    }
    let call = if machine.psci {
        psci::call(&machine.links, x)
    } else {
        psci::Call::Return(psci::NOT_SUPPORTED)
    };
    let mut answer = |value: i64| cpu.set_x(0, u64::from_ne_bytes(value.to_ne_bytes())).is_ok();
    match call {
        psci::Call::Return(value) if answer(value) => Next::Go,
        psci::Call::Suspend if answer(0) => Next::Wait,
        psci::Call::Off => Next::Off,
        psci::Call::End(exit) => Next::End(exit),
        _ => broken(machine, "a PSCI call could not be answered"),
    }
}
