// SPDX-License-Identifier: Apache-2.0
//! Firmware for protected VMs (pvmfw). The boot loader gives it to the resource manager, which copies it
//! into the VM's own region at VM_START: what the host put there does not matter. Read in vm_firmware.c,
//! vm_config.c and vm_config_parser.c of both generations, where nothing else is said.

use gunyah::uapi::{GuestRange, MEM_ALLOW_EXEC, MEM_ALLOW_READ, MEM_ALLOW_WRITE};
use nix::errno::Errno;

use crate::fdt::{number, Node};
use crate::model::memory::Region;
use crate::model::Vm;
use crate::vm::Access;

use super::guest::vm_config;
use super::{read_tree, refused, Generation, Host, Kind, Lost, Refused, Verdict};

const RWX: u32 = MEM_ALLOW_READ | MEM_ALLOW_WRITE | MEM_ALLOW_EXEC;
const ADDRESS_END: u64 = 1 << 36;

/// 6.12 answers ENODEV to whatever goes wrong with the firmware's parcel, and may be tried again.
pub fn before_all_else(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Refused(refused) => {
            Verdict::Refused(Refused { errno: Errno::ENODEV, again: true, ..refused })
        }
        other => other,
    }
}

/// CONFIG_IMAGE, where the newer one wants its firmware, and SET_FIRMWARE_MEM, where the older one does.
pub fn configured(host: &Host<'_>) -> Result<(), Verdict> {
    if host.settings.firmware.is_some() || host.settings.rm == Kind::Off {
        return Ok(());
    }
    let errno = match host.settings.rm.generation(host.settings.dialect) {
        Generation::Old => Errno::EPERM,
        Generation::New => Errno::EINVAL,
    };
    Err(Verdict::Refused(Refused {
        lost: Lost { vmid: host.settings.dialect.since_66(), ..Lost::default() },
        ..Refused::new(errno, "the boot loader gave the resource manager no firmware")
    }))
}

/// Whether the firmware is in this region.
pub fn is_in(vm: &Vm, region: &Region) -> bool {
    vm.firmware.is_some_and(|firmware| region.contains(firmware.guest_phys_addr, firmware.size))
}

/// INIT and VM_START of a VM with firmware: where the guest begins, once the firmware is there. `layout`:
/// bytes from `base` on that the driver has told, where it does.
pub fn begin(
    host: &Host<'_>,
    vm: &Vm,
    base: u64,
    layout: Option<u64>,
) -> Result<Option<u64>, Verdict> {
    let Some(range) = vm.firmware else { return Ok(None) };
    if host.settings.rm == Kind::Off {
        return Ok(Some(range.guest_phys_addr));
    }
    let in_region = |region: &&Region| is_in(vm, region);
    let region = vm.regions.iter().find(in_region);
    let Some(region) = region else {
        // The driver pins what is mapped behind the region; what the newer one says to it is unknown.
        return Err(refused(Errno::EINVAL, "the firmware leaves its region"));
    };
    let dtb = vm.dtb;
    let main = vm.regions.iter().find(|region| region.contains(dtb.guest_phys_addr, 1));
    let Some(main) = main else {
        return Err(refused(Errno::ENOENT, "the devicetree lies in no region"));
    };
    let at = main.given.userspace_addr + (dtb.guest_phys_addr - main.given.guest_phys_addr);
    let tree = read_tree(vm, &main.pieces, at, dtb.size, Errno::EINVAL)?;
    let address = placed(&tree.root, base, layout).map_err(|why| refused(Errno::EINVAL, why))?;
    copy(host, region, range)
        .map_err(|refused| Verdict::Refused(Refused { late: true, ..refused }))?;
    Ok(Some(address))
}

/// `firmware-address`, which has to be there for a parcel of its own, and must leave memory alone.
fn placed(root: &Node, base: u64, layout: Option<u64>) -> Result<u64, String> {
    let memory = vm_config(root).and_then(|config| config.child("memory"));
    let value = |name| memory.and_then(|memory| number(memory.property(name)?));
    let address = value("firmware-address").ok_or("no firmware-address")?;
    let page = crate::page_size();
    // Inferred: a firmware without a limit of its own is no longer than nothing.
    let most = value("firmware-size-max").unwrap_or(0);
    let rest = ADDRESS_END.saturating_sub(base);
    let of_memory = value("size-max").unwrap_or(rest).min(layout.unwrap_or(rest));
    if address % page != 0 || most % page != 0 {
        return Err(format!("firmware-address {address:#x} or its limit is not page aligned"));
    }
    let (end, memory_end) = (address.saturating_add(most), base.saturating_add(of_memory));
    if end > ADDRESS_END {
        return Err(format!("firmware at {address:#x} is beyond 36 bits"));
    }
    if address < memory_end && (base < end || address >= base) {
        return Err(format!(
            "firmware {address:#x}..{end:#x} overlaps memory {base:#x}..{memory_end:#x}"
        ));
    }
    Ok(address)
}

/// Its bytes, and zeros behind them.
fn copy(host: &Host<'_>, region: &Region, range: GuestRange) -> Result<(), Refused> {
    // Inferred, as for the devicetree's parcel.
    if region.access == Access::Share || region.given.flags & RWX != RWX {
        let why = "the firmware's memory is not lent with all permissions";
        return Err(Refused::new(Errno::ENODEV, why));
    }
    let image = host.settings.firmware.unwrap_or_default();
    let room = usize::try_from(range.size).unwrap_or(usize::MAX);
    if image.len() > room {
        let why = format!("firmware of {:#x} bytes in a range of {room:#x}", image.len());
        return Err(Refused::new(Errno::EINVAL, why));
    }
    let mut bytes = image.to_vec();
    bytes.resize(room, 0);
    let at = region.given.userspace_addr + (range.guest_phys_addr - region.given.guest_phys_addr);
    let written = host.caller.write_bytes(at, &bytes);
    written.map_err(|errno| Refused::new(errno, "the firmware cannot be written"))
}
