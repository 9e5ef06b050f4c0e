// SPDX-License-Identifier: Apache-2.0
//! The host's page sizes, asked for and never assumed.

use std::fs;
use std::sync::OnceLock;

use gunyah::Dialect;
use nix::unistd::{sysconf, SysconfVar};

use crate::plan::Host;

/// What the plan needs to know of this host, whose driver speaks `dialect`.
pub fn host(dialect: Dialect) -> Host {
    Host {
        page_size: page_size(),
        huge_page: huge_page(),
        thp_page: folio(),
        dialect,
        timer_wakeups: false,
        reserve: false,
    }
}

/// Those of huge pages, which no running kernel changes: a worker has what its supervisor asked for.
struct HugeSizes {
    pool: u64,
    transparent: u64,
}

fn huge_sizes() -> &'static HugeSizes {
    static SIZES: OnceLock<HugeSizes> = OnceLock::new();
    SIZES.get_or_init(|| HugeSizes { pool: default_huge_page(), transparent: transparent() })
}

/// Bytes of a transparent huge page.
pub fn folio() -> u64 {
    huge_sizes().transparent
}

/// Bytes of a huge page where a config names none.
pub fn huge_page() -> u64 {
    huge_sizes().pool
}

fn transparent() -> u64 {
    let thp_page = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
        .ok()
        .and_then(|text| text.trim_ascii().parse().ok())
        .filter(|size: &u64| size.is_power_of_two());
    thp_page.unwrap_or(pmd(page_size()))
}

fn page_size() -> u64 {
    let size = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| u64::try_from(size).ok()).unwrap_or(Host::PAGES_4K.page_size)
}

/// What a table's page of 8-byte entries maps: a PMD, the usual huge page.
fn pmd(page_size: u64) -> u64 {
    page_size * (page_size / 8)
}

/// The kernel's own default.
fn default_huge_page() -> u64 {
    let of_the_kernel = || {
        let text = fs::read_to_string("/proc/meminfo").ok()?;
        let mut lines = text.lines();
        let size = lines.find_map(|line| line.strip_prefix("Hugepagesize:"))?;
        let kib: u64 = size.trim_ascii().strip_suffix(" kB")?.trim_ascii().parse().ok()?;
        kib.checked_mul(1024).filter(|size| *size > 0)
    };
    of_the_kernel().unwrap_or(pmd(page_size()))
}
