// SPDX-License-Identifier: Apache-2.0
//! A vCPU: VCPU_RUN, and the page on which the driver says why it returned.

use std::ffi::c_void;
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Weak};

use crate::ioctl;
use crate::uapi::{self, ExitMmio, ExitPageFault, ExitStatus, VcpuRun};

/// One CPU of a proxy-scheduled VM. The guest runs on it while a thread is in [`Vcpu::run`].
///
/// Dropping it unmaps the run page, then closes the descriptor. The VM lives as long as either of them,
/// of any of its vCPUs, is there.
#[derive(Debug)]
pub struct Vcpu {
    // Before the descriptor: a mapping keeps the VM alive, and the last close should be a close.
    page: Arc<RunPage>,
    fd: OwnedFd,
    // Where the exit that was returned last wants its answer; meaningless before the first one.
    resume_at: usize,
    // How the VM ended, once the driver has said so: it does not write it to the page again.
    end: Option<ExitStatus>,
}

/// Why [`Vcpu::run`] returned.
///
/// MMIO is an access below 1 GiB (0x4000_0000), where devices belong and no memory is. It must be a single
/// load or store without write-back; pairs, and those that write their address register back, are aborts in
/// the guest.
///
/// Above 1 GiB an access where no region is does not come out as MMIO: up to android14-6.1 the guest gets an
/// abort, later the VMM gets [`Exit::PageFault`] with ENOENT. android15-6.6 and later also report an access
/// to a shared region as MMIO where they could not provide its page, and do not say why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The guest reads from a device's address. Give it [`Vcpu::set_read_data`], then [`Vcpu::resume`].
    MmioRead {
        /// Guest address.
        address: u64,
        /// Bytes: 1, 2, 4 or 8, but the driver does not promise it: see that it is at most 8 before slicing
        /// by it.
        len: u32,
    },
    /// The guest writes to a device's address. Answer by [`Vcpu::resume`].
    MmioWrite {
        /// Guest address.
        address: u64,
        /// As above.
        len: u32,
        /// What it writes, little endian, in the first `len` bytes; the others are undefined.
        data: [u8; 8],
    },
    /// The VM has ended, or [`Vm::start`](crate::Vm::start) failed late. Once a vCPU has reported it, each
    /// further run reports it again. The other vCPUs report it, too, but see [`Vcpu::run`] for ends that
    /// nobody reports.
    Status(ExitStatus),
    /// The guest touched memory that the driver could not provide (android15-6.6 and later). The next
    /// [`Vcpu::run`] tries the same access again.
    PageFault {
        /// Guest address.
        address: u64,
        /// Why, as a positive errno. ENOENT: no region is there. EPERM: the region's flags forbid the
        /// access. ENOMEM: RLIMIT_MEMLOCK, or no memory for the hypervisor's page tables. EIO: the page
        /// is of a kind that the driver does not take, such as hugetlb. EFAULT: nothing is mapped at the
        /// region's address in this process. ENODEV: the devicetree's region was shared, not lent.
        errno: i32,
    },
    /// A reason that this crate does not know. 0: the driver gave none; simply run the vCPU again.
    Unknown(u32),
}

impl Exit {
    /// Reads the exit from a copy of a run page.
    pub fn decode(page: &VcpuRun) -> Self {
        match page.exit_reason {
            uapi::EXIT_MMIO => {
                // SAFETY: every bit pattern is a valid ExitMmio, and the whole union was copied.
                let ExitMmio { phys_addr: address, len, data, is_write, .. } =
                    unsafe { page.exit.mmio };
                match is_write {
                    0 => Self::MmioRead { address, len },
                    _ => Self::MmioWrite { address, len, data },
                }
            }
            // SAFETY: as above, for ExitStatus.
            uapi::EXIT_STATUS => Self::Status(unsafe { page.exit.status }),
            uapi::EXIT_PAGE_FAULT => {
                // SAFETY: as above, for ExitPageFault.
                let fault = unsafe { page.exit.page_fault };
                Self::PageFault { address: fault.phys_addr, errno: fault.attempt.saturating_neg() }
            }
            other => Self::Unknown(other),
        }
    }
}

/// How the guest goes on after [`Exit::MmioRead`], [`Exit::MmioWrite`] or [`Exit::PageFault`].
///
/// The driver presets [`Resume::Handled`] at each MMIO exit: without a call of [`Vcpu::resume`] the access
/// counts as done.
///
/// Kernels before android15-6.6 have no such answer and take everything as [`Resume::Handled`]. Later ones
/// do not read it after a page fault, and try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Resume {
    /// The access is done.
    Handled = uapi::RESUME_HANDLED,
    /// The guest gets an abort exception for it.
    Fault = uapi::RESUME_FAULT,
    /// The guest tries again. For page faults alone: after MMIO the driver refuses it (EINVAL).
    Retry = uapi::RESUME_RETRY,
}

impl Vcpu {
    pub(crate) fn map(fd: OwnedFd) -> io::Result<Self> {
        let page = Arc::new(RunPage::map(fd.as_fd())?);
        Ok(Self { page, fd, resume_at: MMIO_RESUME, end: None })
    }

    /// Lets the guest run until it exits (VCPU_RUN). Blocks while the guest runs or sleeps. To be called
    /// after [`Vm::start`](crate::Vm::start), by one thread for as long as the VM lives. A CPU that the guest
    /// has not started yet may be run as well: the call blocks until the guest starts it by PSCI, which the
    /// hypervisor handles.
    ///
    /// | answer | what to do |
    /// | --- | --- |
    /// | [`Exit::MmioRead`] | [`Vcpu::set_read_data`], [`Vcpu::resume`], run again |
    /// | [`Exit::MmioWrite`] | [`Vcpu::resume`], run again |
    /// | [`Exit::PageFault`] | mend what its errno says and run again, or give up |
    /// | [`Exit::Status`] | leave the loop |
    /// | [`Exit::Unknown`] | 0: run again; else give up |
    /// | EINTR | run again, or leave the loop if that is why the signal came |
    /// | EBUSY, EAGAIN | run again after 1 ms, for a second at most |
    /// | another errno | give up |
    ///
    /// [The front page](crate#the-loop) has such a loop.
    ///
    /// # Ends that are not reported
    /// - A vCPU that sleeps in the guest may not be woken by the VM's end. A signal makes its run fail with
    ///   EINTR, and the next one returns [`Exit::Status`].
    /// - Up to android14-6.1, where one CPU powers the VM off while another waits in WFI, no run returns.
    ///   The waiting CPU's thread spins in the kernel, and neither a signal nor [`ImmediateExit`] frees it.
    ///
    /// gunyahd sends a signal to the thread of a vCPU that has been inside for 5 s; one that does not come
    /// out and burns CPU time meanwhile counts as the VM's end, and gunyahd's process for that VM leaves.
    ///
    /// # Signals
    ///
    /// The driver may record an exit and answer EINTR all the same, because a signal was pending at that
    /// moment. The next VCPU_RUN would complete that access with an answer that nobody gave: a write is
    /// lost, a read finds stale bytes. So such an exit is returned as any other, and EINTR means that there
    /// was none.
    ///
    /// The signal's handler must not restart system calls, else the kernel enters VCPU_RUN again before
    /// anybody sees the page: install it by `sigaction` without `SA_RESTART`, not by `libc::signal`, which
    /// sets it. Where the kernel restarts a call by itself, because a signal has
    /// no handler (SIGSTOP and SIGCONT, the freezer), such an exit is lost and nothing tells.
    ///
    /// # Errors
    /// - EINTR: a signal arrived, or [`ImmediateExit`] is set; while it is, every run fails so.
    /// - EBUSY, EAGAIN: the hypervisor is not ready to run it, usual for a moment around the VM's end. If it
    ///   stays, the VM is not proxy-scheduled.
    /// - ENODEV: the VM does not run, or its devicetree has no such vCPU.
    /// - EINVAL: the last answer was one that the driver refuses; correct it and run again.
    /// - EPERM: another process created the VM.
    pub fn run(&mut self) -> io::Result<Exit> {
        self.page.clear_exit();
        let answer = ioctl::once(self.fd.as_fd(), uapi::VCPU_RUN, 0).map(drop);
        self.exit_of(answer)
    }

    /// What the driver's answer and the page, which was cleared before the call, mean together.
    fn exit_of(&mut self, answer: io::Result<()>) -> io::Result<Exit> {
        let page = self.page.read();
        let recorded = page.exit_reason != uapi::EXIT_UNKNOWN;
        match answer {
            Ok(()) => {}
            Err(error) if recorded && error.raw_os_error() == Some(libc::EINTR) => {}
            Err(error) => return Err(error),
        }
        if let (false, Some(end)) = (recorded, self.end) {
            return Ok(Exit::Status(end));
        }
        let exit = Exit::decode(&page);
        self.resume_at = match exit {
            Exit::PageFault { .. } => FAULT_RESUME,
            _ => MMIO_RESUME,
        };
        if let Exit::Status(end) = exit {
            self.end = Some(end);
        }
        Ok(exit)
    }

    /// What the guest's read finds: the bytes of [`Exit::MmioRead`], little endian. The driver takes the
    /// first `len` of them at the next [`Vcpu::run`]. Without this call the guest reads what happens to lie
    /// there, such as the bytes of an earlier access.
    pub fn set_read_data(&mut self, data: [u8; 8]) {
        // SAFETY: the 8 bytes lie in the page, and `&mut self` makes us the only one to write them.
        unsafe { self.page.at(DATA).cast::<[u8; 8]>().write_volatile(data) };
    }

    /// Says how the guest goes on at the next [`Vcpu::run`]. Without this call an MMIO access counts as
    /// done ([`Resume::Handled`]).
    pub fn resume(&mut self, how: Resume) {
        // SAFETY: as in `set_read_data`.
        unsafe { self.page.at(self.resume_at).write_volatile(how as u8) };
    }

    /// The means to take this vCPU out of the guest, for other threads.
    pub fn immediate_exit(&self) -> ImmediateExit {
        ImmediateExit { page: Arc::downgrade(&self.page) }
    }
}

impl AsFd for Vcpu {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Vcpu {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Makes a vCPU's [`Vcpu::run`] fail with EINTR at once: **every** run while it is set. Clear it before the
/// vCPU is to go on.
///
/// It does not end a run that is under way. For that, set it first, then send the thread a signal whose
/// handler does nothing and is installed by `sigaction` without `SA_RESTART` (`libc::signal` sets that):
/// whether the thread was before, in or after the system call, it does not stay in the guest.
///
/// It does not keep the vCPU alive.
#[derive(Debug, Clone)]
pub struct ImmediateExit {
    page: Weak<RunPage>,
}

impl ImmediateExit {
    /// Sets or clears it. False: the vCPU is gone.
    pub fn set(&self, on: bool) -> bool {
        let Some(page) = self.page.upgrade() else {
            return false;
        };
        // SAFETY: the byte lies in the page, and everyone in this process touches it as an atomic.
        let byte = unsafe { AtomicU8::from_ptr(page.at(offset_of!(VcpuRun, immediate_exit))) };
        byte.store(u8::from(on), Ordering::SeqCst);
        true
    }
}

const DATA: usize = offset_of!(VcpuRun, exit) + offset_of!(ExitMmio, data);
const MMIO_RESUME: usize = offset_of!(VcpuRun, exit) + offset_of!(ExitMmio, resume_action);
const FAULT_RESUME: usize = offset_of!(VcpuRun, exit) + offset_of!(ExitPageFault, resume_action);

/// The mapping of a run page.
#[derive(Debug)]
struct RunPage {
    start: NonNull<c_void>,
    length: usize,
}

// SAFETY: the mapping belongs to the RunPage and does not depend on a thread. Exits are touched through
// `&mut Vcpu` alone, `immediate_exit` by others through an atomic.
unsafe impl Send for RunPage {}
// SAFETY: as above.
unsafe impl Sync for RunPage {}

impl RunPage {
    fn map(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let size = ioctl::number(fd, uapi::VCPU_MMAP_SIZE, 0)?;
        match usize::try_from(size) {
            Ok(length) if length >= size_of::<VcpuRun>() => Self::map_bytes(fd, length),
            _ => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("VCPU_MMAP_SIZE returned {size} bytes; the run page has more"),
            )),
        }
    }

    fn map_bytes(fd: BorrowedFd<'_>, length: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let (flags, raw) = (libc::MAP_SHARED, fd.as_raw_fd());
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, raw, 0) };
        match NonNull::new(start) {
            Some(start) if start.as_ptr() != libc::MAP_FAILED => Ok(Self { start, length }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// A copy of the page. Volatile, because the driver writes it behind the compiler's back.
    fn read(&self) -> VcpuRun {
        // SAFETY: the mapping holds a whole VcpuRun, page aligned; every bit pattern is valid.
        unsafe { self.start.as_ptr().cast::<VcpuRun>().read_volatile() }
    }

    /// Takes the last exit's reason away, so that a new one can be told from it.
    fn clear_exit(&self) {
        let reason = self.at(offset_of!(VcpuRun, exit_reason)).cast::<u32>();
        // SAFETY: the four bytes lie in the page, aligned as in VcpuRun, and only the thread that has the
        // Vcpu writes them.
        unsafe { reason.write_volatile(uapi::EXIT_UNKNOWN) };
    }

    fn at(&self, offset: usize) -> *mut u8 {
        debug_assert!(offset < size_of::<VcpuRun>());
        // SAFETY: the mapping is at least as long as VcpuRun, and offsets are those of its fields.
        unsafe { self.start.as_ptr().cast::<u8>().add(offset) }
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: the range is exactly the mapping that `map` made, and nothing refers to it any more.
        unsafe { libc::munmap(self.start.as_ptr(), self.length) };
    }
}

#[cfg(test)]
mod tests;
