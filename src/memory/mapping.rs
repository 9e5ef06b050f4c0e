// SPDX-License-Identifier: Apache-2.0
//! A range of addresses, filled by memfds one after another.

use std::ffi::{c_void, CString};
use std::io::{self, BufRead, BufReader};
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::sys::mman::{madvise, mmap, mmap_anonymous, munmap, MapFlags, MmapAdvise, ProtFlags};
use nix::unistd::ftruncate;

/// madvise values of include/uapi/asm-generic/mman-common.h that nix lacks.
const MADV_POPULATE_WRITE: i32 = 23;
const MADV_COLLAPSE: i32 = 25;
/// Where a huge page's size, as a power of two, stands in memfd_create's flags (linux/memfd.h).
const MFD_HUGE_SHIFT: u32 = 26;

/// A range of this process's addresses. Shared mappings of memfds, so that the pages are gone with
/// the last process that maps them, however it ends.
#[derive(Debug)]
pub struct Mapping {
    reserved: NonNull<c_void>,
    reserved_size: usize,
    start: NonNull<c_void>,
    size: usize,
    filled: usize,
    // Kept so that the pages can be found by fd too, not only by address.
    _memfds: Vec<OwnedFd>,
}

impl Mapping {
    /// Reserves `size` bytes of addresses at a multiple of `align`, with nothing behind them yet.
    ///
    /// # Errors
    /// ENOMEM where there are no such addresses, EOVERFLOW.
    pub fn reserve(size: u64, align: u64) -> Result<Self, Errno> {
        let size = usize::try_from(size).map_err(|_| Errno::EOVERFLOW)?;
        let align = usize::try_from(align).map_err(|_| Errno::EOVERFLOW)?;
        let reserved_size = size
            .checked_add(align)
            .and_then(NonZeroUsize::new)
            .ok_or(Errno::EOVERFLOW)?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let reserved = unsafe { mmap_anonymous(None, reserved_size, ProtFlags::PROT_NONE, flags)? };
        let offset = reserved.as_ptr().align_offset(align);
        // SAFETY: align_offset is below align, and size + align bytes are reserved.
        let start = unsafe { reserved.byte_add(offset) };
        Ok(Self {
            reserved,
            reserved_size: reserved_size.get(),
            start,
            size,
            filled: 0,
            _memfds: Vec::new(),
        })
    }

    /// Fills the next `size` bytes with huge pages of `page` bytes, which the pool sets aside now.
    ///
    /// # Errors
    /// ENOMEM where the pool has too few, EINVAL where the kernel has no such pages.
    pub fn add_huge(&mut self, name: &str, size: u64, page: u64) -> Result<(), Errno> {
        let flags = MFdFlags::MFD_HUGETLB.bits() | (page.trailing_zeros() << MFD_HUGE_SHIFT);
        self.add(name, size, MFdFlags::from_bits_retain(flags), false)
    }

    /// Fills the next `size` bytes with base pages; with `advise`, asks for transparent huge ones.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn add_small(&mut self, name: &str, size: u64, advise: bool) -> Result<(), Errno> {
        self.add(name, size, MFdFlags::empty(), advise)
    }

    fn add(&mut self, name: &str, size: u64, flags: MFdFlags, advise: bool) -> Result<(), Errno> {
        let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
        let memfd = memfd_create(name.as_c_str(), flags | MFdFlags::MFD_CLOEXEC)?;
        ftruncate(&memfd, i64::try_from(size).map_err(|_| Errno::EOVERFLOW)?)?;
        let size = usize::try_from(size).map_err(|_| Errno::EOVERFLOW)?;
        let end = self
            .filled
            .checked_add(size)
            .filter(|&end| end <= self.size)
            .ok_or(Errno::EINVAL)?;
        // SAFETY: filled <= size, all inside the reserved range.
        let at = unsafe { self.start.byte_add(self.filled) };
        let length = NonZeroUsize::new(size).ok_or(Errno::EINVAL)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let map_flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED;
        // SAFETY: MAP_FIXED replaces only addresses that `reserve` set aside for this mapping.
        unsafe {
            mmap(
                at.as_ptr().addr().try_into().ok(),
                length,
                protection,
                map_flags,
                &memfd,
                0,
            )?
        };
        // A core dump must not read lent memory. Refused by kernels without core dumps.
        // SAFETY: this changes no byte of the range, which is ours.
        let _ = unsafe { madvise(at, size, MmapAdvise::MADV_DONTDUMP) };
        if advise {
            // SAFETY: as above. EINVAL: a kernel without THP, which the caller sees by huge_bytes.
            let _ = unsafe { madvise(at, size, MmapAdvise::MADV_HUGEPAGE) };
        }
        self.filled = end;
        self._memfds.push(memfd);
        Ok(())
    }

    /// Makes every page present and writable, or fails without a SIGBUS.
    ///
    /// # Errors
    /// ENOMEM, EFAULT, EHWPOISON: as madvise(2) says of MADV_POPULATE_WRITE.
    pub fn populate(&self) -> Result<(), Errno> {
        self.advise(MADV_POPULATE_WRITE)
    }

    /// Asks for huge pages in place of the base pages that are there (since Linux 6.1).
    ///
    /// # Errors
    /// EINVAL on older kernels, ENOMEM or EAGAIN where no huge page is free.
    pub fn collapse(&self) -> Result<(), Errno> {
        self.advise(MADV_COLLAPSE)
    }

    fn advise(&self, advice: i32) -> Result<(), Errno> {
        loop {
            // SAFETY: the range is ours; neither advice changes the bytes in it.
            let result = unsafe { libc::madvise(self.start.as_ptr(), self.filled, advice) };
            match Errno::result(result) {
                Err(Errno::EINTR | Errno::EAGAIN) if advice == MADV_POPULATE_WRITE => {}
                other => return other.map(drop),
            }
        }
    }

    /// Bytes of the range that are transparent huge pages now, by /proc/self/smaps.
    ///
    /// # Errors
    /// The file could not be read.
    pub fn huge_bytes(&self) -> io::Result<u64> {
        let range = self.start.as_ptr().addr()..self.start.as_ptr().addr() + self.filled;
        let mut inside = false;
        let mut bytes = 0;
        for line in BufReader::new(std::fs::File::open("/proc/self/smaps")?).lines() {
            let line = line?;
            let mut words = line.split_ascii_whitespace();
            let (Some(first), second) = (words.next(), words.next()) else {
                continue;
            };
            if let Some((from, _)) = first.split_once('-') {
                inside = usize::from_str_radix(from, 16).is_ok_and(|from| range.contains(&from));
            } else if inside && first == "ShmemPmdMapped:" {
                bytes += second.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) << 10;
            }
        }
        Ok(bytes)
    }

    /// The bytes that are filled.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: filled bytes from start on are mapped read-write, nobody else in this process
        // points into them, and no guest runs before the caller's loading is done.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.filled) }
    }

    /// Address of the first byte.
    pub fn address(&self) -> u64 {
        self.start.as_ptr().addr() as u64
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is ours and nothing borrowed from it outlives self.
        let unmapped = unsafe { munmap(self.reserved, self.reserved_size) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}
