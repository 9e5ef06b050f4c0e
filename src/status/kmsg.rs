// SPDX-License-Identifier: Apache-2.0
//! The kernel's log, for what is said before logd runs.

use std::fs::File;
use std::io::Write;

use super::logger::{pieces, Sent};
use crate::process::inherited_fd;

/// Set by init for `file /dev/kmsg w` in the service: the number of the open fd.
const VARIABLE: &str = "ANDROID_FILE__dev_kmsg";

// PRINTKRB_RECORD_MAX of kernel/printk/printk.c: a longer write is EINVAL.
const RECORD_MAX: usize = 1024;

/// `/dev/kmsg`, if init opened it for us.
pub fn inherited() -> Option<File> {
    let fd = inherited_fd(VARIABLE)?.ok()?;
    Some(fd.into())
}

/// Writes one record in as many lines as it needs.
pub fn send(mut kmsg: &File, level: log::Level, tag: &str, message: &str) -> Sent {
    // The kernel's levels: 3 error, 4 warning, 6 informational, 7 debug.
    let number = match level {
        log::Level::Error => 3,
        log::Level::Warn => 4,
        log::Level::Info => 6,
        log::Level::Debug | log::Level::Trace => 7,
    };
    let prefix = format!("<{number}>{tag}: ");
    let room = RECORD_MAX.saturating_sub(prefix.len() + 1).max(64);
    for piece in message.lines().flat_map(|line| pieces(line, room)) {
        if kmsg.write_all(format!("{prefix}{piece}\n").as_bytes()).is_err() {
            return Sent::Lost;
        }
    }
    Sent::Whole
}
