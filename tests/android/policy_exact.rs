// SPDX-License-Identifier: Apache-2.0
//! The whole policy against `tests/sepolicy-base/expected`, and every mistake that must not pass there.

use std::collections::{BTreeMap, BTreeSet};

use crate::policy::{added, lines, sources, PLANTED};
use crate::tools::{present, root};

const TOOLS: [&str; 2] = ["m4", "checkpolicy"];

type Sources = BTreeMap<String, String>;

/// What a policy has and should not ("+"), and what it should have and has not ("-"). A text of its own
/// if it does not even compile.
fn differences(sources: &Sources) -> Vec<String> {
    let expected =
        lines(&std::fs::read_to_string(root().join("tests/sepolicy-base/expected")).unwrap());
    match added(sources) {
        Ok(found) => {
            let more = found.difference(&expected).map(|line| format!("+ {line}"));
            let less = expected.difference(&found).map(|line| format!("- {line}"));
            more.chain(less).collect()
        }
        Err(what) => vec![format!("refused: {what}")],
    }
}

#[test]
fn the_policy_adds_just_what_is_expected() {
    if !present(&TOOLS) {
        return;
    }
    assert_eq!(differences(&sources()), [""; 0]);
}

/// Rules that would work, and that nothing here needs: what each would add.
const ADDED: [(&str, &str); 42] = [
    // The domains set free.
    ("permissive gunyahd;", "+ permissive gunyahd"),
    ("permissive gunyahctl;", "+ permissive gunyahctl"),
    // Attributes by which others would reach our files.
    (
        "typeattribute vendor_gunyah_device fs_type;",
        "+ typeattribute vendor_gunyah_device fs_type",
    ),
    (
        "typeattribute gunyahd_tmpfs sysfs_type;",
        "+ typeattribute gunyahd_tmpfs sysfs_type",
    ),
    // More properties.
    (
        "set_prop(gunyahd, vendor_default_prop)",
        "+ allow gunyahd vendor_default_prop:property_service set",
    ),
    (
        "set_prop(gunyahd, vendor_gunyah_config_prop)",
        "+ allow gunyahd vendor_gunyah_config_prop:property_service set",
    ),
    (
        "get_prop(gunyahd, default_prop)",
        "+ allow gunyahd default_prop:file read",
    ),
    (
        "set_prop(hal_other_default, vendor_gunyah_prop)",
        "+ allow hal_other_default vendor_gunyah_prop:property_service set",
    ),
    (
        "unix_socket_connect(gunyahctl, property, init)",
        "+ allow gunyahctl property_socket:sock_file write",
    ),
    (
        "get_prop(untrusted_app, vendor_gunyah_prop)",
        "+ allow untrusted_app vendor_gunyah_prop:file open",
    ),
    (
        "get_prop(domain, vendor_gunyah_prop)",
        "+ allow domain vendor_gunyah_prop:file open",
    ),
    // More files.
    (
        "allow gunyahd proc_kmsg:file read;",
        "+ allow gunyahd proc_kmsg:file read",
    ),
    (
        "allow gunyahd vendor_data_file:file read;",
        "+ allow gunyahd vendor_data_file:file read",
    ),
    (
        "allow gunyahd vendor_configs_file:file r_file_perms;",
        "+ allow gunyahd vendor_configs_file:file read",
    ),
    (
        "allow gunyahd sysfs:file r_file_perms;",
        "+ allow gunyahd sysfs:file read",
    ),
    (
        "allow gunyahd proc:file r_file_perms;",
        "+ allow gunyahd proc:file read",
    ),
    (
        "allow gunyahd system_file:file r_file_perms;",
        "+ allow gunyahd system_file:file read",
    ),
    (
        "allow gunyahd kmsg_device:chr_file read;",
        "+ allow gunyahd kmsg_device:chr_file read",
    ),
    (
        "allow gunyahd vendor_sysfs_hugepages:file write;",
        "+ allow gunyahd vendor_sysfs_hugepages:file write",
    ),
    (
        "allow gunyahd vendor_gunyah_image_file:dir { open read };",
        "+ allow gunyahd vendor_gunyah_image_file:dir read",
    ),
    (
        "allow gunyahd vendor_gunyah_image_file:file map;",
        "+ allow gunyahd vendor_gunyah_image_file:file map",
    ),
    (
        "allow gunyahd vendor_gunyahd_socket:sock_file create;",
        "+ allow gunyahd vendor_gunyahd_socket:sock_file create",
    ),
    (
        "allow gunyahctl vendor_gunyah_config_file:dir search;",
        "+ allow gunyahctl vendor_gunyah_config_file:dir search",
    ),
    (
        "allow gunyahctl vendor_gunyah_device:chr_file getattr;",
        "+ allow gunyahctl vendor_gunyah_device:chr_file getattr",
    ),
    // More on the device.
    (
        "allow gunyahd vendor_gunyah_device:chr_file map;",
        "+ allow gunyahd vendor_gunyah_device:chr_file map",
    ),
    (
        "allowxperm gunyahd vendor_gunyah_device:chr_file ioctl 0x4708;",
        "+ allowxperm gunyahd vendor_gunyah_device:chr_file ioctl 0x4700-0x4708",
    ),
    (
        "allowxperm gunyahctl devpts:chr_file ioctl 0x5412;",
        "+ allowxperm gunyahctl devpts:chr_file ioctl 0x5412",
    ),
    // More of itself.
    (
        "allow gunyahd self:process ptrace;",
        "+ allow gunyahd self:process ptrace",
    ),
    (
        "allow gunyahd self:process execmem;",
        "+ allow gunyahd self:process execmem",
    ),
    (
        "allow gunyahd self:vsock_socket { create connect };",
        "+ allow gunyahd self:vsock_socket create",
    ),
    // Other peers.
    (
        "allow gunyahd logd:unix_stream_socket connectto;",
        "+ allow gunyahd logd:unix_stream_socket connectto",
    ),
    (
        "allow gunyahctl init:unix_stream_socket connectto;",
        "+ allow gunyahctl init:unix_stream_socket connectto",
    ),
    (
        "allow gunyahd { shell adbd }:fd use;",
        "+ allow gunyahd shell:fd use",
    ),
    (
        "allow gunyahctl gunyahd:fd use;",
        "+ allow gunyahctl gunyahd:fd use",
    ),
    // What others do to it.
    (
        "allow hal_other_default gunyahd:process signal;",
        "+ allow hal_other_default gunyahd:process signal",
    ),
    (
        "allow shell gunyahd:process sigkill;",
        "+ allow shell gunyahd:process sigkill",
    ),
    (
        "allow hal_other_default gunyahd:process ptrace;",
        "+ allow hal_other_default gunyahd:process ptrace",
    ),
    (
        "allow hal_other_default gunyahd:fd use;",
        "+ allow hal_other_default gunyahd:fd use",
    ),
    (
        "allow hal_other_default vendor_gunyah_image_file:file r_file_perms;",
        "+ allow hal_other_default vendor_gunyah_image_file:file read",
    ),
    (
        "allow hal_other_default gunyahd_tmpfs:file { read write map };",
        "+ allow hal_other_default gunyahd_tmpfs:file write",
    ),
    // A second way in.
    (
        "domain_auto_trans(hal_other_default, gunyahctl_exec, gunyahctl)",
        "+ type_transition hal_other_default gunyahctl_exec:process gunyahctl",
    ),
    (
        "domain_auto_trans(shell, gunyahd_exec, gunyahd)",
        "+ type_transition shell gunyahd_exec:process gunyahd",
    ),
];

#[test]
fn every_rule_too_many_is_told() {
    if !present(&TOOLS) {
        return;
    }
    // All in one policy, behind ours: each is told by a line that is its own.
    let mut planted = sources();
    planted.insert(
        PLANTED.into(),
        ADDED.map(|(rule, _)| rule).join("\n") + "\n",
    );
    let found = differences(&planted);
    for (rule, expected) in ADDED {
        assert!(
            found.iter().any(|line| line == expected),
            "{rule}: {found:?}"
        );
    }
    let told: BTreeSet<&str> = ADDED.iter().map(|(_, expected)| *expected).collect();
    assert_eq!(told.len(), ADDED.len());
}

/// Weaker or wrong in place: file, from, to, and what the difference says.
const CHANGED: [(&str, &str, &str, &str); 16] = [
    (
        "gunyahd.te",
        "gunyah_image_file:dir { getattr search }",
        "gunyah_image_file:dir getattr",
        "- allow gunyahd vendor_gunyah_image_file:dir search",
    ),
    (
        "gunyahd.te",
        "gunyah_config_file:dir { open read getattr search }",
        "gunyah_config_file:dir { open read getattr }",
        "- allow gunyahd vendor_gunyah_config_file:dir search",
    ),
    (
        "gunyahd.te",
        "gunyahd vendor_gunyah_device",
        "gunyahd device",
        "+ allow gunyahd device:chr_file open",
    ),
    (
        "gunyahd.te",
        "{ ipc_lock sys_nice }",
        "ipc_lock",
        "- allow gunyahd self:capability sys_nice",
    ),
    (
        "gunyahd.te",
        "global_capability_class_set",
        "capability",
        "- allow gunyahd self:cap_userns ipc_lock",
    ),
    (
        "gunyahd.te",
        "tmpfs_domain(gunyahd)",
        "allow gunyahd tmpfs:file { read write map };",
        "- type_transition gunyahd tmpfs:file gunyahd_tmpfs",
    ),
    (
        "gunyahd.te",
        "0x470a",
        "0x470b",
        "- allowxperm gunyahd vendor_gunyah_device:chr_file ioctl 0x470a",
    ),
    (
        "gunyahctl.te",
        "domain_auto_trans(shell, ",
        "domain_trans(shell, ",
        "- type_transition shell gunyahctl_exec:process gunyahctl",
    ),
    (
        "gunyahctl.te",
        "{ shell adbd }:fd",
        "shell:fd",
        "- allow gunyahctl adbd:fd use",
    ),
    (
        "file.te",
        "type vendor_hugetlbfs, fs_type;",
        "type vendor_hugetlbfs, fs_type, file_type;",
        "+ typeattribute vendor_hugetlbfs file_type",
    ),
    (
        "file.te",
        "fs_type, sysfs_type;",
        "fs_type;",
        "- typeattribute vendor_sysfs_hugepages sysfs_type",
    ),
    (
        "property.te",
        "vendor_internal_prop(",
        "vendor_restricted_prop(",
        "- typeattribute vendor_gunyah_config_prop vendor_internal_property_type",
    ),
    (
        "genfs_contexts",
        "hugetlbfs /",
        "hugetlbfs /x",
        "- genfscon hugetlbfs \"/\" u:object_r:vendor_hugetlbfs:s0 - s0",
    ),
    (
        "genfs_contexts",
        "genfscon hugetlbfs",
        "genfscon tmpfs",
        "- genfscon hugetlbfs \"/\" u:object_r:vendor_hugetlbfs:s0 - s0",
    ),
    (
        "genfs_contexts",
        "/kernel/mm/hugepages",
        "/kernel/mm/hugepage",
        "- genfscon sysfs \"/kernel/mm/hugepages\" u:object_r:vendor_sysfs_hugepages:s0 - s0",
    ),
    (
        "genfs_contexts",
        "sysfs /kernel",
        "proc /kernel",
        "- genfscon sysfs \"/kernel/mm/hugepages\" u:object_r:vendor_sysfs_hugepages:s0 - s0",
    ),
];

#[test]
fn every_weaker_rule_is_told() {
    if !present(&TOOLS) {
        return;
    }
    for (file, from, to, expected) in CHANGED {
        let mut planted = sources();
        let text = planted.get_mut(file).unwrap();
        assert!(text.contains(from), "{file}: {from:?}");
        *text = text.replacen(from, to, 1);
        let found = differences(&planted);
        assert!(
            found.iter().any(|line| line == expected),
            "{file}: {from:?} -> {to:?}: {found:?}"
        );
    }
}

/// Statements of a source: a rule up to its semicolon, a macro's call or a label on its line.
fn statements(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = String::new();
    for line in text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
    {
        open += line;
        if line.ends_with([';', ')']) || line.starts_with("genfscon") {
            found.push(std::mem::take(&mut open));
        } else {
            open += "\n";
        }
    }
    assert_eq!(open, "", "not a statement");
    found
}

/// Every statement of the policy is needed, and of one with a list every word of it.
#[test]
fn whatever_is_taken_away_is_told() {
    if !present(&TOOLS) {
        return;
    }
    let whole = sources();
    let mut shorter = Vec::new();
    for (file, text) in &whole {
        for statement in statements(text) {
            let Some((before, rest)) = statement.split_once("{ ") else {
                shorter.push((file, statement.clone(), String::new()));
                continue;
            };
            let (list, after) = rest.split_once(" }").unwrap();
            for word in list.split(' ') {
                let fewer: Vec<&str> = list.split(' ').filter(|other| *other != word).collect();
                let fewer = format!("{before}{{ {} }}{after}", fewer.join(" "));
                shorter.push((file, statement.clone(), fewer));
            }
        }
    }
    assert!(shorter.len() >= 70, "{}", shorter.len());
    // Two at a time: each waits for compilers.
    std::thread::scope(|scope| {
        for half in shorter.chunks(shorter.len().div_ceil(2)) {
            let whole = &whole;
            scope.spawn(move || {
                for (file, from, to) in half {
                    let mut planted = whole.clone();
                    planted.insert((*file).clone(), whole[*file].replacen(from, to, 1));
                    let found = differences(&planted);
                    assert!(!found.is_empty(), "{file}: {from:?} -> {to:?}");
                }
            });
        }
    });
}
