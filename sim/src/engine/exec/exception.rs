// SPDX-License-Identifier: Apache-2.0
//! Exceptions that the guest takes itself: what goes to ESR_EL1 and FAR_EL1.
//!
//! The emulator has worked both out (`env->exception`) when it calls the hook for an exception, and
//! shows them nowhere. They are read from a copy of the CPU's state, at a place that a deliberate
//! exception shows once.

use std::cell::Cell;

use unicorn_engine::hook::{sys, uc_engine};
use unicorn_engine::{uc_error, Prot, Unicorn};

// QEMU's exception numbers, target/arm/cpu.h.
pub const UNDEFINED: u32 = 1;
pub const PREFETCH_ABORT: u32 = 3;
pub const DATA_ABORT: u32 = 4;
pub const HYPERVISOR_CALL: u32 = 11;
pub const SECURE_MONITOR_CALL: u32 = 13;

// ESR_EL1: exception class in bits 31 to 26, instruction length bit 25 (Arm ARM D17.2.37).
const CLASS: u64 = 0x3f << 26;
const EC_INSTRUCTION_ABORT: u64 = 0x21 << 26;
const EC_DATA_ABORT: u64 = 0x25 << 26;
/// Aborts that come from a lower exception level are one class below.
const LOWER: u64 = 1 << 26;
const LENGTH_32: u64 = 1 << 25;
const STATUS: u64 = 0x3f;
/// Synchronous external abort.
const EXTERNAL_ABORT: u64 = 0x10;
/// Translation fault; the lower two bits are the level.
const TRANSLATION_FAULT: u64 = 0x4;
const WRITE_NOT_READ: u64 = 1 << 6;

/// What an exception tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Syndrome {
    /// ESR_EL1.
    pub esr: u64,
    /// FAR_EL1, if it is set.
    pub far: Option<u64>,
}

impl Syndrome {
    /// An instruction that does not exist.
    pub const UNKNOWN: Self = Self { esr: LENGTH_32, far: None };

    /// An access that the hypervisor cannot finish, from EL0 or not.
    pub fn external(address: u64, fetch: bool, write: bool, from_el0: bool) -> Self {
        let class = if fetch { EC_INSTRUCTION_ABORT } else { EC_DATA_ABORT };
        let class = if from_el0 { class - LOWER } else { class };
        let write = if write { WRITE_NOT_READ } else { 0 };
        Self { esr: class | LENGTH_32 | EXTERNAL_ABORT | write, far: Some(address) }
    }

    /// The address of a translation fault. The emulator also takes for one what is none: a table that
    /// the guest does not have reads as zeros.
    pub fn untranslated(&self) -> Option<u64> {
        self.far.filter(|_| self.esr & STATUS & !3 == TRANSLATION_FAULT)
    }
}

/// Where the probe runs: above all that a guest can have.
const PROBE: u64 = 1 << 40;
/// svc #0x5a5a, and what it tells.
const SVC: u32 = 0xd400_0001 | 0x5a5a << 5;
const SVC_SYNDROME: u32 = 0x15 << 26 | 1 << 25 | 0x5a5a;
// The emulator's struct: syndrome u32, fsr u32, vaddress u64, target_el u32.
const VADDRESS: usize = 8;
const TARGET_EL: usize = 16;

/// Reads them.
#[derive(Debug)]
pub struct Exceptions {
    context: *mut sys::uc_context,
    bytes: usize,
    at: Cell<Option<usize>>,
}

impl Exceptions {
    /// For an emulator; [`Exceptions::find`] comes before the first guest.
    pub fn new(emulator: *mut uc_engine) -> Result<Self, uc_error> {
        let mut context = std::ptr::null_mut();
        // SAFETY: the emulator is alive.
        let made: Result<(), uc_error> =
            unsafe { sys::uc_context_alloc(emulator, &raw mut context) }.into();
        made?;
        // SAFETY: as above.
        let bytes = unsafe { sys::uc_context_size(emulator) };
        Ok(Self { context, bytes, at: Cell::new(None) })
    }

    fn word(&self, at: usize) -> Option<u32> {
        let inside = at.checked_add(4).is_some_and(|end| end <= self.bytes);
        // SAFETY: inside what was allocated, and filled by the emulator.
        inside.then(|| unsafe { self.context.cast::<u8>().add(at).cast::<u32>().read_unaligned() })
    }

    /// Inside the hook for an exception: what it tells.
    pub fn told(&self, emulator: *mut uc_engine, number: u32) -> Option<Syndrome> {
        // SAFETY: both are alive, and the context was made for this emulator.
        let saved = unsafe { sys::uc_context_save(emulator, self.context) };
        if saved != uc_error::OK {
            return None;
        }
        let at = self.at.get().or_else(|| {
            let is_probe = |at: &usize| {
                self.word(*at) == Some(SVC_SYNDROME) && self.word(at + TARGET_EL) == Some(1)
            };
            let mut found = (0..self.bytes).step_by(8).filter(is_probe);
            let only = found.next().filter(|_| found.next().is_none());
            self.at.set(only);
            only
        })?;
        let (low, high) = (self.word(at + VADDRESS)?, self.word(at + VADDRESS + 4)?);
        let address = u64::from(high) << 32 | u64::from(low);
        let esr = u64::from(self.word(at)?);
        Some(Syndrome {
            // A class of 0 tells nothing more.
            esr: if esr & CLASS == 0 { Syndrome::UNKNOWN.esr } else { esr },
            far: matches!(number, PREFETCH_ABORT | DATA_ABORT).then_some(address),
        })
    }

    /// Makes the deliberate exception; the hook is in place and calls [`Exceptions::told`].
    pub fn find<D>(&self, emulator: &mut Unicorn<'_, D>) -> Result<(), uc_error> {
        emulator.mem_map(PROBE, crate::page_size(), Prot::READ | Prot::EXEC)?;
        emulator.mem_write(PROBE, &SVC.to_le_bytes())?;
        emulator.emu_start(PROBE, u64::MAX, 0, 0)?;
        emulator.mem_unmap(PROBE, crate::page_size())?;
        match self.at.get() {
            Some(_) => Ok(()),
            None => Err(uc_error::VERSION),
        }
    }
}

impl Drop for Exceptions {
    fn drop(&mut self) {
        // SAFETY: made by uc_context_alloc() and given back once.
        let _ = unsafe { sys::uc_context_free(self.context) };
    }
}
