// SPDX-License-Identifier: Apache-2.0
//! The reserve: taken once, given, cleared, and given again.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use gunyahd::memory;
use gunyahd::status::control::{Request, ReserveStatus, Response};
use gunyahd::status::State;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::{json, Value};

use crate::host::Host;
use crate::skip::skip;

/// What no image has.
const SECRET: &[u8; 16] = b"of another guest";

/// Folios of the VM that most tests have.
const FOLIOS: u64 = 8;

fn size(folios: u64) -> String {
    (folios * memory::folio()).to_string()
}

/// A VM of so many folios, and `more`.
fn vm(folios: u64, more: Value) -> Value {
    let mut config = json!({ "memory": { "size": folios * memory::folio() } });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

fn reserve(host: &Host) -> ReserveStatus {
    match gunyahd::client::ask(&host.socket(), &Request::Status { vm: None }).unwrap() {
        Response::Vms(all) => all.reserve.expect("a reserve"),
        other => panic!("{other:?}"),
    }
}

/// The ranges of a process that are of the reserve.
fn ranges(process: Pid) -> Vec<(u64, u64)> {
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let of_reserve = maps.lines().filter(|line| line.contains("/memfd:gunyah:reserve"));
    of_reserve
        .map(|line| {
            let (from, to) = line.split_whitespace().next().unwrap().split_once('-').unwrap();
            let number = |text| u64::from_str_radix(text, 16).unwrap();
            (number(from), number(to))
        })
        .collect()
}

fn bytes(ranges: &[(u64, u64)]) -> u64 {
    ranges.iter().map(|(from, to)| to - from).sum()
}

/// Fills all that the guest of `worker` has, as the guest may: these are its pages.
fn fill(worker: Pid) {
    let memory = File::options().write(true).open(format!("/proc/{worker}/mem")).unwrap();
    let secret = SECRET.repeat(memory_page() / SECRET.len());
    for (from, to) in ranges(worker) {
        for at in (from..to).step_by(secret.len()) {
            memory.write_all_at(&secret, at).unwrap();
        }
    }
}

fn memory_page() -> usize {
    usize::try_from(memory::folio()).unwrap()
}

/// Where the guest of `worker` finds the bytes of another.
fn found(worker: Pid) -> Option<u64> {
    let memory = File::open(format!("/proc/{worker}/mem")).unwrap();
    let mut bytes = vec![0; memory_page()];
    for (from, to) in ranges(worker) {
        for at in (from..to).step_by(bytes.len()) {
            memory.read_exact_at(&mut bytes, at).unwrap();
            if let Some(offset) = bytes.chunks(SECRET.len()).position(|part| part == SECRET) {
                return Some(at + u64::try_from(offset * SECRET.len()).unwrap());
            }
        }
    }
    None
}

/// The page frames of the reserve that `process` has. `None`, and a loud word, where the kernel hides them.
fn frames(process: Pid) -> Option<Vec<u64>> {
    if !nix::unistd::Uid::effective().is_root() {
        skip("only root sees page frames");
        return None;
    }
    let pagemap = File::open(format!("/proc/{process}/pagemap")).unwrap();
    let page =
        u64::try_from(nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).unwrap().unwrap());
    let page = page.unwrap();
    let ranges = ranges(process);
    let pages = ranges.iter().flat_map(|(from, to)| (from / page)..(to / page));
    let frame = |number: u64| {
        let mut entry = [0; 8];
        pagemap.read_exact_at(&mut entry, number * 8).unwrap();
        u64::from_ne_bytes(entry) & ((1 << 55) - 1)
    };
    let frames: Vec<u64> = pages.map(frame).collect();
    assert!(!frames.is_empty() && !frames.contains(&0), "{frames:x?}");
    Some(frames)
}

#[test]
fn every_restart_has_the_pages_of_the_first_start() {
    let mut host = Host::of("ack66");
    host.vm("a", vm(FOLIOS, json!({}))).boot_with(&["--reserve", &size(FOLIOS)]);
    host.until("a", State::Running);
    let Some(first) = frames(host.worker("a")) else { return };
    for _ in 0..10 {
        let (code, text) = host.told(&["restart", "a"]);
        assert_eq!(code, 0, "{text}");
        let folios = host.status("a").folios.expect("folios");
        assert_eq!((folios.huge, folios.of, folios.reserved), (FOLIOS, FOLIOS, FOLIOS));
        assert_eq!(frames(host.worker("a")).as_ref(), Some(&first));
    }
    let told = reserve(&host);
    assert_eq!((told.folios, told.huge, told.free), (FOLIOS, FOLIOS, 0));
    let (_, text) = host.told(&["status"]);
    assert!(text.contains("8 huge, 0 free"), "{text}");
    let (_, text) = host.told(&["status", "a"]);
    assert!(text.contains("8 of 8 are huge, 8 of the reserve"), "{text}");
    host.ctl(&["stop", "a"]);
    assert_eq!(reserve(&host).free, FOLIOS);
    assert_eq!(host.shut_down(), Some(0));
}

/// In every way in which a run can end.
#[test]
fn no_vm_sees_the_bytes_of_another() {
    let mut host = Host::of("ack612");
    let asked = json!({ "autostart": false, "restart": { "policy": "never" } });
    host.vm("a", vm(FOLIOS, asked.clone()));
    // Two of another size have its folios later, and some that nobody had.
    host.vm("b", vm(FOLIOS / 2, asked.clone())).vm("c", vm(FOLIOS, asked));
    host.boot_with(&["--reserve", &size(FOLIOS + 4)]);
    let worker = |name: &str| {
        let (code, text) = host.told(&["start", name]);
        assert_eq!(code, 0, "{text}");
        host.worker(name)
    };
    let mut run = 0;
    for end in ["stop", "kill", "crash", "abort"] {
        let a = worker("a");
        run += 1;
        assert_eq!(found(a), None, "a itself, before {end}");
        assert_eq!(bytes(&ranges(a)), FOLIOS * memory::folio());
        fill(a);
        assert!(found(a).is_some());
        match end {
            "crash" => {
                host.tell_simulator(&format!("vm {run} exit 5"));
                host.until("a", State::Crashed);
            }
            "abort" => {
                nix::sys::signal::kill(a, Signal::SIGABRT).unwrap();
                host.until("a", State::Crashed);
            }
            command => drop(host.ctl(&[command, "a"])),
        }
        for name in ["b", "c"] {
            let next = worker(name);
            run += 1;
            assert_eq!(found(next), None, "{name}, after {end}");
            fill(next);
        }
        for name in ["b", "c"] {
            host.ctl(&["stop", name]);
        }
        let told = reserve(&host);
        assert_eq!((told.free, told.huge), (FOLIOS + 4, FOLIOS + 4), "after {end}");
    }
    assert_eq!(host.shut_down(), Some(0));
}

/// The worker's fds and mappings, once its guest runs.
#[test]
fn a_worker_has_no_way_to_the_folios_of_another() {
    let mut host = Host::of("ack66");
    host.vm("a", vm(FOLIOS, json!({}))).vm("b", vm(FOLIOS, json!({})));
    host.boot_with(&["--reserve", &size(2 * FOLIOS)]);
    let workers = ["a", "b"].map(|name| {
        host.until(name, State::Running);
        host.worker(name)
    });
    for worker in workers {
        let fds = fs::read_dir(format!("/proc/{worker}/fd")).unwrap();
        let names: Vec<_> =
            fds.map(|fd| fs::read_link(fd.unwrap().path()).unwrap_or_default()).collect();
        let of_reserve = names.iter().filter(|name| name.to_string_lossy().contains("reserve"));
        assert_eq!(of_reserve.count(), 0, "{names:?}");
        assert_eq!(bytes(&ranges(worker)), FOLIOS * memory::folio());
    }
    let [Some(a), Some(b)] = workers.map(frames) else { return };
    assert!(a.iter().all(|frame| !b.contains(frame)), "{a:?} {b:?}");
    // The supervisor keeps them locked, and looks at none.
    let supervisor = fs::read_to_string(format!("/proc/{}/smaps", host.pid())).unwrap();
    let mut lines = supervisor.lines().skip_while(|line| !line.contains("gunyah:reserve"));
    let head = lines.next().unwrap();
    assert!(head.contains(" ---s "), "{head}");
    let flags = lines.find(|line| line.starts_with("VmFlags:")).unwrap();
    assert!(flags.contains(" lo "), "{flags}");
    assert_eq!(host.shut_down(), Some(0));
}

#[test]
fn a_short_reserve_is_named_or_passed_over() {
    let mut host = Host::of("ack66");
    let only = json!({
        "memory": { "size": FOLIOS * memory::folio(), "backing": "reserve" },
        "restart": { "policy": "never" },
    });
    host.vm("only", only).vm("else", vm(FOLIOS, json!({})));
    host.boot_with(&["--reserve", &size(FOLIOS - 2)]);
    host.until("only", State::Failed).until("else", State::Running);
    let reason = host.status("only").reason;
    assert!(reason.contains("[reserve-short]"), "{reason}");
    let needs = "needs 8 folios of 2 MiB, 6 free of 6 reserved";
    assert!(memory::folio() != 2 << 20 || reason.contains(needs), "{reason}");
    assert!(reason.contains("set ro.vendor.gunyah.reserve="), "{reason}");
    let status = host.status("else");
    assert_eq!(status.folios.expect("folios").reserved, 0);
    assert!(host.log().contains("[pool-other-backing]"), "{}", host.log());
    assert_eq!(reserve(&host).free, FOLIOS - 2);
    assert_eq!(host.shut_down(), Some(0));
}

#[test]
fn without_a_reserve_only_who_insists_fails() {
    let mut host = Host::of("ack66");
    let only = json!({
        "memory": { "size": FOLIOS * memory::folio(), "backing": "reserve" },
        "restart": { "policy": "never" },
    });
    host.vm("only", only).vm("else", vm(FOLIOS, json!({}))).boot();
    host.until("only", State::Failed).until("else", State::Running);
    let reason = host.status("only").reason;
    assert!(reason.contains("[reserve-none]"), "{reason}");
    assert!(!host.log().contains("pool-other-backing"), "{}", host.log());
    assert_eq!(host.shut_down(), Some(0));
}

/// Up to 6.1 nobody knows when a folio may be given again.
#[test]
fn an_older_kernel_gets_none_of_it() {
    let mut host = Host::of("ack61");
    let only = json!({
        "memory": { "size": FOLIOS * memory::folio(), "backing": "reserve" },
        "restart": { "policy": "never" },
    });
    host.vm("only", only).boot_with(&["--reserve", &size(FOLIOS)]);
    host.until("only", State::Failed);
    let reason = host.status("only").reason;
    assert!(reason.contains("[plan-reserve]"), "{reason}");
    assert_eq!(reserve(&host).free, FOLIOS);
    assert_eq!(host.shut_down(), Some(0));
}

/// A VM that the kernel has not taken down yet keeps its folios, whoever asks for them.
#[test]
fn what_is_not_back_is_not_given_again() {
    let mut host = Host::of("ack66");
    let insists = json!({
        "autostart": false,
        "memory": { "size": FOLIOS * memory::folio(), "backing": "reserve" },
        "restart": { "policy": "never" },
    });
    host.vm("a", vm(FOLIOS, json!({}))).vm("b", insists);
    host.script("teardown delay 3600000").boot_with(&["--reserve", &size(FOLIOS)]);
    host.until("a", State::Running);
    host.ctl(&["stop", "a", "--no-wait"]);
    let mut watch = host.watch();
    host.ctl(&["start", "b", "--no-wait"]);
    // It fails after its plan, and is told when its own VM is closed.
    host.wait_until("b has a plan", |host| host.log().contains("b: plan: "));
    assert_eq!(host.status("a").state, State::Stopping);
    host.tell_simulator("teardown over");
    watch.until_reason("b", "0 free of 8 reserved");
    let reason = &watch.changes.last().unwrap().reason;
    assert!(reason.contains("[reserve-short]"), "{reason}");
    host.until("a", State::Stopped);
    let (code, text) = host.told(&["start", "b"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(host.shut_down(), Some(0));
}

/// After a START that failed, the driver may have lost a page to the hypervisor.
#[test]
fn a_start_that_failed_leaves_its_folios_to_the_kernel() {
    let mut host = Host::of("ack66");
    host.vm("a", vm(FOLIOS, json!({ "restart": { "policy": "never" } })));
    host.script("call START 1 errno ENODEV").boot_with(&["--reserve", &size(FOLIOS)]);
    host.until("a", State::Failed);
    let (code, text) = host.told(&["start", "a"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(found(host.worker("a")), None);
    let told = reserve(&host);
    assert_eq!((told.huge, told.free), (FOLIOS, 0));
    assert_eq!(host.shut_down(), Some(0));
}

/// As on a host whose memory is in pieces: no huge page comes, and everybody is told.
#[test]
fn what_is_not_huge_is_said() {
    let mut host = Host::of("ack66");
    host.vm("a", vm(FOLIOS, json!({}))).without_huge_pages();
    host.boot_with(&["--reserve", &size(FOLIOS)]);
    host.until("a", State::Running);
    let told = reserve(&host);
    assert_eq!((told.folios, told.huge, told.free), (FOLIOS, 0, 0));
    let (_, text) = host.told(&["status"]);
    for word in ["8 folios", "0 huge", "[reserve-small-folios]"] {
        assert!(text.contains(word), "{text}");
    }
    let folios = host.status("a").folios.expect("folios");
    assert_eq!((folios.huge, folios.of), (0, FOLIOS));
    assert!(host.log().contains("[memory-small-folios]"), "{}", host.log());
    assert_eq!(host.shut_down(), Some(0));
}

#[test]
fn more_than_the_host_has_is_not_tried() {
    let mut host = Host::of("ack66");
    host.vm("a", vm(FOLIOS, json!({}))).boot_with(&["--reserve", "64000G"]);
    host.until("a", State::Running);
    let (_, text) = host.told(&["status"]);
    assert!(text.contains("problem: ") && text.contains("[reserve-not-taken]"), "{text}");
    assert_eq!(host.shut_down(), Some(0));
}

#[test]
fn one_that_is_not_locked_says_so() {
    let mut host = Host::of("ack66");
    host.without_locks().boot_with(&["--reserve", &size(FOLIOS)]);
    let (_, text) = host.told(&["status"]);
    assert!(text.contains("[reserve-not-locked]"), "{text}");
    assert_eq!(reserve(&host).huge, FOLIOS);
    assert_eq!(host.shut_down(), Some(0));
}
