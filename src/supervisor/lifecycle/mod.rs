// SPDX-License-Identifier: Apache-2.0
//! One VM's life as a pure state machine: an [`Event`] and the time in, [`Action`]s out.
//!
//! ```text
//! disabled, stopped, crashed, failed      no worker, nothing happens by itself
//!    | boot, start
//! waiting    gate: dependencies, then the property, then its turn, then huge pages
//!    | fork
//! starting ── running ── ready            a worker lives
//!    |           |          |
//! stopping   Stop, where the guest can be asked ─ stop_timeout ─ Close ─ CLOSE_TIMEOUT ─ SIGKILL ─ the kernel's teardown
//!    | the worker is gone
//! stopped | crashed | failed | waiting (for its restart)
//! ```
//!
//! The verdict (why a VM is going) is made once, when it starts to go; what follows from it is
//! decided when the worker is gone, because its memory cannot be back before.

mod aftermath;
mod events;
#[cfg(test)]
mod tests;

use crate::error::{LaunchError, Step};
use crate::status::control::LastEnd;
use crate::status::{EndReason, State};
use crate::worker::{Report, Request};

use super::restart::Budget;

use aftermath::end_text;
pub(super) use events::{millis, span};
pub use events::{Action, Death, Event, Gates, Readiness, Rules};

/// Milliseconds that a worker may take to close its VM by itself before it is killed. Far above the
/// milliseconds that a last close takes, below what init waits for at shutdown.
pub const CLOSE_TIMEOUT: u64 = 5_000;

/// Milliseconds between a channel's hang-up and the word that the worker is going: a killed worker's
/// channel closes just before its pidfd tells.
const HANGUP_GRACE: u64 = 200;

/// Why a VM is going.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Asked(String),
    Ended(EndReason, String),
    LaunchFailed(LaunchError),
    Overdue(String),
    Lost,
}

/// What a person wants after the worker is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// What the restart policy says.
    Policy,
    Stay,
    Start,
}

/// How far a stop has gone; each with when the next step is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Push {
    Asked(u64),
    Closing(u64),
    Killed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Idle,
    Gate {
        property_deadline: Option<u64>,
    },
    Backoff {
        until: u64,
    },
    Starting {
        deadline: u64,
    },
    Up {
        ready_deadline: Option<u64>,
    },
    Down {
        push: Push,
        verdict: Verdict,
        wish: Wish,
    },
}

/// One VM's life.
#[derive(Debug, Clone)]
pub struct Lifecycle {
    rules: Rules,
    phase: Phase,
    state: State,
    reason: String,
    since: u64,
    budget: Budget,
    hangup: Option<u64>,
    /// The last step that this launch has done; [`Step::Run`] once the VM runs.
    last_step: Option<Step>,
    last_end: Option<LastEnd>,
    /// Why its property cannot be read.
    unread: Option<String>,
    /// `last_end` is this run's, and not an earlier one's.
    end_told: bool,
    actions: Vec<Action>,
}

impl Lifecycle {
    /// A VM that has done nothing yet; `state` is `disabled`, `waiting` or `failed`.
    pub fn new(rules: Rules, state: State, reason: &str, now: u64) -> Self {
        Self {
            rules,
            phase: Phase::Idle,
            state,
            reason: reason.to_owned(),
            since: now,
            budget: Budget::default(),
            hangup: None,
            last_step: None,
            last_end: None,
            unread: None,
            end_told: false,
            actions: Vec::new(),
        }
    }

    /// The state that was last published.
    pub fn state(&self) -> State {
        self.state
    }

    /// Why it is in that state.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// When it came into that state.
    pub fn since(&self) -> u64 {
        self.since
    }

    /// Restarts of its own, those after a guest's reset not among them.
    pub fn restarts(&self) -> u32 {
        self.budget.restarts
    }

    /// Restarts because the guest reset itself.
    pub fn resets(&self) -> u32 {
        self.budget.resets
    }

    /// How its last run ended.
    pub fn last_end(&self) -> Option<&LastEnd> {
        self.last_end.as_ref()
    }

    /// It waits for dependencies, the property, its turn or huge pages, and wants to hear of [`Gates`].
    pub fn at_gate(&self) -> bool {
        matches!(self.phase, Phase::Gate { .. })
    }

    /// It waits for nothing but its property.
    pub fn awaits_property(&self) -> bool {
        matches!(
            self.phase,
            Phase::Gate {
                property_deadline: Some(_)
            }
        )
    }

    /// A worker lives, or is about to.
    pub fn has_worker(&self) -> bool {
        matches!(
            self.phase,
            Phase::Starting { .. } | Phase::Up { .. } | Phase::Down { .. }
        )
    }

    /// It is going, and nobody wants it to come back.
    pub fn is_stopping_for_good(&self) -> bool {
        matches!(
            self.phase,
            Phase::Down {
                wish: Wish::Stay,
                ..
            }
        )
    }

    /// Nothing will happen without somebody's asking.
    pub fn at_rest(&self) -> bool {
        self.phase == Phase::Idle
    }

    /// When [`Event::Timer`] is due.
    pub fn deadline(&self) -> Option<u64> {
        let own = match &self.phase {
            Phase::Idle => None,
            Phase::Gate { property_deadline } => *property_deadline,
            Phase::Backoff { until } => Some(*until),
            Phase::Starting { deadline } => Some(*deadline),
            Phase::Up { ready_deadline } => *ready_deadline,
            Phase::Down { push, .. } => match push {
                Push::Asked(due) | Push::Closing(due) => Some(*due),
                Push::Killed => None,
            },
        };
        match (own, self.hangup) {
            (Some(own), Some(hangup)) => Some(own.min(hangup)),
            (own, hangup) => own.or(hangup),
        }
    }

    /// New rules, for the next start. Returns false, and changes nothing, while a worker lives.
    pub fn set_rules(&mut self, rules: &Rules) -> bool {
        if self.has_worker() {
            return false;
        }
        self.rules = rules.clone();
        true
    }

    /// Takes one event at `now` (milliseconds, monotonic).
    pub fn on(&mut self, event: Event<'_>, now: u64) -> Vec<Action> {
        match event {
            Event::Boot => {
                if self.phase == Phase::Idle {
                    self.enter_gate(now, "to be started");
                }
            }
            Event::Start => self.start(now),
            Event::Stop(by) => self.stop(by, Wish::Stay, now),
            Event::Restart(by) => self.stop(by, Wish::Start, now),
            Event::Gates(gates) => self.gates(gates, now),
            Event::ForkFailed(why) => self.fork_failed(why, now),
            Event::Report(report) => self.report(report, now),
            Event::HangUp => {
                if self.has_worker() && self.hangup.is_none() {
                    self.hangup = Some(now.saturating_add(HANGUP_GRACE));
                }
            }
            Event::Died(death) => self.died(death, now),
            Event::Timer => self.timer(now),
        }
        std::mem::take(&mut self.actions)
    }

    fn publish(&mut self, state: State, reason: impl Into<String>, now: u64) {
        let reason = reason.into();
        if state == self.state && reason == self.reason {
            return;
        }
        if state != self.state {
            self.since = now;
        }
        self.state = state;
        self.reason = reason;
        self.actions
            .push(Action::Publish(state, self.reason.clone()));
    }

    fn enter_gate(&mut self, now: u64, reason: &str) {
        self.phase = Phase::Gate {
            property_deadline: None,
        };
        self.publish(State::Waiting, reason, now);
    }

    fn start(&mut self, now: u64) {
        match &mut self.phase {
            Phase::Idle | Phase::Backoff { .. } => {
                self.budget.forgive();
                self.enter_gate(now, "start asked");
            }
            Phase::Down { wish, .. } => *wish = Wish::Start,
            Phase::Gate { .. } | Phase::Starting { .. } | Phase::Up { .. } => {}
        }
    }

    fn stop(&mut self, by: &str, after: Wish, now: u64) {
        match &mut self.phase {
            Phase::Idle if after == Wish::Start => self.start(now),
            Phase::Idle => {}
            Phase::Gate { .. } | Phase::Backoff { .. } => {
                if after == Wish::Start {
                    self.budget.forgive();
                    self.enter_gate(now, "start asked");
                } else {
                    self.phase = Phase::Idle;
                    self.publish(State::Stopped, format!("{by} before it had started"), now);
                }
            }
            Phase::Starting { .. } => {
                // A guest that has not started cannot be asked.
                self.actions.push(Action::Send(Request::Close));
                self.go_down(
                    Push::Closing(now.saturating_add(CLOSE_TIMEOUT)),
                    Verdict::Asked(by.to_owned()),
                    after,
                );
                self.publish(State::Stopping, format!("{by} while starting"), now);
            }
            Phase::Up { .. } => {
                let (push, doing) = self.push(now);
                self.go_down(push, Verdict::Asked(by.to_owned()), after);
                self.publish(State::Stopping, format!("{by}; {doing}"), now);
            }
            Phase::Down { wish, .. } => *wish = after,
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
            None => {
                self.actions.push(Action::Send(Request::Close));
                let due = now.saturating_add(CLOSE_TIMEOUT);
                (Push::Closing(due), "closing the VM")
            }
        }
    }

    /// A second, impatient stop: the VM is closed without asking the guest further.
    pub fn hurry(&mut self, now: u64) -> Vec<Action> {
        if let Phase::Down { push, .. } = &mut self.phase {
            if matches!(push, Push::Asked(_)) {
                *push = Push::Closing(now.saturating_add(CLOSE_TIMEOUT));
                self.actions.push(Action::Send(Request::Close));
                self.publish(State::Stopping, "asked again; closing the VM", now);
            }
        }
        std::mem::take(&mut self.actions)
    }

    fn go_down(&mut self, push: Push, verdict: Verdict, wish: Wish) {
        self.phase = Phase::Down {
            push,
            verdict,
            wish,
        };
    }

    fn gates(&mut self, gates: &Gates, now: u64) {
        let Phase::Gate { property_deadline } = &mut self.phase else {
            return;
        };
        if let Err(reason) = &gates.dependencies {
            *property_deadline = None;
            self.publish(State::Waiting, reason, now);
            return;
        }
        if let (false, Some((wanted, timeout))) = (gates.property == Ok(true), &self.rules.property)
        {
            if property_deadline.is_none() {
                *property_deadline = Some(now.saturating_add(*timeout));
            }
            self.unread = gates.property.clone().err();
            let reason = match &self.unread {
                None => format!("for property {wanted}"),
                Some(why) => format!("for property {wanted}, which cannot be read: {why}"),
            };
            self.publish(State::Waiting, reason, now);
            return;
        }
        if let Err(reason) = gates.turn.as_ref().and(gates.pages.as_ref()) {
            // The property was seen: its clock no longer runs.
            *property_deadline = None;
            self.publish(State::Waiting, reason, now);
            return;
        }
        self.phase = Phase::Starting {
            deadline: now.saturating_add(self.rules.start_timeout),
        };
        self.hangup = None;
        self.last_step = None;
        self.end_told = false;
        self.publish(State::Starting, "launching", now);
        self.actions.push(Action::Fork);
    }

    fn end_with(&mut self, end: LastEnd) {
        self.last_end = Some(end);
        self.end_told = true;
    }

    fn fork_failed(&mut self, why: &str, now: u64) {
        if !matches!(self.phase, Phase::Starting { .. }) {
            return;
        }
        self.end_with(LastEnd {
            reason: "launch-failed".to_owned(),
            detail: why.to_owned(),
        });
        self.after_failed_launch(why, now);
    }

    fn report(&mut self, report: &Report, now: u64) {
        match report {
            Report::Step { step, .. } => self.last_step = Some(*step),
            Report::Running { end_visible } => {
                if !matches!(self.phase, Phase::Starting { .. }) {
                    return;
                }
                let ready_deadline = match self.rules.ready {
                    Readiness::Within(timeout) => Some(now.saturating_add(timeout)),
                    Readiness::Untold | Readiness::AtOnce => None,
                };
                self.phase = Phase::Up { ready_deadline };
                self.last_step = Some(Step::Run);
                let reason = if *end_visible {
                    "started"
                } else {
                    "started; the driver cannot tell when this guest ends"
                };
                self.publish(State::Running, reason, now);
                if self.rules.ready == Readiness::AtOnce {
                    self.publish(State::Ready, "at once, as its file says", now);
                }
            }
            Report::Ready => {
                if let Phase::Up { ready_deadline } = &mut self.phase {
                    *ready_deadline = None;
                    self.publish(State::Ready, "the guest said so", now);
                }
            }
            Report::Ended { reason, detail } => self.ended(*reason, detail, now),
            Report::Failed(error) => {
                self.end_with(LastEnd {
                    reason: "launch-failed".to_owned(),
                    detail: error.to_string(),
                });
                if matches!(self.phase, Phase::Starting { .. } | Phase::Up { .. }) {
                    self.go_down(
                        Push::Closing(now.saturating_add(CLOSE_TIMEOUT)),
                        Verdict::LaunchFailed(error.clone()),
                        Wish::Policy,
                    );
                    self.publish(State::Stopping, error.to_string(), now);
                }
            }
            // Warnings are the journal's; the process's end says more than Closed.
            _ => {}
        }
    }

    fn ended(&mut self, reason: EndReason, detail: &str, now: u64) {
        self.end_with(LastEnd {
            reason: reason.to_string(),
            detail: detail.to_owned(),
        });
        if matches!(self.phase, Phase::Starting { .. } | Phase::Up { .. }) {
            self.go_down(
                Push::Closing(now.saturating_add(CLOSE_TIMEOUT)),
                Verdict::Ended(reason, detail.to_owned()),
                Wish::Policy,
            );
            let text = format!("{}; closing the VM", end_text(reason, detail));
            self.publish(State::Stopping, text, now);
        }
    }

    fn timer(&mut self, now: u64) {
        if self.hangup.is_some_and(|due| due <= now) {
            self.hangup = None;
            if matches!(self.phase, Phase::Starting { .. } | Phase::Up { .. }) {
                self.go_down(
                    Push::Closing(now.saturating_add(CLOSE_TIMEOUT)),
                    Verdict::Lost,
                    Wish::Policy,
                );
                let reason = "the worker hung up; waiting for the kernel to take the VM down";
                self.publish(State::Stopping, reason, now);
                return;
            }
        }
        match self.phase.clone() {
            Phase::Gate {
                property_deadline: Some(due),
            } if due <= now => {
                let (wanted, timeout) = self.rules.property.clone().unwrap_or_default();
                self.phase = Phase::Idle;
                let mut reason = format!("property {wanted} did not come within {}", span(timeout));
                if let Some(why) = self.unread.take() {
                    reason = format!("{reason}; it cannot be read: {why}");
                }
                self.publish(State::Failed, reason, now);
            }
            Phase::Backoff { until } if until <= now => {
                self.budget.restarts = self.budget.restarts.saturating_add(1);
                self.enter_gate(now, "restarting");
            }
            Phase::Starting { deadline } if deadline <= now => {
                // It may hang in START for good: nothing but the end of its process helps.
                let what = format!(
                    "no start within {} (start.timeout); {}",
                    span(self.rules.start_timeout),
                    self.progress()
                );
                self.actions.push(Action::Kill);
                self.overdue(Push::Killed, what, "worker killed", now);
            }
            Phase::Up {
                ready_deadline: Some(due),
            } if due <= now => {
                let what = match self.rules.ready {
                    Readiness::Within(timeout) => format!("not ready within {}", span(timeout)),
                    Readiness::Untold | Readiness::AtOnce => "not ready".to_owned(),
                };
                let (push, doing) = self.push(now);
                self.overdue(push, what, doing, now);
            }
            Phase::Down {
                push: Push::Asked(due),
                verdict,
                wish,
            } if due <= now => {
                self.actions.push(Action::Send(Request::Close));
                self.phase = Phase::Down {
                    push: Push::Closing(now.saturating_add(CLOSE_TIMEOUT)),
                    verdict,
                    wish,
                };
                let reason = format!(
                    "the guest has not ended within {}; closing the VM",
                    span(self.rules.stop_timeout.unwrap_or_default())
                );
                self.publish(State::Stopping, reason, now);
            }
            Phase::Down {
                push: Push::Closing(due),
                verdict,
                wish,
            } if due <= now => {
                self.actions.push(Action::Kill);
                self.phase = Phase::Down {
                    push: Push::Killed,
                    verdict,
                    wish,
                };
                let reason = format!(
                    "not closed within {}; worker killed, waiting for the kernel to take the VM down",
                    span(CLOSE_TIMEOUT)
                );
                self.publish(State::Stopping, reason, now);
            }
            _ => {}
        }
    }

    /// How far the launch has come, for the one who asks what it hangs in.
    fn progress(&self) -> String {
        match self.last_step {
            None => "no step of the launch was done".to_owned(),
            Some(step) => format!("the last step done is {step}"),
        }
    }

    fn overdue(&mut self, push: Push, what: String, doing: &str, now: u64) {
        self.end_with(LastEnd {
            reason: "timeout".to_owned(),
            detail: what.clone(),
        });
        let reason = format!("{what}; {doing}");
        self.go_down(push, Verdict::Overdue(what), Wish::Policy);
        self.publish(State::Stopping, reason, now);
    }
}
