// SPDX-License-Identifier: Apache-2.0

use super::*;
use gunyah::uapi;
use nix::sys::mman::{mmap_anonymous, munmap, MapFlags, ProtFlags};
use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use vm_fdt::FdtWriter;

const BASE: u64 = 0x8000_0000;

/// Memory of this process, as a caller would bring it.
struct Memory {
    at: NonNull<c_void>,
    length: usize,
}

impl Memory {
    fn new(pages: u64) -> Self {
        let length = usize::try_from(pages * crate::page_size()).unwrap();
        // SAFETY: a fresh private mapping, unmapped on drop.
        let at = unsafe {
            mmap_anonymous(
                None,
                NonZeroUsize::new(length).unwrap(),
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_PRIVATE,
            )
        }
        .unwrap();
        Self { at, length }
    }

    fn region(&self, label: u32, guest: u64) -> UserMemoryRegion {
        UserMemoryRegion {
            label,
            flags: 7,
            guest_phys_addr: guest,
            memory_size: self.length as u64,
            userspace_addr: self.at.as_ptr() as u64,
        }
    }

    fn put(&self, offset: u64, bytes: &[u8]) {
        let address = self.at.as_ptr() as u64 + offset;
        Caller::myself().write_bytes(address, bytes).unwrap();
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: unmaps what new() mapped.
        unsafe { munmap(self.at, self.length) }.unwrap();
    }
}

/// The least that the resource manager takes; `affinity` as in vcpus.
fn devicetree(base: u64, proxy: bool) -> Vec<u8> {
    devicetree_with(base, proxy, &[])
}

/// The same with more about memory.
fn devicetree_with(base: u64, proxy: bool, memory_properties: &[(&str, u64)]) -> Vec<u8> {
    let mut fdt = FdtWriter::new().unwrap();
    let root = fdt.begin_node("").unwrap();
    fdt.property_u32("interrupt-parent", 1).unwrap();
    let chosen = fdt.begin_node("chosen").unwrap();
    fdt.end_node(chosen).unwrap();
    let cpus = fdt.begin_node("cpus").unwrap();
    fdt.property_u32("#address-cells", 1).unwrap();
    let cpu = fdt.begin_node("cpu@0").unwrap();
    fdt.property_string("device_type", "cpu").unwrap();
    fdt.property_u32("reg", 0).unwrap();
    fdt.end_node(cpu).unwrap();
    fdt.end_node(cpus).unwrap();
    let intc = fdt.begin_node("intc").unwrap();
    fdt.property_string("compatible", "arm,gic-v3").unwrap();
    fdt.property_null("interrupt-controller").unwrap();
    fdt.property_u32("#interrupt-cells", 3).unwrap();
    fdt.property_phandle(1).unwrap();
    fdt.end_node(intc).unwrap();
    let config = fdt.begin_node("gunyah-vm-config").unwrap();
    fdt.property_string("image-name", "test").unwrap();
    let memory = fdt.begin_node("memory").unwrap();
    fdt.property_u64("base-address", base).unwrap();
    for (name, value) in memory_properties {
        fdt.property_u64(name, *value).unwrap();
    }
    fdt.end_node(memory).unwrap();
    let vcpus = fdt.begin_node("vcpus").unwrap();
    if proxy {
        fdt.property_string("affinity", "proxy").unwrap();
    } else {
        fdt.property_u32("affinity-map", 0).unwrap();
        fdt.property_u32("sched-priority", u32::MAX).unwrap();
        fdt.property_u32("sched-timeslice", 2000).unwrap();
    }
    fdt.end_node(vcpus).unwrap();
    fdt.end_node(config).unwrap();
    fdt.end_node(root).unwrap();
    fdt.finish().unwrap()
}

fn model(dialect: Dialect) -> Model {
    Model::new(Settings { dialect, ..Settings::default() })
}

fn address<T>(value: &T) -> u64 {
    std::ptr::from_ref(value) as u64
}

fn add_vcpu(model: &mut Model, vm: VmId, id: u32) -> Result<Added, Errno> {
    let argument = uapi::FunctionVcpu { id };
    let desc = FunctionDesc { kind: uapi::FUNCTION_VCPU, arg_size: 4, arg: address(&argument) };
    model.add_function(vm, Caller::myself(), address(&desc))
}

fn set_dtb(model: &mut Model, vm: VmId, at: u64, size: u64) -> Result<i64, Errno> {
    let dtb = GuestRange { guest_phys_addr: at, size };
    model.set_dtb_config(vm, Caller::myself(), address(&dtb))
}

/// A model with one VM that is ready for START, its devicetree in the region's last 16 pages.
fn ready(dialect: Dialect, access: Access, proxy: bool) -> (Model, VmId, Memory) {
    let mut model = model(dialect);
    let me = Caller::myself();
    let vm = model.create_vm(me, 0).unwrap();
    let memory = Memory::new(64);
    let page = crate::page_size();
    memory.put(48 * page, &devicetree(BASE, proxy));
    let region = memory.region(1, BASE);
    assert_eq!(model.memory(vm, me, address(&region), access), Ok(0));
    assert_eq!(set_dtb(&mut model, vm, BASE + 48 * page, 16 * page), Ok(0));
    (model, vm, memory)
}

fn run_to(model: &mut Model, vm: VmId) -> StartVm {
    match model.start(vm) {
        StartStep::Go(start) => *start,
        other => panic!("{other:?}"),
    }
}

fn refusal(model: &mut Model, vm: VmId) -> Errno {
    match model.start(vm) {
        StartStep::Answer(Err(errno)) => errno,
        other => panic!("{other:?}"),
    }
}

#[test]
fn create_vm_wants_zero() {
    let mut model = model(Dialect::Lkml);
    let me = Caller::myself();
    assert_eq!(model.create_vm(me, 1), Err(Errno::EINVAL));
    assert_eq!(model.create_vm(me, 0), Ok(1));
    assert_eq!(model.create_vm(me, 0), Ok(2));
}

#[test]
fn only_the_creators_process_gives_memory() {
    let mut model = model(Dialect::Ack61);
    let me = Caller::myself();
    let vm = model.create_vm(Caller { pid: 1, ..me }, 0).unwrap();
    // Before anything is copied in.
    assert_eq!(model.memory(vm, me, 8, Access::Share), Err(Errno::EPERM));
    assert_eq!(set_dtb(&mut model, vm, BASE, 0x1000), Ok(0));
    let own = model.create_vm(me, 0).unwrap();
    assert_eq!(model.memory(own, me, 8, Access::Share), Err(Errno::EFAULT));
}

#[test]
fn lending_is_androids() {
    let me = Caller::myself();
    let mut upstream = model(Dialect::Lkml);
    let vm = upstream.create_vm(me, 0).unwrap();
    assert_eq!(upstream.memory(vm, me, 8, Access::Lend), Err(Errno::ENOTTY));
    assert_eq!(upstream.set_fw_config(vm, me, 8), Err(Errno::ENOTTY));
    let mut android = model(Dialect::Ack61);
    let vm = android.create_vm(me, 0).unwrap();
    assert_eq!(android.memory(vm, me, 8, Access::Lend), Err(Errno::EFAULT));
    assert_eq!(android.set_fw_config(vm, me, 8), Err(Errno::EFAULT));
}

#[test]
fn pinned_bytes_are_charged_and_given_back() {
    let (mut model, vm, memory) = ready(Dialect::Ack61, Access::Share, true);
    let me = Caller::myself();
    assert_eq!(model.charged(me.pid), memory.length as u64);
    let notes = model.take_notes();
    assert_eq!(notes[0].1["pages"], 64);
    assert!(model.file_closed(vm));
    model.remove(vm);
    assert_eq!(model.charged(me.pid), 0);
}

#[test]
fn dtb_config_checks_nothing() {
    let mut model = model(Dialect::Lkml);
    let vm = model.create_vm(Caller::myself(), 0).unwrap();
    assert_eq!(set_dtb(&mut model, vm, 3, 5), Ok(0));
    assert_eq!(set_dtb(&mut model, vm, u64::MAX - 1, 2), Ok(0));
}

#[test]
fn start_twice_is_fine_while_it_runs() {
    let (mut model, vm, _memory) = ready(Dialect::Lkml, Access::Share, true);
    let start = run_to(&mut model, vm);
    assert!(start.regions[0].main);
    assert_eq!(start.regions[0].placed_at, Some(BASE));
    assert!(matches!(model.start(vm), StartStep::Wait));
    model.started(vm);
    assert!(matches!(model.start(vm), StartStep::Answer(Ok(0))));
    assert!(model.exited(vm, Exit::of_type(1)));
    assert!(!model.exited(vm, Exit::of_type(1)));
    assert_eq!(refusal(&mut model, vm), Errno::ENODEV);
}

#[test]
fn a_failed_start_is_for_good() {
    let (mut model, vm, _memory) = ready(Dialect::Lkml, Access::Share, true);
    let page = crate::page_size();
    assert_eq!(set_dtb(&mut model, vm, BASE + 48 * page, 32 * page), Ok(0));
    assert_eq!(refusal(&mut model, vm), Errno::EINVAL);
    assert!(model.take_notes().iter().any(|(_, note)| note["event"] == "vmid-leaked"));
    assert_eq!(set_dtb(&mut model, vm, BASE + 48 * page, 16 * page), Ok(0));
    assert_eq!(refusal(&mut model, vm), Errno::ENODEV);
    assert!(matches!(
        model.vcpu_run(vm, Caller::myself(), 0, false),
        RunStep::Errno(Errno::ENODEV)
    ));
}

#[test]
fn the_devicetrees_range_is_whole_pages() {
    let page = crate::page_size();
    for (offset, size) in [(48 * page + 8, 8 * page), (48 * page, 8 * page + 100)] {
        let (mut model, vm, _memory) = ready(Dialect::Ack61, Access::Share, true);
        assert_eq!(set_dtb(&mut model, vm, BASE + offset, size), Ok(0));
        assert_eq!(refusal(&mut model, vm), Errno::EINVAL);
    }
}

#[test]
fn no_devicetree_at_all_is_enodev() {
    let (mut model, vm, memory) = ready(Dialect::Ack61, Access::Share, true);
    memory.put(48 * crate::page_size(), &[0; 64]);
    assert_eq!(refusal(&mut model, vm), Errno::ENODEV);
}

#[test]
fn a_production_rm_takes_lent_main_memory_only() {
    for (access, taken) in [(Access::Share, false), (Access::Lend, true)] {
        let (mut model, vm, _memory) = ready(Dialect::Ack61, access, true);
        model.settings.rm = rm::Kind::Production;
        if taken {
            run_to(&mut model, vm);
        } else {
            assert_eq!(refusal(&mut model, vm), Errno::ENODEV);
        }
    }
}

#[test]
fn too_many_entries_hang_start_for_good() {
    let (mut model, vm, _memory) = ready(Dialect::Ack61, Access::Share, true);
    let entries = model.take_notes()[0].1["entries"].as_u64();
    let Some(entries) = entries else {
        // Frames are hidden from the unprivileged: nothing is counted, nothing hangs.
        run_to(&mut model, vm);
        return;
    };
    model.settings.rm_entries = entries - 1;
    assert!(matches!(model.start(vm), StartStep::Hang));
    assert!(matches!(model.start(vm), StartStep::Hang));
}

#[test]
fn pages_of_a_started_vm_are_not_taken_twice() {
    let (mut model, vm, memory) = ready(Dialect::Ack61, Access::Share, true);
    let me = Caller::myself();
    let second = model.create_vm(me, 0).unwrap();
    let region = memory.region(1, BASE);
    assert_eq!(model.memory(second, me, address(&region), Access::Share), Ok(0));
    let page = crate::page_size();
    set_dtb(&mut model, second, BASE + 48 * page, 16 * page).unwrap();
    run_to(&mut model, vm);
    assert_eq!(refusal(&mut model, second), Errno::EINVAL);
}

#[test]
fn vcpus_are_those_of_the_devicetree() {
    let (mut model, vm, _memory) = ready(Dialect::Ack61, Access::Share, true);
    assert_eq!(add_vcpu(&mut model, vm, 0), Ok(Added::Vcpu(0)));
    assert_eq!(add_vcpu(&mut model, vm, 0), Err(Errno::EEXIST));
    assert_eq!(add_vcpu(&mut model, vm, 1), Ok(Added::Vcpu(1)));
    assert!(matches!(
        model.vcpu_run(vm, Caller::myself(), 0, false),
        RunStep::Errno(Errno::ENODEV)
    ));
    run_to(&mut model, vm);
    model.started(vm);
    assert!(matches!(model.vcpu_run(vm, Caller::myself(), 0, false), RunStep::Run));
    assert!(matches!(model.vcpu_run(vm, Caller::myself(), 0, true), RunStep::Errno(Errno::EINTR)));
    assert!(matches!(
        model.vcpu_run(vm, Caller::myself(), 1, false),
        RunStep::Errno(Errno::ENODEV)
    ));
    assert!(model.exited(vm, Exit::of_type(2)));
    assert!(matches!(model.vcpu_run(vm, Caller::myself(), 0, true), RunStep::Ended(_)));
    // The VM's own file and two vCPUs.
    assert!(!model.file_closed(vm));
    assert!(!model.file_closed(vm));
    assert!(model.file_closed(vm));
}

#[test]
fn only_upstreams_first_vcpu_run_starts() {
    let (mut model, vm, _memory) = ready(Dialect::Lkml, Access::Share, true);
    add_vcpu(&mut model, vm, 0).unwrap();
    let step = model.vcpu_run(vm, Caller::myself(), 0, false);
    assert!(matches!(step, RunStep::StartFirst));
}

#[test]
fn a_vcpu_may_come_late_and_go() {
    let (mut model, vm, _memory) = ready(Dialect::Ack66, Access::Lend, true);
    let me = Caller::myself();
    run_to(&mut model, vm);
    model.started(vm);
    add_vcpu(&mut model, vm, 0).unwrap();
    assert!(matches!(model.vcpu_run(vm, me, 0, false), RunStep::Run));
    let stranger = Caller { pid: 1, ..me };
    assert!(matches!(model.vcpu_run(vm, stranger, 0, false), RunStep::Errno(Errno::EPERM)));
    let argument = uapi::FunctionVcpu { id: 0 };
    let desc = FunctionDesc { kind: uapi::FUNCTION_VCPU, arg_size: 4, arg: address(&argument) };
    assert_eq!(model.remove_function(vm, me, address(&desc)), Ok(0));
    assert!(matches!(model.vcpu_run(vm, me, 0, false), RunStep::Errno(Errno::ENODEV)));
    let wrong_size = FunctionDesc { arg_size: 2, ..desc };
    assert_eq!(model.remove_function(vm, me, address(&wrong_size)), Err(Errno::ENOENT));
}

#[test]
fn the_hypervisor_schedules_without_vcpu_run() {
    let (mut model, vm, _memory) = ready(Dialect::Ack61, Access::Share, false);
    add_vcpu(&mut model, vm, 0).unwrap();
    let start = run_to(&mut model, vm);
    assert!(!start.guest.proxy);
    model.started(vm);
    assert!(matches!(
        model.vcpu_run(vm, Caller::myself(), 0, false),
        RunStep::Errno(Errno::ENODEV)
    ));
}

#[test]
fn boot_context_came_with_66() {
    let me = Caller::myself();
    let context = |reg| BootContext { reg, reserved: 0, value: 7 };
    let (mut old, vm, _memory) = ready(Dialect::Ack61, Access::Share, true);
    let x0 = context(0);
    assert_eq!(old.set_boot_context(vm, me, address(&x0)), Err(Errno::ENOTTY));
    let (mut new, vm, _memory) = ready(Dialect::Ack66, Access::Lend, true);
    for (reg, answer) in [
        (0x01f, Ok(0)),
        (0x020, Err(Errno::EINVAL)),
        (0x100, Ok(0)),
        (0x101, Err(Errno::EINVAL)),
        (0x202, Ok(0)),
        (0x203, Err(Errno::EINVAL)),
        (0x300, Err(Errno::EINVAL)),
    ] {
        let given = context(reg);
        assert_eq!(new.set_boot_context(vm, me, address(&given)), answer);
    }
    // The resource manager takes neither the last X nor the last SP.
    assert_eq!(refusal(&mut new, vm), Errno::EINVAL);
    assert_eq!(new.set_boot_context(vm, me, address(&x0)), Err(Errno::EINVAL));
}

#[test]
fn newer_drivers_pin_nothing_at_the_ioctl() {
    let (model, vm, _memory) = ready(Dialect::Ack612, Access::Lend, true);
    assert_eq!(model.charged(Caller::myself().pid), 0);
    assert_eq!(model.vm(vm).unwrap().regions[0].pinned, None);
}

#[test]
fn a_function_is_removed_once() {
    let (mut model, vm, _memory) = ready(Dialect::Ack61, Access::Share, true);
    add_vcpu(&mut model, vm, 0).unwrap();
    let argument = uapi::FunctionVcpu { id: 0 };
    let desc = FunctionDesc { kind: uapi::FUNCTION_VCPU, arg_size: 4, arg: address(&argument) };
    let me = Caller::myself();
    assert_eq!(model.remove_function(vm, me, address(&desc)), Ok(0));
    assert_eq!(model.remove_function(vm, me, address(&desc)), Err(Errno::ENOENT));
}

mod facts;
mod firmware;
mod paged;
