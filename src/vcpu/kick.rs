// SPDX-License-Identifier: Apache-2.0
//! The signal that takes a thread out of VCPU_RUN, and where and how urgently a thread runs.

use nix::errno::Errno;
use nix::sched::{sched_setaffinity, CpuSet};
use nix::sys::signal::{sigaction, SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal};
use nix::unistd::{gettid, Pid};

// Ignored unless handled, so one that comes late or astray hurts nobody.
const KICK: Signal = Signal::SIGURG;

extern "C" fn kicked(_: libc::c_int) {}

/// Makes [`KICK`] interrupt system calls of this process. Without SA_RESTART: the call shall fail.
pub(super) fn install() -> Result<(), Errno> {
    let action = SigAction::new(
        SigHandler::Handler(kicked),
        SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: the handler does nothing, so it is safe at any time.
    unsafe { sigaction(KICK, &action) }?;
    Ok(())
}

/// Lets the calling thread be kicked, and leaves every other signal to the process's main thread.
pub(super) fn accept() -> Result<(), Errno> {
    let mut others = SigSet::all();
    others.remove(KICK);
    others.thread_swap_mask(SigmaskHow::SIG_SETMASK).map(drop)
}

/// Kicks thread `tid` of this process. One that is gone is no mistake.
pub(super) fn send(tid: i32) {
    // SAFETY: a system call without memory; a wrong tid is answered by ESRCH.
    unsafe {
        libc::syscall(
            libc::SYS_tgkill,
            nix::unistd::getpid().as_raw(),
            tid,
            KICK as i32,
        )
    };
}

/// The calling thread's id, for [`send`].
pub(super) fn own_tid() -> i32 {
    gettid().as_raw()
}

/// Binds the calling thread to `cpus`; the message says what was wrong.
pub(super) fn bind(cpus: &[u32]) -> Result<(), String> {
    let mut set = CpuSet::new();
    let answer = cpus
        .iter()
        .try_for_each(|cpu| set.set(usize::try_from(*cpu).map_err(|_| Errno::EINVAL)?))
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    answer.map_err(|errno| {
        let online = std::fs::read_to_string("/sys/devices/system/cpu/online");
        format!(
            "cannot run on host CPUs {cpus:?}: {errno:?}; online are {}; it runs wherever the host likes",
            online.as_deref().map_or("unknown", str::trim)
        )
    })
}

/// Sets the calling thread's niceness; the message says what was wrong.
pub(super) fn renice(nice: i8) -> Result<(), String> {
    // SAFETY: a system call without memory; 0 is the calling thread on Linux.
    let answer = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, i32::from(nice)) };
    Errno::result(answer).map(drop).map_err(|errno| {
        format!("cannot have niceness {nice}: {errno:?}; below 0 it needs the capability SYS_NICE")
    })
}

/// The clock that counts the calling thread's CPU time, for other threads to read.
pub(super) fn own_cpu_clock() -> Option<libc::clockid_t> {
    let mut clock = 0;
    // SAFETY: the calling thread is alive, and `clock` is a live local.
    let answer = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) };
    (answer == 0).then_some(clock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_impossible_cpu_is_told_with_those_online() {
        std::thread::spawn(|| {
            let message = bind(&[1023]).unwrap_err();
            assert!(
                message.contains("[1023]: EINVAL; online are 0"),
                "{message}"
            );
            assert!(bind(&[99_999]).is_err());
            assert_eq!(bind(&[0]), Ok(()));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn niceness_is_the_threads_own() {
        std::thread::spawn(|| {
            assert_eq!(renice(3), Ok(()));
            // SAFETY: a system call without memory.
            assert_eq!(unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }, 3);
        })
        .join()
        .unwrap();
        // SAFETY: a system call without memory.
        assert_ne!(unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }, 3);
    }
}
