// SPDX-License-Identifier: Apache-2.0
//! Which backing each region gets, before anything is touched.

use std::collections::BTreeMap;
use std::io;

use super::pool::{size_text, Pool};
use crate::config::Backing;
use crate::error::{LaunchError, Step};
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
            return Err(LaunchError::new(
                Step::Pool,
                format!("region {} of {}: {}", region.label, size_text(region.size), refused.join("; ")),
            )
            .cause("too few huge pages were reserved, or other VMs have them")
            .cure("`hugepagesz=2M hugepages=N` on the kernel command line or init/hugepages.rc; `gunyahd check` adds up what all VMs need"));
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

impl Choice {
    fn fits(
        &mut self,
        region: &PlannedRegion,
        backing: Backing,
        pool: &impl Fn(u64) -> io::Result<Pool>,
    ) -> Result<(), String> {
        let page = region.huge_page;
        let pages = region.size / page;
        if backing != Backing::Hugetlb || pages == 0 {
            return Ok(());
        }
        let already = self.huge_pages.get(&page).copied().unwrap_or(0);
        match pool(page) {
            Ok(pool) if pool.available().saturating_sub(already) >= pages => Ok(()),
            Ok(pool) => {
                let mine = if already > 0 {
                    format!(" ({already} of them for its other regions)")
                } else {
                    String::new()
                };
                Err(format!(
                    "needs {pages} pages of {}, {pool}{mine}",
                    size_text(page)
                ))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(format!(
                "this kernel has no huge pages of {}",
                size_text(page)
            )),
            Err(error) => {
                // Mapping will tell: the pages are set aside then, or ENOMEM.
                self.warnings.push(format!(
                    "the pool of {} pages cannot be read: {error}",
                    size_text(page)
                ));
                Ok(())
            }
        }
    }
}
