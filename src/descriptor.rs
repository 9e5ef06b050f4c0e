// SPDX-License-Identifier: Apache-2.0
//! Descriptors of which this process gets the number alone: from init, by an environment variable, or
//! in a message of a socket.

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{fcntl, FcntlArg, FdFlag};

/// Takes descriptor `raw`, which no child inherits from here on. Once for each descriptor.
///
/// # Errors
/// EBADF: it is not open, or it is one of the standard ones.
pub fn owned(raw: RawFd) -> Result<OwnedFd, Errno> {
    if raw <= libc::STDERR_FILENO {
        return Err(Errno::EBADF);
    }
    // SAFETY: borrowed for a call that answers EBADF to a number that is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(raw) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: it is open. init opened it for this program, or the kernel has just put it into our table;
    // nobody else in this process knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd;

    #[test]
    fn it_is_taken_if_it_is_open_and_not_a_standard_one() {
        let raw = OwnedFd::from(std::fs::File::open("/dev/null").unwrap()).into_raw_fd();
        let fd = owned(raw).unwrap();
        let flags = fcntl(&fd, FcntlArg::F_GETFD).unwrap();
        assert_eq!(FdFlag::from_bits_retain(flags), FdFlag::FD_CLOEXEC);
        for wrong in [-1, 0, 2, RawFd::MAX] {
            assert_eq!(owned(wrong).map(drop), Err(Errno::EBADF));
        }
    }
}
