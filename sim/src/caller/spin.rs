// SPDX-License-Identifier: Apache-2.0
//! A thread that spins where its system call was, like one that loops in the kernel.

use nix::errno::Errno;

use super::Caller;

impl Caller {
    /// Takes the thread out of its system call into an endless loop. Its process can still be killed, and
    /// signals reach their handlers; the call never comes back.
    #[cfg(target_arch = "x86_64")]
    pub fn spin(&self) -> Result<(), Errno> {
        let at = self.find_code(&JUMP_TO_SELF)?;
        trace(libc::PTRACE_SEIZE, self.tid, 0)?;
        let done = self.send_to(at);
        let detached = trace(libc::PTRACE_DETACH, self.tid, 0);
        done.and(detached)
    }

    /// Not known how on this architecture.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn spin(&self) -> Result<(), Errno> {
        Err(Errno::ENOSYS)
    }

    #[cfg(target_arch = "x86_64")]
    fn send_to(&self, address: u64) -> Result<(), Errno> {
        trace(libc::PTRACE_INTERRUPT, self.tid, 0)?;
        // SAFETY: waits for the stop of a thread that we trace; no status is wanted.
        Errno::result(unsafe { libc::waitpid(self.tid, std::ptr::null_mut(), libc::__WALL) })?;
        // SAFETY: all zeros are a valid user_regs_struct, which the kernel fills.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        trace(libc::PTRACE_GETREGS, self.tid, (&raw mut registers).addr())?;
        registers.rip = address;
        // No call is to be begun again.
        registers.orig_rax = u64::MAX;
        trace(libc::PTRACE_SETREGS, self.tid, (&raw mut registers).addr())
    }

    /// Where these bytes are in the process's own code.
    #[cfg(target_arch = "x86_64")]
    fn find_code(&self, wanted: &[u8]) -> Result<u64, Errno> {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.pid))
            .map_err(|_| Errno::ESRCH)?;
        for line in maps.lines().filter(|line| line.contains(" r-xp ")) {
            let Some((start, end)) = line.split(' ').next().and_then(|range| range.split_once('-'))
            else {
                continue;
            };
            let parsed = (u64::from_str_radix(start, 16), u64::from_str_radix(end, 16));
            let (Ok(start), Ok(end)) = parsed else {
                continue;
            };
            let mut code = vec![0; usize::try_from(end - start).map_err(|_| Errno::ENOMEM)?];
            if self.read_bytes(start, &mut code).is_err() {
                continue;
            }
            let found = code.windows(wanted.len()).position(|bytes| bytes == wanted);
            if let Some(offset) = found.and_then(|offset| u64::try_from(offset).ok()) {
                return Ok(start + offset);
            }
        }
        Err(Errno::ENOENT)
    }
}

/// `jmp .`
#[cfg(target_arch = "x86_64")]
const JUMP_TO_SELF: [u8; 2] = [0xeb, 0xfe];

/// A request on a thread; `data` is 0 or the address of what goes with the request.
#[cfg(target_arch = "x86_64")]
fn trace(request: libc::c_uint, tid: i32, data: usize) -> Result<(), Errno> {
    // SAFETY: the callers pass live structs of the request's own type.
    Errno::result(unsafe { libc::ptrace(request, tid, 0, data) }).map(drop)
}
