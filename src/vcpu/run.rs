// SPDX-License-Identifier: Apache-2.0
//! The run loop: one thread a vCPU, in VCPU_RUN and back.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::eventfd::EventFd;

use super::bus::Bus;
use super::exit::Exit;
use super::kick;
use super::page::RunPage;
use super::trouble::Trouble;
use crate::confine;
use crate::driver::ioctl_once;
use crate::error::{LaunchError, Step};
use crate::status::EndReason;
use gunyah::uapi;

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
    Failed(LaunchError),
    /// Something that a person should know.
    Warning(String),
}

/// VCPU_RUN of one vCPU.
pub(super) trait Run: Send + Sync {
    /// Runs the guest until it exits; the page then says why.
    fn run(&self) -> Result<(), Errno>;
}

/// The driver's vCPU fd.
pub(super) struct DriverVcpu(pub(super) OwnedFd);

impl Run for DriverVcpu {
    fn run(&self) -> Result<(), Errno> {
        ioctl_once(self.0.as_fd(), uapi::VCPU_RUN, 0).map(drop)
    }
}

/// One vCPU, as its thread and the others see it.
pub(super) struct Slot {
    pub(super) id: u32,
    pub(super) vcpu: Box<dyn Run>,
    pub(super) page: Arc<RunPage>,
    pub(super) exits: AtomicU64,
    /// 0: the thread has not begun.
    tid: AtomicI32,
    /// -1 is no thread's clock: the thread has not begun.
    pub(super) cpu_clock: AtomicI32,
    pub(super) left: AtomicBool,
}

impl Slot {
    pub(super) fn new(id: u32, vcpu: Box<dyn Run>, page: Arc<RunPage>) -> Self {
        Self {
            id,
            vcpu,
            page,
            exits: AtomicU64::new(0),
            tid: AtomicI32::new(0),
            cpu_clock: AtomicI32::new(-1),
            left: AtomicBool::new(false),
        }
    }
}

/// What all vCPU threads of a VM share.
pub(super) struct Shared {
    pub(super) slots: Vec<Slot>,
    bus: Arc<Bus>,
    stopping: AtomicBool,
    ended: AtomicBool,
    events: Mutex<VecDeque<VcpuEvent>>,
    wake: EventFd,
    // Open: the guest may run, or all leave.
    gate: (Mutex<bool>, Condvar),
    leaving: (Mutex<()>, Condvar),
}

impl Shared {
    pub(super) fn new(slots: Vec<Slot>, bus: Arc<Bus>) -> Result<Self, Errno> {
        Ok(Self {
            slots,
            bus,
            stopping: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            events: Mutex::new(VecDeque::new()),
            wake: super::eventfd()?,
            gate: (Mutex::new(false), Condvar::new()),
            leaving: (Mutex::new(()), Condvar::new()),
        })
    }

    pub(super) fn wake(&self) -> &EventFd {
        &self.wake
    }

    pub(super) fn take_event(&self) -> Option<VcpuEvent> {
        let mut events = lock(&self.events);
        if events.is_empty() {
            // Nothing to read is no mistake: the fd does not block.
            let _ = self.wake.read();
        }
        events.pop_front()
    }

    pub(super) fn tell(&self, event: VcpuEvent) {
        lock(&self.events).push_back(event);
        // Fails only where the count is full, and then it is readable, too.
        let _ = self.wake.write(1);
    }

    // The first end that is seen is the VM's; every vCPU leaves.
    fn end(&self, event: VcpuEvent) {
        if !self.ended.swap(true, Ordering::SeqCst) {
            self.tell(event);
        }
        self.stop();
    }

    /// Lets the threads into VCPU_RUN.
    pub(super) fn let_go(&self) {
        *lock(&self.gate.0) = true;
        self.gate.1.notify_all();
    }

    fn wait_at_gate(&self) {
        let guard = lock(&self.gate.0);
        drop(self.gate.1.wait_while(guard, |open| !*open));
    }

    /// Takes every thread out of VCPU_RUN. Again and again, until `wait_left` says that it worked.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.let_go();
        for slot in &self.slots {
            slot.page.set_immediate_exit(true);
            let tid = slot.tid.load(Ordering::SeqCst);
            if tid != 0 && tid != kick::own_tid() && !slot.left.load(Ordering::SeqCst) {
                kick::send(tid);
            }
        }
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// The vCPU threads that still run after `wait` at most.
    pub(super) fn wait_left(&self, wait: Duration) -> Vec<u32> {
        let guard = lock(&self.leaving.0);
        // No thread may leave unseen between the look and the wait: they notify under this lock.
        let _guard = self
            .leaving
            .1
            .wait_timeout_while(guard, wait, |()| !self.still_there().is_empty());
        self.still_there()
    }

    fn still_there(&self) -> Vec<u32> {
        let there = |slot: &&Slot| !slot.left.load(Ordering::SeqCst);
        self.slots.iter().filter(there).map(|s| s.id).collect()
    }

    fn leave(&self, slot: &Slot) {
        let _guard = lock(&self.leaving.0);
        slot.left.store(true, Ordering::SeqCst);
        self.leaving.1.notify_all();
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panicked leaves nothing half done behind these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where and how urgently a thread runs.
#[derive(Debug)]
pub(super) struct Placement {
    /// Host CPUs; empty: any.
    pub(super) cpus: Vec<u32>,
    pub(super) nice: i8,
    pub(super) confined: bool,
    /// Dropped once the thread is where it belongs.
    pub(super) placed: Sender<()>,
}

/// A vCPU thread's life.
pub(super) fn thread(shared: &Shared, index: usize, placement: Placement) {
    let Some(slot) = shared.slots.get(index) else {
        return;
    };
    if let Some(clock) = kick::own_cpu_clock() {
        slot.cpu_clock.store(clock, Ordering::SeqCst);
    }
    slot.tid.store(kick::own_tid(), Ordering::SeqCst);
    let mut wrong = Vec::new();
    if let Err(errno) = kick::accept() {
        wrong.push(format!(
            "cannot set its signal mask: {errno:?}; it may not stop at once"
        ));
    }
    if !placement.cpus.is_empty() {
        wrong.extend(kick::bind(&placement.cpus).err());
    }
    if placement.nice != 0 {
        wrong.extend(kick::renice(placement.nice).err());
    }
    if placement.confined {
        if let Err(error) = confine::thread(Step::Run) {
            // Asked to be confined, the guest does not run otherwise.
            shared.end(VcpuEvent::Failed(error));
        }
    }
    // Dropped, it says that this thread needs nothing more from the host.
    drop(placement.placed);
    for what in wrong {
        shared.tell(VcpuEvent::Warning(format!("vCPU {}: {what}", slot.id)));
    }
    shared.wait_at_gate();
    RunLoop {
        shared,
        slot,
        faults: 0,
        last_fault: 0,
        bad_told: false,
    }
    .run();
    shared.leave(slot);
}

struct RunLoop<'a> {
    shared: &'a Shared,
    slot: &'a Slot,
    // Page faults in a row at one address.
    faults: u32,
    last_fault: u64,
    bad_told: bool,
}

impl RunLoop<'_> {
    fn run(&mut self) {
        let mut trouble: Option<Trouble> = None;
        while !self.shared.stopping() {
            match self.slot.vcpu.run() {
                Ok(()) => {
                    trouble = None;
                    self.slot.exits.fetch_add(1, Ordering::Relaxed);
                    if let Err(event) = self.handle(self.slot.page.exit()) {
                        return self.shared.end(event);
                    }
                }
                Err(Errno::EINTR) => {}
                Err(errno @ (Errno::EBUSY | Errno::EAGAIN | Errno::ENODEV)) => {
                    let now = Instant::now();
                    let trouble = match &mut trouble {
                        Some(trouble) => {
                            trouble.again(errno, now);
                            trouble
                        }
                        none => none.insert(Trouble::new(errno, now)),
                    };
                    if let Some(event) = self.given_up(trouble) {
                        return self.shared.end(event);
                    }
                    nap(trouble.times);
                }
                Err(errno) => {
                    let event = VcpuEvent::Failed(run_failed(self.slot.id, errno));
                    return self.shared.end(event);
                }
            }
        }
    }

    fn given_up(&self, trouble: &Trouble) -> Option<VcpuEvent> {
        let time = trouble.too_long(Instant::now())?;
        let others: Vec<String> = self
            .shared
            .still_there()
            .into_iter()
            .filter(|id| *id != self.slot.id)
            .map(|id| id.to_string())
            .collect();
        let detail = format!(
            "VCPU_RUN of vCPU {} answers {:?} for {} ms and no end was reported{}{}",
            self.slot.id,
            trouble.errno,
            time.as_millis(),
            if others.is_empty() {
                ""
            } else {
                "; still inside: vCPU "
            },
            others.join(", ")
        );
        Some(VcpuEvent::Ended {
            reason: EndReason::Unreported,
            detail,
        })
    }

    // The way of a console's byte: page, bus, device, page.
    fn handle(&mut self, exit: Exit) -> Result<(), VcpuEvent> {
        match exit {
            Exit::Write {
                address,
                width,
                value,
            } => {
                let found = self.shared.bus.write(address, width, value);
                self.resume(found);
            }
            Exit::Read { address, width } => {
                let value = self.shared.bus.read(address, width);
                self.slot.page.set_data(value.unwrap_or(0));
                self.resume(value.is_some());
            }
            Exit::End { reason, detail } => return Err(VcpuEvent::Ended { reason, detail }),
            Exit::PageFault { address, attempt } => return self.page_fault(address, attempt),
            Exit::BadAccess { address, len } => {
                self.slot.page.set_data(0);
                self.resume(false);
                self.tell_once(format!(
                    "an access of {len} bytes at {address:#x} cannot be; it reads as zero"
                ));
            }
            // Seen where VCPU_RUN came back without a word; the guest simply goes on.
            Exit::Unknown(uapi::EXIT_UNKNOWN) => {}
            Exit::Unknown(reason) => {
                return Err(VcpuEvent::Failed(
                    LaunchError::new(
                        Step::Run,
                        format!("vCPU {}: exit reason {reason}", self.slot.id),
                    )
                    .cause("a driver newer than this program")
                    .cure("report the kernel's version"),
                ))
            }
        }
        Ok(())
    }

    // Read by drivers from 6.6 on, where it becomes the guest's own exception. To those before it is
    // padding: such a read is zero there, and such a write is lost.
    fn resume(&self, found: bool) {
        self.slot.page.resume_mmio(if found {
            uapi::RESUME_HANDLED
        } else {
            uapi::RESUME_FAULT
        });
    }

    fn page_fault(&mut self, address: u64, attempt: Errno) -> Result<(), VcpuEvent> {
        if self.last_fault != address {
            self.last_fault = address;
            self.faults = 0;
        }
        self.faults = self.faults.saturating_add(1);
        match attempt {
            // No region is there: the guest's own mistake, and its own exception.
            Errno::ENOENT => {
                self.slot.page.resume_fault(uapi::RESUME_FAULT);
                self.tell_once(format!(
                    "the guest touched {address:#x}, where no region is"
                ));
                Ok(())
            }
            Errno::EAGAIN | Errno::EBUSY | Errno::EINTR if self.faults < FAULT_RETRIES => {
                nap(self.faults);
                self.slot.page.resume_fault(uapi::RESUME_RETRY);
                Ok(())
            }
            errno => Err(VcpuEvent::Failed(fault_failed(
                self.slot.id,
                address,
                errno,
            ))),
        }
    }

    // A guest may do it a million times a second.
    fn tell_once(&mut self, what: String) {
        if !std::mem::replace(&mut self.bad_told, true) {
            let id = self.slot.id;
            self.shared
                .tell(VcpuEvent::Warning(format!("vCPU {id}: {what}; told once")));
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

const HUGETLB_CAUSE: &str =
    "this driver faults guest pages in one by one and takes only swap-backed ones; hugetlb pages are not";
const HUGETLB_CURE: &str = "\"backing\": [\"thp\", \"base\"] for the VM's memory";

fn run_failed(id: u32, errno: Errno) -> LaunchError {
    let error = LaunchError::new(Step::Run, format!("VCPU_RUN of vCPU {id}")).errno(errno);
    match errno {
        Errno::EIO => error.cause(HUGETLB_CAUSE).cure(HUGETLB_CURE),
        Errno::ENOMEM => error
            .cause("the host has no memory for a page that the guest touched, or RLIMIT_MEMLOCK is reached")
            .cure("\"prefault\": true; `rlimit memlock unlimited unlimited` in the service's .rc"),
        Errno::ENOTTY => error
            .cause("the VM is not proxy-scheduled, or a driver of another dialect")
            .cure("\"scheduling\": \"hypervisor\""),
        Errno::EPERM | Errno::EACCES => error
            .cause("SELinux: the ioctl is not in the domain's allowxperm list")
            .cure("use the policy of sepolicy/; look for avc: denied in dmesg"),
        _ => error.cure("look for gunyah in dmesg"),
    }
}

fn fault_failed(id: u32, address: u64, errno: Errno) -> LaunchError {
    let what = format!("the driver cannot give vCPU {id} the page at guest {address:#x}");
    let error = LaunchError::new(Step::Run, what).errno(errno);
    match errno {
        Errno::EIO => error.cause(HUGETLB_CAUSE).cure(HUGETLB_CURE),
        Errno::ENOMEM => error
            .cause("the host has no memory, or RLIMIT_MEMLOCK is reached")
            .cure("\"prefault\": true; `rlimit memlock unlimited unlimited` in the service's .rc"),
        Errno::EPERM => error
            .cause("the guest touched its memory in a way that the region's flags forbid, or another process made the VM"),
        Errno::EFAULT => error
            .cause("the mapping of guest memory is gone, or its file was cut"),
        _ => error.cure("look for gunyah in dmesg"),
    }
}
