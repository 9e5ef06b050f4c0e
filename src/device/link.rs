// SPDX-License-Identifier: Apache-2.0
//! What a device's thread and its transport share: kicks, the interrupt, the configuration space, orders.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::eventfd::EventFd;

use super::warnings::Warner;
use super::{Face, QueueLayout};
use crate::diagnostic::Diagnostic;
use crate::memory::Window;
use crate::mpsc::{self, Receiver, Sender};
use crate::vcpu::eventfd;

/// What a device's thread is told.
pub(super) enum Order {
    /// Here is the guest's memory.
    Memory(Window),
    /// The driver is ready: the features agreed on, and its queues.
    Start(u64, Vec<Option<QueueLayout>>),
    /// The driver resets the device.
    Reset,
    /// Give up the system calls that the device does not take.
    Confine,
    /// The VM is over.
    End,
}

/// What a device has done since its VM began.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests answered.
    pub requests: AtomicU64,
    /// Bytes to the guest.
    pub read: AtomicU64,
    /// Bytes from the guest.
    pub written: AtomicU64,
    /// Requests answered with an error.
    pub errors: AtomicU64,
    /// Interrupts.
    pub interrupts: AtomicU64,
    /// Accesses of the guest that came to a vCPU's thread.
    pub exits: AtomicU64,
}

/// A device as its transport sees it, and its transport as the device does; for the device, its counters and
/// its warnings.
pub struct Link {
    /// Its key in the VM's file.
    key: String,
    pub(super) number: u32,
    pub(super) features: u64,
    /// Features of its rings.
    pub(super) rings: u64,
    /// Most entries of each queue.
    pub(super) sizes: Vec<u16>,
    /// By queue.
    kicks: Vec<EventFd>,
    line: EventFd,
    config: Mutex<Vec<u8>>,
    generation: AtomicU32,
    /// The interrupt is, or is also, for a change of the configuration space.
    changed: AtomicBool,
    /// It waits for its reset.
    broken: AtomicBool,
    orders: Sender<Sent>,
    wake: EventFd,
    warner: Mutex<Warner>,
    counters: Counters,
}

/// An order, and where its thread says that it has obeyed.
pub(super) type Sent = (Order, Sender<Result<(), Diagnostic>>);

impl Link {
    pub(super) fn new(
        key: String,
        face: Face,
        rings: u64,
        orders: Sender<Sent>,
        warner: Warner,
    ) -> Result<Self, Errno> {
        let kicks = face.queues.iter().map(|_| eventfd()).collect::<Result<_, _>>()?;
        Ok(Self {
            key,
            number: face.number,
            features: face.features,
            rings,
            sizes: face.queues,
            kicks,
            line: eventfd()?,
            config: Mutex::new(face.config),
            generation: AtomicU32::new(0),
            changed: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            orders,
            wake: eventfd()?,
            warner: Mutex::new(warner),
            counters: Counters::default(),
        })
    }

    /// Tells the device's thread, and waits until it has done so.
    pub(super) fn order(&self, order: Order) -> Result<(), Diagnostic> {
        // Fails only where the thread is gone, and then there is nothing to wait for.
        self.send(order).recv().unwrap_or(Ok(()))
    }

    /// Tells the device's thread; it says when it has done so.
    pub(super) fn send(&self, order: Order) -> Receiver<Result<(), Diagnostic>> {
        let (done, is_done) = mpsc::channel();
        let _ = self.orders.send((order, done));
        raise(&self.wake);
        is_done
    }

    /// What the device has done.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Logs what is wrong with it: a kind of warning at most once a minute.
    pub fn warn(&self, mut warning: Diagnostic) {
        warning.what = format!("{}: {}", self.key, warning.what);
        self.warner.lock().unwrap_or_else(PoisonError::into_inner).warn(warning);
    }

    /// The eventfd that wakes its thread for an order.
    pub(super) fn wake(&self) -> &EventFd {
        &self.wake
    }

    /// The eventfd of a queue's kicks.
    pub(super) fn kick(&self, queue: usize) -> Option<&EventFd> {
        self.kicks.get(queue)
    }

    /// Kicks a queue, if there is one of this number.
    pub(super) fn kick_by_exit(&self, queue: u64) {
        let queue = usize::try_from(queue).ok();
        if let Some(kick) = queue.and_then(|queue| self.kick(queue)) {
            raise(kick);
        }
    }

    /// The eventfd of the interrupt.
    pub(super) fn line(&self) -> BorrowedFd<'_> {
        self.line.as_fd()
    }

    /// Tells the driver of requests that were answered.
    pub(super) fn interrupt(&self) {
        self.counters.interrupts.fetch_add(1, Ordering::Relaxed);
        raise(&self.line);
    }

    /// Why the driver was interrupted (virtio 1.2, 4.2.2 and 4.1.4.5): bit 0, requests were answered, always:
    /// the driver looks and finds none. Bit 1, the configuration has changed, until it is read: no exit tells
    /// when the driver has acknowledged it.
    pub(super) fn take_status(&self) -> u32 {
        1 | u32::from(self.changed.swap(false, Ordering::SeqCst)) << 1
    }

    /// Changes the configuration space and tells the driver.
    pub(super) fn configure(&self, offset: usize, bytes: &[u8]) {
        let mut config = self.config();
        let end = offset.saturating_add(bytes.len());
        if let Some(part) = config.get_mut(offset..end) {
            part.copy_from_slice(bytes);
        }
        // The driver reads the space anew where the generation differs before and behind.
        self.generation.fetch_add(1, Ordering::SeqCst);
        drop(config);
        self.tell_change();
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Up to 8 bytes of the configuration space; zeros where there are none.
    pub(super) fn read_config(&self, offset: u64, len: u64) -> u64 {
        let config = self.config();
        let byte = |at: u64| {
            let at = usize::try_from(offset.checked_add(at)?).ok()?;
            config.get(at).copied()
        };
        (0..len.min(8)).rev().fold(0, |value, at| value << 8 | u64::from(byte(at).unwrap_or(0)))
    }

    fn config(&self) -> MutexGuard<'_, Vec<u8>> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_change(&self) {
        self.changed.store(true, Ordering::SeqCst);
        self.interrupt();
    }

    /// The device is of no use until its driver resets it.
    pub(super) fn fail(&self) {
        self.broken.store(true, Ordering::SeqCst);
        self.tell_change();
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }

    /// As it was before a driver came.
    pub(super) fn renew(&self) {
        self.broken.store(false, Ordering::SeqCst);
        self.changed.store(false, Ordering::SeqCst);
    }
}

fn raise(fd: &EventFd) {
    // Fails only where the count is full, and then it is raised already.
    let _ = fd.write(1);
}
