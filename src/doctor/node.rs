// SPDX-License-Identifier: Apache-2.0
//! `/dev/gunyah`: mode, owner, label, who holds it, which driver is behind it.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use gunyah::Dialect;
use nix::errno::Errno;

use super::processes::Process;
use super::Findings;
use crate::diagnostic::{kinds, Diagnostic};
use crate::launch;
use crate::list::Listed;
use crate::text::{errno_name, failure};

/// AID_SYSTEM, the user and group of init/gunyahd.rc (AOSP, android_filesystem_config.h).
pub(super) const SYSTEM: u32 = 1000;

kinds! {
    OTHER_FILE: Error "node-other-file" in Device {
        "what is at the node's path is not a character device",
        cause: "a program that writes to the path made a file there before the driver's node came",
        cure: "remove it and reboot",
    }
    MODE: Error "node-mode" in Device {
        "the service's user may not open the node",
        cause: "ueventd has no line for it",
        cure: "put `import /vendor/etc/ueventd.gunyahd.rc` into the file that installs as /vendor/etc/ueventd.rc (docs/porting.md, step 4)",
    }
    LABEL: Error "node-label" in Device {
        "the node has no SELinux label of its own, and no rule of gunyahd's names it",
        cause: "the vendor policy lacks sepolicy/node",
        cure: "add sepolicy/node or sepolicy/node-shared to BOARD_VENDOR_SEPOLICY_DIRS (docs/sepolicy.md)",
    }
    OTHER_LAUNCHER: Warning "node-other-launcher" in Device {
        "another program that makes VMs uses the node",
        cause: "the vendor's service or Android's crosvm; all of them share the hypervisor's VM ids and memory, and some take what is free",
        cure: "stop it if the VMs of gunyahd fail to start (`stop vendor.qvirtservice`); decide which of the two owns the hypervisor (docs/porting.md, step 4)",
    }
}

/// Kind, mode, owner and label of the node.
pub(super) fn file(device: &Path, all: &mut Findings) {
    let path = device.display();
    let found = match fs::metadata(device) {
        Ok(found) => found,
        // Opening it has more to say.
        Err(error) => return all.note("node", format!("{path}: {}", failure(&error))),
    };
    if !found.file_type().is_char_device() {
        return all.bad(OTHER_FILE.case(format!("{path} is not a character device")));
    }
    let (mode, user, group) = (found.mode() & 0o777, found.uid(), found.gid());
    let (user_name, group_name) = (owner(user), owner(group));
    let what = format!("{path} is {mode:04o}, user {user_name}, group {group_name}");
    let allowed = match (user, group) {
        (SYSTEM, _) => mode >> 6,
        (_, SYSTEM) => mode >> 3,
        _ => mode,
    };
    match allowed & 0o6 {
        0o6 => all.good("node", what),
        _ => all.bad(MODE.case(format!("{what}: the user system may not read and write it"))),
    }
    match label(device) {
        Ok(None) => all.note("label", "this host has no SELinux labels"),
        Ok(Some(label)) => match kind_of(&label) {
            "device" | "unlabeled" => all.bad(LABEL.case(format!("{path} is labelled {label}"))),
            _ => all.good("label", format!("{path} is labelled {label}")),
        },
        Err(errno) => {
            all.note("label", format!("that of {path} cannot be seen: {}", errno_name(errno)));
        }
    }
}

fn owner(id: u32) -> String {
    match id {
        0 => "root".to_owned(),
        SYSTEM => "system".to_owned(),
        other => other.to_string(),
    }
}

/// A file's SELinux label; None where there are none.
pub(super) fn label(path: &Path) -> Result<Option<String>, Errno> {
    let mut room = [0; 256];
    match rustix::fs::getxattr(path, "security.selinux", &mut room[..]) {
        Ok(length) => {
            let label = String::from_utf8_lossy(&room[..length.min(room.len())]);
            Ok(Some(label.trim_end_matches('\0').to_owned()))
        }
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(Errno::from_raw(error.raw_os_error())),
    }
}

/// The type of `u:object_r:TYPE:s0`.
pub(super) fn kind_of(label: &str) -> &str {
    label.split(':').nth(2).unwrap_or(label)
}

/// Who else has the node or VMs open.
pub(super) fn holders(device: &Path, processes: &[Process], all: &mut Findings) {
    let path = device.display();
    let unseen = processes.iter().filter(|process| process.holds.is_none()).count();
    for process in processes.iter().filter(|process| !process.is_ours()) {
        let (name, pid) = (&process.name, process.pid);
        match process.holds {
            Some(true) => {
                all.bad(OTHER_LAUNCHER.case(format!("{name} (pid {pid}) has {path} or a VM open")));
            }
            None if process.is_launcher() => {
                let what =
                    format!("{name} (pid {pid}) runs; which files it has open cannot be seen");
                all.bad(OTHER_LAUNCHER.case(what));
            }
            Some(false) if process.is_launcher() => {
                all.note(
                    "holders",
                    format!("{name} (pid {pid}) runs, and does not have {path} open"),
                );
            }
            _ => {}
        }
    }
    let seen = processes.len() - unseen;
    let held = processes.iter().filter(|process| process.holds == Some(true));
    let others = held.clone().filter(|process| !process.is_ours()).count();
    let ours = held.filter(|process| process.is_ours()).map(|p| p.pid.to_string()).listed();
    if others == 0 {
        let who = match ours.is_empty() {
            true => "nobody".to_owned(),
            false => format!("gunyahd alone (pid {})", ours.join(", ")),
        };
        all.good("holders", format!("of {seen} processes, {who} has {path} open"));
    }
    if unseen > 0 {
        all.note(
            "holders",
            format!("open files of {unseen} processes cannot be seen: run it as root"),
        );
    }
}

/// Which driver is behind the node, by a VM that is never started.
pub(super) fn dialect(device: &Path, all: &mut Findings) -> Option<Dialect> {
    let found: Result<Dialect, Diagnostic> = launch::probe(device);
    match found {
        Ok(dialect) => {
            all.good("driver", format!("its dialect is {dialect}"));
            Some(dialect)
        }
        Err(fault) => {
            all.bad(fault);
            None
        }
    }
}
