// SPDX-License-Identifier: Apache-2.0
//! vCPUs that make no progress: no exit and no CPU time of the host over a while.
//!
//! A guest that sleeps, a CPU that the guest switched off, one that hangs in the hypervisor, and an
//! end that the driver never reports all look like this. So it is told and nothing is done about it.

use std::time::{Duration, Instant};

/// What one vCPU has done so far: exits, and nanoseconds of CPU time.
pub(super) type Done = (u64, u64);

/// What is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stall {
    /// All vCPUs are still. Told again only after twice as long, for a guest that wakes up once a
    /// minute is healthy.
    All,
    /// Some are. Each is told once, because a CPU that sleeps for long is nothing unusual.
    Some(Vec<u32>),
    /// After [`Stall::All`]: it goes on.
    Over,
}

/// Looks from time to time at what each vCPU has done.
#[derive(Debug)]
pub(super) struct Progress {
    after: Duration,
    // The next time that the whole VM is told to be still.
    all_after: Duration,
    vcpus: Vec<Seen>,
    all_told: bool,
}

/// A guest that is still for so long is told however often it was.
const LONGEST: Duration = Duration::from_secs(3600);

#[derive(Debug)]
struct Seen {
    id: u32,
    done: Option<Done>,
    since: Instant,
    told: bool,
}

impl Progress {
    pub(super) fn new(ids: impl IntoIterator<Item = u32>, after: Duration, now: Instant) -> Self {
        let seen = |id| Seen {
            id,
            done: None,
            since: now,
            told: false,
        };
        Self {
            after,
            all_after: after,
            vcpus: ids.into_iter().map(seen).collect(),
            all_told: false,
        }
    }

    /// `done` has one entry a vCPU, in the order of [`Progress::new`].
    pub(super) fn look(&mut self, now: Instant, done: &[Done]) -> Option<Stall> {
        let mut still = Vec::new();
        let mut news = Vec::new();
        for (seen, done) in self.vcpus.iter_mut().zip(done) {
            if seen.done != Some(*done) {
                seen.done = Some(*done);
                seen.since = now;
            } else if now.saturating_duration_since(seen.since) >= self.after {
                still.push(seen.id);
                if !std::mem::replace(&mut seen.told, true) {
                    news.push(seen.id);
                }
            }
        }
        if still.len() == self.vcpus.len() {
            let last = self.vcpus.iter().map(|seen| seen.since).max();
            let still_for = last.map(|since| now.saturating_duration_since(since));
            if self.all_told || still_for.is_some_and(|time| time < self.all_after) {
                return None;
            }
            self.all_told = true;
            let longest = LONGEST.max(self.after);
            self.all_after = self.all_after.saturating_mul(2).min(longest);
            return Some(Stall::All);
        }
        if std::mem::take(&mut self.all_told) {
            return Some(Stall::Over);
        }
        (!news.is_empty()).then_some(Stall::Some(news))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress() -> (Progress, impl Fn(u64) -> Instant) {
        let start = Instant::now();
        let progress = Progress::new([0, 1], Duration::from_secs(10), start);
        (progress, move |s| start + Duration::from_secs(s))
    }

    #[test]
    fn one_still_vcpu_is_told_once() {
        let (mut progress, at) = progress();
        assert_eq!(progress.look(at(0), &[(1, 5), (0, 9)]), None);
        assert_eq!(progress.look(at(9), &[(2, 5), (0, 9)]), None);
        assert_eq!(
            progress.look(at(10), &[(3, 5), (0, 9)]),
            Some(Stall::Some(vec![1]))
        );
        assert_eq!(progress.look(at(20), &[(4, 5), (0, 9)]), None);
        assert_eq!(progress.look(at(21), &[(5, 5), (0, 10)]), None);
        assert_eq!(progress.look(at(40), &[(6, 5), (0, 10)]), None);
    }

    #[test]
    fn a_wholly_still_vm_is_told_and_its_going_on_too() {
        let (mut progress, at) = progress();
        assert_eq!(progress.look(at(0), &[(1, 5), (0, 9)]), None);
        assert_eq!(progress.look(at(10), &[(1, 5), (0, 9)]), Some(Stall::All));
        assert_eq!(progress.look(at(30), &[(1, 5), (0, 9)]), None);
        assert_eq!(
            progress.look(at(31), &[(1, 6), (0, 9)]),
            Some(Stall::Over),
            "CPU time alone is progress"
        );
        // The next time after twice as long, and so on.
        assert_eq!(progress.look(at(50), &[(1, 6), (0, 9)]), None);
        assert_eq!(progress.look(at(51), &[(1, 6), (0, 9)]), Some(Stall::All));
        assert_eq!(progress.look(at(52), &[(1, 7), (0, 9)]), Some(Stall::Over));
        assert_eq!(progress.look(at(91), &[(1, 7), (0, 9)]), None);
        assert_eq!(progress.look(at(92), &[(1, 7), (0, 9)]), Some(Stall::All));
    }

    #[test]
    fn a_guest_that_wakes_once_a_minute_is_told_a_few_times_and_a_hang_still_is() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut progress = Progress::new([0], Duration::from_secs(30), start);
        let mut told = 0;
        for second in 0..24 * 3600 {
            told += u32::from(progress.look(at(second), &[(second / 60, 0)]).is_some());
        }
        assert!((1..=4).contains(&told), "{told} times a day");
        let hang = (24 * 3600..27 * 3600).find_map(|second| progress.look(at(second), &[(0, 0)]));
        assert_eq!(hang, Some(Stall::All));
    }
}
