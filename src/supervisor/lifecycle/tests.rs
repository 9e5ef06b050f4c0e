// SPDX-License-Identifier: Apache-2.0
//! The lifecycle, told as stories, and held to its promises under any order of events.

mod ends;
mod promises;
mod starts;

use std::time::Duration;

use super::ending::{CLOSE_TIMEOUT, STUCK_TIMEOUT};
use super::*;
use crate::config::{RestartConfig, RestartPolicy};
use crate::diagnostic::{Diagnostic, Step};
use crate::supervisor::spawn::FORK;
use crate::worker::{Closing, Request};

/// An error of a step of the launch.
fn failed(step: Step) -> Report {
    let mut error: Diagnostic = FORK.case("p");
    error.step = step;
    error.lasting = matches!(step, Step::Images | Step::Plan);
    Report::Failed(error)
}

fn rules() -> Rules {
    Rules {
        restart: RestartConfig {
            policy: RestartPolicy::OnFailure,
            max: 3,
            window: Duration::from_secs(600),
            backoff: Duration::from_secs(1),
            backoff_max: Duration::from_secs(3),
        },
        start_timeout: 30_000,
        stop_timeout: Some(10_000),
        ready: Readiness::Unknown,
        property: None,
    }
}

fn open() -> Gates {
    Gates { dependencies: Ok(()), property: Ok(true), turn: Ok(()), pages: Ok(()) }
}

const RUNNING: Report = Report::Running { end_visible: true };

fn ended(reason: EndReason) -> Report {
    Report::Ended(End::new(reason, "type"))
}

/// A VM with its clock and everything that it published.
struct Story {
    life: Lifecycle,
    now: u64,
    published: Vec<(State, String)>,
    asked: Vec<Action>,
}

impl Story {
    fn new(rules: Rules) -> Self {
        Self {
            life: Lifecycle::new(rules, State::Waiting, "to be started", 0),
            now: 0,
            published: Vec::new(),
            asked: Vec::new(),
        }
    }

    fn on(&mut self, event: Event<'_>) -> &mut Self {
        for action in self.life.on(event, self.now) {
            match action {
                Action::Publish(state, reason) => self.published.push((state, reason)),
                other => self.asked.push(other),
            }
        }
        self
    }

    fn report(&mut self, report: &Report) -> &mut Self {
        self.on(Event::Report(report))
    }

    /// Lets time pass until the next timer, and says how much.
    fn sleep(&mut self) -> u64 {
        let due = self.life.deadline().expect("a timer");
        let slept = due - self.now;
        self.now = due;
        self.on(Event::Timer);
        slept
    }

    fn running(rules: Rules) -> Self {
        let mut story = Self::new(rules);
        story.on(Event::Gates(&open())).report(&RUNNING);
        assert_eq!(story.asked, [Action::Fork]);
        story.asked.clear();
        story.published.clear();
        story
    }

    fn states(&self) -> Vec<State> {
        self.published.iter().map(|(state, _)| *state).collect()
    }

    fn last(&self) -> &(State, String) {
        self.published.last().expect("something published")
    }

    fn crash(&mut self) -> &mut Self {
        self.on(Event::Died(Death::Signal(libc::SIGKILL)))
    }
}
