// SPDX-License-Identifier: Apache-2.0
//! What a guest cannot do and is told of: its exceptions, its own translation, EL0.

use super::*;

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
fn accesses_without_a_syndrome_are_aborts() {
    for access in [
        0xa940_08c0, // ldp x0, x2, [x6]
        0x2900_08c0, // stp w0, w2, [x6]
        0xb840_44c0, // ldr w0, [x6], #4
    ] {
        let code = with_vector(&[movz_high(6, 0x0900), access]);
        let mut guest = Guest::new(&code, 1);
        // A synchronous external abort of the current level, on a read or on a write.
        let esr = guest.mmio().written.unwrap();
        assert_eq!(esr & !(1 << 6), 0x9600_0010, "{access:#x}: {esr:#x}");
        guest.vm.stop();
    }
}

#[test]
fn an_access_that_its_caller_refuses_is_an_abort() {
    let code = with_vector(&[movz_high(6, 0x0a00), 0xb940_00c0]); // ldr w0, [x6]
    let mut guest = Guest::with_memory(&code, 1, Some(vec![(BASE, SIZE)]));
    assert_eq!(guest.mmio().address, 0x0a00_0000);
    nix::sys::uio::pwrite(&guest.pages[0].1, &[uapi::RESUME_FAULT], 37).unwrap();
    assert_eq!(guest.mmio().written, Some(0x9600_0010));
    guest.vm.stop();
}

#[test]
fn a_guest_translates_its_own_addresses() {
    let code = translated(
        &[],
        &[
            0xd2a1_2006, // mov x6, #0x9000000
            0x5280_0822, // mov w2, #0x41
            0x3900_00c2, // strb w2, [x6]
            0xd538_4602, // mrs x2, S3_0_C4_C6_0: ICC_PMR_EL1
            0xb900_00c2, // str w2, [x6]
            0xd2c0_0023, // mov x3, #0x100000000
            0xf940_0063, // ldr x3, [x3]: not in the table
        ],
    );
    let mut guest = Guest::new(&code, 1);
    assert_eq!(guest.mmio().written, Some(0x41));
    assert_eq!(guest.mmio().written, Some(0));
    // A data abort of the current level: a translation fault of level 1.
    assert_eq!(guest.mmio().written, Some(0x9600_0005));
    guest.vm.stop();
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
