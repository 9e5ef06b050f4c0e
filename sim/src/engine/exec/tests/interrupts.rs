// SPDX-License-Identifier: Apache-2.0
//! Interrupts: doorbells, the timer, those that a guest sends itself.

use super::*;

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
