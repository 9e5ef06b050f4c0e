// SPDX-License-Identifier: Apache-2.0
//! The way of a console's byte on the vCPU's thread: no allocation, and how long it takes.
#![allow(clippy::unwrap_used)] // A test ends there.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gunyahd::config::{ConsoleConfig, ConsoleDevice};
use gunyahd::console::{Console, Options, Ring, DEFAULT_CAPACITY};
use gunyahd::vcpu::{Bus, Width};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts by thread: the console's own thread may allocate.
struct Counting;

// SAFETY: all work is the system allocator's; counting touches a thread-local number only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps alloc's rules.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const BASE: u64 = 0x0900_0000;
const BYTES: u32 = 200_000;

#[test]
fn a_byte_costs_no_allocation_and_little_time() {
    for (device, flags) in [(ConsoleDevice::Pl011, 0x18), (ConsoleDevice::Ns16550, 5)] {
        let ring = Arc::new(Ring::create("path", DEFAULT_CAPACITY).unwrap());
        let config = ConsoleConfig { device, base: BASE, label: 5, interrupt: 5, virtio: false };
        let options =
            Options { ready: Some("a line * that never comes"), log: true, confined: false };
        let console = Console::start("path", &config, &ring, options).unwrap();
        let mut bus = Bus::new("test");
        console.connect(&mut bus, &config).unwrap();

        let before = ALLOCATIONS.get();
        let begun = Instant::now();
        for count in 0..BYTES {
            // As Linux does it: is there room, then the byte.
            bus.read(BASE + flags, Width::Byte).unwrap();
            let byte = if count % 80 == 79 { b'\n' } else { b'x' };
            assert!(bus.write(BASE, Width::Byte, u64::from(byte)));
        }
        let each = begun.elapsed() / BYTES;
        assert_eq!(ALLOCATIONS.get(), before, "{device:?}");
        println!("{device:?}: {} ns a byte", each.as_nanos());
        // An exit costs some 5 µs; a debug build on a busy machine is far below that, too.
        assert!(each < Duration::from_micros(20), "{each:?} a byte");
        console.stop("the end");
        assert_eq!(ring.end(), u64::from(BYTES));
    }
}
