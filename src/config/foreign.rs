// SPDX-License-Identifier: Apache-2.0
//! Files of other launchers, given as a VM's file: named in one line, with what of them carries over.

use serde_json::json;

use super::json::{Node, Value};
use super::names::VmName;
use crate::diagnostic::{kinds, Diagnostic};

kinds! {
    FOREIGN: Error "config-foreign" in Config {
        "the file is another launcher's",
        cause: "gunyahd has a file of its own form for each VM",
        cure: "write a file for the VM; docs/config.md has all its keys",
    }
}

/// What the file is, if it is another launcher's.
pub(super) fn named(root: &Node<'_>) -> Option<Diagnostic> {
    if member(root, "qvirtmgr").is_some() || list_has(root, "vm_config", "boot_ops") {
        let what = "is qvirtservice's file (qvirtmgr-vndr.json), of authenticated VMs";
        let cause = "the vendor's service starts those from signed images by name; this driver's calls cannot";
        return Some(FOREIGN.case(what).cause(cause));
    }
    if ["platform_version", "memory_mib", "cpu_topology"]
        .iter()
        .any(|key| member(root, key).is_some())
    {
        let what = "is a vm_config.json of Android's Virtualization Framework, for crosvm";
        let carried = carried(root);
        return Some(FOREIGN.case(what).cure(format!(
            "begin with what carries over: {carried}; docs/config.md has the other keys"
        )));
    }
    if member(root, "task").is_some() && member(root, "os").is_some() {
        let what =
            "is a payload's vm_config.json of Android's Virtualization Framework, for Microdroid";
        return Some(FOREIGN.case(what));
    }
    None
}

/// The part of an AVF config that has the same meaning here, as a config.
fn carried(root: &Node<'_>) -> String {
    let text = |key: &str| match member(root, key).map(|node| &node.value) {
        Some(Value::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let mib = match member(root, "memory_mib").map(|node| &node.value) {
        Some(Value::Number(number)) => number.parse::<u64>().ok(),
        _ => None,
    };
    let name = text("name").filter(|name| VmName::new(name).is_some()).unwrap_or("vm");
    let mut config = json!({ "name": name });
    config["memory"]["size"] = format!("{}M", mib.unwrap_or(256)).into();
    // A boot loader is entered as a kernel is.
    config["kernel"]["path"] = text("kernel").or_else(|| text("bootloader")).unwrap_or("…").into();
    if let Some(params) = text("params") {
        config["kernel"]["cmdline"] = params.into();
    }
    if let Some(initrd) = text("initrd") {
        config["initrd"]["path"] = initrd.into();
    }
    config.to_string()
}

fn member<'a>(node: &'a Node<'a>, key: &str) -> Option<&'a Node<'a>> {
    match &node.value {
        Value::Object(members) => {
            members.iter().find(|member| member.key == key).map(|member| &member.value)
        }
        _ => None,
    }
}

/// Whether an object of the list `key` has a member `inner`.
fn list_has(root: &Node<'_>, key: &str, inner: &str) -> bool {
    match member(root, key).map(|node| &node.value) {
        Some(Value::List(list)) => list.iter().any(|item| member(item, inner).is_some()),
        _ => false,
    }
}
