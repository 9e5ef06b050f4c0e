// SPDX-License-Identifier: Apache-2.0
//! The lifecycle, told as stories, and held to its promises under any order of events.

use std::time::Duration;

use proptest::prelude::*;

use super::ending::{CLOSE_TIMEOUT, STUCK_TIMEOUT};
use super::*;
use crate::config::{RestartConfig, RestartPolicy};
use crate::diagnostic::{Diagnostic, Step};
use crate::supervisor::restart::Next;
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

#[test]
fn a_good_boot_goes_through_starting_to_running() {
    let mut story = Story::new(rules());
    story.on(Event::Gates(&open())).report(&RUNNING);
    assert_eq!(story.states(), [State::Starting, State::Running]);
    assert_eq!(story.asked, [Action::Fork]);
    assert_eq!(story.life.deadline(), None);
}

#[test]
fn a_killed_worker_is_restarted_with_doubling_waits_and_then_given_up() {
    let mut story = Story::running(rules());
    let mut waits = Vec::new();
    for _ in 0..3 {
        story.crash();
        assert_eq!(story.life.state(), State::Waiting);
        waits.push(story.sleep());
        story.on(Event::Gates(&open())).report(&RUNNING);
    }
    assert_eq!(waits, [1_000, 2_000, 3_000]);
    assert_eq!(story.life.restarts(), 3);
    assert_eq!(
        story.published[..2],
        [
            (State::Crashed, "worker killed by SIGKILL".to_owned()),
            (State::Waiting, "restart 1 of 3 in 1 s after: worker killed by SIGKILL".to_owned())
        ]
    );
    story.crash();
    let (state, reason) = story.last();
    assert_eq!(*state, State::Failed);
    assert_eq!(reason, "gave up after 3 restarts within 10 min; last: worker killed by SIGKILL");
    assert!(story.life.at_rest());
    // A person's start begins anew.
    story.on(Event::Start).on(Event::Gates(&open())).report(&RUNNING);
    story.crash();
    assert!(story.last().1.starts_with("restart 1 of 3 in 1 s"), "{:?}", story.last());
}

#[test]
fn old_restarts_are_forgotten_after_the_window() {
    let mut story = Story::running(rules());
    for _ in 0..10 {
        story.crash();
        assert_eq!(story.sleep(), 1_000);
        story.on(Event::Gates(&open())).report(&RUNNING);
        story.now += 600_000;
    }
    assert_eq!(story.life.state(), State::Running);
    assert_eq!(story.life.restarts(), 10);
}

#[test]
fn a_reset_restarts_at_once_and_is_no_crash() {
    let mut story = Story::running(rules());
    story.report(&ended(EndReason::Reset));
    assert_eq!(story.life.state(), State::Stopping);
    story.report(&Report::Closed).on(Event::Died(Death::Exit(0))).on(Event::Gates(&open()));
    assert_eq!(story.states(), [State::Stopping, State::Waiting, State::Starting]);
    assert_eq!((story.life.restarts(), story.life.resets()), (0, 1));
    assert_eq!(story.life.last_end().unwrap().reason, EndReason::Reset);
}

#[test]
fn a_guest_that_only_resets_is_slowed_down() {
    let mut story = Story::running(rules());
    let mut waited = 0;
    for _ in 0..12 {
        story.report(&ended(EndReason::Reset)).on(Event::Died(Death::Exit(0)));
        if !story.life.at_gate() {
            waited += story.sleep();
        }
        story.on(Event::Gates(&open())).report(&RUNNING);
    }
    assert_eq!(story.life.resets(), 12);
    assert_eq!(waited, 2 * 3_000);
    assert_eq!(story.life.state(), State::Running);
}

#[test]
fn a_power_off_is_stopped_and_restarted_only_by_always() {
    let mut story = Story::running(rules());
    story.report(&ended(EndReason::PowerOff)).on(Event::Died(Death::Exit(0)));
    assert_eq!(story.states(), [State::Stopping, State::Stopped]);
    assert!(story.life.at_rest());

    let mut always = rules();
    always.restart.policy = RestartPolicy::Always;
    let mut story = Story::running(always);
    story.report(&ended(EndReason::PowerOff)).on(Event::Died(Death::Exit(0)));
    assert_eq!(story.states(), [State::Stopping, State::Stopped, State::Waiting]);
    assert_eq!(story.sleep(), 1_000);
}

#[test]
fn never_means_never() {
    let mut never = rules();
    never.restart.policy = RestartPolicy::Never;
    for (report, state) in [
        (ended(EndReason::Reset), State::Stopped),
        (ended(EndReason::Watchdog), State::Crashed),
        (failed(Step::Pool), State::Failed),
    ] {
        let mut story = Story::running(never.clone());
        story.report(&report).on(Event::Died(Death::Exit(0)));
        assert_eq!(story.life.state(), state, "{report:?}");
        assert!(story.life.at_rest());
    }
}

#[test]
fn a_launch_that_cannot_succeed_is_not_tried_again() {
    for (step, state) in [
        (Step::Images, State::Failed),
        (Step::Plan, State::Failed),
        (Step::Pool, State::Waiting),
        (Step::Start, State::Waiting),
    ] {
        let mut story = Story::new(rules());
        story.on(Event::Gates(&open())).report(&failed(step)).on(Event::Died(Death::Exit(1)));
        assert_eq!(story.life.state(), state, "{step}");
        assert!(story.last().1.contains("process-fork"), "{:?}", story.last());
        assert_eq!(story.life.last_end().unwrap().reason, EndReason::LaunchFailed);
    }
}

#[test]
fn a_stop_asks_then_closes_then_waits_and_kills_nobody() {
    let mut story = Story::running(rules());
    story.on(Event::Stop("stop asked"));
    assert_eq!(story.asked, [Action::Send(Request::Stop)]);
    assert_eq!(story.sleep(), 10_000);
    assert_eq!(story.asked[1..], [Action::Send(Request::Close)]);
    story.report(&Report::Closing(Closing::Vcpus)).report(&Report::Closing(Closing::Kernel));
    assert_eq!(story.sleep(), CLOSE_TIMEOUT);
    let slow = "not closed within 5 s: the kernel takes the VM down, which can take minutes";
    assert_eq!(*story.last(), (State::Stopping, slow.to_owned()));
    assert!(!story.life.is_stuck());
    // A minute is nothing to be killed for.
    story.now += 60_000;
    story.on(Event::Timer).report(&Report::Closed).on(Event::Died(Death::Exit(0)));
    assert_eq!(*story.last(), (State::Stopped, "stop asked".to_owned()));
    assert_eq!(story.asked.len(), 2, "{:?}", story.asked);
}

#[test]
fn a_kernel_that_does_not_come_back_is_named_and_nothing_starts_on_top_of_it() {
    let mut story = Story::running(rules());
    story.on(Event::Stop("stop asked")).on(Event::Hurry);
    story.report(&Report::Closing(Closing::Kernel));
    let begun = story.now;
    while story.life.deadline().is_some() {
        story.sleep();
    }
    assert_eq!(story.now - begun, STUCK_TIMEOUT);
    assert!(story.life.is_stuck());
    assert_eq!(
        story.last().1,
        "not closed within 2 min: the kernel waits for a resource manager that does not answer; \
         only a reboot helps"
    );
    story.on(Event::Start).on(Event::Gates(&open()));
    assert_eq!(story.life.state(), State::Stopping);
    assert!(!story.asked.contains(&Action::Fork) && !story.asked.contains(&Action::Kill));
    // If it does come back, all goes on.
    story.on(Event::Died(Death::Exit(0))).on(Event::Gates(&open()));
    assert_eq!(story.life.state(), State::Starting);
    assert!(!story.life.is_stuck());
}

#[test]
fn a_worker_that_does_not_answer_is_named_and_a_person_may_kill_it() {
    let mut story = Story::running(rules());
    story.on(Event::Stop("stop asked")).on(Event::Hurry);
    story.sleep();
    let deaf = "not closed within 5 s: its worker does not answer; \
                `gunyahctl kill` ends it the hard way";
    assert_eq!(story.last().1, deaf);
    assert!(story.life.deadline().is_none() && !story.asked.contains(&Action::Kill));
    story.on(Event::Kill("kill asked"));
    assert_eq!(story.asked.last(), Some(&Action::Kill));
    assert_eq!(story.last().1, "kill asked; worker killed; the kernel takes the VM down");
    story.sleep();
    let gone =
        "killed, and not gone within 5 s: the kernel takes the VM down, which can take minutes";
    assert_eq!(story.last().1, gone);
    story.crash();
    assert_eq!(*story.last(), (State::Stopped, "stop asked; its worker was killed".to_owned()));
    assert!(story.life.at_rest());
}

#[test]
fn a_vm_is_stopped_when_its_pages_are_back_and_not_before() {
    let pending = "the kernel takes the VM down: its huge pages are not back yet";
    let stop = || {
        let mut story = Story::running(rules());
        story.on(Event::Stop("stop asked")).report(&Report::Closing(Closing::Kernel));
        story.on(Event::PagesPending).on(Event::PagesPending);
        assert_eq!(*story.last(), (State::Stopping, pending.to_owned()));
        assert!(story.life.deadline().is_none());
        story
    };
    let mut story = stop();
    story.on(Event::Died(Death::Exit(0)));
    assert_eq!(*story.last(), (State::Stopped, "stop asked".to_owned()));

    let mut story = stop();
    story.on(Event::PagesMissing("they are gone")).on(Event::Died(Death::Exit(0)));
    assert_eq!(*story.last(), (State::Failed, "stop asked; they are gone".to_owned()));
    // The next end has nothing to do with it.
    story.on(Event::Start).on(Event::Gates(&open())).report(&RUNNING);
    story.on(Event::Stop("stop asked")).on(Event::Died(Death::Exit(0)));
    assert_eq!(*story.last(), (State::Stopped, "stop asked".to_owned()));

    let mut story = Story::running(rules());
    story.on(Event::PagesPending);
    assert_eq!(*story.last(), (State::Stopping, pending.to_owned()));
    story.crash();
    assert_eq!(story.published[1], (State::Crashed, "worker killed by SIGKILL".to_owned()));
}

#[test]
fn a_vcpu_that_is_lost_in_the_kernel_is_named() {
    let mut story = Story::running(rules());
    story.report(&ended(EndReason::Unreported));
    for closing in [Closing::Vcpus, Closing::Lost, Closing::Kernel] {
        story.report(&Report::Closing(closing));
    }
    story.sleep();
    let lost = "not closed within 5 s: a vCPU does not come out of the kernel; \
                if that lasts, only a reboot helps";
    assert_eq!(story.last().1, lost);
    story.sleep();
    assert!(story.life.is_stuck() && story.life.deadline().is_none());
}

#[test]
fn a_kill_ends_what_runs_and_stops_what_waits() {
    let mut story = Story::running(rules());
    story.on(Event::Kill("kill asked"));
    assert_eq!(story.asked, [Action::Kill]);
    story.crash();
    assert_eq!(*story.last(), (State::Stopped, "kill asked; its worker was killed".to_owned()));
    let mut story = Story::new(rules());
    story.on(Event::Kill("kill asked"));
    assert_eq!(story.life.state(), State::Stopped);
    assert!(story.asked.is_empty());
}

#[test]
fn a_guest_that_ended_as_asked_is_not_late_while_the_kernel_works() {
    let mut story = Story::running(rules());
    story
        .on(Event::Stop("stop asked"))
        .report(&ended(EndReason::PowerOff))
        .report(&Report::Closing(Closing::Kernel));
    story.now += 10_000;
    story.on(Event::Timer);
    assert!(story.last().1.starts_with("not closed within 10 s: the kernel"), "{:?}", story.last());
    assert_eq!(story.asked, [Action::Send(Request::Stop)]);
}

#[test]
fn an_impatient_stop_closes_at_once() {
    let mut story = Story::running(rules());
    story.on(Event::Stop("SIGINT"));
    let actions = story.life.on(Event::Hurry, story.now);
    assert_eq!(actions[0], Action::Send(Request::Close));
    assert_eq!(story.life.on(Event::Hurry, story.now), []);
}

#[test]
fn a_guest_that_ends_as_asked_is_stopped() {
    let mut story = Story::running(rules());
    story
        .on(Event::Stop("stop asked"))
        .report(&ended(EndReason::PowerOff))
        .report(&Report::Closed)
        .on(Event::Died(Death::Exit(0)));
    assert_eq!(story.states(), [State::Stopping, State::Stopped]);
    assert_eq!(story.life.last_end().unwrap().reason, EndReason::PowerOff);
}

#[test]
fn a_stop_while_waiting_needs_no_worker() {
    let mut story = Story::new(rules());
    story.on(Event::Stop("stop asked"));
    assert_eq!(story.life.state(), State::Stopped);
    assert!(story.asked.is_empty());
    let mut story = Story::running(rules());
    story.crash().on(Event::Stop("stop asked"));
    assert_eq!(story.life.state(), State::Stopped);
    assert_eq!(story.life.deadline(), None);
}

#[test]
fn a_restart_stops_and_starts() {
    let mut story = Story::running(rules());
    story
        .on(Event::Restart("restart asked"))
        .on(Event::Died(Death::Exit(0)))
        .on(Event::Gates(&open()))
        .report(&RUNNING);
    assert_eq!(story.states(), [State::Stopping, State::Waiting, State::Starting, State::Running]);
    assert_eq!(story.life.restarts(), 0);
    // A stop that comes later takes the start back.
    story
        .on(Event::Restart("restart asked"))
        .on(Event::Stop("stop asked"))
        .on(Event::Died(Death::Exit(0)));
    assert_eq!(story.life.state(), State::Stopped);
}

fn starting(step: Step) -> Story {
    let mut story = Story::new(rules());
    story.on(Event::Gates(&open()));
    story.report(&Report::Launch(launch::Event::Step {
        step,
        took: Duration::ZERO,
        detail: String::new(),
    }));
    if step == Step::Functions {
        story.report(&Report::Launch(launch::Event::Starts));
    }
    story
}

#[test]
fn a_start_that_hangs_is_named_and_not_killed() {
    let mut story = starting(Step::Functions);
    assert_eq!(story.sleep(), 30_000);
    assert_eq!(story.asked, [Action::Fork, Action::Send(Request::Close)]);
    let what = "no start within 30 s (start.timeout); the last step done is functions";
    let why = "in START the kernel waits for a resource manager that does not answer; \
               only a reboot helps";
    assert_eq!(*story.last(), (State::Stopping, format!("{what}; {why}")));
    assert!(story.life.is_stuck() && story.life.deadline().is_none());
    // It was merely slow.
    story.report(&RUNNING);
    assert_eq!(story.last().1, "START has returned; closing the VM");
    assert!(!story.life.is_stuck());
    story.report(&Report::Closing(Closing::Kernel)).on(Event::Died(Death::Exit(0)));
    assert_eq!(story.published[3], (State::Crashed, what.to_owned()));
    assert_eq!(story.life.state(), State::Waiting);
}

#[test]
fn a_start_that_waits_for_anothers_end_has_its_time_after_it() {
    let mut story = starting(Step::Functions);
    story.now = 30_000;
    story.on(Event::Busy("b")).on(Event::Timer);
    let why = "launching; the resource manager takes b down first";
    assert_eq!(*story.last(), (State::Starting, why.to_owned()));
    assert_eq!(story.sleep(), 30_000);
    assert_eq!(story.life.state(), State::Stopping);
    // Before START it waits for nobody.
    let mut story = starting(Step::Images);
    story.on(Event::Busy("b"));
    assert_eq!(story.life.deadline(), Some(30_000));
}

#[test]
fn a_launch_that_hangs_before_start_is_killed() {
    let mut story = starting(Step::Images);
    assert_eq!(story.sleep(), 30_000);
    assert_eq!(story.asked, [Action::Fork, Action::Kill]);
    let what = "no start within 30 s (start.timeout); the last step done is images";
    assert_eq!(*story.last(), (State::Stopping, format!("{what}; worker killed")));
    story.crash();
    assert_eq!(story.published[2], (State::Crashed, what.to_owned()));
    assert_eq!(story.life.state(), State::Waiting);

    let mut story = starting(Step::Images);
    story.on(Event::Stop("stop asked"));
    assert_eq!(story.sleep(), CLOSE_TIMEOUT);
    assert_eq!(story.asked.last(), Some(&Action::Kill));
    assert_eq!(story.last().1, "not closed within 5 s, and not started; worker killed");
    // A kernel that keeps it all the same is told as any other.
    story.sleep();
    assert!(story.last().1.starts_with("killed, and not gone within 5 s"), "{:?}", story.last());
}

#[test]
fn readiness_has_three_ways() {
    let mut at_once = rules();
    at_once.ready = Readiness::AtOnce;
    let story = Story::running(at_once);
    assert_eq!(story.life.state(), State::Ready);

    let mut within = rules();
    within.ready = Readiness::Within(5_000);
    let mut story = Story::running(within.clone());
    story.report(&Report::Ready).report(&Report::Ready);
    assert_eq!(story.states(), [State::Ready]);
    assert_eq!(story.life.deadline(), None);

    let mut story = Story::running(within);
    assert_eq!(story.sleep(), 5_000);
    assert_eq!(story.last().1, "not ready within 5 s; asking the guest to end");
    story.on(Event::Died(Death::Exit(0)));
    assert_eq!(story.published[1], (State::Crashed, "not ready within 5 s".to_owned()));
}

#[test]
fn what_is_waited_for_is_the_reason() {
    let mut rules = rules();
    rules.property = Some(("a.b=1".to_owned(), 2_000));
    let mut story = Story::new(rules);
    let mut gates = Gates {
        dependencies: Err("for x to be running".to_owned()),
        property: Ok(false),
        turn: Err("for its turn".to_owned()),
        pages: Err("for its pages".to_owned()),
    };
    story.on(Event::Gates(&gates));
    assert_eq!(story.last().1, "for x to be running");
    assert_eq!(story.life.deadline(), None, "the property's time has not begun");
    gates.dependencies = Ok(());
    story.on(Event::Gates(&gates)).on(Event::Gates(&gates));
    assert_eq!(story.last().1, "for property a.b=1");
    assert!(story.life.awaits_property());
    assert_eq!(story.published.len(), 2, "told once");
    gates.property = Err("no area".to_owned());
    story.on(Event::Gates(&gates));
    assert_eq!(story.last().1, "for property a.b=1, which cannot be read: no area");
    gates.property = Ok(true);
    story.on(Event::Gates(&gates));
    assert_eq!(story.last().1, "for its turn");
    assert_eq!(story.life.deadline(), None);
    gates.turn = Ok(());
    story.on(Event::Gates(&gates));
    assert_eq!(story.last().1, "for its pages");
    assert!(story.life.at_gate() && story.asked.is_empty());
    let late = "property a.b=1 did not come within 2 s";
    let unread = format!("{late}; it cannot be read: no area");
    for (last_seen, failure) in [(Err("no area".to_owned()), unread.as_str()), (Ok(false), late)] {
        gates.property = Err("no area".to_owned());
        story.on(Event::Start).on(Event::Gates(&gates));
        gates.property = last_seen;
        story.on(Event::Gates(&gates));
        story.sleep();
        assert_eq!(*story.last(), (State::Failed, failure.to_owned()));
    }
}

#[test]
fn a_hang_up_is_told_only_if_the_worker_stays() {
    let mut story = Story::running(rules());
    story.on(Event::HangUp).crash();
    assert_eq!(story.states(), [State::Crashed, State::Waiting]);

    let mut story = Story::running(rules());
    story.on(Event::HangUp);
    story.sleep();
    assert_eq!(story.states(), [State::Stopping]);
    story.crash();
    assert_eq!(story.published[1].1, "worker killed by SIGKILL");
}

#[test]
fn a_death_by_the_filter_says_so() {
    let mut story = Story::running(rules());
    story.on(Event::Died(Death::Signal(libc::SIGSYS)));
    assert_eq!(
        story.published[0],
        (
            State::Crashed,
            "worker killed by SIGSYS: a system call that its filter forbids".to_owned()
        )
    );
}

#[test]
fn a_panic_without_a_message_is_named() {
    for (signal, name) in [(libc::SIGTRAP, "SIGTRAP"), (libc::SIGILL, "SIGILL")] {
        let mut story = Story::running(rules());
        story.on(Event::Died(Death::Signal(signal)));
        let told = format!("worker killed by {name}, as by a panic: a bug in gunyahd");
        assert_eq!(story.published[0], (State::Crashed, told));
    }
}

#[test]
fn a_fork_that_fails_is_a_crash() {
    let mut story = Story::new(rules());
    story.on(Event::Gates(&open())).on(Event::ForkFailed(&FORK.case("fork")));
    assert_eq!(story.states(), [State::Starting, State::Crashed, State::Waiting]);
    assert_eq!(story.sleep(), 1_000);
}

/// An event with all that it needs, for the property test.
#[derive(Debug, Clone)]
enum Any {
    Start,
    Stop,
    Restart,
    Hurry,
    Kill,
    Gates(Gates),
    ForkFailed,
    Report(Report),
    HangUp,
    Died(Death),
    Sleep(u64),
}

fn any_event() -> impl Strategy<Value = Any> {
    let reasons = prop_oneof![
        Just(EndReason::PowerOff),
        Just(EndReason::Reset),
        Just(EndReason::Watchdog),
        Just(EndReason::Unreported),
    ];
    let gates = any::<[bool; 4]>().prop_map(|[after, property, turn, pages]| Gates {
        dependencies: if after { Ok(()) } else { Err("x".to_owned()) },
        property: if property { Ok(true) } else { Ok(false) },
        turn: if turn { Ok(()) } else { Err("y".to_owned()) },
        pages: if pages { Ok(()) } else { Err("z".to_owned()) },
    });
    prop_oneof![
        1 => Just(Any::Start),
        1 => Just(Any::Stop),
        1 => Just(Any::Restart),
        1 => Just(Any::Hurry),
        1 => Just(Any::Kill),
        1 => gates.prop_map(Any::Gates),
        4 => Just(Any::Gates(open())),
        1 => Just(Any::ForkFailed),
        4 => Just(Any::Report(RUNNING)),
        1 => Just(Any::Report(Report::Ready)),
        1 => reasons.prop_map(|reason| Any::Report(ended(reason))),
        1 => Just(Any::Report(failed(Step::Pool))),
        1 => Just(Any::Report(failed(Step::Plan))),
        1 => Just(Any::Report(Report::Closed)),
        1 => Just(Any::Report(Report::Closing(Closing::Vcpus))),
        1 => Just(Any::Report(Report::Closing(Closing::Kernel))),
        1 => Just(Any::HangUp),
        4 => Just(Any::Died(Death::Signal(9))),
        4 => (0u64..100_000).prop_map(Any::Sleep),
    ]
}

fn any_rules() -> impl Strategy<Value = Rules> {
    let policy = prop_oneof![
        Just(RestartPolicy::Never),
        Just(RestartPolicy::OnFailure),
        Just(RestartPolicy::Always),
    ];
    let ready = prop_oneof![
        Just(Readiness::Unknown),
        Just(Readiness::AtOnce),
        (0u64..10_000).prop_map(Readiness::Within),
    ];
    (policy, ready, 0u32..5, any::<bool>()).prop_map(|(policy, ready, max, property)| {
        let mut rules = rules();
        rules.restart.policy = policy;
        rules.restart.max = max;
        rules.ready = ready;
        rules.property = property.then(|| ("a=b".to_owned(), 5_000));
        rules
    })
}

proptest! {
    /// Whatever happens in whatever order: never two workers, no kill or request without one, no
    /// change told twice, and a dead worker is never taken for a living one.
    #[test]
    fn promises_hold_under_any_order(
        rules in any_rules(),
        events in proptest::collection::vec(any_event(), 1..60),
    ) {
        let mut life = Lifecycle::new(rules.clone(), State::Waiting, "to be started", 0);
        let mut now = 0;
        let mut worker = false;
        let mut told = (State::Waiting, "to be started".to_owned());
        let mut starts_by_people = 1;
        for event in events {
            // The world is sane: only a living worker reports, hangs up or dies.
            let needs_worker = matches!(event, Any::Report(_) | Any::HangUp | Any::Died(_));
            if needs_worker && !worker {
                continue;
            }
            starts_by_people += u32::from(matches!(event, Any::Start | Any::Restart));
            let fork_fails = matches!(event, Any::ForkFailed);
            let died = matches!(event, Any::Died(_));
            let actions = match event {
                                Any::Start => life.on(Event::Start, now),
                Any::Stop => life.on(Event::Stop("s"), now),
                Any::Restart => life.on(Event::Restart("r"), now),
                Any::Hurry => life.on(Event::Hurry, now),
                Any::Kill => life.on(Event::Kill("k"), now),
                Any::Gates(gates) => life.on(Event::Gates(&gates), now),
                Any::ForkFailed => life.on(Event::Gates(&open()), now),
                Any::Report(report) => life.on(Event::Report(&report), now),
                Any::HangUp => life.on(Event::HangUp, now),
                Any::Died(death) => { worker = false; life.on(Event::Died(death), now) }
                Any::Sleep(ms) => { now += ms; life.on(Event::Timer, now) }
            };
            let mut more = Vec::new();
            for action in actions {
                match action {
                    Action::Fork => {
                        prop_assert!(!worker, "a second worker");
                        if fork_fails {
                            more = life.on(Event::ForkFailed(&FORK.case("f")), now);
                        } else {
                            worker = true;
                        }
                    }
                    Action::Send(_) | Action::Kill => prop_assert!(worker, "nobody to talk to"),
                    Action::Publish(state, reason) => {
                        prop_assert_ne!(&(state, reason.clone()), &told, "told twice");
                        told = (state, reason);
                    }
                }
            }
            for action in more {
                if let Action::Publish(state, reason) = action {
                    told = (state, reason);
                }
            }
            prop_assert_eq!(life.state().has_worker(), worker);
            prop_assert_eq!(life.state(), told.0);
            prop_assert_eq!(life.reason(), told.1.as_str());
            let alive = matches!(
                told.0,
                State::Starting | State::Running | State::Ready | State::Stopping
            );
            prop_assert_eq!(alive, worker, "state {} and worker {}", told.0, worker);
            if died {
                prop_assert!(!life.state().has_worker());
            }
            // Nothing waits for ever without a timer, a gate, a worker or a person.
            prop_assert!(
                life.at_rest() || life.at_gate() || worker || life.deadline().is_some()
            );
            prop_assert!(life.restarts() <= rules.restart.max * starts_by_people + u32::try_from(now / 600_000).unwrap_or(0) * rules.restart.max + rules.restart.max);
        }
    }

    /// Every stop ends: with nothing but time passing it says in the end what it waits for, and kills
    /// nobody; a person can.
    #[test]
    fn every_stop_waits_and_a_person_can_kill(
        rules in any_rules(),
        events in proptest::collection::vec(any_event(), 0..20),
    ) {
        let mut story = Story::running(Rules { property: None, ..rules });
        for event in events {
            match event {
                Any::Report(report) => { story.report(&report); }
                Any::Start => { story.on(Event::Start); }
                Any::Sleep(ms) => { story.now += ms; story.on(Event::Timer); }
                Any::Restart => { story.on(Event::Restart("r")); }
                _ => {}
            }
        }
        story.on(Event::Stop("s"));
        for _ in 0..4 {
            if story.life.deadline().is_some() {
                story.sleep();
            }
        }
        prop_assert!(story.life.deadline().is_none());
        prop_assert!(!story.asked.contains(&Action::Kill));
        prop_assert_eq!(story.life.state(), State::Stopping);
        prop_assert!(story.last().1.contains("within"), "{:?}", story.last());
        story.on(Event::Kill("k"));
        prop_assert!(story.asked.contains(&Action::Kill));
        story.crash();
        prop_assert!(story.life.at_rest(), "{:?}", story.life);
    }

    /// The waits double from the first to the longest, and their number is bounded.
    #[test]
    fn waits_double_and_end(backoff in 1u64..5_000, max in 0u32..20, longest in 1u64..100_000) {
        let rules = RestartConfig {
            policy: RestartPolicy::OnFailure,
            max,
            window: Duration::MAX,
            backoff: Duration::from_millis(backoff),
            backoff_max: Duration::from_millis(longest),
        };
        let mut budget = Budget::default();
        let mut now = 0;
        for nth in 0..max {
            let wanted = backoff.saturating_mul(1 << nth).min(longest);
            prop_assert_eq!(
                budget.after_end(&rules, now),
                Next::After { wait: wanted, nth: nth + 1 }
            );
            now += wanted;
        }
        prop_assert_eq!(budget.after_end(&rules, now), Next::GiveUp);
    }
}

#[test]
fn a_stop_after_an_earlier_failure_ends_as_asked() {
    let mut story = Story::running(rules());
    story.crash();
    assert_eq!(story.life.last_end().unwrap().reason, EndReason::WorkerDied);
    story.sleep();
    story.on(Event::Gates(&open())).report(&RUNNING);
    // While it runs, the end before is the last one.
    assert_eq!(story.life.last_end().unwrap().reason, EndReason::WorkerDied);
    story.on(Event::Stop("stop asked")).on(Event::Died(Death::Exit(0)));
    assert_eq!(story.life.last_end().unwrap().reason, EndReason::Asked);
}
