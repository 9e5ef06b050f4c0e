// SPDX-License-Identifier: Apache-2.0
//! Calls on this process and its children that nix has not, or not for Android: fork, threads, pidfds,
//! inherited and received fds. What is `unsafe` about them is here.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::thread::{Builder, JoinHandle};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::fcntl::{fcntl, FcntlArg, FdFlag};
use nix::sched::{unshare, CloneFlags};
use nix::sys::signal::{
    sigaction, sigprocmask, SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal,
};
use nix::sys::socket::{recvmsg, ControlMessageOwned, MsgFlags};
use nix::unistd::{ForkResult, Pid};

use crate::list;
use crate::text::errno_name;

/// Forks a process that does `child` and exits with its answer.
///
/// Only for a process with one thread, whose copies of locks and heap are whole in the child; others
/// get EDEADLK. Exit handlers are the parent's and do not run in the child.
pub fn fork(child: impl FnOnce() -> i32) -> Result<Pid, Errno> {
    // It does nothing to one thread, and refuses where there are more: unshare(2). A sandbox that denies it
    // cannot say.
    if unshare(CloneFlags::CLONE_THREAD) == Err(Errno::EINVAL) {
        return Err(Errno::EDEADLK);
    }
    // SAFETY: there is one thread, and the child never returns from its arm.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let code = child();
            // SAFETY: _exit takes any value.
            unsafe { libc::_exit(code) }
        }
    }
}

/// A thread with this name, of which the kernel keeps 15 bytes. The one call of std's for all threads, because
/// it is in the program once for each type of closure.
pub fn thread(
    name: String,
    stack: usize,
    run: Box<dyn FnOnce() + Send>,
) -> Result<JoinHandle<()>, Errno> {
    let made = Builder::new().name(name).stack_size(stack).spawn(run);
    made.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EAGAIN)))
}

/// An fd that is readable once `pid`, a child not waited for, is dead.
pub fn pidfd_open(pid: Pid) -> Result<OwnedFd, Errno> {
    // SAFETY: pidfd_open takes a pid and flags, and gives a new fd (close-on-exec) or -1.
    let raw = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
    let raw = RawFd::try_from(raw).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just given this fd to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// The fd whose number init has put into the environment as `variable`; close-on-exec. To be taken
/// once: a second owner would close it twice.
pub fn inherited_fd(variable: &str) -> Option<Result<OwnedFd, String>> {
    let number = std::env::var(variable).ok()?;
    let raw = number.parse().map_err(|_| "not a number".to_owned());
    Some(raw.and_then(|raw| own_fd(raw).map_err(errno_name)))
}

/// Takes an fd of which this process got the number alone, from init; close-on-exec.
/// EBADF: it is not open, or it is a standard one.
fn own_fd(raw: RawFd) -> Result<OwnedFd, Errno> {
    if raw <= libc::STDERR_FILENO {
        return Err(Errno::EBADF);
    }
    // SAFETY: fcntl on a number that is not an open fd only answers EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(raw) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: it is open, and init opened it for this program: nobody else in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// The names in a directory of /proc.
pub fn names_in(directory: &Path) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        if let Some(Ok(name)) = entry.ok().map(|entry| entry.file_name().into_string()) {
            names.push(name);
        }
    }
    Ok(names)
}

/// Receives a packet, and the fd that came with it, without waiting.
pub fn receive(
    socket: BorrowedFd<'_>,
    packet: &mut [u8],
) -> Result<(usize, Option<OwnedFd>), Errno> {
    let mut parts = [IoSliceMut::new(packet)];
    let mut space = cmsg_space!(RawFd);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    // More than one would not fit.
    let mut fd = None;
    for message in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = message {
            for raw in fds {
                // SAFETY: the kernel has just put it into our table, and nobody else knows of it.
                fd = Some(unsafe { OwnedFd::from_raw_fd(raw) });
            }
        }
    }
    Ok((message.bytes, fd))
}

/// Closes every fd above standard error that is not in `keep`. In a fresh child, whose owners of those
/// fds are the parent's and never run.
pub fn close_all_but(keep: &[RawFd]) -> Result<(), Errno> {
    let mut keep = keep.to_vec();
    list::sort(&mut keep, |a, b| a < b);
    let mut first: RawFd = 3;
    for fd in keep.into_iter().filter(|fd| *fd >= 3) {
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = fd + 1;
    }
    close_range(first, RawFd::MAX)
}

fn close_range(first: RawFd, last: RawFd) -> Result<(), Errno> {
    // SAFETY: closes fds that nothing in this child uses again.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    Errno::result(result).map(drop)
}

/// Gives every signal its default effect, but ignores those in `ignored`; blocks none.
pub fn reset_signals(ignored: &[Signal]) -> Result<(), Errno> {
    for signal in Signal::iterator() {
        if matches!(signal, Signal::SIGKILL | Signal::SIGSTOP) {
            continue;
        }
        let handler = match ignored.contains(&signal) {
            true => SigHandler::SigIgn,
            false => SigHandler::SigDfl,
        };
        let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
        // SAFETY: both handlers are the kernel's own; no code of ours runs in a signal.
        unsafe { sigaction(signal, &action) }?;
    }
    // Not pthread_sigmask, whose errors nix takes for success.
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_a_second_thread_nothing_is_forked() {
        let forked = std::thread::spawn(|| fork(|| 0)).join().unwrap();
        assert_eq!(forked, Err(Errno::EDEADLK));
    }

    #[test]
    fn only_open_fds_are_taken() {
        for wrong in [-1, 0, 2, RawFd::MAX] {
            assert_eq!(own_fd(wrong).map(drop), Err(Errno::EBADF));
        }
        let file = std::fs::File::open("/dev/null").unwrap();
        let fd = own_fd(std::os::fd::IntoRawFd::into_raw_fd(file)).unwrap();
        let flags = fcntl(&fd, FcntlArg::F_GETFD).unwrap();
        assert_eq!(FdFlag::from_bits_retain(flags), FdFlag::FD_CLOEXEC);
    }
}
