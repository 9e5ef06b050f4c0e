// SPDX-License-Identifier: Apache-2.0
//! The driver's numbers and layouts, written down a second time so that one mistake is not made twice.
//!
//! `include/uapi/linux/gunyah.h` of LKML v7 to v14 and the Android kernels; encoded for 64-bit Linux.

/// On the device; argument 0.
pub const CREATE_VM: u32 = 0x4700;
/// On a VM; [`Region`].
pub const SET_USER_MEM_REGION: u32 = 0x4020_4701;
/// On a VM; [`Range`].
pub const SET_DTB_CONFIG: u32 = 0x4010_4702;
/// On a VM; no argument.
pub const START: u32 = 0x4703;
/// On a VM; [`Function`].
pub const ADD_FUNCTION: u32 = 0x4010_4704;
/// On a vCPU; no argument.
pub const VCPU_RUN: u32 = 0x4705;
/// On a vCPU; no argument.
pub const VCPU_MMAP_SIZE: u32 = 0x4706;
/// On a VM; [`Function`].
pub const REMOVE_FUNCTION: u32 = 0x4010_4707;
/// On a VM; [`BootContext`]; 6.6 and later.
pub const SET_BOOT_CONTEXT: u32 = 0x4010_470a;
/// On a VM; [`Region`]; Android.
pub const LEND_USER_MEM: u32 = 0x4020_4111;
/// On a VM; [`Range`]; Android.
pub const SET_FW_CONFIG: u32 = 0x4010_4112;
/// On a VM; [`Range`]; 6.12.
pub const RECLAIM_REGION: u32 = 0x4010_4113;
/// On a VM; a number; newer than 6.12.
pub const CHECK_EXTENSION: u32 = 0x4117;
/// On a VM; of the upstream series v15, which nobody has.
pub const MAP_MEM: u32 = 0x4020_4709;
/// Of the 0xB2 family, on its device; argument 0.
pub const LEGACY_CREATE_VM: u32 = 0xb201;
/// Of the 0xB2 family, on its VM.
pub const LEGACY_GET_VCPU_COUNT: u32 = 0xb243;

/// A number of the driver's type that no driver has.
pub const UNKNOWN: u32 = 0x47ee;
/// Likewise of Android's type.
pub const UNKNOWN_ANDROID: u32 = 0x41ee;

/// ALLOW_READ, ALLOW_WRITE, ALLOW_EXEC.
pub const READ: u32 = 1;
/// See [`READ`].
pub const WRITE: u32 = 2;
/// See [`READ`].
pub const EXEC: u32 = 4;
/// All three.
pub const RWX: u32 = READ | WRITE | EXEC;

/// A region of guest memory, 32 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Region {
    /// Unique in the VM.
    pub label: u32,
    /// [`READ`] and so on.
    pub flags: u32,
    /// Guest address.
    pub guest: u64,
    /// Bytes.
    pub size: u64,
    /// Address in this process.
    pub user: u64,
}

/// Where the devicetree or the firmware is, 16 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Range {
    /// Guest address.
    pub guest: u64,
    /// Bytes.
    pub size: u64,
}

/// A function and its argument, 16 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Function {
    /// [`VCPU`] and so on.
    pub kind: u32,
    /// Bytes at `argument`.
    pub size: u32,
    /// Address of the argument.
    pub argument: u64,
}

/// Largest `size` of a [`Function`].
pub const FUNCTION_SIZE_MAX: u32 = 256;
/// Function: a vCPU, argument a u32 id.
pub const VCPU: u32 = 1;
/// Function: [`Irqfd`].
pub const IRQFD: u32 = 2;
/// Function: [`Ioeventfd`].
pub const IOEVENTFD: u32 = 3;

/// An interrupt from an eventfd, 16 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Irqfd {
    /// The eventfd.
    pub fd: u32,
    /// The doorbell's label.
    pub label: u32,
    /// [`IRQFD_LEVEL`].
    pub flags: u32,
    /// 0.
    pub padding: u32,
}

/// Level triggered.
pub const IRQFD_LEVEL: u32 = 1;

/// An eventfd for a guest's write, 32 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Ioeventfd {
    /// Value, with [`IOEVENTFD_DATAMATCH`].
    pub datamatch: u64,
    /// Guest address.
    pub address: u64,
    /// 0, 1, 2, 4 or 8 bytes.
    pub len: u32,
    /// The eventfd.
    pub fd: i32,
    /// [`IOEVENTFD_DATAMATCH`].
    pub flags: u32,
    /// 0.
    pub padding: u32,
}

/// Only where the value is the given one.
pub const IOEVENTFD_DATAMATCH: u32 = 1;

/// A register's first value, 16 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct BootContext {
    /// Set << 8 | index; sets: X 0, PC 1, SP 2.
    pub reg: u32,
    /// 0.
    pub reserved: u32,
    /// The value.
    pub value: u64,
}

/// The program counter of a [`BootContext`].
pub const PC: u32 = 1 << 8;

/// Offsets in the run page, in bytes.
pub mod page {
    /// u8.
    pub const IMMEDIATE_EXIT: usize = 0;
    /// u32.
    pub const EXIT_REASON: usize = 8;
    /// MMIO: u64.
    pub const MMIO_ADDRESS: usize = 16;
    /// MMIO: 8 bytes.
    pub const MMIO_DATA: usize = 24;
    /// MMIO: u32.
    pub const MMIO_LEN: usize = 32;
    /// MMIO: u8.
    pub const MMIO_IS_WRITE: usize = 36;
    /// MMIO: u8; 6.6 and later.
    pub const MMIO_RESUME: usize = 37;
    /// STATUS: u32.
    pub const STATUS: usize = 16;
    /// STATUS: u16.
    pub const EXIT_TYPE: usize = 20;
    /// PAGE_FAULT: s32.
    pub const FAULT_ATTEMPT: usize = 24;
    /// u32, the end of what is told.
    pub const LAST: usize = 36;
}

/// Exit reason: none yet.
pub const EXIT_NONE: u32 = 0;
/// Exit reason: an access without memory.
pub const EXIT_MMIO: u32 = 1;
/// Exit reason: the VM's end.
pub const EXIT_STATUS: u32 = 2;
/// Exit reason: a fault that could not be resolved; 6.6 and later.
pub const EXIT_PAGE_FAULT: u32 = 3;
/// Status: it ended.
pub const STATUS_EXITED: u32 = 2;
/// Exit type: PSCI SYSTEM_OFF.
pub const TYPE_OFF: u16 = 1;
/// Exit type: PSCI SYSTEM_RESET.
pub const TYPE_RESET: u16 = 2;
/// Exit type: the hypervisor's error, an exception loop among others.
pub const TYPE_ERROR: u16 = 5;
