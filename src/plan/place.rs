// SPDX-License-Identifier: Apache-2.0
//! Where everything goes.

use super::entries::{memory_entries, MAX_MEMORY_ENTRIES, MEMORY_ENTRIES_PER_MESSAGE};
use super::{
    Host, LaunchPlan, PlanProblem, PlannedDtb, PlannedFile, PlannedKernel, PlannedRegion, Segment,
};
use crate::config::{Access, Backing, Permissions, VmConfig};
use crate::image::{arm64, ImageInfo, KernelLayout};
use crate::text::Size;

/// The kernel's page list of a region is one allocation, which may fail past this on a fragmented host.
const LARGE_REGION: u64 = 2 << 30;
/// booting.rst: an initrd lies in a 1 GiB aligned window of 32 GiB that covers the kernel.
const INITRD_WINDOW: u64 = 32 << 30;
/// Largest devicetree that Linux takes (booting.rst).
const MAX_DTB: u64 = 2 << 20;
/// A64's `b` reaches 128 MiB.
const BRANCH_REACH: u64 = 128 << 20;

/// A named range of guest addresses that is taken.
#[derive(Debug, Clone)]
struct Taken {
    what: &'static str,
    key: &'static str,
    base: u64,
    end: u64,
}

struct Planner<'a> {
    config: &'a VmConfig,
    host: &'a Host,
    base: u64,
    end: u64,
    taken: Vec<Taken>,
    problems: Vec<PlanProblem>,
}

/// Decides a launch. `dtb_size` is the devicetree's own length in bytes, room not included.
///
/// # Errors
/// Everything that keeps it from being launched, not just the first thing.
pub fn plan(
    config: &VmConfig,
    images: &ImageInfo,
    dtb_size: u64,
    host: &Host,
) -> Result<LaunchPlan, Vec<PlanProblem>> {
    let base = config.memory.base;
    let mut planner = Planner {
        config,
        host,
        base,
        end: base.saturating_add(config.memory.size),
        taken: Vec::new(),
        problems: Vec::new(),
    };
    let (regions, memory_entries, warnings) = planner.regions(images);
    if !planner.problems.is_empty() {
        // Addresses mean nothing before the regions are right.
        return Err(planner.problems);
    }
    let kernel = planner.kernel(images);
    let initrd_size = images.initrd.unwrap_or(0);
    let fixed_dtb = config
        .dtb
        .offset
        .and_then(|offset| planner.fixed_dtb(offset, dtb_size));
    let fixed_initrd = config
        .initrd
        .as_ref()
        .and_then(|initrd| initrd.offset)
        .and_then(|offset| planner.take("initrd", "initrd.offset", offset, initrd_size));
    let unplaced_initrd = match &config.initrd {
        Some(initrd) if initrd.offset.is_none() => initrd_size,
        _ => 0,
    };
    let dtb = match config.dtb.offset {
        Some(_) => fixed_dtb,
        None => planner.free_dtb(dtb_size, unplaced_initrd),
    };
    let initrd = config.initrd.as_ref().and_then(|initrd| {
        let base = match initrd.offset {
            Some(_) => fixed_initrd,
            None => planner.highest(initrd_size, host.page_size, "initrd", "initrd.path"),
        }?;
        Some(PlannedFile {
            path: initrd.path.clone(),
            base,
            size: initrd_size,
        })
    });
    planner.overlaps();
    if let (Some(kernel), Some(initrd)) = (&kernel, &initrd) {
        planner.initrd_window(kernel, initrd);
    }
    match (kernel, dtb) {
        (Some(kernel), Some(dtb)) if planner.problems.is_empty() => Ok(LaunchPlan {
            vm: config.name.clone(),
            regions,
            kernel,
            initrd,
            dtb,
            vcpus: config.vcpus.count,
            scheduling: config.vcpus.scheduling,
            memory_entries,
            warnings,
        }),
        _ => Err(planner.problems),
    }
}

/// A region smaller than one huge page has none, whatever it asks for: it goes by its other choices,
/// or by base pages where there are none. Says so.
fn without_huge_page(region: &mut PlannedRegion) -> Option<String> {
    if region.size >= region.huge_page || !region.backing.contains(&Backing::Hugetlb) {
        return None;
    }
    region
        .backing
        .retain(|backing| *backing != Backing::Hugetlb);
    if region.backing.is_empty() {
        region.backing.push(Backing::Base);
    }
    Some(format!(
        "region {} of {:#} is smaller than one huge page of {:#}: it is made of {} pages",
        region.label,
        Size(region.size),
        Size(region.huge_page),
        region.backing[0]
    ))
}

impl Planner<'_> {
    fn problem(&mut self, key: impl Into<String>, what: String, cure: impl Into<String>) {
        self.problems.push(PlanProblem {
            key: key.into(),
            what,
            cure: cure.into(),
        });
    }

    fn regions(&mut self, images: &ImageInfo) -> (Vec<PlannedRegion>, u64, Vec<String>) {
        let memory = &self.config.memory;
        let mut keys = vec!["memory".to_owned()];
        let mut regions = vec![PlannedRegion {
            label: memory.label,
            base: memory.base,
            size: memory.size,
            access: memory.access,
            flags: Permissions::ALL,
            backing: memory.backing.clone(),
            huge_page: memory.page_size.unwrap_or(self.host.huge_page),
            prefault: memory.prefault,
            file: None,
        }];
        for (index, region) in self.config.regions.iter().enumerate() {
            let size = images.regions.get(index).copied().flatten();
            keys.push(format!("regions[{index}]"));
            regions.push(PlannedRegion {
                label: region.label,
                base: region.base,
                size: region.size,
                access: region.access,
                flags: region.flags,
                backing: region.backing.clone(),
                huge_page: region.page_size.unwrap_or(self.host.huge_page),
                prefault: true,
                file: region.file.clone().zip(size),
            });
        }
        if memory.base % arm64::BASE_ALIGNMENT != 0 {
            let what = format!(
                "main memory at {:#x}, which is not 2 MiB aligned",
                memory.base
            );
            self.problem(
                "memory.base",
                what,
                "the resource manager would round it up in silence: give a multiple of 0x200000",
            );
        }
        for (region, key) in regions.iter().zip(&keys) {
            self.region(region, key);
        }
        for (index, region) in regions.iter().enumerate() {
            for earlier in &regions[..index] {
                self.pair(earlier, region, &keys[index]);
            }
        }
        let mut warnings = regions
            .iter()
            .filter(|region| region.size > LARGE_REGION)
            .map(|region| format!(
                "region {} is over 2 GiB: the kernel's page list for it may not find room (ENOMEM) on a fragmented host",
                region.label
            ))
            .collect::<Vec<_>>();
        warnings.extend(regions.iter_mut().filter_map(without_huge_page));
        if memory.access == Access::Share {
            warnings.push(
                "main memory is shared (memory.access): a production resource manager answers START with ENODEV and takes lent memory alone; \"auto\" lends wherever the driver can"
                    .to_owned(),
            );
        }
        let (entries, warnings) = self.entries(&regions, warnings);
        (regions, entries, warnings)
    }

    fn region(&mut self, region: &PlannedRegion, key: &str) {
        let page = self.host.page_size;
        for (field, value) in [("base", region.base), ("size", region.size)] {
            if value % page != 0 {
                let what =
                    format!("{field} {value:#x} is not a multiple of the host's {page}-byte page");
                self.problem(
                    format!("{key}.{field}"),
                    what,
                    "the driver would answer EINVAL: round it",
                );
            }
        }
        if region.size == 0 {
            self.problem(
                format!("{key}.size"),
                "size is 0".into(),
                "the driver would answer EINVAL",
            );
        }
        if region.base.checked_add(region.size).is_none() {
            let what = format!("{:#x} + {:#x} goes past 64 bits", region.base, region.size);
            self.problem(
                format!("{key}.size"),
                what,
                "the driver would answer EOVERFLOW",
            );
        }
        if let Some((path, size)) = &region.file {
            if *size > region.size {
                let what = format!(
                    "{} has {size} bytes, the region {}",
                    path.display(),
                    region.size
                );
                self.problem(
                    format!("{key}.file"),
                    what,
                    "a larger region, or a smaller file",
                );
            }
        }
    }

    fn pair(&mut self, earlier: &PlannedRegion, region: &PlannedRegion, key: &str) {
        if earlier.label == region.label {
            let what = format!("label {} is used twice", region.label);
            self.problem(
                format!("{key}.label"),
                what,
                "the driver would answer EEXIST: labels are unique in a VM",
            );
        }
        let apart = |low: &PlannedRegion, high: &PlannedRegion| {
            low.base.saturating_add(low.size) <= high.base
        };
        if !apart(earlier, region) && !apart(region, earlier) {
            let what = format!(
                "{:#x}+{:#x} overlaps region {} at {:#x}+{:#x}",
                region.base, region.size, earlier.label, earlier.base, earlier.size
            );
            self.problem(
                format!("{key}.base"),
                what,
                "the driver would answer EEXIST: move one of them",
            );
        }
    }

    fn entries(
        &mut self,
        regions: &[PlannedRegion],
        mut warnings: Vec<String>,
    ) -> (u64, Vec<String>) {
        let count = |choose: fn(&[u64]) -> Option<u64>| {
            regions
                .iter()
                .map(|region| {
                    let each: Vec<_> = region
                        .backing
                        .iter()
                        .map(|backing| {
                            memory_entries(region.size, *backing, region.huge_page, self.host)
                        })
                        .collect();
                    choose(&each).unwrap_or(0)
                })
                .fold(0u64, u64::saturating_add)
        };
        let planned = count(|each| each.first().copied());
        let least = count(|each| each.iter().min().copied());
        if least > MAX_MEMORY_ENTRIES {
            let what = format!(
                "up to {least} memory entries; the resource manager was seen to take {MAX_MEMORY_ENTRIES} and to hang START for good at four times that"
            );
            self.problem(
                "memory.backing",
                what,
                "\"hugetlb\" or \"thp\" backing, larger huge pages, or less memory",
            );
        } else if planned > MEMORY_ENTRIES_PER_MESSAGE {
            warnings.push(format!(
                "up to {planned} memory entries, {} messages to the resource manager: START may take seconds; larger pages make fewer",
                planned.div_ceil(MEMORY_ENTRIES_PER_MESSAGE)
            ));
        }
        (planned, warnings)
    }

    /// Takes `size` bytes at `offset` into main memory.
    fn take(
        &mut self,
        what: &'static str,
        key: &'static str,
        offset: u64,
        size: u64,
    ) -> Option<u64> {
        let at = self.base.checked_add(offset);
        match at.and_then(|base| Some((base, base.checked_add(size)?))) {
            Some((base, end)) if end <= self.end => {
                self.taken.push(Taken {
                    what,
                    key,
                    base,
                    end,
                });
                Some(base)
            }
            _ => {
                let message = format!(
                    "{what} of {size:#x} bytes at offset {offset:#x} goes past the {:#x} bytes of main memory",
                    self.config.memory.size
                );
                self.problem(key, message, "a larger memory.size, or a smaller offset");
                None
            }
        }
    }

    /// Takes the highest free `size` bytes of main memory.
    fn highest(
        &mut self,
        size: u64,
        align: u64,
        what: &'static str,
        key: &'static str,
    ) -> Option<u64> {
        let base = self.find(size, align);
        match base {
            Some(base) => self.taken.push(Taken {
                what,
                key,
                base,
                end: base + size,
            }),
            None => {
                let taken = self
                    .taken
                    .iter()
                    .map(|t| t.end - t.base)
                    .fold(0, u64::saturating_add);
                let message = format!(
                    "no room for the {what}: {size:#x} bytes, and {taken:#x} of the {:#x} bytes of main memory are taken",
                    self.config.memory.size
                );
                self.problem(key, message, "a larger memory.size");
            }
        }
        base
    }

    /// The highest free `size` bytes whose offset in main memory is a multiple of `align`.
    fn find(&self, size: u64, align: u64) -> Option<u64> {
        let mut top = self.end;
        loop {
            let offset = top.checked_sub(size)?.checked_sub(self.base)?;
            let base = self.base + offset / align * align;
            // The lowest range in the way, so that the search goes down past all of them.
            match self
                .taken
                .iter()
                .filter(|t| t.base < base + size && base < t.end)
                .map(|t| t.base)
                .min()
            {
                None => return Some(base),
                Some(lower) => top = lower,
            }
        }
    }

    fn dtb_room(&mut self, dtb_size: u64) -> Option<u64> {
        if dtb_size > MAX_DTB {
            let what =
                format!("the devicetree has {dtb_size} bytes, and Linux takes no more than 2 MiB");
            self.problem("dtb", what, "a smaller devicetree");
            return None;
        }
        let size = dtb_size
            .checked_add(self.config.dtb.room)
            .and_then(|size| size.checked_next_multiple_of(self.host.page_size));
        if size.is_none() {
            let what = format!(
                "devicetree and room of {:#x} bytes go past 64 bits",
                self.config.dtb.room
            );
            self.problem("dtb.room", what, "a smaller room");
        }
        size
    }

    fn fixed_dtb(&mut self, offset: u64, dtb_size: u64) -> Option<PlannedDtb> {
        let size = self.dtb_room(dtb_size)?;
        let page = self.host.page_size;
        if offset % page != 0 {
            let what =
                format!("offset {offset:#x} is not a multiple of the host's {page}-byte page");
            self.problem(
                "dtb.offset",
                what,
                "the driver would answer EINVAL at START: round it",
            );
            return None;
        }
        let base = self.take("devicetree", "dtb.offset", offset, size)?;
        Some(PlannedDtb { base, size })
    }

    fn free_dtb(&mut self, dtb_size: u64, initrd_size: u64) -> Option<PlannedDtb> {
        let size = self.dtb_room(dtb_size)?;
        let page = self.host.page_size;
        // A mapping begins with a folio, so its folios are counted from the base of main memory.
        let folio = self.host.thp_page.max(page);
        let align = match self.find(size, folio) {
            Some(base) if self.leaves_room(base, size, initrd_size) => folio,
            _ => page,
        };
        let base = self.highest(size, align, "devicetree", "dtb")?;
        Some(PlannedDtb { base, size })
    }

    /// Whether the initrd still fits once `size` bytes at `base` are the devicetree's: a folio
    /// boundary can lie in the middle of a small VM.
    fn leaves_room(&mut self, base: u64, size: u64, initrd_size: u64) -> bool {
        self.taken.push(Taken {
            what: "devicetree",
            key: "dtb",
            base,
            end: base + size,
        });
        let fits = initrd_size == 0 || self.find(initrd_size, self.host.page_size).is_some();
        self.taken.pop();
        fits
    }

    fn kernel(&mut self, images: &ImageInfo) -> Option<PlannedKernel> {
        let offset = self.config.kernel.offset.unwrap_or(0);
        let (segments, entry) = match &images.kernel.layout {
            KernelLayout::Image(header) => {
                if offset % arm64::BASE_ALIGNMENT != 0 {
                    let what = format!("offset {offset:#x} is not a multiple of 2 MiB");
                    self.problem(
                        "kernel.offset",
                        what,
                        "an arm64 Image counts its text offset from a 2 MiB boundary: round it",
                    );
                    return None;
                }
                let at = offset.saturating_add(header.text_offset);
                let base = self.take("kernel", "kernel.path", at, header.image_size)?;
                let segment = Segment {
                    file_offset: 0,
                    file_size: images.kernel.size,
                    base,
                    memory_size: header.image_size,
                };
                (vec![segment], base)
            }
            KernelLayout::Elf(executable) => self.elf(executable, offset)?,
        };
        let branch = self.branch(entry)?;
        Some(PlannedKernel {
            path: self.config.kernel.path.clone(),
            gzip: images.kernel.gzip,
            segments,
            entry,
            branch,
        })
    }

    // Physical addresses inside main memory are meant; others are moved so that the lowest segment
    // lies at the offset (a vmlinux has its virtual ones there).
    fn elf(
        &mut self,
        executable: &crate::image::elf::Executable,
        offset: u64,
    ) -> Option<(Vec<Segment>, u64)> {
        let lowest = executable.loads.first().map_or(0, |load| load.address);
        let highest = executable
            .loads
            .last()
            .map_or(0, |load| load.address.saturating_add(load.memory_size));
        let meant =
            self.config.kernel.offset.is_none() && lowest >= self.base && highest <= self.end;
        let main = self.base;
        let moved = move |address: u64| {
            if meant {
                address.checked_sub(main)
            } else {
                address.checked_sub(lowest)?.checked_add(offset)
            }
        };
        let mut segments = Vec::new();
        for load in &executable.loads {
            let at = moved(load.address).unwrap_or(u64::MAX);
            segments.push(Segment {
                file_offset: load.file_offset,
                file_size: load.file_size,
                base: self.take("kernel segment", "kernel.path", at, load.memory_size)?,
                memory_size: load.memory_size,
            });
        }
        let entry = self.base.checked_add(moved(executable.entry)?)?;
        Some((segments, entry))
    }

    /// The instruction at the base of main memory, where the guest is entered; `None`: a problem.
    fn branch(&mut self, entry: u64) -> Option<Option<u32>> {
        let distance = entry - self.base;
        if distance == 0 {
            return Some(None);
        }
        let words = u32::try_from(distance / 4)
            .ok()
            .filter(|_| distance % 4 == 0 && distance < BRANCH_REACH);
        let Some(words) = words else {
            let what = format!("the kernel's entry is {distance:#x} bytes into main memory");
            self.problem("kernel.offset", what, "the guest is entered at the base of main memory, from where a branch reaches 128 MiB: a smaller offset");
            return None;
        };
        self.take("branch to the kernel's entry", "kernel.offset", 0, 4)?;
        // A64 `b`, imm26 in words (Arm ARM, C6.2.26).
        Some(Some(0x1400_0000 | words))
    }

    fn overlaps(&mut self) {
        let mut taken = self.taken.clone();
        taken.sort_by_key(|range| range.base);
        for pair in taken.windows(2) {
            if pair[0].end > pair[1].base {
                let what = format!(
                    "{} at {:#x}..{:#x} overlaps {} at {:#x}..{:#x}",
                    pair[1].what,
                    pair[1].base,
                    pair[1].end,
                    pair[0].what,
                    pair[0].base,
                    pair[0].end
                );
                self.problem(
                    pair[1].key,
                    what,
                    "leave the offsets out, or move one of them",
                );
            }
        }
    }

    fn initrd_window(&mut self, kernel: &PlannedKernel, initrd: &PlannedFile) {
        let (Some(first), Some(last)) = (kernel.segments.first(), kernel.segments.last()) else {
            return;
        };
        let low = first.base.min(initrd.base) / (1 << 30) * (1 << 30);
        let high = last
            .base
            .saturating_add(last.memory_size)
            .max(initrd.base.saturating_add(initrd.size));
        if high - low > INITRD_WINDOW {
            let what = format!(
                "initrd at {:#x} is not within 32 GiB of the kernel at {:#x}",
                initrd.base, first.base
            );
            self.problem("initrd", what, "give an initrd.offset near the kernel");
        }
    }
}
