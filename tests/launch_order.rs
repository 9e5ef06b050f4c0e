// SPDX-License-Identifier: Apache-2.0
//! A launch makes exactly the driver's calls that it should, in their order, with the values of the
//! plan that `gunyahd check` prints.

#![allow(clippy::unwrap_used)]

mod host;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use serde_json::{json, Value};

/// An arm64 Image of 1 MiB that is not run.
fn image() -> Vec<u8> {
    let mut image = vec![0; 8192];
    image[16..24].copy_from_slice(&(1u64 << 20).to_le_bytes());
    image[56..60].copy_from_slice(b"ARM\x64");
    image
}

/// The calls of a record: name and named arguments.
fn calls(record: &Path) -> Vec<(String, Value)> {
    let text = fs::read_to_string(record).unwrap();
    let mut lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    lines.sort_by_key(|line| line["seq"].as_u64());
    lines
        .into_iter()
        .filter(|line| line["call"].is_string())
        // What the driver is asked to find out its dialect, it refuses.
        .filter(|line| !is_probe(line))
        .map(|line| {
            assert!(line["errno"].is_null() || line["call"] == "VCPU_RUN", "{line}");
            (line["call"].as_str().unwrap().to_owned(), line["args"].clone())
        })
        .collect()
}

fn is_probe(line: &Value) -> bool {
    line["errno"] == "EFAULT" || line["errno"] == "ENOTTY"
}

#[test]
fn one_launch_is_what_its_plan_says() {
    let Some(binaries) = host::binaries("null") else {
        return;
    };
    let dir = std::env::temp_dir().join(format!("gunyahd-launch-order-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("Image"), image()).unwrap();
    fs::write(dir.join("initrd"), [7; 5000]).unwrap();
    let file = dir.join("vm.json");
    let config = json!({
        "name": "vm",
        "memory": { "size": "8M", "backing": ["base"] },
        "regions": [{ "label": 7, "base": "0xa0000000", "size": "64K" }],
        "kernel": { "path": dir.join("Image") },
        "initrd": { "path": dir.join("initrd") },
    });
    fs::write(&file, config.to_string()).unwrap();

    let checked = Command::new(binaries.join("gunyahd"))
        .args(["check", "--json"])
        .arg(&file)
        .output()
        .unwrap();
    let plan = serde_json::from_slice::<Value>(&checked.stdout).unwrap()["vms"][0]["plan"].clone();
    let of_map = |what: &str, inside: bool| {
        let rows = plan["map"].as_array().unwrap();
        rows.iter().find(|row| row["inside"] == inside && row["what"] == what).cloned().unwrap()
    };

    let record = dir.join("record");
    let mut simulator = Command::new(binaries.join("gunyah-sim"))
        .arg("--record")
        .arg(&record)
        .arg("--")
        .arg(binaries.join("gunyahd"))
        .arg("run")
        .arg(&file)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = BufReader::new(simulator.stderr.take().unwrap());
    let mut said = Vec::new();
    for line in log.lines().map_while(Result::ok) {
        if line.contains("vm: running") {
            kill(Pid::from_raw(i32::try_from(simulator.id()).unwrap()), Signal::SIGTERM).unwrap();
        }
        said.push(line);
    }
    simulator.wait().unwrap();
    assert!(said.iter().any(|line| line.contains("vm: running")), "{said:#?}");

    let calls = calls(&record);
    let mut names: Vec<&str> = calls.iter().map(|(name, _)| name.as_str()).collect();
    names.retain(|name| *name != "VCPU_RUN");
    assert_eq!(
        names,
        [
            "OPEN",
            "CREATE_VM",
            "VM_ANDROID_LEND_USER_MEM",
            "VM_SET_USER_MEM_REGION",
            "VM_SET_DTB_CONFIG",
            "VM_ADD_FUNCTION",
            "VCPU_MMAP_SIZE",
            "VM_START"
        ]
    );
    let main = of_map("memory", false);
    assert_eq!(calls[2].1["guest_phys_addr"], main["base"]);
    assert_eq!(calls[2].1["memory_size"], main["size"]);
    assert_eq!(calls[2].1["label"], 0);
    assert_eq!(calls[2].1["flags"], 7);
    assert_eq!(calls[3].1["guest_phys_addr"], "0xa0000000");
    assert_eq!(calls[3].1["memory_size"], 64 << 10);
    assert_eq!(calls[3].1["label"], 7);
    assert_eq!(calls[3].1["flags"], 3);
    assert_eq!(calls[4].1["guest_phys_addr"], plan["dtb"]["base"]);
    assert_eq!(calls[4].1["size"], plan["dtb"]["size"]);
    fs::remove_dir_all(&dir).unwrap();
}
