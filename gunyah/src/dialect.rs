// SPDX-License-Identifier: Apache-2.0
//! Which of the driver's dialects a kernel speaks.

use std::fmt;
use std::io;
use std::os::fd::AsFd;

use crate::{ioctl, uapi, Vm};

/// A dialect of the driver, known by the calls that it has.
///
/// The kernel's release is no substitute: vendors' kernels mix backports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dialect {
    /// Mailing list, without functions: no vCPUs, interrupt lines or ioeventfds. It runs what the
    /// hypervisor schedules.
    LkmlBase,
    /// Mailing list v7 to v14.
    Lkml,
    /// android14-6.1: memory can be lent.
    Ack61,
    /// android15-6.6: memory is provided page by page as the guest touches it; boot context.
    Ack66,
    /// android16-6.12: lent memory can be taken back.
    Ack612,
    /// Mailing list v15 and later: guest memory is a file of its own, in place of the calls for regions.
    /// It is recognised; this crate has no call that gives its VMs memory.
    Lkml15,
}

impl Dialect {
    /// Every dialect.
    pub const ALL: [Self; 6] =
        [Self::LkmlBase, Self::Lkml, Self::Ack61, Self::Ack66, Self::Ack612, Self::Lkml15];

    /// A short name: `lkml-base`, `lkml`, `ack61`, `ack66`, `ack612`, `lkml15`.
    pub fn name(self) -> &'static str {
        match self {
            Self::LkmlBase => "lkml-base",
            Self::Lkml => "lkml",
            Self::Ack61 => "ack61",
            Self::Ack66 => "ack66",
            Self::Ack612 => "ack612",
            Self::Lkml15 => "lkml15",
        }
    }

    /// It has vCPUs, interrupt lines and ioeventfds ([`Vm::add_vcpu`] and its like). A VM on a driver
    /// without is scheduled by the hypervisor.
    pub fn has_functions(self) -> bool {
        self != Self::LkmlBase
    }

    /// It can lend memory ([`Vm::lend`]).
    pub fn lends(self) -> bool {
        matches!(self, Self::Ack61 | Self::Ack66 | Self::Ack612)
    }

    /// START hands over the devicetree's range alone, and a guest gets its other pages as it touches
    /// them, in [`Vcpu::run`](crate::Vcpu::run). It begins where [`Vm::set_boot_context`] says. Other
    /// dialects hand over all memory at START and have no boot context.
    pub fn pages_on_demand(self) -> bool {
        matches!(self, Self::Ack66 | Self::Ack612)
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Vm {
    /// Finds the dialect by calls that change nothing: each gets a null argument, which a driver that knows
    /// the call cannot read (EFAULT), and one that does not know it refuses (ENOTTY).
    ///
    /// Where only a call may be missing, making it and looking for ENOTTY is simpler. This is for what
    /// differs without an errno: which memory is taken, when it is charged, where the guest begins.
    ///
    /// On a VM that has just been created, in the process that created it. android16-6.12 announces the end
    /// of such a VM by a uevent (`EVENT=destroy`, `vm_id=0`), like that of any other.
    ///
    /// # Errors
    /// What a call answered, if it was neither EFAULT nor ENOTTY.
    pub fn dialect(&self) -> io::Result<Dialect> {
        let knows = |request| self.knows(request);
        let dialect = if knows(uapi::VM_MAP_MEM)? {
            Dialect::Lkml15
        } else if knows(uapi::VM_ANDROID_RECLAIM_REGION)? {
            Dialect::Ack612
        } else if knows(uapi::VM_SET_BOOT_CONTEXT)? {
            Dialect::Ack66
        } else if knows(uapi::VM_ANDROID_LEND_USER_MEM)? {
            Dialect::Ack61
        } else if knows(uapi::VM_ADD_FUNCTION)? {
            Dialect::Lkml
        } else {
            Dialect::LkmlBase
        };
        Ok(dialect)
    }

    fn knows(&self, request: u32) -> io::Result<bool> {
        match ioctl::number(self.as_fd(), request, 0) {
            Err(error) if error.raw_os_error() == Some(libc::EFAULT) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => Ok(false),
            Err(error) => Err(error),
            // Nothing can be read at address 0.
            Ok(_) => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        }
    }
}
