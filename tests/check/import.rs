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
        "memory": { "size": "4096M", "pool": "64M" },
        "vcpus": { "count": 4 },
        "kernel": { "path": "/data/vm/Image", "cmdline": "root=/dev/vda console=ttyS0" },
        "initrd": { "path": "/data/initrd.img" },
        "disks": [{ "path": "/data/debian.img" }],
        "nets": [{ "tap": "crosvm_tap" }],
        "vsock": { "cid": 3 },
        "transport": "pci",
        "console": { "device": "16550" },
    });
    assert_eq!(config, wanted);
    good(&config);
    assert_eq!(said, "");

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
    assert_eq!(config["disks"], json!([{ "path": "/data/root.img" }]));
    assert!(said.contains("--frobnicate is left out: gunyahd has no such option"), "{said}");

    // In order, each as it may be written; and a pool is for devices alone.
    let (config, said) = command(
        "crosvm run --block /data/a.img,ro --disk /data/b.img --block path=/data/c.img --tap-name tap1 \
         --block path=/data/d.img,root --root /data/e.img --shared-dir /data:x:type=fs --net host-ip=10.0.0.1 \
         --vsock cid=7 /data/Image",
    );
    let disks = json!([
        { "path": "/data/a.img", "readonly": true },
        { "path": "/data/b.img", "readonly": true },
        { "path": "/data/c.img" },
    ]);
    assert_eq!(config["disks"], disks);
    assert_eq!(config["nets"], json!([{ "tap": "tap1" }]));
    assert_eq!(config["vsock"], json!({ "cid": 7 }));
    good(&config);
    for left in
        ["--block path=/data/d.img,root", "--root", "--shared-dir", "--net host-ip=10.0.0.1"]
    {
        let line = said.lines().find(|line| line.contains(left));
        assert!(line.is_some_and(|line| line.ends_with("[import-left-out]")), "{left}: {said}");
    }
    assert_eq!(said.lines().count(), 4, "{said}");
    let (config, said) = command("crosvm run --swiotlb 64 /data/Image");
    assert_eq!((&config["memory"], said.as_str()), (&json!({ "size": "256M" }), ""));
    good(&config);
}

#[test]
fn command_lines_of_qemu_become_files() {
    let (config, said) = command(
        "sudo qemu-system-aarch64 -name guest=arm,debug-threads=on -M virt,gic-version=3 -accel gunyah -cpu host \
         -smp 2,sockets=1 -m 1G -kernel /vm/Image -initrd /vm/initrd.gz -append console=ttyAMA0 -nographic \
         -drive file=/vm/disk.img,format=raw,if=none,id=hd0 -device virtio-blk-pci,drive=hd0 \
         -drive file=/vm/cd.iso,readonly=on -drive file=/vm/disk.qcow2 -drive if=pflash,file=/vm/code.fd \
         -netdev tap,id=n0,ifname=tap0 -device virtio-net-pci,netdev=n0,mac=02:00:00:00:00:01 \
         -device vhost-vsock-pci,guest-cid=3 -device virtio-gpu-pci -no-reboot",
    );
    let wanted = json!({
        "name": "arm",
        "memory": { "size": "1G" },
        "vcpus": { "count": 2 },
        "kernel": { "path": "/vm/Image", "cmdline": "console=ttyAMA0" },
        "initrd": { "path": "/vm/initrd.gz" },
        "disks": [{ "path": "/vm/disk.img" }, { "path": "/vm/cd.iso", "readonly": true }],
        "nets": [{ "tap": "tap0" }],
        "vsock": { "cid": 3 },
        "transport": "pci",
        "console": {},
    });
    assert_eq!(config, wanted);
    good(&config);
    assert_eq!(said.lines().count(), 4, "{said}");
    for left in [
        "-drive file=/vm/disk.qcow2 is left out: gunyahd makes no disks of it",
        "-drive if=pflash,file=/vm/code.fd",
        "-device virtio-net-pci,netdev=n0,mac=02:00:00:00:00:01",
        "-device virtio-gpu-pci is left out: gunyahd has no such device",
    ] {
        assert!(said.contains(left), "{left}: {said}");
    }
    let (config, _) = command(
        "qemu-system-aarch64 -kernel /vm/Image -hda /vm/a,,b -device virtio-blk-device,drive=x",
    );
    assert_eq!(config["disks"], json!([{ "path": "/vm/a,b" }]));
    assert_eq!(config["transport"], "mmio");
    good(&config);
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
            "params": "root=/dev/vda console=ttyS0", "disks": [ { "image": "/data/a,b", "writable": true }, { "image": "/data/c" },
            { "partitions": [ { "label": "d", "path": "/data/d" } ] } ],
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
        "disks": [{ "path": "/data/a,b" }, { "path": "/data/c", "readonly": true }],
        "transport": "pci",
        "console": { "device": "16550" },
    });
    assert_eq!(config, wanted);
    good(&config);
    let said = String::from_utf8(output.stderr).unwrap();
    for left in ["disks partitions=", "cpu_topology match_host", "network true", "gpu backend=v"] {
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
