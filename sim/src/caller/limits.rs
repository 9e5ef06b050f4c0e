// SPDX-License-Identifier: Apache-2.0
//! What the caller may lock in memory.

use std::fs;

use nix::errno::Errno;

use super::{status_field, Caller};

// linux/capability.h.
const CAP_IPC_LOCK: u32 = 14;

/// RLIMIT_MEMLOCK as the kernel's account_locked_vm would apply it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemlockLimit {
    /// Soft limit in bytes; u64::MAX: none.
    pub limit: u64,
    /// Bytes that the process has locked itself (mlock).
    pub locked: u64,
    /// CAP_IPC_LOCK: the limit does not count.
    pub exempt: bool,
}

impl MemlockLimit {
    /// Whether `more` bytes may be pinned while `pinned` are.
    pub fn allows(&self, pinned: u64, more: u64) -> bool {
        let wanted = self.locked.checked_add(pinned).and_then(|sum| sum.checked_add(more));
        self.exempt || self.limit == u64::MAX || wanted.is_some_and(|sum| sum <= self.limit)
    }
}

impl Caller {
    /// The caller's limit as it is now.
    pub fn memlock(&self) -> Result<MemlockLimit, Errno> {
        // The thread may have ended meanwhile, while its process goes on.
        let status = fs::read_to_string(format!("/proc/{}/status", self.tid))
            .or_else(|_| fs::read_to_string(format!("/proc/{}/status", self.pid)))
            .map_err(|_| Errno::ESRCH)?;
        let capabilities = status_field(&status, "CapEff:")
            .and_then(|value| u64::from_str_radix(value, 16).ok())
            .unwrap_or(0);
        let locked_kib: u64 =
            status_field(&status, "VmLck:").and_then(|value| value.parse().ok()).unwrap_or(0);
        let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the old limit goes to a live rlimit64; no new limit is given.
        Errno::result(unsafe {
            libc::prlimit64(self.pid, libc::RLIMIT_MEMLOCK, std::ptr::null(), &raw mut limit)
        })?;
        Ok(MemlockLimit {
            limit: limit.rlim_cur,
            locked: locked_kib.saturating_mul(1024),
            exempt: capabilities & (1 << CAP_IPC_LOCK) != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_inclusive_and_counts_all_that_is_locked() {
        let limit = MemlockLimit { limit: 0x10000, locked: 0x1000, exempt: false };
        assert!(limit.allows(0, 0xf000));
        assert!(!limit.allows(0, 0x10000));
        assert!(!limit.allows(0xf000, 0x1000));
        assert!(!limit.allows(u64::MAX, 1));
        let root = MemlockLimit { exempt: true, ..limit };
        assert!(root.allows(u64::MAX, 1));
    }

    #[test]
    fn reads_this_process() {
        let own = Caller::myself().memlock().unwrap();
        let (soft, _) =
            nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_MEMLOCK).unwrap();
        assert_eq!(own.limit, soft);
    }
}
