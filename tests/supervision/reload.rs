// SPDX-License-Identifier: Apache-2.0
//! SIGHUP: files added, changed, broken and removed.

use gunyahd::status::State;
use nix::sys::signal::{kill, Signal};
use serde_json::json;

use crate::host::{on_both, Host};

#[test]
fn files_come_change_and_go() {
    let mut host = Host::new();
    host.vm("same", json!({})).vm("changed", json!({})).vm("gone", json!({})).boot();
    for vm in ["same", "changed", "gone"] {
        host.until(vm, State::Running);
    }
    let workers = [host.worker("same"), host.worker("changed")];
    let mut watch = host.watch();
    host.vm("new", json!({}))
        .vm("changed", json!({"stop_timeout": "1s", "memory": {"size": "6M", "backing": "base"}}));
    std::fs::remove_file(host.path("vms/gone.json")).unwrap();
    host.signal(Signal::SIGHUP);
    watch.until("new", State::Running);
    host.wait_until("the removed one is forgotten", |host| {
        host.statuses().iter().all(|status| status.vm != "gone")
    });
    assert_eq!([host.worker("same"), host.worker("changed")], workers);
    let log = host.log();
    for line in [
        "new: added",
        "gone: removed",
        "changed: changed, from its next start: memory.size, stop_timeout",
    ] {
        assert!(log.contains(line), "{line}\n{log}");
    }
    assert_eq!(host.told(&["restart", "changed"]).0, 0);
    let (_, text) = host.told(&["status", "changed"]);
    assert!(text.contains("6 MiB"), "{text}");
}

#[test]
fn a_file_that_breaks_is_told_and_its_vm_kept() {
    let mut host = Host::new();
    host.vm("a", json!({})).vm("b", json!({"bootargs": 1})).boot();
    host.until("a", State::Running);
    assert_eq!(host.status("b").state, State::Failed);
    let mut watch = host.watch();
    host.vm("a", json!({"kernal": {}})).vm("b", json!({}));
    host.signal(Signal::SIGHUP);
    // The mended one starts, as it would have at boot.
    watch.until("b", State::Running);
    let status = host.status("a");
    assert_eq!(status.state, State::Running);
    assert!(status.problems[0].contains("did you mean `kernel`?"), "{status:?}");
    assert!(host.log().contains("the last good one stays"));
    assert!(watch.states_of("a").is_empty());
}

#[test]
fn a_file_that_cannot_be_read_is_still_its_vms() {
    let mut host = Host::new();
    host.vm("sensors", json!({})).vm("b", json!({"start": {"after": ["sensors"]}}));
    let file = host.path("vms/10-sensors.json");
    std::fs::rename(host.path("vms/sensors.json"), &file).unwrap();
    let good = std::fs::read_to_string(&file).unwrap();
    host.boot();
    host.until("sensors", State::Running).until("b", State::Running);
    let worker = host.worker("sensors");
    let mut watch = host.watch();
    let half = &good[..good.len() / 2];
    let misnamed = good.replace("\"sensors\"", "\"Sensors\"");
    let other = good.replace("\"sensors\"", "\"c\", \"colour\": 1");
    for (text, word) in [
        ("", "1:1"),
        (half, "10-sensors.json"),
        (&misnamed, "Sensors"),
        (&other, "colour"),
        ("\u{0}", "1:1"),
    ] {
        std::fs::write(&file, text).unwrap();
        host.signal(Signal::SIGHUP);
        host.wait_until("its mistake is told", |host| {
            let told = host.status("sensors").problems;
            told.first().is_some_and(|problem| problem.contains(word))
        });
        // Back to good, so that the next mistake is news.
        std::fs::write(&file, &good).unwrap();
        host.signal(Signal::SIGHUP);
        host.wait_until("it is good again", |host| host.status("sensors").problems.is_empty());
    }
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    host.signal(Signal::SIGHUP);
    host.wait_until("it is no file", |host| {
        let told = host.status("sensors").problems;
        told.iter().any(|problem| problem.contains("a directory"))
    });
    assert_eq!(host.worker("sensors"), worker);
    assert_eq!(host.statuses().len(), 2);
    assert!(host.status("b").problems.is_empty());
    assert!(!host.log().contains("removed"));
    host.shut_down();
    watch.until_the_end();
    assert_eq!(
        watch.states_of("sensors"),
        [State::Stopping, State::Stopped],
        "{:?}",
        watch.changes
    );
}

#[test]
fn a_new_name_in_a_file_waits_for_the_end_of_the_old_one() {
    on_both(|mut host| {
        host.vm("old", json!({"stop_timeout": "100ms"})).boot();
        host.until("old", State::Running);
        // Its end takes time.
        kill(host.worker("old"), Signal::SIGSTOP).unwrap();
        let worker = host.worker("old");
        let mut watch = host.watch();
        let text = std::fs::read_to_string(host.path("vms/old.json")).unwrap();
        host.file("old.json", &text.replace("\"old\"", "\"new\""));
        host.signal(Signal::SIGHUP);
        watch.until_next("new", State::Waiting);
        kill(worker, Signal::SIGCONT).unwrap();
        watch.until_next("new", State::Running);
        assert!(
            watch.position("old", State::Stopped) < watch.position("new", State::Starting),
            "{:?}",
            watch.changes
        );
        let reason = "for the end of old, which its file described before";
        assert!(watch.changes.iter().any(|change| change.reason == reason), "{:?}", watch.changes);
        let log = host.log();
        assert!(!log.contains("is gone"), "{log}");
        assert!(log.contains("old.json describes new now"), "{log}");
        assert_eq!(host.statuses().len(), 1);
    });
}

#[test]
fn a_directory_that_vanishes_stops_nothing_and_holds_up_no_other() {
    let mut host = Host::new();
    let more = host.path("more");
    std::fs::create_dir(&more).unwrap();
    host.vm("a", json!({}));
    let moved = |host: &Host, name: &str| {
        std::fs::rename(host.path("vms").join(name), more.join(name)).unwrap();
    };
    host.vm("b", json!({}));
    moved(&host, "b.json");
    // Missing from the beginning, it holds up nobody either; nor is waiting for its VMs a mistake.
    let never = host.path("never").display().to_string();
    host.vm("c", json!({"start": {"after": ["missing"]}}));
    host.boot_with(&["--config-dir", &never, "--config-dir", more.to_str().unwrap()]);
    host.until("a", State::Running).until("b", State::Running);
    assert_eq!(host.status("c").state, State::Waiting);
    let (_, text) = host.told(&["status"]);
    let problem = format!("problem: {never}: the directory cannot be read: ENOENT");
    assert!(text.contains(&problem), "{text}");

    let worker = host.worker("a");
    std::fs::rename(host.path("vms"), host.path("elsewhere")).unwrap();
    std::fs::create_dir(host.path("never")).unwrap();
    std::fs::remove_file(more.join("b.json")).unwrap();
    // The name of a VM that cannot be looked at is taken.
    std::fs::write(more.join("a.json"), "{").unwrap();
    host.signal(Signal::SIGHUP);
    host.wait_until("the other directory counts", |host| {
        let names: Vec<String> = host.statuses().into_iter().map(|vm| vm.vm).collect();
        names == ["a", "c", "a-2"]
    });
    assert_eq!(host.worker("a"), worker);
    assert!(host.status("a").problems.is_empty());
    let (_, text) = host.told(&["status"]);
    let vms = host.path("vms").display().to_string();
    assert!(text.contains(&format!("problem: {vms}: the directory")), "{text}");
    assert!(!text.contains(&never), "{text}");
    assert!(host.log().contains(&format!("{vms}: not read again")));

    std::fs::rename(host.path("elsewhere"), host.path("vms")).unwrap();
    host.signal(Signal::SIGHUP);
    host.wait_until("all is well again", |host| !host.told(&["status"]).1.contains("problem:"));
    assert_eq!(host.worker("a"), worker);
}
