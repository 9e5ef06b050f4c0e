// SPDX-License-Identifier: Apache-2.0
//! Typed reads of properties. Their errors name the node's path and the property.

use std::fmt;
use std::ops::Deref;

use super::tree::Node;

/// A node with its full path.
#[derive(Debug, Clone)]
pub struct NodeAt<'a> {
    path: String,
    /// The node.
    pub node: &'a Node,
}

/// A property that is not what its reader needs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{node}: property {property} {fault}")]
pub struct PropertyError {
    /// Full path of the node.
    pub node: String,
    /// The property.
    pub property: String,
    /// What is wrong with it.
    pub fault: PropertyFault,
}

/// What is wrong with a property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PropertyFault {
    /// It is not there.
    Absent,
    /// Its length in bytes is not the one that its type has.
    Length {
        /// What it has.
        got: usize,
        /// What it should have, or be a multiple of.
        want: usize,
    },
    /// It is not NUL-terminated UTF-8 text.
    NotText,
}

impl fmt::Display for PropertyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PropertyFault::Absent => f.write_str("is missing"),
            PropertyFault::Length { got, want } => {
                write!(f, "has {got} bytes instead of {want} (or a multiple)")
            }
            PropertyFault::NotText => f.write_str("is not NUL-terminated text"),
        }
    }
}

/// The strings of a value, `None` if it is not NUL-terminated UTF-8 text.
pub(super) fn text(value: &[u8]) -> Option<Vec<&str>> {
    let (last, body) = value.split_last()?;
    if *last != 0 {
        return None;
    }
    Some(std::str::from_utf8(body).ok()?.split('\0').collect())
}

impl Deref for NodeAt<'_> {
    type Target = Node;
    fn deref(&self) -> &Node {
        self.node
    }
}

impl<'a> NodeAt<'a> {
    pub(super) fn root(node: &'a Node) -> Self {
        Self {
            path: "/".to_owned(),
            node,
        }
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

    /// The children with their paths.
    pub fn children(&self) -> impl Iterator<Item = NodeAt<'a>> + '_ {
        let above = self.path.trim_end_matches('/');
        self.node.children.iter().map(move |node| NodeAt {
            path: format!("{above}/{}", node.name),
            node,
        })
    }

    /// The child of exactly this name.
    pub fn child(&self, name: &str) -> Option<NodeAt<'a>> {
        self.children().find(|child| child.name == name)
    }

    fn error(&self, property: &str, fault: PropertyFault) -> PropertyError {
        PropertyError {
            node: self.path.clone(),
            property: property.to_owned(),
            fault,
        }
    }

    fn needed(&self, property: &str) -> Result<&'a [u8], PropertyError> {
        self.node
            .value(property)
            .ok_or_else(|| self.error(property, PropertyFault::Absent))
    }

    /// One cell.
    pub fn u32(&self, property: &str) -> Result<u32, PropertyError> {
        let value = self.needed(property)?;
        let got = value.len();
        let bytes = value
            .try_into()
            .map_err(|_| self.error(property, PropertyFault::Length { got, want: 4 }))?;
        Ok(u32::from_be_bytes(bytes))
    }

    /// One number of one or two cells, whichever the property has: Linux reads
    /// `linux,initrd-start` so.
    pub fn number(&self, property: &str) -> Result<u64, PropertyError> {
        let value = self.needed(property)?;
        match value.len() {
            4 => self.u32(property).map(u64::from),
            8 => Ok(join(value)),
            got => Err(self.error(property, PropertyFault::Length { got, want: 8 })),
        }
    }

    /// Cells.
    pub fn cells(&self, property: &str) -> Result<Vec<u32>, PropertyError> {
        let value = self.needed(property)?;
        if value.len() % 4 != 0 {
            let got = value.len();
            return Err(self.error(property, PropertyFault::Length { got, want: 4 }));
        }
        Ok(value
            .chunks_exact(4)
            .filter_map(|cell| Some(u32::from_be_bytes(cell.try_into().ok()?)))
            .collect())
    }

    /// Address and size pairs; each takes 0, 1 or 2 cells.
    pub fn ranges(
        &self,
        property: &str,
        address_cells: usize,
        size_cells: usize,
    ) -> Result<Vec<(u64, u64)>, PropertyError> {
        let value = self.needed(property)?;
        let got = value.len();
        let want = address_cells.saturating_add(size_cells).saturating_mul(4);
        let sane = (1..=2).contains(&address_cells) && size_cells <= 2;
        if !sane || got % want != 0 {
            return Err(self.error(property, PropertyFault::Length { got, want }));
        }
        Ok(value
            .chunks_exact(want)
            .map(|range| {
                let (address, size) = range.split_at(address_cells * 4);
                (join(address), join(size))
            })
            .collect())
    }

    /// The first string.
    pub fn str(&self, property: &str) -> Result<&'a str, PropertyError> {
        let strings = self.strings(property)?;
        Ok(strings.first().copied().unwrap_or_default())
    }

    /// All strings.
    pub fn strings(&self, property: &str) -> Result<Vec<&'a str>, PropertyError> {
        text(self.needed(property)?).ok_or_else(|| self.error(property, PropertyFault::NotText))
    }
}

/// Up to eight big endian bytes as a number.
fn join(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::super::tree::{Position, Tree};
    use super::*;

    fn tree() -> Tree {
        let mut tree = Tree::default();
        tree.root
            .ensure_child("a", Position::Last)
            .ensure_child("b@1", Position::Last)
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
        assert_eq!(at.depth(), 2);
        assert_eq!(at.u32("one").unwrap(), 5);
        assert_eq!(at.number("one").unwrap(), 5);
        assert_eq!(at.cells("reg").unwrap(), [1, 2, 3, 4]);
        assert_eq!(
            at.ranges("reg", 2, 2).unwrap(),
            [(0x1_0000_0002, 0x3_0000_0004)]
        );
        assert_eq!(at.ranges("reg", 1, 1).unwrap(), [(1, 2), (3, 4)]);
        assert_eq!(at.strings("names").unwrap(), ["x", "", "y"]);
        assert_eq!(at.str("names").unwrap(), "x");
    }

    #[test]
    fn errors_name_node_and_property() {
        let tree = tree();
        let at = tree.at("/a/b@1").unwrap();
        assert_eq!(
            at.cells("odd").unwrap_err().to_string(),
            "/a/b@1: property odd has 3 bytes instead of 4 (or a multiple)"
        );
        assert_eq!(
            at.u32("none").unwrap_err().to_string(),
            "/a/b@1: property none is missing"
        );
        assert_eq!(at.str("one").unwrap_err().fault, PropertyFault::NotText);
        assert_eq!(at.str("flag").unwrap_err().fault, PropertyFault::NotText);
        assert!(at.ranges("reg", 0, 2).is_err());
        assert!(at.ranges("reg", 2, 1).is_err());
        assert!(at.ranges("reg", 3, 1).is_err());
    }
}
