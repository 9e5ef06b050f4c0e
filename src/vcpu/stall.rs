// SPDX-License-Identifier: Apache-2.0
//! vCPUs that make no progress: no exit and no CPU time of the host over a while.
//!
//! A guest that sleeps, a CPU that the guest switched off and one that hangs in the hypervisor all look
//! like this. So it is a warning, and nothing is done about it.

use std::time::{Duration, Instant};

use crate::diagnostic::{kinds, Diagnostic};
use crate::list::Listed;

kinds! {
    VM_STALLED: Warning "vcpu-all-stalled" in Run {
        "no vCPU makes progress: there is neither an exit nor CPU time",
        cause: "the guest sleeps or hangs",
        cure: "look at the console; stop the VM if it hangs",
    }
    VCPUS_STALLED: Warning "vcpu-stalled" in Run {
        "a vCPU makes no progress: it has neither an exit nor CPU time",
        cause: "the guest switched it off, it sleeps, or it hangs",
        cure: "nothing, if the guest is well; otherwise look at its console",
    }
    PROGRESS: Warning "vcpu-progress" in Run {
        "the vCPUs make progress again",
        cause: "the guest slept",
        cure: "nothing is to be done",
    }
}

/// CPU time between two looks that is no progress: a knock costs some.
const KNOCK: Duration = Duration::from_millis(1);

/// What one vCPU has done so far: exits, and CPU time.
pub(super) type Done = (u64, Duration);

/// Looks from time to time at what each vCPU has done.
#[derive(Debug)]
pub(super) struct StallWatch {
    after: Duration,
    // As `after`, for the next report of a still VM.
    all_after: Duration,
    vcpus: Vec<Seen>,
    all_reported: bool,
    is_still: bool,
}

/// The longest time between two reports of a still VM.
const LONGEST: Duration = Duration::from_secs(3600);

#[derive(Debug)]
struct Seen {
    id: u32,
    done: Option<Done>,
    since: Instant,
    reported: bool,
}

impl StallWatch {
    pub(super) fn new(ids: impl IntoIterator<Item = u32>, after: Duration, now: Instant) -> Self {
        let seen = |id| Seen { id, done: None, since: now, reported: false };
        Self {
            after,
            all_after: after,
            vcpus: ids.into_iter().map(seen).listed(),
            all_reported: false,
            is_still: false,
        }
    }

    /// The last look has found no progress of any vCPU.
    pub(super) fn is_still(&self) -> bool {
        self.is_still
    }

    /// When the still VM is to be looked at to be reported; none: it has been, or no vCPU is there.
    pub(super) fn due(&self) -> Option<Instant> {
        let last = self.vcpus.iter().map(|seen| seen.since).max()?;
        last.checked_add(self.all_after).filter(|_| !self.all_reported)
    }

    /// `done` has one entry for each vCPU, in the order of [`StallWatch::new`].
    ///
    /// A still vCPU is reported once, because a CPU that sleeps for long is nothing unusual. A still VM
    /// is reported again only after twice as long, for a guest that wakes up once a minute is healthy.
    pub(super) fn look(&mut self, now: Instant, done: &[Done]) -> Option<Diagnostic> {
        let (mut still, mut news) = (0, Vec::new());
        self.is_still = true;
        for (seen, done) in self.vcpus.iter_mut().zip(done) {
            let before = seen.done.replace(*done);
            let is_still =
                |before: Done| before.0 == done.0 && done.1.saturating_sub(before.1) < KNOCK;
            if !before.is_some_and(is_still) {
                seen.since = now;
                self.is_still = false;
            } else if now.saturating_duration_since(seen.since) >= self.after {
                still += 1;
                if !std::mem::replace(&mut seen.reported, true) {
                    news.push(seen.id);
                }
            }
        }
        if still == self.vcpus.len() {
            let last = self.vcpus.iter().map(|seen| seen.since).max();
            let still_for = last.map(|since| now.saturating_duration_since(since));
            if self.all_reported || still_for.is_some_and(|time| time < self.all_after) {
                return None;
            }
            self.all_reported = true;
            let longest = LONGEST.max(self.after);
            self.all_after = self.all_after.saturating_mul(2).min(longest);
            return Some(VM_STALLED.case("no vCPU makes progress (no exit and no CPU time)"));
        }
        if std::mem::take(&mut self.all_reported) {
            return Some(PROGRESS.case("the vCPUs make progress again"));
        }
        let news = news.iter().map(u32::to_string).listed();
        (!news.is_empty()).then(|| {
            VCPUS_STALLED.case(format!(
                "vCPU {} makes no progress (no exit and no CPU time); reported once",
                news.join(", ")
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The name of what is reported.
    fn look(watch: &mut StallWatch, now: Instant, done: &[Done]) -> Option<&'static str> {
        let reported = watch.look(now, done)?;
        let names = ["vcpu-stalled", "vcpu-all-stalled", "vcpu-progress"];
        names.into_iter().find(|name| *name == reported.name)
    }

    fn done<const N: usize>(of: [(u64, u64); N]) -> [Done; N] {
        of.map(|(exits, ms)| (exits, Duration::from_millis(ms)))
    }

    fn watch() -> (StallWatch, impl Fn(u64) -> Instant) {
        let start = Instant::now();
        let watch = StallWatch::new([0, 1], Duration::from_secs(10), start);
        (watch, move |s| start + Duration::from_secs(s))
    }

    #[test]
    fn one_still_vcpu_is_reported_once() {
        let (mut watch, at) = watch();
        assert_eq!(look(&mut watch, at(0), &done([(1, 5), (0, 9)])), None);
        assert_eq!(look(&mut watch, at(9), &done([(2, 5), (0, 9)])), None);
        assert_eq!(look(&mut watch, at(10), &done([(3, 5), (0, 9)])), Some("vcpu-stalled"));
        assert_eq!(look(&mut watch, at(20), &done([(4, 5), (0, 9)])), None);
        assert_eq!(look(&mut watch, at(21), &done([(5, 5), (0, 10)])), None);
        assert_eq!(look(&mut watch, at(40), &done([(6, 5), (0, 10)])), None);
    }

    #[test]
    fn a_wholly_still_vm_is_reported_and_its_going_on_too() {
        let (mut watch, at) = watch();
        assert_eq!(look(&mut watch, at(0), &done([(1, 5), (0, 9)])), None);
        assert_eq!(look(&mut watch, at(10), &done([(1, 5), (0, 9)])), Some("vcpu-all-stalled"));
        assert_eq!(look(&mut watch, at(30), &done([(1, 5), (0, 9)])), None);
        assert_eq!(
            look(&mut watch, at(31), &done([(1, 6), (0, 9)])),
            Some("vcpu-progress"),
            "CPU time alone is progress"
        );
        // The next time after twice as long, and so on.
        assert_eq!(look(&mut watch, at(50), &done([(1, 6), (0, 9)])), None);
        assert_eq!(look(&mut watch, at(51), &done([(1, 6), (0, 9)])), Some("vcpu-all-stalled"));
        assert_eq!(look(&mut watch, at(52), &done([(1, 7), (0, 9)])), Some("vcpu-progress"));
        assert_eq!(look(&mut watch, at(91), &done([(1, 7), (0, 9)])), None);
        assert_eq!(look(&mut watch, at(92), &done([(1, 7), (0, 9)])), Some("vcpu-all-stalled"));
    }

    #[test]
    fn a_guest_that_wakes_once_a_minute_is_reported_a_few_times_and_a_hang_still_is() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut watch = StallWatch::new([0], Duration::from_secs(30), start);
        let mut reported = 0;
        for second in 0..24 * 3600 {
            reported +=
                u32::from(look(&mut watch, at(second), &done([(second / 60, 0)])).is_some());
        }
        assert!((1..=4).contains(&reported), "{reported} times a day");
        let hang =
            (24 * 3600..27 * 3600).find_map(|second| look(&mut watch, at(second), &done([(0, 0)])));
        assert_eq!(hang, Some("vcpu-all-stalled"));
    }
}
