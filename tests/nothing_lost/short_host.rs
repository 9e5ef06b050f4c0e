// SPDX-License-Identifier: Apache-2.0
//! What runs short under a launch: pools and limits; and calls that hang.

use gunyah::Dialect;
use serde_json::{json, Value};

use crate::host::{folder, wait_until, Boot, Host, Stage};
use crate::left::HugePages;
use crate::skip::skip;
use crate::steps;

fn plain(name: &str) -> Value {
    let mut vm = steps::bystanders(Dialect::Ack61)[0].clone();
    vm["name"] = json!(name);
    vm["autostart"] = json!(false);
    vm["initrd"] = json!({ "path": "dir/initrd" });
    vm
}

fn boot(stage: &Stage, test: &str, vms: &[Value], watch: &[&str], memlock: Option<u64>) -> Host {
    let boot = Boot { vms, watch, memlock, ..Boot::default() };
    Host::boot(stage, &folder(test), &boot)
}

/// Waits for a line that tells of a step.
fn wait_for_step(host: &Host, step: &str) {
    wait_until(|| host.log().contains(&format!("vm: {step}: ")), || host.log()).unwrap();
}

#[test]
fn a_pool_that_is_short_or_runs_out_is_told() {
    let Some(stage) = Stage::new() else { return };
    let huge = HugePages::now();
    if huge.available() < 2 {
        return skip("no huge pages are free");
    }
    let mut short = plain("short");
    let pages = huge.total + 1;
    short["memory"] =
        json!({ "size": format!("{}K", pages * huge.page_bytes / 1024), "backing": ["hugetlb"] });
    let mut vm = plain("vm");
    vm["memory"] = json!({ "size": "4M", "backing": ["hugetlb"] });
    let mut host = boot(&stage, "pool", &[short, vm], &["memfd_create"], None);
    host.order("start", "short", true);
    let reason = host.status("short")["reason"].as_str().unwrap().to_owned();
    assert!(reason.starts_with("pool: region 0 of "), "{reason}");
    assert!(reason.contains(&format!("needs {pages} pages of 2 MiB")), "{reason}");

    host.tell_simulator("call memfd_create +1 delay 400 from vm:vm");
    host.order("start", "vm", false);
    wait_for_step(&host, "pool");
    let taken = Taken::all();
    host.wait_for("vm", &["failed"]).unwrap();
    drop(taken);
    let reason = host.status("vm")["reason"].as_str().unwrap().to_owned();
    assert!(reason.starts_with("memory: region 0"), "{reason}");
    assert!(reason.contains("ENOMEM") && reason.contains("another program took"), "{reason}");
    host.live("vm").unwrap();
    host.end();
}

#[test]
fn pages_that_run_out_in_the_middle_of_a_region_are_given_back() {
    let Some(stage) = Stage::new() else { return };
    let huge = HugePages::now();
    let mut vms = vec![plain("vm")];
    if huge.available() >= 2 {
        vms[0]["memory"] = json!({ "size": "4M", "backing": ["hugetlb"] });
    } else {
        skip("no huge pages are free");
    }
    let mut second = plain("second");
    second["regions"] = steps::victim(Dialect::Ack61, "base")["regions"].clone();
    vms.push(second);
    let mut host = boot(&stage, "middle", &vms, &["madv_populate"], None);
    for vm in ["vm", "second"] {
        host.live(vm).unwrap();
    }
    let before = host.look_when_settled();
    // The first call to lend asks whether the driver can. One page of two, a part of a region of small ones, and the second region after a whole first.
    for (vm, fault, step) in [
        ("vm", "madv_populate +1 partial 1", "memory"),
        ("vm", "ANDROID_LEND_USER_MEM +2 partial 1", "region"),
        ("second", "madv_populate +1 partial 600", "memory"),
        ("second", "madv_populate +2 partial 7", "memory"),
        ("second", "ANDROID_LEND_USER_MEM +2 partial 600", "region"),
        ("second", "SET_USER_MEM_REGION +1 partial 7", "region"),
    ] {
        host.forget_changes();
        host.tell_simulator(&format!("call {fault} from vm:{vm}"));
        host.order("start", vm, false);
        let state = host.wait_for(vm, &["failed", "running"]).unwrap();
        let reason = host.status(vm)["reason"].to_string();
        assert_eq!(state, "failed", "{fault}: {reason}");
        assert!(reason.starts_with(&format!("\"{step}: ")), "{fault}: {reason}");
        assert!(reason.contains("ENOMEM"), "{fault}: {reason}");
        host.wait_for_nothing_left(&before, huge).unwrap();
        host.tell_simulator("forgive");
        host.live(vm).unwrap();
    }
    host.end();
}

/// All huge pages that a mapping can have, promised to one that nobody touches.
struct Taken {
    address: *mut libc::c_void,
    bytes: usize,
}

impl Taken {
    fn all() -> Self {
        let huge = HugePages::now();
        let bytes = usize::try_from(huge.available() * huge.page_bytes).unwrap();
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                -1,
                0,
            )
        };
        assert_ne!(address, libc::MAP_FAILED);
        Self { address, bytes }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // SAFETY: the mapping made above, which nothing points into.
        unsafe { libc::munmap(self.address, self.bytes) };
    }
}

#[test]
fn a_limit_on_locked_memory_is_told_and_a_higher_one_is_enough() {
    let Some(stage) = Stage::new() else { return };
    if !nix::unistd::geteuid().is_root() {
        return skip("only root has the capability to lose");
    }
    let host = boot(&stage, "memlock", &[plain("vm")], &[], Some(1 << 20));
    host.order("start", "vm", true);
    let status = host.status("vm");
    assert_eq!(status["state"], "failed");
    let reason = status["reason"].as_str().unwrap();
    for words in
        ["pool: the VM pins 4 MiB", "RLIMIT_MEMLOCK allows 1 MiB", "memlock-low", "rlimit memlock"]
    {
        assert!(reason.contains(words), "{words}: {reason}");
    }
    host.end();
    let host = boot(&stage, "memlock", &[plain("vm")], &[], Some(6 << 20));
    host.live("vm").unwrap();
    host.end();
}

/// Each hangs one VM's launch for good, all at once. The timeout ends them, but the last: a worker in START is
/// killed by a person alone.
const HANGS: [&str; 11] = [
    "openat",
    "pread64",
    "memfd_create",
    "ftruncate",
    "madvise",
    "OPEN",
    "CREATE_VM",
    "ANDROID_LEND_USER_MEM",
    "SET_DTB_CONFIG",
    "ADD_FUNCTION",
    "START",
];

#[test]
fn a_launch_that_hangs_ends_with_its_timeout() {
    let Some(stage) = Stage::new() else { return };
    let mut vms: Vec<Value> = (0..HANGS.len())
        .map(|index| {
            let mut vm = plain(&format!("hang{index}"));
            vm["vcpus"] = json!({ "scheduling": "proxy" });
            vm["start"] = json!({ "timeout": "2s" });
            vm
        })
        .collect();
    let mut slow = plain("slow");
    slow["start"] = json!({ "timeout": "20s" });
    vms.push(slow);
    let watch = ["openat", "pread64", "memfd_create", "ftruncate", "madvise"];
    let mut host = boot(&stage, "hangs", &vms, &watch, None);
    let before = host.look_when_settled();
    let huge = HugePages::now();
    for (index, call) in HANGS.iter().enumerate() {
        host.tell_simulator(&format!("call {call} +1 hang from vm:hang{index}"));
    }
    host.tell_simulator("call START +1 delay 600 from vm:slow");
    host.order("start", "slow", false);
    for index in 0..HANGS.len() {
        host.order("start", &format!("hang{index}"), false);
    }
    for (index, call) in HANGS.iter().enumerate() {
        let name = format!("hang{index}");
        if *call == "START" {
            let stuck = || host.status(&name)["stuck"] == true;
            wait_until(stuck, || host.status(&name).to_string()).unwrap();
            let status = host.status(&name);
            assert_eq!(status["state"], "stopping", "{status}");
            let reason = status["reason"].as_str().unwrap();
            assert!(reason.starts_with("no start within 2 s"), "{status}");
            assert!(reason.contains("a resource manager that does not answer"), "{status}");
            host.order("kill", &name, true);
            continue;
        }
        wait_until(|| host.status(&name)["state"] == "crashed", || host.status(&name).to_string())
            .unwrap();
        let status = host.status(&name);
        assert!(
            status["reason"].as_str().unwrap().starts_with("no start within 2 s"),
            "{call}: {status}"
        );
        assert_eq!(status["last_end"]["reason"], "timeout", "{call}");
        let log = host.log();
        let errors = log.lines().filter(|line| line.contains(&format!("E gunyahd: {name}: ")));
        assert_eq!(errors.count(), 1, "{call}: {log}");
    }
    assert_eq!(host.status("slow")["state"], "running");
    assert_eq!(host.status("slow")["restarts"], 0);
    host.order("stop", "slow", true);
    host.wait_for_nothing_left(&before, huge).unwrap();
    host.tell_simulator("forgive");
    for index in 0..HANGS.len() {
        host.live(&format!("hang{index}")).unwrap();
    }
    host.end();
}
