// SPDX-License-Identifier: Apache-2.0
//! Who starts and stops before whom.

use gunyahd::status::State;
use serde_json::json;

use crate::host::{on_both, Host};

#[test]
fn a_dependent_vm_waits_for_a_slow_one() {
    let mut host = Host::new();
    host.vm("slow", json!({}))
        .vm("after", json!({"start": {"after": ["slow"]}}))
        .script("call START 1 delay 3000\n")
        .boot();
    let mut watch = host.watch();
    let waiting = watch.now.iter().find(|status| status.vm == "after").unwrap();
    assert_eq!(waiting.state, State::Waiting);
    assert_eq!(waiting.reason, "for slow to be running; it is starting");
    watch.until("after", State::Running);
    assert!(watch.position("slow", State::Running) < watch.position("after", State::Starting));
}

#[test]
fn a_vm_behind_a_failed_one_says_so_and_can_be_freed() {
    let mut host = Host::new();
    host.vm("base", json!({"kernel": {"path": host.path("later")}}))
        .vm("after", json!({"start": {"after": ["base"]}}))
        .boot();
    let mut watch = host.watch();
    watch.until("base", State::Failed);
    let (code, text) = host.told(&["start", "after"]);
    assert_eq!(code, 1);
    assert!(
        text.contains("after is waiting: for base to be running; it is failed and needs a start"),
        "{text}"
    );
    std::fs::copy(host.path("Image"), host.path("later")).unwrap();
    assert_eq!(host.told(&["start", "base"]).0, 0);
    watch.until_next("after", State::Running);
}

#[test]
fn higher_priority_starts_first() {
    let mut host = Host::new();
    host.vm("a", json!({})).vm("z", json!({"start": {"priority": 10}})).boot();
    host.until("a", State::Running);
    let log = host.log();
    let at = |text| log.find(text).unwrap_or_else(|| panic!("no {text}: {log}"));
    assert!(at("z: running") < at("a: starting"), "{log}");
    assert!(log.contains("a: waiting: for its turn, after z (priority 10)"), "{log}");
}

#[test]
fn all_are_stopped_against_the_order_of_dependency() {
    on_both(|mut host| {
        host.vm("a", json!({}))
            .vm("b", json!({"start": {"after": ["a"]}}))
            .vm("c", json!({"start": {"after": ["b"]}}))
            .vm("d", json!({}))
            .boot();
        host.until("c", State::Running).until("d", State::Running);
        let mut watch = host.watch();
        assert_eq!(host.shut_down(), Some(0));
        watch.until_the_end();
        assert!(watch.position("c", State::Stopped) < watch.position("b", State::Stopping));
        assert!(watch.position("b", State::Stopped) < watch.position("a", State::Stopping));
        for vm in ["a", "b", "c", "d"] {
            assert_eq!(watch.states_of(vm), [State::Stopping, State::Stopped]);
        }
    });
}

#[test]
fn a_property_that_never_comes_fails_its_vm_alone() {
    let mut host = Host::new();
    let _area = crate::properties::area(&host);
    let property = json!({"name": "vendor.disk", "value": "up", "timeout": "200ms"});
    host.vm("a", json!({"start": {"property": property}})).vm("b", json!({})).boot();
    let mut watch = host.watch();
    watch.until("a", State::Failed);
    assert_eq!(
        watch.changes.last().unwrap().reason,
        "property vendor.disk=up did not come within 200 ms"
    );
    host.until("b", State::Running);
}

#[test]
fn a_property_that_cannot_be_read_is_told_with_its_cure_and_warned_of_once() {
    let mut host = Host::new();
    let property = json!({"name": "vendor.disk", "value": "up", "timeout": "200ms"});
    host.vm("a", json!({"start": {"property": property}})).boot();
    let mut watch = host.watch();
    watch.until("a", State::Failed);
    let why = format!(
        "property vendor.disk: read {}: ENOENT (No such file or directory); likely cause: not an \
         Android host, or init has not made the areas yet",
        host.path("area/property_info").display()
    );
    let wanted = "property vendor.disk=up";
    assert_eq!(
        watch.changes.last().unwrap().reason,
        format!("{wanted} did not come within 200 ms; it cannot be read: {why}")
    );
    let log = host.log();
    let waiting = format!("a: waiting: for {wanted}, which cannot be read: {why}");
    assert!(log.contains(&waiting), "{log}");
    assert_eq!(log.matches(&format!("a: {why}")).count(), 1, "{log}");
}
