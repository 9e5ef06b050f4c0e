// SPDX-License-Identifier: Apache-2.0
//! The device's side of a split virtqueue (virtio 1.2, 2.7), in memory that a guest writes whenever it
//! likes.
//!
//! Everything is copied out of guest memory once and then judged: what is done with a descriptor is what was
//! checked. A ring that breaks the rules is a [`Fault`], after which the device is of no use until the driver
//! resets it.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{fence, Ordering};

use crate::diagnostic::{kinds, Diagnostic};
use crate::memory::{Outside, Segment, Window};

kinds! {
    BROKEN: Warning "device-queue-broken" in Run {
        "a driver of the guest broke the rules of its device's queue; the device waits for its reset",
        cause: "a fault of the driver, or other software in the guest wrote over the queue",
        cure: "look at the guest's own log for the driver's messages; restart the VM to have the device back",
    }
    OUTSIDE_POOL: Warning "device-outside-pool" in Run {
        "a driver of the guest put its queue or its data outside the pool, where devices reach nothing",
        cause: "the guest's kernel lacks DMA_RESTRICTED_POOL: it knows no pool and uses memory that is lent",
        cure: "give it a kernel with CONFIG_DMA_RESTRICTED_POOL=y (Android's have it, Debian's have not), or share its memory where the driver allows that",
    }
}

/// Most entries of a ring, and most buffers of one request.
pub const LONGEST: u16 = 256;

const DESCRIPTOR: u64 = 16;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// avail.flags: the driver wants no interrupts. used.flags: the device wants no kicks. Without event_idx.
const QUIET: u16 = 1;
/// Where both rings have their index and their entries.
const INDEX: u64 = 2;
const ENTRIES: u64 = 4;

/// Where the driver has put a queue, as it says: nothing of it is checked yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueLayout {
    /// Entries.
    pub size: u16,
    /// Guest address of the descriptor table.
    pub descriptors: u64,
    /// Guest address of what the driver writes: the available ring.
    pub driver: u64,
    /// Guest address of what the device writes: the used ring.
    pub device: u64,
}

impl QueueLayout {
    /// Whether a queue of a device that has `size_max` entries can be there.
    ///
    /// # Errors
    /// What rule it breaks.
    pub fn check(&self, window: &Window, size_max: u16) -> Result<(), Fault> {
        let size = self.size;
        if !size.is_power_of_two() || size > size_max.min(LONGEST) {
            return Err(Fault::Size(size));
        }
        let entries = u64::from(size);
        // Name, address, alignment, bytes: 2.7.
        for (name, address, align, len) in [
            ("descriptor table", self.descriptors, 16, DESCRIPTOR * entries),
            ("available ring", self.driver, 2, 6 + 2 * entries),
            ("used ring", self.device, 4, 6 + 8 * entries),
        ] {
            if address % align != 0 {
                return Err(Fault::Unaligned(name, address));
            }
            if !window.reaches(address, len) {
                return Err(Fault::RingOutside(name, Outside { address, len }));
            }
        }
        Ok(())
    }
}

/// What device and driver agreed on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueRules {
    /// VIRTIO_F_INDIRECT_DESC.
    pub indirect: bool,
    /// VIRTIO_F_EVENT_IDX.
    pub event_idx: bool,
}

/// A rule that the driver broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("its queue has {0} entries: no power of two, or more than the device has")]
    Size(u16),
    #[error("its {0} is at {1:#x}, which is not aligned")]
    Unaligned(&'static str, u64),
    #[error("its {0} of {len:#x} bytes at guest {address:#x} is outside the memory that devices reach", len = .1.len, address = .1.address)]
    RingOutside(&'static str, Outside),
    #[error("its queue lies across two regions of memory, which its backend does not take")]
    Split,
    #[error(transparent)]
    Outside(#[from] Outside),
    #[error("it made {0} requests available in a queue of {1}")]
    Jump(u16, u16),
    #[error("it names descriptor {0} of a table of {1}")]
    NoDescriptor(u16, u32),
    #[error("a request has more than {0} descriptors, or they form a circle")]
    TooLong(u16),
    #[error("a request has more than 4 GiB")]
    TooLarge,
    #[error("a descriptor has no bytes")]
    Empty,
    #[error("a descriptor to be read follows one to be written")]
    ReadAfterWrite,
    #[error("an indirect descriptor, without VIRTIO_F_INDIRECT_DESC, inside another, or with a next one")]
    Indirect,
    #[error("an indirect descriptor of {0} bytes, which is no table")]
    IndirectSize(u32),
}

impl Fault {
    /// As it is logged. `pool`: devices reach a pool alone.
    pub fn diagnostic(self, queue: Option<usize>, pool: bool) -> Diagnostic {
        let kind = match self {
            Self::RingOutside(..) | Self::Outside(_) if pool => OUTSIDE_POOL,
            _ => BROKEN,
        };
        kind.case(match queue {
            Some(queue) => format!("queue {queue}: {self}"),
            None => self.to_string(),
        })
    }
}

/// A queue in use, from the driver's word that it is ready to its reset.
#[derive(Debug)]
pub struct Queue {
    window: Window,
    layout: QueueLayout,
    rules: QueueRules,
    // The next index of each ring.
    next_available: u16,
    next_used: u16,
    // Requests given back since `must_interrupt` was asked last.
    untold: u32,
    // Those of the request at hand; kept, so that a request allocates nothing.
    segments: Vec<Segment>,
}

/// A request: bytes to be read, then bytes to be written, in buffers all over guest memory.
#[derive(Debug)]
pub struct Chain<'a> {
    /// Names it when it is given back.
    pub head: u16,
    /// What the driver sends.
    pub readable: Readable<'a>,
    /// Where the answer goes.
    pub writable: Writable<'a>,
}

struct Descriptor {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Queue {
    /// The queue that a driver has put at `layout`; the device has `size_max` entries.
    ///
    /// # Errors
    /// It cannot be there.
    pub fn new(
        window: &Window,
        size_max: u16,
        layout: QueueLayout,
        rules: QueueRules,
    ) -> Result<Self, Fault> {
        layout.check(window, size_max)?;
        Ok(Self {
            window: window.clone(),
            layout,
            rules,
            next_available: 0,
            next_used: 0,
            untold: 0,
            segments: Vec::with_capacity(LONGEST.into()),
        })
    }

    /// The next request, if there is one.
    ///
    /// # Errors
    /// The ring is broken.
    pub fn pop(&mut self) -> Result<Option<Chain<'_>>, Fault> {
        if !self.look()? {
            return Ok(None);
        }
        let slot = u64::from(self.next_available & (self.layout.size - 1));
        let head =
            self.window.load_u16(self.layout.driver + ENTRIES + 2 * slot, Ordering::Relaxed)?;
        let readable = self.collect(head)?;
        self.next_available = self.next_available.wrapping_add(1);
        let (readable, writable) = self.segments.split_at(readable);
        Ok(Some(Chain {
            head,
            readable: Readable(Bytes::new(&self.window, readable)),
            writable: Writable(Bytes::new(&self.window, writable)),
        }))
    }

    // Whether the driver's index says that there are requests.
    fn look(&self) -> Result<bool, Fault> {
        // Acquire: the entries and descriptors before it are read after it.
        let published = self.window.load_u16(self.layout.driver + INDEX, Ordering::Acquire)?;
        let waiting = published.wrapping_sub(self.next_available);
        if waiting > self.layout.size {
            return Err(Fault::Jump(waiting, self.layout.size));
        }
        Ok(waiting > 0)
    }

    // Collects the segments of the request at `head`; how many of them are to be read.
    fn collect(&mut self, head: u16) -> Result<usize, Fault> {
        self.segments.clear();
        let (mut table, mut entries) = (self.layout.descriptors, u32::from(self.layout.size));
        // Of the table a circle has more. Indirect tables may be longer than the queue: Linux makes them so.
        let mut longest = self.layout.size;
        let (mut next, mut inside) = (head, false);
        let (mut readable, mut total) = (0, 0u32);
        loop {
            let descriptor = self.descriptor(table, entries, next)?;
            let Descriptor { address, len, flags, .. } = descriptor;
            if flags & INDIRECT != 0 {
                if inside || !self.rules.indirect || flags & NEXT != 0 {
                    return Err(Fault::Indirect);
                }
                if len == 0 || u64::from(len) % DESCRIPTOR != 0 {
                    return Err(Fault::IndirectSize(len));
                }
                (table, entries, longest) = (address, len / 16, LONGEST);
                (next, inside) = (0, true);
                continue;
            }
            if self.segments.len() >= longest.into() {
                return Err(Fault::TooLong(longest));
            }
            if len == 0 {
                return Err(Fault::Empty);
            }
            if !self.window.reaches(address, len.into()) {
                return Err(Outside { address, len: len.into() }.into());
            }
            total = total.checked_add(len).ok_or(Fault::TooLarge)?;
            if flags & WRITE == 0 {
                if readable < self.segments.len() {
                    return Err(Fault::ReadAfterWrite);
                }
                readable += 1;
            }
            self.segments.push(Segment { address, len });
            if flags & NEXT == 0 {
                return Ok(readable);
            }
            next = descriptor.next;
        }
    }

    // Reads one descriptor, once.
    fn descriptor(&self, table: u64, entries: u32, index: u16) -> Result<Descriptor, Fault> {
        if u32::from(index) >= entries {
            return Err(Fault::NoDescriptor(index, entries));
        }
        let outside = Outside { address: table, len: DESCRIPTOR * u64::from(entries) };
        let address = table.checked_add(DESCRIPTOR * u64::from(index)).ok_or(outside)?;
        let mut bytes = [0; 16];
        self.window.read(address, &mut bytes)?;
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        Ok(Descriptor {
            address: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            len: u32::from_le_bytes([i, j, k, l]),
            flags: u16::from_le_bytes([m, n]),
            next: u16::from_le_bytes([o, p]),
        })
    }

    /// How many requests it has at most.
    pub fn size(&self) -> u16 {
        self.layout.size
    }

    /// Gives the request `head` back, with so many bytes written.
    pub fn push(&mut self, head: u16, written: u32) -> Result<(), Fault> {
        self.push_all(&[(head, written)])
    }

    /// Gives several back, each with its bytes written, which the driver sees at once.
    pub fn push_all(&mut self, requests: &[(u16, u32)]) -> Result<(), Fault> {
        for (head, written) in requests {
            let slot = u64::from(self.next_used & (self.layout.size - 1));
            let mut entry = [0; 8];
            entry[..2].copy_from_slice(&head.to_le_bytes());
            entry[4..].copy_from_slice(&written.to_le_bytes());
            self.window.write(self.layout.device + ENTRIES + 8 * slot, &entry)?;
            self.next_used = self.next_used.wrapping_add(1);
            self.untold = self.untold.saturating_add(1);
        }
        // Release: the answer and the entry are there before the index says so.
        self.window.store_u16(self.layout.device + INDEX, self.next_used, Ordering::Release)?;
        Ok(())
    }

    /// Whether the driver wants an interrupt for what was given back since this was asked last.
    pub fn must_interrupt(&mut self) -> Result<bool, Fault> {
        let given = std::mem::take(&mut self.untold);
        if given == 0 {
            return Ok(false);
        }
        // The driver tells its wish, then looks at our index: we have written that, and look at its wish.
        fence(Ordering::SeqCst);
        let QueueLayout { driver, size, .. } = self.layout;
        if self.rules.event_idx {
            let event = driver + ENTRIES + 2 * u64::from(size);
            let event = self.window.load_u16(event, Ordering::Relaxed)?;
            let since = self.next_used.wrapping_sub(event).wrapping_sub(1);
            return Ok(u32::from(since) < given);
        }
        let flags = self.window.load_u16(driver, Ordering::Relaxed)?;
        Ok(flags & QUIET == 0)
    }

    /// Asks for a kick at the next request; whether one has come already, for which there may be no kick.
    pub fn want_kicks(&mut self) -> Result<bool, Fault> {
        let QueueLayout { device, size, .. } = self.layout;
        let (at, value) = match self.rules.event_idx {
            true => (device + ENTRIES + 8 * u64::from(size), self.next_available),
            false => (device, 0),
        };
        self.window.store_u16(at, value, Ordering::Relaxed)?;
        // The driver writes its index, then looks at our wish: we have told that, and look at its index.
        fence(Ordering::SeqCst);
        self.look()
    }

    /// Asks for no kicks while requests are taken anyway.
    pub fn want_no_kicks(&mut self) -> Result<(), Fault> {
        // With event_idx, an index that is passed asks for nothing more.
        if !self.rules.event_idx {
            self.window.store_u16(self.layout.device, QUIET, Ordering::Relaxed)?;
        }
        Ok(())
    }
}

/// What is left of the bytes of a request that are to be read.
#[derive(Debug, Clone)]
pub struct Readable<'a>(Bytes<'a>);

/// What is left of the bytes of a request that are to be written.
#[derive(Debug, Clone)]
pub struct Writable<'a>(Bytes<'a>);

#[derive(Debug, Clone)]
struct Bytes<'a> {
    window: &'a Window,
    segments: &'a [Segment],
    // Gone already of the first one.
    skip: u32,
    // Left in all.
    len: u32,
}

impl<'a> Bytes<'a> {
    fn new(window: &'a Window, segments: &'a [Segment]) -> Self {
        // `Queue::collect` saw that the sum fits.
        let len = segments.iter().fold(0, |sum: u32, segment| sum.saturating_add(segment.len));
        Self { window, segments, skip: 0, len }
    }

    /// What is left, segment by segment.
    fn segments(&self) -> impl Iterator<Item = Segment> + use<'a> {
        let (mut skip, mut left) = (self.skip, self.len);
        self.segments.iter().map_while(move |segment| {
            let skipped = std::mem::take(&mut skip);
            let len = segment.len.saturating_sub(skipped).min(left);
            left -= len;
            // The whole segment is inside the window: no overflow.
            let address = segment.address.wrapping_add(skipped.into());
            (len > 0).then_some(Segment { address, len })
        })
    }

    /// Takes the first `len` bytes off; all where there are fewer.
    fn split(&mut self, len: u32) -> Self {
        let len = len.min(self.len);
        let front = Self { len, ..self.clone() };
        self.len -= len;
        let mut gone = len;
        while let Some((first, rest)) = self.segments.split_first() {
            let here = first.len - self.skip;
            if gone < here {
                self.skip += gone;
                break;
            }
            gone -= here;
            (self.segments, self.skip) = (rest, 0);
        }
        front
    }
}

/// The same for both.
macro_rules! bytes {
    ($name:ident) => {
        impl $name<'_> {
            /// Bytes left.
            pub fn len(&self) -> u32 {
                self.0.len
            }

            /// No bytes are left.
            pub fn is_empty(&self) -> bool {
                self.0.len == 0
            }

            /// Takes the first `len` bytes off; all where there are fewer.
            pub fn split(&mut self, len: u32) -> Self {
                Self(self.0.split(len))
            }

            /// What is left, segment by segment.
            pub fn segments(&self) -> impl Iterator<Item = Segment> + use<'_> {
                self.0.segments()
            }
        }
    };
}
bytes!(Readable);
bytes!(Writable);

impl Readable<'_> {
    /// Copies the next bytes into `into`; returns how many there were.
    pub fn read(&mut self, into: &mut [u8]) -> Result<usize, Outside> {
        let front = self.0.split(u32::try_from(into.len()).unwrap_or(u32::MAX));
        let mut done = 0;
        for segment in front.segments() {
            let end = done + usize::try_from(segment.len).unwrap_or(usize::MAX);
            let Some(part) = into.get_mut(done..end) else { break };
            self.0.window.read(segment.address, part)?;
            done = end;
        }
        Ok(done)
    }

    /// Sends all that is left to `file` as one packet.
    pub fn send(&self, file: BorrowedFd<'_>) -> io::Result<usize> {
        self.0.window.send(file, self.0.segments())
    }

    /// Writes all that is left to `file` from `offset` on.
    pub fn write_to(&self, file: BorrowedFd<'_>, offset: u64) -> io::Result<()> {
        self.0.window.write_file(file, offset, self.0.segments())
    }
}

impl Writable<'_> {
    /// Copies `bytes` to where they are next to go; returns how many there was room for.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, Outside> {
        let front = self.0.split(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        let mut done = 0;
        for segment in front.segments() {
            let end = done + usize::try_from(segment.len).unwrap_or(usize::MAX);
            let Some(part) = bytes.get(done..end) else { break };
            self.0.window.write(segment.address, part)?;
            done = end;
        }
        Ok(done)
    }

    /// Fills all that is left with what `file` has from `offset` on.
    pub fn read_from(&self, file: BorrowedFd<'_>, offset: u64) -> io::Result<()> {
        self.0.window.read_file(file, offset, self.0.segments())
    }
}

#[cfg(test)]
mod tests;
