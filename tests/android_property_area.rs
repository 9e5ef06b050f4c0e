// SPDX-License-Identifier: Apache-2.0
//! The reader of property areas against areas that the crate `rsproperties` writes, and broken ones.

#![allow(clippy::unwrap_used)]

#[path = "android/dir.rs"]
mod dir;
#[path = "android/property_service.rs"]
mod property_service;
#[path = "android/said.rs"]
mod said;

use std::io::Write;
use std::path::Path;

use dir::Dir;
use gunyahd::status::properties::PropertyClient;
use gunyahd::status::property_area::PropertyArea;
use property_service::read_request;
use rsproperties::{build_trie, PropertyInfoEntry, SystemProperties};

const CONTEXTS: &str = "\
# The system's own lines, as a device has them, and one of another vendor.
ro.              u:object_r:default_prop:s0
sys.             u:object_r:system_prop:s0
sys.boot_completed u:object_r:boot_status_prop:s0 exact bool
vendor.          u:object_r:vendor_default_prop:s0
vendor.other.    u:object_r:vendor_other_prop:s0 prefix string
vendor.gunyahish u:object_r:vendor_other_prop:s0 exact string
";

/// Areas as init makes them at boot, from [`CONTEXTS`] and our own property_contexts.
fn areas(dir: &Path) -> SystemProperties {
    let merged = dir.join("merged");
    let ours = concat!(env!("CARGO_MANIFEST_DIR"), "/sepolicy/vendor/property_contexts");
    std::fs::write(&merged, CONTEXTS.to_owned() + &std::fs::read_to_string(ours).unwrap()).unwrap();
    let (entries, errors) = PropertyInfoEntry::parse_from_file(&merged, false).unwrap();
    assert!(errors.is_empty(), "{errors:?}");
    std::fs::remove_file(&merged).unwrap();
    let trie = build_trie(&entries, "u:object_r:default_prop:s0", "string").unwrap();
    std::fs::write(dir.join("property_info"), trie).unwrap();
    SystemProperties::new_area(dir).unwrap()
}

const VALUES: [(&str, &str); 9] = [
    ("ro.build.version.sdk", "36"),
    ("ro.build.version.release", "16"),
    ("sys.boot_completed", "1"),
    ("sys.empty", ""),
    ("vendor.gunyah.vm1.state", "running"),
    ("vendor.gunyah.vm1.reason", "é"),
    ("vendor.gunyah.state", "ready"),
    ("vendor.other.gunyah.vm1", "x"),
    ("vendor.gunyahish", "y"),
];

#[test]
fn values_are_found_in_the_file_of_their_context() {
    let dir = Dir::new("area");
    let mut peer = areas(&dir.0);
    for (name, value) in VALUES {
        peer.add(name, value).unwrap();
    }
    let area = PropertyArea::new(dir.0.clone());
    for (name, value) in VALUES {
        assert_eq!(area.get(name).unwrap().as_deref(), Some(value), "{name}");
    }
    for name in [
        "vendor",
        "vendor.gunyah",
        "vendor.gunyah.vm1.stat",
        "vendor.gunyah.vm1.state.x",
        "zz",
        "",
        ".",
    ] {
        assert_eq!(area.get(name).unwrap(), None, "{name:?}");
    }
}

#[test]
fn many_values_and_updates_are_read_as_written() {
    let dir = Dir::new("area");
    let mut peer = areas(&dir.0);
    let name = |n: u32| format!("vendor.gunyah.vm{}.{}", n % 17, n);
    for n in 0..300 {
        peer.add(&name(n), &n.to_string()).unwrap();
    }
    for n in (0..300).step_by(7) {
        let index = peer.find(&name(n)).unwrap().unwrap();
        peer.update(&index, &"v".repeat(usize::try_from(n % 92).unwrap())).unwrap();
    }
    let area = PropertyArea::new(dir.0.clone());
    for n in 0..300 {
        let expected =
            if n % 7 == 0 { "v".repeat(usize::try_from(n % 92).unwrap()) } else { n.to_string() };
        assert_eq!(area.get(&name(n)).unwrap(), Some(expected), "{n}");
    }
}

#[test]
fn long_read_only_values_are_whole() {
    let dir = Dir::new("area");
    let mut peer = areas(&dir.0);
    let long = "fingerprint/".repeat(30);
    peer.add("ro.build.fingerprint", &long).unwrap();
    let area = PropertyArea::new(dir.0.clone());
    assert_eq!(area.get("ro.build.fingerprint").unwrap(), Some(long));
}

#[test]
fn while_a_value_is_written_the_old_one_counts() {
    let dir = Dir::new("area");
    let mut peer = areas(&dir.0);
    peer.add("sys.boot_completed", "half written").unwrap();
    drop(peer);
    let file = dir.0.join("u:object_r:boot_status_prop:s0");
    let mut bytes = std::fs::read(&file).unwrap();
    let value = bytes.windows(4).position(|piece| piece == b"half").unwrap();
    // The lowest bit of the serial before it; the backup stands behind the root node.
    bytes[value - 4] |= 1;
    bytes[148..152].copy_from_slice(b"old\0");
    std::fs::write(&file, bytes).unwrap();
    let area = PropertyArea::new(dir.0.clone());
    assert_eq!(area.get("sys.boot_completed").unwrap().as_deref(), Some("old"));
}

#[test]
fn a_table_of_areas_of_another_layout_is_refused() {
    let dir = Dir::new("area");
    drop(areas(&dir.0));
    let area = PropertyArea::new(dir.0.clone());
    for info in [vec![], vec![0xff; 24]] {
        std::fs::write(dir.0.join("property_info"), &info).unwrap();
        let error = area.get("vendor.gunyah.none").unwrap_err();
        assert!(error.contains("/property_info is not a property area"), "{error}");
    }
}

#[test]
fn a_host_without_properties_says_so() {
    let area = PropertyArea::new("/nonexistent/__properties__".into());
    let text = area.get("sys.boot_completed").unwrap_err();
    assert!(text.contains("sys.boot_completed") && text.contains("not an Android host"), "{text}");
}

#[test]
fn a_missing_area_names_the_context() {
    let dir = Dir::new("area");
    drop(areas(&dir.0));
    std::fs::remove_file(dir.0.join("u:object_r:boot_status_prop:s0")).unwrap();
    let error = PropertyArea::new(dir.0.clone()).get("sys.boot_completed").unwrap_err();
    assert!(error.contains("/u:object_r:boot_status_prop:s0: ENOENT"), "{error}");
}

#[test]
fn an_area_of_another_layout_is_refused_by_name() {
    let dir = Dir::new("area");
    let mut peer = areas(&dir.0);
    peer.add("sys.boot_completed", "1").unwrap();
    drop(peer);
    let file = dir.0.join("u:object_r:boot_status_prop:s0");
    let good = std::fs::read(&file).unwrap();
    let area = PropertyArea::new(dir.0.clone());
    for (at, word) in [(8, "magic"), (12, "version")] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&file, bad).unwrap();
        let text = area.get("sys.boot_completed").unwrap_err();
        assert!(text.contains(word), "{text}");
    }
}

#[test]
fn a_circle_of_nodes_ends() {
    let dir = Dir::new("area");
    let mut peer = areas(&dir.0);
    peer.add("sys.boot_completed", "1").unwrap();
    drop(peer);
    let file = dir.0.join("u:object_r:boot_status_prop:s0");
    let mut bytes = std::fs::read(&file).unwrap();
    // The root's first child: its left and right siblings become itself.
    let child = u32::from_ne_bytes(bytes[128 + 16..128 + 20].try_into().unwrap());
    let at = 128 + usize::try_from(child).unwrap();
    for sibling in [at + 8, at + 12] {
        bytes[sibling..sibling + 4].copy_from_slice(&child.to_ne_bytes());
    }
    bytes[at + 20] = b'S';
    std::fs::write(&file, bytes).unwrap();
    let text = PropertyArea::new(dir.0.clone()).get("sys.boot_completed").unwrap_err();
    assert!(text.contains("circles"), "{text}");
}

/// Every single changed word, in the area and in the trie: an answer or an error, never a panic.
#[test]
fn changed_words_never_panic() {
    let dir = Dir::new("area");
    let mut peer = areas(&dir.0);
    for (name, value) in VALUES {
        peer.add(name, value).unwrap();
    }
    drop(peer);
    let area = PropertyArea::new(dir.0.clone());
    let mut errors = 0;
    for file in ["u:object_r:vendor_gunyah_prop:s0", "property_info"] {
        let file = dir.0.join(file);
        let good = std::fs::read(&file).unwrap();
        let used = good.iter().rposition(|&b| b != 0).unwrap() + 1;
        for at in (0..used).step_by(4) {
            for word in [0, 1, 4, 0x7fff_fffc, 0xffff_fffc, 0xffff_ffff_u32] {
                let mut bad = good[..used].to_vec();
                bad.resize(used.next_multiple_of(4), 0);
                bad[at..at + 4].copy_from_slice(&word.to_ne_bytes());
                std::fs::write(&file, &bad).unwrap();
                errors += usize::from(area.get("vendor.gunyah.vm1.state").is_err());
            }
        }
        std::fs::write(&file, good).unwrap();
    }
    assert!(errors > 0, "no change was noticed");
}

/// The way of a value through client, service and area, both ends ours and the middle the peer's.
#[test]
fn a_value_set_is_a_value_read() {
    let dir = Dir::new("area");
    let mut peer = areas(&dir.0);
    let socket = dir.0.join("service");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let service = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            let (name, value) = read_request(&mut stream);
            // The service's rule by label, as SELinux would enforce it.
            let code: u32 = if !name.starts_with("vendor.gunyah.") {
                0x18
            } else if peer.set(&name, &value).is_ok() {
                0
            } else {
                0x24
            };
            stream.write_all(&code.to_ne_bytes()).unwrap();
        }
        peer
    });
    said::warnings();
    let mut client = PropertyClient::new(socket);
    client.set("vendor.gunyah.vm1.state", "crashed");
    client.set("sys.boot_completed", "1");
    assert!(client.finish(std::time::Duration::from_secs(20)));
    service.join().unwrap();
    let area = PropertyArea::new(dir.0.clone());
    assert_eq!(area.get("vendor.gunyah.vm1.state").unwrap().as_deref(), Some("crashed"));
    assert_eq!(area.get("sys.boot_completed").unwrap(), None);
    assert!(said::warnings().concat().contains("PERMISSION_DENIED"));
}
