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
    mapping: Arc<Mapping>,
}

// SAFETY: what is behind `host` is only touched through atomics and by the kernel, and is mapped while the piece
// lives.
unsafe impl Send for Piece {}
// SAFETY: as above.
unsafe impl Sync for Piece {}

/// A range of guest memory, of a buffer of the guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Guest address.
    pub address: u64,
    /// Bytes.
    pub len: u32,
}

/// A part of guest memory that is a file of its own.
#[derive(Debug, Clone, Copy)]
pub struct FilePart<'a> {
    /// Guest address.
    pub guest: u64,
    /// Address in this process.
    pub host: u64,
    /// Bytes: all of the file.
    pub size: u64,
    /// The file. None: it is of the reserve, whose file is all VMs'.
    pub memfd: Option<BorrowedFd<'a>>,
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
/// iovecs of a packet, which one call moves: twice as many as a request has, and less than the kernel takes.
const PACKET: usize = 512;

/// preadv or pwritev.
type Move = unsafe extern "C" fn(i32, *const libc::iovec, i32, libc::off_t) -> isize;
/// readv or writev.
type MovePacket = unsafe extern "C" fn(i32, *const libc::iovec, i32) -> isize;

impl Window {
    /// A window on these mappings, each with its guest address; `pool`: the rest of the guest's memory is lent.
    pub(super) fn new(mappings: impl Iterator<Item = (u64, Arc<Mapping>)>, pool: bool) -> Self {
        let piece = |(base, mapping): (u64, Arc<Mapping>)| {
            let (host, size) = mapping.filled();
            Piece { base, size, host, mapping }
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

    /// The files that its pieces are made of, for another process to map.
    pub fn files(&self) -> impl Iterator<Item = FilePart<'_>> {
        self.pieces.iter().flat_map(|piece| {
            let (mut guest, mut host) = (piece.base, piece.host.addr() as u64);
            piece.mapping.parts().map(move |(size, memfd)| {
                let part = FilePart { guest, host, size, memfd };
                (guest, host) = (guest.wrapping_add(size), host.wrapping_add(size));
                part
            })
        })
    }

    /// Where in this process `len` bytes of guest memory are, if they are in one piece.
    pub fn host_address(&self, address: u64, len: u64) -> Option<u64> {
        let (host, room) = self.find(address)?;
        (len <= room as u64).then_some(host.addr() as u64)
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

    /// Reads one packet from `file` into `segments`; returns its length, or theirs if it is longer.
    ///
    /// # Errors
    /// The host's.
    pub fn receive(
        &self,
        file: BorrowedFd<'_>,
        mut segments: impl Iterator<Item = Segment>,
    ) -> io::Result<usize> {
        self.move_packet(libc::readv, file, &mut segments)
    }

    /// Writes what is in `segments` to `file` as one packet.
    ///
    /// # Errors
    /// The host's.
    pub fn send(
        &self,
        file: BorrowedFd<'_>,
        mut segments: impl Iterator<Item = Segment>,
    ) -> io::Result<usize> {
        self.move_packet(libc::writev, file, &mut segments)
    }

    fn move_packet(
        &self,
        call: MovePacket,
        file: BorrowedFd<'_>,
        segments: &mut dyn Iterator<Item = Segment>,
    ) -> io::Result<usize> {
        let mut vectors = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; PACKET];
        let mut filled = 0;
        for mut segment in segments {
            while segment.len > 0 {
                let (host, len) = self.front(&mut segment)?;
                let vector = vectors.get_mut(filled).ok_or(Errno::EMSGSIZE)?;
                *vector = libc::iovec { iov_base: host.cast::<c_void>(), iov_len: len };
                filled += 1;
            }
        }
        let count = i32::try_from(filled).map_err(|_| Errno::EMSGSIZE)?;
        // SAFETY: as in `move_batch`.
        let moved = unsafe { call(file.as_raw_fd(), vectors.as_ptr(), count) };
        usize::try_from(moved).map_err(|_| Errno::last().into())
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

    // Takes off what of `segment` is in one piece. EFAULT: it is outside, as the kernel says it.
    fn front(&self, segment: &mut Segment) -> Result<(*mut u8, usize), Errno> {
        let (host, room) = self.find(segment.address).ok_or(Errno::EFAULT)?;
        let len = u32::try_from(room).map_or(segment.len, |room| room.min(segment.len));
        segment.address = segment.address.checked_add(len.into()).ok_or(Errno::EFAULT)?;
        segment.len -= len;
        Ok((host, usize::try_from(len).map_err(|_| Errno::EFAULT)?))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::GuestMemory;
    use std::fs::File;
    use std::os::fd::AsFd;

    const A: u64 = 0x4000_0000;
    const B: u64 = A + 0x2000;
    const FAR: u64 = 0x8000_0000;

    /// Two regions that touch, and one far away.
    fn window() -> Window {
        let memory = GuestMemory::of(&[(B, 0x1000), (A, 0x2000), (FAR, 0x1000)]).unwrap();
        memory.window(false, |_| true)
    }

    fn file() -> File {
        File::from(rustix::fs::memfd_create("file", rustix::fs::MemfdFlags::CLOEXEC).unwrap())
    }

    fn pattern(len: usize) -> Vec<u8> {
        (0..=250).cycle().take(len).collect()
    }

    #[test]
    fn what_is_written_is_read_at_any_alignment_and_across_regions() {
        let window = window();
        for (at, len) in [(A, 1), (A + 3, 40), (B - 5, 11), (B - 8, 16), (FAR + 0xfff, 1)] {
            let bytes = pattern(len);
            window.write(at, &bytes).unwrap();
            let mut read = vec![0; len];
            window.read(at, &mut read).unwrap();
            assert_eq!(read, bytes, "{at:#x}");
        }
        // Nothing beside it.
        let mut around = [0xff; 4];
        window.read(A + 43, &mut around).unwrap();
        assert_eq!(around, [0; 4]);
    }

    #[test]
    fn nothing_outside_is_reached() {
        let window = window();
        for (at, len) in [
            (A - 1, 2),
            (A - 1, 1),
            (B + 0xfff, 2),
            (B + 0x1000, 1),
            (FAR + 0xff8, 9),
            (u64::MAX, 2),
            (u64::MAX - 7, 8),
            (0, 1),
        ] {
            let outside = Outside { address: at, len };
            let mut bytes = vec![0; usize::try_from(len).unwrap()];
            assert!(!window.reaches(at, len), "{outside}");
            assert_eq!(window.read(at, &mut bytes), Err(outside));
            assert_eq!(window.write(at, &bytes), Err(outside));
        }
        for (at, len) in [(A, 0x3000), (B - 1, 2), (FAR, 0x1000), (A, 0)] {
            assert!(window.reaches(at, len));
        }
        assert!(!window.reaches(A, u64::MAX));
        assert!(!window.reaches(FAR + 0x1000, 0), "not even nothing");
    }

    #[test]
    fn a_region_that_is_not_picked_is_not_there() {
        let memory = GuestMemory::of(&[(A, 0x1000), (FAR, 0x1000)]).unwrap();
        let pool = memory.window(true, |region| region.base == FAR);
        assert!(pool.is_pool() && pool.reaches(FAR, 1) && !pool.reaches(A, 1));
        let pieces: Vec<_> = pool.pieces().map(|(base, size, _)| (base, size)).collect();
        assert_eq!(pieces, [(FAR, 0x1000)]);
    }

    #[test]
    fn pairs_of_bytes_come_whole_or_not_at_all() {
        let window = window();
        window.store_u16(A + 6, 0x1234, Ordering::Relaxed).unwrap();
        let mut bytes = [0; 2];
        window.read(A + 6, &mut bytes).unwrap();
        assert_eq!(bytes, [0x34, 0x12]);
        assert_eq!(window.load_u16(A + 6, Ordering::Acquire), Ok(0x1234));
        for at in [A + 7, B + 0xfff, B + 0x1000, A - 2, u64::MAX] {
            let outside = Outside { address: at, len: 2 };
            assert_eq!(window.load_u16(at, Ordering::Relaxed), Err(outside));
            assert_eq!(window.store_u16(at, 1, Ordering::Relaxed), Err(outside));
        }
    }

    #[test]
    fn the_kernel_moves_any_number_of_pieces() {
        let window = window();
        let file = file();
        // More than two calls' worth; one of them lies in two regions.
        let segment = |at: u64| Segment { address: A + 30 * at, len: 17 };
        let mut segments: Vec<Segment> = (0..150).map(segment).collect();
        segments.push(Segment { address: B - 3, len: 700 });
        let total = 150 * 17 + 700;
        let mut bytes = pattern(total);
        for (segment, bytes) in segments.iter().zip(bytes.chunks(17)).take(150) {
            window.write(segment.address, bytes).unwrap();
        }
        window.write(B - 3, &bytes[150 * 17..]).unwrap();
        window.write_file(file.as_fd(), 5, segments.iter().copied()).unwrap();
        let mut written = vec![0; total];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut written, 5).unwrap();
        assert_eq!(written, bytes);

        bytes.reverse();
        std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 5).unwrap();
        window.read_file(file.as_fd(), 5, segments.iter().copied()).unwrap();
        let mut read = Vec::new();
        for segment in &segments {
            let mut part = vec![0; usize::try_from(segment.len).unwrap()];
            window.read(segment.address, &mut part).unwrap();
            read.extend(part);
        }
        assert_eq!(read, bytes);
    }

    #[test]
    fn what_the_host_refuses_is_an_error() {
        let window = window();
        let file = file();
        let whole = [Segment { address: A, len: 0x2000 }];
        let short = window.read_file(file.as_fd(), 0, whole.into_iter()).unwrap_err();
        assert_eq!(short.kind(), io::ErrorKind::UnexpectedEof);
        let far = window.write_file(file.as_fd(), u64::MAX - 5, whole.into_iter()).unwrap_err();
        assert_eq!(far.raw_os_error(), Some(libc::EINVAL));
        let outside = [Segment { address: FAR, len: 0x1001 }];
        let error = window.write_file(file.as_fd(), 0, outside.into_iter()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
        assert_eq!(file.metadata().unwrap().len(), 0, "nothing was written");
        let null = File::open("/dev/null").unwrap();
        let refused = window.write_file(null.as_fd(), 0, whole.into_iter()).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EBADF));
        window.read_file(file.as_fd(), 0, std::iter::empty()).unwrap();
    }

    #[test]
    fn another_process_maps_the_same_bytes_by_their_files() {
        let window = window();
        window.write(B - 3, b"across").unwrap();
        window.write(FAR + 0xffc, b"last").unwrap();
        let parts: Vec<FilePart<'_>> = window.files().collect();
        let places: Vec<_> = parts.iter().map(|part| (part.guest, part.size)).collect();
        assert_eq!(places, [(B, 0x1000), (A, 0x2000), (FAR, 0x1000)]);
        for (part, at, text) in
            [(0, 0, &b"oss"[..]), (1, 0x1ffd, &b"acr"[..]), (2, 0xffc, &b"last"[..])]
        {
            let file = File::from(parts[part].memfd.unwrap().try_clone_to_owned().unwrap());
            let mut bytes = vec![0; text.len()];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, at).unwrap();
            assert_eq!(bytes, text);
            assert_eq!(file.metadata().unwrap().len(), parts[part].size);
            let host = window.host_address(parts[part].guest + at, text.len() as u64);
            assert_eq!(host, Some(parts[part].host + at));
        }
        // Never across pieces, which lie anywhere.
        assert_eq!(window.host_address(B - 3, 6), None);
        assert_eq!(window.host_address(FAR + 0xffc, 5), None);
    }

    #[test]
    fn packets_move_whole_or_as_far_as_there_is_room() {
        use nix::sys::socket::{socketpair, AddressFamily, SockFlag, SockType};
        let window = window();
        let flags = SockFlag::SOCK_NONBLOCK;
        let (near, far) = socketpair(AddressFamily::Unix, SockType::Datagram, None, flags).unwrap();
        let parts = |lens: &[u32]| {
            let mut at = B - 5;
            let part = lens.iter().map(|len| {
                let segment = Segment { address: at, len: *len };
                at += u64::from(*len);
                segment
            });
            part.collect::<Vec<_>>().into_iter()
        };
        let empty = window.receive(near.as_fd(), parts(&[8])).unwrap_err();
        assert_eq!(empty.raw_os_error(), Some(libc::EAGAIN));
        nix::unistd::write(&far, b"a packet").unwrap();
        assert_eq!(window.receive(near.as_fd(), parts(&[3, 10])).unwrap(), 8);
        nix::unistd::write(&far, b"another packet").unwrap();
        assert_eq!(window.receive(near.as_fd(), parts(&[3, 3])).unwrap(), 6);
        assert_eq!(window.send(near.as_fd(), parts(&[1, 5, 2])).unwrap(), 8);
        let mut bytes = [0; 32];
        assert_eq!(nix::unistd::read(&far, &mut bytes).unwrap(), 8);
        assert_eq!(&bytes[..8], b"anotheet");
        let many = window.send(near.as_fd(), parts(&[1; PACKET + 1])).unwrap_err();
        assert_eq!(many.raw_os_error(), Some(libc::EMSGSIZE));
        let outside = [Segment { address: FAR, len: 0x1001 }];
        let error = window.send(near.as_fd(), outside.into_iter()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
    }

    #[test]
    fn the_memory_stays_as_long_as_the_last_window() {
        let window = window();
        let (first, second) = (window.clone(), window.clone());
        drop(window);
        std::thread::spawn(move || first.write(A, b"still there").unwrap()).join().unwrap();
        let mut bytes = [0; 11];
        second.read(A, &mut bytes).unwrap();
        assert_eq!(&bytes, b"still there");
    }
}
