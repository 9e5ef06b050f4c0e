// SPDX-License-Identifier: Apache-2.0
//! The kernel's calls for taps and for its vhost, which nix and the standard library have not. All that is unsafe
//! about devices is here, guest memory apart ([`Window`]).

use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{c_int, c_short, c_ulong};
use nix::errno::Errno;

use super::QueueLayout;
use crate::confine::requests::*;
use crate::memory::Window;

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

// Of linux/vhost.h and linux/vhost_types.h.

/// Most ranges of memory that vhost takes by default (vhost.max_mem_regions).
const REGIONS: usize = 64;

/// struct vhost_memory_region
#[repr(C)]
#[derive(Clone, Copy)]
struct Region {
    guest: u64,
    size: u64,
    host: u64,
    flags: u64,
}

/// struct vhost_memory
#[repr(C)]
struct Regions {
    count: u32,
    padding: u32,
    regions: [Region; REGIONS],
}

/// struct vhost_vring_state
#[repr(C)]
struct RingNumber {
    index: u32,
    number: u32,
}

/// struct vhost_vring_addr
#[repr(C)]
struct RingAddresses {
    index: u32,
    flags: u32,
    descriptors: u64,
    used: u64,
    available: u64,
    log: u64,
}

/// struct vhost_vring_file
#[repr(C)]
struct RingFile {
    index: u32,
    fd: c_int,
}

/// Makes this process the one whose memory vhost reaches by `node`.
pub(super) fn own_vhost(node: BorrowedFd<'_>) -> Result<(), Errno> {
    pass_number(node, VHOST_SET_OWNER, 0)
}

/// What it can do.
pub(super) fn vhost_features(node: BorrowedFd<'_>) -> Result<u64, Errno> {
    let mut features = 0u64;
    // SAFETY: the request writes a u64.
    let result =
        unsafe { libc::ioctl(node.as_raw_fd(), number(VHOST_GET_FEATURES), &raw mut features) };
    Errno::result(result).map(|_| features)
}

/// What of that is agreed on.
pub(super) fn set_vhost_features(node: BorrowedFd<'_>, features: u64) -> Result<(), Errno> {
    pass(node, VHOST_SET_FEATURES, &features)
}

/// The guest's memory: what the window reaches and nothing else. The window must live as long as vhost runs.
pub(super) fn set_vhost_memory(node: BorrowedFd<'_>, window: &Window) -> Result<(), Errno> {
    let none = Region { guest: 0, size: 0, host: 0, flags: 0 };
    let mut table = Regions { count: 0, padding: 0, regions: [none; REGIONS] };
    for (guest, size, host) in window.pieces() {
        let at = usize::try_from(table.count).map_err(|_| Errno::E2BIG)?;
        *table.regions.get_mut(at).ok_or(Errno::E2BIG)? = Region { guest, size, host, flags: 0 };
        table.count += 1;
    }
    pass(node, VHOST_SET_MEM_TABLE, &table)
}

/// Where a queue is, and the eventfds of its kicks and its interrupt.
pub(super) fn set_vhost_queue(
    node: BorrowedFd<'_>,
    index: u32,
    layout: QueueLayout,
    window: &Window,
    kick: BorrowedFd<'_>,
    interrupt: BorrowedFd<'_>,
) -> Result<(), Errno> {
    let entries = u64::from(layout.size);
    // With the event fields: virtio 1.2, 2.7.
    let addresses = RingAddresses {
        index,
        flags: 0,
        descriptors: host_address(window, layout.descriptors, 16 * entries)?,
        used: host_address(window, layout.device, 6 + 8 * entries)?,
        available: host_address(window, layout.driver, 6 + 2 * entries)?,
        log: 0,
    };
    pass(node, VHOST_SET_VRING_NUM, &RingNumber { index, number: layout.size.into() })?;
    pass(node, VHOST_SET_VRING_BASE, &RingNumber { index, number: 0 })?;
    pass(node, VHOST_SET_VRING_ADDR, &addresses)?;
    pass(node, VHOST_SET_VRING_CALL, &RingFile { index, fd: interrupt.as_raw_fd() })?;
    pass(node, VHOST_SET_VRING_KICK, &RingFile { index, fd: kick.as_raw_fd() })
}

fn host_address(window: &Window, address: u64, len: u64) -> Result<u64, Errno> {
    window.host_address(address, len).ok_or(Errno::EFAULT)
}

/// The guest's address on vsock.
pub(super) fn set_vhost_cid(node: BorrowedFd<'_>, cid: u64) -> Result<(), Errno> {
    pass(node, VHOST_VSOCK_SET_GUEST_CID, &cid)
}

/// It serves the queues, or no more.
pub(super) fn set_vhost_running(node: BorrowedFd<'_>, running: bool) -> Result<(), Errno> {
    pass(node, VHOST_VSOCK_SET_RUNNING, &c_int::from(running))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::GuestMemory;

    #[test]
    fn layouts_are_the_kernels() {
        // By the size in each request's number.
        let size = |request: u32| usize::try_from(request >> 16 & 0x3fff).unwrap();
        assert_eq!(size(VHOST_SET_VRING_NUM), size_of::<RingNumber>());
        assert_eq!(size(VHOST_SET_VRING_ADDR), size_of::<RingAddresses>());
        assert_eq!(size(VHOST_SET_VRING_KICK), size_of::<RingFile>());
        assert_eq!(size(VHOST_SET_MEM_TABLE), size_of::<Regions>() - REGIONS * size_of::<Region>());
        assert_eq!((size_of::<Region>(), size_of::<Interface>()), (32, 40));
    }

    #[test]
    fn rings_lie_in_one_piece_of_what_devices_reach() {
        let memory = GuestMemory::of(&[(0x4000_0000, 0x2000), (0x8000_0000, 0x1000)]).unwrap();
        let window = memory.for_devices();
        let (_, _, host) = window.pieces().next().unwrap();
        assert_eq!(host_address(&window, 0x4000_0010, 0x1ff0), Ok(host + 0x10));
        for (at, len) in
            [(0x4000_0010, 0x1ff1), (0x3fff_ffff, 1), (0x8000_0000, u64::MAX), (u64::MAX, 1)]
        {
            assert_eq!(host_address(&window, at, len), Err(Errno::EFAULT), "{at:#x}");
        }
    }
}
