// SPDX-License-Identifier: Apache-2.0
//! Markers of a launch in the trace.

use gunyahd::status::State;
use serde_json::json;

use crate::host::Host;

#[test]
fn every_step_of_a_launch_is_a_slice_in_the_trace() {
    let mut host = Host::new();
    std::fs::write(host.path("trace"), "").unwrap();
    host.vm("a", json!({})).boot();
    host.until("a", State::Running);
    let worker = host.worker("a");
    let told = std::fs::read_to_string(host.path("trace")).unwrap();
    // Begin and end in turn, a pair for each step that the status tells with its time.
    let mut rest = told.as_str();
    let mut slices = Vec::new();
    let (begin, end) = (format!("B|{worker}|"), format!("E|{worker}"));
    while !rest.is_empty() {
        let (name, next) = rest
            .strip_prefix(&begin)
            .and_then(|rest| rest.split_once(&end))
            .unwrap_or_else(|| panic!("{rest:?} in {told:?}"));
        assert!(!name.contains('|'), "{name:?} has no end in {told:?}");
        slices.push(name.to_owned());
        rest = next;
    }
    let status = host.status("a");
    let steps = status.steps.iter().map(|step| step.step.clone());
    assert_eq!(slices, steps.collect::<Vec<_>>());
    assert!(slices.len() >= 8, "{slices:?}");
}
