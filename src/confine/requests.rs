// SPDX-License-Identifier: Apache-2.0
//! Numbers of the ioctls that launching takes besides the driver's (linux/fs.h), and of those that devices make:
//! taps' (linux/if_tun.h), the kernel's vhost's (linux/vhost.h).

/// Which of the process's pages are huge?
pub const PAGEMAP_SCAN: u32 = 0xc060_6610;

pub const TUNSETIFF: u32 = 0x4004_54ca;
pub const TUNSETOFFLOAD: u32 = 0x4004_54d0;
pub const TUNSETVNETHDRSZ: u32 = 0x4004_54d8;

pub const VHOST_GET_FEATURES: u32 = 0x8008_af00;
pub const VHOST_SET_FEATURES: u32 = 0x4008_af00;
pub const VHOST_SET_OWNER: u32 = 0xaf01;
pub const VHOST_SET_MEM_TABLE: u32 = 0x4008_af03;
pub const VHOST_SET_VRING_NUM: u32 = 0x4008_af10;
pub const VHOST_SET_VRING_ADDR: u32 = 0x4028_af11;
pub const VHOST_SET_VRING_BASE: u32 = 0x4008_af12;
pub const VHOST_SET_VRING_KICK: u32 = 0x4008_af20;
pub const VHOST_SET_VRING_CALL: u32 = 0x4008_af21;
pub const VHOST_VSOCK_SET_GUEST_CID: u32 = 0x4008_af60;
pub const VHOST_VSOCK_SET_RUNNING: u32 = 0x4004_af61;
