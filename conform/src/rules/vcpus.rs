// SPDX-License-Identifier: Apache-2.0
//! vCPUs, their pages, and VCPU_RUN as far as no guest's code matters.

use std::time::{Duration, Instant};

use crate::bench::Bench;
use crate::device::{self, Answer, Vcpu};
use crate::dialect::{ANDROID, FUNCTIONS, NEWER, PINNING_FUNCTIONS};
use crate::guest::{failing_run, Guest};
use crate::memory::page_size;
use crate::process::{self, fork, Ticking};
use crate::rule::Rule;
use crate::uapi::{self, page};
use crate::verdict::{differs, fails, same, succeeds, Found};

pub const RULES: &[Rule] = &[
    Rule::read(
        FUNCTIONS,
        "vcpu.descriptor",
        "A vCPU is a new descriptor, which closes at exec.",
        descriptor,
    ),
    Rule::read(FUNCTIONS, "vcpu.twice", "An id used twice is EEXIST.", twice),
    Rule::read(FUNCTIONS, "vcpu.many", "A VM may have several vCPUs, in any order.", many),
    Rule::read(
        FUNCTIONS,
        "vcpu.closed",
        "Closing its descriptor does not take a vCPU away: its id stays used.",
        closed,
    ),
    Rule::read(
        FUNCTIONS,
        "vcpu.removed",
        "One that was removed is gone: removing again is ENOENT, its id is free again.",
        removed,
    ),
    Rule::read(
        FUNCTIONS,
        "vcpu.removed-run",
        "VCPU_RUN of one that was removed is ENODEV.",
        removed_run,
    ),
    Rule::read(FUNCTIONS, "vcpu.mmap-size", "VCPU_MMAP_SIZE returns one page.", mmap_size),
    Rule::read(
        FUNCTIONS,
        "vcpu.page",
        "The page can be mapped shared and is zero at first.",
        zero_page,
    ),
    Rule::read(
        FUNCTIONS,
        "vcpu.page-shared",
        "All mappings of it show the same page.",
        shared_page,
    ),
    Rule::read(NEWER, "vcpu.page-beyond", "There is nothing behind the page: SIGBUS.", beyond_page),
    Rule::read(
        PINNING_FUNCTIONS,
        "vcpu.unknown-call-old",
        "A call that a vCPU does not know is EINVAL or ENOTTY before 6.6.",
        unknown_call_old,
    ),
    Rule::read(
        NEWER,
        "vcpu.unknown-call",
        "A call that a vCPU does not know is ENOTTY.",
        unknown_call,
    ),
    Rule::read(
        ANDROID,
        "vcpu.before-start",
        "VCPU_RUN before START is ENODEV: it starts nothing.",
        before_start,
    ),
    Rule::read(
        ANDROID,
        "vcpu.before-start-immediate",
        "The same with immediate_exit.",
        before_start_immediate,
    ),
    Rule::read(
        FUNCTIONS,
        "vcpu.immediate-exit",
        "With immediate_exit VCPU_RUN is EINTR at once.",
        immediate_exit,
    )
    .started(),
    Rule::read(
        FUNCTIONS,
        "vcpu.immediate-exit-stays",
        "The driver leaves immediate_exit as it is: the next VCPU_RUN is EINTR too.",
        immediate_exit_stays,
    )
    .started(),
    Rule::read(FUNCTIONS, "vcpu.signal", "A signal gets VCPU_RUN back with EINTR.", signal)
        .started(),
    Rule::read(FUNCTIONS, "vcpu.after-signal", "After that it can be run again.", after_signal)
        .started(),
    Rule::read(FUNCTIONS, "vcpu.added-late", "A vCPU that is added after START runs.", added_late)
        .started(),
    Rule::seen(
        FUNCTIONS,
        "vcpu.not-in-devicetree",
        "VCPU_RUN of a vCPU that the devicetree does not have is ENODEV.",
        not_in_devicetree,
    )
    .started()
    .dangerous("the host's kernel oopses when such a VM ends"),
];

fn descriptor(bench: &Bench) -> Found {
    let vm = bench.vm()?;
    let vcpu = succeeds("vCPU", vm.vcpu(0))?;
    same("it is the VM's descriptor", vcpu.raw() == vm.raw(), false)?;
    same("FD_CLOEXEC", device::closes_at_exec(vcpu.raw()), true)
}

fn twice(bench: &Bench) -> Found {
    let vm = bench.vm()?;
    let _first = succeeds("vCPU 3", vm.vcpu(3))?;
    fails("vCPU 3 again", vm.vcpu(3), &[libc::EEXIST])
}

fn many(bench: &Bench) -> Found {
    let vm = bench.vm()?;
    let mut vcpus = Vec::new();
    for id in [5, 0, 1, 7] {
        vcpus.push(succeeds(format!("vCPU {id}"), vm.vcpu(id))?);
    }
    Ok(())
}

fn closed(bench: &Bench) -> Found {
    let vm = bench.vm()?;
    drop(succeeds("vCPU", vm.vcpu(0))?);
    fails("the id again", vm.vcpu(0), &[libc::EEXIST])
}

fn removed(bench: &Bench) -> Found {
    let vm = bench.vm()?;
    let _vcpu = succeeds("vCPU", vm.vcpu(2))?;
    succeeds("remove", vm.remove(uapi::VCPU, &2u32))?;
    fails("remove again", vm.remove(uapi::VCPU, &2u32), &[libc::ENOENT])?;
    succeeds("vCPU again", vm.vcpu(2)).map(drop)
}

fn removed_run(bench: &Bench) -> Found {
    let vm = bench.vm()?;
    let vcpu = succeeds("vCPU", vm.vcpu(0))?;
    succeeds("remove", vm.remove(uapi::VCPU, &0u32))?;
    fails("VCPU_RUN", vcpu.run(), &[libc::ENODEV])
}

fn mmap_size(bench: &Bench) -> Found {
    let vcpu = succeeds("vCPU", bench.vm()?.vcpu(0))?;
    let size = succeeds("VCPU_MMAP_SIZE", vcpu.mmap_size())?;
    same("bytes", usize::try_from(size).unwrap_or(0), page_size())
}

fn zero_page(bench: &Bench) -> Found {
    let vcpu = succeeds("vCPU", bench.vm()?.vcpu(0))?;
    let map = succeeds("mmap", vcpu.map(1))?;
    let bytes: [u8; page::LAST] = map.read(0);
    same("its first bytes", bytes, [0; page::LAST])
}

fn shared_page(bench: &Bench) -> Found {
    let vcpu = succeeds("vCPU", bench.vm()?.vcpu(0))?;
    let first = succeeds("mmap", vcpu.map(1))?;
    let second = succeeds("mmap again", vcpu.map(1))?;
    first.write(page::MMIO_DATA, &[0x5a]);
    same("the byte written", second.read(page::MMIO_DATA), [0x5a])
}

fn beyond_page(bench: &Bench) -> Found {
    let vcpu = succeeds("vCPU", bench.vm()?.vcpu(0))?;
    let map = succeeds("mmap of two pages", vcpu.map(2))?;
    let child = fork(|mut socket| {
        let _: [u8; 1] = map.read(page_size());
        process::report(&mut socket, 1);
    });
    match succeeds("fork", child)?.byte() {
        None => Ok(()),
        Some(_) => differs("the second page can be read"),
    }
}

fn calls_refused(bench: &Bench, wanted: &[i32]) -> Found {
    let vcpu = succeeds("vCPU", bench.vm()?.vcpu(0))?;
    for number in [uapi::UNKNOWN, uapi::START, uapi::SET_DTB_CONFIG] {
        let answer = device::ioctl(vcpu.raw(), number, 0);
        fails(format!("{number:#x}"), answer, wanted)?;
    }
    Ok(())
}

fn unknown_call_old(bench: &Bench) -> Found {
    calls_refused(bench, &[libc::EINVAL, libc::ENOTTY])
}

fn unknown_call(bench: &Bench) -> Found {
    calls_refused(bench, &[libc::ENOTTY])
}

fn before_start(bench: &Bench) -> Found {
    let made = Guest::new(bench).make(bench)?;
    fails("VCPU_RUN", failing_run(&made.vcpus[0].0), &[libc::ENODEV])
}

fn before_start_immediate(bench: &Bench) -> Found {
    let made = Guest::new(bench).make(bench)?;
    let (vcpu, map) = &made.vcpus[0];
    map.write(page::IMMEDIATE_EXIT, &[1]);
    fails("VCPU_RUN", failing_run(vcpu), &[libc::ENODEV])
}

fn immediate_exit(bench: &Bench) -> Found {
    let made = Guest::new(bench).start(bench)?;
    let (vcpu, map) = &made.vcpus[0];
    map.write(page::IMMEDIATE_EXIT, &[1]);
    // No clock here: a signal would answer EINTR as well.
    let begin = Instant::now();
    fails("VCPU_RUN", vcpu.run(), &[libc::EINTR])?;
    same("it took five seconds", begin.elapsed() > Duration::from_secs(5), false)
}

fn immediate_exit_stays(bench: &Bench) -> Found {
    let made = Guest::new(bench).start(bench)?;
    let (vcpu, map) = &made.vcpus[0];
    map.write(page::IMMEDIATE_EXIT, &[1]);
    fails("VCPU_RUN", vcpu.run(), &[libc::EINTR])?;
    same("immediate_exit", map.read(page::IMMEDIATE_EXIT), [1])?;
    fails("VCPU_RUN again", vcpu.run(), &[libc::EINTR])
}

/// VCPU_RUN that our clock's signal gets back.
fn interrupted_run(vcpu: &Vcpu) -> Answer {
    let _clock = Ticking::start();
    vcpu.run()
}

fn signal(bench: &Bench) -> Found {
    let made = Guest::new(bench).start(bench)?;
    fails("VCPU_RUN", interrupted_run(&made.vcpus[0].0), &[libc::EINTR])
}

fn after_signal(bench: &Bench) -> Found {
    let made = Guest::new(bench).start(bench)?;
    for round in 0..3 {
        let answer = interrupted_run(&made.vcpus[0].0);
        fails(format!("round {round}"), answer, &[libc::EINTR])?;
    }
    Ok(())
}

fn added_late(bench: &Bench) -> Found {
    let guest = Guest { vcpus: Vec::new(), ..Guest::new(bench) };
    let made = guest.start(bench)?;
    let vcpu = succeeds("vCPU", made.vm.vcpu(0))?;
    fails("VCPU_RUN", failing_run(&vcpu), &[libc::EINTR])
}

fn not_in_devicetree(bench: &Bench) -> Found {
    let guest = Guest { vcpus: vec![0, 1], ..Guest::new(bench) };
    let made = guest.start(bench)?;
    fails("VCPU_RUN", failing_run(&made.vcpus[1].0), &[libc::ENODEV])
}
