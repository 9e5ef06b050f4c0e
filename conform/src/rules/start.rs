// SPDX-License-Identifier: Apache-2.0
//! START: once, twice, and never again after it failed.

use crate::bench::Bench;
use crate::dialect::{FUNCTIONS, GUNYAH, NEWER, PINNING};
use crate::guest::{failing_run, Guest, BASE, DTB_PAGE, MAIN_PAGES};
use crate::memory::pages;
use crate::process::Ticking;
use crate::rule::Rule;
use crate::tree;
use crate::verdict::{fails, same, succeeds, Found};

pub const RULES: &[Rule] = &[
    Rule::read(GUNYAH, "start.good", "A good guest starts: answer 0.", good).started(),
    Rule::read(
        GUNYAH,
        "start.twice",
        "START of a VM that runs is 0 again.",
        twice,
    )
    .started(),
    Rule::seen(
        GUNYAH,
        "start.no-vcpu",
        "A VM starts without any vCPU's descriptor.",
        no_vcpu,
    )
    .started(),
    Rule::read(GUNYAH, "start.two-vms", "Two VMs run at once.", two_vms).started(),
    Rule::read(
        GUNYAH,
        "start.nothing",
        "START without memory and devicetree is EINVAL.",
        nothing,
    )
    .started(),
    Rule::read(
        GUNYAH,
        "start.no-devicetree",
        "START without SET_DTB_CONFIG is EINVAL.",
        no_devicetree,
    )
    .started(),
    Rule::read(
        GUNYAH,
        "start.devicetree-outside",
        "START with the devicetree in no region is EINVAL, since 6.6 ENOENT.",
        devicetree_outside,
    )
    .started(),
    Rule::seen(
        PINNING,
        "start.devicetree-beyond",
        "START with a devicetree's range that ends behind its region is EINVAL.",
        devicetree_beyond,
    )
    .started()
    .dangerous("the driver leaks the VM's number"),
    Rule::read(
        NEWER,
        "start.devicetree-beyond-newer",
        "A devicetree's range that ends behind its region goes on in what is mapped behind: EFAULT where \
         nothing is.",
        devicetree_beyond_newer,
    )
    .started(),
    Rule::read(
        NEWER,
        "start.devicetree-less-than-a-page",
        "START with less than a page of devicetree is EINVAL.",
        devicetree_small,
    )
    .started(),
    Rule::seen(
        GUNYAH,
        "start.devicetree-offset",
        "START with a devicetree that is not page aligned in its region is EINVAL.",
        devicetree_offset,
    )
    .started(),
    Rule::seen(
        GUNYAH,
        "start.devicetree-size",
        "START with a devicetree's size that is not a multiple of the page is EINVAL.",
        devicetree_size,
    )
    .started(),
    Rule::inferred(
        GUNYAH,
        "start.no-tree",
        "START fails where there is no devicetree in the range.",
        no_tree,
    )
    .started(),
    Rule::seen(
        GUNYAH,
        "start.after-failure",
        "After a failed START every other is ENODEV.",
        after_failure,
    )
    .started(),
    Rule::seen(
        GUNYAH,
        "start.after-repair",
        "The same after the mistake has been corrected: the VM is dead.",
        after_repair,
    )
    .started(),
    Rule::seen(
        FUNCTIONS,
        "start.run-after-failure",
        "After a failed START VCPU_RUN is ENODEV.",
        run_after_failure,
    )
    .started(),
    Rule::read(
        FUNCTIONS,
        "start.failure-alone",
        "A VM that fails to start leaves those that run alone.",
        failure_alone,
    )
    .started(),
    Rule::read(
        GUNYAH,
        "start.anew",
        "A VM built anew after a failed one starts.",
        anew,
    )
    .started(),
    Rule::seen(
        GUNYAH,
        "start.affinity-map",
        "A VM with an affinity-map is scheduled by the hypervisor: it starts without a vCPU's \
         descriptor.",
        affinity_map,
    )
    .started()
    .dangerous("stopping it while it runs crashed a debug resource manager"),
];

fn good(bench: &Bench) -> Found {
    let made = Guest::new(bench).make(bench)?;
    let answer = succeeds("START", made.vm.start())?;
    same("answer", answer, 0)
}

fn twice(bench: &Bench) -> Found {
    let made = Guest::new(bench).start(bench)?;
    for _ in 0..2 {
        let answer = succeeds("START again", made.vm.start())?;
        same("answer", answer, 0)?;
    }
    Ok(())
}

fn without_vcpus(bench: &Bench) -> Guest {
    Guest { vcpus: Vec::new(), ..Guest::new(bench) }
}

fn no_vcpu(bench: &Bench) -> Found {
    without_vcpus(bench).start(bench).map(drop)
}

fn two_vms(bench: &Bench) -> Found {
    let first = Guest::new(bench).start(bench)?;
    let second = Guest::new(bench).start(bench)?;
    succeeds("START of the first again", first.vm.start())?;
    succeeds("START of the second again", second.vm.start()).map(drop)
}

/// What START answers where the devicetree's region is not found.
fn not_found(bench: &Bench) -> &'static [i32] {
    if bench.is(NEWER) {
        &[libc::ENOENT]
    } else {
        &[libc::EINVAL]
    }
}

fn nothing(bench: &Bench) -> Found {
    fails("START", bench.vm()?.start(), &[libc::EINVAL])
}

fn no_devicetree(bench: &Bench) -> Found {
    let guest = Guest { dtb: (0, 0), ..Guest::new(bench) };
    fails("START", guest.try_start(bench)?, &[libc::EINVAL])
}

/// One whose START fails without harm.
fn bad(bench: &Bench) -> Guest {
    Guest { dtb: (BASE + pages(16 * MAIN_PAGES), pages(1)), ..Guest::new(bench) }
}

fn devicetree_outside(bench: &Bench) -> Found {
    fails("START", bad(bench).try_start(bench)?, not_found(bench))
}

fn devicetree_beyond(bench: &Bench) -> Found {
    let guest = Guest { dtb: (BASE + pages(DTB_PAGE), pages(MAIN_PAGES)), ..Guest::new(bench) };
    fails("START", guest.try_start(bench)?, &[libc::EINVAL])
}

fn devicetree_beyond_newer(bench: &Bench) -> Found {
    let mut made = Guest { dtb: (BASE + pages(DTB_PAGE), pages(MAIN_PAGES)), ..Guest::new(bench) }
        .make(bench)?;
    let half = usize::try_from(pages(MAIN_PAGES / 2)).unwrap_or(0);
    made.memory.map.cut(half);
    fails("START", made.vm.start(), &[libc::EFAULT])
}

fn devicetree_small(bench: &Bench) -> Found {
    let good = Guest::new(bench);
    let guest = Guest { dtb: (good.dtb.0, pages(1) - 8), ..good };
    fails("START", guest.try_start(bench)?, &[libc::EINVAL])
}

fn devicetree_offset(bench: &Bench) -> Found {
    let good = Guest::new(bench);
    let guest = Guest { dtb_at: good.dtb_at + 64, dtb: (good.dtb.0 + 64, good.dtb.1), ..good };
    fails("START", guest.try_start(bench)?, &[libc::EINVAL])
}

fn devicetree_size(bench: &Bench) -> Found {
    let good = Guest::new(bench);
    let guest = Guest { dtb: (good.dtb.0, good.dtb.1 - 64), ..good };
    fails("START", guest.try_start(bench)?, &[libc::EINVAL])
}

fn no_tree(bench: &Bench) -> Found {
    let made = Guest::new(bench).make(bench)?;
    let at = usize::try_from(pages(DTB_PAGE)).unwrap_or(0);
    made.memory.map.write(at, &[0; 4096]);
    fails("START", made.vm.start(), &[])
}

fn after_failure(bench: &Bench) -> Found {
    let made = bad(bench).make(bench)?;
    fails("START", made.vm.start(), not_found(bench))?;
    for _ in 0..2 {
        fails("START again", made.vm.start(), &[libc::ENODEV])?;
    }
    Ok(())
}

fn after_repair(bench: &Bench) -> Found {
    let made = bad(bench).make(bench)?;
    fails("START", made.vm.start(), not_found(bench))?;
    let good = Guest::new(bench).dtb;
    succeeds("SET_DTB_CONFIG", made.vm.dtb(good.0, good.1))?;
    fails("START again", made.vm.start(), &[libc::ENODEV])
}

fn run_after_failure(bench: &Bench) -> Found {
    let made = bad(bench).make(bench)?;
    fails("START", made.vm.start(), not_found(bench))?;
    fails("VCPU_RUN", failing_run(&made.vcpus[0].0), &[libc::ENODEV])
}

fn failure_alone(bench: &Bench) -> Found {
    let good = Guest::new(bench).start(bench)?;
    fails("START of another", bad(bench).try_start(bench)?, not_found(bench))?;
    succeeds("START of the first again", good.vm.start())?;
    let _clock = Ticking::start();
    fails("VCPU_RUN of the first", good.vcpus[0].0.run(), &[libc::EINTR])
}

fn anew(bench: &Bench) -> Found {
    fails("START", bad(bench).try_start(bench)?, not_found(bench))?;
    Guest::new(bench).start(bench).map(drop)
}

fn affinity_map(bench: &Bench) -> Found {
    let mut guest = without_vcpus(bench);
    tree::by_the_hypervisor(&mut guest.tree, &[0]);
    guest.start(bench).map(drop)
}
