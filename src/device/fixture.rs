// SPDX-License-Identifier: Apache-2.0
//! A driver's side of a queue, in tests.

use std::sync::atomic::Ordering;

use super::queue::{Queue, QueueLayout, QueueRules};
use crate::memory::{GuestMemory, Segment, Window};

/// Where memory begins, and how much there is.
pub(super) const BASE: u64 = 0x4000_0000;
pub(super) const SIZE: u64 = 1 << 20;
/// Where buffers are; the queue is before.
pub(super) const BUFFERS: u64 = BASE + 0x1_0000;

pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;

/// A guest's driver with one queue.
pub(super) struct Driver {
    pub window: Window,
    pub layout: QueueLayout,
    // What it has made available and what it has taken back.
    available: u16,
    taken: u16,
    // Where the next buffer goes.
    next_buffer: u64,
}

impl Driver {
    pub fn new(size: u16) -> Self {
        Self::with_memory(size, SIZE)
    }

    /// One with so much memory.
    pub fn with_memory(size: u16, memory: u64) -> Self {
        let memory = GuestMemory::of(&[(BASE, memory)]).unwrap();
        let layout = QueueLayout {
            size,
            descriptors: BASE + 0x1000,
            driver: BASE + 0x3000,
            device: BASE + 0x4000,
        };
        let window = memory.for_devices();
        Self { window, layout, available: 0, taken: 0, next_buffer: BUFFERS }
    }

    /// The device's side of its queue.
    pub fn queue(&self, rules: QueueRules) -> Queue {
        Queue::new(&self.window, 256, self.layout, rules).unwrap()
    }

    /// Writes a descriptor of the queue's table.
    pub fn describe(&self, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        self.describe_in(self.layout.descriptors, index, address, len, flags, next);
    }

    /// Writes a descriptor of any table.
    pub fn describe_in(
        &self,
        table: u64,
        index: u16,
        address: u64,
        len: u32,
        flags: u16,
        next: u16,
    ) {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.window.write(table + 16 * u64::from(index), &bytes).unwrap();
    }

    /// Makes the request at descriptor `head` available.
    pub fn offer(&mut self, head: u16) {
        let slot = u64::from(self.available % self.layout.size);
        self.window.store_u16(self.layout.driver + 4 + 2 * slot, head, Ordering::Relaxed).unwrap();
        self.available = self.available.wrapping_add(1);
        self.publish(self.available);
    }

    /// Writes the index of the available ring.
    pub fn publish(&self, index: u16) {
        self.window.store_u16(self.layout.driver + 2, index, Ordering::Release).unwrap();
    }

    /// Writes the flags of the available ring.
    pub fn flags(&self, flags: u16) {
        self.window.store_u16(self.layout.driver, flags, Ordering::Relaxed).unwrap();
    }

    /// Wants an interrupt once the used ring's index passes `index`.
    pub fn used_event(&self, index: u16) {
        let at = self.layout.driver + 4 + 2 * u64::from(self.layout.size);
        self.window.store_u16(at, index, Ordering::Relaxed).unwrap();
    }

    /// The index from which on the device wants kicks.
    pub fn available_event(&self) -> u16 {
        let at = self.layout.device + 4 + 8 * u64::from(self.layout.size);
        self.window.load_u16(at, Ordering::Relaxed).unwrap()
    }

    /// The flags of the used ring.
    pub fn device_flags(&self) -> u16 {
        self.window.load_u16(self.layout.device, Ordering::Relaxed).unwrap()
    }

    /// A buffer with these bytes.
    pub fn buffer(&mut self, bytes: &[u8]) -> Segment {
        let address = self.next_buffer;
        self.window.write(address, bytes).unwrap();
        self.next_buffer += bytes.len() as u64;
        Segment { address, len: u32::try_from(bytes.len()).unwrap() }
    }

    /// Offers a request at descriptor 0: what is read, and room for what is written.
    pub fn request(&mut self, readable: &[Segment], writable: &[Segment]) {
        let last = readable.len() + writable.len() - 1;
        let write = (0..=last).map(|index| if index < readable.len() { 0 } else { WRITE });
        for (index, (segment, write)) in readable.iter().chain(writable).zip(write).enumerate() {
            let next = if index < last { NEXT } else { 0 };
            let index = u16::try_from(index).unwrap();
            self.describe(index, segment.address, segment.len, write | next, index + 1);
        }
        self.offer(0);
    }

    /// What the device has given back since last asked: heads and bytes written.
    pub fn taken(&mut self) -> Vec<(u32, u32)> {
        let index = self.window.load_u16(self.layout.device + 2, Ordering::Acquire).unwrap();
        let mut all = Vec::new();
        while self.taken != index {
            let slot = u64::from(self.taken % self.layout.size);
            let bytes = self.bytes(self.layout.device + 4 + 8 * slot, 8);
            let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            all.push((word(0), word(4)));
            self.taken = self.taken.wrapping_add(1);
        }
        all
    }

    /// So many bytes of memory.
    pub fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.window.read(address, &mut bytes).unwrap();
        bytes
    }
}
