// SPDX-License-Identifier: Apache-2.0
//! Memory that is given page by page.

use super::*;

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
