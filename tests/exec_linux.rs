// SPDX-License-Identifier: Apache-2.0
//! Real arm64 Linux, scheduled by proxy and executed instruction by instruction inside VCPU_RUN: up to
//! its own init, with its timer, and to its end.
#![allow(clippy::unwrap_used)] // A test ends there.

mod host;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use host::{skip, Host};

/// It takes seven seconds of a processor; a busy machine gives them late.
const PATIENCE: Duration = Duration::from_secs(600);

fn guest_files() -> PathBuf {
    std::env::var_os("GUNYAHD_GUEST_DIR")
        .map_or(Path::new(env!("CARGO_MANIFEST_DIR")).join("target/guest"), PathBuf::from)
}

#[test]
fn linux_reaches_its_init_sleeps_and_powers_off() {
    let guest = guest_files();
    let Ok(kernel) = std::fs::read(guest.join("Image")) else {
        return skip("no arm64 kernel; cargo xtask setup fetches one");
    };
    // Folios of all sizes: a guest of base pages has more of them than are mapped one by one.
    for (dialect, backing) in [("ack61", "thp"), ("ack66", "thp"), ("ack612", "base")] {
        let changes = json!({
            "memory": { "size": "128M", "backing": [backing], "access": "lend" },
            "initrd": { "path": guest.join("initrd.cpio.gz") },
            "vcpus": { "scheduling": "proxy" },
            "console": { "device": "pl011" },
            "cmdline": "console=ttyAMA0 quiet guest.poweroff=1",
            "ready": { "console_line": "gunyah guest: init reached", "timeout": "10m" },
        });
        let Some(mut host) = Host::boot_on(dialect, "init", "exec", "", &kernel, &changes) else {
            return;
        };
        host.patience = PATIENCE;
        let status = host.wait_until(|status| status["state"] == "stopped");
        assert_eq!(status["last_end"]["reason"], "power-off", "{dialect}: {status:#}");
        let printed = String::from_utf8(host.ask(&["log", "vm"]).stdout).unwrap();
        // It sleeps for a second in between, which only its timer ends.
        for line in [
            "1 cpus, 103 MiB, ram at 80000000-87ffffff, hypervisor node yes",
            "gunyah guest: init reached",
            "gunyah guest: powering off",
        ] {
            assert!(printed.contains(line), "{dialect}: no `{line}`: {printed}");
        }
    }
}
