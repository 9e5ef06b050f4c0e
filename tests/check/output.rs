// SPDX-License-Identifier: Apache-2.0
//! The report: address map, huge pages, devicetree source, JSON.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value::Null;

use crate::Vendor;

const FULL: &str = "\"initrd\": { \"path\": \"/vm/initrd\" },\n  \
    \"vcpus\": { \"scheduling\": \"proxy\" },\n  \"console\": {},\n  \
    \"regions\": [{ \"label\": 7, \"base\": \"0xa0000000\", \"size\": \"5M\", \
    \"backing\": [\"hugetlb\", \"base\"], \"page_size\": \"2M\", \"access\": \"share\" }]";

const GOOD: &str =
    r#"{ "name": "b", "memory": { "size": "64M" }, "kernel": { "path": "/vm/Image" } }"#;

#[test]
fn the_address_map_is_a_table() {
    let vendor = Vendor::new();
    vendor.vm("a", FULL);
    let ran = vendor.check(&["etc/a.json"]);
    let expected = "\
a  etc/a.json
  address        end            size       what
  0x80000000     0x83ffffff     64M        memory     label 0, rwx, auto, hugetlb 2M
    0x80000000   0x807fffff     8M         kernel     /vm/Image
    0x83dfe000   0x83dff387     5000       initrd     /vm/initrd
    0x83e00000   0x83ffffff     2M         devicetree generated, with at least 64K of room
  0xa0000000     0xa04fffff     5M         region     label 7, rw, share, hugetlb 2M or base
  0x9000000      0x9000fff      4K         console    doorbell 5, SPI 5
  1 vCPU, scheduled by proxy; at most 290 memory entries
  as on ack61; can be launched on ack66, ack612, lkml, too
  cannot be launched on lkml-base: etc/a.json:6:14: vcpus.scheduling: the driver has no vCPUs that a proxy could schedule; \
likely cause: the kernel has only the first part of the driver: VM_ADD_FUNCTION is ENOTTY, and the hypervisor schedules; \
cure: use a kernel with CONFIG_GUNYAH_VCPU, or leave the key out [plan-no-vcpus]

host assumed: 4K pages, 2M huge pages by default, 2M transparent huge pages
files looked for below: .
huge pages needed in all: 34 of 2M (68M), 34 of them by VMs started at boot
reserve needed in all since android15-6.6: 32 folios of 2M, 32 of them by VMs started at boot: ro.vendor.gunyah.reserve=64M
1 file, 1 can be launched, 0 problems

";
    assert_eq!(ran.stdout, expected);
    assert_eq!(ran.code, 0);
}

/// The map has devices and pool, by either transport; a disk that is not there or another VM's is said.
#[test]
fn devices_are_in_the_map_and_disks_are_looked_for() {
    let vendor = Vendor::new();
    let disk = r#"{ "path": "/vm/disk", "readonly": true }"#;
    let keys = |disks: &str, more: &str| {
        format!(
            "\"disks\": [{disks}], \"entropy\": true, \"console\": {{ \"virtio\": true }}{more}"
        )
    };
    vendor.file("vm/disk", "");
    vendor.vm("a", &keys(disk, ""));
    let ran = vendor.check(&["etc/a.json"]);
    for row in [
        "  0x84000000     0x847fffff     8M         pool       label 1, rw, share, hugetlb 2M",
        "  0xa000000      0xa0001ff      512        hvc        virtio, doorbell 6, SPI 6",
        "  0xa000200      0xa0003ff      512        disk       /vm/disk, read-only, doorbell 7, SPI 7",
        "  0xa000400      0xa0005ff      512        entropy    virtio, doorbell 8, SPI 8",
        "huge pages needed in all: 36 of 2M (72M), 36 of them by VMs started at boot",
    ] {
        assert!(ran.stdout.lines().any(|line| line == row), "{row}:\n{}", ran.stdout);
    }
    assert!(!ran.stdout.contains("warning"), "{}", ran.stdout);

    let others = r#"{ "path": "/vm/disk" }, { "path": "/vm/none" }, { "path": "/dev/none" }"#;
    vendor.vm("b", &keys(others, ", \"transport\": \"pci\""));
    let ran = vendor.check(&["etc"]);
    for part in [
        "  0x10000        0x100ffff      16M        PCI bus",
        "  0x2004000      0x2007fff      16K        disk       /vm/disk, doorbell 7, SPI 7",
        "/vm/disk is a disk of b, too",
        "/vm/disk is a disk of a, too",
        "[check-shared-disk]",
        "disks[1].path: ./vm/none is not there",
        "[check-no-disk]",
    ] {
        assert!(ran.stdout.contains(part), "{part}:\n{}", ran.stdout);
    }
    assert_eq!(ran.stdout.matches("[check-no-disk]").count(), 1);
}

#[test]
fn what_two_vms_cannot_both_have_is_said_of_each() {
    let vendor = Vendor::new();
    let devices = r#""vcpus": { "scheduling": "proxy" }, "nets": [{ "tap": "t" }], "vsock": { "cid": 9 },
        "vhost_user": [{ "type": "net", "socket": "/s" }]"#;
    vendor.vm("a", devices);
    vendor.vm("b", devices);
    let ran = vendor.check(&["etc"]);
    for part in ["nets[0].tap: tap t", "vsock.cid: CID 9", "vhost_user[0].socket: socket /s"] {
        assert!(ran.stdout.contains(&format!("{part} is of a, too")), "{part}:\n{}", ran.stdout);
        assert!(ran.stdout.contains(&format!("{part} is of b, too")), "{part}:\n{}", ran.stdout);
    }
    assert_eq!(ran.stdout.matches("[check-shared-device]").count(), 6);
}

/// The machine that is checked on is the one that the VM runs on, unless its files are elsewhere.
#[test]
fn a_machine_without_vhost_is_told_of_where_a_vm_has_a_socket_device() {
    let vendor = Vendor::new();
    vendor.vm("a", r#""vsock": {}"#);
    vendor.vm("b", "");
    let here =
        Command::new(env!("CARGO_BIN_EXE_gunyahd")).arg("check").arg(vendor.0.join("etc")).output();
    let here = String::from_utf8(here.unwrap().stdout).unwrap();
    let lacks = !Path::new("/dev/vhost-vsock").exists();
    assert_eq!(here.matches("[check-no-vhost]").count(), usize::from(lacks), "{here}");
    assert_eq!(here.contains("vsock: /dev/vhost-vsock is not there"), lacks, "{here}");
    let ran = vendor.check(&["etc"]);
    assert!(!ran.stdout.contains("[check-no-vhost]"), "{}", ran.stdout);
}

#[test]
fn a_power_key_is_told_with_its_numbers() {
    let vendor = Vendor::new();
    vendor.vm("a", r#""console": {}, "entropy": true, "stop": { "power_key": true }"#);
    let ran = vendor.check(&["etc/a.json"]);
    assert!(ran.stdout.contains("\n  power key: doorbell 7, SPI 7\n"), "{}", ran.stdout);
    let report: serde_json::Value =
        serde_json::from_str(&vendor.check(&["--json", "etc/a.json"]).stdout).unwrap();
    let key = serde_json::json!({ "doorbell": 7, "interrupt": 7 });
    assert_eq!(report["vms"][0]["plan"]["power_key"], key, "{report:#}");
}

#[test]
fn a_pool_takes_huge_pages_where_memory_is_lent() {
    let vendor = Vendor::new();
    let devices = r#""disks": [{ "path": "/dev/a" }]"#;
    vendor.vm("a", devices);
    for (kernels, pages) in
        [(&["--kernel", "lkml"][..], 32), (&["--kernel", "ack61"], 36), (&[], 36)]
    {
        let ran = vendor.check(&[kernels, &["--json", "etc"]].concat());
        assert_eq!(ran.json()["huge_pages"][0]["pages"], pages, "{kernels:?}");
    }
}

#[test]
fn huge_pages_add_up_by_size() {
    let vendor = Vendor::new();
    vendor.vm("a", FULL);
    vendor.vm("b", "\"autostart\": false");
    vendor.file(
        "etc/c.json",
        r#"{ "name": "c", "memory": { "size": "1G", "page_size": "1G" }, "kernel": { "path": "/vm/Image" } }"#,
    );
    vendor.file(
        "etc/d.json",
        r#"{ "name": "d", "memory": { "size": "64M", "backing": "thp" }, "kernel": { "path": "/vm/Image" } }"#,
    );
    let ran = vendor.check(&["etc"]);
    let sums: Vec<&str> =
        ran.stdout.lines().filter(|line| line.starts_with("huge pages")).collect();
    assert_eq!(
        sums,
        [
            "huge pages needed in all: 66 of 2M (132M), 34 of them by VMs started at boot",
            "huge pages needed in all: 1 of 1G (1G), 1 of them by VMs started at boot",
        ]
    );
    // A kernel without hugetlb takes the same from the reserve, whatever the page's size; d wants none.
    let sum = "reserve needed in all since android15-6.6: 576 folios of 2M, 544 of them by VMs started at boot: \
               ro.vendor.gunyah.reserve=1152M\n";
    assert!(ran.stdout.contains(sum), "{}", ran.stdout);
    let json = vendor.check(&["--json", "etc"]).json();
    let reserve = serde_json::json!({
        "folio_size": 2 << 20, "folios": 576, "autostart_folios": 544,
    });
    assert_eq!(json["reserve"], reserve);
    assert_eq!(json["huge_pages"][0]["pages"], 66);
    assert_eq!(json["huge_pages"][0]["autostart_pages"], 34);
    assert_eq!(json["huge_pages"][1]["page_size"], 1 << 30);
}

#[test]
fn the_host_is_named_and_can_be_another() {
    let vendor = Vendor::new();
    vendor.vm("a", "");
    let ran = vendor.check(&["--page-size", "16K", "etc"]);
    let host = "host assumed: 16K pages, 32M huge pages by default, 32M transparent huge pages\n";
    assert!(ran.stdout.contains(host), "{}", ran.stdout);
    assert!(ran.stdout.contains("2 of 32M (64M)"), "{}", ran.stdout);
}

#[test]
fn waiting_for_a_vm_that_nobody_starts_is_a_warning() {
    let vendor = Vendor::new();
    vendor.vm("a", "\"start\": { \"after\": [\"b\"] }");
    vendor.vm("b", "\"autostart\": false,\n  \"start\": { \"after\": [\"c\"] }");
    vendor.vm("c", "\"autostart\": false");
    let ran = vendor.check(&["etc"]);
    let warnings: Vec<&str> = ran.stdout.lines().filter(|line| line.contains("warning")).collect();
    assert_eq!(
        warnings,
        ["  warning: etc/a.json:5:24: start.after[0]: waits for b, which is not started at boot; \
          cure: set `autostart` of the other VM, or start it by gunyahctl start [check-not-started]"]
    );
    assert_eq!(ran.code, 0);
}

#[test]
fn a_directory_without_configs_is_a_warning() {
    let vendor = Vendor::new();
    vendor.file("etc/a.json.orig", "not a config by its name");
    let ran = vendor.check(&["etc"]);
    let warning = "\nwarning: etc: there is no *.json in the directory; \
                   cure: name the configs *.json [config-empty-directory]\n";
    assert!(ran.stdout.contains(warning), "{}", ran.stdout);
    // Nothing was checked, which is no good check.
    assert!(ran.stdout.contains("no config was found; likely cause: "), "{}", ran.stdout);
    assert!(ran.stdout.contains(" [check-nothing]\n"), "{}", ran.stdout);
    assert!(ran.stdout.ends_with("0 files, 0 can be launched, 1 problem\n\n"), "{}", ran.stdout);
    assert_eq!(ran.code, 1);
    let json = vendor.check(&["--json", "etc"]).json();
    let warning = &json["warnings"][0];
    assert_eq!(warning["name"], "config-empty-directory");
    assert_eq!((&warning["severity"], &warning["file"]), (&"warning".into(), &"etc".into()));
    // What is absent is null.
    assert_eq!((&warning["cause"], &warning["errno"]), (&Null, &Null));
    assert!(json["problems"][0]["cause"].is_string(), "{json}");
    // An empty directory beside one with configs is only told.
    vendor.vm("a", "");
    std::fs::create_dir(vendor.0.join("more")).unwrap();
    let ran = vendor.check(&["etc", "more"]);
    assert!(ran.stdout.contains("warning: more: there is no *.json"), "{}", ran.stdout);
    assert_eq!(ran.code, 0, "{}", ran.stdout);
    let ran = vendor.check(&["etc"]);
    assert!(!ran.stdout.contains("warning"), "{}", ran.stdout);
}

#[test]
fn a_files_name_drives_no_terminal_and_forges_no_line() {
    let vendor = Vendor::new();
    for (name, text) in [("a\nforged;\x1b[31m", "{"), ("b\n\x1b[2J", GOOD)] {
        vendor.file(&format!("etc/{name}.json"), text);
    }
    for arguments in [&["etc"][..], &["--dtb", "etc"]] {
        let ran = vendor.check(arguments);
        assert!(!ran.stdout.contains('\x1b'), "{}", ran.stdout);
        let named = "etc/a\\nforged;\\u{1b}[31m.json:1:2: not JSON";
        assert!(ran.stdout.contains(named), "{}", ran.stdout);
        let vm = "b  etc/b\\n\\u{1b}[2J.json\n";
        assert!(ran.stdout.contains(vm), "{}", ran.stdout);
    }
}

#[test]
fn a_region_below_one_huge_page_is_shown_as_it_will_be() {
    let vendor = Vendor::new();
    let text = r#"{ "name": "a", "memory": { "size": "15M", "backing": "hugetlb", "page_size": "1G" }, "kernel": { "path": "/vm/Image" } }"#;
    vendor.file("etc/a.json", text);
    let ran = vendor.check(&["etc/a.json"]);
    assert!(ran.stdout.contains("memory     label 0, rwx, auto, base\n"), "{}", ran.stdout);
    let warning =
        "region 0 of 15 MiB is smaller than one huge page of 1 GiB and is made of base pages";
    assert!(ran.stdout.contains(warning), "{}", ran.stdout);
    assert!(ran.stdout.contains("huge pages needed in all: none\n"));
    assert_eq!(ran.code, 0);
}

#[test]
fn json_has_all_of_it() {
    let vendor = Vendor::new();
    vendor.vm("a", FULL);
    vendor.vm("b", "\"x\": 1");
    let ran = vendor.check(&["--json", "--dtb", "etc"]);
    assert_eq!(ran.code, 1);
    let json = ran.json();
    assert_eq!(json["version"], 2);
    assert_eq!(json["host"]["page_size"], 4096);
    let problem = &json["problems"][0];
    assert_eq!(problem["file"], "etc/b.json");
    assert_eq!((&problem["line"], &problem["column"]), (&5.into(), &3.into()));
    assert_eq!(problem["key"], "x");
    assert_eq!(problem["name"], "config-unknown-key");
    assert_eq!((&problem["severity"], &problem["step"]), (&"error".into(), &"config".into()));
    assert_eq!(problem["message"], "unknown key");
    assert_eq!(problem["cure"], "docs/config.md lists every key");
    assert_eq!(problem["errno"], serde_json::Value::Null);
    let vm = &json["vms"][0];
    assert_eq!(vm["name"], "a");
    assert_eq!(vm["launchable"], true);
    assert_eq!(vm["config"]["stop_timeout"], "10s");
    assert_eq!(vm["plan"]["entry"], "0x80000000");
    assert_eq!(vm["plan"]["map"][1]["what"], "kernel");
    assert_eq!(vm["plan"]["map"][1]["base"], "0x80000000");
    assert_eq!(vm["plan"]["dtb"]["size"], 2 << 20);
    assert_eq!(
        (&vm["plan"]["kernel"], &vm["plan"]["scheduling"]),
        (&"ack61".into(), &"proxy".into())
    );
    let kernels = vm["kernels"].as_array().unwrap();
    let launchable: Vec<_> = kernels.iter().filter(|kernel| kernel["launchable"] == true).collect();
    assert_eq!((kernels.len(), launchable.len()), (5, 4));
    let base = kernels.iter().find(|kernel| kernel["kernel"] == "lkml-base").unwrap();
    assert_eq!(base["problems"][0]["name"], "plan-no-vcpus");
    assert!(vm["dtb"].as_str().unwrap().starts_with("/dts-v1/;"));
}

#[test]
fn dtb_prints_source_that_dtc_compiles() {
    let vendor = Vendor::new();
    vendor.vm("a", FULL);
    let ran = vendor.check(&["--dtb", "etc/a.json"]);
    for line in ran.stdout.lines().take_while(|line| !line.starts_with("/dts-v1/")) {
        assert!(line.is_empty() || line.starts_with("//"), "{line}");
    }
    assert!(ran.stdout.contains("base-address = <0x0 0x80000000>;"), "{}", ran.stdout);

    let dtc = Command::new("dtc")
        .args(["-q", "-I", "dts", "-O", "dtb", "-o", "/dev/null"])
        .stdin(Stdio::piped())
        .spawn();
    let Ok(mut dtc) = dtc else {
        println!("no dtc on this machine: its part is left out");
        return;
    };
    dtc.stdin.take().unwrap().write_all(ran.stdout.as_bytes()).unwrap();
    assert!(dtc.wait().unwrap().success());
}

#[test]
fn nobody_reading_is_no_panic() {
    let vendor = Vendor::new();
    vendor.vm("a", FULL);
    let mut child = Command::new(env!("CARGO_BIN_EXE_gunyahd"))
        .current_dir(&vendor.0)
        .args(["check", "--root", ".", "etc"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!stderr.contains("panicked"), "{stderr}");
}

/// Each kernel's own word on the same file.
#[test]
fn a_kernel_can_be_named_by_the_person_or_by_the_file() {
    let vendor = Vendor::new();
    vendor.vm("a", "\"vcpus\": { \"scheduling\": \"hypervisor\" }");
    let ran = vendor.check(&["etc/a.json"]);
    assert_eq!(ran.code, 0, "{}", ran.stdout);
    assert!(ran.stdout.contains("as on ack61; can be launched on lkml, lkml-base, too\n"));
    let refused = "  cannot be launched on ack66, ack612: etc/a.json:5:14: vcpus.scheduling: the hypervisor cannot schedule a VM on this kernel";
    assert!(ran.stdout.contains(refused), "{}", ran.stdout);
    // Its danger is told to who asked for it.
    assert!(ran.stdout.contains("[plan-hypervisor-stop]"), "{}", ran.stdout);

    for (kernel, code) in [("ack61", 0), ("lkml-base", 0), ("ack66", 1), ("ack612", 1)] {
        let ran = vendor.check(&["--kernel", kernel, "etc/a.json"]);
        assert_eq!(ran.code, code, "{kernel}: {}", ran.stdout);
        let problem = "etc/a.json:5:14: vcpus.scheduling: the hypervisor cannot";
        assert_eq!(ran.problems().iter().any(|line| line.starts_with(problem)), code == 1);
    }

    // A file that names its kernels promises to run on them.
    vendor.vm(
        "a",
        "\"kernels\": [\"ack61\", \"ack66\"], \"vcpus\": { \"scheduling\": \"hypervisor\" }",
    );
    let ran = vendor.check(&["etc/a.json"]);
    assert_eq!(ran.code, 1);
    let problem = "etc/a.json:5:45: vcpus.scheduling: on ack66: the hypervisor cannot schedule";
    assert!(ran.problems()[0].starts_with(problem), "{}", ran.stdout);
    let unwanted = vendor.check(&["--kernel", "ack612", "etc/a.json"]);
    assert!(unwanted.stdout.contains("this kernel is ack612; the file is for ack61, ack66"));
}

#[test]
fn backing_is_the_kernels_best() {
    let vendor = Vendor::new();
    vendor.vm("a", "");
    for (kernel, backing, pages) in [
        ("ack61", "hugetlb 2M", "32 of 2M (64M), 32 of them by VMs started at boot"),
        ("ack66", "reserve or thp", "none"),
    ] {
        let ran = vendor.check(&["--kernel", kernel, "etc"]);
        assert!(ran.stdout.contains(&format!("label 0, rwx, auto, {backing}\n")), "{}", ran.stdout);
        assert!(
            ran.stdout.contains(&format!("huge pages needed in all: {pages}\n")),
            "{}",
            ran.stdout
        );
        let reserve = ran.stdout.contains("ro.vendor.gunyah.reserve=64M");
        assert_eq!(reserve, kernel == "ack66", "{}", ran.stdout);
    }
}
