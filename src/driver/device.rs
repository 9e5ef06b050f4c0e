// SPDX-License-Identifier: Apache-2.0
//! The crate `gunyah` with this program's errors and its choice between sharing and lending.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use gunyah::uapi::{self, UserMemoryRegion};
use gunyah::{Trigger, Vcpu};
use nix::errno::Errno;

use super::advice;
use crate::config::{Access, Permissions};
use crate::error::LaunchError;

/// The open device node.
#[derive(Debug)]
pub struct Gunyah {
    device: gunyah::Gunyah,
    path: PathBuf,
}

/// A VM.
#[derive(Debug)]
pub struct Vm(gunyah::Vm);

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
    pub fn open(path: &Path) -> Result<Self, LaunchError> {
        let device =
            gunyah::Gunyah::open(path).map_err(|error| advice::open(path, errno(&error)))?;
        Ok(Self {
            device,
            path: path.to_owned(),
        })
    }

    /// CREATE_VM.
    pub fn create_vm(&self) -> Result<Vm, LaunchError> {
        let created = self.device.create_vm();
        created
            .map(Vm)
            .map_err(|error| advice::create_vm(&self.path, errno(&error)))
    }
}

impl Vm {
    /// Registers `region`. With [`Access::Auto`], main memory is lent where the dialect can lend and
    /// shared where not, because a production resource manager refuses shared main memory; other
    /// regions are shared.
    pub fn register(
        &self,
        region: &Region,
        access: Access,
        main: bool,
    ) -> Result<Granted, LaunchError> {
        let argument = argument_of(region);
        if access == Access::Lend || (access == Access::Auto && main) {
            // SAFETY: regions are mappings of GuestMemory, which outlives the VM and is not touched
            // between START and the VM's end.
            match unsafe { self.0.lend(&argument) }.map_err(|error| errno(&error)) {
                Err(Errno::ENOTTY) if access == Access::Auto => {}
                Err(errno) => {
                    return Err(advice::region("VM_ANDROID_LEND_USER_MEM", region, errno))
                }
                Ok(()) => return Ok(Granted::Lent),
            }
        }
        // SAFETY: as above.
        unsafe { self.0.share(&argument) }
            .map_err(|error| advice::region("VM_SET_USER_MEM_REGION", region, errno(&error)))?;
        Ok(Granted::Shared)
    }

    /// SET_DTB_CONFIG: the devicetree's range with its room, both page aligned.
    pub fn set_dtb_config(&self, base: u64, size: u64) -> Result<(), LaunchError> {
        let set = self.0.set_dtb_config(base, size);
        set.map_err(|error| advice::dtb_config(base, size, errno(&error)))
    }

    /// Adds vCPU `id`, which the devicetree must have.
    pub fn add_vcpu(&self, id: u32) -> Result<Vcpu, LaunchError> {
        let added = self.0.add_vcpu(id);
        added.map_err(|error| advice::add_function(&format!("vCPU {id}"), errno(&error)))
    }

    /// Binds an eventfd to the doorbell `label`, which the devicetree must have.
    pub fn add_irqfd(
        &self,
        eventfd: BorrowedFd<'_>,
        label: u32,
        trigger: Trigger,
    ) -> Result<(), LaunchError> {
        let added = self.0.add_irqfd(eventfd, label, trigger);
        let what = format!("irqfd of doorbell {label}");
        added.map_err(|error| advice::add_function(&what, errno(&error)))
    }

    /// START: returns once the VM runs. After a failure nothing but closing every fd helps.
    pub fn start(&self) -> Result<(), LaunchError> {
        let started = self.0.start();
        started.map_err(|error| advice::start(errno(&error)))
    }
}

fn argument_of(region: &Region) -> UserMemoryRegion {
    let bit = |set: bool, bit: u32| if set { bit } else { 0 };
    UserMemoryRegion {
        label: region.label,
        flags: bit(region.flags.read, uapi::MEM_ALLOW_READ)
            | bit(region.flags.write, uapi::MEM_ALLOW_WRITE)
            | bit(region.flags.execute, uapi::MEM_ALLOW_EXEC),
        guest_phys_addr: region.base,
        memory_size: region.size,
        userspace_addr: region.address,
    }
}

fn errno(error: &io::Error) -> Errno {
    // A run page of another size is the only error without one.
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EOPNOTSUPP))
}
