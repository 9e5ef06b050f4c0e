// SPDX-License-Identifier: Apache-2.0
//! What the resource manager reads from a guest's devicetree, and what it will not take.

use nix::errno::Errno;

use crate::fdt::{number, Node};
use crate::vm::GuestDescription;

use super::{cpus, gic, parcels, vdevices, Generation};

/// Bytes of the resource manager's buffer for the name, the final NUL included (its vm_config).
const IMAGE_NAME_MAX: usize = 80;
/// Bytes of its buffer for a path, the NUL included (its dtb_parser).
const PATH: usize = 256;
/// The real one, under QEMU, has this and all below in use, and the page after it.
const TAKEN_BELOW: u64 = 0x4000_0000;
const ADDRESS_BITS: u32 = 36;
const BASE_ALIGNMENT: u64 = 2 << 20;

/// How the devicetree is read.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// By which resource manager.
    pub generation: Generation,
    /// Bytes of main memory, or of the devicetree's parcel where that alone is handed over.
    pub size: u64,
    /// The host's cores; the newer one makes no more vCPUs than that.
    pub cores: u32,
}

pub(super) type Refusal = (Errno, String);

pub(super) fn refusal<T>(errno: Errno, why: impl Into<String>) -> Result<T, Refusal> {
    Err((errno, why.into()))
}

/// Reads the tree; the strings are warnings.
pub fn read(root: &Node, reading: &Reading) -> Result<(GuestDescription, Vec<String>), Refusal> {
    let mut warnings = Vec::new();
    // The old one's bug: the cells of the root's first child are taken for those of every node at depth 2.
    let address_cells =
        root.children.first().and_then(|first| first.cell("#address-cells")).unwrap_or(2);

    if let Some(path) = too_long(root, "") {
        return refusal(Errno::EINVAL, format!("a path of {} bytes", path.len()));
    }
    let newer = reading.generation == Generation::New;
    if root.child("chosen").is_none() && !newer {
        return refusal(Errno::ENODEV, "no /chosen, the overlay cannot be applied");
    }
    if root.child("hypervisor").is_some() {
        return refusal(Errno::EPERM, "/hypervisor exists, the overlay makes it");
    }
    if let Some(wrong) = root
        .children
        .iter()
        .find(|node| node.string("device_type") == Some("memory") && node.name != "memory")
    {
        return refusal(
            Errno::EINVAL,
            format!("memory node is named {:?}, not \"memory\"", wrong.name),
        );
    }
    let Some(config) = vm_config(root) else {
        return refusal(Errno::ENODEV, "no /gunyah-vm-config");
    };
    let image_name = match config.string("image-name") {
        Some(name) if !name.is_empty() && name.len() < IMAGE_NAME_MAX => name.to_string(),
        Some(name) => {
            return refusal(
                Errno::EINVAL,
                format!("image-name of {} bytes: too long or empty", name.len()),
            )
        }
        None => return refusal(Errno::EINVAL, "no image-name"),
    };
    let base_address = if newer {
        // The driver's address layout takes its place.
        bounded(config, reading.size)?;
        0
    } else {
        base_address(config, address_cells, reading.size)?
    };
    let cpus = cpus::read(root, config, reading, &mut warnings)?;
    gic::find(root, config, &mut warnings)?;
    let (doorbells, shared_memory) = vdevices::read(root)?;
    let guest = GuestDescription {
        image_name,
        base_address,
        cpus: cpus.count,
        proxy: cpus.proxy,
        doorbells,
        shared_memory,
        reserved: parcels::fixed(root),
        was_read: true,
    };
    Ok((guest, warnings))
}

/// The path of a node below `node` that the parser has no room for. The tree's depth is bounded.
fn too_long(node: &Node, above: &str) -> Option<String> {
    node.children.iter().find_map(|child| {
        let path = format!("{above}/{}", child.name);
        if path.len() >= PATH {
            return Some(path);
        }
        too_long(child, &path)
    })
}

pub(super) fn vm_config(root: &Node) -> Option<&Node> {
    root.child("gunyah-vm-config").or_else(|| {
        root.children.iter().find(|node| {
            node.property("compatible").is_some_and(|list| {
                list.split(|&byte| byte == 0)
                    .any(|name| name.starts_with(b"qcom,vm-") || name == b"gunyah-vm-config")
            })
        })
    })
}

/// `size-max` bounds the whole VM.
fn bounded(config: &Node, size: u64) -> Result<(), Refusal> {
    let most = config.child("memory").and_then(|memory| number(memory.property("size-max")?));
    match most {
        Some(most) if most < size => refusal(
            Errno::EINVAL,
            format!("size-max of {most:#x} bytes is less than the image's {size:#x}"),
        ),
        _ => Ok(()),
    }
}

fn base_address(config: &Node, address_cells: u32, size: u64) -> Result<u64, Refusal> {
    let Some(bytes) = config.child("memory").and_then(|memory| memory.property("base-address"))
    else {
        return refusal(Errno::ENODEV, "no memory/base-address");
    };
    let Some(base) = number(bytes)
        .filter(|_| usize::try_from(address_cells).is_ok_and(|cells| bytes.len() == cells * 4))
    else {
        return refusal(
            Errno::ENODEV,
            format!(
                "base-address of {} bytes cannot be read with the {address_cells} address cells \
                 of the root's first child",
                bytes.len()
            ),
        );
    };
    if base % crate::page_size() != 0 {
        return refusal(Errno::EINVAL, format!("base-address {base:#x} is not page aligned"));
    }
    let rounded = base.checked_next_multiple_of(BASE_ALIGNMENT).unwrap_or(u64::MAX);
    if base <= TAKEN_BELOW {
        return refusal(Errno::ENODEV, format!("base-address {base:#x} is taken"));
    }
    let within = |end: u64| end <= 1 << ADDRESS_BITS;
    if !rounded.checked_add(size).is_some_and(within) {
        return refusal(
            Errno::EINVAL,
            format!("main memory at {base:#x}, {size:#x} bytes, is beyond {ADDRESS_BITS} bits"),
        );
    }
    Ok(rounded)
}

#[cfg(test)]
mod tests;
