// SPDX-License-Identifier: Apache-2.0
//! Since 6.6: the guest's faults, served one after the other inside VCPU_RUN. Read in the driver's
//! vm_mgr_mem.c (gunyah_gup_demand_page, gunyah_vm_provide_folio) and gunyah_vcpu.c, where nothing else is
//! said.

use gunyah::uapi::MEM_ALLOW_WRITE;
use nix::errno::Errno;
use serde_json::json;

use crate::caller::Folio;
use crate::vm::{Access, VmId};

use super::Model;

/// The hypervisor passes accesses below on as MMIO.
const MMIO_END: u64 = 0x4000_0000;

/// What becomes of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paged {
    /// The guest has this range now.
    Provided {
        /// Guest address.
        address: u64,
        /// Bytes.
        size: u64,
    },
    /// It could not be resolved.
    Failed(Errno),
    /// The driver tries again and again [i].
    Retries,
}

impl Model {
    /// A guest's access to memory that it does not have yet.
    pub fn page_fault(&mut self, id: VmId, address: u64, write: bool) -> Paged {
        let outcome = self.serve(id, address, write);
        if let Paged::Failed(errno) = outcome {
            self.note(
                id,
                json!({
                    "event": "page-fault", "address": format!("{address:#x}"),
                    "errno": super::errno_name(errno),
                }),
            );
        }
        outcome
    }

    /// The same for an access that came out as MMIO: shared memory in the range where MMIO traps. None:
    /// there is none, or it could not be had, for whatever reason.
    pub fn shared_fault(&mut self, id: VmId, address: u64) -> Option<Paged> {
        if !self.settings.dialect.since_66() || address >= MMIO_END {
            return None;
        }
        let vm = self.vm(id)?;
        vm.region_at(address).filter(|region| region.access == Access::Share)?;
        match self.serve(id, address, false) {
            Paged::Failed(errno) => {
                self.note(
                    id,
                    json!({
                        "event": "page-fault", "address": format!("{address:#x}"),
                        "errno": super::errno_name(errno), "told": "as MMIO",
                    }),
                );
                None
            }
            served => Some(served),
        }
    }

    fn serve(&mut self, id: VmId, address: u64, write: bool) -> Paged {
        let page = crate::page_size();
        let charged = self.vm(id).map_or(0, |vm| self.charged(vm.creator.pid));
        let Some(vm) = self.vm(id) else {
            return Paged::Failed(Errno::ENODEV);
        };
        let Some(region) = vm.region_at(address) else {
            return Paged::Failed(Errno::ENOENT);
        };
        let writable = region.given.flags & MEM_ALLOW_WRITE != 0;
        if write && !writable {
            return Paged::Failed(Errno::EPERM);
        }
        // One vCPU's fault may have been another's, too.
        if vm.provided_at(address) {
            return Paged::Provided { address: address / page * page, size: page };
        }
        match vm.creator.memlock() {
            Ok(limit) if limit.allows(charged, page) => {}
            _ => return Paged::Failed(Errno::ENOMEM),
        }
        let offset = (address - region.given.guest_phys_addr) / page * page;
        let host = region.given.userspace_addr + offset;
        if vm.creator.fault_in(host, writable).is_err() {
            return Paged::Failed(Errno::EFAULT);
        }
        let found = region
            .pieces
            .iter()
            .find(|piece| host >= piece.address && host - piece.address < piece.size)
            .cloned()
            .or_else(|| vm.creator.pieces(host, page).ok()?.into_iter().next());
        match found {
            Some(piece) if piece.swap_backed => {}
            Some(_) => return Paged::Failed(Errno::EIO),
            None => return Paged::Failed(Errno::EFAULT),
        }
        // The resource manager makes the extents of a VM whose image was lent, and of no other. Read in its
        // vm_creation.c and vm_memory.c, as is what may be shared.
        let lends =
            vm.region_at(vm.dtb.guest_phys_addr).is_some_and(|main| main.access == Access::Lend);
        if !lends {
            return Paged::Failed(Errno::ENODEV);
        }
        let reserved = |(base, size): &(u64, u64)| *base <= address && address - base < *size;
        let shares = address < MMIO_END || vm.reserved.iter().any(reserved);
        if region.access == Access::Share && !shares {
            // Nothing there is mapped for sharing.
            return Paged::Failed(Errno::EINVAL);
        }
        let Folio { offset: inside, size } = vm.creator.folio(host);
        let start = (address / page * page).wrapping_sub(inside);
        let end = start.saturating_add(size);
        let overlaps = vm
            .provided
            .range(..end)
            .next_back()
            .is_some_and(|(&other, &bytes)| other.saturating_add(bytes) > start);
        if overlaps {
            return Paged::Retries;
        }
        let given = region.given;
        let first = host - inside;
        let outside = given.userspace_addr.saturating_sub(first)
            + (first + size).saturating_sub(given.userspace_addr + given.memory_size);
        if outside > 0 {
            self.note(
                id,
                json!({
                    "event": "donated-beyond", "label": given.label, "bytes": outside,
                    "address": format!("{address:#x}"),
                }),
            );
        }
        if let Ok(vm) = self.get(id) {
            vm.provided.insert(start, size);
            vm.pinned_later = vm.pinned_later.saturating_add(page);
        }
        Paged::Provided { address: start, size }
    }

    /// The faults of a guest whose engine does not report them: that of its first instruction, or those
    /// of all its lent memory. The first that could not be resolved: address and why.
    pub fn touch(&mut self, id: VmId, all: bool) -> Option<(u64, Paged)> {
        let vm = self.vm(id).filter(|vm| !vm.touched)?;
        let mut addresses = vec![vm.entry];
        if all {
            let page = usize::try_from(crate::page_size()).unwrap_or(4096);
            let lent = vm.regions.iter().filter(|region| region.access == Access::Lend);
            addresses.extend(lent.flat_map(|region| {
                (region.given.guest_phys_addr..region.guest_end()).step_by(page)
            }));
        }
        for address in addresses {
            if self.vm(id).is_some_and(|vm| vm.provided_at(address)) {
                continue;
            }
            match self.page_fault(id, address, false) {
                Paged::Provided { .. } => {}
                failed => return Some((address, failed)),
            }
        }
        if let Ok(vm) = self.get(id) {
            vm.touched = true;
        }
        None
    }
}
