// SPDX-License-Identifier: Apache-2.0
//! The way up: gates, launches, readiness, and what stands in its way.

use super::*;

#[test]
fn a_good_boot_goes_through_starting_to_running() {
    let mut story = Story::new(rules());
    story.on(Event::Gates(&open())).report(&RUNNING);
    assert_eq!(story.states(), [State::Starting, State::Running]);
    assert_eq!(story.asked, [Action::Fork]);
    assert_eq!(story.life.deadline(), None);
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
               only a reboot helps [manager-silent]";
    assert_eq!(*story.last(), (State::Stopping, format!("{what}; {why}")));
    assert!(story.life.is_stuck() && story.life.deadline().is_none());
    // It was merely slow.
    story.report(&RUNNING);
    assert_eq!(story.last().1, "START has returned; closing the VM");
    assert!(!story.life.is_stuck());
    story.report(&Report::Closing(Closing::Kernel)).on(Event::Died(Death::Exit(0)));
    assert_eq!(story.published[3], (State::Crashed, format!("{what} [start-timeout]")));
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
    let what = "no start within 30 s (start.timeout); the last step done is images [start-timeout]";
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
    assert_eq!(story.last().1, "not ready within 5 s [ready-timeout]; asking the guest to end");
    story.on(Event::Died(Death::Exit(0)));
    assert_eq!(
        story.published[1],
        (State::Crashed, "not ready within 5 s [ready-timeout]".to_owned())
    );
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
fn a_fork_that_fails_is_a_crash() {
    let mut story = Story::new(rules());
    story.on(Event::Gates(&open())).on(Event::ForkFailed(&FORK.case("fork")));
    assert_eq!(story.states(), [State::Starting, State::Crashed, State::Waiting]);
    assert_eq!(story.sleep(), 1_000);
}

#[test]
fn a_failure_is_told_in_full_once() {
    let mut story = starting(Step::Images);
    let error = FORK.case("no process can be made");
    let full = error.to_string();
    assert!(full.contains("; likely cause: ") && full.contains("; cure: "), "{full}");
    story.report(&Report::Failed(error));
    let name = "process: no process can be made [process-fork]";
    assert_eq!(*story.last(), (State::Stopping, format!("{name}; closing the VM")));
    story.on(Event::Died(Death::Exit(0)));
    let (crashed, waiting) = (&story.published[2], &story.published[3]);
    assert_eq!(*crashed, (State::Crashed, full));
    assert_eq!(*waiting, (State::Waiting, format!("restart 1 of 3 in 1 s after: {name}")));
}
