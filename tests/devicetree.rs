// SPDX-License-Identifier: Apache-2.0
//! Devicetrees against `dtc`, an independent reader and writer of the same format, and the examples
//! in `dts/`. Needs Debian's `device-tree-compiler`.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use gunyahd::config::Scheduling;
use gunyahd::config::{parse, VmConfig};
use gunyahd::diagnostic::Diagnostic;
use gunyahd::dtb::{build, len_max, rules, Devicetree, Seeds, Tree};
use gunyahd::image::{arm64, ImageInfo, KernelInfo, KernelLayout};
use gunyahd::plan::{plan, Host, LaunchPlan};

/// Runs `dtc`, which warns on stderr. Returns its output and the warnings.
fn dtc(arguments: &[&str], input: &[u8]) -> (Vec<u8>, String) {
    let mut dtc = Command::new("dtc")
        .args(arguments)
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("dtc of Debian's device-tree-compiler");
    let mut stdin = dtc.stdin.take().unwrap();
    stdin.write_all(input).unwrap();
    drop(stdin);
    let done = dtc.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "dtc failed: {told}");
    (done.stdout, told)
}

/// `dtc` wants labels to be strings; the resource manager wants numbers.
const NUMBERED_LABELS: [&str; 2] = ["-W", "no-label_is_string"];

fn compile(source: &str) -> (Vec<u8>, String) {
    let mut arguments = NUMBERED_LABELS.to_vec();
    arguments.extend(["-I", "dts", "-O", "dtb"]);
    dtc(&arguments, source.as_bytes())
}

fn decompile(blob: &[u8]) -> (String, String) {
    let mut arguments = NUMBERED_LABELS.to_vec();
    arguments.extend(["-I", "dtb", "-O", "dts"]);
    let (source, told) = dtc(&arguments, blob);
    (String::from_utf8(source).unwrap(), told)
}

/// `dtc` sets the boot CPU from the first CPU's reg; source has no word for it.
fn without_boot_cpu(mut tree: Tree) -> Tree {
    tree.boot_cpu = 0;
    tree
}

fn dts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dts")
}

fn config(text: &str) -> VmConfig {
    parse(Path::new("vm.json"), text).unwrap()
}

fn json(rest: &str) -> VmConfig {
    config(&format!(
        r#"{{"name": "vm", "memory": {{"size": "256M"}}, "kernel": {{"path": "/Image"}} {rest}}}"#
    ))
}

/// Configs whose generated trees differ in every part.
fn configs() -> Vec<VmConfig> {
    [
        "",
        r#", "initrd": {"path": "/initrd"}, "vcpus": {"count": 8, "scheduling": "hypervisor"}"#,
        r#", "vcpus": {"count": 2, "scheduling": "hypervisor", "affinity": [[3], [1]]}, "regions": [
             {"label": 7, "base": "0xa0000000", "size": "2M"},
             {"label": 8, "base": "0xb0000000", "size": "4K"}]"#,
        r#", "vcpus": {"count": 1, "scheduling": "proxy"}"#,
        r#", "vcpus": {"count": 4, "scheduling": "proxy"}, "console": {}"#,
        r#", "vcpus": {"count": 4, "scheduling": "proxy"}, "console": {"device": "16550",
             "base": "0x0a000000", "label": 9, "interrupt": 33}, "initrd": {"path": "/initrd"},
             "regions": [{"label": 7, "base": "0xa0000000", "size": "2M"}]"#,
    ]
    .map(json)
    .to_vec()
}

/// The one warning that no tree can be without: `/memory` has `reg`, and the resource manager forbids
/// it a unit address.
fn only_the_memory_warning(told: &str) -> bool {
    told.lines().all(|line| {
        line.contains("unit_address_vs_reg") && line.contains("/memory: node has a reg")
    })
}

/// A plan with a small kernel.
fn planned(config: &VmConfig, given: Option<&[u8]>) -> LaunchPlan {
    let header = arm64::Header { text_offset: 0, image_size: 4096 };
    let images = ImageInfo {
        kernel: KernelInfo {
            gzip: false,
            size: 4096,
            signed: false,
            layout: KernelLayout::Image(header),
        },
        initrd: config.initrd.as_ref().map(|_| 4096),
        regions: config.regions.iter().map(|_| None).collect(),
    };
    let len_max = len_max(config, given);
    plan(config, &images, len_max, &Host::PAGES_4K).unwrap()
}

fn built(config: &VmConfig, given: Option<&[u8]>) -> Result<Devicetree, Vec<Diagnostic>> {
    let plan = planned(config, given);
    build(config, given, &plan, &Seeds::default())
}

fn generated(config: &VmConfig) -> Devicetree {
    let built = built(config, None).unwrap();
    assert_eq!(built.warnings, []);
    built
}

#[test]
fn dtc_takes_every_generated_tree_without_a_warning() {
    for config in configs() {
        let Devicetree { tree, blob, .. } = generated(&config);
        let (source, told) = decompile(&blob);
        assert!(only_the_memory_warning(&told), "{told}\n{source}");
        // And what dtc reads in it is what we wrote.
        let (again, _) = compile(&source);
        assert_eq!(without_boot_cpu(Tree::parse(&again).unwrap()), tree);
    }
}

#[test]
fn our_source_compiles_to_the_same_tree() {
    for config in configs() {
        let mut tree = generated(&config).tree;
        tree.reservations = vec![(0x8000_0000, 0x1000), (u64::MAX - 0xfff, 0xfff)];
        // Source has numbers where dtc would like references, and it says so.
        let (blob, _) = compile(&tree.to_source());
        assert_eq!(without_boot_cpu(Tree::parse(&blob).unwrap()), tree);
    }
}

fn example(file: &str) -> String {
    std::fs::read_to_string(dts().join(file)).unwrap()
}

/// Everything in which a source is not a good example for the config.
fn faults(source: &str, config: &VmConfig) -> Vec<String> {
    let (blob, told) = compile(source);
    let mut faults: Vec<String> = told.lines().map(str::to_owned).collect();
    let completed = match built(config, Some(&blob)) {
        Ok(built) => built,
        Err(problems) => {
            faults.extend(problems.iter().map(ToString::to_string));
            return faults;
        }
    };
    faults.extend(completed.warnings.iter().map(ToString::to_string));
    let given = Tree::parse(&blob).unwrap();
    // What has to be completed is no example either. The exceptions are what only gunyahd knows.
    let plan = planned(config, Some(&blob));
    faults.extend(
        rules::check(&given, config, &plan)
            .iter()
            .filter(|fault| !["dtb-memory-cells", "dtb-initrd-differs"].contains(&&*fault.name))
            .map(ToString::to_string),
    );
    if given.root.children.first().map(|node| node.name.as_str()) != Some("chosen") {
        faults.push("chosen is not the first node".to_owned());
    }
    let mut differ = |what: &str, tree: String, config: String| {
        if tree != config {
            faults.push(format!("{what}: {tree} in the tree, {config} in the config"));
        }
    };
    let text = |value: &dyn std::fmt::Debug| format!("{value:?}");
    let tree = &completed.tree;
    let vm_config = tree.at("/gunyah-vm-config").unwrap();
    differ("image-name", text(&vm_config.str("image-name")), text(&Some(config.name.as_str())));
    let proxy = vm_config.child("vcpus").unwrap().str("affinity") == Some("proxy");
    differ(
        "proxy scheduling",
        text(&proxy),
        text(&(config.vcpus.scheduling != Some(Scheduling::Hypervisor))),
    );
    let vdevices = |kind: &str| {
        let mut found = tree.walk();
        found.retain(|at| at.lists("vdevice-type", kind));
        found
    };
    let regions: Vec<_> = config.regions.iter().map(|it| Some(it.label)).collect();
    let shm: Vec<_> = vdevices("shm").iter().map(|shm| shm.u32("label")).collect();
    differ("regions", text(&shm), text(&regions));
    // shm and its memory are found by either label.
    let memory: Vec<_> =
        vdevices("shm").iter().map(|shm| shm.child("memory")?.u32("label")).collect();
    differ("label of memory", text(&memory), text(&shm));
    let consoles: Vec<_> = config.console.iter().map(|it| Some(it.label)).collect();
    let bells: Vec<_> = vdevices("doorbell").iter().map(|bell| bell.u32("label")).collect();
    differ("doorbells", text(&bells), text(&consoles));
    if let Some(console) = &config.console {
        let mut ports = tree.walk();
        ports.retain(|at| at.is_compatible("arm,pl011") || at.is_compatible("ns16550a"));
        let ports: Vec<_> = ports.iter().filter_map(|at| Some(at.reg()?[0].0)).collect();
        differ("consoles", text(&ports), text(&[console.base]));
    }
    faults
}

/// Both examples with their configs' texts; the minimal one has no file of its own.
fn examples() -> [(&'static str, String, String); 2] {
    let minimal = r#"{"name": "minimal", "memory": {"size": "256M"}, "kernel": {"path": "/Image"}, "vcpus": {"scheduling": "hypervisor"}}"#;
    [
        ("minimal", example("minimal-guest.dts"), minimal.to_owned()),
        ("proxy", example("proxy-guest.dts"), example("proxy-guest.json")),
    ]
}

#[test]
fn examples_compile_without_a_warning_and_keep_every_rule() {
    for (name, source, text) in examples() {
        assert_eq!(faults(&source, &config(&text)), [""; 0], "{name}");
    }
}

/// Example, from, to, and what must be said. The text is the source's, or the config's if it is there.
const PLANTED: [(&str, &str, &str, &str); 18] = [
    ("proxy", "\"label\": 7", "\"label\": 8", "regions: [Some(7), Some(8)]"),
    ("proxy", "\"label\": 5", "\"label\": 6", "another doorbell has"),
    ("proxy", "\"interrupt\": 5", "\"interrupt\": 6", "another interrupt than the console"),
    ("proxy", "0xa0000000\"", "0xa0200000\"", "the region 0xa0200000"),
    ("proxy", "\"base\": \"0x80000000\"", "\"base\": \"0x90000000\"", "base-address"),
    (
        "proxy",
        "\"base\": \"0x09000000\"",
        "\"base\": \"0x0a000000\"",
        "consoles: [150994944, 167772160] in the tree",
    ),
    ("proxy", "\"count\": 2", "\"count\": 3", "the devicetree has 2 CPUs"),
    ("proxy", "\"name\": \"proxy\"", "\"name\": \"prox\"", "image-name"),
    (
        "proxy",
        "shm-7\";\n\t\t\t\tlabel = <7>",
        "shm-7\";\n\t\t\t\tlabel = <8>",
        "regions: [Some(8), Some(7)]",
    ),
    ("proxy", "label = <7>;\n\t\t\t\t\tbase", "label = <8>;\n\t\t\t\t\tbase", "label of memory"),
    (
        "proxy",
        "vdevice-type = \"shm\"",
        "vdevice-type = \"doorbell\"",
        "no shm vdevice has the label 7",
    ),
    ("proxy", "label = <5>", "label = <6>", "another doorbell has"),
    ("proxy", "reg = <1>", "reg = <0>", "that of another CPU: /cpus/cpu@1"),
    ("proxy", "affinity = \"proxy\"", "affinity-map = <0 1>", "those of this launch by proxy"),
    ("minimal", "image-name = \"minimal\"", "image-name = \"minmal\"", "image-name"),
    (
        "minimal",
        "base-address = <0x0 0x80000000>",
        "base-address = <0x0 0x90000000>",
        "base-address",
    ),
    ("minimal", "\tchosen {\n\t\tstdout-path = &uart;\n\t};", "", "chosen is not the first node"),
    ("minimal", "device_type = \"cpu\"", "device-type = \"cpu\"", "0 CPUs"),
];

#[test]
fn an_example_that_disagrees_with_its_config_is_named() {
    for (example, from, to, expected) in PLANTED {
        let (_, source, text) = examples().into_iter().find(|(name, ..)| *name == example).unwrap();
        assert!(source.contains(from) != text.contains(from), "{from:?}");
        let found = faults(&source.replacen(from, to, 1), &config(&text.replacen(from, to, 1)));
        assert!(
            found.iter().any(|fault| fault.contains(expected)),
            "{from:?} -> {to:?}: {found:#?}"
        );
    }
}

#[test]
fn symbol_tables_are_dropped() {
    let source = std::fs::read_to_string(dts().join("minimal-guest.dts")).unwrap();
    let (blob, _) = dtc(&["-@", "-q", "-I", "dts", "-O", "dtb"], source.as_bytes());
    assert!(Tree::parse(&blob).unwrap().at("/__symbols__").is_some());
    let config = json(r#", "vcpus": {"scheduling": "hypervisor"}"#);
    let completed = built(&config, Some(&blob)).unwrap();
    assert_eq!(completed.warnings[0].name, "dtb-symbols-dropped");
    assert_eq!(completed.warnings.len(), 1);
    assert!(completed.tree.at("/__symbols__").is_none());
}

/// Compiled with what `dtc` can do to a blob: version 17 with padding, reservations, NOPs.
#[test]
fn blobs_of_dtc_are_read_whatever_their_padding() {
    let source = std::fs::read_to_string(dts().join("minimal-guest.dts")).unwrap();
    let plain = Tree::parse(&compile(&source).0).unwrap();
    for extra in [["-p", "4096"], ["-S", "65536"], ["-a", "4096"], ["-R", "4"]] {
        let mut arguments = extra.to_vec();
        arguments.extend(["-q", "-I", "dts", "-O", "dtb"]);
        let (blob, _) = dtc(&arguments, source.as_bytes());
        assert_eq!(Tree::parse(&blob).unwrap(), plain, "{extra:?}");
    }
    let (old, _) = dtc(&["-V", "16", "-q", "-I", "dts", "-O", "dtb"], source.as_bytes());
    assert!(Tree::parse(&old).is_err(), "version 16 is not read");
}

#[test]
fn a_board_tree_becomes_a_guests() {
    // Neither vm-config nor a first /chosen, one size cell, and a /memory of its own.
    let (blob, _) = compile(
        r#"/dts-v1/;
/memreserve/ 0x8f000000 0x1000;
/ {
	#address-cells = <2>;
	#size-cells = <1>;
	interrupt-parent = <&gic>;
	cpus { #address-cells = <1>; #size-cells = <0>;
		cpu@0 { device_type = "cpu"; compatible = "arm,armv8"; reg = <0>; };
	};
	psci { compatible = "arm,psci-1.0", "arm,psci-0.2"; method = "hvc"; };
	memory { device_type = "memory"; reg = <0 0x80000000 0x1000000>; };
	gic: interrupt-controller { compatible = "arm,gic-v3"; interrupt-controller;
		#interrupt-cells = <3>; #address-cells = <0>; };
	chosen { bootargs = "given"; };
};
"#,
    );
    let config = json(r#", "vcpus": {"scheduling": "proxy"}, "console": {"device": "16550"}"#);
    let completed = built(&config, Some(&blob)).unwrap();
    assert_eq!(completed.warnings[0].name, "dtb-memory-replaced");
    assert_eq!(completed.warnings.len(), 1);
    let tree = &completed.tree;
    assert_eq!(tree.root.children[0].name, "chosen");
    assert_eq!(tree.reservations, [(0x8f00_0000, 0x1000)]);
    let at = |path: &str| tree.at(path).unwrap_or_else(|| panic!("no {path}"));
    assert_eq!(at("/chosen").str("bootargs"), Some("given"));
    assert_eq!(at("/memory").reg(), Some(vec![(0x8000_0000, 256 << 20)]));
    let vm_config = at("/gunyah-vm-config");
    assert_eq!(vm_config.str("image-name"), Some("vm"));
    assert_eq!(at("/gunyah-vm-config/memory").number("base-address"), Some(0x8000_0000));
    assert_eq!(at("/serial").reg(), Some(vec![(0x0900_0000, 0x100)]));
    assert_eq!(at("/gunyah-vm-config/interrupts").str("config"), Some("/interrupt-controller"));
}
