// SPDX-License-Identifier: Apache-2.0
//! ioctl(2), with Rust's types at its edges.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// One call: its result, which is not negative, or the errno.
pub fn once(fd: BorrowedFd<'_>, request: u32, argument: u64) -> io::Result<i32> {
    // musl's request is an i32; the driver's numbers are below 2^31.
    #[allow(clippy::cast_possible_wrap)]
    let request = request as libc::Ioctl;
    // SAFETY: the callers, all in this crate, pass a number or the address of a live argument of the
    // request's own type; the driver reads no more than that type's size.
    match unsafe { libc::ioctl(fd.as_raw_fd(), request, argument) } {
        result if result < 0 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

/// The call again until no signal interrupts it.
pub fn number(fd: BorrowedFd<'_>, request: u32, argument: u64) -> io::Result<i32> {
    loop {
        match once(fd, request, argument) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// A call whose argument is a struct that the driver reads.
pub fn with<T>(fd: BorrowedFd<'_>, request: u32, argument: &T) -> io::Result<i32> {
    number(fd, request, address_of(argument))
}

/// A call that returns a new descriptor.
pub fn new_fd(fd: BorrowedFd<'_>, request: u32, argument: u64) -> io::Result<OwnedFd> {
    let raw = number(fd, request, argument)?;
    // SAFETY: the driver has just made this descriptor for us, and nobody else has seen it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

pub fn address_of<T>(value: &T) -> u64 {
    std::ptr::from_ref(value).addr() as u64
}
