// SPDX-License-Identifier: Apache-2.0
//! RLIMIT_MEMLOCK, which the driver charges a VM's pages to.

use std::fs;

use nix::sys::resource::{getrlimit, setrlimit, Resource, RLIM_INFINITY};

use crate::diagnostic::{kinds, Diagnostic};
use crate::text::Size;

/// Bit of CAP_IPC_LOCK (linux/capability.h), whose holders are exempt.
const CAP_IPC_LOCK: u32 = 14;
/// Bit of CAP_SYS_RESOURCE, whose holders may raise a limit.
const CAP_SYS_RESOURCE: u32 = 24;

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
    // The capability comes last: to know of it is to read a file.
    if soft >= bytes
        || raise(RLIM_INFINITY)
        || (hard >= bytes && raise(hard))
        || holds("/proc/self", CAP_IPC_LOCK)
    {
        return Ok(());
    }
    Err(low(bytes, hard))
}

/// Whether a process (`None`: this one) could pin `bytes`, raising its limit where it may; says by what.
pub fn check_memlock(pid: Option<u32>, bytes: u64) -> Result<String, Diagnostic> {
    let folder = pid.map_or("/proc/self".to_owned(), |pid| format!("/proc/{pid}"));
    if holds(&folder, CAP_IPC_LOCK) {
        return Ok("holds CAP_IPC_LOCK, which no limit binds".to_owned());
    }
    if holds(&folder, CAP_SYS_RESOURCE) {
        return Ok("may raise its limit (CAP_SYS_RESOURCE)".to_owned());
    }
    // `Max locked memory         8388608              8388608              bytes`: soft, hard.
    let text = fs::read_to_string(format!("{folder}/limits")).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("Max locked memory"));
    match line.and_then(|line| line.split_ascii_whitespace().nth(4)) {
        None => Ok("has a limit that cannot be seen".to_owned()),
        Some("unlimited") => Ok("has no limit".to_owned()),
        Some(hard) => match hard.parse().unwrap_or(0) {
            hard if hard >= bytes => Ok(format!("may pin {}", Size(hard))),
            hard => Err(low(bytes, hard)),
        },
    }
}

fn low(bytes: u64, hard: u64) -> Diagnostic {
    let (pins, allowed) = (Size(bytes), Size(hard));
    LOW.case(format!("the VM pins {pins}, RLIMIT_MEMLOCK allows {allowed}"))
}

/// Whether the process of a folder of /proc has a capability in effect.
fn holds(folder: &str, capability: u32) -> bool {
    fs::read_to_string(format!("{folder}/status"))
        .ok()
        .and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
            u64::from_str_radix(line.trim_ascii(), 16).ok()
        })
        .is_some_and(|effective| effective & (1 << capability) != 0)
}
