// SPDX-License-Identifier: Apache-2.0
//! The vendor policy, compiled on the base in `tests/sepolicy-base` and asked what it allows.

#![allow(clippy::unwrap_used)]

#[path = "android/dir.rs"]
mod dir;
#[path = "android/policy.rs"]
mod policy;
#[path = "android/policy_exact.rs"]
mod policy_exact;
#[path = "android/policy_labels.rs"]
mod policy_labels;
#[path = "android/tools.rs"]
mod tools;

use std::collections::{BTreeMap, BTreeSet};

use policy::{te_files, Policy, Rule};
use tools::{present, root};

const TOOLS: [&str; 4] = ["m4", "checkpolicy", "sesearch", "seinfo"];

/// What the policy allows and must not, as problems.
fn excess(policy: &Policy) -> Vec<String> {
    let mut problems = Vec::new();
    let mut problem = |text: String| problems.push(text);

    // The socket is for gunyahctl alone, and so is a connection.
    for rule in policy.on("vendor_gunyahd_socket", "sock_file") {
        if rule.source != "gunyahctl" {
            problem(format!("{} reaches the control socket", rule.source));
        }
    }
    let connections = policy
        .on("gunyahd", "unix_stream_socket")
        .filter(|rule| rule.permissions.contains("connectto"));
    for rule in connections {
        let itself = rule.source == "gunyahd";
        if rule.source != "gunyahctl" && !itself {
            problem(format!("{} connects to gunyahd", rule.source));
        }
    }
    // The device is gunyahd's; ueventd makes and labels it.
    for rule in policy.on("vendor_gunyah_device", "chr_file") {
        let opens = rule
            .permissions
            .iter()
            .any(|p| matches!(p.as_str(), "open" | "read" | "write" | "ioctl"));
        if opens && rule.source != "gunyahd" {
            problem(format!("{} opens the device", rule.source));
        }
    }
    // Only gunyahd and the vendor's scripts set its properties.
    for rule in policy.on("vendor_gunyah_prop", "property_service") {
        if !matches!(rule.source.as_str(), "gunyahd" | "vendor_init") {
            problem(format!("{} sets vendor.gunyah.*", rule.source));
        }
    }
    for domain in ["gunyahd", "gunyahctl"] {
        for rule in policy.of(domain) {
            let Rule {
                target,
                class,
                permissions,
                ..
            } = rule;
            let has = |permission: &str| permissions.contains(permission);
            if has("execute_no_trans") || (has("execute") && *target != format!("{domain}_exec")) {
                problem(format!("{domain} executes {target}"));
            }
            if class == "process" && target != domain {
                let harmless = permissions.iter().all(|p| p == "sigchld");
                if !harmless {
                    problem(format!("{domain} does {permissions:?} to {target}"));
                }
            }
            if class == "process"
                && [
                    "ptrace",
                    "execmem",
                    "execstack",
                    "execheap",
                    "setexec",
                    "setcurrent",
                ]
                .iter()
                .any(|p| has(p))
            {
                problem(format!("{domain} does {permissions:?} to itself"));
            }
            if matches!(class.as_str(), "capability" | "capability2" | "cap_userns") {
                let allowed: &[&str] = if domain == "gunyahd" {
                    &["ipc_lock", "sys_nice"]
                } else {
                    &[]
                };
                for extra in permissions
                    .iter()
                    .filter(|p| !allowed.contains(&p.as_str()))
                {
                    problem(format!("{domain} has {extra}"));
                }
            }
            if class.ends_with("_socket") && !class.starts_with("unix_") {
                problem(format!("{domain} uses a {class}"));
            }
            if matches!(class.as_str(), "blk_file" | "bpf" | "binder" | "filesystem") {
                problem(format!("{domain} uses {class} of {target}"));
            }
            let writes = [
                "write",
                "append",
                "create",
                "unlink",
                "setattr",
                "rename",
                "add_name",
                "remove_name",
            ]
            .iter()
            .any(|p| has(p));
            let own = [
                domain,
                "gunyahd_tmpfs",
                "vendor_hugetlbfs",
                "debugfs_trace_marker",
            ];
            if matches!(class.as_str(), "file" | "dir" | "lnk_file")
                && writes
                && !own.contains(&target.as_str())
            {
                problem(format!("{domain} writes {target}:{class}"));
            }
            let devices: &[&str] = if domain == "gunyahd" {
                &["vendor_gunyah_device", "kmsg_device"]
            } else {
                &["devpts"]
            };
            if class == "chr_file" && !devices.contains(&target.as_str()) {
                problem(format!("{domain} uses the device {target}"));
            }
        }
    }
    if policy.may("gunyahctl", "vendor_gunyah_config_file", "file", "open") {
        problem("gunyahctl reads configs".into());
    }
    problems
}

/// ioctl numbers that gunyahd is allowed on the device.
fn allowed_ioctls(policy: &Policy) -> BTreeSet<u32> {
    let mut numbers = BTreeSet::new();
    let prefix = "allowxperm gunyahd vendor_gunyah_device:chr_file ioctl ";
    for list in policy
        .others
        .iter()
        .filter_map(|line| line.strip_prefix(prefix))
    {
        for word in list
            .split(|c: char| " {};".contains(c))
            .filter(|word| !word.is_empty())
        {
            let number =
                |text: &str| u32::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
            let (first, last) = word.split_once('-').unwrap_or((word, word));
            numbers.extend(number(first)..=number(last));
        }
    }
    numbers
}

/// The low 16 bits of every ioctl number in uapi.rs: what SELinux looks at.
fn uapi_ioctls() -> BTreeMap<String, u32> {
    use gunyah::uapi::*;
    let known = BTreeMap::from([
        ("CREATE_VM", CREATE_VM),
        ("VM_SET_USER_MEM_REGION", VM_SET_USER_MEM_REGION),
        ("VM_SET_DTB_CONFIG", VM_SET_DTB_CONFIG),
        ("VM_START", VM_START),
        ("VM_ADD_FUNCTION", VM_ADD_FUNCTION),
        ("VCPU_RUN", VCPU_RUN),
        ("VCPU_MMAP_SIZE", VCPU_MMAP_SIZE),
        ("VM_REMOVE_FUNCTION", VM_REMOVE_FUNCTION),
        ("VM_SET_BOOT_CONTEXT", VM_SET_BOOT_CONTEXT),
        ("VM_ANDROID_LEND_USER_MEM", VM_ANDROID_LEND_USER_MEM),
        ("VM_ANDROID_SET_FW_CONFIG", VM_ANDROID_SET_FW_CONFIG),
    ]);
    // A number that is new in the source must be named here.
    let source = std::fs::read_to_string(root().join("src/gunyah/uapi.rs")).unwrap();
    let source = source.replace("=\n", "= ");
    for line in source.lines() {
        let Some((name, value)) = line
            .strip_prefix("pub const ")
            .and_then(|l| l.split_once(": u32 ="))
        else {
            continue;
        };
        let value = value.trim_start();
        if value.starts_with("io(") || value.starts_with("iow(") {
            assert!(
                known.contains_key(name),
                "{name} is not in this test's list"
            );
        }
    }
    known
        .into_iter()
        .map(|(name, number)| (name.into(), number & 0xffff))
        .collect()
}

#[test]
fn the_policy_keeps_to_its_principles() {
    if !present(&TOOLS) {
        return;
    }
    assert_eq!(excess(Policy::ours()), [""; 0]);
}

#[test]
fn the_allowed_ioctls_are_those_of_the_driver() {
    if !present(&TOOLS) {
        return;
    }
    let wanted: BTreeSet<u32> = uapi_ioctls().into_values().collect();
    let allowed = allowed_ioctls(Policy::ours());
    assert_eq!(allowed, wanted);
    // An ioctl too many shows.
    let planted =
        Policy::compile("allowxperm gunyahd vendor_gunyah_device:chr_file ioctl 0x4708;").unwrap();
    assert_ne!(allowed_ioctls(&planted), wanted);
}

/// Each rule of [`excess`] notices its planted mistake.
#[test]
fn planted_rules_are_noticed() {
    if !present(&TOOLS) {
        return;
    }
    let planted = [
        (
            "allow shell vendor_gunyahd_socket:sock_file write;",
            "shell reaches the control socket",
        ),
        (
            "allow hal_other_default gunyahd:unix_stream_socket connectto;",
            "hal_other_default connects to gunyahd",
        ),
        (
            "allow hal_other_default vendor_gunyah_device:chr_file { open read };",
            "hal_other_default opens the device",
        ),
        (
            "allow hal_other_default vendor_gunyah_prop:property_service set;",
            "hal_other_default sets vendor.gunyah.*",
        ),
        (
            "allow gunyahd vendor_toolbox_exec:file rx_file_perms;",
            "gunyahd executes vendor_toolbox_exec",
        ),
        (
            "allow gunyahd shell_exec:file { read open execute };",
            "gunyahd executes shell_exec",
        ),
        (
            "allow gunyahd gunyahctl:process sigkill;",
            "gunyahd does {\"sigkill\"} to gunyahctl",
        ),
        (
            "allow gunyahd self:capability sys_admin;",
            "gunyahd has sys_admin",
        ),
        (
            "allow gunyahd self:capability sys_resource;",
            "gunyahd has sys_resource",
        ),
        (
            "allow gunyahctl self:capability ipc_lock;",
            "gunyahctl has ipc_lock",
        ),
        (
            "allow gunyahd self:tcp_socket { create connect };",
            "gunyahd uses a tcp_socket",
        ),
        (
            "allow gunyahd self:netlink_kobject_uevent_socket create;",
            "gunyahd uses a netlink_kobject_uevent_socket",
        ),
        (
            "allow gunyahd vendor_data_file:file { open write };",
            "gunyahd writes vendor_data_file:file",
        ),
        (
            "allow gunyahd sysfs:file { open write };",
            "gunyahd writes sysfs:file",
        ),
        (
            "allow gunyahd vendor_gunyah_config_file:dir { write add_name };",
            "gunyahd writes vendor_gunyah_config_file:dir",
        ),
        (
            "allow gunyahd devpts:chr_file { read write };",
            "gunyahd uses the device devpts",
        ),
        (
            "allow gunyahctl vendor_gunyah_config_file:file { open read };",
            "gunyahctl reads configs",
        ),
        (
            "allow gunyahd domain:binder call;",
            "gunyahd uses binder of domain",
        ),
    ];
    // All in one policy: each is told by its own words.
    let rules: Vec<&str> = planted.iter().map(|(rule, _)| *rule).collect();
    let problems = excess(&Policy::compile(&rules.join("\n")).unwrap());
    for (rule, expected) in planted {
        assert!(
            problems.iter().any(|p| p == expected),
            "{rule}: {problems:?}"
        );
    }
    assert_eq!(problems.len(), planted.len(), "{problems:?}");
}

/// What the integrator's build would refuse, the base refuses.
#[test]
fn forbidden_rules_do_not_compile() {
    if !present(&TOOLS) {
        return;
    }
    for rule in [
        "allow shell gunyahd:unix_stream_socket connectto;",
        "allow gunyahd self:capability dac_override;",
        "allow gunyahd system_file:file execute_no_trans;",
        "allow gunyahd block_device:blk_file { open read };",
        "allow untrusted_app vendor_gunyah_prop:property_service set;",
        "allow shell vendor_gunyah_config_prop:file read;",
        "typeattribute gunyahd coredomain;",
        "typeattribute gunyahctl coredomain;",
    ] {
        let error = Policy::compile(rule)
            .err()
            .unwrap_or_else(|| panic!("{rule} was taken"));
        assert!(error.contains("neverallow"), "{rule}: {error}");
    }
    assert!(Policy::compile("allow gunyahd no_such_type:file read;").is_err());
}

/// Types of a vendor's begin with `vendor_`, but for domains and what the macros derive of them.
#[test]
fn new_types_have_a_vendors_names() {
    for file in te_files() {
        for line in std::fs::read_to_string(&file).unwrap().lines() {
            let Some(rest) = line.strip_prefix("type ") else {
                continue;
            };
            let name = rest.split([',', ';']).next().unwrap();
            let ours = ["gunyahd", "gunyahctl"]
                .iter()
                .any(|domain| name == *domain || name.starts_with(&format!("{domain}_")));
            assert!(
                ours || name.starts_with("vendor_"),
                "{name} in {}",
                file.display()
            );
        }
    }
}
