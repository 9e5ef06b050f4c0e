// SPDX-License-Identifier: Apache-2.0
//! Huge pages that come back late, as from a kernel that takes a VM down after its worker is gone.

use gunyahd::memory::Pool;
use gunyahd::status::State;
use serde_json::json;

use crate::host::{Host, Watch};
use crate::skip::skip;

/// Both take most of the pool.
static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());

const PAGE: u64 = 2 << 20;

/// Milliseconds; several looks at the pool.
const TEARDOWN: u64 = 300;

/// More than half of the pool: two runs at a time do not fit. `None`, and a loud word, without one.
fn most_of_the_pool() -> Option<u64> {
    let free = Pool::read(PAGE).map_or(0, |pool| pool.available());
    if free < 2 {
        skip("no two free huge pages of 2 MiB");
        return None;
    }
    Some((free / 2 + 1).max(2))
}

fn runs_on_huge_pages(host: &Host, vm: &str) {
    let status = host.status(vm);
    let memory = status.steps.iter().find(|step| step.step == "memory");
    let detail = &memory.expect("a memory step").detail;
    assert!(detail.ends_with("hugetlb"), "{detail}");
    assert_eq!(status.restarts, 0, "{status:?}");
}

fn waited_for(watch: &Watch, reason: &str) {
    let mut reasons = watch.changes.iter().map(|change| change.reason.as_str());
    assert!(reasons.any(|told| told.starts_with(reason)), "never {reason}: {:?}", watch.changes);
}

#[test]
fn a_vm_whose_pages_do_not_come_back_is_not_stopped() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let Some(pages) = most_of_the_pool() else {
        return;
    };
    let mut host = Host::new();
    let config = json!({
        "memory": {"size": pages * PAGE, "page_size": "2M", "backing": "hugetlb"},
        "vcpus": {"scheduling": "proxy"},
    });
    host.vm("a", config).boot();
    host.until("a", State::Running);
    // The last close is back at once, and the kernel never takes the VM down.
    host.tell_simulator("rm dead");
    let mut watch = host.watch();
    let (code, text) = host.told(&["stop", "a"]);
    assert_eq!(code, 0, "{text}");
    watch.until_next("a", State::Failed);
    waited_for(
        &watch,
        "stop asked; its huge pages are not back after 15 s: the kernel waits for a",
    );
    assert!(
        watch.states_of("a").iter().all(|state| *state != State::Stopped),
        "{:?}",
        watch.changes
    );
    assert_eq!(host.shut_down(), Some(0));
}

#[test]
fn a_launch_waits_for_the_pages_of_the_run_before() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let Some(pages) = most_of_the_pool() else {
        return;
    };
    let mut host = Host::new();
    let config = json!({
        "memory": {"size": pages * PAGE, "page_size": "2M", "backing": ["hugetlb", "thp"]},
        "vcpus": {"scheduling": "proxy"},
    });
    host.vm("a", config)
        .script(&format!("teardown delay {TEARDOWN} behind\nvm 1 exit reset after 20\n"))
        .boot();
    // The guest's own reset.
    let mut watch = host.watch();
    host.wait_until("it was reset", |host| host.status("a").resets == 1);
    host.until("a", State::Running);
    runs_on_huge_pages(&host, "a");
    // Asked for by somebody.
    let (code, text) = host.told(&["restart", "a"]);
    assert_eq!(code, 0, "{text}");
    runs_on_huge_pages(&host, "a");
    // Another VM in the same file.
    let text = std::fs::read_to_string(host.path("vms/a.json")).unwrap();
    host.file("a.json", &text.replace("\"a\"", "\"b\""));
    host.signal(nix::sys::signal::Signal::SIGHUP);
    watch.until_next("b", State::Running);
    runs_on_huge_pages(&host, "b");

    waited_for(&watch, "the kernel takes the VM down: its huge pages are not back yet");
    waited_for(&watch, "for the end of a, which its file described before");
    // While pages are on their way, gunyahd ends all the same.
    host.ctl(&["restart", "b", "--no-wait"]);
    assert_eq!(host.shut_down(), Some(0));
}
