// SPDX-License-Identifier: Apache-2.0
//! Since 6.6: what START pins and refuses, and how faults are served.

use super::*;

const PAGE: u64 = 4096;
const DTB: u64 = BASE + 48 * PAGE;

fn refused(model: &mut Model, vm: VmId) -> (Errno, Vec<Value>) {
    model.take_notes();
    let errno = refusal(model, vm);
    (errno, model.take_notes().into_iter().map(|(_, note)| note).collect())
}

fn set_context(model: &mut Model, vm: VmId, reg: u32, value: u64) {
    let given = BootContext { reg, reserved: 0, value };
    model.set_boot_context(vm, Caller::myself(), address(&given)).unwrap();
}

/// Runs, its first vCPU there.
fn running(dialect: Dialect) -> (Model, VmId, Memory) {
    let (mut model, vm, memory) = ready(dialect, Access::Lend, true);
    add_vcpu(&mut model, vm, 0).unwrap();
    run_to(&mut model, vm);
    model.started(vm);
    (model, vm, memory)
}

#[test]
fn the_guest_begins_at_the_devicetrees_folio() {
    let (mut model, vm, _memory) = ready(Dialect::Ack66, Access::Lend, true);
    let start = run_to(&mut model, vm);
    assert_eq!((start.entry.pc, start.entry.x0), (DTB, DTB));
    assert_eq!(start.paged.as_ref().unwrap().len(), 16);
    assert_eq!(start.regions[0].placed_at, Some(BASE));
    let (mut model, vm, _memory) = ready(Dialect::Ack61, Access::Lend, true);
    let start = run_to(&mut model, vm);
    assert_eq!((start.entry.pc, start.entry.x0), (BASE, DTB));
    assert_eq!(start.paged, None);
}

#[test]
fn start_has_errnos_of_its_own() {
    for (at, size, errno) in [
        (DTB, PAGE - 1, Errno::EINVAL),
        (0x1000, PAGE, Errno::ENOENT),
        (0, 0, Errno::EINVAL),
        (DTB + 64, 15 * PAGE, Errno::EINVAL),
        // The fraction of a page is not pinned, but told.
        (DTB, 15 * PAGE + 100, Errno::EINVAL),
    ] {
        let (mut model, vm, _memory) = ready(Dialect::Ack66, Access::Lend, true);
        set_dtb(&mut model, vm, at, size).unwrap();
        assert_eq!(refused(&mut model, vm).0, errno, "{at:#x}+{size:#x}");
        // For good, and too late for a boot context.
        assert_eq!(refused(&mut model, vm).0, Errno::ENODEV);
        let step = model.vcpu_run(vm, Caller::myself(), 0, false);
        assert!(matches!(step, RunStep::Errno(Errno::ENODEV)));
    }
}

#[test]
fn the_devicetrees_memory_is_lent_with_all_permissions() {
    for (flags, errno) in [(3, Errno::ENODEV), (5, Errno::ENODEV), (0, Errno::EINVAL)] {
        let (mut model, _, memory) = ready(Dialect::Ack66, Access::Lend, true);
        let second = model.create_vm(Caller::myself(), 0).unwrap();
        let region = UserMemoryRegion { flags, ..memory.region(1, BASE) };
        model.memory(second, Caller::myself(), address(&region), Access::Lend).unwrap();
        set_dtb(&mut model, second, DTB, 16 * PAGE).unwrap();
        add_vcpu(&mut model, second, 0).unwrap();
        let (got, notes) = refused(&mut model, second);
        assert_eq!(got, errno);
        let lost = notes.iter().find(|note| note["event"] == "lost").unwrap();
        assert_eq!(lost["bytes"], 16 * PAGE);
        // Refused after the vCPUs had their resources, it is a crash to them.
        let step = model.vcpu_run(second, Caller::myself(), 0, false);
        let crashed = matches!(step, RunStep::Ended(exit) if exit.status == uapi::STATUS_CRASHED);
        assert_eq!(crashed, errno == Errno::ENODEV);
    }
}

#[test]
fn an_old_resource_manager_knows_no_paging() {
    let (mut model, vm, _memory) = ready(Dialect::Ack66, Access::Lend, true);
    model.settings.rm = rm::Kind::Old;
    let (errno, notes) = refused(&mut model, vm);
    assert_eq!(errno, Errno::EOPNOTSUPP);
    assert!(notes.iter().any(|note| note["vmid"] == true));
}

#[test]
fn numbers_that_failed_starts_lose_run_out() {
    let mut model = model(Dialect::Ack612);
    model.settings.rm = rm::Kind::Old;
    let memory = Memory::new(64);
    memory.put(48 * PAGE, &devicetree(BASE, true));
    let me = Caller::myself();
    let start = |model: &mut Model| {
        let vm = model.create_vm(me, 0).unwrap();
        let region = memory.region(1, BASE);
        model.memory(vm, me, address(&region), Access::Lend).unwrap();
        set_dtb(model, vm, DTB, 16 * PAGE).unwrap();
        let errno = refusal(model, vm);
        let state = model.vm(vm).unwrap().state;
        model.remove(vm);
        (errno, state)
    };
    for _ in 0..VMIDS {
        assert_eq!(start(&mut model), (Errno::EOPNOTSUPP, State::Failed));
    }
    // Nothing has begun: it may be tried again.
    assert_eq!(start(&mut model), (Errno::ENODEV, State::Configuring));
}

#[test]
fn neither_chosen_nor_base_address_is_demanded() {
    let (mut model, vm, memory) = ready(Dialect::Ack66, Access::Lend, true);
    let mut tree = crate::fdt::parse(&devicetree(BASE, true)).unwrap();
    tree.root.remove_child("chosen");
    let config = tree.root.child_mut("gunyah-vm-config").unwrap();
    config.child_mut("memory").unwrap().remove("base-address");
    memory.put(48 * PAGE, &tree.to_blob().unwrap());
    run_to(&mut model, vm);
}

#[test]
fn more_cpus_than_cores_are_enodev() {
    let (mut model, vm, _memory) = ready(Dialect::Ack66, Access::Lend, true);
    model.set_cores(0);
    assert_eq!(refused(&mut model, vm).0, Errno::ENODEV);
}

#[test]
fn a_large_devicetree_needs_twice_its_size() {
    for (bytes, pages, fits) in
        [(7200, 2, false), (7200, 3, true), (20_000, 8, false), (20_000, 11, true)]
    {
        let (mut model, vm, memory) = ready(Dialect::Ack66, Access::Lend, true);
        let mut tree = crate::fdt::parse(&devicetree(BASE, true)).unwrap();
        tree.root.set("filler", vec![0; bytes]);
        memory.put(48 * PAGE, &tree.to_blob().unwrap());
        set_dtb(&mut model, vm, DTB, pages * PAGE).unwrap();
        if fits {
            run_to(&mut model, vm);
        } else {
            let errno = refused(&mut model, vm).0;
            assert_eq!(errno, Errno::ENODEV, "{bytes} in {pages}");
        }
    }
}

#[test]
fn each_fault_gives_a_folio_and_charges_a_page() {
    let me = Caller::myself();
    let (mut model, vm, _memory) = running(Dialect::Ack66);
    assert!(matches!(model.vcpu_run(vm, me, 0, false), RunStep::Run));
    assert_eq!(model.charged(me.pid), 16 * PAGE);
    let first = model.page_fault(vm, BASE + 8, false);
    let Paged::Provided { address, size } = first else {
        panic!("{first:?}");
    };
    assert!(address <= BASE && size >= PAGE);
    assert_eq!(model.charged(me.pid), 17 * PAGE);
    // Another vCPU's fault on the same folio.
    assert!(matches!(model.page_fault(vm, BASE, true), Paged::Provided { .. }));
    assert_eq!(model.charged(me.pid), 17 * PAGE);
    // The devicetree's folio is there from the beginning.
    assert!(matches!(model.page_fault(vm, DTB, true), Paged::Provided { .. }));
    assert_eq!(model.charged(me.pid), 17 * PAGE);
}

#[test]
fn a_fault_fails_with_an_errno_for_each_reason() {
    let me = Caller::myself();
    let (mut model, vm, memory) = running(Dialect::Ack66);
    assert_eq!(model.page_fault(vm, 0x9000_0000, false), Paged::Failed(Errno::ENOENT));
    let read_only = UserMemoryRegion { flags: 1, ..memory.region(1, 0xa000_0000) };
    model.memory(vm, me, address(&read_only), Access::Lend).unwrap();
    assert_eq!(model.page_fault(vm, 0xa000_0000, true), Paged::Failed(Errno::EPERM));
    assert!(matches!(model.page_fault(vm, 0xa000_0000, false), Paged::Provided { .. }));
    let nowhere = UserMemoryRegion {
        userspace_addr: 0x1000,
        memory_size: PAGE,
        ..memory.region(1, 0xb000_0000)
    };
    model.memory(vm, me, address(&nowhere), Access::Lend).unwrap();
    assert_eq!(model.page_fault(vm, 0xb000_0000, false), Paged::Failed(Errno::EFAULT));
    let vm_of = model.get(vm).unwrap();
    for piece in &mut vm_of.regions[0].pieces {
        piece.swap_backed = false;
    }
    assert_eq!(model.page_fault(vm, BASE, false), Paged::Failed(Errno::EIO));
}

#[test]
fn without_lent_main_memory_every_fault_is_enodev() {
    let (mut model, vm, _memory) = ready(Dialect::Ack66, Access::Share, true);
    add_vcpu(&mut model, vm, 0).unwrap();
    run_to(&mut model, vm);
    model.started(vm);
    assert_eq!(model.page_fault(vm, BASE, false), Paged::Failed(Errno::ENODEV));
    // Its first instruction is in memory that it may not execute.
    let step = model.vcpu_run(vm, Caller::myself(), 0, false);
    assert!(matches!(step, RunStep::Errno(Errno::EINVAL)));
}

#[test]
fn shared_memory_comes_out_as_mmio_where_it_cannot_be_had() {
    let me = Caller::myself();
    let (mut model, vm, memory) = running(Dialect::Ack66);
    let low = memory.region(2, 0x8_0000);
    model.memory(vm, me, address(&low), Access::Share).unwrap();
    assert_eq!(model.shared_fault(vm, 0x9000_0000), None);
    assert_eq!(model.shared_fault(vm, 0x1000), None);
    assert!(matches!(model.shared_fault(vm, 0x8_0000), Some(Paged::Provided { .. })));
    let vm_of = model.get(vm).unwrap();
    for piece in &mut vm_of.regions[1].pieces {
        piece.swap_backed = false;
    }
    assert_eq!(model.shared_fault(vm, 0x8_1000), None);
}

#[test]
fn shared_memory_above_is_had_where_the_devicetree_reserves_it() {
    let me = Caller::myself();
    let (mut model, vm, memory) = running(Dialect::Ack612);
    let high = memory.region(2, 0x9000_0000);
    model.memory(vm, me, address(&high), Access::Share).unwrap();
    assert_eq!(model.page_fault(vm, 0x9000_0000, true), Paged::Failed(Errno::EINVAL));
    model.get(vm).unwrap().reserved.push((0x9000_0000, PAGE));
    assert!(matches!(model.page_fault(vm, 0x9000_0000, true), Paged::Provided { .. }));
    let beyond = model.page_fault(vm, 0x9000_0000 + PAGE, true);
    assert_eq!(beyond, Paged::Failed(Errno::EINVAL));
}

#[test]
fn a_folio_that_overlaps_another_is_tried_for_ever() {
    let (mut model, vm, _memory) = running(Dialect::Ack66);
    // As a large folio around the page before would lie.
    model.get(vm).unwrap().provided.insert(BASE + PAGE / 2, PAGE / 4);
    assert_eq!(model.page_fault(vm, BASE, false), Paged::Retries);
}

#[test]
fn an_engine_that_tells_of_no_fault_makes_the_first_or_all() {
    let (mut model, vm, memory) = running(Dialect::Ack66);
    assert_eq!(model.touch(vm, false), None);
    assert_eq!(model.touch(vm, true), None);
    drop(memory);

    let (mut model, vm, _memory) = running(Dialect::Ack66);
    assert_eq!(model.touch(vm, true), None);
    assert_eq!(model.charged(Caller::myself().pid), 64 * PAGE);

    let (mut model, vm, memory) = ready(Dialect::Ack66, Access::Lend, true);
    set_context(&mut model, vm, 0x100, BASE);
    run_to(&mut model, vm);
    model.started(vm);
    drop(memory);
    assert_eq!(model.touch(vm, false), Some((BASE, Paged::Failed(Errno::EFAULT))));
}

#[test]
fn a_vm_that_the_hypervisor_schedules_is_busy() {
    let (mut model, vm, _memory) = ready(Dialect::Ack66, Access::Lend, false);
    add_vcpu(&mut model, vm, 0).unwrap();
    run_to(&mut model, vm);
    model.started(vm);
    let step = model.vcpu_run(vm, Caller::myself(), 0, false);
    assert!(matches!(step, RunStep::Errno(Errno::EBUSY)));
}

#[test]
fn probes_answer_by_dialect() {
    use Errno::{EFAULT, ENOTTY};
    let me = Caller::myself();
    for (dialect, lend, context, reclaim) in [
        (Dialect::Lkml, ENOTTY, ENOTTY, ENOTTY),
        (Dialect::LkmlBase, ENOTTY, ENOTTY, ENOTTY),
        (Dialect::Ack61, EFAULT, ENOTTY, ENOTTY),
        (Dialect::Ack66Early, EFAULT, EFAULT, ENOTTY),
        (Dialect::Ack66, EFAULT, EFAULT, ENOTTY),
        (Dialect::Ack612, EFAULT, EFAULT, EFAULT),
    ] {
        let mut model = model(dialect);
        let vm = model.create_vm(me, 0).unwrap();
        assert_eq!(model.memory(vm, me, 0, Access::Lend), Err(lend), "{dialect}");
        assert_eq!(model.set_boot_context(vm, me, 0), Err(context), "{dialect}");
        assert_eq!(model.reclaim_region(vm, me, 0), Err(reclaim), "{dialect}");
    }
    let mut base = model(Dialect::LkmlBase);
    let vm = base.create_vm(me, 0).unwrap();
    assert_eq!(add_vcpu(&mut base, vm, 0), Err(ENOTTY));
}

#[test]
fn a_line_without_a_doorbell_must_not_outlive_its_vm() {
    use std::os::fd::AsRawFd;
    let me = Caller::myself();
    let event = nix::sys::eventfd::EventFd::new().unwrap();
    let line = uapi::FunctionIrqfd {
        fd: u32::try_from(event.as_raw_fd()).unwrap(),
        label: 9,
        flags: 0,
        padding: 0,
    };
    let desc = FunctionDesc { kind: uapi::FUNCTION_IRQFD, arg_size: 16, arg: address(&line) };
    for (dialect, dangles) in [(Dialect::Ack61, 1), (Dialect::Ack66, 0)] {
        let (mut model, vm, _memory) = ready(dialect, Access::Lend, true);
        model.add_function(vm, me, address(&desc)).unwrap();
        assert_eq!(model.dangling_irqfds(vm).len(), dangles, "{dialect}");
        model.take_notes();
        model.remove_function(vm, me, address(&desc)).unwrap();
        assert_eq!(model.take_notes().len(), dangles, "{dialect}");
    }
}

/// Memory that is one large folio, where the kernel gives one and shows it.
fn large_folio() -> Option<(Memory, u64)> {
    const HUGE: u64 = 2 << 20;
    let memory = Memory::new(2 * HUGE / PAGE);
    let first = (memory.at.as_ptr() as u64).next_multiple_of(HUGE);
    // SAFETY: advice for the mapping just made.
    unsafe { libc::madvise(memory.at.as_ptr(), memory.length, libc::MADV_HUGEPAGE) };
    let me = Caller::myself();
    me.fault_in(first, true).unwrap();
    (me.folio(first + 5 * PAGE).size == HUGE).then_some((memory, first))
}

/// A VM in it, its devicetree in 16 pages of the folio from `offset` on.
fn in_a_large_folio(dialect: Dialect, first: u64, offset: u64) -> (Model, VmId) {
    let mut model = model(dialect);
    let me = Caller::myself();
    let vm = model.create_vm(me, 0).unwrap();
    let region = UserMemoryRegion {
        label: 1,
        flags: 7,
        guest_phys_addr: BASE,
        memory_size: 2 << 20,
        userspace_addr: first,
    };
    me.write_bytes(first + offset, &devicetree(BASE, true)).unwrap();
    model.memory(vm, me, address(&region), Access::Lend).unwrap();
    set_dtb(&mut model, vm, BASE + offset, 16 * PAGE).unwrap();
    (model, vm)
}

#[test]
fn the_devicetrees_range_is_widened_to_whole_folios() {
    let Some((_memory, first)) = large_folio() else {
        return;
    };
    let offset = 48 * PAGE;
    let (mut model, vm) = in_a_large_folio(Dialect::Ack66, first, offset);
    let start = run_to(&mut model, vm);
    // It begins at the folio, not at the devicetree.
    assert_eq!((start.entry.pc, start.entry.x0), (BASE, BASE + offset));
    assert_eq!(start.paged, Some(vec![(BASE, 2 << 20)]));
    assert_eq!(model.charged(Caller::myself().pid), 2 << 20);
    // The driver of 6.12 says offset 0, where there is no devicetree.
    let (mut model, vm) = in_a_large_folio(Dialect::Ack612, first, offset);
    assert_eq!(refused(&mut model, vm).0, Errno::EINVAL);
    let (mut model, vm) = in_a_large_folio(Dialect::Ack612, first, 0);
    run_to(&mut model, vm);
    // Early ones of 6.6 do not round, and die of the difference.
    let (mut model, vm) = in_a_large_folio(Dialect::Ack66Early, first, 0);
    assert!(matches!(model.start(vm), StartStep::Panic(_)));
    let (mut model, vm) = in_a_large_folio(Dialect::Ack66Early, first, 0);
    set_dtb(&mut model, vm, BASE, 2 << 20).unwrap();
    run_to(&mut model, vm);
}

#[test]
fn a_folio_that_leaves_its_region_is_given_whole() {
    let Some((_memory, first)) = large_folio() else {
        return;
    };
    let (mut model, vm, _main) = running(Dialect::Ack66);
    let me = Caller::myself();
    let small = UserMemoryRegion {
        label: 2,
        flags: 3,
        guest_phys_addr: 0xa000_0000,
        memory_size: 4 * PAGE,
        userspace_addr: first + 8 * PAGE,
    };
    model.memory(vm, me, address(&small), Access::Lend).unwrap();
    model.take_notes();
    let served = model.page_fault(vm, 0xa000_0000, true);
    assert_eq!(served, Paged::Provided { address: 0xa000_0000 - 8 * PAGE, size: 2 << 20 });
    let note = &model.take_notes()[0].1;
    assert_eq!(note["event"], "donated-beyond");
    assert_eq!(note["bytes"], (2 << 20) - 4 * PAGE);
}
