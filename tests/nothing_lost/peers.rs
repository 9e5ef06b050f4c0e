// SPDX-License-Identifier: Apache-2.0
//! A property service and a log daemon that are absent, refuse, hang, flood, or come and go, beside
//! the whole of gunyahd.

use std::io::{Read, Write};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use gunyah::Dialect;
use gunyahd::status::logger::Logger;
use log::{Level, LevelFilter, Log, Record};
use serde_json::json;

use crate::host::{folder, signal, wait_until, Boot, Host, Stage};
use crate::left::HugePages;
use crate::steps;

/// Far more than a day takes, and less than a single wait for a peer: init's clients wait 5 s.
const HELD_UP: Duration = Duration::from_secs(4);

fn boot(stage: &Stage, test: &str, logd: bool, mode: &str) -> Host {
    let mut vm = steps::bystanders(Dialect::Ack61)[1].clone();
    vm["name"] = json!("vm");
    vm["autostart"] = json!(false);
    vm["restart"] = json!({
        "policy": "on-failure", "max": 100, "window": "1s", "backoff": "10ms", "backoff_max": "10ms",
    });
    let boot = Boot { vms: &[vm], logd, script: &[mode], record: true, ..Boot::default() };
    Host::boot(stage, &folder(test), &boot)
}

/// A start, a crash, a restart and a stop, held up by nobody.
fn day(host: &Host, mode: &str) {
    let begun = Instant::now();
    host.forget_changes();
    let answer = host.order("start", "vm", true);
    assert_eq!(answer["done"]["state"], "running", "{mode}: {answer}");
    host.wait_for("vm", &["running"]).unwrap();
    let pid = host.status("vm")["pid"].as_u64().unwrap();
    signal(u32::try_from(pid).unwrap(), libc::SIGKILL);
    host.wait_for("vm", &["crashed"]).unwrap();
    host.wait_for("vm", &["running"]).unwrap();
    let answer = host.order("stop", "vm", true);
    assert_eq!(answer["done"]["state"], "stopped", "{mode}: {answer}");
    assert_eq!(host.gunyahctl_status("vm")["state"], "stopped", "{mode}");
    assert!(begun.elapsed() < HELD_UP, "{mode}: {:?}", begun.elapsed());
}

fn wait_for_record(
    host: &mut Host,
    mode: &str,
    mut done: impl FnMut(&crate::record::Record) -> bool,
) {
    let record = host.record.as_mut().unwrap();
    let log = std::fs::read_to_string(host.dir.join("log")).unwrap();
    wait_until(
        || {
            record.read();
            done(record)
        },
        || format!("{mode}: never told; its log: {log}"),
    )
    .unwrap();
}

fn end_in_time(host: Host, mode: &str) {
    let begun = Instant::now();
    host.end();
    assert!(begun.elapsed() < HELD_UP, "{mode}: {:?}", begun.elapsed());
}

#[test]
fn a_property_service_of_any_kind_holds_up_nobody() {
    let Some(stage) = Stage::new() else { return };
    // Nobody is missed where nobody is; every other refusal is told.
    for (mode, told) in [
        ("vanish", None),
        ("stale", Some("ECONNREFUSED")),
        ("refuse 0x18", Some("0x18")),
        ("flood", Some("0xa5a5a5a5")),
        ("hang", None),
    ] {
        let command = format!("property {mode}");
        let mut host = boot(&stage, "property-peer", false, &command);
        day(&host, mode);
        if let Some(told) = told {
            let log = host.log();
            let warned = |line: &str| {
                line.contains("] W ")
                    && line.contains("vendor.gunyah.vm.state")
                    && line.contains(told)
            };
            assert!(log.lines().any(warned), "{mode}: {log}");
        }
        host.tell_simulator("property answer");
        day(&host, mode);
        let restarts = host.status("vm")["restarts"].to_string();
        wait_for_record(&mut host, mode, |record| {
            let value = |name: &str| record.properties.get(name).map(String::as_str);
            value("vendor.gunyah.vm.state") == Some("stopped")
                && value("vendor.gunyah.vm.reason") == Some("stop asked")
                && value("vendor.gunyah.vm.restarts") == Some(&restarts)
        });
        let before = host.look_when_settled();
        let huge = HugePages::now();
        host.tell_simulator(&command);
        day(&host, mode);
        host.tell_simulator("property answer");
        host.wait_for_nothing_left(&before, huge).unwrap();
        host.tell_simulator(&command);
        day(&host, mode);
        end_in_time(host, mode);
    }
}

#[test]
fn a_log_daemon_of_any_kind_holds_up_nobody() {
    let Some(stage) = Stage::new() else { return };
    for mode in ["vanish", "stale", "refuse", "hang", "flood"] {
        let command = format!("logd {mode}");
        let mut host = boot(&stage, "log-peer", true, &command);
        // So many that a daemon that takes none has no room for more.
        for _ in 0..20 {
            day(&host, mode);
        }
        let on_stderr = host.log().contains("vm: stopped: stop asked");
        // Where it was never seen there is stderr; else what it does not take is lost.
        assert_eq!(on_stderr, matches!(mode, "vanish" | "stale"), "{}", host.log());
        host.record.as_mut().unwrap().log.clear();
        host.tell_simulator("logd answer");
        day(&host, mode);
        let lost = |line: &String| line.ends_with(" log records before this one were lost");
        wait_for_record(&mut host, mode, |record| {
            record.log.iter().any(|line| line == "vm: stopped: stop asked")
                && (record.log.iter().any(lost) == matches!(mode, "hang" | "flood"))
        });
        let before = host.look_when_settled();
        let huge = HugePages::now();
        // Another one in its place, first at once, then after a while.
        host.tell_simulator("logd vanish");
        host.tell_simulator("logd answer");
        host.record.as_mut().unwrap().log.clear();
        day(&host, mode);
        wait_for_record(&mut host, mode, |record| {
            !record.log.iter().any(lost)
                && record.log.iter().any(|line| line == "vm: stopped: stop asked")
        });
        host.tell_simulator("logd vanish");
        day(&host, mode);
        host.tell_simulator("logd answer");
        day(&host, mode);
        wait_for_record(&mut host, mode, |record| record.log.iter().any(lost));
        host.wait_for_nothing_left(&before, huge).unwrap();
        host.tell_simulator(&command);
        end_in_time(host, mode);
    }
}

fn say(logger: &Logger, message: &str) {
    logger.log(
        &Record::builder().level(Level::Error).target("vm").args(format_args!("{message}")).build(),
    );
}

/// What a guest prints is logged by its worker, which may make no new socket.
#[test]
fn a_confined_worker_finds_a_restarted_log_daemon() {
    let dir = folder("restarted-logd");
    let path = dir.join("logd");
    log::set_max_level(LevelFilter::Info);
    let logger = Logger::new(Some(path.clone()), None);
    let daemon = UnixDatagram::bind(&path).unwrap();
    let (mut told, mut tell) = std::io::pipe().unwrap();
    // SAFETY: the child logs, waits for a byte and leaves; nobody else holds this logger's lock.
    let child = match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            drop(tell);
            say(&logger, "free");
            let confined = gunyahd::confine::worker(&[]).is_ok();
            say(&logger, "confined");
            let told = told.read_exact(&mut [0]).is_ok();
            say(&logger, "restarted");
            // SAFETY: ends the child without running the parent's exit handlers.
            unsafe { libc::_exit(i32::from(!(confined && told))) }
        }
        nix::unistd::ForkResult::Parent { child } => child,
    };
    drop(told);
    let next = |daemon: &UnixDatagram| {
        daemon.set_read_timeout(Some(crate::host::PATIENCE)).unwrap();
        let mut bytes = [0; 100];
        let length = daemon.recv(&mut bytes).unwrap();
        // The header, the priority, the tag and its NUL.
        let message = &bytes[11 + 1 + 3..length - 1];
        String::from_utf8(message.to_vec()).unwrap()
    };
    assert_eq!(next(&daemon), "free");
    assert_eq!(next(&daemon), "confined");
    drop(daemon);
    std::fs::remove_file(&path).unwrap();
    let daemon = UnixDatagram::bind(&path).unwrap();
    tell.write_all(&[1]).unwrap();
    assert_eq!(next(&daemon), "restarted");
    let ended = nix::sys::wait::waitpid(child, None).unwrap();
    assert_eq!(ended, nix::sys::wait::WaitStatus::Exited(child, 0));
}
