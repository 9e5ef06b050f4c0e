// SPDX-License-Identifier: Apache-2.0
//! Trees by the hundred: what is written reads back, and what is damaged breaks nothing.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::config::{RegionConfig, Transport};
use crate::list::Listed;

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..24),
        vec(any::<u32>(), 0..6)
            .prop_map(|cells| cells.iter().flat_map(|cell| cell.to_be_bytes()).listed()),
        vec("[ -~]{0,12}", 1..4).prop_map(|strings| {
            strings.iter().flat_map(|string| format!("{string}\0").into_bytes()).listed()
        }),
    ]
}

fn node() -> impl Strategy<Value = Node> {
    // Maps, so that names are unique; what vm-fdt and the specification allow.
    let properties = || {
        proptest::collection::btree_map("[a-zA-Z0-9,._+?#-]{1,31}", value(), 0..5)
            .prop_map(|map| map.into_iter().map(|(name, value)| Property { name, value }).listed())
    };
    let leaf = properties().prop_map(|properties| Node { properties, ..Node::default() });
    leaf.prop_recursive(6, 40, 5, move |inner| {
        let names = "[a-z][a-z0-9,._+-]{0,30}(@[0-9a-f]{1,8})?";
        (properties(), proptest::collection::btree_map(names, inner, 0..5)).prop_map(
            |(properties, children): (_, BTreeMap<String, Node>)| Node {
                properties,
                children: children.into_iter().map(|(name, node)| Node { name, ..node }).listed(),
                ..Node::default()
            },
        )
    })
}

fn tree() -> impl Strategy<Value = Tree> {
    let reservations = vec((0u64..1 << 40, 1u64..1 << 20), 0..4).prop_map(|list| {
        let mut next = 0u64;
        list.into_iter()
            .map(|(gap, size)| {
                let address = next + gap;
                next = address + size;
                (address, size)
            })
            .listed()
    });
    (reservations, any::<u32>(), node()).prop_map(|(reservations, boot_cpu, root)| Tree {
        reservations,
        boot_cpu,
        root,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_written_tree_reads_back(tree in tree()) {
        let blob = tree.to_blob().unwrap();
        prop_assert_eq!(Tree::parse(&blob).unwrap(), tree);
    }

    #[test]
    fn random_trees_break_nothing(tree in tree()) {
        use_it(&tree.to_blob().unwrap());
    }

    #[test]
    fn mutated_blobs_break_nothing(
        proxy in any::<bool>(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in any::<Option<prop::sample::Index>>(),
    ) {
        let config = if proxy { fixture::proxy() } else { fixture::config() };
        let mut blob = generated(&config).to_blob().unwrap();
        for (index, byte) in changes {
            let at = index.index(blob.len());
            blob[at] = byte;
        }
        if let Some(cut) = cut {
            blob.truncate(cut.index(blob.len()));
        }
        use_it(&blob);
    }

    #[test]
    fn a_blob_is_never_longer_than_its_bound(
        cpus in 1u32..65, proxy in any::<bool>(), console in any::<bool>(), affinity in any::<bool>(),
        regions in 0u32..20, cmdline in "[ -~]{0,200}", name in "[a-z][a-z0-9_-]{0,30}",
        initrd in any::<u32>(), size in any::<u32>(), kaslr in any::<u64>(), rng in any::<[u8; 32]>(),
        newer in any::<bool>(), disks in 0usize..17, pci in any::<bool>(), pooled in any::<bool>(),
        power_key in any::<bool>(),
    ) {
        let mut config = if proxy { fixture::proxy() } else { fixture::config() };
        config.name = crate::config::VmName::new(&name).unwrap();
        config.kernel.cmdline = cmdline;
        config.vcpus.count = cpus;
        if affinity && !proxy {
            config.vcpus.affinity = (0..cpus).map(|cpu| vec![cpu]).listed();
        }
        config.console = config.console.filter(|_| console);
        config.stop = fixture::with_power_key().stop.filter(|_| power_key && proxy);
        config.regions = (0..regions).map(|number| RegionConfig {
            label: u32::MAX - number,
            base: 0xa000_0000 + u64::from(number) * 0x20_0000,
            ..fixture::proxy().regions[0].clone()
        }).listed();
        if proxy {
            let disk = fixture::disk();
            config.disks = vec![disk; disks];
            config.transport = if pci { Transport::Pci } else { Transport::Mmio };
        }
        let mut plan = fixture::plan(&config, 0x9000_0000 + u64::from(initrd), u64::from(size));
        if pooled && !plan.devices.is_empty() {
            fixture::add_pool(&mut plan);
        }
        if newer {
            plan.dialect = gunyah::Dialect::Ack612;
        }
        let seeds = Seeds { rng, kaslr };
        let len = |blob: &[u8]| u64::try_from(blob.len()).unwrap();

        let made = build(&config, None, &plan, &seeds).unwrap();
        let bound = len_max(&config, None);
        prop_assert!(len(&made.blob) <= bound);
        // Little guests have room for it: no more than a page is wasted.
        prop_assert!(newer || disks > 2 || bound < len(&made.blob) + 4096);

        // The same tree comes out of itself, and of what completing makes of the bare hardware.
        let again = build(&config, Some(&made.blob), &plan, &seeds).unwrap();
        prop_assert_eq!(&again.tree, &made.tree);
        prop_assert!(len(&again.blob) <= len_max(&config, Some(&made.blob)));
        let bare = generate::hardware(&config, plan.scheduling).to_blob().unwrap();
        let completed = build(&config, Some(&bare), &plan, &seeds).unwrap();
        prop_assert!(len(&completed.blob) <= len_max(&config, Some(&bare)));
    }
}
