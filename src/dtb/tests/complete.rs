// SPDX-License-Identifier: Apache-2.0
//! A given tree: what is added, under which names, and what may be there already.

use gunyah::Dialect;

use super::*;
use crate::config::Access;
use crate::plan::LaunchPlan;

const CONFIG: &str = "/gunyah-vm-config";

/// A proxy-scheduled VM's generated tree without the console's serial port, clock and doorbell.
fn without_console(config: &VmConfig) -> Tree {
    let mut tree = generated(config);
    let serial = tree.at("/serial").unwrap().name.clone();
    tree.root.remove_child(&serial);
    tree.root.remove_child("apb-pclk");
    tree.find_mut("/chosen").unwrap().remove("stdout-path");
    let vdevices = format!("{CONFIG}/vdevices");
    tree.find_mut(&vdevices).unwrap().remove_child("bell-5");
    tree
}

fn given(tree: &Tree, config: &VmConfig) -> Result<Devicetree, Vec<Diagnostic>> {
    built(config, Some(&tree.to_blob().unwrap()))
}

fn refused(tree: &Tree, config: &VmConfig, what: &str) {
    let faults = given(tree, config).unwrap_err();
    assert_eq!(names(&faults), ["dtb-console-differs"], "{what}");
}

/// A node with registers of two cells each at the root.
fn device<'a>(tree: &'a mut Tree, name: &str, model: &str, reg: &[u64]) -> &'a mut Node {
    tree.root.ensure_child(name).set_str("compatible", model).set_u64s("reg", reg)
}

#[test]
fn another_device_at_the_consoles_registers_is_named_and_nothing_is_added_over_it() {
    for config in [fixture::proxy(), fixture::ns16550()] {
        for (name, base, size) in [
            ("serial@9000000", 0x900_0000, 0x100),
            ("rtc@8fff000", 0x8ff_f000, 0x1001),
            ("rtc@9000080", 0x900_0080, 0x1000),
        ] {
            let mut tree = without_console(&config);
            device(&mut tree, name, "snps,dw-apb-uart", &[base, size]);
            refused(&tree, &config, "another device");
        }
        // Right below and right above there is room, and so there is where addresses are not ours.
        let mut tree = without_console(&config);
        device(&mut tree, "rtc@8fff000", "arm,pl031", &[0x8ff_f000, 0x1000]);
        device(&mut tree, "rtc@9001000", "arm,pl031", &[0x900_1000, 0x1000]);
        let bus = device(&mut tree, "bus@20000000", "simple-bus", &[0x2000_0000, 1]);
        bus.set_u32("#address-cells", 2).set_u32("#size-cells", 2);
        bus.set_u64s("ranges", &[0x900_0000, 0x2000_0000, 0x1000]);
        bus.ensure_child("rtc@9000000").set_u64s("reg", &[0x900_0000, 0x1000]);
        let completed = given(&tree, &config).unwrap();
        let serial = completed.tree.at("/serial@9000000").unwrap();
        assert!(serial.has("interrupts"));
    }
    // A bus that hands addresses on as they are has the guest's.
    let config = fixture::proxy();
    let mut tree = without_console(&config);
    let bus = tree.root.ensure_child("soc");
    bus.set_u32("#address-cells", 2).set_u32("#size-cells", 2);
    bus.set_empty("ranges");
    bus.ensure_child("rtc@9000000").set_u64s("reg", &[0x900_0000, 0x1000]);
    refused(&tree, &config, "another device");
}

#[test]
fn a_gic_at_the_consoles_registers_is_named() {
    let config = fixture::proxy();
    let mut tree = without_console(&config);
    tree.find_mut("/interrupt-controller")
        .unwrap()
        .set_u64s("reg", &[0x900_0000, 0x1_0000, 0x3ffd_0000, 0x2_0000]);
    refused(&tree, &config, "another device");
}

#[test]
fn what_is_added_takes_names_that_are_free() {
    let config = fixture::proxy();
    let mut tree = without_console(&config);
    device(&mut tree, "serial@9000000", "acme,uart", &[0xa00_0000, 0x100]);
    let vdevices = tree.find_mut("/gunyah-vm-config/vdevices").unwrap();
    let shm = vdevices.ensure_child("shm-7");
    shm.set_u32("label", 8);
    shm.ensure_child("memory").set_u32("label", 8);
    let bell = vdevices.ensure_child("bell-5");
    bell.set_str("vdevice-type", "doorbell")
        .set_str("generate", "/hypervisor/bell-5-2")
        .set_u32("label", 6)
        .set_empty("peer-default")
        .set_cells("interrupts", &[0, 7, 4]);
    let completed = given(&tree, &config).unwrap();
    let read = Tree::parse(&completed.blob).unwrap();
    assert!(read.at("/serial-2@9000000").unwrap().is_compatible("arm,pl011"));
    assert_eq!(read.at("/chosen").unwrap().str("stdout-path"), Some("/serial-2@9000000"));
    let shm = read.at("/gunyah-vm-config/vdevices/shm-7-2").unwrap();
    assert_eq!(shm.str("generate"), Some("/hypervisor/shm-7-2"));
    // bell-5-2 is what another one generates.
    let bell = read.at("/gunyah-vm-config/vdevices/bell-5-3").unwrap();
    assert_eq!(bell.str("generate"), Some("/hypervisor/bell-5-3"));
    assert_eq!(bell.u32("label"), Some(5));
}

#[test]
fn a_clock_of_the_tree_stays_as_it_is() {
    let config = fixture::proxy();
    let mut tree = without_console(&config);
    tree.root
        .ensure_child("apb-pclk")
        .set_str("compatible", "fixed-clock")
        .set_u32("#clock-cells", 0)
        .set_u32("clock-frequency", 48_000_000)
        .set_u32("phandle", u32::MAX - 1);
    let own = tree.at("/apb-pclk").unwrap().node.clone();
    let completed = given(&tree, &config).unwrap();
    assert_eq!(completed.tree.at("/apb-pclk").unwrap().node, &own);
    let serial = completed.tree.at("/serial").unwrap();
    assert_eq!(serial.cells("clocks"), Some(vec![u32::MAX - 1; 2]));

    // One that is no clock to be had is left alone too; ours goes beside it, with a free phandle.
    let clock = tree.find_mut("/apb-pclk").unwrap();
    clock.set_str("compatible", "acme,clock");
    let completed = given(&tree, &config).unwrap();
    let beside = completed.tree.at("/apb-pclk-2").unwrap();
    assert_eq!(beside.u32("clock-frequency"), Some(24_000_000));
    assert_eq!(beside.phandle(), Some(2), "1 is the GIC's");
    let kept = completed.tree.at("/apb-pclk").unwrap();
    assert_eq!(kept.u32("clock-frequency"), Some(48_000_000));
}

#[test]
fn a_serial_port_must_be_one_that_the_console_can_be() {
    type Change = fn(&mut Node);
    let config = fixture::ns16550();
    let changed = |change: Change| {
        let mut tree = generated(&config);
        change(tree.find_mut("/serial").unwrap());
        tree
    };
    let wrong: [Change; 9] = [
        |port| {
            port.set_u32("reg-shift", 2);
        },
        |port| {
            port.set_u32("reg-io-width", 4);
        },
        |port| {
            port.set_u32("reg-offset", 0x20);
        },
        |port| {
            port.set_empty("big-endian");
        },
        |port| {
            port.set_str("status", "disabled");
        },
        |port| {
            port.remove("interrupts");
        },
        |port| {
            port.set_cells("interrupts", &[0, 6, 4]);
        },
        |port| {
            port.set_str("compatible", "arm,pl011");
        },
        |port| {
            port.set_str("compatible", "snps,dw-apb-uart");
        },
    ];
    for (number, change) in wrong.into_iter().enumerate() {
        refused(&changed(change), &config, &number.to_string());
    }
    let fitting: [Change; 4] = [
        |port| {
            port.set_strings("compatible", &["acme,uart", "ns16550a"]);
        },
        |port| {
            port.set_u32("reg-shift", 0).set_u32("reg-io-width", 1);
        },
        |port| {
            port.set_str("status", "okay");
        },
        |port| {
            port.remove("interrupts");
            port.set_cells("interrupts-extended", &[1, 0, 5, 4]);
        },
    ];
    for (number, change) in fitting.into_iter().enumerate() {
        let completed = given(&changed(change), &config).unwrap();
        assert_eq!(completed.warnings, [], "{number}");
    }
    // A PL011's registers have no such properties.
    let config = fixture::proxy();
    let mut tree = generated(&config);
    tree.find_mut("/serial").unwrap().set_str("status", "disabled");
    refused(&tree, &config, "another device");
}

#[test]
fn two_nodes_of_one_name_are_named() {
    let config = fixture::proxy();
    let mut tree = generated(&config);
    let twin = tree.at("/serial").unwrap().node.clone();
    tree.root.push(twin);
    let faults = given(&tree, &config).unwrap_err();
    assert!(names(&faults).contains(&"dtb-duplicate-node"), "{faults:?}");
}

#[test]
fn an_initrd_that_the_config_does_not_have_is_refused() {
    let config = fixture::ns16550();
    let mut tree = generated(&config);
    assert!(config.initrd.is_some());
    let mut without = config.clone();
    without.initrd = None;
    let faults = given(&tree, &without).unwrap_err();
    assert_eq!(names(&faults), ["dtb-stray-initrd"]);
    let chosen = tree.find_mut("/chosen").unwrap();
    chosen.remove("linux,initrd-start");
    chosen.remove("linux,initrd-end");
    assert!(given(&tree, &without).is_ok());
}

/// Newer drivers hand over the devicetree alone: no vdevice gets its memory by label, and what is shared
/// above device space is reached by a reserved range without one.
#[test]
fn a_shared_region_is_a_vdevice_or_a_reserved_range_as_the_driver_wants() {
    let config = fixture::proxy();
    let built = |dialect, given: Option<&[u8]>, access| {
        let mut plan = fixture::plan(&config, 0, 0);
        (plan.dialect, plan.regions[1].access) = (dialect, access);
        build(&config, given, &plan, &Seeds::default()).unwrap().tree
    };
    let has = |tree: &Tree| {
        let reserved = tree.at("/reserved-memory/memory@a0000000");
        let range = reserved.and_then(|node| node.reg());
        (tree.at(&format!("{CONFIG}/vdevices/shm-7")).is_some(), range)
    };
    let range = Some(vec![(0xa000_0000, 2 << 20)]);
    let older = built(Dialect::Ack61, None, Access::Auto);
    assert_eq!(has(&older), (true, None));
    for dialect in [Dialect::Ack66, Dialect::Ack612] {
        let newer = built(dialect, None, Access::Auto);
        assert_eq!(has(&newer), (false, range.clone()));
        assert!(newer.at("/reserved-memory").unwrap().has("ranges"));
        assert!(!newer.at("/reserved-memory/memory@a0000000").unwrap().has("qcom,label"));
        // Nothing is added to what is there already.
        let blob = newer.to_blob().unwrap();
        assert_eq!(built(dialect, Some(&blob), Access::Share), newer);
        // A pool for DMA has its own node.
        let mut pool = newer.clone();
        let node = pool.find_mut("/reserved-memory/memory@a0000000").unwrap();
        node.remove("no-map");
        node.set_str("compatible", "restricted-dma-pool");
        let blob = pool.to_blob().unwrap();
        assert_eq!(built(dialect, Some(&blob), Access::Share), pool);
        // What is lent comes by page fault and needs nothing.
        assert_eq!(has(&built(dialect, None, Access::Lend)), (false, None));
    }
}

#[test]
fn firmware_is_placed_and_told_where_the_kernel_is() {
    let config = fixture::firmware();
    let mut plan = fixture::plan(&config, 0x8100_0000, 0x1000);
    plan.kernel.size = 0x12_3456;
    let tree = build(&config, None, &plan, &Seeds::default()).unwrap().tree;
    let memory = tree.at("/gunyah-vm-config/memory").unwrap();
    for (name, value) in
        [("firmware-address", 0x7fc0_0000), ("firmware-size-max", 4 << 20), ("size-max", 64 << 20)]
    {
        assert_eq!(memory.number(name), Some(value), "{name}");
    }
    let kernel = tree.at("/config").unwrap();
    assert_eq!(kernel.value("kernel-address").unwrap(), 0x8000_0000u32.to_be_bytes());
    assert_eq!(kernel.value("kernel-size").unwrap(), 0x12_3456u32.to_be_bytes());
    // A VM without it has none of this.
    let plain = generated(&fixture::proxy());
    let memory = plain.at("/gunyah-vm-config/memory").unwrap();
    assert!(plain.at("/config").is_none() && !memory.has("firmware-address"));
    assert!(!memory.has("size-max"));
}

#[test]
fn timers_are_left_to_a_driver_that_has_them() {
    let config = fixture::proxy();
    let mut plan = fixture::plan(&config, 0x8100_0000, 0x1000);
    let has = |plan: &LaunchPlan, given: Option<&[u8]>| {
        let tree = build(&config, given, plan, &Seeds::default()).unwrap().tree;
        tree.at("/gunyah-vm-config/vcpus").unwrap().has("no-timer-wakeups")
    };
    assert!(!has(&plan, None));
    plan.timer_wakeups = true;
    assert!(has(&plan, None));
    // What somebody wrote stays as it is.
    let given = generated(&config).to_blob().unwrap();
    assert!(!has(&plan, Some(&given)));
}
