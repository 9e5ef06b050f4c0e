// SPDX-License-Identifier: Apache-2.0
//! Memory to give to guests: memfds of base or huge pages, anonymous pages, and what is none.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

use crate::errno::Errno;

/// Bytes of a base page of this host.
pub fn page_size() -> usize {
    // SAFETY: sysconf reads no memory of ours.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}

/// Bytes of `pages` base pages.
pub fn pages(pages: u64) -> u64 {
    pages * page_size() as u64
}

/// A mapping, unmapped on drop.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    size: usize,
}

// SAFETY: all access is by volatile reads and writes of single bytes.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn map(fd: RawFd, size: usize, protection: i32, flags: i32) -> Result<Self, Errno> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), size, protection, flags, fd, 0) };
        match NonNull::new(start.cast::<u8>()) {
            Some(start) if start.as_ptr().cast() != libc::MAP_FAILED => Ok(Self { start, size }),
            _ => Err(Errno::last()),
        }
    }

    /// A file's first bytes, shared.
    pub fn of_file(fd: RawFd, size: usize, writable: bool) -> Result<Self, Errno> {
        let protection =
            if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        Self::map(fd, size, protection, libc::MAP_SHARED)
    }

    /// Private pages of no file, none of them there yet.
    pub fn anonymous(size: u64, writable: bool) -> Result<Self, Errno> {
        let protection =
            if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        let size = usize::try_from(size).map_err(|_| Errno(libc::EINVAL))?;
        Self::map(-1, size, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)
    }

    /// Its address.
    pub fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size as u64
    }

    /// Takes its pages from `offset` on away, leaving a hole.
    pub fn cut(&mut self, offset: usize) {
        if offset < self.size {
            // SAFETY: a part of our own mapping, which nothing refers to from here on.
            unsafe { libc::munmap(self.start.as_ptr().add(offset).cast(), self.size - offset) };
            self.size = offset;
        }
    }

    /// Takes all access to it away, or gives it back.
    pub fn forbid(&self, all: bool) {
        let protection = if all { libc::PROT_NONE } else { libc::PROT_READ | libc::PROT_WRITE };
        // SAFETY: our own mapping, which nothing touches meanwhile.
        unsafe { libc::mprotect(self.start.as_ptr().cast(), self.size, protection) };
    }

    /// Reads `N` bytes.
    pub fn read<const N: usize>(&self, offset: usize) -> [u8; N] {
        assert!(offset + N <= self.size);
        // SAFETY: inside the live mapping, as just asserted.
        std::array::from_fn(|index| unsafe { self.start.add(offset + index).read_volatile() })
    }

    /// Writes bytes.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.size);
        for (index, byte) in bytes.iter().enumerate() {
            // SAFETY: inside the live mapping, as just asserted.
            unsafe { self.start.add(offset + index).write_volatile(*byte) };
        }
    }

    /// A u32 of this machine.
    pub fn u32(&self, offset: usize) -> u32 {
        u32::from_ne_bytes(self.read(offset))
    }

    /// A u64 of this machine.
    pub fn u64(&self, offset: usize) -> u64 {
        u64::from_ne_bytes(self.read(offset))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.size > 0 {
            // SAFETY: exactly what was mapped and not yet cut.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.size) };
        }
    }
}

/// A memfd and its shared mapping.
#[derive(Debug)]
pub struct Memory {
    fd: OwnedFd,
    /// The mapping.
    pub map: Mapping,
}

impl Memory {
    fn memfd(size: u64, flags: libc::c_uint) -> Result<OwnedFd, Errno> {
        // SAFETY: the name is a literal with its NUL.
        let fd = unsafe { libc::memfd_create(c"conform".as_ptr(), flags | libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(Errno::last());
        }
        // SAFETY: just made for us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let size = libc::off_t::try_from(size).map_err(|_| Errno(libc::EINVAL))?;
        // SAFETY: no memory is involved.
        if unsafe { libc::ftruncate(fd.as_raw_fd(), size) } != 0 {
            return Err(Errno::last());
        }
        Ok(fd)
    }

    /// `count` base pages, none of them there yet.
    pub fn base_pages(count: u64) -> Result<Self, Errno> {
        Self::memfd(pages(count), 0).and_then(Self::of)
    }

    /// One huge page of the default size, there already; ENOMEM where none is free.
    pub fn huge_page() -> Result<Self, Errno> {
        Self::huge_pages(1)
    }

    /// So many of them.
    pub fn huge_pages(count: u64) -> Result<Self, Errno> {
        let size = huge_page_size().ok_or(Errno(libc::ENOSYS))?;
        Self::memfd(size * count, libc::MFD_HUGETLB).and_then(Self::of)
    }

    /// The same pages, mapped a second time.
    pub fn again(&self) -> Result<Self, Errno> {
        self.fd
            .try_clone()
            .map_err(|error| Errno(error.raw_os_error().unwrap_or(0)))
            .and_then(Self::of)
    }

    fn of(fd: OwnedFd) -> Result<Self, Errno> {
        let size = Self::len(&fd)?;
        let map = Mapping::of_file(fd.as_raw_fd(), size, true)?;
        // One page, one entry: what a guest's devicetree lies in must not be a part of a large folio.
        // SAFETY: advice on our own mapping; where it is refused, base pages it is anyway.
        unsafe { libc::madvise(map.start.as_ptr().cast(), size, libc::MADV_NOHUGEPAGE) };
        Ok(Self { fd, map })
    }

    fn len(fd: &OwnedFd) -> Result<usize, Errno> {
        // SAFETY: no memory is involved.
        let end = unsafe { libc::lseek(fd.as_raw_fd(), 0, libc::SEEK_END) };
        usize::try_from(end).map_err(|_| Errno::last())
    }

    /// Bytes that have pages behind them.
    pub fn populated(&self) -> Result<u64, Errno> {
        // SAFETY: all zeros is a valid stat.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: `stat` is live and of the right type.
        if unsafe { libc::fstat(self.fd.as_raw_fd(), &raw mut stat) } != 0 {
            return Err(Errno::last());
        }
        // st_blocks counts 512 bytes each, whatever the file system's block size.
        Ok(u64::try_from(stat.st_blocks).unwrap_or(0) * 512)
    }
}

/// Bytes of a huge page of the default size.
pub fn huge_page_size() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Hugepagesize:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
