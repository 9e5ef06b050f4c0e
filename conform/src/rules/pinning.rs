// SPDX-License-Identifier: Apache-2.0
//! What the memory calls do with the pages: older drivers pin them, newer ones only take note.

use crate::bench::Bench;
use crate::device::Answer;
use crate::dialect::{NEWER, PINNING};
use crate::guest::BASE;
use crate::memory::{page_size, Mapping, Memory};
use crate::rule::Rule;
use crate::uapi::{self, Region};
use crate::verdict::{differs, fails, succeeds, Found};

use super::regions::each;

pub const RULES: &[Rule] = &[
    Rule::read(
        PINNING,
        "region.hole",
        "Memory that is not mapped, whole or in part, is EFAULT.",
        hole,
    ),
    Rule::read(
        PINNING,
        "region.read-only",
        "Memory that the caller may not write is EFAULT where the guest may write.",
        read_only,
    ),
    Rule::read(
        PINNING,
        "region.failed-pin-leaves-nothing",
        "A region whose pages could not be pinned takes neither its label nor its range.",
        failed_pin_leaves_nothing,
    ),
    Rule::read(PINNING, "region.populates", "The call populates all pages.", populates),
    Rule::read(
        NEWER,
        "region.records",
        "The call only records: memory that is not mapped is accepted, and no page is made.",
        records,
    ),
];

fn hole(bench: &Bench) -> Found {
    each(bench, |name, register, region| {
        let mut memory = succeeds("mmap", Mapping::anonymous(region.size, true))?;
        let holed = Region { user: memory.address(), ..region };
        memory.cut(page_size());
        fails(format!("{name}, in part"), register(&holed), &[libc::EFAULT])?;
        memory.cut(0);
        fails(format!("{name}, whole"), register(&holed), &[libc::EFAULT])
    })
}

fn read_only(bench: &Bench) -> Found {
    each(bench, |name, register, region| {
        let memory = succeeds("mmap", Mapping::anonymous(region.size, false))?;
        let unwritable = Region { user: memory.address(), ..region };
        fails(name, register(&unwritable), &[libc::EFAULT])
    })
}

fn failed_pin_leaves_nothing(bench: &Bench) -> Found {
    each(bench, |name, register, region| {
        let mut memory = succeeds("mmap", Mapping::anonymous(region.size, true))?;
        let holed = Region { user: memory.address(), ..region };
        memory.cut(page_size());
        fails(name, register(&holed), &[libc::EFAULT])?;
        succeeds(format!("{name}, the same but good"), register(&region)).map(drop)
    })
}

fn populates(bench: &Bench) -> Found {
    for (name, call) in bench.memory_calls() {
        let (memory, answer) = fresh(bench, *call)?;
        succeeds(name, answer)?;
        let there = succeeds("fstat", memory.populated())?;
        if there != memory.map.size() {
            return differs(format!("{name}: {there} bytes of {} are there", memory.map.size()));
        }
    }
    Ok(())
}

/// Pages that are not there yet, registered.
fn fresh(bench: &Bench, call: u32) -> Found<(Memory, Answer)> {
    let vm = bench.vm()?;
    let memory = succeeds("memfd", Memory::base_pages(8))?;
    let region = Region {
        label: 7,
        flags: uapi::RWX,
        guest: BASE,
        size: memory.map.size(),
        user: memory.map.address(),
    };
    let answer = vm.region(call, &region);
    Ok((memory, answer))
}

fn records(bench: &Bench) -> Found {
    for (name, call) in bench.memory_calls() {
        let (memory, answer) = fresh(bench, *call)?;
        succeeds(name, answer)?;
        let there = succeeds("fstat", memory.populated())?;
        if there != 0 {
            return differs(format!("{name}: {there} bytes are there, expected none"));
        }
    }
    each(bench, |name, register, region| {
        let mut memory = succeeds("mmap", Mapping::anonymous(region.size, true))?;
        let nowhere = Region { user: memory.address(), ..region };
        memory.cut(0);
        succeeds(format!("{name}, not mapped"), register(&nowhere)).map(drop)
    })
}
