// SPDX-License-Identifier: Apache-2.0
//! Devices' warnings, on their way to the worker's main thread.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::eventfd::EventFd;

use crate::diagnostic::Diagnostic;
use crate::mpsc::Sender;

/// A warning of one kind is told once within this: a full disk fails thousands of requests a second.
const QUIET: Duration = Duration::from_secs(60);

/// Warnings of one device, each kind now and then.
pub(super) struct Warner {
    sender: Sender<Diagnostic>,
    wake: Arc<EventFd>,
    told: Vec<(String, Instant)>,
}

impl Warner {
    /// Sends them to `sender`, and writes to `wake` for each.
    pub fn new(sender: Sender<Diagnostic>, wake: Arc<EventFd>) -> Self {
        Self { sender, wake, told: Vec::new() }
    }

    pub fn warn(&mut self, warning: Diagnostic) {
        let now = Instant::now();
        match self.told.iter_mut().find(|(name, _)| *name == warning.name) {
            Some((_, at)) if now.saturating_duration_since(*at) < QUIET => return,
            Some((_, at)) => *at = now,
            None => self.told.push((warning.name.clone(), now)),
        }
        // Fails only where nobody listens any more; a count that is full wakes, too.
        let _ = self.sender.send(warning);
        let _ = self.wake.write(1);
    }
}
