// SPDX-License-Identifier: Apache-2.0
//! Files of other launchers, given as a VM's file: named in one line, with what of them carries over.

use super::names::VmName;
use crate::diagnostic::{kinds, Diagnostic};
use crate::json::{object, Node, Value};

kinds! {
    FOREIGN: Error "config-foreign" in Config {
        "the file is another launcher's",
        cause: "gunyahd has a file of its own form for each VM",
        cure: "write a file for the VM; docs/config.md has all its keys",
    }
}

/// What the file is, if it is another launcher's.
pub(super) fn named(root: &Node<'_>) -> Option<Diagnostic> {
    if root.get("qvirtmgr").is_some() || list_has(root, "vm_config", "boot_ops") {
        let what = "is qvirtservice's file (qvirtmgr-vndr.json), of authenticated VMs";
        let cause = "the vendor's service starts those from signed images by name; this driver's calls cannot";
        return Some(FOREIGN.case(what).cause(cause));
    }
    if ["platform_version", "memory_mib", "cpu_topology"].iter().any(|key| root.get(key).is_some())
    {
        let what = "is a vm_config.json of Android's Virtualization Framework, for crosvm";
        let carried = carried(root);
        return Some(FOREIGN.case(what).cure(format!(
            "begin with what carries over: {carried}; docs/config.md has the other keys"
        )));
    }
    if root.get("task").is_some() && root.get("os").is_some() {
        let what =
            "is a payload's vm_config.json of Android's Virtualization Framework, for Microdroid";
        return Some(FOREIGN.case(what));
    }
    None
}

/// The part of an AVF config that has the same meaning here, as a config.
fn carried(root: &Node<'_>) -> String {
    let text = |key: &str| match root.get(key).map(|node| &node.value) {
        Some(Value::String(text)) => Some(&**text),
        _ => None,
    };
    let mib = match root.get("memory_mib").map(|node| &node.value) {
        Some(Value::Number(number)) => number.parse::<u64>().ok(),
        _ => None,
    };
    let name = text("name").filter(|name| VmName::new(name).is_some()).unwrap_or("vm");
    // A boot loader is entered as a kernel is.
    let path = text("kernel").or_else(|| text("bootloader")).unwrap_or("…");
    let mut kernel = vec![("path", path.into())];
    if let Some(params) = text("params") {
        kernel.push(("cmdline", params.into()));
    }
    let size = format!("{}M", mib.unwrap_or(256));
    let mut config = vec![
        ("name", name.into()),
        ("memory", object(vec![("size", size.into())])),
        ("kernel", object(kernel)),
    ];
    if let Some(initrd) = text("initrd") {
        config.push(("initrd", object(vec![("path", initrd.into())])));
    }
    object(config).to_string()
}

/// Whether an object of the list `key` has a member `inner`.
fn list_has(root: &Node<'_>, key: &str, inner: &str) -> bool {
    match root.get(key).map(|node| &node.value) {
        Some(Value::List(list)) => list.iter().any(|item| item.get(inner).is_some()),
        _ => false,
    }
}
