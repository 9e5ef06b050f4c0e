// SPDX-License-Identifier: Apache-2.0
//! The regions: what they are made of, and whether this host can register them.

use super::entries::{
    self, folios, memory_entries, MAX_MEMORY_ENTRIES, MEMORY_ENTRIES_PER_MESSAGE,
};
use super::kernels::{backings, slotted};
use super::{devices, Host, PlannedRegion};
use crate::config::{Access, Backing, Permissions, VmConfig};
use crate::diagnostic::{kinds, Diagnostic};
use crate::image::ImageInfo;
use crate::list::Listed;
use crate::text::{Count, Size};

/// The kernel's list of a region's pages is one allocation.
const LARGE_REGION: u64 = 2 << 30;

kinds! {
    UNALIGNED: Error "plan-unaligned" in Plan {
        "an address or a size is not a multiple of the host's page",
        cause: "the VM was written for a host with smaller pages; the driver answers EINVAL",
        cure: "round it",
    }
    FILE_TOO_LARGE: Error "plan-region-file" in Plan {
        "a region's file is larger than the region",
        cure: "give a larger region or a smaller file",
    }
    TOO_MANY_ENTRIES: Error "plan-memory-entries" in Plan {
        "the VM's memory is made of too many pieces",
        cause: entries::TOO_MANY_ENTRIES,
        cure: "use \"hugetlb\" or \"thp\" in memory.backing, larger huge pages, or less memory",
    }
    SLOW_START: Warning "plan-slow-start" in Plan {
        "the VM's memory is made of so many pieces that START takes long",
        cause: "the resource manager takes 512 memory entries a message",
        cure: "use larger pages: they make fewer entries",
    }
    LARGE: Warning "plan-large-region" in Plan {
        "a region is over 2 GiB",
        cause: "on a fragmented host the kernel may not find room for its list of pages (ENOMEM)",
        cure: "split it into several regions",
    }
    NO_HUGE_PAGE: Warning "plan-no-huge-page" in Plan {
        "a region is smaller than one huge page",
        cure: "give a smaller page_size or another backing",
    }
}

/// The regions in the order of registration and the memory entries that they make, or everything
/// that is wrong with them.
pub(super) fn regions(
    config: &VmConfig,
    images: &ImageInfo,
    host: &Host,
    warnings: &mut Vec<Diagnostic>,
) -> Result<(Vec<PlannedRegion>, u64), Vec<Diagnostic>> {
    let mut regions = from_config(config, &images.regions, host);
    let mut faults = Vec::new();
    match devices::pool(config, host, &regions) {
        Ok(pool) => regions.extend(pool),
        Err(fault) => faults.push(fault),
    }
    for (index, region) in regions.iter_mut().enumerate() {
        let key = region.key.clone();
        let place = |field: &str| config.place(&format!("{key}{field}"));
        for (field, value) in [(".base", region.base), (".size", region.size)] {
            if value % host.page_size != 0 {
                let what = not_a_multiple(value, host);
                faults.push(UNALIGNED.case(what).at(place(field)));
            }
        }
        if let Some((path, size)) = region.file.as_ref().filter(|(_, size)| *size > region.size) {
            let (path, room) = (path.display(), region.size);
            let what = format!("{path} has {size} bytes, the region {room}");
            faults.push(FILE_TOO_LARGE.case(what).at(place(".file")));
        }
        if region.size > LARGE_REGION && !host.dialect.pages_on_demand() {
            let what = format!("region {} has {}", region.label, Size(region.size));
            warnings.push(LARGE.case(what).at(place("")));
        }
        let further = index.checked_sub(1).and_then(|further| config.regions.get(further));
        let wanted = further.map_or(&config.memory.backing, |region| &region.backing);
        let asked = wanted.contains(&Some(Backing::Hugetlb));
        let replaced = without_huge_page(region).filter(|_| asked);
        warnings.extend(replaced.map(|warning| warning.at(place(""))));
    }
    let entries = entries(config, &regions, host, warnings, &mut faults);
    if faults.is_empty() {
        Ok((regions, entries))
    } else {
        Err(faults)
    }
}

/// The regions of the file, whose own files have so many bytes.
fn from_config(config: &VmConfig, files: &[Option<u64>], host: &Host) -> Vec<PlannedRegion> {
    let memory = &config.memory;
    let mut regions = vec![PlannedRegion {
        key: "memory".to_owned(),
        label: memory.label,
        base: memory.base,
        size: memory.size,
        access: memory.access,
        flags: Permissions::ALL,
        backing: main_backing(config, host),
        huge_page: memory.page_size.unwrap_or(host.huge_page),
        prefault: memory.prefault,
        file: None,
    }];
    for (index, region) in config.regions.iter().enumerate() {
        let file_size = files.get(index).copied().flatten();
        regions.push(PlannedRegion {
            key: format!("regions[{index}]"),
            label: region.label,
            base: region.base,
            size: region.size,
            access: region.access,
            flags: region.flags,
            backing: backings(&region.backing, host.dialect, host.reserve),
            huge_page: region.page_size.unwrap_or(host.huge_page),
            prefault: true,
            file: region.file.clone().zip(file_size),
        });
    }
    // The resource manager fills it; of large pages, because START hands it over by its folios.
    regions.extend(config.firmware.as_ref().map(|firmware| PlannedRegion {
        key: "firmware".to_owned(),
        label: firmware.label,
        base: firmware.base,
        size: firmware.size,
        access: Access::Lend,
        flags: Permissions::ALL,
        backing: vec![Backing::Thp],
        huge_page: host.huge_page,
        prefault: true,
        file: None,
    }));
    regions
}

/// Folios of the reserve that each region takes whose first choice it is, on a host that has one.
pub fn reserve_folios(config: &VmConfig, host: &Host) -> Vec<u64> {
    let host = host.with_reserve(true);
    let mut regions = from_config(config, &[], &host);
    // Where there is no room for it, the plan says so.
    regions.extend(devices::pool(config, &host, &regions).ok().flatten());
    regions
        .iter()
        .filter(|region| region.backing.first() == Some(&Backing::Reserve))
        .map(|region| folios(region.base, region.size, &host))
        .listed()
}

/// Without a slot, the devicetree's pages must be folios of their own where drivers care.
fn main_backing(config: &VmConfig, host: &Host) -> Vec<Backing> {
    let memory = &config.memory;
    match host.dialect.pages_on_demand() && !slotted(memory.size, host) {
        true => vec![Backing::Base],
        false => backings(&memory.backing, host.dialect, host.reserve),
    }
}

pub(super) fn not_a_multiple(value: u64, host: &Host) -> String {
    let page = Size(host.page_size);
    format!("{value:#x} is not a multiple of the host's page of {page}")
}

/// A region smaller than one huge page gets its other choices, or base pages where it has none.
fn without_huge_page(region: &mut PlannedRegion) -> Option<Diagnostic> {
    if region.size >= region.huge_page || !region.backing.contains(&Backing::Hugetlb) {
        return None;
    }
    region.backing.retain(|backing| *backing != Backing::Hugetlb);
    if region.backing.is_empty() {
        region.backing.push(Backing::Base);
    }
    Some(NO_HUGE_PAGE.case(format!(
        "region {} of {} is smaller than one huge page of {} and is made of {} pages",
        region.label,
        Size(region.size),
        Size(region.huge_page),
        region.backing[0]
    )))
}

/// The memory entries with the first backing of each region. A launch is refused where they are too
/// many with the best one of each, too.
fn entries(
    config: &VmConfig,
    regions: &[PlannedRegion],
    host: &Host,
    warnings: &mut Vec<Diagnostic>,
    faults: &mut Vec<Diagnostic>,
) -> u64 {
    let (mut planned, mut least) = (0u64, 0u64);
    // The region that has most of them is the one to change.
    let (mut most, mut key) = (0, "memory.backing".to_owned());
    if host.dialect.pages_on_demand() {
        return 0;
    }
    for (index, region) in regions.iter().enumerate() {
        let each =
            region.backing.iter().map(|backing| memory_entries(region, *backing, host)).listed();
        planned = planned.saturating_add(each.first().copied().unwrap_or(0));
        least = least.saturating_add(each.iter().copied().min().unwrap_or(0));
        let first = each.first().copied().unwrap_or(0);
        if index > 0 && first > most {
            key = format!("{}.backing", region.key);
        }
        most = most.max(first);
    }
    let place = || config.place(&key);
    if least > MAX_MEMORY_ENTRIES {
        let least = Count(least, "memory entry");
        let what = format!("up to {least}, at most {MAX_MEMORY_ENTRIES} are safe");
        faults.push(TOO_MANY_ENTRIES.case(what).at(place()));
    } else if planned > MEMORY_ENTRIES_PER_MESSAGE {
        let what = format!(
            "up to {}, {} to the resource manager: START may take seconds",
            Count(planned, "memory entry"),
            Count(planned.div_ceil(MEMORY_ENTRIES_PER_MESSAGE), "message")
        );
        warnings.push(SLOW_START.case(what).at(place()));
    }
    planned
}
