// SPDX-License-Identifier: Apache-2.0
//! Every address and size of one launch, decided before anything is touched. Pure.
//!
//! ```text
//! memory.base                                                     memory.base + memory.size
//! | branch? | kernel, bss included |        free         | initrd |   dtb's slot   | free |
//! ```
//!
//! - Main memory is one region. Up to 6.1 the resource manager takes the region that holds the DTB for
//!   the guest's memory, and enters it at its first byte: where the kernel's entry is elsewhere, a
//!   branch is written there. Later kernels are told the entry.
//! - The kernel lies at `kernel.offset` (default 0) plus its own text offset.
//! - The DTB has a slot of its own: 2 MiB on the highest boundary of a transparent huge page that leaves
//!   room for the initrd. Since 6.6 START hands over the slot's folio alone; 6.12 looks for the DTB at
//!   the folio's first byte, and early 6.6 kernels panic where the slot is not whole folios. In less
//!   than 8 MiB of memory it takes the highest pages and its room; where drivers care for folios, these
//!   are base pages.
//! - The initrd takes the highest free pages that are left.

mod devices;
mod entries;
mod kernels;
mod place;
mod regions;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;

use gunyah::Dialect;

pub use devices::{devices, power_key, Model, PlannedDevice, PowerKey, VHOST_VSOCK};
pub use entries::{folios, memory_entries, whole_folios, MAX_MEMORY_ENTRIES, TOO_MANY_ENTRIES};
pub use kernels::fits;
pub use place::plan;
pub use regions::reserve_folios;

use crate::config::{Access, Backing, Permissions, Scheduling, VmName};
use crate::diagnostic::{Diagnostic, Kind};
use crate::image::elf::Load;

/// Main memory from this size on has a slot for the devicetree.
const SLOTTED_FROM: u64 = 8 << 20;

/// What of the host the plan depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// Bytes of a base page.
    pub page_size: u64,
    /// Bytes of a huge page where the config names none.
    pub huge_page: u64,
    /// Bytes of a transparent huge page.
    pub thp_page: u64,
    /// What its driver speaks.
    pub dialect: Dialect,
    /// Its driver wakes vCPUs whose timers have run out (CHECK_EXTENSION).
    pub timer_wakeups: bool,
    /// gunyahd holds a reserve there.
    pub reserve: bool,
}

impl Host {
    /// A host with 4 KiB pages, as most are; a level-2 block maps 2 MiB.
    pub const PAGES_4K: Self = Self::with_pages(4 << 10, 2 << 20);
    /// An Android host with 16 KiB pages; a level-2 block maps 32 MiB.
    pub const PAGES_16K: Self = Self::with_pages(16 << 10, 32 << 20);
    /// A host with 64 KiB pages; a level-2 block maps 512 MiB.
    pub const PAGES_64K: Self = Self::with_pages(64 << 10, 512 << 20);

    const fn with_pages(page_size: u64, huge: u64) -> Self {
        Self {
            page_size,
            huge_page: huge,
            thp_page: huge,
            dialect: Dialect::Ack61,
            timer_wakeups: false,
            reserve: false,
        }
    }

    /// Bytes of a folio: a transparent huge page, but no less than a page.
    pub fn folio(&self) -> u64 {
        self.thp_page.max(self.page_size)
    }

    /// The same with another driver.
    pub fn with(self, dialect: Dialect) -> Self {
        Self { dialect, ..self }
    }

    /// The same with or without a reserve.
    pub const fn with_reserve(self, reserve: bool) -> Self {
        Self { reserve, ..self }
    }
}

/// One launch, decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchPlan {
    pub vm: VmName,
    /// The driver that it is for.
    pub dialect: Dialect,
    /// Who gives the vCPUs their time.
    pub scheduling: Scheduling,
    /// Regions in the order of registration; the first is the guest's main memory.
    pub regions: Vec<PlannedRegion>,
    pub kernel: PlannedKernel,
    /// For SET_FW_CONFIG: the region in which the guest then begins, the last one.
    pub firmware: Option<Range>,
    pub initrd: Option<Range>,
    /// The memory that a guest of lent memory shares with its devices: one of `regions`.
    pub pool: Option<Range>,
    /// Virtio devices, in the order in which the guest finds them.
    pub devices: Vec<PlannedDevice>,
    /// What asks the guest to end, where a power key does.
    pub power_key: Option<PowerKey>,
    /// For SET_DTB_CONFIG: whole pages, with the room for the overlay; a whole slot where there is one.
    pub dtb: Range,
    /// Memory entries that the resource manager gets at START at most, with the first backing of each
    /// region.
    pub memory_entries: u64,
    /// The host wakes vCPUs whose timers have run out; the hypervisor elsewhere.
    pub timer_wakeups: bool,
    /// What a person should know and that stops nothing.
    pub warnings: Vec<Diagnostic>,
}

impl LaunchPlan {
    /// The guest's main memory.
    pub fn main(&self) -> &PlannedRegion {
        &self.regions[0]
    }

    /// What is overwritten by the bytes of files, in rising order.
    pub fn from_files(&self) -> Vec<Range> {
        let mut all = Vec::new();
        for part in &self.kernel.segments {
            all.push(Range { base: part.address, size: part.file_size });
        }
        all.extend(self.initrd);
        for region in &self.regions {
            if let Some((_, size)) = region.file {
                all.push(Range { base: region.base, size });
            }
        }
        all.sort_unstable_by_key(|range| range.base);
        all
    }
}

/// One region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedRegion {
    /// Its key in the VM's file.
    pub key: String,
    pub label: u32,
    /// Guest address.
    pub base: u64,
    /// Bytes, a multiple of the host page.
    pub size: u64,
    pub access: Access,
    /// What the guest may do.
    pub flags: Permissions,
    /// Kinds of backing, best first.
    pub backing: Vec<Backing>,
    /// Huge page size in bytes for `hugetlb`.
    pub huge_page: u64,
    /// Populate before START.
    pub prefault: bool,
    /// File whose bytes the region begins with, and how many.
    pub file: Option<(PathBuf, u64)>,
}

impl PlannedRegion {
    /// It is what a guest of lent memory shares with its devices.
    pub fn is_pool(&self) -> bool {
        self.key == devices::POOL
    }
}

/// A range of guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub base: u64,
    pub size: u64,
}

impl fmt::Display for Range {
    /// As messages write every range: `0x80000000+0x200000`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}+{:#x}", self.base, self.size)
    }
}

impl Range {
    /// Whether the two share a byte.
    pub fn overlaps(&self, other: &Range) -> bool {
        self.base < other.base.saturating_add(other.size)
            && other.base < self.base.saturating_add(self.size)
    }
}

/// The kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedKernel {
    /// Pieces of the (unpacked) file, in rising order, at their guest addresses.
    pub segments: Vec<Load>,
    /// Guest address of its first instruction.
    pub entry: u64,
    /// Bytes of its file that lie at its first segment, which firmware is told of.
    pub size: u64,
    /// The A64 branch at the base of main memory, where the guest begins there and that is not the entry.
    pub branch: Option<u32>,
}

/// Everything that this folder finds.
pub(crate) const KINDS: &[&[&Kind]] =
    &[kernels::KINDS, regions::KINDS, devices::KINDS, place::KINDS];
