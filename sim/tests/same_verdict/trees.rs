// SPDX-License-Identifier: Apache-2.0
//! The rules of the guest's devicetree.

use gunyah_sim::engine::Access;
use gunyah_sim::model::dialect::Dialect;
use gunyah_sim::model::Settings;
use gunyahd::config::VmConfig;
use gunyahd::diagnostic::Diagnostic;
use gunyahd::dtb::{build, rules, Node, Seeds, Tree, KINDS};
use gunyahd::plan::LaunchPlan;
use nix::errno::Errno;

use crate::guest::{sentences, verdict, Calls, Region, Vendor, Verdict, DIALECTS, NEWER_DIALECTS};

/// Which of the two VMs is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    /// Two CPUs run by VCPU_RUN, a console and a further region.
    Proxy,
    /// Two CPUs that the hypervisor schedules.
    Hypervisor,
}
use Of::{Hypervisor, Proxy};

const NODEV: Option<Errno> = Some(Errno::ENODEV);
const PERM: Option<Errno> = Some(Errno::EPERM);
const INVAL: Option<Errno> = Some(Errno::EINVAL);
/// START succeeds, and it is the guest that would be wrong.
const STARTS: Option<Errno> = None;

/// The rule, START's answer, the VM, what breaks the rule.
type Row = (&'static str, Option<Errno>, Of, fn(&mut Tree));

const CONFIG: &str = "/gunyah-vm-config";
const BELL: &str = "/gunyah-vm-config/vdevices/bell-5";
const SHM: &str = "/gunyah-vm-config/vdevices/shm-7";

fn node<'a>(tree: &'a mut Tree, path: &str) -> &'a mut Node {
    tree.find_mut(path).unwrap_or_else(|| panic!("no {path}"))
}

fn base(tree: &mut Tree, base: u64) {
    node(tree, "/gunyah-vm-config/memory").set_u64("base-address", base);
}

fn gic(tree: &mut Tree) -> &mut Node {
    node(tree, "/interrupt-controller")
}

fn reserved(tree: &mut Tree, reg: &[u64], label: u32) {
    tree.root
        .ensure_child("reserved-memory")
        .set_u32("#address-cells", 2)
        .set_u32("#size-cells", 2)
        .set_empty("ranges")
        .ensure_child("buffer")
        .set_u64s("reg", reg)
        .set_u32("qcom,label", label);
}

#[rustfmt::skip] // A table.
const TABLE: &[Row] = &[
    ("dtb-no-chosen", NODEV, Proxy, |tree| { tree.root.remove_child("chosen"); }),
    ("dtb-first-child-cells", NODEV, Proxy, |tree| tree.root.move_first("cpus")),
    ("dtb-first-child-cells", NODEV, Proxy, |tree| { node(tree, "/chosen").set_u32("#address-cells", 1); }),
    ("dtb-hypervisor-node", PERM, Proxy, |tree| { tree.root.push(Node::new("hypervisor")); }),
    ("dtb-memory-node-name", INVAL, Proxy, |tree| {
        tree.root.ensure_child("memory@80000000").set_str("device_type", "memory");
    }),
    ("dtb-reserved-memory", NODEV, Proxy, |tree| reserved(tree, &[0x8010_0000, 0x1000], 7)),
    ("dtb-reserved-memory", NODEV, Proxy, |tree| reserved(tree, &[0xa000_0000, 0x10_0000], 8)),
    ("dtb-path-length", INVAL, Proxy, |tree| { tree.root.push(Node::new(&"n".repeat(255))); }),
    ("dtb-path-length", INVAL, Proxy, |tree| {
        node(tree, "/cpus/cpu@1").name = format!("cpu{}@1", "-".repeat(120));
    }),

    ("dtb-no-vm-config", NODEV, Proxy, |tree| { tree.root.remove_child("gunyah-vm-config"); }),
    ("dtb-no-image-name", INVAL, Proxy, |tree| { node(tree, CONFIG).remove("image-name"); }),
    ("dtb-image-name-length", INVAL, Proxy, |tree| { node(tree, CONFIG).set_str("image-name", &"n".repeat(80)); }),
    ("dtb-no-base-address", NODEV, Proxy, |tree| { node(tree, "/gunyah-vm-config/memory").remove("base-address"); }),
    ("dtb-base-address-page", INVAL, Proxy, |tree| base(tree, 0x8000_0200)),
    ("dtb-base-address-rounded", STARTS, Proxy, |tree| base(tree, 0x8000_1000)),
    ("dtb-base-address-zero", NODEV, Proxy, |tree| base(tree, 0)),
    ("dtb-base-address-limit", INVAL, Proxy, |tree| base(tree, 1 << 36)),
    ("dtb-base-address-limit", INVAL, Proxy, |tree| base(tree, (1 << 36) - (2 << 20))),
    ("dtb-base-address-differs", STARTS, Proxy, |tree| base(tree, 0x9000_0000)),
    ("dtb-no-vcpus", NODEV, Proxy, |tree| { node(tree, CONFIG).remove_child("vcpus"); }),
    ("dtb-no-scheduling", INVAL, Proxy, |tree| { node(tree, "/gunyah-vm-config/vcpus").remove("affinity"); }),
    ("dtb-affinity-map-length", INVAL, Hypervisor, |tree| {
        node(tree, "/gunyah-vm-config/vcpus").set_cells("affinity-map", &[0]);
    }),
    ("dtb-sched-priority", NODEV, Hypervisor, |tree| {
        node(tree, "/gunyah-vm-config/vcpus").set_u32("sched-priority", 1);
    }),
    ("dtb-sched-timeslice", NODEV, Hypervisor, |tree| {
        node(tree, "/gunyah-vm-config/vcpus").set_u32("sched-timeslice", 99);
    }),
    ("dtb-scheduling-differs", STARTS, Proxy, |tree| {
        let vcpus = node(tree, "/gunyah-vm-config/vcpus");
        vcpus.remove("affinity");
        vcpus.set_cells("affinity-map", &[0, 1]).set_u32("sched-priority", u32::MAX).set_u32("sched-timeslice", 2000);
        for cpu in ["/cpus/cpu@0", "/cpus/cpu@1"] {
            node(tree, cpu).set_empty("cpu-idle-states");
        }
    }),

    ("dtb-no-cpus", INVAL, Proxy, |tree| {
        for cpu in ["/cpus/cpu@0", "/cpus/cpu@1"] {
            node(tree, cpu).set_str("status", "disabled");
        }
    }),
    ("dtb-cpu-status", INVAL, Proxy, |tree| { node(tree, "/cpus/cpu@1").set_str("status", "ok"); }),
    ("dtb-cpu-count", STARTS, Proxy, |tree| { node(tree, "/cpus").remove_child("cpu@1"); }),
    ("dtb-enable-method", INVAL, Proxy, |tree| { node(tree, "/cpus/cpu@1").remove("enable-method"); }),
    ("dtb-enable-method", INVAL, Hypervisor, |tree| {
        node(tree, "/cpus/cpu@1").set_str("enable-method", "spin-table");
    }),
    ("dtb-enable-method", INVAL, Proxy, |tree| {
        node(tree, "/cpus/cpu@1").remove("enable-method");
        node(tree, "/cpus").set_str("enable-method", "spin-table");
    }),
    ("dtb-idle-states", INVAL, Hypervisor, |tree| { node(tree, "/cpus/cpu@0").remove("cpu-idle-states"); }),
    ("dtb-no-psci", STARTS, Proxy, |tree| { tree.root.remove_child("psci"); }),

    ("dtb-no-gic", NODEV, Proxy, |tree| {
        node(tree, "/gunyah-vm-config/interrupts").remove("config");
        tree.root.remove("interrupt-parent");
    }),
    ("dtb-gic-path", INVAL, Proxy, |tree| {
        node(tree, "/gunyah-vm-config/interrupts").set_str("config", "/gic");
    }),
    ("dtb-gic-unusable", INVAL, Proxy, |tree| { gic(tree).set_str("compatible", "arm,cortex-a15-gic"); }),
    ("dtb-gic-unusable", INVAL, Proxy, |tree| { gic(tree).remove("interrupt-controller"); }),
    ("dtb-gic-unusable", INVAL, Proxy, |tree| { gic(tree).set_u32("#interrupt-cells", 2); }),
    ("dtb-gic-unusable", INVAL, Proxy, |tree| { gic(tree).remove("phandle"); }),
    ("dtb-gic-unusable", INVAL, Proxy, |tree| { gic(tree).set_u32("#redistributor-regions", 2); }),
    ("dtb-gic-unusable", INVAL, Proxy, |tree| { gic(tree).set_u64("redistributor-stride", 0x1_0000); }),
    ("dtb-gic-unusable", INVAL, Proxy, |tree| { gic(tree).set_u64s("reg", &[0x3fff_0000, 0x1_0000]); }),
    ("dtb-gic-unusable", INVAL, Proxy, |tree| {
        gic(tree).set_u64s("reg", &[0x3fff_1000, 0x1_0000, 0x3ffb_0000, 0x4_0000]);
    }),
    ("dtb-gic-unusable", NODEV, Proxy, |tree| {
        node(tree, CONFIG).remove_child("interrupts");
        gic(tree).remove("interrupt-controller");
    }),

    ("dtb-no-peer", INVAL, Proxy, |tree| { node(tree, BELL).remove("peer-default"); }),
    ("dtb-no-peer", INVAL, Proxy, |tree| { node(tree, SHM).remove("peer-default"); }),
    ("dtb-duplicate-interrupt", NODEV, Proxy, |tree| {
        let mut twin = node(tree, BELL).clone();
        twin.name = "bell-6".into();
        twin.set_u32("label", 6);
        node(tree, "/gunyah-vm-config/vdevices").push(twin);
    }),
    ("dtb-shm-memory", INVAL, Proxy, |tree| { node(tree, SHM).remove_child("memory"); }),
    ("dtb-shm-memory", INVAL, Proxy, |tree| { node(tree, SHM).ensure_child("memory").remove("label"); }),
    ("dtb-shm-memory", INVAL, Proxy, |tree| {
        node(tree, SHM).ensure_child("memory").set_u32("base", 0xa000_0000);
    }),
    ("dtb-shm-memory", INVAL, Proxy, |tree| {
        node(tree, SHM).ensure_child("memory").set_u64("base", 0xa000_0800);
    }),
    ("dtb-no-doorbell", STARTS, Proxy, |tree| { node(tree, "/gunyah-vm-config/vdevices").remove_child("bell-5"); }),
    ("dtb-no-shm", STARTS, Proxy, |tree| { node(tree, "/gunyah-vm-config/vdevices").remove_child("shm-7"); }),
    ("dtb-shm-base", STARTS, Proxy, |tree| {
        node(tree, SHM).ensure_child("memory").set_u64("base", 0xb000_0000);
    }),
];

/// What only newer resource managers refuse, or refuse otherwise.
const NEWER: &[Row] = &[
    ("dtb-size-max", INVAL, Proxy, |tree| {
        node(tree, "/gunyah-vm-config/memory").set_u64("size-max", 0x1000);
    }),
    ("dtb-cpu-reg", INVAL, Proxy, |tree| {
        node(tree, "/cpus/cpu@1").set_u32("reg", 0);
    }),
    ("dtb-cpu-reg", INVAL, Proxy, |tree| {
        node(tree, "/cpus/cpu@1").remove("reg");
    }),
    ("dtb-cpus-node", INVAL, Proxy, |tree| {
        node(tree, "/cpus").set_empty("ranges");
    }),
    ("dtb-cpus-node", INVAL, Proxy, |tree| {
        node(tree, "/cpus").set_u32("#size-cells", 1).set_u32("#address-cells", 0);
    }),
];

/// What only newer drivers, which lend the devicetree's pages alone, are refused.
const ON_DEMAND: &[Row] = &[("dtb-reserved-memory", NODEV, Proxy, |tree| {
    reserved(tree, &[0xa000_0000, 0x10_0000], 7);
})];

/// What the model's platform, QEMU's, refuses and others need not: a warning says so.
const QEMU: &[Row] = &[
    ("dtb-base-address-taken", NODEV, Proxy, |tree| base(tree, 0x2880_0000)),
    ("dtb-base-address-taken", NODEV, Proxy, |tree| base(tree, 0x4000_0000)),
];

/// What phones' trees have and every resource manager takes, without a word.
const GOOD_IN_THE_FIELD: &[fn(&mut Tree)] = &[
    |tree| {
        node(tree, "/cpus/cpu@1").set_u32("reg", 0x100);
    },
    |tree| {
        tree.root.remove("interrupt-parent");
        node(tree, "/gunyah-vm-config/interrupts").set_u32("config", 1);
    },
    // crosvm's.
    |tree| {
        node(tree, "/gunyah-vm-config/memory").set_u64("size-max", 0x7_8000_0000);
    },
];

/// A VM with a good tree, and all that is needed to break it.
struct Good {
    keys: String,
    config: VmConfig,
    plan: LaunchPlan,
    tree: Tree,
}

fn good(vendor: &Vendor, of: Of) -> Good {
    let more = match of {
        Proxy => {
            r#""vcpus": { "count": 2, "scheduling": "proxy" }, "console": {},
               "regions": [{ "label": 7, "base": "0xa0000000", "size": "1M" }]"#
        }
        Hypervisor => r#""vcpus": { "count": 2, "scheduling": "hypervisor" }"#,
    };
    let keys = format!(r#""memory": {{ "size": "4M" }}, {more}"#);
    let report = vendor.check(&keys);
    assert_eq!(report.problems, []);
    let plan = report.vms[0].plan.clone().unwrap();
    let config = report.vms[0].config.clone();
    let tree = build(&config, None, &plan, &Seeds::default()).unwrap().tree;
    Good { keys, config, plan, tree }
}

impl Good {
    /// What the model says of this VM with another tree, in every dialect up to 6.1.
    fn verdict(&self, tree: &Tree) -> Verdict {
        self.verdict_in(DIALECTS, tree)
    }

    fn verdict_in(&self, dialects: [(Dialect, Access); 2], tree: &Tree) -> Verdict {
        let mut verdicts = dialects.map(|(dialect, access)| {
            let calls = Calls {
                settings: Settings { dialect, ..Settings::default() },
                access,
                regions: self
                    .plan
                    .regions
                    .iter()
                    .map(|region| Region {
                        label: region.label,
                        base: region.base,
                        size: region.size,
                        flags: 7,
                    })
                    .collect(),
                dtb_offset: self.plan.dtb.base - self.plan.regions[0].base,
                dtb_size: self.plan.dtb.size,
                blob: tree.to_blob().unwrap_or_else(|_| long_names(tree)),
            };
            verdict(&calls, false)
        });
        verdicts.sort_by_key(|verdict| *verdict == Verdict::Runs);
        assert_eq!(verdicts[0], verdicts[1], "the dialects differ");
        verdicts[0]
    }
}

/// The specification's names are too short for a path that is too long: a writer that lets them be.
fn long_names(tree: &Tree) -> Vec<u8> {
    let mut short = tree.clone();
    let mut long = Vec::new();
    shorten(&mut short.root, &mut long);
    let mut source = short.to_source();
    for (short, long) in long {
        source = source.replace(&short, &long);
    }
    let mut dtc = std::process::Command::new("dtc")
        .args(["-f", "-q", "-I", "dts", "-O", "dtb"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("dtc of Debian's device-tree-compiler");
    std::io::Write::write_all(&mut dtc.stdin.take().unwrap(), source.as_bytes()).unwrap();
    dtc.wait_with_output().unwrap().stdout
}

fn shorten(node: &mut Node, long: &mut Vec<(String, String)>) {
    if node.name.len() > 31 {
        let short = format!("short-{}", long.len());
        long.push((short.clone(), std::mem::replace(&mut node.name, short)));
    }
    for child in &mut node.children {
        shorten(child, long);
    }
}

#[test]
fn check_names_each_rule_and_the_model_answers_as_it_says() {
    let vendor = Vendor::new();
    let all = [Proxy, Hypervisor].map(|of| (of, good(&vendor, of)));
    for (_, good) in &all {
        assert_eq!(good.verdict(&good.tree), Verdict::Runs);
    }
    for (number, (rule, errno, of, breaks)) in TABLE.iter().enumerate() {
        let row = format!("row {number}, {rule}");
        let (_, good) = all.iter().find(|(have, _)| have == of).unwrap();
        let mut broken = good.tree.clone();
        breaks(&mut broken);
        assert_ne!(broken, good.tree, "{row}: breaks nothing");

        let found = rules::check(&broken, &good.config, &good.plan);
        let fault = found
            .iter()
            .find(|fault| fault.name == *rule)
            .unwrap_or_else(|| panic!("{row}: not named in {found:#?}"));
        let answer = errno.map(|errno| errno as i32);
        assert_eq!(fault.start_answers, answer, "{row}");
        let wanted = errno.map_or(Verdict::Runs, Verdict::Start);
        assert_eq!(good.verdict(&broken), wanted, "{row}: the model");

        // The same file through the whole of `gunyahd check`: completing it mends it, or it is named.
        let blob = broken.to_blob().unwrap_or_else(|_| long_names(&broken));
        vendor.file("given.dtb", &blob);
        let keys = format!(r#"{}, "dtb": {{ "path": "/given.dtb" }}"#, good.keys);
        let report = vendor.check(&keys);
        let sentences = sentences(&report);
        let named = sentences.iter().any(|sentence| sentence.contains(&fault.what));
        match build(&good.config, Some(&blob), &good.plan, &Seeds::default()) {
            Ok(built) => {
                assert_eq!(report.problems, [], "{row}");
                assert_eq!(good.verdict(&built.tree), Verdict::Runs, "{row}: mended");
                assert_eq!(named, !fault.is_error(), "{row}: {sentences:#?}");
            }
            Err(_) => assert!(named, "{row}: {sentences:#?}"),
        }
    }
}

/// The fault of this name in a broken tree.
fn fault(good: &Good, broken: &Tree, rule: &str) -> Diagnostic {
    let found = rules::check(broken, &good.config, &good.plan);
    let named = found.iter().find(|fault| fault.name == rule).cloned();
    named.unwrap_or_else(|| panic!("{rule}: not named in {found:#?}"))
}

#[test]
fn what_newer_resource_managers_refuse_is_named_too() {
    let vendor = Vendor::new();
    let mut good = good(&vendor, Proxy);
    good.plan.dialect = gunyah::Dialect::Ack66;
    assert_eq!(good.verdict_in(NEWER_DIALECTS, &good.tree), Verdict::Runs);
    for (rule, errno, _, breaks) in NEWER.iter().chain(ON_DEMAND) {
        let mut broken = good.tree.clone();
        breaks(&mut broken);
        let answer = fault(&good, &broken, rule).start_answers;
        assert_eq!(answer, errno.map(|errno| errno as i32), "{rule}");
        let wanted = errno.map_or(Verdict::Runs, Verdict::Start);
        assert_eq!(good.verdict_in(NEWER_DIALECTS, &broken), wanted, "{rule}");
    }
    // The pool of a Linux that has lent its memory: a region without a label.
    let mut pool = good.tree.clone();
    reserved(&mut pool, &[0xa000_0000, 0x10_0000], 7);
    node(&mut pool, "/reserved-memory/buffer").remove("qcom,label");
    assert_eq!(rules::check(&pool, &good.config, &good.plan), []);
    assert_eq!(good.verdict_in(NEWER_DIALECTS, &pool), Verdict::Runs);
}

#[test]
fn what_qemus_platform_alone_refuses_is_a_warning() {
    let vendor = Vendor::new();
    let good = good(&vendor, Proxy);
    for (rule, errno, _, breaks) in QEMU {
        let mut broken = good.tree.clone();
        breaks(&mut broken);
        let fault = fault(&good, &broken, rule);
        assert!(!fault.is_error() && fault.cause.contains("QEMU's platform"), "{fault}");
        let wanted = errno.map_or(Verdict::Runs, Verdict::Start);
        assert_eq!(good.verdict(&broken), wanted, "{rule}");
    }
}

#[test]
fn what_phones_have_is_good_everywhere() {
    let vendor = Vendor::new();
    let good = good(&vendor, Proxy);
    for changes in GOOD_IN_THE_FIELD {
        let mut tree = good.tree.clone();
        changes(&mut tree);
        assert_ne!(tree, good.tree);
        assert_eq!(rules::check(&tree, &good.config, &good.plan), []);
        assert_eq!(good.verdict(&tree), Verdict::Runs);
        assert_eq!(good.verdict_in(NEWER_DIALECTS, &tree), Verdict::Runs);
    }
}

fn rows() -> impl Iterator<Item = &'static Row> {
    TABLE.iter().chain(NEWER).chain(QEMU)
}

#[test]
fn the_table_has_every_answer_of_start() {
    let kinds: Vec<_> = KINDS.iter().copied().flatten().collect();
    assert!(kinds.len() > 50, "{}", kinds.len());
    for kind in kinds.iter().filter(|kind| kind.start_answers.is_some()) {
        let tried = |(rule, errno, ..): &Row| *rule == kind.name() && *errno == kind.start_answers;
        assert!(rows().any(tried), "{} is not in the table", kind.name());
    }
    for (rule, errno, ..) in TABLE.iter().chain(NEWER) {
        let kind = kinds.iter().find(|kind| kind.name() == *rule);
        let kind = kind.unwrap_or_else(|| panic!("{rule} is not a rule"));
        assert_eq!(errno.is_some(), kind.start_answers.is_some(), "{rule}");
    }
}

/// A comment above a rule says where it is from.
#[test]
fn the_table_has_every_rule_that_was_seen() {
    let rules = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../src/dtb/rules");
    let mut seen = 0;
    for file in std::fs::read_dir(rules).unwrap() {
        let file = file.unwrap().path();
        // Beside them is the folder of their tests.
        if file.is_dir() {
            continue;
        }
        let text = std::fs::read_to_string(file).unwrap();
        let after = text.split("    // Seen").skip(1);
        for name in after.map(|rule| rule.split('"').nth(1).unwrap()) {
            assert!(rows().any(|(rule, ..)| *rule == name), "{name}");
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
}
