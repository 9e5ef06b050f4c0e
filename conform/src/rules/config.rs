// SPDX-License-Identifier: Apache-2.0
//! Where the devicetree and the firmware are, and the registers that a guest begins with.

use crate::bench::Bench;
use crate::dialect::{Dialect, ANDROID, GUNYAH, NEWER};
use crate::guest::{Guest, BASE};
use crate::memory::pages;
use crate::rule::{Rule, Source};
use crate::uapi::{self, Range};
use crate::verdict::{fails, succeeds, Found};

pub const RULES: &[Rule] = &[
    Rule::read(
        GUNYAH,
        "dtb.argument",
        "SET_DTB_CONFIG with an argument that cannot be read is EFAULT.",
        dtb_argument,
    ),
    Rule::read(
        GUNYAH,
        "dtb.unchecked",
        "The call itself checks neither alignment nor that a region is there.",
        dtb_unchecked,
    ),
    Rule::seen(GUNYAH, "dtb.overflow", "A range that wraps is accepted: answer 0.", dtb_overflow)
        .newer(Source::Seen),
    Rule::read(
        GUNYAH,
        "dtb.last-counts",
        "The last call counts: a bad range, then a good one, and the VM starts.",
        dtb_last_counts,
    )
    .started(),
    Rule::read(
        GUNYAH,
        "dtb.after-start",
        "The call is accepted after START as well.",
        dtb_after_start,
    )
    .started(),
    Rule::read(
        ANDROID,
        "firmware.argument",
        "SET_FW_CONFIG with an argument that cannot be read is EFAULT.",
        firmware_argument,
    ),
    Rule::read(
        ANDROID,
        "firmware.taken",
        "SET_FW_CONFIG is accepted before any region is there.",
        firmware_taken,
    ),
    Rule::read(
        ANDROID,
        "firmware.overflow",
        "A range that wraps is accepted: answer 0.",
        firmware_overflow,
    )
    .newer(Source::Seen),
    Rule::read(
        ANDROID,
        "firmware.nowhere",
        "START with firmware in no region is EINVAL on 6.1, ENOENT on 6.6, ENODEV on 6.12.",
        firmware_nowhere,
    )
    .started(),
    Rule::read(
        NEWER,
        "context.argument",
        "SET_BOOT_CONTEXT with an argument that cannot be read is EFAULT.",
        context_argument,
    ),
    Rule::read(
        NEWER,
        "context.registers",
        "X0 to X31, the PC and three stack pointers are accepted.",
        context_registers,
    ),
    Rule::read(NEWER, "context.twice", "A register may be set again.", context_twice),
    Rule::read(
        NEWER,
        "context.no-register",
        "A register beyond its set is EINVAL.",
        context_no_register,
    ),
    Rule::read(NEWER, "context.no-set", "A set that does not exist is EINVAL.", context_no_set),
    Rule::read(
        NEWER,
        "context.high-bits",
        "Bits above set and index are EINVAL.",
        context_high_bits,
    ),
    Rule::read(
        NEWER,
        "context.started",
        "Once START has been tried it is EINVAL.",
        context_started,
    )
    .started(),
    Rule::read(
        NEWER,
        "context.last-registers",
        "The resource manager takes neither X31 nor the third stack pointer: START is EINVAL.",
        context_last_registers,
    )
    .started(),
];

fn context_last_registers(bench: &Bench) -> Found {
    for reg in [X + 31, SP + 2] {
        let made = Guest::new(bench).make(bench)?;
        succeeds(format!("{reg:#x}"), made.vm.boot_context(reg, 1))?;
        fails(format!("START with {reg:#x}"), made.vm.start(), &[libc::EINVAL])?;
    }
    Ok(())
}

fn dtb_argument(bench: &Bench) -> Found {
    let vm = bench.vm()?;
    for address in [0, 8] {
        let answer = vm.call_number(uapi::SET_DTB_CONFIG, address);
        fails(format!("at {address:#x}"), answer, &[libc::EFAULT])?;
    }
    Ok(())
}

fn dtb_unchecked(bench: &Bench) -> Found {
    let vm = bench.vm()?;
    for (guest, size) in [(BASE, pages(1)), (BASE + 8, 100), (0, 0)] {
        succeeds(format!("{guest:#x}+{size:#x}"), vm.dtb(guest, size))?;
    }
    Ok(())
}

fn dtb_overflow(bench: &Bench) -> Found {
    let answer = bench.vm()?.dtb(u64::MAX - 0xfff, pages(2));
    succeeds("SET_DTB_CONFIG", answer).map(drop)
}

fn dtb_last_counts(bench: &Bench) -> Found {
    let mut guest = Guest::new(bench);
    let good = guest.dtb;
    guest.dtb = (0, pages(1));
    let made = guest.make(bench)?;
    succeeds("SET_DTB_CONFIG again", made.vm.dtb(good.0, good.1))?;
    succeeds("START", made.vm.start()).map(drop)
}

fn dtb_after_start(bench: &Bench) -> Found {
    let made = Guest::new(bench).start(bench)?;
    succeeds("SET_DTB_CONFIG", made.vm.dtb(BASE, pages(1))).map(drop)
}

fn firmware_argument(bench: &Bench) -> Found {
    let answer = bench.vm()?.call_number(uapi::SET_FW_CONFIG, 8);
    fails("SET_FW_CONFIG", answer, &[libc::EFAULT])
}

fn firmware(bench: &Bench, guest: u64, size: u64) -> Found<crate::device::Answer> {
    Ok(bench.vm()?.call(uapi::SET_FW_CONFIG, &Range { guest, size }))
}

fn firmware_taken(bench: &Bench) -> Found {
    let answer = firmware(bench, BASE, pages(1))?;
    succeeds("SET_FW_CONFIG", answer).map(drop)
}

fn firmware_overflow(bench: &Bench) -> Found {
    let answer = firmware(bench, u64::MAX - 0xfff, pages(2))?;
    succeeds("SET_FW_CONFIG", answer).map(drop)
}

fn firmware_nowhere(bench: &Bench) -> Found {
    let made = Guest::new(bench).make(bench)?;
    let range = Range { guest: 0x1000_0000, size: pages(1) };
    succeeds("SET_FW_CONFIG", made.vm.call(uapi::SET_FW_CONFIG, &range))?;
    let errno = match bench.dialect {
        Dialect::Ack61 => libc::EINVAL,
        Dialect::Ack612 => libc::ENODEV,
        _ => libc::ENOENT,
    };
    fails("START", made.vm.start(), &[errno])
}

fn context_argument(bench: &Bench) -> Found {
    let answer = bench.vm()?.call_number(uapi::SET_BOOT_CONTEXT, 8);
    fails("SET_BOOT_CONTEXT", answer, &[libc::EFAULT])
}

const X: u32 = 0;
const PC: u32 = 1 << 8;
const SP: u32 = 2 << 8;

fn context_registers(bench: &Bench) -> Found {
    let vm = bench.vm()?;
    for reg in (X..X + 32).chain([PC]).chain(SP..SP + 3) {
        succeeds(format!("{reg:#x}"), vm.boot_context(reg, BASE))?;
    }
    Ok(())
}

fn context_twice(bench: &Bench) -> Found {
    let vm = bench.vm()?;
    succeeds("PC", vm.boot_context(PC, 1))?;
    succeeds("PC again", vm.boot_context(PC, u64::MAX)).map(drop)
}

fn context_refused(bench: &Bench, registers: &[u32]) -> Found {
    let vm = bench.vm()?;
    for reg in registers {
        let answer = vm.boot_context(*reg, 1);
        fails(format!("{reg:#x}"), answer, &[libc::EINVAL])?;
    }
    Ok(())
}

fn context_no_register(bench: &Bench) -> Found {
    context_refused(bench, &[X + 32, X + 0xff, PC + 1, SP + 3])
}

fn context_no_set(bench: &Bench) -> Found {
    context_refused(bench, &[3 << 8, 0xff << 8])
}

fn context_high_bits(bench: &Bench) -> Found {
    context_refused(bench, &[1 << 16, 1 << 31])
}

fn context_started(bench: &Bench) -> Found {
    let made = Guest::new(bench).start(bench)?;
    fails("after START", made.vm.boot_context(X, 1), &[libc::EINVAL])?;
    let refused = Guest { dtb: (0, pages(1)), ..Guest::new(bench) };
    let made = refused.make(bench)?;
    fails("START", made.vm.start(), &[])?;
    fails("after a failed START", made.vm.boot_context(X, 1), &[libc::EINVAL])
}
