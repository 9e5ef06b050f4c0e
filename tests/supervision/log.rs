// SPDX-License-Identifier: Apache-2.0
//! What stands on standard error.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use gunyahd::status::control::{request_line, Request};
use nix::fcntl::{fcntl, FcntlArg};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::host::{Host, PATIENCE};
use crate::skip::skip;

#[test]
fn log_and_status_tell_the_same_time() {
    if !nix::unistd::Uid::effective().is_root() {
        return skip("only root can have a clock of its own");
    }
    let mut host = Host::new();
    // A host that slept for a day: its clocks differ.
    host.vm("a", json!({"autostart": false}))
        .bare_by(&["unshare", "--time", "--boottime", "86400", "--kill-child"])
        .boot();
    // It answers when its files are read.
    let told = host.status("a").since_ms;
    let log = host.log();
    let line = log.lines().find(|line| line.contains("a: disabled"));
    let logged = line.unwrap().trim_start_matches('[').split(']').next();
    let logged: f64 = logged.unwrap().trim().parse().unwrap();
    let apart = (logged * 1e3 - f64::from(u32::try_from(told).unwrap())).abs();
    assert!(apart < 60e3, "logged at {logged} s, told at {told} ms");
    assert_eq!(host.shut_down(), Some(0));
}

#[test]
fn a_files_name_forges_no_line() {
    let mut host = Host::new();
    host.file("a\n[0] I gunyahd: forged\u{1b}[2J.json", "{").bare().boot();
    let (code, text) = host.told(&["status"]);
    assert_eq!(code, 0, "{text}");
    for told in [host.log(), text] {
        assert!(told.contains("forged"), "{told}");
        assert!(!told.contains('\u{1b}'), "{told}");
        let mut lines = told.lines();
        assert!(!lines.any(|line| line.starts_with("[0]")), "{told}");
    }
}

/// Whether gunyahd answers; a client of ours would wait for ever.
fn answers(host: &Host) {
    let mut stream = UnixStream::connect(host.socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = request_line(&Request::Status { vm: None });
    stream.write_all(&request).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("no answer");
    assert!(!answer.is_empty());
}

#[test]
fn a_log_that_nobody_reads_holds_up_nobody() {
    let (reader, pipe) = nix::unistd::pipe().unwrap();
    fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    let mut host = Host::new();
    host.bare().boot_logging(Stdio::from(pipe));
    // Two lines each.
    for _ in 0..60 {
        host.signal(Signal::SIGHUP);
        answers(&host);
    }
    let mut reader = File::from(reader);
    let mut full = vec![0; 4096];
    let length = reader.read(&mut full).unwrap();
    assert!(length > 3000, "only {length} bytes were logged");
    host.signal(Signal::SIGHUP);
    answers(&host);
    assert_eq!(host.shut_down(), Some(0));
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("log records before this one were lost"), "{rest}");
}
