// SPDX-License-Identifier: Apache-2.0
//! Flattened devicetrees (devicetree specification 0.4, chapter 5): a reader that trusts nothing, the
//! tree as it can be changed, and the way back to a blob by `vm-fdt`.

use std::fmt;

use nix::errno::Errno;
use vm_fdt::{FdtReserveEntry, FdtWriter};

const MAGIC: u32 = 0xd00d_feed;
const HEADER: usize = 40;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;
/// Deeper than any guest's; bounds the recursion of whoever walks the tree.
const DEPTH: usize = 32;

/// What is wrong with a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FdtError {
    /// Offset in the blob.
    pub at: usize,
    /// What is wrong.
    pub what: &'static str,
}

impl fmt::Display for FdtError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "devicetree, offset {:#x}: {}", self.at, self.what)
    }
}

fn error(at: usize, what: &'static str) -> FdtError {
    FdtError { at, what }
}

/// A whole devicetree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    /// The memory reservation block: address and bytes.
    pub reservations: Vec<(u64, u64)>,
    /// The root node; its name is empty.
    pub root: Node,
}

/// A node and all below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// With the unit address; the root's is empty.
    pub name: String,
    /// In the blob's order.
    pub properties: Vec<(String, Vec<u8>)>,
    /// In the blob's order.
    pub children: Vec<Node>,
}

impl Node {
    /// An empty node.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_string(), ..Self::default() }
    }

    /// The name without the unit address.
    pub fn base_name(&self) -> &str {
        self.name.split('@').next().unwrap_or_default()
    }

    /// A property's bytes.
    pub fn property(&self, name: &str) -> Option<&[u8]> {
        self.properties.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_slice())
    }

    /// A property that is one cell.
    pub fn cell(&self, name: &str) -> Option<u32> {
        self.property(name)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// A property's first string.
    pub fn string(&self, name: &str) -> Option<&str> {
        let bytes = self.property(name)?;
        let end = bytes.iter().position(|&byte| byte == 0)?;
        std::str::from_utf8(&bytes[..end]).ok()
    }

    /// Whether a list of strings has this one.
    pub fn lists(&self, property: &str, wanted: &str) -> bool {
        self.property(property)
            .is_some_and(|list| list.split(|&byte| byte == 0).any(|one| one == wanted.as_bytes()))
    }

    /// Whether `compatible` has this name.
    pub fn is_compatible(&self, name: &str) -> bool {
        self.lists("compatible", name)
    }

    /// Its phandle, in either spelling.
    pub fn phandle(&self) -> Option<u32> {
        self.cell("phandle").or_else(|| self.cell("linux,phandle"))
    }

    /// A child by its full name.
    pub fn child(&self, name: &str) -> Option<&Node> {
        self.children.iter().find(|child| child.name == name)
    }

    /// A node by its path from here, such as `/a/b`; names may go without their unit addresses.
    pub fn at(&self, path: &str) -> Option<&Node> {
        let bare = |name: &str, child: &Node| !name.contains('@') && child.base_name() == name;
        path.split('/').filter(|name| !name.is_empty()).try_fold(self, |node, name| {
            let first = || node.children.iter().find(|child| bare(name, child));
            node.child(name).or_else(first)
        })
    }

    /// This node and all below, parents first.
    pub fn walk(&self) -> Vec<&Node> {
        let mut all = vec![self];
        let mut index = 0;
        while index < all.len() {
            let node = all[index];
            all.extend(&node.children);
            index += 1;
        }
        all
    }

    /// A child by its full name, to change it.
    pub fn child_mut(&mut self, name: &str) -> Option<&mut Node> {
        self.children.iter_mut().find(|child| child.name == name)
    }

    /// A child by its full name, made after all others if it is not there.
    pub fn ensure_child(&mut self, name: &str) -> &mut Node {
        let at = match self.children.iter().position(|child| child.name == name) {
            Some(at) => at,
            None => {
                self.children.push(Node::new(name));
                self.children.len() - 1
            }
        };
        &mut self.children[at]
    }

    /// Appends a child.
    pub fn push(&mut self, child: Node) -> &mut Self {
        self.children.push(child);
        self
    }

    /// Takes a child out.
    pub fn remove_child(&mut self, name: &str) -> Option<Node> {
        let at = self.children.iter().position(|child| child.name == name)?;
        Some(self.children.remove(at))
    }

    /// Sets a property, in its old place if it is there.
    pub fn set(&mut self, name: &str, value: Vec<u8>) -> &mut Self {
        match self.properties.iter_mut().find(|(have, _)| have == name) {
            Some((_, old)) => *old = value,
            None => self.properties.push((name.to_string(), value)),
        }
        self
    }

    /// Takes a property out.
    pub fn remove(&mut self, name: &str) {
        self.properties.retain(|(have, _)| have != name);
    }

    /// Sets a property without a value.
    pub fn set_empty(&mut self, name: &str) -> &mut Self {
        self.set(name, Vec::new())
    }

    /// Sets one cell.
    pub fn set_u32(&mut self, name: &str, value: u32) -> &mut Self {
        self.set_cells(name, &[value])
    }

    /// Sets cells.
    pub fn set_cells(&mut self, name: &str, cells: &[u32]) -> &mut Self {
        self.set(name, cells.iter().flat_map(|cell| cell.to_be_bytes()).collect())
    }

    /// Sets one number of two cells.
    pub fn set_u64(&mut self, name: &str, value: u64) -> &mut Self {
        self.set_u64s(name, &[value])
    }

    /// Sets numbers of two cells each.
    pub fn set_u64s(&mut self, name: &str, values: &[u64]) -> &mut Self {
        self.set(name, values.iter().flat_map(|value| value.to_be_bytes()).collect())
    }

    /// Sets a string.
    pub fn set_str(&mut self, name: &str, value: &str) -> &mut Self {
        self.set_strings(name, &[value])
    }

    /// Sets a list of strings.
    pub fn set_strings(&mut self, name: &str, values: &[&str]) -> &mut Self {
        let terminated = values.iter().flat_map(|value| [value.as_bytes(), b"\0"]);
        self.set(name, terminated.flatten().copied().collect())
    }
}

impl Tree {
    /// The blob, version 17.
    pub fn to_blob(&self) -> Result<Vec<u8>, vm_fdt::Error> {
        let reservations: Vec<_> = self
            .reservations
            .iter()
            .map(|&(address, size)| FdtReserveEntry::new(address, size))
            .collect::<Result<_, _>>()?;
        let mut writer = FdtWriter::new_with_mem_reserv(&reservations)?;
        write(&mut writer, &self.root)?;
        writer.finish()
    }
}

/// The writer bounds the depth, and so this recursion.
fn write(writer: &mut FdtWriter, node: &Node) -> Result<(), vm_fdt::Error> {
    let open = writer.begin_node(&node.name)?;
    for (name, value) in &node.properties {
        writer.property(name, value)?;
    }
    for child in &node.children {
        write(writer, child)?;
    }
    writer.end_node(open)
}

fn word(blob: &[u8], at: usize) -> Result<u32, FdtError> {
    at.checked_add(4)
        .and_then(|end| blob.get(at..end))
        .and_then(|bytes| bytes.try_into().ok())
        .map(u32::from_be_bytes)
        .ok_or(error(at, "ends too early"))
}

fn size(blob: &[u8], at: usize) -> Result<usize, FdtError> {
    usize::try_from(word(blob, at)?).map_err(|_| error(at, "too large"))
}

/// The text up to its NUL.
fn text(blob: &[u8], at: usize) -> Result<&str, FdtError> {
    let rest = blob.get(at..).ok_or(error(at, "string outside"))?;
    let end = rest.iter().position(|&byte| byte == 0).ok_or(error(at, "string without end"))?;
    std::str::from_utf8(&rest[..end]).map_err(|_| error(at, "string is not text"))
}

/// The number in one or two cells.
pub fn number(bytes: &[u8]) -> Option<u64> {
    let fits = bytes.len() == 4 || bytes.len() == 8;
    fits.then(|| bytes.iter().fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

/// Copies the blob from memory that `read` reads: as long as its header says, and no longer than
/// `room`.
pub fn fetch(
    read: impl Fn(&mut [u8]) -> Result<(), Errno>,
    room: u64,
) -> Result<Vec<u8>, FdtError> {
    let mut header = [0; HEADER];
    read(&mut header).map_err(|_| error(0, "memory is gone"))?;
    if word(&header, 0)? != MAGIC {
        return Err(error(0, "no magic number"));
    }
    let total = size(&header, 4)?;
    if total < HEADER || u64::try_from(total).map_or(true, |total| total > room) {
        return Err(error(4, "longer than the range that was given"));
    }
    let mut blob = vec![0; total];
    read(&mut blob).map_err(|_| error(0, "memory is gone"))?;
    Ok(blob)
}

/// Reads a whole blob.
pub fn parse(blob: &[u8]) -> Result<Tree, FdtError> {
    if word(blob, 0)? != MAGIC {
        return Err(error(0, "no magic number"));
    }
    let total = size(blob, 4)?;
    let blob = blob.get(..total).ok_or(error(4, "shorter than it says"))?;
    let structure = size(blob, 8)?;
    let strings = size(blob, 12)?;
    let reservations = reservations(blob)?;
    if word(blob, 24)? > 17 || word(blob, 20)? < 16 {
        return Err(error(20, "not version 17"));
    }
    let mut at = structure;
    let mut open: Vec<Node> = Vec::new();
    loop {
        let token_at = at;
        let token = word(blob, at)?;
        at += 4;
        match token {
            BEGIN_NODE => {
                let name = text(blob, at)?;
                at = aligned(at + name.len() + 1);
                if open.len() == DEPTH {
                    return Err(error(token_at, "too deep"));
                }
                open.push(Node { name: name.to_string(), ..Node::default() });
            }
            END_NODE => {
                let done = open.pop().ok_or(error(token_at, "end without begin"))?;
                match open.last_mut() {
                    Some(parent) => parent.children.push(done),
                    None => {
                        return match word(blob, at)? {
                            END => Ok(Tree { reservations, root: done }),
                            _ => Err(error(at, "more after the root")),
                        }
                    }
                }
            }
            PROP => {
                let length = size(blob, at)?;
                let name_at =
                    strings.checked_add(size(blob, at + 4)?).ok_or(error(at, "string outside"))?;
                let name = text(blob, name_at)?;
                let start = at + 8;
                let value = start
                    .checked_add(length)
                    .and_then(|end| blob.get(start..end))
                    .ok_or(error(at, "property outside"))?;
                let node = open.last_mut().ok_or(error(at, "property outside nodes"))?;
                node.properties.push((name.to_string(), value.to_vec()));
                at = aligned(start + length);
            }
            NOP => {}
            _ => return Err(error(token_at, "unknown token")),
        }
    }
}

/// The memory reservation block, which ends at a pair of zeros.
fn reservations(blob: &[u8]) -> Result<Vec<(u64, u64)>, FdtError> {
    let mut at = size(blob, 16)?;
    let mut all = Vec::new();
    loop {
        let number = |at| Ok(u64::from(word(blob, at)?) << 32 | u64::from(word(blob, at + 4)?));
        match (number(at)?, number(at + 8)?) {
            (0, 0) => return Ok(all),
            pair => all.push(pair),
        }
        at += 16;
    }
}

fn aligned(at: usize) -> usize {
    at.div_ceil(4) * 4
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_fdt::FdtWriter;

    fn blob() -> Vec<u8> {
        let mut fdt = FdtWriter::new().unwrap();
        let root = fdt.begin_node("").unwrap();
        fdt.property_u32("#address-cells", 2).unwrap();
        let chosen = fdt.begin_node("chosen").unwrap();
        fdt.property_string("bootargs", "quiet").unwrap();
        fdt.end_node(chosen).unwrap();
        let soc = fdt.begin_node("soc").unwrap();
        let uart = fdt.begin_node("uart@9000000").unwrap();
        fdt.property_array_u32("reg", &[0, 0x900_0000]).unwrap();
        fdt.end_node(uart).unwrap();
        fdt.end_node(soc).unwrap();
        fdt.end_node(root).unwrap();
        fdt.finish().unwrap()
    }

    #[test]
    fn a_tree_comes_back() {
        let root = parse(&blob()).unwrap().root;
        assert_eq!(root.cell("#address-cells"), Some(2));
        assert_eq!(root.children[0].name, "chosen");
        assert_eq!(root.at("/chosen").unwrap().string("bootargs"), Some("quiet"));
        let uart = root.at("/soc/uart@9000000").unwrap();
        assert_eq!(uart.property("reg").map(<[u8]>::len), Some(8));
        assert_eq!(uart.cell("reg"), None);
        assert_eq!(root.walk().len(), 4);
    }

    #[test]
    fn a_changed_tree_is_written_and_read_again() {
        let mut tree = parse(&blob()).unwrap();
        tree.reservations.push((0x8000_0000, 0x1000));
        let node = tree.root.ensure_child("memory");
        node.set_u64s("reg", &[0x8000_0000, 0x20_0000])
            .set_strings("names", &["x", "y"])
            .set_empty("flag")
            .set_u32("one", 1)
            .set_u32("one", 2);
        node.remove("flag");
        tree.root.remove_child("chosen");
        let again = parse(&tree.to_blob().unwrap()).unwrap();
        assert_eq!(again, tree);
        let node = again.root.child("memory").unwrap();
        assert_eq!(node.cell("one"), Some(2));
        assert!(node.lists("names", "y") && node.property("flag").is_none());
    }

    #[test]
    fn no_byte_less_and_no_byte_changed_panics() {
        let blob = blob();
        for length in 0..blob.len() {
            assert!(parse(&blob[..length]).is_err(), "{length} bytes");
        }
        for at in 0..blob.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut spoilt = blob.clone();
                spoilt[at] = value;
                // Either way is right; it must come back.
                let _ = parse(&spoilt);
            }
        }
    }

    #[test]
    fn depth_is_bounded() {
        let mut fdt = FdtWriter::new().unwrap();
        let mut nodes = vec![fdt.begin_node("").unwrap()];
        for _ in 0..40 {
            nodes.push(fdt.begin_node("deeper").unwrap());
        }
        for node in nodes.into_iter().rev() {
            fdt.end_node(node).unwrap();
        }
        let error = parse(&fdt.finish().unwrap()).unwrap_err();
        assert_eq!(error.what, "too deep");
    }

    #[test]
    fn a_blob_longer_than_its_room_is_not_fetched() {
        let blob = blob();
        let length = blob.len() as u64;
        let read = |into: &mut [u8]| {
            into.copy_from_slice(&blob[..into.len()]);
            Ok(())
        };
        assert_eq!(fetch(read, length).unwrap(), blob);
        assert!(fetch(read, length - 1).is_err());
        assert!(fetch(|_| Err(Errno::EFAULT), length).is_err());
    }
}
