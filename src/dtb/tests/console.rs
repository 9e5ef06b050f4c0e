// SPDX-License-Identifier: Apache-2.0
//! The console in a given tree: what is added, under which names, and what may be there already.

use super::super::fixture;
use super::super::{Draft, DtbFacts, DtbProblem, Node, Position, Seeds, Tree};
use crate::config::VmConfig;

const CONFIG: &str = "/gunyah-vm-config";

/// A proxy-scheduled VM's generated tree without the console's serial port, clock and doorbell.
fn without_console(config: &VmConfig) -> Tree {
    let mut tree = Draft::generated(config).unwrap().tree().clone();
    let serial = tree.at("/serial").unwrap().name.clone();
    tree.root.remove_child(&serial);
    tree.root.remove_child("apb-pclk");
    tree.find_mut("/chosen").unwrap().remove("stdout-path");
    let vdevices = format!("{CONFIG}/vdevices");
    tree.find_mut(&vdevices).unwrap().remove_child("bell-5");
    tree
}

fn given(tree: &Tree, config: &VmConfig) -> Result<Draft, Vec<DtbProblem>> {
    Draft::given(&tree.to_blob().unwrap(), config)
}

fn rules(given: Result<Draft, Vec<DtbProblem>>) -> Vec<&'static str> {
    given.unwrap_err().iter().map(DtbProblem::rule).collect()
}

/// A node with registers of two cells each at the root.
fn device<'a>(tree: &'a mut Tree, name: &str, model: &str, reg: &[u64]) -> &'a mut Node {
    tree.root
        .ensure_child(name, Position::Last)
        .set_str("compatible", model)
        .set_u64s("reg", reg)
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
            assert_eq!(rules(given(&tree, &config)), ["console-differs"], "{name}");
        }
        // Right below and right above there is room, and so there is where addresses are not ours.
        let mut tree = without_console(&config);
        device(&mut tree, "rtc@8fff000", "arm,pl031", &[0x8ff_f000, 0x1000]);
        device(&mut tree, "rtc@9001000", "arm,pl031", &[0x900_1000, 0x1000]);
        let bus = device(&mut tree, "bus@20000000", "simple-bus", &[0x2000_0000, 1]);
        bus.set_u32("#address-cells", 2).set_u32("#size-cells", 2);
        bus.set_u64s("ranges", &[0x900_0000, 0x2000_0000, 0x1000]);
        bus.ensure_child("rtc@9000000", Position::Last)
            .set_u64s("reg", &[0x900_0000, 0x1000]);
        let draft = given(&tree, &config).unwrap();
        let serial = draft.tree().at("/serial@9000000").unwrap();
        assert!(serial.has("interrupts"));
    }
    // A bus that hands addresses on as they are has the guest's.
    let config = fixture::proxy();
    let mut tree = without_console(&config);
    let bus = tree.root.ensure_child("soc", Position::Last);
    bus.set_u32("#address-cells", 2).set_u32("#size-cells", 2);
    bus.set_empty("ranges");
    bus.ensure_child("rtc@9000000", Position::Last)
        .set_u64s("reg", &[0x900_0000, 0x1000]);
    assert_eq!(rules(given(&tree, &config)), ["console-differs"]);
}

#[test]
fn a_gic_at_the_consoles_registers_is_named() {
    let config = fixture::proxy();
    let mut tree = without_console(&config);
    tree.find_mut("/interrupt-controller")
        .unwrap()
        .set_u64s("reg", &[0x900_0000, 0x1_0000, 0x3ffd_0000, 0x2_0000]);
    assert_eq!(rules(given(&tree, &config)), ["console-differs"]);
}

#[test]
fn what_is_added_takes_names_that_are_free() {
    let config = fixture::proxy();
    let mut tree = without_console(&config);
    device(
        &mut tree,
        "serial@9000000",
        "acme,uart",
        &[0xa00_0000, 0x100],
    );
    let vdevices = tree.find_mut("/gunyah-vm-config/vdevices").unwrap();
    let shm = vdevices.child_mut("shm-7").unwrap();
    shm.set_u32("label", 8);
    shm.child_mut("memory").unwrap().set_u32("label", 8);
    let bell = vdevices.ensure_child("bell-5", Position::Last);
    bell.set_str("vdevice-type", "doorbell")
        .set_str("generate", "/hypervisor/bell-5-2")
        .set_u32("label", 6)
        .set_empty("peer-default")
        .set_cells("interrupts", &[0, 7, 4]);
    let draft = given(&tree, &config).unwrap();
    let done = draft
        .finish(
            &fixture::plan(&config, 0x8100_0000, 0x1000),
            &Seeds::PLACEHOLDER,
        )
        .unwrap();
    let read = Tree::parse(&done.blob).unwrap();
    assert!(read
        .at("/serial-2@9000000")
        .unwrap()
        .is_compatible("arm,pl011"));
    assert_eq!(
        read.at("/chosen").unwrap().str("stdout-path"),
        Ok("/serial-2@9000000")
    );
    let shm = read.at("/gunyah-vm-config/vdevices/shm-7-2").unwrap();
    assert_eq!(shm.str("generate"), Ok("/hypervisor/shm-7-2"));
    // bell-5-2 is what another one generates.
    let bell = read.at("/gunyah-vm-config/vdevices/bell-5-3").unwrap();
    assert_eq!(bell.str("generate"), Ok("/hypervisor/bell-5-3"));
    assert_eq!(bell.u32("label"), Ok(5));
}

#[test]
fn a_clock_of_the_tree_stays_as_it_is() {
    let config = fixture::proxy();
    let mut tree = without_console(&config);
    tree.root
        .ensure_child("apb-pclk", Position::Last)
        .set_str("compatible", "fixed-clock")
        .set_u32("#clock-cells", 0)
        .set_u32("clock-frequency", 48_000_000)
        .set_u32("phandle", u32::MAX - 1);
    let own = tree.at("/apb-pclk").unwrap().node.clone();
    let draft = given(&tree, &config).unwrap();
    assert_eq!(draft.tree().at("/apb-pclk").unwrap().node, &own);
    let serial = draft.tree().at("/serial").unwrap();
    assert_eq!(serial.cells("clocks"), Ok(vec![u32::MAX - 1; 2]));

    // One that is no clock to be had is left alone too; ours goes beside it, with a free phandle.
    let clock = tree.find_mut("/apb-pclk").unwrap();
    clock.set_str("compatible", "acme,clock");
    let draft = given(&tree, &config).unwrap();
    let beside = draft.tree().at("/apb-pclk-2").unwrap();
    assert_eq!(beside.u32("clock-frequency"), Ok(24_000_000));
    assert_eq!(beside.phandle(), Some(2), "1 is the GIC's");
    let kept = draft.tree().at("/apb-pclk").unwrap();
    assert_eq!(kept.u32("clock-frequency"), Ok(48_000_000));
}

#[test]
fn a_serial_port_must_be_one_that_the_console_can_be() {
    type Change = fn(&mut Node);
    let config = fixture::ns16550();
    let changed = |change: Change| {
        let mut tree = Draft::generated(&config).unwrap().tree().clone();
        change(tree.find_mut("/serial").unwrap());
        given(&tree, &config)
    };
    let refused: [Change; 9] = [
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
    for (number, change) in refused.into_iter().enumerate() {
        assert_eq!(rules(changed(change)), ["console-differs"], "{number}");
    }
    let taken: [Change; 4] = [
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
    for (number, change) in taken.into_iter().enumerate() {
        let draft = changed(change).unwrap_or_else(|found| panic!("{number}: {found:#?}"));
        assert_eq!(draft.warnings(), [], "{number}");
        let serials = DtbFacts::of(draft.tree()).serials;
        assert_eq!(serials[0].compatible, "ns16550a", "{number}");
    }
    // A PL011's registers have no such properties.
    let config = fixture::proxy();
    let mut tree = Draft::generated(&config).unwrap().tree().clone();
    tree.find_mut("/serial")
        .unwrap()
        .set_str("status", "disabled");
    assert_eq!(rules(given(&tree, &config)), ["console-differs"]);
}

#[test]
fn two_nodes_of_one_name_are_named() {
    let config = fixture::proxy();
    let mut tree = Draft::generated(&config).unwrap().tree().clone();
    let twin = tree.at("/serial").unwrap().node.clone();
    tree.root.push(twin);
    let found = super::super::rules::check(&tree, None);
    let path = format!("/{}", tree.at("/serial").unwrap().name);
    assert!(
        found.contains(&DtbProblem::DuplicateNode(path)),
        "{found:?}"
    );
}
