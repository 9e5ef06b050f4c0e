// SPDX-License-Identifier: Apache-2.0
//! The run loop: one thread for each vCPU, in VCPU_RUN and back.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gunyah::uapi::{self, ExitStatus};
use gunyah::{Exit, Resume};
use nix::errno::Errno;
use nix::sys::eventfd::EventFd;

use super::bus::{Bus, Width};
use super::fault;
use super::knock::SPINS;
use super::run_errors::RunErrors;
use super::{host_thread, Options};
use crate::confine;
use crate::diagnostic::{kinds, Diagnostic};
use crate::list::Listed;
use crate::mpsc::{Receiver, Sender};
use crate::status::{clock, EndReason};
use crate::text::{symbol, Span};

kinds! {
    THREADS: Error "vcpu-threads" in Run {
        "the threads that run the guest cannot be made",
        cause: "this process has as many files or threads as it may, or the host is out of memory",
        cure: "raise `rlimit nofile` or `rlimit nproc` in the service's .rc, or free memory",
    }
    RUN_EIO: Error "run-eio" in Run {
        "the driver cannot give the guest a page that is not swap-backed, such as one of hugetlb",
        cause: "this driver gives pages when the guest touches them, and takes only swap-backed ones; \
                hugetlb pages are not",
        cure: "give the VM's memory \"backing\": [\"thp\", \"base\"]",
    }
    RUN_ENOMEM: Error "run-enomem" in Run {
        "there is no memory for a page that the guest touched",
        cause: "the host has no memory, or RLIMIT_MEMLOCK is reached",
        cure: "set `memory.prefault`; put `rlimit memlock unlimited unlimited` into the service's .rc",
    }
    RUN_ENOTTY: Error "run-enotty" in Run {
        "the driver cannot run a vCPU",
        cause: "the VM is not proxy-scheduled, or the driver is of another dialect",
        cure: "use \"scheduling\": \"hypervisor\"",
    }
    RUN_EPERM: Error "run-eperm" in Run {
        "this process may not run a vCPU",
        cause: "SELinux: the ioctl is not in the domain's allowxperm list",
        cure: "use the policy of sepolicy/; look for avc: denied in dmesg",
    }
    RUN_FAILED: Error "run-failed" in Run {
        "the driver cannot run a vCPU any longer",
        cause: "the driver or the hypervisor no longer knows this vCPU",
        cure: "look for gunyah in dmesg",
    }
    UNKNOWN_EXIT: Error "run-unknown-exit" in Run {
        "a vCPU came back for a reason that this program does not know",
        cause: "the driver is newer than this program",
        cure: "report the kernel's version",
    }
    ACCESS_WIDTH: Warning "run-access-width" in Run {
        "the guest accesses a device in a width that does not exist; it reads zero",
        cause: "a driver of the guest that accesses 3 bytes or several registers at once",
        cure: "correct the guest's driver: accesses of 1, 2, 4 and 8 bytes are supported",
    }
    NO_REGION: Warning "run-no-region" in Run {
        "the guest touched an address that has no memory, and got an exception",
        cause: "a mistake of the guest, or a devicetree that promises memory that is not there",
        cure: "compare the address with the map of `gunyahd check`",
    }
}

/// Between two tries: the first ones at once, then with growing naps up to this one.
const LONGEST_NAP: Duration = Duration::from_millis(10);
const TRIES_AT_ONCE: u32 = 8;
/// A page fault answered with "again" is tried again so often in a row.
const FAULT_RETRIES: u32 = 100;

/// What happened to the vCPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VcpuEvent {
    /// The VM ended; all its vCPUs leave. Comes at most once, and not with [`VcpuEvent::Failed`].
    Ended {
        /// How.
        reason: EndReason,
        /// The driver's own words.
        detail: String,
    },
    /// A vCPU cannot be run; all of them leave. Comes at most once.
    Failed(Diagnostic),
    /// Something that a person should know.
    Warning(Diagnostic),
}

/// A vCPU as the run loop uses it: the driver's, or a test's.
pub(super) trait Cpu: Send {
    fn run(&mut self) -> io::Result<Exit>;
    fn set_read_data(&mut self, data: [u8; 8]);
    fn resume(&mut self, how: Resume);
}

impl Cpu for gunyah::Vcpu {
    fn run(&mut self) -> io::Result<Exit> {
        self.run()
    }

    fn set_read_data(&mut self, data: [u8; 8]) {
        self.set_read_data(data);
    }

    fn resume(&mut self, how: Resume) {
        self.resume(how);
    }
}

/// What others than its thread know of a vCPU.
pub(super) struct Slot {
    pub(super) id: u32,
    /// Makes the next VCPU_RUN return at once.
    pub(super) exit_now: Box<dyn Fn() + Send + Sync>,
    pub(super) exits: AtomicU64,
    /// How often VCPU_RUN has come back, with an exit or without.
    pub(super) returns: AtomicU64,
    /// 0: the thread has not begun, or has ended.
    pub(super) tid: AtomicI32,
}

impl Slot {
    /// Takes its thread out of VCPU_RUN, if it is in there.
    pub(super) fn kick(&self) {
        match self.tid.load(Ordering::SeqCst) {
            0 => {}
            tid => host_thread::kick(tid),
        }
    }

    /// CPU time of its thread; 0 if there is none.
    pub(super) fn cpu_time(&self) -> Duration {
        match self.tid.load(Ordering::SeqCst) {
            0 => Duration::ZERO,
            tid => host_thread::cpu_time(tid),
        }
    }
}

/// What all vCPU threads of a VM share.
pub(super) struct Shared {
    pub(super) slots: Vec<Slot>,
    pub(super) bus: Arc<Bus>,
    pub(super) events: Sender<VcpuEvent>,
    /// Readable while there are events.
    pub(super) wake: EventFd,
    pub(super) stopping: AtomicBool,
    pub(super) ended: AtomicBool,
    /// Nobody looks at the vCPUs until one of them does something.
    pub(super) resting: AtomicBool,
}

impl Shared {
    pub(super) fn report(&self, event: VcpuEvent) {
        // Nobody listens any more, or the count is full, and then it is readable, too.
        let _ = self.events.send(event);
        let _ = self.wake.write(1);
    }

    /// A vCPU has come out with an exit.
    fn stir(&self) {
        if self.resting.load(Ordering::SeqCst) && self.resting.swap(false, Ordering::SeqCst) {
            let _ = self.wake.write(1);
        }
    }

    /// The first end that is seen is the VM's; every vCPU leaves.
    fn end(&self, event: VcpuEvent) {
        if !self.ended.swap(true, Ordering::SeqCst) {
            self.report(event);
        }
        self.stop();
    }

    /// vCPU `id` does not come out of VCPU_RUN and used `time` of the host's CPU since it was knocked at:
    /// that is the VM's end, as far as anybody will know.
    pub(super) fn spins(&self, id: u32, time: Duration) {
        let time = Span(time);
        let what =
            format!("vCPU {id} does not come out of VCPU_RUN: {time} of CPU time since a signal");
        if !self.ended.load(Ordering::SeqCst) {
            self.report(VcpuEvent::Warning(SPINS.case(&what)));
        }
        self.end(VcpuEvent::Ended { reason: EndReason::Unreported, detail: what });
    }

    /// Takes every thread out of VCPU_RUN. To be repeated until all have ended: one may be just on its
    /// way in.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        for slot in &self.slots {
            (slot.exit_now)();
            slot.kick();
        }
    }
}

/// A vCPU thread's life: it answers `placed` once it runs where and as it should, and lets the guest run
/// when `go` says so. If `go` is dropped, the guest never runs.
pub(super) fn thread(
    shared: &Shared,
    slot: &Slot,
    mut cpu: Box<dyn Cpu>,
    options: &Options,
    placed: Sender<Result<(), Diagnostic>>,
    go: &Receiver<()>,
) {
    slot.tid.store(nix::unistd::gettid().as_raw(), Ordering::SeqCst);
    let _ = placed.send(place(shared, slot, options));
    drop(placed);
    if go.recv().is_ok() {
        let mut run_loop =
            RunLoop { shared, slot, cpu: &mut *cpu, faults: 0, last_fault: 0, warned: false };
        if let Err(event) = run_loop.run() {
            shared.end(event);
        }
    }
    // The VM lives as long as its page is mapped.
    drop(cpu);
    slot.tid.store(0, Ordering::SeqCst);
}

/// Puts the calling thread where and how urgently it is to run.
fn place(shared: &Shared, slot: &Slot, options: &Options) -> Result<(), Diagnostic> {
    host_thread::accept_kicks();
    let cpus = match options.affinity.as_slice() {
        [all] => Some(all),
        each => usize::try_from(slot.id).ok().and_then(|index| each.get(index)),
    };
    let bound = match cpus.map(Vec::as_slice) {
        None | Some([]) => Ok(()),
        Some(cpus) => host_thread::bind(cpus),
    };
    let reniced = match options.nice {
        0 => Ok(()),
        nice => host_thread::renice(nice),
    };
    for mut warning in [bound.err(), reniced.err()].into_iter().flatten() {
        warning.what = format!("vCPU {}: {}", slot.id, warning.what);
        shared.report(VcpuEvent::Warning(warning));
    }
    match options.confined {
        true => confine::thread(),
        false => Ok(()),
    }
}

struct RunLoop<'a> {
    shared: &'a Shared,
    slot: &'a Slot,
    cpu: &'a mut dyn Cpu,
    // Page faults in a row at one address.
    faults: u32,
    last_fault: u64,
    warned: bool,
}

impl RunLoop<'_> {
    /// Runs the guest until all are to leave, or for a reason that makes all leave.
    fn run(&mut self) -> Result<(), VcpuEvent> {
        let mut errors = RunErrors::default();
        while !self.shared.stopping.load(Ordering::SeqCst) {
            let answer = self.cpu.run();
            self.slot.returns.fetch_add(1, Ordering::Relaxed);
            let error = match answer {
                Ok(exit) => {
                    errors = RunErrors::default();
                    // In an order with who goes to rest: one of the two sees the other.
                    self.slot.exits.fetch_add(1, Ordering::SeqCst);
                    self.shared.stir();
                    self.handle(exit)?;
                    continue;
                }
                Err(error) => error,
            };
            match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
                Errno::EINTR => {}
                errno @ (Errno::EBUSY | Errno::EAGAIN | Errno::ENODEV) => {
                    if let Some(time) = errors.add(errno, Instant::now()) {
                        return Err(self.unreported_end(errno, time));
                    }
                    nap(errors.count());
                }
                errno => return Err(VcpuEvent::Failed(run_failed(self.slot.id, errno))),
            }
        }
        Ok(())
    }

    fn unreported_end(&self, errno: Errno, time: Duration) -> VcpuEvent {
        let inside =
            |other: &&Slot| other.id != self.slot.id && other.tid.load(Ordering::SeqCst) != 0;
        let others = self.shared.slots.iter().filter(inside);
        let others = others.map(|slot| slot.id.to_string()).listed();
        let detail = format!(
            "VCPU_RUN of vCPU {} answers {} for {} ms and no end was reported{}{}",
            self.slot.id,
            symbol(errno),
            clock::millis(time),
            if others.is_empty() { "" } else { "; still inside: vCPU " },
            others.join(", ")
        );
        VcpuEvent::Ended { reason: EndReason::Unreported, detail }
    }

    // The way of a console's byte: page, bus, device, page.
    fn handle(&mut self, exit: Exit) -> Result<(), VcpuEvent> {
        match exit {
            Exit::MmioWrite { address, len, data } => {
                let value = u64::from_le_bytes(data);
                let width = self.width(address, len);
                let found = width.is_some_and(|width| self.shared.bus.write(address, width, value));
                self.resume(found);
            }
            Exit::MmioRead { address, len } => {
                let width = self.width(address, len);
                let value = width.and_then(|width| self.shared.bus.read(address, width));
                self.cpu.set_read_data(value.unwrap_or(0).to_le_bytes());
                self.resume(value.is_some());
            }
            Exit::Status(status) => {
                return Err(VcpuEvent::Ended {
                    reason: end_reason(&status),
                    detail: status.to_string(),
                })
            }
            Exit::PageFault { address, errno } => {
                return self.page_fault(address, Errno::from_raw(errno))
            }
            // Seen where VCPU_RUN came back without a reason; the guest simply goes on.
            Exit::Unknown(uapi::EXIT_UNKNOWN) => {}
            Exit::Unknown(reason) => {
                let what = format!("vCPU {}: exit reason {reason}", self.slot.id);
                return Err(VcpuEvent::Failed(UNKNOWN_EXIT.case(what)));
            }
        }
        Ok(())
    }

    // Drivers from 6.6 on make it the guest's own exception. Those before do not look at it: there such
    // a read is zero, and such a write is lost.
    fn resume(&mut self, found: bool) {
        self.cpu.resume(if found { Resume::Handled } else { Resume::Fault });
    }

    fn width(&mut self, address: u64, len: u32) -> Option<Width> {
        let width = Width::from_bytes(len);
        if width.is_none() {
            let what = format!("access at {address:#x}: accesses of {len} bytes are not supported");
            self.warn_once(ACCESS_WIDTH.case(what));
        }
        width
    }

    fn page_fault(&mut self, address: u64, errno: Errno) -> Result<(), VcpuEvent> {
        if self.last_fault != address {
            self.last_fault = address;
            self.faults = 0;
        }
        self.faults = self.faults.saturating_add(1);
        match errno {
            // No region is there: the guest's own mistake, and its own exception.
            Errno::ENOENT => {
                self.cpu.resume(Resume::Fault);
                let what = format!("the guest touched {address:#x}, where no region is");
                self.warn_once(NO_REGION.case(what));
                Ok(())
            }
            Errno::EAGAIN | Errno::EBUSY | Errno::EINTR if self.faults < FAULT_RETRIES => {
                nap(self.faults);
                self.cpu.resume(Resume::Retry);
                Ok(())
            }
            errno => Err(VcpuEvent::Failed(fault::failed(self.slot.id, address, errno))),
        }
    }

    // A guest may do it a million times a second.
    fn warn_once(&mut self, mut warning: Diagnostic) {
        if !std::mem::replace(&mut self.warned, true) {
            warning.what = format!("vCPU {}: {}; reported once", self.slot.id, warning.what);
            self.shared.report(VcpuEvent::Warning(warning));
        }
    }
}

fn nap(times: u32) {
    match times.checked_sub(TRIES_AT_ONCE) {
        None => std::thread::yield_now(),
        Some(late) => {
            let nap = Duration::from_millis(1) * late.saturating_add(1);
            std::thread::sleep(nap.min(LONGEST_NAP));
        }
    }
}

pub(super) fn end_reason(end: &ExitStatus) -> EndReason {
    match (end.status, end.exit_type) {
        (uapi::STATUS_LOAD_FAILED, _) => EndReason::LoadFailed,
        (_, uapi::EXIT_TYPE_WATCHDOG_BITE) => EndReason::Watchdog,
        (_, uapi::EXIT_TYPE_HYP_ERROR) => EndReason::HypervisorError,
        (_, uapi::EXIT_TYPE_ASYNC_EXT_ABORT) => EndReason::ExternalAbort,
        (_, uapi::EXIT_TYPE_FORCE_STOPPED) => EndReason::ForceStopped,
        (uapi::STATUS_EXITED, uapi::EXIT_TYPE_VM_EXIT | uapi::EXIT_TYPE_SYSTEM_OFF) => {
            EndReason::PowerOff
        }
        (uapi::STATUS_EXITED, uapi::EXIT_TYPE_SYSTEM_RESET | uapi::EXIT_TYPE_SYSTEM_RESET2) => {
            EndReason::Reset
        }
        _ => EndReason::Crashed,
    }
}

fn run_failed(id: u32, errno: Errno) -> Diagnostic {
    let kind = match errno {
        Errno::EIO => RUN_EIO,
        Errno::ENOMEM => RUN_ENOMEM,
        Errno::ENOTTY => RUN_ENOTTY,
        Errno::EPERM | Errno::EACCES => RUN_EPERM,
        _ => RUN_FAILED,
    };
    kind.case(format!("VCPU_RUN of vCPU {id}")).errno(errno)
}
