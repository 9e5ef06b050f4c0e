// SPDX-License-Identifier: Apache-2.0
//! The API of the Gunyah hypervisor's Linux driver, `/dev/gunyah`: what `kvm-ioctls` is to KVM.
//!
//! [Gunyah](https://github.com/quic/gunyah-hypervisor) is a type 1 hypervisor for arm64. A Linux host is
//! one of its virtual machines, and the driver lets a program of that host, a virtual machine monitor
//! (VMM), make further ones. This crate has the driver's numbers and layouts ([`uapi`]) and one method a
//! call; it decides nothing. Errors are [`std::io::Error`]s with the driver's errno, unless a method says
//! otherwise.
//!
//! | type | is | made by |
//! | --- | --- | --- |
//! | [`Gunyah`] | the open device | [`Gunyah::open`] |
//! | [`Vm`] | a virtual machine | [`Gunyah::create_vm`] |
//! | [`Dialect`] | which driver this is | [`Vm::dialect`] |
//! | [`Vcpu`] | one of its CPUs, with its run page | [`Vm::add_vcpu`] |
//! | [`Exit`] | why a CPU came back to the host | [`Vcpu::run`] |
//! | [`ImmediateExit`] | how another thread takes a CPU out of the guest | [`Vcpu::immediate_exit`] |
//!
//! # What is different from KVM
//!
//! - **The devicetree configures the VM.** The driver hands it to Gunyah's resource manager, which reads
//!   the CPUs, the interrupt controller and the node `/gunyah-vm-config` in it, makes the VM accordingly
//!   and writes an overlay into the same memory. Most refusals of [`Vm::start`] are about the devicetree,
//!   and the reason is only in the kernel's log.
//! - **Memory is shared or lent.** [`Vm::share`] leaves the host its access. [`Vm::lend`] takes it away
//!   while the VM exists; Android's kernels want main memory to be lent.
//! - **Registers are not accessible**, but for their first values ([`Vm::set_boot_context`]).
//! - **Not every VM has a [`Vcpu`].** The devicetree says who schedules the VM. With `affinity = "proxy"`
//!   in `/gunyah-vm-config/vcpus`, each CPU runs while a thread sits in [`Vcpu::run`]. Otherwise the
//!   hypervisor schedules the VM by itself, it has no [`Vcpu`], and the VMM cannot learn of its end.
//! - **Interrupts are doorbells.** A `doorbell` node below `/gunyah-vm-config/vdevices` has a label;
//!   [`Vm::add_irqfd`] connects an eventfd with that label.
//!
//! # The order of calls
//!
//! 1. Map the guest's memory; put kernel and devicetree into it.
//! 2. [`Gunyah::open`], [`Gunyah::create_vm`].
//! 3. [`Vm::share`] or [`Vm::lend`], once a region.
//! 4. [`Vm::set_dtb_config`]: where the devicetree is, with room for the overlay.
//! 5. [`Vm::set_boot_context`] for the program counter (android15-6.6 and later, which begin at the first
//!    byte of the devicetree's range otherwise; earlier kernels begin at the first byte of the region that
//!    holds the devicetree).
//! 6. [`Vm::add_vcpu`] for each CPU of the devicetree, [`Vm::add_irqfd`], [`Vm::add_ioeventfd`].
//! 7. [`Vm::start`], once. After a failure, drop everything and begin again.
//! 8. [`Vcpu::run`] on a thread for each CPU, until it returns [`Exit::Status`].
//! 9. Close the eventfds of [`Vm::add_irqfd`], drop every [`Vcpu`], then the [`Vm`]: that takes the VM down
//!    and gives the memory back. It can take long and cannot be interrupted, and SIGKILL does not hasten
//!    it. Then unmap the memory.
//!
//! All of it belongs in one process: the driver refuses memory calls and [`Vcpu::run`] from another
//! address space than the one that created the VM (EPERM), and a forked child that inherits a descriptor
//! keeps the VM alive.
//!
//! # Kernels
//!
//! The driver was posted to the Linux kernel mailing list (v7 to v14 have this API) and ships in Android's
//! kernels: `GH_*` in android14-6.1, `GUNYAH_*` in android15-6.6 and android16-6.12. The calls that not
//! all of them have say so; a kernel without a call answers ENOTTY. [`Vm::dialect`] finds out which kernel it is. Qualcomm's earlier driver of the same
//! name (ioctl type 0xB2) is another API.
//!
//! # Example
//!
//! A VM with one CPU whose guest writes to a serial port; `examples/start_vm.rs` is the whole program.
//!
//! ```no_run
//! use gunyah::uapi::{UserMemoryRegion, MEM_ALLOW_EXEC, MEM_ALLOW_READ, MEM_ALLOW_WRITE};
//! use gunyah::{BootRegister, Exit, Gunyah, Resume};
//!
//! # fn memory() -> u64 { 0 }
//! # fn main() -> std::io::Result<()> {
//! let vm = Gunyah::open("/dev/gunyah")?.create_vm()?;
//! // 4 MiB that hold the kernel at the beginning and the devicetree at 2 MiB.
//! let region = UserMemoryRegion {
//!     label: 0,
//!     flags: MEM_ALLOW_READ | MEM_ALLOW_WRITE | MEM_ALLOW_EXEC,
//!     guest_phys_addr: 0x8000_0000,
//!     memory_size: 4 << 20,
//!     userspace_addr: memory(),
//! };
//! // SAFETY: the mapping lives longer than the VM, and nothing of Rust's refers to it.
//! unsafe { vm.lend(&region) }?;
//! vm.set_dtb_config(0x8020_0000, 2 << 20)?;
//! match vm.set_boot_context(BootRegister::Pc, 0x8000_0000) {
//!     Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => {} // android14-6.1
//!     other => other?,
//! }
//! let mut vcpu = vm.add_vcpu(0)?;
//! vm.start()?;
//! loop {
//!     match vcpu.run()? {
//!         Exit::MmioWrite { address: 0x0900_0000, data, .. } => {
//!             print!("{}", char::from(data[0]));
//!             vcpu.resume(Resume::Handled);
//!         }
//!         Exit::MmioRead { .. } => {
//!             vcpu.set_read_data([0; 8]);
//!             vcpu.resume(Resume::Handled);
//!         }
//!         Exit::Status(status) => {
//!             println!("{status}");
//!             return Ok(());
//!         }
//!         other => panic!("{other:?}"),
//!     }
//! }
//! # }
//! ```

#![warn(missing_docs)]

mod dialect;
mod ioctl;
pub mod uapi;
mod vcpu;
mod vm;

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

pub use dialect::Dialect;
pub use vcpu::{Exit, ImmediateExit, Resume, Vcpu};
pub use vm::{BootRegister, Ioeventfd, Trigger, Vm};

/// The open device. It may be dropped once the VM is created.
#[derive(Debug)]
pub struct Gunyah {
    fd: OwnedFd,
}

impl Gunyah {
    /// Opens the device node, `/dev/gunyah`, for reading and writing and closed on exec.
    ///
    /// # Errors
    /// Those of open(2). ENOENT: the kernel has no driver, or no hypervisor is below it. EACCES: the node's
    /// owner, mode or SELinux label.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Self { fd: file.into() })
    }

    /// Creates a VM. It has no memory and does not run; nothing outside the kernel knows of it before
    /// [`Vm::start`]. The calling process's address space becomes the VM's owner.
    ///
    /// # Errors
    /// - ENOTTY, or EINVAL on old kernels: the node belongs to another driver, such as Qualcomm's earlier
    ///   one.
    /// - EMFILE, ENFILE: no descriptor is left.
    /// - ENOMEM: the kernel is out of memory.
    pub fn create_vm(&self) -> io::Result<Vm> {
        // The argument is reserved and must be 0.
        ioctl::new_fd(self.fd.as_fd(), uapi::CREATE_VM, 0).map(Vm::from)
    }
}

/// Takes a descriptor of the device that was opened elsewhere, such as one that was passed to this
/// process. What it refers to is not checked; another file's calls answer ENOTTY.
impl From<OwnedFd> for Gunyah {
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl AsFd for Gunyah {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
