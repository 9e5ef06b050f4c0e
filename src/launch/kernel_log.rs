// SPDX-License-Identifier: Apache-2.0
//! What the kernel's log says of a call that failed: the only place where the resource manager's own answer
//! can be seen. Read where that is allowed, after a failure alone.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::time::{clock_gettime, ClockId};

use crate::text::printable;

const LOG: &str = "/dev/kmsg";
/// Longest record (linux/printk.h: PRINTK_MESSAGE_MAX), and the most records that are read.
const RECORD: usize = 2048;
const RECORDS: usize = 100_000;
/// The log's clock and the monotonic one are set apart by so little.
const SLACK: u64 = 10_000;

/// Messages to the resource manager, by their numbers.
const MESSAGES: &[(u32, &str)] = &[
    (0x5100_0012, "lending memory"),
    (0x5100_0013, "sharing memory"),
    (0x5100_0015, "taking memory back"),
    (0x5100_0018, "further pieces of memory"),
    (0x5600_0001, "a number for the VM"),
    (0x5600_0002, "giving the VM's number back"),
    (0x5600_0004, "the VM's start"),
    (0x5600_0005, "the VM's stop"),
    (0x5600_0006, "the VM's reset"),
    (0x5600_0009, "the VM's image"),
    (0x5600_000b, "the VM's devicetree"),
    (0x5600_0020, "the VM's vCPUs and doorbells"),
    (0x5600_0031, "the VM's first registers"),
    (0x5600_0032, "the VM's firmware"),
    (0x5600_0033, "memory by page fault"),
    (0x5600_0034, "the VM's address layout"),
];

/// Its answers.
const ERRORS: &[(i64, &str)] = &[
    (-1, "it does not know the message: it is too old for this kernel"),
    (1, "it has no memory left: fewer or smaller VMs, or a reboot"),
    (2, "it cannot make something that the devicetree asks for, or memory is shared that must be lent"),
    (3, "it is not allowed"),
    (5, "it is busy"),
    (7, "the memory is in use"),
    (8, "the devicetree breaks a rule of it"),
    (10, "it does not find a devicetree that it can read where it was told"),
    (0x12, "it is in use"),
    (0x14, "the VM is in the wrong state; an earlier one may not be gone"),
];

/// The time by the kernel's log, in microseconds.
pub(super) fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

/// The last refusal of the resource manager since `begin`, in words.
pub(super) fn refusal_since(begin: u64) -> Option<String> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
    let mut log = options.open(LOG).ok()?;
    let records = std::iter::from_fn(|| next_record(&mut log)).take(RECORDS);
    records.filter_map(|record| refusal(&record, begin)).last()
}

/// EPIPE: records were overwritten before they could be read; the next read goes on behind them.
fn next_record(log: &mut File) -> Option<String> {
    let mut bytes = [0; RECORD];
    loop {
        match log.read(&mut bytes) {
            Ok(0) => return None,
            Ok(length) => return Some(String::from_utf8_lossy(&bytes[..length]).into_owned()),
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(_) => return None,
        }
    }
}

/// Of a record of /dev/kmsg (Documentation/ABI/testing/dev-kmsg), if it is a refusal since `begin`.
fn refusal(record: &str, begin: u64) -> Option<String> {
    let (head, text) = record.split_once(';')?;
    let stamp: u64 = head.split(',').nth(2)?.parse().ok()?;
    if stamp.saturating_add(SLACK) < begin {
        return None;
    }
    let line = text.lines().next()?;
    let (_, refused) = line.split_once("RM rejected message ")?;
    let (message, error) = refused.split_once(". Error: ")?;
    let number = u32::from_str_radix(message.trim(), 16).ok()?;
    let error: i64 = error.trim().parse().ok()?;
    let message = MESSAGES.iter().find(|(of, _)| *of == number).map(|(_, words)| *words);
    let error = ERRORS.iter().find(|(of, _)| *of == error).map(|(_, words)| *words);
    let what = message.unwrap_or("a message that is not known here");
    let why = error.unwrap_or("for a reason that is not known here");
    Some(format!("the resource manager refused {what}: {why} (kernel log: `{}`)", printable(line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_explained_in_words() {
        let at = |stamp: u64, line: &str| format!("3,1234,{stamp},-;{line}\n SUBSYSTEM=x\n");
        let line = "gh_rsc_mgr hypervisor:rsc-mgr: RM rejected message 56000004. Error: 2";
        let words = refusal(&at(5_000_000, line), 4_000_000).unwrap();
        assert!(words.starts_with("the resource manager refused the VM's start: it cannot make"));
        assert!(words.ends_with(&format!("(kernel log: `{line}`)")), "{words}");
        let newer = "gunyah_rsc_mgr x: RM rejected message 5600000b. Error: 10";
        assert!(refusal(&at(5_000_000, newer), 4_000_000).unwrap().contains("devicetree"));
        let old = "gunyah_rsc_mgr x: RM rejected message 56000033. Error: -1";
        assert!(refusal(&at(5_000_000, old), 4_000_000).unwrap().contains("too old"));
        let strange = "gunyah_rsc_mgr x: RM rejected message 56000099. Error: 99";
        assert!(refusal(&at(5_000_000, strange), 0).unwrap().contains("not known here"));
        // Earlier ones, and what is no refusal.
        assert_eq!(refusal(&at(3_000_000, line), 4_000_000), None);
        assert_eq!(refusal(&at(5_000_000, "usb 1-1: new device"), 0), None);
        for broken in [
            "",
            ";",
            "3,1;RM rejected message ",
            "a,b,c,-;x",
            "3,1,9,-;RM rejected message z. Error: q",
        ] {
            assert_eq!(refusal(broken, 0), None, "{broken}");
        }
    }

    #[test]
    fn a_log_without_refusals_says_nothing() {
        assert_eq!(refusal_since(now().saturating_add(60_000_000)), None);
    }
}
