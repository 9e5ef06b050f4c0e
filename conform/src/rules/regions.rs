// SPDX-License-Identifier: Apache-2.0
//! The memory calls: what they check of their argument, in which order. Each is tried by every memory
//! call there is.

use crate::bench::Bench;
use crate::device::Answer;
use crate::dialect::{GUNYAH, NEWER, PINNING};
use crate::guest::{Guest, BASE};
use crate::memory::{page_size, pages, Mapping, Memory};
use crate::rule::Rule;
use crate::uapi::{self, Region};
use crate::verdict::{differs, fails, skip, succeeds, Found};

pub const RULES: &[Rule] = &[
    Rule::read(GUNYAH, "region.taken", "A good region is accepted: answer 0.", taken),
    Rule::read(GUNYAH, "region.argument", "An argument that cannot be read is EFAULT.", argument),
    Rule::read(GUNYAH, "region.size-zero", "Size 0 is EINVAL.", size_zero),
    Rule::read(
        GUNYAH,
        "region.size-unaligned",
        "A size that is not a multiple of the page is EINVAL.",
        size_unaligned,
    ),
    Rule::read(
        GUNYAH,
        "region.address-unaligned",
        "An address that is not page aligned is EINVAL.",
        address_unaligned,
    ),
    Rule::read(
        GUNYAH,
        "region.guest-unaligned",
        "A guest address that is not page aligned is EINVAL.",
        guest_unaligned,
    ),
    Rule::read(
        GUNYAH,
        "region.unknown-flags",
        "Any flag bit above the three permissions is EINVAL.",
        unknown_flags,
    ),
    Rule::seen(
        PINNING,
        "region.overflow",
        "A guest range that wraps is accepted: answer 0.",
        overflow_taken,
    ),
    Rule::seen_newer(
        NEWER,
        "region.overflow-newer",
        "A guest range that wraps is EINVAL.",
        overflow,
    ),
    Rule::read(
        GUNYAH,
        "region.order-flags",
        "Flags are checked before the range: unknown ones on a range that wraps are EINVAL.",
        order_flags,
    ),
    Rule::read(
        GUNYAH,
        "region.order-alignment",
        "Alignment is checked before the range: EINVAL where both are wrong.",
        order_alignment,
    ),
    Rule::seen(
        PINNING,
        "region.order-overflow",
        "A label used twice is EEXIST, though the range wraps.",
        order_overflow,
    ),
    Rule::read(
        NEWER,
        "region.order-overlap-newer",
        "An overlap is EEXIST, though the range wraps.",
        order_overlap,
    ),
    Rule::read(PINNING, "region.label-twice", "A label used twice is EEXIST.", label_twice),
    Rule::seen_newer(
        NEWER,
        "region.label-twice-newer",
        "Labels are not compared: one used twice is accepted.",
        label_twice_taken,
    ),
    Rule::read(
        GUNYAH,
        "region.overlap",
        "Guest ranges that overlap are EEXIST: the same, inside, around, at either end.",
        overlap,
    ),
    Rule::read(GUNYAH, "region.neighbours", "Guest ranges that touch are accepted.", neighbours),
    Rule::read(GUNYAH, "region.any-label", "Any 32-bit label is accepted.", any_label),
    Rule::read(
        GUNYAH,
        "region.refused-leaves-nothing",
        "A region that was refused takes neither its label nor its range.",
        refused_leaves_nothing,
    ),
    Rule::seen(
        GUNYAH,
        "region.no-permissions",
        "No permission at all is accepted by the call.",
        no_permissions,
    ),
    Rule::read(GUNYAH, "region.anonymous", "Private anonymous memory is accepted.", anonymous),
    Rule::seen(GUNYAH, "region.hugetlb", "Huge pages are accepted by the call.", hugetlb),
    Rule::seen(GUNYAH, "region.many", "A VM may have many regions: 32 are accepted.", many),
    Rule::read(
        GUNYAH,
        "region.after-start",
        "The call is accepted after START as well.",
        after_start,
    )
    .started(),
];

/// A VM, memory and a region of it that would be good, for each memory call.
pub(super) fn each(
    bench: &Bench,
    check: impl Fn(&str, &dyn Fn(&Region) -> Answer, Region) -> Found,
) -> Found {
    for (name, call) in bench.memory_calls() {
        let vm = bench.vm()?;
        let memory = succeeds("memfd", Memory::base_pages(8))?;
        let region = Region {
            label: 7,
            flags: uapi::RWX,
            guest: BASE,
            size: pages(4),
            user: memory.map.address(),
        };
        check(name, &|region| vm.region(*call, region), region)?;
    }
    Ok(())
}

/// Each call refuses the region that `spoil` makes of a good one.
fn refused(bench: &Bench, wanted: i32, spoil: impl Fn(&mut Region)) -> Found {
    each(bench, |name, register, mut region| {
        spoil(&mut region);
        fails(format!("{name} {region:x?}"), register(&region), &[wanted])
    })
}

fn taken(bench: &Bench) -> Found {
    each(bench, |name, register, region| match succeeds(name, register(&region))? {
        0 => Ok(()),
        other => differs(format!("{name}: answer {other}, expected 0")),
    })
}

fn argument(bench: &Bench) -> Found {
    for (name, call) in bench.memory_calls() {
        let vm = bench.vm()?;
        for address in [0, 8] {
            let answer = vm.call_number(*call, address);
            fails(format!("{name} at {address:#x}"), answer, &[libc::EFAULT])?;
        }
    }
    Ok(())
}

fn size_zero(bench: &Bench) -> Found {
    refused(bench, libc::EINVAL, |region| region.size = 0)
}

fn size_unaligned(bench: &Bench) -> Found {
    refused(bench, libc::EINVAL, |region| region.size += 1)?;
    refused(bench, libc::EINVAL, |region| region.size = pages(1) / 2)
}

fn address_unaligned(bench: &Bench) -> Found {
    refused(bench, libc::EINVAL, |region| region.user += 8)
}

fn guest_unaligned(bench: &Bench) -> Found {
    refused(bench, libc::EINVAL, |region| region.guest += 0x200)
}

fn unknown_flags(bench: &Bench) -> Found {
    for bit in 3..32 {
        refused(bench, libc::EINVAL, |region| region.flags |= 1 << bit)?;
    }
    Ok(())
}

/// The last page boundary: a region of two pages there wraps.
fn last_page() -> u64 {
    u64::MAX - (page_size() as u64 - 1)
}

fn wraps(region: &mut Region) {
    region.guest = last_page();
    region.size = pages(2);
}

fn overflow(bench: &Bench) -> Found {
    refused(bench, libc::EINVAL, wraps)
}

fn overflow_taken(bench: &Bench) -> Found {
    each(bench, |name, register, mut region| {
        wraps(&mut region);
        succeeds(name, register(&region)).map(drop)
    })
}

fn order_flags(bench: &Bench) -> Found {
    refused(bench, libc::EINVAL, |region| {
        region.flags |= 8;
        region.guest = last_page();
        region.size = pages(2);
    })
}

fn order_alignment(bench: &Bench) -> Found {
    refused(bench, libc::EINVAL, |region| {
        region.guest = last_page();
        region.size = pages(2);
        region.user += 8;
    })
}

fn order_overflow(bench: &Bench) -> Found {
    each(bench, |name, register, region| {
        succeeds(name, register(&region))?;
        let mut again = region;
        wraps(&mut again);
        fails(name, register(&again), &[libc::EEXIST])
    })
}

fn order_overlap(bench: &Bench) -> Found {
    each(bench, |name, register, region| {
        let high = Region { guest: last_page() - pages(4), ..region };
        succeeds(name, register(&high))?;
        let again = Region { guest: last_page() - pages(1), ..region };
        fails(name, register(&again), &[libc::EEXIST])
    })
}

/// The good region and a second one with its label.
fn twice(region: Region) -> Region {
    Region { guest: BASE + pages(16), ..region }
}

fn label_twice(bench: &Bench) -> Found {
    each(bench, |name, register, region| {
        succeeds(name, register(&region))?;
        fails(name, register(&twice(region)), &[libc::EEXIST])
    })
}

fn label_twice_taken(bench: &Bench) -> Found {
    each(bench, |name, register, region| {
        succeeds(name, register(&region))?;
        succeeds(name, register(&twice(region))).map(drop)
    })
}

fn overlap(bench: &Bench) -> Found {
    each(bench, |name, register, region| {
        succeeds(name, register(&region))?;
        let (first, count) = (region.guest, region.size);
        for (what, guest, size) in [
            ("the same", first, count),
            ("inside", first + pages(1), pages(1)),
            ("around", first - pages(1), count + pages(2)),
            ("over its beginning", first - pages(1), pages(2)),
            ("over its end", first + count - pages(1), pages(2)),
        ] {
            let other = Region { label: 8, guest, size, ..region };
            fails(format!("{name}, {what}"), register(&other), &[libc::EEXIST])?;
        }
        Ok(())
    })
}

fn neighbours(bench: &Bench) -> Found {
    each(bench, |name, register, region| {
        succeeds(name, register(&region))?;
        for (label, guest) in [(8, region.guest - pages(1)), (9, region.guest + region.size)] {
            let other =
                Region { label, guest, size: pages(1), user: region.user + pages(4), ..region };
            succeeds(format!("{name} at {guest:#x}"), register(&other))?;
        }
        Ok(())
    })
}

fn any_label(bench: &Bench) -> Found {
    each(bench, |name, register, region| {
        for (place, label) in (0..).zip([0, 0x8000_0000, u32::MAX]) {
            let other = Region {
                label,
                guest: BASE + pages(place),
                size: pages(1),
                user: region.user + pages(place),
                ..region
            };
            succeeds(format!("{name}, label {label:#x}"), register(&other))?;
        }
        Ok(())
    })
}

fn refused_leaves_nothing(bench: &Bench) -> Found {
    each(bench, |name, register, region| {
        let unknown = Region { flags: 8, ..region };
        fails(name, register(&unknown), &[libc::EINVAL])?;
        succeeds(format!("{name}, the same but good"), register(&region))?;
        let overlapping = Region { label: 8, guest: region.guest + pages(3), ..region };
        fails(name, register(&overlapping), &[libc::EEXIST])?;
        let behind = Region { guest: region.guest + region.size, ..overlapping };
        succeeds(format!("{name}, the refused label"), register(&behind)).map(drop)
    })
}

fn no_permissions(bench: &Bench) -> Found {
    each(bench, |name, register, region| {
        let none = Region { flags: 0, ..region };
        succeeds(name, register(&none)).map(drop)
    })
}

fn anonymous(bench: &Bench) -> Found {
    each(bench, |name, register, region| {
        let memory = succeeds("mmap", Mapping::anonymous(region.size, true))?;
        let private = Region { user: memory.address(), ..region };
        succeeds(name, register(&private)).map(drop)
    })
}

fn hugetlb(bench: &Bench) -> Found {
    let Ok(memory) = Memory::huge_page() else {
        return skip("no huge page is free");
    };
    each(bench, |name, register, region| {
        let huge = Region { size: memory.map.size(), user: memory.map.address(), ..region };
        succeeds(name, register(&huge)).map(drop)
    })
}

fn many(bench: &Bench) -> Found {
    each(bench, |name, register, region| {
        let memory = succeeds("memfd", Memory::base_pages(32))?;
        for (label, place) in (0..32).zip(0..) {
            let one = Region {
                label,
                guest: BASE + pages(2 * place),
                size: pages(1),
                user: memory.map.address() + pages(place),
                ..region
            };
            succeeds(format!("{name}, region {label}"), register(&one))?;
        }
        Ok(())
    })
}

fn after_start(bench: &Bench) -> Found {
    let made = Guest::new(bench).start(bench)?;
    for ((name, call), label) in bench.memory_calls().iter().zip(50..) {
        let memory = succeeds("memfd", Memory::base_pages(2))?;
        let region = Region {
            label,
            flags: uapi::RWX,
            guest: BASE + u64::from(label) * pages(64),
            size: memory.map.size(),
            user: memory.map.address(),
        };
        succeeds(name, made.vm.region(*call, &region))?;
    }
    Ok(())
}
