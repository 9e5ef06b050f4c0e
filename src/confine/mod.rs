// SPDX-License-Identifier: Apache-2.0
//! What a process gives up once it has what it needs: capabilities, new privileges, system calls.
//!
//! Two steps. The supervisor's, when it is up, holds for the workers that it forks too: they have what
//! launching takes, and nothing that runs another program or looks into another process. A worker's,
//! before the first VCPU_RUN of its guest, leaves what the run loop and the console take.

mod calls;
mod filter;

use std::io;

use nix::errno::Errno;

use crate::error::{LaunchError, Step};
use filter::{Filter, Otherwise};

// Bits of linux/capability.h.
/// Newer drivers pin a guest's pages when it touches them.
const CAP_IPC_LOCK: u32 = 14;
/// Niceness of vCPU threads below 0.
const CAP_SYS_NICE: u32 = 23;
/// A higher RLIMIT_MEMLOCK.
const CAP_SYS_RESOURCE: u32 = 24;
/// Files of any owner. Where gunyahd has these, as root on a workstation, images and devices may need
/// them at every launch.
const CAP_DAC_OVERRIDE: u32 = 1;
const CAP_DAC_READ_SEARCH: u32 = 2;

/// What launching takes, of what this process has.
const LAUNCHING: u64 = 1 << CAP_IPC_LOCK
    | 1 << CAP_SYS_NICE
    | 1 << CAP_SYS_RESOURCE
    | 1 << CAP_DAC_OVERRIDE
    | 1 << CAP_DAC_READ_SEARCH;
/// Highest capability bit that a kernel can have in the 64-bit sets.
const CAP_MAX: u32 = 63;
/// _LINUX_CAPABILITY_VERSION_3 (linux/capability.h).
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// Confines a supervisor that is up, and every process that it forks. What they have no need of
/// answers EPERM: the supervisor's death would be that of every VM.
///
/// # Errors
/// The call that failed.
pub fn supervisor() -> Result<(), LaunchError> {
    bound_capabilities(LAUNCHING);
    drop_capabilities(LAUNCHING)
        .map_err(|error| failed(Step::Run, "dropping capabilities", &error))?;
    no_new_privileges().map_err(|error| failed(Step::Run, "no_new_privs", &error))?;
    Filter::new(&calls::supervisor(), Otherwise::Refuse)
        .install()
        .map_err(|errno| failed(Step::Run, "the supervisor's seccomp filter", &errno.into()))
}

/// Confines a worker whose guest runs, all its threads included.
///
/// # Errors
/// The call that failed.
pub fn worker() -> Result<(), LaunchError> {
    thread(Step::Run)?;
    no_new_privileges().map_err(|error| failed(Step::Run, "no_new_privs", &error))?;
    Filter::new(
        &calls::worker(std::process::id(), &threads()),
        Otherwise::Kill,
    )
    .install()
    .map_err(|errno| failed(Step::Run, "the worker's seccomp filter", &errno.into()))
}

/// The threads of this process. What cannot be read is no thread of ours: it only loses the right to
/// abort.
fn threads() -> Vec<u32> {
    let names = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    let name = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    let mut threads: Vec<u32> = names.flatten().filter_map(name).collect();
    if threads.is_empty() {
        threads.push(std::process::id());
    }
    threads
}

/// Gives up what the calling thread has of capabilities, all but the one to pin memory. Each thread
/// has its own: a worker's must all call this.
///
/// # Errors
/// The call that failed, in `step`.
pub fn thread(step: Step) -> Result<(), LaunchError> {
    drop_capabilities(1 << CAP_IPC_LOCK)
        .map_err(|error| failed(step, "dropping capabilities", &error))
}

fn failed(step: Step, what: &str, error: &io::Error) -> LaunchError {
    LaunchError::new(step, format!("confinement: {what}"))
        .errno(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
        .cause("the kernel has no CONFIG_SECCOMP_FILTER, or a policy forbids it")
        .cure("`--no-confinement` to go without it")
}

fn no_new_privileges() -> io::Result<()> {
    crate::process::set_no_new_privs().map_err(Into::into)
}

/// Takes from what this thread and its children could ever have all but `keep`.
fn bound_capabilities(keep: u64) {
    for bit in (0..=CAP_MAX).filter(|bit| keep & (1 << bit) == 0) {
        // Needs CAP_SETPCAP, and ends with EINVAL past the kernel's last capability: without new
        // privileges the bounding set has no say anyway.
        // SAFETY: takes a number.
        let _ = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(bit), 0, 0, 0) };
    }
}

/// Keeps of the calling thread's capabilities only those in `keep`.
fn drop_capabilities(keep: u64) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let header = Header {
        version: CAPABILITY_VERSION,
        pid: 0,
    };
    let mut data = [Data::default(); 2];
    // SAFETY: version 3 reads the header and writes two of these.
    Errno::result(unsafe { libc::syscall(libc::SYS_capget, &header, data.as_mut_ptr()) })?;
    for (index, half) in data.iter_mut().enumerate() {
        let word = (keep >> (32 * index)) & u64::from(u32::MAX);
        let mask = u32::try_from(word).unwrap_or(0);
        half.effective &= mask;
        half.permitted &= mask;
        half.inheritable = 0;
    }
    // SAFETY: version 3 reads the header and two of these.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, &header, data.as_ptr()) })?;
    Ok(())
}
