// SPDX-License-Identifier: Apache-2.0
//! The interrupt controller as the resource manager looks for it, and what it takes for one.

use nix::errno::Errno;

use crate::fdt::{number, Node};

use super::guest::{refusal, Refusal};

/// Frames of a GICv3 are 64 KiB and aligned to it; a redistributor has two.
const FRAME: u64 = 0x1_0000;

/// By the vm-config's `interrupts/config`, else by the root's `interrupt-parent`.
pub fn find(root: &Node, config: &Node, warnings: &mut Vec<String>) -> Result<(), Refusal> {
    // An unusable one is skipped here and reported as missing at the end.
    let by_parent = root.cell("interrupt-parent").filter(|&phandle| usable(root, phandle).is_ok());
    let interrupts = config.child("interrupts");
    let Some(named) = interrupts.filter(|node| node.property("config").is_some()) else {
        return match by_parent {
            Some(_) => Ok(()),
            None => refusal(
                Errno::ENODEV,
                "no GIC by the root's interrupt-parent or by interrupts/config",
            ),
        };
    };
    let path = named.string("config").unwrap_or_default();
    let phandle = if path.len() > 1 && path.starts_with('/') {
        match root.at(path) {
            Some(node) => node.phandle(),
            None => return refusal(Errno::EINVAL, format!("no {path}, the interrupts/config")),
        }
    } else {
        let Some(phandle) = named.cell("config") else {
            return refusal(Errno::EINVAL, "interrupts/config is neither a path nor a phandle");
        };
        warnings.push("interrupts/config is not a path".to_string());
        Some(phandle)
    };
    match phandle {
        None => refusal(Errno::EINVAL, format!("{path} has no phandle")),
        Some(phandle) if Some(phandle) == by_parent => Ok(()),
        Some(phandle) => usable(root, phandle).or_else(|why| refusal(Errno::EINVAL, why)),
    }
}

/// Whether the node with this phandle is a GICv3 that the resource manager can be.
fn usable(root: &Node, phandle: u32) -> Result<(), String> {
    let (gic, parent) = root
        .walk()
        .into_iter()
        .flat_map(|parent| parent.children.iter().map(move |child| (child, parent)))
        .find(|(node, _)| node.phandle() == Some(phandle))
        .ok_or_else(|| format!("no node has the phandle {phandle:#x}"))?;
    let fault = |what: &str| Err(format!("{}: {what}", gic.name));
    if !gic.lists("compatible", "arm,gic-v3") {
        return fault("not compatible with arm,gic-v3");
    }
    if gic.property("interrupt-controller").is_none() {
        return fault("no interrupt-controller property");
    }
    if gic.cell("#redistributor-regions").is_some_and(|count| count != 1) {
        return fault("more than one redistributor region");
    }
    if gic.cell("#interrupt-cells") != Some(3) {
        return fault("#interrupt-cells is not 3");
    }
    if let Some(stride) = gic.property("redistributor-stride").and_then(number) {
        if stride < 2 * FRAME || stride % FRAME != 0 {
            return fault("redistributor-stride too small or not aligned");
        }
    }
    // Without reg it is given one.
    let Some(reg) = gic.property("reg") else {
        return Ok(());
    };
    let cells = |name, default| {
        let cells = parent.cell(name).unwrap_or(default);
        usize::try_from(cells).unwrap_or(usize::MAX)
    };
    let address = cells("#address-cells", 2).saturating_mul(4);
    let range = cells("#size-cells", 1).saturating_mul(4).saturating_add(address);
    for frame in [0, range] {
        let base = frame
            .checked_add(address)
            .filter(|_| frame.checked_add(range).is_some_and(|end| end <= reg.len()))
            .and_then(|end| number(reg.get(frame..end)?));
        match base {
            None => return fault("truncated reg"),
            Some(base) if base % FRAME != 0 => return fault("reg is not aligned to 64 KiB"),
            Some(_) => {}
        }
    }
    Ok(())
}
