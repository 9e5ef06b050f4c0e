// SPDX-License-Identifier: Apache-2.0
//! A program that may lock little memory.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// Sets RLIMIT_MEMLOCK, and takes the capabilities to exceed or raise it. These go at exec: what is not in the
/// bounding set is not gained there.
pub fn limit_memlock(command: &mut Command, bytes: u64) {
    // linux/capability.h.
    const CAP_IPC_LOCK: libc::c_ulong = 14;
    const CAP_SYS_RESOURCE: libc::c_ulong = 24;
    // SAFETY: only system calls, on plain values.
    unsafe {
        command.pre_exec(move || {
            let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
            let failed = libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) != 0
                || libc::prctl(libc::PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0) != 0
                || libc::prctl(libc::PR_CAPBSET_DROP, CAP_SYS_RESOURCE, 0, 0, 0) != 0;
            if failed {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
}
