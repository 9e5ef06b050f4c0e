// SPDX-License-Identifier: Apache-2.0
//! The node of the VM's config.

use super::*;

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
