// SPDX-License-Identifier: Apache-2.0
//! Real arm64 Linux, scheduled by proxy: its first words come through our UARTs, byte by byte.
#![allow(clippy::unwrap_used)] // A test ends there.

mod host;

use std::path::{Path, PathBuf};

use serde_json::json;

use host::{skip, Host};

/// A driver, `console.device`, and the kernel's own words for the UART that it found.
const UARTS: [(&str, &str, &str); 4] = [
    ("ack61", "pl011", "earlycon: pl11 at MMIO 0x0000000009000000"),
    ("ack61", "16550", "earlycon: ns16550a0 at MMIO 0x0000000009000000"),
    ("ack66", "pl011", "earlycon: pl11 at MMIO 0x0000000009000000"),
    ("ack612", "pl011", "earlycon: pl11 at MMIO 0x0000000009000000"),
];

#[test]
fn linux_is_heard_from_its_first_words_on_both_uarts() {
    let guest = std::env::var_os("GUNYAHD_GUEST_DIR")
        .map_or(Path::new(env!("CARGO_MANIFEST_DIR")).join("target/guest"), PathBuf::from);
    let Ok(kernel) = std::fs::read(guest.join("Image")) else {
        return skip("no arm64 kernel; cargo xtask setup fetches one");
    };
    for (dialect, device, found) in UARTS {
        let changes = json!({
            "memory": { "size": "128M", "backing": ["auto", "thp"] },
            "console": { "device": device },
            "cmdline": "earlycon our=word",
            "ready": { "console_line": "Memory: *K/131072K available", "timeout": "2m" },
        });
        let test = format!("linux-{device}");
        let Some(host) = Host::boot_on(dialect, &test, "exec", "", &kernel, &changes) else {
            return;
        };
        host.wait_for("ready");
        let printed = String::from_utf8(host.ask(&["log", "vm"]).stdout).unwrap();
        for line in [
            "Booting Linux on physical CPU 0x0000000000",
            "Machine model: gunyahd guest",
            found,
            "Kernel command line: earlycon our=word",
        ] {
            assert!(printed.contains(line), "{dialect} {device}: no `{line}`: {printed}");
        }
        assert!(host.ask(&["stop", "vm"]).status.success());
    }
}
