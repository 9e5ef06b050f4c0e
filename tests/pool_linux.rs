// SPDX-License-Identifier: Apache-2.0
//! Linux with a kernel that no package has: `cargo xtask pool-guest` builds it, and runs this.
#![allow(clippy::unwrap_used)] // A test ends there.

mod host;

use std::time::Duration;

use serde_json::json;

use host::disk::{guest_files, Disk};
use host::Host;

/// It takes seconds of a processor; a busy machine gives them late.
const PATIENCE: Duration = Duration::from_secs(600);

/// A kernel with restricted pools, where memory is lent: the root disk is read and written through one.
#[test]
fn linux_reaches_its_root_disk_through_a_pool() {
    let guest = guest_files();
    let (image, initrd) = (guest.join("disk-busybox.img"), guest.join("disk-initrd.cpio.gz"));
    let kernel = std::fs::read(guest.join("pool-Image")).expect("pool-guest has built it");
    for (dialect, transport) in [("ack61", "mmio"), ("ack66", "mmio"), ("ack612", "pci")] {
        let disk = Disk::copy(&image);
        let changes = json!({
            "memory": { "size": "128M", "backing": ["thp"], "access": "lend" },
            // Its modules are Debian's and are refused: this kernel has the drivers built in.
            "initrd": { "path": initrd },
            "disks": [{ "path": disk.0 }],
            "transport": transport,
            "entropy": true,
            "vcpus": { "scheduling": "proxy" },
            "console": { "device": "pl011", "virtio": true },
            "cmdline": "console=ttyAMA0 guest.poweroff=0",
        });
        let Some(mut host) = Host::boot_on(dialect, "pool", "exec", "", &kernel, &changes) else {
            return;
        };
        host.patience = PATIENCE;
        let status = host.wait_until(|status| status["state"] == "stopped");
        assert_eq!(status["last_end"]["reason"], "power-off", "{dialect}: {status:#}");
        let printed = host.printed().concat();
        for words in [
            "assigned reserved memory node pool@88000000",
            "gunyah guest: root disk reached, start 1",
        ] {
            assert!(printed.contains(words), "{dialect}: no `{words}`: {printed}");
        }
        assert_eq!(disk.read("/starts"), "1\n", "{dialect}");
        let log = host.log();
        assert!(!log.contains("device-outside-pool"), "{dialect}: {log}");
    }
}
