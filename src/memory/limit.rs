// SPDX-License-Identifier: Apache-2.0
//! RLIMIT_MEMLOCK, which the driver charges a VM's pages to.

use std::fs;

use nix::sys::resource::{getrlimit, setrlimit, Resource, RLIM_INFINITY};

use crate::diagnostic::{kinds, Diagnostic};
use crate::text::Size;

/// Bit of CAP_IPC_LOCK (linux/capability.h), whose holders are exempt.
const CAP_IPC_LOCK: u32 = 14;

kinds! {
    LOW: Error "memlock-low" in Pool {
        "RLIMIT_MEMLOCK is too low for the VM's pages, and may not be raised",
        cause: "the service has neither the limit nor the capability",
        cure: "put `rlimit memlock unlimited unlimited` or the capability IPC_LOCK into the service's .rc (by hand: ulimit -l unlimited)",
    }
}

/// Raises this process's limit so that `bytes` can be pinned.
pub fn raise_memlock(bytes: u64) -> Result<(), Diagnostic> {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_MEMLOCK) else {
        return Ok(());
    };
    let raise = |to| setrlimit(Resource::RLIMIT_MEMLOCK, to, to).is_ok();
    if soft >= bytes || exempt() || raise(RLIM_INFINITY) || (hard >= bytes && raise(hard)) {
        return Ok(());
    }
    let (pins, allowed) = (Size(bytes), Size(hard));
    Err(LOW.case(format!("the VM pins {pins}, RLIMIT_MEMLOCK allows {allowed}")))
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
