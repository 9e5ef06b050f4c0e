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
//! The crate builds on x86-64, too, and a VMM can be tried there without a device: `gunyah-sim` runs it
//! with a simulated `/dev/gunyah` and executes the guest's instructions. `docs/simulator.md` in the
//! repository describes it. `gunyah/examples/start_vm.rs` is a whole VMM that runs there:
//!
//! ```text
//! dtc -O dtb -o start_vm.dtb gunyah/examples/start_vm.dts
//! cargo build -p gunyah-sim --features exec
//! cargo build -p gunyah --example start_vm
//! gunyah-sim --engine exec -- start_vm start_vm.dtb
//! ```
//!
//! # What is different from KVM
//!
//! - **The devicetree configures the VM.** The driver hands it to Gunyah's resource manager, which reads
//!   the CPUs, the interrupt controller and the node `/gunyah-vm-config` in it, makes the VM accordingly
//!   and writes an overlay into the same memory. Most refusals of [`Vm::start`] are about the devicetree,
//!   and the reason is only in the kernel's log.
//! - **Memory is shared or lent.** [`Vm::share`] leaves the host its access. [`Vm::lend`] takes it away
//!   while the VM exists; Android's kernels want main memory to be lent. Devices that use the guest's
//!   memory, such as virtio's queues, then need a shared region of their own.
//! - **Registers are not accessible**, but for their first values ([`Vm::set_boot_context`]).
//! - **Not every VM has a [`Vcpu`].** The devicetree says who schedules the VM. With `affinity = "proxy"`
//!   in `/gunyah-vm-config/vcpus`, each CPU runs while a thread sits in [`Vcpu::run`]. Otherwise the
//!   hypervisor schedules the VM by itself, it has no [`Vcpu`], and the VMM cannot learn of its end.
//! - **Interrupts are doorbells.** A `doorbell` node below `/gunyah-vm-config/vdevices` has a label;
//!   [`Vm::add_irqfd`] connects an eventfd with that label.
//! - **Devices lie below 1 GiB (0x4000_0000), memory lies above.** Only accesses below it come out as MMIO.
//! - **The hypervisor handles PSCI**, the guest's calls to start CPUs and to power off. The VMM sees only
//!   the VM's end.
//!
//! | kvm-ioctls | here |
//! | --- | --- |
//! | `Kvm::new`, `create_vm` | [`Gunyah::open`], [`Gunyah::create_vm`] |
//! | `check_extension` | [`Vm::dialect`]; [`Vm::check_extension`] exists on the newest kernels alone |
//! | `set_user_memory_region` | [`Vm::lend`] or [`Vm::share`], before [`Vm::start`]; a label in place of the slot; a region cannot be removed |
//! | `create_device` (VGIC), timers | the devicetree |
//! | `create_vcpu` | [`Vm::add_vcpu`], exactly the CPUs of the devicetree |
//! | `set_one_reg` | [`Vm::set_boot_context`]: the first CPU alone, android15-6.6 and later |
//! | none | [`Vm::start`] |
//! | `run`, `VcpuExit` | [`Vcpu::run`], [`Exit`], which is `Copy`: answer by [`Vcpu::set_read_data`] and [`Vcpu::resume`] |
//! | `SystemEvent`, `Shutdown` | [`Exit::Status`] |
//! | `set_kvm_immediate_exit` | [`Vcpu::immediate_exit`], from any thread |
//! | `register_irqfd`, `register_irqfd_with_resample` | [`Vm::add_irqfd`], with a label and a [`Trigger`]; no resample eventfd |
//! | `register_ioevent` | [`Vm::add_ioeventfd`], below 1 GiB |
//! | dirty log, guest debug, pause, snapshot, MSI | none |
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
//! A VM starts once. To start it again after PSCI's SYSTEM_RESET, do all of this anew: drop it, write the
//! kernel and the devicetree again, for the resource manager has changed the devicetree and what the
//! memory holds after the end is not promised, and make a new VM.
//!
//! # Memory
//!
//! `MAP_SHARED | MAP_ANONYMOUS` at a multiple of 2 MiB suits every kernel and the simulator, whose engines
//! cannot execute private memory. Sizes and guest addresses that are multiples of 2 MiB, too, avoid that
//! a huge page reaches beyond its region. The host's RLIMIT_MEMLOCK must allow for it.
//!
//! ```
//! /// `size` bytes, in a mapping that is large enough to have them at a multiple of 2 MiB.
//! fn guest_memory(size: usize) -> std::io::Result<*mut u8> {
//!     let protection = libc::PROT_READ | libc::PROT_WRITE;
//!     let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
//!     let length = size + (2 << 20);
//!     // SAFETY: a new mapping at an address of the kernel's choice.
//!     let start = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
//!     match start {
//!         libc::MAP_FAILED => Err(std::io::Error::last_os_error()),
//!         // SAFETY: less than 2 MiB further, so `size` bytes follow.
//!         start => Ok(unsafe { start.cast::<u8>().add(start.align_offset(2 << 20)) }),
//!     }
//! }
//! # assert!(guest_memory(4 << 20).unwrap().addr() % (2 << 20) == 0);
//! ```
//!
//! # The devicetree
//!
//! The smallest one, for a VM with one CPU and its memory at 0x8000_0000:
//!
//! ```dts
//! /* The least that a proxy-scheduled VM needs. */
//! /dts-v1/;
//!
//! / {
//!     #address-cells = <2>;
//!     #size-cells = <2>;
//!     interrupt-parent = <&gic>;
//!
//!     /* First: an old resource manager reads its cells for those of Gunyah's own node. */
//!     chosen {
//!     };
//!
//!     cpus {
//!         #address-cells = <1>;
//!         #size-cells = <0>;
//!
//!         cpu@0 {
//!             device_type = "cpu";
//!             compatible = "arm,armv8";
//!             reg = <0>;
//!         };
//!     };
//!
//!     psci {
//!         compatible = "arm,psci-1.0";
//!         method = "hvc";
//!     };
//!
//!     gic: interrupt-controller@3fff0000 {
//!         compatible = "arm,gic-v3";
//!         #interrupt-cells = <3>;
//!         interrupt-controller;
//!         reg = <0x0 0x3fff0000 0x0 0x10000>, /* distributor */
//!               <0x0 0x3ffd0000 0x0 0x20000>; /* one CPU's redistributor */
//!     };
//!
//!     gunyah-vm-config {
//!         image-name = "start-vm";
//!
//!         memory {
//!             base-address = <0x0 0x80000000>; /* the region's guest_phys_addr */
//!         };
//!
//!         vcpus {
//!             affinity = "proxy";
//!         };
//!     };
//! };
//! ```
//!
//! A guest that is more than an example wants more, such as a timer node; the resource manager adds
//! `/memory` and `/hypervisor` by itself. What it requires:
//!
//! | what | otherwise |
//! | --- | --- |
//! | `/gunyah-vm-config` | [`Vm::start`] answers ENODEV |
//! | … `image-name`, not empty and short | EINVAL |
//! | … `memory/base-address`: the guest address of main memory, a multiple of 2 MiB above 0x4000_0000 | up to android14-6.1 ENODEV. A newer resource manager does not need it |
//! | … `vcpus` | ENODEV |
//! | … `vcpus/affinity = "proxy"`, or an `affinity-map` | EINVAL |
//! | `/cpus` with at least one CPU that has `device_type = "cpu"` | EINVAL |
//! | `reg` in each CPU, another one each | EINVAL of a newer resource manager |
//! | `enable-method = "psci"` in each further CPU | EINVAL |
//! | a GICv3 that the root's `interrupt-parent` refers to | ENODEV |
//! | `/chosen`, as the root's first child | up to android14-6.1 ENODEV. A newer resource manager does not need it |
//! | `psci` | the guest's PSCI calls return -1: it cannot start its other CPUs, and never ends |
//! | no `/hypervisor` | ENODEV, or EPERM of a newer resource manager |
//! | no other name than `/memory` for a node with `device_type = "memory"` | EINVAL |
//!
//! # How the guest begins
//!
//! The first CPU starts at EL1 with the MMU off and interrupts masked. X0 has the devicetree's guest
//! address on every kernel, unless [`BootRegister::X`]`(0)` is set: what arm64 Linux wants. The program
//! counter is step 5's. The other CPUs wait until the guest starts them by PSCI; their [`Vcpu::run`] may be
//! called right after [`Vm::start`] and blocks until then. A guest that ends at once with
//! [exit type 5](uapi::EXIT_TYPE_HYP_ERROR) began at the wrong address, or took an exception before it had
//! vectors.
//!
//! # The loop
//!
//! This is the one to copy, on a thread for each CPU:
//!
//! ```no_run
//! use std::io::{Error, Result};
//! use std::sync::atomic::{AtomicBool, Ordering};
//! use std::time::Duration;
//!
//! use gunyah::uapi::ExitStatus;
//! use gunyah::{Exit, Resume, Vcpu};
//!
//! # fn device_read(_address: u64, _len: u32) -> [u8; 8] { [0; 8] }
//! # fn device_write(_address: u64, _bytes: &[u8]) {}
//! /// Runs a CPU until the VM ends or `stop` is set. To stop it, another thread sets `stop`, then the CPU's
//! /// `ImmediateExit`, then sends a signal.
//! fn run(vcpu: &mut Vcpu, stop: &AtomicBool) -> Result<Option<ExitStatus>> {
//!     let mut busy = 0;
//!     while !stop.load(Ordering::SeqCst) {
//!         let exit = match vcpu.run() {
//!             Ok(exit) => exit,
//!             Err(error) => match error.raw_os_error() {
//!                 Some(libc::EINTR) => continue,
//!                 // For a second at most.
//!                 Some(libc::EBUSY | libc::EAGAIN) if busy < 1000 => {
//!                     busy += 1;
//!                     std::thread::sleep(Duration::from_millis(1));
//!                     continue;
//!                 }
//!                 _ => return Err(error),
//!             },
//!         };
//!         busy = 0;
//!         match exit {
//!             Exit::MmioRead { address, len } => {
//!                 vcpu.set_read_data(device_read(address, len));
//!                 vcpu.resume(Resume::Handled);
//!             }
//!             Exit::MmioWrite { address, len, data } => {
//!                 let len = data.len().min(len as usize);
//!                 device_write(address, &data[..len]);
//!                 vcpu.resume(Resume::Handled);
//!             }
//!             Exit::Status(status) => return Ok(Some(status)),
//!             Exit::Unknown(0) => {}
//!             // The same would happen again.
//!             Exit::PageFault { .. } | Exit::Unknown(_) => {
//!                 return Err(Error::other(format!("{exit:?}")));
//!             }
//!         }
//!     }
//!     Ok(None)
//! }
//! ```
//!
//! **The end may not be reported**, so a VMM should not wait for it alone:
//!
//! - A CPU that sleeps in the guest may not be woken by the VM's end. A signal to its thread makes
//!   [`Vcpu::run`] fail with EINTR, and the next run returns [`Exit::Status`].
//! - Up to android14-6.1, where one CPU powers the VM off while another waits in WFI, no run returns. The
//!   waiting CPU's thread spins in the kernel, and neither a signal nor [`ImmediateExit`] frees it. Linux
//!   stops its other CPUs first and ends right; a guest of one's own should as well.
//!
//! gunyahd sends a signal to a vCPU's thread that has been inside for 5 s. One that does not come out and
//! burns CPU time meanwhile counts as the VM's end, and gunyahd's process for that VM leaves. Where the
//! process does not go away, only a reboot of the host helps.
//!
//! # Kernels
//!
//! The driver was posted to the Linux kernel mailing list (v7 to v14 have this API) and ships in Android's
//! kernels: `GH_*` in android14-6.1, `GUNYAH_*` in android15-6.6 and android16-6.12. The calls that not
//! all of them have say so; a kernel without a call answers ENOTTY. That is enough to know where a call
//! may be left out or replaced, as below. [`Vm::dialect`] finds out which kernel it is, for what differs
//! without an ENOTTY, such as the kinds of memory. [`Dialect::Lkml15`] is recognised only to be refused:
//! this crate has no call that gives such a VM memory. Qualcomm's earlier driver of the same name (ioctl
//! type 0xB2) is another API.
//!
//! # Example
//!
//! A VM with one CPU. `guest_memory` and `run` are those above; `gunyah/examples/start_vm.rs` is a whole
//! program.
//!
//! ```no_run
//! use gunyah::uapi::{UserMemoryRegion, MEM_ALLOW_EXEC, MEM_ALLOW_READ, MEM_ALLOW_WRITE};
//! use gunyah::{BootRegister, Gunyah};
//!
//! # use std::sync::atomic::AtomicBool;
//! # fn guest_memory(_: usize) -> std::io::Result<*mut u8> { Ok(std::ptr::null_mut()) }
//! # fn run(_: &mut gunyah::Vcpu, _: &AtomicBool) -> std::io::Result<Option<gunyah::uapi::ExitStatus>> { Ok(None) }
//! # fn main() -> std::io::Result<()> {
//! // 4 MiB that hold the kernel at the beginning and the devicetree at 2 MiB.
//! let memory = guest_memory(4 << 20)?;
//! // (Copy both into it.)
//! let vm = Gunyah::open("/dev/gunyah")?.create_vm()?;
//! let region = UserMemoryRegion {
//!     label: 0,
//!     flags: MEM_ALLOW_READ | MEM_ALLOW_WRITE | MEM_ALLOW_EXEC,
//!     guest_phys_addr: 0x8000_0000, // The devicetree's base-address.
//!     memory_size: 4 << 20,
//!     userspace_addr: memory.addr() as u64,
//! };
//! let lacks_call = |error: &std::io::Error| error.raw_os_error() == Some(libc::ENOTTY);
//! // SAFETY: the mapping lives longer than the VM, and nothing of Rust's refers to it.
//! match unsafe { vm.lend(&region) } {
//!     // SAFETY: as above.
//!     Err(error) if lacks_call(&error) => unsafe { vm.share(&region) }?, // Mailing list
//!     other => other?,
//! }
//! vm.set_dtb_config(0x8020_0000, 2 << 20)?;
//! match vm.set_boot_context(BootRegister::Pc, 0x8000_0000) {
//!     Err(error) if lacks_call(&error) => {} // Mailing list, android14-6.1
//!     other => other?,
//! }
//! let mut vcpu = vm.add_vcpu(0)?;
//! vm.start()?;
//! if let Some(status) = run(&mut vcpu, &AtomicBool::new(false))? {
//!     println!("{status}");
//! }
//! # Ok(())
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
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
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

impl AsRawFd for Gunyah {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
