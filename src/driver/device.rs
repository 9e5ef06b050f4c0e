// SPDX-License-Identifier: Apache-2.0
//! The device node and a VM's fd, one method a call.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::advice;
use crate::config::{Access, Permissions};
use crate::error::LaunchError;
use gunyah::uapi;

/// The open device node.
#[derive(Debug)]
pub struct Gunyah {
    fd: OwnedFd,
    path: PathBuf,
}

/// A VM's fd. Its last close, in whichever process, stops the VM and blocks until the resource
/// manager has given the memory back.
#[derive(Debug)]
pub struct Vm {
    fd: OwnedFd,
}

/// A region as the driver is told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Unique in the VM.
    pub label: u32,
    /// What the guest may do.
    pub flags: Permissions,
    /// Guest address, page aligned.
    pub base: u64,
    /// Bytes, a multiple of the page.
    pub size: u64,
    /// Address of its mapping in this process, page aligned.
    pub address: u64,
}

/// What became of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granted {
    /// The host keeps access.
    Shared,
    /// The host loses access at START.
    Lent,
}

impl Gunyah {
    /// Opens the device node.
    ///
    /// # Errors
    /// Missing node, no permission, busy: each with its own cure.
    pub fn open(path: &Path) -> Result<Self, LaunchError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_CLOEXEC)
            .open(path)
            .map_err(|error| {
                let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
                advice::open(path, errno)
            })?;
        Ok(Self {
            fd: file.into(),
            path: path.to_owned(),
        })
    }

    /// CREATE_VM.
    ///
    /// # Errors
    /// The driver's answer; ENOTTY tells that another vendor's driver sits on the node.
    pub fn create_vm(&self) -> Result<Vm, LaunchError> {
        let raw = ioctl(self.fd.as_fd(), uapi::CREATE_VM, 0)
            .map_err(|errno| advice::create_vm(&self.path, errno))?;
        Ok(Vm { fd: owned(raw) })
    }
}

impl Vm {
    /// Registers `region`. With [`Access::Auto`], main memory is lent where the dialect can lend and
    /// shared where not, because a production resource manager refuses shared main memory; other
    /// regions are shared.
    ///
    /// # Errors
    /// The driver's answer, with the region's values.
    pub fn register(
        &self,
        region: &Region,
        access: Access,
        main: bool,
    ) -> Result<Granted, LaunchError> {
        match (access, main) {
            (Access::Share, _) | (Access::Auto, false) => self.share(region),
            (Access::Lend, _) => match self.lend(region) {
                Ok(granted) => Ok(granted),
                Err(errno) => Err(advice::region("VM_ANDROID_LEND_USER_MEM", region, errno)),
            },
            (Access::Auto, true) => match self.lend(region) {
                Err(Errno::ENOTTY) => self.share(region),
                Err(errno) => Err(advice::region("VM_ANDROID_LEND_USER_MEM", region, errno)),
                Ok(granted) => Ok(granted),
            },
        }
    }

    fn share(&self, region: &Region) -> Result<Granted, LaunchError> {
        let argument = argument_of(region);
        ioctl(
            self.fd.as_fd(),
            uapi::VM_SET_USER_MEM_REGION,
            address_of(&argument),
        )
        .map_err(|errno| advice::region("VM_SET_USER_MEM_REGION", region, errno))?;
        Ok(Granted::Shared)
    }

    fn lend(&self, region: &Region) -> Result<Granted, Errno> {
        let argument = argument_of(region);
        ioctl(
            self.fd.as_fd(),
            uapi::VM_ANDROID_LEND_USER_MEM,
            address_of(&argument),
        )?;
        Ok(Granted::Lent)
    }

    /// SET_DTB_CONFIG: the devicetree's range with its room, both page aligned.
    ///
    /// # Errors
    /// The driver's answer, with the range.
    pub fn set_dtb_config(&self, base: u64, size: u64) -> Result<(), LaunchError> {
        let argument = uapi::DtbConfig {
            guest_phys_addr: base,
            size,
        };
        ioctl(
            self.fd.as_fd(),
            uapi::VM_SET_DTB_CONFIG,
            address_of(&argument),
        )
        .map_err(|errno| advice::dtb_config(base, size, errno))?;
        Ok(())
    }

    /// Adds vCPU `id`, which the devicetree must have: running one that it has not makes the host's
    /// kernel fail at the VM's end.
    ///
    /// # Errors
    /// The driver's answer, with the id.
    pub fn add_vcpu(&self, id: u32) -> Result<OwnedFd, LaunchError> {
        let vcpu = uapi::FunctionVcpu { id };
        let raw = self
            .add_function(uapi::FUNCTION_VCPU, size_of_val(&vcpu), address_of(&vcpu))
            .map_err(|errno| advice::add_function(&format!("vCPU {id}"), errno))?;
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
    ) -> Result<(), LaunchError> {
        let what = || format!("irqfd of doorbell {label}");
        let fd = u32::try_from(eventfd.as_raw_fd())
            .map_err(|_| advice::add_function(&what(), Errno::EBADF))?;
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
        )
        .map_err(|errno| advice::add_function(&what(), errno))?;
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
    pub fn start(&self) -> Result<(), LaunchError> {
        ioctl(self.fd.as_fd(), uapi::VM_START, 0).map_err(advice::start)?;
        Ok(())
    }
}

impl AsFd for Vm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn argument_of(region: &Region) -> uapi::UserMemoryRegion {
    let bit = |set: bool, bit: u32| if set { bit } else { 0 };
    uapi::UserMemoryRegion {
        label: region.label,
        flags: bit(region.flags.read, uapi::MEM_ALLOW_READ)
            | bit(region.flags.write, uapi::MEM_ALLOW_WRITE)
            | bit(region.flags.execute, uapi::MEM_ALLOW_EXEC),
        guest_phys_addr: region.base,
        memory_size: region.size,
        userspace_addr: region.address,
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
