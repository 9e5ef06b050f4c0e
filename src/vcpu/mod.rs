// SPDX-License-Identifier: Apache-2.0
//! Proxy-scheduled vCPUs: the guest runs only while a thread of ours sits in VCPU_RUN, and what it
//! does outside its memory comes back to us.

mod bus;
mod exit;
mod kick;
mod page;
mod progress;
mod run;
mod trouble;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Sender};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::error::{LaunchError, Step};
use page::RunPage;
use progress::{Done, Progress, Stall};
use run::{DriverVcpu, Placement, Shared, Slot};

pub use bus::{Bus, BusError, Device, Width};
pub use exit::{decode, Exit};
pub use run::VcpuEvent;

/// A vCPU without an exit and without CPU time for so long is worth a word.
pub const STALL: Duration = Duration::from_secs(30);

// What a run loop and a log line need, with plenty to spare.
const STACK: usize = 256 << 10;

/// How vCPUs are run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The VM's name, for the threads' names.
    pub name: String,
    /// Host CPUs: one list a vCPU, or one for all; none: any.
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
    threads: Vec<JoinHandle<()>>,
    epoll: Epoll,
    timer: TimerFd,
    progress: Progress,
}

/// A non-blocking eventfd that no child inherits.
pub(crate) fn eventfd() -> Result<EventFd, Errno> {
    EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
}

impl Vcpus {
    /// Maps the run pages of `vcpus` (id and fd) and runs each on a thread of its own. To be called
    /// after START. `confine` is called when all threads are there and have what they need; no guest
    /// runs before it has returned.
    ///
    /// # Errors
    /// The step that failed; no thread is left then.
    pub fn start(
        vcpus: Vec<(u32, OwnedFd)>,
        bus: Arc<Bus>,
        options: &Options,
        confine: impl FnOnce() -> Result<(), LaunchError>,
    ) -> Result<Self, LaunchError> {
        let slots = vcpus
            .into_iter()
            .map(|(id, fd)| {
                let page = RunPage::map(fd.as_fd(), id)?;
                Ok(Slot::new(id, Box::new(DriverVcpu(fd)), Arc::new(page)))
            })
            .collect::<Result<_, LaunchError>>()?;
        Self::start_slots(slots, bus, options, confine)
    }

    fn start_slots(
        slots: Vec<Slot>,
        bus: Arc<Bus>,
        options: &Options,
        confine: impl FnOnce() -> Result<(), LaunchError>,
    ) -> Result<Self, LaunchError> {
        let failed = |what: &str, errno| LaunchError::new(Step::Run, what).errno(errno);
        kick::install().map_err(|e| failed("handling the signal that stops vCPUs", e))?;
        let shared = Shared::new(slots, bus).map_err(|e| failed("eventfd for the vCPUs", e))?;
        let shared = Arc::new(shared);
        let (epoll, timer) =
            watch(&shared, options.stall).map_err(|e| failed("timer for the vCPUs", e))?;
        let ids = shared.slots.iter().map(|slot| slot.id);
        let progress = Progress::new(ids, options.stall, Instant::now());
        let mut vcpus = Self {
            shared,
            threads: Vec::new(),
            epoll,
            timer,
            progress,
        };
        let (placed, all_placed) = mpsc::channel();
        for index in 0..vcpus.shared.slots.len() {
            // On failure the drop of `vcpus` stops those that run already.
            let thread = vcpus
                .spawn(index, options, &placed)
                .map_err(|e| failed("making a vCPU's thread", e))?;
            vcpus.threads.push(thread);
        }
        drop(placed);
        // What placing a thread takes is given up next; this ends with the last thread's sender.
        while all_placed.recv().is_ok() {}
        confine()?;
        vcpus.shared.let_go();
        Ok(vcpus)
    }

    fn spawn(
        &self,
        index: usize,
        options: &Options,
        placed: &Sender<()>,
    ) -> Result<JoinHandle<()>, Errno> {
        let shared = Arc::clone(&self.shared);
        let cpus = match options.affinity.as_slice() {
            [all] => Some(all),
            each => each.get(index),
        };
        let placement = Placement {
            cpus: cpus.cloned().unwrap_or_default(),
            nice: options.nice,
            confined: options.confined,
            placed: placed.clone(),
        };
        let id = self.shared.slots.get(index).map_or(0, |slot| slot.id);
        std::thread::Builder::new()
            // The kernel keeps 15 bytes: the number comes first.
            .name(format!("vcpu{id}-{}", options.name))
            .stack_size(STACK)
            .spawn(move || run::thread(&shared, index, placement))
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EAGAIN)))
    }

    /// Readable when [`Vcpus::take_event`] has something to say; to be polled.
    pub fn events_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// What happened, oldest first. To be called until it says `None`.
    pub fn take_event(&mut self) -> Option<VcpuEvent> {
        if let Some(event) = self.shared.take_event() {
            return Some(event);
        }
        // It does not block: where it has not expired, this is EAGAIN.
        self.timer.wait().ok()?;
        let done: Vec<Done> = self.shared.slots.iter().map(done).collect();
        let stall = self.progress.look(Instant::now(), &done)?;
        Some(VcpuEvent::Warning(self.describe(&stall)))
    }

    fn describe(&self, stall: &Stall) -> String {
        match stall {
            Stall::All => "no vCPU makes progress (no exit and no CPU time): the guest sleeps or \
                           hangs, or the driver did not report its end"
                .to_owned(),
            Stall::Some(ids) => {
                let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
                format!(
                    "vCPU {} makes no progress (no exit and no CPU time): switched off, asleep or \
                     hanging; told once",
                    ids.join(", ")
                )
            }
            Stall::Over => "the vCPUs make progress again".to_owned(),
        }
    }

    /// Takes every vCPU out of the guest, waits for the threads for at most `bound` and gives back
    /// what they held. Returns the vCPUs that could not be taken out, whose threads stay.
    pub fn stop(mut self, bound: Duration) -> Vec<u32> {
        self.halt(bound)
    }

    fn halt(&mut self, bound: Duration) -> Vec<u32> {
        let started = Instant::now();
        // Those whose thread could not be made.
        for slot in self.shared.slots.iter().skip(self.threads.len()) {
            slot.left.store(true, Ordering::SeqCst);
        }
        let left = loop {
            // Again each time: a thread may just have been on its way into VCPU_RUN.
            self.shared.stop();
            let left = self.shared.wait_left(Duration::from_millis(10));
            if left.is_empty() || started.elapsed() >= bound {
                break left;
            }
        };
        for (slot, thread) in self.shared.slots.iter().zip(self.threads.drain(..)) {
            if slot.left.load(Ordering::SeqCst) {
                // A panic was told on stderr; there is nothing more to do about it.
                let _ = thread.join();
            }
        }
        left
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            let _ = self.halt(Duration::from_secs(1));
        }
    }
}

fn watch(shared: &Shared, stall: Duration) -> Result<(Epoll, TimerFd), Errno> {
    let timer = TimerFd::new(
        ClockId::CLOCK_MONOTONIC,
        TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK,
    )?;
    let interval = (stall / 4).max(Duration::from_millis(1));
    timer.set(
        Expiration::Interval(TimeSpec::from_duration(interval)),
        TimerSetTimeFlags::empty(),
    )?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(shared.wake(), EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
    epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, 1))?;
    Ok((epoll, timer))
}

fn done(slot: &Slot) -> Done {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let clock = slot.cpu_clock.load(Ordering::SeqCst);
    // SAFETY: `time` is a live local; the clock of a thread that is gone is answered by EINVAL.
    let answer = unsafe { libc::clock_gettime(clock, &raw mut time) };
    let nanos = u64::try_from(time.tv_sec)
        .unwrap_or(0)
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0));
    let exits = slot.exits.load(Ordering::Relaxed);
    (exits, if answer == 0 { nanos } else { 0 })
}

#[cfg(test)]
mod tests;
