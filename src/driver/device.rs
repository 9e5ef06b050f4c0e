// SPDX-License-Identifier: Apache-2.0
//! The device node and a VM's fd, one method a call.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;

use gunyah::uapi;

/// The open device node.
#[derive(Debug)]
pub struct Gunyah {
    fd: OwnedFd,
}

/// A VM's fd. Its last close, in whichever process, stops the VM and blocks until the resource
/// manager has given the memory back.
#[derive(Debug)]
pub struct Vm {
    fd: OwnedFd,
}

impl Gunyah {
    /// Opens the device node.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Self { fd: file.into() })
    }

    /// CREATE_VM.
    pub fn create_vm(&self) -> io::Result<Vm> {
        let raw = ioctl(self.fd.as_fd(), uapi::CREATE_VM, 0)?;
        Ok(Vm { fd: owned(raw) })
    }
}

impl Vm {
    /// VM_SET_USER_MEM_REGION.
    pub fn share(&self, region: &uapi::UserMemoryRegion) -> io::Result<()> {
        let argument = address_of(region);
        ioctl(self.fd.as_fd(), uapi::VM_SET_USER_MEM_REGION, argument)?;
        Ok(())
    }

    /// VM_ANDROID_LEND_USER_MEM.
    pub fn lend(&self, region: &uapi::UserMemoryRegion) -> io::Result<()> {
        let argument = address_of(region);
        ioctl(self.fd.as_fd(), uapi::VM_ANDROID_LEND_USER_MEM, argument)?;
        Ok(())
    }

    /// SET_DTB_CONFIG: the devicetree's range with its room, both page aligned.
    ///
    /// # Errors
    /// The driver's answer, with the range.
    pub fn set_dtb_config(&self, base: u64, size: u64) -> Result<(), io::Error> {
        let argument = uapi::DtbConfig {
            guest_phys_addr: base,
            size,
        };
        ioctl(
            self.fd.as_fd(),
            uapi::VM_SET_DTB_CONFIG,
            address_of(&argument),
        )?;
        Ok(())
    }

    /// Adds vCPU `id`, which the devicetree must have: running one that it has not makes the host's
    /// kernel fail at the VM's end.
    ///
    /// # Errors
    /// The driver's answer, with the id.
    pub fn add_vcpu(&self, id: u32) -> Result<OwnedFd, io::Error> {
        let vcpu = uapi::FunctionVcpu { id };
        let raw = self.add_function(uapi::FUNCTION_VCPU, size_of_val(&vcpu), address_of(&vcpu))?;
        Ok(owned(raw))
    }

    /// Binds an eventfd to the doorbell `label`, which the devicetree must have: the driver takes an
    /// unknown one in silence.
    ///
    /// # Errors
    /// The driver's answer, with the label.
    pub fn add_irqfd(
        &self,
        eventfd: BorrowedFd<'_>,
        label: u32,
        level: bool,
    ) -> Result<(), io::Error> {
        let fd = u32::try_from(eventfd.as_raw_fd()).map_err(|_| Errno::EBADF)?;
        let flags = if level { uapi::IRQFD_FLAGS_LEVEL } else { 0 };
        let irqfd = uapi::FunctionIrqfd {
            fd,
            label,
            flags,
            padding: 0,
        };
        self.add_function(
            uapi::FUNCTION_IRQFD,
            size_of_val(&irqfd),
            address_of(&irqfd),
        )?;
        Ok(())
    }

    fn add_function(&self, kind: u32, arg_size: usize, arg: u64) -> Result<i32, Errno> {
        let arg_size = u32::try_from(arg_size).map_err(|_| Errno::EINVAL)?;
        let function = uapi::FunctionDesc {
            kind,
            arg_size,
            arg,
        };
        ioctl(
            self.fd.as_fd(),
            uapi::VM_ADD_FUNCTION,
            address_of(&function),
        )
    }

    /// START: returns once the VM runs. After a failure nothing but closing every fd helps.
    ///
    /// # Errors
    /// The driver's and the resource manager's answer.
    pub fn start(&self) -> Result<(), io::Error> {
        ioctl(self.fd.as_fd(), uapi::VM_START, 0)?;
        Ok(())
    }
}

impl AsFd for Vm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn address_of<T>(value: &T) -> u64 {
    std::ptr::from_ref(value).addr() as u64
}

/// An ioctl whose result is not negative unless it failed; again after EINTR.
pub(crate) fn ioctl(fd: BorrowedFd<'_>, request: u32, argument: u64) -> Result<i32, Errno> {
    loop {
        let result = ioctl_once(fd, request, argument);
        if result != Err(Errno::EINTR) {
            return result;
        }
    }
}

/// An ioctl that tells of EINTR.
pub(crate) fn ioctl_once(fd: BorrowedFd<'_>, request: u32, argument: u64) -> Result<i32, Errno> {
    // musl's request is an i32; the driver's numbers are below 2^31.
    #[allow(clippy::cast_possible_wrap)]
    let request = request as libc::Ioctl;
    // SAFETY: callers in this module and in `vcpu` pass 0 or the address of a live argument of the
    // request's own type; the driver reads no more than its size.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, argument) };
    Errno::result(result)
}

fn owned(raw: i32) -> OwnedFd {
    // SAFETY: the driver has just made this fd for us and nobody else has seen it.
    unsafe { OwnedFd::from_raw_fd(raw) }
}
