// SPDX-License-Identifier: Apache-2.0
//! The bounds that a config must keep, each with its reason.

use std::time::Duration;

/// 1 KiB.
pub const KIB: u64 = 1 << 10;
/// 1 MiB.
pub const MIB: u64 = 1 << 20;
/// 1 GiB.
pub const GIB: u64 = 1 << 30;

/// Largest config file in bytes: a full one has 3 KiB.
pub const FILE_SIZE: u64 = MIB;

/// The smallest page of an arm64 host; sizes and addresses are multiples of it. A host with larger
/// pages asks for more, which the plan checks.
pub const PAGE: u64 = 4 * KIB;

/// Main memory begins at a multiple of this: the resource manager silently rounds other addresses
/// up, and the guest would see memory elsewhere than planned.
pub const MEMORY_ALIGN: u64 = 2 * MIB;

/// Guest addresses below are device space (they trap to the launcher or belong to the interrupt
/// controller), memory there is refused at START with ENODEV.
pub const DEVICE_SPACE_END: u64 = GIB;

/// The page at the end of device space is taken too.
pub const MEMORY_START: u64 = DEVICE_SPACE_END + PAGE;

/// Guest addresses have 36 bits.
pub const ADDRESS_END: u64 = 1 << 36;

/// Huge page sizes that arm64 kernels have for hugetlb and that serve a VM: 2 MiB, 32 MiB (16 KiB
/// pages), 512 MiB (64 KiB pages), 1 GiB.
pub const HUGE_PAGES: [u64; 4] = [2 * MIB, 32 * MIB, 512 * MIB, GIB];

/// Most further regions of a VM.
pub const REGIONS: usize = 32;

/// Most vCPUs: more than any device has.
pub const VCPUS: u32 = 64;

/// Largest host CPU number: a `cpu_set_t` has 1024 bits.
pub const HOST_CPU: u32 = 1023;

/// Longest kernel command line in bytes: arm64's COMMAND_LINE_SIZE is 2048 with the final NUL.
pub const CMDLINE: usize = 2047;

/// Smallest and largest room for the resource manager's overlay. A devicetree has at most 2 MiB in
/// all on arm64.
pub const DTB_ROOM: (u64, u64) = (PAGE, MIB);

/// Largest SPI number: interrupt ids 32 to 1019 of a GIC are SPIs 0 to 987.
pub const SPI: u32 = 987;

/// Longest path in bytes: PATH_MAX is 4096 with the final NUL.
pub const PATH: usize = 4095;

/// Longest property name in bytes.
pub const PROPERTY_NAME: usize = 255;

/// Longest property value in bytes: PROP_VALUE_MAX is 92 with the final NUL.
pub const PROPERTY_VALUE: usize = 91;

/// Longest console pattern in bytes.
pub const PATTERN: usize = 255;

/// Most VMs in `start.after`.
pub const AFTER: usize = 32;

/// Most restarts within a window.
pub const RESTARTS: u32 = 1000;

/// Longest duration.
pub const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
