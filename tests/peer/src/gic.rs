// SPDX-License-Identifier: Apache-2.0
//! A GICv3 (Arm IHI 0069) for one CPU, and how often it was interrupted.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

const DISTRIBUTOR: usize = 0x3fff_0000;
const CTLR: usize = 0x0;
const IGROUPR: usize = 0x80;
const ISENABLER: usize = 0x100;
const ICFGR: usize = 0xc00;
const IROUTER: usize = 0x6000;

static TAKEN: AtomicU32 = AtomicU32::new(0);

fn change(offset: usize, change: impl FnOnce(u32) -> u32) {
    let register = (DISTRIBUTOR + offset) as *mut u32;
    // SAFETY: a register of the distributor.
    unsafe { register.write_volatile(change(register.read_volatile())) };
}

/// Enables shared peripheral interrupt `spi`, by edge or by level.
pub fn enable(spi: u32, edge: bool) {
    let interrupt = (spi + 32) as usize;
    let (word, bit) = (interrupt / 32 * 4, 1 << (interrupt % 32));
    // Group 1, by affinity, to CPU 0.
    change(CTLR, |_| 0x12);
    change(IGROUPR + word, |old| old | bit);
    let trigger = 2 << (interrupt % 16 * 2);
    change(ICFGR + interrupt / 16 * 4, |old| if edge { old | trigger } else { old & !trigger });
    let route = (DISTRIBUTOR + IROUTER + interrupt * 8) as *mut u64;
    // SAFETY: a register of the distributor.
    unsafe { route.write_volatile(0) };
    change(ISENABLER + word, |_| bit);
    // SAFETY: registers of the CPU interface: system registers on, lowest priority, group 1.
    unsafe {
        asm!(
            "msr S3_0_C12_C12_5, {on}", "isb",
            "msr S3_0_C4_C6_0, {lowest}",
            "msr S3_0_C12_C12_7, {on}", "isb",
            "msr daifclr, #2",
            on = in(reg) 1u64, lowest = in(reg) 0xffu64,
        );
    }
}

/// How often it was interrupted.
pub fn taken() -> u32 {
    TAKEN.load(Ordering::Relaxed)
}

/// Sleeps until it was interrupted more often than `seen`.
pub fn wait(seen: u32) {
    while taken() == seen {
        // SAFETY: with interrupts masked WFI wakes for one all the same, and none is missed before it.
        unsafe { asm!("msr daifset, #2") };
        if taken() == seen {
            // SAFETY: as above.
            unsafe { asm!("wfi") };
        }
        // SAFETY: the interrupt comes now.
        unsafe { asm!("msr daifclr, #2", "isb") };
    }
}

#[no_mangle]
extern "C" fn peer_interrupt() {
    let interrupt: u64;
    // SAFETY: ICC_IAR1_EL1.
    unsafe { asm!("mrs {}, S3_0_C12_C12_0", out(reg) interrupt) };
    if interrupt < 1020 {
        // One CPU: nobody else counts. Exclusive accesses want memory that is cached.
        TAKEN.store(taken().wrapping_add(1), Ordering::Relaxed);
        // SAFETY: ICC_EOIR1_EL1.
        unsafe { asm!("msr S3_0_C12_C12_1, {}", in(reg) interrupt) };
    }
}
