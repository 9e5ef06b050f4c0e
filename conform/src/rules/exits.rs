// SPDX-License-Identifier: Apache-2.0
//! How guests come out of VCPU_RUN, and what they find when they begin.

use std::os::fd::AsRawFd;

use crate::bench::Bench;
use crate::code::{Code, MMIO};
use crate::device;
use crate::dialect::{FUNCTIONS, NEWER, PINNING_FUNCTIONS};
use crate::errno::Errno;
use crate::guest::{Exit, Guest, Made, BASE};
use crate::memory::{pages, Memory};
use crate::rule::Rule;
use crate::uapi::{self, page, Ioeventfd, Region, IOEVENTFD};
use crate::verdict::{differs, fails, same, skip, succeeds, Found};

pub const RULES: &[Rule] = &[
    Rule::seen(
        FUNCTIONS,
        "exit.off",
        "SYSTEM_OFF: VCPU_RUN is 0 with reason STATUS, status 2, type 1.",
        off,
    )
    .ended(),
    Rule::read(
        FUNCTIONS,
        "exit.again",
        "VCPU_RUN after the end is 0 with the same STATUS.",
        again,
    )
    .ended(),
    Rule::read(
        FUNCTIONS,
        "exit.start",
        "START after the end is ENODEV.",
        start_after,
    )
    .ended(),
    Rule::seen(
        FUNCTIONS,
        "exit.reset",
        "SYSTEM_RESET: status 2, type 2.",
        reset,
    )
    .executed(),
    Rule::seen(
        FUNCTIONS,
        "exit.exceptions",
        "Exceptions without end: status 2, type 5.",
        exceptions,
    )
    .executed(),
    Rule::seen(
        PINNING_FUNCTIONS,
        "exit.no-execute",
        "Main memory without execute permission starts, and ends with type 5.",
        no_execute,
    )
    .executed(),
    Rule::read(
        FUNCTIONS,
        "mmio.write",
        "A store where no memory is: VCPU_RUN is 0 with reason MMIO, the address, 1, 2 or 4 bytes, \
         is_write 1 and the data little endian.",
        mmio_write,
    )
    .executed(),
    Rule::read(
        FUNCTIONS,
        "mmio.eight",
        "A store of 8 bytes is one exit.",
        mmio_eight,
    )
    .executed(),
    Rule::read(
        FUNCTIONS,
        "mmio.read",
        "A load: is_write 0; what is in data at the next VCPU_RUN is what the guest loads.",
        mmio_read,
    )
    .executed(),
    Rule::read(
        FUNCTIONS,
        "mmio.ioeventfd",
        "A store that an ioeventfd has fires it and is not an exit.",
        mmio_ioeventfd,
    )
    .executed(),
    Rule::read(
        FUNCTIONS,
        "mmio.ioeventfd-value",
        "One with DATAMATCH lets other values through as exits.",
        mmio_ioeventfd_value,
    )
    .executed(),
    Rule::read(
        FUNCTIONS,
        "mmio.ioeventfd-register",
        "DATAMATCH compares the whole register: a store of 4 bytes is an exit where its upper half is not 0.",
        mmio_ioeventfd_register,
    )
    .executed(),
    Rule::seen(
        FUNCTIONS,
        "abort.pair",
        "A store of a pair of registers where MMIO traps is a data abort in the guest.",
        abort_pair,
    )
    .executed(),
    Rule::seen(
        PINNING_FUNCTIONS,
        "abort.above",
        "So is a load above the first GiB where no memory is.",
        abort_above,
    )
    .executed(),
    Rule::seen(
        PINNING_FUNCTIONS,
        "entry.offset",
        "The guest begins at the first byte of main memory, at the exception level EL1.",
        entry_level,
    )
    .executed(),
    Rule::seen(
        FUNCTIONS,
        "entry.x0",
        "x0 is the devicetree's address.",
        entry_x0,
    )
    .executed(),
    Rule::read(
        NEWER,
        "entry.context",
        "A register that SET_BOOT_CONTEXT set has its value.",
        entry_context,
    )
    .executed(),
    Rule::read(
        NEWER,
        "entry.pc",
        "The guest begins where SET_BOOT_CONTEXT's PC says, at the exception level EL1.",
        entry_level,
    )
    .executed(),
    Rule::read(
        NEWER,
        "entry.devicetree",
        "Without a PC it begins at the first byte of the devicetree's folio, and dies there: type 5.",
        entry_devicetree,
    )
    .executed(),
    Rule::read(
        NEWER,
        "fault.nowhere",
        "An access above the first GiB that no region has is a page fault with ENOENT, again and again.",
        fault_nowhere,
    )
    .executed(),
    Rule::read(
        NEWER,
        "fault.read-only",
        "A store to a region without WRITE is a page fault with EPERM.",
        fault_read_only,
    )
    .executed(),
    Rule::read(
        NEWER,
        "fault.unmapped",
        "An access to memory that its process does not have mapped is a page fault with EFAULT; once it is \
         mapped again the guest goes on.",
        fault_unmapped,
    )
    .executed(),
    Rule::read(
        NEWER,
        "mmio.resume-retry",
        "After an MMIO exit a resume action of 2 is EINVAL, and the state is kept: 0 completes it.",
        resume_retry,
    )
    .executed(),
    Rule::read(
        NEWER,
        "mmio.resume-fault",
        "A resume action of 1 is a data abort in the guest.",
        resume_fault,
    )
    .executed(),
    Rule::inferred(
        NEWER,
        "share.low",
        "Memory that is shared below the first GiB is memory to the guest, and coherent.",
        share_low,
    )
    .executed(),
    Rule::read(
        NEWER,
        "share.swallowed",
        "Where it cannot be provided, the access is an ordinary MMIO exit.",
        share_swallowed,
    )
    .executed(),
    Rule::seen(
        FUNCTIONS,
        "psci.absent",
        "Without a psci node PSCI answers -1.",
        psci_absent,
    )
    .executed(),
    Rule::seen(
        FUNCTIONS,
        "psci.present",
        "With one it answers its version.",
        psci_present,
    )
    .executed(),
    Rule::seen(
        PINNING_FUNCTIONS,
        "share.coherent",
        "What the host wrote to shared memory the guest reads, and the other way round.",
        coherent,
    )
    .executed(),
    Rule::seen(
        FUNCTIONS,
        "overlay.nodes",
        "The guest's devicetree gets /hypervisor, memory and kaslr-seed.",
        overlay,
    )
    .executed(),
];

const OFF: Exit = Exit::Status { status: uapi::STATUS_EXITED, kind: uapi::TYPE_OFF };

fn started(bench: &Bench, code: Code) -> Found<Made> {
    Guest::running(bench, code).start(bench)
}

fn off(bench: &Bench) -> Found {
    same("exit", started(bench, Code::new().off())?.run(bench)?, OFF)
}

fn again(bench: &Bench) -> Found {
    let made = started(bench, Code::new().off())?;
    for round in 0..3 {
        same(format!("exit {round}"), made.run(bench)?, OFF)?;
    }
    Ok(())
}

fn start_after(bench: &Bench) -> Found {
    let made = started(bench, Code::new().off())?;
    same("exit", made.run(bench)?, OFF)?;
    fails("START", made.vm.start(), &[libc::ENODEV])
}

fn reset(bench: &Bench) -> Found {
    let exit = started(bench, Code::new().reset())?.run(bench)?;
    let wanted = Exit::Status { status: uapi::STATUS_EXITED, kind: uapi::TYPE_RESET };
    same("exit", exit, wanted)
}

const ERROR: Exit = Exit::Status { status: uapi::STATUS_EXITED, kind: uapi::TYPE_ERROR };

fn exceptions(bench: &Bench) -> Found {
    let exit = started(bench, Code::new().undefined())?.run(bench)?;
    same("exit", exit, ERROR)
}

fn no_execute(bench: &Bench) -> Found {
    let guest =
        Guest { flags: uapi::READ | uapi::WRITE, ..Guest::running(bench, Code::new().off()) };
    same("exit", guest.start(bench)?.run(bench)?, ERROR)
}

const VALUE: u64 = 0x8877_6655_4433_2211;

/// The low `size` bytes of a value.
fn low(value: u64, size: u32) -> u64 {
    value & u64::MAX >> (64 - 8 * size)
}

fn mmio_write(bench: &Bench) -> Found {
    stores(bench, &[1, 2, 4])
}

fn mmio_eight(bench: &Bench) -> Found {
    stores(bench, &[8])
}

fn stores(bench: &Bench, sizes: &[u32]) -> Found {
    let code = sizes.iter().fold(Code::new().set(1, MMIO).set(2, VALUE), |code, size| {
        code.store(*size, 2, 1).add(1, 16)
    });
    let made = started(bench, code.off())?;
    for (place, size) in (0..).zip(sizes.iter().copied()) {
        match made.run(bench)? {
            Exit::Mmio { address, len, write: true, data } => same(
                format!("store of {size} bytes (address, bytes, data)"),
                (address, len, low(data, size)),
                (MMIO + 16 * place, size, low(VALUE, size)),
            )?,
            other => return differs(format!("store of {size} bytes: {other:x?}")),
        }
    }
    same("then", made.run(bench)?, OFF)
}

/// The value of the guest's next `tell`.
fn told(bench: &Bench, made: &Made) -> Found<u64> {
    let mut halves = [0; 2];
    for half in &mut halves {
        match made.run(bench)? {
            Exit::Mmio { address: MMIO, len: 4, write: true, data } => *half = low(data, 4),
            other => {
                return differs(format!("{other:x?}, expected a store of 4 bytes at {MMIO:#x}"))
            }
        }
    }
    Ok(halves[1] << 32 | halves[0])
}

fn mmio_read(bench: &Bench) -> Found {
    for size in [1, 2, 4] {
        let code = Code::new().set(1, MMIO + 64).load(size, 2, 1).tell(2).off();
        let made = started(bench, code)?;
        match made.run(bench)? {
            Exit::Mmio { address, len, write: false, .. } => {
                same("load (address, bytes)", (address, len), (MMIO + 64, size))?
            }
            other => return differs(format!("load of {size} bytes: {other:x?}")),
        }
        made.answer(VALUE);
        let loaded = told(bench, &made)?;
        same(format!("loaded by {size} bytes"), loaded, low(VALUE, size))?;
    }
    Ok(())
}

fn event(eventfd: &impl AsRawFd) -> u64 {
    let mut count = [0; 8];
    // SAFETY: eight live bytes, as an eventfd wants them.
    let got = unsafe { libc::read(eventfd.as_raw_fd(), count.as_mut_ptr().cast(), 8) };
    if got == 8 {
        u64::from_ne_bytes(count)
    } else {
        0
    }
}

fn io(bench: &Bench, code: Code, flags: u32) -> Found<(Made, std::os::fd::OwnedFd)> {
    let made = Guest::running(bench, code).make(bench)?;
    let eventfd = succeeds("eventfd", device::eventfd())?;
    let given = Ioeventfd {
        datamatch: 7,
        address: MMIO + 64,
        len: 4,
        fd: eventfd.as_raw_fd(),
        flags,
        padding: 0,
    };
    succeeds("ioeventfd", made.vm.add(IOEVENTFD, &given))?;
    succeeds("START", made.vm.start())?;
    Ok((made, eventfd))
}

fn mmio_ioeventfd(bench: &Bench) -> Found {
    let code = Code::new().set(1, MMIO + 64).set(2, 9).store(4, 2, 1);
    let (made, eventfd) = io(bench, code.tell(2).off(), 0)?;
    same("the next exit", told(bench, &made)?, 9)?;
    same("times fired", event(&eventfd), 1)
}

fn mmio_ioeventfd_value(bench: &Bench) -> Found {
    let code = Code::new().set(1, MMIO + 64).set(2, 7).store(4, 2, 1).set(2, 8).store(4, 2, 1);
    let (made, eventfd) = io(bench, code.off(), uapi::IOEVENTFD_DATAMATCH)?;
    match made.run(bench)? {
        Exit::Mmio { data, .. } => same("the other value", low(data, 4), 8)?,
        other => return differs(format!("{other:x?}, expected the other value's store")),
    }
    same("times fired", event(&eventfd), 1)
}

fn mmio_ioeventfd_register(bench: &Bench) -> Found {
    let code = Code::new().set(1, MMIO + 64).set(2, 7 | 1 << 40).store(4, 2, 1);
    let (made, eventfd) = io(bench, code.off(), uapi::IOEVENTFD_DATAMATCH)?;
    match made.run(bench)? {
        Exit::Mmio { data, .. } => same("the store", low(data, 4), 7)?,
        other => return differs(format!("{other:x?}, expected the store")),
    }
    same("times fired", event(&eventfd), 0)
}

/// Bytes from the guest's beginning to its vectors, and from there to the exceptions of its own level
/// with its own stack pointer.
const VECTORS: usize = 0x800;
const OWN_STACK: usize = 0x200;
/// Exception class: a data abort without a change of level.
const DATA_ABORT: u64 = 0x25;

fn aborts(bench: &Bench, access: Code) -> Found {
    let code = access
        .set(3, 0)
        .tell(3)
        .off()
        .up_to(VECTORS)
        .syndrome(3)
        .tell(3)
        .off()
        .up_to(VECTORS + OWN_STACK)
        .syndrome(3)
        .tell(3)
        .off();
    let class = told(bench, &started(bench, code)?)? >> 26;
    same("exception class", class, DATA_ABORT)
}

fn with_vectors() -> Code {
    Code::new().set(1, BASE + VECTORS as u64).vectors(1)
}

fn abort_pair(bench: &Bench) -> Found {
    aborts(bench, with_vectors().set(1, MMIO).store_pair(2, 1))
}

fn abort_above(bench: &Bench) -> Found {
    // 48 GiB, within the 36 bits and far from all that this program registers.
    aborts(bench, with_vectors().set(1, 0xc_0000_0000).load(8, 2, 1))
}

fn entry_level(bench: &Bench) -> Found {
    let made = started(bench, Code::new().current_el(2).tell(2).off())?;
    same("CurrentEL >> 2", told(bench, &made)? >> 2, 1)
}

fn entry_x0(bench: &Bench) -> Found {
    let guest = Guest::running(bench, Code::new().tell(0).off());
    let made = guest.start(bench)?;
    same("x0", told(bench, &made)?, guest.dtb.0)
}

fn entry_context(bench: &Bench) -> Found {
    let made = Guest::running(bench, Code::new().tell(5).off()).make(bench)?;
    succeeds("SET_BOOT_CONTEXT", made.vm.boot_context(5, VALUE))?;
    succeeds("START", made.vm.start())?;
    same("x5", told(bench, &made)?, VALUE)
}

fn entry_devicetree(bench: &Bench) -> Found {
    let guest = Guest { pc: None, ..Guest::running(bench, Code::new().off()) };
    same("exit", guest.start(bench)?.run(bench)?, ERROR)
}

/// Where a further region is.
const FURTHER: u64 = 0x9000_0000;

fn further(made: &Made, call: u32, flags: u32, guest: u64) -> Found<Memory> {
    let memory = succeeds("memfd", Memory::base_pages(4))?;
    let region =
        Region { label: 70, flags, guest, size: memory.map.size(), user: memory.map.address() };
    succeeds("a further region", made.vm.region(call, &region))?;
    Ok(memory)
}

fn faulting(exit: Exit, errno: i32) -> Found {
    match exit {
        Exit::Fault { attempt } if attempt == -errno => Ok(()),
        other => differs(format!("{other}, expected a fault with {}", Errno(errno))),
    }
}

fn fault_nowhere(bench: &Bench) -> Found {
    let made = started(bench, Code::new().set(1, 0xc_0000_0000).load(8, 2, 1).off())?;
    for _ in 0..2 {
        faulting(made.run(bench)?, libc::ENOENT)?;
    }
    Ok(())
}

fn fault_read_only(bench: &Bench) -> Found {
    let code = Code::new().set(1, FURTHER).store(8, 2, 1).off();
    let made = Guest::running(bench, code).make(bench)?;
    let _memory = further(&made, uapi::LEND_USER_MEM, uapi::READ, FURTHER)?;
    succeeds("START", made.vm.start())?;
    faulting(made.run(bench)?, libc::EPERM)
}

fn fault_unmapped(bench: &Bench) -> Found {
    let code = Code::new().set(1, FURTHER).load(8, 2, 1).off();
    let made = Guest::running(bench, code).make(bench)?;
    let memory = further(&made, uapi::LEND_USER_MEM, uapi::RWX, FURTHER)?;
    succeeds("START", made.vm.start())?;
    memory.map.forbid(true);
    faulting(made.run(bench)?, libc::EFAULT)?;
    memory.map.forbid(false);
    same("then", made.run(bench)?, OFF)
}

/// A guest whose load has come out, answered with this resume action.
fn resumed(bench: &Bench, action: u8) -> Found<Made> {
    let code = with_vectors().set(1, MMIO + 64).load(4, 2, 1).tell(2).off();
    let code = code.up_to(VECTORS + OWN_STACK).syndrome(3).tell(3).off();
    let made = started(bench, code)?;
    match made.run(bench)? {
        Exit::Mmio { write: false, .. } => {}
        other => return differs(format!("{other}, expected a load")),
    }
    made.answer(7);
    made.vcpus[0].1.write(page::MMIO_RESUME, &[action]);
    Ok(made)
}

fn resume_retry(bench: &Bench) -> Found {
    let made = resumed(bench, 2)?;
    fails("VCPU_RUN", made.vcpus[0].0.run(), &[libc::EINVAL])?;
    made.vcpus[0].1.write(page::MMIO_RESUME, &[0]);
    same("what it loads", told(bench, &made)?, 7)
}

fn resume_fault(bench: &Bench) -> Found {
    let made = resumed(bench, 1)?;
    same("exception class", told(bench, &made)? >> 26, DATA_ABORT)
}

/// Below the first GiB, where nothing else of this program is.
const LOW: u64 = 0x0100_0000;

fn share_low(bench: &Bench) -> Found {
    let code = Code::new()
        .set(1, LOW)
        .load(8, 2, 1)
        .tell(2)
        .add(2, 1)
        .set(1, LOW + 8)
        .store(8, 2, 1)
        .off();
    let made = Guest::running(bench, code).make(bench)?;
    let flags = uapi::READ | uapi::WRITE;
    let memory = further(&made, uapi::SET_USER_MEM_REGION, flags, LOW)?;
    memory.map.write(0, &VALUE.to_le_bytes());
    succeeds("START", made.vm.start())?;
    same("what the guest reads", told(bench, &made)?, VALUE)?;
    same("exit", made.run(bench)?, OFF)?;
    same("what it wrote", memory.map.u64(8), VALUE + 1)
}

fn share_swallowed(bench: &Bench) -> Found {
    let code = Code::new().set(1, LOW).store(4, 2, 1).off();
    let made = Guest::running(bench, code).make(bench)?;
    let flags = uapi::READ | uapi::WRITE;
    let mut memory = further(&made, uapi::SET_USER_MEM_REGION, flags, LOW)?;
    memory.map.cut(0);
    succeeds("START", made.vm.start())?;
    match made.run(bench)? {
        Exit::Mmio { address: LOW, write: true, .. } => same("then", made.run(bench)?, OFF),
        other => differs(format!("{other}, expected a store at {LOW:#x}")),
    }
}

fn version(bench: &Bench, psci: bool) -> Found<i32> {
    let mut guest = Guest::running(bench, Code::new().psci_version().tell(0).off());
    if !psci {
        guest.tree.drop_child("psci");
    }
    let x0 = told(bench, &guest.start(bench)?)?.to_le_bytes();
    Ok(i32::from_le_bytes([x0[0], x0[1], x0[2], x0[3]]))
}

fn psci_absent(bench: &Bench) -> Found {
    same("PSCI_VERSION", version(bench, false)?, -1)
}

fn psci_present(bench: &Bench) -> Found {
    match version(bench, true)? {
        0.. => Ok(()),
        error => differs(format!("PSCI_VERSION: {error}")),
    }
}

/// A guest in shared memory, started; or there is none where the resource manager wants it lent.
fn shared(bench: &Bench, code: Code) -> Found<Made> {
    if bench.is(NEWER) {
        return skip("newer drivers map shared memory without execute permission");
    }
    let guest = Guest { call: uapi::SET_USER_MEM_REGION, ..Guest::running(bench, code) };
    let made = guest.make(bench)?;
    match made.vm.start() {
        Ok(_) => Ok(made),
        Err(_) => skip("shared main memory is refused here"),
    }
}

fn coherent(bench: &Bench) -> Found {
    let word = pages(8);
    let place = usize::try_from(word).unwrap_or(0);
    // The host's word is read, told, added to, and written back behind it.
    let code = Code::new()
        .set(1, BASE + word)
        .load(8, 2, 1)
        .tell(2)
        .load(8, 2, 1)
        .add(2, 1)
        .add(1, 8)
        .store(8, 2, 1)
        .off();
    let made = shared(bench, code)?;
    made.memory.map.write(place, &VALUE.to_le_bytes());
    same("the guest's first look", told(bench, &made)?, VALUE)?;
    made.memory.map.write(place, &(VALUE + 4).to_le_bytes());
    same("exit", made.run(bench)?, OFF)?;
    let written = made.memory.map.read(place + 8);
    same("what the guest wrote", u64::from_le_bytes(written), VALUE + 5)
}

fn overlay(bench: &Bench) -> Found {
    let made = shared(bench, Code::new().forever())?;
    let place = usize::try_from(pages(crate::guest::DTB_PAGE)).unwrap_or(0);
    let blob: [u8; 8192] = made.memory.map.read(place);
    for name in ["hypervisor\0", "memory\0", "kaslr-seed\0"] {
        if !blob.windows(name.len()).any(|bytes| bytes == name.as_bytes()) {
            return differs(format!("no {:?} in it", name.trim_end_matches('\0')));
        }
    }
    Ok(())
}
