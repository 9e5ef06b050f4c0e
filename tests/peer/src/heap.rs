// SPDX-License-Identifier: Apache-2.0
//! A heap that is never given back: the peer does not live long.

use core::alloc::{GlobalAlloc, Layout};

const SIZE: usize = 256 << 10;

#[repr(C, align(4096))]
struct Bytes([u8; SIZE]);

static mut BYTES: Bytes = Bytes([0; SIZE]);
static mut USED: usize = 0;

struct Heap;

#[global_allocator]
static HEAP: Heap = Heap;

// SAFETY: bytes are given out once, by one CPU; interrupts allocate nothing.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe {
            let at = USED.next_multiple_of(layout.align());
            if at + layout.size() > SIZE {
                return core::ptr::null_mut();
            }
            USED = at + layout.size();
            (&raw mut BYTES).cast::<u8>().add(at)
        }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}
