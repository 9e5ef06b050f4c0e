// SPDX-License-Identifier: Apache-2.0
//! RLIMIT_MEMLOCK, which the driver charges a VM's pages to.

use std::fs;

use nix::sys::resource::{getrlimit, setrlimit, Resource, RLIM_INFINITY};

use super::pool::size_text;
use crate::error::{LaunchError, Step};

/// Bit of CAP_IPC_LOCK (linux/capability.h), whose holders are exempt.
const CAP_IPC_LOCK: u32 = 14;

/// Raises this process's limit so that `bytes` can be pinned.
///
/// # Errors
/// The limit is lower and may not be raised.
pub fn raise_memlock(bytes: u64) -> Result<(), LaunchError> {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_MEMLOCK) else {
        return Ok(());
    };
    if soft >= bytes || exempt() {
        return Ok(());
    }
    if setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).is_ok() {
        return Ok(());
    }
    if hard >= bytes && setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard).is_ok() {
        return Ok(());
    }
    Err(LaunchError::new(
        Step::Pool,
        format!("the VM pins {}, RLIMIT_MEMLOCK allows {}", size_text(bytes), size_text(hard)),
    )
    .cause("the service has neither the limit nor the capability")
    .cure("`rlimit memlock unlimited unlimited` or the capability IPC_LOCK in the service's .rc (by hand: ulimit -l unlimited)"))
}

fn exempt() -> bool {
    fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
            u64::from_str_radix(line.trim(), 16).ok()
        })
        .is_some_and(|effective| effective & (1 << CAP_IPC_LOCK) != 0)
}
