// SPDX-License-Identifier: Apache-2.0
//! One region: mapped, populated, and looked at.

use std::ops::Range;

use nix::errno::Errno;

use super::mapping::Mapping;
use super::pool::Pool;
use super::reserve::{Allotment, Past};
use crate::config::Backing;
use crate::diagnostic::{kinds, Diagnostic};
use crate::list::Listed;
use crate::plan::{self, whole_folios, Host, PlannedRegion, MAX_MEMORY_ENTRIES};
use crate::text::Size;

kinds! {
    POOL_RAN_OUT: Error "memory-pool-ran-out" in Memory {
        "the pool ran out of huge pages while they were taken",
        cause: "another program took huge pages in between",
        cure: "reserve more; `gunyahd check` adds up what all VMs need",
    }
    OUT: Error "memory-out" in Memory {
        "the host has no memory left for a region",
        cause: "the host, or this service's memory cgroup, is out of memory",
        cure: "give the VM less memory, or reserve huge pages at boot (\"backing\": [\"hugetlb\"])",
    }
    NO_SUCH_PAGES: Error "memory-no-such-pages" in Memory {
        "the kernel refuses huge pages of the wanted size",
        cause: "the kernel has no such pages",
        cure: "give a page_size that is listed in /sys/kernel/mm/hugepages, or turn on CONFIG_HUGETLBFS",
    }
    NOT_POPULATED: Error "memory-not-populated" in Memory {
        "a page could not be made present",
        cause: "pages ran out, or the memory is broken",
        cure: "look for `Memory failure` in dmesg, and at the memory cgroup's limits",
    }
    NOT_MAPPED: Error "memory-not-mapped" in Memory {
        "a region could not be mapped",
        cure: "look up the errno in mmap(2) and memfd_create(2)",
    }
    FRAGMENTED: Error "memory-fragmented" in Memory {
        "too few transparent huge pages came",
        cause: "memory is fragmented, shmem_enabled is `deny`, or the kernel is older than 6.1 and it is `never`; so many small pages would hang the resource manager",
        cure: "write `advise` to /sys/kernel/mm/transparent_hugepage/shmem_enabled early at boot, or use \"backing\": [\"hugetlb\"]; on a workstation, `echo 1 > /proc/sys/vm/compact_memory` may help for now",
    }
    FEW_HUGE_PAGES: Warning "memory-few-huge-pages" in Memory {
        "fewer transparent huge pages came than there could be",
        cause: "memory is fragmented, shmem_enabled is `deny`, or the kernel is older than 6.1 and it is `never`; START takes longer",
        cure: "write `advise` to /sys/kernel/mm/transparent_hugepage/shmem_enabled early at boot",
    }
    SMALL_FOLIOS: Warning "memory-small-folios" in Memory {
        "some of the guest's memory is made of base pages",
        cause: "memory is fragmented, or shmem_enabled is `deny`; each small page costs the hypervisor some of its page-table heap, and when that is used up a guest's page fault fails with ENOMEM until the host reboots",
        cure: "start the VM early at boot, while memory is whole; write `advise` to /sys/kernel/mm/transparent_hugepage/shmem_enabled",
    }
}

// nix has no name for it on Android, where it is an unknown one.
#[cfg(not(target_os = "android"))]
const HWPOISON: Errno = Errno::EHWPOISON;
#[cfg(target_os = "android")]
const HWPOISON: Errno = Errno::UnknownErrno;

/// A region's memory.
pub(super) struct Allocated {
    pub mapping: Mapping,
    /// Transparent huge pages that came, of those that there could be.
    pub huge: (u64, u64),
    /// What a person should know.
    pub warning: Option<Diagnostic>,
}

/// What there is to make regions of, besides the host's memory.
pub(super) struct Means<'a> {
    pub host: &'a Host,
    pub reserve: Option<Allotment>,
    /// What files' bytes will be in: guest addresses, in rising order.
    pub written: Vec<plan::Range>,
    /// How many threads may populate and clear.
    pub threads: usize,
}

/// Maps `region` and, where asked, populates it. Its part of the reserve is populated in any case.
pub(super) fn allocate(
    name: &str,
    region: &PlannedRegion,
    backing: Backing,
    means: &mut Means<'_>,
) -> Result<Allocated, Diagnostic> {
    let failed = |errno| exhausted(region, backing, errno);
    let mapping = map(name, region, backing, means).map_err(failed)?;
    let Means { host, threads, .. } = *means;
    let transparent = matches!(backing, Backing::Thp | Backing::Reserve);
    if !transparent || !(region.prefault || backing == Backing::Reserve) {
        if region.prefault {
            let page = if backing == Backing::Hugetlb { region.huge_page } else { host.page_size };
            mapping.populate(page, threads).map_err(failed)?;
        }
        return Ok(Allocated { mapping, huge: (0, 0), warning: None });
    }
    let folio = host.folio();
    let (_, whole) = whole_folios(region.base, region.size, host);
    let huge = |mapping: &Mapping| mapping.huge_bytes().unwrap_or(0).min(whole);
    let mut got = 0;
    if backing == Backing::Reserve {
        // Its folios are there, and most often huge: they need only be mapped, which takes one thread's call.
        mapping.populate(folio, 1).map_err(failed)?;
        got = huge(&mapping);
    }
    if backing != Backing::Reserve || got < whole {
        mapping.populate_folios(folio, threads).map_err(failed)?;
        got = huge(&mapping);
    }
    let warning = match few_huge_pages(region, host, got, whole) {
        Some(fault) if fault.is_error() => return Err(fault),
        warning => warning,
    };
    Ok(Allocated { mapping, huge: (got / folio, whole / folio), warning })
}

/// Huge pages as far as they go, base pages for the rest: a size that is not a multiple of the huge
/// page wastes none. Transparent ones lie in the guest as they lie here, on multiples of their size: a
/// driver that hands over whole folios hands over what is around a page, too.
fn map(
    name: &str,
    region: &PlannedRegion,
    backing: Backing,
    means: &mut Means<'_>,
) -> Result<Mapping, Errno> {
    let host = means.host;
    let folio = host.folio();
    let (align, beyond, before, whole) = match backing {
        Backing::Hugetlb => {
            (region.huge_page, 0, 0, region.size / region.huge_page * region.huge_page)
        }
        Backing::Thp | Backing::Reserve => {
            let (before, whole) = whole_folios(region.base, region.size, host);
            (folio, region.base % folio, before, whole)
        }
        Backing::Base => (folio, region.base % folio, region.size, 0),
    };
    let mut mapping = Mapping::reserve(region.size, align, beyond)?;
    if before > 0 {
        mapping.add_small(name, before)?;
    }
    match backing {
        Backing::Hugetlb if whole > 0 => mapping.add_huge(name, whole, region.huge_page)?,
        Backing::Thp if whole > 0 => mapping.add_folios(name, whole)?,
        Backing::Reserve if whole > 0 => {
            add_reserve(&mut mapping, region, before..before + whole, means)?;
        }
        _ => {}
    }
    let after = region.size - before - whole;
    if after > 0 {
        mapping.add_small(name, after)?;
    }
    Ok(mapping)
}

/// Fills `range` of the mapping with folios of the reserve, all zeros but for what files' bytes will be in: whoever
/// had them before, however that one ended, none of its bytes is seen here.
fn add_reserve(
    mapping: &mut Mapping,
    region: &PlannedRegion,
    range: Range<u64>,
    means: &mut Means<'_>,
) -> Result<(), Errno> {
    let reserve = means.reserve.as_mut().ok_or(Errno::ENOMEM)?;
    let folio = reserve.folio;
    let inside = |written: &plan::Range| {
        let from = written.base.checked_sub(region.base)?;
        Some(from..from.saturating_add(written.size))
    };
    let written = means.written.iter().filter_map(inside).listed();
    let mut offset = range.start;
    // Side by side here, wherever they are in the reserve: one piece of work for all threads.
    let mut used: Vec<Range<u64>> = Vec::new();
    for extent in reserve.split((range.end - range.start) / folio) {
        let size = extent.count * folio;
        mapping.add_folios_of(&reserve.memfd, extent.first * folio, size)?;
        match extent.past {
            Past::Clean => {}
            Past::Used => match used.last_mut() {
                Some(last) if last.end == offset => last.end += size,
                _ => used.push(offset..offset + size),
            },
            Past::Doubtful => mapping.renew_folios(offset, size, folio)?,
        }
        offset += size;
    }
    used.into_iter()
        .try_for_each(|run| mapping.clear(run.start, run.end - run.start, &written, means.threads))
}

fn exhausted(region: &PlannedRegion, backing: Backing, errno: Errno) -> Diagnostic {
    let what =
        format!("region {}: mapping {} of {backing} memory", region.label, Size(region.size));
    let fault = match (errno, backing) {
        (Errno::ENOMEM, Backing::Hugetlb) => {
            let fault = POOL_RAN_OUT.case(what);
            match Pool::read(region.huge_page) {
                Ok(pool) => fault
                    .cause(format!("another program took huge pages in between: now {pool}"))
                    .cure(pool.cure(region.size / region.huge_page)),
                Err(_) => fault,
            }
        }
        (Errno::ENOMEM | Errno::ENOSPC, _) => OUT.case(what),
        (Errno::EINVAL | Errno::ENOENT | Errno::ENODEV, Backing::Hugetlb) => {
            let size = Size(region.huge_page);
            NO_SUCH_PAGES.case(what).cause(format!("the kernel has no huge pages of {size}"))
        }
        (Errno::EFAULT | HWPOISON, _) => NOT_POPULATED.case(what),
        _ => NOT_MAPPED.case(what),
    };
    fault.errno(errno)
}

/// Too few of them would hang an older driver's resource manager, so that is an error and not a warning.
fn few_huge_pages(region: &PlannedRegion, host: &Host, got: u64, whole: u64) -> Option<Diagnostic> {
    if got == whole {
        return None;
    }
    let entries = got / host.folio() + (region.size - got).div_ceil(host.page_size);
    let pieces = match host.dialect.pages_on_demand() {
        true => "pages",
        false => "memory entries",
    };
    let what = format!(
        "region {}: {got} of {whole} bytes are transparent huge pages, which makes up to {entries} {pieces}",
        region.label
    );
    let kind = match (host.dialect.pages_on_demand(), entries > MAX_MEMORY_ENTRIES) {
        (true, _) => SMALL_FOLIOS,
        (false, true) => FRAGMENTED,
        (false, false) => FEW_HUGE_PAGES,
    };
    Some(kind.case(what))
}

#[cfg(test)]
mod tests {
    use gunyah::Dialect;

    use super::*;
    use crate::config::{Access, Permissions};

    fn region(size: u64, backing: Backing) -> PlannedRegion {
        PlannedRegion {
            key: "memory".to_owned(),
            label: 3,
            base: 0x8000_0000,
            size,
            access: Access::Auto,
            flags: Permissions::ALL,
            backing: vec![backing],
            huge_page: 2 << 20,
            prefault: true,
            file: None,
        }
    }

    fn means(host: &Host) -> Means<'_> {
        Means { host, reserve: None, written: Vec::new(), threads: 2 }
    }

    #[test]
    fn every_errno_has_its_cause() {
        let of = |errno, backing| exhausted(&region(4 << 20, backing), backing, errno).name.clone();
        assert_eq!(of(Errno::ENOMEM, Backing::Hugetlb), "memory-pool-ran-out");
        assert_eq!(of(Errno::EINVAL, Backing::Hugetlb), "memory-no-such-pages");
        assert_eq!(of(Errno::ENOMEM, Backing::Base), "memory-out");
        assert_eq!(of(Errno::EFAULT, Backing::Thp), "memory-not-populated");
        assert_eq!(of(Errno::EPERM, Backing::Base), "memory-not-mapped");
    }

    #[test]
    fn few_huge_pages_are_slow_and_too_few_are_refused() {
        let few = |size, got| {
            let region = region(size, Backing::Thp);
            few_huge_pages(&region, &Host::PAGES_4K, got, size).map(|fault| fault.name.clone())
        };
        assert_eq!(few(64 << 20, 64 << 20), None);
        assert_eq!(few(64 << 20, 62 << 20).unwrap(), "memory-few-huge-pages");
        assert_eq!(few(64 << 20, 0).unwrap(), "memory-fragmented");
        // Where the guest gets its memory page by page, no message to the resource manager overflows.
        let newer = Host::PAGES_4K.with(Dialect::Ack66);
        let few = few_huge_pages(&region(64 << 20, Backing::Thp), &newer, 0, 64 << 20).unwrap();
        assert_eq!(few.name, "memory-small-folios");
        assert!(!few.is_error() && few.what.contains("16384 pages"), "{few}");
    }

    /// A driver that hands over whole folios takes the guest's neighbourhood of a page for the host's.
    #[test]
    fn folios_lie_in_the_guest_as_they_lie_here() {
        let host = crate::memory::host(Dialect::Ack66);
        let folio = host.thp_page;
        for (base, size) in [
            (0x8000_0000, 3 * folio),
            (0x8000_0000 + host.page_size, 2 * folio),
            (folio - host.page_size, 2 * host.page_size),
        ] {
            for backing in [Backing::Base, Backing::Thp] {
                let region = PlannedRegion { base, ..region(size, backing) };
                let mapping =
                    allocate("test", &region, backing, &mut means(&host)).unwrap().mapping;
                assert_eq!(mapping.address() % folio, base % folio, "{base:#x} {backing}");
                let (before, whole) = whole_folios(base, size, &host);
                assert!((base + before) % folio == 0 || whole == 0);
                assert!(
                    mapping.huge_bytes().unwrap() <= whole,
                    "a folio reaches beyond the region"
                );
            }
        }
    }

    #[test]
    fn maps_and_populates() {
        let host = crate::memory::host(Dialect::Ack66);
        for backing in [Backing::Base, Backing::Thp] {
            let region = region((5 << 20) + host.page_size, backing);
            let mut mapping =
                allocate("test", &region, backing, &mut means(&host)).unwrap().mapping;
            assert_eq!(mapping.address() % host.page_size, 0);
            let bytes = mapping.bytes_mut();
            assert_eq!(bytes.len() as u64, region.size);
            bytes[bytes.len() - 1] = 7;
        }
    }
}
