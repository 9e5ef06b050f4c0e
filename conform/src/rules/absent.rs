// SPDX-License-Identifier: Apache-2.0
//! Hosts without the device, and hosts with another vendor's calls on it.

use crate::bench::Bench;
use crate::device::{self, Device};
use crate::dialect::{LEGACY, NONE};
use crate::rule::Rule;
use crate::uapi;
use crate::verdict::{fails, succeeds, Found};

pub const RULES: &[Rule] = &[
    Rule::read(
        NONE,
        "none.open",
        "Without the driver the device does not open: ENOENT, ENODEV or ENXIO.",
        does_not_open,
    ),
    Rule::read(LEGACY, "legacy.open", "The node opens.", opens),
    Rule::read(
        LEGACY,
        "legacy.create",
        "CREATE_VM of this API is not known on it: ENOTTY, EINVAL on old drivers.",
        create_vm_is_unknown,
    ),
    Rule::read(
        LEGACY,
        "legacy.own-create",
        "Its own CREATE_VM (0xb201) makes a VM's descriptor.",
        own_create_vm,
    ),
    Rule::read(
        LEGACY,
        "legacy.vm-calls",
        "This API's calls are not known on its VM: ENOTTY, EINVAL on old drivers.",
        calls_are_unknown_on_its_vm,
    ),
];

const UNKNOWN: &[i32] = &[libc::ENOTTY, libc::EINVAL];

fn does_not_open(bench: &Bench) -> Found {
    fails("open", Device::open(&bench.device), &[libc::ENOENT, libc::ENODEV, libc::ENXIO])
}

fn opens(bench: &Bench) -> Found {
    bench.open().map(drop)
}

fn create_vm_is_unknown(bench: &Bench) -> Found {
    fails("CREATE_VM", bench.open()?.create_vm(0), UNKNOWN)
}

fn own_create_vm(bench: &Bench) -> Found {
    let node = bench.open()?;
    succeeds("0xb201", device::ioctl(node.raw(), uapi::LEGACY_CREATE_VM, 0)).map(drop)
}

fn calls_are_unknown_on_its_vm(bench: &Bench) -> Found {
    let node = bench.open()?;
    let vm = succeeds("0xb201", device::ioctl(node.raw(), uapi::LEGACY_CREATE_VM, 0))?;
    for (name, number) in [
        ("SET_USER_MEM_REGION", uapi::SET_USER_MEM_REGION),
        ("SET_DTB_CONFIG", uapi::SET_DTB_CONFIG),
        ("ADD_FUNCTION", uapi::ADD_FUNCTION),
    ] {
        fails(name, device::ioctl(vm, number, 0), UNKNOWN)?;
    }
    Ok(())
}
