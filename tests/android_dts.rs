// SPDX-License-Identifier: Apache-2.0
//! The devicetree sources: compiled without warnings, applied, and held against the bindings.

#![allow(clippy::unwrap_used)]

#[path = "android/dir.rs"]
mod dir;
#[path = "android/tools.rs"]
mod tools;

use std::path::{Path, PathBuf};
use std::process::Command;

use dir::Dir;
use tools::{present, root};

/// Runs a program and answers what it prints, on both ways.
fn run(program: &str, arguments: &[&str], files: &[&Path]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .args(files)
        .output()
        .unwrap();
    // dt-validate exits with 0 whatever it finds, so the text is what counts.
    String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
}

/// Compiles a source; the compiler's words must be none.
fn compile(source: &Path, blob: &Path) {
    let flags = [
        "-W",
        "no-label_is_string",
        "-I",
        "dts",
        "-O",
        "dtb",
        "-o",
        blob.to_str().unwrap(),
    ];
    assert_eq!(run("dtc", &flags, &[source]), "", "{}", source.display());
}

fn sources(extension: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(root().join("dts"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "no .{extension}");
    found
}

#[test]
fn sources_compile_without_warnings() {
    if !present(&["dtc"]) {
        return;
    }
    let dir = Dir::new("dts");
    for source in sources("dts").iter().chain(&sources("dtso")) {
        compile(source, &dir.0.join("blob"));
    }
}

#[test]
fn the_hosts_overlay_applies() {
    if !present(&["dtc", "fdtoverlay"]) {
        return;
    }
    let dir = Dir::new("dts");
    let [base, overlay, merged] =
        ["base.dtb", "overlay.dtbo", "merged.dtb"].map(|name| dir.0.join(name));
    let source = dir.0.join("base.dts");
    std::fs::write(
        &source,
        "/dts-v1/; / { chosen { bootargs = \"quiet\"; }; };",
    )
    .unwrap();
    compile(&source, &base);
    compile(&root().join("dts/host-hugepages.dtso"), &overlay);
    let said = run(
        "fdtoverlay",
        &["-i", base.to_str().unwrap(), "-o", merged.to_str().unwrap()],
        &[&overlay],
    );
    assert_eq!(said, "");
    let tree = run("dtc", &["-I", "dtb", "-O", "dts"], &[&merged]);
    assert!(
        tree.contains("bootargs = \"hugepagesz=2M hugepages=256\";"),
        "{tree}"
    );
}

/// What dt-validate says of each source, its first lines only. One call for all, because it reads its own
/// schemas for seconds.
fn complaints(sources: &[String]) -> Vec<String> {
    let dir = Dir::new("dts");
    let blobs: Vec<PathBuf> = sources
        .iter()
        .enumerate()
        .map(|(index, source)| {
            let file = dir.0.join(format!("{index}.dts"));
            let blob = dir.0.join(format!("guest-{index}.dtb"));
            std::fs::write(&file, source).unwrap();
            // What dtc says of a planted mistake is not what is asked here.
            let flags = ["-q", "-I", "dts", "-O", "dtb", "-o", blob.to_str().unwrap()];
            assert_eq!(run("dtc", &flags, &[&file]), "", "{source}");
            blob
        })
        .collect();
    let bindings = root().join("dts/bindings");
    let files: Vec<&Path> = blobs.iter().map(PathBuf::as_path).collect();
    let limits = ["-l", "gunyah-", "-s", bindings.to_str().unwrap()];
    let said = run("dt-validate", &limits, &files);
    // Lines with a tab are details of the one above them; all others must be about a blob.
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| !line.starts_with('\t'))
        .collect();
    let mut found = vec![String::new(); sources.len()];
    for line in lines {
        let index = blobs
            .iter()
            .position(|blob| line.starts_with(&format!("{}: ", blob.display())));
        let index = index.unwrap_or_else(|| panic!("dt-validate says: {line}"));
        found[index] += &format!("{line}\n");
    }
    found
}

#[test]
fn guests_keep_the_bindings_and_misspellings_do_not() {
    if !present(&["dtc", "dt-validate"]) {
        return;
    }
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let mut texts: Vec<String> = sources("dts").iter().map(|path| read(path)).collect();
    let good = texts.len();
    let minimal = read(&root().join("dts/minimal-guest.dts"));
    let proxy = read(&root().join("dts/proxy-guest.dts"));
    let planted = [
        (
            &minimal,
            "image-name",
            "image-nam",
            "'image-name' is a required property",
        ),
        (&minimal, "affinity-map", "afinity-map", "'afinity-map'"),
        (
            &minimal,
            "sched-timeslice = <2000>",
            "sched-timeslice = <20>",
            "less than the minimum",
        ),
        (
            &minimal,
            "base-address",
            "base-adress",
            "'base-address' is a required property",
        ),
        (
            &proxy,
            "affinity = \"proxy\"",
            "affinity = \"poxy\"",
            "poxy",
        ),
        (&proxy, "peer-default", "peer-defualt", "'peer-defualt'"),
        (
            &proxy,
            "\"doorbell\"",
            "\"dorbell\"",
            "'doorbell' was expected",
        ),
        (&proxy, "bell-5 {", "bel-5 {", "'bel-5'"),
        // What a vdevice is, and what it needs.
        (
            &proxy,
            "vdevice-type = \"shm\"",
            "vdevice-type = \"doorbell\"",
            "'shm' was expected",
        ),
        (
            &proxy,
            "vdevice-type = \"doorbell\"",
            "vdevice-type = \"shm\"",
            "'doorbell' was expected",
        ),
        (
            &proxy,
            "label = <5>;\n",
            "",
            "bell-5: 'label' is a required property",
        ),
        (
            &proxy,
            "base = <0x0 0xa0000000>;",
            "",
            "shm-7:memory: 'oneOf' conditional failed",
        ),
        (
            &minimal,
            "generate = \"/hypervisor\"",
            "generate = \"hypervisor\"",
            "'/hypervisor' was expected",
        ),
        (
            &proxy,
            "\"/hypervisor/bell-5\"",
            "\"bell-5\"",
            "'bell-5' does not match",
        ),
        (
            &minimal,
            "config = &gic;",
            "",
            "interrupts: 'config' is a required property",
        ),
        // Around the vm-config.
        (
            &minimal,
            "chosen {",
            "chozen {",
            "'chosen' is a required property",
        ),
        (
            &minimal,
            "enable-method",
            "enable-metod",
            "'enable-method' is a required property",
        ),
        (
            &proxy,
            "enable-method = \"psci\"",
            "enable-method = \"spin-table\"",
            "'psci' was expected",
        ),
        (
            &minimal,
            "device_type = \"cpu\"",
            "device-type = \"cpu\"",
            "'device_type' is a required property",
        ),
        (
            &minimal,
            "interrupts = <1 13 8>, <1 14 8>, <1 11 8>, <1 10 8>;",
            "",
            "timer: 'oneOf' conditional failed",
        ),
        (&proxy, "<1 13 8>, <1 14 8>, ", "", "timer:interrupts"),
        (
            &minimal,
            "\tpsci {",
            "\tpsi {",
            "'psci' is a required property",
        ),
        (&minimal, "\"hvc\"", "\"smc\"", "'hvc' was expected"),
        (
            &minimal,
            "\tinterrupt-parent = <&gic>;",
            "",
            "'interrupt-parent' is a required property",
        ),
        (
            &minimal,
            "\tpsci {",
            "\thypervisor { };\n\tpsci {",
            "hypervisor: False schema does not allow",
        ),
    ];
    for (source, from, to, _) in planted {
        assert!(source.contains(from), "{from}");
        texts.push(source.replace(from, to));
    }
    let found = complaints(&texts);
    assert_eq!(found[..good], vec![String::new(); good]);
    for ((_, from, to, expected), found) in planted.iter().zip(&found[good..]) {
        assert!(found.contains(expected), "{from} -> {to}: {found}");
    }
}
