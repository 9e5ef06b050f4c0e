// SPDX-License-Identifier: Apache-2.0
//! What follows when a VM's worker is gone.

use crate::config::RestartPolicy;
use crate::error::Step;
use crate::status::control::LastEnd;
use crate::status::{EndReason, State};

use super::super::restart::Next;
use super::events::{span, Death};
use super::{Lifecycle, Phase, Push, Verdict, Wish};

impl Lifecycle {
    pub(super) fn died(&mut self, death: Death, now: u64) {
        self.hangup = None;
        let (verdict, wish, killed) = match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Starting { .. } | Phase::Up { .. } => (Verdict::Lost, Wish::Policy, false),
            Phase::Down {
                verdict,
                wish,
                push,
                ..
            } => (verdict, wish, push == Push::Killed),
            other => {
                self.phase = other;
                return;
            }
        };
        match wish {
            Wish::Policy => self.follow_policy(verdict, death, now),
            Wish::Stay => {
                let (state, reason) = self.settled(verdict, death, killed);
                self.publish(state, reason, now);
            }
            Wish::Start => {
                self.settled(verdict, death, killed);
                self.budget.forgive();
                self.enter_gate(now, "starting again, as asked");
            }
        }
    }

    /// The state of a VM that stays down, and its last end where the worker's death tells it.
    fn settled(&mut self, verdict: Verdict, death: Death, killed: bool) -> (State, String) {
        match verdict {
            Verdict::Asked(by) => {
                let how = if killed {
                    "; its worker had to be killed"
                } else {
                    ""
                };
                if !self.end_told || killed {
                    self.end_with(LastEnd {
                        reason: "asked".to_owned(),
                        detail: format!("{by}{how}"),
                    });
                }
                (State::Stopped, format!("{by}{how}"))
            }
            Verdict::Ended(reason @ (EndReason::PowerOff | EndReason::Reset), detail) => {
                (State::Stopped, end_text(reason, &detail))
            }
            Verdict::Ended(reason, detail) => (State::Crashed, end_text(reason, &detail)),
            Verdict::LaunchFailed(error) => (State::Failed, error.to_string()),
            Verdict::Overdue(what) => (State::Crashed, what),
            Verdict::Lost => (State::Crashed, self.lost(death)),
        }
    }

    fn lost(&mut self, death: Death) -> String {
        let mut detail = death.describe();
        if self.last_step != Some(Step::Run) {
            detail = format!("{detail}, while launching; {}", self.progress());
        }
        self.end_with(LastEnd {
            reason: "worker-died".to_owned(),
            detail: detail.clone(),
        });
        detail
    }

    fn follow_policy(&mut self, verdict: Verdict, death: Death, now: u64) {
        match verdict {
            Verdict::Ended(EndReason::PowerOff, detail) => {
                let text = end_text(EndReason::PowerOff, &detail);
                self.publish(State::Stopped, text.clone(), now);
                if self.rules.restart.policy == RestartPolicy::Always {
                    self.restart_later(&text, now);
                }
            }
            Verdict::Ended(EndReason::Reset, detail) => self.after_reset(&detail, now),
            Verdict::LaunchFailed(error) if error.lasting => {
                self.publish(State::Failed, error.to_string(), now);
            }
            Verdict::LaunchFailed(error) => self.after_failed_launch(&error.to_string(), now),
            Verdict::Ended(reason, detail) => self.after_crash(&end_text(reason, &detail), now),
            Verdict::Overdue(what) => self.after_crash(&what, now),
            Verdict::Lost => {
                let detail = self.lost(death);
                self.after_crash(&detail, now);
            }
            Verdict::Asked(by) => self.publish(State::Stopped, by, now),
        }
    }

    fn after_reset(&mut self, detail: &str, now: u64) {
        let text = end_text(EndReason::Reset, detail);
        if self.rules.restart.policy == RestartPolicy::Never {
            self.phase = Phase::Idle;
            self.publish(
                State::Stopped,
                format!("{text}; restart policy is never"),
                now,
            );
            return;
        }
        match self.budget.after_reset(&self.rules.restart, now) {
            None => self.enter_gate(now, &format!("{text}; restarting at once")),
            Some(wait) => {
                self.phase = Phase::Backoff {
                    until: now.saturating_add(wait),
                };
                let reason = format!("{text} again and again; restart in {}", span(wait));
                self.publish(State::Waiting, reason, now);
            }
        }
    }

    pub(super) fn after_failed_launch(&mut self, reason: &str, now: u64) {
        if self.rules.restart.policy == RestartPolicy::Never {
            self.phase = Phase::Idle;
            self.publish(State::Failed, reason, now);
        } else {
            self.after_crash(reason, now);
        }
    }

    fn after_crash(&mut self, reason: &str, now: u64) {
        self.phase = Phase::Idle;
        self.publish(State::Crashed, reason, now);
        if self.rules.restart.policy != RestartPolicy::Never {
            self.restart_later(reason, now);
        }
    }

    fn restart_later(&mut self, reason: &str, now: u64) {
        match self.budget.after_end(&self.rules.restart, now) {
            Next::GiveUp => {
                self.phase = Phase::Idle;
                let text = format!(
                    "gave up after {} restarts within {}; last: {reason}",
                    self.rules.restart.max,
                    span(self.rules.restart.window)
                );
                self.publish(State::Failed, text, now);
            }
            Next::After { wait, nth } => {
                self.phase = Phase::Backoff {
                    until: now.saturating_add(wait),
                };
                let text = format!(
                    "restart {nth} of {} in {} after: {reason}",
                    self.rules.restart.max,
                    span(wait)
                );
                self.publish(State::Waiting, text, now);
            }
        }
    }
}

/// A guest's end for people.
pub(super) fn end_text(reason: EndReason, detail: &str) -> String {
    let what = match reason {
        EndReason::PowerOff => "the guest powered off",
        EndReason::Reset => "the guest reset itself",
        EndReason::Watchdog => "the guest's watchdog bit",
        EndReason::HypervisorError => "the hypervisor ended the guest",
        EndReason::ExternalAbort => "the guest took an asynchronous external abort",
        EndReason::ForceStopped => "the host stopped the VM by force",
        EndReason::LoadFailed => "the resource manager could not load the VM",
        EndReason::Crashed => "the guest crashed",
        EndReason::Unreported => "the VM is gone without a word",
    };
    if detail.is_empty() {
        format!("{reason}: {what}")
    } else {
        format!("{reason}: {what} ({detail})")
    }
}
