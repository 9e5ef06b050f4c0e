// SPDX-License-Identifier: Apache-2.0
//! The power key: one in the tree is taken as it is, and nothing else has its interrupt.

use super::*;

/// A proxy-scheduled VM without devices, so its key has label and SPI 6.
fn config() -> VmConfig {
    fixture::with_power_key()
}

#[test]
fn a_generated_tree_has_it() {
    let (tree, _) = built(&config());
    let key = tree.at("/gpio-keys/power-key").unwrap();
    assert_eq!(key.u32("linux,code"), Some(116));
    assert_eq!(key.cells("interrupts"), Some(vec![0, 6, 1]));
    let bell = tree.at("/gunyah-vm-config/vdevices/bell-6").unwrap();
    assert_eq!(bell.cells("interrupts"), Some(vec![0, 6, 1]));
}

#[test]
fn the_trees_own_keys_stay() {
    let config = config();
    let given = |changes: fn(&mut Node)| {
        let (mut tree, plan) = built(&config);
        changes(node(&mut tree, "/gpio-keys"));
        let blob = tree.to_blob().unwrap();
        let built = build(&config, Some(&blob), &plan, &Seeds::default()).unwrap();
        (tree, built.tree)
    };
    // Ours under another name, beside another key.
    let (given_tree, completed) = given(|keys| {
        keys.name = "buttons".to_owned();
        keys.ensure_child("key-up").set_u32("linux,code", 103).set_cells("interrupts", &[0, 90, 1]);
    });
    assert_eq!(completed, given_tree);
    // A power key of its own, by a GPIO.
    let (_, completed) = given(|keys| {
        let key = keys.ensure_child("power-key");
        key.remove("interrupts");
        key.set_cells("gpios", &[1, 3, 0]);
    });
    assert!(completed.at("/gpio-keys/power-key").unwrap().has("gpios"));
    assert!(completed.at("/gpio-keys-2/power-key").unwrap().has("interrupts"));
}

#[test]
fn its_doorbell_and_its_interrupt_are_its_own() {
    let bell = "/gunyah-vm-config/vdevices/bell-6";
    // A level that nobody lowers, another interrupt.
    for interrupt in [[0, 6, 4], [0, 7, 1]] {
        broken(&config(), &["dtb-device-doorbell"], None, |tree| {
            node(tree, bell).set_cells("interrupts", &interrupt);
        });
    }
    broken(&config(), &["dtb-device-interrupt"], None, |tree| {
        tree.root.ensure_child("rtc").set_cells("interrupts", &[0, 6, 4]);
    });
    // The same key with a level is another device.
    broken(&config(), &["dtb-device-interrupt"], None, |tree| {
        node(tree, "/gpio-keys/power-key").set_cells("interrupts", &[0, 6, 4]);
    });
}
