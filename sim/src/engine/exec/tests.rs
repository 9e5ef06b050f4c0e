// SPDX-License-Identifier: Apache-2.0
//! Guests of a few instructions, their words as an assembler makes them.

mod cpus;
mod exceptions;
mod interrupts;
mod pages;

use super::*;
use crate::caller::{Backing, Caller, Inode, Piece};
use crate::engine::{Access, EventQueue, Exit, MmioAccess, StartRegion, VcpuExit};
use crate::vm::{Doorbell, Entry, GuestDescription};
use gunyah::uapi;
use nix::sys::memfd::{memfd_create, MFdFlags};
use std::os::fd::OwnedFd;
use std::time::Duration;

const BASE: u64 = 0x8000_0000;
const SIZE: u64 = 0x20_0000;
const UART: u64 = 0x0900_0000;

struct Guest {
    vm: Box<ExecVm>,
    queue: EventQueue,
    pages: Vec<(Arc<RunPage>, OwnedFd)>,
}

fn page() -> (Arc<RunPage>, OwnedFd) {
    let fd = memfd_create("vcpu", MFdFlags::MFD_CLOEXEC).unwrap();
    nix::unistd::ftruncate(&fd, i64::try_from(crate::page_size()).unwrap()).unwrap();
    (Arc::new(RunPage::map(&fd).unwrap()), fd)
}

/// What comes in a while; a guest that keeps one waiting for seconds is stuck.
fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..5000 {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("the guest is stuck");
}

impl Guest {
    /// A guest whose memory begins with these instructions.
    fn new(code: &[u32], cpus: u32) -> Self {
        Self::with_memory(code, cpus, None)
    }

    /// One that has these parts of its memory from the beginning.
    fn with_memory(code: &[u32], cpus: u32, paged: Option<Vec<(u64, u64)>>) -> Self {
        Self::with_early_vcpus(code, cpus, cpus, paged)
    }

    /// One whose first `early` vCPUs were added before START.
    fn with_early_vcpus(
        code: &[u32],
        cpus: u32,
        early: u32,
        paged: Option<Vec<(u64, u64)>>,
    ) -> Self {
        let fd = memfd_create("guest", MFdFlags::MFD_CLOEXEC).unwrap();
        nix::unistd::ftruncate(&fd, i64::try_from(SIZE).unwrap()).unwrap();
        let bytes: Vec<u8> = code.iter().flat_map(|word| word.to_le_bytes()).collect();
        nix::sys::uio::pwrite(&fd, &bytes, 0).unwrap();
        let region = StartRegion {
            label: 1,
            flags: 7,
            access: Access::Lend,
            guest_phys_addr: BASE,
            placed_at: Some(BASE),
            size: SIZE,
            userspace_addr: 0,
            main: true,
            pieces: vec![Piece {
                address: 0,
                size: SIZE,
                backing: Backing::File(Inode { dev: 0, ino: 0 }),
                offset: 0,
                shared: true,
                writable: true,
                file: Some(Arc::new(fd)),
                page_size: 4096,
                hugetlb: false,
                swap_backed: true,
            }],
        };
        let start = StartVm {
            vm: 1,
            owner: Caller::myself(),
            regions: vec![region],
            entry: Entry { pc: BASE, x0: BASE + 0x10_0000 },
            paged,
            dtb_address: BASE + 0x10_0000,
            dtb_size: 0x1000,
            vcpus: (0..early).collect(),
            guest: GuestDescription {
                image_name: "test".into(),
                base_address: BASE,
                cpus,
                proxy: true,
                doorbells: vec![Doorbell { label: 5, interrupt: Some((0, 5)), level: false }],
                shared_memory: Vec::new(),
                reserved: Vec::new(),
                was_read: false,
            },
            boot_context: Vec::new(),
        };
        let queue = EventQueue::new().unwrap();
        let vm = Box::new(ExecVm::new(&start, queue.sender(1)).unwrap());
        Self { vm, queue, pages: (0..cpus).map(|_| page()).collect() }
    }

    /// The next event.
    fn event(&mut self) -> Event {
        eventually(|| self.queue.receiver.try_recv().ok().map(|(_, event)| event))
    }

    fn run(&mut self, vcpu: u32) {
        let index = usize::try_from(vcpu).unwrap();
        self.vm.run_vcpu(vcpu, Arc::clone(&self.pages[index].0));
    }

    fn run_to_event(&mut self) -> Event {
        self.run(0);
        self.event()
    }

    fn mmio(&mut self) -> MmioAccess {
        match self.run_to_event() {
            Event::Vcpu(0, VcpuExit::Mmio(access)) => access,
            other => panic!("{other:?}"),
        }
    }

    fn end(&mut self) -> Exit {
        match self.run_to_event() {
            Event::Exited(exit) => exit,
            other => panic!("{other:?}"),
        }
    }

    /// Answers the MMIO read that the guest waits for.
    fn answer(&self, value: u8) {
        nix::sys::uio::pwrite(&self.pages[0].1, &[value], 24).unwrap();
    }
}

/// `movz xD, #immediate, lsl #16`
fn movz_high(register: u32, immediate: u32) -> u32 {
    0xd2a0_0000 | immediate << 5 | register
}

/// `movz xD, #immediate`
fn movz(register: u32, immediate: u32) -> u32 {
    0xd280_0000 | immediate << 5 | register
}

/// `movk xD, #immediate`
fn movk(register: u32, immediate: u32) -> u32 {
    0xf280_0000 | immediate << 5 | register
}

const HVC: u32 = 0xd400_0002;
const WFI: u32 = 0xd503_207f;
const LOOP: u32 = 0x1400_0000; // b .

/// PSCI call of a 32-bit function whose upper half is 0x8400.
fn psci(function: u32) -> [u32; 3] {
    [movz_high(0, 0x8400), movk(0, function), HVC]
}

/// Code with a vector for synchronous exceptions, which tells ESR_EL1 to the UART.
fn with_vector(code: &[u32]) -> Vec<u32> {
    let mut all = vec![
        0x1000_4001, // adr x1, . + 0x800
        0xd518_c001, // msr vbar_el1, x1
    ];
    all.extend(code);
    all.resize(0xa00 / 4, LOOP);
    all.extend([
        0xd538_5201, // mrs x1, esr_el1
        movz_high(2, 0x0900),
        0xb900_0041, // str w1, [x2]
        LOOP,
    ]);
    all
}

/// Translation of 39 bits: MMIO, main memory for EL1 alone at its address, then `entries`.
fn translated(entries: &[u32], code: &[u32]) -> Vec<u32> {
    let mut all = vec![
        0x1007_ffc1, // adr x1, . + 0xfff8
        0xd280_80a2, // mov x2, #0x405
        0xf900_0022, // str x2, [x1]
        0xd2b0_0002, // mov x2, #0x80000000
        0xd280_8023, // mov x3, #0x401
        0xaa02_0063, // orr x3, x3, x2
        0xf900_0823, // str x3, [x1, #16]
    ];
    all.extend(entries);
    all.extend([
        0xd280_1fe2, // mov x2, #0xff
        0xd518_a202, // msr mair_el1, x2
        0xd280_0322, // mov x2, #25
        0xf2c0_0022, // movk x2, #1, lsl #32
        0xd518_2042, // msr tcr_el1, x2
        0xd518_2001, // msr ttbr0_el1, x1
        0xd503_3fdf, // isb
        0xd538_1002, // mrs x2, sctlr_el1
        0xb240_0042, // orr x2, x2, #1
        0xd518_1002, // msr sctlr_el1, x2
        0xd503_3fdf, // isb
    ]);
    all.extend(code);
    with_vector(&all)
}

#[test]
fn a_guest_writes_reads_and_powers_off() {
    let mut code = vec![
        movz_high(1, 0x0900), // x1 = the UART
        movz(2, 0x41),
        0x3900_0022, // strb w2, [x1]
        0x3940_6023, // ldrb w3, [x1, #0x18]
        0x3900_0023, // strb w3, [x1]
        0xb900_0020, // str w0, [x1]: x0 is the devicetree
    ];
    code.extend(psci(8));
    let mut guest = Guest::new(&code, 1);
    let access = |address, len, written| MmioAccess { address, len, written };
    assert_eq!(guest.mmio(), access(UART, 1, Some(0x41)));
    assert_eq!(guest.mmio(), access(UART + 0x18, 1, None));
    guest.answer(0x5a);
    assert_eq!(guest.mmio(), access(UART, 1, Some(0x5a)));
    assert_eq!(guest.mmio(), access(UART, 4, Some(0x8010_0000)));
    assert_eq!(guest.end(), Exit::of_type(uapi::EXIT_TYPE_SYSTEM_OFF));
    guest.vm.stop();
}

#[test]
fn a_store_is_told_with_its_whole_register() {
    let mut guest = Guest::new(
        &[
            movz_high(1, 0x0900),
            0xd2c0_0022, // mov x2, #0x100000000
            0xb27d_0042, // orr x2, x2, #8
            0xb900_0022, // str w2, [x1]
            LOOP,
        ],
        1,
    );
    let whole = MmioAccess { address: UART, len: 4, written: Some(0x1_0000_0008) };
    assert_eq!(guest.mmio(), whole);
    guest.vm.stop();
}

#[test]
fn busy_and_idle_guests_are_interrupted_and_stopped() {
    for code in [[LOOP, LOOP], [WFI, LOOP]] {
        let mut guest = Guest::new(&code, 1);
        for _ in 0..3 {
            guest.run(0);
            std::thread::sleep(Duration::from_millis(5));
            guest.vm.interrupt_vcpu(0);
            assert!(matches!(guest.event(), Event::Vcpu(0, VcpuExit::Interrupted)));
        }
        guest.run(0);
        guest.vm.stop();
    }
}

#[test]
fn a_guest_finds_its_exception_level_cpu_number_and_clock() {
    let code = [
        movz_high(1, 0x0900),
        0xd538_4242, // mrs x2, CurrentEL
        0xb900_0022, // str w2, [x1]
        0xd538_00a2, // mrs x2, mpidr_el1
        0xf900_0022, // str x2, [x1]
        0xd53b_e042, // mrs x2, cntvct_el0
        0xd53b_e043, // mrs x3, cntvct_el0
        0xeb02_0063, // subs x3, x3, x2
        0x1a9f_37e2, // cset w2, hs: it does not go back
        0xb900_0022, // str w2, [x1]
        0xd53b_e002, // mrs x2, cntfrq_el0
        0xb900_0022, // str w2, [x1]
        LOOP,
    ];
    let mut guest = Guest::new(&code, 1);
    assert_eq!(guest.mmio().written, Some(1 << 2));
    assert_eq!(guest.mmio().written, Some(1 << 31));
    assert_eq!(guest.mmio().written, Some(1));
    assert_ne!(guest.mmio().written, Some(0));
    guest.vm.stop();
}
