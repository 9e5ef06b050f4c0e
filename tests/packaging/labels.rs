// SPDX-License-Identifier: Apache-2.0
//! Which labels files and properties get by `file_contexts` and `property_contexts`.

use crate::policy::OPTIONAL;
use crate::tools::{read, root};

const FILES: &str = "
    /vendor/bin/gunyahd gunyahd_exec
    /system/vendor/bin/gunyahd gunyahd_exec
    /vendor/bin/gunyahctl gunyahctl_exec
    /system/vendor/bin/gunyahctl gunyahctl_exec
    /vendor/bin/gunyahdx
    /system/bin/gunyahd
    /vendor/etc/gunyah vendor_gunyah_config_file
    /vendor/etc/gunyah/a.json vendor_gunyah_config_file
    /system/vendor/etc/gunyah/a/b vendor_gunyah_config_file
    /vendor/etc/gunyahx
    /vendor/vm vendor_gunyah_image_file
    /vendor/vm/sensors/Image vendor_gunyah_image_file
    /system/vendor/vm/sensors/Image vendor_gunyah_image_file
    /vendor/vmlinux
    /dev/gunyah vendor_gunyah_device
    /dev/gunyah0
    /dev/block/by-name/gunyah_sensors vendor_gunyah_block_device
    /dev/block/by-name/gunyah
    /dev/block/by-name/userdata
    /dev/socket/gunyahd vendor_gunyahd_socket
    /dev/socket/gunyahd2
";

const PROPERTIES: &str = "
    vendor.gunyah.state vendor_gunyah_prop
    vendor.gunyah.sensors.state vendor_gunyah_prop
    vendor.gunyah.sensors.ready_ms vendor_gunyah_prop
    vendor.gunyahd
    ro.vendor.gunyah.hugepages vendor_gunyah_config_prop
    ro.vendor.gunyahd
    persist.vendor.gunyah.x
";

/// Lines of the tables: a path or name, and its label or nothing.
fn table(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.map(|line| line.split_once(' ').unwrap_or((line, "")))
}

/// The words of each line; the second of each line is its context, and the answer has the type in its place.
fn entries(text: &str) -> Vec<Vec<String>> {
    let lines =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let label = words[1]
                .strip_prefix("u:object_r:")
                .and_then(|rest| rest.strip_suffix(":s0"))
                .unwrap_or_else(|| panic!("{line}: a context is u:object_r:TYPE:s0"));
            words[1] = label.to_owned();
            words
        })
        .collect()
}

#[test]
fn files_get_their_labels() {
    for node in ["node", "node-shared"] {
        let text = read("sepolicy/vendor/file_contexts")
            + &read(&format!("sepolicy/{node}/file_contexts"))
            + &read("sepolicy/block-devices/file_contexts");
        let lines: Vec<(regex::Regex, String)> = entries(&text)
            .into_iter()
            .map(|words| {
                assert_eq!(words.len(), 2, "{words:?}: a pattern and a context");
                let pattern = regex::Regex::new(&format!("^(?:{})$", words[0])).unwrap();
                (pattern, words[1].clone())
            })
            .collect();
        for (path, expected) in table(FILES) {
            let matching: Vec<&str> = lines
                .iter()
                .filter(|(pattern, _)| pattern.is_match(path))
                .map(|(_, label)| label.as_str())
                .collect();
            assert_eq!(matching.concat(), expected, "{path}");
        }
        for (pattern, label) in &lines {
            let used = table(FILES).any(|(path, _)| pattern.is_match(path));
            assert!(used, "{pattern} gives {label} to what this test does not know");
        }
    }
}

#[test]
fn properties_get_their_labels() {
    let lines = entries(&read("sepolicy/vendor/property_contexts"));
    for words in &lines {
        assert_eq!(words[2..], ["prefix", "string"], "{words:?}");
        let used = table(PROPERTIES).any(|(name, _)| name.starts_with(&words[0]));
        assert!(used, "{words:?} labels what this test does not know");
    }
    for (name, expected) in table(PROPERTIES) {
        // The longest prefix wins.
        let matching = lines.iter().filter(|words| name.starts_with(&words[0]));
        let label = matching.max_by_key(|words| words[0].len());
        assert_eq!(label.map_or("", |words| &words[1]), expected, "{name}");
    }
}

/// A label that a rule names and no path gets would never be seen.
#[test]
fn every_folder_of_the_policy_is_known() {
    let mut folders: Vec<String> = std::fs::read_dir(root().join("sepolicy"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    folders.sort();
    let mut known = vec!["hugetlbfs", "node", "node-shared", "vendor"];
    known.extend(OPTIONAL);
    known.sort_unstable();
    assert_eq!(folders, known);
    let page = read("docs/sepolicy.md");
    for folder in folders {
        assert!(page.contains(&format!("sepolicy/{folder}")), "{folder}");
    }
}
