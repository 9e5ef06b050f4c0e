// SPDX-License-Identifier: Apache-2.0
//! The caller's memory, by process_vm_readv and process_vm_writev.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;

use gunyah::uapi;
use nix::errno::Errno;
use nix::sys::uio::{process_vm_readv, process_vm_writev, RemoteIoVec};
use nix::unistd::Pid;

use super::Caller;

/// Types that any bytes are a valid value of.
///
/// # Safety
///
/// The type holds integers only and has no invalid bit patterns.
pub unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($name:ty),*) => {
        $(
            // SAFETY: a repr(C) struct of integers.
            unsafe impl Plain for $name {}
        )*
    };
}
plain!(
    uapi::UserMemoryRegion,
    uapi::GuestRange,
    uapi::FunctionDesc,
    uapi::FunctionVcpu,
    uapi::FunctionIrqfd,
    uapi::FunctionIoeventfd,
    uapi::BootContext
);

impl Caller {
    /// Fills `into` from the caller's `address`; EFAULT where any byte is not there.
    pub fn read_bytes(&self, address: u64, into: &mut [u8]) -> Result<(), Errno> {
        let len = into.len();
        if len == 0 {
            return Ok(());
        }
        let base = usize::try_from(address).map_err(|_| Errno::EFAULT)?;
        let remote = [RemoteIoVec { base, len }];
        match process_vm_readv(Pid::from_raw(self.pid), &mut [IoSliceMut::new(into)], &remote) {
            Ok(read) if read == len => Ok(()),
            Ok(_) => Err(Errno::EFAULT),
            Err(errno) => Err(errno),
        }
    }

    /// Writes `bytes` to the caller's `address`; EFAULT where any byte cannot be written.
    pub fn write_bytes(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        let len = bytes.len();
        if len == 0 {
            return Ok(());
        }
        let base = usize::try_from(address).map_err(|_| Errno::EFAULT)?;
        let remote = [RemoteIoVec { base, len }];
        match process_vm_writev(Pid::from_raw(self.pid), &[IoSlice::new(bytes)], &remote) {
            Ok(written) if written == len => Ok(()),
            Ok(_) => Err(Errno::EFAULT),
            Err(errno) => Err(errno),
        }
    }

    /// A struct at the caller's `address`: the driver's copy_from_user.
    pub fn read<T: Plain>(&self, address: u64) -> Result<T, Errno> {
        let mut value = MaybeUninit::<T>::zeroed();
        // SAFETY: the bytes are zeroed, live and exclusively ours for the slice's life.
        let bytes = unsafe {
            std::slice::from_raw_parts_mut(value.as_mut_ptr().cast::<u8>(), size_of::<T>())
        };
        self.read_bytes(address, bytes)?;
        // SAFETY: all bytes are set, and Plain says that any bytes are a value.
        Ok(unsafe { value.assume_init() })
    }

    /// A NUL-terminated string of at most `limit` bytes.
    pub fn read_string(&self, address: u64, limit: usize) -> Result<Vec<u8>, Errno> {
        let mut text = Vec::new();
        let mut at = address;
        while text.len() < limit {
            // Never across a page: the next one may not be there.
            let room = 256 - usize::try_from(at % 256).map_err(|_| Errno::EFAULT)?;
            let mut chunk = vec![0; room];
            self.read_bytes(at, &mut chunk)?;
            if let Some(end) = chunk.iter().position(|&byte| byte == 0) {
                text.extend_from_slice(&chunk[..end]);
                return Ok(text);
            }
            text.extend_from_slice(&chunk);
            at = at.checked_add(room as u64).ok_or(Errno::EFAULT)?;
        }
        Err(Errno::ENAMETOOLONG)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structs_and_strings_cross() {
        let me = Caller::myself();
        let dtb = uapi::GuestRange { guest_phys_addr: 0x8000_0000, size: 0x1000 };
        let address = std::ptr::from_ref(&dtb) as u64;
        assert_eq!(me.read::<uapi::GuestRange>(address), Ok(dtb));
        assert_eq!(me.read::<uapi::GuestRange>(8), Err(Errno::EFAULT));

        let text = c"/dev/gunyah";
        assert_eq!(me.read_string(text.as_ptr() as u64, 4096), Ok(b"/dev/gunyah".to_vec()));

        let mut target = [0u8; 4];
        me.write_bytes(target.as_mut_ptr() as u64, &[1, 2, 3, 4]).unwrap();
        assert_eq!(std::hint::black_box(&mut target), &[1, 2, 3, 4]);
    }
}
