// SPDX-License-Identifier: Apache-2.0
//! The process that made the VM is the one that gives it memory.

use std::os::unix::net::UnixStream;

use crate::bench::Bench;
use crate::device::Answer;
use crate::dialect::{ANDROID, FUNCTIONS, GUNYAH, NEWER, PINNING};
use crate::errno::Errno;
use crate::guest::{failing_run, Guest, BASE};
use crate::memory::pages;
use crate::process::{self, fork};
use crate::rule::Rule;
use crate::uapi::{self, Region};
use crate::verdict::{differs, fails, succeeds, Found};

pub const RULES: &[Rule] = &[
    Rule::read(
        GUNYAH,
        "creator.thread",
        "Any thread of the process that made the VM may give it memory.",
        thread,
    ),
    Rule::read(ANDROID, "creator.fork", "The memory calls of a forked child are EPERM.", forked),
    Rule::read(
        ANDROID,
        "creator.order",
        "That is checked first: EPERM even where the argument cannot be read.",
        forked_argument,
    ),
    Rule::read(
        FUNCTIONS,
        "creator.other-calls",
        "A forked child may make the calls that give no memory.",
        other_calls,
    ),
    Rule::read(
        PINNING,
        "creator.start",
        "START of a forked child succeeds where the pages are pinned already.",
        start,
    )
    .started(),
    Rule::read(NEWER, "creator.run", "VCPU_RUN of a forked child is EPERM.", run).started(),
];

fn region(user: u64) -> Region {
    Region { label: 90, flags: uapi::RWX, guest: BASE + pages(4096), size: pages(1), user }
}

/// What a call answers in a forked child.
fn in_child(call: impl FnOnce() -> Answer) -> Found<Answer> {
    let child = fork(|mut socket: UnixStream| {
        let errno = call().map_or_else(|errno| errno.0, |_| 0);
        process::report(&mut socket, u8::try_from(errno).unwrap_or(u8::MAX));
    });
    let mut child = succeeds("fork", child)?;
    match child.byte() {
        Some(0) => Ok(Ok(0)),
        Some(errno) => Ok(Err(Errno(errno.into()))),
        None => differs("the forked child died in the call"),
    }
}

fn thread(bench: &Bench) -> Found {
    let made = Guest::new(bench).make(bench)?;
    for (index, (name, call)) in (0..).zip(bench.memory_calls()) {
        let mut region = region(made.memory.map.address());
        region.label += index;
        region.guest += pages(u64::from(index));
        let vm = &made.vm;
        let answer =
            std::thread::scope(|scope| scope.spawn(move || vm.region(*call, &region)).join());
        match answer {
            Ok(answer) => succeeds(name, answer)?,
            Err(_) => return differs("the thread died"),
        };
    }
    Ok(())
}

fn forked(bench: &Bench) -> Found {
    let made = Guest::new(bench).make(bench)?;
    for (name, call) in bench.memory_calls() {
        let region = region(made.memory.map.address());
        let answer = in_child(|| made.vm.region(*call, &region))?;
        fails(name, answer, &[libc::EPERM])?;
    }
    Ok(())
}

fn forked_argument(bench: &Bench) -> Found {
    let vm = bench.vm()?;
    for (name, call) in bench.memory_calls() {
        let answer = in_child(|| vm.call_number(*call, 8))?;
        fails(name, answer, &[libc::EPERM])?;
    }
    Ok(())
}

fn other_calls(bench: &Bench) -> Found {
    let vm = bench.vm()?;
    succeeds("SET_DTB_CONFIG", in_child(|| vm.dtb(BASE, pages(1)))?)?;
    let vcpu = in_child(|| vm.vcpu(0).map(|_| 0))?;
    succeeds("ADD_FUNCTION", vcpu).map(drop)
}

fn start(bench: &Bench) -> Found {
    let made = Guest::new(bench).make(bench)?;
    succeeds("START", in_child(|| made.vm.start())?)?;
    succeeds("START again by the maker", made.vm.start()).map(drop)
}

fn run(bench: &Bench) -> Found {
    let made = Guest::new(bench).start(bench)?;
    let answer = in_child(|| failing_run(&made.vcpus[0].0))?;
    fails("VCPU_RUN", answer, &[libc::EPERM])
}
