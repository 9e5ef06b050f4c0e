// SPDX-License-Identifier: Apache-2.0
//! Which backing each region gets, before anything is touched.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use super::pool::{size_text, Pool};
use crate::config::Backing;
use crate::error::{errno_text, LaunchError, Step};
use crate::plan::{memory_entries, Host, LaunchPlan, PlannedRegion, MAX_MEMORY_ENTRIES};

/// The backing of each region, and what it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// In the order of the plan's regions.
    pub backings: Vec<Backing>,
    /// Pages by page size, of all regions.
    pub huge_pages: BTreeMap<u64, u64>,
    /// Choices that were passed over, and pools that could not be read.
    pub warnings: Vec<String>,
}

/// Takes for each region its first backing that there is enough of. `pool` reads the pool of pages
/// of a size in bytes.
///
/// # Errors
/// A region for which there is none: how many pages it needs, how many there are, what to do.
pub fn choose(
    plan: &LaunchPlan,
    host: &Host,
    pool: impl Fn(u64) -> io::Result<Pool>,
) -> Result<Choice, LaunchError> {
    let mut choice = Choice {
        backings: Vec::new(),
        huge_pages: BTreeMap::new(),
        warnings: Vec::new(),
    };
    let mut entries = 0u64;
    for region in &plan.regions {
        let mut refused = Vec::new();
        let taken =
            region
                .backing
                .iter()
                .find(|backing| match choice.fits(region, **backing, &pool) {
                    Ok(()) => true,
                    Err(why) => {
                        refused.push(why);
                        false
                    }
                });
        let Some(&backing) = taken else {
            return Err(none_left(plan, region, &refused));
        };
        if backing == Backing::Hugetlb {
            *choice.huge_pages.entry(region.huge_page).or_default() +=
                region.size / region.huge_page;
        }
        choice.warnings.extend(
            refused
                .iter()
                .map(|why| format!("region {} takes {backing}: {why}", region.label)),
        );
        entries =
            entries.saturating_add(memory_entries(region.size, backing, region.huge_page, host));
        choice.backings.push(backing);
    }
    if entries > MAX_MEMORY_ENTRIES {
        return Err(LaunchError::new(
            Step::Pool,
            format!("the backings that are left make up to {entries} memory entries ({})", choice.warnings.join("; ")),
        )
        .cause(format!("the resource manager was seen to take {MAX_MEMORY_ENTRIES}, and to hang START for good at four times that"))
        .cure("reserve huge pages, or less memory"));
    }
    Ok(choice)
}

/// Why a region cannot have huge pages of the pool.
enum Refused {
    Short {
        pool: Pool,
        pages: u64,
        /// Taken by the VM's other regions.
        already: u64,
    },
    NoSuchPages(u64),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Short {
                pool,
                pages,
                already,
            } => {
                let size = size_text(pool.page);
                write!(f, "needs {pages} pages of {size}, {pool}")?;
                match already {
                    0 => Ok(()),
                    _ => write!(f, " ({already} of them for its other regions)"),
                }
            }
            Refused::NoSuchPages(page) => {
                write!(f, "this kernel has no huge pages of {}", size_text(*page))
            }
        }
    }
}

fn none_left(plan: &LaunchPlan, region: &PlannedRegion, refused: &[Refused]) -> LaunchError {
    let why: Vec<String> = refused.iter().map(Refused::to_string).collect();
    let size = size_text(region.size);
    let what = format!("region {} of {size}: {}", region.label, why.join("; "));
    let error = LaunchError::new(Step::Pool, what);
    match refused.first() {
        Some(Refused::Short { pool, .. }) => error
            .cause("too few huge pages were reserved, or other VMs have them")
            .cure(pool.cure(pages_of(plan, pool.page))),
        _ => error
            .cause("another base page size than the VM was written for, or CONFIG_HUGETLBFS is off")
            .cure(
                "a page_size that is listed in /sys/kernel/mm/hugepages, or \"thp\" in `backing`",
            ),
    }
}

/// Pages of `page` bytes that all regions take whose first choice they are.
fn pages_of(plan: &LaunchPlan, page: u64) -> u64 {
    plan.regions
        .iter()
        .filter(|region| region.huge_page == page)
        .filter(|region| region.backing.first() == Some(&Backing::Hugetlb))
        .map(|region| region.size / page)
        .fold(0, u64::saturating_add)
}

impl Choice {
    fn fits(
        &mut self,
        region: &PlannedRegion,
        backing: Backing,
        pool: &impl Fn(u64) -> io::Result<Pool>,
    ) -> Result<(), Refused> {
        let page = region.huge_page;
        let pages = region.size / page;
        if backing != Backing::Hugetlb || pages == 0 {
            return Ok(());
        }
        let already = self.huge_pages.get(&page).copied().unwrap_or(0);
        match pool(page) {
            Ok(pool) if pool.available().saturating_sub(already) >= pages => Ok(()),
            Ok(pool) => Err(Refused::Short {
                pool,
                pages,
                already,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Refused::NoSuchPages(page))
            }
            Err(error) => {
                // Mapping will tell: the pages are set aside then, or ENOMEM.
                self.warnings.push(format!(
                    "the pool of {} pages cannot be read: {}",
                    size_text(page),
                    errno_text(&error)
                ));
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Access, Permissions, Scheduling, VmName};
    use crate::plan::{PlannedDtb, PlannedKernel};

    const GIB: u64 = 1 << 30;
    const MIB: u64 = 1 << 20;

    fn plan(regions: &[(u64, u64)]) -> LaunchPlan {
        let region = |(index, (size, huge_page)): (usize, &(u64, u64))| PlannedRegion {
            label: u32::try_from(index).unwrap(),
            base: 0x8000_0000,
            size: *size,
            access: Access::Auto,
            flags: Permissions::ALL,
            backing: vec![Backing::Hugetlb],
            huge_page: *huge_page,
            prefault: true,
            file: None,
        };
        LaunchPlan {
            vm: VmName::new("vm").unwrap(),
            regions: regions.iter().enumerate().map(region).collect(),
            kernel: PlannedKernel {
                path: "Image".into(),
                gzip: false,
                segments: Vec::new(),
                entry: 0x8000_0000,
                branch: None,
            },
            initrd: None,
            dtb: PlannedDtb {
                base: 0x8000_0000,
                size: 4096,
            },
            vcpus: 1,
            scheduling: Scheduling::Proxy,
            memory_entries: 1,
            warnings: Vec::new(),
        }
    }

    fn pool(page: u64) -> io::Result<Pool> {
        match page {
            GIB => Ok(Pool {
                page,
                total: 3,
                free: 1,
                reserved: 0,
                spare: 0,
            }),
            page if page == 2 * MIB => Ok(Pool {
                page,
                total: 96,
                free: 96,
                reserved: 0,
                spare: 0,
            }),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn refused(regions: &[(u64, u64)]) -> LaunchError {
        choose(&plan(regions), &Host::PAGES_4K, pool).unwrap_err()
    }

    #[test]
    fn a_pool_that_is_short_is_told_with_the_numbers_that_mend_it() {
        // Two pages are others', one is free, two are wanted: four in all.
        let error = refused(&[(2 * GIB, GIB)]);
        assert_eq!(
            error.what,
            "region 0 of 2 GiB: needs 2 pages of 1 GiB, 1 free of 3 reserved at boot"
        );
        assert_eq!(
            error.cure,
            "`hugepagesz=1G hugepages=4` on the kernel command line; `gunyahd check` adds up what all VMs need"
        );
        // What all regions of the VM want, not only the one that found too few.
        let error = refused(&[
            (64 * MIB, 2 * MIB),
            (256 * MIB, 2 * MIB),
            (2 * MIB, 2 * MIB),
        ]);
        assert!(
            error.what.contains("(32 of them for its other regions)"),
            "{error}"
        );
        assert_eq!(
            error.cure,
            "`hugepagesz=2M hugepages=161` on the kernel command line, or ro.vendor.gunyah.hugepages=161 (init/gunyah-hugepages.rc); `gunyahd check` adds up what all VMs need"
        );
    }

    #[test]
    fn pages_that_the_kernel_has_not_are_not_to_be_reserved() {
        let error = refused(&[(64 * MIB, 32 * MIB)]);
        assert_eq!(
            error.what,
            "region 0 of 64 MiB: this kernel has no huge pages of 32 MiB"
        );
        assert!(
            error.cure.contains("page_size") && !error.cure.contains("hugepages="),
            "{error}"
        );
    }
}
