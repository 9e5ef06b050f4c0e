// SPDX-License-Identifier: Apache-2.0
//! How a run is brought to its end, and what follows when its worker is gone.

use crate::config::RestartPolicy;
use crate::diagnostic::{kinds, Diagnostic, Step};
use crate::status::{brief, End, EndReason, State};
use crate::text::Span;
use crate::worker::{Closing, Request};

use super::super::restart::Next;
use super::{Action, Death, Lifecycle, Phase, Readiness};

/// Milliseconds after which a worker that closes its VM is asked about: a last close takes milliseconds as
/// a rule.
pub const CLOSE_TIMEOUT: u64 = 5_000;

/// Milliseconds after which a kernel that takes a VM down is taken for one that waits for ever. Memory of
/// small pages goes back one by one, and the resource manager serves one VM at a time.
pub const STUCK_TIMEOUT: u64 = 120_000;

/// Nothing in user space helps then, SIGKILL neither.
const NO_ANSWER: &str =
    "the kernel waits for a resource manager that does not answer; only a reboot helps";

kinds! {
    START_LATE: Error "start-timeout" in Start {
        "a VM did not start in time",
        cause: "the step after the last one done is slow: files on slow storage, memory that the kernel has to make free first, or a call of the driver that hangs",
        cure: "look at the steps' times: gunyahctl log VM; a longer start.timeout helps where each is slow and none hangs",
    }
    READY_LATE: Error "ready-timeout" in Run {
        "a guest did not say in time that it is ready",
        cause: "the guest hangs or is slow, or it never does what `ready` waits for",
        cure: "read what it printed: gunyahctl log VM; correct `ready`, or give it more time",
    }
    SILENT_MANAGER: Error "manager-silent" in Start {
        "the kernel waits for a resource manager that does not answer",
        cause: "the resource manager is dead; the open-source one dies when a VM that the hypervisor schedules is stopped before its guest has ended",
        cure: "reboot; until then no VM starts",
    }
    SILENT_WORKER: Error "worker-silent" in Stop {
        "a VM's process does not answer",
        cause: "it is stopped by a debugger or a signal, or the host gives it no time",
        cure: "look at its state in /proc/PID/status; gunyahctl kill VM ends it the hard way",
    }
    GAVE_UP: Error "restart-gave-up" in Run {
        "a VM failed more often than its restart policy allows",
        cause: "each run ends in the same way; the last one's reason stands behind it",
        cure: "correct that, then gunyahctl start VM; restart.max and restart.window are in its file",
    }
}

/// What comes after the worker is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// What the restart policy says.
    Policy,
    Rest,
    Start,
}

/// How far it was pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Push {
    /// The guest was asked to end.
    Asked,
    /// The worker closes the VM.
    Closing,
    Killed,
}

/// A run on its way to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stopping {
    /// Who asked for it; `None` if it ends by itself.
    asked: Option<String>,
    /// How it ended, as far as that is known: the first word counts.
    end: Option<End>,
    pub(super) then: Then,
    push: Push,
    /// When it was pushed so far.
    since: u64,
    /// When to push harder, or to say what it waits for; none: a person has to, or a reboot.
    pub(super) next: Option<u64>,
    /// What the worker said that it waits for.
    closing: Option<Closing>,
    /// It waits for what does not come.
    pub(super) stuck: bool,
}

impl Stopping {
    /// Pushed to `push`, with `patience` milliseconds until the next step.
    fn new(end: Option<End>, then: Then, push: Push, patience: u64, now: u64) -> Self {
        let next = Some(now.saturating_add(patience));
        Self { asked: None, end, then, push, since: now, next, closing: None, stuck: false }
    }

    /// Pushed further.
    fn push(&mut self, push: Push, now: u64) {
        self.push = push;
        self.wait_anew(now);
    }

    pub(super) fn is_in_last_close(&self) -> bool {
        matches!(self.closing, Some(Closing::Kernel | Closing::Lost))
    }

    fn wait_anew(&mut self, now: u64) {
        self.since = now;
        self.next = Some(now.saturating_add(CLOSE_TIMEOUT));
        self.stuck = false;
    }
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
                let (push, patience, doing) = match self.phase {
                    // A guest that has not started cannot be asked.
                    Phase::Starting { .. } => {
                        self.actions.push(Action::Send(Request::Close));
                        (Push::Closing, CLOSE_TIMEOUT, " while starting")
                    }
                    _ => self.push(),
                };
                let mut stopping = Stopping::new(None, then, push, patience, now);
                stopping.asked = Some(by.to_owned());
                self.enter(Phase::Stopping(stopping), format!("{by}{doing}"), now);
            }
        }
    }

    /// Begins to end a VM that runs: asks its guest, where that can be asked, else closes it. With the
    /// milliseconds until the next step.
    fn push(&mut self) -> (Push, u64, &'static str) {
        match self.rules.stop_timeout {
            Some(timeout) => {
                self.actions.push(Action::Send(Request::Stop));
                (Push::Asked, timeout, "; asking the guest to end")
            }
            None => {
                self.actions.push(Action::Send(Request::Close));
                (Push::Closing, CLOSE_TIMEOUT, "; closing the VM")
            }
        }
    }

    /// The VM is closed without asking the guest further.
    pub(super) fn hurry(&mut self, now: u64) {
        self.close_if_asked("asked again; closing the VM".to_owned(), now);
    }

    fn close_if_asked(&mut self, reason: String, now: u64) {
        if let Phase::Stopping(stopping) = &mut self.phase {
            if stopping.push == Push::Asked {
                stopping.push(Push::Closing, now);
                self.actions.push(Action::Send(Request::Close));
                self.tell(reason);
            }
        }
    }

    /// A person wants its worker killed.
    pub(super) fn kill(&mut self, by: &str, now: u64) {
        let doing = "worker killed; the kernel takes the VM down";
        match &mut self.phase {
            Phase::Rest(_) | Phase::Gate { .. } | Phase::Backoff { .. } => {
                self.stop(by, Then::Rest, now);
            }
            Phase::Starting { .. } | Phase::Running { .. } | Phase::Ready => {
                self.actions.push(Action::Kill);
                let mut stopping =
                    Stopping::new(None, Then::Rest, Push::Killed, CLOSE_TIMEOUT, now);
                stopping.asked = Some(by.to_owned());
                self.enter(Phase::Stopping(stopping), format!("{by}; {doing}"), now);
            }
            Phase::Stopping(stopping) => {
                stopping.push(Push::Killed, now);
                stopping.then = Then::Rest;
                stopping.asked.get_or_insert_with(|| by.to_owned());
                self.actions.push(Action::Kill);
                self.tell(format!("{by}; {doing}"));
            }
        }
    }

    /// The time of the last push is over.
    pub(super) fn push_harder(&mut self, now: u64) {
        let Phase::Stopping(stopping) = &self.phase else {
            return;
        };
        if stopping.push != Push::Asked {
            return self.still_there(now);
        }
        let timeout = Span::millis(self.rules.stop_timeout.unwrap_or_default());
        let reason = format!("the guest has not ended within {timeout}; closing the VM");
        self.close_if_asked(reason, now);
    }

    /// The VM is not closed yet: says what that waits for.
    fn still_there(&mut self, now: u64) {
        let (start_called, runs) = (self.start_called, self.last_step == Some(Step::Run));
        let Phase::Stopping(stopping) = &mut self.phase else {
            return;
        };
        let time = Span::millis(now.saturating_sub(stopping.since));
        if stopping.push == Push::Closing && !start_called {
            // The resource manager does not know of it: nothing is broken by its end.
            stopping.push(Push::Killed, now);
            self.actions.push(Action::Kill);
            return self.tell(format!("not closed within {time}, and not started; worker killed"));
        }
        let so_far = match stopping.push {
            Push::Killed => format!("killed, and not gone within {time}"),
            _ => format!("not closed within {time}"),
        };
        let lost = stopping.closing == Some(Closing::Lost);
        let in_kernel = stopping.push == Push::Killed || stopping.is_in_last_close() || !runs;
        let stuck_at = stopping.since.saturating_add(STUCK_TIMEOUT);
        stopping.next = (in_kernel && now < stuck_at).then_some(stuck_at);
        stopping.stuck = in_kernel && now >= stuck_at;
        let why = match (in_kernel, stopping.stuck) {
            (true, _) if lost => {
                "a vCPU does not come out of the kernel; if that lasts, only a reboot helps"
                    .to_owned()
            }
            (true, true) => SILENT_MANAGER.names(NO_ANSWER),
            (true, false) if !runs => "START has not returned, which can take long".to_owned(),
            (true, false) => "the kernel takes the VM down, which can take minutes".to_owned(),
            (false, _) => SILENT_WORKER
                .names("its worker does not answer; `gunyahctl kill` ends it the hard way"),
        };
        self.tell(format!("{so_far}: {why}"));
    }

    /// The worker says what it waits for.
    pub(super) fn closes(&mut self, what: Closing, now: u64) {
        if let Phase::Stopping(stopping) = &mut self.phase {
            if stopping.closing != Some(Closing::Lost) {
                stopping.closing = Some(what);
            }
            // A guest that was asked has ended.
            if stopping.push != Push::Killed {
                stopping.push(Push::Closing, now);
            }
        }
    }

    /// START has returned although its time was over: the worker hears of the close now.
    pub(super) fn started_late(&mut self, now: u64) {
        if let Phase::Stopping(stopping) = &mut self.phase {
            stopping.wait_anew(now);
            self.tell("START has returned; closing the VM");
        }
    }

    /// The run ends by itself: as `end` says, or as the worker's death will tell.
    fn end_run(&mut self, end: Option<End>, then: Then, doing: &str, now: u64) {
        let stopping = Stopping::new(end, then, Push::Closing, CLOSE_TIMEOUT, now);
        self.enter(Phase::Stopping(stopping), doing, now);
    }

    /// The worker says how the run ended.
    pub(super) fn ends(&mut self, end: End, then: Then, doing: &str, now: u64) {
        match &mut self.phase {
            Phase::Stopping(stopping) => {
                stopping.end.get_or_insert(end);
            }
            Phase::Starting { .. } | Phase::Running { .. } | Phase::Ready => {
                self.end_run(Some(end), then, doing, now);
            }
            Phase::Rest(_) | Phase::Gate { .. } | Phase::Backoff { .. } => {}
        }
    }

    /// The worker hung up and is not dead yet: it is inside the kernel for the last time.
    pub(super) fn lost(&mut self, now: u64) {
        if self.state() != State::Stopping {
            let doing = "the worker hung up; the kernel takes the VM down";
            self.end_run(None, Then::Policy, doing, now);
        }
        self.closes(Closing::Kernel, now);
    }

    /// START waits for its turn: its time begins anew.
    pub(super) fn busy(&mut self, with: &str, now: u64) {
        if !self.start_called {
            return;
        }
        if let Phase::Starting { deadline } = &mut self.phase {
            *deadline = now.saturating_add(self.rules.start_timeout);
            self.tell(format!("launching; the resource manager takes {with} down first"));
        }
    }

    pub(super) fn start_late(&mut self, now: u64) {
        let timeout = Span::millis(self.rules.start_timeout);
        let what = format!("no start within {timeout} (start.timeout); {}", self.progress());
        if !self.start_called {
            self.actions.push(Action::Kill);
            let what = START_LATE.names(what);
            let doing = format!("{what}; worker killed");
            return self.timed_out(what, Push::Killed, CLOSE_TIMEOUT, doing, now);
        }
        // START cannot be interrupted. If it returns, the worker closes the VM.
        self.actions.push(Action::Send(Request::Close));
        let doing = SILENT_MANAGER.names(format!("{what}; in START {NO_ANSWER}"));
        self.timed_out(START_LATE.names(what), Push::Closing, STUCK_TIMEOUT, doing, now);
        if let Phase::Stopping(stopping) = &mut self.phase {
            (stopping.stuck, stopping.next) = (true, None);
        }
    }

    pub(super) fn ready_late(&mut self, now: u64) {
        if let Readiness::Within(timeout) = self.rules.ready {
            let (push, patience, doing) = self.push();
            let what = READY_LATE.names(format!("not ready within {}", Span::millis(timeout)));
            let doing = format!("{what}{doing}");
            self.timed_out(what, push, patience, doing, now);
        }
    }

    fn timed_out(&mut self, what: String, push: Push, patience: u64, doing: String, now: u64) {
        let end = End::new(EndReason::Timeout, what);
        let stopping = Stopping::new(Some(end), Then::Policy, push, patience, now);
        self.enter(Phase::Stopping(stopping), doing, now);
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

    /// The worker is gone, and the kernel still takes its VM down.
    pub(super) fn pages_pending(&mut self, now: u64) {
        self.hangup = None;
        let doing = "the kernel takes the VM down: its huge pages are not back yet";
        match &mut self.phase {
            Phase::Stopping(stopping) => {
                (stopping.next, stopping.stuck) = (None, false);
                self.tell(doing);
            }
            Phase::Starting { .. } | Phase::Running { .. } | Phase::Ready => {
                self.end_run(None, Then::Policy, doing, now);
                if let Phase::Stopping(stopping) = &mut self.phase {
                    stopping.next = None;
                }
            }
            Phase::Rest(_) | Phase::Gate { .. } | Phase::Backoff { .. } => {}
        }
    }

    /// Comes to rest in `state`; a VM whose pages are not back is not stopped.
    fn rest(&mut self, state: State, reason: &str, now: u64) {
        match (state, &self.missing) {
            (State::Stopped, Some(missing)) => {
                let reason = format!("{reason}; {missing}");
                self.enter(Phase::Rest(State::Failed), reason, now);
            }
            _ => self.enter(Phase::Rest(state), reason, now),
        }
    }

    /// The worker is gone.
    pub(super) fn died(&mut self, death: Death, now: u64) {
        self.hangup = None;
        let (asked, end, then, push) = match &self.phase {
            Phase::Starting { .. } | Phase::Running { .. } | Phase::Ready => {
                (None, None, Then::Policy, Push::Closing)
            }
            Phase::Stopping(Stopping { asked, end, then, push, .. }) => {
                (asked.clone(), end.clone(), *then, *push)
            }
            Phase::Rest(_) | Phase::Gate { .. } | Phase::Backoff { .. } => return,
        };
        let asked = asked.map(|by| match push {
            Push::Killed => format!("{by}; its worker was killed"),
            _ => by,
        });
        let end = end.unwrap_or_else(|| match &asked {
            Some(by) => End::new(EndReason::Asked, by),
            None => End::new(EndReason::WorkerDied, self.last_words(death)),
        });
        self.last_end = Some(end.clone());
        match (then, asked) {
            (Then::Policy, _) => self.follow_policy(&end, now),
            (Then::Rest, Some(by)) => self.rest(State::Stopped, &by, now),
            (Then::Rest, None) => self.rest(end.reason.state(), &end.to_string(), now),
            (Then::Start, _) => {
                self.budget.forgive();
                self.enter_gate("starting again, as asked", now);
            }
        }
        self.missing = None;
    }

    fn last_words(&self, death: Death) -> String {
        death.kind().names(match self.last_step {
            Some(Step::Run) => death.to_string(),
            _ => format!("{death}, while launching; {}", self.progress()),
        })
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
        self.rest(state, &text, now);
        match policy {
            RestartPolicy::Never => {}
            RestartPolicy::OnFailure if state == State::Stopped => {}
            RestartPolicy::OnFailure | RestartPolicy::Always => self.restart_later(&text, now),
        }
    }

    fn after_reset(&mut self, text: &str, now: u64) {
        if self.rules.restart.policy == RestartPolicy::Never {
            let reason = format!("{text}; restart policy is never");
            return self.rest(State::Stopped, &reason, now);
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
                let gave_up =
                    GAVE_UP.names(format!("gave up after {max} restarts within {window}"));
                let reason = format!("{gave_up}; last: {}", brief(last));
                self.enter(Phase::Rest(State::Failed), reason, now);
            }
            Next::After { wait, nth } => {
                let until = now.saturating_add(wait);
                let wait = Span::millis(wait);
                let reason = format!("restart {nth} of {max} in {wait} after: {}", brief(last));
                self.enter(Phase::Backoff { until }, reason, now);
            }
        }
    }
}
