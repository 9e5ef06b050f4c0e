// SPDX-License-Identifier: Apache-2.0
//! Many lives one after another: memory, fds and processes stay as they were.

use serde_json::{json, Value};

use crate::host::{folder, signal, Boot, Host, Stage};
use crate::left::{self, HugePages};
use crate::skip::skip;

/// How many cycles; `cargo xtask cycles` asks for many more.
const VARIABLE: &str = "GUNYAHD_CYCLES";
const FEW: u32 = 20;

/// What malloc keeps may differ by a little; a leak of a page a cycle would be far more.
// On huge pages it was seen to grow once by 330 KiB, the same after 500 and after 1,000 cycles.
const RSS_SLACK_KIB: u64 = 512;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn cycles() -> u32 {
    std::env::var(VARIABLE).map_or(FEW, |text| text.parse().unwrap())
}

/// One of each kind of memory with each kind of scheduling.
fn vms(restart: &Value) -> Vec<Value> {
    // Two VMs of two pages each.
    let huge = HugePages::now().available() >= 4;
    if !huge {
        skip("fewer than 4 huge pages are free: all VMs have base pages");
    }
    let vm = |(index, name): (usize, &&str)| {
        let huge = huge && index % 2 == 0;
        json!({
            "name": name,
            "autostart": false,
            "memory": { "size": "4M", "backing": [if huge { "hugetlb" } else { "base" }] },
            "kernel": { "path": "dir/Image" },
            "vcpus": { "scheduling": if index < 2 { "proxy" } else { "hypervisor" } },
            "restart": restart,
        })
    };
    NAMES.iter().enumerate().map(vm).collect()
}

fn boot(stage: &Stage, test: &str, restart: &Value) -> Host {
    let vms = vms(restart);
    let boot = Boot { vms: &vms, watch: &[], options: &[], ..Boot::default() };
    Host::boot(stage, &folder(test), &boot)
}

fn cycle(host: &Host) {
    for (op, state) in [("start", "running"), ("stop", "stopped")] {
        for name in &NAMES[..3] {
            host.order(op, name, false);
        }
        let answer = host.order(op, NAMES[3], true);
        assert_eq!(answer["done"]["state"], state, "{answer}");
        for name in &NAMES[..3] {
            let answer = host.order(op, name, true);
            assert_eq!(answer["done"]["state"], state, "{answer}");
        }
    }
}

/// Everything that must not grow.
struct Flat {
    left: left::Left,
    rss_kib: u64,
    simulator_rss_kib: u64,
}

impl Flat {
    fn now(host: &Host) -> Self {
        Self {
            left: host.look_when_settled(),
            rss_kib: left::status_kib(host.supervisor, "VmRSS:"),
            simulator_rss_kib: left::status_kib(host.simulator.id(), "VmRSS:"),
        }
    }

    fn compare(&self, host: &Host, huge: HugePages, what: &str, count: u32) {
        host.wait_for_nothing_left(&self.left, huge).unwrap();
        let now = Self::now(host);
        let pool = HugePages::now();
        println!(
            "{what}: {count} cycles; before and after: gunyahd {} and {} KiB, simulator {} and {} KiB, \
             {} and {} fds, {} and {} processes, HugePages_Free {} and {} of {} and {}",
            self.rss_kib,
            now.rss_kib,
            self.simulator_rss_kib,
            now.simulator_rss_kib,
            self.left.supervisor_fds.values().sum::<usize>(),
            now.left.supervisor_fds.values().sum::<usize>(),
            self.left.processes.values().sum::<usize>(),
            now.left.processes.values().sum::<usize>(),
            huge.free,
            pool.free,
            huge.total,
            pool.total,
        );
        assert!(
            now.rss_kib <= self.rss_kib + RSS_SLACK_KIB,
            "{what}: gunyahd grew from {} to {} KiB in {count} cycles",
            self.rss_kib,
            now.rss_kib
        );
    }
}

#[test]
fn starts_and_stops_of_four_vms_leave_nothing() {
    let Some(stage) = Stage::new() else { return };
    let huge = HugePages::now();
    let host = boot(&stage, "cycles", &json!({ "policy": "never" }));
    // The journals are bounded: full, they grow no more.
    for _ in 0..30 {
        cycle(&host);
    }
    let before = Flat::now(&host);
    let count = cycles();
    for _ in 0..count {
        cycle(&host);
    }
    before.compare(&host, huge, "start and stop of four VMs", count);
    host.end();
}

#[test]
fn crashes_and_restarts_leave_nothing() {
    let Some(stage) = Stage::new() else { return };
    let huge = HugePages::now();
    let restart = json!({
        "policy": "on-failure", "max": 100, "window": "1s", "backoff": "10ms", "backoff_max": "10ms",
    });
    let host = boot(&stage, "crashes", &restart);
    let order = |op: &str, state: &str| {
        let answer = host.order(op, "a", true);
        assert_eq!(answer["done"]["state"], state, "{answer}");
    };
    order("start", "running");
    let crash = || {
        host.forget_changes();
        let pid = host.status("a")["pid"].as_u64().unwrap();
        signal(u32::try_from(pid).unwrap(), libc::SIGKILL);
        host.wait_for("a", &["crashed"]).unwrap();
        host.wait_for("a", &["running"]).unwrap();
    };
    for _ in 0..30 {
        crash();
    }
    order("stop", "stopped");
    let before = Flat::now(&host);
    order("start", "running");
    let restarts = host.status("a")["restarts"].as_u64().unwrap();
    let count = cycles().div_ceil(5);
    for _ in 0..count {
        crash();
    }
    let now = host.status("a")["restarts"].as_u64().unwrap();
    assert_eq!(now, restarts + u64::from(count));
    order("stop", "stopped");
    before.compare(&host, huge, "crash and restart", count);
    host.end();
}
