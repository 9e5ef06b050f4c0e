// SPDX-License-Identifier: Apache-2.0
//! The reserve: transparent huge pages, which gunyahd takes at boot while memory is whole, gives to its
//! VMs, and takes back. For drivers that refuse hugetlb pages.
//!
//! It is one memfd. The supervisor holds it, and has it mapped without access, so that its pages stay
//! locked: huge, and not in swap. A worker gets the memfd and the numbers of its folios, maps these,
//! and closes the memfd before its guest runs.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use rustix::fs::MemfdFlags;

use super::mapping::{new_memfd, Locked, Mapping};
use crate::diagnostic::{kinds, Diagnostic};
use crate::text::Size;

/// What init hands to `--reserve` (init/gunyahd.rc).
const PROPERTY: &str = "ro.vendor.gunyah.reserve";

kinds! {
    NONE: Error "reserve-none" in Pool {
        "the VM wants folios of the reserve, and gunyahd has none",
        cause: "`gunyahd boot` was started without `--reserve`; or this is `gunyahd run`, which never has one",
        cure: "set ro.vendor.gunyah.reserve (`gunyahd check` says to what), or add \"thp\" to `backing`",
    }
    SHORT: Error "reserve-short" in Pool {
        "the reserve has too few free folios",
        cause: "it is smaller than what the VMs need, or another VM has them",
        cure: "set ro.vendor.gunyah.reserve to what `gunyahd check` adds up, or add \"thp\" to `backing`",
    }
    NOT_TAKEN: Error "reserve-not-taken" in Serve {
        "the reserve could not be taken",
        cause: "the host, or this service's memory cgroup, has too little memory left",
        cure: "make ro.vendor.gunyah.reserve smaller, or start gunyahd earlier at boot",
    }
    SMALL: Warning "reserve-small-folios" in Serve {
        "some of the reserve is made of base pages",
        cause: "memory was fragmented when it was taken, the kernel is older than 6.1, or shmem_enabled is `deny`",
        cure: "start gunyahd early at boot, while memory is whole; a VM's start asks once more for its part",
    }
    NOT_LOCKED: Warning "reserve-not-locked" in Serve {
        "the reserve is not locked: its folios may be split and swapped out",
        cause: "the service has neither RLIMIT_MEMLOCK nor the capability",
        cure: "put `rlimit memlock unlimited unlimited` or the capability IPC_LOCK into the service's .rc (by hand: ulimit -l unlimited)",
    }
}

/// What the supervisor holds.
#[derive(Debug)]
pub struct Reserve {
    memfd: OwnedFd,
    locked: Locked,
    folio: u64,
    folios: u64,
}

impl Reserve {
    /// Takes `bytes`, rounded up to whole folios of `folio` bytes. Also returns what a person should know.
    pub fn take(bytes: u64, folio: u64) -> Result<(Self, Vec<Diagnostic>), Diagnostic> {
        let folios = bytes.div_ceil(folio);
        let size = folios.saturating_mul(folio);
        let failed = |errno| {
            let what = format!("taking {folios} folios of {}", Size(folio));
            NOT_TAKEN.case(what).errno(errno)
        };
        // Asked for more than there is, the kernel would kill other processes first.
        if let Some(available) = available().filter(|available| *available < size) {
            let (size, available) = (Size(size), Size(available >> 20 << 20));
            let what = format!("{size} are to be reserved, and the host has {available} left");
            return Err(NOT_TAKEN.case(what));
        }
        let memfd = new_memfd("gunyah:reserve", size, MemfdFlags::empty()).map_err(failed)?;
        let map = || {
            let mut mapping = Mapping::reserve(size, folio, 0)?;
            mapping.add_folios_of(&memfd, 0, size)?;
            // fork, soon to come, wants no second thread, not even one that is about to be gone.
            mapping.populate_folios(folio, 1)?;
            mapping.insist_on_folios(folio)?;
            mapping.lock()
        };
        let locked = map().map_err(failed)?;
        let reserve = Self { locked, memfd, folio, folios };
        let mut warnings = Vec::new();
        let huge = reserve.huge();
        if huge < folios {
            let what = format!("{huge} of {folios} folios of {} are huge", Size(folio));
            warnings.push(SMALL.case(what));
        }
        if !reserve.locked.is_locked {
            let what = format!("{} cannot be locked", Size(size));
            warnings.push(NOT_LOCKED.case(what));
        }
        Ok((reserve, warnings))
    }

    /// Bytes of a folio.
    pub fn folio(&self) -> u64 {
        self.folio
    }

    /// How many there are.
    pub fn folios(&self) -> u64 {
        self.folios
    }

    /// How many of them are huge pages now, by /proc/self/smaps.
    pub fn huge(&self) -> u64 {
        self.locked.huge_bytes().unwrap_or(0) / self.folio
    }

    /// Locks folios that a worker has renewed.
    pub fn lock_anew(&self) -> Result<(), Errno> {
        self.locked.lock_anew()
    }
}

impl AsFd for Reserve {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }
}

/// What the host can still give without swapping, in bytes.
fn available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim_ascii().strip_suffix(" kB")?.trim_ascii().parse().ok()?;
    kib.checked_mul(1024)
}

/// What is in a folio, and how its last run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Past {
    /// Zeros: nobody had it yet.
    Clean,
    /// Bytes of a VM, whose run has ended as it should.
    Used,
    /// The run ended hard: the hypervisor may still have the pages, and to touch one of these ends the
    /// process that does, or the host.
    Doubtful,
}

/// Folios in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The first one's number.
    pub first: u64,
    pub count: u64,
    pub past: Past,
}

/// What a worker has of the reserve.
#[derive(Debug)]
pub struct Allotment {
    pub memfd: OwnedFd,
    /// Bytes of a folio.
    pub folio: u64,
    /// Its folios.
    pub extents: Vec<Extent>,
    /// Folios that nobody had, these among them.
    pub free: u64,
    /// All of the reserve.
    pub total: u64,
}

impl Allotment {
    /// How many folios it has.
    pub(super) fn folios(&self) -> u64 {
        self.extents.iter().map(|extent| extent.count).sum()
    }

    /// Takes the first `count` folios out of it.
    pub(super) fn split(&mut self, count: u64) -> Vec<Extent> {
        let mut left = count;
        let mut taken = Vec::new();
        while let Some(extent) = self.extents.first_mut().filter(|_| left > 0) {
            let part = extent.count.min(left);
            taken.push(Extent { count: part, ..*extent });
            left -= part;
            extent.first += part;
            extent.count -= part;
            if extent.count == 0 {
                self.extents.remove(0);
            }
        }
        taken
    }
}

/// Why `needs` more folios cannot be had; `already` are for other regions of the same VM.
pub(super) fn refused(reserve: Option<&Allotment>, needs: u64, already: u64) -> Diagnostic {
    let Some(Allotment { folio, free, total, .. }) = reserve else {
        return NONE.case(format!("needs {needs} folios, and there is no reserve"));
    };
    let mut what =
        format!("needs {needs} folios of {}, {free} free of {total} reserved", Size(*folio));
    if already > 0 {
        what.push_str(&format!(" ({already} of them for its other regions)"));
    }
    let missing = needs.saturating_add(already).saturating_sub(*free);
    let size = Size(total.saturating_add(missing).saturating_mul(*folio));
    SHORT.case(what).cure(format!(
        "set {PROPERTY}={size:#}, which `gunyahd boot --reserve` gets, or add \"thp\" to `backing`; `gunyahd check` adds up what all VMs need"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(first: u64, count: u64, past: Past) -> Extent {
        Extent { first, count, past }
    }

    fn allotment(extents: Vec<Extent>) -> Allotment {
        let memfd = std::fs::File::open("/dev/null").unwrap().into();
        Allotment { memfd, folio: 2 << 20, extents, free: 5, total: 9 }
    }

    #[test]
    fn regions_take_their_folios_in_order() {
        let mut part = allotment(vec![extent(1, 3, Past::Used), extent(7, 2, Past::Clean)]);
        assert_eq!(part.split(2), [extent(1, 2, Past::Used)]);
        assert_eq!(part.split(2), [extent(3, 1, Past::Used), extent(7, 1, Past::Clean)]);
        assert_eq!(part.folios(), 1);
        assert_eq!(part.split(9), [extent(8, 1, Past::Clean)]);
        assert_eq!(part.split(1), []);
    }

    #[test]
    fn a_short_reserve_comes_with_the_size_that_is_enough() {
        let part = allotment(Vec::new());
        let error = refused(Some(&part), 8, 0);
        assert_eq!(error.what, "needs 8 folios of 2 MiB, 5 free of 9 reserved");
        assert!(error.cure.contains("ro.vendor.gunyah.reserve=24M,"), "{error}");
        assert_eq!(refused(None, 8, 0).name, "reserve-none");
    }
}
