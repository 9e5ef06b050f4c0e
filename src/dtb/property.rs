// SPDX-License-Identifier: Apache-2.0
//! Typed reads of properties, and nodes with their paths. A property that is missing and one of another
//! type both read as `None`; a rule that cares asks [`Node::has`].

use std::ops::Deref;

use super::tree::{Node, Tree};
use crate::list::Listed;

/// The strings of a value, `None` if it is not NUL-terminated UTF-8 text.
pub(super) fn text(value: &[u8]) -> Option<Vec<&str>> {
    let (last, body) = value.split_last()?;
    if *last != 0 {
        return None;
    }
    Some(std::str::from_utf8(body).ok()?.split('\0').listed())
}

/// Up to eight big endian bytes as a number.
pub(super) fn number(bytes: &[u8]) -> u64 {
    let join = |number, byte: &u8| (number << 8) | u64::from(*byte);
    bytes.iter().fold(0, join)
}

/// The cells of a value whose bytes are whole cells.
pub(super) fn cells(value: &[u8]) -> impl Iterator<Item = u32> + '_ {
    let join = |number, byte: &u8| (number << 8) | u32::from(*byte);
    value.chunks_exact(4).map(move |cell| cell.iter().fold(0, join))
}

impl Node {
    /// The bytes of a property.
    pub fn value(&self, property: &str) -> Option<&[u8]> {
        let mut all = self.properties.iter();
        let found = all.find(|candidate| candidate.name == property)?;
        Some(&found.value)
    }

    /// Whether the property is there, empty or not.
    pub fn has(&self, property: &str) -> bool {
        self.value(property).is_some()
    }

    /// One cell.
    pub fn u32(&self, property: &str) -> Option<u32> {
        let value = self.value(property)?.try_into().ok()?;
        Some(u32::from_be_bytes(value))
    }

    /// One number of one or two cells, whichever the property has: Linux reads `linux,initrd-start` so.
    pub fn number(&self, property: &str) -> Option<u64> {
        let value = self.value(property)?;
        matches!(value.len(), 4 | 8).then(|| number(value))
    }

    /// Cells.
    pub fn cells(&self, property: &str) -> Option<Vec<u32>> {
        let value = self.value(property)?;
        (value.len() % 4 == 0).then(|| cells(value).listed())
    }

    /// The first string.
    pub fn str(&self, property: &str) -> Option<&str> {
        self.strings(property)?.first().copied()
    }

    /// All strings.
    pub fn strings(&self, property: &str) -> Option<Vec<&str>> {
        text(self.value(property)?)
    }

    /// Whether a list of strings has this one.
    pub fn lists(&self, property: &str, wanted: &str) -> bool {
        self.strings(property).is_some_and(|strings| strings.contains(&wanted))
    }

    /// Whether `compatible` lists `model`.
    pub fn is_compatible(&self, model: &str) -> bool {
        self.lists("compatible", model)
    }

    /// Its `phandle`, or the older `linux,phandle`.
    pub fn phandle(&self) -> Option<u32> {
        self.u32("phandle").or_else(|| self.u32("linux,phandle"))
    }
}

/// How many cells addresses and sizes take below a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cells {
    pub address: usize,
    pub size: usize,
}

impl Cells {
    /// What `node` sets for its children; the specification's defaults are 2 and 1.
    pub fn below(node: &Node) -> Self {
        let cells = |property, default| {
            let cells = node.u32(property);
            cells.map_or(default, |cells| usize::try_from(cells).unwrap_or(usize::MAX))
        };
        Self { address: cells("#address-cells", 2), size: cells("#size-cells", 1) }
    }

    /// An address and a size as cells; what a number of cells cannot hold is cut off.
    pub fn range(self, address: u64, size: u64) -> Vec<u8> {
        let part = |number: u64, cells: usize| {
            let skipped = 8usize.saturating_sub(cells.saturating_mul(4));
            number.to_be_bytes().into_iter().skip(skipped)
        };
        part(address, self.address).chain(part(size, self.size)).listed()
    }
}

/// A node with its place in the tree.
#[derive(Debug, Clone)]
pub struct NodeAt<'a> {
    pub node: &'a Node,
    path: String,
    cells: Cells,
}

impl Deref for NodeAt<'_> {
    type Target = Node;
    fn deref(&self) -> &Node {
        self.node
    }
}

impl<'a> NodeAt<'a> {
    pub(super) fn root(tree: &'a Tree) -> Self {
        Self { node: &tree.root, path: "/".to_owned(), cells: Cells::below(&Node::default()) }
    }

    /// Full path: `/cpus/cpu@0`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// 0 for the root, 1 for its children.
    pub fn depth(&self) -> usize {
        match self.path.as_str() {
            "/" => 0,
            path => path.matches('/').count(),
        }
    }

    /// The path of the node around it.
    pub(super) fn above(&self) -> &str {
        match self.path.rfind('/') {
            Some(0) | None => "/",
            Some(at) => &self.path[..at],
        }
    }

    /// The children with their paths.
    pub fn children(&self) -> impl Iterator<Item = NodeAt<'a>> + '_ {
        let above = self.path.trim_end_matches('/');
        let cells = Cells::below(self.node);
        self.node.children.iter().map(move |node| NodeAt {
            node,
            path: format!("{above}/{}", node.name),
            cells,
        })
    }

    /// The child of exactly this name.
    pub fn child(&self, name: &str) -> Option<NodeAt<'a>> {
        self.children().find(|child| child.name == name)
    }

    /// The ranges of `reg`, in the cells that the node around it sets.
    pub fn reg(&self) -> Option<Vec<(u64, u64)>> {
        let Cells { address, size } = self.cells;
        let value = self.node.value("reg")?;
        let range = (1..=2).contains(&address) && size <= 2;
        let bytes = range.then_some((address + size) * 4)?;
        let ranges = value.chunks_exact(bytes);
        ranges.remainder().is_empty().then(|| {
            ranges
                .map(|range| range.split_at(address * 4))
                .map(|(address, size)| (number(address), number(size)))
                .listed()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let mut tree = Tree::default();
        tree.root
            .ensure_child("a")
            .set_u32("#size-cells", 2)
            .ensure_child("b@1")
            .set_cells("reg", &[1, 2, 3, 4])
            .set_u32("one", 5)
            .set_strings("names", &["x", "", "y"])
            .set("odd", vec![1, 2, 3])
            .set_empty("flag");
        tree
    }

    #[test]
    fn typed_reads() {
        let tree = tree();
        let at = tree.at("/a/b").unwrap();
        assert_eq!((at.path(), at.depth(), at.above()), ("/a/b@1", 2, "/a"));
        assert_eq!(at.u32("one"), Some(5));
        assert_eq!(at.number("one"), Some(5));
        assert_eq!(at.cells("reg").unwrap(), [1, 2, 3, 4]);
        assert_eq!(at.strings("names").unwrap(), ["x", "", "y"]);
        assert_eq!(at.str("names"), Some("x"));
    }

    #[test]
    fn what_has_another_type_reads_as_nothing() {
        let tree = tree();
        let at = tree.at("/a/b@1").unwrap();
        assert_eq!(at.cells("odd"), None);
        assert_eq!(at.number("odd"), None);
        assert_eq!(at.u32("none"), None);
        assert_eq!(at.str("one"), None);
        assert_eq!(at.str("flag"), None);
    }

    #[test]
    fn ranges_take_the_cells_of_the_node_around_them() {
        let mut tree = tree();
        let reg = |tree: &Tree| tree.at("/a/b@1").unwrap().reg();
        assert_eq!(reg(&tree).unwrap(), [(0x1_0000_0002, 0x3_0000_0004)]);
        for (address, size, wanted) in [
            (1, 1, Some(vec![(1, 2), (3, 4)])),
            (2, 0, Some(vec![(0x1_0000_0002, 0), (0x3_0000_0004, 0)])),
            (0, 2, None),
            (2, 1, None),
            (3, 1, None),
            (u32::MAX, 1, None),
        ] {
            let parent = tree.find_mut("/a").unwrap();
            parent.set_u32("#address-cells", address);
            parent.set_u32("#size-cells", size);
            assert_eq!(reg(&tree), wanted, "{address} {size}");
        }
    }

    #[test]
    fn ranges_are_written_in_the_cells_that_there_are() {
        let range = |address, size| Cells { address, size }.range(0x1_0000_0002, 0x30);
        assert_eq!(range(2, 1), [0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0x30]);
        assert_eq!(range(1, 0), [0, 0, 0, 2]);
        assert_eq!(range(usize::MAX, 0).len(), 8);
    }
}
