// SPDX-License-Identifier: Apache-2.0
//! The supervisor's end of seccomp user notification: calls come in, answers go out.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (linux/seccomp.h).
const SYNC_WAKE_UP: u32 = 1;

/// A system call that waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notification {
    /// The kernel's name for this waiting call.
    pub id: u64,
    /// The calling thread.
    pub tid: i32,
    /// System call number.
    pub nr: i32,
    /// Its arguments.
    pub args: [u64; 6],
}

/// The listener fd.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Takes the fd that installing the filter gave.
    pub fn new(fd: OwnedFd) -> Self {
        let listener = Self(fd);
        // Caller and simulator take turns: to wake each other on another core takes longer than most calls.
        // Kernels before 6.6 do not know it. The value is its argument, not where that is.
        let flags = libc::c_ulong::from(SYNC_WAKE_UP);
        // SAFETY: this command reads no memory.
        unsafe { libc::ioctl(listener.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, flags) };
        listener
    }

    /// The next waiting call; ENOENT: it went away, try later.
    pub fn receive(&self) -> Result<Notification, Errno> {
        // SAFETY: all-zero bytes are a valid seccomp_notif, and the kernel demands them.
        let mut raw: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        self.ioctl(libc::SECCOMP_IOCTL_NOTIF_RECV, &mut raw)?;
        Ok(Notification {
            id: raw.id,
            tid: i32::try_from(raw.pid).map_err(|_| Errno::ESRCH)?,
            nr: raw.data.nr,
            args: raw.data.args,
        })
    }

    /// Lets the call run in the kernel as if nobody had looked.
    pub fn let_go(&self, id: u64) -> Result<(), Errno> {
        let flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE;
        self.send(id, 0, 0, u32::try_from(flags).unwrap_or(1))
    }

    /// Answers with a value or an errno. ENOENT: the caller was interrupted or is gone.
    pub fn answer(&self, id: u64, result: Result<i64, Errno>) -> Result<(), Errno> {
        match result {
            Ok(value) => self.send(id, value, 0, 0),
            Err(errno) => self.send(id, 0, -(errno as i32), 0),
        }
    }

    fn send(&self, id: u64, val: i64, error: i32, flags: u32) -> Result<(), Errno> {
        let mut raw = libc::seccomp_notif_resp { id, val, error, flags };
        self.ioctl(libc::SECCOMP_IOCTL_NOTIF_SEND, &mut raw)
    }

    /// Answers with a new descriptor that refers to `fd`, in one step; returns its number there.
    pub fn answer_fd(&self, id: u64, fd: BorrowedFd<'_>, cloexec: bool) -> Result<RawFd, Errno> {
        let flags = if cloexec { libc::O_CLOEXEC } else { 0 };
        let mut raw = libc::seccomp_notif_addfd {
            id,
            // Sets the caller's return value to the new number in the same call.
            flags: u32::try_from(libc::SECCOMP_ADDFD_FLAG_SEND).unwrap_or(2),
            srcfd: u32::try_from(fd.as_raw_fd()).map_err(|_| Errno::EBADF)?,
            newfd: 0,
            newfd_flags: u32::try_from(flags).map_err(|_| Errno::EINVAL)?,
        };
        // SAFETY: the argument is a live seccomp_notif_addfd, which this command reads.
        Errno::result(unsafe {
            libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD, &raw mut raw)
        })
    }

    /// True while the call still waits.
    pub fn waits(&self, id: u64) -> bool {
        let mut id = id;
        self.ioctl(libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &mut id).is_ok()
    }

    fn ioctl<T>(&self, command: libc::Ioctl, argument: &mut T) -> Result<(), Errno> {
        loop {
            // SAFETY: each command is paired with its own argument type by the callers above, and
            // the argument outlives the call.
            let result = Errno::result(unsafe {
                libc::ioctl(self.0.as_raw_fd(), command, std::ptr::from_mut(argument))
            });
            match result {
                Err(Errno::EINTR) => continue,
                other => return other.map(drop),
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
