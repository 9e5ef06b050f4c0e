// SPDX-License-Identifier: Apache-2.0
//! Labels of files and properties by `file_contexts` and `property_contexts`.

use crate::tools::root;

const FILES: [(&str, Option<&str>); 18] = [
    ("/vendor/bin/gunyahd", Some("gunyahd_exec")),
    ("/system/vendor/bin/gunyahd", Some("gunyahd_exec")),
    ("/vendor/bin/gunyahctl", Some("gunyahctl_exec")),
    ("/system/vendor/bin/gunyahctl", Some("gunyahctl_exec")),
    ("/vendor/bin/gunyahdx", None),
    ("/system/bin/gunyahd", None),
    ("/vendor/etc/gunyah", Some("vendor_gunyah_config_file")),
    (
        "/vendor/etc/gunyah/sensors.json",
        Some("vendor_gunyah_config_file"),
    ),
    (
        "/system/vendor/etc/gunyah/a/b",
        Some("vendor_gunyah_config_file"),
    ),
    ("/vendor/etc/gunyahx", None),
    ("/vendor/vm", Some("vendor_gunyah_image_file")),
    ("/vendor/vm/sensors/Image", Some("vendor_gunyah_image_file")),
    (
        "/system/vendor/vm/sensors/Image",
        Some("vendor_gunyah_image_file"),
    ),
    ("/vendor/vmlinux", None),
    ("/dev/gunyah", Some("vendor_gunyah_device")),
    ("/dev/gunyah0", None),
    ("/dev/socket/gunyahd", Some("vendor_gunyahd_socket")),
    ("/dev/socket/gunyahd2", None),
];

const PROPERTIES: [(&str, Option<&str>); 6] = [
    ("vendor.gunyah.state", Some("vendor_gunyah_prop")),
    ("vendor.gunyah.sensors.state", Some("vendor_gunyah_prop")),
    ("vendor.gunyahd", None),
    (
        "ro.vendor.gunyah.hugepages",
        Some("vendor_gunyah_config_prop"),
    ),
    ("ro.vendor.gunyahd", None),
    ("persist.vendor.gunyah.x", None),
];

/// Lines of a contexts file: its words.
fn words(text: &str) -> Vec<Vec<&str>> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split_whitespace().collect())
        .collect()
}

/// The type of a context, which must be an object's at s0.
fn type_of(context: &str) -> Result<&str, String> {
    context
        .strip_prefix("u:object_r:")
        .and_then(|rest| rest.strip_suffix(":s0"))
        .filter(|name| !name.contains(':'))
        .ok_or_else(|| format!("{context} is not u:object_r:…:s0"))
}

/// What `file_contexts` does otherwise than [`FILES`] says.
fn files(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut lines = Vec::new();
    for words in words(text) {
        let [pattern, context] = words[..] else {
            problems.push(format!("{words:?} is not a pattern and a context"));
            continue;
        };
        let whole = regex::Regex::new(&format!("^(?:{pattern})$"));
        match (whole, type_of(context)) {
            (Ok(whole), Ok(label)) => lines.push((whole, label)),
            (Err(what), _) => problems.push(what.to_string()),
            (_, Err(what)) => problems.push(what),
        }
    }
    for (path, expected) in FILES {
        // Later lines win.
        let fitting = lines
            .iter()
            .rev()
            .find(|(pattern, _)| pattern.is_match(path));
        let label = fitting.map(|(_, label)| *label);
        if label != expected {
            problems.push(format!("{path} is {label:?}"));
        }
    }
    for (pattern, label) in &lines {
        if !FILES.iter().any(|(path, _)| pattern.is_match(path)) {
            problems.push(format!("{pattern} labels something else {label}"));
        }
    }
    problems
}

/// What `property_contexts` does otherwise than [`PROPERTIES`] says.
fn properties(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut lines = Vec::new();
    for words in words(text) {
        match words[..] {
            [name, context, "prefix", "string"] => match type_of(context) {
                Ok(label) => lines.push((name, label)),
                Err(what) => problems.push(what),
            },
            _ => problems.push(format!("{words:?} is not a name, a context, prefix string")),
        }
    }
    for (name, expected) in PROPERTIES {
        // The longest prefix wins.
        let fitting = lines.iter().filter(|(prefix, _)| name.starts_with(prefix));
        let label = fitting
            .max_by_key(|(prefix, _)| prefix.len())
            .map(|(_, label)| *label);
        if label != expected {
            problems.push(format!("{name} is {label:?}"));
        }
    }
    for (prefix, label) in &lines {
        if !PROPERTIES.iter().any(|(name, _)| name.starts_with(prefix)) {
            problems.push(format!("{prefix} labels something else {label}"));
        }
    }
    problems
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join("sepolicy/vendor").join(name)).unwrap()
}

#[test]
fn files_and_properties_get_their_labels() {
    assert_eq!(files(&read("file_contexts")), [""; 0]);
    assert_eq!(properties(&read("property_contexts")), [""; 0]);
}

/// From, to, and what must be said of it.
const PLANTED: [(&str, &str, &str); 20] = [
    (
        "bin/gunyahd  ",
        "bin/gunyahd.*  ",
        "/vendor/bin/gunyahdx is Some",
    ),
    (
        "bin/gunyahd  ",
        "bin/gunyah  ",
        "/vendor/bin/gunyahd is None",
    ),
    (
        "(vendor|system/vendor)/bin/gunyahctl",
        "vendor/bin/gunyahctl",
        "/system/vendor/bin/gunyahctl is None",
    ),
    (
        "gunyahctl_exec",
        "gunyahd_exec",
        "/vendor/bin/gunyahctl is Some(\"gunyahd_exec\")",
    ),
    (
        "etc/gunyah(/.*)?",
        "etc/gunyah/.*",
        "/vendor/etc/gunyah is None",
    ),
    (
        "etc/gunyah(/.*)?",
        "etc/gunyah.*",
        "/vendor/etc/gunyahx is Some",
    ),
    (
        "etc/gunyah(/.*)?",
        "etc/gunyah(/[^/]*)?",
        "/system/vendor/etc/gunyah/a/b is None",
    ),
    ("/vm(/.*)?", "/vm.*", "/vendor/vmlinux is Some"),
    ("/vm(/.*)?", "/vms(/.*)?", "/vendor/vm is None"),
    (
        "vendor_gunyah_image_file",
        "vendor_gunyah_config_file",
        "/vendor/vm is Some(\"vendor_gunyah_config_file\")",
    ),
    ("/dev/gunyah  ", "/dev/gunyah.*  ", "/dev/gunyah0 is Some"),
    ("/dev/gunyah  ", "/dev/gunyah0  ", "/dev/gunyah is None"),
    (
        "/dev/socket/gunyahd ",
        "/dev/socket/gunyah ",
        "/dev/socket/gunyahd is None",
    ),
    (
        "vendor_gunyahd_socket:s0",
        "vendor_gunyahd_socket",
        "is not u:object_r:…:s0",
    ),
    (
        "vendor_gunyahd_socket:s0",
        "vendor_gunyahd_socket:s0\n/data/vendor/vm u:object_r:vendor_gunyah_image_file:s0",
        "labels something else",
    ),
    (
        "vendor.gunyah.    ",
        "vendor.gunyah    ",
        "vendor.gunyahd is Some",
    ),
    (
        "ro.vendor.gunyah.",
        "ro.vendor.gunyah",
        "ro.vendor.gunyahd is Some",
    ),
    (
        "vendor_gunyah_config_prop",
        "vendor_gunyah_prop",
        "ro.vendor.gunyah.hugepages is Some(\"vendor_gunyah_prop\")",
    ),
    (
        "prefix string",
        "exact string",
        "is not a name, a context, prefix string",
    ),
    (
        "prefix string",
        "prefix string\npersist.vendor.gunyah. u:object_r:vendor_gunyah_prop:s0 prefix string",
        "persist.vendor.gunyah.x is Some",
    ),
];

#[test]
fn every_wrong_label_is_told() {
    let (of_files, of_properties) = (read("file_contexts"), read("property_contexts"));
    for (from, to, expected) in PLANTED {
        let found = if of_files.contains(from) {
            files(&of_files.replacen(from, to, 1))
        } else {
            assert!(of_properties.contains(from), "{from:?}");
            properties(&of_properties.replacen(from, to, 1))
        };
        assert!(
            found.iter().any(|line| line.contains(expected)),
            "{from:?} -> {to:?}: {found:?}"
        );
    }
}

/// A line more in the files must be a line more in the tables, and none can go.
#[test]
fn every_label_is_needed() {
    for (name, check) in [
        ("file_contexts", files as fn(&str) -> Vec<String>),
        ("property_contexts", properties),
    ] {
        let text = read(name);
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert_ne!(check(&text.replacen(line, "", 1)), [""; 0], "{line}");
        }
    }
}
