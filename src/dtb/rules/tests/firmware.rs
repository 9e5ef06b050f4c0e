// SPDX-License-Identifier: Apache-2.0
//! Where firmware lies, and what it is told.

use super::*;

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
