// SPDX-License-Identifier: Apache-2.0
//! What is counted.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use gunyah::Dialect;
use serde_json::{json, Value};

use crate::guest;
use crate::host::{count, private_kib, wake_ups, Host};
use crate::Bench;

/// A supervisor and a worker with four vCPUs, a console and a disk, at rest: of the programs that are timed, and of
/// those that a device gets.
pub fn footprint(bench: &Bench) -> Value {
    let mut rows = at_rest(bench, &bench.binaries, "timed");
    match device_programs(bench) {
        Some(programs) => rows.extend(at_rest(bench, &programs, "device's")),
        None => println!("no programs as a device gets them: cargo xtask dist makes them"),
    }
    Value::Array(rows)
}

/// A folder with the gunyahd that a device gets, and the simulator.
fn device_programs(bench: &Bench) -> Option<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or(Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    let gunyahd = target.join("dist").join(std::env::consts::ARCH).join("vendor/bin/gunyahd");
    let folder = bench.dir.join("device");
    fs::create_dir_all(&folder).unwrap();
    for program in [gunyahd.is_file().then_some(gunyahd)?, bench.binaries.join("gunyah-sim")] {
        symlink(&program, folder.join(program.file_name().unwrap())).unwrap();
    }
    Some(folder)
}

fn at_rest(bench: &Bench, binaries: &Path, whose: &str) -> Vec<Value> {
    let mut vm = guest::small("vm", &bench.dir);
    vm["vcpus"] = json!({ "count": 4, "scheduling": "proxy" });
    vm["console"] = json!({ "virtio": cfg!(feature = "devices") });
    if cfg!(feature = "devices") {
        vm["disks"] = json!([{ "path": bench.dir.join("disk"), "readonly": true }]);
    }
    let host = Host::boot(binaries, &bench.dir, Dialect::Ack61, &[vm], &[]);
    host.done("start", "vm");
    // The last thing that the worker of a guest at rest does.
    host.wait_for_log("[vcpu-all-stalled]");
    std::thread::sleep(Duration::from_secs(1));
    let processes = host.processes();
    let wakes = || processes.iter().map(|(_, pid)| wake_ups(*pid)).collect::<Vec<_>>();
    let (seconds, before) = (if bench.brief { 10 } else { 60 }, wakes());
    std::thread::sleep(Duration::from_secs(seconds));
    println!(
        "{:>8} {:>12} {:>14} {:>8} {:>4} {:>20}",
        "programs", "process", "private KiB", "threads", "fds", "wake-ups a minute"
    );
    let mut rows = Vec::new();
    for (((name, pid), before), after) in processes.iter().zip(before).zip(wakes()) {
        let (kib, threads, fds) = (private_kib(*pid), count(*pid, "task"), count(*pid, "fd"));
        let woken = (after - before) * 60 / seconds;
        println!("{whose:>8} {name:>12} {kib:>14} {threads:>8} {fds:>4} {woken:>20}");
        rows.push(json!({
            "programs": whose, "process": name, "private_kib": kib, "threads": threads, "fds": fds,
            "wake_ups_a_minute": woken,
        }));
    }
    rows
}

/// System calls of one launch, the supervisor's and the worker's, by strace.
pub fn calls(bench: &Bench) -> Value {
    let vms = [guest::small("vm", &bench.dir)];
    let options = ["--no-confinement"];
    let host = Host::boot(&bench.binaries, &bench.dir, Dialect::Ack61, &vms, &options);
    host.done("start", "vm");
    host.done("stop", "vm");
    let supervisor = host.processes()[0].1;
    let file = bench.dir.join("calls");
    let strace = Command::new("strace")
        .args(["-f", "-c", "-U", "calls,name", "-o"])
        .arg(&file)
        .args(["-p", &supervisor.to_string()])
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut strace) = strace else {
        println!("no strace");
        return Value::Null;
    };
    let traced = || {
        let status = fs::read_to_string(format!("/proc/{supervisor}/status")).unwrap();
        !status.lines().any(|line| line == "TracerPid:\t0")
    };
    while !traced() {
        std::thread::sleep(Duration::from_millis(5));
    }
    host.done("start", "vm");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(strace.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    strace.wait().unwrap();
    let text = fs::read_to_string(&file).unwrap();
    let mut by_name = serde_json::Map::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if let (Some(Ok(calls)), Some(name)) = (words.next().map(str::parse::<u64>), words.next()) {
            by_name.insert(name.to_owned(), json!(calls));
        }
    }
    println!("{} of a launch of 4 MiB", by_name.get("total").unwrap_or(&Value::Null));
    Value::Object(by_name)
}
