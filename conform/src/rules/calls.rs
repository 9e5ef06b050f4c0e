// SPDX-License-Identifier: Apache-2.0
//! Opening, creating VMs, and calls that nobody knows.

use crate::bench::Bench;
use crate::device::{self, Vm};
use crate::dialect::{Dialect, BASE, GUNYAH, LKML, NEWEST, NOT_NEWEST, PINNING};
use crate::guest::{Guest, MAIN_LABEL};
use crate::memory::{pages, Memory};
use crate::rule::Rule;
use crate::uapi::{self, Range, Region};
use crate::verdict::{fails, same, succeeds, Found};

pub const RULES: &[Rule] = &[
    Rule::read(GUNYAH, "device.open", "The device opens for reading and writing.", opens),
    Rule::read(GUNYAH, "device.twice", "It can be open many times at once.", opens_twice),
    Rule::read(
        GUNYAH,
        "device.unknown-call",
        "A call that it does not know is ENOTTY (EINVAL on old drivers).",
        device_unknown,
    ),
    Rule::read(
        GUNYAH,
        "device.vm-call",
        "A VM's calls are not the device's: ENOTTY (EINVAL on old drivers).",
        device_vm_call,
    ),
    Rule::read(
        GUNYAH,
        "create.argument",
        "CREATE_VM's argument has to be 0, else EINVAL.",
        create_argument,
    ),
    Rule::read(
        GUNYAH,
        "create.descriptor",
        "CREATE_VM returns a new descriptor.",
        create_descriptor,
    ),
    Rule::read(
        GUNYAH,
        "create.close-on-exec",
        "A VM's descriptor closes at exec.",
        create_close_on_exec,
    ),
    Rule::read(
        GUNYAH,
        "create.outlives-device",
        "A VM does not need the device to stay open.",
        create_outlives_device,
    ),
    Rule::read(
        GUNYAH,
        "create.many",
        "VMs are apart: both may have the same label at the same guest address.",
        create_many,
    ),
    Rule::read(
        GUNYAH,
        "vm.unknown-call",
        "A call that a VM does not know is ENOTTY (EINVAL on old drivers).",
        vm_unknown,
    ),
    Rule::read(
        GUNYAH,
        "vm.device-call",
        "The device's and a vCPU's calls are not a VM's: ENOTTY (EINVAL on old drivers).",
        vm_device_call,
    ),
    Rule::read(
        GUNYAH,
        "vm.legacy-call",
        "The 0xB2 calls are not a VM's: ENOTTY (EINVAL on old drivers).",
        vm_legacy_call,
    ),
    Rule::read(
        LKML,
        "vm.no-android-calls",
        "Upstream has neither LEND_USER_MEM nor SET_FW_CONFIG: ENOTTY.",
        no_android_calls,
    ),
    Rule::read(
        PINNING,
        "vm.no-boot-context",
        "SET_BOOT_CONTEXT does not exist before 6.6: ENOTTY.",
        no_boot_context,
    ),
    Rule::read(
        BASE,
        "vm.no-functions",
        "Upstream's first half has neither ADD_FUNCTION nor REMOVE_FUNCTION: ENOTTY.",
        no_functions,
    ),
    Rule::read(
        NOT_NEWEST,
        "vm.no-reclaim",
        "RECLAIM_REGION does not exist before 6.12: ENOTTY.",
        no_reclaim,
    ),
    Rule::read(
        NEWEST,
        "vm.reclaim",
        "RECLAIM_REGION: an argument that cannot be read is EFAULT, one that is not page aligned EINVAL; \
         before START it answers 0 and does nothing.",
        reclaim,
    ),
    Rule::read(
        GUNYAH,
        "vm.later-calls",
        "Neither MAP_MEM nor CHECK_EXTENSION exists: ENOTTY.",
        later_calls,
    ),
];

fn no_functions(bench: &Bench) -> Found {
    let vm = bench.vm()?;
    for (name, call) in
        [("ADD_FUNCTION", uapi::ADD_FUNCTION), ("REMOVE_FUNCTION", uapi::REMOVE_FUNCTION)]
    {
        fails(name, vm.call_number(call, 0), unknown(bench))?;
    }
    Ok(())
}

fn no_reclaim(bench: &Bench) -> Found {
    let answer = bench.vm()?.call_number(uapi::RECLAIM_REGION, 0);
    fails("RECLAIM_REGION", answer, unknown(bench))
}

fn reclaim(bench: &Bench) -> Found {
    let vm = bench.vm()?;
    let answer = vm.call_number(uapi::RECLAIM_REGION, 0);
    fails("RECLAIM_REGION at 0", answer, &[libc::EFAULT])?;
    let range = |guest, size| vm.call(uapi::RECLAIM_REGION, &Range { guest, size });
    fails("not aligned", range(crate::guest::BASE + 8, pages(1)), &[libc::EINVAL])?;
    succeeds("before START", range(crate::guest::BASE, pages(1))).map(drop)
}

fn later_calls(bench: &Bench) -> Found {
    let vm = bench.vm()?;
    for (name, call) in [("MAP_MEM", uapi::MAP_MEM), ("CHECK_EXTENSION", uapi::CHECK_EXTENSION)] {
        fails(name, vm.call_number(call, 0), unknown(bench))?;
    }
    Ok(())
}

/// What an unknown call answers; only upstream's first versions said EINVAL.
fn unknown(bench: &Bench) -> &'static [i32] {
    if matches!(bench.dialect, Dialect::Lkml | Dialect::LkmlBase) {
        &[libc::ENOTTY, libc::EINVAL]
    } else {
        &[libc::ENOTTY]
    }
}

fn opens(bench: &Bench) -> Found {
    bench.open().map(drop)
}

fn opens_twice(bench: &Bench) -> Found {
    let first = bench.open()?;
    let second = bench.open()?;
    succeeds("CREATE_VM by the first", first.create_vm(0))?;
    succeeds("CREATE_VM by the second", second.create_vm(0))?;
    Ok(())
}

fn device_unknown(bench: &Bench) -> Found {
    let node = bench.open()?;
    for number in [uapi::UNKNOWN, uapi::UNKNOWN_ANDROID] {
        let answer = device::ioctl(node.raw(), number, 0);
        fails(format!("{number:#x}"), answer, unknown(bench))?;
    }
    Ok(())
}

fn device_vm_call(bench: &Bench) -> Found {
    let node = bench.open()?;
    for (name, number) in [
        ("START", uapi::START),
        ("SET_DTB_CONFIG", uapi::SET_DTB_CONFIG),
        ("VCPU_RUN", uapi::VCPU_RUN),
    ] {
        fails(name, device::ioctl(node.raw(), number, 0), unknown(bench))?;
    }
    Ok(())
}

fn create_argument(bench: &Bench) -> Found {
    let node = bench.open()?;
    for argument in [1, 4096, u64::MAX] {
        let what = format!("CREATE_VM with {argument:#x}");
        fails(what, node.create_vm(argument), &[libc::EINVAL])?;
    }
    Ok(())
}

fn create_descriptor(bench: &Bench) -> Found {
    let node = bench.open()?;
    let first = succeeds("CREATE_VM", node.create_vm(0))?;
    let second = succeeds("CREATE_VM again", node.create_vm(0))?;
    same("both have one descriptor", first.raw() == second.raw(), false)
}

fn create_close_on_exec(bench: &Bench) -> Found {
    same("FD_CLOEXEC", device::closes_at_exec(bench.vm()?.raw()), true)
}

fn create_outlives_device(bench: &Bench) -> Found {
    let node = bench.open()?;
    let vm = succeeds("CREATE_VM", node.create_vm(0))?;
    drop(node);
    succeeds("SET_DTB_CONFIG", vm.dtb(crate::guest::BASE, pages(1))).map(drop)
}

fn create_many(bench: &Bench) -> Found {
    let mut vms: Vec<(Vm, Memory)> = Vec::new();
    for index in 0..4 {
        let vm = bench.vm()?;
        let memory = succeeds("memfd", Memory::base_pages(2))?;
        let region = Region {
            label: MAIN_LABEL,
            flags: uapi::RWX,
            guest: crate::guest::BASE,
            size: memory.map.size(),
            user: memory.map.address(),
        };
        let call = bench.main_memory_call();
        succeeds(format!("VM {index}: memory"), vm.region(call, &region))?;
        vms.push((vm, memory));
    }
    Ok(())
}

fn vm_unknown(bench: &Bench) -> Found {
    let vm = bench.vm()?;
    for number in [uapi::UNKNOWN, uapi::UNKNOWN_ANDROID] {
        let answer = vm.call_number(number, 0);
        fails(format!("{number:#x}"), answer, unknown(bench))?;
    }
    Ok(())
}

fn vm_device_call(bench: &Bench) -> Found {
    let vm = bench.vm()?;
    for (name, number) in [
        ("CREATE_VM", uapi::CREATE_VM),
        ("VCPU_RUN", uapi::VCPU_RUN),
        ("VCPU_MMAP_SIZE", uapi::VCPU_MMAP_SIZE),
    ] {
        fails(name, vm.call_number(number, 0), unknown(bench))?;
    }
    Ok(())
}

fn vm_legacy_call(bench: &Bench) -> Found {
    let vm = bench.vm()?;
    let answer = vm.call_number(uapi::LEGACY_GET_VCPU_COUNT, 0);
    fails("0xb243", answer, unknown(bench))
}

fn no_android_calls(bench: &Bench) -> Found {
    let made = Guest::new(bench).make(bench)?;
    let lend = made.vm.region(uapi::LEND_USER_MEM, &made.region);
    fails("LEND_USER_MEM", lend, unknown(bench))?;
    let firmware = made.vm.call_number(uapi::SET_FW_CONFIG, 0);
    fails("SET_FW_CONFIG", firmware, unknown(bench))
}

fn no_boot_context(bench: &Bench) -> Found {
    fails("SET_BOOT_CONTEXT", bench.vm()?.boot_context(0, 1), unknown(bench))
}
