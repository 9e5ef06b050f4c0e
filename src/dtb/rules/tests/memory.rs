// SPDX-License-Identifier: Apache-2.0
//! Memory, reservations, and the room of the overlay.

use super::*;

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
