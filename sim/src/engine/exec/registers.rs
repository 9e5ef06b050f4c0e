// SPDX-License-Identifier: Apache-2.0
//! System registers that the emulator does not have as a guest of the hypervisor finds them: the
//! CPU's number, the virtual counter, and the virtual timer, which it takes for another's (Arm ARM
//! D11.2).

use std::cell::Cell;
use std::ffi::c_void;
use std::time::Duration;

use unicorn_engine::hook::{sys, uc_engine, uc_hook};
use unicorn_engine::{uc_error, Arm64Insn, HookType, RegisterARM64, RegisterARM64CP};

use super::clock::{self, Watch};

/// op0, op1, CRn, CRm, op2.
pub type SystemRegister = (u32, u32, u32, u32, u32);
const MPIDR_EL1: SystemRegister = (3, 0, 0, 0, 5);
const CNTKCTL_EL1: SystemRegister = (3, 0, 14, 1, 0);
const CNTPCT_EL0: SystemRegister = (3, 3, 14, 0, 1);
const CNTVCT_EL0: SystemRegister = (3, 3, 14, 0, 2);
const CNTV_TVAL_EL0: SystemRegister = (3, 3, 14, 3, 0);
const CNTV_CTL_EL0: SystemRegister = (3, 3, 14, 3, 1);
const CNTV_CVAL_EL0: SystemRegister = (3, 3, 14, 3, 2);

const MPIDR_RES1: u64 = 1 << 31;
// CNTV_CTL_EL0.
const ENABLE: u64 = 1;
const IMASK: u64 = 1 << 1;
const ISTATUS: u64 = 1 << 2;
// CNTKCTL_EL1: what EL0 may have.
const EL0_PCTEN: u64 = 1;
const EL0_VCTEN: u64 = 1 << 1;
const EL0_VTEN: u64 = 1 << 8;
/// PSTATE's exception level.
const LEVEL: u64 = 0xc;

/// A CPU's registers.
#[derive(Debug)]
pub struct Registers {
    number: u32,
    watch: Watch,
    control: Cell<u64>,
    compare: Cell<u64>,
    /// The interrupt controller was told that the timer's line is high.
    pub raised: Cell<bool>,
}

impl Registers {
    /// As after a reset: the timer is off.
    pub fn new(number: u32, watch: Watch) -> Self {
        let (control, compare, raised) = Default::default();
        Self { number, watch, control, compare, raised }
    }

    /// The CPU was idle so long.
    pub fn was_idle(&self, time: Duration) {
        self.watch.was_idle(time);
    }

    /// How long until the timer's line is high; None: it does not get high.
    pub fn timer_left(&self) -> Option<Duration> {
        let on = self.control.get() & (ENABLE | IMASK) == ENABLE;
        on.then(|| clock::duration(self.compare.get().saturating_sub(self.watch.ticks())))
    }

    /// Whether the timer's line is high.
    pub fn timer_line(&self) -> bool {
        self.timer_left().is_some_and(|left| left.is_zero())
    }

    fn read(&self, name: SystemRegister) -> Option<u64> {
        let ticks = || self.watch.ticks();
        match name {
            MPIDR_EL1 => Some(MPIDR_RES1 | u64::from(self.number)),
            CNTVCT_EL0 | CNTPCT_EL0 => Some(ticks()),
            CNTV_CVAL_EL0 => Some(self.compare.get()),
            CNTV_TVAL_EL0 => Some(self.compare.get().wrapping_sub(ticks()) & 0xffff_ffff),
            CNTV_CTL_EL0 => {
                let control = self.control.get();
                let met = control & ENABLE != 0 && self.compare.get() <= ticks();
                Some(if met { control | ISTATUS } else { control })
            }
            _ => None,
        }
    }

    /// False: not one of these.
    fn write(&self, name: SystemRegister, value: u64) -> bool {
        match name {
            CNTV_CTL_EL0 => self.control.set(value & (ENABLE | IMASK)),
            CNTV_CVAL_EL0 => self.compare.set(value),
            CNTV_TVAL_EL0 => {
                // Signed, 32 bits.
                let (low, negative) = (value & 0xffff_ffff, value & 1 << 31 != 0);
                let offset = if negative { low | !0xffff_ffff } else { low };
                self.compare.set(self.watch.ticks().wrapping_add(offset));
            }
            _ => return false,
        }
        true
    }

    /// Answers MRS and MSR of these in place of the emulator. Not by the crate's own hook: its answer
    /// is a bool where the C side reads 32 bits, so that a false may be taken for a true.
    ///
    /// # Safety
    ///
    /// The registers live as long as the emulator.
    pub unsafe fn hook(&self, emulator: *mut uc_engine) -> Result<(), uc_error> {
        let reads = (Arm64Insn::UC_ARM64_INS_MRS, read_register as *mut c_void);
        let writes = (Arm64Insn::UC_ARM64_INS_MSR, write_register as *mut c_void);
        for (instruction, callback) in [reads, writes] {
            let mut hook: uc_hook = 0;
            let kind = HookType::INSN.0.try_into().map_err(|_| uc_error::HOOK)?;
            let own = std::ptr::from_ref(self).cast_mut().cast();
            // SAFETY: the callbacks have the type that goes with these instructions; they only read
            // what they get, which the caller keeps alive.
            let added: Result<(), uc_error> = unsafe {
                sys::uc_hook_add(
                    emulator,
                    (&raw mut hook).cast(),
                    kind,
                    callback,
                    own,
                    1,
                    0,
                    instruction,
                )
            }
            .into();
            added?;
        }
        Ok(())
    }
}

/// Whether the CPU may have this register where it stands; else the emulator refuses it.
fn is_allowed(emulator: *mut uc_engine, name: SystemRegister) -> bool {
    let bit = match name {
        CNTPCT_EL0 => EL0_PCTEN,
        CNTVCT_EL0 => EL0_VCTEN,
        CNTV_CTL_EL0 | CNTV_CVAL_EL0 | CNTV_TVAL_EL0 => EL0_VTEN,
        _ => 0,
    };
    let mut pstate = 0u64;
    let mut control = RegisterARM64CP::new();
    (control.op0, control.op1, control.crn, control.crm, control.op2) = CNTKCTL_EL1;
    // SAFETY: the emulator's own handle, and values of the registers' types.
    let read = unsafe {
        let pstate =
            sys::uc_reg_read(emulator, RegisterARM64::PSTATE.into(), (&raw mut pstate).cast());
        let control =
            sys::uc_reg_read(emulator, RegisterARM64::CP_REG.into(), (&raw mut control).cast());
        (pstate, control)
    };
    read == (uc_error::OK, uc_error::OK) && (pstate & LEVEL != 0 || control.val & bit != 0)
}

fn name_of(register: &RegisterARM64CP) -> SystemRegister {
    (register.op0, register.op1, register.crn, register.crm, register.op2)
}

/// Answers an MRS; 0: of another register, which the emulator knows itself.
unsafe extern "C" fn read_register(
    emulator: *mut uc_engine,
    to: RegisterARM64,
    register: *const RegisterARM64CP,
    registers: *const Registers,
) -> u32 {
    // SAFETY: the emulator passes its own live struct, and what the hook was made with.
    let (register, registers) = unsafe { (&*register, &*registers) };
    // Most are others'.
    if !matches!((register.crn, register.crm), (0, 0) | (14, 0 | 3)) {
        return 0;
    }
    let name = name_of(register);
    let Some(value) = registers.read(name).filter(|_| is_allowed(emulator, name)) else {
        return 0;
    };
    // SAFETY: the emulator's own handle, and a value of the register's type.
    let set = unsafe { sys::uc_reg_write(emulator, to.into(), (&raw const value).cast()) };
    u32::from(set == uc_error::OK)
}

/// Takes an MSR; 0: of another register.
unsafe extern "C" fn write_register(
    emulator: *mut uc_engine,
    _: RegisterARM64,
    register: *const RegisterARM64CP,
    registers: *const Registers,
) -> u32 {
    // SAFETY: the emulator passes its own live struct, and what the hook was made with.
    let (register, registers) = unsafe { (&*register, &*registers) };
    if (register.crn, register.crm) != (14, 3) {
        return 0;
    }
    let name = name_of(register);
    u32::from(is_allowed(emulator, name) && registers.write(name, register.val))
}
