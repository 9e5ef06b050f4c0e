// SPDX-License-Identifier: Apache-2.0
//! The flattened form, read with bounds and distrust.
//!
//! Format: Devicetree Specification v0.4, chapter 5.

use super::property::number;
use super::tree::{Node, Property, Tree};
use crate::diagnostic::kinds;
use crate::layout::DTB_MAX;
use crate::list::Listed;
use crate::text::excerpt;

kinds! {
    UNREADABLE: Error "dtb-unreadable" in Dtb {
        "the given devicetree cannot be read",
        cause: "the file is not a flattened devicetree, or is damaged",
        cure: "compile the source again with dtc -O dtb",
    }
}

/// Deepest nesting, the root included: what Linux and `vm-fdt` take.
pub(super) const DEPTH_MAX: usize = 64;
/// Most nodes. Far above any guest's; bounds the memory that a hostile blob can cost.
pub(super) const NODES_MAX: usize = 16 * 1024;
/// Most properties, for the same reason.
pub(super) const PROPERTIES_MAX: usize = 64 * 1024;
/// Longest path in bytes: 64 levels of names that the specification allows. Bounds what paths cost.
pub(super) const PATH_MAX: usize = 2048;
/// Longest name in bytes. The specification says 31 before the unit address.
pub(super) const NAME_MAX: usize = 255;

const MAGIC: u32 = 0xd00d_feed;
const VERSION: u32 = 17;
const HEADER_LEN: usize = 40;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// Why bytes are not a devicetree that gunyahd reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(String);

fn fail<T>(what: impl Into<String>) -> Result<T, ParseError> {
    Err(ParseError(what.into()))
}

impl Tree {
    /// Reads a blob of version 17. Bytes after its total size are ignored; a property that is there
    /// twice is refused, because readers differ in which one they take.
    pub fn parse(bytes: &[u8]) -> Result<Tree, ParseError> {
        let blocks = Blocks::find(bytes)?;
        let reader =
            Reader { structure: blocks.structure, strings: blocks.strings, ..Reader::default() };
        Ok(Tree {
            reservations: reservations(blocks.reservations)?,
            boot_cpu: blocks.boot_cpu,
            root: reader.root()?,
        })
    }
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    let cell = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(cell.try_into().ok()?))
}

/// The string at `offset` of the strings block; `None` without an end, or with one beyond every name's.
fn string(strings: &[u8], offset: usize) -> Option<&[u8]> {
    let rest = strings.get(offset..)?;
    let len = rest.iter().take(NAME_MAX + 1).position(|byte| *byte == 0)?;
    Some(&rest[..len])
}

/// The blob's blocks, known to lie inside it and apart from each other.
struct Blocks<'a> {
    reservations: &'a [u8],
    structure: &'a [u8],
    strings: &'a [u8],
    boot_cpu: u32,
}

impl<'a> Blocks<'a> {
    fn find(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let Some(header) = bytes.get(..HEADER_LEN) else {
            return fail(format!(
                "{} bytes are too few for a devicetree blob (its header alone has {HEADER_LEN})",
                bytes.len()
            ));
        };
        let field = |index: usize| be32(header, index * 4).unwrap_or_default();
        // What does not fit usize is beyond the end of any blob.
        let size = |index: usize| usize::try_from(field(index)).unwrap_or(usize::MAX);

        let magic = field(0);
        if magic != MAGIC {
            return fail(format!(
                "the magic number is {magic:#010x}, a devicetree blob has {MAGIC:#010x}"
            ));
        }
        let (version, compatible) = (field(5), field(6));
        if version < VERSION || compatible > VERSION {
            return fail(format!(
                "the blob has version {version} (compatible to {compatible}), only {VERSION} is read"
            ));
        }
        let total = size(1);
        if u64::from(field(1)) > DTB_MAX {
            return fail(format!(
                "the blob says it has {total} bytes, arm64 guests take at most {DTB_MAX}"
            ));
        }
        let Some(blob) = bytes.get(..total).filter(|_| total >= HEADER_LEN) else {
            return fail(format!(
                "the blob says it has {total} bytes, its file has {}",
                bytes.len()
            ));
        };
        let reserved = reservations_len(blob, size(4)).unwrap_or(usize::MAX);
        let ranges = [
            ("reservation", size(4), reserved, 8),
            ("structure", size(2), size(9), 4),
            ("strings", size(3), size(8), 1),
        ];
        let mut blocks = [&[][..]; 3];
        for ((name, offset, len, align), block) in ranges.into_iter().zip(&mut blocks) {
            let end = offset.checked_add(len).filter(|_| offset >= HEADER_LEN);
            let inside = end.and_then(|end| blob.get(offset..end));
            let Some(inside) = inside.filter(|_| offset % align == 0) else {
                return fail(format!(
                    "the {name} block at {offset:#x} is misaligned or outside the blob"
                ));
            };
            *block = inside;
        }
        let mut sorted = ranges;
        sorted.sort_by_key(|(_, offset, len, _)| (*offset, *len));
        for pair in sorted.windows(2) {
            if pair[0].1 + pair[0].2 > pair[1].1 {
                return fail(format!("the {} and {} blocks overlap", pair[0].0, pair[1].0));
            }
        }
        let [reservations, structure, strings] = blocks;
        Ok(Self { reservations, structure, strings, boot_cpu: field(7) })
    }
}

/// Bytes from `offset` to after the entry that ends the reservation block; one of size 0 ends it for
/// libfdt and Linux.
fn reservations_len(blob: &[u8], offset: usize) -> Option<usize> {
    let mut entries = blob.get(offset..)?.chunks_exact(16);
    let last = entries.position(|entry| entry[8..].iter().all(|byte| *byte == 0))?;
    Some((last + 1) * 16)
}

fn reservations(block: &[u8]) -> Result<Vec<(u64, u64)>, ParseError> {
    let mut entries = block
        .chunks_exact(16)
        .map(|entry| entry.split_at(8))
        .map(|(address, size)| (number(address), number(size)))
        .listed();
    match entries.pop() {
        Some((address, 0)) if address != 0 => {
            fail(format!("memory reservation at {address:#x} has size 0"))
        }
        _ => Ok(entries),
    }
}

/// How many bytes the tree of `blob` has at most when it is written again: names that share bytes in
/// `blob` no longer do. `None` if its header cannot be read.
pub(super) fn rewritten_len_max(blob: &[u8]) -> Option<usize> {
    let blocks = Blocks::find(blob).ok()?;
    let properties = blocks.structure.windows(12).step_by(4);
    // A value that looks like a property adds a name too many, which does no harm.
    let mut names = properties
        .filter(|cells| be32(cells, 0) == Some(PROP))
        .filter_map(|cells| string(blocks.strings, usize::try_from(be32(cells, 8)?).ok()?))
        .listed();
    names.sort_unstable();
    names.dedup();
    let names = names.iter().fold(0, |sum, name| sum + name.len() + 1);
    Some(HEADER_LEN + blocks.reservations.len() + blocks.structure.len() + names)
}

/// Walks the structure block. No recursion: the open nodes are a stack of their own.
#[derive(Default)]
struct Reader<'a> {
    structure: &'a [u8],
    strings: &'a [u8],
    at: usize,
    open: Vec<Open>,
    nodes: usize,
    properties: usize,
}

/// A node whose end has not come yet.
struct Open {
    node: Node,
    path_len: usize,
}

impl Reader<'_> {
    fn root(mut self) -> Result<Node, ParseError> {
        let mut root = None;
        loop {
            let offset = self.at;
            match (self.cell()?, root.take()) {
                (NOP, done) => root = done,
                (END, Some(done)) => return Ok(done),
                (END, None) => {
                    return fail("nodes are not nested: the end comes before the root's")
                }
                (_, Some(_)) => return fail("nodes are not nested: one follows the root's end"),
                (BEGIN_NODE, None) => self.begin()?,
                (PROP, None) => self.property()?,
                (END_NODE, None) => root = self.end()?,
                (token, None) => {
                    return fail(format!(
                        "unknown token {token:#x} at {offset:#x} of the structure block"
                    ))
                }
            }
        }
    }

    fn begin(&mut self) -> Result<(), ParseError> {
        let rest = self.structure.get(self.at..).unwrap_or_default();
        let Some(len) = rest.iter().position(|byte| *byte == 0) else {
            return self.cut();
        };
        let name = self.checked_name(&rest[..len])?;
        self.skip(len + 1)?;

        if self.open.is_empty() != name.is_empty() {
            return fail("nodes are not nested: the root comes first, and it alone has no name");
        }
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return fail(format!("the blob has more than {NODES_MAX} nodes"));
        }
        let path_len = match self.open.last() {
            Some(parent) => parent.path_len + 1 + name.len(),
            None => 0,
        };
        if self.open.len() >= DEPTH_MAX || path_len > PATH_MAX {
            return fail(format!(
                "{}: nodes are nested more than {DEPTH_MAX} deep, or paths are longer than {PATH_MAX} bytes",
                self.path()
            ));
        }
        self.open.push(Open { node: Node::new(&name), path_len });
        Ok(())
    }

    fn property(&mut self) -> Result<(), ParseError> {
        let len = usize::try_from(self.cell()?).unwrap_or(usize::MAX);
        let offset = usize::try_from(self.cell()?).unwrap_or(usize::MAX);
        let Some(name) = string(self.strings, offset) else {
            return fail(format!(
                "{}: a property's name at {offset:#x} of the strings block has no end there",
                self.path()
            ));
        };
        let name = self.checked_name(name)?;
        let from = self.at;
        self.skip(len)?;
        let value = self.structure[from..from + len].to_vec();
        self.properties += 1;
        if self.properties > PROPERTIES_MAX {
            return fail(format!("the blob has more than {PROPERTIES_MAX} properties"));
        }
        if name.is_empty() {
            return fail(format!("{}: a property has no name", self.path()));
        }
        match self.open.last_mut() {
            Some(open) if open.node.children.is_empty() => {
                open.node.properties.push(Property { name, value });
                Ok(())
            }
            _ => fail(format!(
                "{}: property {name} comes after a child node or outside any node",
                self.path()
            )),
        }
    }

    /// Closes the innermost node; gives the root once it is closed.
    fn end(&mut self) -> Result<Option<Node>, ParseError> {
        if let Some(name) = self.open.last().and_then(|open| open.node.twin_property()) {
            return fail(format!(
                "{}: property {name} is there twice; readers differ in which one they take",
                self.path()
            ));
        }
        let Some(closed) = self.open.pop() else {
            return fail("nodes are not nested: one ends that never began");
        };
        match self.open.last_mut() {
            None => Ok(Some(closed.node)),
            Some(parent) => {
                parent.node.children.push(closed.node);
                Ok(None)
            }
        }
    }

    /// The characters that dtc takes in names; anything else could not be printed as source.
    fn checked_name(&self, raw: &[u8]) -> Result<String, ParseError> {
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b",._+*#?@-".contains(byte);
        let name = String::from_utf8_lossy(raw);
        if raw.len() <= NAME_MAX && raw.iter().all(allowed) {
            return Ok(name.into_owned());
        }
        fail(format!(
            "{}: `{}` is not a devicetree name (at most {NAME_MAX} of A-Z a-z 0-9 , . _ + * # ? @ -)",
            self.path(),
            excerpt(&name)
        ))
    }

    fn cut<T>(&self) -> Result<T, ParseError> {
        fail(format!("the structure block ends inside the item at {:#x}", self.at))
    }

    fn cell(&mut self) -> Result<u32, ParseError> {
        let Some(cell) = be32(self.structure, self.at) else {
            return self.cut();
        };
        self.at += 4;
        Ok(cell)
    }

    /// Steps over `len` bytes and the padding to the next cell.
    fn skip(&mut self, len: usize) -> Result<(), ParseError> {
        let end = self.at.checked_add(len);
        let padded = end.and_then(|end| end.checked_next_multiple_of(4));
        match padded.filter(|end| *end <= self.structure.len()) {
            Some(end) => {
                self.at = end;
                Ok(())
            }
            None => self.cut(),
        }
    }

    fn path(&self) -> String {
        let names = self.open.iter().map(|open| &open.node.name[..]).listed();
        match names.len() {
            0 | 1 => "/".to_owned(),
            _ => names.join("/"),
        }
    }
}
