// SPDX-License-Identifier: Apache-2.0
//! CPUs of a guest: PSCI, and how a guest ends.

use super::*;

#[test]
fn reset_has_its_type() {
    let mut guest = Guest::new(&psci(9), 1);
    assert_eq!(guest.end(), Exit::of_type(uapi::EXIT_TYPE_SYSTEM_RESET));
    guest.vm.stop();
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
    // CPU_ON of the second, which waits; the first switches off when it is told to go on.
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
        // Its load comes out; the other goes to sleep.
        assert_eq!(guest.mmio().written, None);
        let second = Arc::clone(guest.vm.link(1).unwrap());
        eventually(|| second.is_idle().then_some(()));
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
