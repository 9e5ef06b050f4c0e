// SPDX-License-Identifier: Apache-2.0
//! Booting, a second boot, and the end.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use gunyahd::status::State;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::host::{on_both, Host, GUNYAHD};

#[test]
fn one_good_file_runs_beside_three_broken_ones() {
    let mut host = Host::new();
    host.vm("good", json!({}))
        .vm("no-kernel", json!({"kernel": {"path": "/no/such/Image"}}))
        .vm("misspelt", json!({"autostrat": true}))
        .file("rubbish.json", "{ this is no JSON")
        .boot();
    host.until("good", State::Running);
    host.until("no-kernel", State::Failed);
    for (vm, word) in [
        ("no-kernel", "opening /no/such/Image: ENOENT"),
        ("misspelt", "misspelt.json:1:"),
        ("misspelt", "did you mean `autostart`?"),
        ("rubbish", "rubbish.json:1:3"),
    ] {
        let status = host.status(vm);
        assert_eq!(status.state, State::Failed, "{status:?}");
        assert!(status.reason.contains(word), "{status:?}");
        assert!(host.log().contains(word), "{}", host.log());
    }
    assert_eq!(host.status("good").state, State::Running);
    let (code, text) = host.told(&["start", "misspelt"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("did you mean"), "{text}");
    assert_eq!(host.shut_down(), Some(0));
}

#[test]
fn faulty_files_are_given_up_at_once() {
    let mut host = Host::new();
    std::fs::write(host.path("rubbish.dtb"), [0xd0; 64]).unwrap();
    // A gzip'ed kernel whose sum is wrong: seen only when all of it was unpacked.
    let packed = Command::new("gzip").arg("-kn").arg(host.path("Image")).status();
    assert!(packed.unwrap().success());
    let gzip = host.path("Image.gz");
    let mut bytes = std::fs::read(&gzip).unwrap();
    let sum = bytes.len() - 8;
    bytes[sum] ^= 1;
    std::fs::write(&gzip, bytes).unwrap();
    host.vm("dtb", json!({"dtb": {"path": host.path("rubbish.dtb")}}))
        .vm("gzip", json!({"kernel": {"path": gzip}}))
        .boot();
    for (vm, word) in [("dtb", "[dtb-unreadable]"), ("gzip", "CRC32")] {
        host.until(vm, State::Failed);
        let status = host.status(vm);
        assert!(status.reason.contains(word), "{status:?}");
        assert_eq!(status.restarts, 0, "{status:?}");
    }
}

#[test]
fn no_vms_is_fine_and_said() {
    let mut host = Host::new();
    host.bare().boot();
    // An answer comes after the files were looked for, and so after that was logged.
    let (code, text) = host.told(&["status"]);
    assert_eq!(code, 0);
    assert!(host.log().contains("no VMs"), "{}", host.log());
    assert!(text.contains("no VMs"), "{text}");
    assert_eq!(host.shut_down(), Some(0));
    assert!(!host.socket().exists(), "the socket is left behind");
}

#[test]
fn a_second_boot_is_refused_and_a_killed_ones_socket_replaced() {
    on_both(|mut host| {
        host.bare().boot();
        let first = host.pid();
        let second = Command::new(GUNYAHD)
            .args(host.boot_arguments())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(second.status.code(), Some(1));
        let said = String::from_utf8(second.stderr).unwrap();
        assert!(said.contains("another gunyahd serves"), "{said}");
        assert_eq!(host.pid(), first, "the first one no longer serves");

        host.signal(Signal::SIGKILL);
        host.wait();
        assert!(host.socket().exists());
        host.boot();
        assert!(host.log().contains("was killed"), "{}", host.log());
        assert_eq!(host.shut_down(), Some(0));
    });
}

/// Its socket is there before its reserve is.
#[test]
fn an_end_asked_for_while_it_starts_leaves_nothing() {
    let mut host = Host::new();
    host.bare().boot_with(&["--reserve", "64M"]);
    assert_eq!(host.shut_down(), Some(0), "{}", host.log());
    assert!(!host.socket().exists(), "the socket is left behind");
}

#[test]
fn a_socket_from_init_is_served_and_left_to_init() {
    let host = Host::new();
    let listener = UnixListener::bind(host.socket()).unwrap();
    let fd = OwnedFd::from(listener);
    let raw = fd.as_raw_fd();
    let mut command = Command::new(GUNYAHD);
    command
        .args(["boot", "--config-dir"])
        .arg(host.path("vms"))
        .env("ANDROID_SOCKET_gunyahd", raw.to_string())
        .env("GUNYAHD_LOGD_SOCKET", host.path("no-logd"))
        .env("GUNYAHD_PROPERTY_SOCKET", host.path("no-properties"))
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    // SAFETY: fcntl is a bare system call on an fd that stays open in this process.
    unsafe {
        command.pre_exec(move || {
            let fd = std::os::fd::BorrowedFd::borrow_raw(raw);
            let flags = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty());
            nix::fcntl::fcntl(fd, flags)?;
            Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?)
        });
    }
    let mut daemon = command.spawn().unwrap();
    let (code, text) = host.told(&["status"]);
    assert_eq!(code, 0, "{text}");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.id()).unwrap());
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    assert!(daemon.wait().unwrap().success());
    assert!(host.socket().exists(), "init's socket was removed");
}

#[test]
fn an_inherited_fd_that_is_no_socket_is_named() {
    let output = Command::new(GUNYAHD)
        .args(["boot", "--config-dir", "/nonexistent"])
        .env("ANDROID_SOCKET_gunyahd", "77")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("ANDROID_SOCKET_gunyahd=77: EBADF"), "{said}");
    assert!(said.contains("[socket-inherited]"), "{said}");
}
