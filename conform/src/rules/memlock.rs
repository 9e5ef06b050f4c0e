// SPDX-License-Identifier: Apache-2.0
//! Pinned pages count as locked memory.

use crate::bench::Bench;
use crate::device::{Answer, Vm};
use crate::dialect::{NEWER, PINNING};
use crate::guest::{Guest, BASE, DTB_PAGES};
use crate::memory::{pages, Mapping, Memory};
use crate::process::{self, eventually};
use crate::rule::Rule;
use crate::rules::main_memory::faults;
use crate::uapi::{self, Region};
use crate::verdict::{fails, skip, succeeds, Found};

pub const RULES: &[Rule] = &[
    Rule::seen(PINNING, "memlock.beyond", "A region beyond RLIMIT_MEMLOCK is ENOMEM.", beyond),
    Rule::read(PINNING, "memlock.exact", "A region of exactly the limit is accepted.", exact),
    Rule::read(PINNING, "memlock.regions", "The regions of a VM count together.", regions),
    Rule::read(PINNING, "memlock.vms", "The VMs of a process count together.", vms),
    Rule::read(PINNING, "memlock.refused", "A region that was refused is not counted.", refused),
    Rule::read(
        PINNING,
        "memlock.failed-pin",
        "A region whose pages could not be pinned is not counted.",
        failed_pin,
    ),
    Rule::read(
        PINNING,
        "memlock.order",
        "The label is checked before the limit: one used twice, beyond the limit, is EEXIST.",
        order,
    ),
    Rule::read(
        PINNING,
        "memlock.order-pin",
        "It is checked before pages are pinned: memory beyond it that is not mapped is ENOMEM.",
        order_pin,
    ),
    Rule::seen(PINNING, "memlock.exempt", "With CAP_IPC_LOCK the limit does not count.", exempt),
    Rule::read(
        PINNING,
        "memlock.given-back",
        "After a VM's last close its pages do not count any more.",
        given_back,
    ),
    Rule::read(
        NEWER,
        "memlock.newer",
        "Registering counts nothing: it is accepted whatever the limit.",
        newer,
    ),
    Rule::read(
        NEWER,
        "memlock.newer-start",
        "START counts the devicetree's pages: beyond the limit it is ENOMEM.",
        newer_start,
    )
    .started(),
    Rule::inferred(
        NEWER,
        "memlock.newer-vms",
        "Those of the VMs of a process count together.",
        newer_vms,
    )
    .started(),
    Rule::read(
        NEWER,
        "memlock.newer-fault",
        "So do the pages that the guest touches: a fault beyond the limit fails with ENOMEM.",
        newer_fault,
    )
    .started(),
];

/// Pages that the limit allows in these checks.
pub const LIMIT: u64 = 8;

/// Without privilege and with a limit of [`LIMIT`] pages.
pub fn under_limit() -> Found {
    process::give_up_ipc_lock()?;
    process::limit_locked_memory(pages(LIMIT))
}

/// Registers `count` pages of memory that begins at `user`.
pub fn register(bench: &Bench, vm: &Vm, label: u32, user: u64, count: u64) -> Answer {
    let region = Region {
        label,
        flags: uapi::RWX,
        guest: BASE + u64::from(label) * pages(64),
        size: pages(count),
        user,
    };
    vm.region(bench.main_memory_call(), &region)
}

fn memory() -> Found<Memory> {
    succeeds("memfd", Memory::base_pages(2 * LIMIT))
}

fn beyond(bench: &Bench) -> Found {
    under_limit()?;
    let (vm, memory) = (bench.vm()?, memory()?);
    let answer = register(bench, &vm, 1, memory.map.address(), LIMIT + 1);
    fails("a page more than the limit", answer, &[libc::ENOMEM])
}

fn exact(bench: &Bench) -> Found {
    under_limit()?;
    let (vm, memory) = (bench.vm()?, memory()?);
    let answer = register(bench, &vm, 1, memory.map.address(), LIMIT);
    succeeds("as many pages as the limit", answer).map(drop)
}

fn regions(bench: &Bench) -> Found {
    under_limit()?;
    let (vm, memory) = (bench.vm()?, memory()?);
    let user = memory.map.address();
    succeeds("the first", register(bench, &vm, 1, user, LIMIT - 1))?;
    succeeds("the second", register(bench, &vm, 2, user, 1))?;
    fails("the third", register(bench, &vm, 3, user, 1), &[libc::ENOMEM])
}

fn vms(bench: &Bench) -> Found {
    under_limit()?;
    let (first, second, memory) = (bench.vm()?, bench.vm()?, memory()?);
    let user = memory.map.address();
    succeeds("the first VM", register(bench, &first, 1, user, LIMIT))?;
    let answer = register(bench, &second, 1, user, 1);
    fails("the second VM", answer, &[libc::ENOMEM])
}

fn refused(bench: &Bench) -> Found {
    under_limit()?;
    let (vm, memory) = (bench.vm()?, memory()?);
    let user = memory.map.address();
    let answer = register(bench, &vm, 1, user, LIMIT + 1);
    fails("a page more than the limit", answer, &[libc::ENOMEM])?;
    let unaligned = register(bench, &vm, 1, user + 8, LIMIT);
    fails("not aligned", unaligned, &[libc::EINVAL])?;
    let again = register(bench, &vm, 1, user, LIMIT);
    succeeds("as many pages as the limit", again).map(drop)
}

fn failed_pin(bench: &Bench) -> Found {
    under_limit()?;
    let (vm, memory) = (bench.vm()?, memory()?);
    let mut holed = succeeds("mmap", Mapping::anonymous(pages(LIMIT), true))?;
    let user = holed.address();
    holed.cut(0);
    let answer = register(bench, &vm, 1, user, LIMIT);
    fails("a hole", answer, &[libc::EFAULT])?;
    let again = register(bench, &vm, 1, memory.map.address(), LIMIT);
    succeeds("as many pages as the limit", again).map(drop)
}

fn order(bench: &Bench) -> Found {
    under_limit()?;
    let (vm, memory) = (bench.vm()?, memory()?);
    let user = memory.map.address();
    succeeds("the first", register(bench, &vm, 1, user, 1))?;
    let answer = register(bench, &vm, 1, user, LIMIT + 1);
    fails("the label again, too large", answer, &[libc::EEXIST])
}

fn order_pin(bench: &Bench) -> Found {
    under_limit()?;
    let vm = bench.vm()?;
    let mut nowhere = succeeds("mmap", Mapping::anonymous(pages(LIMIT + 1), true))?;
    let user = nowhere.address();
    nowhere.cut(0);
    let answer = register(bench, &vm, 1, user, LIMIT + 1);
    fails("not mapped, too large", answer, &[libc::ENOMEM])
}

fn exempt(bench: &Bench) -> Found {
    if !process::may_lock() {
        return skip("this process has no CAP_IPC_LOCK");
    }
    process::limit_locked_memory(pages(LIMIT))?;
    let (vm, memory) = (bench.vm()?, memory()?);
    let answer = register(bench, &vm, 1, memory.map.address(), LIMIT + 1);
    succeeds("a page more than the limit", answer).map(drop)
}

fn given_back(bench: &Bench) -> Found {
    under_limit()?;
    let (first, second, memory) = (bench.vm()?, bench.vm()?, memory()?);
    let user = memory.map.address();
    succeeds("the first VM", register(bench, &first, 1, user, LIMIT))?;
    drop(first);
    let later = eventually(bench.give_back, || register(bench, &second, 1, user, LIMIT));
    succeeds("the second VM after the first's last close", later).map(drop)
}

fn newer(bench: &Bench) -> Found {
    under_limit()?;
    let (vm, memory) = (bench.vm()?, memory()?);
    let answer = register(bench, &vm, 1, memory.map.address(), 2 * LIMIT);
    succeeds("twice the limit", answer).map(drop)
}

fn newer_start(bench: &Bench) -> Found {
    under_limit()?;
    process::limit_locked_memory(pages(1))?;
    let made = Guest::new(bench).make(bench)?;
    fails("START", made.vm.start(), &[libc::ENOMEM])
}

/// Without privilege and with a limit of so many pages.
fn limited_to(count: u64) -> Found {
    process::give_up_ipc_lock()?;
    process::limit_locked_memory(pages(count))
}

fn newer_vms(bench: &Bench) -> Found {
    limited_to(2 * DTB_PAGES - 1)?;
    let _first = Guest::new(bench).start(bench)?;
    let second = Guest::new(bench).make(bench)?;
    fails("START of the second VM", second.vm.start(), &[libc::ENOMEM])
}

fn newer_fault(bench: &Bench) -> Found {
    limited_to(DTB_PAGES)?;
    let made = Guest::new(bench).start(bench)?;
    faults(bench, &made, libc::ENOMEM)
}
