// SPDX-License-Identifier: Apache-2.0
//! Real arm64 Linux, launched by gunyahd on the simulator's QEMU engine.

#![allow(clippy::unwrap_used)] // A test ends there.

mod host;

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{json, Value};

use host::skip;

// A guest boots in 3 s on two free cores; a busy machine needs many times that.
const PATIENCE: Duration = Duration::from_secs(120);
const REACHED: &str = "gunyah guest: init reached";

// One guest at a time: two cores emulate one guest well and four badly.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Programs and guest files, or a loud word about what is missing.
struct Stage {
    binaries: PathBuf,
    guest: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Stage {
    fn new() -> Option<Self> {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let here = Path::new(env!("CARGO_BIN_EXE_gunyahd")).parent().expect("a directory");
        let path = |variable: &str, default: PathBuf| {
            std::env::var_os(variable).map_or(default, PathBuf::from)
        };
        let stage = Self {
            binaries: path("GUNYAHD_BIN_DIR", here.to_owned()),
            guest: path(
                "GUNYAHD_GUEST_DIR",
                Path::new(env!("CARGO_MANIFEST_DIR")).join("target/guest"),
            ),
            _turn: turn,
        };
        for (file, cure) in [
            (stage.binaries.join("gunyah-sim"), "cargo build -p gunyah-sim"),
            (stage.guest.join("Image"), "cargo xtask setup"),
        ] {
            if !file.is_file() {
                skip(&format!("no {}; {cure} makes it", file.display()));
                return None;
            }
        }
        Some(stage)
    }

    /// True if the pool has `bytes` free.
    fn has_huge_pages(bytes: u64) -> bool {
        let text = fs::read_to_string("/proc/meminfo").expect("meminfo");
        let value = |key: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        value("HugePages_Free:") * value("Hugepagesize:") * 1024 >= bytes
    }

    fn config(&self, name: &str, cmdline: &str) -> Value {
        json!({
            "name": name,
            "memory": { "size": "128M", "backing": ["auto", "thp"] },
            "kernel": { "path": self.guest.join("Image"), "cmdline": format!("panic=-1 {cmdline}") },
            "initrd": { "path": self.guest.join("initrd.cpio.gz") },
        })
    }
}

/// `gunyahd boot` on the simulator.
struct Host {
    dir: PathBuf,
    simulator: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Host {
    fn boot(stage: &Stage, test: &str, configs: &[Value]) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        Self::boot_with_path(stage, test, configs, &path, "ack61")
    }

    /// On the driver of `dialect`.
    fn boot_on(stage: &Stage, dialect: &str, configs: &[Value]) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        Self::boot_with_path(stage, dialect, configs, &path, dialect)
    }

    /// With another search path of programs.
    fn boot_with_path(
        stage: &Stage,
        test: &str,
        configs: &[Value],
        path: &OsStr,
        dialect: &str,
    ) -> Self {
        let dir = std::env::temp_dir().join(format!("gunyahd-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("config")).expect("directory");
        for config in configs {
            let name = config["name"].as_str().expect("name");
            fs::write(dir.join("config").join(format!("{name}.json")), config.to_string())
                .expect("config");
        }
        let mut simulator = Command::new(stage.binaries.join("gunyah-sim"))
            .args(["--dialect", dialect, "--engine", "qemu", "--console", "-", "--"])
            .arg(stage.binaries.join("gunyahd"))
            .arg("boot")
            .arg("--config-dir")
            .arg(dir.join("config"))
            .arg("--socket")
            .arg(dir.join("socket"))
            .arg("--run-dir")
            .arg(&dir)
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("gunyah-sim");
        let (sender, lines) = mpsc::channel();
        let log = simulator.stderr.take().expect("stderr");
        read_lines(log, sender.clone());
        let output = simulator.stdout.take().expect("stdout");
        read_lines(output, sender);
        Self { dir, simulator, lines, seen: Vec::new() }
    }

    /// Waits for a line of the consoles that begins so. A VM that fails meanwhile ends the test.
    fn wait_for(&mut self, prefix: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            let line =
                line.unwrap_or_else(|_| panic!("no line `{prefix}`; seen: {:#?}", self.seen));
            let found = line.starts_with(prefix);
            let failed = line.contains(" gunyahd: ") && line.contains(": failed: ");
            assert!(!failed, "{line}");
            self.seen.push(line);
            if found {
                return;
            }
        }
    }

    fn connect(&self) -> UnixStream {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match UnixStream::connect(self.dir.join("socket")) {
                Ok(stream) => return stream,
                // Nothing tells of a socket that is about to listen.
                Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
                Err(error) => panic!("gunyahd does not listen: {error}"),
            }
        }
    }

    fn ask(&self, request: &Value) -> Value {
        let mut stream = self.connect();
        writeln!(stream, "{request}").expect("request");
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).expect("answer");
        serde_json::from_str(&answer).expect("JSON")
    }

    fn status(&self, vm: &str) -> Value {
        let mut answer = self.ask(&json!({ "v": 1, "op": "status", "vm": vm }));
        answer["vms"][0].take()
    }

    /// Waits until the VM is in `state`, by the events of `watch`; returns its status.
    fn wait_for_state(&self, vm: &str, state: &str) -> Value {
        let mut stream = self.connect();
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        writeln!(stream, "{}", json!({ "v": 1, "op": "watch" })).expect("request");
        for line in BufReader::new(stream).lines() {
            let line: Value = serde_json::from_str(&line.expect("in time")).expect("JSON");
            let mut told = line["vms"].as_array().cloned().unwrap_or_default();
            told.push(line["change"].clone());
            if told.iter().any(|told| told["vm"] == vm && told["state"] == state) {
                return self.status(vm);
            }
        }
        panic!("gunyahd hung up");
    }

    /// SIGTERM to gunyahd, which stops its guests; the simulator's exit code.
    fn end(mut self) -> Option<i32> {
        let gunyahd = children(self.simulator.id())
            .into_iter()
            .find(|pid| command_of(*pid).contains("gunyahd"))
            .expect("gunyahd below the simulator");
        signal(gunyahd, nix::sys::signal::Signal::SIGTERM);
        let status = self.simulator.wait().expect("wait");
        fs::remove_dir_all(&self.dir).expect("directory");
        status.code()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.simulator.kill();
        let _ = self.simulator.wait();
    }
}

fn read_lines(from: impl Read + Send + 'static, to: Sender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let _ = to.send(line);
        }
    });
}

fn signal(pid: u32, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("pid"));
    nix::sys::signal::kill(pid, signal).expect("kill");
}

fn command_of(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default()
}

fn field(pid: u32, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.unwrap_or_default().trim().to_owned()
}

fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("/proc");
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| field(*pid, "PPid:") == parent.to_string())
        .collect()
}

/// A process and all below it.
fn family(root: u32) -> Vec<u32> {
    let mut all = vec![root];
    let mut at = 0;
    while at < all.len() {
        all.extend(children(all[at]));
        at += 1;
    }
    all
}

fn is_alive(pid: u32) -> bool {
    let state = field(pid, "State:");
    !state.is_empty() && !state.starts_with('Z')
}

#[test]
fn linux_boots_from_hugetlb_and_a_gzipped_kernel() {
    const BYTES: u64 = 256 << 20;
    let Some(stage) = Stage::new() else { return };
    if !Stage::has_huge_pages(BYTES) {
        return skip("fewer than 256 MiB of huge pages are free");
    }
    let mut config = stage.config("huge", "");
    config["memory"] = json!({ "size": "256M", "backing": "hugetlb" });
    config["kernel"]["path"] = json!(stage.guest.join("Image.gz"));
    config["vcpus"] = json!({ "count": 2 });
    let mut host = Host::boot(&stage, "huge", &[config]);
    host.wait_for(&format!("[huge] {REACHED}"));
    assert!(
        host.seen.iter().any(|line| line.contains("vm huge, ")
            && line.contains(" 2 cpus, ")
            && line.contains("ram at 80000000-8fffffff, hypervisor node yes")),
        "{:#?}",
        host.seen
    );
    let status = host.wait_for_state("huge", "running");
    let worker = status["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("pid");
    // The worker's own account of its mapped huge pages.
    assert_eq!(field(worker, "HugetlbPages:"), format!("{} kB", BYTES / 1024));
    assert_eq!(host.end(), Some(0));
    assert!(!is_alive(worker));
}

/// The hypervisor schedules it where the driver has no vCPUs; elsewhere, its worker does.
#[test]
fn one_file_boots_linux_on_every_driver() {
    let Some(stage) = Stage::new() else { return };
    for (dialect, scheduled) in [
        ("lkml-base", "by hypervisor"),
        ("lkml", "by proxy"),
        ("ack61", "by proxy"),
        ("ack66", "by proxy"),
        ("ack612", "by proxy"),
    ] {
        let mut host = Host::boot_on(&stage, dialect, &[stage.config("same", "")]);
        host.wait_for(&format!("[same] {REACHED}"));
        let status = host.wait_for_state("same", "running");
        assert_eq!(status["dialect"], dialect, "{status:#}");
        assert_eq!(status["end_visible"], scheduled == "by proxy", "{status:#}");
        assert_eq!(host.end(), Some(0), "{dialect}");
    }
}

#[test]
fn a_proxy_scheduled_guests_ends_are_told() {
    let Some(stage) = Stage::new() else { return };
    let mut off = stage.config("off", "guest.poweroff=0");
    off["vcpus"] = json!({ "scheduling": "proxy" });
    let mut crash = stage.config("crash", "guest.crash=0");
    crash["vcpus"] = json!({ "scheduling": "proxy" });
    crash["restart"] = json!({ "policy": "never" });
    crash["start"] = json!({ "after": ["off"] });
    let mut host = Host::boot(&stage, "ends", &[off, crash]);
    host.wait_for("[off] gunyah guest: powering off");
    let status = host.wait_for_state("off", "stopped");
    assert_eq!(status["last_end"]["reason"], "power-off", "{status:#}");
    // Linux restarts after a panic: the hypervisor sees a reset.
    let status = host.wait_for_state("crash", "stopped");
    assert_eq!(status["last_end"]["reason"], "reset", "{status:#}");
    assert_eq!(host.end(), Some(0));
}

#[test]
fn a_machine_without_qemu_is_told_what_to_install() {
    let Some(stage) = Stage::new() else { return };
    let mut config = stage.config("none", "");
    config["restart"] = json!({ "policy": "never" });
    let nowhere = OsStr::new("/nonexistent");
    let mut host = Host::boot_with_path(&stage, "none", &[config], nowhere, "ack61");
    host.wait_for("gunyah-sim: qemu: qemu-system-aarch64 is not on PATH; in Debian: apt-get install qemu-system-arm");
    let status = host.wait_for_state("none", "failed");
    assert_eq!(status["last_end"]["reason"], "launch-failed", "{status:#}");
    let _ = fs::remove_dir_all(&host.dir);
}

#[test]
fn nothing_outlives_a_killed_simulator() {
    let Some(stage) = Stage::new() else { return };
    let mut host = Host::boot(&stage, "killed", &[stage.config("orphan", "")]);
    host.wait_for(&format!("[orphan] {REACHED}"));
    let family = family(host.simulator.id());
    let commands: Vec<String> = family.iter().map(|pid| command_of(*pid)).collect();
    assert!(commands.iter().any(|command| command.starts_with("qemu-system")), "{commands:?}");
    assert!(family.len() >= 4, "simulator, gunyahd, worker, QEMU: {commands:?}");
    host.simulator.kill().expect("kill");
    host.simulator.wait().expect("wait");
    let deadline = Instant::now() + Duration::from_secs(20);
    while family.iter().any(|pid| is_alive(*pid)) {
        let left: Vec<&u32> = family.iter().filter(|pid| is_alive(**pid)).collect();
        assert!(Instant::now() < deadline, "{left:?} of {family:?} {commands:?}");
        // Processes of another parent: nothing tells of their end.
        thread::sleep(Duration::from_millis(20));
    }
    fs::remove_dir_all(&host.dir).expect("directory");
}
