// SPDX-License-Identifier: Apache-2.0
//! What holds under any order of events.

use proptest::prelude::*;

use super::*;
use crate::supervisor::restart::Next;

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
