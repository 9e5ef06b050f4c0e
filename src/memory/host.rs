// SPDX-License-Identifier: Apache-2.0
//! The host's page sizes, asked for and never assumed.

use std::fs;

use nix::unistd::{sysconf, SysconfVar};

use crate::plan::Host;

/// What the plan needs to know of this host.
pub fn host() -> Host {
    let page_size = sysconf(SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|size| u64::try_from(size).ok())
        .unwrap_or(Host::PAGES_4K.page_size);
    // A table's page of 8-byte entries maps this much: a PMD, the usual huge page.
    let pmd = page_size * (page_size / 8);
    let thp_page = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(pmd);
    let huge_page = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("Hugepagesize:"))?;
            line.trim()
                .strip_suffix(" kB")?
                .trim()
                .parse::<u64>()
                .ok()?
                .checked_mul(1024)
        })
        .unwrap_or(pmd);
    Host {
        page_size,
        huge_page,
        thp_page,
    }
}
