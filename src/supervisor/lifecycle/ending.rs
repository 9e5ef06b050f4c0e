// SPDX-License-Identifier: Apache-2.0
//! How a run is brought to its end, and what follows when its worker is gone.

use crate::config::RestartPolicy;
use crate::diagnostic::{Diagnostic, Step};
use crate::status::{End, EndReason, State};
use crate::text::Span;
use crate::worker::Request;

use super::super::restart::Next;
use super::{Action, Death, Lifecycle, Phase, Readiness};

/// Milliseconds that a worker may take to close its VM by itself before it is killed. Far above the
/// milliseconds that a last close takes, below what init waits for at shutdown.
pub const CLOSE_TIMEOUT: u64 = 5_000;

/// What comes after the worker is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// What the restart policy says.
    Policy,
    Rest,
    Start,
}

/// How far it was pushed; each with when the next step is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Push {
    /// The guest was asked to end.
    Asked(u64),
    /// The worker closes the VM.
    Closing(u64),
    Killed,
}

impl Push {
    fn closing(now: u64) -> Self {
        Push::Closing(now.saturating_add(CLOSE_TIMEOUT))
    }

    pub(super) fn due(self) -> Option<u64> {
        match self {
            Push::Asked(due) | Push::Closing(due) => Some(due),
            Push::Killed => None,
        }
    }
}

/// A run on its way to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stopping {
    /// Who asked for it; `None` if it ends by itself.
    asked: Option<String>,
    /// How it ended, as far as that is known: the first word counts.
    end: Option<End>,
    pub(super) then: Then,
    pub(super) push: Push,
}

impl Lifecycle {
    /// Somebody wants it to end.
    pub(super) fn stop(&mut self, by: &str, then: Then, now: u64) {
        match &mut self.phase {
            Phase::Rest(_) | Phase::Gate { .. } | Phase::Backoff { .. } if then == Then::Start => {
                self.budget.forgive();
                self.enter_gate("start asked", now);
            }
            Phase::Rest(_) => {}
            Phase::Gate { .. } | Phase::Backoff { .. } => {
                let reason = format!("{by} before it had started");
                self.enter(Phase::Rest(State::Stopped), reason, now);
            }
            Phase::Stopping(stopping) => stopping.then = then,
            Phase::Starting { .. } | Phase::Running { .. } | Phase::Ready => {
                let (push, reason) = match self.phase {
                    // A guest that has not started cannot be asked.
                    Phase::Starting { .. } => (self.close(now), format!("{by} while starting")),
                    _ => {
                        let (push, doing) = self.push(now);
                        (push, format!("{by}; {doing}"))
                    }
                };
                let stopping = Stopping { asked: Some(by.to_owned()), end: None, then, push };
                self.enter(Phase::Stopping(stopping), reason, now);
            }
        }
    }

    /// Begins to end a VM that runs: asks its guest, where that can be asked, else closes it.
    fn push(&mut self, now: u64) -> (Push, &'static str) {
        match self.rules.stop_timeout {
            Some(timeout) => {
                self.actions.push(Action::Send(Request::Stop));
                let due = now.saturating_add(timeout);
                (Push::Asked(due), "asking the guest to end")
            }
            None => (self.close(now), "closing the VM"),
        }
    }

    fn close(&mut self, now: u64) -> Push {
        self.actions.push(Action::Send(Request::Close));
        Push::closing(now)
    }

    /// The VM is closed without asking the guest further.
    pub(super) fn hurry(&mut self, now: u64) {
        self.close_if_asked("asked again; closing the VM".to_owned(), now);
    }

    fn close_if_asked(&mut self, reason: String, now: u64) {
        if let Phase::Stopping(stopping) = &mut self.phase {
            if matches!(stopping.push, Push::Asked(_)) {
                stopping.push = Push::closing(now);
                self.actions.push(Action::Send(Request::Close));
                self.tell(reason);
            }
        }
    }

    /// The time of the last push is over.
    pub(super) fn push_harder(&mut self, now: u64) {
        let Phase::Stopping(stopping) = &mut self.phase else {
            return;
        };
        if let Push::Closing(_) = stopping.push {
            stopping.push = Push::Killed;
            self.actions.push(Action::Kill);
            return self.tell(format!(
                "not closed within {}; worker killed, waiting for the kernel to take the VM down",
                Span::millis(CLOSE_TIMEOUT)
            ));
        }
        let timeout = Span::millis(self.rules.stop_timeout.unwrap_or_default());
        let reason = format!("the guest has not ended within {timeout}; closing the VM");
        self.close_if_asked(reason, now);
    }

    /// The run ends by itself: as `end` says, or as the worker's death will tell.
    fn end_run(&mut self, end: Option<End>, then: Then, push: Push, doing: &str, now: u64) {
        let stopping = Stopping { asked: None, end, then, push };
        self.enter(Phase::Stopping(stopping), doing, now);
    }

    /// The worker says how the run ended.
    pub(super) fn ends(&mut self, end: End, then: Then, doing: &str, now: u64) {
        match &mut self.phase {
            Phase::Stopping(stopping) => {
                stopping.end.get_or_insert(end);
            }
            Phase::Starting { .. } | Phase::Running { .. } | Phase::Ready => {
                self.end_run(Some(end), then, Push::closing(now), doing, now);
            }
            Phase::Rest(_) | Phase::Gate { .. } | Phase::Backoff { .. } => {}
        }
    }

    /// The worker hung up and is not dead yet.
    pub(super) fn lost(&mut self, now: u64) {
        if self.state() != State::Stopping {
            let doing = "the worker hung up; waiting for the kernel to take the VM down";
            self.end_run(None, Then::Policy, Push::closing(now), doing, now);
        }
    }

    pub(super) fn start_late(&mut self, now: u64) {
        let timeout = Span::millis(self.rules.start_timeout);
        let what = format!("no start within {timeout} (start.timeout); {}", self.progress());
        // It may hang in START for good: nothing but the end of its process helps.
        self.actions.push(Action::Kill);
        self.timed_out(what, Push::Killed, "worker killed", now);
    }

    pub(super) fn ready_late(&mut self, now: u64) {
        if let Readiness::Within(timeout) = self.rules.ready {
            let (push, doing) = self.push(now);
            let what = format!("not ready within {}", Span::millis(timeout));
            self.timed_out(what, push, doing, now);
        }
    }

    fn timed_out(&mut self, what: String, push: Push, doing: &str, now: u64) {
        let doing = format!("{what}; {doing}");
        let end = End::new(EndReason::Timeout, what);
        self.end_run(Some(end), Then::Policy, push, &doing, now);
    }

    /// How far the launch has come, for who asks what it hangs in.
    fn progress(&self) -> String {
        match self.last_step {
            None => "no step of the launch was done".to_owned(),
            Some(step) => format!("the last step done is {step}"),
        }
    }

    pub(super) fn fork_failed(&mut self, error: &Diagnostic, now: u64) {
        if matches!(self.phase, Phase::Starting { .. }) {
            let end = End::new(EndReason::LaunchFailed, error.to_string());
            self.last_end = Some(end.clone());
            self.follow_policy(&end, now);
        }
    }

    /// The worker is gone.
    pub(super) fn died(&mut self, death: Death, now: u64) {
        self.hangup = None;
        let (asked, end, then, push) = match &self.phase {
            Phase::Starting { .. } | Phase::Running { .. } | Phase::Ready => {
                (None, None, Then::Policy, Push::closing(now))
            }
            Phase::Stopping(Stopping { asked, end, then, push }) => {
                (asked.clone(), end.clone(), *then, *push)
            }
            Phase::Rest(_) | Phase::Gate { .. } | Phase::Backoff { .. } => return,
        };
        let asked = asked.map(|by| match push {
            Push::Killed => format!("{by}; its worker had to be killed"),
            _ => by,
        });
        let end = end.unwrap_or_else(|| match &asked {
            Some(by) => End::new(EndReason::Asked, by),
            None => End::new(EndReason::WorkerDied, self.last_words(death)),
        });
        self.last_end = Some(end.clone());
        match (then, asked) {
            (Then::Policy, _) => self.follow_policy(&end, now),
            (Then::Rest, Some(by)) => self.enter(Phase::Rest(State::Stopped), by, now),
            (Then::Rest, None) => {
                self.enter(Phase::Rest(end.reason.state()), end.to_string(), now);
            }
            (Then::Start, _) => {
                self.budget.forgive();
                self.enter_gate("starting again, as asked", now);
            }
        }
    }

    fn last_words(&self, death: Death) -> String {
        match self.last_step {
            Some(Step::Run) => death.to_string(),
            _ => format!("{death}, while launching; {}", self.progress()),
        }
    }

    fn follow_policy(&mut self, end: &End, now: u64) {
        let text = end.to_string();
        if end.reason == EndReason::Reset {
            return self.after_reset(&text, now);
        }
        let policy = self.rules.restart.policy;
        let state = match end.reason.state() {
            // Given up is only what is not tried again.
            State::Failed if policy != RestartPolicy::Never => State::Crashed,
            state => state,
        };
        self.enter(Phase::Rest(state), &text, now);
        match policy {
            RestartPolicy::Never => {}
            RestartPolicy::OnFailure if state == State::Stopped => {}
            RestartPolicy::OnFailure | RestartPolicy::Always => self.restart_later(&text, now),
        }
    }

    fn after_reset(&mut self, text: &str, now: u64) {
        if self.rules.restart.policy == RestartPolicy::Never {
            let reason = format!("{text}; restart policy is never");
            return self.enter(Phase::Rest(State::Stopped), reason, now);
        }
        match self.budget.after_reset(&self.rules.restart, now) {
            None => self.enter_gate(&format!("{text}; restarting at once"), now),
            Some(wait) => {
                let until = now.saturating_add(wait);
                let wait = Span::millis(wait);
                let reason = format!("{text} again and again; restart in {wait}");
                self.enter(Phase::Backoff { until }, reason, now);
            }
        }
    }

    fn restart_later(&mut self, last: &str, now: u64) {
        let rules = &self.rules.restart;
        let max = rules.max;
        match self.budget.after_end(rules, now) {
            Next::GiveUp => {
                let window = Span(rules.window);
                let reason = format!("gave up after {max} restarts within {window}; last: {last}");
                self.enter(Phase::Rest(State::Failed), reason, now);
            }
            Next::After { wait, nth } => {
                let until = now.saturating_add(wait);
                let wait = Span::millis(wait);
                let reason = format!("restart {nth} of {max} in {wait} after: {last}");
                self.enter(Phase::Backoff { until }, reason, now);
            }
        }
    }
}
