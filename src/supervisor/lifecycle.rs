// SPDX-License-Identifier: Apache-2.0
//! One VM's life as a pure state machine: an [`Event`] and the time in, [`Action`]s out.
//!
//! ```text
//! disabled, stopped, crashed, failed      no worker, nothing happens by itself
//!    | boot, start
//! waiting    gate: dependencies, then the property, then its turn
//!    | fork
//! starting ── running ── ready            a worker lives
//!    |           |          |
//! stopping   Stop ─ stop_timeout ─ Close ─ CLOSE_TIMEOUT ─ SIGKILL ─ the kernel's teardown
//!    | the worker is gone
//! stopped | crashed | failed | waiting (for its restart)
//! ```
//!
//! The verdict (why a VM is going) is made once, when it starts to go; what follows from it is
//! decided when the worker is gone, because only then is the memory back.

use crate::config::{RestartPolicy, VmConfig};
use crate::error::LaunchError;
use crate::status::control::LastEnd;
use crate::status::{EndReason, State};
use crate::worker::{Report, Request};

use super::restart::{Budget, Next, RestartRules};

/// Milliseconds that a worker may take to close its VM by itself before it is killed. Far above the
/// milliseconds that a last close takes, below what init waits for at shutdown.
pub const CLOSE_TIMEOUT: u64 = 5_000;

/// Milliseconds between a channel's hang-up and the word that the worker is going: a killed worker's
/// channel closes just before its pidfd tells.
const HANGUP_GRACE: u64 = 200;

/// How a VM becomes ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Its file says nothing of it: it stays `running`.
    Untold,
    /// As soon as it runs.
    AtOnce,
    /// When the guest says so, within milliseconds.
    Within(u64),
}

/// What a VM's file says about its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// When it is started again.
    pub restart: RestartRules,
    /// Milliseconds that `starting` may take.
    pub start_timeout: u64,
    /// Milliseconds between asking the guest to end and closing its VM.
    pub stop_timeout: u64,
    /// How it becomes ready.
    pub ready: Readiness,
    /// The property waited for, as `name=value`, and milliseconds.
    pub property: Option<(String, u64)>,
}

impl Rules {
    /// For a VM whose file says nothing that can be trusted.
    pub fn none() -> Self {
        Self {
            restart: RestartRules::none(),
            start_timeout: 0,
            stop_timeout: 0,
            ready: Readiness::Untold,
            property: None,
        }
    }

    /// The rules in a VM's file.
    pub fn of(config: &VmConfig) -> Self {
        Self {
            restart: RestartRules::of(&config.restart),
            start_timeout: millis(config.start.timeout),
            stop_timeout: millis(config.stop_timeout),
            ready: match &config.ready {
                None => Readiness::Untold,
                Some(ready) if ready.console_line.is_none() => Readiness::AtOnce,
                Some(ready) => Readiness::Within(millis(ready.timeout)),
            },
            property: config.start.property.as_ref().map(|wait| {
                (
                    format!("{}={}", wait.name, wait.value),
                    millis(wait.timeout),
                )
            }),
        }
    }
}

/// A duration in milliseconds; one too long for a `u64` is as good as for ever.
pub(super) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How a worker's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// It exited with this code.
    Exit(i32),
    /// This signal killed it.
    Signal(i32),
}

impl Death {
    fn describe(self) -> String {
        match self {
            Death::Exit(code) => format!("worker exited with {code} and no report of an end"),
            // Seccomp's signal: Documentation/userspace-api/seccomp_filter.rst.
            Death::Signal(libc::SIGSYS) => {
                "worker killed by SIGSYS: a system call that its filter forbids".to_owned()
            }
            Death::Signal(number) => format!("worker killed by {}", signal_name(number)),
        }
    }
}

fn signal_name(number: i32) -> String {
    nix::sys::signal::Signal::try_from(number)
        .map_or_else(|_| format!("signal {number}"), |signal| signal.to_string())
}

/// Whether a waiting VM may start, as the supervisor sees it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gates {
    /// `start.after`; else what it waits for.
    pub dependencies: Result<(), String>,
    /// The property has its value.
    pub property: bool,
    /// No VM of higher priority is starting; else what it waits for.
    pub turn: Result<(), String>,
}

/// What happens to a VM.
#[derive(Debug)]
pub enum Event<'a> {
    /// `gunyahd boot` starts its VMs.
    Boot,
    /// A person or a test asks for it.
    Start,
    /// It is to end; by whom.
    Stop(&'a str),
    /// It is to end and to start again; by whom.
    Restart(&'a str),
    /// The supervisor looked at what it waits for.
    Gates(&'a Gates),
    /// [`Action::Fork`] could not be done; why.
    ForkFailed(&'a str),
    /// The worker said something.
    Report(&'a Report),
    /// The worker's end of the channel is closed.
    HangUp,
    /// The worker is gone.
    Died(Death),
    /// Time has passed.
    Timer,
}

/// What the supervisor is to do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Fork a worker; [`Event::ForkFailed`] if that fails.
    Fork,
    /// Send to the worker.
    Send(Request),
    /// SIGKILL the worker.
    Kill,
    /// Tell everybody.
    Publish(State, String),
}

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
    last_end: Option<LastEnd>,
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
            last_end: None,
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

    /// It waits for dependencies, the property or its turn, and wants to hear of [`Gates`].
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
                self.actions.push(Action::Send(Request::Stop));
                self.go_down(
                    Push::Asked(now.saturating_add(self.rules.stop_timeout)),
                    Verdict::Asked(by.to_owned()),
                    after,
                );
                self.publish(
                    State::Stopping,
                    format!("{by}; asking the guest to end"),
                    now,
                );
            }
            Phase::Down { wish, .. } => *wish = after,
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
        if let (false, Some((wanted, timeout))) = (gates.property, &self.rules.property) {
            if property_deadline.is_none() {
                *property_deadline = Some(now.saturating_add(*timeout));
            }
            let reason = format!("for property {wanted}");
            self.publish(State::Waiting, reason, now);
            return;
        }
        if let Err(reason) = &gates.turn {
            // The property was seen: its clock no longer runs.
            *property_deadline = None;
            self.publish(State::Waiting, reason, now);
            return;
        }
        self.phase = Phase::Starting {
            deadline: now.saturating_add(self.rules.start_timeout),
        };
        self.hangup = None;
        self.publish(State::Starting, "launching", now);
        self.actions.push(Action::Fork);
    }

    fn fork_failed(&mut self, why: &str, now: u64) {
        if !matches!(self.phase, Phase::Starting { .. }) {
            return;
        }
        self.last_end = Some(LastEnd {
            reason: "launch-failed".to_owned(),
            detail: why.to_owned(),
        });
        self.after_failed_launch(why, now);
    }

    fn report(&mut self, report: &Report, now: u64) {
        match report {
            Report::Running { end_visible } => {
                if !matches!(self.phase, Phase::Starting { .. }) {
                    return;
                }
                let ready_deadline = match self.rules.ready {
                    Readiness::Within(timeout) => Some(now.saturating_add(timeout)),
                    Readiness::Untold | Readiness::AtOnce => None,
                };
                self.phase = Phase::Up { ready_deadline };
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
                self.last_end = Some(LastEnd {
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
            // Steps and warnings are the journal's; the process's end says more than Closed.
            _ => {}
        }
    }

    fn ended(&mut self, reason: EndReason, detail: &str, now: u64) {
        self.last_end = Some(LastEnd {
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
                self.publish(
                    State::Failed,
                    format!("property {wanted} did not come within {}", span(timeout)),
                    now,
                );
            }
            Phase::Backoff { until } if until <= now => {
                self.budget.restarts = self.budget.restarts.saturating_add(1);
                self.enter_gate(now, "restarting");
            }
            Phase::Starting { deadline } if deadline <= now => {
                // It may hang in START for good: nothing but the end of its process helps.
                let what = format!("no start within {}", span(self.rules.start_timeout));
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
                self.actions.push(Action::Send(Request::Stop));
                let push = Push::Asked(now.saturating_add(self.rules.stop_timeout));
                self.overdue(push, what, "asking the guest to end", now);
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
                    span(self.rules.stop_timeout)
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

    fn overdue(&mut self, push: Push, what: String, doing: &str, now: u64) {
        self.last_end = Some(LastEnd {
            reason: "timeout".to_owned(),
            detail: what.clone(),
        });
        let reason = format!("{what}; {doing}");
        self.go_down(push, Verdict::Overdue(what), Wish::Policy);
        self.publish(State::Stopping, reason, now);
    }

    fn died(&mut self, death: Death, now: u64) {
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
                if self.last_end.is_none() || killed {
                    self.last_end = Some(LastEnd {
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
        let detail = death.describe();
        self.last_end = Some(LastEnd {
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
            Verdict::LaunchFailed(error) if is_lasting(&error) => {
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

    fn after_failed_launch(&mut self, reason: &str, now: u64) {
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

/// What no waiting mends: the same files give the same answer.
fn is_lasting(error: &LaunchError) -> bool {
    use crate::error::Step;
    matches!(error.step, Step::Config | Step::Images | Step::Plan)
}

fn end_text(reason: EndReason, detail: &str) -> String {
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

/// Milliseconds for people: `250 ms`, `1.5 s`, `10 min`.
pub(super) fn span(ms: u64) -> String {
    match ms {
        0..=999 => format!("{ms} ms"),
        1_000..=119_999 if ms % 1_000 == 0 => format!("{} s", ms / 1_000),
        1_000..=119_999 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        _ => format!("{} min", ms / 60_000),
    }
}

#[cfg(test)]
#[path = "lifecycle_test.rs"]
mod tests;
