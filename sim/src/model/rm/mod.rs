// SPDX-License-Identifier: Apache-2.0
//! The resource manager's part of a START: parcels, the guest's devicetree, its verdict.

mod cpus;
mod gic;
mod guest;
mod parcels;
mod vdevices;

use std::str::FromStr;

use gunyah::uapi::MEM_ALLOW_EXEC;
use nix::errno::Errno;
use serde_json::{json, Value};

use crate::caller::{self, Piece};
use crate::fdt;
use crate::overlay::{self, Placed};
use crate::vm::{Access, GuestDescription, StartRegion, StartVm};

use super::{memory, Settings, Vm};

/// Entries after which the real one ran out of heap: 4096 worked, 16384 did not; between is a guess.
pub const ENTRIES_SURVIVED: u64 = 8192;

/// Entries that one message carries; the rest go by append.
const ENTRIES_PER_CALL: u64 = 512;

/// Which resource manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Takes shared main memory.
    Debug,
    /// A debug one that dies when a VM that the hypervisor schedules is stopped while it runs.
    Fragile,
    /// Refuses shared main memory.
    Production,
    /// Not there: START looks at nothing but the driver's own checks.
    Off,
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "debug" => Ok(Self::Debug),
            "fragile" => Ok(Self::Fragile),
            "production" => Ok(Self::Production),
            "off" => Ok(Self::Off),
            _ => Err(format!(
                "resource manager {word:?}: one of debug, fragile, production, off"
            )),
        }
    }
}

/// What becomes of a START.
#[derive(Debug)]
pub enum Verdict {
    /// It fails and the VM is dead.
    Refused {
        /// The ioctl's answer.
        errno: Errno,
        /// For the record.
        why: String,
    },
    /// It never comes back.
    Hangs {
        /// For the record.
        why: String,
    },
    /// It may run.
    Accepted(Box<StartVm>),
}

fn refused(errno: Errno, why: impl Into<String>) -> Verdict {
    Verdict::Refused {
        errno,
        why: why.into(),
    }
}

/// Goes through a START in the driver's order. `taken`: pieces of other VMs that have started;
/// `charged`: bytes that the creator's VMs have pinned.
pub fn start(settings: &Settings, vm: &Vm, taken: &[Piece], charged: u64) -> (Verdict, Vec<Value>) {
    let mut notes = Vec::new();
    let verdict = steps(settings, vm, taken, charged, &mut notes).unwrap_or_else(|verdict| verdict);
    (verdict, notes)
}

/// What the resource manager adds has to fit behind the tree.
fn room_for_overlay(
    tree: &fdt::Tree,
    placed: impl Iterator<Item = (u32, u64, u64)>,
    room: u64,
) -> Result<(), Verdict> {
    let placed: Vec<_> = placed
        .map(|(label, base, size)| Placed { label, base, size })
        .collect();
    let mut tree = tree.clone();
    let with_overlay = overlay::apply(&mut tree, &placed, 0)
        .ok()
        .and_then(|()| tree.to_blob().ok());
    // What only the engines' reading cannot follow is for them to say.
    match with_overlay.and_then(|blob| u64::try_from(blob.len()).ok()) {
        Some(bytes) if bytes > room => Err(refused(
            Errno::ENODEV,
            format!(
                "the devicetree has {bytes:#x} bytes with the overlay, {room:#x} bytes of room"
            ),
        )),
        _ => Ok(()),
    }
}

/// The devicetree's size as the driver looks it up: old ones cut it to 32 bits, newer ones round up.
fn looked_up(since_66: bool, size: u64) -> u64 {
    if since_66 {
        size.checked_next_multiple_of(crate::page_size())
            .unwrap_or(size)
    } else {
        size & u64::from(u32::MAX)
    }
}

fn steps(
    settings: &Settings,
    vm: &Vm,
    taken: &[Piece],
    charged: u64,
    notes: &mut Vec<Value>,
) -> Result<Verdict, Verdict> {
    let since_66 = settings.dialect.since_66();
    if settings.rm != Kind::Off && !since_66 {
        parcels::hand_over(settings, &vm.regions, taken, notes)?;
    }

    // The driver's look-up of the parcel that holds the devicetree.
    let dtb = vm.dtb;
    let size = looked_up(since_66, dtb.size);
    let Some(main) = vm
        .regions
        .iter()
        .position(|region| region.contains(dtb.guest_phys_addr, size))
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
    if since_66 {
        // The devicetree's pages are the first to be pinned.
        let limit = vm
            .creator
            .memlock()
            .map_err(|errno| refused(errno, "its maker is gone"))?;
        if !limit.allows(charged, size) {
            return Err(refused(
                Errno::ENOMEM,
                format!(
                    "{:#x} bytes of devicetree are beyond RLIMIT_MEMLOCK",
                    dtb.size
                ),
            ));
        }
    }
    if since_66 && region.pieces.iter().any(|piece| piece.hugetlb) {
        return Err(refused(
            Errno::EIO,
            "the devicetree's pages are not swap-backed (hugetlb)",
        ));
    }
    let offset = dtb.guest_phys_addr - region.given.guest_phys_addr;
    if since_66 && settings.rm != Kind::Off {
        // The rest goes over page by page as the guest faults.
        let part = memory::part(region, offset, size);
        parcels::hand_over(settings, &[part], taken, notes)?;
    }
    if settings.rm == Kind::Production && region.access == Access::Share {
        return Err(refused(Errno::ENODEV, "main memory is shared, not lent"));
    }

    let guest = if settings.rm == Kind::Off {
        GuestDescription::unread(region.given.guest_phys_addr, &vm.vcpus)
    } else {
        let page = crate::page_size();
        if offset % page != 0 || dtb.size % page != 0 {
            return Err(refused(
                Errno::EINVAL,
                format!(
                    "devicetree offset {offset:#x} or size {:#x} is not page aligned",
                    dtb.size
                ),
            ));
        }
        if !region.contains(dtb.guest_phys_addr, dtb.size) {
            // The driver's cut size was in it.
            return Err(refused(
                Errno::EINVAL,
                format!(
                    "a devicetree of {:#x} bytes ends behind its parcel",
                    dtb.size
                ),
            ));
        }
        let mut address = region.given.userspace_addr + offset;
        if since_66 {
            let inside = vm.creator.folio_offset(address);
            if inside != 0 {
                notes.push(json!({
                    "event": "rm-warning",
                    "what": format!("the devicetree lies {inside:#x} bytes inside a large folio"),
                }));
                // The parcel is made of whole folios, and the tree is looked for at its begin [i].
                address = address
                    .saturating_sub(inside)
                    .max(region.given.userspace_addr);
            }
        }
        let read =
            |into: &mut [u8]| caller::read_pieces(&vm.creator, &region.pieces, address, into);
        let blob = fdt::fetch(read, dtb.size)
            .map_err(|error| refused(Errno::ENODEV, error.to_string()))?;
        let tree = fdt::parse(&blob).map_err(|error| refused(Errno::ENODEV, error.to_string()))?;
        let (guest, warnings) = guest::read(&tree.root, region.given.memory_size)
            .map_err(|(errno, why)| refused(errno, why))?;
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
        let all = std::iter::once((
            region.given.label,
            guest.base_address,
            region.given.memory_size,
        ));
        room_for_overlay(&tree, all.chain(placed), dtb.size)?;
        guest
    };
    if guest.base_address != region.given.guest_phys_addr {
        notes.push(json!({
            "event": "rm-warning",
            "what": format!(
                "main memory is at {:#x} for the guest, the memory ioctl said {:#x}",
                guest.base_address, region.given.guest_phys_addr
            ),
        }));
    }
    for &label in vm.irqfds.keys() {
        if settings.rm != Kind::Off && !guest.doorbells.iter().any(|bell| bell.label == label) {
            notes.push(json!({
                "event": "rm-warning",
                "what": format!("irqfd label {label} has no doorbell in the devicetree"),
            }));
        }
    }

    let regions = vm
        .regions
        .iter()
        .enumerate()
        .map(|(index, region)| StartRegion {
            label: region.given.label,
            // Newer drivers map what is shared without execution, whatever was asked for.
            flags: match region.access {
                Access::Share if since_66 => region.given.flags & !MEM_ALLOW_EXEC,
                _ => region.given.flags,
            },
            access: region.access,
            guest_phys_addr: region.given.guest_phys_addr,
            placed_at: if index == main {
                Some(guest.base_address)
            } else {
                guest.shared_memory_base(region.given.label)
            },
            size: region.given.memory_size,
            userspace_addr: region.given.userspace_addr,
            main: index == main,
            pieces: region.pieces.clone(),
        })
        .collect();
    Ok(Verdict::Accepted(Box::new(StartVm {
        vm: vm.id,
        owner: vm.creator,
        regions,
        dtb_address: dtb.guest_phys_addr,
        dtb_size: dtb.size,
        vcpus: vm.vcpus.keys().copied().collect(),
        guest,
        boot_context: vm
            .boot_context
            .iter()
            .map(|(&reg, &value)| (reg, value))
            .collect(),
    })))
}
