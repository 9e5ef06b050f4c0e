// SPDX-License-Identifier: Apache-2.0
//! What a guest's kernel says of itself by the configuration that it has built in.

use std::io::Write;

use flate2::write::GzEncoder;

use super::*;

const DEVICES: &str = r#""console": { "virtio": true }, "disks": [{ "path": "/dev/a" }, { "path": "/dev/b" }],
  "nets": [{ "tap": "tap7" }], "vsock": {}, "entropy": true,
  "vhost_user": [{ "type": "fs", "socket": "/s", "tag": "t" }]"#;

/// Everything that those devices want of a kernel but the transports.
const DRIVERS: &str = "CONFIG_VIRTIO_CONSOLE=y\nCONFIG_VIRTIO_BLK=y\nCONFIG_VIRTIO_NET=y\n\
    CONFIG_VIRTIO_VSOCKETS=m\nCONFIG_HW_RANDOM_VIRTIO=y\nCONFIG_VIRTIO_FS=m\n\
    CONFIG_DMA_RESTRICTED_POOL=y\n";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An Image with this configuration in it, as kernel/configs.c has it.
fn kernel(config: &str) -> Vec<u8> {
    let mut bytes = image(8 << 20);
    bytes.extend([b"IKCFG_ST", &gzip(config.as_bytes())[..], b"IKCFG_ED"].concat());
    bytes.extend([7; 4096]);
    bytes
}

/// Name and key of each warning of a check for ack66 with this configuration and these keys.
fn found(config: &str, keys: &str) -> (Ran, Vec<String>) {
    let vendor = Vendor::new();
    vendor.file("vm/Image", kernel(config));
    vendor.vm("a", keys);
    let ran = vendor.check(&["--json", "--kernel", "ack66", "etc"]);
    assert_eq!(ran.code, 0, "{}", ran.stdout);
    let warnings = ran.json()["vms"][0]["warnings"].as_array().unwrap().clone();
    let text = |of: &Value, key: &str| of[key].as_str().unwrap_or_default().to_owned();
    let found = warnings.iter().map(|of| format!("{} {}", text(of, "name"), text(of, "key")));
    let found = found.filter(|found| found.starts_with("check-guest")).collect();
    (ran, found)
}

#[test]
fn a_kernel_that_has_everything_is_not_spoken_of() {
    let both = "CONFIG_VIRTIO_MMIO=y\nCONFIG_VIRTIO_PCI=y\nCONFIG_PCI_HOST_GENERIC=y\n";
    for transport in ["mmio", "pci"] {
        let keys = format!("{DEVICES}, \"transport\": \"{transport}\"");
        assert_eq!(found(&format!("{DRIVERS}{both}"), &keys).1, [] as [&str; 0]);
    }
    // Nobody uses what it lacks.
    assert_eq!(found("", "\"console\": {}").1, [] as [&str; 0]);
}

#[test]
fn what_a_kernel_is_built_without_is_named_at_its_key() {
    let (ran, names) = found("CONFIG_VIRTIO_MMIO=y\n", DEVICES);
    let lacks = [
        "check-guest-driver console.virtio",
        "check-guest-driver disks[0]",
        "check-guest-driver nets[0]",
        "check-guest-driver vsock",
        "check-guest-driver vhost_user[0]",
        "check-guest-driver entropy",
        "check-guest-pool kernel.path",
    ];
    assert_eq!(names, lacks, "{}", ran.stdout);
    for option in ["VIRTIO_BLK", "VIRTIO_FS", "DMA_RESTRICTED_POOL"] {
        assert!(ran.stdout.contains(&format!("CONFIG_{option} is not set")), "{}", ran.stdout);
    }
    // One without a disk, of a kernel that shares: no pool is wanted.
    let vendor = Vendor::new();
    vendor.file("vm/Image", kernel("CONFIG_VIRTIO_MMIO=y\nCONFIG_HW_RANDOM_VIRTIO=y\n"));
    vendor.vm("a", "\"entropy\": true");
    let ran = vendor.check(&["--kernel", "lkml", "etc"]);
    assert!(!ran.stdout.contains("check-guest"), "{}", ran.stdout);
    let ran = vendor.check(&["--kernel", "ack612", "etc"]);
    assert!(ran.stdout.contains("[check-guest-pool]"), "{}", ran.stdout);
}

#[test]
fn the_other_transport_is_offered_where_the_kernel_has_it() {
    let pci = "CONFIG_VIRTIO_PCI=y\nCONFIG_PCI_HOST_GENERIC=y\n# CONFIG_VIRTIO_MMIO is not set\n";
    let (ran, names) = found(&format!("{DRIVERS}{pci}"), DEVICES);
    assert_eq!(names, ["check-guest-transport transport"]);
    assert!(ran.stdout.contains(r#"give \"transport\": \"pci\""#), "{}", ran.stdout);
    let mmio = format!("{DEVICES}, \"transport\": \"pci\"");
    let (ran, names) =
        found(&format!("{DRIVERS}CONFIG_VIRTIO_PCI=y\nCONFIG_VIRTIO_MMIO=y\n"), &mmio);
    assert_eq!(names, ["check-guest-transport transport"]);
    assert!(ran.stdout.contains("CONFIG_PCI_HOST_GENERIC is not set"), "{}", ran.stdout);
    let (ran, _) = found(DRIVERS, DEVICES);
    assert!(ran.stdout.contains("build the kernel with the option"), "{}", ran.stdout);
}

#[test]
fn a_module_wants_an_initrd_where_a_disk_is() {
    let modules = "CONFIG_VIRTIO_MMIO=m\nCONFIG_VIRTIO_BLK=m\nCONFIG_HW_RANDOM_VIRTIO=m\n\
        CONFIG_DMA_RESTRICTED_POOL=y\n";
    let disk = r#""disks": [{ "path": "/dev/a" }], "entropy": true"#;
    let (ran, names) = found(modules, disk);
    assert_eq!(names, ["check-guest-module disks[0]"]);
    assert!(ran.stdout.contains("CONFIG_VIRTIO_BLK, CONFIG_VIRTIO_MMIO"), "{}", ran.stdout);
    let initrd = format!("{disk}, \"initrd\": {{ \"path\": \"/vm/initrd\" }}");
    assert_eq!(found(modules, &initrd).1, [] as [&str; 0]);
    let own = format!("{modules}CONFIG_INITRAMFS_SOURCE=\"root\"\n");
    assert_eq!(found(&own, disk).1, [] as [&str; 0]);
    assert_eq!(found(modules, "\"entropy\": true").1, [] as [&str; 0]);
}

/// A gzip'ed kernel is looked into; one that says nothing, or nonsense, is left alone.
#[test]
fn a_packed_kernel_is_looked_into_and_nonsense_is_not_spoken_of() {
    let vendor = Vendor::new();
    vendor.vm("a", "\"entropy\": true");
    let warned = |bytes: &[u8]| {
        vendor.file("vm/Image", bytes);
        let ran = vendor.check(&["--kernel", "ack612", "etc"]);
        assert_eq!(ran.code, 0, "{}", ran.stdout);
        ran.stdout.contains("check-guest")
    };
    let plain = kernel("CONFIG_VIRTIO_MMIO=y\n");
    assert!(warned(&plain));
    assert!(warned(&gzip(&plain)));
    let mut damaged = plain;
    damaged[4096 + 8 + 12] ^= 0x55;
    assert!(!warned(&damaged));
    assert!(!warned(&image(8 << 20)));
}
