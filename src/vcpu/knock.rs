// SPDX-License-Identifier: Apache-2.0
//! Knocks at vCPUs that have been inside VCPU_RUN for a while.
//!
//! A VM can end while one of its vCPUs sleeps, and the driver need not wake it. A signal does, and its
//! next VCPU_RUN tells the end. One that a signal does not bring out, and that uses CPU time meanwhile,
//! goes round in the kernel: its guest will never be heard of again. A guest that computes comes out and
//! goes in again.

use std::time::Duration;

use crate::diagnostic::kinds;

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
    // Returns at the last look, and the CPU time when it was first knocked at since.
    vcpus: Vec<(u64, Option<Duration>)>,
}

impl Knocks {
    /// For so many vCPUs; one that uses `spin` of CPU time after a knock is lost.
    pub(super) fn new(count: usize, spin: Duration) -> Self {
        Self { spin, vcpus: vec![(0, None); count] }
    }

    /// `inside` has one entry for each vCPU.
    pub(super) fn look(&mut self, inside: &[Inside]) -> Vec<Found> {
        let spin = self.spin;
        let look =
            |((before, knocked), (returns, cpu)): (&mut (u64, Option<Duration>), &Inside)| {
                if before != returns {
                    *before = *returns;
                    *knocked = None;
                    return Found::Out;
                }
                let used = cpu.saturating_sub(*knocked.get_or_insert(*cpu));
                match used >= spin {
                    true => Found::Spins(used),
                    false => Found::Knock,
                }
            };
        self.vcpus.iter_mut().zip(inside).map(look).collect()
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
    fn who_gets_no_cpu_is_not_lost() {
        let mut knocks = Knocks::new(1, Duration::from_secs(2));
        for _ in 0..100 {
            assert_eq!(knocks.look(&inside([(0, 7)])), [Knock]);
        }
    }
}
