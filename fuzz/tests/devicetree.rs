// SPDX-License-Identifier: Apache-2.0
//! The writer of devicetrees against the crate `vm-fdt`: the same bytes, and the same words for what cannot be
//! written.

use gunyahd::dtb::{Node, Property, Tree};
use proptest::collection::vec;
use proptest::prelude::*;
use vm_fdt::{FdtReserveEntry, FdtWriter};

/// What `vm-fdt` makes of a tree.
fn by_another(tree: &Tree) -> Result<Vec<u8>, String> {
    let entry = |(address, size): &(u64, u64)| {
        let at = |fault| format!("/memreserve/ {address:#x} {size:#x}: {fault}");
        FdtReserveEntry::new(*address, *size).map_err(at)
    };
    let reservations = tree.reservations.iter().map(entry).collect::<Result<Vec<_>, _>>()?;
    let mut writer = FdtWriter::new_with_mem_reserv(&reservations)
        .map_err(|fault| format!("/memreserve/: {fault}"))?;
    writer.set_boot_cpuid_phys(tree.boot_cpu);
    node_by_another(&mut writer, &tree.root, "")?;
    writer.finish().map_err(|fault| format!("/: {fault}"))
}

fn node_by_another(writer: &mut FdtWriter, node: &Node, above: &str) -> Result<(), String> {
    let path = match node.name.as_str() {
        "" => String::new(),
        name => format!("{above}/{name}"),
    };
    let at = |fault| format!("{path}: {fault}");
    let open = writer.begin_node(&node.name).map_err(at)?;
    for Property { name, value } in &node.properties {
        let at = |fault| format!("{path}: property {name}: {fault}");
        writer.property(name, value).map_err(at)?;
    }
    for child in &node.children {
        node_by_another(writer, child, &path)?;
    }
    writer.end_node(open).map_err(at)
}

/// Names, most of them good.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        40 => "[a-z][a-z0-9,._+-]{0,30}",
        20 => "[a-z]{1,3}@[0-9a-f,]{1,33}",
        1 => "[a-z@0,._+?#/\\x00ä-]{0,4}",
        1 => "[a-z]{30,33}",
        1 => "[a-z]{30,32}@[0-9a-f,]{30,33}",
        1 => "[a-z]{1,3}@[a-z@]{0,3}",
    ]
}

fn node() -> impl Strategy<Value = Node> {
    let property = || {
        let name = prop_oneof![40 => "[a-c?#]{1,3}", 1 => name()];
        (name, vec(any::<u8>(), 0..9)).prop_map(|(name, value)| Property { name, value })
    };
    let leaf = (name(), vec(property(), 0..4)).prop_map(|(name, properties)| Node {
        name,
        properties,
        children: Vec::new(),
    });
    leaf.prop_recursive(4, 12, 3, |inner| {
        (inner.clone(), vec(inner, 0..3)).prop_map(|(node, children)| Node { children, ..node })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn a_tree_is_written_as_by_another(
        root in node(),
        boot_cpu in any::<u32>(),
        reservations in vec((any::<u64>(), prop_oneof![20 => 1u64..0x1000_0000, 1 => any::<u64>(), 1 => Just(0)]), 0..4),
        touching in any::<bool>(),
    ) {
        let mut tree = Tree { reservations, boot_cpu, root: Node { name: String::new(), ..root } };
        if let Some((address, size)) = tree.reservations.last().copied().filter(|_| touching) {
            tree.reservations.push((address.saturating_add(size), 1));
        }
        let ours = tree.to_blob().map_err(|error| error.to_string());
        prop_assert_eq!(ours, by_another(&tree));
    }

    #[test]
    fn a_deep_tree_is_written_as_by_another(deep in 62usize..67) {
        let mut tree = Tree::default();
        let mut below = &mut tree.root;
        for _ in 1..deep {
            below = below.ensure_child("deep");
        }
        let ours = tree.to_blob().map_err(|error| error.to_string());
        prop_assert_eq!(ours, by_another(&tree));
    }
}
