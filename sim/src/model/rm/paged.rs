// SPDX-License-Identifier: Apache-2.0
//! START since 6.6: the devicetree's folios are lent, other lent regions are announced as ranges that
//! are paid for by fault, and the guest begins where the devicetree's folio does.

use gunyah::uapi::{
    GuestRange, BOOT_CONTEXT_SP, BOOT_CONTEXT_X, MEM_ALLOW_EXEC, MEM_ALLOW_READ, MEM_ALLOW_WRITE,
};
use nix::errno::Errno;
use serde_json::{json, Value};

use crate::caller::{Folio, Piece};
use crate::fdt::Tree;
use crate::model::memory::Region;
use crate::model::{Dialect, Vm};
use crate::overlay::{self, Placed};
use crate::vm::{Access, Entry, GuestDescription};

use super::guest::Reading;
use super::{
    firmware, guest, overlaid_size, parcels, read_tree, refused, start_region, start_vm,
    warn_of_irqfds, Generation, Given, Host, Kind, Lost, Refused, Stage, Verdict, BY_SCRIPT,
};

/// Ranges that one message of the driver has room for.
const RANGES: usize = 898;
/// A devicetree with its overlay up to this size is made in the resource manager's heap.
const HEAP_TREE: u64 = 16 << 10;
const RWX: u32 = MEM_ALLOW_READ | MEM_ALLOW_WRITE | MEM_ALLOW_EXEC;
const ADDRESS_BITS: u32 = 36;

/// The devicetree's parcel: whole folios.
struct Parcel<'a> {
    region: &'a Region,
    /// Guest address of its beginning.
    guest: u64,
    /// Its folios by guest address.
    folios: Vec<(u64, u64)>,
    pieces: Vec<Piece>,
    bytes: u64,
}

pub fn steps(host: &Host<'_>, vm: &Vm, notes: &mut Vec<Value>) -> Result<Verdict, Verdict> {
    let settings = host.settings;
    let since_612 = settings.dialect.since_612();
    let hand_over_firmware = |charged, notes: &mut Vec<Value>| match vm.firmware {
        // 6.12 makes no parcel of an empty range.
        Some(range) if range.size > 0 || !since_612 => {
            let parcel = pin(host, vm, range, "firmware", charged)?;
            told(&parcel, notes);
            lend(host, vm, &parcel, notes)?;
            Ok(Some(parcel))
        }
        _ => Ok(None),
    };
    // 6.12 hands the firmware over before all else.
    let early = match since_612 {
        true => hand_over_firmware(host.charged, notes).map_err(firmware::before_all_else)?,
        false => None,
    };
    let charged = host.charged + early.as_ref().map_or(0, |parcel| parcel.bytes);
    let parcel = pin(host, vm, vm.dtb, "devicetree", charged)?;
    told(&parcel, notes);
    whole_folios(host, vm, &parcel)?;
    lend(host, vm, &parcel, notes)?;
    let firmware = match since_612 {
        true => early,
        false => hand_over_firmware(charged + parcel.bytes, notes)?,
    };
    if vm.firmware.is_some() {
        firmware::configured(host)?;
    }
    let (guest, tree) = if settings.rm == Kind::Off {
        (GuestDescription::unread(vm.dtb.guest_phys_addr, &vm.vcpus), None)
    } else {
        configure(host, vm, &parcel, notes).map(|(guest, tree)| (guest, Some(tree)))?
    };
    boot_context(host, vm)?;
    if let Some(tree) = tree {
        vm_start(host, vm, &parcel, &tree)?;
    }
    let begins = firmware::begin(host, vm, parcel.guest, Some(parcel.bytes))?;
    warn_of_irqfds(vm, &guest, notes);
    let regions = vm
        .regions
        .iter()
        .map(|region| {
            let main = std::ptr::eq(region, parcel.region);
            // What is shared is never executable, whatever was asked for.
            let flags = match region.access {
                Access::Share => region.given.flags & !MEM_ALLOW_EXEC,
                Access::Lend => region.given.flags,
            };
            let at = begins.filter(|_| firmware::is_in(vm, region));
            let at = at.unwrap_or(region.given.guest_phys_addr);
            let mut of = start_region(region, main, Some(at), flags);
            if let Ok(now) =
                vm.creator.pieces(region.given.userspace_addr, region.given.memory_size)
            {
                of.pieces = now;
            }
            of
        })
        .collect();
    let entry = Entry { pc: begins.unwrap_or(parcel.guest), x0: vm.dtb.guest_phys_addr };
    let image = parcel.guest;
    let mut given = Given { folios: parcel.folios, pieces: parcel.pieces, bytes: parcel.bytes };
    if let Some(firmware) = firmware {
        given.folios.extend(firmware.folios);
        given.pieces.extend(firmware.pieces);
        given.bytes += firmware.bytes;
    }
    let paged = Some(given.folios.clone());
    Ok(Verdict::Accepted(start_vm(vm, guest, regions, entry, paged, image), given))
}

fn told(parcel: &Parcel<'_>, notes: &mut Vec<Value>) {
    notes.push(json!({
        "event": "parcel",
        "label": parcel.region.given.label,
        "access": match parcel.region.access {
            Access::Share => "share",
            Access::Lend => "lend",
        },
        "entries": parcel.folios.len(),
        "calls": parcel.folios.len().div_ceil(512),
    }));
}

/// Early revisions of 6.6 mark the devicetree's parcel by the pages of its range, not of its folios. They
/// do so just before VM_START; told here already, so that no refusal on the way hides it.
fn whole_folios(host: &Host<'_>, vm: &Vm, parcel: &Parcel<'_>) -> Result<(), Verdict> {
    let page = crate::page_size();
    let bytes = vm.dtb.size / page * page;
    if parcel.bytes != bytes && host.settings.dialect == Dialect::Ack66Early {
        return Err(Verdict::Panics {
            why: format!(
                "BUG_ON: the devicetree's range of {bytes:#x} bytes is not exactly whole folios \
                 ({:#x} bytes)",
                parcel.bytes
            ),
        });
    }
    Ok(())
}

/// The driver pins a range, widened to whole folios, and charges it to the caller, who has `charged`
/// already.
fn pin<'a>(
    host: &Host<'_>,
    vm: &'a Vm,
    range: GuestRange,
    what: &str,
    charged: u64,
) -> Result<Parcel<'a>, Verdict> {
    let page = crate::page_size();
    // A fraction of a page is dropped here, though the resource manager gets the full size.
    let bytes = range.size / page * page;
    if bytes == 0 {
        return Err(refused(
            Errno::EINVAL,
            format!("a {what} range of {:#x} bytes has no page", range.size),
        ));
    }
    let at = range.guest_phys_addr;
    let region = vm.regions.iter().find(|region| region.contains(at, 1)).ok_or_else(|| {
        refused(Errno::ENOENT, format!("{what} address {at:#x} lies in no region"))
    })?;
    let offset = at - region.given.guest_phys_addr;
    let first = (region.given.userspace_addr + offset) / page * page;
    let end = first.saturating_add(bytes);
    let limit = host.caller.memlock().map_err(|errno| refused(errno, "the caller is gone"))?;
    if !limit.allows(charged, bytes) {
        return Err(refused(
            Errno::ENOMEM,
            format!("{bytes:#x} bytes of {what} are beyond RLIMIT_MEMLOCK"),
        ));
    }
    // It pins virtual addresses: a range that leaves its region goes on in what is mapped behind it.
    let writable = region.given.flags & MEM_ALLOW_WRITE != 0;
    for address in (first..end).step_by(usize::try_from(page).unwrap_or(4096)) {
        host.caller.fault_in(address, writable).map_err(|_| {
            refused(Errno::EFAULT, format!("the {what}'s page at {address:#x} cannot be pinned"))
        })?;
    }
    let folios = folios(host, first, end);
    let begin = folios.first().map_or(first, |(start, _)| *start);
    let whole: u64 = folios.iter().map(|(_, size)| size).sum();
    let guest = |host_address: u64| {
        region
            .given
            .guest_phys_addr
            .wrapping_add(host_address.wrapping_sub(region.given.userspace_addr))
    };
    Ok(Parcel {
        region,
        guest: guest(begin),
        folios: folios.iter().map(|&(start, size)| (guest(start), size)).collect(),
        pieces: host.caller.pieces(begin, whole).unwrap_or_default(),
        bytes: whole,
    })
}

/// The folios around these host addresses.
fn folios(host: &Host<'_>, first: u64, end: u64) -> Vec<(u64, u64)> {
    let mut all = Vec::new();
    let mut at = first;
    while at < end {
        let Folio { offset, size } = host.caller.folio(at);
        let start = at - offset;
        all.push((start, size));
        at = start + size;
    }
    all
}

/// LEND or SHARE of the parcel at the resource manager.
fn lend(
    host: &Host<'_>,
    vm: &Vm,
    parcel: &Parcel<'_>,
    notes: &mut Vec<Value>,
) -> Result<(), Verdict> {
    let since_612 = host.settings.dialect.since_612();
    let fails = |errno, why: String| {
        // 6.6 never undoes the pin of a parcel that was refused.
        let bytes = if since_612 { 0 } else { parcel.bytes };
        let lost = Lost { bytes, ..Lost::default() };
        Err(Verdict::Refused(Refused { lost, ..Refused::new(errno, why) }))
    };
    if host.settings.rm == Kind::Off {
        return Ok(());
    }
    if let Some(errno) = host.refuses(Stage::Lend) {
        return fails(errno, BY_SCRIPT.into());
    }
    if parcel.region.given.flags == 0 {
        return fails(Errno::EINVAL, "the parcel's region has no permissions".into());
    }
    if parcels::overlap_any(&parcel.pieces, host.taken) {
        return fails(Errno::EINVAL, "the parcel's pages belong to another VM already".into());
    }
    if vm.regions.iter().all(|region| region.access == Access::Share) {
        notes.push(json!({
            "event": "rm-warning",
            "what": "no region is lent: every fault of the guest will fail with ENODEV",
        }));
    }
    Ok(())
}

/// From CONFIG_IMAGE to INIT. What fails there loses the VM's number.
fn configure(
    host: &Host<'_>,
    vm: &Vm,
    parcel: &Parcel<'_>,
    notes: &mut Vec<Value>,
) -> Result<(GuestDescription, Tree), Verdict> {
    let dialect = host.settings.dialect;
    let generation = host.settings.rm.generation(dialect);
    let fails = |errno, why: String| {
        let lost = Lost { vmid: true, ..Lost::default() };
        Verdict::Refused(Refused { lost, ..Refused::new(errno, why) })
    };
    let firmware = vm.firmware.map_or(0, |firmware| firmware.guest_phys_addr);
    let ranges = vm
        .regions
        .iter()
        .filter(|region| region.access == Access::Lend)
        // With no firmware this compares with 0, as the driver does.
        .filter(|region| region.given.guest_phys_addr != firmware)
        .count();
    if generation == Generation::Old {
        return Err(fails(
            Errno::EOPNOTSUPP,
            "this resource manager has neither SET_DEMAND_PAGING nor SET_ADDRESS_LAYOUT".into(),
        ));
    }
    if let Some(errno) = host.refuses(Stage::Configure) {
        return Err(fails(errno, BY_SCRIPT.into()));
    }
    if ranges > RANGES {
        return Err(fails(
            Errno::E2BIG,
            format!("{ranges} lent regions, the driver's message has room for {RANGES}"),
        ));
    }
    let end = parcel.guest.checked_add(parcel.bytes);
    if parcel.guest == 0 || end.is_none_or(|end| end > 1 << ADDRESS_BITS) {
        return Err(fails(
            Errno::EINVAL,
            format!("the devicetree at {:#x} is beyond {ADDRESS_BITS} bits", parcel.guest),
        ));
    }
    // INIT.
    let offset = vm.dtb.guest_phys_addr.wrapping_sub(parcel.guest);
    let init = |why: String| refused(Errno::EINVAL, why);
    if offset != 0 && dialect.since_612() {
        return Err(init(format!(
            "the devicetree is looked for at its folio's beginning, {offset:#x} bytes before it"
        )));
    }
    if offset % crate::page_size() != 0 || offset.saturating_add(vm.dtb.size) > parcel.bytes {
        return Err(init(format!(
            "the devicetree's range {offset:#x}+{:#x} is not in its parcel of {:#x} bytes",
            vm.dtb.size, parcel.bytes
        )));
    }
    let region = parcel.region;
    let address =
        region.given.userspace_addr + (vm.dtb.guest_phys_addr - region.given.guest_phys_addr);
    let tree = read_tree(vm, &region.pieces, address, vm.dtb.size, Errno::EINVAL)?;
    let reading = Reading { generation, size: parcel.bytes, cores: host.cores };
    let (guest, warnings) =
        guest::read(&tree.root, &reading).map_err(|(errno, why)| refused(errno, why))?;
    for warning in warnings {
        notes.push(json!({"event": "rm-warning", "what": warning}));
    }
    Ok((guest, tree))
}

/// The resource manager takes fewer registers than the ioctl.
fn boot_context(host: &Host<'_>, vm: &Vm) -> Result<(), Verdict> {
    if host.settings.rm == Kind::Off || vm.firmware.is_some() {
        return Ok(());
    }
    let refuses = |reg: &&u32| {
        let (set, index) = (**reg >> 8, **reg & 0xff);
        (set == BOOT_CONTEXT_X && index > 30) || (set == BOOT_CONTEXT_SP && index > 1)
    };
    match vm.boot_context.keys().find(refuses) {
        Some(reg) => Err(Verdict::Refused(Refused {
            // 6.12 has asked for the vCPUs' resources by then, 6.6 has not.
            late: host.settings.dialect.since_612(),
            ..Refused::new(
                Errno::EINVAL,
                format!("the resource manager does not take register {reg:#x}"),
            )
        })),
        None => Ok(()),
    }
}

/// VM_START: the parcel's permissions, reserved memory, the overlay.
fn vm_start(host: &Host<'_>, vm: &Vm, parcel: &Parcel<'_>, tree: &Tree) -> Result<(), Verdict> {
    // By then the parcel is marked as the guest's, and is not taken back.
    let fails = |errno, why: String| {
        let lost = Lost { bytes: parcel.bytes, ..Lost::default() };
        Err(Verdict::Refused(Refused { late: true, lost, ..Refused::new(errno, why) }))
    };
    if let Some(errno) = host.refuses(Stage::Start) {
        return fails(errno, BY_SCRIPT.into());
    }
    let region = parcel.region;
    if region.access == Access::Share && host.settings.rm.production() {
        return fails(Errno::ENODEV, "the devicetree's memory is shared, not lent".into());
    }
    if region.given.flags & RWX != RWX {
        return fails(
            Errno::ENODEV,
            "the devicetree's memory is not readable, writable and executable".into(),
        );
    }
    if let Some(name) = parcels::labelled(&tree.root) {
        return fails(
            Errno::ENODEV,
            format!("no parcel for /reserved-memory/{name}: only the devicetree has one"),
        );
    }
    let placed: Vec<_> = vm
        .regions
        .iter()
        .filter(|region| region.access == Access::Lend)
        .map(|region| Placed {
            label: region.given.label,
            base: region.given.guest_phys_addr,
            size: region.given.memory_size,
        })
        .collect();
    let Some((alone, with)) = overlaid_size(tree, &placed, overlay::Given::ByFault) else {
        return Ok(());
    };
    let needed = if with <= HEAP_TREE { with } else { 2 * with };
    if needed > vm.dtb.size {
        return fails(
            Errno::ENODEV,
            format!(
                "a devicetree of {alone:#x} bytes needs {needed:#x} for its overlay, its range has \
                 {:#x}",
                vm.dtb.size
            ),
        );
    }
    Ok(())
}
