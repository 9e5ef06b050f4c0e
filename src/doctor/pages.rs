// SPDX-License-Identifier: Apache-2.0
//! What guest memory is made of: pools, reserve, transparent huge pages, the limit of pinned memory.

use std::fs;

use gunyah::Dialect;

use super::host::Service;
use super::Findings;
use crate::check::Report;
use crate::config::Backing;
use crate::diagnostic::kinds;
use crate::memory::{self, Pool, OTHER_BACKING};
use crate::text::Size;

const SHMEM: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

kinds! {
    RESERVE_SHORT: Warning "reserve-too-small" in Pool {
        "the reserve has fewer folios than the VMs take that are started at boot",
        cause: "ro.vendor.gunyah.reserve is not set, or too low; VMs without a part of it take what memory is free, and fail if they may not",
        cure: "set ro.vendor.gunyah.reserve to what `gunyahd check` adds up",
    }
    TRANSPARENT_OFF: Warning "thp-off" in Pool {
        "the kernel gives shared memory no transparent huge pages by itself",
        cause: "its setting is `never` or `deny`; gunyahd then asks for each page to be made of small ones, which takes longer and fails sooner where memory is fragmented",
        cure: "write `advise` to /sys/kernel/mm/transparent_hugepage/shmem_enabled early at boot; not needed where the reserve is whole and every VM has a part of it",
    }
}

/// The pools against what the VMs take that are started at boot. While the service runs, VMs have some of
/// the pages.
pub(super) fn pools(report: &Report, serving: bool, all: &mut Findings) {
    let sums = report.huge_pages();
    if sums.all.is_empty() {
        all.good("pool", "no VM takes pages of one");
    }
    for (page, _) in sums.all.iter() {
        let (size, pages) = (Size(page), sums.autostart.of(page));
        match memory::check_pool(page, pages, !serving) {
            Ok(pool) => {
                let what = format!("VMs started at boot take {pages} pages of {size}: {pool}");
                all.good("pool", what);
            }
            Err(fault) if can_do_without_pools(report) => {
                let what = format!("{}; the VMs then take their next backing", fault.what);
                all.bad(OTHER_BACKING.case(what).cure(fault.cure.clone()));
            }
            Err(fault) => all.bad(fault),
        }
    }
}

/// Whether no VM needs a pool: each that would like pages of one has another backing to go on with.
pub(super) fn can_do_without_pools(report: &Report) -> bool {
    let mut takers = report.vms.iter().filter(|vm| !vm.huge_pages.is_empty());
    takers.all(|vm| {
        let further = vm.config.regions.iter().map(|region| &region.backing);
        let mut lists = std::iter::once(&vm.config.memory.backing).chain(further);
        let other = |one: &Option<Backing>| matches!(one, Some(Backing::Thp | Backing::Base));
        lists.all(|list| list.iter().any(other))
    })
}

/// The reserve against what the VMs would like of it that are started at boot. Only the service knows it.
pub(super) fn reserve(report: &Report, service: Option<&Service>, all: &mut Findings) {
    let wanted = report.reserve().autostart;
    let Some(service) = service.filter(|_| wanted > 0) else { return };
    let (there, huge) = service.reserve.map_or((0, 0), |reserve| (reserve.folios, reserve.huge));
    let folio = Size(report.host.thp_page);
    let what = format!(
        "VMs started at boot take {wanted} folios of {folio}: there are {there}, {huge} of them huge"
    );
    match there >= wanted {
        true => all.good("reserve", what),
        false => {
            let bytes = wanted.saturating_mul(report.host.thp_page);
            let cure = format!(
                "set ro.vendor.gunyah.reserve={:#}, or as much as `gunyahd check` adds up",
                Size(bytes)
            );
            all.bad(RESERVE_SHORT.case(what).cure(cure));
        }
    }
}

/// Whether all folios of the reserve are huge and every VM has some.
fn reserve_suffices(report: &Report, service: Option<&Service>) -> bool {
    let whole = service.and_then(|service| service.reserve).is_some_and(|reserve| {
        reserve.huge == reserve.folios && reserve.folios >= report.reserve().autostart
    });
    whole && !report.vms.is_empty() && report.vms.iter().all(|vm| vm.reserve > 0)
}

/// How transparent huge pages are set, where the driver takes no others.
pub(super) fn transparent(
    dialect: Option<Dialect>,
    report: &Report,
    service: Option<&Service>,
    all: &mut Findings,
) {
    if !dialect.is_some_and(Dialect::pages_on_demand) {
        return;
    }
    // The chosen one of all words is in brackets.
    let text = fs::read_to_string(SHMEM).unwrap_or_default();
    let chosen = text.split(['[', ']']).nth(1).unwrap_or("not known");
    match chosen {
        "never" | "deny" if reserve_suffices(report, service) => {
            let what =
                format!("{SHMEM} is `{chosen}`; the reserve is whole, so nothing asks for it");
            all.good("thp", what);
        }
        "never" | "deny" => all.bad(TRANSPARENT_OFF.case(format!("{SHMEM} is `{chosen}`"))),
        _ => all.good("thp", format!("{SHMEM} is `{chosen}`")),
    }
}

/// The limit of the service, or of this process where it does not run.
pub(super) fn pinned(report: &Report, service: Option<u32>, all: &mut Findings) {
    // As much as each would pin if it got the backing that it likes best.
    let endless = |page, free| Ok(Pool { page, total: free, free, reserved: 0, spare: 0 });
    let plans = report.vms.iter().filter_map(|vm| vm.plan.as_ref());
    let pins = plans.filter_map(|plan| {
        let host = report.host.with(plan.dialect);
        let mut plan = plan.clone();
        // A folio of the reserve pins as any other does; only the service has them.
        for backing in plan.regions.iter_mut().flat_map(|region| &mut region.backing) {
            if *backing == Backing::Reserve {
                *backing = Backing::Thp;
            }
        }
        memory::choose(&plan, &host, endless, None).ok().map(|choice| choice.pinned)
    });
    let Some(most) = pins.max() else {
        return all.note("memlock", "no VM can be launched, so none pins memory");
    };
    match memory::check_memlock(service, most) {
        Ok(why) => {
            let whose = match service {
                Some(pid) => format!("the service (pid {pid})"),
                None => "this process, in place of the service,".to_owned(),
            };
            all.good(
                "memlock",
                format!("{} at most are pinned for one VM; {whose} {why}", Size(most)),
            );
        }
        Err(fault) => all.bad(fault),
    }
}
