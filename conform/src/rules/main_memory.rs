// SPDX-License-Identifier: Apache-2.0
//! Sharing and lending at START, and where the guest's memory comes to be.

use std::path::Path;

use crate::bench::Bench;
use crate::code::Code;
use crate::dialect::{Dialect, ANDROID, GUNYAH, NEWER, PINNING};
use crate::errno::Errno;
use crate::guest::{Exit, Guest, Made, BASE, MAIN_LABEL};
use crate::memory::{pages, Memory};
use crate::rule::Rule;
use crate::tree::{self, Node};
use crate::uapi::{self, Region};
use crate::verdict::{differs, fails, skip, succeeds, Found};

pub const RULES: &[Rule] = &[
    Rule::seen(ANDROID, "memory.lent", "Lent main memory starts.", lent).started(),
    Rule::seen(
        GUNYAH,
        "memory.shared",
        "Shared main memory starts with a debug resource manager; a production one answers ENODEV.",
        shared,
    )
    .started(),
    Rule::seen(
        GUNYAH,
        "memory.no-permissions",
        "Main memory without any permission is EINVAL at START.",
        no_permissions,
    )
    .started(),
    Rule::seen(
        GUNYAH,
        "memory.pages",
        "Main memory may be any number of pages: three will do.",
        three_pages,
    )
    .started(),
    Rule::seen(
        PINNING,
        "memory.twice",
        "The same pages in two regions of a VM are EINVAL at START.",
        twice,
    )
    .started(),
    Rule::seen(
        PINNING,
        "memory.two-vms",
        "Pages of a VM that runs are EINVAL at the START of another.",
        two_vms,
    )
    .started(),
    Rule::inferred(
        NEWER,
        "memory.two-vms-newer",
        "A devicetree in pages of a VM that runs is EINVAL at the START of another.",
        two_vms,
    )
    .started(),
    Rule::seen(
        PINNING,
        "memory.further",
        "A further region that the devicetree does not name starts.",
        further,
    )
    .started(),
    Rule::seen(
        PINNING,
        "memory.further-named",
        "A further region with a shm vdevice of its label starts.",
        further_named,
    )
    .started(),
    Rule::seen(
        PINNING,
        "memory.main-is-the-devicetrees",
        "Main memory is the region with the devicetree, wherever it is among the regions.",
        main_is_last,
    )
    .started(),
    Rule::seen(
        PINNING,
        "memory.base-unequal",
        "The guest address of the call is not compared with the devicetree's base-address.",
        base_unequal,
    )
    .started(),
    Rule::seen(
        GUNYAH,
        "memory.base-rounded",
        "A base-address that is page aligned but not 2 MiB aligned starts.",
        base_rounded,
    )
    .started(),
    Rule::seen(
        PINNING,
        "memory.base-unaligned",
        "A base-address that is not page aligned is EINVAL at START.",
        base_unaligned,
    )
    .started(),
    Rule::seen(
        PINNING,
        "memory.base-taken",
        "On QEMU a base-address below 0x40000000, or that one, is ENODEV at START.",
        base_taken,
    )
    .started(),
    Rule::seen(
        PINNING,
        "memory.base-beyond",
        "On QEMU a base-address beyond 36 bits is EINVAL at START.",
        base_beyond,
    )
    .started(),
    Rule::seen(
        PINNING,
        "memory.hugetlb",
        "Main memory of a huge page starts.",
        hugetlb,
    )
    .started(),
    Rule::seen_newer(
        NEWER,
        "memory.hugetlb-newer",
        "Main memory of huge pages starts; the first fault outside the devicetree's own fails with EIO.",
        hugetlb_newer,
    )
    .started(),
    Rule::read(
        NEWER,
        "memory.flags-newer",
        "The devicetree's memory is readable, writable and executable, else START is ENODEV.",
        flags_newer,
    )
    .started(),
    Rule::read(
        NEWER,
        "memory.base-newer",
        "The devicetree's base-address has no effect: where the devicetree is registered counts.",
        base_newer,
    )
    .started(),
    Rule::read(
        NEWER,
        "memory.label-newer",
        "A fixed range in /reserved-memory with qcom,label has no parcel: START is ENODEV.",
        labelled,
    )
    .started(),
    Rule::inferred(
        NEWER,
        "memory.newer-records",
        "A further region only records: the same pages again, or no permissions, do not keep START \
         from success.",
        records_only,
    )
    .started(),
    Rule::seen_newer(
        NEWER,
        "memory.newer-shared",
        "Shared main memory starts and cannot run: VCPU_RUN is EINVAL, or a fault with ENODEV.",
        shared_newer,
    )
    .started(),
    Rule::read(
        NEWER,
        "memory.newer-unmapped",
        "Memory that is unmapped after START is not available to the guest: its fault fails with EFAULT.",
        unmapped,
    )
    .started(),
];

/// On newer drivers: what only START of the whole, or the guest's faults, can tell.
fn records_only(bench: &Bench) -> Found {
    let made = Guest::new(bench).make(bench)?;
    let again = succeeds("mmap", made.memory.again())?;
    let region = Region {
        label: MAIN_LABEL + 1,
        flags: 0,
        guest: FURTHER,
        size: again.map.size(),
        user: again.map.address(),
    };
    let answer = made.vm.region(bench.main_memory_call(), &region);
    succeeds("a region without permissions", answer)?;
    succeeds("START", made.vm.start()).map(drop)
}

fn shared_newer(bench: &Bench) -> Found {
    let guest =
        Guest { call: uapi::SET_USER_MEM_REGION, ..Guest::running(bench, Code::new().off()) };
    let made = guest.make(bench)?;
    match made.vm.start() {
        Ok(_) => {}
        Err(Errno(libc::ENODEV)) => return skip("shared main memory is refused here"),
        Err(errno) => return differs(format!("START: {errno}, expected success")),
    }
    let (vcpu, page) = &made.vcpus[0];
    match crate::guest::run_until_exit(vcpu, page, bench.patience) {
        Err(Errno(libc::EINVAL)) => Ok(()),
        Err(errno) => differs(format!("VCPU_RUN: {errno}, expected EINVAL")),
        Ok(_) => match Exit::read(page) {
            Exit::Fault { attempt } if attempt == -libc::ENODEV => Ok(()),
            other => differs(format!("{other}, expected a fault with ENODEV")),
        },
    }
}

fn flags_newer(bench: &Bench) -> Found {
    for flags in [uapi::READ | uapi::WRITE, uapi::READ | uapi::EXEC] {
        let guest = Guest { flags, ..Guest::new(bench) };
        fails(format!("START with flags {flags}"), guest.try_start(bench)?, &[libc::ENODEV])?;
    }
    Ok(())
}

fn base_newer(bench: &Bench) -> Found {
    for base in [FURTHER, 0x1000, 1 << 36] {
        let answer = based(bench, base, BASE).try_start(bench)?;
        succeeds(format!("START at {base:#x}"), answer)?;
    }
    Ok(())
}

fn labelled(bench: &Bench) -> Found {
    let mut guest = Guest::new(bench);
    let buffer = Node::new("buffer@9000000")
        .with("reg", [FURTHER, pages(4)].map(tree::address).concat())
        .with("qcom,label", tree::cells(&[7]));
    let reserved = Node::new("reserved-memory")
        .with("#address-cells", tree::cells(&[2]))
        .with("#size-cells", tree::cells(&[2]))
        .child(buffer);
    guest.tree.children.push(reserved);
    fails("START", guest.try_start(bench)?, &[libc::ENODEV])
}

fn unmapped(bench: &Bench) -> Found {
    let mut made = Guest::new(bench).start(bench)?;
    made.memory.map.cut(0);
    faults(bench, &made, libc::EFAULT)
}

/// The guest's first instruction is a fault, which fails with this: as an exit or as an answer.
pub fn faults(bench: &Bench, made: &Made, errno: i32) -> Found {
    let wanted = Errno(errno);
    match crate::guest::run_until_exit(&made.vcpus[0].0, &made.vcpus[0].1, bench.patience) {
        Err(got) if got == wanted => Ok(()),
        Err(got) => differs(format!("VCPU_RUN: {got}, expected {wanted}")),
        Ok(false) => differs(format!("the guest runs, expected a fault with {wanted}")),
        Ok(true) => match Exit::read(&made.vcpus[0].1) {
            Exit::Fault { attempt } if attempt == -errno => Ok(()),
            other => differs(format!("{other}, expected a fault with {wanted}")),
        },
    }
}

fn lent(bench: &Bench) -> Found {
    let guest = Guest { call: uapi::LEND_USER_MEM, ..Guest::new(bench) };
    succeeds("START", guest.try_start(bench)?).map(drop)
}

fn shared(bench: &Bench) -> Found {
    let guest = Guest { call: uapi::SET_USER_MEM_REGION, ..Guest::new(bench) };
    match guest.try_start(bench)? {
        Ok(_) | Err(Errno(libc::ENODEV)) => Ok(()),
        Err(errno) => differs(format!("START: {errno}, expected success or ENODEV")),
    }
}

fn no_permissions(bench: &Bench) -> Found {
    let guest = Guest { flags: 0, ..Guest::new(bench) };
    fails("START", guest.try_start(bench)?, &[libc::EINVAL])
}

fn three_pages(bench: &Bench) -> Found {
    let guest =
        Guest { pages: 3, dtb_at: pages(1), dtb: (BASE + pages(1), pages(2)), ..Guest::new(bench) };
    succeeds("START", guest.try_start(bench)?).map(drop)
}

/// Where a further region is for the call.
const FURTHER: u64 = 0x9000_0000;

fn register_further(bench: &Bench, made: &Made, memory: &Memory) -> Found {
    let region = Region {
        label: MAIN_LABEL + 1,
        flags: uapi::READ | uapi::WRITE,
        guest: FURTHER,
        size: memory.map.size(),
        user: memory.map.address(),
    };
    let answer = made.vm.region(bench.main_memory_call(), &region);
    succeeds("a further region", answer).map(drop)
}

fn twice(bench: &Bench) -> Found {
    let made = Guest::new(bench).make(bench)?;
    let again = succeeds("mmap", made.memory.again())?;
    register_further(bench, &made, &again)?;
    fails("START", made.vm.start(), &[libc::EINVAL])
}

/// A VM that has these pages and has tried to START. Newer drivers hand over the devicetree's pages
/// alone at START, and lent ones must not be written: there they are shared main memory.
pub fn claim(bench: &Bench, memory: &Memory) -> Found<(Made, Result<i32, Errno>)> {
    let made = if bench.is(PINNING) {
        let made = Guest::new(bench).make(bench)?;
        register_further(bench, &made, memory)?;
        made
    } else {
        let guest = Guest { call: uapi::SET_USER_MEM_REGION, ..Guest::new(bench) };
        guest.make_in(bench, succeeds("mmap", memory.again())?)?
    };
    let answer = made.vm.start();
    Ok((made, answer))
}

/// Pages that a VM which runs has.
pub fn claimed(bench: &Bench, memory: &Memory) -> Found<Made> {
    match claim(bench, memory)? {
        (made, Ok(_)) => Ok(made),
        (_, Err(Errno(libc::ENODEV))) if !bench.is(PINNING) => {
            skip("shared main memory is refused here")
        }
        (_, Err(errno)) => differs(format!("START of the first VM: {errno}, expected success")),
    }
}

fn two_vms(bench: &Bench) -> Found {
    let memory = claimable()?;
    let _first = claimed(bench, &memory)?;
    let (_, answer) = claim(bench, &memory)?;
    fails("START of the second VM", answer, &[libc::EINVAL])
}

/// Pages that can be main memory.
pub fn claimable() -> Found<Memory> {
    succeeds("memfd", Memory::base_pages(crate::guest::MAIN_PAGES))
}

fn further(bench: &Bench) -> Found {
    let made = Guest::new(bench).make(bench)?;
    let memory = succeeds("memfd", Memory::base_pages(4))?;
    register_further(bench, &made, &memory)?;
    succeeds("START", made.vm.start()).map(drop)
}

fn further_named(bench: &Bench) -> Found {
    let mut guest = Guest::new(bench);
    let label = tree::cells(&[MAIN_LABEL + 1]);
    let device = Node::new("shm-2")
        .with("vdevice-type", tree::strings(&["shm"]))
        .with("generate", tree::strings(&["/hypervisor/shm-2"]))
        .with("label", label.clone())
        .with("peer-default", [])
        .child(
            Node::new("memory")
                .with("label", label)
                .with("#address-cells", tree::cells(&[2]))
                .with("base", tree::address(FURTHER)),
        );
    tree::config(&mut guest.tree).at("vdevices").children.push(device);
    let made = guest.make(bench)?;
    let memory = succeeds("memfd", Memory::base_pages(4))?;
    register_further(bench, &made, &memory)?;
    succeeds("START", made.vm.start()).map(drop)
}

fn main_is_last(bench: &Bench) -> Found {
    let vm = bench.vm()?;
    let first = succeeds("memfd", Memory::base_pages(4))?;
    let region = Region {
        label: 40,
        flags: uapi::RWX,
        guest: FURTHER,
        size: first.map.size(),
        user: first.map.address(),
    };
    succeeds("the first region", vm.region(bench.main_memory_call(), &region))?;
    let memory = claimable()?;
    let made = Guest::new(bench).make_of(vm, memory)?;
    succeeds("START", made.vm.start()).map(drop)
}

/// The good guest with another base-address in its devicetree, and by the call another address.
fn based(bench: &Bench, base: u64, guest: u64) -> Guest {
    let mut good = Guest::new(bench);
    tree::config(&mut good.tree).at("memory").set("base-address", tree::address(base));
    Guest { guest, dtb: (guest + good.dtb_at, good.dtb.1), pc: good.pc.map(|_| guest), ..good }
}

fn base_unequal(bench: &Bench) -> Found {
    let guest = based(bench, BASE, FURTHER);
    succeeds("START", guest.try_start(bench)?).map(drop)
}

fn base_rounded(bench: &Bench) -> Found {
    let odd = BASE + pages(1);
    succeeds("START", based(bench, odd, odd).try_start(bench)?).map(drop)
}

fn base_unaligned(bench: &Bench) -> Found {
    let guest = based(bench, BASE + 0x200, BASE);
    fails("START", guest.try_start(bench)?, &[libc::EINVAL])
}

/// These are of the platform, not of the driver: QEMU's host says so in its devicetree, and a host
/// of another architecture can only be simulating that one.
fn only_on_qemu() -> Found {
    let path = Path::new("/proc/device-tree/compatible");
    let compatible = std::fs::read(path).unwrap_or_default();
    let qemu = compatible.split(|byte| *byte == 0).any(|name| name == b"linux,dummy-virt");
    if qemu || cfg!(not(target_arch = "aarch64")) {
        Ok(())
    } else {
        skip("this host is not QEMU's")
    }
}

fn base_taken(bench: &Bench) -> Found {
    only_on_qemu()?;
    for base in [0x2000_0000, 0x4000_0000] {
        let answer = based(bench, base, base).try_start(bench)?;
        fails(format!("START at {base:#x}"), answer, &[libc::ENODEV])?;
    }
    Ok(())
}

fn base_beyond(bench: &Bench) -> Found {
    only_on_qemu()?;
    let base = 1 << 36;
    let answer = based(bench, base, base).try_start(bench)?;
    fails("START", answer, &[libc::EINVAL])
}

fn huge_page() -> Found<Memory> {
    Memory::huge_page().or_else(|_| skip("no huge page is free"))
}

fn hugetlb(bench: &Bench) -> Found {
    let made = Guest::new(bench).make_in(bench, huge_page()?)?;
    succeeds("START", made.vm.start()).map(drop)
}

fn hugetlb_newer(bench: &Bench) -> Found {
    let Ok(memory) = Memory::huge_pages(2) else {
        return skip("two huge pages are not free");
    };
    let second = memory.map.size() / 2;
    let good = Guest::new(bench);
    let range = match bench.dialect {
        // The host panics at a part of a folio.
        Dialect::Ack66Early => second,
        _ => good.dtb.1,
    };
    let guest = Guest {
        // At the folio's beginning, where 6.12 looks for it.
        dtb_at: 0,
        dtb: (BASE, range),
        pc: Some(BASE + second),
        ..good
    };
    let made = guest.make_in(bench, memory)?;
    succeeds("START", made.vm.start())?;
    faults(bench, &made, libc::EIO)
}
