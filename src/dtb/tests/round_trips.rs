// SPDX-License-Identifier: Apache-2.0
//! Trees by the hundred: what is written reads back, and what is damaged breaks nothing.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..24),
        vec(any::<u32>(), 0..6)
            .prop_map(|cells| cells.iter().flat_map(|cell| cell.to_be_bytes()).collect()),
        vec("[ -~]{0,12}", 1..4).prop_map(|strings| {
            strings
                .iter()
                .flat_map(|string| format!("{string}\0").into_bytes())
                .collect()
        }),
    ]
}

fn node() -> impl Strategy<Value = Node> {
    // Maps, so that names are unique; what vm-fdt and the specification allow.
    let properties = || {
        proptest::collection::btree_map("[a-zA-Z0-9,._+?#-]{1,31}", value(), 0..5).prop_map(|map| {
            map.into_iter()
                .map(|(name, value)| Property { name, value })
                .collect::<Vec<_>>()
        })
    };
    let leaf = properties().prop_map(|properties| Node {
        properties,
        ..Node::default()
    });
    leaf.prop_recursive(6, 40, 5, move |inner| {
        let names = "[a-z][a-z0-9,._+-]{0,30}(@[0-9a-f]{1,8})?";
        (
            properties(),
            proptest::collection::btree_map(names, inner, 0..5),
        )
            .prop_map(|(properties, children): (_, BTreeMap<String, Node>)| Node {
                properties,
                children: children
                    .into_iter()
                    .map(|(name, node)| Node { name, ..node })
                    .collect(),
                ..Node::default()
            })
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
            .collect()
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
        let mut blob = Draft::generated(&config).unwrap().tree().to_blob().unwrap();
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
    fn the_length_depends_on_no_address(
        initrd in any::<u32>(), size in any::<u32>(), kaslr in any::<u64>(), rng in any::<[u8; 32]>(),
    ) {
        let config = fixture::proxy();
        let draft = Draft::generated(&config).unwrap();
        let plan = fixture::plan(&config, u64::from(initrd), u64::from(size));
        let done = draft.finish(&plan, &Seeds { rng, kaslr }).unwrap();
        prop_assert_eq!(u64::try_from(done.blob.len()).unwrap(), draft.facts().blob_len_max);
    }
}
