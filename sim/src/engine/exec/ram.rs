// SPDX-License-Identifier: Apache-2.0
//! The registered memory, mapped here piece by piece so that each region is one range.

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

use gunyah::uapi::{MEM_ALLOW_EXEC, MEM_ALLOW_READ, MEM_ALLOW_WRITE};
use nix::sys::mman::{mmap, mmap_anonymous, munmap, MapFlags, ProtFlags};

use crate::engine::{Access, StartRegion, StartVm};

/// A region's range.
#[derive(Debug)]
pub struct Range {
    /// Guest address.
    pub guest: u64,
    /// Bytes.
    pub size: u64,
    /// `MEM_ALLOW_*`.
    pub flags: u32,
    /// Where memory is given page by page: which pages the guest has.
    has: Option<Box<[AtomicBool]>>,
    /// Shared with the host: MMIO traps where the guest does not have a page of it.
    shared: bool,
    host: NonNull<u8>,
    /// What is mapped, slack and all.
    place: NonNull<c_void>,
    room: NonZeroUsize,
}

// SAFETY: the range is guest memory; only the CPUs' own code touches it, as any hardware would.
unsafe impl Send for Range {}
// SAFETY: as above.
unsafe impl Sync for Range {}

impl Range {
    /// The guest may read, write, execute? What is shared, where memory is given page by page, it
    /// never executes.
    fn allows(&self) -> (bool, bool, bool) {
        let has = |bit| self.flags & bit != 0;
        match self.has.is_some() && self.shared {
            true => (true, true, false),
            false => (has(MEM_ALLOW_READ), has(MEM_ALLOW_WRITE), has(MEM_ALLOW_EXEC)),
        }
    }

    /// `pages` of it from `first` on.
    fn part(&self, first: usize, pages: usize) -> Option<Part> {
        let bytes = |pages: usize| u64::try_from(pages).ok()?.checked_mul(crate::page_size());
        let offset = bytes(first)?;
        // SAFETY: both callers have pages of the range.
        let host = unsafe { self.host.add(usize::try_from(offset).ok()?) };
        let size = bytes(pages)?.min(self.size.checked_sub(offset)?);
        Some(Part { guest: self.guest + offset, size, host, allows: self.allows() })
    }

    fn page_of(&self, address: u64) -> Option<usize> {
        let offset = address.checked_sub(self.guest)?;
        let page = usize::try_from(offset / crate::page_size()).ok()?;
        (offset < self.size).then_some(page)
    }

    fn map(region: &StartRegion, guest: u64, paged: bool) -> Result<Self, String> {
        let what = |error: &dyn std::fmt::Display| format!("region {}: {error}", region.label);
        let size_of = |size: u64| {
            usize::try_from(size).ok().and_then(NonZeroUsize::new).ok_or_else(|| what(&"no size"))
        };
        let length = size_of(region.size)?;
        // A place for all of it; huge pages need theirs aligned, so room for that, too.
        let huge = region.pieces.iter().map(|piece| piece.page_size).max().unwrap_or(0);
        let slack = usize::try_from(huge).map_err(|error| what(&error))?;
        let room = length.checked_add(slack).ok_or_else(|| what(&"too large"))?;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let place = unsafe {
            mmap_anonymous(
                None,
                room,
                ProtFlags::PROT_NONE,
                MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE,
            )
        }
        .map_err(|errno| what(&errno))?;
        let address = place.as_ptr().addr();
        let offset = match slack {
            0 => 0,
            slack => address.next_multiple_of(slack) - address,
        };
        // SAFETY: offset is at most the slack, so the range lies in the place just made.
        let host = unsafe { place.cast::<u8>().add(offset) };
        let range = Self {
            guest,
            size: region.size,
            flags: region.flags,
            has: paged.then(|| {
                let pages = region.size.div_ceil(crate::page_size());
                (0..pages).map(|_| AtomicBool::new(false)).collect()
            }),
            shared: region.access == Access::Share,
            host,
            place,
            room,
        };
        let mut at = host;
        for piece in &region.pieces {
            let file = piece
                .file
                .as_ref()
                .filter(|_| piece.shared)
                .ok_or_else(|| what(&"private memory, which only its own process can map"))?;
            let size = size_of(piece.size)?;
            let start = NonZeroUsize::new(at.as_ptr().addr());
            // SAFETY: replaces a part of the place that was made for it above.
            unsafe {
                mmap(
                    start,
                    size,
                    ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                    MapFlags::MAP_SHARED | MapFlags::MAP_FIXED,
                    file.as_fd(),
                    i64::try_from(piece.offset).map_err(|error| what(&error))?,
                )
            }
            .map_err(|errno| what(&errno))?;
            // SAFETY: pieces add up to the region's size.
            at = unsafe { at.add(size.get()) };
        }
        Ok(range)
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        // SAFETY: unmaps what map() mapped; the CPUs that used it are gone.
        let _ = unsafe { munmap(self.place, self.room.get()) };
    }
}

/// A part of a range, as CPUs map it.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// Guest address.
    pub guest: u64,
    /// Bytes.
    pub size: u64,
    /// First byte here; live as long as the ram.
    pub host: NonNull<u8>,
    /// The guest may read, write, execute?
    pub allows: (bool, bool, bool),
}

/// All of a guest's memory.
#[derive(Debug)]
pub struct Ram(Vec<Range>);

impl Ram {
    /// Maps every region that the guest gets: one that its tree does not name lies where the
    /// resource manager likes; here: nowhere.
    pub fn map(vm: &StartVm) -> Result<Self, String> {
        let paged = vm.paged.is_some();
        // Where memory is given page by page it need not be mapped yet, or ever.
        let whole = |region: &&StartRegion| {
            let bytes: u64 = region.pieces.iter().map(|piece| piece.size).sum();
            !paged || bytes == region.size
        };
        let ram = vm
            .regions
            .iter()
            .filter(whole)
            .filter_map(|region| Some(Range::map(region, region.placed_at?, paged)))
            .collect::<Result<_, _>>()
            .map(Self)?;
        for &(address, size) in vm.paged.iter().flatten() {
            ram.provide(address, size);
        }
        Ok(ram)
    }

    /// The guest has these pages now.
    pub fn provide(&self, address: u64, size: u64) {
        let step = usize::try_from(crate::page_size()).unwrap_or(4096);
        for at in (address..address.saturating_add(size)).step_by(step) {
            for range in &self.0 {
                if let (Some(has), Some(page)) = (&range.has, range.page_of(at)) {
                    has[page].store(true, Ordering::Release);
                }
            }
        }
    }

    /// What CPUs map from the beginning: all that is not given page by page.
    pub fn whole(&self) -> impl Iterator<Item = Part> + '_ {
        let whole = self.0.iter().filter(|range| range.has.is_none());
        whole.filter_map(|range| {
            let pages = usize::try_from(range.size.div_ceil(crate::page_size())).ok()?;
            range.part(0, pages)
        })
    }

    /// Where memory is given page by page: the first page of an address's range that the guest does
    /// not have yet, if the range is lent.
    pub fn first_lacking(&self, address: u64) -> Option<u64> {
        let range = self.0.iter().find(|range| range.page_of(address).is_some())?;
        let has = range.has.as_ref().filter(|_| !range.shared)?;
        let page = has.iter().position(|has| !has.load(Ordering::Acquire))?;
        Some(range.guest + u64::try_from(page).ok()? * crate::page_size())
    }

    /// Where memory is given page by page: the guest's pages around an address that are `wanted`, by
    /// their guest addresses. None: it does not have that one, or it is not wanted.
    pub fn given(&self, address: u64, wanted: impl Fn(u64) -> bool) -> Option<Part> {
        let range = self.0.iter().find(|range| range.page_of(address).is_some())?;
        let (has, page) = (range.has.as_ref()?, range.page_of(address)?);
        let wanted = |page: &usize| {
            let there = has.get(*page).is_some_and(|has| has.load(Ordering::Acquire));
            let address = u64::try_from(*page).map(|page| range.guest + page * crate::page_size());
            there && address.is_ok_and(&wanted)
        };
        let before = (0..page).rev().take_while(wanted).count();
        let from = (page..has.len()).take_while(wanted).count();
        (from > 0).then(|| range.part(page - before, before + from))?
    }
}
