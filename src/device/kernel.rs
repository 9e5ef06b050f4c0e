// SPDX-License-Identifier: Apache-2.0
//! The kernel's calls for taps, which nix and the standard library have not. All that is unsafe about devices is
//! here, guest memory apart ([`crate::memory::Window`]).

use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{c_int, c_short, c_ulong};
use nix::errno::Errno;

use crate::confine::requests::{TUNSETIFF, TUNSETOFFLOAD, TUNSETVNETHDRSZ};

/// Bytes of an interface's name, the final NUL included (linux/if.h: IFNAMSIZ).
const NAME: usize = 16;

/// struct ifreq (linux/if.h), for an interface's flags.
#[repr(C)]
struct Interface {
    name: [u8; NAME],
    flags: c_short,
    rest: [u8; 22],
}

// Its type differs between C libraries; the kernel looks at 32 bits.
#[allow(clippy::cast_possible_wrap, clippy::unnecessary_cast)]
fn number(request: u32) -> libc::Ioctl {
    request as libc::Ioctl
}

/// An ioctl that reads what its argument points to.
fn pass<T>(fd: BorrowedFd<'_>, request: u32, argument: &T) -> Result<(), Errno> {
    // SAFETY: every caller here passes what the kernel reads for its request, and that is live.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), number(request), argument) };
    Errno::result(result).map(drop)
}

/// An ioctl whose argument is a number.
fn pass_number(fd: BorrowedFd<'_>, request: u32, argument: c_ulong) -> Result<(), Errno> {
    // SAFETY: the request takes a number, and touches nothing of this process.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), number(request), argument) };
    Errno::result(result).map(drop)
}

// IFF_TAP, IFF_NO_PI, IFF_VNET_HDR (linux/if_tun.h).
const TAP: c_short = 0x2 | 0x1000 | 0x4000;

/// Makes `tun`, freshly opened, the tap of this name, whose packets have a virtio header.
pub(super) fn attach_tap(tun: BorrowedFd<'_>, tap: &str) -> Result<(), Errno> {
    let mut interface = Interface { name: [0; NAME], flags: TAP, rest: [0; 22] };
    if tap.len() >= NAME {
        return Err(Errno::ENAMETOOLONG);
    }
    interface.name.iter_mut().zip(tap.bytes()).for_each(|(to, from)| *to = from);
    pass(tun, TUNSETIFF, &interface)
}

/// The virtio header of a tap's packets has so many bytes.
pub(super) fn set_tap_header(tap: BorrowedFd<'_>, bytes: c_int) -> Result<(), Errno> {
    pass(tap, TUNSETVNETHDRSZ, &bytes)
}

/// What of a packet who reads the tap finishes himself: TUN_F_….
pub(super) fn set_tap_offload(tap: BorrowedFd<'_>, offload: u32) -> Result<(), Errno> {
    pass_number(tap, TUNSETOFFLOAD, c_ulong::from(offload))
}
