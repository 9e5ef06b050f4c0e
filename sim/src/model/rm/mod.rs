// SPDX-License-Identifier: Apache-2.0
//! The resource manager's part of a START: parcels, the guest's devicetree, its verdict.

mod cpus;
mod fdt;
mod gic;
mod guest;
mod parcels;
mod vdevices;

use std::str::FromStr;

use nix::errno::Errno;
use serde_json::{json, Value};

use crate::caller::{self, Piece};
use crate::engine::{Access, StartRegion, StartVm};

use super::{Settings, Vm};

pub use fdt::{FdtError, Node};
pub use guest::GuestDescription;
pub use vdevices::{Doorbell, SharedMemory};

/// Entries after which the real one ran out of heap: 4096 worked, 16384 did not; between is a guess.
pub const ENTRIES_SURVIVED: u64 = 8192;

/// Entries that one message carries; the rest go by append.
const ENTRIES_PER_CALL: u64 = 512;

/// Which resource manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Takes shared main memory.
    Debug,
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
            "production" => Ok(Self::Production),
            "off" => Ok(Self::Off),
            _ => Err(format!(
                "resource manager {word:?}: one of debug, production, off"
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

/// Goes through a START in the driver's order. `taken`: pieces of other VMs that have started.
pub fn start(settings: &Settings, vm: &Vm, taken: &[Piece]) -> (Verdict, Vec<Value>) {
    let mut notes = Vec::new();
    let verdict = steps(settings, vm, taken, &mut notes).unwrap_or_else(|verdict| verdict);
    (verdict, notes)
}

fn steps(
    settings: &Settings,
    vm: &Vm,
    taken: &[Piece],
    notes: &mut Vec<Value>,
) -> Result<Verdict, Verdict> {
    if settings.rm != Kind::Off {
        parcels::hand_over(settings, &vm.regions, taken, notes)?;
    }

    // The driver's look-up of the parcel that holds the devicetree.
    let dtb = vm.dtb;
    let Some(main) = vm
        .regions
        .iter()
        .position(|region| region.contains(dtb.guest_phys_addr, dtb.size))
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
    if settings.dialect.since_66() {
        // The devicetree's pages are the first to be pinned.
        let limit = vm
            .creator
            .memlock()
            .map_err(|errno| refused(errno, "its maker is gone"))?;
        if !limit.allows(0, dtb.size) {
            return Err(refused(
                Errno::ENOMEM,
                format!(
                    "{:#x} bytes of devicetree are beyond RLIMIT_MEMLOCK",
                    dtb.size
                ),
            ));
        }
    }
    if settings.dialect.since_66() && region.pieces.iter().any(|piece| piece.hugetlb) {
        return Err(refused(
            Errno::EIO,
            "the devicetree's pages are not swap-backed (hugetlb)",
        ));
    }
    if settings.rm == Kind::Production && region.access == Access::Share {
        return Err(refused(Errno::ENODEV, "main memory is shared, not lent"));
    }

    let guest = if settings.rm == Kind::Off {
        GuestDescription::unread(region.given.guest_phys_addr, &vm.vcpus)
    } else {
        let page = crate::page_size();
        let offset = dtb.guest_phys_addr - region.given.guest_phys_addr;
        if offset % page != 0 || dtb.size % page != 0 {
            return Err(refused(
                Errno::EINVAL,
                format!(
                    "devicetree offset {offset:#x} or size {:#x} is not page aligned",
                    dtb.size
                ),
            ));
        }
        let address = region.given.userspace_addr + offset;
        let read =
            |into: &mut [u8]| caller::read_pieces(&vm.creator, &region.pieces, address, into);
        let blob = fdt::fetch(read, dtb.size)
            .map_err(|error| refused(Errno::ENODEV, error.to_string()))?;
        let root = fdt::parse(&blob).map_err(|error| refused(Errno::ENODEV, error.to_string()))?;
        let (guest, warnings) = guest::read(&root, region.given.memory_size)
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
        parcels::reserved(&root, &placed)?;
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
            flags: region.given.flags,
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
