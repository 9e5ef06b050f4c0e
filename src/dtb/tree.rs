// SPDX-License-Identifier: Apache-2.0
//! A devicetree in memory, and the ways to find and change what is in it.

use super::property::NodeAt;
use crate::list::Listed;

/// A whole devicetree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    /// The memory reservation block: address and bytes.
    pub reservations: Vec<(u64, u64)>,
    /// `boot_cpuid_phys` of the header.
    pub boot_cpu: u32,
    pub root: Node,
}

/// A node. The order of children and properties is kept: the resource manager cares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// With its unit address, `cpu@0`; the root's is empty.
    pub name: String,
    pub properties: Vec<Property>,
    pub children: Vec<Node>,
}

/// A property.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    pub name: String,
    /// Cells are big endian.
    pub value: Vec<u8>,
}

/// A name that is there twice.
fn twin<'a>(names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut names = names.listed();
    names.sort_unstable();
    names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty())
}

impl Tree {
    /// The node at `path` (`/cpus/cpu@0`). As in libfdt, a part without `@` also matches the first
    /// child of that name with any unit address: `/cpus/cpu`.
    pub fn at(&self, path: &str) -> Option<NodeAt<'_>> {
        let mut at = NodeAt::root(self);
        for part in parts(path) {
            let next = at.children().find(|child| child.node.answers_to(part))?;
            at = next;
        }
        path.starts_with('/').then_some(at)
    }

    /// As [`Tree::at`], to change it.
    pub fn find_mut(&mut self, path: &str) -> Option<&mut Node> {
        let mut node = &mut self.root;
        for part in parts(path) {
            node = node.children.iter_mut().find(|child| child.answers_to(part))?;
        }
        path.starts_with('/').then_some(node)
    }

    /// Every node with its path, parents before children, in the blob's order.
    pub fn walk(&self) -> Vec<NodeAt<'_>> {
        let mut found = Vec::new();
        let mut open = vec![NodeAt::root(self)];
        while let Some(at) = open.pop() {
            let mut children = at.children().listed();
            children.reverse();
            open.append(&mut children);
            found.push(at);
        }
        found
    }

    /// The first node with this phandle.
    pub fn by_phandle(&self, phandle: u32) -> Option<NodeAt<'_>> {
        let mut walk = self.walk().into_iter();
        walk.find(|at| at.phandle() == Some(phandle))
    }
}

impl Node {
    /// A node without anything in it.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    fn answers_to(&self, part: &str) -> bool {
        self.name == part || self.name.split('@').next() == Some(part)
    }

    /// A name that two of its children have.
    pub fn twin_child(&self) -> Option<&str> {
        twin(self.children.iter().map(|child| &*child.name))
    }

    /// A name that two of its properties have.
    pub fn twin_property(&self) -> Option<&str> {
        twin(self.properties.iter().map(|property| &*property.name))
    }

    /// The child of exactly this name.
    pub fn child(&self, name: &str) -> Option<&Node> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The child of exactly this name, appended if it is missing.
    pub fn ensure_child(&mut self, name: &str) -> &mut Node {
        let found = self.children.iter().position(|child| child.name == name);
        let at = found.unwrap_or_else(|| {
            self.children.push(Node::new(name));
            self.children.len() - 1
        });
        &mut self.children[at]
    }

    /// Appends a child.
    pub fn push(&mut self, child: Node) -> &mut Self {
        self.children.push(child);
        self
    }

    /// Takes the child of this name out.
    pub fn remove_child(&mut self, name: &str) -> Option<Node> {
        let at = self.children.iter().position(|child| child.name == name)?;
        Some(self.children.remove(at))
    }

    /// Moves the child of this name before its siblings.
    pub fn move_first(&mut self, name: &str) {
        if let Some(at) = self.children.iter().position(|child| child.name == name) {
            self.children[..=at].rotate_right(1);
        }
    }

    /// Sets the bytes of a property, in its old place if it is there.
    pub fn set(&mut self, name: &str, value: Vec<u8>) -> &mut Self {
        match self.properties.iter_mut().find(|old| old.name == name) {
            Some(old) => old.value = value,
            None => self.properties.push(Property { name: name.to_owned(), value }),
        }
        self
    }

    /// Sets an empty property.
    pub fn set_empty(&mut self, name: &str) -> &mut Self {
        self.set(name, Vec::new())
    }

    /// Sets one cell.
    pub fn set_u32(&mut self, name: &str, value: u32) -> &mut Self {
        self.set_cells(name, &[value])
    }

    /// Sets two cells.
    pub fn set_u64(&mut self, name: &str, value: u64) -> &mut Self {
        self.set_u64s(name, &[value])
    }

    /// Sets cells.
    pub fn set_cells(&mut self, name: &str, cells: &[u32]) -> &mut Self {
        let bytes = cells.iter().flat_map(|cell| cell.to_be_bytes());
        self.set(name, bytes.listed())
    }

    /// Sets pairs of cells: addresses and sizes where both take two cells.
    pub fn set_u64s(&mut self, name: &str, values: &[u64]) -> &mut Self {
        let bytes = values.iter().flat_map(|value| value.to_be_bytes());
        self.set(name, bytes.listed())
    }

    /// Sets a string. A NUL ends it, as it would for every reader.
    pub fn set_str(&mut self, name: &str, value: &str) -> &mut Self {
        self.set_strings(name, &[value])
    }

    /// Sets a list of strings. A NUL ends a string, as it would for every reader.
    pub fn set_strings(&mut self, name: &str, values: &[&str]) -> &mut Self {
        let mut bytes = Vec::new();
        for value in values {
            bytes.extend(value.bytes().take_while(|byte| *byte != 0));
            bytes.push(0);
        }
        self.set(name, bytes)
    }

    /// Takes a property out.
    pub fn remove(&mut self, name: &str) -> Option<Vec<u8>> {
        let named = |property: &Property| property.name == name;
        let at = self.properties.iter().position(named)?;
        Some(self.properties.remove(at).value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_cpus() -> Tree {
        let mut tree = Tree::default();
        let cpus = tree.root.ensure_child("cpus");
        cpus.ensure_child("cpu@0").set_u32("phandle", 7);
        cpus.ensure_child("cpu@1").set_u32("reg", 1);
        tree
    }

    #[test]
    fn paths_find_with_and_without_unit_address() {
        let tree = two_cpus();
        assert_eq!(tree.at("/cpus/cpu@1").unwrap().name, "cpu@1");
        assert_eq!(tree.at("/cpus/cpu").unwrap().name, "cpu@0");
        assert_eq!(tree.at("/").unwrap().name, "");
        assert!(tree.at("cpus").is_none());
        assert!(tree.at("/cpus/cpu@2").is_none());
        assert_eq!(tree.at("/cpus/cpu@1").unwrap().path(), "/cpus/cpu@1");
    }

    #[test]
    fn walk_keeps_the_blobs_order() {
        let paths: Vec<_> = two_cpus().walk().iter().map(|at| at.path().to_owned()).collect();
        assert_eq!(paths, ["/", "/cpus", "/cpus/cpu@0", "/cpus/cpu@1"]);
    }

    #[test]
    fn phandles_are_found_in_both_spellings() {
        let mut tree = two_cpus();
        assert_eq!(tree.by_phandle(7).unwrap().path(), "/cpus/cpu@0");
        let node = tree.find_mut("/cpus/cpu@1").unwrap();
        node.set_u32("linux,phandle", 9);
        assert_eq!(tree.by_phandle(9).unwrap().path(), "/cpus/cpu@1");
        assert!(tree.by_phandle(8).is_none());
    }

    #[test]
    fn children_keep_their_places() {
        let mut root = Node::default();
        for name in ["a", "b", "c", "b", "z"] {
            root.ensure_child(name);
        }
        root.move_first("c");
        let names: Vec<_> = root.children.iter().map(|child| &child.name[..]).collect();
        assert_eq!(names, ["c", "a", "b", "z"]);
        assert_eq!(root.remove_child("a").unwrap().name, "a");
        assert!(root.remove_child("a").is_none());
    }

    #[test]
    fn a_set_property_keeps_its_place() {
        let mut node = Node::new("n");
        node.set_u32("one", 1).set_str("two", "2").set_u64("one", 3);
        assert_eq!(node.properties[0].name, "one");
        assert_eq!(node.value("one").unwrap().len(), 8);
        assert_eq!(node.remove("one").unwrap(), 3u64.to_be_bytes());
        assert!(!node.has("one"));
    }

    #[test]
    fn strings_end_at_a_nul() {
        let mut node = Node::new("n");
        node.set_str("s", "ab\0cd");
        assert_eq!(node.value("s").unwrap(), b"ab\0");
    }
}
