// SPDX-License-Identifier: Apache-2.0
//! Numbers and layouts of the driver's userspace API, and nothing else.
//!
//! They are those of `include/uapi/linux/gunyah.h` in LKML v7 to v14 and android14-6.1 (where names begin
//! with `GH_`) and in android15-6.6 and android16-6.12 (`GUNYAH_`). A test compares all of them with a C
//! compiler's view. All integers have the host's byte order; reserved fields and padding are 0.

use std::fmt;

/// ioctl type of the driver's own calls.
pub const IOCTL_TYPE: u8 = b'G';
/// ioctl type of Android's additions.
pub const ANDROID_IOCTL_TYPE: u8 = b'A';

// _IO of asm-generic/ioctl.h.
const fn io(kind: u8, number: u32) -> u32 {
    ((kind as u32) << 8) | number
}

// _IOW of asm-generic/ioctl.h: direction 1, 14 bits of size.
const fn iow(kind: u8, number: u32, size: usize) -> u32 {
    assert!(size < 1 << 14);
    #[allow(clippy::cast_possible_truncation)] // Asserted above.
    let size = size as u32;
    (1 << 30) | (size << 16) | io(kind, number)
}

/// On `/dev/gunyah`, argument 0: returns a VM's descriptor.
pub const CREATE_VM: u32 = io(IOCTL_TYPE, 0x0);
/// On a VM, [`UserMemoryRegion`]: shares a region.
pub const VM_SET_USER_MEM_REGION: u32 = iow(IOCTL_TYPE, 0x1, size_of::<UserMemoryRegion>());
/// On a VM, [`GuestRange`]: says where the devicetree is.
pub const VM_SET_DTB_CONFIG: u32 = iow(IOCTL_TYPE, 0x2, size_of::<GuestRange>());
/// On a VM, no argument: returns once the VM runs.
pub const VM_START: u32 = io(IOCTL_TYPE, 0x3);
/// On a VM, [`FunctionDesc`]: adds a vCPU, whose descriptor it returns, an irqfd or an ioeventfd.
pub const VM_ADD_FUNCTION: u32 = iow(IOCTL_TYPE, 0x4, size_of::<FunctionDesc>());
/// On a vCPU, no argument: runs it until it exits.
pub const VCPU_RUN: u32 = io(IOCTL_TYPE, 0x5);
/// On a vCPU, no argument: returns the number of bytes of its mapping.
pub const VCPU_MMAP_SIZE: u32 = io(IOCTL_TYPE, 0x6);
/// On a VM, [`FunctionDesc`]: removes what VM_ADD_FUNCTION added.
pub const VM_REMOVE_FUNCTION: u32 = iow(IOCTL_TYPE, 0x7, size_of::<FunctionDesc>());
/// On a VM, [`MapMem`]: maps a guest memory file (LKML v15 and later, which have no other way).
pub const VM_MAP_MEM: u32 = iow(IOCTL_TYPE, 0x9, size_of::<MapMem>());
/// On a VM, [`BootContext`]: sets a register's first value (android15-6.6 and later).
pub const VM_SET_BOOT_CONTEXT: u32 = iow(IOCTL_TYPE, 0xa, size_of::<BootContext>());
/// On a VM, [`UserMemoryRegion`]: lends a region (Android).
pub const VM_ANDROID_LEND_USER_MEM: u32 =
    iow(ANDROID_IOCTL_TYPE, 0x11, size_of::<UserMemoryRegion>());
/// On a VM, [`GuestRange`]: says where the protected VM's firmware is (Android).
pub const VM_ANDROID_SET_FW_CONFIG: u32 = iow(ANDROID_IOCTL_TYPE, 0x12, size_of::<GuestRange>());
/// On a VM, [`GuestRange`]: takes lent pages back (android16-6.12).
pub const VM_ANDROID_RECLAIM_REGION: u32 = iow(ANDROID_IOCTL_TYPE, 0x13, size_of::<GuestRange>());
/// On the misc device of a contiguous memory area, no argument: returns a descriptor of its memory
/// (android16-6.12).
pub const ANDROID_CREATE_CMA_MEM_FD: u32 = io(ANDROID_IOCTL_TYPE, 0x14);
/// On a VM, [`MapCmaMem`]: registers such memory (android16-6.12).
pub const VM_ANDROID_MAP_CMA_MEM: u32 = iow(ANDROID_IOCTL_TYPE, 0x15, size_of::<MapCmaMem>());
/// On a VM, [`AuthType`]: says how the VM's image is authenticated (android16-6.12).
pub const VM_ANDROID_SET_AUTH_TYPE: u32 = iow(ANDROID_IOCTL_TYPE, 0x16, size_of::<AuthType>());
/// On a VM, the extension's number as the argument itself: returns what the driver has of it, 0 for
/// nothing (newer than the first android16-6.12).
pub const CHECK_EXTENSION: u32 = io(ANDROID_IOCTL_TYPE, 0x17);

/// Extension: the driver wakes a vCPU whose timer has run out. With `no-timer-wakeups` in the devicetree's
/// `/gunyah-vm-config/vcpus` the resource manager leaves that to the driver (proxy-scheduled VMs).
pub const CAP_VCPU_TIMER_WAKEUP: u32 = 0;

/// Argument of [`VM_SET_USER_MEM_REGION`] and [`VM_ANDROID_LEND_USER_MEM`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UserMemoryRegion {
    /// The region's number, unique in the VM. The devicetree refers to shared regions by it.
    pub label: u32,
    /// `MEM_ALLOW_*`: what the guest may do.
    pub flags: u32,
    /// Guest address, a multiple of the host's page. That of main memory equals the devicetree's
    /// `/gunyah-vm-config/memory/base-address`.
    pub guest_phys_addr: u64,
    /// Bytes, a multiple of the host's page, not 0.
    pub memory_size: u64,
    /// Address in the calling process, a multiple of the host's page.
    pub userspace_addr: u64,
}

/// The guest may read.
pub const MEM_ALLOW_READ: u32 = 1;
/// The guest may write.
pub const MEM_ALLOW_WRITE: u32 = 2;
/// The guest may execute.
pub const MEM_ALLOW_EXEC: u32 = 4;
/// For [`VM_ANDROID_MAP_CMA_MEM`] alone: the memory is lent; shared without it.
pub const MEM_LEND: u32 = 0x10;

/// Argument of [`VM_SET_DTB_CONFIG`], with the room for the overlay; of [`VM_ANDROID_SET_FW_CONFIG`]; and
/// of [`VM_ANDROID_RECLAIM_REGION`], where a size of 0 is not refused and counts down from 0.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GuestRange {
    /// Guest address, a multiple of the host's page.
    pub guest_phys_addr: u64,
    /// Bytes, a multiple of the host's page.
    pub size: u64,
}

/// Argument of [`VM_ANDROID_MAP_CMA_MEM`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MapCmaMem {
    /// As in [`UserMemoryRegion`].
    pub label: u32,
    /// 0.
    pub padding: u32,
    /// Guest address, a multiple of the host's page.
    pub guest_phys_addr: u64,
    /// `MEM_ALLOW_*` and [`MEM_LEND`].
    pub flags: u32,
    /// The descriptor that [`ANDROID_CREATE_CMA_MEM_FD`] returned. The driver keeps the number and looks
    /// it up again at START: it stays open until then.
    pub guest_mem_fd: u32,
    /// Bytes from the file's start. Early kernels take it in the wrong unit: use 0.
    pub offset: u64,
    /// Bytes, a multiple of the host's page.
    pub size: u64,
}

/// Argument of [`VM_MAP_MEM`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MapMem {
    /// Guest address, a multiple of the host's page.
    pub guest_addr: u64,
    /// Flags of LKML v15, which are not `MEM_ALLOW_*`.
    pub flags: u32,
    /// A guest memory file.
    pub guest_mem_fd: u32,
    /// Bytes from the file's start.
    pub offset: u64,
    /// Bytes, a multiple of the host's page.
    pub size: u64,
}

/// Argument of [`VM_ANDROID_SET_AUTH_TYPE`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AuthType {
    /// [`AUTH_TYPE_QTVM`].
    pub kind: u32,
    /// Bytes at `arg`.
    pub size: u32,
    /// Address of the type's own argument.
    pub arg: u64,
}

/// `kind` of [`AuthType`]: a protected VM of Android's, for which [`VM_ANDROID_SET_FW_CONFIG`] is there;
/// no driver so far takes it here (ENOENT).
pub const AUTH_TYPE_ANDROID_PVM: u32 = 0;

/// `kind` of [`AuthType`]: a trusted VM of Qualcomm's, [`QtvmAuth`]. android16-6.12's first kernels do
/// all of it and still answer EINVAL.
pub const AUTH_TYPE_QTVM: u32 = 1;

/// Argument of [`AUTH_TYPE_QTVM`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QtvmAuth {
    /// The fixed id that the VM has.
    pub vm_id: u16,
    /// 0.
    pub padding: u16,
    /// The peripheral that the secure world authenticates it as.
    pub pas_id: u32,
    /// Guest address of the image.
    pub guest_phys_addr: u64,
    /// Bytes of the image.
    pub size: u64,
}

/// Argument of [`VM_ADD_FUNCTION`] and [`VM_REMOVE_FUNCTION`].
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
/// An eventfd that the guest's writes fire: [`FunctionIoeventfd`].
pub const FUNCTION_IOEVENTFD: u32 = 3;

/// Argument of [`FUNCTION_VCPU`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FunctionVcpu {
    /// Which of the devicetree's CPUs, from 0 in their order.
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

/// The interrupt stays raised until the guest clears its doorbell, which `source-can-clear` in the
/// doorbell's node allows.
pub const IRQFD_FLAGS_LEVEL: u32 = 1;

/// Argument of [`FUNCTION_IOEVENTFD`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FunctionIoeventfd {
    /// The value to match, as 64 bits.
    pub datamatch: u64,
    /// Guest address.
    pub addr: u64,
    /// Bytes of the write: 1, 2, 4 or 8; 0 for any, without a `datamatch`.
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

/// Argument of [`VM_SET_BOOT_CONTEXT`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BootContext {
    /// `BOOT_CONTEXT_*` << 8 | index.
    pub reg: u32,
    /// 0.
    pub reserved: u32,
    /// The register's first value.
    pub value: u64,
}

/// Register set: X0 to X31; the resource manager refuses index 31.
pub const BOOT_CONTEXT_X: u32 = 0;
/// Register set: the program counter, index 0.
pub const BOOT_CONTEXT_PC: u32 = 1;
/// Register set: SP_EL0 to SP_EL2; the resource manager refuses index 2.
pub const BOOT_CONTEXT_SP: u32 = 2;

/// The page shared with the driver, mapped from a vCPU at offset 0.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct VcpuRun {
    /// Not 0: VCPU_RUN fails with EINTR at once.
    pub immediate_exit: u8,
    /// 0.
    pub padding: [u8; 7],
    /// `EXIT_*`.
    pub exit_reason: u32,
    /// 0.
    pub padding1: u32,
    /// The field that `exit_reason` says.
    pub exit: VcpuExit,
}

/// `exit_reason`: none.
pub const EXIT_UNKNOWN: u32 = 0;
/// `exit_reason`: [`ExitMmio`].
pub const EXIT_MMIO: u32 = 1;
/// `exit_reason`: [`ExitStatus`].
pub const EXIT_STATUS: u32 = 2;
/// `exit_reason`: [`ExitPageFault`] (android15-6.6 and later).
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

/// A guest's access to an address below 1 GiB that has no memory.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitMmio {
    /// Guest address.
    pub phys_addr: u64,
    /// Written bytes, or room for the read ones, little endian.
    pub data: [u8; 8],
    /// Bytes of the access.
    pub len: u32,
    /// 0: a read. 1: a write.
    pub is_write: u8,
    /// [`RESUME_HANDLED`], which the driver presets, or [`RESUME_FAULT`] (android15-6.6 and later; padding
    /// before).
    pub resume_action: u8,
}

/// The VM's end. Its `Display` names the numbers:
/// `status 2 (exited), exit type 1 (PSCI SYSTEM_OFF)`. A reason follows if it is not all zero.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitStatus {
    /// `STATUS_*`.
    pub status: u32,
    /// `EXIT_TYPE_*`, the resource manager's word for it.
    pub exit_type: u16,
    /// 0.
    pub padding: u16,
    /// Bytes of `reason` in use.
    pub reason_size: u32,
    /// More about it, by `exit_type`, little endian.
    pub reason: [u8; 8],
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |names: &[&'static str], number: u32| {
            let known = usize::try_from(number).ok().and_then(|at| names.get(at));
            known.copied().unwrap_or("unknown")
        };
        let status = name(&["unknown", "load failed", "exited", "crashed"], self.status);
        let exit_type = name(&EXIT_TYPES, self.exit_type.into());
        write!(f, "status {} ({status}), exit type {} ({exit_type})", self.status, self.exit_type)?;
        let used = usize::try_from(self.reason_size).unwrap_or(usize::MAX);
        let reason = self.reason.get(..used).unwrap_or(&self.reason);
        if reason.iter().all(|&byte| byte == 0) {
            return Ok(());
        }
        for (index, byte) in reason.iter().enumerate() {
            let before = if index == 0 { ", reason " } else { " " };
            write!(f, "{before}{byte:02x}")?;
        }
        Ok(())
    }
}

// Of EXIT_TYPE_*, by number.
const EXIT_TYPES: [&str; 8] = [
    "VM exit",
    "PSCI SYSTEM_OFF",
    "PSCI SYSTEM_RESET",
    "PSCI SYSTEM_RESET2",
    "watchdog bite",
    "hypervisor error",
    "asynchronous external abort",
    "force stopped",
];

/// A guest's access to memory that the driver could not provide.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitPageFault {
    /// Guest address.
    pub phys_addr: u64,
    /// Why, as a negative errno.
    pub attempt: i32,
    /// `RESUME_*`, which the kernels so far do not read: they try again.
    pub resume_action: u8,
}

/// `status`: the resource manager could not load the VM.
pub const STATUS_LOAD_FAILED: u32 = 1;
/// `status`: the VM ended.
pub const STATUS_EXITED: u32 = 2;
/// `status`: the VM crashed, or never ran.
pub const STATUS_CRASHED: u32 = 3;

/// `exit_type`: no more is known.
pub const EXIT_TYPE_VM_EXIT: u16 = 0;
/// `exit_type`: PSCI SYSTEM_OFF.
pub const EXIT_TYPE_SYSTEM_OFF: u16 = 1;
/// `exit_type`: PSCI SYSTEM_RESET.
pub const EXIT_TYPE_SYSTEM_RESET: u16 = 2;
/// `exit_type`: PSCI SYSTEM_RESET2.
pub const EXIT_TYPE_SYSTEM_RESET2: u16 = 3;
/// `exit_type`: the guest's watchdog.
pub const EXIT_TYPE_WATCHDOG_BITE: u16 = 4;
/// `exit_type`: the hypervisor's error. Usually an exception loop: the guest took an exception without
/// having vectors, or began at the wrong address, such as in its devicetree (android15-6.6 and later
/// without [`VM_SET_BOOT_CONTEXT`]).
pub const EXIT_TYPE_HYP_ERROR: u16 = 5;
/// `exit_type`: asynchronous external abort.
pub const EXIT_TYPE_ASYNC_EXT_ABORT: u16 = 6;
/// `exit_type`: stopped by the host.
pub const EXIT_TYPE_FORCE_STOPPED: u16 = 7;

/// `resume_action`: the access is done.
pub const RESUME_HANDLED: u8 = 0;
/// `resume_action`: the guest gets an abort exception.
pub const RESUME_FAULT: u8 = 1;
/// `resume_action`: try again; refused after MMIO.
pub const RESUME_RETRY: u8 = 2;
