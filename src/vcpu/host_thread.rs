// SPDX-License-Identifier: Apache-2.0
//! A vCPU's thread as the host sees it: the signal that takes it out of VCPU_RUN, its CPUs, its
//! niceness, its CPU time, and a timer of that.

use std::time::Duration;

use nix::errno::Errno;
use nix::sched::{sched_setaffinity, CpuSet};
use nix::sys::signal::{sigaction, SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;
use nix::time::ClockId;
use nix::unistd::Pid;

use crate::diagnostic::{kinds, Diagnostic};
use crate::text::array;

kinds! {
    CPUS: Warning "vcpu-affinity" in Run {
        "a vCPU cannot run on the host CPUs that the file says; it runs wherever the host likes",
        cause: "the host has fewer CPUs, or a cpuset leaves this service none of these",
        cure: "correct `vcpus.affinity`",
    }
    NICENESS: Warning "vcpu-niceness" in Run {
        "a vCPU's thread cannot have the niceness that the file says",
        cause: "below 0 it needs the capability SYS_NICE",
        cure: "add the capability to the service's .rc, or change `vcpus.nice`",
    }
}

// Ignored unless handled, so one that comes late or goes astray does no harm.
const KICK: Signal = Signal::SIGURG;

extern "C" fn kicked(_: libc::c_int) {}

/// Makes [`KICK`] interrupt system calls of this process. Without SA_RESTART: the call shall fail.
pub(super) fn handle_kicks() -> Result<(), Errno> {
    let action = SigAction::new(SigHandler::Handler(kicked), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing, so it is safe at any time.
    unsafe { sigaction(KICK, &action) }.map(drop)
}

/// Lets the calling thread be kicked, and leaves every other signal to the process's main thread.
pub(super) fn accept_kicks() {
    let mut others = SigSet::all();
    others.remove(KICK);
    // Fails for an unknown operation alone.
    let _ = others.thread_swap_mask(SigmaskHow::SIG_SETMASK);
}

/// The calling thread's own kicks are read from this from now on; none interrupts it.
pub(super) fn take_kicks() -> Result<SignalFd, Errno> {
    let mut kicks = SigSet::empty();
    kicks.add(KICK);
    kicks.thread_block()?;
    SignalFd::with_flags(&kicks, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

/// Kicks thread `tid` of this process, if it is still there.
pub(super) fn kick(tid: i32) {
    // SAFETY: a system call without memory; a wrong tid is answered by ESRCH.
    unsafe { libc::syscall(libc::SYS_tgkill, nix::unistd::getpid().as_raw(), tid, KICK as i32) };
}

/// Binds the calling thread to `cpus`.
pub(super) fn bind(cpus: &[u32]) -> Result<(), Diagnostic> {
    let mut set = CpuSet::new();
    let bound = cpus
        .iter()
        .try_for_each(|cpu| set.set(usize::try_from(*cpu).map_err(|_| Errno::EINVAL)?))
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    bound.map_err(|errno| {
        let online = std::fs::read_to_string("/sys/devices/system/cpu/online");
        let online = online.as_deref().map_or("unknown", str::trim_ascii);
        CPUS.case(format!("running on host CPUs {} (online: {online})", array(cpus))).errno(errno)
    })
}

/// Sets the calling thread's niceness.
pub(super) fn renice(nice: i8) -> Result<(), Diagnostic> {
    // SAFETY: a system call without memory; 0 is the calling thread on Linux.
    let answer = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, i32::from(nice)) };
    Errno::result(answer)
        .map(drop)
        .map_err(|errno| NICENESS.case(format!("setting niceness {nice}")).errno(errno))
}

/// CPU time of thread `tid` of this process; 0 if it is not there.
pub(super) fn cpu_time(tid: i32) -> Duration {
    ClockId::from_raw(cpu_clock(tid)).now().map_or(Duration::ZERO, Duration::from)
}

/// CPUCLOCK_SCHED of one thread (linux/posix-timers.h), as pthread_getcpuclockid makes it.
fn cpu_clock(tid: i32) -> libc::clockid_t {
    (!tid << 3) | 6
}

/// Kicks the thread that made it once another one has used some CPU time. It takes no CPU time itself:
/// the host looks at it only where that thread runs at a tick.
#[derive(Debug)]
pub(super) struct CpuTimer(libc::c_int);

// System calls, because the crate libc has not all of these functions for Android.
impl CpuTimer {
    /// Of thread `tid` of this process.
    pub(super) fn new(tid: i32) -> Result<Self, Errno> {
        // SAFETY: all zeros are a valid sigevent.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = KICK as libc::c_int;
        event.sigev_notify_thread_id = nix::unistd::gettid().as_raw();
        let mut timer = 0;
        // SAFETY: the kernel reads a live sigevent and writes a live number.
        let made = unsafe {
            libc::syscall(libc::SYS_timer_create, cpu_clock(tid), &raw const event, &raw mut timer)
        };
        Errno::result(made).map(|_| Self(timer))
    }

    /// Once, when that thread's CPU time is `cpu_time` altogether.
    pub(super) fn set(&self, cpu_time: Duration) {
        let at = libc::itimerspec {
            it_interval: *TimeSpec::from_duration(Duration::ZERO).as_ref(),
            it_value: *TimeSpec::from_duration(cpu_time).as_ref(),
        };
        let none = std::ptr::null_mut::<libc::itimerspec>();
        // SAFETY: the kernel reads a live itimerspec and writes none. It fails where the thread is gone.
        unsafe {
            libc::syscall(libc::SYS_timer_settime, self.0, libc::TIMER_ABSTIME, &raw const at, none)
        };
    }
}

impl Drop for CpuTimer {
    fn drop(&mut self) {
        // SAFETY: a system call without memory, of a timer that is nobody else's.
        unsafe { libc::syscall(libc::SYS_timer_delete, self.0) };
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::poll::{poll, PollFd, PollFlags};

    use super::*;

    #[test]
    fn an_impossible_cpu_is_reported_with_those_online() {
        std::thread::spawn(|| {
            let warning = bind(&[1023]).unwrap_err();
            assert_eq!(warning.name, "vcpu-affinity");
            let what = "running on host CPUs [1023] (online: 0";
            assert!(warning.what.starts_with(what), "{warning}");
            assert_eq!(warning.errno, Some(libc::EINVAL));
            assert!(bind(&[99_999]).is_err());
            assert_eq!(bind(&[0]), Ok(()));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_kick_restarts_no_system_call() {
        handle_kicks().unwrap();
        // SAFETY: all zeros are a valid sigaction, which the kernel fills.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: no action is set, and the old one is written to a live struct.
        let done = unsafe { libc::sigaction(KICK as i32, std::ptr::null(), &mut action) };
        assert_eq!((done, action.sa_flags & libc::SA_RESTART), (0, 0));
    }

    #[test]
    fn a_timer_rings_when_its_thread_has_used_cpu_time_and_not_before() {
        let kicks = take_kicks().unwrap();
        let (told, tid) = std::sync::mpsc::channel();
        let (go, until) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || {
            let tid = nix::unistd::gettid().as_raw();
            told.send(tid).unwrap();
            // Asleep, and then busy until the signal was read.
            until.recv().unwrap();
            while until.try_recv().is_err() {}
        });
        let tid = tid.recv().unwrap();
        let timer = CpuTimer::new(tid).unwrap();
        timer.set(cpu_time(tid) + Duration::from_millis(20));
        while cpu_time(nix::unistd::gettid().as_raw()) < Duration::from_millis(60) {}
        assert_eq!(kicks.read_signal().unwrap(), None, "it is another thread's CPU time");
        go.send(()).unwrap();
        let mut fds = [PollFd::new(kicks.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, 10_000u16), Ok(1));
        assert!(cpu_time(tid) >= Duration::from_millis(20));
        go.send(()).unwrap();
        other.join().unwrap();
        assert_eq!(CpuTimer::new(i32::MAX >> 3).map(drop), Err(Errno::EINVAL));
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

    #[test]
    fn more_urgency_needs_a_capability() {
        std::thread::spawn(|| {
            crate::confine::thread().unwrap();
            let warning = renice(-5).unwrap_err();
            assert_eq!(warning.name, "vcpu-niceness");
            assert_eq!(warning.what, "setting niceness -5");
        })
        .join()
        .unwrap();
    }

    #[test]
    fn cpu_time_is_the_threads_own() {
        let tid = nix::unistd::gettid().as_raw();
        let before = cpu_time(tid);
        while cpu_time(tid) < before + Duration::from_millis(10) {}
        let idle = std::thread::spawn(|| cpu_time(nix::unistd::gettid().as_raw()));
        assert!(idle.join().unwrap() < Duration::from_millis(10));
        assert_eq!(cpu_time(i32::MAX >> 3), Duration::ZERO);
    }
}
