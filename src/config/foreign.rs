// SPDX-License-Identifier: Apache-2.0
//! Files of other launchers, given as a VM's file: named in one line, with what of them carries over.

use crate::diagnostic::{kinds, Diagnostic};
use crate::json::{Node, Value};

kinds! {
    FOREIGN: Error "config-foreign" in Config {
        "the file is another launcher's",
        cause: "gunyahd has a file of its own form for each VM",
        cure: "`gunyahd import` makes a VM's file of Android's vm_config.json; for others write one: docs/config.md has all keys",
    }
    AUTHENTICATED: Error "config-authenticated" in Config {
        "a key is of authenticated VMs, which gunyahd does not start",
        cause: "such a VM (QTVM) has a number of its own and an image that the secure world authenticates: VM_ANDROID_SET_AUTH_TYPE, which this launcher does not call",
        cure: "use the vendor's own VM service or crosvm for it; without the key, gunyahd starts the VM unauthenticated; with `firmware`, in pvmfw",
    }
    CMA: Error "config-cma" in Config {
        "guest memory cannot be made of a CMA area",
        cause: "VM_ANDROID_MAP_CMA_MEM is for the images of authenticated VMs (QTVM), which gunyahd does not start",
        cure: "leave `backing` out, or use \"thp\"",
    }
}

/// Keys of other launchers for VMs that are authenticated.
const AUTHENTICATED_KEYS: [&str; 8] =
    ["auth", "auth_type", "qtvm", "trusted_vm", "vm_id", "vmid", "pas_id", "qcom_trusted_vm"];

/// A key that says what gunyahd does not do, if it is one.
pub(super) fn key(key: &str) -> Option<Diagnostic> {
    let named = AUTHENTICATED_KEYS.contains(&key.to_ascii_lowercase().replace('-', "_").as_str());
    named
        .then(|| AUTHENTICATED.case("is of authenticated VMs (QTVM), which gunyahd does not start"))
}

/// A word that means what gunyahd does not do, if it is one.
pub(super) fn word(word: &str) -> Option<Diagnostic> {
    let cma = word.eq_ignore_ascii_case("cma");
    cma.then(|| CMA.case("gunyahd does not make guest memory of CMA areas"))
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
        let cure = "run `gunyahd import` on it, which prints a VM's file with what carries over";
        return Some(FOREIGN.case(what).cure(cure));
    }
    if root.get("task").is_some() && root.get("os").is_some() {
        let what =
            "is a payload's vm_config.json of Android's Virtualization Framework, for Microdroid";
        return Some(FOREIGN.case(what));
    }
    None
}

/// Whether an object of the list `key` has a member `inner`.
fn list_has(root: &Node<'_>, key: &str, inner: &str) -> bool {
    match root.get(key).map(|node| &node.value) {
        Some(Value::List(list)) => list.iter().any(|item| item.get(inner).is_some()),
        _ => false,
    }
}
