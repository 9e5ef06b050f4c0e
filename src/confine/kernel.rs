// SPDX-License-Identifier: Apache-2.0
//! The calls that take capabilities and system calls away.
//!
//! nix and the standard library have none of them. rustix has capabilities, but takes their numbers from
//! a crate that AOSP's build of it goes without.

use nix::errno::Errno;

use super::filter::Filter;
use crate::diagnostic::kinds;

kinds! {
    CAPABILITIES: Error "confine-capabilities" in Run {
        "capabilities cannot be given up",
        cause: "a policy forbids it",
        cure: "mend the kernel or the policy, or go without: --no-confinement",
    }
    FILTER: Error "confine-filter" in Run {
        "system calls cannot be given up",
        cause: "the kernel has no CONFIG_SECCOMP_FILTER, or a policy forbids it",
        cure: "mend the kernel or the policy, or go without: --no-confinement",
    }
}

/// Highest capability that a kernel can have in the 64-bit sets.
const CAP_MAX: u32 = 63;
/// _LINUX_CAPABILITY_VERSION_3 (linux/capability.h).
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// Takes from what this thread and its children could ever have all but `keep`, a set of bits.
///
/// It needs CAP_SETPCAP, and the kernel answers EINVAL past its last capability. Neither matters: without
/// new privileges the bounding set has no say.
pub fn bound_capabilities(keep: u64) {
    for bit in (0..=CAP_MAX).filter(|bit| keep & (1 << bit) == 0) {
        // SAFETY: takes a number.
        let _ = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(bit), 0, 0, 0) };
    }
}

/// Keeps of the calling thread's capabilities only those in `keep`.
pub fn drop_capabilities(keep: u64) -> Result<(), Errno> {
    // __user_cap_header_struct and __user_cap_data_struct.
    let header: [u32; 2] = [CAPABILITY_VERSION, 0];
    let mut halves = [[0u32; 3]; 2];
    // SAFETY: version 3 reads the header and writes two triples of words.
    Errno::result(unsafe { libc::syscall(libc::SYS_capget, &header, halves.as_mut_ptr()) })?;
    for (index, [effective, permitted, inheritable]) in halves.iter_mut().enumerate() {
        let word = (keep >> (32 * index)) & u64::from(u32::MAX);
        let mask = u32::try_from(word).unwrap_or(0);
        *effective &= mask;
        *permitted &= mask;
        *inheritable = 0;
    }
    // SAFETY: version 3 reads the header and two triples of words.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, &header, halves.as_ptr()) }).map(drop)
}

/// Gives up new privileges, which the kernel asks for before it takes a filter.
pub fn no_new_privileges() -> Result<(), Errno> {
    let given_up = rustix::thread::set_no_new_privs(true);
    given_up.map_err(|error| Errno::from_raw(error.raw_os_error()))
}

/// Whom a filter is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    All,
    Own,
}

/// Puts `filter` in place for these threads of this process, for good.
///
/// # Errors
/// EINVAL where the kernel has no filters, ESRCH where a thread has another filter.
pub fn install(filter: &Filter, threads: Threads) -> Result<(), Errno> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.program.len()).map_err(|_| Errno::E2BIG)?,
        filter: filter.program.as_ptr().cast_mut(),
    };
    let flags = match threads {
        Threads::All => libc::SECCOMP_FILTER_FLAG_TSYNC,
        Threads::Own => 0,
    };
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: the kernel reads `len` instructions at `filter`, which lives until it returns.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &program) };
    match Errno::result(result)? {
        0 => Ok(()),
        // TSYNC answers with the thread that could not take it.
        _ => Err(Errno::ESRCH),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_loses_its_capabilities_alone() {
        std::thread::spawn(|| {
            drop_capabilities(0).unwrap();
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            assert!(status.contains("CapEff:\t0000000000000000\n"), "{status}");
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_program_too_long_is_refused() {
        let mut filter = Filter::new();
        filter.allow(&[&[0; 40_000]]);
        assert_eq!(install(&filter, Threads::Own), Err(Errno::E2BIG));
    }
}
