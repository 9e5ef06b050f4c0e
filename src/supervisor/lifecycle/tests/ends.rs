// SPDX-License-Identifier: Apache-2.0
//! The way down, and what follows: stops, deaths, restarts.

use super::*;

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
            (State::Crashed, "worker killed by SIGKILL [worker-killed]".to_owned()),
            (
                State::Waiting,
                "restart 1 of 3 in 1 s after: worker killed by SIGKILL [worker-killed]".to_owned()
            )
        ]
    );
    story.crash();
    let (state, reason) = story.last();
    assert_eq!(*state, State::Failed);
    assert_eq!(reason, "gave up after 3 restarts within 10 min [restart-gave-up]; last: worker killed by SIGKILL [worker-killed]");
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
         only a reboot helps [manager-silent]"
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
                `gunyahctl kill` ends it the hard way [worker-silent]";
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
    assert_eq!(
        story.published[1],
        (State::Crashed, "worker killed by SIGKILL [worker-killed]".to_owned())
    );
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
    assert_eq!(story.published[1].1, "worker killed by SIGKILL [worker-killed]");
}

#[test]
fn a_panic_without_a_message_is_named() {
    for (signal, name) in [(libc::SIGTRAP, "SIGTRAP"), (libc::SIGILL, "SIGILL")] {
        let mut story = Story::running(rules());
        story.on(Event::Died(Death::Signal(signal)));
        let told =
            format!("worker killed by {name}, as by a panic: a bug in gunyahd [worker-killed]");
        assert_eq!(story.published[0], (State::Crashed, told));
    }
}

#[test]
fn a_death_by_the_filter_says_so() {
    let mut story = Story::running(rules());
    story.on(Event::Died(Death::Signal(libc::SIGSYS)));
    assert_eq!(
        story.published[0],
        (
            State::Crashed,
            "worker killed by SIGSYS: a system call that its filter forbids [worker-forbidden-call]".to_owned()
        )
    );
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

#[test]
fn a_worker_that_exits_without_a_word_is_named() {
    let mut story = Story::running(rules());
    story.on(Event::Died(Death::Exit(7)));
    let (state, reason) = &story.published[0];
    assert_eq!(*state, State::Crashed);
    assert_eq!(reason, "worker exited with 7 and no report of an end [worker-exited]");
}
