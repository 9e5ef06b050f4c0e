// SPDX-License-Identifier: Apache-2.0
//! The registered memory, mapped here piece by piece so that each region is one range.

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use gunyah::uapi::{MEM_ALLOW_EXEC, MEM_ALLOW_READ, MEM_ALLOW_WRITE};
use nix::sys::mman::{mmap, mmap_anonymous, munmap, MapFlags, ProtFlags};

use crate::engine::{StartRegion, StartVm};

/// A region's range.
#[derive(Debug)]
pub struct Range {
    /// Guest address.
    pub guest: u64,
    /// Bytes.
    pub size: u64,
    /// `MEM_ALLOW_*`.
    pub flags: u32,
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
    /// First byte here; live as long as the range.
    pub fn host(&self) -> NonNull<u8> {
        self.host
    }

    /// The guest may do nothing, read, write, execute?
    pub fn allows(&self) -> (bool, bool, bool) {
        let has = |bit| self.flags & bit != 0;
        (has(MEM_ALLOW_READ), has(MEM_ALLOW_WRITE), has(MEM_ALLOW_EXEC))
    }

    fn map(region: &StartRegion, guest: u64) -> Result<Self, String> {
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
        let range = Self { guest, size: region.size, flags: region.flags, host, place, room };
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

/// All of a guest's memory.
#[derive(Debug)]
pub struct Ram(Vec<Range>);

impl Ram {
    /// Maps every region that the guest gets: one that its tree does not name lies where the
    /// resource manager likes; here: nowhere.
    pub fn map(vm: &StartVm) -> Result<Self, String> {
        vm.regions
            .iter()
            .filter_map(|region| Some(Range::map(region, region.placed_at?)))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The ranges.
    pub fn ranges(&self) -> &[Range] {
        &self.0
    }
}
