// SPDX-License-Identifier: Apache-2.0
//! irqfds and ioeventfds.

use std::os::fd::{AsRawFd, OwnedFd};

use crate::bench::Bench;
use crate::device::{self, Answer, Vm};
use crate::dialect::{FUNCTIONS, NEWER, PINNING_FUNCTIONS};
use crate::guest::Guest;
use crate::rule::{Rule, Source};
use crate::tree::BELL;
use crate::uapi::{Ioeventfd, Irqfd, IOEVENTFD, IOEVENTFD_DATAMATCH, IRQFD, IRQFD_LEVEL};
use crate::verdict::{fails, succeeds, Found};

pub const RULES: &[Rule] = &[
    Rule::read(
        FUNCTIONS,
        "irqfd.taken",
        "An irqfd is accepted, edge or level: answer 0.",
        irqfd_taken,
    ),
    Rule::read(FUNCTIONS, "irqfd.flags", "Any flag but LEVEL is EINVAL.", irqfd_flags),
    Rule::read(
        FUNCTIONS,
        "irqfd.no-descriptor",
        "A descriptor that is not open is EBADF.",
        irqfd_no_descriptor,
    ),
    Rule::read(
        FUNCTIONS,
        "irqfd.no-eventfd",
        "A descriptor that is not an eventfd is EINVAL.",
        irqfd_no_eventfd,
    ),
    Rule::read(
        FUNCTIONS,
        "irqfd.order",
        "Flags are checked before the descriptor: EINVAL where both are wrong.",
        irqfd_order,
    ),
    Rule::read(FUNCTIONS, "irqfd.label-twice", "A label used twice is EEXIST.", irqfd_label_twice),
    Rule::read(
        FUNCTIONS,
        "irqfd.eventfd-twice",
        "One eventfd may serve two labels.",
        irqfd_eventfd_twice,
    ),
    Rule::seen(
        FUNCTIONS,
        "irqfd.unknown-label",
        "A label that no doorbell has is accepted silently.",
        irqfd_unknown_label,
    ),
    Rule::read(
        FUNCTIONS,
        "irqfd.closed",
        "The eventfd may be closed afterwards: the label stays used.",
        irqfd_closed,
    ),
    Rule::read(
        PINNING_FUNCTIONS,
        "irqfd.removed",
        "Removing goes by the label; then it is free again.",
        irqfd_removed,
    )
    .dangerous("closing the eventfd of one that never had its doorbell hangs a CPU of the host"),
    Rule::read(
        NEWER,
        "irqfd.removed-newer",
        "Removing goes by the label; then it is free again.",
        irqfd_removed,
    ),
    Rule::read(
        FUNCTIONS,
        "irqfd.after-start",
        "Both are accepted after START as well.",
        after_start,
    )
    .started(),
    Rule::read(
        FUNCTIONS,
        "ioeventfd.taken",
        "Lengths 0, 1, 2, 4 and 8 are accepted: answer 0.",
        io_taken,
    ),
    Rule::read(FUNCTIONS, "ioeventfd.length", "Any other length is EINVAL.", io_length),
    Rule::read(FUNCTIONS, "ioeventfd.flags", "Any flag but DATAMATCH is EINVAL.", io_flags),
    Rule::read(
        FUNCTIONS,
        "ioeventfd.match-length",
        "DATAMATCH without a length is EINVAL.",
        io_match_length,
    ),
    Rule::seen(FUNCTIONS, "ioeventfd.overflow", "A range that wraps is accepted.", io_overflow)
        .newer(Source::Read),
    Rule::read(
        FUNCTIONS,
        "ioeventfd.no-descriptor",
        "A descriptor that is not open is EBADF.",
        io_no_descriptor,
    ),
    Rule::read(
        FUNCTIONS,
        "ioeventfd.no-eventfd",
        "A descriptor that is not an eventfd is EINVAL.",
        io_no_eventfd,
    ),
    Rule::read(
        FUNCTIONS,
        "ioeventfd.order",
        "Length and flags are checked before the descriptor: EINVAL where both are wrong.",
        io_order,
    ),
    Rule::read(
        FUNCTIONS,
        "ioeventfd.twice",
        "The same address and length again is EEXIST.",
        io_twice,
    ),
    Rule::read(
        FUNCTIONS,
        "ioeventfd.any-value",
        "One without DATAMATCH has its address alone: others there are EEXIST, whatever their \
         length or value.",
        io_any_value,
    ),
    Rule::read(
        FUNCTIONS,
        "ioeventfd.values",
        "Two of one address and length with values of their own are accepted.",
        io_values,
    ),
    Rule::read(
        FUNCTIONS,
        "ioeventfd.removed",
        "One that was removed is gone: removing again is ENOENT, adding again is accepted.",
        io_removed,
    ),
    Rule::read(
        NEWER,
        "ioeventfd.remove-match",
        "Removing goes by address, length, flags and value.",
        io_remove_match,
    ),
];

fn eventfd() -> Found<OwnedFd> {
    succeeds("eventfd", device::eventfd())
}

fn irqfd(eventfd: &OwnedFd, label: u32) -> Irqfd {
    Irqfd {
        fd: u32::try_from(eventfd.as_raw_fd()).unwrap_or(u32::MAX),
        label,
        flags: 0,
        padding: 0,
    }
}

fn add_irqfd(vm: &Vm, given: &Irqfd) -> Answer {
    vm.add(IRQFD, given)
}

fn irqfd_taken(bench: &Bench) -> Found {
    let (vm, event) = (bench.vm()?, eventfd()?);
    succeeds("edge", add_irqfd(&vm, &irqfd(&event, BELL)))?;
    let level = Irqfd { flags: IRQFD_LEVEL, ..irqfd(&event, BELL + 1) };
    succeeds("level", add_irqfd(&vm, &level)).map(drop)
}

fn irqfd_flags(bench: &Bench) -> Found {
    let (vm, event) = (bench.vm()?, eventfd()?);
    for bit in 1..32 {
        let given = Irqfd { flags: 1 << bit, ..irqfd(&event, BELL) };
        fails(format!("bit {bit}"), add_irqfd(&vm, &given), &[libc::EINVAL])?;
    }
    Ok(())
}

/// A number that no open descriptor has.
const NOT_OPEN: i32 = 1_000_000;

fn irqfd_no_descriptor(bench: &Bench) -> Found {
    let (vm, event) = (bench.vm()?, eventfd()?);
    let given = Irqfd { fd: NOT_OPEN.unsigned_abs(), ..irqfd(&event, BELL) };
    fails("irqfd", add_irqfd(&vm, &given), &[libc::EBADF])
}

fn irqfd_no_eventfd(bench: &Bench) -> Found {
    let vm = bench.vm()?;
    let other = succeeds("/dev/null", device::not_an_eventfd())?;
    fails("irqfd", add_irqfd(&vm, &irqfd(&other, BELL)), &[libc::EINVAL])
}

fn irqfd_order(bench: &Bench) -> Found {
    let (vm, event) = (bench.vm()?, eventfd()?);
    let given = Irqfd { fd: NOT_OPEN.unsigned_abs(), flags: 2, ..irqfd(&event, BELL) };
    fails("irqfd", add_irqfd(&vm, &given), &[libc::EINVAL])
}

fn irqfd_label_twice(bench: &Bench) -> Found {
    let (vm, first, second) = (bench.vm()?, eventfd()?, eventfd()?);
    succeeds("the first", add_irqfd(&vm, &irqfd(&first, BELL)))?;
    let again = add_irqfd(&vm, &irqfd(&second, BELL));
    fails("the second", again, &[libc::EEXIST])
}

fn irqfd_eventfd_twice(bench: &Bench) -> Found {
    let (vm, event) = (bench.vm()?, eventfd()?);
    succeeds("the first", add_irqfd(&vm, &irqfd(&event, BELL)))?;
    succeeds("the second", add_irqfd(&vm, &irqfd(&event, BELL + 1))).map(drop)
}

fn irqfd_unknown_label(bench: &Bench) -> Found {
    let (vm, event) = (bench.vm()?, eventfd()?);
    succeeds("irqfd", add_irqfd(&vm, &irqfd(&event, 0xdead))).map(drop)
}

fn irqfd_closed(bench: &Bench) -> Found {
    let (vm, event, other) = (bench.vm()?, eventfd()?, eventfd()?);
    succeeds("the first", add_irqfd(&vm, &irqfd(&event, BELL)))?;
    drop(event);
    let again = add_irqfd(&vm, &irqfd(&other, BELL));
    fails("the label again", again, &[libc::EEXIST])
}

fn irqfd_removed(bench: &Bench) -> Found {
    let (vm, event) = (bench.vm()?, eventfd()?);
    succeeds("add", add_irqfd(&vm, &irqfd(&event, BELL)))?;
    let by_label = Irqfd { fd: 0, flags: IRQFD_LEVEL, ..irqfd(&event, BELL) };
    succeeds("remove", vm.remove(IRQFD, &by_label))?;
    fails("remove again", vm.remove(IRQFD, &by_label), &[libc::ENOENT])?;
    succeeds("add again", add_irqfd(&vm, &irqfd(&event, BELL))).map(drop)
}

fn after_start(bench: &Bench) -> Found {
    let made = Guest::new(bench).start(bench)?;
    let event = eventfd()?;
    succeeds("irqfd", add_irqfd(&made.vm, &irqfd(&event, BELL)))?;
    succeeds("ioeventfd", add_io(&made.vm, &io(&event, 4))).map(drop)
}

/// Where the guest would write.
const ADDRESS: u64 = 0x0a00_0000;

fn io(eventfd: &OwnedFd, len: u32) -> Ioeventfd {
    Ioeventfd { datamatch: 0, address: ADDRESS, len, fd: eventfd.as_raw_fd(), flags: 0, padding: 0 }
}

fn matching(eventfd: &OwnedFd, value: u64) -> Ioeventfd {
    Ioeventfd { datamatch: value, flags: IOEVENTFD_DATAMATCH, ..io(eventfd, 4) }
}

fn add_io(vm: &Vm, given: &Ioeventfd) -> Answer {
    vm.add(IOEVENTFD, given)
}

fn io_taken(bench: &Bench) -> Found {
    let (vm, event) = (bench.vm()?, eventfd()?);
    for (place, len) in (0..).zip([0, 1, 2, 4, 8]) {
        let given = Ioeventfd { address: ADDRESS + place * 0x100, ..io(&event, len) };
        succeeds(format!("length {len}"), add_io(&vm, &given))?;
    }
    succeeds(
        "with a value",
        add_io(&vm, &Ioeventfd { address: ADDRESS + 0x1000, ..matching(&event, 7) }),
    )
    .map(drop)
}

fn io_refused(bench: &Bench, wanted: i32, spoil: impl Fn(&mut Ioeventfd)) -> Found {
    let (vm, event) = (bench.vm()?, eventfd()?);
    let mut given = io(&event, 4);
    spoil(&mut given);
    fails(format!("{given:x?}"), add_io(&vm, &given), &[wanted])
}

fn io_length(bench: &Bench) -> Found {
    for len in [3, 5, 6, 7, 9, 16, u32::MAX] {
        io_refused(bench, libc::EINVAL, |given| given.len = len)?;
    }
    Ok(())
}

fn io_flags(bench: &Bench) -> Found {
    for bit in 1..32 {
        io_refused(bench, libc::EINVAL, |given| given.flags = 1 << bit)?;
    }
    Ok(())
}

fn io_match_length(bench: &Bench) -> Found {
    io_refused(bench, libc::EINVAL, |given| {
        given.len = 0;
        given.flags = IOEVENTFD_DATAMATCH;
    })
}

fn io_overflow(bench: &Bench) -> Found {
    let (vm, event) = (bench.vm()?, eventfd()?);
    let given = Ioeventfd { address: u64::MAX - 1, ..io(&event, 4) };
    succeeds("ioeventfd", add_io(&vm, &given)).map(drop)
}

fn io_no_descriptor(bench: &Bench) -> Found {
    io_refused(bench, libc::EBADF, |given| given.fd = NOT_OPEN)?;
    io_refused(bench, libc::EBADF, |given| given.fd = -1)
}

fn io_no_eventfd(bench: &Bench) -> Found {
    let other = succeeds("/dev/null", device::not_an_eventfd())?;
    io_refused(bench, libc::EINVAL, |given| given.fd = other.as_raw_fd())
}

fn io_order(bench: &Bench) -> Found {
    io_refused(bench, libc::EINVAL, |given| {
        given.fd = NOT_OPEN;
        given.len = 3;
    })?;
    io_refused(bench, libc::EINVAL, |given| {
        given.fd = NOT_OPEN;
        given.flags = 2;
    })
}

fn io_twice(bench: &Bench) -> Found {
    let (vm, event, other) = (bench.vm()?, eventfd()?, eventfd()?);
    succeeds("the first", add_io(&vm, &io(&event, 4)))?;
    fails("the second", add_io(&vm, &io(&other, 4)), &[libc::EEXIST])?;
    let vm = bench.vm()?;
    succeeds("a value", add_io(&vm, &matching(&event, 7)))?;
    let again = add_io(&vm, &matching(&other, 7));
    fails("the value again", again, &[libc::EEXIST])
}

fn io_any_value(bench: &Bench) -> Found {
    let (vm, event) = (bench.vm()?, eventfd()?);
    succeeds("4 bytes", add_io(&vm, &io(&event, 4)))?;
    for (what, other) in [
        ("8 bytes", io(&event, 8)),
        ("any length", io(&event, 0)),
        ("a value", matching(&event, 7)),
    ] {
        fails(what, add_io(&vm, &other), &[libc::EEXIST])?;
    }
    Ok(())
}

fn io_values(bench: &Bench) -> Found {
    let (vm, event, other) = (bench.vm()?, eventfd()?, eventfd()?);
    succeeds("the first value", add_io(&vm, &matching(&event, 7)))?;
    succeeds("the second value", add_io(&vm, &matching(&other, 8))).map(drop)
}

fn io_removed(bench: &Bench) -> Found {
    let (vm, event) = (bench.vm()?, eventfd()?);
    let given = io(&event, 4);
    succeeds("add", add_io(&vm, &given))?;
    succeeds("remove", vm.remove(IOEVENTFD, &given))?;
    fails("remove again", vm.remove(IOEVENTFD, &given), &[libc::ENOENT])?;
    succeeds("add again", add_io(&vm, &given)).map(drop)
}

fn io_remove_match(bench: &Bench) -> Found {
    let (vm, event) = (bench.vm()?, eventfd()?);
    let given = matching(&event, 7);
    succeeds("add", add_io(&vm, &given))?;
    for (what, other) in [
        ("another value", matching(&event, 8)),
        ("no value", io(&event, 4)),
        ("another length", Ioeventfd { len: 8, ..given }),
        ("another address", Ioeventfd { address: ADDRESS + 8, ..given }),
    ] {
        fails(what, vm.remove(IOEVENTFD, &other), &[libc::ENOENT])?;
    }
    succeeds("remove", vm.remove(IOEVENTFD, &given)).map(drop)
}
