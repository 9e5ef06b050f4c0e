// SPDX-License-Identifier: Apache-2.0
//! What stands on standard error.

use serde_json::json;

use crate::host::Host;

#[test]
fn log_and_status_tell_the_same_time() {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("skipped: only root can have a clock of its own");
        return;
    }
    let mut host = Host::new();
    // A host that slept for a day: its clocks differ.
    host.vm("a", json!({"autostart": false}))
        .bare_by(&["unshare", "--time", "--boottime", "86400", "--kill-child"])
        .boot();
    let log = host.log();
    let line = log.lines().find(|line| line.contains("a: disabled"));
    let logged = line.unwrap().trim_start_matches('[').split(']').next();
    let logged: f64 = logged.unwrap().trim().parse().unwrap();
    let told = host.status("a").since_ms;
    let apart = (logged * 1e3 - f64::from(u32::try_from(told).unwrap())).abs();
    assert!(apart < 60e3, "logged at {logged} s, told at {told} ms");
    assert_eq!(host.shut_down(), Some(0));
}

#[test]
fn a_files_name_forges_no_line() {
    let mut host = Host::new();
    host.file("a\n[0] I gunyahd: forged\u{1b}[2J.json", "{")
        .bare()
        .boot();
    let (code, text) = host.told(&["status"]);
    assert_eq!(code, 0, "{text}");
    for told in [host.log(), text] {
        assert!(told.contains("forged"), "{told}");
        assert!(!told.contains('\u{1b}'), "{told}");
        let mut lines = told.lines();
        assert!(!lines.any(|line| line.starts_with("[0]")), "{told}");
    }
}
