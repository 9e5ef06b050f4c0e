// SPDX-License-Identifier: Apache-2.0
//! What devices may reach of guest memory, by guest address.
//!
//! The guest writes whenever it likes, so no reference to its bytes is ever made: they are copied, each read
//! exactly once, by relaxed atomics, or the kernel moves them between guest memory and a file.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU16, AtomicU64, AtomicU8, Ordering};
use std::sync::Arc;

use nix::errno::Errno;

use super::mapping::Mapping;

/// The memory of a guest that its devices may reach. A clone is as cheap as a reference and keeps the memory
/// mapped.
#[derive(Debug, Clone)]
pub struct Window {
    pieces: Arc<[Piece]>,
    pool: bool,
}

#[derive(Debug)]
struct Piece {
    base: u64,
    size: usize,
    host: *mut u8,
    // `host` points into it.
    _mapping: Arc<Mapping>,
}

// SAFETY: the pieces' memory is only touched through atomics and by the kernel, and is mapped until the last
// clone is dropped, by whatever thread.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

/// A range of guest memory, of a buffer of the guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Guest address.
    pub address: u64,
    /// Bytes.
    pub len: u32,
}

/// Guest memory that devices cannot reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{len:#x} bytes at guest {address:#x} are outside the memory that devices reach")]
pub struct Outside {
    /// Guest address of the first byte.
    pub address: u64,
    /// Bytes.
    pub len: u64,
}

/// iovecs a call; what is more takes another call.
const BATCH: usize = 64;

/// preadv or pwritev.
type Move = unsafe extern "C" fn(i32, *const libc::iovec, i32, libc::off_t) -> isize;

impl Window {
    /// A window on these mappings, each with its guest address; `pool`: the rest of the guest's memory is lent.
    pub(super) fn new(mappings: impl Iterator<Item = (u64, Arc<Mapping>)>, pool: bool) -> Self {
        let piece = |(base, mapping): (u64, Arc<Mapping>)| {
            let (host, size) = mapping.filled();
            Piece { base, size, host, _mapping: mapping }
        };
        Self { pieces: mappings.map(piece).collect(), pool }
    }

    /// It is a pool: the rest of the guest's memory is lent and out of reach.
    pub fn is_pool(&self) -> bool {
        self.pool
    }

    /// Guest address, size, and address in this process of each of its pieces, for the kernel's vhost.
    pub fn pieces(&self) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        self.pieces.iter().map(|piece| (piece.base, piece.size as u64, piece.host.addr() as u64))
    }

    /// Whether all of these bytes are inside; no bytes are nowhere.
    pub fn reaches(&self, address: u64, len: u64) -> bool {
        let (mut address, mut left) = (address, len);
        loop {
            let Some((_, room)) = self.find(address) else { return false };
            let room = room as u64;
            if left <= room {
                return true;
            }
            left -= room;
            let Some(next) = address.checked_add(room) else { return false };
            address = next;
        }
    }

    /// Reads the two bytes at `address`, an even one, at once.
    pub fn load_u16(&self, address: u64, ordering: Ordering) -> Result<u16, Outside> {
        Ok(u16::from_le(self.u16(address)?.load(ordering)))
    }

    /// Writes two bytes at `address`, an even one, at once.
    pub fn store_u16(&self, address: u64, value: u16, ordering: Ordering) -> Result<(), Outside> {
        self.u16(address)?.store(value.to_le(), ordering);
        Ok(())
    }

    fn u16(&self, address: u64) -> Result<&AtomicU16, Outside> {
        match self.find(address) {
            Some((host, 2..)) if host.addr() % 2 == 0 => {
                // SAFETY: two bytes that are mapped while self lives, and aligned; nobody in this process
                // touches them but by atomics.
                Ok(unsafe { AtomicU16::from_ptr(host.cast()) })
            }
            _ => Err(Outside { address, len: 2 }),
        }
    }

    /// Copies guest memory from `address` on into `into`, each byte read once.
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Outside> {
        let outside = Outside { address, len: into.len() as u64 };
        let (mut address, mut rest) = (address, into);
        while !rest.is_empty() {
            let (host, room) = self.find(address).ok_or(outside)?;
            let (now, later) = rest.split_at_mut(room.min(rest.len()));
            // SAFETY: so many bytes from `host` on are mapped while self lives.
            unsafe { copy_from_guest(host, now) };
            address = address.checked_add(now.len() as u64).ok_or(outside)?;
            rest = later;
        }
        Ok(())
    }

    /// Copies `bytes` into guest memory from `address` on.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Outside> {
        let outside = Outside { address, len: bytes.len() as u64 };
        let (mut address, mut rest) = (address, bytes);
        while !rest.is_empty() {
            let (host, room) = self.find(address).ok_or(outside)?;
            let (now, later) = rest.split_at(room.min(rest.len()));
            // SAFETY: so many bytes from `host` on are mapped while self lives.
            unsafe { copy_to_guest(host, now) };
            address = address.checked_add(now.len() as u64).ok_or(outside)?;
            rest = later;
        }
        Ok(())
    }

    /// Fills `segments` with what `file` has from `offset` on.
    ///
    /// # Errors
    /// The host's; UnexpectedEof where the file ends before the segments do.
    pub fn read_file(
        &self,
        file: BorrowedFd<'_>,
        offset: u64,
        segments: impl Iterator<Item = Segment>,
    ) -> io::Result<()> {
        self.move_all(libc::preadv, file, offset, segments)
    }

    /// Writes what is in `segments` to `file` from `offset` on.
    ///
    /// # Errors
    /// The host's.
    pub fn write_file(
        &self,
        file: BorrowedFd<'_>,
        offset: u64,
        segments: impl Iterator<Item = Segment>,
    ) -> io::Result<()> {
        self.move_all(libc::pwritev, file, offset, segments)
    }

    fn move_all(
        &self,
        call: Move,
        file: BorrowedFd<'_>,
        mut offset: u64,
        segments: impl Iterator<Item = Segment>,
    ) -> io::Result<()> {
        let mut vectors = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH];
        let mut filled = 0;
        for mut segment in segments {
            while segment.len > 0 {
                let (host, len) = self.front(&mut segment)?;
                if filled == BATCH {
                    self.move_batch(call, file, &mut offset, &mut vectors)?;
                    filled = 0;
                }
                vectors[filled] = libc::iovec { iov_base: host.cast::<c_void>(), iov_len: len };
                filled += 1;
            }
        }
        self.move_batch(call, file, &mut offset, &mut vectors[..filled])
    }

    // Takes off what of `segment` is in one piece.
    fn front(&self, segment: &mut Segment) -> io::Result<(*mut u8, usize)> {
        let outside = Outside { address: segment.address, len: segment.len.into() };
        let failed = || io::Error::new(io::ErrorKind::InvalidInput, outside);
        let (host, room) = self.find(segment.address).ok_or_else(failed)?;
        let len = u32::try_from(room).map_or(segment.len, |room| room.min(segment.len));
        segment.address = segment.address.checked_add(len.into()).ok_or_else(failed)?;
        segment.len -= len;
        Ok((host, usize::try_from(len).map_err(|_| failed())?))
    }

    // `vectors` are from `front`. Calls again after a part.
    fn move_batch(
        &self,
        call: Move,
        file: BorrowedFd<'_>,
        offset: &mut u64,
        mut vectors: &mut [libc::iovec],
    ) -> io::Result<()> {
        while let Some(first) = vectors.first_mut() {
            if first.iov_len == 0 {
                vectors = &mut vectors[1..];
                continue;
            }
            let count = i32::try_from(vectors.len()).map_err(|_| Errno::EINVAL)?;
            let at = libc::off_t::try_from(*offset).map_err(|_| Errno::EINVAL)?;
            // SAFETY: `front` found each vector in mapped memory, which stays while self lives; that its
            // bytes change is expected of guest memory, and no reference to them exists.
            let moved = match unsafe { call(file.as_raw_fd(), vectors.as_ptr(), count, at) } {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                moved => usize::try_from(moved),
            };
            let Ok(mut moved) = moved else {
                match Errno::last() {
                    Errno::EINTR => continue,
                    errno => return Err(errno.into()),
                }
            };
            *offset = offset.checked_add(moved as u64).ok_or(Errno::EINVAL)?;
            for vector in &mut *vectors {
                let here = moved.min(vector.iov_len);
                vector.iov_base = vector.iov_base.wrapping_byte_add(here);
                vector.iov_len -= here;
                moved -= here;
            }
        }
        Ok(())
    }

    // Where the byte at `address` is, and how many follow it in its piece, with it. A handful of pieces: a walk
    // is faster than any index.
    fn find(&self, address: u64) -> Option<(*mut u8, usize)> {
        self.pieces.iter().find_map(|piece| {
            let offset = usize::try_from(address.checked_sub(piece.base)?).ok()?;
            let room = piece.size.checked_sub(offset).filter(|room| *room > 0)?;
            Some((piece.host.wrapping_add(offset), room))
        })
    }
}

const WORD: usize = size_of::<u64>();

/// Copies `into.len()` bytes from guest memory.
///
/// # Safety
/// They are mapped.
unsafe fn copy_from_guest(from: *mut u8, into: &mut [u8]) {
    let mut at = 0;
    while let Some(rest) = into.get_mut(at..).filter(|rest| !rest.is_empty()) {
        let from = from.wrapping_add(at);
        at += match rest.first_chunk_mut::<WORD>() {
            Some(word) if from.addr() % WORD == 0 => {
                // SAFETY: by the caller, and aligned.
                let value = unsafe { AtomicU64::from_ptr(from.cast()) }.load(Ordering::Relaxed);
                *word = value.to_ne_bytes();
                WORD
            }
            _ => {
                // SAFETY: by the caller.
                rest[0] = unsafe { AtomicU8::from_ptr(from) }.load(Ordering::Relaxed);
                1
            }
        };
    }
}

/// Copies `bytes` to guest memory.
///
/// # Safety
/// So many bytes from `into` on are mapped.
unsafe fn copy_to_guest(into: *mut u8, bytes: &[u8]) {
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let into = into.wrapping_add(at);
        at += match rest.first_chunk::<WORD>() {
            Some(word) if into.addr() % WORD == 0 => {
                let value = u64::from_ne_bytes(*word);
                // SAFETY: by the caller, and aligned.
                unsafe { AtomicU64::from_ptr(into.cast()) }.store(value, Ordering::Relaxed);
                WORD
            }
            _ => {
                // SAFETY: by the caller.
                unsafe { AtomicU8::from_ptr(into) }.store(rest[0], Ordering::Relaxed);
                1
            }
        };
    }
}
