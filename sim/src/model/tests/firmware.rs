// SPDX-License-Identifier: Apache-2.0
//! SET_FW_CONFIG: which START takes it, where the guest then begins, and what it finds there.

use super::*;

const PAGE: u64 = 4096;
const FIRMWARE: u64 = BASE - 16 * PAGE;
static IMAGE: [u8; 8192] = [0xa5; 8192];

/// A VM with firmware in a region of its own; `properties` are those of the vm-config's memory.
fn with_firmware(
    settings: Settings,
    properties: &[(&str, u64)],
    range: (u64, u64),
) -> (Model, VmId, [Memory; 2]) {
    let mut model = Model::new(settings);
    let me = Caller::myself();
    let vm = model.create_vm(me, 0).unwrap();
    let memories = [Memory::new(64), Memory::new(16)];
    memories[0].put(48 * PAGE, &devicetree_with(BASE, true, properties));
    memories[1].put(0, &[1; 65536]);
    for (memory, (label, at)) in memories.iter().zip([(0, BASE), (1, FIRMWARE)]) {
        let region = memory.region(label, at);
        model.memory(vm, me, address(&region), Access::Lend).unwrap();
    }
    let range = GuestRange { guest_phys_addr: range.0, size: range.1 };
    model.set_fw_config(vm, me, address(&range)).unwrap();
    set_dtb(&mut model, vm, BASE + 48 * PAGE, 16 * PAGE).unwrap();
    add_vcpu(&mut model, vm, 0).unwrap();
    (model, vm, memories)
}

fn settings(dialect: Dialect) -> Settings {
    Settings { dialect, rm: rm::Kind::of(dialect), firmware: Some(&IMAGE), ..Settings::default() }
}

const GOOD: &[(&str, u64)] = &[("firmware-address", FIRMWARE)];
const WHOLE: (u64, u64) = (FIRMWARE, 16 * PAGE);
const ANDROID: [Dialect; 4] =
    [Dialect::Ack61, Dialect::Ack66Early, Dialect::Ack66, Dialect::Ack612];

#[test]
fn the_guest_begins_in_what_the_boot_loader_gave() {
    for dialect in ANDROID {
        let (mut model, vm, memories) = with_firmware(settings(dialect), GOOD, WHOLE);
        if dialect.since_66() {
            // Taken, and of no effect.
            let pc = BootContext { reg: 0x100, reserved: 0, value: BASE };
            model.set_boot_context(vm, Caller::myself(), address(&pc)).unwrap();
        }
        let start = run_to(&mut model, vm);
        assert_eq!((start.entry.pc, start.entry.x0), (FIRMWARE, BASE + 48 * PAGE), "{dialect}");
        let image = if dialect.since_66() { BASE + 48 * PAGE } else { BASE };
        assert_eq!(start.boot_context, [(1, image), (2, 0)]);
        assert_eq!(model.vm(vm).unwrap().entry, FIRMWARE);
        // Its bytes and zeros, whatever the host had put there.
        let mut found = vec![9; 65536];
        Caller::myself().read_bytes(memories[1].at.as_ptr() as u64, &mut found).unwrap();
        assert_eq!(found[..IMAGE.len()], IMAGE);
        assert!(found[IMAGE.len()..].iter().all(|&byte| byte == 0));
        if dialect.since_66() {
            // Handed over as the devicetree is, and charged.
            assert!(model.vm(vm).unwrap().provided_at(FIRMWARE));
            assert_eq!(model.charged(Caller::myself().pid), 32 * PAGE);
        }
    }
}

#[test]
fn what_start_answers_without_it() {
    for (dialect, errno) in [
        (Dialect::Ack61, Errno::EPERM),
        (Dialect::Ack66, Errno::EINVAL),
        (Dialect::Ack612, Errno::EINVAL),
    ] {
        let none = Settings { firmware: None, ..settings(dialect) };
        let (mut model, vm, _memories) = with_firmware(none, GOOD, WHOLE);
        assert_eq!(refusal(&mut model, vm), errno, "{dialect}");
        assert_eq!(refusal(&mut model, vm), Errno::ENODEV);
    }
}

#[test]
fn its_place_is_the_devicetrees_affair() {
    for dialect in ANDROID {
        for properties in [
            &[][..],
            &[("firmware-address", FIRMWARE + 8)],
            // Each grows into the other one.
            &[("firmware-address", FIRMWARE), ("firmware-size-max", 0x1000_0000)],
            &[("firmware-address", BASE + 48 * PAGE)],
        ] {
            let (mut model, vm, _memories) = with_firmware(settings(dialect), properties, WHOLE);
            assert_eq!(refusal(&mut model, vm), Errno::EINVAL, "{dialect} {properties:?}");
        }
        // Larger than its range.
        let small = (FIRMWARE, PAGE);
        let (mut model, vm, _memories) = with_firmware(settings(dialect), GOOD, small);
        assert_eq!(refusal(&mut model, vm), Errno::EINVAL, "{dialect}");
    }
}

#[test]
fn a_range_in_no_region_has_an_errno_of_each_driver() {
    let nowhere = (0x1000_0000, PAGE);
    for (dialect, errno) in [
        (Dialect::Ack61, Errno::EINVAL),
        (Dialect::Ack66, Errno::ENOENT),
        (Dialect::Ack612, Errno::ENODEV),
    ] {
        let (mut model, vm, _memories) = with_firmware(settings(dialect), GOOD, nowhere);
        assert_eq!(refusal(&mut model, vm), errno, "{dialect}");
        // 6.12 has a number for it by then, and leaves its state as it was: it may be asked again.
        let right = GuestRange { guest_phys_addr: WHOLE.0, size: WHOLE.1 };
        model.set_fw_config(vm, Caller::myself(), address(&right)).unwrap();
        match dialect {
            Dialect::Ack612 => drop(run_to(&mut model, vm)),
            _ => assert_eq!(refusal(&mut model, vm), Errno::ENODEV),
        }
    }
}

#[test]
fn a_refused_parcel_of_it_is_the_end_or_not() {
    for (dialect, errno, state) in [
        (Dialect::Ack66, Errno::EINVAL, State::Failed),
        (Dialect::Ack612, Errno::ENODEV, State::Configuring),
    ] {
        let at = 0x9000_0000;
        let (mut model, vm, memories) = with_firmware(settings(dialect), GOOD, (at, 16 * PAGE));
        // No permissions: the resource manager refuses to have it lent.
        let region = UserMemoryRegion { flags: 0, ..memories[1].region(2, at) };
        let me = Caller::myself();
        model.memory(vm, me, address(&region), Access::Lend).unwrap();
        assert_eq!(refusal(&mut model, vm), errno, "{dialect}");
        assert_eq!(model.vm(vm).unwrap().state, state, "{dialect}");
        assert_eq!(refusal(&mut model, vm), Errno::ENODEV, "{dialect}");
    }
}

#[test]
fn extensions_are_asked_by_their_number_where_there_are_any() {
    for (dialect, answer, wanted) in [
        (Dialect::Ack66, Some(1), Err(Errno::ENOTTY)),
        (Dialect::Ack612, None, Err(Errno::ENOTTY)),
        (Dialect::Ack612, Some(0), Ok(0)),
        (Dialect::Ack612, Some(1), Ok(1)),
    ] {
        let model = Model::new(Settings { timer_wakeups: answer, ..settings(dialect) });
        assert_eq!(model.check_extension(0), wanted, "{dialect} {answer:?}");
        assert_eq!(model.check_extension(7), wanted.map(|_| 0));
    }
}
