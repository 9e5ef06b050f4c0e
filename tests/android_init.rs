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
