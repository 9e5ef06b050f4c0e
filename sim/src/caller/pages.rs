// SPDX-License-Identifier: Apache-2.0
//! Pinning: pages faulted in for writing, and their physical runs counted.

use std::fs::File;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;

use super::{Caller, Piece};

// Documentation/admin-guide/mm/pagemap.rst.
const PRESENT: u64 = 1 << 63;
const SHARED_OR_FILE: u64 = 1 << 61;
const EXCLUSIVE: u64 = 1 << 56;
const FRAME: u64 = (1 << 55) - 1;
/// Of base pages: the buffer is reused by the heap, and stays in the cache.
const ENTRIES_AT_ONCE: u64 = 4096;

/// The pages of a pinned range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageState {
    /// Pages of the base size.
    pub pages: u64,
    /// Those that had to be faulted in.
    pub faulted: u64,
    /// Physically contiguous runs, one memory entry each; None: frames are not shown to us.
    pub runs: Option<u64>,
}

/// Why a range cannot be pinned, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PinError {
    /// The errno of the memory ioctl.
    pub errno: Errno,
    /// First address that cannot be pinned.
    pub address: u64,
}

impl Caller {
    /// Faults every page of the pieces in for writing, as FOLL_WRITE does, and counts runs.
    pub fn pin(&self, pieces: &[Piece]) -> Result<PageState, PinError> {
        let fail = |errno, address| PinError { errno, address };
        if let Some(read_only) = pieces.iter().find(|piece| !piece.writable) {
            return Err(fail(Errno::EFAULT, read_only.address));
        }
        let page = crate::page_size();
        let first = pieces.first().map_or(0, |piece| piece.address);
        let pagemap = File::open(format!("/proc/{}/pagemap", self.pid))
            .map_err(|_| fail(Errno::ESRCH, first))?;
        let size: u64 = pieces.iter().map(|piece| piece.size).sum();
        let mut state = PageState { pages: size / page, faulted: 0, runs: Some(0) };
        let mut expected_frame = None;
        for piece in pieces {
            let end = piece.address + piece.size;
            // One entry speaks for all of a hugetlb page.
            let whole = piece.hugetlb && piece.address % piece.page_size == 0;
            let (stride, chunk) =
                if whole { (piece.page_size, 1) } else { (page, ENTRIES_AT_ONCE) };
            let mut at = piece.address;
            while at < end {
                let count = (end - at).div_ceil(stride).min(chunk);
                let read =
                    || read_entries(&pagemap, at / page, count).map_err(|errno| fail(errno, at));
                let mut entries = read()?;
                let mut again = false;
                for (entry, at) in entries.iter().zip((at..).step_by(step(stride))) {
                    let present = entry & PRESENT != 0;
                    // A present private page may still be the zero page or a shared copy.
                    if !present || entry & (SHARED_OR_FILE | EXCLUSIVE) == 0 {
                        self.touch(at).map_err(|errno| fail(errno, at))?;
                        state.faulted += stride.min(end - at) / page;
                        again = true;
                    }
                }
                if again {
                    entries = read()?;
                }
                for entry in entries {
                    let frame = entry & FRAME;
                    if entry & PRESENT == 0 || frame == 0 {
                        // Without CAP_SYS_ADMIN frames read as 0.
                        state.runs = None;
                    }
                    if expected_frame != Some(frame) {
                        state.runs = state.runs.map(|runs| runs + 1);
                    }
                    expected_frame = Some(frame + stride / page);
                }
                at += count * stride;
            }
        }
        Ok(state)
    }

    /// Faults the first `pages` of the range in, of the size that they have there; stops at the
    /// first that there is none for.
    pub fn touch_first(&self, address: u64, size: u64, pages: u64) {
        let of = |piece: Piece| {
            (piece.address..piece.address + piece.size).step_by(step(piece.page_size))
        };
        let pieces = self.pieces(address, size).unwrap_or_default();
        let firsts = pieces.into_iter().flat_map(of);
        for at in firsts.take(usize::try_from(pages).unwrap_or(usize::MAX)) {
            if self.touch(at).is_err() {
                break;
            }
        }
    }

    /// Faults one page in as a pin would, without changing it; the caller waits in its ioctl meanwhile.
    pub fn fault_in(&self, address: u64, writable: bool) -> Result<(), Errno> {
        if writable {
            self.touch(address)
        } else {
            self.read_bytes(address, &mut [0])
        }
    }

    /// Write-faults one page without changing it. The caller waits in its ioctl meanwhile.
    fn touch(&self, address: u64) -> Result<(), Errno> {
        let mut byte = [0];
        self.read_bytes(address, &mut byte)?;
        self.write_bytes(address, &byte)
    }
}

// include/uapi/linux/kernel-page-flags.h.
const COMPOUND_TAIL: u64 = 1 << 16;
/// Base pages of the largest folio that is looked through: 32 MiB of 4 KiB.
const FOLIO_MAX: u64 = 8192;

impl Caller {
    /// The folio of the page at `address`; a base page where frames are not shown to us.
    pub fn folio(&self, address: u64) -> Folio {
        let page = crate::page_size();
        let alone = Folio { offset: 0, size: page };
        let pagemap = File::open(format!("/proc/{}/pagemap", self.pid));
        let flags = File::open("/proc/kpageflags");
        let (Ok(pagemap), Ok(flags)) = (pagemap, flags) else {
            return alone;
        };
        let read = |file, index| read_entries(file, index, 1).ok()?.first().copied();
        let frame = read(&pagemap, address / page)
            .filter(|entry| entry & PRESENT != 0)
            .map_or(0, |entry| entry & FRAME);
        let is_tail = |frame| read(&flags, frame).is_some_and(|word| word & COMPOUND_TAIL != 0);
        let count = |tails: usize| u64::try_from(tails).unwrap_or(0);
        let before =
            count((0..FOLIO_MAX.min(frame)).take_while(|back| is_tail(frame - back)).count());
        let after = count((1..FOLIO_MAX).take_while(|next| is_tail(frame + next)).count());
        if frame == 0 {
            return alone;
        }
        Folio { offset: before * page, size: (before + 1 + after) * page }
    }
}

/// A folio around a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Folio {
    /// Bytes from its beginning to the page.
    pub offset: u64,
    /// Bytes of all of it.
    pub size: u64,
}

fn step(page: u64) -> usize {
    usize::try_from(page).unwrap_or(4096)
}

fn read_entries(pagemap: &File, first: u64, count: u64) -> Result<Vec<u64>, Errno> {
    let length = usize::try_from(count * 8).map_err(|_| Errno::ENOMEM)?;
    let mut bytes = vec![0; length];
    pagemap.read_exact_at(&mut bytes, first * 8).map_err(|_| Errno::EFAULT)?;
    Ok(bytes
        .chunks_exact(8)
        .map(|entry| entry.iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::mman::{mmap_anonymous, mprotect, munmap, MapFlags, ProtFlags};
    use std::num::NonZeroUsize;

    #[test]
    fn pinning_faults_pages_in_and_keeps_their_bytes() {
        let page = crate::page_size();
        let length = usize::try_from(16 * page).unwrap();
        // SAFETY: a fresh private mapping, unmapped below.
        let at = unsafe {
            mmap_anonymous(
                None,
                NonZeroUsize::new(length).unwrap(),
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_PRIVATE,
            )
        }
        .unwrap();
        let address = at.as_ptr() as u64;
        let me = Caller::myself();
        // SAFETY: the first byte of the mapping above.
        unsafe { at.cast::<u8>().as_ptr().write_volatile(7) };
        let pin = |size| me.pin(&me.pieces(address, size).unwrap());
        let state = pin(16 * page).unwrap();
        assert_eq!(state.pages, 16);
        assert_eq!(state.faulted, 15);
        assert!(state.runs.is_none_or(|runs| (1..=16).contains(&runs)));
        assert_eq!(pin(16 * page).unwrap().faulted, 0);
        // SAFETY: as above.
        assert_eq!(unsafe { at.cast::<u8>().as_ptr().read_volatile() }, 7);

        // SAFETY: the mapping's second page loses its write permission; nothing writes to it.
        unsafe {
            mprotect(
                at.byte_add(usize::try_from(page).unwrap()),
                usize::try_from(page).unwrap(),
                ProtFlags::PROT_READ,
            )
        }
        .unwrap();
        assert_eq!(pin(16 * page), Err(PinError { errno: Errno::EFAULT, address: address + page }));
        // SAFETY: unmaps what was mapped above.
        unsafe { munmap(at, length) }.unwrap();
    }

    #[test]
    fn a_page_inside_a_large_folio_is_found_where_frames_are_shown() {
        let huge = 2 << 20;
        let length = usize::try_from(2 * huge).unwrap();
        // SAFETY: a fresh private mapping, unmapped below.
        let at = unsafe {
            mmap_anonymous(
                None,
                NonZeroUsize::new(length).unwrap(),
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_PRIVATE,
            )
        }
        .unwrap();
        let first = (at.as_ptr() as u64).next_multiple_of(huge);
        // SAFETY: advice for the mapping above.
        let advised = unsafe { libc::madvise(at.as_ptr(), length, libc::MADV_HUGEPAGE) };
        let me = Caller::myself();
        me.touch(first).unwrap();
        let third = first + 3 * crate::page_size();
        me.touch(third).unwrap();
        assert_eq!(me.folio(first).offset, 0);
        let folio = me.folio(third);
        let shown = me.pin(&me.pieces(third, crate::page_size()).unwrap()).unwrap().runs.is_some();
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let huge_pages = smaps
            .lines()
            .filter_map(|line| line.strip_prefix("AnonHugePages:"))
            .any(|rest| !rest.trim().starts_with("0 "));
        if advised == 0 && shown && huge_pages {
            assert_eq!((folio.offset, folio.size), (3 * crate::page_size(), huge));
        }
        // SAFETY: unmaps what was mapped above.
        unsafe { munmap(at, length) }.unwrap();
    }
}
