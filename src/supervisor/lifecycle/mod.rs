// SPDX-License-Identifier: Apache-2.0
//! One VM's life as a pure state machine: an [`Event`] and the time in, [`Action`]s out.
//!
//! ```text
//! disabled, stopped, crashed, failed      no worker; nothing happens by itself
//!    | start
//! waiting    gate: dependencies, then the property, then its turn, then huge pages
//!    | fork
//! starting ── running ── ready            a worker has the VM
//!    |           |          |
//! stopping   Stop, where the guest can be asked ─ stop_timeout ─ Close ─ the kernel's teardown, however long it takes
//!    | the worker is gone
//! stopped | crashed | failed | waiting (for its restart)
//! ```
//!
//! The phase is the one truth: the state follows from it, and `enter` alone changes it. What follows a
//! run's end is decided when the worker is gone, because its memory cannot be back before. A worker whose
//! VM may have started is killed by nobody but a person: a hard end can leave the resource manager, or the
//! memory, in pieces.

pub(super) mod ending;
pub(super) mod events;
#[cfg(test)]
mod tests;

use crate::diagnostic::Step;
use crate::launch;
use crate::status::clock::sooner;
use crate::status::{brief, End, EndReason, State};
use crate::text::Span;
use crate::worker::Report;

use super::restart::Budget;

use ending::{Stopping, Then};
pub use events::{Action, Death, Event, Gates, Readiness, Rules};

/// Milliseconds between a channel's hang-up and the word that the worker is going: a killed worker's
/// channel closes just before its pidfd tells.
const HANGUP_GRACE: u64 = 200;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// Disabled, stopped, crashed or failed.
    Rest(State),
    /// Waits for what [`Gates`] has; the property's time runs once it is all that is missing.
    Gate {
        property_deadline: Option<u64>,
    },
    /// Waits for its restart.
    Backoff {
        until: u64,
    },
    Starting {
        deadline: u64,
    },
    Running {
        ready_deadline: Option<u64>,
    },
    Ready,
    Stopping(Stopping),
}

/// One VM's life.
#[derive(Debug, Clone)]
pub struct Lifecycle {
    rules: Rules,
    phase: Phase,
    reason: String,
    since: u64,
    budget: Budget,
    hangup: Option<u64>,
    /// The last step that this launch has done; [`Step::Run`] once the VM runs.
    last_step: Option<Step>,
    /// The worker of this launch is in START, or beyond.
    start_called: bool,
    last_end: Option<End>,
    /// Why its property cannot be read.
    unread: Option<String>,
    /// Why its huge pages are not back, although its worker is gone.
    missing: Option<String>,
    actions: Vec<Action>,
}

impl Lifecycle {
    /// A VM that has done nothing yet: `waiting`, or at rest in another state.
    pub fn new(rules: Rules, state: State, reason: &str, now: u64) -> Self {
        let phase = match state {
            State::Waiting => Phase::Gate { property_deadline: None },
            other => Phase::Rest(other),
        };
        Self {
            rules,
            phase,
            reason: reason.to_owned(),
            since: now,
            budget: Budget::default(),
            hangup: None,
            last_step: None,
            start_called: false,
            last_end: None,
            unread: None,
            missing: None,
            actions: Vec::new(),
        }
    }

    /// Its state; every change of it was published.
    pub fn state(&self) -> State {
        match &self.phase {
            Phase::Rest(state) => *state,
            Phase::Gate { .. } | Phase::Backoff { .. } => State::Waiting,
            Phase::Starting { .. } => State::Starting,
            Phase::Running { .. } => State::Running,
            Phase::Ready => State::Ready,
            Phase::Stopping(_) => State::Stopping,
        }
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
    pub fn last_end(&self) -> Option<&End> {
        self.last_end.as_ref()
    }

    /// It waits for dependencies, the property, its turn or huge pages, and wants to hear of [`Gates`].
    pub fn at_gate(&self) -> bool {
        matches!(self.phase, Phase::Gate { .. })
    }

    /// It waits for nothing but its property.
    pub fn awaits_property(&self) -> bool {
        let Phase::Gate { property_deadline } = self.phase else {
            return false;
        };
        property_deadline.is_some()
    }

    /// It is stopping, and nothing will start it again by itself.
    pub fn is_stopping_for_good(&self) -> bool {
        matches!(&self.phase, Phase::Stopping(stopping) if stopping.then == Then::Rest)
    }

    /// The kernel takes it down.
    pub fn is_in_last_close(&self) -> bool {
        matches!(&self.phase, Phase::Stopping(stopping) if stopping.is_in_last_close())
    }

    /// It waits in the kernel for what does not come.
    pub fn is_stuck(&self) -> bool {
        matches!(&self.phase, Phase::Stopping(stopping) if stopping.stuck)
    }

    /// Nothing will happen without somebody's asking.
    pub fn at_rest(&self) -> bool {
        matches!(self.phase, Phase::Rest(_))
    }

    /// When [`Event::Timer`] is due.
    pub fn deadline(&self) -> Option<u64> {
        let own = match &self.phase {
            Phase::Rest(_) | Phase::Ready => None,
            Phase::Gate { property_deadline } => *property_deadline,
            Phase::Backoff { until } => Some(*until),
            Phase::Starting { deadline } => Some(*deadline),
            Phase::Running { ready_deadline } => *ready_deadline,
            Phase::Stopping(stopping) => stopping.next,
        };
        sooner(own, self.hangup)
    }

    /// New rules, for the next start: ignored while a worker has the VM.
    pub fn set_rules(&mut self, rules: Rules) {
        if !self.state().has_worker() {
            self.rules = rules;
        }
    }

    /// Takes one event at `now` (milliseconds, monotonic).
    pub fn on(&mut self, event: Event<'_>, now: u64) -> Vec<Action> {
        match event {
            Event::Start => self.start(now),
            Event::Stop(by) => self.stop(by, Then::Rest, now),
            Event::Restart(by) => self.stop(by, Then::Start, now),
            Event::Hurry => self.hurry(now),
            Event::Kill(by) => self.kill(by, now),
            Event::Gates(gates) => self.look_at(gates, now),
            Event::ForkFailed(error) => self.fork_failed(error, now),
            Event::Report(report) => self.report(report, now),
            Event::HangUp => {
                if self.state().has_worker() && self.hangup.is_none() {
                    self.hangup = Some(now.saturating_add(HANGUP_GRACE));
                }
            }
            Event::PagesPending => self.pages_pending(now),
            Event::PagesMissing(why) => self.missing = Some(why.to_owned()),
            Event::Died(death) => self.died(death, now),
            Event::Busy(with) => self.busy(with, now),
            Event::Timer => self.timer(now),
        }
        std::mem::take(&mut self.actions)
    }

    /// Comes into another phase.
    fn enter(&mut self, phase: Phase, reason: impl Into<String>, now: u64) {
        let before = self.state();
        self.phase = phase;
        if before != self.state() {
            self.since = now;
            // Even if an older reason was the same.
            self.reason.clear();
        }
        self.tell(reason);
    }

    /// Publishes another reason to be in this state.
    fn tell(&mut self, reason: impl Into<String>) {
        let reason = reason.into();
        if reason != self.reason {
            self.actions.push(Action::Publish(self.state(), reason.clone()));
            self.reason = reason;
        }
    }

    fn enter_gate(&mut self, reason: &str, now: u64) {
        let property_deadline = None;
        self.enter(Phase::Gate { property_deadline }, reason, now);
    }

    fn start(&mut self, now: u64) {
        match &mut self.phase {
            Phase::Rest(_) | Phase::Backoff { .. } => {
                self.budget.forgive();
                self.enter_gate("start asked", now);
            }
            Phase::Stopping(stopping) => stopping.then = Then::Start,
            _ => {}
        }
    }

    /// Whether `gates` let it start.
    fn look_at(&mut self, gates: &Gates, now: u64) {
        let Phase::Gate { property_deadline } = &mut self.phase else {
            return;
        };
        if let Err(reason) = &gates.dependencies {
            *property_deadline = None;
            return self.tell(reason);
        }
        if let (false, Some((wanted, timeout))) = (gates.property == Ok(true), &self.rules.property)
        {
            property_deadline.get_or_insert(now.saturating_add(*timeout));
            self.unread = gates.property.clone().err();
            let reason = match &self.unread {
                None => format!("for property {wanted}"),
                Some(why) => format!("for property {wanted}, which cannot be read: {why}"),
            };
            return self.tell(reason);
        }
        // The property was seen: its clock no longer runs.
        *property_deadline = None;
        if let Err(reason) = gates.turn.as_ref().and(gates.pages.as_ref()) {
            return self.tell(reason);
        }
        self.hangup = None;
        self.last_step = None;
        self.start_called = false;
        let deadline = now.saturating_add(self.rules.start_timeout);
        self.enter(Phase::Starting { deadline }, "launching", now);
        self.actions.push(Action::Fork);
    }

    fn report(&mut self, report: &Report, now: u64) {
        match report {
            Report::Launch(launch::Event::Step { step, .. }) => self.last_step = Some(*step),
            Report::Launch(launch::Event::Starts) => self.start_called = true,
            Report::Running { end_visible } => self.running(*end_visible, now),
            Report::Ready => {
                if matches!(self.phase, Phase::Running { .. }) {
                    self.enter(Phase::Ready, "the guest said so", now);
                }
            }
            Report::Ended(end) => {
                let doing = format!("{}; closing the VM", brief(&end.to_string()));
                self.ends(end.clone(), Then::Policy, &doing, now);
            }
            Report::Failed(error) => {
                // Waiting does not mend what the files have wrong.
                let then = match error.lasting {
                    true => Then::Rest,
                    false => Then::Policy,
                };
                let error = error.to_string();
                // Its cause and its cure are said once, with the state that it comes to.
                let doing = format!("{}; closing the VM", brief(&error));
                self.ends(End::new(EndReason::LaunchFailed, error), then, &doing, now);
            }
            Report::Closing(what) => self.closes(*what, now),
            // Journal and log have these; the process's end says more than Closed.
            Report::Launch(_) | Report::Devices(_) | Report::Closed => {}
        }
    }

    fn running(&mut self, end_visible: bool, now: u64) {
        self.last_step = Some(Step::Run);
        self.start_called = true;
        if !matches!(self.phase, Phase::Starting { .. }) {
            return self.started_late(now);
        }
        let ready_deadline = match self.rules.ready {
            Readiness::Within(timeout) => Some(now.saturating_add(timeout)),
            Readiness::Unknown | Readiness::AtOnce => None,
        };
        let reason = match end_visible {
            true => "started",
            false => "started; the driver cannot tell when this guest ends",
        };
        self.enter(Phase::Running { ready_deadline }, reason, now);
        if self.rules.ready == Readiness::AtOnce {
            self.enter(Phase::Ready, "at once, as its file says", now);
        }
    }

    fn timer(&mut self, now: u64) {
        if self.hangup.is_some_and(|due| due <= now) {
            self.hangup = None;
            self.lost(now);
        }
        if self.deadline().is_none_or(|due| due > now) {
            return;
        }
        match &self.phase {
            Phase::Gate { .. } => self.property_late(now),
            Phase::Backoff { .. } => {
                self.budget.restarts = self.budget.restarts.saturating_add(1);
                self.enter_gate("restarting", now);
            }
            Phase::Starting { .. } => self.start_late(now),
            Phase::Running { .. } => self.ready_late(now),
            Phase::Stopping(_) => self.push_harder(now),
            Phase::Rest(_) | Phase::Ready => {}
        }
    }

    fn property_late(&mut self, now: u64) {
        let (wanted, timeout) = self.rules.property.clone().unwrap_or_default();
        let late = format!("property {wanted} did not come within {}", Span::millis(timeout));
        let reason = match self.unread.take() {
            Some(why) => format!("{late}; it cannot be read: {why}"),
            None => late,
        };
        self.enter(Phase::Rest(State::Failed), reason, now);
    }
}
