// SPDX-License-Identifier: Apache-2.0
//! The devicetree sources: compiled without warnings, applied, and checked against the bindings.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::dir::Dir;
use crate::tools::{files, present, root};

/// Runs a program; what it prints to stdout and stderr.
fn said(program: &str, arguments: &[&str], files: &[&Path]) -> String {
    let output = Command::new(program).args(arguments).args(files).output().unwrap();
    // dt-validate exits with 0 whatever it finds, so only the text counts.
    String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
}

/// Compiles a source as dts/README.md does, which must give no warning.
fn compile(source: &Path, blob: &Path) {
    let flags = ["-W", "no-label_is_string", "-I", "dts", "-O", "dtb", "-o"];
    let flags: Vec<&str> = flags.into_iter().chain(blob.to_str()).collect();
    assert_eq!(said("dtc", &flags, &[source]), "", "{}", source.display());
}

#[test]
fn sources_compile_without_warnings_and_the_overlay_applies() {
    if !present(&["dtc", "fdtoverlay"]) {
        return;
    }
    let dir = Dir::new("dts");
    let dts = root().join("dts");
    for source in files(&dts, "dts") {
        compile(&source, &dir.0.join("blob"));
    }
    let [base, overlay, merged] =
        ["base.dtb", "overlay.dtbo", "merged.dtb"].map(|name| dir.0.join(name));
    let source = dir.0.join("base.dts");
    std::fs::write(&source, "/dts-v1/; / { chosen { bootargs = \"quiet\"; }; };").unwrap();
    compile(&source, &base);
    compile(&dts.join("host-hugepages.dtso"), &overlay);
    let arguments = ["-i", base.to_str().unwrap(), "-o", merged.to_str().unwrap()];
    assert_eq!(said("fdtoverlay", &arguments, &[&overlay]), "");
    let tree = said("dtc", &["-I", "dtb", "-O", "dts"], &[&merged]);
    assert!(tree.contains("bootargs = \"hugepagesz=2M hugepages=128\";"), "{tree}");
}

/// What dt-validate finds in each source. One call for all, because reading its own schemas takes it seconds.
fn findings(sources: &[String]) -> Vec<String> {
    let dir = Dir::new("dts");
    let blobs: Vec<PathBuf> =
        (0..sources.len()).map(|index| dir.0.join(format!("{index}.dtb"))).collect();
    for (source, blob) in sources.iter().zip(&blobs) {
        let file = blob.with_extension("dts");
        std::fs::write(&file, source).unwrap();
        let flags = ["-q", "-I", "dts", "-O", "dtb", "-o", blob.to_str().unwrap()];
        assert_eq!(said("dtc", &flags, &[&file]), "", "{source}");
    }
    let bindings = root().join("dts/bindings");
    let files: Vec<&Path> = blobs.iter().map(PathBuf::as_path).collect();
    let text = said("dt-validate", &["-l", "gunyah-", "-s", bindings.to_str().unwrap()], &files);
    let mut found = vec![String::new(); sources.len()];
    // Lines with a tab are details of the one above them; all others begin with a blob's path.
    for line in text.lines().filter(|line| !line.starts_with('\t')) {
        let index =
            blobs.iter().position(|blob| line.starts_with(&format!("{}: ", blob.display())));
        found[index.unwrap_or_else(|| panic!("dt-validate: {line}"))] += &format!("{line}\n");
    }
    found
}

/// Which guest's source, a word in it, what it becomes, and what the bindings must find.
const MISTAKES: [&str; 14] = [
    "minimal | image-name | image-nam | 'image-name' is a required property",
    "minimal | affinity-map | afinity-map | finity-map'",
    "minimal | sched-timeslice = <2000> | sched-timeslice = <20> | less than the minimum",
    "minimal | base-address | base-adress | 'base-address' is a required property",
    "minimal | generate = \"/hypervisor\" | generate = \"hypervisor\" | '/hypervisor' was expected",
    "minimal | config = &gic; |  | interrupts: 'config' is a required property",
    "minimal | chosen { | chozen { | 'chosen' is a required property",
    "minimal | \tpsci { | \tpsi { | 'psci' is a required property",
    "minimal | \tpsci { | \thypervisor { };\n\tpsci { | hypervisor: False schema does not allow",
    "proxy | affinity = \"proxy\" | affinity = \"poxy\" | poxy",
    "proxy | \"doorbell\" | \"dorbell\" | 'doorbell' was expected",
    "proxy | label = <5>;\n |  | bell-5: 'label' is a required property",
    "proxy | base = <0x0 0xa0000000>; |  | shm-7:memory: 'oneOf' conditional failed",
    "proxy | <1 13 8>, <1 14 8>,  |  | timer:interrupts",
];

#[test]
fn guests_fit_the_bindings_and_misspellings_do_not() {
    if !present(&["dtc", "dt-validate"]) {
        return;
    }
    let guest = |name: &str| crate::tools::read(&format!("dts/{name}-guest.dts"));
    let mut sources = vec![guest("minimal"), guest("proxy")];
    assert_eq!(files(&root().join("dts"), "dts").len(), sources.len());
    let mistakes = MISTAKES.map(|line| {
        let words: Vec<&str> = line.split(" | ").collect();
        <[&str; 4]>::try_from(words).unwrap()
    });
    for [name, from, to, _] in mistakes {
        let good = guest(name);
        assert!(good.contains(from), "{name}: {from}");
        sources.push(good.replace(from, to));
    }
    let found = findings(&sources);
    assert_eq!(found[..2], ["", ""]);
    for ([_, from, to, expected], found) in mistakes.iter().zip(&found[2..]) {
        assert!(found.contains(expected), "{from} -> {to}: {found}");
    }
}
