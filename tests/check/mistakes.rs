// SPDX-License-Identifier: Apache-2.0
//! A directory with mistakes of every kind: each is reported once, with its place.

use std::process::Command;

use crate::Vendor;

#[test]
fn every_kind_of_mistake_is_reported_with_its_place() {
    let vendor = Vendor::new();
    vendor.file("vm/text", "no kernel");
    vendor.file("vm/large", vec![0; 5 << 20]);
    vendor.file("vm/initrd-64M", vec![0; 64 << 20]);
    vendor.vm("a-good", "\"initrd\": { \"path\": \"/vm/initrd\" }");
    vendor.vm("b-key", "\"cmdlin\": \"quiet\"");
    vendor.vm("c-type", "\"autostart\": \"yes\",\n  \"vcpus\": { \"count\": 99 }");
    vendor.file("etc/d-syntax.json", "{\n  \"name\": \"d\",\n  \"memory\": 0x100\n}\n");
    vendor.vm("e-twice", "\"autostart\": true,\n  \"autostart\": false");
    vendor.file("etc/f-name.json", std::fs::read(vendor.0.join("etc/a-good.json")).unwrap());
    vendor.vm(
        "g-regions",
        "\"regions\": [\n    { \"label\": 0, \"base\": \"0x83000000\", \"size\": \"5M\" },\n    \
         { \"label\": 2, \"base\": \"0xa0000000\", \"size\": \"4M\", \"file\": \"/vm/large\" }\n  ]",
    );
    vendor.vm("h-file", "\"initrd\": { \"path\": \"/vm/none\" }");
    vendor.file(
        "etc/i-kernel.json",
        "{ \"name\": \"i\", \"memory\": { \"size\": \"64M\" },\n \"kernel\": { \"path\": \"/vm/text\" } }",
    );
    vendor.vm("j-room", "\"initrd\": { \"path\": \"/vm/initrd-64M\" }");
    vendor.vm("k-unknown", "\"start\": { \"after\": [\"a-god\"] }");
    vendor.vm("l-cycle", "\"start\": { \"after\": [\"m-cycle\"] }");
    vendor.vm("m-cycle", "\"start\": { \"after\": [\"l-cycle\"] }");
    vendor.vm("n-dtb", "\"dtb\": { \"path\": \"/vm/text\" }");
    vendor.vm(
        "o-scattered",
        "\"regions\": [\n    { \"label\": 1, \"base\": \"0xa0000000\", \"size\": \"64M\" }]",
    );
    vendor.vm("p-file", "\"regions\": [\n    { \"label\": 2, \"base\": \"0xa0000000\", \"size\": \"4M\", \"file\": \"/vm/large\" }]");

    let ran = vendor.check(&["--kernel", "ack61", "etc"]);
    assert_eq!(ran.code, 1);
    let expected = [
        "etc/b-key.json:5:3: cmdlin: unknown key; cure: did you mean `kernel.cmdline`? [config-unknown-key]",
        "etc/c-type.json:5:3: autostart: expected true or false, found the string \"yes\"; ",
        "etc/c-type.json:6:14: vcpus.count: expected a whole number from 1 to 64, found 99; ",
        "etc/d-syntax.json:3:14: not JSON: expected `,` or `}`; cure: write an address as a string: \"0x80000000\" [config-json]",
        "etc/e-twice.json:6:3: autostart: given twice, first at 5:3; cure: remove one of them [config-twice]",
        "etc/f-name.json:2:3: name: \"a-good\" is the name of another VM, in etc/a-good.json:2:3; ",
        "etc/g-regions.json:6:7: regions[0].label: 0 is the label of memory too; ",
        "etc/g-regions.json:6:19: regions[0].base: 0x83000000+0x500000 overlaps 0x80000000+0x4000000 of memory; ",
        "etc/h-file.json:5:15: initrd.path: opening ./vm/none: ENOENT (No such file or directory); ",
        "etc/i-kernel.json:2:14: kernel.path: kernel ./vm/text: ",
        "etc/j-room.json:5:15: initrd.path: no room for the initrd",
        "etc/k-unknown.json:5:24: start.after[0]: waits for \"a-god\", which no file describes; cure: did you mean \"a-good\"? [config-unknown-vm]",
        "etc/l-cycle.json:5:24: start.after[0]: these VMs wait for each other: l-cycle -> m-cycle -> l-cycle; ",
        "etc/m-cycle.json:5:24: start.after[0]: these VMs wait for each other: m-cycle -> l-cycle -> m-cycle; ",
        "etc/n-dtb.json:5:12: dtb.path: the devicetree cannot be read: ",
        "etc/o-scattered.json:6:5: regions[0].backing: up to 16416 memory entries",
        "etc/p-file.json:6:55: regions[0].file: /vm/large has 5242880 bytes, the region 4194304",
    ];
    let found = ran.problems();
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "wanted: {expected}\nfound:  {found}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    assert!(ran.stdout.ends_with("16 files, 1 can be launched, 17 problems\n\n"), "{}", ran.stdout);
}

#[test]
fn a_good_directory_is_good() {
    let vendor = Vendor::new();
    vendor.vm("a", "");
    vendor.vm("b", "\"start\": { \"after\": [\"a\"] }");
    let ran = vendor.check(&["--kernel", "ack61", "etc"]);
    assert_eq!((ran.code, ran.problems()), (0, vec![]), "{}", ran.stdout);
}

/// Keys of the problems of `file`, in their order.
fn keys(ran: &crate::Ran, file: &str) -> Vec<String> {
    let problems = ran.problems();
    let of_file = problems.iter().filter(|line| line.starts_with(file));
    of_file.map(|line| line.split(": ").nth(1).unwrap().to_owned()).collect()
}

#[test]
fn every_file_that_is_missing_is_reported() {
    let vendor = Vendor::new();
    let keys_of = |more: &str| {
        let text = format!(
            "{{ \"name\": \"a\", \"memory\": {{ \"size\": \"64M\" }},\n  \
             \"kernel\": {{ \"path\": \"/vm/none-1\" }},\n  \"initrd\": {{ \"path\": \"/vm/none-2\" }},\n  \
             \"dtb\": {{ \"path\": \"/vm/none-3\" }}{more} }}\n"
        );
        vendor.file("etc/a.json", text);
        let ran = vendor.check(&["--kernel", "ack61", "etc"]);
        assert!(ran.stdout.contains("0 can be launched"), "{}", ran.stdout);
        keys(&ran, "etc/a.json")
    };
    assert_eq!(keys_of(""), ["kernel.path", "initrd.path", "dtb.path"]);
    // The files of a config that is wrong itself are not looked at.
    assert_eq!(keys_of(",\n  \"bad\": 1"), ["bad"]);
}

#[test]
fn every_mistake_of_a_file_is_reported_once() {
    let vendor = Vendor::new();
    vendor.vm(
        "a",
        "\"regions\": [{ \"label\": 0, \"base\": \"0x83000000\", \"size\": \"4M\" }],\n  \
         \"dtb\": { \"offset\": \"64M\" },\n  \"vcpus\": { \"scheduling\": \"hypervisor\" }, \"console\": {}",
    );
    let ran = vendor.check(&["--kernel", "ack61", "etc"]);
    assert_eq!(
        keys(&ran, "etc/a.json"),
        ["regions[0].label", "regions[0].base", "dtb.offset", "console"],
        "{}",
        ran.stdout
    );
}

#[test]
fn a_vm_of_a_file_with_mistakes_can_be_waited_for() {
    let vendor = Vendor::new();
    vendor.vm("a", "\"start\": { \"after\": [\"b:ready\", \"c\"] }");
    vendor.vm("b", "\"start\": { \"after\": [\"a\"] }");
    vendor.vm("c", "\"bad\": 1,\n  \"start\": { \"after\": [\"a\"] }");
    let ran = vendor.check(&["--kernel", "ack61", "etc"]);
    let found: Vec<&str> =
        ran.problems().iter().map(|line| line.split("; ").next().unwrap()).collect();
    assert_eq!(
        found,
        [
            "etc/a.json:5:24: start.after[0]: waits for b to be ready, and b has no `ready`",
            "etc/a.json:5:24: start.after[0]: these VMs wait for each other: a -> b -> a",
            "etc/b.json:5:24: start.after[0]: these VMs wait for each other: b -> a -> b",
            "etc/c.json:5:3: bad: unknown key",
        ],
        "{}",
        ran.stdout
    );
}

/// An arm64 Image of 300 KiB that hardly packs, gzip'ed.
fn packed(vendor: &Vendor) -> Vec<u8> {
    let mut kernel = crate::image(8 << 20);
    let noise = |n: u32| n.wrapping_mul(n).wrapping_mul(0x9e37_79b9).rotate_left(n % 31);
    kernel.extend((0..75_000).flat_map(|n| noise(n).to_le_bytes()));
    let plain = vendor.file("vm/plain", kernel);
    let gzip = Command::new("gzip").arg("-c").arg(plain).output().unwrap();
    assert!(gzip.status.success());
    gzip.stdout
}

#[test]
fn a_packed_kernel_is_unpacked_to_nowhere() {
    let vendor = Vendor::new();
    vendor.file(
        "etc/a.json",
        r#"{ "name": "a", "memory": { "size": "64M" }, "kernel": { "path": "/vm/Image.gz" } }"#,
    );
    let good = packed(&vendor);
    let check = |bytes: &[u8]| {
        vendor.file("vm/Image.gz", bytes);
        let ran = vendor.check(&["--kernel", "ack61", "etc/a.json"]);
        let problems = ran.problems().join("\n");
        assert_eq!(ran.code, i32::from(!problems.is_empty()), "{}", ran.stdout);
        let launchable = ran.stdout.contains("1 can be launched");
        assert_eq!(launchable, problems.is_empty(), "{}", ran.stdout);
        problems
    };
    assert_eq!(check(&good), "");

    let place = "etc/a.json:1:57: kernel.path: kernel ./vm/Image.gz: ";
    let end = good.len();
    // The length in the trailer is right, so the end is missed only by unpacking.
    let mut cut = good[..end - 50_000].to_vec();
    cut.extend(&good[end - 8..]);
    let mut sum = good.clone();
    sum[end - 8..end - 4].fill(0);
    let mut short = good.clone();
    short[end - 4..].copy_from_slice(&63u32.to_le_bytes());
    let mut less = good.clone();
    less[end - 4..].copy_from_slice(&200_000u32.to_le_bytes());
    for (bytes, problem) in [
        (cut, ""),
        (sum, "the CRC32 of the unpacked bytes is not the one"),
        (short, "the gzip'ed file's trailer says that it unpacks to 63 bytes"),
        (less, "the gzip'ed file unpacks to more than the 200000 bytes that its trailer says"),
    ] {
        let found = check(&bytes);
        assert!(found.starts_with(&format!("{place}{problem}")), "{found}");
        assert!(found.contains("pack it again: gzip -k Image [image-gzip-"), "{found}");
    }
}

#[test]
fn a_path_that_is_not_there() {
    let ran = Vendor::new().check(&["--kernel", "ack61", "etc/none.json"]);
    assert_eq!(ran.code, 1);
    assert_eq!(
        ran.problems(),
        ["etc/none.json: cannot be opened: ENOENT (No such file or directory); \
          cure: check the path, and the file's mode, owner and SELinux label [config-unreadable]"]
    );
}
