// SPDX-License-Identifier: Apache-2.0
//! The flattened form, written with `vm-fdt`.

use vm_fdt::{FdtReserveEntry, FdtWriter};

use super::read::BLOB_MAX;
use super::tree::{Node, Tree};

/// Why a tree cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {fault}")]
pub struct WriteError {
    /// The node's path, with the property if it is one.
    pub place: String,
    /// `vm-fdt`'s words.
    pub fault: String,
}

impl WriteError {
    fn new(place: impl Into<String>, fault: impl ToString) -> Self {
        Self {
            place: place.into(),
            fault: fault.to_string(),
        }
    }
}

impl Tree {
    /// Writes the blob, version 17.
    pub fn to_blob(&self) -> Result<Vec<u8>, WriteError> {
        let mut reservations = Vec::with_capacity(self.reservations.len());
        for (address, size) in &self.reservations {
            reservations.push(FdtReserveEntry::new(*address, *size).map_err(|fault| {
                WriteError::new(format!("reservation {address:#x}, {size:#x}"), fault)
            })?);
        }
        let mut writer = FdtWriter::new_with_mem_reserv(&reservations)
            .map_err(|fault| WriteError::new("reservations", fault))?;
        writer.set_boot_cpuid_phys(self.boot_cpu);
        write_node(&mut writer, &self.root, "")?;
        let blob = writer
            .finish()
            .map_err(|fault| WriteError::new("/", fault))?;
        if blob.len() > BLOB_MAX {
            let fault = format!(
                "the blob has {} bytes, arm64 guests take at most {BLOB_MAX}",
                blob.len()
            );
            return Err(WriteError::new("/", fault));
        }
        Ok(blob)
    }
}

fn write_node(writer: &mut FdtWriter, node: &Node, above: &str) -> Result<(), WriteError> {
    let path = if node.name.is_empty() {
        String::new()
    } else {
        format!("{above}/{}", node.name)
    };
    let at = || {
        if path.is_empty() {
            "/".to_owned()
        } else {
            path.clone()
        }
    };
    // The writer bounds the depth, and so this recursion.
    let open = writer
        .begin_node(&node.name)
        .map_err(|fault| WriteError::new(at(), fault))?;
    for property in &node.properties {
        writer
            .property(&property.name, &property.value)
            .map_err(|fault| {
                WriteError::new(format!("{}: property {}", at(), property.name), fault)
            })?;
    }
    for child in &node.children {
        write_node(writer, child, &path)?;
    }
    writer
        .end_node(open)
        .map_err(|fault| WriteError::new(at(), fault))
}
