// SPDX-License-Identifier: Apache-2.0
//! The device, its VMs and their vCPUs: each call as the system has it, nothing checked before it.

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::errno::Errno;
use crate::memory::Mapping;
use crate::uapi::{self, BootContext, Function, Range, Region};

/// What a call answers.
pub type Answer = Result<i32, Errno>;

/// The ioctl system call itself.
pub fn ioctl(fd: RawFd, number: u32, argument: u64) -> Answer {
    // SAFETY: the driver reads at most the few bytes that `number` says; where `argument` is no
    // address of ours it answers EFAULT. It writes to none of our memory by these calls.
    let answer = unsafe { libc::syscall(libc::SYS_ioctl, fd, u64::from(number), argument) };
    i32::try_from(answer).ok().filter(|answer| *answer >= 0).ok_or_else(Errno::last)
}

fn ioctl_with<T>(fd: RawFd, number: u32, argument: &T) -> Answer {
    ioctl(fd, number, std::ptr::from_ref(argument) as u64)
}

/// The open device.
#[derive(Debug)]
pub struct Device(OwnedFd);

impl Device {
    /// Opens it for reading and writing.
    pub fn open(path: &Path) -> Result<Self, Errno> {
        let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno(libc::EINVAL))?;
        // SAFETY: `path` is a live string with its NUL.
        let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
        own(fd).map(Self)
    }

    /// CREATE_VM.
    pub fn create_vm(&self, argument: u64) -> Result<Vm, Errno> {
        own(ioctl(self.raw(), uapi::CREATE_VM, argument)?).map(Vm)
    }

    /// Its descriptor.
    pub fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn own(fd: RawFd) -> Result<OwnedFd, Errno> {
    if fd < 0 {
        return Err(Errno::last());
    }
    // SAFETY: the kernel has just made this descriptor for us and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A VM's descriptor.
#[derive(Debug)]
pub struct Vm(OwnedFd);

impl Vm {
    /// Its descriptor.
    pub fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// A second descriptor of the same VM.
    pub fn duplicate(&self) -> Result<OwnedFd, Errno> {
        // SAFETY: dup of a live descriptor.
        own(unsafe { libc::dup(self.raw()) })
    }

    /// A call with an argument by address.
    pub fn call<T>(&self, number: u32, argument: &T) -> Answer {
        ioctl_with(self.raw(), number, argument)
    }

    /// A call with a number for an argument.
    pub fn call_number(&self, number: u32, argument: u64) -> Answer {
        ioctl(self.raw(), number, argument)
    }

    /// A memory call.
    pub fn region(&self, call: u32, region: &Region) -> Answer {
        self.call(call, region)
    }

    /// SET_DTB_CONFIG.
    pub fn dtb(&self, guest: u64, size: u64) -> Answer {
        self.call(uapi::SET_DTB_CONFIG, &Range { guest, size })
    }

    /// START.
    pub fn start(&self) -> Answer {
        self.call_number(uapi::START, 0)
    }

    /// SET_BOOT_CONTEXT.
    pub fn boot_context(&self, reg: u32, value: u64) -> Answer {
        let context = BootContext { reg, reserved: 0, value };
        self.call(uapi::SET_BOOT_CONTEXT, &context)
    }

    /// ADD_FUNCTION with an argument of its own size.
    pub fn add<T>(&self, kind: u32, argument: &T) -> Answer {
        self.call(uapi::ADD_FUNCTION, &function(kind, argument))
    }

    /// REMOVE_FUNCTION with an argument of its own size.
    pub fn remove<T>(&self, kind: u32, argument: &T) -> Answer {
        self.call(uapi::REMOVE_FUNCTION, &function(kind, argument))
    }

    /// ADD_FUNCTION with a vCPU.
    pub fn vcpu(&self, id: u32) -> Result<Vcpu, Errno> {
        own(self.add(uapi::VCPU, &id)?).map(Vcpu)
    }
}

fn function<T>(kind: u32, argument: &T) -> Function {
    Function {
        kind,
        size: u32::try_from(size_of::<T>()).unwrap_or(u32::MAX),
        argument: std::ptr::from_ref(argument) as u64,
    }
}

/// A vCPU's descriptor.
#[derive(Debug)]
pub struct Vcpu(OwnedFd);

impl Vcpu {
    /// Its descriptor.
    pub fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// VCPU_RUN, once.
    pub fn run(&self) -> Answer {
        ioctl(self.raw(), uapi::VCPU_RUN, 0)
    }

    /// VCPU_MMAP_SIZE.
    pub fn mmap_size(&self) -> Answer {
        ioctl(self.raw(), uapi::VCPU_MMAP_SIZE, 0)
    }

    /// Maps `pages` pages from its beginning.
    pub fn map(&self, pages: usize) -> Result<Mapping, Errno> {
        Mapping::of_file(self.raw(), pages * crate::memory::page_size(), true)
    }
}

/// An eventfd.
pub fn eventfd() -> Result<OwnedFd, Errno> {
    // SAFETY: no memory is involved.
    own(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })
}

/// A descriptor that is no eventfd.
pub fn not_an_eventfd() -> Result<OwnedFd, Errno> {
    // SAFETY: the path is a literal with its NUL.
    own(unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) })
}

/// Whether a descriptor closes at exec.
pub fn closes_at_exec(fd: RawFd) -> bool {
    // SAFETY: F_GETFD takes no address.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    flags >= 0 && flags & libc::FD_CLOEXEC != 0
}
