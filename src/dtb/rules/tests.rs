// SPDX-License-Identifier: Apache-2.0
//! Each rule broken once, in a tree that keeps all others.

use nix::errno::Errno;

use super::super::fixture;
use super::super::{build, Node, Seeds};
use super::*;
use crate::image::elf::Load;

/// The built trees that everything here starts from: hypervisor-scheduled with two CPUs, and
/// proxy-scheduled with console and a further region.
fn built(config: &VmConfig) -> (Tree, LaunchPlan) {
    let plan = fixture::plan(config, 0x8100_0000, 0x1000);
    let built = build(config, None, &plan, &Seeds::default()).unwrap();
    assert_eq!(built.warnings, []);
    (built.tree, plan)
}

fn names(faults: &[Diagnostic]) -> Vec<&str> {
    faults.iter().map(|fault| &*fault.name).collect()
}

/// Breaks the tree of `config` and wants exactly these faults, and START's answer to the first of them.
fn broken(config: &VmConfig, wanted: &[&str], errno: Option<Errno>, breaks: impl Fn(&mut Tree)) {
    let (mut tree, plan) = built(config);
    breaks(&mut tree);
    let faults = check(&tree, config, &plan);
    let mut found = names(&faults);
    found.sort_unstable();
    let mut sorted = wanted.to_vec();
    sorted.sort_unstable();
    assert_eq!(found, sorted, "{faults:#?}");
    let answer = errno.map(|errno| errno as i32);
    for fault in &faults {
        assert!(fault.place.is_some() && fault.lasting, "{fault:#?}");
        assert!(fault.name != wanted[0] || fault.start_answers == answer, "{fault:#?}");
    }
}

/// Changes the tree of `config` and wants no fault.
fn good(config: &VmConfig, changes: impl Fn(&mut Tree)) {
    let (mut tree, plan) = built(config);
    changes(&mut tree);
    assert_eq!(check(&tree, config, &plan), []);
}

fn node<'a>(tree: &'a mut Tree, path: &str) -> &'a mut Node {
    tree.find_mut(path).unwrap()
}

const NODEV: Option<Errno> = Some(Errno::ENODEV);
const INVAL: Option<Errno> = Some(Errno::EINVAL);

#[test]
fn rules_of_firmware() {
    let config = fixture::firmware();
    let memory = "/gunyah-vm-config/memory";
    good(&config, |_| {});
    // One cell is a number, too.
    good(&config, |tree| {
        node(tree, memory).set_u32("firmware-address", 0x7fc0_0000);
    });
    broken(&config, &["dtb-firmware-address"], None, |tree| {
        node(tree, memory).set_u64("firmware-address", 0x7f80_0000);
    });
    // Each range grows into the other one.
    broken(&config, &["dtb-firmware-overlap"], None, |tree| {
        node(tree, memory).set_u64("firmware-size-max", 0x40_1000);
    });
    broken(&config, &["dtb-firmware-overlap", "dtb-firmware-address"], None, |tree| {
        node(tree, memory).set_u64("firmware-address", 0x8400_0000 - 0x1000);
    });
    broken(&config, &["dtb-property"], None, |tree| {
        node(tree, memory).set("firmware-size-max", vec![0; 3]);
    });
    // A kernel that 32 bits do not reach.
    let (tree, mut plan) = built(&config);
    plan.kernel.entry = 1 << 32;
    let faults = check(&tree, &config, &plan);
    assert_eq!(names(&faults), ["dtb-firmware-kernel"], "{faults:#?}");
}

#[test]
fn rules_of_the_whole_tree() {
    let config = fixture::config();
    broken(
        &config,
        &["dtb-no-chosen", "dtb-first-child-cells", "dtb-initrd-differs"],
        NODEV,
        |tree| {
            tree.root.remove_child("chosen");
        },
    );
    broken(&config, &["dtb-first-child-cells"], NODEV, |tree| {
        tree.root.move_first("cpus");
    });
    broken(&config, &["dtb-first-child-cells"], NODEV, |tree| {
        node(tree, "/chosen").set_u32("#address-cells", 1);
    });
    broken(&config, &["dtb-hypervisor-node"], Some(Errno::EPERM), |tree| {
        tree.root.push(Node::new("hypervisor"));
    });
    broken(&config, &["dtb-memory-node-name"], INVAL, |tree| {
        tree.root.ensure_child("memory@80000000").set_str("device_type", "memory");
    });
    broken(&config, &["dtb-memory-node-name"], INVAL, |tree| {
        node(tree, "/psci").ensure_child("memory").set_str("device_type", "memory");
    });
    broken(&config, &["dtb-gic-unusable", "dtb-memory-cells"], INVAL, |tree| {
        tree.root.set_u32("#size-cells", 1);
    });
    broken(&config, &["dtb-duplicate-phandle"], None, |tree| {
        node(tree, "/psci").set_u32("phandle", 1);
    });
    broken(&config, &["dtb-path-length"], INVAL, |tree| {
        tree.root.push(Node::new(&"n".repeat(255)));
    });
    let cpu = |length: usize| format!("cpu{}@1", "-".repeat(length - "/cpus/cpu@1".len()));
    broken(&config, &["dtb-path-length"], INVAL, |tree| {
        node(tree, "/cpus/cpu@1").name = cpu(128);
    });
    good(&config, |tree| node(tree, "/cpus/cpu@1").name = cpu(127));
    broken(&config, &["dtb-depth"], None, |tree| {
        let mut deep = Node::new("leaf");
        for level in 1..16 {
            let mut above = Node::new(&format!("level-{level}"));
            above.push(deep);
            deep = above;
        }
        tree.root.push(deep);
    });
    good(&config, |tree| {
        tree.root.push(Node::new(&"n".repeat(254)));
    });
}

#[test]
fn reservations_can_be_written_and_leave_alone_what_is_placed() {
    let config = fixture::config();
    let reserve =
        |list: &'static [(u64, u64)]| move |tree: &mut Tree| tree.reservations = list.to_vec();
    broken(&config, &["dtb-memreserve-range"], None, reserve(&[(u64::MAX, 1)]));
    broken(
        &config,
        &["dtb-memreserve-overlap"],
        None,
        reserve(&[(0x9000_0000, 0x1000), (0x8f00_0000, 0x100_0001)]),
    );
    // The devicetree at the base of memory, with its room, and the initrd.
    let taken = ["dtb-memreserve-taken"];
    broken(&config, &taken, None, reserve(&[(0x8001_ffff, 0x10)]));
    broken(&config, &taken, None, reserve(&[(0x80ff_f000, 0x1001)]));
    broken(&config, &taken, None, reserve(&[(0x8100_0fff, 1)]));
    broken(
        &config,
        &["dtb-memreserve-taken", "dtb-memreserve-taken"],
        None,
        reserve(&[(fixture::BASE, fixture::SIZE)]),
    );
    // All of these are beside.
    good(&config, reserve(&[(0x8100_1000, 0x1000), (0x8002_0000, 0x1000), (0, 0x1000)]));
}

#[test]
fn a_planned_kernel_is_no_place_for_a_reservation() {
    let config = fixture::config();
    let mut plan = fixture::plan(&config, 0x8100_0000, 0x1000);
    plan.kernel.segments.push(Load {
        file_offset: 0,
        file_size: 0x1000,
        address: 0x8200_0000,
        memory_size: 0x2000,
    });
    let (mut tree, _) = built(&config);
    tree.reservations = vec![(0x8200_1fff, 1)];
    let problems = check(&tree, &config, &plan);
    assert_eq!(
        problems[0].what,
        "/memreserve/ 0x82001fff+0x1 overlaps the kernel 0x82000000+0x2000"
    );
    assert_eq!(problems.len(), 1);
}

#[test]
fn overlapping_reservations_have_a_cure_of_their_own() {
    let config = fixture::config();
    let (mut tree, plan) = built(&config);
    let blob = tree.to_blob().unwrap();
    tree.reservations = vec![(0x9000_0000, 0x2000), (0x9000_1000, 0x1000)];
    // Nothing of ours writes such a tree, so its entries are put into a good blob by hand.
    let mut bytes = blob[..40].to_vec();
    let entries = tree.reservations.iter().chain([&(0, 0)]);
    for (base, size) in entries {
        bytes.extend(base.to_be_bytes());
        bytes.extend(size.to_be_bytes());
    }
    bytes.extend(&blob[56..]);
    for at in [4, 8, 12] {
        let mut field = [0; 4];
        field.copy_from_slice(&bytes[at..at + 4]);
        bytes[at..at + 4].copy_from_slice(&(u32::from_be_bytes(field) + 32).to_be_bytes());
    }
    let faults = build(&config, Some(&bytes), &plan, &Seeds::default()).unwrap_err();
    assert_eq!(names(&faults), ["dtb-memreserve-overlap"], "{faults:#?}");
    assert_eq!(
        faults[0].to_string(),
        "vm.json:1:1: dtb.path: /memreserve/ 0x90001000 0x1000 overlaps /memreserve/ 0x90000000 \
         0x2000; likely cause: a devicetree with overlapping reservations cannot be written; cure: \
         make one /memreserve/ of them, or shorten one [dtb-memreserve-overlap]"
    );
}

#[test]
fn rules_of_the_vm_config() {
    let config = fixture::config();
    let at = "/gunyah-vm-config";
    broken(&config, &["dtb-no-vm-config"], NODEV, |tree| {
        tree.root.remove_child("gunyah-vm-config");
    });
    broken(&config, &["dtb-two-vm-configs"], None, |tree| {
        tree.root.push(Node::new("qcom,vm-config"));
    });
    broken(&config, &["dtb-no-image-name"], INVAL, |tree| {
        node(tree, at).remove("image-name");
    });
    broken(&config, &["dtb-image-name-length"], INVAL, |tree| {
        node(tree, at).set_str("image-name", &"n".repeat(80));
    });
    broken(&config, &["dtb-no-base-address"], NODEV, |tree| {
        node(tree, "/gunyah-vm-config/memory").remove("base-address");
    });
    let moved = |base: u64| {
        move |tree: &mut Tree| {
            node(tree, "/gunyah-vm-config/memory").set_u64("base-address", base);
        }
    };
    broken(
        &config,
        &["dtb-base-address-page", "dtb-base-address-differs"],
        INVAL,
        moved(0x8000_0200),
    );
    broken(
        &config,
        &["dtb-base-address-rounded", "dtb-base-address-differs"],
        None,
        moved(0x8000_1000),
    );
    for base in [0x4000_0000, 0x2880_0000] {
        broken(&config, &["dtb-base-address-taken", "dtb-base-address-differs"], None, moved(base));
    }
    broken(&config, &["dtb-base-address-zero", "dtb-base-address-differs"], NODEV, moved(0));
    let bounded = |most: u64| {
        move |tree: &mut Tree| {
            node(tree, "/gunyah-vm-config/memory").set_u64("size-max", most);
        }
    };
    // crosvm's, and all that memory needs.
    good(&config, bounded(0x7_8000_0000));
    good(&config, bounded(fixture::SIZE));
    broken(&config, &["dtb-size-max"], None, bounded(fixture::SIZE - 0x1000));
    broken(&config, &["dtb-size-max"], INVAL, bounded(0x1000));
    broken(&config, &["dtb-size-max"], INVAL, bounded(fixture::SIZE + 1));
    broken(&config, &["dtb-vmmio-ranges"], None, |tree| {
        node(tree, at).set_u64s("vmmio-ranges", &[0, 1 << 30]);
    });
    broken(&config, &["dtb-base-address-limit", "dtb-base-address-differs"], INVAL, moved(1 << 36));
    broken(&config, &["dtb-base-address-differs"], None, moved(0x9000_0000));

    good(&config, |tree| {
        node(tree, at).set_str("image-name", &"n".repeat(79));
    });
    broken(&config, &["dtb-property"], None, |tree| {
        node(tree, at).set_u32("image-name", 1);
    });
    let (_, mut plan) = built(&config);
    plan.regions[0].size = (1 << 36) - fixture::BASE;
    assert!(build(&config, None, &plan, &Seeds::default()).is_ok());
    plan.regions[0].size += 4096;
    let faults = build(&config, None, &plan, &Seeds::default()).unwrap_err();
    assert_eq!(names(&faults), ["dtb-base-address-limit"]);
}

#[test]
fn rules_of_vcpus() {
    let config = fixture::config();
    let vcpus = "/gunyah-vm-config/vcpus";
    broken(&config, &["dtb-no-vcpus"], NODEV, |tree| {
        node(tree, "/gunyah-vm-config").remove_child("vcpus");
    });
    broken(&config, &["dtb-no-scheduling"], INVAL, |tree| {
        node(tree, vcpus).remove("affinity-map");
    });
    broken(&config, &["dtb-affinity-map-length"], INVAL, |tree| {
        node(tree, vcpus).set_cells("affinity-map", &[0, 1, 2]);
    });
    for priority in [0, 1] {
        broken(&config, &["dtb-sched-priority"], NODEV, |tree| {
            node(tree, vcpus).set_u32("sched-priority", priority);
        });
    }
    broken(&config, &["dtb-sched-timeslice"], NODEV, |tree| {
        node(tree, vcpus).remove("sched-timeslice");
    });
    for slice in [99, 100_001] {
        broken(&config, &["dtb-sched-timeslice"], NODEV, |tree| {
            node(tree, vcpus).set_u32("sched-timeslice", slice);
        });
    }
    broken(&config, &["dtb-scheduling-differs"], None, |tree| {
        node(tree, vcpus).set_str("affinity", "proxy");
    });
    broken(&config, &["dtb-affinity-map-length", "dtb-cpu-count"], INVAL, |tree| {
        node(tree, "/cpus/cpu@1").set_str("status", "fail");
    });
    broken(&fixture::proxy(), &["dtb-gic-redistributors", "dtb-cpu-count"], None, |tree| {
        node(tree, "/cpus")
            .ensure_child("cpu@1")
            .set_str("device_type", "cpu")
            .set_u32("reg", 1)
            .set_str("enable-method", "psci");
    });
}

#[test]
fn the_configs_physical_cpus_are_the_trees() {
    let mut config = fixture::config();
    config.vcpus.affinity = vec![vec![3], vec![1]];
    let (tree, _) = built(&config);
    let vcpus = tree.at("/gunyah-vm-config/vcpus").unwrap();
    assert_eq!(vcpus.cells("affinity-map"), Some(vec![3, 1]));
    broken(&config, &["dtb-affinity-differs"], None, |tree| {
        node(tree, "/gunyah-vm-config/vcpus").set_cells("affinity-map", &[0, 1]);
    });
}

#[test]
fn rules_of_cpus() {
    let config = fixture::config();
    broken(&config, &["dtb-enable-method"], INVAL, |tree| {
        node(tree, "/cpus/cpu@1").remove("enable-method");
    });
    broken(&config, &["dtb-enable-method"], INVAL, |tree| {
        node(tree, "/cpus/cpu@1").set_str("enable-method", "spin-table");
    });
    broken(&config, &["dtb-cpu-status"], INVAL, |tree| {
        node(tree, "/cpus/cpu@1").set_str("status", "ok");
    });
    broken(&config, &["dtb-no-cpus"], INVAL, |tree| {
        node(tree, "/cpus/cpu@0").set_str("status", "disabled");
        node(tree, "/cpus/cpu@1").set_str("status", "disabled");
    });
    broken(&config, &["dtb-affinity-map-length", "dtb-no-cpus", "dtb-cpu-count"], INVAL, |tree| {
        tree.root.remove_child("cpus");
    });
    broken(&config, &["dtb-idle-states"], INVAL, |tree| {
        node(tree, "/cpus/cpu@1").remove("cpu-idle-states");
    });
    for reg in [0x100, 0x8000_0001] {
        good(&config, |tree| {
            node(tree, "/cpus/cpu@1").set_u32("reg", reg);
        });
    }
    broken(&config, &["dtb-cpu-reg"], INVAL, |tree| {
        node(tree, "/cpus/cpu@1").set_u32("reg", 0);
    });
    broken(&config, &["dtb-cpu-reg"], INVAL, |tree| {
        node(tree, "/cpus/cpu@0").remove("reg");
    });
    broken(&config, &["dtb-cpus-node"], INVAL, |tree| {
        node(tree, "/cpus").set_empty("ranges");
    });
    broken(&config, &["dtb-cpus-node"], INVAL, |tree| {
        // Two cells of reg: as many as address and size take then.
        node(tree, "/cpus").set_u32("#size-cells", 1);
    });
    broken(&config, &["dtb-no-psci"], None, |tree| {
        tree.root.remove_child("psci");
    });
    // A method that all CPUs share stands in /cpus.
    good(&config, |tree| {
        node(tree, "/cpus/cpu@1").remove("enable-method");
        node(tree, "/cpus").set_str("enable-method", "psci");
    });
}

/// Sixteen CPUs as phones number them.
fn sixteen(tree: &mut Tree) {
    let cpus = node(tree, "/cpus");
    cpus.children.clear();
    for number in 0..16 {
        cpus.ensure_child(&format!("cpu@{:x}", number << 8))
            .set_str("device_type", "cpu")
            .set_u32("reg", number << 8)
            .set_str("enable-method", "psci")
            .set_empty("cpu-idle-states");
    }
    let map: Vec<u32> = (0..16).collect();
    node(tree, "/gunyah-vm-config/vcpus").set_cells("affinity-map", &map);
}

fn of_sixteen() -> VmConfig {
    let text = r#"{"name": "vm", "memory": {"size": "64M"}, "kernel": {"path": "/Image"},
        "initrd": {"path": "/initrd"}, "vcpus": {"count": 16, "scheduling": "hypervisor"}}"#;
    crate::config::parse(std::path::Path::new("vm.json"), text).unwrap()
}

#[test]
fn a_complaint_is_made_once_and_not_once_a_cpu() {
    let config = of_sixteen();
    good(&config, sixteen);
    let broken = |name: &str, errno, breaks: &dyn Fn(&mut Tree)| {
        super::tests::broken(&config, &[name], errno, |tree| {
            sixteen(tree);
            breaks(tree);
        });
    };
    let each = |breaks: &'static dyn Fn(&mut Node)| {
        move |tree: &mut Tree| node(tree, "/cpus").children.iter_mut().for_each(breaks)
    };
    broken("dtb-sched-priority", NODEV, &|tree| {
        node(tree, "/gunyah-vm-config/vcpus").set_u32("sched-priority", 0);
    });
    broken(
        "dtb-enable-method",
        INVAL,
        &each(&|cpu| {
            cpu.remove("enable-method");
        }),
    );
    broken(
        "dtb-idle-states",
        INVAL,
        &each(&|cpu| {
            cpu.remove("cpu-idle-states");
        }),
    );
    broken(
        "dtb-cpu-reg",
        INVAL,
        &each(&|cpu| {
            cpu.set_u32("reg", 7);
        }),
    );
    broken("dtb-cpu-status", INVAL, &|tree| {
        node(tree, "/cpus").children.iter_mut().skip(1).for_each(|cpu| {
            cpu.set_str("status", "ok");
        });
    });
}

/// What is in the devicetrees of trusted VMs that phones have.
#[test]
fn a_tree_of_an_authenticated_vm_is_named_and_nothing_else_of_it() {
    let config = fixture::config();
    type Mark = (&'static str, fn(&mut Tree));
    let mark: [Mark; 6] = [
        ("qcom,pasid", |tree| {
            node(tree, "/gunyah-vm-config").set_u64("qcom,pasid", 28);
        }),
        ("qcom,vmid", |tree| {
            node(tree, "/gunyah-vm-config").set_u32("qcom,vmid", 45);
        }),
        ("iomemory-ranges", |tree| {
            node(tree, "/gunyah-vm-config").set_cells("iomemory-ranges", &[0; 7]);
        }),
        ("a vdevice iomem", |tree| vdevice(tree, "iomem")),
        ("a vdevice vsmmu-v2", |tree| vdevice(tree, "vsmmu-v2")),
        ("qcom,vmid, a vdevice rm-rpc", |tree| {
            node(tree, "/gunyah-vm-config").set_u32("qcom,vmid", 45);
            vdevice(tree, "rm-rpc");
        }),
    ];
    fn vdevice(tree: &mut Tree, kind: &str) {
        let vdevices = node(tree, "/gunyah-vm-config/vdevices");
        vdevices.ensure_child("of-the-vendor").set_str("vdevice-type", kind);
    }
    for (words, mark) in mark {
        let (mut tree, plan) = built(&config);
        mark(&mut tree);
        node(&mut tree, "/gunyah-vm-config/vcpus").set_u32("sched-priority", 0);
        let faults = check(&tree, &config, &plan);
        assert_eq!(names(&faults), ["dtb-authenticated-vm"]);
        assert!(faults[0].what.ends_with(&format!("it has {words}")), "{}", faults[0]);
    }
    // As forks of crosvm have it in trees for this driver.
    good(&config, |tree| vdevice(tree, "rm-rpc"));
}

#[test]
fn a_region_at_fault_is_named_by_its_own_key() {
    let config = fixture::proxy();
    let key = |breaks: &dyn Fn(&mut Tree)| {
        let (mut tree, plan) = built(&config);
        breaks(&mut tree);
        let faults = check(&tree, &config, &plan);
        faults[0].place.clone().unwrap().key
    };
    let at = |base: u64| {
        move |tree: &mut Tree| {
            let port = tree.root.ensure_child("serial@a0000000");
            port.set_str("compatible", "ns16550a").set_u64s("reg", &[base, 0x100]);
        }
    };
    assert_eq!(key(&at(0xa000_0000)), "regions[0].base");
    assert_eq!(key(&at(0x8000_0000)), "memory.base");
    assert_eq!(
        key(&|tree| {
            let parent = tree.root.ensure_child("reserved-memory");
            parent.set_u32("#address-cells", 2).set_u32("#size-cells", 2).set_empty("ranges");
            let buffer = parent.ensure_child("buffer");
            buffer.set_u64s("reg", &[0xa000_0000, 0x1000]).set_u32("qcom,label", 7);
        }),
        "regions[0]"
    );
    // And one below 1 GiB, where QEMU's platform has devices.
    let text = r#"{"name": "vm", "memory": {"size": "64M"}, "kernel": {"path": "/Image"},
        "vcpus": {"scheduling": "proxy"},
        "regions": [{"label": 7, "base": "0x30000000", "size": "2M"}]}"#;
    let config = crate::config::parse(std::path::Path::new("vm.json"), text).unwrap();
    let plan = fixture::plan(&config, 0, 0);
    let warnings = build(&config, None, &plan, &Seeds::default()).unwrap().warnings;
    assert_eq!(names(&warnings), ["dtb-base-address-taken"]);
    assert_eq!(warnings[0].place.as_ref().unwrap().key, "regions[0].base");
}

#[test]
fn the_overlay_has_room_twice_over() {
    let config = fixture::config();
    let (mut tree, mut plan) = built(&config);
    tree.root.ensure_child("chosen").set("padding", vec![0; 40 << 10]);
    let blob = tree.to_blob().unwrap();
    let warnings =
        |plan: &LaunchPlan| build(&config, Some(&blob), plan, &Seeds::default()).unwrap().warnings;
    assert_eq!(warnings(&plan), []);
    plan.dtb.size = 0x1_4000;
    let warned = warnings(&plan);
    assert_eq!(names(&warned), ["dtb-overlay-room"]);
    assert!(warned[0].what.contains("its range has 0x14000"), "{}", warned[0]);
}

#[test]
fn rules_of_the_interrupt_controller() {
    let config = fixture::config();
    let gic = "/interrupt-controller";
    let interrupts = "/gunyah-vm-config/interrupts";
    broken(&config, &["dtb-no-gic"], NODEV, |tree| {
        node(tree, interrupts).remove("config");
        tree.root.remove("interrupt-parent");
    });
    broken(&config, &["dtb-gic-path"], INVAL, |tree| {
        node(tree, interrupts).set_str("config", "/gic");
    });
    broken(&config, &["dtb-gic-path"], INVAL, |tree| {
        node(tree, interrupts).set_str("config", "intc0");
    });
    broken(&config, &["dtb-property"], None, |tree| {
        node(tree, interrupts).set("config", vec![1, 2, 3]);
    });
    // As every tree in the field has it.
    good(&config, |tree| {
        node(tree, interrupts).set_u32("config", 1);
    });
    broken(&config, &["dtb-no-gic"], NODEV, |tree| {
        node(tree, interrupts).set_u32("config", 0x77);
        tree.root.remove("interrupt-parent");
    });
    let unusable = |errno, breaks: &dyn Fn(&mut Node)| {
        broken(&config, &["dtb-gic-unusable"], errno, |tree| breaks(node(tree, gic)));
    };
    unusable(INVAL, &|gic| {
        gic.set_str("compatible", "arm,cortex-a15-gic");
    });
    unusable(INVAL, &|gic| {
        gic.remove("interrupt-controller");
    });
    unusable(INVAL, &|gic| {
        gic.set_u32("#interrupt-cells", 2);
    });
    unusable(INVAL, &|gic| {
        gic.remove("phandle");
    });
    unusable(INVAL, &|gic| {
        gic.set_u32("#redistributor-regions", 2);
    });
    unusable(INVAL, &|gic| {
        gic.set_u64("redistributor-stride", 0x1_0000);
    });
    unusable(INVAL, &|gic| {
        gic.set_u64s("reg", &[0x3fff_0000, 0x1_0000]);
    });
    unusable(INVAL, &|gic| {
        gic.set_u64s("reg", &[0x3fff_1000, 0x1_0000, 0x3ffb_0000, 0x4_0000]);
    });
    broken(&config, &["dtb-gic-redistributors"], None, |tree| {
        node(tree, gic).set_u64s("reg", &[0x3fff_0000, 0x1_0000, 0x3ffb_0000, 0x2_0000]);
    });
    // Found by the root alone, it is passed over in silence and then missed.
    broken(&config, &["dtb-gic-unusable"], NODEV, |tree| {
        node(tree, "/gunyah-vm-config").remove_child("interrupts");
        node(tree, gic).remove("interrupt-controller");
    });
    // Without reg the resource manager fills it in; the root alone is enough.
    good(&config, |tree| {
        node(tree, gic).remove("reg");
        node(tree, "/gunyah-vm-config").remove_child("interrupts");
    });
}

#[test]
fn rules_of_vdevices() {
    let config = fixture::proxy();
    let bell = "/gunyah-vm-config/vdevices/bell-5";
    let shm = "/gunyah-vm-config/vdevices/shm-7";
    broken(&config, &["dtb-no-label", "dtb-no-doorbell"], None, |tree| {
        node(tree, bell).remove("label");
    });
    broken(&config, &["dtb-no-peer"], INVAL, |tree| {
        node(tree, bell).remove("peer-default");
    });
    broken(&config, &["dtb-no-peer"], INVAL, |tree| {
        node(tree, shm).remove("peer-default");
    });
    broken(&config, &["dtb-duplicate-label", "dtb-duplicate-interrupt"], None, |tree| {
        let mut twin = node(tree, bell).clone();
        twin.name = "bell-6".into();
        node(tree, "/gunyah-vm-config/vdevices").push(twin);
    });
    broken(&config, &["dtb-duplicate-label"], None, |tree| {
        let mut twin = node(tree, shm).clone();
        twin.name = "shm-8".into();
        node(tree, "/gunyah-vm-config/vdevices").push(twin);
    });
    broken(&config, &["dtb-shm-memory", "dtb-no-shm"], INVAL, |tree| {
        node(tree, shm).remove_child("memory");
    });
    broken(&config, &["dtb-shm-memory"], INVAL, |tree| {
        node(tree, shm).push(Node::new("more"));
    });
    let memory = "/gunyah-vm-config/vdevices/shm-7/memory";
    broken(&config, &["dtb-shm-memory"], INVAL, |tree| {
        node(tree, memory).remove("label");
    });
    broken(&config, &["dtb-shm-memory", "dtb-shm-base"], INVAL, |tree| {
        node(tree, memory).remove("base");
    });
    broken(&config, &["dtb-shm-base"], None, |tree| {
        node(tree, memory).remove("base");
        node(tree, memory).set_empty("allocate-base");
    });
    broken(&config, &["dtb-shm-memory"], INVAL, |tree| {
        node(tree, memory).set_empty("allocate-base");
    });
    broken(&config, &["dtb-shm-memory", "dtb-shm-base"], INVAL, |tree| {
        node(tree, memory).set_u64("base", 0xa000_0800);
    });
    broken(&config, &["dtb-shm-memory"], INVAL, |tree| {
        node(tree, memory).set_u32("base", 0xa000_0000);
    });
    // The first sibling's cells are what the resource manager reads it with.
    broken(&config, &["dtb-shm-memory"], INVAL, |tree| {
        node(tree, "/gunyah-vm-config/vdevices").move_first("bell-5");
        node(tree, bell).set_u32("#address-cells", 1);
    });
}

#[test]
fn rules_of_agreement() {
    let config = fixture::proxy();
    let vdevices = "/gunyah-vm-config/vdevices";
    broken(&config, &["dtb-no-shm"], None, |tree| {
        node(tree, vdevices).remove_child("shm-7");
    });
    broken(&config, &["dtb-shm-base"], None, |tree| {
        node(tree, "/gunyah-vm-config/vdevices/shm-7/memory").set_u64("base", 0xb000_0000);
    });
    broken(&config, &["dtb-no-doorbell"], None, |tree| {
        node(tree, vdevices).remove_child("bell-5");
    });
    for cells in [[0, 6, 4], [0, 5, 1]] {
        broken(&config, &["dtb-doorbell-interrupt"], None, |tree| {
            node(tree, "/gunyah-vm-config/vdevices/bell-5").set_cells("interrupts", &cells);
        });
    }
    broken(&config, &["dtb-doorbell-interrupt"], None, |tree| {
        node(tree, "/gunyah-vm-config/vdevices/bell-5").remove("interrupts");
    });
    broken(&config, &["dtb-console-differs"], None, |tree| {
        node(tree, "/serial").set_str("compatible", "ns16550a");
    });
    broken(&config, &["dtb-console-differs"], None, |tree| {
        node(tree, "/serial").set_cells("interrupts", &[0, 6, 4]);
    });
    broken(&config, &["dtb-initrd-differs"], None, |tree| {
        node(tree, "/chosen").set_u64("linux,initrd-end", 1);
    });
    broken(&config, &["dtb-device-in-memory"], None, |tree| {
        tree.root
            .ensure_child("serial@a0000000")
            .set_str("compatible", "ns16550a")
            .set_u64s("reg", &[0xa000_0000, 0x100]);
    });
}

#[test]
fn newer_drivers_take_reserved_memory_without_a_label() {
    let config = fixture::proxy();
    let found = |reg: &[u64], label: bool, reusable: bool| {
        let (mut tree, mut plan) = built(&config);
        plan.dialect = gunyah::Dialect::Ack66;
        let parent = tree.root.ensure_child("reserved-memory");
        parent.set_u32("#address-cells", 2).set_u32("#size-cells", 2).set_empty("ranges");
        let pool = parent.ensure_child("pool");
        pool.set_str("compatible", "restricted-dma-pool").set_u64s("reg", reg);
        if label {
            pool.set_u32("qcom,label", 7);
        }
        if reusable {
            pool.set_empty("reusable");
        }
        check(&tree, &config, &plan)
    };
    // The pool of a proxy-scheduled Linux: its own region, without a label.
    assert_eq!(found(&[0xa000_0000, 0x20_0000], false, false), []);
    assert_eq!(found(&[0x8100_0000, 0x1000], false, true), []);
    let shared = found(&[0x8100_0000, 0x1000], false, false);
    assert_eq!(names(&shared), ["dtb-reserved-shared"]);
    let labelled = found(&[0xa000_0000, 0x20_0000], true, false);
    assert_eq!(names(&labelled), ["dtb-reserved-memory"]);
    assert_eq!(labelled[0].start_answers, Some(Errno::ENODEV as i32));
    let two = found(&[0xa000_0000, 0x1000, 0xa000_2000, 0x1000], false, false);
    assert_eq!(names(&two), ["dtb-reserved-memory"]);
}

#[test]
fn reserved_memory_is_a_region_or_linuxs_own() {
    let config = fixture::proxy();
    let reserved = |reg: &'static [u64], label: Option<u32>| {
        move |tree: &mut Tree| {
            let parent = tree.root.ensure_child("reserved-memory");
            parent.set_u32("#address-cells", 2).set_u32("#size-cells", 2).set_empty("ranges");
            let node = parent.ensure_child("buffer");
            node.set_u64s("reg", reg);
            if let Some(label) = label {
                node.set_u32("qcom,label", label);
            }
        }
    };
    let wrong = ["dtb-reserved-memory"];
    broken(&config, &wrong, NODEV, reserved(&[0x8100_0000, 0x1000], None));
    broken(&config, &wrong, NODEV, reserved(&[0xa000_0000, 0x1000], Some(7)));
    broken(&config, &wrong, NODEV, reserved(&[0xa000_0000, 0x20_0000], Some(8)));
    broken(&config, &wrong, NODEV, reserved(&[0xa000_0000], None));
    let region = reserved(&[0xa000_0000, 0x20_0000], Some(7));
    good(&config, region);
    good(&config, |tree| {
        region(tree);
        let node = node(tree, "/reserved-memory/buffer");
        node.remove("reg");
        node.remove("qcom,label");
        node.set_u64("size", 0x10_0000);
    });
}
