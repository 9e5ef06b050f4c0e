// SPDX-License-Identifier: Apache-2.0
//! A range of addresses, filled by memfds one after another. All that is unsafe about guest memory
//! is here, and, once devices reach it, in [`super::window`].

use std::ffi::c_void;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;
use rustix::fs::{ftruncate, memfd_create, MemfdFlags};
use rustix::mm::{
    madvise, mlock, mmap, mmap_anonymous, mprotect, munmap, Advice, MapFlags, MprotectFlags,
    ProtFlags,
};

use super::threads::{part, share, worth};

/// include/uapi/asm-generic/mman-common.h; rustix has no name for it.
const MADV_COLLAPSE: i32 = 25;
/// Bytes of the largest part that is populated at once. As long as the kernel does it, no other thread may begin:
/// it maps a stack for its signals first, and waits for this process's addresses.
const POPULATED: usize = 2 << 20;
/// Where a huge page's size, as a power of two, stands in memfd_create's flags (linux/memfd.h).
const MFD_HUGE_SHIFT: u32 = 26;

/// PAGE_IS_HUGE (linux/fs.h): a huge page, mapped as one.
const PAGE_IS_HUGE: u64 = 1 << 6;

/// struct page_region (linux/fs.h).
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

/// struct pm_scan_arg (linux/fs.h).
#[repr(C)]
#[derive(Debug, Default)]
struct PmScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

nix::ioctl_readwrite!(pagemap_scan, b'f', 16, PmScanArg);

/// A range of this process's addresses. Shared mappings of memfds, so that the pages are gone with
/// the last process that maps them, however it ends.
#[derive(Debug)]
pub(super) struct Mapping {
    reserved: *mut c_void,
    reserved_size: usize,
    start: *mut c_void,
    size: usize,
    filled: usize,
    // Where transparent huge pages are wanted.
    folios: Range<*mut c_void>,
    // What fills it, in this order: bytes, and the memfd if it is its own, so that the pages can be found by fd
    // too, not only by address.
    parts: Vec<(u64, Option<OwnedFd>)>,
}

// SAFETY: what `&self` gives away is an address and what the kernel knows of it; bytes are only behind `&mut`.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Reserves `size` bytes of addresses, the first `beyond` a multiple of `align`, with nothing behind
    /// them yet.
    pub fn reserve(size: u64, align: u64, beyond: u64) -> Result<Self, Errno> {
        let (size, align, beyond) = (length(size)?, length(align)?, length(beyond % align)?);
        let room = align.checked_add(beyond).ok_or(Errno::EOVERFLOW)?;
        let reserved_size = size.checked_add(room).ok_or(Errno::EOVERFLOW)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let reserved =
            unsafe { mmap_anonymous(ptr::null_mut(), reserved_size, ProtFlags::empty(), flags) }
                .map_err(errno)?;
        let start = reserved.wrapping_byte_add(reserved.align_offset(align) + beyond);
        let folios = start..start;
        Ok(Self { reserved, reserved_size, start, size, filled: 0, folios, parts: Vec::new() })
    }

    /// Fills the next `size` bytes with huge pages of `page` bytes, which the pool sets aside now.
    pub fn add_huge(&mut self, name: &str, size: u64, page: u64) -> Result<(), Errno> {
        let size_flag = page.trailing_zeros() << MFD_HUGE_SHIFT;
        let flags = MemfdFlags::HUGETLB | MemfdFlags::from_bits_retain(size_flag);
        self.add(name, size, flags)?;
        Ok(())
    }

    /// Fills the next `size` bytes with base pages, and no others even where the host likes huge ones: a
    /// driver that hands over whole folios would hand over what lies around them.
    pub fn add_small(&mut self, name: &str, size: u64) -> Result<(), Errno> {
        self.add_advised(name, size, Advice::LinuxNoHugepage)?;
        Ok(())
    }

    /// Fills the next `size` bytes with transparent huge pages, as far as they come. Once a mapping.
    pub fn add_folios(&mut self, name: &str, size: u64) -> Result<(), Errno> {
        let at = self.add_advised(name, size, Advice::LinuxHugepage)?;
        self.folios = at..at.wrapping_byte_add(length(size)?);
        Ok(())
    }

    /// Fills the next `size` bytes with those of `memfd` from `offset` on, which are or shall be transparent
    /// huge pages. Once a mapping, or several times in a row.
    pub fn add_folios_of(&mut self, memfd: impl AsFd, offset: u64, size: u64) -> Result<(), Errno> {
        let at = self.add_part(memfd, offset, size)?;
        self.parts.push((size, None));
        self.advise(at, size, Advice::LinuxHugepage)?;
        if self.folios.is_empty() {
            self.folios.start = at;
        }
        self.folios.end = at.wrapping_byte_add(length(size)?);
        Ok(())
    }

    fn add_advised(&mut self, name: &str, size: u64, advice: Advice) -> Result<*mut c_void, Errno> {
        let at = self.add(name, size, MemfdFlags::empty())?;
        self.advise(at, size, advice)?;
        Ok(at)
    }

    fn advise(&self, at: *mut c_void, size: u64, advice: Advice) -> Result<(), Errno> {
        // SAFETY: the caller has just mapped this range, and the advice changes no byte of it. EINVAL: a kernel
        // without THP, which is seen by huge_bytes.
        let _ = unsafe { madvise(at, length(size)?, advice) };
        Ok(())
    }

    /// Maps a new memfd at the next `size` bytes; returns where that is.
    fn add(&mut self, name: &str, size: u64, flags: MemfdFlags) -> Result<*mut c_void, Errno> {
        let memfd = new_memfd(name, size, flags)?;
        let at = self.add_part(&memfd, 0, size)?;
        self.parts.push((size, Some(memfd)));
        Ok(at)
    }

    fn add_part(&mut self, memfd: impl AsFd, offset: u64, size: u64) -> Result<*mut c_void, Errno> {
        let size = length(size)?;
        let end =
            self.filled.checked_add(size).filter(|&end| end <= self.size).ok_or(Errno::EINVAL)?;
        let at = self.start.wrapping_byte_add(self.filled);
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let map_flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: FIXED replaces only addresses that `reserve` set aside for this mapping: from `at`
        // on there are `size` of them.
        unsafe { mmap(at, size, protection, map_flags, memfd, offset) }.map_err(errno)?;
        // A core dump must not read lent memory. Refused by kernels without core dumps.
        // SAFETY: this changes no byte of the range, which is ours.
        let _ = unsafe { madvise(at, size, Advice::LinuxDontDump) };
        self.filled = end;
        Ok(at)
    }

    /// Makes every page present and writable, or fails with an errno instead of a SIGBUS. `page`: bytes of the
    /// largest.
    pub fn populate(&self, page: u64, threads: usize) -> Result<(), Errno> {
        self.in_parts(0..self.filled, page, threads, |at, size| {
            self.fault_in(at, size, Advice::LinuxPopulateWrite)
        })
    }

    /// Does `work` with the parts of `range`, offsets into the mapping, by several threads; each gets where
    /// its part begins and how many bytes it has.
    fn in_parts(
        &self,
        range: Range<usize>,
        page: u64,
        threads: usize,
        work: impl Fn(*mut c_void, usize) -> Result<(), Errno> + Sync,
    ) -> Result<(), Errno> {
        let threads = worth(range.len(), threads);
        let page = length(page)?;
        let most = if threads > 1 { page.max(POPULATED) } else { usize::MAX };
        let part = part(range.len(), threads, page).min(most);
        let end = range.end;
        share(range.step_by(part), threads, |from| {
            work(self.start.wrapping_byte_add(from), part.min(end - from))
        })
    }

    fn fault_in(&self, at: *mut c_void, size: usize, how: Advice) -> Result<(), Errno> {
        loop {
            // SAFETY: the callers' ranges are ours, and this changes no byte of them.
            match unsafe { madvise(at, size, how) } {
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                other => return other.map_err(errno),
            }
        }
    }

    /// Makes every page present, in huge pages of `folio` bytes where they are wanted and come. Huge pages are
    /// asked for where a first base page is alone, so that a folio takes no more than its own memory.
    pub fn populate_folios(&self, folio: u64, threads: usize) -> Result<(), Errno> {
        let step = length(folio)?;
        let present = |at, size| self.fault_in(at, size, Advice::LinuxPopulateWrite);
        let from = self.folios.start.addr() - self.start.addr();
        let to = from + self.folios_size();
        self.in_parts(from..to, folio, threads, |at, size| {
            for at in each(at, size, step) {
                present(at, 1)?;
            }
            // One call for all costs the least; it ends at the first folio that does not come.
            if self.collapse(at, size).is_err() {
                for at in each(at, size, step) {
                    let _ = self.collapse(at, step);
                }
            }
            present(at, size)
        })?;
        // The base pages around them.
        present(self.start, from)?;
        present(self.folios.end, self.filled - to)
    }

    /// Asks again for folios that did not come, as long as some come: each that is made moves what is in the
    /// way of others.
    pub fn insist_on_folios(&self, folio: u64) -> Result<(), Errno> {
        let folio = length(folio)?;
        let mut before = None;
        loop {
            let got = length(self.huge_bytes().unwrap_or(0))?;
            if got >= self.folios_size() || before.is_some_and(|before| got <= before) {
                return Ok(());
            }
            before = Some(got);
            for at in each(self.folios.start, self.folios_size(), folio) {
                let _ = self.collapse(at, folio);
            }
        }
    }

    fn folios_size(&self) -> usize {
        self.folios.end.addr() - self.folios.start.addr()
    }

    /// Asks for huge pages in place of the base pages that are there; it compacts memory where it must, and
    /// whatever shmem_enabled says but `deny`. Kernels before 6.1 refuse.
    fn collapse(&self, at: *mut c_void, size: usize) -> Result<(), Errno> {
        // SAFETY: the callers' ranges are ours, and this changes no byte of them.
        Errno::result(unsafe { libc::madvise(at, size, MADV_COLLAPSE) }).map(drop)
    }

    /// Makes `size` bytes from `offset` on zeros, all but those of the ranges of `except`, in rising order, which
    /// the caller overwrites.
    pub fn clear(
        &mut self,
        offset: u64,
        size: u64,
        except: &[Range<u64>],
        threads: usize,
    ) -> Result<(), Errno> {
        let (offset, size) = (length(offset)?, length(size)?);
        self.fault_in(self.start.wrapping_byte_add(offset), size, Advice::LinuxPopulateWrite)?;
        let end = offset.checked_add(size).ok_or(Errno::EOVERFLOW)?;
        let mut rest = self.bytes_mut().get_mut(offset..end).ok_or(Errno::EINVAL)?;
        let mut at = offset;
        let mut stale = Vec::new();
        for written in except {
            let from = length(written.start)?.clamp(at, end);
            let to = length(written.end)?.clamp(from, end);
            let (before, behind) = rest.split_at_mut(from - at);
            stale.push(before);
            rest = behind.split_at_mut(to - from).1;
            at = to;
        }
        stale.push(rest);
        let threads = worth(size, threads);
        let part = part(size, threads, 1);
        let parts = stale.into_iter().flat_map(|bytes| bytes.chunks_mut(part));
        share(parts, threads, |part| {
            part.fill(0);
            Ok(())
        })
    }

    /// Takes other folios in place of those in `size` bytes from `offset` on, one by one, so that what is
    /// given back and nobody else holds comes again.
    pub fn renew_folios(&mut self, offset: u64, size: u64, folio: u64) -> Result<(), Errno> {
        let (offset, size, folio) = (length(offset)?, length(size)?, length(folio)?);
        if offset.checked_add(size).is_none_or(|end| end > self.filled) {
            return Err(Errno::EINVAL);
        }
        for inside in (0..size).step_by(folio.max(1)) {
            let at = self.start.wrapping_byte_add(offset + inside);
            // SAFETY: the range is ours, and `self` is borrowed alone: nobody looks at its bytes.
            unsafe { madvise(at, folio, Advice::LinuxRemove) }.map_err(errno)?;
            self.fault_in(at, 1, Advice::LinuxPopulateWrite)?;
            let _ = self.collapse(at, folio);
        }
        Ok(())
    }

    /// Puts the range out of reach, and keeps its pages where they are: huge, and in memory.
    pub fn lock(self) -> Result<Locked, Errno> {
        // SAFETY: the range is ours, and this changes no byte of it.
        let locked = unsafe { mlock(self.start, self.filled) };
        // SAFETY: as above.
        unsafe { madvise(self.start, self.filled, Advice::LinuxDontFork) }.map_err(errno)?;
        let locked = Locked { mapping: self, is_locked: locked.is_ok() };
        locked.protect(MprotectFlags::empty())?;
        Ok(locked)
    }

    /// Bytes of the range that are transparent huge pages now.
    pub fn huge_bytes(&self) -> io::Result<u64> {
        self.scanned_huge_bytes().or_else(|_| self.listed_huge_bytes())
    }

    /// By a scan of the page tables, which kernels have since 6.7.
    fn scanned_huge_bytes(&self) -> io::Result<u64> {
        let pagemap = File::open("/proc/self/pagemap")?;
        let mut found = [PageRegion::default(); 64];
        let mut scan = PmScanArg {
            size: size_of::<PmScanArg>() as u64,
            start: self.address(),
            end: self.address().saturating_add(self.filled as u64),
            vec: found.as_mut_ptr().expose_provenance() as u64,
            vec_len: found.len() as u64,
            category_mask: PAGE_IS_HUGE,
            return_mask: PAGE_IS_HUGE,
            ..PmScanArg::default()
        };
        let mut bytes = 0;
        while scan.start < scan.end {
            // SAFETY: it writes to `scan`, and at most `vec_len` regions to `vec`, which is `found`.
            let count = unsafe { pagemap_scan(pagemap.as_raw_fd(), &raw mut scan) }?;
            let count = usize::try_from(count).unwrap_or(0);
            bytes += found.iter().take(count).map(|found| found.end - found.start).sum::<u64>();
            if scan.walk_end <= scan.start {
                return Err(io::ErrorKind::InvalidData.into());
            }
            scan.start = scan.walk_end;
        }
        Ok(bytes)
    }

    /// By /proc/self/smaps, for which the kernel looks at every base page.
    fn listed_huge_bytes(&self) -> io::Result<u64> {
        let range = self.start.addr()..self.start.addr() + self.filled;
        let mut inside = false;
        let mut bytes = 0;
        for line in BufReader::new(File::open("/proc/self/smaps")?).lines() {
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
        unsafe { std::slice::from_raw_parts_mut(self.start.cast(), self.filled) }
    }

    /// Where its memory begins, and how many bytes of it are filled.
    pub fn filled(&self) -> (*mut u8, usize) {
        (self.start.cast(), self.filled)
    }

    /// What fills it, in this order: bytes, and the file, which has no others. None: it is not its own.
    pub fn parts(&self) -> impl Iterator<Item = (u64, Option<BorrowedFd<'_>>)> {
        self.parts.iter().map(|(size, memfd)| (*size, memfd.as_ref().map(AsFd::as_fd)))
    }

    /// Address of the first byte.
    pub fn address(&self) -> u64 {
        self.start.addr() as u64
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is ours and nothing borrowed from it outlives self.
        let unmapped = unsafe { munmap(self.reserved, self.reserved_size) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

/// A range without access: neither this process nor one that it forks reads or writes a byte.
#[derive(Debug)]
pub(super) struct Locked {
    mapping: Mapping,
    /// False: RLIMIT_MEMLOCK forbids it, and pages may be swapped out.
    pub is_locked: bool,
}

impl Locked {
    /// Takes pages into the lock that another process has put in place of what was there.
    pub fn lock_anew(&self) -> Result<(), Errno> {
        let Mapping { start, filled, .. } = self.mapping;
        self.readable(|| {
            self.mapping.fault_in(start, filled, Advice::LinuxPopulateRead)?;
            // Where a page table was left, what is one huge page now is mapped in base pages.
            let _ = self.mapping.collapse(start, filled);
            Ok(())
        })
    }

    /// As [`Mapping::huge_bytes`].
    pub fn huge_bytes(&self) -> Result<u64, Errno> {
        // With CONFIG_NUMA_BALANCING kernels up to 6.6 leave pages without access out.
        self.readable(|| self.mapping.huge_bytes().map_err(|_| Errno::EIO))
    }

    /// Gives the range access while `work` lasts, which reads no byte of it.
    fn readable<T>(&self, work: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        self.protect(MprotectFlags::READ)?;
        let done = work();
        self.protect(MprotectFlags::empty())?;
        done
    }

    fn protect(&self, access: MprotectFlags) -> Result<(), Errno> {
        // SAFETY: the range is ours, and nobody has a reference into a locked one.
        unsafe { mprotect(self.mapping.start, self.mapping.filled, access) }.map_err(errno)
    }
}

/// Where the folios of `size` bytes from `at` on begin.
fn each(at: *mut c_void, size: usize, folio: usize) -> impl Iterator<Item = *mut c_void> {
    (0..size).step_by(folio.max(1)).map(move |offset| at.wrapping_byte_add(offset))
}

/// A memfd of `size` bytes, none of them there yet.
pub(super) fn new_memfd(name: &str, size: u64, flags: MemfdFlags) -> Result<OwnedFd, Errno> {
    let memfd = memfd_create(name, flags | MemfdFlags::CLOEXEC).map_err(errno)?;
    ftruncate(&memfd, size).map_err(errno)?;
    Ok(memfd)
}

fn length(bytes: u64) -> Result<usize, Errno> {
    usize::try_from(bytes).map_err(|_| Errno::EOVERFLOW)
}

fn errno(errno: rustix::io::Errno) -> Errno {
    Errno::from_raw(errno.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 64 << 10;

    fn present(mapping: &Mapping) -> usize {
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).unwrap().unwrap();
        let mut pages = vec![0u8; mapping.filled / usize::try_from(page).unwrap()];
        // SAFETY: it writes a byte for each page of the range, which is mapped.
        let done = unsafe { libc::mincore(mapping.start, mapping.filled, pages.as_mut_ptr()) };
        assert_eq!(done, 0);
        pages.iter().filter(|page| **page & 1 == 0).count()
    }

    #[test]
    fn threads_populate_all_of_it() {
        for size in [PAGE, (64 << 20) - PAGE, 64 << 20] {
            let mut mapping = Mapping::reserve(size, PAGE, 0).unwrap();
            mapping.add_small("test", size).unwrap();
            assert_ne!(present(&mapping), 0);
            mapping.populate(2 << 20, 4).unwrap();
            assert_eq!(present(&mapping), 0, "pages of {size:#x} bytes that are missing");
        }
    }

    #[test]
    fn threads_make_folios_and_what_is_around_them() {
        let (folio, size) = (2 << 20, 66 << 20);
        let mut mapping = Mapping::reserve(size, folio, 0).unwrap();
        mapping.add_small("before", PAGE).unwrap();
        mapping.add_folios("folios", 64 << 20).unwrap();
        mapping.add_small("behind", PAGE).unwrap();
        mapping.populate_folios(folio, 3).unwrap();
        assert_eq!(present(&mapping), 0);
    }

    #[test]
    fn both_ways_to_count_huge_pages_agree() {
        let (folio, size) = (2 << 20, 130 * (2 << 20));
        let mut mapping = Mapping::reserve(size + 2 * PAGE, folio, folio - PAGE).unwrap();
        mapping.add_small("before", PAGE).unwrap();
        mapping.add_folios("folios", size).unwrap();
        mapping.add_small("behind", PAGE).unwrap();
        mapping.populate_folios(folio, 2).unwrap();
        let listed = mapping.listed_huge_bytes().unwrap();
        let scanned = mapping.scanned_huge_bytes();
        match scanned {
            Ok(scanned) => assert_eq!(scanned, listed),
            // Before 6.7.
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOTTY)),
        }
        assert_eq!(mapping.huge_bytes().unwrap(), listed);
        // As confinement lets it through.
        let number = nix::request_code_readwrite!(b'f', 16, size_of::<PmScanArg>());
        assert_eq!(number, 0xc060_6610);
    }

    /// What a thread finds is told, whichever it is.
    #[test]
    fn a_part_that_fails_is_the_whole_that_fails() {
        let mut mapping = Mapping::reserve(64 << 20, PAGE, 0).unwrap();
        mapping.add_small("test", 64 << 20).unwrap();
        // Behind the end of its memfd there is nothing to populate.
        ftruncate(mapping.parts[0].1.as_ref().unwrap(), (64 << 20) - PAGE).unwrap();
        assert_eq!(mapping.populate(PAGE, 4), Err(Errno::EFAULT));
    }

    #[test]
    fn all_is_cleared_but_what_is_overwritten() {
        let size = 9 << 20;
        let mut mapping = Mapping::reserve(size, PAGE, 0).unwrap();
        mapping.add_small("test", size).unwrap();
        mapping.populate(PAGE, 1).unwrap();
        let except =
            [0..5, PAGE + 70..1 << 20, 1 << 19..2 << 20, 3 << 20..3 << 20, 8 << 20..33 << 20];
        for threads in [1, 4] {
            mapping.bytes_mut().fill(7);
            mapping.clear(PAGE, size - 3 * PAGE, &except, threads).unwrap();
            let kept = |at: u64| {
                !(PAGE..size - 2 * PAGE).contains(&at)
                    || except.iter().any(|range| range.contains(&at))
            };
            let wrong =
                (0..).zip(mapping.bytes_mut()).find(|(at, byte)| (**byte == 7) != kept(*at));
            assert_eq!(wrong, None, "by {threads}");
        }
        assert!(mapping.clear(0, size + 1, &[], 1).is_err());
    }
}
