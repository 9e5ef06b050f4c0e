// SPDX-License-Identifier: Apache-2.0
//! How often and how soon a VM may be started again. Pure.

use crate::config::RestartConfig;

use crate::status::clock::millis;

/// A guest that resets itself more often than this within [`RESET_WINDOW`] is slowed down: some
/// guests reset as long as they cannot find their root file system.
const RESET_BURST: usize = 10;

/// Milliseconds.
const RESET_WINDOW: u64 = 60_000;

/// What comes after an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A restart, the `nth` within the window, after `wait` milliseconds.
    After {
        /// Milliseconds.
        wait: u64,
        /// Counted from 1.
        nth: u32,
    },
    /// There were too many.
    GiveUp,
}

/// The restarts that were, and those still allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Budget {
    /// All restarts since gunyahd began, resets not counted.
    pub restarts: u32,
    /// All restarts after a guest's own reset.
    pub resets: u32,
    recent: Vec<u64>,
    recent_resets: Vec<u64>,
}

impl Budget {
    /// A person asked for a start: what was before no longer counts against the VM.
    pub fn forgive(&mut self) {
        self.recent.clear();
        self.recent_resets.clear();
    }

    /// What to do after an end at `now` that calls for a restart.
    pub fn after_end(&mut self, rules: &RestartConfig, now: u64) -> Next {
        drop_old(&mut self.recent, millis(rules.window), now);
        let before = u32::try_from(self.recent.len()).unwrap_or(u32::MAX);
        if before >= rules.max {
            return Next::GiveUp;
        }
        let doubled = millis(rules.backoff).saturating_mul(2u64.saturating_pow(before));
        let wait = doubled.min(millis(rules.backoff_max));
        self.recent.push(now.saturating_add(wait));
        Next::After { wait, nth: before.saturating_add(1) }
    }

    /// Counts a reset; milliseconds to wait if the guest does nothing but reset.
    pub fn after_reset(&mut self, rules: &RestartConfig, now: u64) -> Option<u64> {
        self.resets = self.resets.saturating_add(1);
        drop_old(&mut self.recent_resets, RESET_WINDOW, now);
        self.recent_resets.push(now);
        if self.recent_resets.len() <= RESET_BURST {
            return None;
        }
        // Only the latest ones matter.
        self.recent_resets.remove(0);
        Some(millis(rules.backoff_max))
    }
}

fn drop_old(times: &mut Vec<u64>, window: u64, now: u64) {
    times.retain(|at| now.saturating_sub(*at) < window);
}
