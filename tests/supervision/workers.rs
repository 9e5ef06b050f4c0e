// SPDX-License-Identifier: Apache-2.0
//! Workers that die, hang or take their time.

use gunyahd::status::{EndReason, State};
use nix::sys::signal::{kill, Signal};
use serde_json::json;

use crate::host::{children, on_both, open_fds, wait_gone};

#[test]
fn a_killed_worker_is_restarted_and_no_other_is_touched() {
    on_both(|mut host| {
        host.vm("a", json!({})).vm("b", json!({})).boot();
        host.until("a", State::Running).until("b", State::Running);
        let (first, other) = (host.worker("a"), host.worker("b"));
        let mut watch = host.watch();
        kill(first, Signal::SIGKILL).unwrap();
        watch.until_next("a", State::Running);
        assert_eq!(
            watch.states_of("a"),
            [State::Crashed, State::Waiting, State::Waiting, State::Starting, State::Running]
        );
        assert_eq!(watch.changes[0].reason, "worker killed by SIGKILL [worker-killed]");
        assert_eq!(
            watch.changes[1].reason,
            "restart 1 of 5 in 20 ms after: worker killed by SIGKILL [worker-killed]"
        );
        let status = host.status("a");
        assert_eq!((status.restarts, status.resets), (1, 0));
        assert_ne!(status.pid, Some(first.as_raw()));
        let end = status.last_end.unwrap();
        assert_eq!(end.reason, EndReason::WorkerDied);
        assert_eq!(host.worker("b"), other);
        assert!(watch.states_of("b").is_empty());
        wait_gone(first);
    });
}

#[test]
fn too_many_crashes_are_given_up_until_somebody_starts() {
    on_both(|mut host| {
        host.vm("a", json!({"restart": {"max": 2, "backoff": "1ms"}})).boot();
        let mut watch = host.watch();
        watch.until("a", State::Running);
        for _ in 0..2 {
            kill(host.worker("a"), Signal::SIGKILL).unwrap();
            watch.until_next("a", State::Running);
        }
        kill(host.worker("a"), Signal::SIGKILL).unwrap();
        watch.until_next("a", State::Failed);
        let reason = &watch.changes.last().unwrap().reason;
        assert!(reason.starts_with("gave up after 2 restarts within"), "{reason}");
        let why = " [restart-gave-up]; last: worker killed by SIGKILL [worker-killed]";
        assert!(reason.ends_with(why), "{reason}");
        let (code, text) = host.told(&["start", "a"]);
        assert_eq!(code, 0, "{text}");
        assert_eq!(host.status("a").state, State::Running);
    });
}

#[test]
fn cycles_leave_no_fd_and_no_process() {
    on_both(|mut host| {
        host.vm("a", json!({"restart": {"max": 100, "backoff": "0ms"}})).boot();
        host.until("a", State::Running);
        let supervisor = host.pid();
        // By its answer all who came before it are gone.
        assert_eq!(host.told(&["status"]).0, 0);
        let before = open_fds(supervisor);
        let mut watch = host.watch();
        for _ in 0..10 {
            kill(host.worker("a"), Signal::SIGKILL).unwrap();
            watch.until_next("a", State::Running);
        }
        for _ in 0..5 {
            assert_eq!(host.told(&["restart", "a"]).0, 0);
        }
        drop(watch);
        // The watcher's fd goes when gunyahd notices that it left.
        host.wait_until("the fds are as before", |_| open_fds(supervisor) <= before);
        assert_eq!(children(supervisor).len(), 1);
        assert_eq!(host.status("a").restarts, 10);
    });
}

#[test]
fn signals_to_a_worker_do_not_end_its_vm() {
    on_both(|mut host| {
        host.vm("a", json!({})).boot();
        host.until("a", State::Running);
        let worker = host.worker("a");
        // What init sends to the whole cgroup, and a terminal to the whole group.
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            kill(worker, signal).unwrap();
        }
        let mut watch = host.watch();
        assert_eq!(host.shut_down(), Some(0));
        watch.until_the_end();
        assert_eq!(watch.states_of("a"), [State::Stopping, State::Stopped]);
    });
}

#[test]
fn a_launch_that_fails_is_tried_again() {
    on_both(|mut host| {
        host.vm("a", json!({})).script("call START 1 errno ENODEV\n").boot();
        let mut watch = host.watch();
        watch.until("a", State::Running);
        let log = host.log();
        let error = log.lines().find(|line| line.contains(" E gunyahd: a: crashed"));
        assert!(error.unwrap().contains("start: "), "{log}");
        let status = host.status("a");
        assert_eq!(status.restarts, 1);
        assert_eq!(status.last_end.unwrap().reason, EndReason::LaunchFailed);
    });
}

#[test]
fn a_guest_that_cannot_be_asked_is_closed_at_once() {
    on_both(|mut host| {
        host.vm("a", json!({"stop_timeout": "1h"})).boot();
        host.until("a", State::Running);
        let mut watch = host.watch();
        let (code, text) = host.told(&["stop", "a"]);
        assert_eq!(code, 0, "{text}");
        watch.until_next("a", State::Stopped);
        let reasons: Vec<&str> = watch.changes.iter().map(|c| c.reason.as_str()).collect();
        assert_eq!(reasons, ["stop asked; closing the VM", "stop asked"]);
    });
}

#[test]
fn a_stop_lasts_until_the_kernel_has_taken_the_vm_down() {
    on_both(|mut host| {
        // Inside the last close, until the simulator is told.
        let script = "teardown delay 3600000 waiting\n";
        host.vm("a", json!({})).vm("b", json!({})).script(script).boot();
        host.until("a", State::Running).until("b", State::Running);
        let (worker, other) = (host.worker("a"), host.worker("b"));
        let mut watch = host.watch();
        host.ctl(&["stop", "a", "--no-wait"]);
        watch.until_next("a", State::Stopping);
        // The worker blocks in its last close, gunyahd does not.
        assert_eq!(host.status("a").state, State::Stopping);
        assert_eq!(host.worker("b"), other);
        kill(worker, None).unwrap();
        host.tell_simulator("teardown over");
        watch.until_next("a", State::Stopped);
        // What comes next finds the resource manager free.
        let (code, text) = host.told(&["start", "a"]);
        assert_eq!(code, 0, "{text}");
        assert_eq!(host.worker("b"), other);
    });
}
