// SPDX-License-Identifier: Apache-2.0
//! The whole tree, what it must agree with, and authenticated VMs.

use super::*;

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
