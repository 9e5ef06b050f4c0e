// SPDX-License-Identifier: Apache-2.0
//! The scripts for init and ueventd: AOSP's keywords, and what they share with the rest of the tree.

use std::collections::BTreeMap;

use crate::tools::read;

type Words = Vec<String>;

/// A section of a script: its first line and the lines below it.
#[derive(Debug)]
struct Section {
    head: Words,
    lines: Vec<Words>,
}

/// Sections of a script. Neither quotes nor continued lines are used here.
fn sections(text: &str) -> Vec<Section> {
    let mut found: Vec<Section> = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        assert!(!line.contains(['"', '\\']), "{line}: not understood by this test");
        let words: Words = line.split_whitespace().map(str::to_owned).collect();
        if matches!(words[0].as_str(), "service" | "on" | "import") {
            let lines = Vec::new();
            found.push(Section { head: words, lines });
        } else {
            let section =
                found.last_mut().unwrap_or_else(|| panic!("{line}: outside of a section"));
            section.lines.push(words);
        }
    }
    found
}

/// Options of a service with their fewest and most arguments (AOSP, system/core/init/service_parser.cpp).
const OPTIONS: &str = "capabilities:0-41 class:1-99 console:0-1 critical:0-2 disabled:0-0 file:2-2 \
    gentle_kill:0-0 group:1-13 ioprio:2-2 oneshot:0-0 onrestart:1-99 oom_score_adjust:1-1 priority:1-1 \
    restart_period:1-1 rlimit:3-3 seclabel:1-1 setenv:2-2 shutdown:1-1 socket:3-6 stdio_to_kmsg:0-0 \
    task_profiles:1-99 user:1-1";

/// Commands that a vendor's script may use (AOSP, system/core/init/builtins.cpp).
const COMMANDS: &str = "chmod:2-2 chown:2-3 mkdir:1-6 restart:1-2 setprop:2-2 start:1-1 stop:1-1 \
    wait:1-2 write:2-2";

/// The fewest and most arguments of a keyword.
fn counts(table: &str, keyword: &str) -> Option<(usize, usize)> {
    let mut entries = table.split(' ').filter_map(|entry| entry.split_once(':'));
    let (_, range) = entries.find(|(name, _)| *name == keyword)?;
    let (fewest, most) = range.split_once('-')?;
    Some((fewest.parse().ok()?, most.parse().ok()?))
}

/// Words that must be one of AOSP's where they stand; init finds a wrong one only on the device.
const KNOWN: [(&str, &str); 9] = [
    ("user", "system"),
    ("group", "system shell readproc readtracefs"),
    ("capabilities", "IPC_LOCK SYS_NICE SYS_RESOURCE"),
    ("class", "early_hal hal core main late_start"),
    ("task_profiles", "ProcessCapacityHigh ProcessCapacityMax HighPerformance"),
    ("rlimit", "memlock nofile rtprio unlimited"),
    ("socket", "gunyahd stream stream+listen seqpacket 0660 0666 system shell"),
    ("file", "/dev/kmsg r w rw"),
    ("shutdown", "critical"),
];

const EVENTS: &str =
    "early-init init late-init early-fs fs post-fs late-fs post-fs-data early-boot boot";

/// Every mistake of a script.
fn mistakes(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for Section { head, lines } in sections(text) {
        let table = if head[0] == "service" { OPTIONS } else { COMMANDS };
        if head[0] == "on" {
            triggers(&head[1..], &mut found);
        }
        let all = lines.iter().map(|words| (&words[..], table));
        let restarts = lines.iter().filter(|words| words[0] == "onrestart");
        let nested = restarts.map(|words| (&words[1..], COMMANDS));
        for (words, table) in all.chain(nested) {
            let line = words.join(" ");
            match counts(table, &words[0]) {
                None => found.push(format!("{line}: {} is not a keyword here", words[0])),
                Some((fewest, most)) if !(fewest..=most).contains(&(words.len() - 1)) => {
                    found.push(format!("{line}: takes {fewest} to {most} arguments"));
                }
                Some(_) => arguments(words, &mut found),
            }
            for name in line.split("${").skip(1).filter_map(|rest| rest.split('}').next()) {
                // Unless the trigger waits for the property, it can be unset, and the command fails.
                if !head.iter().any(|word| word.starts_with(&format!("property:{name}="))) {
                    found.push(format!("{line}: nothing waits for {name}"));
                }
            }
        }
    }
    found
}

/// Triggers of an action: events and properties of the vendor's, joined by `&&`.
fn triggers(words: &[String], found: &mut Vec<String>) {
    for (index, word) in words.iter().enumerate() {
        let known = match word.strip_prefix("property:") {
            _ if index % 2 == 1 => word == "&&",
            Some(property) => {
                let prefixes = ["init.svc.vendor.", "ro.vendor.", "persist.vendor.", "vendor."];
                property.contains('=') && prefixes.iter().any(|prefix| property.starts_with(prefix))
            }
            None => EVENTS.split(' ').any(|event| event == word),
        };
        if !known {
            found.push(format!("on {}: {word} is not a trigger", words.join(" ")));
        }
    }
}

fn arguments(words: &[String], found: &mut Vec<String>) {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| words[1].starts_with(prefix));
    let good = match words[0].as_str() {
        // vendor_init may write sysfs, no file of /proc, and properties of the vendor's alone.
        "write" => starts(&["/sys/"]),
        "setprop" => starts(&["vendor.", "persist.vendor.", "ro.vendor."]),
        "start" | "stop" | "restart" => starts(&["vendor."]),
        keyword => KNOWN.iter().filter(|(name, _)| *name == keyword).all(|(_, known)| {
            let mut arguments = words[1..].iter();
            arguments.all(|word| known.split(' ').any(|known| known == word))
        }),
    };
    if !good {
        found.push(format!("{}: wrong arguments", words.join(" ")));
    }
}

#[test]
fn scripts_use_aosps_keywords() {
    for name in ["init/gunyahd.rc", "init/gunyah-hugepages.rc"] {
        assert_eq!(mistakes(&read(name)), [""; 0], "{name}");
    }
}

/// A checker that finds nothing would pass as well.
#[test]
fn the_checker_of_scripts_finds_mistakes() {
    for line in [
        "capabilitys IPC_LOCK",
        "capabilities SYS_ADMN",
        "class erly_hal",
        "user",
        "group sytem",
        "rlimit memlok 1 1",
        "socket gunyahd stream+listening 0660",
        "gentle_kill 200",
        "onrestart setprop sys.x 1",
        "onrestart reboot",
    ] {
        let script = format!("service vendor.x /vendor/bin/x\n  {line}\n");
        assert_eq!(mistakes(&script).len(), 1, "{line}");
    }
    for action in [
        "on erly-init\n  start vendor.x",
        "on init || boot\n  start vendor.x",
        "on property:sys.boot_completed=1\n  start vendor.x",
        "on init\n  write /proc/sys/vm/nr_hugepages 1",
        "on init\n  write /sys/a ${ro.vendor.b}",
        "on init\n  start logd",
        "on init\n  user system",
    ] {
        assert_eq!(mistakes(action).len(), 1, "{action}");
    }
}

/// Every option with its values, so that none is lost, added or changed by accident; the script says why each
/// is there.
#[test]
fn the_service_is_what_was_decided() {
    let script = sections(&read("init/gunyahd.rc"));
    let all: Vec<String> = script
        .iter()
        .flat_map(|section| std::iter::once(&section.head).chain(&section.lines))
        .map(|words| words.join(" "))
        .collect();
    assert_eq!(
        all,
        [
            "service vendor.gunyahd /vendor/bin/gunyahd boot --reserve ${ro.vendor.gunyah.reserve:-0}",
            "class early_hal",
            "user system",
            "group system",
            "capabilities IPC_LOCK SYS_NICE",
            "rlimit memlock unlimited unlimited",
            "socket gunyahd stream+listen 0660 system shell",
            "file /dev/kmsg w",
            "stdio_to_kmsg",
            "task_profiles ProcessCapacityHigh",
            "oom_score_adjust -1000",
            "gentle_kill",
            "onrestart setprop vendor.gunyah.state stopped",
            "on property:init.svc.vendor.gunyahd=stopped",
            "setprop vendor.gunyah.state stopped",
        ]
    );
}

/// What init passes to the program, and what the policy and the program make of it.
#[test]
fn the_service_fits_program_and_policy() {
    let service = &sections(&read("init/gunyahd.rc"))[0];
    let options: BTreeMap<&str, &[String]> =
        service.lines.iter().map(|words| (words[0].as_str(), &words[1..])).collect();
    // init names the variable after the file.
    let file = options["file"][0].replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    assert!(read("src/status/kmsg.rs").contains(&format!("\"ANDROID_FILE_{file}\"")));
    let capabilities = options["capabilities"].join(" ").to_lowercase();
    let policy = read("sepolicy/vendor/gunyahd.te");
    assert!(policy.contains(&format!("global_capability_class_set {{ {capabilities} }}")));
    // The property has a label, and the advice names it.
    let hugepages = sections(&read("init/gunyah-hugepages.rc"));
    let pool = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    let property = "ro.vendor.gunyah.hugepages";
    let lines: Vec<&Words> = hugepages.iter().flat_map(|section| &section.lines).collect();
    assert_eq!(lines, [&["write", pool, &format!("${{{property}}}")]]);
    assert!(read("src/memory/pool.rs").contains(&format!("{property}={{pages}}")));
    let labels = read("sepolicy/vendor/genfs_contexts");
    let labelled = labels.split_whitespace().find(|word| word.starts_with("/kernel"));
    assert!(pool["/sys".len()..].starts_with(labelled.unwrap()));
}

/// The node belongs to the service's user and group, and to everyone only where crosvm needs it.
#[test]
fn the_node_belongs_to_the_services_user() {
    for (name, mode) in [("ueventd.gunyahd.rc", "0660"), ("ueventd.gunyahd-shared.rc", "0666")] {
        let text = read(&format!("init/{name}"));
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let words: Vec<Vec<&str>> =
            lines.iter().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words, [["/dev/gunyah", mode, "system", "system"]], "{name}");
        assert!(text.contains(&format!("import /vendor/etc/{name}")));
    }
}
