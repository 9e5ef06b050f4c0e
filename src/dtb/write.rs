// SPDX-License-Identifier: Apache-2.0
//! The flattened form (Devicetree Specification 0.4, 5).

use super::parse::{BEGIN_NODE, DEPTH_MAX, END, END_NODE, HEADER_LEN, MAGIC, PROP, VERSION};
use super::tree::{Node, Tree};
use crate::diagnostic::kinds;
use crate::layout::DTB_MAX;

kinds! {
    UNWRITABLE: Error "dtb-unwritable" in Dtb {
        "the devicetree cannot be written",
        cause: "a name or a size is outside what a flattened devicetree may have",
        cure: "keep to the specification: names begin with a letter and have at most 31 characters, the whole has at most 2 MiB",
    }
}

/// The oldest version whose readers can read version 17.
const COMPATIBLE: u32 = 16;
/// Longest name in bytes, of a node without its unit address (2.2.1, 2.2.4.1).
const NAME_MAX: usize = 31;

/// Why a tree cannot be written, with the place in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WriteError(String);

fn fail<T>(place: &str, why: &str) -> Result<T, WriteError> {
    Err(WriteError(format!("{place}: {why}")))
}

impl Tree {
    /// Writes the blob, version 17.
    pub fn to_blob(&self) -> Result<Vec<u8>, WriteError> {
        let mut writer = Writer { blob: vec![0; HEADER_LEN], ..Writer::default() };
        self.check_reservations()?;
        for (address, size) in self.reservations.iter().chain([&(0, 0)]) {
            writer.blob.extend(address.to_be_bytes());
            writer.blob.extend(size.to_be_bytes());
        }
        let structure = writer.blob.len();
        collect_names(&self.root, &mut writer.names);
        writer.names.sort_unstable();
        writer.names.dedup();
        writer.offsets = vec![None; writer.names.len()];
        writer.node(&self.root, "", 0)?;
        writer.cell(END);
        let Writer { mut blob, strings: mut names, .. } = writer;
        let (strings, strings_len) = (blob.len(), names.len());
        blob.append(&mut names);
        let total = blob.len();
        if u64::try_from(total).map_or(true, |len| len > DTB_MAX) {
            return Err(WriteError(format!(
                "the blob has {total} bytes, arm64 guests take at most {DTB_MAX}"
            )));
        }
        let header = [
            MAGIC,
            cell(total),
            cell(structure),
            cell(strings),
            cell(HEADER_LEN),
            VERSION,
            COMPATIBLE,
            self.boot_cpu,
            cell(strings_len),
            cell(strings - structure),
        ];
        for (room, field) in blob.chunks_exact_mut(4).zip(header) {
            room.copy_from_slice(&field.to_be_bytes());
        }
        Ok(blob)
    }

    fn check_reservations(&self) -> Result<(), WriteError> {
        let mut sorted = self.reservations.clone();
        sorted.sort_unstable();
        let end = |(address, size): (u64, u64)| address.checked_add(size).filter(|_| size > 0);
        let invalid = self.reservations.iter().find(|range| end(**range).is_none());
        if let Some((address, size)) = invalid {
            let place = format!("/memreserve/ {address:#x} {size:#x}");
            return fail(&place, "Memory reservation is invalid");
        }
        match sorted.windows(2).any(|pair| end(pair[0]) > Some(pair[1].0)) {
            true => fail("/memreserve/", "Memory reservations are overlapping"),
            false => Ok(()),
        }
    }
}

/// A length or an offset of a blob, which has at most [`DTB_MAX`].
fn cell(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// The names of all properties.
fn collect_names<'a>(node: &'a Node, names: &mut Vec<&'a [u8]>) {
    names.extend(node.properties.iter().map(|property| property.name.as_bytes()));
    node.children.iter().for_each(|child| collect_names(child, names));
}

#[derive(Default)]
struct Writer<'a> {
    /// Header, reservations and what there is of the structure.
    blob: Vec<u8>,
    strings: Vec<u8>,
    /// The names of properties, sorted, and where each is in `strings`, if it is there yet.
    names: Vec<&'a [u8]>,
    offsets: Vec<Option<u32>>,
}

impl Writer<'_> {
    fn cell(&mut self, cell: u32) {
        self.blob.extend(cell.to_be_bytes());
    }

    /// Bytes, and what fills the last cell.
    fn bytes(&mut self, bytes: &[u8]) {
        self.blob.extend(bytes);
        self.blob.resize(self.blob.len().next_multiple_of(4), 0);
    }

    /// The depth is bounded, and so is this recursion.
    fn node(&mut self, node: &Node, above: &str, depth: usize) -> Result<(), WriteError> {
        let name = node.name.as_str();
        let path = if name.is_empty() { String::new() } else { format!("{above}/{name}") };
        if depth >= DEPTH_MAX {
            return fail(&path, "Node depth exceeds FDT_MAX_NODE_DEPTH");
        }
        if name.contains('\0') {
            return fail(&path, "Strings cannot contain NUL");
        }
        if !is_node_name(name) {
            return fail(&path, "Invalid node name");
        }
        self.cell(BEGIN_NODE);
        self.bytes(&[name.as_bytes(), b"\0"].concat());
        for property in &node.properties {
            self.property(&property.name, &property.value)
                .or_else(|why| fail(&format!("{path}: property {}", property.name), why))?;
        }
        for child in &node.children {
            self.node(child, &path, depth + 1)?;
        }
        self.cell(END_NODE);
        Ok(())
    }

    fn property(&mut self, name: &str, value: &[u8]) -> Result<(), &'static str> {
        let special = |byte: u8| b",._+?#-".contains(&byte);
        if name.contains('\0') {
            return Err("Strings cannot contain NUL");
        }
        let allowed = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || special(byte));
        if name.is_empty() || name.len() > NAME_MAX || !allowed {
            return Err("Invalid property name");
        }
        let at = self.names.partition_point(|other| *other < name.as_bytes());
        let Some(offset) = self.offsets.get_mut(at) else { return Ok(()) };
        let offset = *offset.get_or_insert_with(|| {
            let offset = cell(self.strings.len());
            self.strings.extend(name.bytes().chain([0]));
            offset
        });
        self.cell(PROP);
        self.cell(cell(value.len()));
        self.cell(offset);
        self.bytes(value);
        Ok(())
    }
}

/// `node-name@unit-address`; the root has none.
fn is_node_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b",._+-".contains(&byte);
    let (node, unit) = name.split_once('@').unwrap_or((name, ""));
    let begins = node.starts_with(|c: char| c.is_ascii_alphabetic());
    name.is_empty()
        || begins && node.len() <= NAME_MAX && node.bytes().chain(unit.bytes()).all(allowed)
}
