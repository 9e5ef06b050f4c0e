// SPDX-License-Identifier: Apache-2.0
//! Plans by the thousand: what holds for every one, and the name and place of each mistake.

use std::path::Path;

use proptest::prelude::*;
use serde_json::{json, Value};

use super::*;
use crate::config::*;
use crate::image::{arm64, elf, ImageInfo, KernelInfo, KernelLayout};

const BASE: u64 = 0x8000_0000;
const MIB: u64 = 1 << 20;

/// A config with an initrd and these changes, if the parser takes it.
fn try_config(changes: Value) -> Option<VmConfig> {
    let mut vm = json!({
        "name": "vm",
        "memory": { "size": "64M" },
        "kernel": { "path": "/Image" },
        "initrd": { "path": "/initrd" },
    });
    merge(&mut vm, changes);
    parse(Path::new("vm.json"), &vm.to_string()).ok()
}

fn config(changes: Value) -> VmConfig {
    try_config(changes).expect("a good config")
}

fn sized(bytes: u64) -> VmConfig {
    config(json!({ "memory": { "size": bytes } }))
}

/// Puts `changes` into `value`; null takes a key away.
fn merge(value: &mut Value, changes: Value) {
    let Value::Object(changes) = changes else {
        *value = changes;
        return;
    };
    if !value.is_object() {
        *value = json!({});
    }
    let keys = value.as_object_mut().unwrap();
    for (key, change) in changes {
        merge(keys.entry(key).or_insert(Value::Null), change);
    }
    keys.retain(|_, value| !value.is_null());
}

fn image(text_offset: u64, image_size: u64) -> ImageInfo {
    ImageInfo {
        kernel: KernelInfo {
            gzip: false,
            size: image_size.min(20 * MIB),
            signed: false,
            layout: KernelLayout::Image(arm64::Header { text_offset, image_size }),
        },
        initrd: Some(4 * MIB + 17),
        regions: Vec::new(),
    }
}

fn elf_at(address: u64, entry: u64) -> ImageInfo {
    let load = |file_offset, address| elf::Load {
        file_offset,
        file_size: 0x1000,
        address,
        memory_size: 0x2000,
    };
    let executable = elf::Executable {
        loads: vec![load(0x1000, address), load(0x2000, address + 0x10_0000)],
        entry: address + entry,
    };
    let kernel = KernelInfo {
        gzip: false,
        size: 0x10_0000,
        signed: false,
        layout: KernelLayout::Elf(executable),
    };
    ImageInfo { kernel, initrd: Some(100), regions: Vec::new() }
}

/// What is wrong with a plan: "name at key".
fn faults(config: &VmConfig, images: &ImageInfo, host: &Host) -> Vec<String> {
    let faults = plan(config, images, 4000, host).unwrap_err();
    let text =
        |fault: Diagnostic| format!("{} at {}", fault.name, fault.place.as_ref().unwrap().key);
    faults.into_iter().map(text).collect()
}

fn warnings(plan: &LaunchPlan) -> Vec<&str> {
    plan.warnings.iter().map(|warning| &*warning.name).collect()
}

#[test]
fn places_by_the_documented_rules() {
    let plan = plan(&sized(256 * MIB), &image(0, 30 * MIB), 5000, &Host::PAGES_4K).unwrap();
    assert_eq!(plan.kernel.entry, BASE);
    assert_eq!(plan.kernel.branch, None);
    assert_eq!(plan.dtb, Range { base: BASE + 254 * MIB, size: 2 * MIB });
    let initrd = plan.initrd.unwrap();
    assert_eq!(initrd.base, BASE + 254 * MIB - 4 * MIB - 4096);
    assert_eq!(plan.memory_entries, 128);
    assert_eq!(plan.warnings, []);
}

#[test]
fn a_devicetree_begins_a_folio_of_the_host() {
    let place = |config: &VmConfig, kernel| {
        plan(config, &image(0, kernel), 5000, &Host::PAGES_16K).unwrap()
    };
    let folio = Host::PAGES_16K.thp_page;
    assert_eq!(place(&sized(256 * MIB), 30 * MIB).dtb.base, BASE + 7 * folio);
    // They are multiples of their size in the guest, as they are in the mapping.
    let moved = json!({ "memory": { "base": BASE + 2 * MIB, "size": "256M" } });
    let moved = config(moved);
    assert_eq!(place(&moved, 30 * MIB).dtb.base, BASE + 8 * folio);
    // The only boundary is the kernel's.
    let full = place(&sized(64 * MIB), 40 * MIB);
    assert_eq!(full.dtb.base, BASE + 64 * MIB - full.dtb.size);
    // A devicetree in the middle would leave the initrd no room.
    let mut images = image(0, 10 * MIB);
    images.initrd = Some(40 * MIB);
    let split = plan(&sized(64 * MIB), &images, 5000, &Host::PAGES_16K).unwrap();
    assert_eq!(split.dtb.base, BASE + 64 * MIB - split.dtb.size);
}

#[test]
fn a_power_key_has_the_number_behind_the_devices() {
    let key = |keys: Value| power_key(&config(keys)).map(|key| (key.label, key.interrupt));
    let asked = json!({ "power_key": true });
    assert_eq!(key(json!({ "stop": asked })), Some((6, 6)));
    assert_eq!(key(json!({})), None);
    let disks = json!([{ "path": "/a" }, { "path": "/b" }]);
    let devices = json!({ "stop": asked, "disks": disks, "entropy": true });
    assert_eq!(key(devices), Some((9, 9)));
    let console = json!({ "label": 6, "interrupt": 7 });
    assert_eq!(key(json!({ "stop": asked, "console": console })), Some((8, 8)));
}

/// A host whose driver gives the guest its pages as it touches them.
const NEWER: Host = Host { dialect: Dialect::Ack612, ..Host::PAGES_4K };

#[test]
fn a_newer_driver_gets_whole_folios_and_an_entry() {
    let plan = plan(&sized(64 * MIB), &image(0x8_0000, 10 * MIB), 5000, &NEWER).unwrap();
    assert_eq!(plan.dtb, Range { base: BASE + 62 * MIB, size: 2 * MIB });
    assert_eq!((plan.kernel.entry, plan.kernel.branch), (BASE + 0x8_0000, None));
    assert_eq!((plan.scheduling, plan.memory_entries), (Scheduling::Proxy, 1));
    assert_eq!(plan.main().backing, [Backing::Thp]);
    assert_eq!(plan.warnings, []);
    // 16384 small pages are no memory entries there.
    let base = config(json!({ "memory": { "backing": "base" } }));
    assert_eq!(super::plan(&base, &image(0, 10 * MIB), 5000, &NEWER).unwrap().warnings, []);
    // Nor is a kernel far from the base out of a branch's reach.
    let far = json!({ "memory": { "size": "512M" }, "kernel": { "offset": 256 * MIB } });
    let far = super::plan(&config(far), &image(0, 10 * MIB), 5000, &NEWER).unwrap();
    assert_eq!(far.kernel.entry, BASE + 256 * MIB);
}

#[test]
fn a_small_guest_is_made_of_folios_of_one_page_on_a_newer_driver() {
    let small = config(json!({ "memory": { "size": "4M", "backing": ["hugetlb", "thp"] } }));
    let mut images = image(0, MIB);
    images.initrd = Some(5000);
    let plan = plan(&small, &images, 5000, &NEWER).unwrap();
    assert_eq!(plan.main().backing, [Backing::Base]);
    assert_eq!((plan.dtb.base + plan.dtb.size, plan.dtb.size % 4096), (BASE + 4 * MIB, 0));
    assert_eq!(plan.memory_entries, plan.dtb.size / 4096);
}

#[test]
fn a_slot_that_cannot_be_is_refused_where_it_must() {
    let fixed = |offset| config(json!({ "dtb": { "offset": offset } }));
    assert_eq!(faults(&fixed(0x3f_f000), &image(0, MIB), &NEWER), ["plan-dtb-folio at dtb.offset"]);
    assert!(plan(&fixed(0x3f_f000), &image(0, MIB), 4000, &Host::PAGES_4K).is_ok());
    let planned = plan(&fixed(32 * MIB), &image(0, MIB), 4000, &NEWER).unwrap();
    assert_eq!(planned.dtb, Range { base: BASE + 32 * MIB, size: 2 * MIB });
    // The kernel leaves a megabyte, which is enough elsewhere.
    let images = ImageInfo { initrd: None, ..image(0, 7 * MIB) };
    assert_eq!(faults(&sized(8 * MIB), &images, &NEWER), ["plan-no-room at dtb"]);
    assert!(plan(&sized(8 * MIB), &images, 4000, &Host::PAGES_4K).is_ok());
    // An overlay beside a large tree takes twice as much.
    let large =
        plan(&sized(4 * MIB), &ImageInfo { initrd: None, ..image(0, MIB) }, 100_000, &NEWER);
    assert!(large.unwrap().dtb.size >= 200_000 + (64 << 10));
}

#[test]
fn what_a_kernel_cannot_do_is_refused_with_its_reason() {
    use Dialect::*;
    let on = |changes: &Value, dialect| {
        let found = fits(&config(changes.clone()), dialect).unwrap_or_else(|faults| faults);
        let text =
            |fault: Diagnostic| format!("{} at {}", fault.name, fault.place.as_ref().unwrap().key);
        found.into_iter().map(text).collect::<Vec<_>>()
    };
    for (changes, wanted) in [
        // On lkml-base, lkml, ack61, ack66 and ack612.
        (json!({}), ["", "", "", "", ""]),
        (
            json!({ "vcpus": { "scheduling": "hypervisor" } }),
            [
                "",
                "plan-hypervisor-stop at vcpus.scheduling",
                "plan-hypervisor-stop at vcpus.scheduling",
                "plan-hypervisor-scheduling at vcpus.scheduling",
                "plan-hypervisor-scheduling at vcpus.scheduling",
            ],
        ),
        (
            json!({ "vcpus": { "scheduling": "proxy" } }),
            ["plan-no-vcpus at vcpus.scheduling", "", "", "", ""],
        ),
        (json!({ "console": {} }), ["plan-no-vcpus at console", "", "", "", ""]),
        (json!({ "vcpus": { "nice": 3 } }), ["plan-no-vcpus at vcpus.nice", "", "", "", ""]),
        (
            json!({ "memory": { "backing": "hugetlb" } }),
            ["", "", "", "plan-hugetlb at memory.backing", "plan-hugetlb at memory.backing"],
        ),
        (json!({ "memory": { "backing": ["hugetlb", "thp"] } }), ["", "", "", "", ""]),
        (
            json!({ "memory": { "access": "share" } }),
            [
                "",
                "",
                "plan-shared-memory at memory.access",
                "plan-main-shared at memory.access",
                "plan-main-shared at memory.access",
            ],
        ),
        (
            json!({ "memory": { "access": "lend" } }),
            ["plan-cannot-lend at memory.access", "plan-cannot-lend at memory.access", "", "", ""],
        ),
        (
            json!({ "kernels": ["ack61", "ack66"] }),
            [
                "plan-kernel-unwanted at kernels",
                "plan-kernel-unwanted at kernels",
                "",
                "",
                "plan-kernel-unwanted at kernels",
            ],
        ),
    ] {
        for (dialect, wanted) in [LkmlBase, Lkml, Ack61, Ack66, Ack612].into_iter().zip(wanted) {
            let wanted: Vec<&str> =
                Some(wanted).filter(|text| !text.is_empty()).into_iter().collect();
            assert_eq!(on(&changes, dialect), wanted, "{changes} on {dialect}");
        }
    }
}

#[test]
fn a_vm_with_firmware_has_a_region_for_it_and_no_branch() {
    let with = config(json!({
        "firmware": {},
        "regions": [{ "label": 7, "base": "0xa0000000", "size": "64K" }],
    }));
    let mut images = image(0x8_0000, 30 * MIB);
    for dialect in [Dialect::Ack61, Dialect::Ack66, Dialect::Ack612] {
        let plan = plan(&with, &images, 5000, &Host::PAGES_4K.with(dialect)).unwrap();
        let firmware = plan.firmware.unwrap();
        assert_eq!(firmware, Range { base: BASE - 4 * MIB, size: 4 * MIB });
        let region = plan.regions.last().unwrap();
        assert_eq!((region.label, region.base, region.size), (1, firmware.base, firmware.size));
        assert_eq!((region.access, region.flags), (Access::Lend, Permissions::ALL));
        assert_eq!((plan.kernel.entry, plan.kernel.branch), (BASE + 0x8_0000, None));
        assert_eq!(warnings(&plan), ["plan-firmware-unsigned"], "{dialect}");
    }
    images.kernel.signed = true;
    let plan = plan(&with, &images, 5000, &NEWER).unwrap();
    assert_eq!(plan.warnings, []);
    for dialect in [Dialect::LkmlBase, Dialect::Lkml] {
        let host = Host::PAGES_4K.with(dialect);
        assert_eq!(faults(&with, &images, &host), ["plan-no-firmware at firmware"]);
    }
    let shared = config(json!({ "firmware": {}, "memory": { "access": "share" } }));
    assert_eq!(
        faults(&shared, &images, &Host::PAGES_4K),
        ["plan-firmware-shared at memory.access"]
    );
    // A region of the same label or in the same place.
    for clash in [json!({ "label": 7 }), json!({ "base": "0xa0000000" })] {
        let mut twice = json!({
            "regions": [{ "label": 7, "base": "0xa0000000", "size": "64K" }],
        });
        twice["firmware"] = clash;
        assert!(try_config(twice).is_none());
    }
}

#[test]
fn auto_is_what_the_driver_found_does_best() {
    use Dialect::*;
    for (dialect, scheduling, backing) in [
        (LkmlBase, Scheduling::Hypervisor, Backing::Hugetlb),
        (Lkml, Scheduling::Proxy, Backing::Hugetlb),
        (Ack61, Scheduling::Proxy, Backing::Hugetlb),
        (Ack66, Scheduling::Proxy, Backing::Thp),
        (Ack612, Scheduling::Proxy, Backing::Thp),
    ] {
        let host = Host::PAGES_4K.with(dialect);
        let plan = plan(&sized(64 * MIB), &image(0, MIB), 4000, &host).unwrap();
        assert_eq!((plan.scheduling, plan.main().backing.as_slice()), (scheduling, &[backing][..]));
    }
    let list = config(json!({ "memory": { "backing": ["auto", "base", "thp"] } }));
    let newer = plan(&list, &image(0, MIB), 4000, &NEWER).unwrap();
    assert_eq!(newer.main().backing, [Backing::Thp, Backing::Base]);
    let reserved = |config: &VmConfig, host: Host| {
        let plan = plan(config, &image(0, MIB), 4000, &host.with_reserve(true)).unwrap();
        plan.main().backing.clone()
    };
    assert_eq!(reserved(&list, NEWER), [Backing::Reserve, Backing::Thp, Backing::Base]);
    assert_eq!(reserved(&sized(64 * MIB), Host::PAGES_4K), [Backing::Hugetlb]);
    // The devicetree has no folio of its own.
    assert_eq!(reserved(&sized(6 * MIB), NEWER), [Backing::Base]);
}

/// As many as the plan has, for each region that has its first choice there.
#[test]
fn the_reserve_that_a_vm_needs_is_known_before_its_launch() {
    let config = config(json!({
        "memory": { "size": "65M" },
        "regions": [
            { "label": 1, "base": "0x100000000", "size": "8M" },
            { "label": 2, "base": "0x200100000", "size": "8M", "backing": ["reserve", "base"] },
            { "label": 3, "base": "0x300000000", "size": "8M", "backing": ["thp", "reserve"] },
        ],
    }));
    // What is before and behind whole folios is made of base pages.
    assert_eq!(reserve_folios(&config, &NEWER), [32, 3]);
    assert!(reserve_folios(&config, &Host::PAGES_4K).is_empty());
    assert!(reserve_folios(&sized(4 * MIB), &NEWER).is_empty());
}

#[test]
fn a_text_offset_gets_a_branch() {
    let plan = plan(&sized(64 * MIB), &image(0x8_0000, 10 * MIB), 5000, &Host::PAGES_4K).unwrap();
    assert_eq!(plan.kernel.entry, BASE + 0x8_0000);
    assert_eq!(plan.kernel.branch, Some(0x1400_0000 + 0x2_0000));
}

#[test]
fn elf_addresses_in_memory_are_meant_and_others_are_moved() {
    let config = sized(64 * MIB);
    let meant = plan(&config, &elf_at(BASE + 0x20_0000, 8), 4000, &Host::PAGES_4K).unwrap();
    assert_eq!(meant.kernel.segments[1].address, BASE + 0x30_0000);
    assert_eq!(meant.kernel.entry, BASE + 0x20_0008);
    assert!(meant.kernel.branch.is_some());
    let moved = plan(&config, &elf_at(0xffff_8000_0800_0000, 0), 4000, &Host::PAGES_4K).unwrap();
    assert_eq!(moved.kernel.segments[0].address, BASE);
    assert_eq!(moved.kernel.branch, None);
}

#[test]
fn a_small_guest_has_its_devicetree_on_a_page() {
    let mut images = image(0, 8192);
    images.initrd = None;
    let config = config(json!({ "memory": { "size": "1M" }, "initrd": null }));
    let plan = plan(&config, &images, 4000, &Host::PAGES_4K).unwrap();
    assert_eq!(plan.dtb.base, BASE + MIB - plan.dtb.size);
}

#[test]
fn every_mistake_has_a_name_and_a_key() {
    let fits = image(0, 30 * MIB);
    for (changes, kernel, wrong) in [
        (json!({ "memory": { "size": "16M" } }), 30, "plan-outside at kernel.path"),
        (json!({ "initrd": { "offset": "62M" } }), 30, "plan-outside at initrd.offset"),
        (json!({ "memory": { "size": "32M" } }), 31, "plan-no-room at initrd.path"),
        (json!({ "initrd": { "offset": "20M" } }), 30, "plan-overlap at initrd.offset"),
        (json!({ "kernel": { "offset": "4K" } }), 30, "plan-kernel-offset at kernel.offset"),
        (
            json!({ "memory": { "size": "512M" }, "kernel": { "offset": "256M" } }),
            30,
            "plan-kernel-entry at kernel.offset",
        ),
        (
            json!({ "memory": { "size": "40G", "page_size": "1G" }, "initrd": { "offset": "36G" } }),
            30,
            "plan-initrd-window at initrd",
        ),
        (json!({ "memory": { "backing": "base" } }), 30, "plan-memory-entries at memory.backing"),
    ] {
        let images = image(0, kernel * MIB);
        assert_eq!(faults(&config(changes), &images, &Host::PAGES_4K), [wrong]);
    }
    let faults = plan(&sized(64 * MIB), &fits, 3 * MIB, &Host::PAGES_4K).unwrap_err();
    assert_eq!(faults[0].name, "plan-dtb-size");
}

#[test]
fn a_host_with_larger_pages_asks_for_more() {
    let config = config(json!({
        "memory": { "size": 64 * MIB + 4096 },
        "regions": [{ "label": 1, "base": 0x9000_1000u64, "size": "16K", "file": "/data" }],
    }));
    let mut images = image(0, 30 * MIB);
    images.regions = vec![Some((16 << 10) + 1)];
    assert_eq!(
        faults(&config, &images, &Host::PAGES_16K),
        [
            "plan-unaligned at memory.size",
            "plan-unaligned at regions[0].base",
            "plan-region-file at regions[0].file",
        ]
    );
    assert_eq!(faults(&config, &images, &Host::PAGES_4K), ["plan-region-file at regions[0].file"]);
    let config = sized(64 * MIB);
    let offset = self::config(json!({ "dtb": { "offset": "60M" } }));
    assert!(plan(&offset, &image(0, 30 * MIB), 4000, &Host::PAGES_16K).is_ok());
    let offset = self::config(json!({ "dtb": { "offset": 60 * MIB + 4096 } }));
    assert_eq!(
        faults(&offset, &image(0, 30 * MIB), &Host::PAGES_16K),
        ["plan-dtb-offset at dtb.offset"]
    );
    assert!(plan(&config, &image(0, 30 * MIB), 4000, &Host::PAGES_16K).is_ok());
}

#[test]
fn a_region_below_one_huge_page_is_not_called_hugetlb() {
    let small = |page: &str, backing: Value| {
        let memory = json!({ "size": "16M", "page_size": page, "backing": backing });
        let config = config(json!({ "memory": memory }));
        plan(&config, &image(0, 4 * MIB), 4000, &Host::PAGES_4K).unwrap()
    };
    let planned = small("1G", json!("hugetlb"));
    assert_eq!(planned.main().backing, [Backing::Base]);
    assert_eq!(warnings(&planned), ["plan-no-huge-page", "plan-slow-start"]);
    assert_eq!(
        planned.warnings[0].what,
        "region 0 of 16 MiB is smaller than one huge page of 1 GiB and is made of base pages"
    );
    // The next choice is taken where there is one.
    let planned = small("1G", json!(["hugetlb", "thp"]));
    assert_eq!(planned.main().backing, [Backing::Thp]);
    assert_eq!(planned.memory_entries, 8);
    assert_eq!(warnings(&planned), ["plan-no-huge-page"]);
    // One huge page is enough to be hugetlb.
    let planned = small("2M", json!(["hugetlb", "thp"]));
    assert_eq!(planned.main().backing, [Backing::Hugetlb, Backing::Thp]);
    assert_eq!(planned.warnings, []);
}

#[test]
fn a_person_is_warned_of_what_may_go_wrong() {
    let slow = json!({ "memory": { "size": "16M", "backing": "base" } });
    let planned = |changes| {
        let config = config(changes);
        plan(&config, &image(0, 4 * MIB), 4000, &Host::PAGES_4K).unwrap()
    };
    let slow = planned(slow);
    assert_eq!(slow.memory_entries, 4096);
    assert_eq!(warnings(&slow), ["plan-slow-start"]);
    assert!(slow.warnings[0].what.contains("8 messages"));
    let large = json!({ "memory": { "size": "3G", "page_size": "1G", "access": "share" } });
    assert_eq!(warnings(&planned(large)), ["plan-shared-memory", "plan-large-region"]);
}

proptest! {
    #[test]
    fn nothing_overlaps_and_all_is_inside(
        pages in 1u64..40_000,
        text_offset in (0u64..512).prop_map(|n| n * 4096),
        image_size in 1u64..(64 * MIB),
        initrd in prop::option::of(1u64..(64 * MIB)),
        initrd_offset in prop::option::of((0u64..20_000).prop_map(|n| n * 4096)),
        kernel_offset in prop::option::of((0u64..40).prop_map(|n| n * 2 * MIB)),
        dtb_offset in prop::option::of((0u64..20_000).prop_map(|n| n * 4096)),
        dtb_size in 1u64..(2 * MIB),
        room in (1u64..256).prop_map(|n| n * 4096),
        large_pages in any::<bool>(),
        newer in any::<bool>(),
    ) {
        let host = if large_pages { Host::PAGES_16K } else { Host::PAGES_4K };
        let host = if newer { host.with(Dialect::Ack66) } else { host };
        let Some(config) = try_config(json!({
            "memory": { "size": pages * 4096 },
            "kernel": { "offset": kernel_offset },
            "dtb": { "offset": dtb_offset, "room": room },
            "initrd": initrd.map(|_| json!({ "offset": initrd_offset })),
        })) else { return Ok(()) };
        let mut images = image(text_offset, image_size);
        images.initrd = initrd;
        let Ok(plan) = plan(&config, &images, dtb_size, &host) else { return Ok(()) };
        let mut ranges: Vec<_> =
            plan.kernel.segments.iter().map(|s| (s.address, s.address + s.memory_size)).collect();
        ranges.push((plan.dtb.base, plan.dtb.base + plan.dtb.size));
        ranges.extend(plan.initrd.iter().map(|i| (i.base, i.base + i.size)));
        ranges.extend(plan.kernel.branch.map(|_| (BASE, BASE + 4)));
        ranges.sort_unstable();
        prop_assert!(ranges[0].0 >= BASE);
        prop_assert!(ranges[ranges.len() - 1].1 <= BASE + config.memory.size);
        for pair in ranges.windows(2) {
            prop_assert!(pair[0].1 <= pair[1].0, "{:x?}", ranges);
        }
        prop_assert_eq!(plan.dtb.base % host.page_size, 0);
        prop_assert_eq!(plan.dtb.size % host.page_size, 0);
        prop_assert!(plan.dtb.size >= dtb_size + room);
        prop_assert_eq!(plan.kernel.branch.is_none(), newer || plan.kernel.entry == BASE);
        if newer && plan.main().backing != [Backing::Base] {
            prop_assert_eq!(plan.dtb.base % host.thp_page, 0);
            prop_assert_eq!(plan.dtb.size % (2 * MIB), 0);
        }
    }

    #[test]
    fn never_panics(
        base in (0u64..1 << 15).prop_map(|n| n * 2 * MIB),
        pages in 1u64..1 << 24,
        offsets in any::<[u16; 3]>(),
        image_size in any::<u64>(),
        address in any::<u64>(),
        dtb in any::<u64>(),
    ) {
        let [kernel, initrd, tree] = offsets.map(|n| u64::from(n) * 4096);
        let Some(config) = try_config(json!({
            "memory": { "base": base, "size": pages * 4096 },
            "kernel": { "offset": kernel },
            "initrd": { "offset": initrd },
            "dtb": { "offset": tree },
        })) else { return Ok(()) };
        let _ = plan(&config, &image(0, image_size), dtb, &Host::PAGES_4K);
        let _ = plan(&config, &elf_at(address >> 1, 4), dtb, &Host::PAGES_16K);
    }

    #[test]
    fn free_places_are_found_whenever_there_is_room(kernel in 1u64..80, initrd in 1u64..80) {
        let mut images = image(0, kernel * MIB);
        images.initrd = Some(initrd * MIB);
        let size = (kernel + initrd + 4).next_multiple_of(2) * MIB;
        for host in [Host::PAGES_4K, Host::PAGES_16K] {
            prop_assert!(plan(&sized(size), &images, 9000, &host).is_ok());
        }
    }
}
