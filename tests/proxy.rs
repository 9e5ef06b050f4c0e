// SPDX-License-Identifier: Apache-2.0
//! Proxy-scheduled VMs of the whole program on the simulator's null engine: ends, stops, consoles.
#![allow(clippy::unwrap_used)] // A test ends there.

mod host;

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{json, Value};

use host::{Host, PATIENCE};

/// Boots a VM whose guest does nothing at all.
fn boot(test: &str, script: &str, changes: &Value) -> Option<Host> {
    let mut config = json!({ "vcpus": { "count": 2, "scheduling": "proxy" } });
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    Host::boot(test, "null", script, &image(), &config)
}

/// The smallest arm64 Image: a branch to itself and the header that names its size.
fn image() -> Vec<u8> {
    let mut image = vec![0; 4096];
    image[..4].copy_from_slice(&0x1400_0000u32.to_le_bytes());
    image[16..24].copy_from_slice(&4096u64.to_le_bytes());
    // Anywhere in memory, 4 KiB pages, little endian.
    image[24..32].copy_from_slice(&0xau64.to_le_bytes());
    image[56..60].copy_from_slice(b"ARM\x64");
    image
}

#[test]
fn every_end_has_its_state_and_reason() {
    for (end, state, reason) in [
        ("exit off", "stopped", "power-off"),
        ("exit vm-exit", "stopped", "power-off"),
        ("exit reset", "stopped", "reset"),
        ("exit watchdog", "crashed", "watchdog"),
        ("exit error", "crashed", "hypervisor-error"),
        ("exit abort", "crashed", "external-abort"),
        ("end 3 0", "crashed", "crashed"),
        ("end 1 0", "crashed", "load-failed"),
    ] {
        let script = format!("vm 1 {end} after 20\n");
        let Some(host) = boot("ends", &script, &json!({})) else {
            return;
        };
        let status = host.wait_until(|status| status["last_end"].is_object());
        let status = match status["state"].as_str() {
            Some("stopping") => host.wait_for(state),
            _ => status,
        };
        assert_eq!(status["state"], state, "{end}: {status:#}");
        assert_eq!(status["last_end"]["reason"], reason, "{end}: {status:#}");
        let detail = status["last_end"]["detail"].as_str().unwrap();
        assert!(detail.starts_with("status "), "{end}: {detail}");
        assert_eq!(status["end_visible"], true);
    }
}

#[test]
fn a_reset_starts_again_at_once_and_is_no_crash() {
    let script = "vm 1 exit reset after 20\n";
    let changes = json!({ "restart": { "policy": "on-failure" } });
    let Some(host) = boot("reset", script, &changes) else {
        return;
    };
    let status =
        host.wait_until(|status| status["state"] == "running" && status["resets"] == json!(1));
    assert_eq!(status["restarts"], json!(0), "{status:#}");
    assert_eq!(status["last_end"]["reason"], "reset");
}

#[test]
fn busy_around_the_end_is_waited_out() {
    let script = "vm 1 busy 30\nvm 1 exit watchdog after 50\n";
    let Some(host) = boot("busy", script, &json!({})) else {
        return;
    };
    assert_eq!(host.wait_for("crashed")["last_end"]["reason"], "watchdog");
}

#[test]
fn an_end_that_is_never_reported_is_noticed() {
    let script = "call VCPU_RUN 1+ errno ENODEV\n";
    let Some(host) = boot("unreported", script, &json!({})) else {
        return;
    };
    let status = host.wait_for("crashed");
    assert_eq!(status["last_end"]["reason"], "unreported");
    let detail = status["last_end"]["detail"].as_str().unwrap();
    assert!(detail.contains("ENODEV"), "{detail}");
}

#[test]
fn a_run_that_fails_names_errno_cause_and_cure() {
    let script = "call VCPU_RUN 1 errno EIO\n";
    let Some(host) = boot("eio", script, &json!({})) else {
        return;
    };
    let status = host.wait_for("failed");
    let reason = status["reason"].as_str().unwrap();
    for word in ["VCPU_RUN", "EIO", "hugetlb", "thp"] {
        assert!(reason.contains(word), "{word}: {reason}");
    }
}

#[test]
fn stop_of_four_vcpus_is_prompt_and_leaves_nothing() {
    let changes = json!({
        "vcpus": { "count": 4, "scheduling": "proxy", "affinity": [[0]] },
        "console": {},
    });
    let Some(host) = boot("stop", "", &changes) else {
        return;
    };
    let running = host.wait_for("running");
    let worker = running["pid"].as_i64().unwrap();
    let threads = || fs::read_dir(format!("/proc/{worker}/task")).map_or(0, Iterator::count);
    let deadline = Instant::now() + PATIENCE;
    // Main thread, console, four vCPUs.
    while threads() != 6 {
        assert!(Instant::now() < deadline, "{} threads", threads());
        std::thread::sleep(Duration::from_millis(5));
    }
    let names: Vec<String> = fs::read_dir(format!("/proc/{worker}/task"))
        .unwrap()
        .map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap())
        .collect();
    for name in ["vcpu0-vm\n", "vcpu3-vm\n", "console\n", "vm:vm\n"] {
        assert!(names.iter().any(|found| found == name), "{name}: {names:?}");
    }
    let supervisor = parent_of(worker);
    let fds_while_running = open_fds(supervisor);
    let begun = Instant::now();
    assert!(host.ask(&["stop", "vm"]).status.success());
    assert!(begun.elapsed() < PATIENCE, "the stop_timeout");
    assert!(!Path::new(&format!("/proc/{worker}")).exists());
    // Channel and pidfd of the worker are closed.
    assert_eq!(open_fds(supervisor), fds_while_running - 2);
    for _ in 0..3 {
        assert!(host.ask(&["start", "vm"]).status.success());
        assert_eq!(open_fds(supervisor), fds_while_running);
        assert!(host.ask(&["stop", "vm"]).status.success());
        assert_eq!(open_fds(supervisor), fds_while_running - 2);
    }
}

fn parent_of(pid: i64) -> i64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    line.unwrap().trim().parse().unwrap()
}

// Connections of gunyahctl come and go; the ones counted here stay.
fn open_fds(pid: i64) -> usize {
    let count = || {
        fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .filter_map(|fd| fs::read_link(fd.ok()?.path()).ok())
            .count()
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (first, ()) = (count(), std::thread::sleep(Duration::from_millis(50)));
        if first == count() {
            return first;
        }
        assert!(Instant::now() < deadline, "fds come and go all the time");
    }
}

#[test]
fn a_killed_worker_is_a_crash_and_starts_again() {
    let changes = json!({ "restart": { "policy": "on-failure", "backoff": "10ms" } });
    let Some(host) = boot("kill", "", &changes) else {
        return;
    };
    let first = host.wait_for("running")["pid"].as_i64().unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(first).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    let status = host
        .wait_until(|status| status["state"] == "running" && status["pid"].as_i64() != Some(first));
    assert_eq!(status["restarts"], json!(1));
    assert_eq!(status["last_end"]["reason"], "worker-died");
}

#[test]
fn a_console_is_there_while_its_vm_runs() {
    let Some(host) = boot("console", "", &json!({ "console": {} })) else {
        return;
    };
    host.wait_for("running");
    let mut console = host.ctl(&["console", "vm", "--follow"]);
    let console =
        console.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // In its pipe or not, nothing was printed: a guest of the null engine never is.
    let again = host.ask(&["console", "vm"]);
    assert!(again.status.success(), "{again:?}");
    assert!(host.ask(&["stop", "vm"]).status.success());
    let output = console.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout.is_empty());
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("[vm: the VM is closed]"), "{told}");

    let refused = host.ask(&["console", "vm"]);
    assert_eq!(refused.status.code(), Some(1));
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(told.contains("vm is stopped"), "{told}");
}

#[test]
fn a_client_too_many_is_sent_away_and_does_not_come_back() {
    let Some(host) = boot("many", "", &json!({ "console": {} })) else {
        return;
    };
    host.wait_for("running");
    let look_on = || {
        let mut console = host.ctl(&["console", "vm", "--follow"]);
        console.stdin(Stdio::null()).stderr(Stdio::piped());
        console.spawn().unwrap()
    };
    let mut clients: Vec<_> = (0..gunyahd::console::MAX_CLIENTS).map(|_| look_on()).collect();
    // Only who comes to a full console is told so.
    let refused = loop {
        let mut client = look_on();
        let mut told = String::new();
        let deadline = Instant::now() + Duration::from_secs(3);
        while client.try_wait().unwrap().is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        if client.try_wait().unwrap().is_some() {
            std::io::Read::read_to_string(&mut client.stderr.take().unwrap(), &mut told).unwrap();
            break told;
        }
        clients.push(client);
    };
    assert_eq!(refused.matches("16 clients already").count(), 1, "{refused}");
    for mut client in clients {
        client.kill().unwrap();
        client.wait().unwrap();
    }
}

#[test]
fn a_vm_without_a_console_says_so() {
    let Some(host) = boot("none", "", &json!({})) else {
        return;
    };
    host.wait_for("running");
    let refused = host.ask(&["console", "vm"]);
    assert_eq!(refused.status.code(), Some(1));
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(told.contains("no `console` in its file"), "{told}");
}
