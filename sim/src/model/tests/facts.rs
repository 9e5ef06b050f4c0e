// SPDX-License-Identifier: Apache-2.0
//! Where dialects differ, and what the resource manager and the guest find.

use super::*;

/// The verdict of a START, and the notes on its way.
fn started(model: &mut Model, vm: VmId) -> (Result<(), Errno>, Vec<Value>) {
    model.take_notes();
    let result = match model.start(vm) {
        StartStep::Go(_) => Ok(()),
        StartStep::Answer(Err(errno)) => Err(errno),
        other => panic!("{other:?}"),
    };
    let notes = model.take_notes().into_iter().map(|(_, note)| note);
    (result, notes.collect())
}

#[test]
fn old_lookups_cut_the_devicetrees_size_to_32_bits() {
    let page = crate::page_size();
    for (dialect, leaks) in [
        (Dialect::Lkml, false),
        (Dialect::Ack61, false),
        (Dialect::Ack66, true),
    ] {
        let (mut model, vm, _memory) = ready(dialect, Access::Share, true);
        let size = (1 << 32) + 16 * page;
        set_dtb(&mut model, vm, BASE + 48 * page, size).unwrap();
        let (result, notes) = started(&mut model, vm);
        assert_eq!(result, Err(Errno::EINVAL));
        let leaked = notes.iter().any(|note| note["event"] == "vmid-leaked");
        assert_eq!(leaked, leaks, "{dialect} {notes:?}");
    }
}

#[test]
fn newer_lookups_round_the_devicetrees_size_up() {
    let page = crate::page_size();
    let (mut model, vm, _memory) = ready(Dialect::Ack66, Access::Lend, true);
    // Its last page is not in the region, though its bytes are.
    set_dtb(&mut model, vm, BASE + 48 * page + 8, 16 * page - 8).unwrap();
    let (result, notes) = started(&mut model, vm);
    assert_eq!(result, Err(Errno::EINVAL));
    assert!(notes.iter().any(|note| note["event"] == "vmid-leaked"));
}

#[test]
fn a_further_region_only_records_with_newer_drivers() {
    for (dialect, expected) in [
        (Dialect::Ack61, Err(Errno::EINVAL)),
        (Dialect::Ack66, Ok(())),
    ] {
        let (mut model, vm, memory) = ready(dialect, Access::Lend, true);
        let mut again = memory.region(2, 0x9000_0000);
        again.flags = 0;
        let me = Caller::myself();
        model
            .memory(vm, me, address(&again), Access::Share)
            .unwrap();
        assert_eq!(started(&mut model, vm).0, expected, "{dialect}");
    }
}

#[test]
fn what_newer_drivers_share_is_never_executable() {
    for (dialect, access, flags) in [
        (Dialect::Ack61, Access::Share, 7),
        (Dialect::Ack66, Access::Share, 3),
        (Dialect::Ack66, Access::Lend, 7),
    ] {
        let (mut model, vm, _memory) = ready(dialect, access, true);
        assert_eq!(run_to(&mut model, vm).regions[0].flags, flags);
    }
}

#[test]
fn the_guests_first_page_is_faulted_in_by_newer_drivers() {
    let me = Caller::myself();
    let page = crate::page_size();
    let (mut model, vm, _memory) = ready(Dialect::Ack66, Access::Lend, true);
    add_vcpu(&mut model, vm, 0).unwrap();
    run_to(&mut model, vm);
    model.started(vm);
    assert_eq!(model.charged(me.pid), 16 * page);
    assert!(matches!(model.vcpu_run(vm, me, 0, false), RunStep::Run));
    assert_eq!(model.charged(me.pid), 17 * page);
    assert!(matches!(model.vcpu_run(vm, me, 0, false), RunStep::Run));
    assert_eq!(model.charged(me.pid), 17 * page);

    let (mut model, vm, memory) = ready(Dialect::Ack66, Access::Lend, true);
    add_vcpu(&mut model, vm, 0).unwrap();
    run_to(&mut model, vm);
    model.started(vm);
    drop(memory);
    assert!(matches!(
        model.vcpu_run(vm, me, 0, false),
        RunStep::Fault(BASE, Errno::EFAULT)
    ));
}

#[test]
fn a_late_failure_is_a_crash_to_the_vcpus() {
    let (mut model, vm, _memory) = ready(Dialect::Ack61, Access::Lend, true);
    add_vcpu(&mut model, vm, 0).unwrap();
    run_to(&mut model, vm);
    model.refused(vm);
    let step = model.vcpu_run(vm, Caller::myself(), 0, false);
    let RunStep::Ended(exit) = step else {
        panic!("{step:?}");
    };
    assert_eq!(exit.status, uapi::STATUS_CRASHED);
    assert_eq!(refusal(&mut model, vm), Errno::ENODEV);
}

#[test]
fn the_overlay_wants_room_whatever_the_engine() {
    let page = crate::page_size();
    for (filler, expected) in [(100, Ok(())), (16 * page - 900, Err(Errno::ENODEV))] {
        let (mut model, vm, memory) = ready(Dialect::Ack61, Access::Lend, true);
        let mut tree = crate::fdt::parse(&devicetree(BASE, true)).unwrap();
        let filler = "x".repeat(usize::try_from(filler).unwrap());
        tree.root.set_strings("filler", &[&filler]);
        memory.put(48 * page, &tree.to_blob().unwrap());
        assert_eq!(started(&mut model, vm).0, expected);
    }
}

#[test]
fn a_vcpu_that_the_devicetree_lacks_is_the_hosts_oops() {
    let (mut model, vm, _memory) = ready(Dialect::Ack61, Access::Lend, true);
    add_vcpu(&mut model, vm, 0).unwrap();
    add_vcpu(&mut model, vm, 1).unwrap();
    assert!(!model.vm(vm).unwrap().oopses());
    run_to(&mut model, vm);
    model.started(vm);
    assert!(model.vm(vm).unwrap().oopses());
}

#[test]
fn newer_drivers_tell_of_a_vm_from_its_start_to_its_release() {
    let (mut model, vm, _memory) = ready(Dialect::Ack66, Access::Lend, true);
    assert_eq!(model.farewell(vm), None);
    let (_, notes) = started(&mut model, vm);
    assert_eq!(
        (&notes[0]["EVENT"], &notes[0]["vm_id"]),
        (&"create".into(), &vm.into())
    );
    model.started(vm);
    let exit_type = |model: &Model| model.farewell(vm).unwrap()["vm_exit"].clone();
    assert_eq!(exit_type(&model), 7);
    model.exited(vm, Exit::of_type(2));
    assert_eq!(exit_type(&model), 2);
    let (mut old, vm, _memory) = ready(Dialect::Ack61, Access::Lend, true);
    let (_, notes) = started(&mut old, vm);
    assert!(notes.iter().all(|note| note["event"] != "uevent"));
    assert_eq!(old.farewell(vm), None);
}

#[test]
fn the_resource_manager_does_one_thing_after_the_other() {
    let (mut model, vm, _memory) = ready(Dialect::Ack61, Access::Lend, false);
    let second = model.create_vm(Caller::myself(), 0).unwrap();
    run_to(&mut model, vm);
    model.started(vm);
    assert!(!model.rm_is_busy(second));
    assert!(!model.stop_kills_rm(vm));
    model.settings.rm = rm::Kind::Fragile;
    assert!(model.stop_kills_rm(vm));
    assert!(model.closed(vm) && !model.closed(vm));
    assert!(model.rm_is_busy(second));
    model.remove(vm);
    assert!(!model.rm_is_busy(second));
}
