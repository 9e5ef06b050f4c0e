// SPDX-License-Identifier: Apache-2.0
//! What a launch reports on its way.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::answers::refused;
use crate::diagnostic::{Diagnostic, Step};
use crate::status::trace::Trace;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// A step is done.
    Step {
        step: Step,
        took: Duration,
        /// For the log: "128 pages of 2 MiB".
        detail: String,
    },
    /// What the driver speaks, by its name.
    Dialect(String),
    /// Huge pages that the VM has taken, by page size in bytes.
    HugePages(BTreeMap<u64, u64>),
    /// Transparent huge pages of the VM's memory.
    Folios(Folios),
    /// Next is START, which cannot be called back.
    Starts,
    /// A person should know of it; the launch goes on.
    Warning(Diagnostic),
}

/// The transparent huge pages of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folios {
    /// Those of the reserve.
    pub reserved: u64,
    /// Those that are huge pages indeed.
    pub huge: u64,
    /// As many as there could be.
    pub of: u64,
}

/// Where a launch reports what happens.
pub(super) struct Progress<'a> {
    trace: Trace,
    report: &'a dyn Fn(Event),
}

impl<'a> Progress<'a> {
    pub fn new(report: &'a dyn Fn(Event)) -> Self {
        Self { trace: Trace::open(), report }
    }

    pub fn report(&self, event: Event) {
        (self.report)(event);
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
        let begin = Instant::now();
        let slice = self.trace.slice(step.as_str());
        let done = work()?;
        drop(slice);
        self.report(Event::Step { step, took: begin.elapsed(), detail: describe(&done) });
        Ok(done)
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
