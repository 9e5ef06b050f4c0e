// SPDX-License-Identifier: Apache-2.0
//! What gunyahd costs, in figures that do not depend on how fast or how busy a machine is: bytes, instructions,
//! system calls, wake-ups, memory. `limits.json` has the limits: what was measured, and a little room. `cargo xtask dist`
//! holds the device's programs to theirs.

#![allow(clippy::unwrap_used)]

mod host;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use host::{Host, PATIENCE};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use serde_json::{json, Value};

/// How long nothing may wake up: more than two looks at vCPUs.
const IDLE: Duration = Duration::from_secs(12);

fn limit(of: &str) -> u64 {
    let limits: Value = serde_json::from_str(include_str!("limits.json")).unwrap();
    let limit = limits.pointer(of).and_then(Value::as_u64);
    limit.unwrap_or_else(|| panic!("limits.json has no {of}"))
}

/// A failure if `found` is more than the limit, or so much less that the limit is none any more.
#[track_caller]
fn hold(of: &str, found: u64) {
    let limit = limit(of);
    println!("{of}: {found} of {limit}");
    assert!(found <= limit, "{of}: {found}, and limits.json allows {limit}");
    let enough = limit - limit / 4;
    assert!(found >= enough, "{of}: {found} is far below {limit}: lower it in limits.json");
}

/// The programs as released, which alone are measured.
fn released() -> Option<PathBuf> {
    let Some(programs) = std::env::var_os("GUNYAHD_BIN_DIR") else {
        host::skip("cargo xtask test limits measures the released programs");
        return None;
    };
    Some(PathBuf::from(programs))
}

fn folder(test: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("gunyahd-limits-{test}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// An arm64 Image of 1 MiB that is not run.
fn image() -> Vec<u8> {
    let mut image = vec![0; 8192];
    image[16..24].copy_from_slice(&(1u64 << 20).to_le_bytes());
    image[56..60].copy_from_slice(b"ARM\x64");
    image
}

/// A VM with most of what a file can ask for.
fn vm(dir: &Path) -> PathBuf {
    fs::write(dir.join("Image"), image()).unwrap();
    fs::write(dir.join("initrd"), [7; 5000]).unwrap();
    let config = json!({
        "name": "vm",
        "memory": { "size": "8M", "backing": ["base"] },
        "regions": [{ "label": 7, "base": "0xa0000000", "size": "64K" }],
        "kernel": { "path": dir.join("Image"), "cmdline": "console=ttyAMA0 quiet panic=-1" },
        "initrd": { "path": dir.join("initrd") },
        "vcpus": { "count": 4 },
        "console": {},
        "ready": { "console_line": "login:" },
        "start": { "priority": 5, "timeout": "10s" },
        "restart": { "policy": "always", "max": 3 },
        "stop": { "console_line": "poweroff" },
    });
    let file = dir.join("vm.json");
    fs::write(&file, config.to_string()).unwrap();
    file
}

#[test]
fn programs_are_small() {
    let Some(programs) = released() else { return };
    // As .cargo/config.toml builds them, here and in CI.
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    if target != "x86_64-unknown-linux-gnu" {
        return host::skip("limits.json has sizes for x86-64 and for devices");
    }
    for program in ["gunyahd", "gunyahctl"] {
        let bytes = fs::metadata(programs.join(program)).unwrap().len();
        hold(&format!("/bytes/{target}/{program}"), bytes);
    }
}

/// From the file to the devicetree, as `gunyahd check` does it without a device.
#[test]
fn a_plan_takes_few_instructions() {
    let Some(programs) = released() else { return };
    let dir = folder("plan");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(programs.join("gunyahd"))
        .args(["check", "--kernel", "ack612"])
        .arg(vm(&dir))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said.lines().find_map(|line| line.split_once("Collected : ")).unwrap();
    hold("/instructions/check", collected.1.trim().parse().unwrap());
    fs::remove_dir_all(&dir).unwrap();
}

/// Those of the supervisor until it forks the worker, and those of the worker until its guest is started.
#[test]
fn a_launch_takes_few_system_calls() {
    let Some(programs) = released() else { return };
    let dir = folder("calls");
    let trace = dir.join("trace");
    let mut simulator = Command::new(programs.join("gunyah-sim"))
        .args(["--engine", "null", "--", "strace", "-f", "-qq", "-Xraw", "-o"])
        .arg(&trace)
        .arg(programs.join("gunyahd"))
        .args(["run", "--no-confinement"])
        .arg(vm(&dir))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = Vec::new();
    for line in BufReader::new(simulator.stderr.take().unwrap()).lines().map_while(Result::ok) {
        if line.contains("vm: running") {
            kill(Pid::from_raw(i32::try_from(simulator.id()).unwrap()), Signal::SIGTERM).unwrap();
        }
        said.push(line);
    }
    simulator.wait().unwrap();
    let text = fs::read_to_string(&trace).unwrap();
    let calls: Vec<(&str, &str)> = text
        .lines()
        .filter(|line| !line.contains(" resumed>") && line.contains('('))
        .map(|line| line.split_once(char::is_whitespace).unwrap())
        .collect();
    let number = format!(", {:#x}", gunyah::uapi::VM_START);
    let start =
        calls.iter().position(|(_, call)| call.contains("ioctl(") && call.contains(&number));
    let start = start.unwrap_or_else(|| panic!("no start: {said:#?}"));
    let (supervisor, worker) = (calls[0].0, calls[start].0);
    let first = calls.iter().position(|(pid, _)| *pid == worker).unwrap();
    let of = |pid: &str, calls: &[(&str, &str)]| {
        let mut table: BTreeMap<String, u64> = BTreeMap::new();
        for (_, call) in calls.iter().filter(|(by, _)| *by == pid) {
            let name = call.trim_start().split('(').next().unwrap();
            *table.entry(name.to_owned()).or_insert(0) += 1;
        }
        table
    };
    for (what, table) in
        [("start", of(supervisor, &calls[..first])), ("launch", of(worker, &calls[..=start]))]
    {
        println!("{what}: {table:?}");
        hold(&format!("/system calls/{what}"), table.values().sum());
    }
    fs::remove_dir_all(&dir).unwrap();
}

/// How often each thread of `pid` was put on a CPU.
fn turns(pid: &str) -> BTreeMap<PathBuf, u64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let turns = threads.map(|thread| {
        let status = thread.unwrap().path().join("status");
        let text = fs::read_to_string(&status).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        (status, line.unwrap().trim().parse().unwrap())
    });
    turns.collect()
}

/// KiB of memory that `pid` alone has written, without its guest's.
fn private_dirty(pid: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let (mut guest, mut sum) = (false, 0);
    for line in text.lines() {
        match line.strip_prefix("Private_Dirty:") {
            Some(kib) if !guest => {
                sum += kib.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
            }
            // A mapping's first line has its name last, and no colon behind its first word.
            None if !line.split(' ').next().unwrap().ends_with(':') => {
                guest = line.contains("/memfd:gunyah:");
            }
            _ => {}
        }
    }
    sum
}

/// A VM with four vCPUs, a console and a disk, whose guest does nothing; none where it cannot be had.
fn at_rest(dialect: &str, disk: &Path) -> Option<(Host, [String; 2])> {
    let changes = json!({
        "vcpus": { "count": 4, "scheduling": "proxy" },
        "console": { "virtio": true },
        "disks": [{ "path": disk, "readonly": true }],
    });
    let host = Host::boot_on(dialect, "idle", "null", "", &image(), &changes)?;
    let worker = host.wait_for("running")["pid"].to_string();
    let status = fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
    let supervisor = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
    let processes = [supervisor.trim().to_owned(), worker];
    Some((host, processes))
}

#[test]
fn nothing_wakes_up_when_nothing_happens_and_little_memory_is_written() {
    let Some(programs) = released() else { return };
    let disk = programs.join("gunyahd");
    // Side by side: it takes half a minute until a worker has said its last.
    let hosts: Vec<_> =
        ["ack61", "ack612"].iter().filter_map(|dialect| at_rest(dialect, &disk)).collect();
    let deadline = Instant::now() + PATIENCE;
    for (host, _) in &hosts {
        while !host.log().contains("[vcpu-all-stalled]") {
            assert!(Instant::now() < deadline, "nothing is said of a still VM: {}", host.log());
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    std::thread::sleep(Duration::from_secs(1));
    let all = || {
        let of = |(_, processes): &(_, [String; 2])| processes.each_ref().map(|pid| turns(pid));
        hosts.iter().map(of).collect::<Vec<_>>()
    };
    let before = all();
    std::thread::sleep(IDLE);
    let after = all();
    let sum = |all: &[[BTreeMap<PathBuf, u64>; 2]]| {
        all.iter().flatten().flat_map(BTreeMap::values).sum::<u64>()
    };
    let woken = sum(&after) - sum(&before);
    println!("/wake-ups: {woken} of {}", limit("/wake-ups"));
    assert!(woken <= limit("/wake-ups"), "in {IDLE:?} of rest: {before:#?} {after:#?}");
    for (_, [supervisor, worker]) in &hosts {
        hold("/private KiB/supervisor", private_dirty(supervisor));
        hold("/private KiB/worker", private_dirty(worker));
    }
}
