// SPDX-License-Identifier: Apache-2.0
//! Virtual devices.

use super::*;

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
