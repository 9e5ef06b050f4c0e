// SPDX-License-Identifier: Apache-2.0
//! The init scripts, by AOSP's grammar and against the rest of the tree.

#![allow(clippy::unwrap_used)]

#[path = "android/rc.rs"]
mod rc;

use std::path::Path;

use rc::{check_script, check_ueventd, Script};

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

fn script(name: &str) -> Script {
    let (script, mistakes) = check_script(&read(name));
    assert_eq!(mistakes, [], "{name}");
    script
}

#[test]
fn our_scripts_have_no_mistakes() {
    let services = script("init/gunyahd.rc").services;
    assert_eq!(services.len(), 1);
    assert_eq!(script("init/gunyah-hugepages.rc").actions.len(), 1);
    assert_eq!(check_ueventd(&read("init/ueventd.gunyahd.rc")), []);
}

/// Every option with its values, so that none is lost, added or changed by accident; the script says why each is
/// there.
#[test]
fn the_service_is_what_was_decided() {
    let script = script("init/gunyahd.rc");
    let service = &script.services[0];
    assert_eq!(service.name, "vendor.gunyahd");
    let mut options: Vec<String> = service
        .options
        .iter()
        .map(|words| words.join(" "))
        .collect();
    options.sort();
    assert_eq!(
        options,
        [
            "capabilities IPC_LOCK SYS_NICE",
            "class early_hal",
            "file /dev/kmsg w",
            "gentle_kill",
            "group system",
            "onrestart setprop vendor.gunyah.state stopped",
            "oom_score_adjust -1000",
            "rlimit memlock unlimited unlimited",
            "socket gunyahd stream+listen 0660 system shell",
            "task_profiles ProcessCapacityHigh",
            "user system",
        ]
    );
    let actions = script.actions.iter().map(|action| {
        let commands = action.commands.iter().map(|words| words.join(" "));
        (action.triggers.join(" "), commands.collect::<Vec<_>>())
    });
    let expected = (
        "property:init.svc.vendor.gunyahd=stopped".to_owned(),
        vec!["setprop vendor.gunyah.state stopped".to_owned()],
    );
    assert_eq!(actions.collect::<Vec<_>>(), [expected]);
}

/// Documentation/admin-guide/mm/hugetlbpage.rst for the file; the property's label and the errors' advice for
/// its name.
#[test]
fn huge_pages_are_reserved_where_the_kernel_and_the_errors_say() {
    let script = script("init/gunyah-hugepages.rc");
    assert!(script.services.is_empty());
    let [action] = script.actions.as_slice() else {
        panic!("{:?}", script.actions);
    };
    let property = "ro.vendor.gunyah.hugepages";
    assert_eq!(
        action.triggers,
        ["early-init", "&&", &format!("property:{property}=*")]
    );
    let pool = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    assert_eq!(
        action.commands,
        [["write", pool, &format!("${{{property}}}")]]
    );
    assert!(read("src/memory/pool.rs").contains(&format!("{property}={{pages}}")));
    let contexts = read("sepolicy/vendor/genfs_contexts");
    assert!(contexts.contains("genfscon sysfs /kernel/mm/hugepages "));
}

#[test]
fn the_service_fits_the_program() {
    let script = script("init/gunyahd.rc");
    let service = &script.services[0];
    assert_eq!(service.program, ["/vendor/bin/gunyahd", "boot"]);
    // Environment variables that init makes of socket and file, and that the program looks for.
    let socket = service.option("socket").unwrap();
    assert_eq!(
        socket,
        ["gunyahd", "stream+listen", "0660", "system", "shell"]
    );
    let kmsg = service.option("file").unwrap();
    let variable = format!(
        "ANDROID_FILE_{}",
        kmsg[0].replace(|c: char| !c.is_ascii_alphanumeric(), "_")
    );
    assert_eq!(variable, "ANDROID_FILE__dev_kmsg");
    assert!(read("src/status/kmsg.rs").contains(&format!("\"{variable}\"")));
    // What pins guest memory, and nothing that is not needed.
    assert_eq!(
        service.option("rlimit").unwrap(),
        ["memlock", "unlimited", "unlimited"]
    );
    assert_eq!(
        service.option("capabilities").unwrap(),
        ["IPC_LOCK", "SYS_NICE"]
    );
    for option in ["critical", "shutdown", "oneshot", "seclabel"] {
        assert_eq!(service.option(option), None, "{option}");
    }
}

#[test]
fn capabilities_are_those_of_the_policy() {
    let script = script("init/gunyahd.rc");
    let mut given: Vec<String> = script.services[0]
        .option("capabilities")
        .unwrap()
        .iter()
        .map(|name| name.to_lowercase())
        .collect();
    given.sort();
    let policy = read("sepolicy/vendor/gunyahd.te");
    let line = policy
        .lines()
        .find(|line| line.contains("global_capability_class_set"))
        .unwrap();
    let list = line
        .split_once("class_set { ")
        .unwrap()
        .1
        .split_once(" }")
        .unwrap()
        .0;
    let mut allowed: Vec<&str> = list.split(' ').collect();
    allowed.sort_unstable();
    assert_eq!(given, allowed);
}

#[test]
fn the_device_belongs_to_the_services_user() {
    let script = script("init/gunyahd.rc");
    let user = &script.services[0].option("user").unwrap()[0];
    let line = read("init/ueventd.gunyahd.rc");
    let words: Vec<&str> = line
        .lines()
        .find(|l| l.starts_with("/dev/gunyah"))
        .unwrap()
        .split_whitespace()
        .collect();
    assert_eq!(words[2], user);
    // The group is the service's too: a shell must not reach the hypervisor.
    let group = &script.services[0].option("group").unwrap()[0];
    assert_eq!(words, ["/dev/gunyah", "0660", user, group]);
}

/// Service::Reap of AOSP's system/core/init/service.cpp: a service that died by itself is `restarting` and its
/// `onrestart` runs; only one that was stopped, or is disabled, becomes `stopped`.
#[test]
fn no_gunyahd_that_is_gone_is_still_up() {
    let script = script("init/gunyahd.rc");
    let service = &script.services[0];
    assert_eq!(service.option("disabled"), None);
    // A value that gunyahd itself would set.
    assert!(read("src/supervisor/sinks.rs").contains("Overall::Stopped => \"stopped\""));
    let told = ["setprop", "vendor.gunyah.state", "stopped"];
    assert_eq!(service.option("onrestart").unwrap(), told);
    let action = &script.actions[0];
    assert_eq!(
        action.triggers,
        [format!("property:init.svc.{}=stopped", service.name)]
    );
    assert_eq!(action.commands, [told]);
}

#[test]
fn triggers_and_properties_have_names_that_others_use() {
    let actions = script("init/gunyahd.rc").actions;
    let service = &script("init/gunyahd.rc").services[0].name.clone();
    assert_eq!(
        actions[0].triggers,
        [format!("property:init.svc.{service}=stopped")]
    );
    let contexts = read("sepolicy/vendor/property_contexts");
    let labelled: Vec<&str> = contexts
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let mut names = vec![actions[0].commands[0][1].clone()];
    names.push("ro.vendor.gunyah.hugepages".into());
    assert!(read("init/gunyah-hugepages.rc").contains(&names[1]));
    for name in names {
        assert!(
            labelled.iter().any(|prefix| name.starts_with(prefix)),
            "{name} has no label"
        );
    }
}

/// The service of our script with a line more, or an action.
fn with(line: &str) -> String {
    let service = "service vendor.x /vendor/bin/x\n class hal\n user system\n";
    if line.starts_with("service") || line.starts_with("on") {
        format!("{service}{line}\n")
    } else {
        format!("{service} {line}\n")
    }
}

#[test]
fn planted_mistakes_are_found() {
    assert_eq!(check_script(&with("")).1, []);
    let planted = [
        (
            "capabilitys IPC_LOCK",
            "capabilitys is no option of a service",
        ),
        ("write /sys/a b", "write is no option of a service"),
        ("capabilities SYS_ADMIN", "SYS_ADMIN is no capability"),
        ("class", "class with 0 arguments"),
        ("class core", "class twice"),
        ("user", "user with 0 arguments"),
        ("group sytem", "sytem is no user or group"),
        ("rlimit memlock unlimited", "rlimit with 2 arguments"),
        ("rlimit memlok 1 1", "memlok is no resource"),
        ("rlimit memlock 64K 64K", "64K is no limit"),
        (
            "socket a stream+listening 0660",
            "listening is no decoration",
        ),
        ("socket a tcp 0660", "tcp is no socket type"),
        ("socket a stream 0980", "0980 is no octal mode"),
        (
            "socket a stream 0660 system shel",
            "shel is no user or group",
        ),
        ("file /dev/kmsg wr", "wr is not r, w or rw"),
        ("file dev/kmsg w", "dev/kmsg is relative"),
        ("oom_score_adjust -1001", "-1001 is not between"),
        ("restart_period -1", "-1 is not between"),
        ("shutdown never", "shutdown never is not critical"),
        ("task_profiles ProcessCapacityHihg", "is no task profile"),
        ("gentle_kill 200", "gentle_kill with 1 arguments"),
        ("onrestart reboot", "reboot is no command"),
        ("setenv A ${}", "an expansion without a name"),
        ("setenv A $B", "a dollar that is no expansion"),
        ("setenv A \"b", "a quote is not closed"),
        (
            "service vendor.x /vendor/bin/x\n class hal\n user system",
            "vendor.x is defined twice",
        ),
        ("service vendor.y /vendor/bin/y\n class hal", "no user"),
        ("service vendor.y /vendor/bin/y\n user system", "name one"),
        (
            "service vendor.y /system/bin/y\n class hal\n user system",
            "is not in /vendor/bin",
        ),
        (
            "service y /vendor/bin/y\n class hal\n user system",
            "init.svc.vendor",
        ),
        (
            "service vendor.y\n class hal\n user system",
            "a name and a program",
        ),
        (
            "service vendor.y /vendor/bin/y\n class hal\n user system\n critical\n oneshot",
            "critical and oneshot",
        ),
        ("on early-init", "no command"),
        ("on\n start vendor.x", "needs a trigger"),
        ("on early-init boot\n start vendor.x", "is not &&"),
        ("on early-init && boot\n start vendor.x", "two events"),
        ("on early-init &&\n start vendor.x", "joins two triggers"),
        ("on property:vendor.a\n start vendor.x", "has no value"),
        (
            "on property:sys.boot_completed=1\n start vendor.x",
            "not for a vendor's trigger",
        ),
        ("on post fs\n start vendor.x", "is not &&"),
        ("on erly-init\n start vendor.x", "erly-init is no event"),
        ("on boot\n start vendor.xx", "no such service"),
        (
            "on property:init.svc.vendor.x=stoped\n start vendor.x",
            "stoped is no state of a service",
        ),
        (
            "on property:init.svc.vendor.z=stopped\n start vendor.x",
            "no service vendor.z",
        ),
        (
            "on property:ro.vendor.a=*\n write /sys/a ${ro.vendor.b}",
            "ro.vendor.b is no property of the trigger",
        ),
        ("on init\n user system", "user is no command of an action"),
        ("on init\n start", "start with 0 arguments"),
        ("on init\n start logd", "not a vendor's service"),
        (
            "on init\n write /proc/sys/vm/nr_hugepages 1",
            "may not write /proc",
        ),
        ("on init\n setprop sys.x 1", "may not set sys.x"),
    ];
    for (line, expected) in planted {
        let mistakes = check_script(&with(line)).1;
        assert!(
            mistakes.iter().any(|(_, what)| what.contains(expected)),
            "{line:?}: {mistakes:?}"
        );
    }
    let stray = check_script("user system\n").1;
    assert_eq!(stray, [(1, "user stands outside of any section".into())]);
}

#[test]
fn planted_mistakes_of_ueventd_are_found() {
    let planted = [
        ("/dev/gunyah 0660 system", "with 3 words"),
        ("/dev/gunyah 660x system system", "660x is no octal mode"),
        (
            "/dev/gunyah 0660 sistem system",
            "sistem is no user or group",
        ),
        ("dev/gunyah 0660 system system", "begins no line"),
        (
            "/dev/gunyah 0660 system system fast",
            "is not no_fnm_pathname",
        ),
        (
            "/dev/gunyah 0660 system system\n/dev/gunyah 0600 system system",
            "twice",
        ),
        ("/sys/kernel/mm 0660 system system", "with 4 words"),
    ];
    for (line, expected) in planted {
        let mistakes = check_ueventd(line);
        assert!(
            mistakes.iter().any(|(_, what)| what.contains(expected)),
            "{line:?}: {mistakes:?}"
        );
    }
    assert_eq!(check_ueventd("/sys/kernel/mm/a b 0660 system system"), []);
}
