// SPDX-License-Identifier: Apache-2.0
//! The last output of a guest, in memory that supervisor and worker share: what was printed before
//! a worker was killed can still be read.
//!
//! One writer, any number of readers, no locks. A byte has a sequence number that counts from the
//! ring's creation; a reader that fell behind learns how many it lost.

use std::ffi::c_void;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{fence, AtomicU64, AtomicU8, Ordering};

use rustix::fs::{fcntl_add_seals, fstat, ftruncate, memfd_create, MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{madvise, mmap, munmap, Advice, MapFlags, ProtFlags};

use crate::diagnostic::{kinds, Diagnostic};

kinds! {
    RING: Error "console-ring" in Functions {
        "the memory for the console's output cannot be made",
        cause: "the host is out of memory, or this process has as many files open as it may",
        cure: "free memory, or raise `rlimit nofile` in the service's .rc",
    }
}

/// Bytes of output kept, unless said otherwise.
pub const DEFAULT_CAPACITY: usize = 64 << 10;

// The header has a page of its own; its two counters stand on cache lines of their own.
const HEADER: usize = 4096;
const BEGUN: usize = 0;
const END: usize = 128;

const READ_TRIES: usize = 64;

/// Output of one guest. The supervisor creates it before it forks the worker, which maps it again by
/// its descriptor.
#[derive(Debug)]
pub struct Ring {
    fd: OwnedFd,
    map: *mut c_void,
    // A power of two; the mapping has a header more.
    capacity: usize,
}

// SAFETY: the mapping is only touched through atomics, and lives until the Ring is dropped.
unsafe impl Send for Ring {}
// SAFETY: as above.
unsafe impl Sync for Ring {}

/// What one read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Bytes read.
    pub len: usize,
    /// Sequence number to read from next.
    pub next: u64,
    /// Bytes that were overwritten before they could be read.
    pub lost: u64,
}

impl Ring {
    /// A new ring of at least `capacity` bytes, rounded up to a power of two.
    pub fn create(name: &str, capacity: usize) -> Result<Self, Errno> {
        let capacity = capacity.max(HEADER).checked_next_power_of_two();
        let size = capacity.and_then(|capacity| u64::try_from(capacity.checked_add(HEADER)?).ok());
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = memfd_create(format!("console.{name}"), flags)?;
        ftruncate(&fd, size.ok_or(Errno::INVAL)?)?;
        // A worker gone mad must not make the supervisor's reads fault.
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&fd, seals)?;
        Self::map(fd)
    }

    /// Maps the ring behind `fd`, which another process created.
    pub fn map(fd: OwnedFd) -> Result<Self, Errno> {
        let size = usize::try_from(fstat(&fd)?.st_size).unwrap_or(0);
        let capacity = size.checked_sub(HEADER).filter(|capacity| capacity.is_power_of_two());
        let capacity = capacity.ok_or(Errno::INVAL)?;
        let (protection, nowhere) = (ProtFlags::READ | ProtFlags::WRITE, std::ptr::null_mut());
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let map = unsafe { mmap(nowhere, size, protection, MapFlags::SHARED, &fd, 0) }?;
        let ring = Self { fd, map, capacity };
        // Workers of other VMs are forked, too, and this output is none of their business.
        // SAFETY: the range is exactly the mapping made above; the advice changes no byte of it.
        unsafe { madvise(ring.map, size, Advice::LinuxDontFork) }?;
        Ok(ring)
    }

    /// A worker's ring of VM `name`: the supervisor's behind `fd`, or one that ends with the worker.
    pub fn for_worker(fd: Option<OwnedFd>, name: &str) -> Result<Self, Diagnostic> {
        let ring = match fd {
            Some(fd) => Self::map(fd),
            None => Self::create(name, DEFAULT_CAPACITY),
        };
        let errno = |error: Errno| nix::errno::Errno::from_raw(error.raw_os_error());
        ring.map_err(|error| RING.case("mapping the console's ring").errno(errno(error)))
    }

    /// The descriptor by which another process maps it.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Sequence number of the byte that will be written next; 0 if nothing was ever written.
    pub fn end(&self) -> u64 {
        self.counter(END).load(Ordering::Acquire)
    }

    /// Copies output from sequence number `from` on into `into`.
    pub fn read(&self, from: u64, into: &mut [u8]) -> Chunk {
        // The writer can overtake a read, but it is a guest behind traps: the next try will do. Only
        // a header full of nonsense never agrees; then all is lost and nothing hangs.
        (0..READ_TRIES).find_map(|_| self.try_read(from, into)).unwrap_or_else(|| {
            let end = self.end();
            Chunk { len: 0, next: end, lost: end.saturating_sub(from) }
        })
    }

    fn try_read(&self, from: u64, into: &mut [u8]) -> Option<Chunk> {
        let end = self.end();
        // A number from the future can only come from a mistake: begin with what comes next.
        let from = from.min(end);
        let start = from.max(self.oldest(end));
        let wanted = usize::try_from(end - start).unwrap_or(usize::MAX);
        let len = wanted.min(into.len());
        let mut next = start;
        for byte in &mut into[..len] {
            *byte = self.byte(next).load(Ordering::Relaxed);
            next = next.wrapping_add(1);
        }
        // Pairs with the writer's fence: whoever saw a byte of a later round also sees `begun`.
        fence(Ordering::Acquire);
        let begun = self.counter(BEGUN).load(Ordering::Relaxed);
        let intact = self.oldest(begun) <= start;
        intact.then_some(Chunk { len, next, lost: start - from })
    }

    /// All that is still there.
    pub fn tail(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.capacity];
        let chunk = self.read(0, &mut bytes);
        bytes.truncate(chunk.len);
        bytes
    }

    /// Adds a byte; the oldest one goes. A ring has one writer at a time.
    pub(super) fn push(&self, byte: u8) {
        let end = self.counter(END).load(Ordering::Relaxed);
        let next = end.wrapping_add(1);
        self.counter(BEGUN).store(next, Ordering::Relaxed);
        fence(Ordering::Release);
        self.byte(end).store(byte, Ordering::Relaxed);
        self.counter(END).store(next, Ordering::Release);
    }

    /// The oldest byte still there when `end` is the next.
    pub(super) fn oldest(&self, end: u64) -> u64 {
        end.saturating_sub(u64::try_from(self.capacity).unwrap_or(u64::MAX))
    }

    fn counter(&self, offset: usize) -> &AtomicU64 {
        debug_assert!(offset == BEGUN || offset == END);
        // SAFETY: both offsets lie in the header page of the mapping and are aligned to 8.
        unsafe { AtomicU64::from_ptr(self.map.cast::<u8>().add(offset).cast()) }
    }

    fn byte(&self, sequence: u64) -> &AtomicU8 {
        // The low bits are the place; what the cast cuts off is masked away anyway.
        #[allow(clippy::cast_possible_truncation)]
        let at = (sequence as usize) & (self.capacity - 1);
        // SAFETY: `at` is less than the capacity, which the mapping has after its header.
        unsafe { AtomicU8::from_ptr(self.map.cast::<u8>().add(HEADER + at)) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the range is exactly the mapping that `map` made, and nothing refers to it any more.
        let _ = unsafe { munmap(self.map, HEADER + self.capacity) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn ring() -> Arc<Ring> {
        Arc::new(Ring::create("test", 4096).unwrap())
    }

    fn write(ring: &Ring, text: &[u8]) {
        text.iter().for_each(|byte| ring.push(*byte));
    }

    #[test]
    fn what_is_written_is_read_from_any_place() {
        let ring = ring();
        write(&ring, b"hello guest");
        let mut bytes = [0; 5];
        let chunk = ring.read(0, &mut bytes);
        assert_eq!((&bytes[..], chunk), (&b"hello"[..], Chunk { len: 5, next: 5, lost: 0 }));
        let chunk = ring.read(6, &mut bytes);
        assert_eq!((&bytes[..], chunk.next), (&b"guest"[..], 11));
        assert_eq!(ring.read(11, &mut bytes).len, 0);
        assert_eq!(ring.read(99, &mut bytes).next, 11, "a number too high");
        assert_eq!(ring.tail(), b"hello guest");
    }

    #[test]
    fn a_reader_that_fell_behind_learns_what_it_lost() {
        let ring = ring();
        write(&ring, &[b'a'; 4096]);
        write(&ring, b"the end");
        let mut bytes = vec![0; 8192];
        let chunk = ring.read(0, &mut bytes);
        assert_eq!((chunk.len, chunk.lost, chunk.next), (4096, 7, 4103));
        assert!(bytes[..4096].ends_with(b"athe end"));
    }

    #[test]
    fn another_mapping_sees_it_and_a_second_writer_goes_on() {
        let ring = ring();
        write(&ring, b"first ");
        let other = Arc::new(Ring::map(ring.fd().try_clone_to_owned().unwrap()).unwrap());
        write(&other, b"second");
        assert_eq!(ring.tail(), b"first second");
    }

    #[test]
    fn its_size_cannot_be_changed() {
        let ring = ring();
        for size in [0, 1 << 20] {
            assert_eq!(ftruncate(ring.fd(), size), Err(Errno::PERM));
        }
    }

    #[test]
    fn nonsense_in_the_header_reads_as_bytes_and_nothing_worse() {
        let ring = ring();
        let mut bytes = vec![0; 8192];
        for end in [u64::MAX, 1 << 63, 5000] {
            ring.counter(END).store(end, Ordering::Relaxed);
            ring.counter(BEGUN).store(end, Ordering::Relaxed);
            let chunk = ring.read(0, &mut bytes);
            assert_eq!((chunk.len, chunk.next), (4096, end));
            ring.counter(BEGUN).store(u64::MAX, Ordering::Relaxed);
            assert!(ring.read(end - 9, &mut bytes).len <= 9);
        }
    }

    #[test]
    fn a_reader_beside_the_writer_never_sees_a_torn_text() {
        let ring = ring();
        let writer = Arc::clone(&ring);
        let total = 400_000u64;
        std::thread::scope(|scope| {
            scope.spawn(move || (0..total).for_each(|at| writer.push((at % 251) as u8)));
            let mut bytes = [0; 512];
            let mut next = 0;
            while next < total {
                let chunk = ring.read(next, &mut bytes);
                let first = next + chunk.lost;
                for (at, byte) in (first..).zip(&bytes[..chunk.len]) {
                    assert_eq!(u64::from(*byte), at % 251, "at {at}");
                }
                next = chunk.next;
            }
        });
    }

    #[test]
    fn what_is_not_a_ring_has_a_name() {
        let not_a_ring = std::fs::File::open("/dev/null").unwrap();
        let error = Ring::for_worker(Some(not_a_ring.into()), "vm").unwrap_err();
        assert_eq!((&*error.name, error.errno), ("console-ring", Some(libc::EINVAL)));
        assert!(Ring::for_worker(None, "vm").is_ok());
    }
}
