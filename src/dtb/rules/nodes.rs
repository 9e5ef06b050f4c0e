// SPDX-License-Identifier: Apache-2.0
//! The tree as a whole: which nodes there must be, and how they are named and nested.

use super::is_first;
use crate::diagnostic::kinds;
use crate::dtb::build::Faults;
use crate::dtb::tree::Tree;

kinds! {
    // Seen.
    NO_CHOSEN: Error "dtb-no-chosen" in Dtb, START answers ENODEV {
        "the devicetree has no /chosen",
        cause: "the resource manager's overlay adds to /chosen and fails without it",
        cure: "add /chosen as the root's first child",
    }
    // Seen.
    HYPERVISOR_NODE: Error "dtb-hypervisor-node" in Dtb, START answers EPERM {
        "the devicetree has a /hypervisor",
        cause: "the resource manager makes /hypervisor itself",
        cure: "remove it",
    }
    // Seen.
    MEMORY_NODE_NAME: Error "dtb-memory-node-name" in Dtb, START answers EINVAL {
        "a node with device_type \"memory\" is not /memory",
        cause: "the resource manager writes /memory itself and refuses every other memory node",
        cure: "remove the node, or name it memory and put it under the root",
    }
    // Spec.
    DUPLICATE_NODE: Error "dtb-duplicate-node" in Dtb {
        "two children of a node have the same name",
        cause: "readers differ in which one they take, and the kernel drops the second",
        cure: "rename one of them",
    }
    // Spec.
    DUPLICATE_PHANDLE: Error "dtb-duplicate-phandle" in Dtb {
        "two nodes have the same phandle",
        cause: "readers differ in which node they take",
        cure: "let dtc number them",
    }
    // Read.
    DEPTH: Error "dtb-depth" in Dtb {
        "a node is more than 15 nodes deep",
        cause: "the resource manager's parser has 16 levels and dies at the next",
        cure: "flatten the tree",
    }
    // Read.
    PATH_LENGTH: Error "dtb-path-length" in Dtb, START answers EINVAL {
        "the path of a node is too long",
        cause: "the resource manager's parser has room for 255 bytes, and for 127 where it is a CPU's",
        cure: "shorten the names, or flatten the tree",
    }
}

/// Levels of the resource manager's parser, the root included.
const DEPTH_MAX: usize = 16;
/// Bytes of the longest path: its buffer has 256 with the NUL.
pub(super) const PATH_MAX: usize = 255;

pub(super) fn check(tree: &Tree, faults: &mut Faults<'_>) {
    let mut phandles = Vec::new();
    // One of each is enough: a hostile tree could have thousands.
    let (mut deep, mut long, mut twin) = (None, None, None);
    for at in tree.walk() {
        let path = at.path();
        let second = at.node.twin_child().and_then(|name| at.child(name));
        if let Some(second) = second {
            twin.get_or_insert_with(|| {
                DUPLICATE_NODE.case(format!("{} is there twice", second.path()))
            });
        }
        if at.depth() >= DEPTH_MAX {
            deep.get_or_insert_with(|| DEPTH.case(format!("{path} is more than 15 nodes deep")));
        } else if path.len() > PATH_MAX {
            long.get_or_insert_with(|| path_length(path, PATH_MAX));
        }
        if at.lists("device_type", "memory") && path != "/memory" {
            faults.add(
                MEMORY_NODE_NAME
                    .case(format!("{path} has device_type \"memory\" and is not /memory")),
            );
        }
        if let Some(phandle) =
            at.phandle().filter(|phandle| !is_first(&mut phandles, u64::from(*phandle)))
        {
            faults.add(
                DUPLICATE_PHANDLE
                    .case(format!("{path} has phandle {phandle:#x}, as another node has")),
            );
        }
    }
    let first = [deep, long, twin].into_iter().flatten();
    first.for_each(|fault| faults.add(fault));
    if tree.root.child("chosen").is_none() {
        faults.add(NO_CHOSEN.case("there is no /chosen"));
    }
    if tree.at("/hypervisor").is_some() {
        faults.add(HYPERVISOR_NODE.case("there is a /hypervisor"));
    }
}

pub(super) fn path_length(path: &str, max: usize) -> crate::diagnostic::Diagnostic {
    PATH_LENGTH
        .case(format!("the path of a node has {} bytes, {max} are allowed: {path}", path.len()))
}
