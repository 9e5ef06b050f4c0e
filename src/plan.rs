// SPDX-License-Identifier: Apache-2.0
//! Every address and size of one launch, decided before anything is touched. Pure.

use std::path::PathBuf;

use crate::config::{Access, Backing, Permissions, Scheduling, VmName};

/// One launch, decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchPlan {
    /// The VM.
    pub vm: VmName,
    /// Regions in the order of registration; the first is the guest's main memory.
    pub regions: Vec<PlannedRegion>,
    /// The kernel's pieces.
    pub kernel: PlannedKernel,
    /// The initrd.
    pub initrd: Option<PlannedFile>,
    /// The devicetree.
    pub dtb: PlannedDtb,
    /// How many vCPUs.
    pub vcpus: u32,
    /// Who schedules them.
    pub scheduling: Scheduling,
    /// Memory entries that the resource manager will get at most, for all regions.
    pub memory_entries: u64,
}

/// One region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedRegion {
    /// Label.
    pub label: u32,
    /// Guest address.
    pub base: u64,
    /// Bytes, a multiple of the host page.
    pub size: u64,
    /// Share, lend or auto.
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

/// Bytes of a file at a guest address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedFile {
    /// The file.
    pub path: PathBuf,
    /// Guest address.
    pub base: u64,
    /// Bytes.
    pub size: u64,
}

/// A piece of a kernel file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins in the (unpacked) file.
    pub file_offset: u64,
    /// Bytes in the file.
    pub file_size: u64,
    /// Guest address.
    pub base: u64,
    /// Bytes in memory; those past `file_size` are zero.
    pub memory_size: u64,
}

/// The kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedKernel {
    /// The file.
    pub path: PathBuf,
    /// The file is gzip'ed and `segments` speak of the unpacked bytes.
    pub gzip: bool,
    /// Its pieces, in rising order.
    pub segments: Vec<Segment>,
    /// Guest address of its first instruction. The resource manager enters main memory at offset 0;
    /// where that is not the entry, a branch is written there.
    pub entry: u64,
}

/// The devicetree's range, as given to SET_DTB_CONFIG.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedDtb {
    /// Guest address, page aligned.
    pub base: u64,
    /// Bytes with the room for the overlay, a multiple of the page.
    pub size: u64,
}
