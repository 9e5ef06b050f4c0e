// SPDX-License-Identifier: Apache-2.0
//! Errors of VCPU_RUN that may pass, without an exit between them, and how long they may go on.

use std::time::{Duration, Instant};

use nix::errno::Errno;

/// So long nothing but ENODEV means an end that the driver has not reported.
const UNREPORTED_GRACE: Duration = Duration::from_secs(1);
/// So long any errors may go on: EBUSY is usual around an exit.
const BUSY_GRACE: Duration = Duration::from_secs(5);

/// What VCPU_RUN has answered since the last exit.
#[derive(Debug, Default)]
pub(super) struct RunErrors {
    count: u32,
    begun: Option<Instant>,
    // The last answer, and since when it is the same.
    last: Option<(Errno, Instant)>,
}

impl RunErrors {
    /// One more. How long it has gone on, if that is too long.
    pub(super) fn add(&mut self, errno: Errno, now: Instant) -> Option<Duration> {
        self.count = self.count.saturating_add(1);
        let begun = *self.begun.get_or_insert(now);
        let since = match self.last {
            Some((last, since)) if last == errno => since,
            _ => now,
        };
        self.last = Some((errno, since));
        let all = now.saturating_duration_since(begun);
        let same = now.saturating_duration_since(since);
        let gone = errno == Errno::ENODEV && same >= UNREPORTED_GRACE;
        (gone || all >= BUSY_GRACE).then_some(all)
    }

    /// How many there were.
    pub(super) fn count(&self) -> u32 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Milliseconds until it is too long, when asked every 10 ms with `answer`.
    fn patience(answer: impl Fn(u64) -> Errno) -> u64 {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut errors = RunErrors::default();
        (0..1000)
            .map(|step| step * 10)
            .find(|ms| errors.add(answer(*ms), at(*ms)).is_some())
            .unwrap()
    }

    #[test]
    fn one_errno_has_its_grace() {
        assert_eq!(patience(|_| Errno::ENODEV), 1000);
        assert_eq!(patience(|_| Errno::EBUSY), 5000);
        assert_eq!(patience(|_| Errno::EAGAIN), 5000);
    }

    #[test]
    fn errnos_that_change_are_one_row() {
        let turns = [Errno::ENODEV, Errno::EBUSY, Errno::EAGAIN];
        let turn = |ms: u64| turns[usize::try_from(ms / 10).unwrap() % 3];
        assert_eq!(patience(turn), 5000);
        // ENODEV after EBUSY has its own second: it may have come just now.
        let late = |ms| {
            if ms < 2000 {
                Errno::EBUSY
            } else {
                Errno::ENODEV
            }
        };
        assert_eq!(patience(late), 3000);
    }
}
