// SPDX-License-Identifier: Apache-2.0
//! `gunyahd import`: command lines and files as people have them become files that `gunyahd check` takes,
//! and what is left out is named.

use std::process::{Command, Output};

use serde_json::{json, Value};

use crate::Vendor;

fn import(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gunyahd")).arg("import").args(words).output().unwrap()
}

/// Imports a command line, which is split at spaces; returns the file and what was said of the rest.
fn command(line: &str) -> (Value, String) {
    let mut words = vec!["--"];
    words.extend(line.split_whitespace());
    let output = import(&words);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{line}: {said}");
    (serde_json::from_slice(&output.stdout).unwrap(), said)
}

/// `gunyahd check` finds nothing wrong with it.
fn good(config: &Value) {
    let vendor = Vendor::new();
    for key in ["kernel", "initrd"] {
        if let Some(path) = config[key]["path"].as_str() {
            let path = path.trim_start_matches('/');
            std::fs::create_dir_all(vendor.0.join(path).parent().unwrap()).unwrap();
            vendor.file(path, crate::image(1 << 20));
        }
    }
    vendor.file("etc/a.json", config.to_string());
    let ran = vendor.check(&["etc/a.json"]);
    assert_eq!((ran.code, ran.problems()), (0, Vec::new()), "{config:#}\n{}", ran.stdout);
}

#[test]
fn command_lines_of_crosvm_become_files() {
    // As guides for phones have it, with what they set around the program.
    let (config, said) = command(
        "LD_PRELOAD=./libbinder.so /data/local/tmp/crosvm-a16 --log-level debug run --disable-sandbox \
         --no-balloon --protected-vm-without-firmware --swiotlb 64 --params root=/dev/vda \
         -p console=ttyS0 -i /data/initrd.img --rwdisk /data/debian.img --net tap-name=crosvm_tap \
         --cid 3 --mem 4096 --cpus 4 /data/vm/Image",
    );
    let wanted = json!({
        "name": "vm",
        "memory": { "size": "4096M" },
        "vcpus": { "count": 4 },
        "kernel": { "path": "/data/vm/Image", "cmdline": "root=/dev/vda console=ttyS0" },
        "initrd": { "path": "/data/initrd.img" },
        "console": { "device": "16550" },
    });
    assert_eq!(config, wanted);
    good(&config);
    for left in
        ["--swiotlb 64", "--rwdisk /data/debian.img", "--net tap-name=crosvm_tap", "--cid 3"]
    {
        let line = said.lines().find(|line| line.contains(&format!("{left} is left out: ")));
        assert!(line.is_some_and(|line| line.ends_with("[import-left-out]")), "{left}: {said}");
    }
    assert_eq!(said.lines().count(), 4, "{said}");

    // Long options with `=`, EDK2 as the kernel, pvmfw; and one that nobody knows before the kernel.
    let (config, said) = command(
        "crosvm run --name=edk --mem=size=2048 --cpus=num-cores=2 --protected-vm \
         --block=path=/data/root.img,ro=false --serial=type=stdout,hardware=serial,num=1 --frobnicate \
         /data/edk2/QEMU_EFI.img",
    );
    assert_eq!(config["name"], "edk");
    assert_eq!(
        (&config["memory"]["size"], &config["vcpus"]["count"]),
        (&json!("2048M"), &json!(2))
    );
    assert_eq!(config["kernel"]["path"], "/data/edk2/QEMU_EFI.img");
    assert_eq!(config["firmware"], json!({}));
    good(&config);
    assert!(said.contains("--frobnicate is left out: gunyahd has no such option"), "{said}");
}

#[test]
fn command_lines_of_qemu_become_files() {
    let (config, said) = command(
        "sudo qemu-system-aarch64 -name guest=arm,debug-threads=on -M virt,gic-version=3 -accel gunyah -cpu host \
         -smp 2,sockets=1 -m 1G -kernel /vm/Image -initrd /vm/initrd.gz -append console=ttyAMA0 -nographic \
         -drive file=/vm/disk.qcow2,if=none,id=hd0 -device virtio-blk-pci,drive=hd0 \
         -netdev tap,id=n0,ifname=tap0 -no-reboot",
    );
    let wanted = json!({
        "name": "arm",
        "memory": { "size": "1G" },
        "vcpus": { "count": 2 },
        "kernel": { "path": "/vm/Image", "cmdline": "console=ttyAMA0" },
        "initrd": { "path": "/vm/initrd.gz" },
        "console": {},
    });
    assert_eq!(config, wanted);
    good(&config);
    assert_eq!(said.lines().count(), 3, "{said}");
    for left in
        ["-drive file=/vm/disk.qcow2,if=none,id=hd0", "-device virtio-blk-pci,drive=hd0", "-netdev"]
    {
        assert!(said.contains(left), "{left}: {said}");
    }
    let (config, _) = command("/usr/bin/qemu-system-aarch64 -m size=1048576k -bios /vm/u-boot.img");
    assert_eq!(config["memory"]["size"], "1048576K");
    good(&config);
}

#[test]
fn a_file_of_androids_becomes_one() {
    let vendor = Vendor::new();
    let file = vendor.file(
        "vm_config.json",
        r#"{ "name": "debian", "kernel": "/data/local/tmp/Image", "initrd": "/data/local/tmp/initrd",
            "params": "root=/dev/vda console=ttyS0", "disks": [ { "image": "/data/a", "writable": true } ],
            "protected": false, "cpu_topology": "match_host", "platform_version": "~1.0",
            "memory_mib": 4096, "console_input_device": "ttyS0", "network": true, "gpu": { "backend": "v" } }"#,
    );
    let output = import(&[file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let config: Value = serde_json::from_slice(&output.stdout).unwrap();
    let wanted = json!({
        "name": "debian",
        "memory": { "size": "4096M" },
        "kernel": { "path": "/data/local/tmp/Image", "cmdline": "root=/dev/vda console=ttyS0" },
        "initrd": { "path": "/data/local/tmp/initrd" },
        "console": { "device": "16550" },
    });
    assert_eq!(config, wanted);
    good(&config);
    let said = String::from_utf8(output.stderr).unwrap();
    for left in ["disks {", "cpu_topology match_host", "network true", "gpu {"] {
        assert!(said.contains(left), "{left}: {said}");
    }
    assert_eq!(said.lines().count(), 4, "{said}");
}

#[test]
fn what_cannot_be_imported_is_told() {
    let vendor = Vendor::new();
    let broken = vendor.file("broken.json", "{");
    let list = vendor.file("list.json", "[]");
    for (words, code, name) in [
        (&["/no/such/vm_config.json"][..], 1, "[import-unreadable]"),
        (&[broken.to_str().unwrap()], 1, "[import-unreadable]"),
        (&[list.to_str().unwrap()], 1, "[import-unreadable]"),
        (&["--", "kvmtool", "run"], 1, "[import-unknown]"),
        (&["--"], 1, "[import-unknown]"),
        (&["--", "crosvm", "run", "--mem", "64"], 1, "[import-no-kernel]"),
        (&[], 2, "FILE"),
    ] {
        let output = import(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
        assert!(said.contains(name) && output.stdout.is_empty(), "{words:?}: {said}");
    }
}
