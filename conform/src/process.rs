// SPDX-License-Identifier: Apache-2.0
//! Processes, limits, capabilities and a clock that interrupts: what a check needs of the system.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::errno::Errno;
use crate::verdict::{differs, Found};

/// A forked child with a socket to it.
#[derive(Debug)]
pub struct Child {
    /// Its number.
    pub pid: libc::pid_t,
    /// Our end.
    pub socket: UnixStream,
    reaped: bool,
}

/// Forks; the child runs `body` with its end of a socket and never comes back.
///
/// Only for processes of one thread, which this program's are.
pub fn fork(body: impl FnOnce(UnixStream)) -> Result<Child, Errno> {
    let (ours, theirs) =
        UnixStream::pair().map_err(|error| Errno(error.raw_os_error().unwrap_or(0)))?;
    // SAFETY: one thread, so the child may do all that the parent may.
    match unsafe { libc::fork() } {
        -1 => Err(Errno::last()),
        0 => {
            drop(ours);
            body(theirs);
            // SAFETY: ends the child without running the parent's clean-up.
            unsafe { libc::_exit(0) }
        }
        pid => Ok(Child { pid, socket: ours, reaped: false }),
    }
}

impl Child {
    /// Waits for one byte of the child; None: it ended first.
    pub fn byte(&mut self) -> Option<u8> {
        let mut byte = [0];
        self.socket.read_exact(&mut byte).ok().map(|()| byte[0])
    }

    /// Sends one byte to the child.
    pub fn tell(&mut self, byte: u8) {
        // A child that is gone shows in what it does not answer.
        let _ = self.socket.write_all(&[byte]);
    }

    /// SIGKILL.
    pub fn kill(&self) {
        // SAFETY: our own child, not yet waited for.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
    }

    /// Waits for its end.
    pub fn wait(mut self) {
        self.reap();
    }

    fn reap(&mut self) {
        if !self.reaped {
            self.reaped = true;
            // SAFETY: our own child; no status is wanted.
            unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) };
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            self.reap();
        }
    }
}

/// What a child does with a byte: sends it up.
pub fn report(socket: &mut UnixStream, byte: u8) {
    // Nobody there any more: nobody to tell.
    let _ = socket.write_all(&[byte]);
}

/// Waits in a child for the parent's byte, or for its end.
pub fn await_parent(socket: &mut UnixStream) {
    let mut byte = [0];
    let _ = socket.read_exact(&mut byte);
}

/// Tries until it succeeds, for what is given back a while after a close. The last error else.
pub fn eventually<T>(
    patience: Duration,
    mut attempt: impl FnMut() -> Result<T, Errno>,
) -> Result<T, Errno> {
    let end = Instant::now() + patience;
    loop {
        match attempt() {
            Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
            other => return other,
        }
    }
}

// linux/capability.h.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
const CAP_IPC_LOCK: u32 = 14;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Default, Clone, Copy)]
struct CapabilitySet {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn capabilities() -> Result<[CapabilitySet; 2], Errno> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut sets = [CapabilitySet::default(); 2];
    // SAFETY: version 3 has two sets, both live.
    let done = unsafe { libc::syscall(libc::SYS_capget, &raw const header, &raw mut sets) };
    if done == 0 {
        Ok(sets)
    } else {
        Err(Errno::last())
    }
}

/// Whether the limit on locked memory does not count for this process.
pub fn may_lock() -> bool {
    capabilities().is_ok_and(|sets| sets[0].effective & 1 << CAP_IPC_LOCK != 0)
}

/// Makes it count: gives CAP_IPC_LOCK up.
pub fn give_up_ipc_lock() -> Found {
    let mut sets = match capabilities() {
        Ok(sets) => sets,
        Err(errno) => return differs(format!("capget: {errno}")),
    };
    sets[0].effective &= !(1 << CAP_IPC_LOCK);
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    // SAFETY: version 3 has two sets, both live.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw const header, &raw const sets) };
    if done == 0 {
        Ok(())
    } else {
        differs(format!("capset: {}", Errno::last()))
    }
}

/// Sets the soft limit on locked memory, in bytes.
pub fn limit_locked_memory(bytes: u64) -> Found {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is live.
    unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    limit.rlim_cur = bytes.min(limit.rlim_max);
    // SAFETY: `limit` is live.
    if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) } == 0 {
        Ok(())
    } else {
        differs(format!("setrlimit: {}", Errno::last()))
    }
}

/// As much locked memory as this process may have; guests of a few pages need more than 64 KiB.
pub fn lift_locked_memory() {
    // Where it stays low, registering says ENOMEM.
    let _ = limit_locked_memory(u64::MAX);
}

extern "C" fn wake(_signal: libc::c_int) {}

/// While it lives, SIGALRM comes every few milliseconds and interrupts a blocked call.
#[derive(Debug)]
pub struct Ticking;

impl Ticking {
    /// Every 20 ms: one that comes before the call is made up for by the next.
    pub fn start() -> Self {
        // SAFETY: all zeros is a valid sigaction; the handler touches nothing. No SA_RESTART.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = wake as extern "C" fn(libc::c_int) as usize;
            libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut());
        }
        Self::every(20_000);
        Self
    }

    #[allow(deprecated)] // musl's alias may become another width; the value fits any.
    fn every(microseconds: libc::suseconds_t) {
        let time = libc::timeval { tv_sec: 0, tv_usec: microseconds };
        let timer = libc::itimerval { it_interval: time, it_value: time };
        // SAFETY: `timer` is live; the old value is not wanted.
        unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
    }
}

impl Drop for Ticking {
    fn drop(&mut self) {
        Self::every(0);
    }
}
