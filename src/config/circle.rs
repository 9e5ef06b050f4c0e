// SPDX-License-Identifier: Apache-2.0
//! VMs that wait for each other.

use std::collections::VecDeque;

use super::names::Dependency;

/// The shortest way from the VM `start` back to itself, by what each VM waits for: `a`, `b`, `a`. A VM
/// that waits for itself alone does not count.
pub(super) fn circle<'a>(
    start: &'a str,
    after: impl Fn(&str) -> &'a [Dependency],
) -> Option<Vec<&'a str>> {
    let mut seen = Vec::new();
    let mut ways = VecDeque::from([vec![start]]);
    while let Some(way) = ways.pop_front() {
        let last = way[way.len() - 1];
        for next in after(last).iter().map(|dependency| dependency.vm.as_str()) {
            let way = [&way[..], &[next]].concat();
            if next == start && last != start {
                return Some(way);
            }
            if next != start && !seen.contains(&next) {
                seen.push(next);
                ways.push_back(way);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

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
