// SPDX-License-Identifier: Apache-2.0
//! The one clock of states, journals and the log on stderr, and the one that init tells times by.

use std::time::Duration;

use nix::time::{clock_gettime, ClockId};

/// Time since boot with the host's sleep in it: the clock of init's `ro.boottime.…`.
pub fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

/// Whole milliseconds of a duration; one too long for a `u64` is as good as for ever.
#[inline(never)] // Else its 128 bits are there for each call.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The same in microseconds.
#[inline(never)]
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// What of two times that may be set comes first.
pub fn sooner<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Time since boot by CLOCK_MONOTONIC, which stands still while the host sleeps. So does the clock of
/// the kernel's log, which is near it but not the same: it is not slewed, and begins a little apart.
pub fn now() -> Duration {
    // It cannot fail for this clock.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}
