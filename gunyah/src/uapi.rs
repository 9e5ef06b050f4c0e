// SPDX-License-Identifier: Apache-2.0
//! Numbers and layouts of the driver's userspace API, and nothing else.
//!
//! `GH_*` in LKML v7 to v14 and android14-6.1, `GUNYAH_*` in android15-6.6 and later; sources are
//! `include/uapi/linux/gunyah.h` of those kernels. A test compares all of it with a C compiler's view.

/// ioctl type of the driver's own calls.
pub const IOCTL_TYPE: u8 = b'G';
/// ioctl type of Android's additions.
pub const ANDROID_IOCTL_TYPE: u8 = b'A';

const fn io(kind: u8, number: u32) -> u32 {
    ((kind as u32) << 8) | number
}

// _IOW of asm-generic/ioctl.h: direction 1, 14 bits of size.
const fn iow(kind: u8, number: u32, size: usize) -> u32 {
    assert!(size < 1 << 14);
    #[allow(clippy::cast_possible_truncation)] // Asserted above.
    let size = size as u32;
    (1 << 30) | (size << 16) | ((kind as u32) << 8) | number
}

/// On `/dev/gunyah`, argument 0: returns a VM fd.
pub const CREATE_VM: u32 = io(IOCTL_TYPE, 0x0);
/// On a VM fd, [`UserMemoryRegion`]: shares a region (dialects up to 6.1: pins its pages).
pub const VM_SET_USER_MEM_REGION: u32 = iow(IOCTL_TYPE, 0x1, size_of::<UserMemoryRegion>());
/// On a VM fd, [`DtbConfig`].
pub const VM_SET_DTB_CONFIG: u32 = iow(IOCTL_TYPE, 0x2, size_of::<DtbConfig>());
/// On a VM fd, no argument: returns once the VM runs.
pub const VM_START: u32 = io(IOCTL_TYPE, 0x3);
/// On a VM fd, [`FunctionDesc`]: a vCPU (returns its fd), an irqfd or an ioeventfd.
pub const VM_ADD_FUNCTION: u32 = iow(IOCTL_TYPE, 0x4, size_of::<FunctionDesc>());
/// On a vCPU fd, no argument: runs the vCPU until it exits.
pub const VCPU_RUN: u32 = io(IOCTL_TYPE, 0x5);
/// On a vCPU fd, no argument: returns the size of its mapping in bytes.
pub const VCPU_MMAP_SIZE: u32 = io(IOCTL_TYPE, 0x6);
/// On a VM fd, [`FunctionDesc`].
pub const VM_REMOVE_FUNCTION: u32 = iow(IOCTL_TYPE, 0x7, size_of::<FunctionDesc>());
/// On a VM fd, [`BootContext`] (6.6 and later).
pub const VM_SET_BOOT_CONTEXT: u32 = iow(IOCTL_TYPE, 0xa, size_of::<BootContext>());
/// On a VM fd, [`UserMemoryRegion`]: lends a region (Android kernels).
pub const VM_ANDROID_LEND_USER_MEM: u32 =
    iow(ANDROID_IOCTL_TYPE, 0x11, size_of::<UserMemoryRegion>());
/// On a VM fd, [`FwConfig`] (Android kernels).
pub const VM_ANDROID_SET_FW_CONFIG: u32 = iow(ANDROID_IOCTL_TYPE, 0x12, size_of::<FwConfig>());

/// Argument of VM_SET_USER_MEM_REGION and VM_ANDROID_LEND_USER_MEM.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UserMemoryRegion {
    /// Unique in the VM.
    pub label: u32,
    /// `MEM_ALLOW_*`.
    pub flags: u32,
    /// Page aligned.
    pub guest_phys_addr: u64,
    /// Bytes, page aligned, not 0.
    pub memory_size: u64,
    /// Page aligned address in the caller.
    pub userspace_addr: u64,
}

/// The guest may read.
pub const MEM_ALLOW_READ: u32 = 1;
/// The guest may write.
pub const MEM_ALLOW_WRITE: u32 = 2;
/// The guest may execute.
pub const MEM_ALLOW_EXEC: u32 = 4;

/// Argument of VM_SET_DTB_CONFIG.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DtbConfig {
    /// Page aligned.
    pub guest_phys_addr: u64,
    /// Bytes with the room for the overlay, page aligned.
    pub size: u64,
}

/// Argument of VM_ANDROID_SET_FW_CONFIG.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FwConfig {
    /// Page aligned.
    pub guest_phys_addr: u64,
    /// Bytes.
    pub size: u64,
}

/// Argument of VM_ADD_FUNCTION and VM_REMOVE_FUNCTION.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FunctionDesc {
    /// `FUNCTION_*`.
    pub kind: u32,
    /// Bytes at `arg`, at most [`FUNCTION_MAX_ARG_SIZE`].
    pub arg_size: u32,
    /// Address of the function's own argument.
    pub arg: u64,
}

/// Largest `arg_size` in bytes.
pub const FUNCTION_MAX_ARG_SIZE: u32 = 256;
/// A vCPU: [`FunctionVcpu`].
pub const FUNCTION_VCPU: u32 = 1;
/// An interrupt line from the host: [`FunctionIrqfd`].
pub const FUNCTION_IRQFD: u32 = 2;
/// An eventfd fired by a guest's write: [`FunctionIoeventfd`].
pub const FUNCTION_IOEVENTFD: u32 = 3;

/// Argument of [`FUNCTION_VCPU`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FunctionVcpu {
    /// Index of the vCPU.
    pub id: u32,
}

/// Argument of [`FUNCTION_IRQFD`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FunctionIrqfd {
    /// An eventfd.
    pub fd: u32,
    /// Label of the doorbell in the devicetree.
    pub label: u32,
    /// [`IRQFD_FLAGS_LEVEL`].
    pub flags: u32,
    /// 0.
    pub padding: u32,
}

/// The interrupt stays raised until the guest clears its doorbell.
pub const IRQFD_FLAGS_LEVEL: u32 = 1;

/// Argument of [`FUNCTION_IOEVENTFD`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FunctionIoeventfd {
    /// Value to match.
    pub datamatch: u64,
    /// Guest address.
    pub addr: u64,
    /// 1, 2, 4, 8 bytes; 0: any.
    pub len: u32,
    /// An eventfd.
    pub fd: i32,
    /// [`IOEVENTFD_FLAGS_DATAMATCH`].
    pub flags: u32,
    /// 0.
    pub padding: u32,
}

/// Fire only where the written value is `datamatch`.
pub const IOEVENTFD_FLAGS_DATAMATCH: u32 = 1;

/// Argument of VM_SET_BOOT_CONTEXT.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BootContext {
    /// Register set << 8 | index.
    pub reg: u32,
    /// 0.
    pub reserved: u32,
    /// The register's first value.
    pub value: u64,
}

/// Boot context: general register set.
pub const BOOT_CONTEXT_X: u32 = 0;
/// Boot context: program counter.
pub const BOOT_CONTEXT_PC: u32 = 1;
/// Boot context: stack pointers.
pub const BOOT_CONTEXT_SP: u32 = 2;

/// The page shared with the driver, mapped from a vCPU fd at offset 0.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct VcpuRun {
    /// Not 0: VCPU_RUN returns at once.
    pub immediate_exit: u8,
    /// 0.
    pub padding: [u8; 7],
    /// `EXIT_*`.
    pub exit_reason: u32,
    /// 0.
    pub padding1: u32,
    /// What `exit_reason` says.
    pub exit: VcpuExit,
}

/// `exit_reason`: none yet.
pub const EXIT_UNKNOWN: u32 = 0;
/// `exit_reason`: [`ExitMmio`].
pub const EXIT_MMIO: u32 = 1;
/// `exit_reason`: [`ExitStatus`].
pub const EXIT_STATUS: u32 = 2;
/// `exit_reason`: [`ExitPageFault`] (6.6 and later).
pub const EXIT_PAGE_FAULT: u32 = 3;

/// The union in [`VcpuRun`].
#[repr(C)]
#[derive(Clone, Copy)]
pub union VcpuExit {
    /// For [`EXIT_MMIO`].
    pub mmio: ExitMmio,
    /// For [`EXIT_STATUS`].
    pub status: ExitStatus,
    /// For [`EXIT_PAGE_FAULT`].
    pub page_fault: ExitPageFault,
}

/// A guest's access to an address that has no memory.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitMmio {
    /// Guest address.
    pub phys_addr: u64,
    /// Written bytes, or room for the read ones, little endian.
    pub data: [u8; 8],
    /// Bytes of the access.
    pub len: u32,
    /// 1: a write.
    pub is_write: u8,
    /// `RESUME_*` (6.6 and later; before, padding).
    pub resume_action: u8,
}

/// The VM's end.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitStatus {
    /// `STATUS_*`.
    pub status: u32,
    /// `EXIT_TYPE_*`.
    pub exit_type: u16,
    /// 0.
    pub padding: u16,
    /// Bytes of `reason` in use.
    pub reason_size: u32,
    /// Meaning by `exit_type`, little endian.
    pub reason: [u8; 8],
}

/// A guest's fault that the driver could not resolve.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitPageFault {
    /// Guest address.
    pub phys_addr: u64,
    /// Negative errno of the attempt.
    pub attempt: i32,
    /// `RESUME_*`.
    pub resume_action: u8,
}

/// `status`: RM could not load the VM.
pub const STATUS_LOAD_FAILED: u32 = 1;
/// `status`: the VM ended.
pub const STATUS_EXITED: u32 = 2;
/// `status`: the VM crashed.
pub const STATUS_CRASHED: u32 = 3;

/// `exit_type`: no more said.
pub const EXIT_TYPE_VM_EXIT: u16 = 0;
/// `exit_type`: PSCI SYSTEM_OFF.
pub const EXIT_TYPE_SYSTEM_OFF: u16 = 1;
/// `exit_type`: PSCI SYSTEM_RESET.
pub const EXIT_TYPE_SYSTEM_RESET: u16 = 2;
/// `exit_type`: PSCI SYSTEM_RESET2.
pub const EXIT_TYPE_SYSTEM_RESET2: u16 = 3;
/// `exit_type`: the guest's watchdog.
pub const EXIT_TYPE_WATCHDOG_BITE: u16 = 4;
/// `exit_type`: the hypervisor's error, an exception loop among others.
pub const EXIT_TYPE_HYP_ERROR: u16 = 5;
/// `exit_type`: asynchronous external abort.
pub const EXIT_TYPE_ASYNC_EXT_ABORT: u16 = 6;
/// `exit_type`: stopped by the host.
pub const EXIT_TYPE_FORCE_STOPPED: u16 = 7;

/// `resume_action`: handled.
pub const RESUME_HANDLED: u8 = 0;
/// `resume_action`: inject a fault.
pub const RESUME_FAULT: u8 = 1;
/// `resume_action`: try again.
pub const RESUME_RETRY: u8 = 2;
