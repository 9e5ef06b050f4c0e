// SPDX-License-Identifier: Apache-2.0
//! Plans by the thousand: what holds for every one, and what each mistake is called.

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::config::*;
use crate::image::{arm64, elf, ImageInfo, KernelInfo, KernelLayout};

const BASE: u64 = 0x8000_0000;
const MIB: u64 = 1 << 20;

fn config(size: u64) -> VmConfig {
    let mut config = fixture(r#""initrd": { "path": "/initrd" }"#);
    config.memory.size = size;
    config
}

fn image(text_offset: u64, image_size: u64) -> ImageInfo {
    ImageInfo {
        kernel: KernelInfo {
            gzip: false,
            size: image_size.min(20 * MIB),
            layout: KernelLayout::Image(arm64::Header {
                text_offset,
                image_size,
            }),
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
        layout: KernelLayout::Elf(executable),
    };
    ImageInfo {
        kernel,
        initrd: Some(100),
        regions: Vec::new(),
    }
}

fn keys(config: &VmConfig, images: &ImageInfo) -> Vec<String> {
    plan(config, images, 4000, &Host::PAGES_4K)
        .unwrap_err()
        .into_iter()
        .map(|p| p.key)
        .collect()
}

#[test]
fn places_by_the_documented_rules() {
    let plan = plan(
        &config(256 * MIB),
        &image(0, 30 * MIB),
        5000,
        &Host::PAGES_4K,
    )
    .unwrap();
    assert_eq!(plan.kernel.entry, BASE);
    assert_eq!(plan.kernel.branch, None);
    assert_eq!(
        plan.dtb,
        PlannedDtb {
            base: BASE + 254 * MIB,
            size: 0x1_2000
        }
    );
    let initrd = plan.initrd.unwrap();
    assert_eq!(initrd.base, BASE + 254 * MIB - 4 * MIB - 4096);
    assert_eq!(plan.memory_entries, 128);
    assert_eq!(plan.warnings, Vec::<String>::new());
}

#[test]
fn a_devicetree_begins_a_folio_of_the_host() {
    let place = |config: &VmConfig, kernel| {
        plan(config, &image(0, kernel), 5000, &Host::PAGES_16K).unwrap()
    };
    let folio = Host::PAGES_16K.thp_page;
    assert_eq!(
        place(&config(256 * MIB), 30 * MIB).dtb.base,
        BASE + 7 * folio
    );
    // Folios are counted from main memory's base, wherever that is.
    let mut moved = config(256 * MIB);
    moved.memory.base += 2 * MIB;
    assert_eq!(
        place(&moved, 30 * MIB).dtb.base,
        moved.memory.base + 7 * folio
    );
    // The only boundary is the kernel's.
    let full = place(&config(64 * MIB), 40 * MIB);
    assert_eq!(full.dtb.base, BASE + 64 * MIB - full.dtb.size);
    // A devicetree in the middle would leave the initrd no room.
    let mut images = image(0, 10 * MIB);
    images.initrd = Some(40 * MIB);
    let split = plan(&config(64 * MIB), &images, 5000, &Host::PAGES_16K).unwrap();
    assert_eq!(split.dtb.base, BASE + 64 * MIB - split.dtb.size);
}

#[test]
fn a_text_offset_gets_a_branch() {
    let plan = plan(
        &config(64 * MIB),
        &image(0x8_0000, 10 * MIB),
        5000,
        &Host::PAGES_4K,
    )
    .unwrap();
    assert_eq!(plan.kernel.entry, BASE + 0x8_0000);
    assert_eq!(plan.kernel.branch, Some(0x1400_0000 + 0x2_0000));
}

#[test]
fn elf_addresses_in_memory_are_meant_and_others_are_moved() {
    let config = config(64 * MIB);
    let meant = plan(&config, &elf_at(BASE + 0x20_0000, 8), 4000, &Host::PAGES_4K).unwrap();
    assert_eq!(meant.kernel.segments[1].base, BASE + 0x30_0000);
    assert_eq!(meant.kernel.entry, BASE + 0x20_0008);
    assert!(meant.kernel.branch.is_some());
    let moved = plan(
        &config,
        &elf_at(0xffff_8000_0800_0000, 0),
        4000,
        &Host::PAGES_4K,
    )
    .unwrap();
    assert_eq!(moved.kernel.segments[0].base, BASE);
    assert_eq!(moved.kernel.branch, None);
}

#[test]
fn a_small_guest_has_its_devicetree_on_a_page() {
    let mut images = image(0, 8192);
    images.initrd = None;
    let mut config = config(MIB);
    config.initrd = None;
    let plan = plan(&config, &images, 4000, &Host::PAGES_4K).unwrap();
    assert_eq!(plan.dtb.base, BASE + MIB - plan.dtb.size);
}

#[test]
fn every_mistake_has_its_key() {
    let good = || config(64 * MIB);
    let fits = image(0, 30 * MIB);
    assert_eq!(keys(&config(16 * MIB), &fits), ["kernel.path"]);
    assert_eq!(
        keys(&config(32 * MIB), &image(0, 31 * MIB)),
        ["initrd.path"]
    );
    assert_eq!(keys(&config(64 * MIB + 1), &fits), ["memory.size"]);

    let mut unaligned = good();
    unaligned.memory.base += 4096;
    assert_eq!(keys(&unaligned, &fits), ["memory.base"]);
    let mut past = good();
    past.memory.base = u64::MAX - 2 * MIB + 1;
    assert_eq!(keys(&past, &fits), ["memory.size"]);
    let mut kernel = good();
    kernel.kernel.offset = Some(4096);
    assert_eq!(keys(&kernel, &fits), ["kernel.offset"]);
    let mut kernel = config(512 * MIB);
    kernel.kernel.offset = Some(256 * MIB);
    assert_eq!(keys(&kernel, &fits), ["kernel.offset"]);
    let mut initrd = good();
    initrd.initrd.as_mut().unwrap().offset = Some(20 * MIB);
    assert_eq!(keys(&initrd, &fits), ["initrd.offset"]);
    let mut dtb = good();
    dtb.dtb.offset = Some(0x123);
    assert_eq!(keys(&dtb, &fits), ["dtb.offset"]);
    dtb.dtb.offset = Some(0);
    assert_eq!(keys(&dtb, &fits).len(), 1);
    dtb.dtb.offset = None;
    dtb.dtb.room = u64::MAX;
    assert_eq!(keys(&dtb, &fits), ["dtb.room"]);
    let mut scattered = good();
    scattered.memory.backing = vec![Backing::Base];
    assert_eq!(keys(&scattered, &fits), ["memory.backing"]);
    let problems = plan(&good(), &fits, 3 * MIB, &Host::PAGES_4K).unwrap_err();
    assert_eq!(problems[0].key, "dtb");
}

#[test]
fn regions_must_be_apart() {
    let region = |label, base| RegionConfig {
        label,
        base,
        size: 0x1000,
        access: Access::Auto,
        flags: Permissions::ALL,
        backing: vec![Backing::Base],
        page_size: None,
        file: Some(PathBuf::from("data")),
    };
    let mut config = config(64 * MIB);
    config.regions = vec![
        region(1, 0x9000_0000),
        region(1, BASE),
        region(2, 0x9000_0001),
    ];
    let mut images = image(0, 30 * MIB);
    images.regions = vec![Some(0x1000), Some(0x1001), None];
    let found = keys(&config, &images);
    assert_eq!(
        found,
        [
            "regions[1].file",
            "regions[2].base",
            "regions[1].base",
            "regions[1].label",
            "regions[2].base"
        ]
    );
}

#[test]
fn a_region_below_one_huge_page_is_not_called_hugetlb() {
    let mut small = config(16 * MIB);
    small.memory.page_size = Some(1 << 30);
    let images = image(0, 4 * MIB);
    let planned = plan(&small, &images, 4000, &Host::PAGES_4K).unwrap();
    assert_eq!(planned.main().backing, [Backing::Base]);
    assert_eq!(
        planned.warnings[0],
        "region 0 of 16M is smaller than one huge page of 1G: it is made of base pages"
    );
    // The next choice is taken where there is one.
    small.memory.backing = vec![Backing::Hugetlb, Backing::Thp];
    let planned = plan(&small, &images, 4000, &Host::PAGES_4K).unwrap();
    assert_eq!(planned.main().backing, [Backing::Thp]);
    assert_eq!(planned.memory_entries, 8);
    assert_eq!(planned.warnings.len(), 1, "{:?}", planned.warnings);
    // One huge page is enough to be hugetlb.
    small.memory.page_size = Some(2 * MIB);
    let planned = plan(&small, &images, 4000, &Host::PAGES_4K).unwrap();
    assert_eq!(planned.main().backing, [Backing::Hugetlb, Backing::Thp]);
    assert_eq!(planned.warnings, Vec::<String>::new());
}

#[test]
fn a_slow_start_is_foretold() {
    let mut config = config(16 * MIB);
    config.memory.backing = vec![Backing::Base];
    let mut images = image(0, 4 * MIB);
    images.initrd = Some(100);
    let plan = plan(&config, &images, 4000, &Host::PAGES_4K).unwrap();
    assert_eq!(plan.memory_entries, 4096);
    assert!(
        plan.warnings[0].contains("8 messages"),
        "{:?}",
        plan.warnings
    );
}

proptest! {
    #[test]
    fn nothing_overlaps_and_all_is_inside(
        pages in 1u64..40_000,
        text_offset in (0u64..512).prop_map(|n| n * 4096),
        image_size in 1u64..(64 * MIB),
        initrd in prop::option::of(1u64..(64 * MIB)),
        initrd_offset in prop::option::of(0u64..(80 * MIB)),
        kernel_offset in prop::option::of((0u64..40).prop_map(|n| n * 2 * MIB)),
        dtb_offset in prop::option::of((0u64..20_000).prop_map(|n| n * 4096)),
        dtb_size in 1u64..(2 * MIB),
        room in 0u64..MIB,
        large_pages in any::<bool>(),
    ) {
        let host = if large_pages { Host::PAGES_16K } else { Host::PAGES_4K };
        let mut config = config(pages * 4096);
        config.kernel.offset = kernel_offset;
        config.dtb.offset = dtb_offset;
        config.dtb.room = room;
        config.initrd = initrd.map(|_| InitrdConfig { path: "initrd".into(), offset: initrd_offset });
        let mut images = image(text_offset, image_size);
        images.initrd = initrd;
        let Ok(plan) = plan(&config, &images, dtb_size, &host) else { return Ok(()) };
        let mut ranges: Vec<_> =
            plan.kernel.segments.iter().map(|s| (s.base, s.base + s.memory_size)).collect();
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
        prop_assert_eq!(plan.kernel.branch.is_none(), plan.kernel.entry == BASE);
    }

    #[test]
    fn never_panics(base in any::<u64>(), size in any::<u64>(), offset in any::<u64>(), address in any::<u64>(), dtb in any::<u64>()) {
        let mut config = config(size);
        config.memory.base = base;
        config.kernel.offset = Some(offset);
        config.initrd.as_mut().unwrap().offset = Some(address);
        let _ = plan(&config, &image(0, size), dtb, &Host::PAGES_4K);
        let _ = plan(&config, &elf_at(address >> 1, 4), dtb, &Host::PAGES_16K);
    }

    #[test]
    fn free_places_are_found_whenever_there_is_room(kernel in 1u64..80, initrd in 1u64..80) {
        let mut images = image(0, kernel * MIB);
        images.initrd = Some(initrd * MIB);
        let size = (kernel + initrd + 4).next_multiple_of(2) * MIB;
        for host in [Host::PAGES_4K, Host::PAGES_16K] {
            prop_assert!(plan(&config(size), &images, 9000, &host).is_ok());
        }
    }
}
