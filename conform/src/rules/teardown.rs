// SPDX-License-Identifier: Apache-2.0
//! The last close ends a VM and gives everything back; nothing else does.
//!
//! Two things show from outside whether a VM is still there: its pages count as locked memory of the
//! process that made it (drivers that pin), and no other VM can START with them.

use std::time::Duration;

use crate::bench::Bench;
use crate::device::Vm;
use crate::dialect::{GUNYAH, PINNING, PINNING_FUNCTIONS};
use crate::errno::Errno;
use crate::memory::Memory;
use crate::process::{self, eventually, fork};
use crate::rule::Rule;
use crate::verdict::{differs, fails, succeeds, Finding, Found};

use super::main_memory::{claim, claimable, claimed};
use super::memlock::{register, under_limit, LIMIT};

pub const RULES: &[Rule] = &[
    Rule::read(PINNING, "teardown.duplicate", "A second descriptor of a VM holds it.", duplicate),
    Rule::read(
        PINNING,
        "teardown.child",
        "A forked child's copy of the descriptor holds it.",
        child,
    ),
    Rule::seen(PINNING_FUNCTIONS, "teardown.vcpu", "A vCPU's descriptor holds its VM.", vcpu),
    Rule::read(
        PINNING_FUNCTIONS,
        "teardown.page",
        "A mapping of a vCPU's page holds the VM.",
        page,
    ),
    Rule::read(
        GUNYAH,
        "teardown.running",
        "The last close of a VM that runs stops it and gives its pages back.",
        running,
    )
    .started(),
    Rule::seen(GUNYAH, "teardown.killed", "SIGKILL of its process does the same.", killed)
        .started(),
    Rule::read(
        GUNYAH,
        "teardown.orphan",
        "A VM whose maker ended lives on while a forked child has its descriptor.",
        orphan,
    )
    .started(),
    Rule::seen(
        GUNYAH,
        "teardown.start-again",
        "One VM after the other starts, each right after the last close of the one before.",
        start_again,
    )
    .started(),
];

/// How long something must go on to be taken for lasting.
const A_WHILE: Duration = Duration::from_millis(100);

/// What `hold` makes of a VM holds it, and nothing else does: its pages are all that the limit allows,
/// so a second VM can have none as long as they count.
fn holds<T>(bench: &Bench, by: &str, hold: impl FnOnce(Vm) -> Found<T>) -> Found {
    under_limit()?;
    let memory = succeeds("memfd", Memory::base_pages(LIMIT))?;
    let (first, second) = (bench.vm()?, bench.vm()?);
    let user = memory.map.address();
    succeeds("the first VM", register(bench, &first, 1, user, LIMIT))?;
    let holder = hold(first)?;
    let try_second = || register(bench, &second, 1, user, LIMIT);
    let meanwhile = eventually(A_WHILE, try_second);
    fails(format!("a second VM while {by} is there"), meanwhile, &[libc::ENOMEM])?;
    drop(holder);
    let later = eventually(bench.give_back, try_second);
    succeeds("a second VM after the last close", later).map(drop)
}

fn duplicate(bench: &Bench) -> Found {
    holds(bench, "a second descriptor", |vm| succeeds("dup", vm.duplicate()))
}

fn child(bench: &Bench) -> Found {
    holds(bench, "a child's descriptor", |vm| {
        let child = fork(|mut socket| process::await_parent(&mut socket));
        drop(vm);
        succeeds("fork", child)
    })
}

fn vcpu(bench: &Bench) -> Found {
    holds(bench, "a vCPU's descriptor", |vm| succeeds("vCPU", vm.vcpu(0)))
}

fn page(bench: &Bench) -> Found {
    holds(bench, "the page's mapping", |vm| {
        let vcpu = succeeds("vCPU", vm.vcpu(0))?;
        succeeds("mmap", vcpu.map(1))
    })
}

/// START with the pages: EINVAL for as long as another VM has them.
fn try_claim(bench: &Bench, memory: &Memory, patience: Duration) -> Found<Result<(), Errno>> {
    let mut trouble = None;
    let answer = eventually(patience, || match claim(bench, memory) {
        Ok((_, answer)) => answer.map(drop),
        Err(finding) => {
            trouble = Some(finding);
            Err(Errno(0))
        }
    });
    match trouble {
        Some(finding) => Err(finding),
        None => Ok(answer),
    }
}

fn given_back(bench: &Bench, memory: &Memory) -> Found {
    let answer = try_claim(bench, memory, bench.give_back)?;
    succeeds("START of another VM after the last close", answer)
}

fn still_held(bench: &Bench, memory: &Memory) -> Found {
    let answer = try_claim(bench, memory, A_WHILE)?;
    fails("START of another VM meanwhile", answer, &[libc::EINVAL])
}

fn running(bench: &Bench) -> Found {
    let memory = claimable()?;
    let first = claimed(bench, &memory)?;
    still_held(bench, &memory)?;
    drop(first);
    given_back(bench, &memory)
}

/// What a child tells of its VM.
const RUNS: u8 = 1;
const REFUSED: u8 = 2;
const SKIPPED: u8 = 3;

fn told<T>(found: &Found<T>) -> u8 {
    match found {
        Ok(_) => RUNS,
        Err(Finding::Differs(_)) => REFUSED,
        Err(Finding::Skipped(_)) => SKIPPED,
    }
}

fn expect_running(byte: Option<u8>) -> Found {
    match byte {
        Some(RUNS) => Ok(()),
        Some(SKIPPED) => crate::verdict::skip("shared main memory is refused here"),
        _ => differs("the child's VM did not start"),
    }
}

fn killed(bench: &Bench) -> Found {
    let memory = claimable()?;
    let maker = fork(|mut socket| {
        let vm = claimed(bench, &memory);
        process::report(&mut socket, told(&vm));
        process::await_parent(&mut socket);
    });
    let mut maker = succeeds("fork", maker)?;
    expect_running(maker.byte())?;
    still_held(bench, &memory)?;
    maker.kill();
    maker.wait();
    given_back(bench, &memory)
}

fn orphan(bench: &Bench) -> Found {
    let memory = claimable()?;
    let maker = fork(|mut socket| {
        let vm = claimed(bench, &memory);
        let heir = socket.try_clone();
        let holder = fork(move |_| {
            if let Ok(mut heir) = heir {
                process::await_parent(&mut heir);
            }
        });
        process::report(&mut socket, told(&vm));
        // The maker ends without taking its child along.
        std::mem::forget(holder);
    });
    let mut maker = succeeds("fork", maker)?;
    expect_running(maker.byte())?;
    let mut heir = match maker.socket.try_clone() {
        Ok(heir) => heir,
        Err(error) => return differs(format!("dup: {error}")),
    };
    maker.wait();
    still_held(bench, &memory)?;
    process::report(&mut heir, 0);
    given_back(bench, &memory)
}

fn start_again(bench: &Bench) -> Found {
    for round in 0..4 {
        let guest = crate::guest::Guest::new(bench);
        let made = guest.make(bench)?;
        succeeds(format!("START {round}"), made.vm.start())?;
    }
    Ok(())
}
