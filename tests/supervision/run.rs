// SPDX-License-Identifier: Apache-2.0
//! `gunyahd run`: one VM in the foreground, and what its exit code tells.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};

use nix::pty::openpty;
use nix::sys::signal::{kill, Signal};
use nix::sys::termios::tcgetattr;
use nix::unistd::Pid;
use serde_json::{json, Value};

use crate::host::{on_both, Host, GUNYAHD};

fn run(host: &mut Host, vm: Value) -> (Child, BufReader<std::process::ChildStderr>) {
    host.vm("a", vm);
    let file = host.path("vms/a.json");
    let mut command = host.command(&["run", file.to_str().unwrap()]);
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    // SAFETY: prctl and setsid are bare system calls.
    unsafe {
        command.pre_exec(|| {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            nix::unistd::setsid()?;
            Ok(())
        });
    }
    let mut child = command.spawn().unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    (child, stderr)
}

fn until(lines: &mut impl BufRead, word: &str) {
    let mut all = String::new();
    loop {
        let before = all.len();
        if lines.read_line(&mut all).unwrap() == 0 {
            panic!("never {word}: {all}");
        }
        if all[before..].contains(word) {
            return;
        }
    }
}

fn code(mut child: Child, mut lines: impl BufRead) -> Option<i32> {
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    child.wait().unwrap().code()
}

#[test]
fn a_signal_stops_it() {
    on_both(|mut host| {
        let (child, mut lines) = run(&mut host, json!({"start": {"after": ["nobody"]}}));
        until(&mut lines, "a: running");
        // Ctrl-C signals the whole group: simulator, gunyahd and worker.
        let group = Pid::from_raw(-i32::try_from(child.id()).unwrap());
        kill(group, Signal::SIGINT).unwrap();
        until(&mut lines, "a: stopped: gunyahd is stopping");
        assert_eq!(code(child, lines), Some(6));
    });
}

#[test]
fn ctrl_backslash_stops_it_and_leaves_the_terminal_as_it_was() {
    let mut host = Host::new();
    host.vm("a", json!({"vcpus": {"scheduling": "proxy"}, "console": {"device": "pl011"}}));
    let pty = openpty(None, None).unwrap();
    let own = || pty.slave.try_clone().unwrap();
    let file = host.path("vms/a.json");
    let mut command = host.command(&["run", file.to_str().unwrap()]);
    command.stdin(own()).stdout(own()).stderr(own());
    // SAFETY: all three are bare system calls.
    unsafe {
        command.pre_exec(|| {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            nix::unistd::setsid()?;
            match libc::ioctl(0, libc::TIOCSCTTY, 0) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    let before = tcgetattr(&pty.slave).unwrap().local_flags;
    let mut child = command.spawn().unwrap();
    host.wait_until("the terminal is the guest's", |_| {
        tcgetattr(&pty.slave).unwrap().local_flags != before
    });
    let mut master = std::fs::File::from(pty.master);
    master.write_all(b"\x1c").unwrap();
    let reading = std::thread::spawn(move || {
        // Until the last slave is closed; else it could not write to the end.
        let mut shown = Vec::new();
        let _ = master.read_to_end(&mut shown);
        String::from_utf8_lossy(&shown).into_owned()
    });
    assert_eq!(child.wait().unwrap().code(), Some(6));
    assert_eq!(tcgetattr(&pty.slave).unwrap().local_flags, before);
    drop((command, pty.slave));
    let shown = reading.join().unwrap();
    assert!(shown.contains("SIGQUIT: closing"), "{shown}");
}

#[test]
fn a_launch_that_fails_is_three() {
    let mut host = Host::new();
    let (child, lines) = run(&mut host, json!({"kernel": {"path": "/no/such"}}));
    assert_eq!(code(child, lines), Some(3));
    host.script("call CREATE_VM 1 errno ENOMEM\n");
    let (child, mut lines) = run(&mut host, json!({}));
    until(&mut lines, "create-vm: ");
    assert_eq!(code(child, lines), Some(3));
}

#[test]
fn mistakes_in_the_file_are_three_and_listed() {
    let mut host = Host::new();
    let (child, mut lines) = run(&mut host, json!({"colour": 1, "size": 2}));
    until(&mut lines, "colour: unknown key");
    until(&mut lines, "size: unknown key");
    assert_eq!(code(child, lines), Some(3));
}

#[test]
fn a_bad_command_line_is_two() {
    for arguments in [&["run"][..], &["walk"], &["boot", "--loud"]] {
        let status = std::process::Command::new(GUNYAHD)
            .args(arguments)
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn a_killed_worker_is_four_and_not_restarted() {
    on_both(|mut host| {
        let (child, mut lines) = run(&mut host, json!({}));
        until(&mut lines, "a: running");
        let sim = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let gunyahd = crate::host::children(sim)[0].parse().unwrap();
        let worker = crate::host::children(Pid::from_raw(gunyahd))[0].parse().unwrap();
        kill(Pid::from_raw(worker), Signal::SIGKILL).unwrap();
        assert_eq!(code(child, lines), Some(4));
    });
}

#[test]
fn a_guests_own_end_has_its_own_code() {
    on_both(|mut host| {
        for (end, wanted) in [("off", 0), ("reset", 5), ("watchdog", 4)] {
            host.script(&format!("vm 1 exit {end} after 20\n"));
            let (child, lines) = run(&mut host, json!({"vcpus": {"scheduling": "proxy"}}));
            assert_eq!(code(child, lines), Some(wanted), "{end}");
        }
    });
}
