// SPDX-License-Identifier: Apache-2.0
//! The flattened form, read with bounds and distrust.
//!
//! Format: Devicetree Specification v0.4, chapter 5.

use std::collections::HashSet;

use super::tree::{Node, Property, Tree};

/// Largest blob in bytes: the arm64 boot protocol's limit for a devicetree.
pub const BLOB_MAX: usize = 2 << 20;
/// Deepest nesting, the root included: what Linux and `vm-fdt` take.
pub const DEPTH_MAX: usize = 64;
/// Most nodes. Far above any guest's; bounds the memory that a hostile blob can cost.
pub const NODES_MAX: usize = 16 * 1024;
/// Most properties, for the same reason.
pub const PROPERTIES_MAX: usize = 64 * 1024;
/// Longest path in bytes: 64 levels of names that the specification allows. Bounds what paths cost.
pub const PATH_MAX: usize = 2048;
/// Longest name in bytes. The specification says 31 before the unit address.
pub const NAME_MAX: usize = 255;

const MAGIC: u32 = 0xd00d_feed;
const VERSION: u32 = 17;
const HEADER_LEN: usize = 40;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// Why bytes are not a devicetree that we take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Shorter than a header.
    #[error("{0} bytes are too few for a devicetree blob (its header alone has 40)")]
    Short(usize),
    /// Not a blob at all.
    #[error("the magic number is {0:#010x}, a devicetree blob has 0xd00dfeed")]
    Magic(u32),
    /// Not version 17.
    #[error("the blob has version {version} (compatible to {compatible}), only 17 is read")]
    Version {
        /// `version` of the header.
        version: u32,
        /// `last_comp_version` of the header.
        compatible: u32,
    },
    /// More than [`BLOB_MAX`] bytes.
    #[error("the blob says it has {0} bytes, arm64 guests take at most 2097152 (2 MiB)")]
    Big(usize),
    /// Fewer bytes than the header says.
    #[error("the blob says it has {total} bytes, only {got} are there")]
    Truncated {
        /// `totalsize`.
        total: usize,
        /// What is there.
        got: usize,
    },
    /// A block that is not inside the blob, or begins unaligned.
    #[error(
        "the {block} block at {offset:#x} (length {len:#x}) is misaligned or outside the blob"
    )]
    Block {
        /// Which one.
        block: &'static str,
        /// Its offset.
        offset: usize,
        /// Its length.
        len: usize,
    },
    /// Two blocks share bytes.
    #[error("the {0} and {1} blocks overlap")]
    Overlap(&'static str, &'static str),
    /// A reservation of no bytes that is not the end mark.
    #[error("memory reservation at {0:#x} has size 0")]
    EmptyReservation(u64),
    /// The structure block ends in the middle of something.
    #[error("the structure block ends inside the item at {0:#x}")]
    Cut(usize),
    /// An unknown token.
    #[error("unknown token {token:#x} at {offset:#x} of the structure block")]
    Token {
        /// The token.
        token: u32,
        /// Offset in the structure block.
        offset: usize,
    },
    /// A name outside the strings block, or without an end.
    #[error("{path}: a property's name is at {offset:#x}, outside the strings block")]
    NameOffset {
        /// The node.
        path: String,
        /// Offset in the strings block.
        offset: usize,
    },
    /// A name with characters that no name may have, or longer than [`NAME_MAX`].
    #[error("{path}: {name:?} is no devicetree name (1 to 255 of A-Z a-z 0-9 , . _ + * # ? @ -)")]
    Name {
        /// The node it is in.
        path: String,
        /// The name, with replacement characters where it is not text.
        name: String,
    },
    /// A node named twice.
    #[error("{0}: there are two nodes of this name; readers differ in which one they take")]
    DuplicateNode(String),
    /// A property named twice.
    #[error("{path}: property {name} is there twice; readers differ in which one they take")]
    DuplicateProperty {
        /// The node.
        path: String,
        /// The property.
        name: String,
    },
    /// A property after a child node, or outside any node.
    #[error("{path}: property {name} comes after a child node")]
    PropertyPlace {
        /// The node.
        path: String,
        /// The property.
        name: String,
    },
    /// Nodes that do not nest.
    #[error("nodes are not nested: {0}")]
    Nesting(&'static str),
    /// Deeper than [`DEPTH_MAX`], or with a path longer than [`PATH_MAX`].
    #[error("{0}: nodes are nested more than 64 deep, or paths are longer than 2048 bytes")]
    Deep(String),
    /// More than [`NODES_MAX`] nodes or [`PROPERTIES_MAX`] properties.
    #[error("the blob has more than {limit} {what}")]
    Many {
        /// "nodes" or "properties".
        what: &'static str,
        /// The limit.
        limit: usize,
    },
}

impl Tree {
    /// Reads a blob of version 17. Bytes after its total size are ignored; names that are there twice
    /// are refused, because readers differ in which one they take.
    pub fn parse(bytes: &[u8]) -> Result<Tree, ParseError> {
        let blocks = Blocks::find(bytes)?;
        Ok(Tree {
            reservations: reservations(blocks.reservations)?,
            boot_cpu: blocks.boot_cpu,
            root: Reader::new(&blocks).root()?,
        })
    }
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    let cell = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(cell.try_into().ok()?))
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
        let short = || ParseError::Short(bytes.len());
        let field = |index: usize| be32(bytes, index * 4).ok_or_else(short);
        // u32 always fits usize on the hosts we build for; a failure reads as "beyond the end".
        let size =
            |index: usize| field(index).map(|value| usize::try_from(value).unwrap_or(usize::MAX));

        let magic = field(0)?;
        if magic != MAGIC {
            return Err(ParseError::Magic(magic));
        }
        if bytes.len() < HEADER_LEN {
            return Err(short());
        }
        let (version, compatible) = (field(5)?, field(6)?);
        if version < VERSION || compatible > VERSION {
            return Err(ParseError::Version {
                version,
                compatible,
            });
        }
        let total = size(1)?;
        if total > BLOB_MAX {
            return Err(ParseError::Big(total));
        }
        let blob = bytes
            .get(..total)
            .filter(|blob| blob.len() >= HEADER_LEN)
            .ok_or(ParseError::Truncated {
                total,
                got: bytes.len(),
            })?;

        let structure = block(blob, "structure", size(2)?, size(9)?, 4)?;
        let strings = block(blob, "strings", size(3)?, size(8)?, 1)?;
        let at = size(4)?;
        let reserved = reservations_len(blob, at).ok_or(ParseError::Block {
            block: "reservation",
            offset: at,
            len: 0,
        })?;
        let reservations = block(blob, "reservation", at, reserved, 8)?;

        let mut ranges = [
            ("reservation", at, reserved),
            ("structure", size(2)?, structure.len()),
            ("strings", size(3)?, strings.len()),
        ];
        ranges.sort_by_key(|range| (range.1, range.2));
        for pair in ranges.windows(2) {
            if pair[0].1 + pair[0].2 > pair[1].1 {
                return Err(ParseError::Overlap(pair[0].0, pair[1].0));
            }
        }
        Ok(Self {
            reservations,
            structure,
            strings,
            boot_cpu: field(7)?,
        })
    }
}

fn block<'a>(
    blob: &'a [u8],
    block: &'static str,
    offset: usize,
    len: usize,
    align: usize,
) -> Result<&'a [u8], ParseError> {
    let inside = offset
        .checked_add(len)
        .filter(|_| offset >= HEADER_LEN && offset % align == 0)
        .and_then(|end| blob.get(offset..end));
    inside.ok_or(ParseError::Block { block, offset, len })
}

/// Bytes from `offset` to after the entry that ends the reservation block; one of size 0 ends it for
/// libfdt and Linux.
fn reservations_len(blob: &[u8], offset: usize) -> Option<usize> {
    let entries = blob.get(offset..)?.chunks_exact(16);
    let last = entries
        .clone()
        .position(|entry| entry[8..].iter().all(|byte| *byte == 0))?;
    Some((last + 1) * 16)
}

fn reservations(block: &[u8]) -> Result<Vec<(u64, u64)>, ParseError> {
    let mut entries: Vec<(u64, u64)> = block
        .chunks_exact(16)
        .map(|entry| {
            let number = |bytes: &[u8]| {
                bytes
                    .iter()
                    .fold(0u64, |number, byte| (number << 8) | u64::from(*byte))
            };
            (number(&entry[..8]), number(&entry[8..]))
        })
        .collect();
    match entries.pop() {
        Some((address, 0)) if address != 0 => Err(ParseError::EmptyReservation(address)),
        _ => Ok(entries),
    }
}

/// Walks the structure block. No recursion: the open nodes are a stack of their own.
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
    child_names: HashSet<String>,
    property_names: HashSet<String>,
}

impl<'a> Reader<'a> {
    fn new(blocks: &Blocks<'a>) -> Self {
        Self {
            structure: blocks.structure,
            strings: blocks.strings,
            at: 0,
            open: Vec::new(),
            nodes: 0,
            properties: 0,
        }
    }

    fn root(mut self) -> Result<Node, ParseError> {
        loop {
            let offset = self.at;
            match self.cell()? {
                NOP => {}
                BEGIN_NODE => self.begin()?,
                PROP => self.property()?,
                END_NODE => {
                    if let Some(root) = self.end()? {
                        return self.finish(root);
                    }
                }
                END => return Err(ParseError::Nesting("the end comes before the root's end")),
                token => return Err(ParseError::Token { token, offset }),
            }
        }
    }

    fn finish(mut self, root: Node) -> Result<Node, ParseError> {
        loop {
            match self.cell()? {
                NOP => {}
                END => return Ok(root),
                _ => return Err(ParseError::Nesting("something follows the root's end")),
            }
        }
    }

    fn begin(&mut self) -> Result<(), ParseError> {
        let start = self.at;
        let rest = self.structure.get(start..).unwrap_or_default();
        let len = rest
            .iter()
            .position(|byte| *byte == 0)
            .ok_or(ParseError::Cut(start))?;
        let name = self.checked_name(&rest[..len])?;
        self.skip(len + 1)?;

        if self.open.is_empty() != name.is_empty() {
            return Err(ParseError::Nesting(
                "only the root has an empty name, and it comes first",
            ));
        }
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(ParseError::Many {
                what: "nodes",
                limit: NODES_MAX,
            });
        }
        let path_len = self
            .open
            .last()
            .map_or(0, |parent| parent.path_len + 1 + name.len());
        if self.open.len() >= DEPTH_MAX || path_len > PATH_MAX {
            return Err(ParseError::Deep(self.path()));
        }
        if let Some(parent) = self.open.last_mut() {
            if !parent.child_names.insert(name.clone()) {
                let above = self.path();
                let path = format!("{}/{name}", above.trim_end_matches('/'));
                return Err(ParseError::DuplicateNode(path));
            }
        }
        self.open.push(Open {
            node: Node::new(&name),
            path_len,
            child_names: HashSet::new(),
            property_names: HashSet::new(),
        });
        Ok(())
    }

    fn property(&mut self) -> Result<(), ParseError> {
        let start = self.at;
        let len = usize::try_from(self.cell()?).map_err(|_| ParseError::Cut(start))?;
        let offset = usize::try_from(self.cell()?).map_err(|_| ParseError::Cut(start))?;
        let raw = self
            .strings
            .get(offset..)
            .and_then(|rest| rest.get(..rest.iter().position(|byte| *byte == 0)?))
            .ok_or_else(|| ParseError::NameOffset {
                path: self.path(),
                offset,
            })?;
        let name = self.checked_name(raw)?;
        let from = self.at;
        let value = from
            .checked_add(len)
            .and_then(|to| self.structure.get(from..to))
            .ok_or(ParseError::Cut(start))?
            .to_vec();
        self.skip(len)?;
        self.properties += 1;
        if self.properties > PROPERTIES_MAX {
            return Err(ParseError::Many {
                what: "properties",
                limit: PROPERTIES_MAX,
            });
        }

        if let Some(open) = self.open.last_mut() {
            let in_place = !name.is_empty() && open.node.children.is_empty();
            if in_place && open.property_names.insert(name.clone()) {
                open.node.properties.push(Property { name, value });
                return Ok(());
            }
        }
        let path = self.path();
        Err(match self.open.last() {
            _ if name.is_empty() => ParseError::Name { path, name },
            Some(open) if open.node.children.is_empty() => {
                ParseError::DuplicateProperty { path, name }
            }
            _ => ParseError::PropertyPlace { path, name },
        })
    }

    /// Closes the innermost node; gives the root once it is closed.
    fn end(&mut self) -> Result<Option<Node>, ParseError> {
        let closed = self
            .open
            .pop()
            .ok_or(ParseError::Nesting("a node ends that never began"))?;
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
        let fine = raw.len() <= NAME_MAX
            && raw
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || b",._+*#?@-".contains(byte));
        if fine {
            Ok(String::from_utf8_lossy(raw).into_owned())
        } else {
            Err(ParseError::Name {
                path: self.path(),
                name: String::from_utf8_lossy(raw).chars().take(64).collect(),
            })
        }
    }

    fn cell(&mut self) -> Result<u32, ParseError> {
        let cell = be32(self.structure, self.at).ok_or(ParseError::Cut(self.at))?;
        self.at += 4;
        Ok(cell)
    }

    /// Steps over `len` bytes and the padding to the next cell.
    fn skip(&mut self, len: usize) -> Result<(), ParseError> {
        let end = self
            .at
            .checked_add(len)
            .and_then(|end| end.checked_next_multiple_of(4))
            .filter(|end| *end <= self.structure.len())
            .ok_or(ParseError::Cut(self.at))?;
        self.at = end;
        Ok(())
    }

    fn path(&self) -> String {
        let names: Vec<_> = self.open.iter().map(|open| &open.node.name[..]).collect();
        match names.len() {
            0 | 1 => "/".to_owned(),
            _ => names.join("/"),
        }
    }
}
