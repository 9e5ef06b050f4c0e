// SPDX-License-Identifier: Apache-2.0
//! What is tried on the host, as a person would do it with `adb shell`: boot, status, crash, restart, stop,
//! shutdown.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use serde_json::Value;

use crate::{doctor, property, rc, syslog, worker};

/// The longest that an emulated host takes for anything here.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the story.
pub fn tell() -> Result<()> {
    let mut story = Story::default();
    boot(&mut story);
    workers(&mut story);
    ends(&mut story);
    story.end()
}

/// What is there after boot.
fn boot(story: &mut Story) {
    story.chapter("both VMs run after boot", || {
        wait_for("a", "running")?;
        wait_for("b", "running").map(drop)
    });
    story.chapter("the service is who its .rc file says", identity);
    story.chapter("properties were set", || {
        journal(property::JOURNAL, "vendor.gunyah.a.ready_ms=")?;
        journal(property::JOURNAL, "vendor.gunyah.a.state=running")?;
        journal(property::JOURNAL, "vendor.gunyah.state=up\n")
    });
    story.chapter("the device belongs to the service alone", device);
    story.chapter("page sizes are the host's", page_sizes);
    story.chapter("before logd runs, the kernel's log has it all", || {
        let told = kernel_log()?;
        for line in ["gunyahd: a: running", "gunyahd: b: running"] {
            if !told.contains(line) {
                bail!("no {line:?} in {told}");
            }
        }
        property::ask("ctl.start", "logd")
    });
}

/// Workers that die, and what they may do.
fn workers(story: &mut Story) {
    story.chapter("a killed worker is started again", || {
        let before = wait_for("a", "running")?;
        signal_worker(&before)?;
        let after = wait(|| {
            let status = status("a")?;
            Ok((status["restarts"] == 1 && status["state"] == "running").then_some(status))
        })?;
        if after["pid"] == before["pid"] {
            bail!("the same worker, {}", after["pid"]);
        }
        if status("b")?["restarts"] != 0 {
            bail!("b was started again too");
        }
        Ok(())
    });
    story.chapter("log lines arrive once logd runs", || journal(syslog::JOURNAL, "a: running"));
    story.chapter("doctor finds nothing wrong", doctor::nothing_wrong);
    story.chapter("doctor finds troubles of the node", doctor::troubles_of_the_node);
    story.chapter("doctor finds troubles of files", doctor::troubles_of_files);
    story.chapter("doctor finds troubles of the host", doctor::troubles_of_the_host);
    story.chapter("a worker has given up what it does not need", || {
        let worker = pid_of(&wait_for("a", "running")?)?;
        // `running` is published a moment earlier.
        wait(|| worker::confined(worker).map(Some))
    });
    story.chapter("a worker that aborts says so", || {
        let worker = pid_of(&wait_for("a", "running")?)?;
        worker::abort(worker)?;
        journal(syslog::JOURNAL, "a: crashed: worker killed by SIGABRT")?;
        wait(|| Ok((!alive(worker)).then_some(())))?;
        wait_for("a", "running").map(drop)
    });
}

/// Stops, and the service's own ends.
fn ends(story: &mut Story) {
    story.chapter("stop gives every page back", || {
        let taken = taken()?;
        text(gunyah("gunyahctl", &["stop", "a"])?)?;
        wait_for("a", "stopped")?;
        let now = self::taken()?;
        // One of two VMs of the same size.
        if now > taken / 2 + SLACK {
            bail!("{taken} bytes taken before, {now} after");
        }
        text(gunyah("gunyahctl", &["start", "a"])?)?;
        wait_for("a", "running").map(drop)
    });
    story.chapter("a killed gunyahd is started by init, and its VMs with it", || {
        let workers = [wait_for("a", "running")?, wait_for("b", "running")?];
        let supervisor = supervisor()?;
        let mut left = left_behind(supervisor)?;
        let before = fs::read_to_string(property::JOURNAL)?.len();
        kill(supervisor, Signal::SIGKILL)?;
        wait(|| Ok((!alive(supervisor)).then_some(())))?;
        for worker in &workers {
            let pid = pid_of(worker)?;
            wait(|| Ok((!alive(pid)).then_some(()))).context("a worker outlived its supervisor")?;
        }
        wait(|| Ok(left.try_wait()?.map(drop))).context("its cgroup was not killed")?;
        wait_for("a", "running")?;
        wait_for("b", "running")?;
        // A gunyahd that has ended must never be shown as up.
        in_order(
            before,
            &[
                "vendor.gunyah.state=stopped",
                "init.svc.vendor.gunyahd=restarting",
                "init.svc.vendor.gunyahd=running",
                "vendor.gunyah.state=up",
            ],
        )
    });
    story.chapter("stopped by init, it is stopped and says so", || {
        let before = fs::read_to_string(property::JOURNAL)?.len();
        property::ask("ctl.stop", "vendor.gunyahd")?;
        in_order(
            before,
            &[
                "init.svc.vendor.gunyahd=stopping",
                "init.svc.vendor.gunyahd=stopped",
                "vendor.gunyah.state=stopped",
            ],
        )?;
        wait(|| Ok((taken()? <= SLACK).then_some(()))).context("memory to be free")?;
        property::ask("ctl.start", "vendor.gunyahd")?;
        wait_for("a", "running")?;
        wait_for("b", "running").map(drop)
    });
    story.chapter("check finds nothing wrong", || {
        text(gunyah("gunyahd", &["check", "/vendor/etc/gunyah"])?).map(|told| println!("{told}"))
    });
}

/// What must hold when every service is down.
pub fn after_shutdown() -> Result<()> {
    match wait(|| Ok((taken()? <= SLACK).then_some(()))) {
        Ok(()) => println!("host-test: ok   all memory is free after the shutdown"),
        Err(_) => println!("host-test: FAIL {} bytes are taken after the shutdown", taken()?),
    }
    Ok(())
}

/// Shared memory of others: of the consoles' rings, of /data.
const SLACK: u64 = 4 << 20;

/// Bytes that VMs have: huge pages of the pools, and shared memory.
fn taken() -> Result<u64> {
    let mut taken = 0;
    for pool in fs::read_dir("/sys/kernel/mm/hugepages")? {
        let pool = pool?;
        let name = pool.file_name();
        // hugepages-2048kB
        let size = name.to_str().and_then(|name| name.split(['-', 'k']).nth(1));
        let size: u64 = size.context("a pool without a size")?.parse()?;
        let read = |file: &str| -> Result<u64> {
            Ok(fs::read_to_string(pool.path().join(file))?.trim().parse()?)
        };
        taken += (read("nr_hugepages")? - read("free_hugepages")?) * size * 1024;
    }
    let before: u64 = fs::read_to_string(SHARED_BEFORE)?.trim().parse()?;
    Ok(taken + shared()?.saturating_sub(before))
}

/// Shared memory before any service ran: the root file system is of it, too.
const SHARED_BEFORE: &str = "/sim/shared";

/// Writes down what the host itself has, before any service runs.
pub fn before_services() -> Result<()> {
    Ok(fs::write(SHARED_BEFORE, shared()?.to_string())?)
}

/// Bytes of shared memory.
fn shared() -> Result<u64> {
    let memory = fs::read_to_string("/proc/meminfo")?;
    let shared = memory.lines().find_map(|line| line.strip_prefix("Shmem:")).context("Shmem")?;
    let shared: u64 = shared.split_whitespace().next().context("no number")?.parse()?;
    Ok(shared * 1024)
}

#[derive(Default)]
pub struct Story {
    passed: u32,
    failed: u32,
}

impl Story {
    /// Nothing has failed so far.
    pub fn passes(&self) -> bool {
        self.failed == 0
    }

    /// How it ended.
    pub fn end(&self) -> Result<()> {
        println!("{} passed, {} failed", self.passed, self.failed);
        if self.failed > 0 {
            bail!("{} chapters failed", self.failed);
        }
        Ok(())
    }

    /// Tries one thing.
    pub fn chapter(&mut self, what: &str, check: impl FnOnce() -> Result<()>) {
        let begin = Instant::now();
        match check() {
            Ok(()) => {
                self.passed += 1;
                println!("host-test: ok   {what} ({} ms)", begin.elapsed().as_millis());
            }
            Err(error) => {
                self.failed += 1;
                println!("host-test: FAIL {what}: {error:#}");
            }
        }
    }
}

/// Runs a device binary as `adb shell` would.
pub fn gunyah(program: &str, arguments: &[&str]) -> Result<Output> {
    let shell = rc::aid("shell")?;
    Ok(Command::new(format!("/vendor/bin/{program}"))
        .args(arguments)
        .uid(shell)
        .gid(shell)
        .output()?)
}

pub fn text(output: Output) -> Result<String> {
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{}: {told}{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(told)
}

pub fn status(vm: &str) -> Result<Value> {
    let answer: Value =
        serde_json::from_str(&text(gunyah("gunyahctl", &["status", vm, "--json"])?)?)?;
    find(&answer, vm).with_context(|| format!("no VM {vm} in {answer}"))
}

/// The object with the VM's name, at any depth of the answer.
fn find(answer: &Value, vm: &str) -> Option<Value> {
    match answer {
        Value::Object(fields)
            if fields.get("name").or(fields.get("vm")).is_some_and(|name| name == vm) =>
        {
            Some(answer.clone())
        }
        Value::Object(fields) => fields.values().find_map(|value| find(value, vm)),
        Value::Array(values) => values.iter().find_map(|value| find(value, vm)),
        _ => None,
    }
}

pub fn wait<T>(mut check: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begin = Instant::now();
    let mut last = None;
    while begin.elapsed() < PATIENCE {
        match check() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => last = None,
            Err(error) => last = Some(error),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    match last {
        Some(error) => Err(error),
        None => bail!("did not come within {} s", PATIENCE.as_secs()),
    }
}

pub fn wait_for(vm: &str, state: &str) -> Result<Value> {
    wait(|| {
        let status = status(vm)?;
        Ok((status["state"] == state).then_some(status))
    })
    .with_context(|| format!("{vm} to be {state}: {:?}", status(vm)))
}

fn journal(file: &str, wanted: &str) -> Result<()> {
    wait(|| Ok(fs::read_to_string(file)?.contains(wanted).then_some(())))
        .with_context(|| format!("{wanted:?} in {file}"))
}

fn pid_of(status: &Value) -> Result<Pid> {
    let pid = status["pid"].as_i64().with_context(|| format!("no pid in {status}"))?;
    Ok(Pid::from_raw(i32::try_from(pid)?))
}

pub fn signal_worker(status: &Value) -> Result<()> {
    Ok(kill(pid_of(status)?, Signal::SIGKILL)?)
}

fn alive(pid: Pid) -> bool {
    kill(pid, None).is_ok()
}

/// Waits until the journal of properties has these lines, in their order, behind its byte `from`.
fn in_order(from: usize, wanted: &[&str]) -> Result<()> {
    let mut seen = String::new();
    let found = wait(|| {
        let text = fs::read_to_string(property::JOURNAL)?;
        seen = text.get(from..).unwrap_or_default().to_owned();
        let mut lines = seen.lines();
        let all = wanted.iter().all(|line| lines.any(|seen| seen == *line));
        Ok(all.then_some(()))
    });
    found.with_context(|| format!("{wanted:?} in {seen}"))
}

/// A process in the cgroup of the service, as a program that it had run would be.
fn left_behind(service: Pid) -> Result<Child> {
    let child = Command::new("/init").arg("linger").spawn()?;
    let told = fs::read_to_string(format!("/proc/{service}/cgroup"))?;
    let (_, group) = told.trim().split_once("::").context("no cgroup")?;
    let file = format!("/sys/fs/cgroup{group}/cgroup.procs");
    fs::write(&file, child.id().to_string()).context(file)?;
    Ok(child)
}

/// Checks that owner and mode are those of the ueventd script.
fn device() -> Result<()> {
    let node = fs::metadata(crate::DEVICE)?;
    let found = (node.uid(), node.gid(), node.mode() & 0o7777);
    let system = rc::aid("system")?;
    if found != (system, system, 0o660) {
        bail!("{found:?}");
    }
    Ok(())
}

/// The host's page size, and the huge pages in use, as xtask wrote them down.
fn page_sizes() -> Result<()> {
    println!("{}", text(gunyah("gunyahctl", &["status"])?)?);
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.context("page size")?;
    let used = huge_pages("HugePages_Total")? - huge_pages("HugePages_Free")?;
    let found = format!("{page} {used}");
    let wanted = fs::read_to_string("/vendor/expected")?;
    if found != wanted.trim() {
        bail!("page size and huge pages in use: {found}, not {wanted}");
    }
    Ok(())
}

/// All that the kernel's log has now.
fn kernel_log() -> Result<String> {
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
        .open("/dev/kmsg")?;
    let mut told = String::new();
    let mut record = vec![0; 8192];
    loop {
        match file.read(&mut record) {
            Ok(length) => told += &String::from_utf8_lossy(&record[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(told),
            // A line was overwritten before it was read; go on with the next.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The process that runs gunyahd and whose parent does not.
fn supervisor() -> Result<Pid> {
    let worker = pid_of(&status("a")?)?;
    let parent = field(worker, "PPid:")?;
    Ok(Pid::from_raw(parent.parse()?))
}

/// The value of `name` in the status file of a process or thread.
pub fn field(pid: Pid, name: &str) -> Result<String> {
    let told = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line =
        told.lines().find_map(|line| line.strip_prefix(name)).with_context(|| name.to_owned())?;
    Ok(line.split_whitespace().next().unwrap_or_default().to_owned())
}

fn identity() -> Result<()> {
    let pid = supervisor()?;
    let uid = field(pid, "Uid:")?;
    if uid != "1000" {
        bail!("user {uid}, not system (1000)");
    }
    let capabilities = u64::from_str_radix(&field(pid, "CapEff:")?, 16)?;
    let wanted = worker::LAUNCHING;
    if capabilities != wanted {
        bail!("capabilities {capabilities:#x}, not {wanted:#x}");
    }
    let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))?;
    if score.trim() != "-1000" {
        bail!("OOM score {score}");
    }
    let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let memlock =
        limits.lines().find(|line| line.starts_with("Max locked memory")).unwrap_or_default();
    if !memlock.contains("unlimited") {
        bail!("{memlock}");
    }
    println!("gunyahd: uid {uid}, capabilities {capabilities:#x}, {memlock}");
    Ok(())
}

fn huge_pages(name: &str) -> Result<u64> {
    // Every pool, not only the default one.
    let file = match name {
        "HugePages_Free" => "free_hugepages",
        _ => "nr_hugepages",
    };
    let mut sum = 0;
    for pool in fs::read_dir("/sys/kernel/mm/hugepages")? {
        sum += fs::read_to_string(pool?.path().join(file))?.trim().parse::<u64>()?;
    }
    Ok(sum)
}
