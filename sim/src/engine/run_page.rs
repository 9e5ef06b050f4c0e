// SPDX-License-Identifier: Apache-2.0
//! The page that VCPU_RUN shares with its caller.

use std::mem::offset_of;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use gunyah::uapi::{self, ExitMmio, ExitPageFault, ExitStatus, VcpuRun};
use nix::errno::Errno;
use nix::sys::mman::{mmap, munmap, MapFlags, ProtFlags};

use super::Exit;

/// A guest's access to an address that has no memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MmioAccess {
    /// Guest address.
    pub address: u64,
    /// Bytes: 1, 2, 4 or 8.
    pub len: u32,
    /// What is written: the whole register, of which the first `len` bytes count to a device; or None
    /// for a read.
    pub written: Option<u64>,
}

/// Our mapping of a vCPU's page. The caller can change any byte at any time.
#[derive(Debug)]
pub struct RunPage {
    base: NonNull<u8>,
    size: NonZeroUsize,
}

// SAFETY: the page is shared with another process anyway; all access is volatile, byte by byte.
unsafe impl Send for RunPage {}
// SAFETY: as above.
unsafe impl Sync for RunPage {}

const UNION: usize = offset_of!(VcpuRun, exit);

impl RunPage {
    /// Maps the memfd's first page.
    pub fn map(memfd: impl AsFd) -> Result<Self, Errno> {
        let size = usize::try_from(crate::page_size())
            .ok()
            .and_then(NonZeroUsize::new)
            .ok_or(Errno::EINVAL)?;
        // SAFETY: a new shared mapping at an address of the kernel's choice; unmapped on drop.
        let base = unsafe {
            mmap(
                None,
                size,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                memfd,
                0,
            )
        }?;
        Ok(Self { base: base.cast(), size })
    }

    fn get(&self, offset: usize) -> u8 {
        assert!(offset < self.size.get());
        // SAFETY: inside the live mapping, as just asserted.
        unsafe { self.base.add(offset).read_volatile() }
    }

    fn put(&self, offset: usize, byte: u8) {
        assert!(offset < self.size.get());
        // SAFETY: inside the live mapping, as just asserted.
        unsafe { self.base.add(offset).write_volatile(byte) }
    }

    fn put_all(&self, offset: usize, bytes: &[u8]) {
        for (index, &byte) in bytes.iter().enumerate() {
            self.put(offset + index, byte);
        }
    }

    /// The caller asks VCPU_RUN to return at once.
    pub fn immediate_exit(&self) -> bool {
        self.get(offset_of!(VcpuRun, immediate_exit)) != 0
    }

    fn set_reason(&self, reason: u32) {
        self.put_all(offset_of!(VcpuRun, exit_reason), &reason.to_ne_bytes());
    }

    /// No exit to tell: what the page says before the first one.
    pub fn clear(&self) {
        self.set_reason(uapi::EXIT_UNKNOWN);
    }

    /// Tells an MMIO exit.
    pub fn set_mmio(&self, access: &MmioAccess) {
        let bits = 8 * access.len.clamp(1, 8);
        let data = (access.written.unwrap_or(0) & u64::MAX >> (64 - bits)).to_le_bytes();
        self.put_all(UNION + offset_of!(ExitMmio, phys_addr), &access.address.to_ne_bytes());
        self.put_all(UNION + offset_of!(ExitMmio, data), &data);
        self.put_all(UNION + offset_of!(ExitMmio, len), &access.len.to_ne_bytes());
        self.put(UNION + offset_of!(ExitMmio, is_write), u8::from(access.written.is_some()));
        self.put(UNION + offset_of!(ExitMmio, resume_action), 0);
        self.set_reason(uapi::EXIT_MMIO);
    }

    /// What the caller put in for the last MMIO read: `len` bytes, little endian.
    pub fn mmio_answer(&self, len: u32) -> u64 {
        let len = usize::try_from(len).unwrap_or(0).min(8);
        (0..len).rev().fold(0, |value, index| {
            value << 8 | u64::from(self.get(UNION + offset_of!(ExitMmio, data) + index))
        })
    }

    /// The caller's `RESUME_*` for the last MMIO exit (6.6 and later).
    pub fn mmio_resume_action(&self) -> u8 {
        self.get(UNION + offset_of!(ExitMmio, resume_action))
    }

    /// Tells the VM's end.
    pub fn set_status(&self, exit: &Exit) {
        self.put_all(UNION + offset_of!(ExitStatus, status), &exit.status.to_ne_bytes());
        self.put_all(UNION + offset_of!(ExitStatus, exit_type), &exit.exit_type.to_ne_bytes());
        self.put_all(UNION + offset_of!(ExitStatus, padding), &[0, 0]);
        self.put_all(UNION + offset_of!(ExitStatus, reason_size), &8u32.to_ne_bytes());
        self.put_all(UNION + offset_of!(ExitStatus, reason), &exit.reason.to_le_bytes());
        self.set_reason(uapi::EXIT_STATUS);
    }

    /// Tells a fault that the driver could not resolve (6.6 and later).
    pub fn set_page_fault(&self, address: u64, errno: Errno) {
        self.put_all(UNION + offset_of!(ExitPageFault, phys_addr), &address.to_ne_bytes());
        self.put_all(UNION + offset_of!(ExitPageFault, attempt), &(-(errno as i32)).to_ne_bytes());
        self.put(UNION + offset_of!(ExitPageFault, resume_action), 0);
        self.set_reason(uapi::EXIT_PAGE_FAULT);
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what map() mapped; nothing refers to it any more.
        let _ = unsafe { munmap(self.base.cast(), self.size.get()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::memfd::{memfd_create, MFdFlags};
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    #[test]
    fn the_page_has_the_drivers_layout() {
        let fd = memfd_create("vcpu", MFdFlags::MFD_CLOEXEC).unwrap();
        nix::unistd::ftruncate(&fd, i64::try_from(crate::page_size()).unwrap()).unwrap();
        let page = RunPage::map(&fd).unwrap();
        let file = File::from(fd);
        let mut bytes = [0; 40];

        page.set_mmio(&MmioAccess { address: 0x0900_0000, len: 1, written: Some(0x1741) });
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes[8], 1);
        assert_eq!(bytes[16..24], 0x0900_0000u64.to_ne_bytes());
        assert_eq!((bytes[24], bytes[25], bytes[32], bytes[36]), (0x41, 0, 1, 1));

        file.write_all_at(&[0xef, 0xbe, 0xad, 0xde], 24).unwrap();
        assert_eq!(page.mmio_answer(4), 0xdead_beef);
        assert_eq!(page.mmio_answer(1), 0xef);

        page.set_status(&Exit::of_type(uapi::EXIT_TYPE_SYSTEM_RESET));
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!((bytes[8], bytes[16], bytes[20], bytes[24]), (2, 2, 2, 8));

        page.set_page_fault(0x8000_0000, Errno::EIO);
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!((bytes[8], bytes[28]), (3, 0));
        assert_eq!(bytes[24..28], (-5i32).to_ne_bytes());

        assert!(!page.immediate_exit());
        file.write_all_at(&[1], 0).unwrap();
        assert!(page.immediate_exit());
    }
}
