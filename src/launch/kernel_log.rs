// SPDX-License-Identifier: Apache-2.0
//! What the kernel says of a START that fails. The resource manager's own answer is seen in its log
//! alone: the driver makes one errno of many codes.
//!
//! Lines as seen on 6.1 (`gh_rsc_mgr …`) and later (`gunyah_rsc_mgr …`); numbers as in the driver's
//! rsc_mgr.h and rsc_mgr_rpc.c.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;

use crate::diagnostic::Diagnostic;
use crate::list::Listed;
use crate::text::{errno_name, excerpt};

const DEVICE: &str = "/dev/kmsg";
/// A record with its dictionary (CONSOLE_EXT_LOG_MAX of kernel/printk).
const RECORD_MAX: usize = 8 << 10;
/// A START says a few lines, and others may say something at the same time.
const RECORDS_MAX: usize = 4096;
/// Explained lines in one message: the first are the cause, the rest follow from it.
const TOLD_MAX: usize = 3;

/// The kernel's log from a moment on.
pub(super) struct KernelLog(Option<File>);

impl KernelLog {
    /// From now on. Where it may not be read, nothing is known and nothing is said.
    pub fn from_now() -> Self {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY);
        let mut file = options.open(DEVICE).ok();
        let at_end = file.as_mut().is_some_and(|file| file.seek(SeekFrom::End(0)).is_ok());
        Self(file.filter(|_| at_end))
    }

    /// Adds what the kernel has said since.
    pub fn explain(self, fault: Diagnostic) -> Diagnostic {
        let records = self.0.map(read).unwrap_or_default();
        let mut told =
            records.iter().filter_map(|record| line(record)).filter_map(explained).listed();
        told.dedup();
        told.truncate(TOLD_MAX);
        if told.is_empty() {
            return fault;
        }
        let mut cause = format!("the kernel says {}", told.join("; and "));
        if !fault.cause.is_empty() {
            cause.push_str(&format!("; other causes: {}", fault.cause));
        }
        fault.cause(cause)
    }
}

/// All records that are there.
fn read(mut file: File) -> Vec<String> {
    let mut records = Vec::new();
    let mut room = vec![0; RECORD_MAX];
    for _ in 0..RECORDS_MAX {
        match file.read(&mut room) {
            Ok(0) => break,
            Ok(length) => records.push(String::from_utf8_lossy(&room[..length]).into_owned()),
            // EPIPE: records were overwritten; the next read goes on with what is left.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(_) => break,
        }
    }
    records
}

/// The text of a record, if the kernel itself wrote it: `6,339,5140900,-;text`. A program that writes to
/// /dev/kmsg gets a facility (Documentation/ABI/testing/dev-kmsg).
fn line(record: &str) -> Option<&str> {
    let (head, text) = record.split_once(';')?;
    let priority: u32 = head.split(',').next()?.parse().ok()?;
    (priority < 8).then(|| text.lines().next().unwrap_or_default())
}

/// A line of the driver's or of what is below it, in words.
fn explained(line: &str) -> Option<String> {
    let words = rejected(line)
        .or_else(|| parcel(line))
        .or_else(|| start(line))
        .or_else(|| fixed(line).map(str::to_owned))?;
    Some(format!("`{}`: {words}", excerpt(line_without_device(line))))
}

/// Without `gh_rsc_mgr hypervisor:…: ` and the like, which is what fills a line.
fn line_without_device(line: &str) -> &str {
    let starts = ["RM rejected", "Failed to ", "qcom_scm", "Unexpected virq"];
    let found = starts.iter().filter_map(|start| line.find(start)).min();
    &line[found.unwrap_or(0)..]
}

/// `RM rejected message 5600000b. Error: 10`.
fn rejected(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("RM rejected message ")?;
    let (message, rest) = rest.split_once(". Error: ")?;
    let message = u32::from_str_radix(message, 16).ok()?;
    let code = rest.split(|c: char| !c.is_ascii_digit() && c != '-').next()?;
    let code: i64 = code.parse().ok()?;
    let code = if code == i64::from(u32::MAX) { -1 } else { code };
    let asked = MESSAGES.iter().find(|(known, _)| *known == message);
    let asked = asked.map_or_else(
        || format!("do what message {message:#x} asks"),
        |(_, asked)| (*asked).to_owned(),
    );
    let error = match CODES.iter().find(|(known, _)| *known == code) {
        Some((_, name)) => format!("error {code}, {name}"),
        None => format!("error {code}"),
    };
    let known = CASES.iter().find(|(messages, known, _)| {
        *known == code && (messages.is_empty() || messages.contains(&message))
    });
    let why = known.map_or(String::new(), |(.., why)| format!(": {why}"));
    Some(format!("the resource manager refused to {asked} ({error}){why}"))
}

/// `Failed to allocate parcel for DTB: -12`.
fn parcel(line: &str) -> Option<String> {
    let errno = after(line, "Failed to allocate parcel for ")?;
    let why = match errno {
        Errno::ENOMEM => {
            ": RLIMIT_MEMLOCK is too low for the devicetree's pages, as 64 KiB by default are"
        }
        Errno::ENOENT => ": the devicetree lies in no region",
        _ => "",
    };
    Some(format!("the driver could not hand over the pages, {}{why}", errno_name(errno)))
}

/// `misc gunyah: Failed to start VM: -19`. It says no more than the errno, but that it was the driver's.
fn start(line: &str) -> Option<String> {
    let errno = after(line, "gunyah: Failed to ")?;
    Some(format!("the driver gave up there, {}", errno_name(errno)))
}

/// The errno that ends a line with these words.
fn after(line: &str, words: &str) -> Option<Errno> {
    let (_, rest) = line.split_once(words)?;
    let (_, number) = rest.rsplit_once(": -")?;
    let number: i32 = number.trim_ascii().parse().ok()?;
    // "Failed to stop VM: -74" is said of every VM that has ended by itself.
    (!rest.starts_with("stop VM")).then(|| Errno::from_raw(number))
}

fn fixed(line: &str) -> Option<&'static str> {
    FIXED.iter().find(|(words, _)| line.contains(words)).map(|(_, why)| *why)
}

/// What the driver asks the resource manager, by message.
const MESSAGES: &[(u32, &str)] = &[
    (0x5100_0012, "take lent memory"),
    (0x5100_0013, "take shared memory"),
    (0x5100_0015, "give memory back"),
    (0x5100_0018, "take more pieces of memory"),
    (0x5600_0001, "give a VM id"),
    (0x5600_0002, "take a VM id back"),
    (0x5600_0004, "start the VM"),
    (0x5600_0005, "stop the VM"),
    (0x5600_0006, "reset the VM"),
    (0x5600_0009, "take the image's place"),
    (0x5600_000a, "authenticate the image"),
    (0x5600_000b, "make the VM of its devicetree"),
    (0x5600_0020, "give the VM's doorbells and vCPUs"),
    (0x5600_0031, "set the first registers"),
    (0x5600_0032, "take the firmware's memory"),
    (0x5600_0033, "provide memory by page fault"),
    (0x5600_0034, "set the address layout"),
];

/// Its answers.
const CODES: &[(i64, &str)] = &[
    (-1, "not implemented"),
    (1, "no memory"),
    (2, "no resource"),
    (3, "denied"),
    (4, "invalid"),
    (5, "busy"),
    (6, "invalid argument"),
    (7, "invalid handle"),
    (8, "validation failed"),
    (9, "mapping failed"),
    (10, "invalid memory"),
    (11, "memory in use"),
    (12, "memory released"),
    (13, "invalid VM id"),
    (14, "lookup failed"),
    (15, "invalid interrupt"),
    (16, "interrupt in use"),
    (17, "interrupt released"),
    (18, "in use"),
    (20, "wrong state of the VM"),
];

/// What an answer to these messages (to any, where none is named) comes from, as far as it is known.
const CASES: &[(&[u32], i64, &str)] = &[
    (&[0x5600_000b], 10, "the devicetree is not at the first byte of its folio (6.12 looks there), is longer than its range, or breaks a rule of an older resource manager; `gunyahd check --dtb` knows the rules"),
    (&[0x5600_000b], 8, "it cannot take the devicetree apart; `gunyahd check --dtb` knows the rules"),
    (&[0x5600_000b], 2, "vdevices or vcpus of the devicetree's vm-config ask for what is not there, or the base address is taken"),
    (&[0x5600_0004], 2, "main memory is shared on production firmware, the devicetree's memory is not lent with all permissions, its range has no room for the overlay, or a labelled node of /reserved-memory has no region"),
    (&[0x5600_0009], 6, "the VM has firmware, and the boot loader gave the resource manager none for it; or the devicetree's range is wrong"),
    (&[0x5600_0004], 10, "the boot loader's firmware is larger than firmware.size"),
    (&[0x5100_0015], 7, "the pages are in use, as by a balloon; they are lost until a reboot"),
    (&[0x5600_0032], 3, "the boot loader gave the resource manager no firmware for VMs"),
    (&[0x5600_0031], 3, "a VM with firmware begins in the firmware, and takes neither PC nor X0"),
    (&[], -1, "it is older than this driver, and no VM of this driver starts on it"),
    (&[], 1, "its heap is used up: fewer VMs, larger pages, or a reboot after many teardowns"),
    (&[], 3, "the VM or its memory is not this host's to give, or the devicetree has a /hypervisor"),
    (&[], 20, "the VM is in another state, as after a VM id that was lost; a reboot helps if it stays"),
];

/// Other lines.
const FIXED: &[(&str, &str)] = &[
    ("qcom_scm_assign_mem", "the firmware refused to reassign the pages: on some 6.1 kernels the platform's hook takes the host's number for granted, which a kernel patch mends"),
    ("Failed to map guest address", "the hypervisor has no memory left for page tables: base pages use it up; large pages, and a reboot now, help"),
    ("Unexpected virq: -1", "the hypervisor schedules the VM, and it has aborted: newer drivers give such a VM no memory"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::Step;
    use crate::launch::answers::refused;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixDatagram;

    fn words(line: &str) -> String {
        explained(line).unwrap_or_else(|| panic!("not explained: {line}"))
    }

    #[test]
    fn lines_of_every_driver_are_explained() {
        for (line, begin, why) in [
            (
                "gunyah_rsc_mgr hypervisor:qcom,resource-mgr: RM rejected message 5600000b. Error: 10",
                "`RM rejected message 5600000b. Error: 10`: the resource manager refused to make the VM of its \
                 devicetree (error 10, invalid memory): ",
                "first byte of its folio",
            ),
            (
                "gh_rsc_mgr hypervisor:gunyah-resource-mgr@0: RM rejected message 56000004. Error: 2",
                "`RM rejected message 56000004. Error: 2`: the resource manager refused to start the VM (error 2, \
                 no resource): ",
                "shared on production firmware",
            ),
            (
                "gunyah_rsc_mgr x: RM rejected message 51000015. Error: 7",
                "`RM rejected message 51000015. Error: 7`: the resource manager refused to give memory back",
                "in use",
            ),
            (
                "gunyah_rsc_mgr x: RM rejected message 56000033. Error: -1",
                "`RM rejected message 56000033. Error: -1`: the resource manager refused to provide memory by page \
                 fault (error -1, not implemented): ",
                "older than this driver",
            ),
            (
                "gunyah_rsc_mgr x: RM rejected message 56000034. Error: 4294967295",
                "`RM rejected message 56000034. Error: 4294967295`: ",
                "(error -1, not implemented)",
            ),
            (
                "gh_rsc_mgr x: RM rejected message 51000012. Error: 1",
                "`RM rejected message 51000012. Error: 1`: the resource manager refused to take lent memory",
                "heap",
            ),
            ("misc gunyah: Failed to start VM: -19", "`Failed to start VM: -19`: ", "ENODEV"),
            (
                "misc gunyah: Failed to allocate parcel for DTB: -12",
                "`Failed to allocate parcel for DTB: -12`: ",
                "RLIMIT_MEMLOCK",
            ),
            ("misc gunyah: Failed to initialize VM: -22", "`Failed to initialize VM: -22`: ", "EINVAL"),
            ("gunyah: qcom_scm_assign_mem() failed -22", "`qcom_scm_assign_mem() failed -22`: ", "kernel patch"),
            (
                "gunyah: Failed to map guest address 80000000: 10",
                "`Failed to map guest address 80000000: 10`: ",
                "page tables",
            ),
        ] {
            let words = words(line);
            assert!(words.starts_with(begin), "{words}");
            assert!(words.contains(why), "{words}");
        }
        // A code and a message that nobody knows are still told.
        let unknown = words("gh_rsc_mgr x: RM rejected message 560000ff. Error: 99");
        assert!(
            unknown.ends_with("refused to do what message 0x560000ff asks (error 99)"),
            "{unknown}"
        );
    }

    #[test]
    fn other_lines_are_not() {
        for line in [
            "",
            "usb 1-1: new high-speed USB device",
            "misc gunyah: Failed to stop VM: -74",
            "Unknown vCPU state: 100",
            "RM rejected message zz. Error: 1",
            "RM rejected message 5600000b. Error: x",
            "misc gunyah: Failed to start VM: many",
        ] {
            assert_eq!(explained(line), None, "{line}");
        }
    }

    #[test]
    fn only_what_the_kernel_wrote_itself_counts() {
        assert_eq!(
            line("4,12,34,-;misc gunyah: hello\n SUBSYSTEM=misc\n"),
            Some("misc gunyah: hello")
        );
        // Facility 1: a program's.
        assert_eq!(line("12,13,35,-;misc gunyah: Failed to start VM: -19"), None);
        for broken in ["", ";", "x,1;text", "no semicolon"] {
            assert_eq!(line(broken), None);
        }
    }

    /// A log with these records: each read gives one, as that of the device.
    fn log(records: &[&str]) -> KernelLog {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        for record in records {
            theirs.send(record.as_bytes()).unwrap();
        }
        KernelLog(Some(File::from(OwnedFd::from(ours))))
    }

    #[test]
    fn a_failure_is_told_with_what_the_kernel_said() {
        let fault = || {
            let error = std::io::Error::from_raw_os_error(libc::EINVAL);
            refused(Step::Start, "VM_START", &error)
        };
        let told = log(&[
            "6,1,1,-;usb 1-1: new device\n",
            "3,2,2,-;gunyah_rsc_mgr a: RM rejected message 5600000b. Error: 10\n SUBSYSTEM=platform\n",
            "3,3,3,-;misc gunyah: Failed to initialize VM: -22\n",
            "3,4,4,-;misc gunyah: Failed to stop VM: -74\n",
        ])
        .explain(fault());
        let begin = "the kernel says `RM rejected message 5600000b. Error: 10`: the resource manager refused to make";
        assert!(told.cause.starts_with(begin), "{told}");
        assert!(told.cause.contains("; and `Failed to initialize VM: -22`"), "{told}");
        assert!(told.cause.contains("; other causes: "), "{told}");
        assert!(!told.cause.contains("-74") && !told.cause.contains("usb"), "{told}");
        // Nothing said, nothing allowed: nothing added.
        assert_eq!(log(&[]).explain(fault()), fault());
        assert_eq!(KernelLog(None).explain(fault()), fault());
    }
}
