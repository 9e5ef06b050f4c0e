// SPDX-License-Identifier: Apache-2.0
//! Reports to the supervisor, and marks in the trace.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{sendmsg, MsgFlags};

use super::Report;
use crate::diagnostic::Step;
use crate::status::trace::Trace;

/// How often a report is sent at most, and the time between: a supervisor that is gone for good is
/// not waited for.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(2);

/// Sends reports. A supervisor that is gone takes its workers with it, so sending cannot fail in a
/// way that matters.
#[derive(Debug)]
pub struct Reporter {
    channel: OwnedFd,
    trace: Trace,
}

impl Reporter {
    /// Reports to `channel`.
    pub fn new(channel: OwnedFd) -> Self {
        Self {
            channel,
            trace: Trace::open(),
        }
    }

    pub fn channel(&self) -> &OwnedFd {
        &self.channel
    }

    /// Sends one report.
    pub fn send(&self, report: &Report) {
        let Ok(message) = serde_json::to_vec(report) else {
            return;
        };
        let parts = [IoSlice::new(&message)];
        let channel = self.channel.as_raw_fd();
        for _ in 0..TRIES {
            match sendmsg::<()>(channel, &parts, &[], MsgFlags::MSG_NOSIGNAL, None) {
                Ok(_) => return,
                Err(Errno::EINTR) => {}
                // The kernel may be short of memory for a moment, and a worker whose word of running
                // is lost would be taken for one that hangs.
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }

    /// Sends warnings.
    pub fn warn(&self, warnings: impl IntoIterator<Item = String>) {
        for warning in warnings {
            self.send(&Report::Warning(warning));
        }
    }

    /// Does one step and marks it in the trace; if it went well, reports its time and what `tell` says
    /// of it.
    pub fn step<T, E>(
        &self,
        step: Step,
        work: impl FnOnce() -> Result<T, E>,
        tell: impl FnOnce(&T) -> String,
    ) -> Result<T, E> {
        let begin = Instant::now();
        let slice = self.trace.slice(step.as_str());
        let done = work()?;
        drop(slice);
        let micros = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.send(&Report::Step {
            step,
            micros,
            detail: tell(&done),
        });
        Ok(done)
    }
}
