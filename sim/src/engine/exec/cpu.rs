// SPDX-License-Identifier: Apache-2.0
//! One arm64 CPU: runs until something happens that its surroundings must look at.

use std::collections::BTreeSet;
use std::ffi::c_void;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use unicorn_engine::{
    uc_error, Arch, HookType, MemType, Mode, Prot, RegisterARM64, RegisterARM64CP, Unicorn,
};

use super::clock::{Clock, Watch};
use super::exception::{Exceptions, Syndrome};
use super::link::Link;
use super::ram::{Part, Ram};
use super::registers::{Registers, SystemRegister};
use super::walk::Translation;

/// The hypervisor keeps all below for itself or passes it on: MMIO.
pub const MMIO_END: u64 = 0x4000_0000;

// arm64's PSTATE: EL1 with its own stack pointer, and DAIF masked.
const EL1H_MASKED: u64 = 0x3c5;
const IRQ_MASK: u64 = 1 << 7;
const MODE: u64 = 0xf;
const EL0T: u64 = 0;
const EL1T: u64 = 4;
// SCR_EL3 and HCR_EL2: the next lower level is AArch64, and not secure.
const SCR_RW: u64 = 1 << 10;
const SCR_NS: u64 = 1;
const HCR_RW: u64 = 1 << 31;
const TCR_EL1: SystemRegister = (3, 0, 2, 0, 2);

/// The emulator looks at each pair of parts to place another.
const MANY_PARTS: usize = 512;

/// So many blocks of guest code may run before the timer is looked at: some tens of microseconds.
const BLOCKS_A_LOOK: u32 = 1024;

/// Why the CPU stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// An exception of QEMU's number (target/arm/cpu.h), and what it tells.
    Exception(u32, Syndrome),
    /// An access that memory does not allow or have.
    Fault(Fault),
    /// WFI.
    Idle,
    /// The link has a request.
    Asked,
    /// The emulator failed.
    Broken(uc_error),
}

/// A bad access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Guest address.
    pub address: u64,
    /// It was an instruction.
    pub fetch: bool,
    /// It was a write.
    pub write: bool,
}

/// What hooks leave for the loop.
#[derive(Debug, Default)]
pub struct Trap {
    exception: Option<(u32, Syndrome)>,
    fault: Option<Fault>,
    asked: bool,
}

/// The CPU.
pub struct Cpu<'a> {
    unicorn: Unicorn<'a, Trap>,
    // After the emulator, whose hooks keep their address.
    registers: Rc<Registers>,
    /// Pages that were mapped as they were given, and in how many parts.
    mapped: BTreeSet<u64>,
    parts: usize,
}

type Result<T> = std::result::Result<T, uc_error>;

impl<'a> Cpu<'a> {
    /// The CPU of this number on this memory; for the calling thread.
    pub fn new(ram: &'a Ram, link: &Arc<Link>, number: u32, clock: &Arc<Clock>) -> Result<Self> {
        let unicorn = Unicorn::new_with_data(Arch::ARM64, Mode::LITTLE_ENDIAN, Trap::default())?;
        let registers = Rc::new(Registers::new(number, Watch::new(clock)));
        let mut cpu = Self { unicorn, registers, mapped: BTreeSet::new(), parts: 0 };
        // First: it executes, and nothing may stop it.
        cpu.hook_exceptions()?;
        cpu.hook_blocks(link)?;
        cpu.hook_faults()?;
        // SAFETY: the registers are dropped after the emulator, which is the first field.
        unsafe { cpu.registers.hook(cpu.unicorn.get_handle()) }?;
        for part in ram.whole() {
            cpu.map(&part)?;
        }
        Ok(cpu)
    }

    /// Stops at a block where the link or the timer asks for it.
    fn hook_blocks(&mut self, link: &Arc<Link>) -> Result<()> {
        let link = Arc::clone(link);
        let registers = Rc::clone(&self.registers);
        let mut blocks = 0u32;
        // begin after end: every block.
        self.unicorn.add_block_hook(1, 0, move |unicorn, _, _| {
            blocks = blocks.wrapping_add(1);
            let look = blocks % BLOCKS_A_LOOK == 0;
            let timer = look && registers.timer_line() != registers.raised.get();
            if timer || wanted(unicorn, &link) {
                unicorn.get_data_mut().asked = true;
                let _ = unicorn.emu_stop();
            }
        })?;
        Ok(())
    }

    fn hook_faults(&mut self) -> Result<()> {
        let faults = HookType::MEM_UNMAPPED | HookType::MEM_PROT;
        self.unicorn.add_mem_hook(faults, 1, 0, |unicorn, kind, address, _, _| {
            unicorn.get_data_mut().fault = Some(Fault {
                address,
                fetch: matches!(kind, MemType::FETCH_UNMAPPED | MemType::FETCH_PROT),
                write: matches!(kind, MemType::WRITE_UNMAPPED | MemType::WRITE_PROT),
            });
            false
        })?;
        Ok(())
    }

    fn hook_exceptions(&mut self) -> Result<()> {
        let exceptions = Rc::new(Exceptions::new(self.unicorn.get_handle())?);
        let told = Rc::clone(&exceptions);
        self.unicorn.add_intr_hook(move |unicorn, number| {
            let syndrome = told.told(unicorn.get_handle(), number);
            let syndrome = syndrome.unwrap_or(Syndrome::UNKNOWN);
            unicorn.get_data_mut().exception = Some((number, syndrome));
            let _ = unicorn.emu_stop();
        })?;
        self.reset(0, 0)?;
        exceptions.find(&mut self.unicorn)
    }

    /// Maps memory that the guest has.
    fn map(&mut self, part: &Part) -> Result<()> {
        let (read, write, execute) = part.allows;
        let mut allowed = Prot::NONE;
        for (has, bit) in [(read, Prot::READ), (write, Prot::WRITE), (execute, Prot::EXEC)] {
            if has {
                allowed |= bit;
            }
        }
        let host = part.host.as_ptr().cast::<c_void>();
        // SAFETY: a part of the ram, which is mapped for at least 'a, longer than this CPU.
        unsafe { self.unicorn.mem_map_ptr(part.guest, part.size, allowed, host) }
    }

    /// Where memory is given page by page: maps the guest's pages around an address. False: it has
    /// none there, or this CPU had them already.
    pub fn map_given(&mut self, ram: &Ram, address: u64) -> Result<bool> {
        let mapped = &self.mapped;
        let Some(part) = ram.given(address, |page| !mapped.contains(&page)) else {
            return Ok(false);
        };
        self.map(&part)?;
        self.parts += 1;
        let step = usize::try_from(crate::page_size()).unwrap_or(4096);
        self.mapped.extend((part.guest..part.guest + part.size).step_by(step));
        Ok(true)
    }

    /// Memory is in so many parts that one more would take the emulator milliseconds.
    pub fn has_many_parts(&self) -> bool {
        self.parts >= MANY_PARTS
    }

    /// A fault that the guest's memory did not end: it is one again at the next try.
    pub fn forget_translations(&mut self) {
        let _ = self.unicorn.ctl_flush_tlb();
    }

    /// The CPU was idle so long.
    pub fn was_idle(&self, time: Duration) {
        self.registers.was_idle(time);
    }

    /// How long until the timer's interrupt.
    pub fn timer_left(&self) -> Option<Duration> {
        self.registers.timer_left()
    }

    /// The timer's line, if it is not what the interrupt controller was told last.
    pub fn timer_changed(&self) -> Option<bool> {
        let line = self.registers.timer_line();
        (self.registers.raised.replace(line) != line).then_some(line)
    }

    /// Where the translation table lies that the guest needs for this address and does not have.
    pub fn missing_table(&self, address: u64) -> Option<u64> {
        let tables = [RegisterARM64::TTBR0_EL1, RegisterARM64::TTBR1_EL1]
            .map(|register| self.unicorn.reg_read(register).unwrap_or(0));
        let (op0, op1, crn, crm, op2) = TCR_EL1;
        let mut register = RegisterARM64CP::new().op0(op0).op1(op1).crn(crn).crm(crm).op2(op2);
        self.unicorn.reg_read_arm64_coproc(&mut register).ok()?;
        Translation { tables, control: register.val }.missing(address, |at| {
            let mut entry = [0; 8];
            self.unicorn.mem_read(at, &mut entry).ok()?;
            Some(u64::from_le_bytes(entry))
        })
    }

    /// The stack pointer of EL0.
    pub fn set_sp_el0(&mut self, value: u64) -> Result<()> {
        self.set(RegisterARM64::SP_EL0, value)
    }

    /// As after power-on: EL1, interrupts masked.
    pub fn reset(&mut self, pc: u64, x0: u64) -> Result<()> {
        for register in 0..31 {
            self.set_x(register, 0)?;
        }
        self.set_x(0, x0)?;
        self.set_pc(pc)?;
        // As firmware and hypervisor leave it: EL1 is 64-bit and not secure.
        self.set_system((3, 6, 1, 1, 0), SCR_RW | SCR_NS)?;
        self.set_system((3, 4, 1, 1, 0), HCR_RW)?;
        self.set_el1(0)
    }

    /// Runs from where it stands.
    pub fn run(&mut self) -> Stop {
        let pc = match self.pc() {
            Ok(pc) => pc,
            Err(error) => return Stop::Broken(error),
        };
        *self.unicorn.get_data_mut() = Trap::default();
        // No address ends it.
        let result = self.unicorn.emu_start(pc, u64::MAX, 0, 0);
        let trap = std::mem::take(self.unicorn.get_data_mut());
        match (result, trap) {
            (_, Trap { fault: Some(fault), .. }) => Stop::Fault(fault),
            (_, Trap { exception: Some((number, syndrome)), .. }) => {
                Stop::Exception(number, syndrome)
            }
            (Err(error), _) => Stop::Broken(error),
            (Ok(()), Trap { asked: true, .. }) => Stop::Asked,
            (Ok(()), _) => Stop::Idle,
        }
    }

    fn set(&mut self, register: RegisterARM64, value: u64) -> Result<()> {
        self.unicorn.reg_write(register, value)
    }

    /// A general register; 31 reads as zero.
    pub fn x(&self, index: u8) -> Result<u64> {
        match general(index) {
            Some(register) => self.unicorn.reg_read(register),
            None => Ok(0),
        }
    }

    /// Sets a general register; 31 takes nothing.
    pub fn set_x(&mut self, index: u8, value: u64) -> Result<()> {
        match general(index) {
            Some(register) => self.unicorn.reg_write(register, value),
            None => Ok(()),
        }
    }

    /// The stack pointer.
    pub fn set_sp(&mut self, value: u64) -> Result<()> {
        self.set(RegisterARM64::SP, value)
    }

    /// Where it stands.
    pub fn pc(&self) -> Result<u64> {
        self.unicorn.reg_read(RegisterARM64::PC)
    }

    /// Goes on elsewhere.
    pub fn set_pc(&mut self, value: u64) -> Result<()> {
        self.set(RegisterARM64::PC, value)
    }

    /// The instruction at an address as this CPU sees it.
    pub fn instruction(&self, address: u64) -> Result<u32> {
        let mut bytes = [0; 4];
        self.unicorn.vmem_read(address, Prot::EXEC, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Whether an interrupt may be taken.
    pub fn takes_interrupts(&self) -> bool {
        self.unicorn.reg_read(RegisterARM64::PSTATE).is_ok_and(|pstate| pstate & IRQ_MASK == 0)
    }

    /// Whether it stands in EL0.
    pub fn is_in_el0(&self) -> bool {
        self.unicorn.reg_read(RegisterARM64::PSTATE).is_ok_and(|pstate| pstate & MODE == EL0T)
    }

    /// Takes an exception to EL1: `offset` of the vector for the current EL's own stack, and what it
    /// tells. False: there is no vector that could be executed.
    pub fn enter(&mut self, offset: u64, syndrome: Option<Syndrome>) -> Result<bool> {
        let pstate = self.unicorn.reg_read(RegisterARM64::PSTATE)?;
        let pc = self.pc()?;
        let vector = self.unicorn.reg_read(RegisterARM64::VBAR_EL1)?;
        // Table D1-5 of the architecture: from EL0 +0x400, from EL1 on SP_EL0 +0, else +0x200.
        let from = match pstate & MODE {
            EL0T => 0x400,
            EL1T => 0,
            _ => 0x200,
        };
        let target = vector + from + offset;
        // Below, a read would be the guest's MMIO. EL0 does not have EL1's translation: from there
        // the vector's own fault ends it.
        let seen = pstate & MODE == EL0T || self.instruction(target).is_ok();
        if target < MMIO_END || !seen || target == pc {
            return Ok(false);
        }
        if matches!(pstate & MODE, EL0T | EL1T) {
            let sp = self.unicorn.reg_read(RegisterARM64::SP)?;
            self.set(RegisterARM64::SP_EL0, sp)?;
            let sp = self.unicorn.reg_read(RegisterARM64::SP_EL1)?;
            self.set_sp(sp)?;
        }
        self.set(RegisterARM64::ELR_EL1, pc)?;
        if let Some(syndrome) = syndrome {
            self.set(RegisterARM64::ESR_EL1, syndrome.esr)?;
            if let Some(far) = syndrome.far {
                self.set(RegisterARM64::FAR_EL1, far)?;
            }
        }
        self.set_pc(target)?;
        self.set_el1(pstate)?;
        Ok(true)
    }

    /// To EL1 with its own stack pointer and everything masked; `spsr` is where it came from.
    fn set_el1(&mut self, spsr: u64) -> Result<()> {
        self.set(RegisterARM64::PSTATE, EL1H_MASKED)?;
        // SPSR_EL1. Second, because such a write makes the emulator look at the exception level again.
        self.set_system((3, 0, 4, 0, 0), spsr)
    }

    /// Sets a system register: op0, op1, CRn, CRm, op2.
    fn set_system(&mut self, name: SystemRegister, value: u64) -> Result<()> {
        let (op0, op1, crn, crm, op2) = name;
        let mut register = RegisterARM64CP::new().op0(op0).op1(op1).crn(crn).crm(crm).op2(op2);
        register.val = value;
        self.unicorn.reg_write_arm64_coproc(&register)
    }
}

/// Whether the link asks the CPU to stop at once.
fn wanted(unicorn: &Unicorn<'_, Trap>, link: &Link) -> bool {
    link.interrupted()
        || link.stopped()
        || (link.line()
            && unicorn.reg_read(RegisterARM64::PSTATE).is_ok_and(|pstate| pstate & IRQ_MASK == 0))
}

fn general(index: u8) -> Option<i32> {
    let base: i32 = RegisterARM64::X0.into();
    match index {
        0..=28 => Some(base + i32::from(index)),
        29 => Some(RegisterARM64::X29.into()),
        30 => Some(RegisterARM64::X30.into()),
        _ => None,
    }
}
