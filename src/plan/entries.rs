// SPDX-License-Identifier: Apache-2.0
//! How many memory entries a backing makes: one per physically contiguous run of pages.

use super::{Host, PlannedRegion};
use crate::config::Backing;

/// The resource manager takes this many entries a message; the rest go by further messages.
pub(super) const MEMORY_ENTRIES_PER_MESSAGE: u64 = 512;

/// The most entries that a resource manager was seen to take: 4096 (8 messages) started after
/// seconds, 16384 ran it out of heap and hung START for good.
pub const MAX_MEMORY_ENTRIES: u64 = 4096;

/// Why there may not be more.
pub const TOO_MANY_ENTRIES: &str =
    "a resource manager was seen to take 4096 memory entries, and to hang START for good at four times that";

/// The bytes of a range of transparent huge pages before its first whole one and in whole ones. What is
/// before and behind is made of base pages, so that no folio reaches beyond the range.
pub fn whole_folios(base: u64, size: u64, host: &Host) -> (u64, u64) {
    let folio = host.folio();
    let before = ((folio - base % folio) % folio).min(size);
    (before, (size - before) / folio * folio)
}

/// Whole transparent huge pages in a range.
pub fn folios(base: u64, size: u64, host: &Host) -> u64 {
    whole_folios(base, size, host).1 / host.folio()
}

/// Pages, of whatever size, that a region of `backing` is made of at most: so many memory entries where
/// START hands it over, so many faults where the guest gets it page by page.
pub fn memory_entries(region: &PlannedRegion, backing: Backing, host: &Host) -> u64 {
    let size = region.size;
    let (unit, whole) = match backing {
        Backing::Hugetlb => (region.huge_page, size / region.huge_page * region.huge_page),
        Backing::Thp | Backing::Reserve => (host.folio(), whole_folios(region.base, size, host).1),
        Backing::Base => (host.page_size, 0),
    };
    whole / unit + (size - whole).div_ceil(host.page_size)
}
