// SPDX-License-Identifier: Apache-2.0
//! The flattened form, written with `vm-fdt`.

use vm_fdt::{FdtReserveEntry, FdtWriter};

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

/// Why a tree cannot be written: the place in it, and `vm-fdt`'s words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WriteError(String);

/// Turns the writer's errors into ours.
fn at(place: impl std::fmt::Display) -> impl FnOnce(vm_fdt::Error) -> WriteError {
    move |fault| WriteError(format!("{place}: {fault}"))
}

impl Tree {
    /// Writes the blob, version 17.
    pub fn to_blob(&self) -> Result<Vec<u8>, WriteError> {
        let mut reservations = Vec::with_capacity(self.reservations.len());
        for (address, size) in &self.reservations {
            let entry = FdtReserveEntry::new(*address, *size);
            reservations.push(entry.map_err(at(format!("/memreserve/ {address:#x} {size:#x}")))?);
        }
        let mut writer =
            FdtWriter::new_with_mem_reserv(&reservations).map_err(at("/memreserve/"))?;
        writer.set_boot_cpuid_phys(self.boot_cpu);
        write_node(&mut writer, &self.root, "")?;
        let blob = writer.finish().map_err(at("/"))?;
        if u64::try_from(blob.len()).map_or(true, |len| len > DTB_MAX) {
            return Err(WriteError(format!(
                "the blob has {} bytes, arm64 guests take at most {DTB_MAX}",
                blob.len()
            )));
        }
        Ok(blob)
    }
}

fn write_node(writer: &mut FdtWriter, node: &Node, above: &str) -> Result<(), WriteError> {
    let path = match node.name.as_str() {
        "" => String::new(),
        name => format!("{above}/{name}"),
    };
    // The writer bounds the depth, and so this recursion.
    let open = writer.begin_node(&node.name).map_err(at(&path))?;
    for property in &node.properties {
        writer
            .property(&property.name, &property.value)
            .map_err(at(format!("{path}: property {}", property.name)))?;
    }
    for child in &node.children {
        write_node(writer, child, &path)?;
    }
    writer.end_node(open).map_err(at(&path))
}
