// SPDX-License-Identifier: Apache-2.0
//! vCPUs and `/cpus`.

use super::*;
use crate::list::Listed;

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
    let map = (0..16).listed();
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
