// SPDX-License-Identifier: Apache-2.0
//! Handing parcels over: the entries of each, and pages that belong to somebody already.

use nix::errno::Errno;
use serde_json::{json, Value};

use crate::caller::Piece;
use crate::fdt::Node;
use crate::model::memory::Region;
use crate::model::Settings;
use crate::overlay;
use crate::vm::Access;

use super::{refused, Verdict, ENTRIES_PER_CALL};

/// Lends or shares the regions in list order.
pub fn hand_over(
    settings: &Settings,
    regions: &[Region],
    taken: &[Piece],
    notes: &mut Vec<Value>,
) -> Result<(), Verdict> {
    let mut gone: Vec<&Piece> = taken.iter().collect();
    let mut entries = 0u64;
    for region in regions {
        let label = region.given.label;
        if region.given.flags == 0 {
            return Err(refused(
                Errno::EINVAL,
                format!("region {label} has no permissions at all"),
            ));
        }
        if region.pieces.iter().any(|piece| gone.iter().any(|other| overlap(piece, other))) {
            return Err(refused(
                Errno::EINVAL,
                format!("pages of region {label} are lent or shared already"),
            ));
        }
        gone.extend(&region.pieces);
        let runs = region.pinned.and_then(|pinned| pinned.runs);
        notes.push(json!({
            "event": "parcel",
            "label": label,
            "access": match region.access {
                Access::Share => "share",
                Access::Lend => "lend",
            },
            "entries": runs,
            "calls": runs.map(|runs| runs.div_ceil(ENTRIES_PER_CALL)),
        }));
        entries = entries.saturating_add(runs.unwrap_or(0));
        if entries > settings.rm_entries {
            return Err(Verdict::Hangs {
                why: format!(
                    "{entries} memory entries, the resource manager survives {}",
                    settings.rm_entries
                ),
            });
        }
    }
    Ok(())
}

/// Whether any of these pages is among those.
pub fn overlap_any(pieces: &[Piece], others: &[Piece]) -> bool {
    pieces.iter().any(|piece| others.iter().any(|other| overlap(piece, other)))
}

/// A fixed range in `/reserved-memory` that names a parcel by its label.
pub fn labelled(root: &Node) -> Option<&str> {
    root.child("reserved-memory")?
        .children
        .iter()
        .find(|node| node.property("reg").is_some() && node.property("qcom,label").is_some())
        .map(|node| node.name.as_str())
}

fn overlap(a: &Piece, b: &Piece) -> bool {
    a.backing == b.backing
        && a.shared == b.shared
        && a.offset < b.offset.saturating_add(b.size)
        && b.offset < a.offset.saturating_add(a.size)
}

/// The fixed ranges in `/reserved-memory` that are neither labelled nor reusable. Read in the newer resource
/// manager's vm_creation.c and vm_memory.c: it takes them for memory that host and guest share.
pub fn fixed(root: &Node) -> Vec<(u64, u64)> {
    let Some(reserved) = root.child("reserved-memory") else {
        return Vec::new();
    };
    let plain = |node: &Node| !overlay::is_labelled(node) && node.property("reusable").is_none();
    overlay::fixed(reserved).filter(|(node, _)| plain(node)).map(|(_, range)| range).collect()
}

/// Looks for the parcel of each fixed range in `/reserved-memory`: by `qcom,label` and range, or by the
/// range alone. `placed`: label, guest address and size of each further parcel. Read in the older resource
/// manager's vm_creation.c.
pub fn reserved(root: &Node, placed: &[(u32, u64, u64)]) -> Result<(), Verdict> {
    let Some(reserved) = root.child("reserved-memory") else {
        return Ok(());
    };
    for node in &reserved.children {
        let label = node.cell("qcom,label");
        let reg = node.property("reg");
        if label.is_none() && reg.is_none() && node.property("size").is_some() {
            // Linux allocates it by itself.
            continue;
        }
        let range = overlay::fixed_range(reserved, node);
        let found = placed.iter().any(|&(own, base, size)| {
            range == Some((base, size)) && label.is_none_or(|label| label == own)
        });
        if !found {
            return Err(refused(
                Errno::ENODEV,
                format!("no parcel for /reserved-memory/{}", node.name),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::{Backing, Inode, PageState};
    use gunyah::uapi::UserMemoryRegion;

    fn piece(ino: u64, offset: u64, size: u64) -> Piece {
        Piece {
            address: 0x7000_0000,
            size,
            backing: Backing::File(Inode { dev: 1, ino }),
            offset,
            shared: true,
            writable: true,
            file: None,
            page_size: 4096,
            hugetlb: false,
            swap_backed: true,
        }
    }

    fn region(label: u32, piece: Piece, runs: Option<u64>) -> Region {
        Region {
            given: UserMemoryRegion {
                label,
                flags: 7,
                guest_phys_addr: u64::from(label) << 32,
                memory_size: piece.size,
                userspace_addr: piece.address,
            },
            access: Access::Lend,
            pieces: vec![piece],
            pinned: Some(PageState { pages: 1, faulted: 0, runs }),
        }
    }

    fn errno(result: Result<(), Verdict>) -> Errno {
        match result {
            Err(Verdict::Refused(refused)) => refused.errno,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_same_pages_twice_are_einval() {
        let settings = Settings::default();
        let one = region(1, piece(9, 0, 0x4000), Some(1));
        let far = region(2, piece(9, 0x4000, 0x4000), Some(1));
        let near = region(3, piece(9, 0x3000, 0x4000), Some(1));
        let mut notes = Vec::new();
        hand_over(&settings, &[one.clone(), far], &[], &mut notes).unwrap();
        assert_eq!(notes.len(), 2);
        let twice = hand_over(&settings, &[one.clone(), near], &[], &mut notes);
        assert_eq!(errno(twice), Errno::EINVAL);
        let of_another = hand_over(&settings, &[one], &[piece(9, 0, 0x1000)], &mut notes);
        assert_eq!(errno(of_another), Errno::EINVAL);
    }

    #[test]
    fn a_fixed_range_is_shared_unless_it_is_labelled_or_reusable() {
        let mut root = Node::new("");
        assert_eq!(fixed(&root), []);
        let reserved = root.ensure_child("reserved-memory");
        reserved.set_u32("#address-cells", 2).set_u32("#size-cells", 2);
        for (name, property) in [
            ("pool@1000", "compatible"),
            ("labelled@2000", "qcom,label"),
            ("reusable@3000", "reusable"),
        ] {
            let base = u64::from_str_radix(&name[name.len() - 4..], 16).unwrap();
            reserved.ensure_child(name).set_u64s("reg", &[base, 0x1000]).set_u32(property, 7);
        }
        reserved.ensure_child("placed").set_u64("size", 0x1000);
        reserved.ensure_child("odd@5000").set_u32("reg", 0x5000);
        assert_eq!(fixed(&root), [(0x1000, 0x1000)]);
    }

    #[test]
    fn no_permissions_are_einval() {
        let mut none = region(1, piece(9, 0, 0x4000), Some(1));
        none.given.flags = 0;
        let result = hand_over(&Settings::default(), &[none], &[], &mut Vec::new());
        assert_eq!(errno(result), Errno::EINVAL);
    }

    #[test]
    fn entries_are_told_in_calls_and_too_many_hang() {
        let settings = Settings::default();
        let mut notes = Vec::new();
        let many = region(1, piece(9, 0, 16 << 20), Some(4096));
        hand_over(&settings, &[many], &[], &mut notes).unwrap();
        assert_eq!(
            (notes[0]["entries"].as_u64(), notes[0]["calls"].as_u64()),
            (Some(4096), Some(8))
        );
        let too_many = region(1, piece(9, 0, 64 << 20), Some(16384));
        let result = hand_over(&settings, &[too_many], &[], &mut notes);
        assert!(matches!(result, Err(Verdict::Hangs { .. })));
        let unknown = region(1, piece(9, 0, 64 << 20), None);
        hand_over(&settings, &[unknown], &[], &mut notes).unwrap();
    }
}
