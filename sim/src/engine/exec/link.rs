// SPDX-License-Identifier: Apache-2.0
//! Between the simulator's loop and a vCPU's thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::engine::RunPage;

#[derive(Debug, Default)]
struct State {
    /// VCPU_RUN is in, with its page.
    run: Option<Arc<RunPage>>,
    /// Where a CPU that is off goes on: address and x0.
    power_on: Option<(u64, u64)>,
    /// On, or about to be.
    on: bool,
}

/// A vCPU's link.
#[derive(Debug, Default)]
pub struct Link {
    state: Mutex<State>,
    changed: Condvar,
    // Looked at before every block of guest code, hence no lock.
    interrupted: AtomicBool,
    stopped: AtomicBool,
    line: AtomicBool,
    idle: AtomicBool,
}

/// Why a wait ended.
#[derive(Debug)]
pub enum Woken<T> {
    /// What was waited for.
    With(T),
    /// The caller of VCPU_RUN went away.
    Interrupted,
    /// The VM is torn down.
    Stopped,
}

impl Link {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// None: the time is over.
    fn wait_for<T>(
        &self,
        most: Option<Duration>,
        mut take: impl FnMut(&mut State) -> Option<T>,
    ) -> Option<Woken<T>> {
        // Too far away to be told: for ever.
        let until = most.and_then(|most| Instant::now().checked_add(most));
        let mut state = self.lock();
        loop {
            if self.stopped() {
                return Some(Woken::Stopped);
            }
            if let Some(taken) = take(&mut state) {
                return Some(Woken::With(taken));
            }
            if self.interrupted() {
                return Some(Woken::Interrupted);
            }
            let Some(until) = until else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = until.checked_duration_since(Instant::now())?;
            let woken = self.changed.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// VCPU_RUN came in.
    pub fn run(&self, page: Arc<RunPage>) {
        let mut state = self.lock();
        self.interrupted.store(false, Ordering::Release);
        state.run = Some(page);
        self.changed.notify_all();
    }

    /// Waits for a VCPU_RUN; None: the VM is torn down.
    pub fn wait_run(&self) -> Option<Arc<RunPage>> {
        loop {
            match self.wait_for(None, |state| state.run.take()) {
                Some(Woken::With(page)) => return Some(page),
                // Nobody is inside; the flag is of no use any more.
                Some(Woken::Interrupted) => self.interrupted.store(false, Ordering::Release),
                Some(Woken::Stopped) | None => return None,
            }
        }
    }

    /// Waits until the CPU is powered on.
    pub fn wait_power(&self) -> Woken<(u64, u64)> {
        self.wait_for(None, |state| state.power_on.take()).unwrap_or(Woken::Stopped)
    }

    /// Powers the CPU on. False: it is already.
    pub fn power_on(&self, address: u64, x0: u64) -> bool {
        let mut state = self.lock();
        if state.on {
            return false;
        }
        state.on = true;
        state.power_on = Some((address, x0));
        self.changed.notify_all();
        true
    }

    /// The CPU powered itself off.
    pub fn powered_off(&self) {
        self.lock().on = false;
    }

    /// Whether it is on, or about to be.
    pub fn is_on(&self) -> bool {
        self.lock().on
    }

    /// Waits in WFI for the interrupt line, or so long.
    pub fn wait_line(&self, most: Option<Duration>) -> Woken<()> {
        self.idle.store(true, Ordering::Release);
        let woken = self.wait_for(most, |_| self.line().then_some(()));
        self.idle.store(false, Ordering::Release);
        woken.unwrap_or(Woken::With(()))
    }

    /// Whether it waits there, inside VCPU_RUN.
    pub fn is_idle(&self) -> bool {
        self.idle.load(Ordering::Acquire)
    }

    /// The caller of VCPU_RUN went away.
    pub fn interrupt(&self) {
        let _state = self.lock();
        self.interrupted.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    /// Whether it did.
    pub fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Acquire)
    }

    /// The interrupt line from the GIC.
    pub fn set_line(&self, high: bool) {
        // Set by one at a time, who has the interrupt controller.
        if self.line() == high {
            return;
        }
        let _state = self.lock();
        self.line.store(high, Ordering::Release);
        self.changed.notify_all();
    }

    /// Whether it is high.
    pub fn line(&self) -> bool {
        self.line.load(Ordering::Acquire)
    }

    /// The VM is torn down.
    pub fn stop(&self) {
        let _state = self.lock();
        self.stopped.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    /// Whether it is.
    pub fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}
