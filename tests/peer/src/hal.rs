// SPDX-License-Identifier: Apache-2.0
//! Memory that devices reach: the pool, where there is one, through which everything is copied; else all.

use core::ptr::NonNull;

use virtio_drivers::{BufferDirection, Hal, PhysAddr, PAGE_SIZE};

/// Pages of its own for rings, where there is no pool.
const OWN: usize = 64;
/// Buffers of a pool: so many, each so large. Some drivers leave theirs taken when they go.
const SLOTS: usize = 24;
const SLOT: usize = 128 << 10;

#[repr(C, align(4096))]
struct Pages([u8; OWN * PAGE_SIZE]);

static mut PAGES: Pages = Pages([0; OWN * PAGE_SIZE]);
/// The pool's base, 0: there is none.
static mut POOL: usize = 0;
/// Pages given out of either.
static mut USED: usize = 0;
static mut TAKEN: [bool; SLOTS] = [false; SLOTS];

/// The pool lies at `base`.
pub fn use_pool(base: u64) {
    // SAFETY: one CPU, and interrupts touch nothing of it.
    unsafe { POOL = base as usize };
}

/// One CPU's memory.
pub struct Memory;

// SAFETY: pages are given out once; buffers are copied to and from slots that are used once at a time.
unsafe impl Hal for Memory {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        // SAFETY: as in use_pool; the pool's pages are zero.
        unsafe {
            let base = match POOL {
                0 => &raw mut PAGES as usize,
                pool => pool,
            };
            let at = base + USED * PAGE_SIZE;
            USED += pages;
            assert!(USED <= OWN, "no more pages for rings");
            (at as u64, NonNull::new_unchecked(at as *mut u8))
        }
    }

    unsafe fn dma_dealloc(_: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        0
    }

    unsafe fn mmio_phys_to_virt(paddr: PhysAddr, _: usize) -> NonNull<u8> {
        // SAFETY: no device is at 0.
        unsafe { NonNull::new_unchecked(paddr as *mut u8) }
    }

    unsafe fn share(buffer: NonNull<[u8]>, direction: BufferDirection) -> PhysAddr {
        // SAFETY: as in use_pool; the buffer is not touched meanwhile.
        unsafe {
            if POOL == 0 {
                return buffer.cast::<u8>().as_ptr() as u64;
            }
            assert!(buffer.len() <= SLOT, "a buffer larger than a slot");
            let taken = &mut *&raw mut TAKEN;
            let slot = taken.iter().position(|taken| !taken).expect("no slot is free");
            taken[slot] = true;
            let at = POOL + OWN * PAGE_SIZE + slot * SLOT;
            if direction != BufferDirection::DeviceToDriver {
                copy(buffer.cast().as_ptr(), at as *mut u8, buffer.len());
            }
            at as u64
        }
    }

    unsafe fn unshare(paddr: PhysAddr, buffer: NonNull<[u8]>, direction: BufferDirection) {
        // SAFETY: as above.
        unsafe {
            if POOL == 0 {
                return;
            }
            if direction != BufferDirection::DriverToDevice {
                copy(paddr as *const u8, buffer.cast().as_ptr(), buffer.len());
            }
            let slot = (paddr as usize - POOL - OWN * PAGE_SIZE) / SLOT;
            TAKEN[slot] = false;
        }
    }
}

/// Byte by byte: with the MMU off every access must be aligned.
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    for at in 0..len {
        // SAFETY: the caller's ranges have so many bytes.
        unsafe { to.add(at).write_volatile(from.add(at).read_volatile()) };
    }
}
