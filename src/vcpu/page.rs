// SPDX-License-Identifier: Apache-2.0
//! The page that a vCPU shares with the driver.

use std::ffi::c_void;
use std::mem::offset_of;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

use nix::sys::mman::{mmap, munmap, MapFlags, ProtFlags};

use super::exit::{decode, Exit};
use crate::driver::ioctl;
use crate::error::{LaunchError, Step};
use gunyah::uapi::{self, ExitMmio, ExitPageFault, VcpuRun};

const DATA: usize = offset_of!(VcpuRun, exit) + offset_of!(ExitMmio, data);
const MMIO_RESUME: usize = offset_of!(VcpuRun, exit) + offset_of!(ExitMmio, resume_action);
const FAULT_RESUME: usize = offset_of!(VcpuRun, exit) + offset_of!(ExitPageFault, resume_action);

/// One vCPU's run page, mapped as long as this lives.
#[derive(Debug)]
pub(super) struct RunPage {
    map: NonNull<c_void>,
    length: NonZeroUsize,
}

// SAFETY: the mapping lives as long as the RunPage. The exit is touched only by the thread that runs
// the vCPU, `immediate_exit` by others through an atomic.
unsafe impl Send for RunPage {}
// SAFETY: as above.
unsafe impl Sync for RunPage {}

impl RunPage {
    /// Maps the page of the vCPU behind `fd`.
    pub(super) fn map(fd: BorrowedFd<'_>, id: u32) -> Result<Self, LaunchError> {
        let failed = |what: &str, errno| {
            LaunchError::new(Step::Functions, format!("{what} of vCPU {id}")).errno(errno)
        };
        let size = ioctl(fd, uapi::VCPU_MMAP_SIZE, 0).map_err(|e| failed("VCPU_MMAP_SIZE", e))?;
        let length = usize::try_from(size)
            .ok()
            .filter(|size| *size >= size_of::<VcpuRun>())
            .and_then(NonZeroUsize::new)
            .ok_or_else(|| {
                LaunchError::new(
                    Step::Functions,
                    format!("VCPU_MMAP_SIZE of vCPU {id} is {size} bytes, less than its page has"),
                )
                .cause("a driver of another dialect")
            })?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let map = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, fd, 0) }
            .map_err(|e| failed("mapping the run page", e))?;
        Ok(Self { map, length })
    }

    /// Makes the next VCPU_RUN return at once, or not.
    pub(super) fn set_immediate_exit(&self, on: bool) {
        // SAFETY: the byte lies in the mapping, and everyone of this process touches it as an atomic.
        let byte = unsafe { AtomicU8::from_ptr(self.at(offset_of!(VcpuRun, immediate_exit))) };
        byte.store(u8::from(on), Ordering::SeqCst);
    }

    /// Why VCPU_RUN came back.
    pub(super) fn exit(&self) -> Exit {
        // SAFETY: the mapping holds a whole VcpuRun, page aligned; every bit pattern is valid. Volatile,
        // because the driver wrote it behind the compiler's back.
        let copy = unsafe { self.map.as_ptr().cast::<VcpuRun>().read_volatile() };
        decode(&copy)
    }

    /// The bytes that the guest's read finds.
    pub(super) fn set_data(&self, value: u64) {
        // SAFETY: the 8 bytes lie in the mapping, and only this vCPU's thread touches them.
        unsafe {
            self.at(DATA)
                .cast::<[u8; 8]>()
                .write_volatile(value.to_le_bytes())
        };
    }

    /// How the guest goes on after MMIO. Padding in dialects before 6.6, which do not look at it.
    pub(super) fn resume_mmio(&self, action: u8) {
        // SAFETY: as in `set_data`.
        unsafe { self.at(MMIO_RESUME).write_volatile(action) };
    }

    /// How the guest goes on after a page fault.
    pub(super) fn resume_fault(&self, action: u8) {
        // SAFETY: as in `set_data`.
        unsafe { self.at(FAULT_RESUME).write_volatile(action) };
    }

    fn at(&self, offset: usize) -> *mut u8 {
        debug_assert!(offset < size_of::<VcpuRun>());
        // SAFETY: the mapping is at least as long as VcpuRun, and offsets are those of its fields.
        unsafe { self.map.as_ptr().cast::<u8>().add(offset) }
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: the range is exactly the mapping that `map` made, and nothing refers to it any more.
        let _ = unsafe { munmap(self.map, self.length.get()) };
    }
}

#[cfg(test)]
impl RunPage {
    /// A page without a driver behind it.
    pub(super) fn detached() -> Self {
        let length = NonZeroUsize::new(4096).unwrap();
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: as in `map`.
        let map = unsafe {
            nix::sys::mman::mmap_anonymous(None, length, protection, MapFlags::MAP_PRIVATE)
        };
        Self {
            map: map.unwrap(),
            length,
        }
    }

    /// What a driver would write.
    pub(super) fn set_exit(&self, exit_reason: u32, exit: uapi::VcpuExit) {
        let run = self.map.as_ptr().cast::<VcpuRun>();
        // SAFETY: both fields lie in the mapping, and the caller plays this vCPU's driver.
        unsafe {
            (&raw mut (*run).exit_reason).write_volatile(exit_reason);
            (&raw mut (*run).exit).write_volatile(exit);
        }
    }

    /// What a driver would read.
    pub(super) fn whole(&self) -> VcpuRun {
        // SAFETY: as in `exit`.
        unsafe { self.map.as_ptr().cast::<VcpuRun>().read_volatile() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_land_where_the_driver_looks() {
        let page = RunPage::detached();
        page.set_immediate_exit(true);
        page.set_data(0x1122_3344_5566_7788);
        page.resume_mmio(uapi::RESUME_FAULT);
        let run = page.whole();
        // SAFETY: plain old data.
        let mmio = unsafe { run.exit.mmio };
        assert_eq!(run.immediate_exit, 1);
        assert_eq!(mmio.data, 0x1122_3344_5566_7788u64.to_le_bytes());
        assert_eq!(mmio.resume_action, 1);
        page.resume_fault(uapi::RESUME_RETRY);
        // SAFETY: plain old data.
        assert_eq!(unsafe { page.whole().exit.page_fault.resume_action }, 2);
    }

    #[test]
    fn an_fd_that_is_no_vcpu_is_an_error() {
        let (fd, _other) = nix::unistd::pipe().unwrap();
        let error = RunPage::map(std::os::fd::AsFd::as_fd(&fd), 3).unwrap_err();
        assert_eq!(error.errno, Some(nix::errno::Errno::ENOTTY as i32));
        assert!(error.to_string().contains("vCPU 3"), "{error}");
    }
}
