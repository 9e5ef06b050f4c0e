// SPDX-License-Identifier: Apache-2.0
//! One arm64 CPU: runs until something happens that its surroundings must look at.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;

use unicorn_engine::hook::{sys, uc_engine, uc_hook};
use unicorn_engine::{
    uc_error, Arch, Arm64Insn, HookType, MemType, Mode, Prot, RegisterARM64, RegisterARM64CP,
    Unicorn,
};

use crate::engine::{Event, Events, VcpuExit};

use super::link::Link;
use super::ram::Ram;

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
/// op0, op1, CRn, CRm, op2.
type SystemRegister = (u32, u32, u32, u32, u32);
const MPIDR_EL1: SystemRegister = (3, 0, 0, 0, 5);
const MPIDR_RES1: u64 = 1 << 31;

/// Asks for pages that the guest does not have yet, and waits until it has them.
#[derive(Clone)]
pub struct Pager<'a> {
    /// The guest's memory.
    pub ram: &'a Ram,
    /// The vCPU's link.
    pub link: Arc<Link>,
    /// Where faults are reported.
    pub events: Events,
    /// The vCPU.
    pub number: u32,
}

impl Pager<'_> {
    fn want(&self, address: u64, write: bool) {
        while self.ram.lacks(address) && !self.link.stopped() {
            let fault = VcpuExit::Fault { address, write };
            self.events.send(Event::Vcpu(self.number, fault));
            // The driver resolves it and goes on, or VCPU_RUN has come again.
            if self.link.wait_run().is_none() {
                return;
            }
        }
    }
}

/// Why the CPU stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// An exception of QEMU's number (target/arm/cpu.h).
    Exception(u32),
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
    exception: Option<u32>,
    fault: Option<Fault>,
    asked: bool,
}

/// The CPU.
pub struct Cpu<'a> {
    unicorn: Unicorn<'a, Trap>,
    /// Its number; boxed, because the hook keeps the address.
    mpidr: Box<u64>,
}

type Result<T> = std::result::Result<T, uc_error>;

impl<'a> Cpu<'a> {
    /// The CPU of this number on this memory.
    pub fn new(
        ram: &'a Ram,
        link: &Arc<Link>,
        number: u32,
        pager: Option<Pager<'a>>,
    ) -> Result<Self> {
        let mut unicorn =
            Unicorn::new_with_data(Arch::ARM64, Mode::LITTLE_ENDIAN, Trap::default())?;
        for range in ram.ranges().iter().filter(|range| range.is_mapped()) {
            let (read, write, execute) = range.allows();
            let mut allowed = Prot::NONE;
            for (has, bit) in [(read, Prot::READ), (write, Prot::WRITE), (execute, Prot::EXEC)] {
                if has {
                    allowed |= bit;
                }
            }
            let host = range.host().as_ptr().cast::<c_void>();
            // SAFETY: the range is mapped for at least 'a, longer than this CPU.
            unsafe { unicorn.mem_map_ptr(range.guest, range.size, allowed, host) }?;
        }
        if let Some(pager) = pager.clone() {
            // begin after end: everywhere. The access goes on when the hook is back.
            let accesses = HookType::MEM_READ | HookType::MEM_WRITE;
            unicorn.add_mem_hook(accesses, 1, 0, move |_, kind, address, size, _| {
                let last =
                    address.saturating_add(u64::try_from(size).unwrap_or(1).saturating_sub(1));
                for at in [address, last] {
                    pager.want(at, kind == MemType::WRITE);
                }
                true
            })?;
        }
        let watched = Arc::clone(link);
        // begin after end: every block.
        unicorn.add_block_hook(1, 0, move |unicorn, address, _| {
            // Virtual, which is taken for physical here.
            if let Some(pager) = &pager {
                pager.want(address, false);
            }
            if wanted(unicorn, &watched) {
                unicorn.get_data_mut().asked = true;
                let _ = unicorn.emu_stop();
            }
        })?;
        unicorn.add_intr_hook(|unicorn, number| {
            unicorn.get_data_mut().exception = Some(number);
            let _ = unicorn.emu_stop();
        })?;
        unicorn.add_mem_hook(
            HookType::MEM_UNMAPPED | HookType::MEM_PROT,
            1,
            0,
            |unicorn, kind, address, _, _| {
                unicorn.get_data_mut().fault = Some(Fault {
                    address,
                    fetch: matches!(kind, MemType::FETCH_UNMAPPED | MemType::FETCH_PROT),
                    write: matches!(kind, MemType::WRITE_UNMAPPED | MemType::WRITE_PROT),
                });
                false
            },
        )?;
        let mut cpu = Self { unicorn, mpidr: Box::new(MPIDR_RES1 | u64::from(number)) };
        cpu.hook_mpidr()?;
        Ok(cpu)
    }

    /// Each emulator believes to be CPU 0. Not by the crate's own hook: its answer is a bool where
    /// the C side reads 32 bits, so that a false may be taken for a true.
    fn hook_mpidr(&mut self) -> Result<()> {
        let mut hook: uc_hook = 0;
        // SAFETY: the callback has the type that goes with MRS; the value it gets is dropped after
        // the emulator, which is the first field.
        unsafe {
            sys::uc_hook_add(
                self.unicorn.get_handle(),
                (&raw mut hook).cast(),
                HookType::INSN.0.try_into().map_err(|_| uc_error::HOOK)?,
                read_mpidr as *mut c_void,
                (&raw mut *self.mpidr).cast(),
                1,
                0,
                Arm64Insn::UC_ARM64_INS_MRS,
            )
        }
        .into()
    }

    /// Maps a shared page that the guest has from now on: readable and writable, never executable.
    pub fn map_shared(&mut self, address: u64, host: NonNull<u8>) -> Result<()> {
        // SAFETY: a page of the ram, which lives longer than this CPU.
        unsafe {
            self.unicorn.mem_map_ptr(
                address,
                crate::page_size(),
                Prot::READ | Prot::WRITE,
                host.as_ptr().cast(),
            )
        }
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
            (_, Trap { exception: Some(number), .. }) => Stop::Exception(number),
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

    /// Takes an exception to EL1: `offset` of the vector for the current EL's own stack, and what
    /// goes to ESR and FAR. False: there is no vector that could be executed.
    pub fn enter(&mut self, offset: u64, syndrome: Option<(u64, u64)>) -> Result<bool> {
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
        // Below, a read would be the guest's MMIO.
        if target < MMIO_END || self.instruction(target).is_err() || target == pc {
            return Ok(false);
        }
        if matches!(pstate & MODE, EL0T | EL1T) {
            let sp = self.unicorn.reg_read(RegisterARM64::SP)?;
            self.set(RegisterARM64::SP_EL0, sp)?;
            let sp = self.unicorn.reg_read(RegisterARM64::SP_EL1)?;
            self.set_sp(sp)?;
        }
        self.set(RegisterARM64::ELR_EL1, pc)?;
        if let Some((esr, far)) = syndrome {
            self.set(RegisterARM64::ESR_EL1, esr)?;
            self.set(RegisterARM64::FAR_EL1, far)?;
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

/// Answers an MRS of MPIDR_EL1; 0: of another register, which the emulator knows itself.
unsafe extern "C" fn read_mpidr(
    unicorn: *mut uc_engine,
    to: RegisterARM64,
    register: *const RegisterARM64CP,
    mpidr: *const u64,
) -> u32 {
    // SAFETY: the emulator passes its own live struct.
    let register = unsafe { &*register };
    let named = (register.op0, register.op1, register.crn, register.crm, register.op2);
    if named != MPIDR_EL1 {
        return 0;
    }
    // SAFETY: the emulator's own handle, and the value that the hook was made with.
    let set = unsafe { sys::uc_reg_write(unicorn, to.into(), mpidr.cast()) };
    u32::from(set == uc_error::OK)
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
