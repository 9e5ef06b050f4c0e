// SPDX-License-Identifier: Apache-2.0
//! What a launch reports on its way.

use std::cell::RefCell;
use std::io;
use std::time::{Duration, Instant};

use super::answers::refused;
use crate::config::HugePages;
use crate::diagnostic::{Diagnostic, Step};
use crate::json::{choice, record};
use crate::status::trace::{Slice, Trace};

choice! {
    /// Something that happened.
    Event {
        /// A step is done.
        Step {
            step: Step,
            took: Duration,
            /// For the log: "128 pages of 2 MiB".
            detail: String,
        } = "step",
        /// What the driver speaks, by its name.
        Dialect(name: String) = "dialect",
        /// Huge pages that the VM has taken, by page size in bytes.
        HugePages(pages: HugePages) = "huge-pages",
        /// Transparent huge pages of the VM's memory.
        Folios(folios: Folios) = "folios",
        /// Next is START, which cannot be called back.
        Starts = "starts",
        /// A person should know of it; the launch goes on.
        Warning(warning: Diagnostic) = "warning",
    }
}

record! {
    /// The transparent huge pages of a VM.
    #[derive(Copy)]
    Folios {
        /// Those of the reserve.
        reserved: u64,
        /// Those that are huge pages indeed.
        huge: u64,
        /// As many as there could be.
        of: u64,
    }
}

/// Where a launch reports what happens. Every packet wakes the supervisor up, so reports are kept until the next
/// step that may wait, and till the end: who asks what a launch waits for, or was killed in, is told the step before.
pub(super) struct Progress<'a> {
    trace: Trace,
    report: &'a dyn Fn(Vec<Event>),
    kept: RefCell<Vec<Event>>,
}

/// The steps that wait for the resource manager, for memory, or for files.
fn may_wait(step: Step) -> bool {
    use Step::*;
    matches!(step, CreateVm | Images | Memory | Kernel | Initrd | Region | Start)
}

/// As many are sent at once: a packet has its limit, and warnings with long paths are as many as regions.
const KEPT_MAX: usize = 8;

impl<'a> Progress<'a> {
    pub fn new(report: &'a dyn Fn(Vec<Event>)) -> Self {
        Self { trace: Trace::open(), report, kept: RefCell::default() }
    }

    pub fn report(&self, event: Event) {
        self.kept.borrow_mut().push(event);
        if self.kept.borrow().len() >= KEPT_MAX {
            self.send();
        }
    }

    /// Sends what is kept.
    pub fn send(&self) {
        let kept = self.kept.take();
        if !kept.is_empty() {
            (self.report)(kept);
        }
    }

    pub fn warn(&self, warnings: impl IntoIterator<Item = Diagnostic>) {
        for warning in warnings {
            self.report(Event::Warning(warning));
        }
    }

    /// Does one step, marks it in the trace and, when it went well, reports its time and what `describe`
    /// has about it.
    pub fn step<T>(
        &self,
        step: Step,
        work: impl FnOnce() -> Result<T, Diagnostic>,
        describe: impl FnOnce(&T) -> String,
    ) -> Result<T, Diagnostic> {
        let (begin, slice) = self.begin(step);
        let done = work()?;
        drop(slice);
        let took = begin.elapsed();
        self.done(step, took, describe(&done));
        Ok(done)
    }

    // Not generic, so that each step's copy of the above stays small.
    #[inline(never)]
    fn begin(&self, step: Step) -> (Instant, Slice<'_>) {
        if may_wait(step) {
            self.send();
        }
        (Instant::now(), self.trace.slice(step))
    }

    #[inline(never)]
    fn done(&self, step: Step, took: Duration, detail: String) {
        self.report(Event::Step { step, took, detail });
    }

    /// As [`Progress::step`], for one call of the driver.
    pub fn call<T>(
        &self,
        step: Step,
        call: impl Into<String>,
        work: impl FnOnce() -> io::Result<T>,
        describe: impl FnOnce(&T) -> String,
    ) -> Result<T, Diagnostic> {
        let work = || work().map_err(|error| refused(step, call, &error));
        self.step(step, work, describe)
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        self.send();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_is_told_before_what_may_wait_and_in_small_packets() {
        let packets = RefCell::new(Vec::new());
        let told = |events: Vec<Event>| packets.borrow_mut().push(events.len());
        let progress = Progress::new(&told);
        let step = |step| progress.step(step, || Ok(()), |()| String::new()).unwrap();
        step(Step::Device);
        assert!(packets.borrow().is_empty());
        for (next, so_far) in
            [(Step::CreateVm, vec![1]), (Step::Dialect, vec![1]), (Step::Images, vec![1, 2])]
        {
            step(next);
            assert_eq!(*packets.borrow(), so_far, "{next}");
        }
        // The step before is kept, too.
        for _ in 0..2 * KEPT_MAX {
            progress.report(Event::Starts);
        }
        drop(progress);
        assert_eq!(*packets.borrow(), [1, 2, KEPT_MAX, KEPT_MAX, 1]);
    }
}
