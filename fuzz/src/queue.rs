// SPDX-License-Identifier: Apache-2.0
//! A virtqueue whose driver does what the bytes say, held against the crate `virtio-queue`: both take the same
//! requests, write the same used ring and want the same kicks and interrupts. Where ours is stricter, the
//! request is one that the standard forbids.

use std::cell::RefCell;

use gunyahd::device::{Fault, Queue, QueueLayout, QueueRules};
use gunyahd::memory::{GuestMemory, Window};
use virtio_queue::{Queue as Other, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const BASE: u64 = 0x4000_0000;
const SIZE: u64 = 0x8000;
/// A second region right behind the first, and so a border for buffers to lie on.
const BORDER: u64 = BASE + SIZE;
const END: u64 = BORDER + SIZE;

const DESCRIPTORS: u64 = BASE;
const AVAILABLE: u64 = BASE + 0x1000;
const USED: u64 = BASE + 0x2000;
const TABLE: u64 = BASE + 0x4000;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Most buffers of a request that ours takes.
const LONGEST: usize = 256;

thread_local! {
    // Mapped once: the bytes are cleared for each input.
    static MEMORY: RefCell<Option<(Window, GuestMemoryMmap)>> = const { RefCell::new(None) };
}

/// Inputs to begin with: a driver that keeps the rules, with and without event_idx.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for rules in [0x23, 0x32, 0x31, 0x30, 0x53] {
        let mut seed = vec![rules];
        for round in 0..12 {
            seed.extend([0, 2, 1, 9, 17, 0, 0]); // A request of three descriptors.
            seed.extend([1, 1]); // In an indirect table.
            seed.extend([6, 6, 7, 16, 8, 7, 0]); // Taken, given back.
            seed.extend([11, round, 0, 9, 10]); // An event, an interrupt, kicks.
        }
        seeds.push(seed);
    }
    seeds
}

/// What a driver does, made of bytes.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn half(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes([self.byte()?, self.byte()?]))
    }

    /// Mostly one inside.
    fn address(&mut self) -> Option<u64> {
        let byte = self.byte()?;
        Some(match byte {
            0 => BASE - 1,
            1 => END - 1,
            2 => u64::MAX - 3,
            3 => BORDER - 5,
            4 => END,
            5 => DESCRIPTORS,
            6 => TABLE + 1,
            7 => USED,
            _ => BASE + 0x3000 + 0x40 * u64::from(byte),
        })
    }

    /// Mostly a small one.
    fn len(&mut self) -> Option<u32> {
        let byte = self.byte()?;
        Some(match byte {
            0 => 0,
            1 => u32::MAX,
            2 => 0x8000,
            _ => u32::from(byte),
        })
    }
}

struct Pair {
    window: Window,
    memory: GuestMemoryMmap,
    layout: QueueLayout,
    rules: QueueRules,
    ours: Queue,
    theirs: Other,
    // The driver's index, its next free descriptor, and how many are free.
    index: u16,
    next: u16,
    free: u16,
    // Requests taken and not yet given back.
    held: Vec<u16>,
    // Since the wish for interrupts was looked at last.
    given: u32,
    broken: Option<Fault>,
}

/// Feeds a queue.
pub fn queue(bytes: &[u8]) {
    let _ = breaks(bytes);
}

/// Feeds a queue; what it broke by.
pub fn breaks(bytes: &[u8]) -> Option<Fault> {
    let mut words = Words(bytes);
    let mut pair = Pair::new(words.byte()?)?;
    // `None`: the words or the queue have come to an end.
    while let Some(word) = words.byte() {
        if pair.step(word, &mut words).is_none() {
            break;
        }
    }
    pair.same_memory(USED, 0x1000);
    pair.same_memory(BASE, SIZE);
    pair.broken
}

impl Pair {
    fn new(rules: u8) -> Option<Self> {
        let size = 1u16 << (rules >> 4).min(8);
        let rules = QueueRules { indirect: rules & 1 != 0, event_idx: rules & 2 != 0 };
        let (window, memory) = cleared();
        let layout =
            QueueLayout { size, descriptors: DESCRIPTORS, driver: AVAILABLE, device: USED };
        let ours = Queue::new(&window, 256, layout, rules).ok()?;
        let mut theirs = Other::new(256).expect("a power of two");
        let low = |address: u64| u32::try_from(address).ok();
        theirs.set_size(size);
        theirs.set_desc_table_address(low(DESCRIPTORS), None);
        theirs.set_avail_ring_address(low(AVAILABLE), None);
        theirs.set_used_ring_address(low(USED), None);
        theirs.set_event_idx(rules.event_idx);
        theirs.set_ready(true);
        assert!(theirs.is_valid(&memory));
        let held = Vec::new();
        let (index, next, free, given, broken) = (0, 0, size, 0, None);
        Some(Self {
            window,
            memory,
            layout,
            rules,
            ours,
            theirs,
            index,
            next,
            free,
            held,
            given,
            broken,
        })
    }

    /// One thing that driver or device does.
    fn step(&mut self, word: u8, words: &mut Words<'_>) -> Option<()> {
        let size = self.layout.size;
        match word % 16 {
            0 => self.request(words.byte()? % 5, words)?,
            1 => self.indirect(words)?,
            2 => {
                // One descriptor with any flags.
                let (table, index) = match words.byte()? {
                    byte @ 0..0x80 => (DESCRIPTORS, u16::from(byte) % size),
                    byte => (TABLE, u16::from(byte) % 32),
                };
                let (address, len) = (words.address()?, words.len()?);
                let flags = u16::from(words.byte()?);
                self.describe(table, index, address, len, flags, words.byte()?.into());
            }
            3 => self.offer(words.half()? % (size + 1)),
            4 => {
                self.index = words.half()?;
                self.write(AVAILABLE + 2, &self.index.to_le_bytes());
            }
            5 => {
                let at = BASE + u64::from(words.half()?) % SIZE;
                self.write(at, &[words.byte()?]);
                // An index of its own may have been hit.
                self.index = self.window.load_u16(AVAILABLE + 2, RELAXED).unwrap_or(0);
            }
            6 => self.pop()?,
            7 => self.push(words.byte()?),
            8 => self.push(0),
            9 => self.must_interrupt(),
            10 => self.want_kicks()?,
            11 => {
                let event = words.half()?.to_le_bytes();
                self.write(AVAILABLE + 4 + 2 * u64::from(size), &event);
            }
            12 => self.write(AVAILABLE, &[words.byte()?]),
            13 => {
                self.ours.want_no_kicks().expect("it is inside");
                self.theirs.disable_notification(&self.memory).expect("it is inside");
            }
            // On towards where indices wrap.
            14 => self.go_on(0x400)?,
            _ => self.go_on(words.byte()?.into())?,
        }
        Some(())
    }

    /// The driver makes a good request of `more` descriptors and one.
    fn request(&mut self, more: u8, words: &mut Words<'_>) -> Option<()> {
        let size = self.layout.size;
        // No longer than the queue.
        let more = u8::try_from(size - 1).map_or(more, |most| more.min(most));
        let places: Vec<u8> = (0..5).map(|_| words.byte()).collect::<Option<_>>()?;
        let Some(first) = self.take(more.into()) else { return Some(()) };
        let at = |index: u8| first.wrapping_add(index.into()) % size;
        for (index, place) in (0..=more).zip(places) {
            let write = if index > more / 2 { WRITE } else { 0 };
            let next = if index < more { NEXT } else { 0 };
            let address = BASE + 0x6000 + 0x10 * u64::from(place);
            self.describe(
                DESCRIPTORS,
                at(index),
                address,
                16,
                write | next,
                at(index.wrapping_add(1)),
            );
        }
        self.offer(at(0));
        Some(())
    }

    /// The same in an indirect table.
    fn indirect(&mut self, words: &mut Words<'_>) -> Option<()> {
        let more = words.byte()? % 6;
        let Some(first) = self.take(0) else { return Some(()) };
        let table = TABLE + 0x60 * u64::from(first % 64);
        for index in 0..=more {
            let write = if index > 1 { WRITE } else { 0 };
            let next = if index < more { NEXT } else { 0 };
            let index = u16::from(index);
            self.describe(table, index, BORDER - 8, 24, write | next, index + 1);
        }
        self.describe(DESCRIPTORS, first, table, 16 * (u32::from(more) + 1), INDIRECT, 0);
        self.offer(first);
        Some(())
    }

    /// The first of `more` free descriptors and one, for a good driver: it changes none that the device has yet
    /// to read, and makes no more available than there are entries.
    fn take(&mut self, more: u16) -> Option<u16> {
        let size = self.layout.size;
        if self.index == self.theirs.next_avail() {
            self.free = size.min(64);
        }
        if self.index.wrapping_sub(self.theirs.next_used()) >= size {
            return None;
        }
        self.free = self.free.checked_sub(more + 1)?;
        let first = self.next;
        self.next = (first + more + 1) % size;
        Some(first)
    }

    /// So many requests, taken and given back.
    fn go_on(&mut self, count: u16) -> Option<()> {
        for _ in 0..count {
            let Some(first) = self.take(0) else { break };
            self.describe(DESCRIPTORS, first, BASE, 1, 0, 0);
            self.offer(first);
            self.pop()?;
            self.push(1);
        }
        Some(())
    }

    fn write(&self, address: u64, bytes: &[u8]) {
        self.window.write(address, bytes).expect("it is inside");
        self.memory.write_slice(bytes, GuestAddress(address)).expect("it is inside");
    }

    fn describe(&self, table: u64, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.write(table + 16 * u64::from(index), &bytes);
    }

    fn offer(&mut self, head: u16) {
        let slot = u64::from(self.index % self.layout.size);
        self.write(AVAILABLE + 4 + 2 * slot, &head.to_le_bytes());
        self.index = self.index.wrapping_add(1);
        self.write(AVAILABLE + 2, &self.index.to_le_bytes());
    }

    /// Both take a request; `None` where ours is broken.
    fn pop(&mut self) -> Option<()> {
        let waiting = self.index.wrapping_sub(self.theirs.next_avail());
        let jumps = waiting > self.layout.size;
        let theirs = match self.theirs.iter(&self.memory) {
            Ok(mut iter) => iter.next().map(|chain| {
                let head = chain.head_index();
                // Lazily: a table may have 65535 entries.
                let each = chain.take(LONGEST + 1);
                let each = each.map(|one| (one.addr().0, one.len(), one.flags()));
                (head, each.collect::<Vec<_>>())
            }),
            Err(_) => {
                assert!(jumps, "{waiting}");
                None
            }
        };
        match (self.ours.pop(), theirs) {
            (Ok(None), None) => assert_eq!(waiting, 0),
            (Ok(Some(chain)), Some((head, theirs))) => {
                let readable = chain.readable.segments().map(|one| (one, 0));
                let writable = chain.writable.segments().map(|one| (one, WRITE));
                let all = readable.chain(writable);
                let ours: Vec<_> = all.map(|(one, write)| (one.address, one.len, write)).collect();
                let last = theirs.last().map_or(0, |(_, _, flags)| *flags);
                assert_eq!(last & NEXT, 0, "they cut it: {theirs:x?}");
                let theirs: Vec<_> = theirs
                    .iter()
                    .map(|(address, len, flags)| (*address, *len, flags & WRITE))
                    .collect();
                assert_eq!((chain.head, ours), (head, theirs));
                self.held.push(head);
            }
            (Err(fault), theirs) => {
                self.must_be_a_fault(fault, jumps, theirs.map(|(_, chain)| chain));
                self.broken = Some(fault);
                return None;
            }
            (ours, theirs) => {
                panic!(
                    "head {:?}, but {theirs:x?}",
                    ours.map(|chain| chain.map(|chain| chain.head))
                )
            }
        }
        Some(())
    }

    /// Ours is stricter: what they make of the same request shows that it is forbidden.
    fn must_be_a_fault(&self, fault: Fault, jumps: bool, theirs: Option<Vec<(u64, u32, u16)>>) {
        let chain = theirs.unwrap_or_default();
        let cut = chain.last().is_none_or(|(_, _, flags)| flags & NEXT != 0);
        let write = |(_, _, flags): &(u64, u32, u16)| flags & WRITE != 0;
        match fault {
            Fault::Jump(..) => assert!(jumps),
            // 2.7.5: they leave it to the device to find them.
            Fault::Empty => assert!(chain.iter().any(|(_, len, _)| *len == 0)),
            Fault::ReadAfterWrite => assert!(!chain.is_sorted_by_key(write)),
            Fault::Outside(_) => assert!(
                cut || chain
                    .iter()
                    .any(|(address, len, _)| !self.window.reaches(*address, (*len).into()))
            ),
            // They stop early, and the device sees a part.
            Fault::NoDescriptor(..) | Fault::TooLarge => assert!(cut, "{fault}: {chain:x?}"),
            Fault::TooLong(_) => assert!(cut || chain.len() > LONGEST, "{fault}: {chain:x?}"),
            // They follow it without the feature, and never look at the flag for the next one.
            Fault::Indirect => assert!(cut || !self.rules.indirect || self.next_of_a_table()),
            Fault::IndirectSize(_) => assert!(cut),
            Fault::Size(_) | Fault::Unaligned(..) | Fault::RingOutside(..) | Fault::Split => {
                panic!("{fault}")
            }
        }
    }

    /// Some descriptor is a table's and has a next one.
    fn next_of_a_table(&self) -> bool {
        let both = INDIRECT | NEXT;
        (0..u64::from(self.layout.size)).any(|index| {
            let mut flags = [0; 2];
            self.window.read(DESCRIPTORS + 16 * index + 12, &mut flags).expect("it is inside");
            u16::from_le_bytes(flags) & both == both
        })
    }

    fn push(&mut self, len: u8) {
        let Some(head) = self.held.pop() else { return };
        self.ours.push(head, len.into()).expect("it is inside");
        self.theirs.add_used(&self.memory, head, len.into()).expect("it is inside");
        self.given = self.given.saturating_add(1);
    }

    fn must_interrupt(&mut self) {
        let given = std::mem::take(&mut self.given);
        let ours = self.ours.must_interrupt().expect("it is inside");
        let theirs = self.theirs.needs_notification(&self.memory).expect("it is inside");
        // They always interrupt without event_idx, and count whole rounds of given requests as none.
        let flags = self.window.load_u16(AVAILABLE, RELAXED).expect("it is inside");
        let expected = match self.rules.event_idx {
            true => theirs || given > u16::MAX.into(),
            false => given > 0 && flags & 1 == 0,
        };
        assert_eq!(ours, expected);
    }

    fn want_kicks(&mut self) -> Option<()> {
        let waiting = self.index.wrapping_sub(self.theirs.next_avail());
        let theirs = self.theirs.enable_notification(&self.memory).expect("it is inside");
        match self.ours.want_kicks() {
            Ok(ours) => assert_eq!(ours, theirs),
            Err(fault) => {
                assert_eq!(fault, Fault::Jump(waiting, self.layout.size));
                self.broken = Some(fault);
                return None;
            }
        }
        Some(())
    }

    fn same_memory(&self, from: u64, len: u64) {
        let len = usize::try_from(len).expect("it is small");
        let (mut ours, mut theirs) = (vec![0; len], vec![0; len]);
        self.window.read(from, &mut ours).expect("it is inside");
        self.memory.read_slice(&mut theirs, GuestAddress(from)).expect("it is inside");
        assert!(ours == theirs, "from {from:#x} on memory is not the same");
    }
}

const RELAXED: std::sync::atomic::Ordering = std::sync::atomic::Ordering::Relaxed;

fn cleared() -> (Window, GuestMemoryMmap) {
    MEMORY.with_borrow_mut(|kept| {
        let (window, memory) = kept.get_or_insert_with(|| {
            let memory = GuestMemory::of(&[(BASE, SIZE), (BORDER, SIZE)]).expect("memory");
            let size = usize::try_from(SIZE).expect("it is small");
            let ranges = [(GuestAddress(BASE), size), (GuestAddress(BORDER), size)];
            let theirs = GuestMemoryMmap::from_ranges(&ranges).expect("memory");
            (memory.window(false, |_| true), theirs)
        });
        let zeros = vec![0; usize::try_from(END - BASE).expect("it is small")];
        window.write(BASE, &zeros).expect("it is inside");
        memory.write_slice(&zeros, GuestAddress(BASE)).expect("it is inside");
        (window.clone(), memory.clone())
    })
}
