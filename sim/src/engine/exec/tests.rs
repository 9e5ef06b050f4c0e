// SPDX-License-Identifier: Apache-2.0
//! Guests of a few instructions, their words as an assembler makes them.

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
    vm: Box<dyn EngineVm>,
    queue: EventQueue,
    pages: Vec<(Arc<RunPage>, OwnedFd)>,
}

fn page() -> (Arc<RunPage>, OwnedFd) {
    let fd = memfd_create("vcpu", MFdFlags::MFD_CLOEXEC).unwrap();
    nix::unistd::ftruncate(&fd, i64::try_from(crate::page_size()).unwrap()).unwrap();
    (Arc::new(RunPage::map(&fd).unwrap()), fd)
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
        let vm = Exec.start(start, queue.sender(1));
        let mut guest = Self { vm, queue, pages: (0..cpus).map(|_| page()).collect() };
        assert!(matches!(guest.event(), Event::Started));
        guest
    }

    /// The next event; a guest that has none within seconds is stuck.
    fn event(&mut self) -> Event {
        for _ in 0..5000 {
            if let Ok((_, event)) = self.queue.receiver.try_recv() {
                return event;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("no event");
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
fn reset_has_its_type() {
    let mut guest = Guest::new(&psci(9), 1);
    assert_eq!(guest.end(), Exit::of_type(uapi::EXIT_TYPE_SYSTEM_RESET));
    guest.vm.stop();
}

#[test]
fn without_vectors_every_fault_is_an_exception_loop() {
    let bad_read = [movz_high(1, 0x7000), 0xf940_0022]; // ldr x2, [x1] at 0x7000_0000
    let bad_jump = [movz_high(1, 0x7000), 0xd61f_0020]; // br x1
    let undefined = [0, 0]; // udf #0
    for code in [bad_read, bad_jump, undefined] {
        let mut guest = Guest::new(&code, 1);
        assert_eq!(guest.end(), Exit::of_type(uapi::EXIT_TYPE_HYP_ERROR));
        guest.vm.stop();
    }
}

#[test]
fn a_guest_takes_its_own_faults() {
    let mut code = vec![
        0x1000_4001, // adr x1, . + 0x800
        0xd518_c001, // msr vbar_el1, x1
        movz_high(2, 0x7000),
        0xf940_0043, // ldr x3, [x2]
        LOOP,
    ];
    // Vector for the current EL's own stack, synchronous: 0x800 + 0x200.
    code.resize(0xa00 / 4, LOOP);
    code.extend([
        0xd538_6001, // mrs x1, far_el1
        movz_high(2, 0x0900),
        0xf900_0041, // str x1, [x2]
    ]);
    code.extend(psci(8));
    let mut guest = Guest::new(&code, 1);
    let told = guest.mmio();
    assert_eq!((told.address, told.len, told.written), (UART, 8, Some(0x7000_0000)));
    assert_eq!(guest.end(), Exit::of_type(uapi::EXIT_TYPE_SYSTEM_OFF));
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
fn a_second_cpu_is_turned_on_by_the_first() {
    let code = [
        movz_high(0, 0xc400), // CPU_ON
        movk(0, 3),
        movz(1, 1),
        0x1000_00a2, // adr x2, . + 20
        movz(3, 0x77),
        HVC,
        movz_high(1, 0x0900),
        LOOP,
        // The second CPU begins here, x0 = 0x77.
        movz_high(1, 0x0900),
        0xb900_0020, // str w0, [x1]
        LOOP,
    ];
    let mut guest = Guest::new(&code, 2);
    guest.run(1);
    guest.run(0);
    match guest.event() {
        Event::Vcpu(1, VcpuExit::Mmio(access)) => assert_eq!(access.written, Some(0x77)),
        other => panic!("{other:?}"),
    }
    guest.vm.stop();
}

#[test]
fn a_doorbell_interrupts_the_guest() {
    let mut code = vec![
        0x1000_4001, // adr x1, . + 0x800
        0xd518_c001, // msr vbar_el1, x1
        movz(2, 1),
        0xd518_cce2,          // msr S3_0_C12_C12_7, x2: ICC_IGRPEN1
        movz_high(3, 0x3fff), // the distributor
        movz(4, 1 << 5),      // SPI 5
        0xb901_0464,          // str w4, [x3, #0x104]
        0xd503_42ff,          // msr daifclr, #2
        movz_high(5, 0x0900),
        0x3900_00a2, // strb w2, [x5]: ready
        WFI,
        0x17ff_ffff, // b . - 4
    ];
    // IRQ vector: 0x800 + 0x280.
    code.resize(0xa80 / 4, LOOP);
    code.extend([
        0x9100_04e7, // add x7, x7, #1
        0xd538_cc06, // mrs x6, S3_0_C12_C12_0: ICC_IAR1
        0xd518_cc26, // msr S3_0_C12_C12_1, x6: ICC_EOIR1
        0xb900_00a6, // str w6, [x5]
        0xb900_00a7, // str w7, [x5]: each instruction was executed once
        0xd69f_03e0, // eret
    ]);
    let mut guest = Guest::new(&code, 1);
    assert_eq!(guest.mmio().written, Some(1));
    for count in 1..4 {
        guest.run(0);
        guest.vm.interrupt_line(5, false);
        match guest.event() {
            Event::Vcpu(0, VcpuExit::Mmio(access)) => assert_eq!(access.written, Some(37)),
            other => panic!("{other:?}"),
        }
        assert_eq!(guest.mmio().written, Some(count));
    }
    guest.vm.stop();
}

/// A guest with a vector for synchronous exceptions, which tells ESR_EL1 to the UART.
fn with_vector(code: &[u32]) -> Guest {
    Guest::new(&with_vector_code(code), 1)
}

fn with_vector_code(code: &[u32]) -> Vec<u32> {
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

#[test]
fn accesses_without_a_syndrome_are_aborts() {
    for access in [
        0xa940_08c0, // ldp x0, x2, [x6]
        0x2900_08c0, // stp w0, w2, [x6]
        0xb840_44c0, // ldr w0, [x6], #4
    ] {
        let mut guest = with_vector(&[movz_high(6, 0x0900), access]);
        // A synchronous external abort of the current level, on a read or on a write.
        let esr = guest.mmio().written.unwrap();
        assert_eq!(esr & !(1 << 6), 0x9600_0010, "{access:#x}: {esr:#x}");
        guest.vm.stop();
    }
}

#[test]
fn an_access_that_its_caller_refuses_is_an_abort() {
    let code = with_vector_code(&[movz_high(6, 0x0a00), 0xb940_00c0]); // ldr w0, [x6]
    let mut guest = Guest::with_memory(&code, 1, Some(vec![(BASE, SIZE)]));
    assert_eq!(guest.mmio().address, 0x0a00_0000);
    nix::sys::uio::pwrite(&guest.pages[0].1, &[uapi::RESUME_FAULT], 37).unwrap();
    assert_eq!(guest.mmio().written, Some(0x9600_0010));
    guest.vm.stop();
}

impl Guest {
    fn fault(&mut self) -> (u64, bool) {
        match self.run_to_event() {
            Event::Vcpu(0, VcpuExit::Fault { address, write }) => (address, write),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_guest_asks_for_each_page_that_it_does_not_have() {
    let code = [
        movz_high(1, 0x8000),
        0x9140_1421, // add x1, x1, #0x5000
        movz_high(2, 0x0900),
        0xf900_0421, // str x1, [x1, #8]
        0xf940_0423, // ldr x3, [x1, #8]
        0xb900_0043, // str w3, [x2]
        LOOP,
    ];
    let mut guest = Guest::with_memory(&code, 1, Some(vec![(BASE + 0x10_0000, 0x1000)]));
    // The first instruction, again and again until it is there.
    assert_eq!(guest.fault(), (BASE, false));
    assert_eq!(guest.fault(), (BASE, false));
    guest.vm.provide(BASE, 0x1000);
    assert_eq!(guest.fault(), (BASE + 0x5008, true));
    guest.vm.provide(BASE + 0x5000, 0x1000);
    assert_eq!(guest.mmio().written, Some(0x8000_5000));
    guest.vm.stop();
}

#[test]
fn a_guest_that_waits_for_a_page_is_stopped() {
    let mut guest = Guest::with_memory(&[LOOP], 1, Some(Vec::new()));
    assert_eq!(guest.fault(), (BASE, false));
    guest.vm.stop();
}

#[test]
fn memory_that_nobody_registered_is_a_fault_where_memory_is_given_by_page() {
    let code = [movz_high(1, 0x9000), 0xf900_0021]; // str x1, [x1]
    let mut guest = Guest::with_memory(&code, 1, Some(vec![(BASE, SIZE)]));
    assert_eq!(guest.fault(), (0x9000_0000, true));
    assert_eq!(guest.fault(), (0x9000_0000, true));
    guest.vm.stop();
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

#[test]
fn the_end_of_one_cpu_is_the_end_of_all() {
    // CPU_ON of the next for itself, then the first powers off while the second is busy.
    let mut code = vec![
        movz_high(0, 0xc400),
        movk(0, 3),
        movz(1, 1),
        0x1000_00e2, // adr x2, . + 28
        0xd400_0003, // smc #0
    ];
    code.extend(psci(8));
    code.push(LOOP);
    code.extend([LOOP, LOOP]);
    let mut guest = Guest::new(&code, 2);
    guest.run(1);
    guest.run(0);
    match guest.event() {
        Event::Exited(exit) => assert_eq!(exit.exit_type, uapi::EXIT_TYPE_SYSTEM_OFF),
        other => panic!("{other:?}"),
    }
    guest.vm.stop();
}

#[test]
fn up_to_61_an_end_is_not_told_while_another_cpu_waits() {
    // CPU_ON of the second, which waits; the first gives it time and switches off.
    let mut code = vec![
        movz_high(0, 0xc400),
        movk(0, 3),
        movz(1, 1),
        0x1000_0122, // adr x2, . + 36
        0xd400_0003, // smc #0
        movz_high(3, 0x0900),
        0xb940_0063, // ldr w3, [x3]
    ];
    code.extend(psci(8));
    code.push(LOOP);
    code.extend([LOOP; 2]);
    let wait = 3 + 36 / 4;
    code.resize(wait, LOOP);
    code.extend([WFI, LOOP]);
    for (paged, early) in [(false, 2), (false, 1), (true, 2)] {
        let memory = paged.then(|| vec![(BASE, SIZE)]);
        let mut guest = Guest::with_early_vcpus(&code, 2, early, memory);
        guest.run(1);
        // Its load comes out while the other goes to sleep.
        assert_eq!(guest.mmio().written, None);
        std::thread::sleep(Duration::from_millis(200));
        guest.run(0);
        match (paged, early, guest.event()) {
            (false, 2, Event::Vcpu(1, VcpuExit::Spins)) => {}
            (true, 2, Event::Exited(exit)) => assert_eq!(exit.exit_type, 1),
            // One that was added later does not lose it.
            (false, 1, Event::Exited(exit)) => assert_eq!(exit.exit_type, 1),
            (_, _, other) => panic!("{other:?}"),
        }
        guest.vm.stop();
    }
}

#[test]
fn a_cpu_that_was_off_begins_anew() {
    // The first turns the second on, waits until it is off, and does so again.
    let code = [
        movz(5, 2),
        movz_high(0, 0xc400), // CPU_ON
        movk(0, 3),
        movz(1, 1),
        0x1000_01c2, // adr x2, . + 56
        movz(3, 7),
        HVC,
        0xb5ff_ff40,          // cbnz x0, . - 24: it is on still
        movz_high(0, 0xc400), // AFFINITY_INFO
        movk(0, 4),
        movz(1, 1),
        HVC,
        0xb4ff_ff80, // cbz x0, . - 16: on
        0xf100_04a5, // subs x5, x5, #1
        0x54ff_fe61, // b.ne . - 52
        0xd503_207f, // wfi
        0x17ff_ffff,
        LOOP,
        // The second, at 72: VBAR_EL1 and x0.
        0xd538_c001, // mrs x1, vbar_el1
        0xb400_0041, // cbz x1, . + 8
        LOOP,
        0x1000_0001, // adr x1, .
        0xd518_c001, // msr vbar_el1, x1
        movz_high(2, 0x0900),
        0xb900_0040,          // str w0, [x2]
        movz_high(0, 0x8400), // CPU_OFF
        movk(0, 2),
        HVC,
    ];
    let mut guest = Guest::new(&code, 2);
    guest.run(0);
    for _ in 0..2 {
        guest.run(1);
        match guest.event() {
            Event::Vcpu(1, VcpuExit::Mmio(access)) => assert_eq!(access.written, Some(7)),
            other => panic!("{other:?}"),
        }
    }
    guest.run(1);
    guest.vm.stop();
}

#[test]
fn a_guest_translates_its_own_addresses() {
    let mut guest = with_vector(&[
        0x1007_ffc1, // adr x1, . + 0xfff8: a table for 39 bits of address
        0xd280_80a2, // mov x2, #0x405: device memory at 0
        0xf900_0022, // str x2, [x1]
        0xd2b0_0002, // mov x2, #0x80000000
        0xb240_0042, // orr x2, x2, #1
        0xb276_0042, // orr x2, x2, #0x400
        0xf900_0822, // str x2, [x1, #16]: and main memory
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
        0xd2a1_2006, // mov x6, #0x9000000
        0x5280_0822, // mov w2, #0x41
        0x3900_00c2, // strb w2, [x6]
        0xd538_4602, // mrs x2, S3_0_C4_C6_0: ICC_PMR_EL1
        0xb900_00c2, // str w2, [x6]
        0xd2c0_0023, // mov x3, #0x100000000
        0xf940_0063, // ldr x3, [x3]: not in the table
    ]);
    assert_eq!(guest.mmio().written, Some(0x41));
    assert_eq!(guest.mmio().written, Some(0));
    // A data abort of the current level: a translation fault of level 1.
    assert_eq!(guest.mmio().written, Some(0x9600_0005));
    guest.vm.stop();
}

/// Takes interrupts: x5 is the UART, x2 is 1; private interrupts 3 and 27 are enabled. `vector` is
/// that of interrupts.
fn with_interrupts(code: &[u32], vector: &[u32]) -> Guest {
    let mut all = vec![
        0x1000_4001, // adr x1, . + 0x800
        0xd518_c001, // msr vbar_el1, x1
        movz(2, 1),
        0xd518_cce2, // msr icc_igrpen1_el1, x2
        movz_high(5, 0x0900),
        movz_high(3, 0x3ffe), // the redistributor's second frame
        movz_high(4, 0x0800),
        0xb27d_0084, // orr x4, x4, #8
        0xb901_0064, // str w4, [x3, #0x100]: GICR_ISENABLER0
        0xd503_42ff, // msr daifclr, #2
    ];
    all.extend(code);
    all.resize(0xa80 / 4, LOOP);
    all.extend(vector);
    Guest::new(&all, 1)
}

#[test]
fn the_timer_interrupts_a_guest_that_waits_and_one_that_works() {
    for waits in [WFI, LOOP] {
        let mut guest = with_interrupts(
            &[
                movz_high(4, 1),
                0xd51b_e304, // msr cntv_tval_el0, x4: a millisecond
                0xd51b_e322, // msr cntv_ctl_el0, x2
                waits,
                0xb900_00a2, // str w2, [x5]
                LOOP,
            ],
            &[
                0xd538_cc06, // mrs x6, icc_iar1_el1
                0xb900_00a6, // str w6, [x5]
                0xd53b_e327, // mrs x7, cntv_ctl_el0
                0xb900_00a7, // str w7, [x5]
                0xd53b_e307, // mrs x7, cntv_tval_el0
                0xd35f_fce7, // lsr x7, x7, #31
                0xb900_00a7, // str w7, [x5]
                0xd51b_e33f, // msr cntv_ctl_el0, xzr
                0xd518_cc26, // msr icc_eoir1_el1, x6
                0xd538_cc06, // mrs x6, icc_iar1_el1
                0xb900_00a6, // str w6, [x5]
                0xd538_4028, // mrs x8, elr_el1
                0xb900_00a8, // str w8, [x5]
                0xd69f_03e0, // eret
            ],
        );
        assert_eq!(guest.mmio().written, Some(27));
        // Enabled, and its condition is met; so less than nothing is left.
        assert_eq!(guest.mmio().written, Some(5));
        assert_eq!(guest.mmio().written, Some(1));
        // Off, the line is low: nothing more is pending.
        assert_eq!(guest.mmio().written, Some(1023));
        let wfi = 0x8000_0000 + 13 * 4;
        assert_eq!(guest.mmio().written, Some(if waits == WFI { wfi + 4 } else { wfi }));
        if waits == WFI {
            assert_eq!(guest.mmio().written, Some(1));
        }
        guest.vm.stop();
    }
}

#[test]
fn a_guest_interrupts_itself() {
    let mut guest = with_interrupts(
        &[
            movz_high(4, 0x0300),
            0xb240_0084, // orr x4, x4, #1
            0xd518_cba4, // msr icc_sgi1r_el1, x4: interrupt 3 for CPU 0
            0xd538_c904, // mrs x4, icc_ap1r0_el1
            0xd518_c884, // msr icc_ap0r0_el1, x4
            0xb900_00a2, // str w2, [x5]
            LOOP,
        ],
        &[
            0xd538_cc06, // mrs x6, icc_iar1_el1
            0xb900_00a6, // str w6, [x5]
            0xd518_cc26, // msr icc_eoir1_el1, x6
            0xd69f_03e0, // eret
        ],
    );
    assert_eq!(guest.mmio().written, Some(3));
    assert_eq!(guest.mmio().written, Some(1));
    guest.vm.stop();
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
    with_vector_code(&all)
}

#[test]
fn el0_has_its_exceptions_and_no_more_than_el0_may() {
    let mut code = translated(
        &[
            0xb27a_0063, // orr x3, x3, #0x40: for EL0, too
            0xf900_0c23, // str x3, [x1, #24]: main memory again at 0xc0000000
        ],
        &[
            0xd518_401f, // msr spsr_el1, xzr
            0x1000_00a1, // adr x1, . + 20
            0xb262_0021, // orr x1, x1, #0x40000000
            0xd518_4021, // msr elr_el1, x1
            0xd69f_03e0, // eret
            0xd503_201f, // nop
            0xd400_00e1, // svc #7: EL0 begins
            0xd2c0_0020, // mov x0, #0x100000000
            0xf940_0000, // ldr x0, [x0]: not in the table
            0xd2b0_0000, // mov x0, #0x80000000
            0xf900_0000, // str x0, [x0]: EL1's
            0xd538_cc00, // mrs x0, icc_iar1_el1
            0xd53b_e320, // mrs x0, cntv_ctl_el0
            HVC,
            LOOP,
        ],
    );
    // The vector for synchronous exceptions from below: what they tell; an abort's instruction is
    // left out.
    code.resize(0xc00 / 4, LOOP);
    code.extend([
        0xd538_520a, // mrs x10, esr_el1
        0xd2a1_200c, // mov x12, #0x9000000
        0xb900_018a, // str w10, [x12]
        0xd538_600a, // mrs x10, far_el1
        0xf900_018a, // str x10, [x12]
        0xd538_402b, // mrs x11, elr_el1
        0xd538_520a, // mrs x10, esr_el1
        0xd35a_fd4a, // lsr x10, x10, #26
        0xf100_555f, // cmp x10, #0x15
        0x5400_0060, // b.eq . + 12
        0x9100_116b, // add x11, x11, #4
        0xd518_402b, // msr elr_el1, x11
        0xd69f_03e0, // eret
    ]);
    let mut guest = Guest::new(&code, 1);
    for (esr, far) in [
        (0x5600_0007, 0),
        (0x9200_0005, 0x1_0000_0000),
        (0x9200_004d, 0x8000_0000),
        // The interrupt controller's, the timer's, a hypervisor call.
        (0x0200_0000, 0x8000_0000),
        (0x6232_f807, 0x8000_0000),
        (0x0200_0000, 0x8000_0000),
    ] {
        let told = guest.mmio().written.unwrap();
        assert_eq!(told, esr, "{told:#x} for {esr:#x}");
        assert_eq!(guest.mmio().written, Some(far), "{esr:#x}");
    }
    guest.vm.stop();
}

#[test]
fn a_guest_asks_for_a_translation_table_that_it_does_not_have() {
    let code = translated(
        &[
            0xd2b0_0023, // mov x3, #0x80010000
            0xd290_0064, // mov x4, #0x8003
            0xaa04_0063, // orr x3, x3, x4
            0xf900_1023, // str x3, [x1, #32]: a table for 0x100000000
        ],
        &[
            0xd2c0_0020, // mov x0, #0x100000000
            0xf940_0000, // ldr x0, [x0]
            LOOP,
        ],
    );
    let mut guest = Guest::with_memory(&code, 1, Some(vec![(BASE, 0x1_1000)]));
    assert_eq!(guest.fault(), (0x8001_8000, false));
    assert_eq!(guest.fault(), (0x8001_8000, false));
    guest.vm.provide(0x8001_8000, 0x1000);
    // It is empty: a translation fault of level 2.
    assert_eq!(guest.mmio().written, Some(0x9600_0006));
    guest.vm.stop();
}
