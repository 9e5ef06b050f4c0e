// SPDX-License-Identifier: Apache-2.0
//! SIGKILL of the worker and of the supervisor at every call of a launch.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use gunyah::Dialect;

use crate::fault_matrix::{backing, Ground, Target};
use crate::host::{folder, signal, wait_until, wait_until_gone, Boot, Host, Stage};
use crate::left::{wait_for_pool, HugePages};
use crate::record::Record;
use crate::steps;

fn targets(ground: &mut Ground) -> Vec<Target> {
    let all = ground.targets();
    // A caller that is the supervisor is no worker.
    let workers =
        |target: &Target| !matches!(target.call.as_str(), "socketpair" | "fork" | "pidfd_open");
    // After the words of START's end and of running it reports only when it is stopped.
    let reports = all.iter().filter(|target| target.call == "sendmsg" && target.started);
    let last = reports.map(|target| target.nth).nth(1);
    let of_a_stop =
        |target: &Target| target.call == "sendmsg" && last.is_some_and(|last| target.nth > last);
    all.iter()
        .filter(|target| steps::is_definite(&target.call, target.started) && workers(target))
        .filter(|target| !of_a_stop(target))
        .cloned()
        .collect()
}

fn kill_a_worker_at_every_call(dialect: Dialect) {
    let Some(stage) = Stage::of(dialect) else { return };
    let mut ground = Ground::new(&stage, dialect, "kill-worker", true);
    let targets = targets(&mut ground);
    for target in &targets {
        ground.kill_worker(target).unwrap_or_else(|what| panic!("{target:?}: {what}"));
    }
    println!("{dialect}: killed a worker at {} calls", targets.len());
    assert!(targets.len() > if dialect.has_functions() { 60 } else { 30 }, "{targets:#?}");
    ground.end();
}

#[test]
fn a_worker_may_be_killed_at_every_call_on_lkml_base() {
    kill_a_worker_at_every_call(Dialect::LkmlBase);
}

#[test]
fn a_worker_may_be_killed_at_every_call_on_ack61() {
    kill_a_worker_at_every_call(Dialect::Ack61);
}

#[test]
fn a_worker_may_be_killed_at_every_call_on_ack612() {
    kill_a_worker_at_every_call(Dialect::Ack612);
}

/// Its VM is one that the hypervisor schedules.
#[test]
fn a_supervisor_may_be_killed_at_every_call_of_its_worker_on_lkml_base() {
    kill_a_supervisor_at_every_call(Dialect::LkmlBase);
}

#[test]
fn a_supervisor_may_be_killed_at_every_call_of_its_worker_on_ack61() {
    kill_a_supervisor_at_every_call(Dialect::Ack61);
}

#[test]
fn a_supervisor_may_be_killed_at_every_call_of_its_worker_on_ack612() {
    kill_a_supervisor_at_every_call(Dialect::Ack612);
}

fn kill_a_supervisor_at_every_call(dialect: Dialect) {
    let Some(stage) = Stage::of(dialect) else { return };
    let huge = (!dialect.pages_on_demand()).then(HugePages::now);
    let wait_for_pages = || huge.map_or(Ok(()), wait_for_pool);
    let mut ground = Ground::new(&stage, dialect, "kill-targets", false);
    let targets = targets(&mut ground);
    // The same memory, because other memory is other calls.
    let mut vm = steps::victim(dialect, backing(dialect));
    ground.end();
    let dir = folder(&format!("kill-supervisor-{dialect}"));
    steps::write_dtb(&vm, dialect, &dir);
    vm["autostart"] = true.into();
    let text = vm.to_string().replace("dir/", &format!("{}/", dir.display()));
    fs::write(dir.join("config/victim.json"), text).unwrap();
    let reached = targets
        .iter()
        .filter(|target| {
            let reached = kill_supervisor(&stage, dialect, &dir, target);
            wait_for_pages().unwrap_or_else(|what| panic!("{target:?}: {what}"));
            reached
        })
        .count();
    println!("{dialect}: killed a supervisor at {reached} of {} calls", targets.len());
    assert!(reached * 10 > targets.len() * 9, "{reached}");
    // After all of them, the next one finds nothing in its way.
    let boot = Boot { dialect, vms: &[vm], ..Boot::default() };
    let host = Host::boot(&stage, &dir, &boot);
    host.wait_for("victim", &["running"]).unwrap();
    host.order("stop", "victim", true);
    host.live("victim").unwrap();
    wait_for_pages().unwrap();
    host.end();
}

/// False where this life ran without making the call: the first launch makes a few less.
fn kill_supervisor(stage: &Stage, dialect: Dialect, dir: &Path, target: &Target) -> bool {
    let Target { call, nth, process, .. } = target;
    let script = format!(
        "watch {}\ncall {call} +{nth} kill command from {process}\n",
        steps::HOST_CALLS.join(" ")
    );
    fs::write(dir.join("script"), script).unwrap();
    let path = |name: &str| dir.join(name);
    // The driver's own resource manager dies when a VM that the hypervisor schedules is stopped.
    let rm: &[&str] = if dialect == Dialect::LkmlBase { &["--rm", "debug"] } else { &[] };
    let mut simulator = Command::new(stage.binaries.join("gunyah-sim"))
        .args(["--dialect", dialect.name()])
        .args(rm)
        .arg("--script")
        .arg(path("script"))
        .arg("--record")
        .arg(path("record"))
        .arg("--")
        .arg(stage.binaries.join("gunyahd"))
        .args(["boot", "--config-dir"])
        .arg(path("config"))
        .arg("--socket")
        .arg(path("socket"))
        .stdin(Stdio::null())
        .stderr(fs::File::create(path("log")).unwrap())
        .spawn()
        .unwrap();
    let mut status = None;
    wait_until(
        || {
            status = simulator.try_wait().unwrap();
            let log = fs::read_to_string(path("log")).unwrap_or_default();
            status.is_some() || (!target.started && log.contains(": victim: running"))
        },
        || format!("{target:?}: gunyahd still lives"),
    )
    .unwrap_or_else(|what| {
        let _ = simulator.kill();
        panic!("{what}");
    });
    let reached = status.is_some();
    if !reached {
        signal(simulator.id(), libc::SIGTERM);
    }
    // 128 and SIGKILL. A VM that runs without having made the call can still make it when it stops.
    let code = simulator.wait().unwrap().code();
    let killed = code == Some(137);
    assert!(killed || (!reached && code == Some(0)), "{target:?}: {code:?}");
    let mut record = Record::open(&path("record"));
    record.read();
    assert_eq!(record.vms(), 0, "{target:?}: VMs that the driver still has");
    let mut pids: Vec<u32> =
        record.calls.iter().map(|call| u32::try_from(call.pid).unwrap()).collect();
    pids.sort_unstable();
    pids.dedup();
    wait_until_gone(&pids).unwrap();
    let sockets = fs::read_to_string("/proc/net/unix").unwrap();
    let dir = dir.to_string_lossy();
    assert!(!sockets.contains(&*dir), "{target:?}: {sockets}");
    killed
}
