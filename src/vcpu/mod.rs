// SPDX-License-Identifier: Apache-2.0
//! Proxy-scheduled vCPUs: the guest runs only while a thread of ours is in VCPU_RUN, and what it does
//! outside its memory comes back to us.

mod bus;
mod fault;
mod host_thread;
mod knock;
mod run_errors;
mod run_loop;
mod stall;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gunyah::Vcpu;
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signalfd::SignalFd;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::diagnostic::{Diagnostic, Kind};
use crate::list::Listed;
use crate::mpsc::{self, Receiver, Sender};
use crate::process;
use host_thread::CpuTimer;
use knock::{Found, Inside, Knocks};
use run_loop::{Cpu, Shared, Slot, THREADS};
use stall::{Done, StallWatch};

pub use bus::{Bus, Device, Width};
pub use run_loop::VcpuEvent;

/// A vCPU without an exit and without CPU time for so long is worth a word.
pub const STALL: Duration = Duration::from_secs(30);

/// How often vCPUs are looked at within [`STALL`]; one that has not come out of VCPU_RUN since the last
/// look is knocked at.
const LOOKS: u32 = 6;

/// CPU time of one vCPU that makes it begin again.
const AWAKE: Duration = Duration::from_millis(10);

/// Of [`STALL`]: CPU time after a knock that nobody needs to come out.
const SPIN: u32 = 15;

// What a run loop and a log line need, with plenty to spare.
const STACK: usize = 256 << 10;

/// How vCPUs are run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The VM's name, for the threads' names.
    pub name: String,
    /// Host CPUs: one list for each vCPU, or one for all; none: any.
    pub affinity: Vec<Vec<u32>>,
    /// Niceness of the threads, -20 to 19.
    pub nice: i8,
    /// See [`STALL`].
    pub stall: Duration,
    /// The threads give up their capabilities before the guest runs on them.
    pub confined: bool,
}

/// The running vCPUs of one VM. Dropped, they are stopped.
pub struct Vcpus {
    shared: Arc<Shared>,
    events: Receiver<VcpuEvent>,
    threads: Vec<JoinHandle<()>>,
    timer: TimerFd,
    // How long until the next look.
    interval: Duration,
    stalls: StallWatch,
    knocks: Knocks,
    resting: bool,
    // While it rests: one for each vCPU, and where they are heard.
    cpu_timers: Vec<CpuTimer>,
    kicks: SignalFd,
}

/// A non-blocking eventfd that no child inherits.
pub(crate) fn eventfd() -> Result<EventFd, Errno> {
    EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
}

impl Vcpus {
    /// Runs each of `vcpus`, which have their index for an id, on a thread of its own; after START.
    /// `confine` is called when all threads are there and have what they need; no guest runs before it
    /// has returned.
    ///
    /// # Errors
    /// The step that failed; no thread is left then.
    pub fn start(
        vcpus: Vec<Vcpu>,
        bus: Arc<Bus>,
        options: &Options,
        confine: impl FnOnce() -> Result<(), Diagnostic>,
    ) -> Result<Self, Diagnostic> {
        let cpus = vcpus.into_iter().map(|vcpu| {
            let exit = vcpu.immediate_exit();
            let exit_now: ExitNow = Box::new(move || {
                exit.set(true);
            });
            (exit_now, Box::new(vcpu) as Box<dyn Cpu>)
        });
        Self::start_cpus(cpus, bus, options, confine)
    }

    fn start_cpus(
        cpus: impl Iterator<Item = (ExitNow, Box<dyn Cpu>)>,
        bus: Arc<Bus>,
        options: &Options,
        confine: impl FnOnce() -> Result<(), Diagnostic>,
    ) -> Result<Self, Diagnostic> {
        let slot = |(id, exit_now)| Slot {
            id,
            exit_now,
            exits: AtomicU64::new(0),
            returns: AtomicU64::new(0),
            tid: AtomicI32::new(0),
        };
        let (exits, cpus): (Vec<_>, Vec<_>) = cpus.unzip();
        let slots = (0..).zip(exits).map(slot).listed();
        let ids = slots.iter().map(|slot| slot.id);
        let stalls = StallWatch::new(ids, options.stall, Instant::now());
        let knocks = Knocks::new(slots.len(), options.stall / SPIN);
        host_thread::handle_kicks().map_err(failed("handling the signal that stops vCPUs"))?;
        let (sender, events) = mpsc::channel();
        let shared = Shared {
            slots,
            bus,
            events: sender,
            wake: eventfd().map_err(failed("an eventfd for the vCPUs"))?,
            stopping: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            resting: AtomicBool::new(false),
        };
        // On failure its drop stops the threads that there are.
        let mut vcpus = Self {
            shared: Arc::new(shared),
            events,
            threads: Vec::new(),
            timer: timer().map_err(failed("a timer for the vCPUs"))?,
            interval: (options.stall / LOOKS).max(Duration::from_millis(1)),
            stalls,
            knocks,
            resting: false,
            cpu_timers: Vec::new(),
            kicks: host_thread::take_kicks().map_err(failed("a signalfd for the vCPUs"))?,
        };
        vcpus.look_again().map_err(failed("a timer for the vCPUs"))?;
        let (placed, all_placed) = mpsc::channel();
        let mut gates = Vec::new();
        for (index, cpu) in cpus.into_iter().enumerate() {
            gates.push(vcpus.spawn(index, cpu, options, placed.clone())?);
        }
        drop(placed);
        // What it takes to place a thread is given up next.
        while let Ok(placed) = all_placed.recv() {
            placed?;
        }
        let tids = vcpus.shared.slots.iter().map(|slot| slot.tid.load(Ordering::SeqCst));
        let cpu_timers: Result<_, _> = tids.map(CpuTimer::new).collect();
        vcpus.cpu_timers = cpu_timers.map_err(failed("a timer of a vCPU's CPU time"))?;
        confine()?;
        // Fails only where the thread has panicked.
        gates.iter().for_each(|gate| gate.send(()).unwrap_or(()));
        Ok(vcpus)
    }

    /// Makes a thread; the guest runs on it once the sender says so.
    fn spawn(
        &mut self,
        index: usize,
        cpu: Box<dyn Cpu>,
        options: &Options,
        placed: Sender<Result<(), Diagnostic>>,
    ) -> Result<Sender<()>, Diagnostic> {
        let options = options.clone();
        let shared = Arc::clone(&self.shared);
        let (gate, go) = mpsc::channel();
        // The kernel keeps 15 bytes: the number comes first.
        let name = format!("vcpu{index}-{}", options.name);
        let run = move || {
            if let Some(slot) = shared.slots.get(index) {
                run_loop::thread(&shared, slot, cpu, &options, placed, &go);
            }
        };
        let thread = process::thread(name, STACK, Box::new(run));
        self.threads.push(thread.map_err(failed("making a vCPU's thread"))?);
        Ok(gate)
    }

    /// One of these is readable when [`Vcpus::take_event`] may have something to say.
    pub fn events_fds(&self) -> [BorrowedFd<'_>; 3] {
        [self.shared.wake.as_fd(), self.timer.as_fd(), self.kicks.as_fd()]
    }

    /// What happened, oldest first. To be called until it says `None`.
    pub fn take_event(&mut self) -> Option<VcpuEvent> {
        // None of these blocks: where there is nothing, they answer EAGAIN.
        let _ = self.shared.wake.read();
        if let Ok(event) = self.events.try_recv() {
            return Some(event);
        }
        let used_cpu_time = matches!(self.kicks.read_signal(), Ok(Some(_)));
        if self.resting && (used_cpu_time || !self.shared.resting.load(Ordering::SeqCst)) {
            self.watch();
        }
        self.timer.wait().ok()?;
        self.look().map(VcpuEvent::Warning)
    }

    /// Looks at the vCPUs from time to time, until they rest: something may end the VM.
    pub fn watch(&mut self) {
        // What could be set when the guest began can be set again.
        let _ = self.look_again();
    }

    fn look_again(&mut self) -> nix::Result<()> {
        self.shared.resting.store(false, Ordering::SeqCst);
        self.resting = false;
        self.knocks.forget();
        self.set_timer(Expiration::Interval(TimeSpec::from_duration(self.interval)))
    }

    fn set_timer(&self, expiration: Expiration) -> nix::Result<()> {
        self.timer.set(expiration, TimerSetTimeFlags::empty())
    }

    fn look(&mut self) -> Option<Diagnostic> {
        self.knock();
        let done = self.shared.slots.iter().map(done).listed();
        let now = Instant::now();
        let news = self.stalls.look(now, &done);
        match (self.stalls.is_still(), self.resting) {
            (false, false) => self.knocks.forget(),
            (false, true) => self.watch(),
            (true, _) if self.knocks.all_answered() => self.rest(now, &done),
            (true, _) => {}
        }
        news
    }

    /// Wakes up no more until a vCPU does more than it had `done`, or the still VM is to be reported.
    fn rest(&mut self, now: Instant, done: &[Done]) {
        self.resting = true;
        self.shared.resting.store(true, Ordering::SeqCst);
        let exits = |(slot, done): (&Slot, &Done)| slot.exits.load(Ordering::SeqCst) != done.0;
        if self.shared.slots.iter().zip(done).any(exits) {
            return self.watch();
        }
        for (timer, done) in self.cpu_timers.iter().zip(done) {
            timer.set(done.1.saturating_add(AWAKE));
        }
        // All zeros: never.
        let due = self.stalls.due().map_or(Duration::ZERO, |due| {
            due.saturating_duration_since(now).max(Duration::from_millis(1))
        });
        let _ = self.set_timer(Expiration::OneShot(TimeSpec::from_duration(due)));
    }

    /// Knocks at vCPUs that have not come out of VCPU_RUN since the last look. One that does not answer
    /// is the end of the VM.
    fn knock(&mut self) {
        let inside = self.shared.slots.iter().map(inside).listed();
        for (slot, found) in self.shared.slots.iter().zip(self.knocks.look(&inside)) {
            match found {
                Found::Out => {}
                Found::Knock => slot.kick(),
                Found::Spins(time) => self.shared.spins(slot.id, time),
            }
        }
    }

    /// Takes every vCPU out of the guest, waits for the threads for at most `bound` and gives back
    /// what they held. Returns the vCPUs that could not be taken out, whose threads stay.
    pub fn stop(mut self, bound: Duration) -> Vec<u32> {
        self.halt(bound)
    }

    fn halt(&mut self, bound: Duration) -> Vec<u32> {
        let started = Instant::now();
        loop {
            self.shared.stop();
            if self.threads.iter().all(JoinHandle::is_finished) || started.elapsed() >= bound {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut left = Vec::new();
        for (id, thread) in (0..).zip(self.threads.drain(..)) {
            match thread.is_finished() {
                // A panic was reported on stderr; there is nothing more to do about it.
                true => drop(thread.join()),
                false => left.push(id),
            }
        }
        left
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        self.halt(Duration::from_secs(1));
    }
}

/// Makes a vCPU's next VCPU_RUN return at once.
type ExitNow = Box<dyn Fn() + Send + Sync>;

fn failed(what: &str) -> impl FnOnce(Errno) -> Diagnostic + '_ {
    move |errno| THREADS.case(what).errno(errno)
}

fn timer() -> Result<TimerFd, Errno> {
    let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
    TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)
}

fn done(slot: &Slot) -> Done {
    (slot.exits.load(Ordering::Relaxed), slot.cpu_time())
}

fn inside(slot: &Slot) -> Inside {
    (slot.returns.load(Ordering::Relaxed), slot.cpu_time())
}

/// Everything that can be wrong here.
pub(crate) const KINDS: &[&[&Kind]] =
    &[bus::KINDS, fault::KINDS, host_thread::KINDS, knock::KINDS, run_loop::KINDS, stall::KINDS];

#[cfg(test)]
mod tests;
