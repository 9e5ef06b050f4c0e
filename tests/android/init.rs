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
        assert!(
            !line.contains(['"', '\\']),
            "{line}: not understood by this test"
        );
        let words: Words = line.split_whitespace().map(str::to_owned).collect();
        if matches!(words[0].as_str(), "service" | "on" | "import") {
            let lines = Vec::new();
            found.push(Section { head: words, lines });
        } else {
            let section = found
                .last_mut()
                .unwrap_or_else(|| panic!("{line}: outside of a section"));
            section.lines.push(words);
        }
    }
    found
}

/// Options of a service (AOSP, system/core/init/service_parser.cpp): fewest and most arguments.
const OPTIONS: [(&str, usize, usize); 22] = [
    ("capabilities", 0, 41),
    ("class", 1, 99),
    ("console", 0, 1),
    ("critical", 0, 2),
    ("disabled", 0, 0),
    ("file", 2, 2),
    ("gentle_kill", 0, 0),
    ("group", 1, 13),
    ("ioprio", 2, 2),
    ("oneshot", 0, 0),
    ("onrestart", 1, 99),
    ("oom_score_adjust", 1, 1),
    ("priority", 1, 1),
    ("restart_period", 1, 1),
    ("rlimit", 3, 3),
    ("seclabel", 1, 1),
    ("setenv", 2, 2),
    ("shutdown", 1, 1),
    ("socket", 3, 6),
    ("stdio_to_kmsg", 0, 0),
    ("task_profiles", 1, 99),
    ("user", 1, 1),
];

/// Commands (AOSP, system/core/init/builtins.cpp) that a vendor's script may use.
const COMMANDS: [(&str, usize, usize); 9] = [
    ("chmod", 2, 2),
    ("chown", 2, 3),
    ("mkdir", 1, 6),
    ("restart", 1, 2),
    ("setprop", 2, 2),
    ("start", 1, 1),
    ("stop", 1, 1),
    ("wait", 1, 2),
    ("write", 2, 2),
];

/// Words that must be one of AOSP's where they stand; a wrong one is an error only on the device.
const KNOWN: [(&str, &[&str]); 5] = [
    ("user", &["root", "system", "shell", "log", "nobody"]),
    (
        "group",
        &["root", "system", "shell", "log", "readproc", "readtracefs"],
    ),
    (
        "capabilities",
        &[
            "IPC_LOCK",
            "SYS_NICE",
            "SYS_RESOURCE",
            "NET_ADMIN",
            "WAKE_ALARM",
        ],
    ),
    ("class", &["early_hal", "hal", "core", "main", "late_start"]),
    (
        "task_profiles",
        &[
            "ProcessCapacityHigh",
            "ProcessCapacityMax",
            "HighPerformance",
            "MaxPerformance",
        ],
    ),
];

const EVENTS: [&str; 10] = [
    "early-init",
    "init",
    "late-init",
    "early-fs",
    "fs",
    "post-fs",
    "late-fs",
    "post-fs-data",
    "early-boot",
    "boot",
];

/// Every mistake of a script.
fn mistakes(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for Section { head, lines } in sections(text) {
        let table: &[_] = if head[0] == "service" {
            &OPTIONS
        } else {
            &COMMANDS
        };
        if head[0] == "on" {
            triggers(&head[1..], &mut found);
        }
        let mut checked: Vec<(&[String], &[(&str, usize, usize)])> =
            lines.iter().map(|words| (&words[..], table)).collect();
        let nested = lines.iter().filter(|words| words[0] == "onrestart");
        checked.extend(nested.map(|words| (&words[1..], &COMMANDS[..])));
        for (words, table) in checked {
            let line = words.join(" ");
            match table.iter().find(|(name, ..)| *name == words[0]) {
                None => found.push(format!("{line}: {} is not a keyword here", words[0])),
                Some((_, fewest, most)) if !(*fewest..=*most).contains(&(words.len() - 1)) => {
                    found.push(format!("{line}: takes {fewest} to {most} arguments"));
                }
                Some(_) => arguments(words, &mut found),
            }
            for name in line
                .split("${")
                .skip(1)
                .filter_map(|rest| rest.split('}').next())
            {
                // Unless the trigger waits for the property, it can be unset, and the command fails.
                if !head
                    .iter()
                    .any(|word| word.starts_with(&format!("property:{name}=")))
                {
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
                let prefixes = [
                    "init.svc.vendor.",
                    "ro.vendor.",
                    "persist.vendor.",
                    "vendor.",
                ];
                property.contains('=') && prefixes.iter().any(|prefix| property.starts_with(prefix))
            }
            None => EVENTS.contains(&word.as_str()),
        };
        if !known {
            found.push(format!("on {}: {word} is not a trigger", words.join(" ")));
        }
    }
}

fn arguments(words: &[String], found: &mut Vec<String>) {
    let line = words.join(" ");
    let [keyword, arguments @ ..] = words else {
        return;
    };
    let argument = |index: usize| arguments.get(index).map_or("", String::as_str);
    let starts = |prefixes: &[&str]| {
        prefixes
            .iter()
            .any(|prefix| argument(0).starts_with(prefix))
    };
    let number = |text: &str| text.parse::<i64>().is_ok();
    let known = KNOWN.iter().find(|(name, _)| name == keyword);
    let good = match keyword.as_str() {
        "rlimit" => {
            let limit = |text: &str| text == "unlimited" || number(text);
            ["memlock", "nofile", "rtprio"].contains(&argument(0))
                && limit(argument(1))
                && limit(argument(2))
        }
        "socket" => {
            let kinds = [
                "stream",
                "stream+listen",
                "dgram",
                "seqpacket",
                "seqpacket+listen",
            ];
            let octal = argument(2).len() == 4 && u32::from_str_radix(argument(2), 8).is_ok();
            let ids = KNOWN[1].1;
            kinds.contains(&argument(1))
                && octal
                && arguments[3..].iter().all(|id| ids.contains(&id.as_str()))
        }
        "file" => argument(0).starts_with('/') && ["r", "w", "rw"].contains(&argument(1)),
        "oom_score_adjust" => argument(0)
            .parse()
            .is_ok_and(|score: i32| (-1000..=1000).contains(&score)),
        "restart_period" | "priority" => number(argument(0)),
        "shutdown" => argument(0) == "critical",
        // vendor_init may write sysfs, no file of /proc, and properties of the vendor's alone.
        "write" => starts(&["/sys/"]),
        "setprop" => starts(&["vendor.", "persist.vendor.", "ro.vendor."]),
        "start" | "stop" | "restart" => starts(&["vendor."]),
        _ => {
            known.is_none_or(|(_, list)| arguments.iter().all(|word| list.contains(&word.as_str())))
        }
    };
    if !good {
        found.push(format!("{line}: wrong arguments"));
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
        "socket a stream+listening 0660",
        "socket a stream 0980 system",
        "socket a stream 0660 system shel",
        "file dev/kmsg w",
        "oom_score_adjust -1001",
        "gentle_kill 200",
        "task_profiles ProcessCapacityHihg",
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
            "service vendor.gunyahd /vendor/bin/gunyahd boot",
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
    let options: BTreeMap<&str, &[String]> = service
        .lines
        .iter()
        .map(|words| (words[0].as_str(), &words[1..]))
        .collect();
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
    let lines: Vec<&Words> = hugepages
        .iter()
        .flat_map(|section| &section.lines)
        .collect();
    assert_eq!(lines, [&["write", pool, &format!("${{{property}}}")]]);
    assert!(read("src/memory/pool.rs").contains(&format!("{property}={{pages}}")));
    let labels = read("sepolicy/vendor/genfs_contexts");
    let labelled = labels
        .split_whitespace()
        .find(|word| word.starts_with("/kernel"));
    assert!(pool["/sys".len()..].starts_with(labelled.unwrap()));
}

/// The node belongs to the service's user and group, and to everyone only where crosvm needs it.
#[test]
fn the_node_belongs_to_the_services_user() {
    for (name, mode) in [
        ("ueventd.gunyahd.rc", "0660"),
        ("ueventd.gunyahd-shared.rc", "0666"),
    ] {
        let text = read(&format!("init/{name}"));
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let words: Vec<Vec<&str>> = lines
            .iter()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(words, [["/dev/gunyah", mode, "system", "system"]], "{name}");
        assert!(text.contains(&format!("import /vendor/etc/{name}")));
    }
}
