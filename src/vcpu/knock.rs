// SPDX-License-Identifier: Apache-2.0
//! Knocks at vCPUs that have been inside VCPU_RUN for a while.
//!
//! A VM can end while one of its vCPUs sleeps, and the driver need not wake it. A signal does, and its
//! next VCPU_RUN tells the end. One that a signal does not bring out, and that uses CPU time meanwhile,
//! goes round in the kernel: its guest will never be heard of again. A guest that computes comes out and
//! goes in again.

use std::time::Duration;

use crate::diagnostic::kinds;
use crate::list::Listed;

kinds! {
    // Seen.
    SPINS: Warning "vcpu-spins" in Run {
        "a vCPU burns a CPU of the host and does not come out of VCPU_RUN",
        cause: "the guest switched itself off while another of its CPUs slept (android14-6.1), or the driver tries for ever to give it a page (android15-6.6)",
        cure: "let the guest stop its other CPUs before it ends, as Linux does; if the worker does not go away, reboot the host",
    }
}

/// What is known of one vCPU: how often VCPU_RUN has returned, and its thread's CPU time.
pub(super) type Inside = (u64, Duration);

/// What a look has found of one vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// It came out since the last look.
    Out,
    /// It did not: it is to be knocked at.
    Knock,
    /// It used so much CPU time since it was knocked at, and did not come out.
    Spins(Duration),
}

/// Looks from time to time at who is inside.
#[derive(Debug)]
pub(super) struct Knocks {
    spin: Duration,
    vcpus: Vec<Seen>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    returns: u64,
    // Its CPU time when it was first knocked at and had not come out since.
    knocked: Option<Duration>,
    // Since nothing was forgotten: it was knocked at; it came out then.
    asked: bool,
    answered: bool,
}

impl Seen {
    fn look(&mut self, spin: Duration, &(returns, cpu): &Inside) -> Found {
        if std::mem::replace(&mut self.returns, returns) != returns {
            self.knocked = None;
            self.answered |= self.asked;
            return Found::Out;
        }
        self.asked = true;
        let used = cpu.saturating_sub(*self.knocked.get_or_insert(cpu));
        match used >= spin {
            true => Found::Spins(used),
            false => Found::Knock,
        }
    }
}

impl Knocks {
    /// For so many vCPUs; one that uses `spin` of CPU time after a knock is lost.
    pub(super) fn new(count: usize, spin: Duration) -> Self {
        Self { spin, vcpus: vec![Seen::default(); count] }
    }

    /// `inside` has one entry for each vCPU.
    pub(super) fn look(&mut self, inside: &[Inside]) -> Vec<Found> {
        let spin = self.spin;
        self.vcpus.iter_mut().zip(inside).map(|(seen, inside)| seen.look(spin, inside)).listed()
    }

    /// Every vCPU was knocked at after [`Knocks::forget`], and has come out after that.
    pub(super) fn all_answered(&self) -> bool {
        self.vcpus.iter().all(|seen| seen.answered)
    }

    /// Knocks and answers so far say nothing of an end that comes now.
    pub(super) fn forget(&mut self) {
        self.vcpus.iter_mut().for_each(|seen| (seen.asked, seen.answered) = (false, false));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Found::{Knock, Out, Spins};

    fn inside<const N: usize>(of: [(u64, u64); N]) -> [Inside; N] {
        of.map(|(returns, ms)| (returns, Duration::from_millis(ms)))
    }

    #[test]
    fn who_comes_out_is_left_alone_and_who_burns_after_a_knock_is_lost() {
        let mut knocks = Knocks::new(3, Duration::from_secs(2));
        // The first computes, the second sleeps, the third will spin.
        assert_eq!(knocks.look(&inside([(1, 5_000), (1, 1), (1, 9_000)])), [Out, Out, Out]);
        assert_eq!(knocks.look(&inside([(1, 9_000), (1, 1), (1, 9_000)])), [Knock; 3]);
        assert_eq!(knocks.look(&inside([(2, 13_000), (2, 1), (1, 10_999)])), [Out, Out, Knock]);
        let lost = Spins(Duration::from_secs(2));
        assert_eq!(knocks.look(&inside([(3, 17_000), (2, 1), (1, 11_000)])), [Out, Knock, lost]);
    }

    #[test]
    fn all_have_answered_when_each_was_knocked_at_and_came_out() {
        let mut knocks = Knocks::new(2, Duration::from_secs(2));
        assert_eq!(knocks.look(&inside([(1, 1), (0, 1)])), [Out, Knock]);
        assert_eq!(knocks.look(&inside([(1, 1), (1, 1)])), [Knock, Out]);
        assert!(!knocks.all_answered(), "the first one came out by itself");
        assert_eq!(knocks.look(&inside([(2, 1), (1, 1)])), [Out, Knock]);
        assert!(knocks.all_answered());
        // One answers a knock of before.
        knocks.forget();
        assert_eq!(knocks.look(&inside([(2, 1), (2, 1)])), [Knock, Out]);
        assert_eq!(knocks.look(&inside([(3, 1), (2, 1)])), [Out, Knock]);
        assert!(!knocks.all_answered());
        assert_eq!(knocks.look(&inside([(3, 1), (3, 1)])), [Knock, Out]);
        assert!(knocks.all_answered());
    }

    #[test]
    fn who_gets_no_cpu_is_not_lost() {
        let mut knocks = Knocks::new(1, Duration::from_secs(2));
        for _ in 0..100 {
            assert_eq!(knocks.look(&inside([(0, 7)])), [Knock]);
        }
    }
}
