// SPDX-License-Identifier: Apache-2.0
//! START up to 6.1: every region is handed over whole, and the one with the devicetree is main memory.

use nix::errno::Errno;
use serde_json::{json, Value};

use crate::model::Vm;
use crate::overlay::{self, Placed};
use crate::vm::{Access, Entry, GuestDescription};

use super::guest::Reading;
use super::{
    firmware, guest, overlaid_size, parcels, read_tree, refused, start_region, start_vm,
    warn_of_irqfds, Given, Host, Kind, Lost, Refused, Stage, Verdict, BY_SCRIPT,
};

pub fn steps(host: &Host<'_>, vm: &Vm, notes: &mut Vec<Value>) -> Result<Verdict, Verdict> {
    let settings = host.settings;
    if settings.rm != Kind::Off {
        parcels::hand_over(settings, &vm.regions, host.taken, notes)?;
    }
    if let Some((stage, errno)) = host.refusal {
        // The last close takes everything back.
        let late = stage == Stage::Start;
        return Err(Verdict::Refused(Refused { late, ..Refused::new(errno, BY_SCRIPT) }));
    }

    // The driver's look-up of the parcel that holds the devicetree; it cuts the size to 32 bits.
    let dtb = vm.dtb;
    let size = dtb.size & u64::from(u32::MAX);
    let Some(main) =
        vm.regions.iter().position(|region| region.contains(dtb.guest_phys_addr, size))
    else {
        notes.push(json!({"event": "vmid-leaked"}));
        return Err(refused(
            Errno::EINVAL,
            format!(
                "devicetree range {:#x}+{:#x} lies in no region",
                dtb.guest_phys_addr, dtb.size
            ),
        ));
    };
    let region = &vm.regions[main];
    let offset = dtb.guest_phys_addr - region.given.guest_phys_addr;
    if settings.rm.production() && region.access == Access::Share {
        // It then stops what it has not started, which the old one does not survive where the
        // hypervisor was to schedule it.
        let scheduled = read_guest(host, vm, main, &mut Vec::new()).is_ok_and(|guest| !guest.proxy);
        return Err(Verdict::Refused(Refused {
            lost: Lost { manager: scheduled && settings.rm.dies(), ..Lost::default() },
            ..Refused::new(Errno::ENODEV, "main memory is shared, not lent")
        }));
    }
    if let Some(firmware) = vm.firmware {
        if !vm.regions.iter().any(|of| of.contains(firmware.guest_phys_addr, firmware.size)) {
            return Err(refused(Errno::EINVAL, "the firmware lies in no region"));
        }
        firmware::configured(host)?;
    }
    let guest = if settings.rm == Kind::Off {
        GuestDescription::unread(region.given.guest_phys_addr, &vm.vcpus)
    } else {
        read_guest(host, vm, main, notes)?
    };
    let begins = firmware::begin(host, vm, guest.base_address, None)?;
    if guest.base_address != region.given.guest_phys_addr {
        notes.push(json!({
            "event": "rm-warning",
            "what": format!(
                "main memory is at {:#x} for the guest, the memory ioctl said {:#x}",
                guest.base_address, region.given.guest_phys_addr
            ),
        }));
    }
    warn_of_irqfds(vm, &guest, notes);
    let regions = vm
        .regions
        .iter()
        .enumerate()
        .map(|(index, region)| {
            let placed_at = if index == main {
                Some(guest.base_address)
            } else if begins.is_some() && firmware::is_in(vm, region) {
                begins
            } else {
                guest.shared_memory_base(region.given.label)
            };
            start_region(region, index == main, placed_at, region.given.flags)
        })
        .collect();
    let base = guest.base_address;
    let entry = Entry { pc: begins.unwrap_or(base), x0: base + offset };
    Ok(Verdict::Accepted(start_vm(vm, guest, regions, entry, None, base), Given::default()))
}

/// What the resource manager reads in the devicetree of region `main`.
fn read_guest(
    host: &Host<'_>,
    vm: &Vm,
    main: usize,
    notes: &mut Vec<Value>,
) -> Result<GuestDescription, Verdict> {
    let dtb = vm.dtb;
    let region = &vm.regions[main];
    let offset = dtb.guest_phys_addr - region.given.guest_phys_addr;
    let page = crate::page_size();
    if offset % page != 0 || dtb.size % page != 0 {
        return Err(refused(
            Errno::EINVAL,
            format!("devicetree offset {offset:#x} or size {:#x} is not page aligned", dtb.size),
        ));
    }
    if !region.contains(dtb.guest_phys_addr, dtb.size) {
        // The driver's cut size was inside.
        return Err(refused(
            Errno::EINVAL,
            format!("a devicetree of {:#x} bytes ends behind its parcel", dtb.size),
        ));
    }
    let address = region.given.userspace_addr + offset;
    let tree = read_tree(vm, &region.pieces, address, dtb.size, Errno::ENODEV)?;
    let reading = Reading {
        generation: host.settings.rm.generation(host.settings.dialect),
        size: region.given.memory_size,
        cores: host.cores,
    };
    let (guest, warnings) =
        guest::read(&tree.root, &reading).map_err(|(errno, why)| refused(errno, why))?;
    for warning in warnings {
        notes.push(json!({"event": "rm-warning", "what": warning}));
    }
    let further = vm.regions.iter().enumerate().filter(|(at, _)| *at != main);
    let placed: Vec<_> = further
        .filter_map(|(_, region)| {
            let label = region.given.label;
            let base = guest.shared_memory_base(label)?;
            Some((label, base, region.given.memory_size))
        })
        .collect();
    parcels::reserved(&tree.root, &placed)?;
    let all: Vec<_> =
        std::iter::once((region.given.label, guest.base_address, region.given.memory_size))
            .chain(placed)
            .map(|(label, base, size)| Placed { label, base, size })
            .collect();
    match overlaid_size(&tree, &all, overlay::Given::Parcels) {
        Some((_, bytes)) if bytes > dtb.size => Err(refused(
            Errno::ENODEV,
            format!(
                "the devicetree has {bytes:#x} bytes with the overlay, {:#x} bytes of room",
                dtb.size
            ),
        )),
        _ => Ok(guest),
    }
}
