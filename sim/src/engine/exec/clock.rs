// SPDX-License-Identifier: Apache-2.0
//! The guests' time: it goes on while a CPU executes, by the time that its thread had on a processor
//! of the host, and while it waits in WFI, as it does on the wall. So a machine that is busy with
//! other things, or a launcher that takes its time, does not let a guest's timers run out early.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use nix::time::{clock_gettime, ClockId};

/// Nanoseconds of a tick: 62.5 MHz, as the emulator's CNTFRQ_EL0 says.
const TICK: u64 = 16;

/// A machine's time in nanoseconds: that of its CPU which is furthest.
#[derive(Debug, Default)]
pub struct Clock(AtomicU64);

/// A CPU's view of its machine's time; belongs to one thread.
#[derive(Debug)]
pub struct Watch {
    clock: Arc<Clock>,
    own: Cell<u64>,
    /// The thread's time at the last look.
    thread: Cell<u64>,
}

impl Watch {
    /// For the calling thread.
    pub fn new(clock: &Arc<Clock>) -> Self {
        Self {
            clock: Arc::clone(clock),
            own: Cell::new(0),
            thread: Cell::new(thread_nanoseconds()),
        }
    }

    /// Ticks since the machine began.
    pub fn ticks(&self) -> u64 {
        let thread = thread_nanoseconds();
        let since = thread.saturating_sub(self.thread.replace(thread));
        self.go_on(since) / TICK
    }

    /// The CPU was idle so long.
    pub fn was_idle(&self, time: Duration) {
        self.go_on(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    fn go_on(&self, by: u64) -> u64 {
        let own = self.own.get().saturating_add(by);
        let own = own.max(self.clock.0.fetch_max(own, Ordering::AcqRel));
        self.own.set(own);
        own
    }
}

/// How long so many ticks take.
pub fn duration(ticks: u64) -> Duration {
    Duration::from_nanos(ticks.saturating_mul(TICK))
}

fn thread_nanoseconds() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    time.map_or(0, |time| u64::try_from(Duration::from(time).as_nanos()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_with_work_and_idleness_and_the_furthest_leads() {
        let clock = Arc::default();
        let (first, second) = (Watch::new(&clock), Watch::new(&clock));
        std::thread::sleep(Duration::from_millis(20));
        assert!(first.ticks() < 20_000_000 / TICK, "waiting outside is no time of the guest's");
        first.was_idle(Duration::from_secs(1));
        assert!(second.ticks() >= 1_000_000_000 / TICK);
        let before = second.ticks();
        while second.ticks() == before {}
        assert!(first.ticks() > before);
    }
}
