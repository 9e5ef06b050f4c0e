// SPDX-License-Identifier: Apache-2.0
//! VMs that wait for each other.

use std::collections::{BTreeMap, VecDeque};

use super::names::Dependency;

/// The shortest way from the VM `start` back to itself, by what each VM waits for: `a`, `b`, `a`. A VM
/// that waits for itself alone does not count.
pub(super) fn circle<'a>(
    start: &'a str,
    after: impl Fn(&str) -> &'a [Dependency],
) -> Option<Vec<&'a str>> {
    let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
    let mut open = VecDeque::from([start]);
    while let Some(vm) = open.pop_front() {
        for next in after(vm).iter().map(|dependency| dependency.vm.as_str()) {
            if next == start && vm != start {
                let mut way = vec![start, vm];
                // Only `start` itself came from nowhere.
                while let Some(before) = way.last().and_then(|last| came_from.get(last)) {
                    way.push(before);
                }
                way.reverse();
                return Some(way);
            }
            if next != start && !came_from.contains_key(next) {
                came_from.insert(next, vm);
                open.push_back(next);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::VmName;
    use super::*;

    #[test]
    fn the_shortest_way_back_is_found() {
        let after = |vms: &[&str]| -> Vec<Dependency> {
            let vms = vms.iter().map(|vm| VmName::new(vm).unwrap());
            vms.map(|vm| Dependency { vm, ready: false }).collect()
        };
        let vms = BTreeMap::from([
            ("a", after(&["x", "b", "c"])),
            ("b", after(&["c"])),
            ("c", after(&["d"])),
            ("d", after(&["a", "b"])),
            ("e", after(&["e"])),
            ("f", after(&["a"])),
        ]);
        let of = |start| circle(start, |vm| vms.get(vm).map_or(&[], Vec::as_slice));
        assert_eq!(of("a"), Some(vec!["a", "c", "d", "a"]));
        assert_eq!(of("b"), Some(vec!["b", "c", "d", "b"]));
        // It waits for itself alone, and for a VM in a circle.
        assert_eq!(of("e"), None);
        assert_eq!(of("f"), None);
    }
}
