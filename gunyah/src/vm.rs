// SPDX-License-Identifier: Apache-2.0
//! A virtual machine: one method for each ioctl of its descriptor.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use crate::uapi::{self, UserMemoryRegion};
use crate::{ioctl, Vcpu};

/// A virtual machine.
///
/// It lives as long as any descriptor of it: this one, those of its vCPUs, and copies of them in other
/// processes; a vCPU's run page counts as well while it is mapped. The last close stops the VM and gives
/// its memory back. In android15-6.6 and later that happens in the closing task, uninterruptibly, and can
/// take seconds.
///
/// Whole-VM calls are safe to make from several threads; the driver serialises them.
#[derive(Debug)]
pub struct Vm {
    fd: OwnedFd,
}

/// A register that [`Vm::set_boot_context`] can set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootRegister {
    /// X0 to X30.
    X(u8),
    /// The program counter.
    Pc,
    /// The stack pointer of exception level 0 or 1.
    Sp(u8),
}

impl BootRegister {
    /// The number as the driver wants it: the register set in bits 8 to 15, the index below.
    fn number(self) -> u32 {
        let (set, index) = match self {
            Self::X(index) => (uapi::BOOT_CONTEXT_X, index),
            Self::Pc => (uapi::BOOT_CONTEXT_PC, 0),
            Self::Sp(level) => (uapi::BOOT_CONTEXT_SP, level),
        };
        (set << 8) | u32::from(index)
    }
}

/// How an interrupt line behaves. The devicetree's `interrupts`, in the doorbell's node and in the device's,
/// must say the same (1: edge, 4: level): an edge line that the guest takes for a level one is raised for
/// ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Trigger {
    /// Each write to the eventfd raises the interrupt once.
    Edge = 0,
    /// The interrupt stays raised until the guest clears its doorbell, which the doorbell's node allows by
    /// `source-can-clear`. There is no resample eventfd: the VMM does not learn of it.
    Level = uapi::IRQFD_FLAGS_LEVEL,
}

/// An eventfd that the guest's writes to an address fire, for [`Vm::add_ioeventfd`].
#[derive(Debug, Clone, Copy)]
pub struct Ioeventfd<'a> {
    /// The eventfd.
    pub eventfd: BorrowedFd<'a>,
    /// The guest address, below 1 GiB (0x4000_0000). Elsewhere the driver accepts it and it never fires.
    pub address: u64,
    /// Bytes of the write: 1, 2, 4 or 8.
    pub len: u32,
    /// With a value, only writes of `len` bytes and of exactly this value count, and others exit. Without
    /// one every write to the address counts, whatever its length; `len` may then be 0 as well.
    pub datamatch: Option<u64>,
}

impl Ioeventfd<'_> {
    fn argument(&self) -> uapi::FunctionIoeventfd {
        uapi::FunctionIoeventfd {
            datamatch: self.datamatch.unwrap_or(0),
            addr: self.address,
            len: self.len,
            fd: self.eventfd.as_raw_fd(),
            flags: self.datamatch.map_or(0, |_| uapi::IOEVENTFD_FLAGS_DATAMATCH),
            padding: 0,
        }
    }
}

impl Vm {
    /// Registers a region to which the host keeps access (VM_SET_USER_MEM_REGION). The VM may use it from
    /// [`Vm::start`] on. A region cannot be removed, and one that is added later is of no use.
    ///
    /// Main memory is the region that holds the devicetree. Let its `guest_phys_addr` equal the
    /// devicetree's `/gunyah-vm-config/memory/base-address`: up to android14-6.1 the guest sees it where the
    /// devicetree says, later where `guest_phys_addr` says.
    ///
    /// LKML's driver and android14-6.1 pin all of its pages now. android15-6.6 and later only note the
    /// range, look pages up by their address in this process whenever the guest touches one for the first
    /// time, and make the guest's mapping not executable, whatever the flags.
    ///
    /// # Safety
    /// From [`Vm::start`] on the guest reads and, where the flags allow it, writes the memory at any time.
    /// `userspace_addr` and `memory_size` must describe memory that the caller may give away so: it stays
    /// mapped there until the VM is gone, and no Rust reference to it is alive while the VM runs.
    ///
    /// # Errors
    /// - EINVAL: size, guest address or user address is not a multiple of the host's page, the size is 0,
    ///   or a flag is unknown.
    /// - EEXIST: the guest range overlaps another region's; up to 6.1 also a label that is used twice.
    /// - ENOMEM: up to 6.1, the pages exceed RLIMIT_MEMLOCK, or the region is too large for the kernel's
    ///   list of pages (from about 2 GiB on; use several regions).
    /// - EFAULT: up to 6.1, the memory is not mapped, or not writable.
    /// - EPERM: another process created the VM.
    pub unsafe fn share(&self, region: &UserMemoryRegion) -> io::Result<()> {
        ioctl::with(self.as_fd(), uapi::VM_SET_USER_MEM_REGION, region).map(drop)
    }

    /// Registers a region that the host gives away (VM_ANDROID_LEND_USER_MEM; Android's kernels). The host
    /// loses access to a page at [`Vm::start`], or in android15-6.6 and later when the guest first touches
    /// it; the mapping remains, but touching it then is a fatal fault.
    ///
    /// android15-6.6 and later give whole folios: a huge page that reaches beyond the region goes to the
    /// guest with everything in it. Addresses in the guest and in this process should be equal modulo 2 MiB
    /// there, and the memory anonymous or shmem: pages of hugetlb and of files are refused when touched.
    /// No kernel minds whether the mapping is private; the simulator's executing engines want
    /// `MAP_SHARED`. [The front page](crate#memory) has a mapping that suits all.
    ///
    /// What the memory holds once the host has it back is not promised. What host and guest use both, such
    /// as virtio's queues, belongs in a region of its own that is shared ([`Vm::share`]).
    ///
    /// # Safety
    /// As for [`Vm::share`]; moreover the memory must not be accessed at all while the VM exists.
    ///
    /// # Errors
    /// Those of [`Vm::share`], and ENOTTY: the kernel cannot lend.
    pub unsafe fn lend(&self, region: &UserMemoryRegion) -> io::Result<()> {
        ioctl::with(self.as_fd(), uapi::VM_ANDROID_LEND_USER_MEM, region).map(drop)
    }

    /// Says where the devicetree is: a guest address and a number of bytes, both multiples of the host's
    /// page, in one region. The size includes the room after the blob that the resource manager needs for
    /// its overlay. The last call counts.
    ///
    /// A range of 2 MiB at a multiple of 2 MiB with the blob at its first byte suits every kernel.
    ///
    /// # Errors
    /// EOVERFLOW: the range passes the end of the address space. Other mistakes show at [`Vm::start`].
    pub fn set_dtb_config(&self, guest_phys_addr: u64, size: u64) -> io::Result<()> {
        let config = uapi::GuestRange { guest_phys_addr, size };
        ioctl::with(self.as_fd(), uapi::VM_SET_DTB_CONFIG, &config).map(drop)
    }

    /// Sets the first value of a register of the first vCPU (android15-6.6 and later). Without it the
    /// guest begins at the first byte of the devicetree's range, and so executes the devicetree: set
    /// [`BootRegister::Pc`]. X0 has the devicetree's address unless [`BootRegister::X`]`(0)` is set.
    ///
    /// Earlier kernels begin at the first byte of the region that holds the devicetree, with the
    /// devicetree's address in X0 as well.
    ///
    /// # Errors
    /// - ENOTTY: the kernel is older.
    /// - EINVAL: there is no such register, or the VM was started already.
    ///
    /// The resource manager may refuse more, which shows at [`Vm::start`].
    pub fn set_boot_context(&self, register: BootRegister, value: u64) -> io::Result<()> {
        let context = uapi::BootContext { reg: register.number(), reserved: 0, value };
        ioctl::with(self.as_fd(), uapi::VM_SET_BOOT_CONTEXT, &context).map(drop)
    }

    /// Makes this a protected VM whose firmware (pvmfw) is in the given guest range, which has a lent region of
    /// its own (VM_ANDROID_SET_FW_CONFIG; Android's kernels). Both values are multiples of the host's page. It
    /// cannot be undone.
    ///
    /// What the region holds does not matter: at [`Vm::start`] the resource manager copies the firmware there
    /// that the boot loader gave it, and the guest begins at its first byte, whatever
    /// [`Vm::set_boot_context`] said. The devicetree's `/gunyah-vm-config/memory` has `firmware-address`, the
    /// same address, and bounds (`size-max`, `firmware-size-max`) that keep both ranges apart. Android's
    /// firmware finds the kernel by `/config`: `kernel-address` and `kernel-size`.
    ///
    /// # Errors
    /// ENOTTY: the kernel has no such call. Where the boot loader gave no firmware, [`Vm::start`] answers
    /// EPERM or EINVAL.
    pub fn set_fw_config(&self, guest_phys_addr: u64, size: u64) -> io::Result<()> {
        let config = uapi::GuestRange { guest_phys_addr, size };
        ioctl::with(self.as_fd(), uapi::VM_ANDROID_SET_FW_CONFIG, &config).map(drop)
    }

    /// Takes lent memory back from a running guest (VM_ANDROID_RECLAIM_REGION; android16-6.12): every
    /// folio that overlaps the guest range, as a whole. A page comes back to the guest when it touches it
    /// next. Both values are multiples of the host's page.
    ///
    /// # Errors
    /// - ENOTTY: the kernel has no such call.
    /// - EINVAL: a value is not aligned, or the size is 0. The driver itself would count down from 0, so
    ///   a size of 0 is refused here and never reaches it.
    /// - EBUSY: the hypervisor did not give a page back.
    /// - EPERM: another process created the VM.
    pub fn reclaim_region(&self, guest_phys_addr: u64, size: u64) -> io::Result<()> {
        if size == 0 {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let range = uapi::GuestRange { guest_phys_addr, size };
        ioctl::with(self.as_fd(), uapi::VM_ANDROID_RECLAIM_REGION, &range).map(drop)
    }

    /// Asks for an extension of the driver by its number, such as
    /// [`CAP_VCPU_TIMER_WAKEUP`](uapi::CAP_VCPU_TIMER_WAKEUP) (CHECK_EXTENSION; kernels newer than
    /// android16-6.12's first). What the answer means is the extension's affair; 0 is "not there".
    ///
    /// # Errors
    /// ENOTTY: the kernel has no such call, and none of its extensions.
    pub fn check_extension(&self, extension: u32) -> io::Result<i32> {
        ioctl::number(self.as_fd(), uapi::CHECK_EXTENSION, u64::from(extension))
    }

    /// Adds a vCPU of a proxy-scheduled VM and maps its run page (VM_ADD_FUNCTION, VCPU_MMAP_SIZE, mmap).
    ///
    /// `id` counts the CPUs of the devicetree from 0, in their order. **Add exactly those.** The driver
    /// takes any number, but a vCPU that the devicetree does not have answers ENODEV when it is run, and
    /// **the host's kernel oopses at the VM's end**, after which no VM starts. That was seen on
    /// android14-6.1; take it to be so on all.
    ///
    /// A VM cannot have more CPUs than the host has cores: a newer resource manager refuses it at
    /// [`Vm::start`] (ENODEV).
    ///
    /// # Errors
    /// - EEXIST: it was added before.
    /// - ENOENT, ENXIO, EOPNOTSUPP: the kernel is built without vCPUs (`CONFIG_GUNYAH_VCPU`).
    /// - ENOTTY: this driver has no functions at all: it can only run VMs that the hypervisor schedules.
    /// - EMFILE, ENFILE: no descriptor is left. ENOMEM: no memory for the page.
    /// - [`io::ErrorKind::Unsupported`], without an errno: the run page is smaller than
    ///   [`VcpuRun`](uapi::VcpuRun), so this is another driver.
    pub fn add_vcpu(&self, id: u32) -> io::Result<Vcpu> {
        let vcpu = uapi::FunctionVcpu { id };
        let function = describe(uapi::FUNCTION_VCPU, &vcpu);
        let argument = ioctl::address_of(&function);
        Vcpu::map(ioctl::new_fd(self.as_fd(), uapi::VM_ADD_FUNCTION, argument)?)
    }

    /// Removes the vCPU of this id: the driver takes it out of the guest and waits until its thread is out
    /// of [`Vcpu::run`], which answers ENODEV from then on.
    ///
    /// # Errors
    /// ENOENT: there is no such vCPU.
    pub fn remove_vcpu(&self, id: u32) -> io::Result<()> {
        self.function(uapi::VM_REMOVE_FUNCTION, uapi::FUNCTION_VCPU, &uapi::FunctionVcpu { id })
    }

    /// Connects an eventfd with the doorbell of this label in the devicetree: a write to the eventfd rings
    /// it and raises the guest's interrupt. Writes before [`Vm::start`] are lost. The driver accepts
    /// a label that the devicetree does not have; only the kernel's log mentions it. It never reads the
    /// eventfd's counter, so use a non-blocking one.
    ///
    /// The driver holds a reference to the eventfd; closing the descriptor does not disconnect it.
    ///
    /// Close the eventfd before the VM, also where [`Vm::start`] has failed: of a doorbell that never was
    /// there, android14-6.1 leaves an entry in the eventfd's queue, and the eventfd's close after the VM's
    /// walks memory that is freed by then.
    ///
    /// # Errors
    /// - EEXIST: the label is connected already.
    /// - EINVAL: the descriptor is not an eventfd.
    /// - ENOENT, ENXIO, EOPNOTSUPP, ENOTTY: as for [`Vm::add_vcpu`] (`CONFIG_GUNYAH_IRQFD`).
    pub fn add_irqfd(&self, event: BorrowedFd<'_>, label: u32, trigger: Trigger) -> io::Result<()> {
        // A descriptor's number is not negative.
        let fd = event.as_raw_fd().unsigned_abs();
        let irqfd = uapi::FunctionIrqfd { fd, label, flags: trigger as u32, padding: 0 };
        self.function(uapi::VM_ADD_FUNCTION, uapi::FUNCTION_IRQFD, &irqfd)
    }

    /// Disconnects the doorbell of this label.
    ///
    /// # Errors
    /// ENOENT: it is not connected.
    pub fn remove_irqfd(&self, label: u32) -> io::Result<()> {
        // The driver compares the label alone.
        let irqfd = uapi::FunctionIrqfd { label, ..uapi::FunctionIrqfd::default() };
        self.function(uapi::VM_REMOVE_FUNCTION, uapi::FUNCTION_IRQFD, &irqfd)
    }

    /// Lets the driver write to an eventfd in place of an [`Exit::MmioWrite`](crate::Exit::MmioWrite)
    /// whenever the guest writes to its address. Above 1 GiB it is accepted and never fires.
    ///
    /// # Errors
    /// - EINVAL: the length is not one of these, or 0 with a `datamatch`, or the descriptor is not an
    ///   eventfd.
    /// - EEXIST: another one would match the same writes.
    /// - ENOENT, ENXIO, EOPNOTSUPP, ENOTTY: as for [`Vm::add_vcpu`] (`CONFIG_GUNYAH_IOEVENTFD`).
    pub fn add_ioeventfd(&self, event: &Ioeventfd<'_>) -> io::Result<()> {
        self.function(uapi::VM_ADD_FUNCTION, uapi::FUNCTION_IOEVENTFD, &event.argument())
    }

    /// Takes back an ioeventfd that was added with the same values. Kernels differ in what they compare,
    /// from the address alone to all values; the driver removes every ioeventfd that it finds equal.
    ///
    /// # Errors
    /// ENOENT: there is none.
    pub fn remove_ioeventfd(&self, event: &Ioeventfd<'_>) -> io::Result<()> {
        self.function(uapi::VM_REMOVE_FUNCTION, uapi::FUNCTION_IOEVENTFD, &event.argument())
    }

    /// Gives the VM to the resource manager, which makes it and lets it run. Blocks until it runs, and
    /// cannot be interrupted meanwhile. On a running VM it does nothing.
    ///
    /// After most failures the VM cannot be started again (ENODEV), and each failure may cost the host
    /// memory until its next boot: find mistakes before this call, not by it.
    ///
    /// Nor can a VM be started again that has ended (ENODEV). After PSCI's SYSTEM_RESET, drop it with its
    /// vCPUs, write the kernel and the devicetree again (the resource manager has changed the latter), and
    /// make a new one.
    ///
    /// # Errors
    /// The driver's and, by way of the driver, the resource manager's; the kernel's log has the latter's
    /// own code (`RM rejected message`). The simulator's record has the reason in words: `rm-refused`, or
    /// `engine-refused` where its engine cannot run the VM.
    /// - ENODEV: the resource manager lacks something: a [node of the devicetree](crate#the-devicetree),
    ///   room for its overlay, a VM id; or it refuses the way in which memory is given (main memory that
    ///   is shared). Or this VM has ended, or failed to start before.
    /// - EINVAL: the devicetree cannot be parsed or its range is wrong; the range is less than a page.
    /// - ENOENT: the devicetree's range is in no region (android15-6.6 and later).
    /// - ENOMEM: RLIMIT_MEMLOCK, the kernel, or the resource manager.
    /// - EPERM: the resource manager denies it.
    /// - EOPNOTSUPP: the resource manager is too old for this kernel.
    /// - EBADMSG: the resource manager answered with an error that the driver does not know.
    pub fn start(&self) -> io::Result<()> {
        ioctl::number(self.as_fd(), uapi::VM_START, 0).map(drop)
    }

    /// Adds or removes a function, as `request` says.
    fn function<T>(&self, request: u32, kind: u32, argument: &T) -> io::Result<()> {
        ioctl::with(self.as_fd(), request, &describe(kind, argument)).map(drop)
    }
}

/// Takes the descriptor of a VM that was created elsewhere in this process.
impl From<OwnedFd> for Vm {
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl AsFd for Vm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Vm {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Refers to `argument` by its address.
fn describe<T>(kind: u32, argument: &T) -> uapi::FunctionDesc {
    #[allow(clippy::cast_possible_truncation)] // Below FUNCTION_MAX_ARG_SIZE, each of them.
    let arg_size = size_of::<T>() as u32;
    uapi::FunctionDesc { kind, arg_size, arg: ioctl::address_of(argument) }
}
