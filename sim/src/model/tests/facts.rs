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
    for dialect in [Dialect::Lkml, Dialect::Ack61] {
        let (mut model, vm, _memory) = ready(dialect, Access::Share, true);
        let size = (1 << 32) + 16 * page;
        set_dtb(&mut model, vm, BASE + 48 * page, size).unwrap();
        let (result, notes) = started(&mut model, vm);
        assert_eq!(result, Err(Errno::EINVAL));
        assert!(notes.iter().all(|note| note["event"] != "vmid-leaked"));
    }
}

#[test]
fn a_further_region_only_records_with_newer_drivers() {
    for (dialect, expected) in [(Dialect::Ack61, Err(Errno::EINVAL)), (Dialect::Ack66, Ok(()))] {
        let (mut model, vm, memory) = ready(dialect, Access::Lend, true);
        let mut again = memory.region(2, 0x9000_0000);
        again.flags = 0;
        let me = Caller::myself();
        model.memory(vm, me, address(&again), Access::Share).unwrap();
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
fn the_newest_drivers_tell_of_a_vm_from_its_start_to_its_release() {
    let (mut model, vm, _memory) = ready(Dialect::Ack612, Access::Lend, true);
    // Also for a VM that was never started.
    assert_eq!(model.farewell(vm).unwrap()["vm_id"], 0);
    let (_, notes) = started(&mut model, vm);
    assert_eq!((&notes[0]["EVENT"], &notes[0]["vm_id"]), (&"create".into(), &vm.into()));
    model.started(vm);
    let exit_type = |model: &Model| model.farewell(vm).unwrap()["vm_exit"].clone();
    assert_eq!(exit_type(&model), 7);
    model.exited(vm, Exit::of_type(2));
    assert_eq!(exit_type(&model), 2);
    for dialect in [Dialect::Ack61, Dialect::Ack66] {
        let (mut old, vm, _memory) = ready(dialect, Access::Lend, true);
        let (_, notes) = started(&mut old, vm);
        assert!(notes.iter().all(|note| note["event"] != "uevent"));
        assert_eq!(old.farewell(vm), None);
    }
}

#[test]
fn the_resource_manager_does_one_thing_after_the_other() {
    let (mut model, vm, _memory) = ready(Dialect::Ack61, Access::Lend, false);
    let second = model.create_vm(Caller::myself(), 0).unwrap();
    run_to(&mut model, vm);
    model.started(vm);
    assert!(!model.rm_is_busy(second));
    assert!(!model.stop_kills_rm(vm));
    for kind in [rm::Kind::Old, rm::Kind::OldProduction, rm::Kind::Fragile] {
        model.settings.rm = kind;
        assert!(model.stop_kills_rm(vm));
    }
    model.settings.rm = rm::Kind::Debug;
    assert!(model.closed(vm) && !model.closed(vm));
    assert!(model.rm_is_busy(second));
    model.remove(vm);
    assert!(!model.rm_is_busy(second));
}

#[test]
fn a_failed_start_can_take_the_old_resource_manager_along() {
    for (kind, proxy, lost) in [
        (rm::Kind::OldProduction, false, true),
        (rm::Kind::OldProduction, true, false),
        (rm::Kind::Production, false, false),
    ] {
        let (mut model, vm, _memory) = ready(Dialect::Ack61, Access::Share, proxy);
        model.settings.rm = kind;
        assert_eq!(refusal(&mut model, vm), Errno::ENODEV);
        assert_eq!(model.manager_lost(), lost, "{kind:?} {proxy}");
    }
}
