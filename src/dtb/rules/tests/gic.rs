// SPDX-License-Identifier: Apache-2.0
//! The interrupt controller.

use super::*;

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
