// SPDX-License-Identifier: Apache-2.0
//! What the resource manager demands of a given devicetree and of the layout: each demand broken
//! once is named before anything is created.

use gunyahd::check::{check, Options};
use gunyahd::config::load;
use gunyahd::dtb::{build, rules, Node, Seeds, Tree};
use gunyahd::plan::{Host, LaunchPlan};

use crate::Vendor;

/// The config keys of the VM whose tree is broken here.
const PROXY: &str =
    "\"vcpus\": { \"count\": 2, \"scheduling\": \"proxy\" },\n  \"console\": {},\n  \
    \"initrd\": { \"path\": \"/vm/initrd\" },\n  \
    \"regions\": [{ \"label\": 7, \"base\": \"0xa0000000\", \"size\": \"2M\" }]";
const HYPERVISOR: &str = "\"vcpus\": { \"count\": 2, \"scheduling\": \"hypervisor\" }";

/// A VM's plan and tree, as a start for a given one.
fn planned(vendor: &Vendor, more: &str) -> (LaunchPlan, Tree) {
    let file = vendor.vm("generated", more);
    let config = load(&file).unwrap();
    let host = Host::PAGES_4K;
    let root = Some(vendor.0.clone());
    let kernel = Some(gunyah::Dialect::Ack61);
    let options = Options { paths: vec![file], dtb: false, json: false, host, kernel, root };
    let report = check(&options);
    assert_eq!(report.problems, []);
    let plan = report.vms[0].plan.clone().unwrap();
    let built = build(&config, None, &plan, &Seeds::default()).unwrap();
    (plan, built.tree)
}

fn node<'a>(tree: &'a mut Tree, path: &str) -> &'a mut Node {
    tree.find_mut(path).unwrap_or_else(|| panic!("no {path}"))
}

/// What `gunyahd check` says of a VM whose devicetree is given.
fn problems(vendor: &Vendor, tree: &Tree, more: &str) -> Vec<String> {
    vendor.file("vm/given.dtb", tree.to_blob().unwrap());
    let more = format!("{more},\n  \"dtb\": {{ \"path\": \"/vm/given.dtb\" }}");
    vendor.vm("given", &more);
    let ran = vendor.check(&["--kernel", "ack61", "etc/given.json"]);
    let problems: Vec<String> = ran.problems().iter().map(|line| (*line).to_owned()).collect();
    assert_eq!(ran.code, i32::from(!problems.is_empty()), "{}", ran.stdout);
    problems
}

/// A rule and what breaks it.
type Break = (&'static str, fn(&mut Tree));

const OF_ANY_TREE: &[Break] = &[
    ("dtb-hypervisor-node", |tree| {
        tree.root.push(Node::new("hypervisor"));
    }),
    ("dtb-memory-node-name", |tree| {
        tree.root.ensure_child("memory@80000000").set_str("device_type", "memory");
    }),
    ("dtb-image-name-length", |tree| {
        node(tree, "/gunyah-vm-config").set_str("image-name", &"n".repeat(80));
    }),
    ("dtb-base-address-page", |tree| {
        node(tree, "/gunyah-vm-config/memory").set_u64("base-address", 0x8000_0200);
    }),
    ("dtb-base-address-rounded", |tree| {
        node(tree, "/gunyah-vm-config/memory").set_u64("base-address", 0x8000_1000);
    }),
    ("dtb-base-address-zero", |tree| {
        node(tree, "/gunyah-vm-config/memory").set_u64("base-address", 0);
    }),
    ("dtb-base-address-limit", |tree| {
        node(tree, "/gunyah-vm-config/memory").set_u64("base-address", 1 << 36);
    }),
    ("dtb-base-address-differs", |tree| {
        node(tree, "/gunyah-vm-config/memory").set_u64("base-address", 0x9000_0000);
    }),
    ("dtb-enable-method", |tree| {
        node(tree, "/cpus/cpu@1").remove("enable-method");
    }),
    ("dtb-cpu-count", |tree| {
        node(tree, "/cpus").remove_child("cpu@1");
    }),
    ("dtb-memreserve-taken", |tree| {
        // All of main memory: the guest would have none.
        tree.reservations.push((0x8000_0000, 64 << 20));
    }),
];

const OF_PROXY_TREES: &[Break] = &[
    ("dtb-scheduling-differs", |tree| {
        let vcpus = node(tree, "/gunyah-vm-config/vcpus");
        vcpus.remove("affinity");
        vcpus.set_cells("affinity-map", &[0, 1]);
        vcpus.set_u32("sched-priority", u32::MAX).set_u32("sched-timeslice", 2000);
    }),
    ("dtb-shm-base", |tree| {
        node(tree, "/gunyah-vm-config/vdevices/shm-7/memory").set_u64("base", 0xb000_0000);
    }),
];

const OF_HYPERVISOR_TREES: &[Break] = &[
    ("dtb-no-scheduling", |tree| {
        node(tree, "/gunyah-vm-config/vcpus").remove("affinity-map");
    }),
    ("dtb-affinity-map-length", |tree| {
        node(tree, "/gunyah-vm-config/vcpus").set_cells("affinity-map", &[0]);
    }),
    ("dtb-idle-states", |tree| {
        node(tree, "/cpus/cpu@1").remove("cpu-idle-states");
    }),
];

/// What completing the tree mends.
const MENDED: &[Break] = &[
    ("dtb-no-chosen", |tree| {
        tree.root.remove_child("chosen");
    }),
    ("dtb-first-child-cells", |tree| tree.root.move_first("cpus")),
    ("dtb-no-vm-config", |tree| {
        tree.root.remove_child("gunyah-vm-config");
    }),
    ("dtb-no-gic", |tree| {
        node(tree, "/gunyah-vm-config/interrupts").remove("config");
        tree.root.remove("interrupt-parent");
    }),
    ("dtb-no-doorbell", |tree| {
        node(tree, "/gunyah-vm-config/vdevices").remove_child("bell-5");
    }),
    ("dtb-no-shm", |tree| {
        node(tree, "/gunyah-vm-config/vdevices").remove_child("shm-7");
    }),
    ("dtb-no-base-address", |tree| {
        node(tree, "/gunyah-vm-config/memory").remove("base-address");
    }),
];

fn each_is_named(breaks: &[&[Break]], more: &str) {
    let vendor = Vendor::new();
    let (_, good) = planned(&vendor, more);
    assert_eq!(problems(&vendor, &good, more), [] as [String; 0]);
    for (rule, breaks) in breaks.iter().copied().flatten() {
        let mut broken = good.clone();
        breaks(&mut broken);
        let problems = problems(&vendor, &broken, more);
        let named = problems.iter().any(|line| line.contains(&format!("[{rule}]")));
        assert!(named, "{rule}: {problems:#?}");
        for line in &problems {
            assert!(line.starts_with("etc/given.json:"), "{line}");
        }
    }
}

#[test]
fn of_proxy_scheduled_vms() {
    each_is_named(&[OF_ANY_TREE, OF_PROXY_TREES], PROXY);
}

#[test]
fn of_hypervisor_scheduled_vms() {
    each_is_named(&[OF_HYPERVISOR_TREES], HYPERVISOR);
}

#[test]
fn completing_mends_what_is_missing() {
    let vendor = Vendor::new();
    let (plan, good) = planned(&vendor, PROXY);
    let config = load(&vendor.vm("a", PROXY)).unwrap();
    for (rule, breaks) in MENDED {
        let mut broken = good.clone();
        breaks(&mut broken);
        let as_it_is = rules::check(&broken, &config, &plan);
        let named = as_it_is.iter().any(|fault| fault.name == *rule);
        assert!(named, "{rule}: {as_it_is:#?}");
        assert_eq!(problems(&vendor, &broken, PROXY), [""; 0], "{rule}");
    }
}

#[test]
fn of_the_layout() {
    let vendor = Vendor::new();
    for (memory, more, message) in [
        (r#""size": "64M", "base": "0x80001000""#, "", "is not a multiple of 2M"),
        (r#""size": "64M", "base": "0x0""#, "", "is too low for memory"),
        (r#""size": "1G", "base": "0xfe0000000""#, "", "beyond the 36 bits"),
        (r#""size": 67108865"#, "", "is not a multiple of 4K"),
        (r#""size": "64M", "backing": "base""#, "", "up to 16384 memory entries"),
        (r#""size": "64M""#, r#""dtb": { "offset": 2049 }"#, "0x801 is not a multiple of 4K"),
        (r#""size": "64M""#, r#""dtb": { "offset": "65532K" }"#, "goes past"),
        (r#""size": "64M""#, r#""dtb": { "offset": "1M" }"#, "overlaps"),
        (
            r#""size": "64M""#,
            r#""regions": [{ "label": 0, "base": "0xa0000000", "size": "1M" }]"#,
            "is the label of memory too",
        ),
        (
            r#""size": "64M""#,
            r#""regions": [{ "label": 1, "base": "0x80000000", "size": "1M" }]"#,
            "overlaps 0x80000000+0x4000000 of memory",
        ),
    ] {
        let more = if more.is_empty() { String::new() } else { format!(", {more}") };
        let text = format!(
            r#"{{ "name": "a", "memory": {{ {memory} }}, "kernel": {{ "path": "/vm/Image" }}{more} }}"#
        );
        vendor.file("etc/a.json", text);
        let ran = vendor.check(&["--kernel", "ack61", "etc/a.json"]);
        let problems = ran.problems();
        assert_eq!(problems.len(), 1, "{memory} {more}: {problems:#?}");
        assert!(problems[0].contains(message), "{problems:#?}");
    }
}
