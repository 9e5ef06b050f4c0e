// SPDX-License-Identifier: Apache-2.0
//! Which backing each region gets, before anything is touched.

use std::io;

use super::pool::Pool;
use super::reserve::{self, Allotment};
use crate::config::{Backing, HugePages};
use crate::diagnostic::{kinds, Diagnostic};
use crate::list::Listed;
use crate::plan::{
    self, folios, memory_entries, Host, LaunchPlan, PlannedRegion, MAX_MEMORY_ENTRIES,
};
use crate::text::{failure, Count, Size};

kinds! {
    SHORT: Error "pool-short" in Pool {
        "a pool has too few huge pages",
        cause: "too few were reserved, or other VMs have them",
        cure: "put `hugepagesz=2M hugepages=N` on the kernel command line, or set ro.vendor.gunyah.hugepages",
    }
    NO_SUCH_PAGES: Error "pool-no-such-pages" in Pool {
        "this kernel has no huge pages of the wanted size",
        cause: "another base page size than the VM was written for, or CONFIG_HUGETLBFS is off",
        cure: "give a page_size that is listed in /sys/kernel/mm/hugepages, or \"thp\" in `backing`",
    }
    TOO_MANY_ENTRIES: Error "pool-memory-entries" in Pool {
        "without huge pages the VM's memory would be made of too many pieces",
        cause: plan::TOO_MANY_ENTRIES,
        cure: "reserve huge pages, or give the VM less memory",
    }
    OTHER_BACKING: Warning "pool-other-backing" in Pool {
        "a region does not get the backing that it would like best",
        cure: "reserve enough huge pages, or leave that backing out",
    }
    UNREADABLE: Warning "pool-unreadable" in Pool {
        "a pool of huge pages cannot be read",
        cure: "check mode and SELinux label of /sys/kernel/mm/hugepages",
    }
}

/// The backing of each region, and what it takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// In the order of the plan's regions.
    pub backings: Vec<Backing>,
    /// Pages by page size, of all regions.
    pub huge_pages: HugePages,
    /// Folios of the reserve, of all regions.
    pub reserve: u64,
    /// Bytes that the driver charges to RLIMIT_MEMLOCK.
    pub pinned: u64,
    /// Choices that were passed over, and pools that could not be read.
    pub warnings: Vec<Diagnostic>,
}

/// Takes for each region its first backing that there is enough of. `pool` is
/// [`Pool::read_for`]; `reserve` is the VM's part of the reserve.
pub fn choose(
    plan: &LaunchPlan,
    host: &Host,
    pool: impl Fn(u64, u64) -> io::Result<Pool>,
    reserve: Option<&Allotment>,
) -> Result<Choice, Diagnostic> {
    let mut choice = Choice::default();
    let mut entries = 0u64;
    for region in &plan.regions {
        let backing = choice.first_that_fits(plan, region, host, &pool, reserve)?;
        match backing {
            Backing::Hugetlb => {
                choice.huge_pages.add(region.huge_page, region.size / region.huge_page);
            }
            Backing::Reserve => choice.reserve += folios(region.base, region.size, host),
            Backing::Thp | Backing::Base => {}
        }
        entries = entries.saturating_add(memory_entries(region, backing, host));
        choice.backings.push(backing);
    }
    choice.pinned = match host.dialect.pages_on_demand() {
        // The devicetree's folios at START, and one page for each page of any size at its fault.
        true => plan.dtb.size.saturating_add(entries.saturating_mul(host.page_size)),
        false => plan.regions.iter().map(|region| region.size).fold(0, u64::saturating_add),
    };
    if entries > MAX_MEMORY_ENTRIES && !host.dialect.pages_on_demand() {
        let why = joined(&choice.warnings);
        let what = format!(
            "the backings that are left make up to {} ({why})",
            Count(entries, "memory entry")
        );
        return Err(TOO_MANY_ENTRIES.case(what));
    }
    Ok(choice)
}

fn joined(refused: &[Diagnostic]) -> String {
    let each = refused.iter().map(|why| why.what.as_str()).listed();
    each.join("; ")
}

impl Choice {
    fn first_that_fits(
        &mut self,
        plan: &LaunchPlan,
        region: &PlannedRegion,
        host: &Host,
        pool: &impl Fn(u64, u64) -> io::Result<Pool>,
        reserve: Option<&Allotment>,
    ) -> Result<Backing, Diagnostic> {
        let label = region.label;
        let mut refused = Vec::new();
        for &backing in &region.backing {
            let fits = match backing {
                Backing::Hugetlb => self.pool_fits(plan, region, pool),
                Backing::Reserve => self.reserve_fits(region, host, reserve),
                Backing::Thp | Backing::Base => Ok(()),
            };
            if let Err(why) = fits {
                refused.push(why);
                continue;
            }
            let passed_over = |why: Diagnostic| {
                OTHER_BACKING.case(format!("region {label} takes {backing}: {}", why.what))
            };
            self.warnings.extend(refused.into_iter().map(passed_over));
            return Ok(backing);
        }
        let what = format!("region {label} of {}: {}", Size(region.size), joined(&refused));
        let first = refused.into_iter().next();
        let mut first = first.unwrap_or_else(|| NO_SUCH_PAGES.case(""));
        first.what = what;
        Err(first)
    }

    fn reserve_fits(
        &self,
        region: &PlannedRegion,
        host: &Host,
        reserve: Option<&Allotment>,
    ) -> Result<(), Diagnostic> {
        let needs = folios(region.base, region.size, host);
        let already = self.reserve;
        match reserve {
            Some(part) if part.folios().saturating_sub(already) >= needs => Ok(()),
            _ => Err(reserve::refused(reserve, needs, already)),
        }
    }

    fn pool_fits(
        &mut self,
        plan: &LaunchPlan,
        region: &PlannedRegion,
        pool: &impl Fn(u64, u64) -> io::Result<Pool>,
    ) -> Result<(), Diagnostic> {
        let page = region.huge_page;
        let pages = region.size / page;
        let already = self.huge_pages.of(page);
        let size = Size(page);
        match pool(page, already.saturating_add(pages)) {
            Ok(pool) if pool.available().saturating_sub(already) >= pages => Ok(()),
            Ok(pool) => {
                let mut what = format!("needs {} of {size}, {pool}", Count(pages, "page"));
                if already > 0 {
                    what.push_str(&format!(" ({already} of them for its other regions)"));
                }
                Err(SHORT.case(what).cure(pool.cure(pages_of(plan, page))))
            }
            Err(error) => match unread(page, &error) {
                fault if fault.is_error() => Err(fault),
                // Mapping shows it: the pages are set aside then, or ENOMEM.
                warning => {
                    self.warnings.push(warning);
                    Ok(())
                }
            },
        }
    }
}

/// What it means that the pool of pages of `page` bytes cannot be read.
fn unread(page: u64, error: &io::Error) -> Diagnostic {
    let size = Size(page);
    match error.kind() {
        io::ErrorKind::NotFound => {
            NO_SUCH_PAGES.case(format!("this kernel has no huge pages of {size}"))
        }
        _ => {
            let why = failure(error);
            UNREADABLE.case(format!("the pool of {size} pages cannot be read: {why}"))
        }
    }
}

/// The pool of pages of `page` bytes, if it has as many as `wanted` of them, whoever has them now; with
/// `free`, as many that are free.
///
/// # Errors
/// It has fewer, or cannot be read.
pub fn check_pool(page: u64, wanted: u64, free: bool) -> Result<Pool, Diagnostic> {
    let pool = Pool::read(page).map_err(|error| unread(page, &error))?;
    let counted = match free {
        true => pool,
        false => Pool { free: pool.total, reserved: 0, ..pool },
    };
    if counted.available() >= wanted {
        return Ok(pool);
    }
    let what = format!("VMs started at boot need {wanted} pages of {}, {pool}", Size(page));
    Err(SHORT.case(what).cure(counted.cure(wanted)))
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use gunyah::Dialect;

    use super::*;
    use crate::config::parse;
    use crate::image::{arm64, ImageInfo, KernelInfo, KernelLayout};

    const GIB: u64 = 1 << 30;
    const MIB: u64 = 1 << 20;

    /// A plan of main memory and further regions, in JSON.
    fn plan(memory: &str, regions: &str) -> LaunchPlan {
        plan_on(&Host::PAGES_4K, memory, regions)
    }

    fn plan_on(host: &Host, memory: &str, regions: &str) -> LaunchPlan {
        let text = format!(
            r#"{{"name": "vm", "kernel": {{"path": "/Image"}}, "memory": {memory}, "regions": [{regions}]}}"#
        );
        let images = ImageInfo {
            kernel: KernelInfo {
                gzip: false,
                size: MIB,
                signed: false,
                layout: KernelLayout::Image(arm64::Header { text_offset: 0, image_size: MIB }),
            },
            initrd: None,
            regions: Vec::new(),
        };
        let config = parse(Path::new("vm.json"), &text).unwrap();
        crate::plan::plan(&config, &images, 4096, host).unwrap()
    }

    fn pool(page: u64, _wanted: u64) -> io::Result<Pool> {
        let (total, free) = match page {
            GIB => (3, 1),
            page if page == 2 * MIB => (96, 96),
            _ => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Pool { page, total, free, reserved: 0, spare: 0 })
    }

    fn refused(memory: &str, regions: &str) -> Diagnostic {
        choose(&plan(memory, regions), &Host::PAGES_4K, pool, None).unwrap_err()
    }

    #[test]
    fn a_short_pool_comes_with_the_numbers_that_are_enough() {
        // Two pages are others', one is free, two are wanted: four in all.
        let error = refused(r#"{"size": "2G", "page_size": "1G"}"#, "");
        assert_eq!(error.name, "pool-short");
        assert_eq!(
            error.what,
            "region 0 of 2 GiB: needs 2 pages of 1 GiB, 1 free of 3 reserved at boot"
        );
        assert_eq!(
            error.cure,
            "put `hugepagesz=1G hugepages=4` on the kernel command line; `gunyahd check` adds up what all VMs need"
        );
        // What all regions of the VM want, not only the one that found too few.
        let error = refused(
            r#"{"size": "64M"}"#,
            r#"{"label": 1, "base": "0x100000000", "size": "256M", "backing": "hugetlb"},
               {"label": 2, "base": "0x200000000", "size": "2M", "backing": "hugetlb"}"#,
        );
        assert!(error.what.contains("(32 of them for its other regions)"), "{error}");
        assert_eq!(
            error.cure,
            "put `hugepagesz=2M hugepages=161` on the kernel command line, or set ro.vendor.gunyah.hugepages=161 (init/gunyah-hugepages.rc); `gunyahd check` adds up what all VMs need"
        );
    }

    #[test]
    fn pages_that_the_kernel_does_not_have_need_no_reservation() {
        let error = refused(r#"{"size": "64M", "page_size": "32M"}"#, "");
        assert_eq!(error.name, "pool-no-such-pages");
        assert_eq!(error.what, "region 0 of 64 MiB: this kernel has no huge pages of 32 MiB");
        assert!(!error.cure.contains("hugepages="), "{error}");
    }

    #[test]
    fn the_next_backing_is_taken_with_a_warning_and_within_limits() {
        let plan = plan(r#"{"size": "256M", "backing": ["hugetlb", "base"]}"#, "");
        let error = choose(&plan, &Host::PAGES_4K, pool, None).unwrap_err();
        assert_eq!(error.name, "pool-memory-entries");
        assert!(error.what.contains("needs 128 pages of 2 MiB"), "{error}");
        let denied = |_, _| Err(io::Error::from_raw_os_error(libc::EACCES));
        let choice = choose(&plan, &Host::PAGES_4K, denied, None).unwrap();
        assert_eq!(choice.backings, [Backing::Hugetlb]);
        assert_eq!(choice.warnings[0].name, "pool-unreadable");
    }

    #[test]
    fn a_backing_that_is_passed_over_is_a_warning() {
        let plan = plan(r#"{"size": "256M", "backing": ["hugetlb", "thp"]}"#, "");
        let choice = choose(&plan, &Host::PAGES_4K, pool, None).unwrap();
        assert_eq!(choice.backings, [Backing::Thp]);
        assert_eq!(choice.warnings[0].name, "pool-other-backing");
    }

    #[test]
    fn what_is_charged_is_the_drivers_matter() {
        let pinned = |dialect, memory: &str| {
            let host = Host::PAGES_4K.with(dialect);
            let plan = plan_on(&host, memory, "");
            choose(&plan, &host, pool, None).unwrap().pinned
        };
        let huge = r#"{"size": "64M"}"#;
        for dialect in [Dialect::LkmlBase, Dialect::Lkml, Dialect::Ack61] {
            assert_eq!(pinned(dialect, huge), 64 * MIB, "{dialect}");
        }
        for dialect in [Dialect::Ack66, Dialect::Ack612] {
            // The devicetree's slot, and one page for each huge page.
            assert_eq!(pinned(dialect, huge), 2 * MIB + 32 * 4096, "{dialect}");
            let base = r#"{"size": "64M", "backing": "base"}"#;
            assert_eq!(pinned(dialect, base), 2 * MIB + 64 * MIB, "{dialect}");
        }
    }

    /// Of 40 folios each region has all or none of its own.
    #[test]
    fn a_region_has_its_folios_of_the_reserve_or_the_next_backing() {
        use crate::memory::{Extent, Past};
        let host = Host::PAGES_4K.with(Dialect::Ack66).with_reserve(true);
        let regions =
            r#"{"label": 1, "base": "0x100000000", "size": "32M", "backing": ["reserve", "thp"]}"#;
        let plan = plan_on(&host, r#"{"size": "64M"}"#, regions);
        let part = Allotment {
            memfd: std::fs::File::open("/dev/null").unwrap().into(),
            folio: 2 * MIB,
            extents: vec![Extent { first: 0, count: 40, past: Past::Clean }],
            free: 40,
            total: 40,
        };
        let choice = choose(&plan, &host, pool, Some(&part)).unwrap();
        assert_eq!(choice.backings, [Backing::Reserve, Backing::Thp]);
        assert_eq!(choice.reserve, 32);
        assert_eq!(choice.warnings[0].name, "pool-other-backing");
        assert!(choice.warnings[0].what.contains("(32 of them for its other regions)"));
    }
}
