// SPDX-License-Identifier: Apache-2.0
//! Files that become shorter while a launch reads them: every kind of file, at once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use gunyah::Dialect;
use serde_json::{json, Value};

use crate::host::{folder, image, wait_until, Boot, Host, Stage};
use crate::left::HugePages;
use crate::steps;

/// When a file is cut.
enum When {
    /// It is open, and nothing of it was read: the first read of its VM is late.
    Open,
    /// This step is told; the next one's first read is late.
    Told(&'static str),
}

struct Case {
    vm: &'static str,
    /// The file that is cut, and to how many bytes.
    file: &'static str,
    to: usize,
    when: When,
    /// The step that fails.
    step: &'static str,
}

const CASES: [Case; 6] = [
    Case { vm: "image", file: "Image", to: 5000, when: When::Told("memory"), step: "kernel" },
    Case {
        vm: "elf",
        file: "vmlinux",
        // Within the second segment.
        to: 0x2800,
        when: When::Told("memory"),
        step: "kernel",
    },
    Case { vm: "gzip", file: "Image.gz", to: 100_000, when: When::Told("memory"), step: "kernel" },
    Case { vm: "initrd", file: "initrd", to: 5000, when: When::Told("kernel"), step: "initrd" },
    Case { vm: "dtb", file: "vm.dtb", to: 64, when: When::Open, step: "images" },
    Case { vm: "region", file: "blob", to: 10, when: When::Told("pool"), step: "memory" },
];

/// A VM with files of its own, in a folder of its own.
fn vm(case: &Case) -> Value {
    let name = case.vm;
    let path = |file: &str| json!(format!("dir/of-{name}/{file}"));
    let mut vm = steps::bystanders(Dialect::Ack61)[0].clone();
    vm["name"] = json!(name);
    vm["autostart"] = json!(false);
    let kernel = match name {
        "elf" => "vmlinux",
        "gzip" => "Image.gz",
        _ => "Image",
    };
    vm["kernel"] = json!({ "path": path(kernel) });
    match name {
        "initrd" => vm["initrd"] = json!({ "path": path("initrd") }),
        "dtb" => {
            vm["dtb"] = json!({ "path": path("vm.dtb") });
            // What the given devicetree was made for.
            for key in ["regions", "vcpus", "initrd"] {
                vm[key] = steps::victim(Dialect::Ack61, "base")[key].clone();
            }
        }
        "region" => {
            vm["regions"] = json!([{
                "label": 9, "base": "0x90000000", "size": "64K", "access": "share", "flags": "rw",
                "backing": "base", "file": path("blob"),
            }]);
        }
        _ => {}
    }
    vm
}

fn own_folder(dir: &Path, case: &Case) -> PathBuf {
    dir.join(format!("of-{}", case.vm))
}

fn write_files(dir: &Path) {
    steps::write_dtb(&steps::victim(Dialect::Ack61, "base"), Dialect::Ack61, dir);
    for case in &CASES {
        let own = own_folder(dir, case);
        fs::create_dir(&own).unwrap();
        fs::write(own.join("Image"), image(300_000)).unwrap();
        fs::copy(dir.join("initrd"), own.join("initrd")).unwrap();
        fs::copy(dir.join("vm.dtb"), own.join("vm.dtb")).unwrap();
        fs::write(own.join("blob"), [7; 10_000]).unwrap();
        fs::write(own.join("vmlinux"), elf()).unwrap();
        let packed = Command::new("gzip").arg("-k").arg(own.join("Image")).status();
        assert!(packed.unwrap().success());
    }
}

/// Two segments of a page each, at 4 and 8 KiB of the file.
fn elf() -> Vec<u8> {
    let mut file = vec![0; 0x3000];
    file[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
    let half = |file: &mut Vec<u8>, at: usize, value: u16| {
        file[at..at + 2].copy_from_slice(&value.to_le_bytes());
    };
    let words = |file: &mut Vec<u8>, at: usize, values: &[u64]| {
        for (index, value) in values.iter().enumerate() {
            file[at + 8 * index..][..8].copy_from_slice(&value.to_le_bytes());
        }
    };
    // ET_EXEC for EM_AARCH64, version 1.
    half(&mut file, 16, 2);
    half(&mut file, 18, 183);
    half(&mut file, 20, 1);
    const BASE: u64 = 0x8020_0000;
    // Entry, program headers, no sections.
    words(&mut file, 24, &[BASE, 64, 0]);
    for (at, value) in [(52, 64), (54, 56), (56, 2)] {
        half(&mut file, at, value);
    }
    for segment in 0..2 {
        let at = 64 + 56 * segment;
        // PT_LOAD, readable and executable.
        file[at] = 1;
        file[at + 4] = 5;
        let offset = 0x1000 * (segment as u64 + 1);
        let address = BASE + offset;
        words(&mut file, at + 8, &[offset, address, address, 0x1000, 0x1000, 0x1000]);
    }
    words(&mut file, 24, &[BASE + 0x1000]);
    file
}

fn is_time(host: &Host, case: &Case) -> bool {
    match case.when {
        When::Told(step) => host.log().contains(&format!("{}: {step}: ", case.vm)),
        When::Open => {
            let pid = host.status(case.vm)["pid"].as_u64();
            let pid = pid.and_then(|pid| u32::try_from(pid).ok());
            let fds = pid.map(crate::left::fds).unwrap_or_default();
            fds.keys().any(|name| name.ends_with(case.file))
        }
    }
}

#[test]
fn files_that_shrink_while_they_are_loaded_are_told() {
    let Some(stage) = Stage::new() else { return };
    let dir = folder("shrink");
    write_files(&dir);
    let vms: Vec<Value> = CASES.iter().map(vm).collect();
    let boot = Boot { vms: &vms, watch: &["pread64"], ..Boot::default() };
    let mut host = Host::boot(&stage, &dir, &boot);
    // With its files whole each is a VM that runs.
    for case in &CASES {
        host.live(case.vm).unwrap();
    }
    let before = host.look_when_settled();
    let huge = HugePages::now();
    for case in &CASES {
        host.forget_changes();
        let path = own_folder(&dir, case).join(case.file);
        let whole = fs::read(&path).unwrap();
        assert!(whole.len() > case.to);
        fs::write(dir.join("log"), "").unwrap();
        host.tell_simulator(&format!("call pread64 * delay 250 from vm:{}", case.vm));
        host.order("start", case.vm, false);
        wait_until(|| is_time(&host, case), || host.log()).unwrap();
        fs::write(&path, &whole[..case.to]).unwrap();
        host.wait_for(case.vm, &["failed"]).unwrap();
        let reason = host.status(case.vm)["reason"].to_string();
        let begin = format!("\"{}: ", case.step);
        let had = format!("had {} bytes when it was opened and has been cut since", whole.len());
        for words in [begin.as_str(), case.file, &had, "by rename", "[image-cut]"] {
            assert!(reason.contains(words), "{}: no {words}: {reason}", case.vm);
        }
        fs::write(&path, &whole).unwrap();
        host.wait_for_nothing_left(&before, huge).unwrap();
        host.tell_simulator("forgive");
        host.live(case.vm).unwrap();
    }
    host.end();
}
