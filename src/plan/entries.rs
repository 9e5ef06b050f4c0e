// SPDX-License-Identifier: Apache-2.0
//! How many memory entries a backing makes: one per physically contiguous run of pages.

use super::Host;
use crate::config::Backing;

/// The resource manager takes this many entries a message; the rest go by further messages.
pub(super) const MEMORY_ENTRIES_PER_MESSAGE: u64 = 512;

/// The most entries that a resource manager was seen to take: 4096 (8 messages) started after
/// seconds, 16384 ran it out of heap and hung START for good.
pub const MAX_MEMORY_ENTRIES: u64 = 4096;

/// Why there may not be more.
pub const TOO_MANY_ENTRIES: &str =
    "a resource manager was seen to take 4096 memory entries, and to hang START for good at four times that";

/// Entries that `size` bytes of `backing` make at most. `huge_page` is the region's own, in bytes.
pub fn memory_entries(size: u64, backing: Backing, huge_page: u64, host: &Host) -> u64 {
    let unit = match backing {
        Backing::Hugetlb => huge_page,
        Backing::Thp => host.thp_page,
        Backing::Base => host.page_size,
    };
    size / unit + (size % unit).div_ceil(host.page_size)
}
