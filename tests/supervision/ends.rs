// SPDX-License-Identifier: Apache-2.0
//! Ends that take long, that nobody tells of, and that do not come.

use std::path::Path;

use gunyahd::status::{EndReason, State};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use serde_json::{json, Value};

use crate::host::{children, on_both, wait_gone, Host};

/// A guest that runs on threads of its worker.
fn proxy(more: Value) -> Value {
    let mut config = json!({"vcpus": {"scheduling": "proxy"}, "console": {}});
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

/// Waits until the kernel takes so many VMs down.
fn wait_for_teardowns(host: &mut Host, count: usize) {
    host.wait_until("VMs are closed", |host| {
        let vms: Value = serde_json::from_str(&host.ask_simulator("list")).unwrap();
        let vms = vms["vms"].as_array().unwrap();
        vms.iter().filter(|vm| vm["state"] == "teardown").count() >= count
    });
}

fn lives(pid: Pid) -> bool {
    // One that is dead and not waited for has no memory any more.
    std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|s| s.contains("VmRSS"))
}

#[test]
fn an_end_that_no_vcpu_is_woken_for_is_found() {
    on_both(|mut host| {
        host.vm("a", proxy(json!({}))).script("vm 1 untold\nvm 1 exit off after 10\n").boot();
        let mut watch = host.watch();
        watch.until("a", State::Stopped);
        assert_eq!(host.status("a").last_end.unwrap().reason, EndReason::PowerOff);
    });
}

#[test]
fn an_end_that_a_guest_at_rest_was_asked_for_is_found() {
    on_both(|mut host| {
        let stop = json!({"stop": {"console_line": "off"}, "stop_timeout": "5m"});
        host.vm("a", proxy(stop)).script("vm 1 untold\n").boot();
        let mut watch = host.watch();
        watch.until("a", State::Running);
        // The last that is heard of it.
        host.wait_until("its vCPUs rest", |host| host.log().contains("[vcpu-all-stalled]"));
        assert_eq!(host.told(&["stop", "a", "--no-wait"]).0, 0);
        watch.until_next("a", State::Stopping);
        host.tell_simulator("vm 1 exit off");
        watch.until_next("a", State::Stopped);
        assert_eq!(host.status("a").last_end.unwrap().reason, EndReason::PowerOff);
    });
}

#[test]
fn a_vcpu_that_spins_is_told_and_its_vm_starts_again() {
    on_both(|mut host| {
        host.vm("a", proxy(json!({}))).script("vm 1 spin\n").boot();
        let mut watch = host.watch();
        watch.until("a", State::Running);
        let worker = host.worker("a");
        watch.until_next("a", State::Crashed);
        assert!(watch.changes.last().unwrap().reason.contains("does not come out of VCPU_RUN"));
        watch.until_next("a", State::Running);
        let log = host.log();
        assert!(log.contains("[vcpu-spins]") && log.contains("[run-stuck]"), "{log}");
        let status = host.status("a");
        assert_eq!((status.restarts, status.last_end.unwrap().reason), (1, EndReason::Unreported));
        wait_gone(worker);
    });
}

#[test]
fn the_consoles_eventfd_never_outlives_its_vm() {
    on_both(|mut host| {
        // START fails before the driver has the doorbell, by the driver's hand and by the resource manager's.
        for fault in ["call START 1 errno ENODEV\n", "vm 1 refuse ENODEV\n"] {
            host.vm("a", proxy(json!({"restart": {"policy": "never"}}))).script(fault).boot();
            host.until("a", State::Failed);
            assert_eq!(host.told(&["start", "a"]).0, 0);
            assert_eq!(host.told(&["stop", "a"]).0, 0);
            assert_eq!(host.shut_down(), Some(0));
            let log = host.log();
            assert!(!log.contains("violation"), "{fault}{log}");
        }
    });
}

#[test]
fn a_teardown_of_an_hour_is_waited_for_and_told() {
    on_both(|mut host| {
        host.vm("a", proxy(json!({}))).script("teardown delay 3600000 waiting\n").boot();
        host.until("a", State::Running);
        let worker = host.worker("a");
        let mut watch = host.watch();
        assert_eq!(host.told(&["stop", "a", "--no-wait"]).0, 0);
        watch.until_reason("a", "not closed within 5 s: the kernel takes the VM down");
        // A start waits for it.
        assert_eq!(host.told(&["start", "a", "--no-wait"]).0, 0);
        assert!(lives(worker), "the worker was killed");
        assert_eq!(host.status("a").state, State::Stopping);
        host.tell_simulator("teardown over");
        watch.until_next("a", State::Running);
        assert!(watch.states_of("a").iter().all(|state| !state.is_bad()), "{:?}", watch.changes);
        assert_eq!(host.told(&["stop", "a"]).0, 0);
    });
}

#[test]
fn a_start_waits_for_the_end_of_another_vm_and_is_not_late_for_it() {
    on_both(|mut host| {
        let quick = json!({"start": {"timeout": "3s"}, "autostart": false});
        host.vm("a", proxy(json!({})))
            .vm("b", proxy(quick))
            .script("teardown delay 3600000 waiting\n")
            .boot();
        host.until("a", State::Running);
        let mut watch = host.watch();
        assert_eq!(host.told(&["stop", "a", "--no-wait"]).0, 0);
        wait_for_teardowns(&mut host, 1);
        assert_eq!(host.told(&["start", "b", "--no-wait"]).0, 0);
        watch.until_reason("b", "launching; the resource manager takes a down first");
        host.tell_simulator("teardown over");
        watch.until_next("b", State::Running);
        assert!(watch.states_of("b").iter().all(|state| *state != State::Stopping));
    });
}

#[test]
fn a_worker_that_does_not_answer_is_killed_by_a_person_alone() {
    on_both(|mut host| {
        let stop = json!({"stop": {"console_line": "off"}, "stop_timeout": "100ms"});
        host.vm("a", proxy(stop)).boot();
        host.until("a", State::Running);
        let worker = host.worker("a");
        kill(worker, Signal::SIGSTOP).unwrap();
        let mut watch = host.watch();
        assert_eq!(host.told(&["stop", "a", "--no-wait"]).0, 0);
        watch.until_reason("a", "its worker does not answer");
        assert!(lives(worker));
        let (code, text) = host.told(&["kill", "a"]);
        assert_eq!(code, 0, "{text}");
        assert!(text.contains("warning: a hard end"), "{text}");
        watch.until_next("a", State::Stopped);
        let reasons: Vec<&str> = watch.changes.iter().map(|c| c.reason.as_str()).collect();
        assert_eq!(reasons.len(), 5, "{reasons:?}");
        let silent = "its worker does not answer; `gunyahctl kill` ends it the hard way";
        // 5 s, or a little more.
        assert!(reasons[2].starts_with("not closed within 5"), "{reasons:?}");
        assert!(reasons[2].ends_with(&format!(" s: {silent} [worker-silent]")), "{reasons:?}");
        for (at, reason) in [
            (0, "stop asked; asking the guest to end"),
            (1, "the guest has not ended within 100 ms; closing the VM"),
            (3, "kill asked; worker killed; the kernel takes the VM down"),
            (4, "stop asked; its worker was killed"),
        ] {
            assert_eq!(reasons[at], reason);
        }
        wait_gone(worker);
        let (code, text) = host.told(&["kill", "a"]);
        assert_eq!(code, 1, "{text}");
        assert!(text.contains("a is stopped: it has no process to kill"), "{text}");
    });
}

#[test]
fn workers_close_their_vms_when_the_supervisor_is_killed() {
    on_both(|mut host| {
        // Two block in their last closes; one is in START.
        host.vm("a", proxy(json!({})))
            .vm("b", json!({}))
            .vm("c", json!({"start": {"after": ["a", "b"]}}))
            .script("teardown delay 3600000 waiting\ncall START 3 delay 500\n")
            .boot();
        host.until("a", State::Running).until("b", State::Running).until("c", State::Starting);
        host.wait_until("c is in START", |host| host.log().contains("c: functions: "));
        let workers = ["a", "b", "c"].map(|vm| host.worker(vm));
        let supervisor = host.pid();
        host.signal(Signal::SIGKILL);
        wait_gone(supervisor);
        // Nobody killed them: they are in their last closes.
        wait_for_teardowns(&mut host, 2);
        assert!(workers[..2].iter().all(|worker| lives(*worker)));
        // The third one's START has its turn, and then it closes its VM.
        host.tell_simulator("teardown over");
        for worker in workers {
            wait_gone(worker);
        }
        host.wait();
    });
}

#[test]
fn a_dead_resource_manager_is_named_and_nothing_starts_on_top_of_it() {
    on_both(|mut host| {
        let quick = proxy(json!({"start": {"timeout": "3s"}, "autostart": false}));
        host.vm("a", quick.clone()).vm("b", quick).script("rm dead\n").boot();
        let mut watch = host.watch();
        let (code, text) = host.told(&["start", "a"]);
        assert_eq!(code, 1, "{text}");
        let named =
        "no start within 3 s (start.timeout); the last step done is functions; in START the \
                 kernel waits for a resource manager that does not answer; only a reboot helps [manager-silent]";
        assert!(text.contains(named), "{text}");
        watch.until_reason("a", named);
        let status = host.status("a");
        assert!(status.state == State::Stopping && status.stuck, "{status:?}");
        let worker = host.worker("a");
        assert!(lives(worker), "the worker was killed");
        // Its own next start waits, another's is told that it would hang as well.
        let (code, text) = host.told(&["start", "a", "--no-wait"]);
        assert_eq!(code, 0, "{text}");
        let (code, text) = host.told(&["start", "b"]);
        assert_eq!(code, 1, "{text}");
        assert!(text.contains("for a, which hangs in the kernel"), "{text}");
        assert_eq!(children(host.pid()), [worker.to_string()]);
        // A person may kill it, and then others may try.
        let (code, text) = host.told(&["kill", "a"]);
        assert_eq!(code, 0, "{text}");
        assert_eq!(host.status("a").state, State::Stopped);
        watch.until_next("b", State::Starting);
        assert!(Path::new(&format!("/proc/{}", host.worker("b"))).exists());
    });
}

#[test]
fn a_stop_before_start_starts_nothing() {
    on_both(|mut host| {
        host.vm("a", proxy(json!({"autostart": false})))
            .script("call CREATE_VM 1 delay 3000\n")
            .boot();
        let mut watch = host.watch();
        assert_eq!(host.told(&["start", "a", "--no-wait"]).0, 0);
        watch.until_next("a", State::Starting);
        assert_eq!(host.told(&["stop", "a"]).0, 0);
        watch.until_next("a", State::Stopped);
        assert_eq!(
            watch.states_of("a"),
            [State::Waiting, State::Starting, State::Stopping, State::Stopped]
        );
        let status = host.status("a");
        assert_eq!(status.last_end.unwrap().reason, EndReason::Asked);
        assert!(status.steps.iter().all(|step| step.step != "start"), "{:?}", status.steps);
    });
}
