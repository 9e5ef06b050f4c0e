// SPDX-License-Identifier: Apache-2.0
//! Further calls of 6.12: what they check of their arguments.

use gunyah::uapi::{AuthType, GuestRange, MapCmaMem, CAP_VCPU_TIMER_WAKEUP};
use nix::errno::Errno;

use crate::caller::Caller;
use crate::vm::VmId;

use super::Model;

impl Model {
    /// RECLAIM_REGION: takes back every folio of the range that the guest has.
    pub fn reclaim_region(
        &mut self,
        id: VmId,
        caller: Caller,
        argument: u64,
    ) -> Result<i64, Errno> {
        if !self.settings.dialect.since_612() {
            return Err(Errno::ENOTTY);
        }
        let vm = self.get(id)?;
        if vm.creator.pid != caller.pid {
            return Err(Errno::EPERM);
        }
        let range: GuestRange = caller.read(argument)?;
        let page = crate::page_size();
        if range.guest_phys_addr % page != 0 || range.size % page != 0 {
            return Err(Errno::EINVAL);
        }
        let end = range.guest_phys_addr.saturating_add(range.size);
        let before = vm.provided.len();
        vm.provided.retain(|&start, &mut size| {
            start >= end || start.saturating_add(size) <= range.guest_phys_addr
        });
        let taken = u64::try_from(before - vm.provided.len()).unwrap_or(0);
        vm.pinned_later = vm.pinned_later.saturating_sub(taken * page);
        Ok(0)
    }

    /// MAP_CMA_MEM, of a kernel without such memory.
    pub fn map_cma_mem(&mut self, id: VmId, caller: Caller, argument: u64) -> Result<i64, Errno> {
        if !self.settings.dialect.since_612() {
            return Err(Errno::ENOTTY);
        }
        if self.get(id)?.creator.pid != caller.pid {
            return Err(Errno::EPERM);
        }
        caller.read_bytes(argument, &mut [0; size_of::<MapCmaMem>()])?;
        Err(Errno::ENOSYS)
    }

    /// CHECK_EXTENSION, which revisions after the first 6.12 have: the number is the argument itself.
    pub fn check_extension(&self, argument: u64) -> Result<i64, Errno> {
        let has = self.settings.timer_wakeups.filter(|_| self.settings.dialect.since_612());
        let has = has.ok_or(Errno::ENOTTY)?;
        Ok(if argument == u64::from(CAP_VCPU_TIMER_WAKEUP) { has.into() } else { 0 })
    }

    /// SET_AUTH_TYPE, of a kernel without a manager for any type.
    pub fn set_auth_type(&mut self, id: VmId, caller: Caller, argument: u64) -> Result<i64, Errno> {
        if !self.settings.dialect.since_612() {
            return Err(Errno::ENOTTY);
        }
        self.get(id)?;
        caller.read_bytes(argument, &mut [0; size_of::<AuthType>()])?;
        Err(Errno::ENOENT)
    }
}
