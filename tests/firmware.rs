// SPDX-License-Identifier: Apache-2.0
//! A VM that begins in firmware: what the driver is asked, that the guest runs by way of it, and what
//! keeps it from starting.
#![allow(clippy::unwrap_used)] // A test ends there.

mod host;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{json, Value};

use host::assemble::assembled;
use host::Host;

/// Drivers with SET_FW_CONFIG.
const DIALECTS: [&str; 4] = ["ack61", "ack66-early", "ack66", "ack612"];

/// A file of firmware for the simulator, which goes with its test.
struct Firmware(PathBuf);

impl Firmware {
    fn of(test: &str, bytes: &[u8]) -> Self {
        let name = format!("firmware-{test}-{}", std::process::id());
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::write(&file, bytes).unwrap();
        Self(file)
    }

    fn options(&self) -> [&OsStr; 2] {
        ["--firmware".as_ref(), self.0.as_ref()]
    }
}

impl Drop for Firmware {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The firmware of tests/guest.
fn firmware(test: &str) -> Option<Firmware> {
    Some(Firmware::of(test, &assembled("firmware")?))
}

/// A VM of 16 MiB with firmware; `options` are the simulator's.
fn boot(
    dialect: &str,
    test: &str,
    options: &[&OsStr],
    engine: &str,
    changes: &Value,
) -> Option<Host> {
    let kernel = assembled("guest")?;
    let mut config = json!({
        "memory": { "size": "16M", "backing": ["thp"] },
        "firmware": {},
    });
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    Host::boot_with(options, dialect, test, engine, "", &kernel, &config)
}

#[test]
fn the_guest_begins_in_the_firmware_which_goes_on_in_the_kernel() {
    let Some(firmware) = firmware("runs") else { return };
    let options = firmware.options();
    for dialect in DIALECTS {
        let changes = json!({ "console": {}, "cmdline": "end=off" });
        let Some(host) = boot(dialect, "runs", &options, "exec", &changes) else { return };
        let status = host.wait_for("stopped");
        assert_eq!(status["last_end"]["reason"], "power-off", "{dialect}: {status:#}");
        let text = host.log();
        let hello = text.split_once("gunyah.vm: firmware: hello");
        let (before, after) = hello.unwrap_or_else(|| panic!("{dialect}: {text}"));
        assert!(!before.contains("gunyah.vm: guest:"), "{text}");
        assert!(after.contains("guest: cmdline end=off") && after.contains("guest: off"), "{text}");
    }
}

#[test]
fn the_driver_is_told_of_the_firmware_and_of_no_registers() {
    let Some(firmware) = firmware("calls") else { return };
    let options = firmware.options();
    for dialect in DIALECTS {
        let Some(host) = boot(dialect, "calls", &options, "null", &json!({})) else { return };
        host.wait_for("running");
        let calls = host.calls();
        let names: Vec<&str> = calls.iter().map(|(name, _)| name.as_str()).collect();
        let wanted = [
            "OPEN",
            "CREATE_VM",
            "VM_ANDROID_LEND_USER_MEM",
            "VM_ANDROID_LEND_USER_MEM",
            "VM_ANDROID_SET_FW_CONFIG",
            "VM_SET_DTB_CONFIG",
            "VM_ADD_FUNCTION",
            "VCPU_MMAP_SIZE",
            "VM_START",
        ];
        assert!(names.starts_with(&wanted), "{dialect}: {names:?}");
        let (region, range) = (&calls[3].1, &calls[4].1);
        assert_eq!(region["guest_phys_addr"], "0x7fc00000", "{dialect}");
        assert_eq!((&region["label"], &region["flags"]), (&json!(1), &json!(7)));
        assert_eq!(range["guest_phys_addr"], region["guest_phys_addr"]);
        assert_eq!((&range["size"], &region["memory_size"]), (&json!(4 << 20), &json!(4 << 20)));
        assert!(host.log().contains("[plan-firmware-unsigned]"), "{}", host.log());
    }
}

#[test]
fn what_keeps_it_from_starting_is_told() {
    let large = Firmware::of("large", &vec![0; (2 << 20) + 1]);
    let small = json!({ "firmware": { "base": "0x7fe00000", "size": "2M" } });
    let (none, too_large): ([&OsStr; 0], _) = ([], large.options());
    for (dialect, options, changes, errno) in [
        ("ack61", &none[..], &json!({}), "EPERM"),
        ("ack66", &none, &json!({}), "EINVAL"),
        ("ack612", &none, &json!({}), "EINVAL"),
        ("ack61", &too_large, &small, "EINVAL"),
        ("ack66", &too_large, &small, "EINVAL"),
        ("ack612", &too_large, &small, "EINVAL"),
    ] {
        let Some(host) = boot(dialect, "refused", options, "null", changes) else { return };
        let status = host.wait_for("failed");
        let reason = status["reason"].as_str().unwrap();
        assert!(
            reason.contains("[start-firmware]") && reason.contains(errno),
            "{dialect}: {reason}"
        );
        assert!(reason.contains("boot loader"), "{reason}");
    }
}

/// Before anything is opened or taken.
#[test]
fn a_driver_without_the_call_is_refused_first() {
    for dialect in ["lkml-base", "lkml"] {
        let Some(host) = boot(dialect, "without", &[], "null", &json!({})) else { return };
        let status = host.wait_for("failed");
        let reason = status["reason"].as_str().unwrap();
        assert!(reason.contains("[plan-no-firmware]"), "{dialect}: {reason}");
        let steps = status["steps"].as_array().unwrap().iter();
        let steps: Vec<_> = steps.filter_map(|step| step["step"].as_str()).collect();
        assert_eq!(steps, ["device", "create-vm", "dialect"], "{dialect}");
    }
}

/// The tree that the guest gets says who wakes its vCPUs, as the driver says.
#[test]
fn timers_are_the_drivers_where_it_says_so() {
    for (dialect, answer, wanted) in [
        ("ack612", Some("1"), true),
        ("ack612", Some("0"), false),
        ("ack612", None, false),
        ("ack66", Some("1"), false),
    ] {
        let options: Vec<&OsStr> = answer
            .into_iter()
            .flat_map(|answer| ["--timer-wakeups".as_ref(), answer.as_ref()])
            .collect();
        let Some(kernel) = assembled("guest") else { return };
        let config = json!({ "memory": { "size": "16M", "backing": ["thp"] } });
        let Some(host) = Host::boot_with(&options, dialect, "timers", "null", "", &kernel, &config)
        else {
            return;
        };
        host.wait_for("running");
        let asked = host.record().iter().filter(|line| line["call"] == "CHECK_EXTENSION").count();
        assert_eq!(asked, usize::from(dialect == "ack612"), "once, {dialect}");
        let steps = host.status()["steps"].to_string();
        let told = steps.contains("the driver wakes vCPUs by their timers");
        assert_eq!(told, wanted, "{dialect} {answer:?}: {steps}");
    }
}
