// SPDX-License-Identifier: Apache-2.0
//! What devices cost, against peers in the same run. `cargo xtask bench devices` runs it; what it prints are
//! medians, and their ratios.

#![allow(clippy::unwrap_used)] // What fails here ends the benchmark.

use std::time::{Duration, Instant};

use gunyahd::device::{Queue, QueueLayout, QueueRules};
use gunyahd::memory::{GuestMemory, Window};
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const BASE: u64 = 0x4000_0000;
const SIZE: u64 = 0x10_0000;
const AVAILABLE: u64 = BASE + 0x1000;
const USED: u64 = BASE + 0x2000;
const BUFFERS: u64 = BASE + 0x1_0000;

const ENTRIES: u16 = 256;
/// Requests at a time.
const BATCH: u16 = 64;
const ROUNDS: usize = 20_000;

fn main() {
    ring();
}

/// A request of three descriptors, as a disk has it: the head is read, the status written, it is given back,
/// and the driver's wish for interrupts looked at.
fn ring() {
    println!(
        "ring: ns a request of three descriptors, {BATCH} at a time, {ROUNDS} times; medians\n"
    );
    println!("{:>10} {:>10} {:>14} {:>8}", "event_idx", "gunyahd", "virtio-queue", "ratio");
    for event_idx in [false, true] {
        let (mut ours, mut theirs) = (Ours::new(event_idx), Theirs::new(event_idx));
        let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
        // By turns: whatever else the machine does meets both.
        for _ in 0..ROUNDS {
            our_times.push(ours.batch());
            their_times.push(theirs.batch());
        }
        let (ours, theirs) = (each(our_times), each(their_times));
        println!("{event_idx:>10} {ours:>10.1} {theirs:>14.1} {:>8.2}", theirs / ours);
    }
}

/// Median of a request's nanoseconds.
fn each(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e9 / f64::from(BATCH)
}

/// The descriptors of a batch: request by request, head, data, status.
fn table() -> Vec<u8> {
    let mut table = Vec::new();
    for index in 0..3 * BATCH {
        let (len, flags): (u32, u16) = [(16, 1), (4096, 1 | 2), (1, 2)][usize::from(index % 3)];
        let address = BUFFERS + 0x1000 * u64::from(index);
        table.extend(address.to_le_bytes());
        table.extend(len.to_le_bytes());
        table.extend(flags.to_le_bytes());
        table.extend((index + 1).to_le_bytes());
    }
    table
}

struct Ours {
    window: Window,
    queue: Queue,
    index: u16,
}

impl Ours {
    fn new(event_idx: bool) -> Self {
        let window = GuestMemory::of(&[(BASE, SIZE)]).unwrap().window(false, |_| true);
        window.write(BASE, &table()).unwrap();
        let layout =
            QueueLayout { size: ENTRIES, descriptors: BASE, driver: AVAILABLE, device: USED };
        let rules = QueueRules { indirect: true, event_idx };
        let queue = Queue::new(&window, ENTRIES, layout, rules).unwrap();
        Self { window, queue, index: 0 }
    }

    fn batch(&mut self) -> Duration {
        for request in 0..BATCH {
            let slot = u64::from(self.index.wrapping_add(request) % ENTRIES);
            self.window.write(AVAILABLE + 4 + 2 * slot, &(3 * request).to_le_bytes()).unwrap();
        }
        self.index = self.index.wrapping_add(BATCH);
        self.window.write(AVAILABLE + 2, &self.index.to_le_bytes()).unwrap();
        let begun = Instant::now();
        let mut served = 0;
        while let Some(mut chain) = self.queue.pop().unwrap() {
            let mut head = [0; 16];
            assert_eq!(chain.readable.read(&mut head).unwrap(), 16);
            let _ = chain.writable.split(chain.writable.len() - 1);
            chain.writable.write(&[0]).unwrap();
            let head = chain.head;
            self.queue.push(head, 4097).unwrap();
            served += u16::from(self.queue.must_interrupt().is_ok());
        }
        let took = begun.elapsed();
        assert_eq!(served, BATCH);
        took
    }
}

struct Theirs {
    memory: GuestMemoryMmap,
    queue: virtio_queue::Queue,
    index: u16,
}

impl Theirs {
    fn new(event_idx: bool) -> Self {
        let size = usize::try_from(SIZE).unwrap();
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(BASE), size)]).unwrap();
        memory.write_slice(&table(), GuestAddress(BASE)).unwrap();
        let mut queue = virtio_queue::Queue::new(ENTRIES).unwrap();
        let low = |address: u64| u32::try_from(address).ok();
        queue.set_desc_table_address(low(BASE), None);
        queue.set_avail_ring_address(low(AVAILABLE), None);
        queue.set_used_ring_address(low(USED), None);
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        assert!(queue.is_valid(&memory));
        Self { memory, queue, index: 0 }
    }

    fn batch(&mut self) -> Duration {
        for request in 0..BATCH {
            let slot = u64::from(self.index.wrapping_add(request) % ENTRIES);
            let at = GuestAddress(AVAILABLE + 4 + 2 * slot);
            self.memory.write_obj(3 * request, at).unwrap();
        }
        self.index = self.index.wrapping_add(BATCH);
        self.memory.write_obj(self.index, GuestAddress(AVAILABLE + 2)).unwrap();
        let begun = Instant::now();
        let mut served = 0;
        while let Some(chain) = self.queue.iter(&self.memory).unwrap().next() {
            let index = chain.head_index();
            let mut head = [0u8; 16];
            let mut last = GuestAddress(0);
            for (at, descriptor) in chain.enumerate() {
                if at == 0 {
                    self.memory.read_slice(&mut head, descriptor.addr()).unwrap();
                }
                last = descriptor.addr();
            }
            self.memory.write_obj(0u8, last).unwrap();
            self.queue.add_used(&self.memory, index, 4097).unwrap();
            served += u16::from(self.queue.needs_notification(&self.memory).is_ok());
        }
        let took = begun.elapsed();
        assert_eq!(served, BATCH);
        took
    }
}
