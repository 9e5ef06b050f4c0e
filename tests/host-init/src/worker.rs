// SPDX-License-Identifier: Apache-2.0
//! A worker on an arm64 host, where gunyahd's C library is musl: checks which rights it has given up, and that
//! it can still abort.

use std::fs;

use anyhow::{ensure, Context, Result};
use nix::unistd::Pid;

use crate::story::field;

// linux/capability.h: IPC_LOCK, SYS_NICE.
const PINNING: u64 = 1 << 14;
/// The service's capabilities.
pub const LAUNCHING: u64 = PINNING | 1 << 23;

/// Checks that every thread has given up its capabilities and has all filters: the simulator's, the supervisor's
/// and its own.
pub fn confined(pid: Pid) -> Result<()> {
    let mut threads = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let name = task?.file_name();
        let thread = Pid::from_raw(name.to_str().context("no number")?.parse()?);
        for (set, most) in [
            ("CapPrm:", PINNING),
            ("CapEff:", PINNING),
            ("CapInh:", 0),
            ("CapAmb:", 0),
            ("CapBnd:", LAUNCHING),
        ] {
            let left = u64::from_str_radix(&field(thread, set)?, 16)?;
            ensure!(left & !most == 0, "thread {thread}: {set} {left:#x}");
        }
        for (name, value) in [("NoNewPrivs:", "1"), ("Seccomp_filters:", "3")] {
            let found = field(thread, name)?;
            ensure!(found == value, "thread {thread}: {name} {found}");
        }
        threads += 1;
    }
    // The worker's own, two vCPUs, the console.
    ensure!(threads == 4, "{threads} threads");
    Ok(())
}

/// Makes the worker's main thread, which waits in ppoll, do the call with which musl aborts.
#[cfg(all(target_arch = "aarch64", target_env = "musl"))]
pub fn abort(pid: Pid) -> Result<()> {
    use nix::sys::ptrace;
    use nix::sys::signal::Signal;
    use nix::sys::wait::{waitpid, WaitPidFlag, WaitStatus};

    /// tkill (include/uapi/asm-generic/unistd.h).
    const TKILL: u64 = 130;
    /// The instruction `svc #0`, which makes a system call; instructions have four bytes.
    const SVC: u64 = 0xd400_0001;

    ptrace::seize(pid, ptrace::Options::empty())?;
    ptrace::interrupt(pid)?;
    let stopped = waitpid(pid, Some(WaitPidFlag::__WALL))?;
    ensure!(matches!(stopped, WaitStatus::PtraceEvent(..)), "not stopped but {stopped:?}");
    let mut registers = ptrace::getregs(pid)?;
    // The kernel moves the program counter back to a call that it will restart.
    let at = [registers.pc, registers.pc - 4]
        .into_iter()
        .find(|at| {
            let address = std::ptr::without_provenance_mut(usize::try_from(*at).unwrap_or(0));
            let word = ptrace::read(pid, address).unwrap_or(0);
            u64::from_ne_bytes(word.to_ne_bytes()) & 0xffff_ffff == SVC
        })
        .with_context(|| format!("no system call around {:#x}", registers.pc))?;
    registers.pc = at;
    registers.regs[8] = TKILL;
    registers.regs[0] = u64::try_from(pid.as_raw())?;
    registers.regs[1] = u64::try_from(Signal::SIGABRT as i32)?;
    ptrace::setregs(pid, registers)?;
    ptrace::detach(pid, None)?;
    Ok(())
}

#[cfg(not(all(target_arch = "aarch64", target_env = "musl")))]
pub fn abort(pid: Pid) -> Result<()> {
    anyhow::bail!("worker {pid} is not one of arm64 and musl")
}
