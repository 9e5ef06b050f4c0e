// SPDX-License-Identifier: Apache-2.0
//! One file on every kernel: which driver is found, what is asked of it, and what it cannot do.
#![allow(clippy::unwrap_used)] // A test ends there.

mod host;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{json, Value};

use host::{binaries, Host};

const ALL: [&str; 5] = ["lkml-base", "lkml", "ack61", "ack66", "ack612"];

/// An arm64 Image of 64 KiB that is not run.
fn image() -> Vec<u8> {
    let mut image = vec![0; 8192];
    image[16..24].copy_from_slice(&(64u64 << 10).to_le_bytes());
    image[56..60].copy_from_slice(b"ARM\x64");
    image
}

/// A VM of 16 MiB that says nothing of kernels, boots, and its status.
fn boot(dialect: &str, test: &str, changes: &Value) -> Option<Host> {
    let mut config = json!({ "memory": { "size": "16M" } });
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    Host::boot_on(dialect, test, "null", "", &image(), &config)
}

fn steps(status: &Value) -> Vec<&str> {
    status["steps"].as_array().unwrap().iter().filter_map(|step| step["step"].as_str()).collect()
}

fn number(value: &Value) -> u64 {
    match value.as_str() {
        Some(text) => u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap(),
        None => value.as_u64().unwrap(),
    }
}

#[test]
fn the_driver_is_asked_first_and_named_everywhere() {
    for dialect in ALL {
        let backing = json!({ "memory": { "size": "16M", "backing": ["thp"] } });
        let Some(host) = boot(dialect, "named", &backing) else { return };
        let status = host.wait_for("running");
        assert_eq!(status["dialect"], dialect, "{status:#}");
        let first = ["device", "create-vm", "dialect", "images", "plan", "pool", "memory"];
        assert_eq!(steps(&status)[..7], first, "{dialect}");
        let text = String::from_utf8(host.ask(&["status", "vm"]).stdout).unwrap();
        assert!(text.contains(&format!("driver    {dialect}\n")), "{text}");
        let text = String::from_utf8(host.ask(&["status"]).stdout).unwrap();
        assert!(text.ends_with(&format!("driver: {dialect}\n")), "{text}");
        assert!(host.log().contains(&format!("the driver's dialect is {dialect}")), "{dialect}");
    }
}

#[test]
fn each_driver_gets_the_calls_of_its_own_way() {
    for dialect in ALL {
        let backing = json!({ "memory": { "size": "16M", "backing": ["thp"] } });
        let Some(host) = boot(dialect, "calls", &backing) else { return };
        host.wait_for("running");
        let calls = host.calls();
        let names: Vec<&str> = calls.iter().map(|(name, _)| name.as_str()).collect();
        let of = |name: &str| calls.iter().find(|call| call.0 == name).map(|call| call.1.clone());
        let newer = ["ack66", "ack612"].contains(&dialect);
        let mut wanted = vec!["OPEN", "CREATE_VM"];
        wanted.push(match dialect {
            "lkml-base" | "lkml" => "VM_SET_USER_MEM_REGION",
            _ => "VM_ANDROID_LEND_USER_MEM",
        });
        wanted.push("VM_SET_DTB_CONFIG");
        if newer {
            wanted.extend(["VM_SET_BOOT_CONTEXT"; 2]);
        }
        if dialect != "lkml-base" {
            wanted.extend(["VM_ADD_FUNCTION", "VCPU_MMAP_SIZE"]);
        }
        wanted.push("VM_START");
        assert!(names.starts_with(&wanted), "{dialect}: {names:?}");
        // One layout for all: a slot of its own for the devicetree.
        let dtb = of("VM_SET_DTB_CONFIG").unwrap();
        assert_eq!(number(&dtb["size"]), 2 << 20, "{dialect}");
        assert_eq!(number(&dtb["guest_phys_addr"]), 0x8000_0000 + (14 << 20), "{dialect}");
        let memory = of(wanted[2]).unwrap();
        assert_eq!(number(&memory["flags"]), 7);
        let congruent = number(&memory["userspace_addr"]) % (2 << 20);
        assert_eq!(congruent, number(&memory["guest_phys_addr"]) % (2 << 20), "{dialect}");
    }
}

#[test]
fn memory_is_of_the_kind_that_the_driver_likes() {
    for dialect in ["ack66", "ack612"] {
        let Some(host) = boot(dialect, "backing", &json!({})) else { return };
        let status = host.wait_for("running");
        let memory = status["steps"].as_array().unwrap().iter().find(|s| s["step"] == "memory");
        let detail = memory.unwrap()["detail"].as_str().unwrap();
        assert!(detail.starts_with("region 0 16 MiB thp"), "{status:#}");
    }
}

/// What cannot be done is refused before a file is opened.
#[test]
fn what_a_driver_cannot_do_is_refused_first() {
    let by_hypervisor = json!({ "vcpus": { "scheduling": "hypervisor" } });
    let hugetlb = json!({ "memory": { "size": "16M", "backing": "hugetlb" } });
    let shared = json!({ "memory": { "size": "16M", "access": "share" } });
    let kernels = json!({ "kernels": "ack61" });
    for (dialect, changes, name) in [
        ("ack66", &by_hypervisor, "plan-hypervisor-scheduling"),
        ("ack612", &by_hypervisor, "plan-hypervisor-scheduling"),
        ("ack66", &hugetlb, "plan-hugetlb"),
        ("ack612", &shared, "plan-main-shared"),
        ("ack66", &kernels, "plan-kernel-unwanted"),
        ("lkml-base", &json!({ "console": {} }), "plan-no-vcpus"),
    ] {
        let Some(host) = boot(dialect, "refused", changes) else { return };
        let status = host.wait_for("failed");
        let reason = status["reason"].as_str().unwrap();
        assert!(reason.contains(&format!("[{name}]")), "{dialect}: {reason}");
        assert_eq!(steps(&status), ["device", "create-vm", "dialect"], "{dialect} {name}");
    }
}

/// `gunyahd run` with a file whose kernel does not exist: an unfit driver is found before that.
fn run_alone(binaries: &Path, test: &str, options: &[&str], script: &str) -> Output {
    let dir = std::env::temp_dir().join(format!("gunyahd-{test}-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let config = json!({
        "name": "vm", "memory": { "size": "16M" }, "kernel": { "path": "/no/such/Image" },
    });
    fs::write(dir.join("vm.json"), config.to_string()).unwrap();
    fs::write(dir.join("script"), script).unwrap();
    let output = Command::new(binaries.join("gunyah-sim"))
        .args(options)
        .arg("--script")
        .arg(dir.join("script"))
        .arg("--")
        .arg(binaries.join("gunyahd"))
        .arg("run")
        .arg(dir.join("vm.json"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    fs::remove_dir_all(&dir).unwrap();
    output
}

#[test]
fn an_unfit_driver_is_named_before_all_else() {
    let Some(binaries) = binaries("null") else { return };
    for (test, dialect, script, name, word) in [
        ("none", "none", "", "device-enoent", "CONFIG_GUNYAH"),
        ("b2", "qcom-b2", "", "create-vm-enotty", "0xB2"),
        // As SM8550's 5.15 kernels were seen to answer.
        ("b2-einval", "qcom-b2", "call CREATE_VM * errno EINVAL", "create-vm-einval", "0xB2"),
        // A driver that knows VM_MAP_MEM.
        ("lkml15", "lkml", "call UNKNOWN * errno EFAULT", "dialect-unfit", "lkml15"),
    ] {
        let output = run_alone(&binaries, test, &["--dialect", dialect], script);
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(log.contains(&format!("[{name}]")) && log.contains(word), "{test}: {log}");
        assert_eq!(output.status.code(), Some(3), "{test}: {log}");
    }
}

#[test]
fn closing_what_the_hypervisor_schedules_is_warned_of() {
    for (dialect, scheduling) in [("ack61", "hypervisor"), ("lkml-base", "auto")] {
        let changes = json!({
            "memory": { "size": "16M", "backing": "thp" },
            "vcpus": { "scheduling": scheduling },
        });
        let Some(host) = boot(dialect, "deadly", &changes) else { return };
        let status = host.wait_for("running");
        assert_eq!(status["end_visible"], false, "{status:#}");
        // By the plan, to who asked for it.
        assert_eq!(host.log().contains("[plan-hypervisor-stop]"), dialect == "ack61");
        host.ask(&["stop", "vm", "--no-wait"]);
        host.wait_until(|_| host.log().contains("[run-hypervisor-close]"));
    }
}
