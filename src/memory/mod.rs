// SPDX-License-Identifier: Apache-2.0
//! Guest memory: pools checked, pages mapped and populated, and given back.

mod choice;
mod host;
mod limit;
mod mapping;
mod pool;

use nix::errno::Errno;

use crate::config::Backing;
use crate::driver;
use crate::error::{LaunchError, Step};
use crate::plan::{Host, LaunchPlan, PlannedRegion, MAX_MEMORY_ENTRIES};

pub use choice::{choose, Choice};
pub use host::host;
pub use limit::raise_memlock;
pub use mapping::Mapping;
pub(crate) use pool::size_text;
pub use pool::{Pool, HUGE_PAGE_FOLDER};

// nix has no name for it on Android, where it is an unknown one.
#[cfg(not(target_os = "android"))]
const HWPOISON: Errno = Errno::EHWPOISON;
#[cfg(target_os = "android")]
const HWPOISON: Errno = Errno::UnknownErrno;

/// A VM's memory, mapped here and nowhere else. Dropping it gives every page back.
#[derive(Debug)]
pub struct GuestMemory {
    regions: Vec<MappedRegion>,
}

#[derive(Debug)]
struct MappedRegion {
    plan: PlannedRegion,
    mapping: Mapping,
}

impl GuestMemory {
    /// Maps and, where asked, populates every region of `plan` with the backings of `choice`.
    /// Also returns what a person should know.
    ///
    /// # Errors
    /// Says which region and which pages ran out. Nothing stays mapped.
    pub fn allocate(
        plan: &LaunchPlan,
        choice: &Choice,
        host: &Host,
    ) -> Result<(Self, Vec<String>), LaunchError> {
        let mut regions = Vec::with_capacity(plan.regions.len());
        let mut warnings = Vec::new();
        for (region, backing) in plan.regions.iter().zip(&choice.backings) {
            let name = format!("gunyah:{}:{}", plan.vm, region.label);
            let mapping = map(&name, region, *backing, host)?;
            if region.prefault {
                mapping
                    .populate()
                    .map_err(|errno| exhausted(region, *backing, errno))?;
                if *backing == Backing::Thp {
                    warnings.extend(settle_thp(&mapping, region, host)?);
                }
            }
            regions.push(MappedRegion {
                plan: region.clone(),
                mapping,
            });
        }
        Ok((Self { regions }, warnings))
    }

    /// The bytes of guest memory from `base` on, for loading. Only before START: then they are the
    /// guest's, and lent ones may not be touched at all.
    ///
    /// # Errors
    /// A range that is not inside one region, which the plan rules out.
    pub fn bytes_mut(
        &mut self,
        step: Step,
        base: u64,
        size: u64,
    ) -> Result<&mut [u8], LaunchError> {
        for region in &mut self.regions {
            let Some(offset) = base.checked_sub(region.plan.base) else {
                continue;
            };
            if offset
                .checked_add(size)
                .is_some_and(|end| end <= region.plan.size)
            {
                let (Ok(offset), Ok(size)) = (usize::try_from(offset), usize::try_from(size))
                else {
                    continue;
                };
                return Ok(&mut region.mapping.bytes_mut()[offset..offset + size]);
            }
        }
        Err(LaunchError::new(
            step,
            format!("{size:#x} bytes at guest {base:#x} are not inside one region"),
        ))
    }

    /// What the driver is told, in the order of registration.
    pub fn regions(&self) -> impl Iterator<Item = (driver::Region, &PlannedRegion)> {
        self.regions.iter().map(|region| {
            let told = driver::Region {
                label: region.plan.label,
                flags: region.plan.flags,
                base: region.plan.base,
                size: region.plan.size,
                address: region.mapping.address(),
            };
            (told, &region.plan)
        })
    }
}

/// One mapping: huge pages as far as they go, base pages for the rest, so that a size which is no
/// multiple of the huge page wastes none.
fn map(
    name: &str,
    region: &PlannedRegion,
    backing: Backing,
    host: &Host,
) -> Result<Mapping, LaunchError> {
    let (align, huge) = match backing {
        Backing::Hugetlb => (
            region.huge_page,
            region.size / region.huge_page * region.huge_page,
        ),
        Backing::Thp => (host.thp_page.max(host.page_size), 0),
        Backing::Base => (host.page_size, 0),
    };
    let fail = |errno| exhausted(region, backing, errno);
    let mut mapping = Mapping::reserve(region.size, align).map_err(fail)?;
    if huge > 0 {
        mapping
            .add_huge(name, huge, region.huge_page)
            .map_err(fail)?;
    }
    if region.size > huge {
        mapping
            .add_small(name, region.size - huge, backing == Backing::Thp)
            .map_err(fail)?;
    }
    Ok(mapping)
}

fn exhausted(region: &PlannedRegion, backing: Backing, errno: Errno) -> LaunchError {
    let what = format!(
        "region {}: mapping {} bytes of {backing} memory",
        region.label, region.size
    );
    let error = LaunchError::new(Step::Memory, what).errno(errno);
    match (errno, backing) {
        (Errno::ENOMEM, Backing::Hugetlb) => match Pool::read(region.huge_page) {
            Ok(pool) => error
                .cause(format!("another program took huge pages in between: now {pool}"))
                .cure(pool.cure(region.size / region.huge_page.max(1))),
            Err(_) => error.cause("the pool of huge pages ran out"),
        },
        (Errno::ENOMEM | Errno::ENOSPC, _) => error
            .cause("the host, or this service's memory cgroup, is out of memory")
            .cure("less memory for the VM, or huge pages reserved at boot (\"backing\": [\"hugetlb\"])"),
        (Errno::EINVAL | Errno::ENOENT | Errno::ENODEV, Backing::Hugetlb) => error
            .cause(format!("the kernel has no huge pages of {} bytes", region.huge_page))
            .cure("a page_size that is listed in /sys/kernel/mm/hugepages, or CONFIG_HUGETLBFS"),
        (Errno::EFAULT | HWPOISON, _) => {
            error.cause("a page could not be populated: it ran out, or the memory failed").cure("dmesg")
        }
        _ => error,
    }
}

// Huge pages that did not come by themselves are asked for once more; too few of them would hang the
// resource manager, so that is an error and not a warning.
fn settle_thp(
    mapping: &Mapping,
    region: &PlannedRegion,
    host: &Host,
) -> Result<Option<String>, LaunchError> {
    let whole = region.size / host.thp_page.max(1) * host.thp_page;
    let huge = || mapping.huge_bytes().unwrap_or(0).min(whole);
    let mut got = huge();
    if got < whole {
        // Refused where the kernel is older than 6.1: then what came is what there is.
        let _ = mapping.collapse();
        got = huge();
    }
    if got == whole {
        return Ok(None);
    }
    let short = format!(
        "region {}: {} of {} bytes are transparent huge pages",
        region.label, got, whole
    );
    let entries = got / host.thp_page + (region.size - got).div_ceil(host.page_size);
    if entries > MAX_MEMORY_ENTRIES {
        return Err(LaunchError::new(Step::Memory, short)
            .cause(format!(
                "memory is fragmented or shmem_enabled is `never`; the rest would make up to {entries} memory entries, which hang the resource manager"
            ))
            .cure("echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled early at boot, or \"backing\": [\"hugetlb\"]"));
    }
    Ok(Some(format!("{short}: START will take longer")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Access, Permissions};

    fn region(size: u64, backing: Backing) -> PlannedRegion {
        PlannedRegion {
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

    #[test]
    fn maps_writes_and_gives_back() {
        let host = host();
        for backing in [Backing::Base, Backing::Thp] {
            let region = region((5 << 20) + host.page_size, backing);
            let mapping = map("test", &region, backing, &host).unwrap();
            mapping.populate().unwrap();
            let mut memory = GuestMemory {
                regions: vec![MappedRegion {
                    plan: region.clone(),
                    mapping,
                }],
            };
            let end = region.base + region.size;
            memory
                .bytes_mut(Step::Kernel, end - 4, 4)
                .unwrap()
                .copy_from_slice(b"last");
            assert_eq!(
                memory.bytes_mut(Step::Kernel, end - 5, 5).unwrap(),
                b"\0last"
            );
            assert!(memory.bytes_mut(Step::Kernel, end - 4, 5).is_err());
            assert!(memory.bytes_mut(Step::Kernel, region.base - 1, 5).is_err());
            assert!(memory.bytes_mut(Step::Kernel, u64::MAX, 5).is_err());
            let (told, _) = memory.regions().next().unwrap();
            assert_eq!(told.address % host.page_size, 0);
        }
    }
}
