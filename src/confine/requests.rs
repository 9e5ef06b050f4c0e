// SPDX-License-Identifier: Apache-2.0
//! Numbers of the ioctls that devices make: taps' (linux/if_tun.h), the kernel's vhost's (linux/vhost.h).

pub const TUNSETIFF: u32 = 0x4004_54ca;
pub const TUNSETOFFLOAD: u32 = 0x4004_54d0;
pub const TUNSETVNETHDRSZ: u32 = 0x4004_54d8;
