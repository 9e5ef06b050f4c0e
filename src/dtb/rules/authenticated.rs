// SPDX-License-Identifier: Apache-2.0
//! Trees of VMs that are authenticated: another way of starting.

use crate::diagnostic::kinds;
use crate::dtb::build::Faults;
use crate::dtb::lookup::{vdevices, vm_configs};
use crate::dtb::tree::Tree;

kinds! {
    // Read; from trees of phones.
    AUTHENTICATED: Error "dtb-authenticated-vm" in Dtb {
        "the devicetree is that of an authenticated VM",
        cause: "such a VM has a number and hardware of its own, which the resource manager gives to a signed image alone: it is started by the vendor's service (qvirtservice, the secure VM loader), not by this driver's calls",
        cure: "give a tree without these, or none: then one is generated from the config",
    }
}

/// Properties of the vm-config that only an authenticated VM has a use for.
const PROPERTIES: [&str; 3] = ["qcom,pasid", "qcom,vmid", "iomemory-ranges"];
/// Types of its vdevices: the host's hardware.
const VDEVICES: [&str; 2] = ["iomem", "vsmmu-v2"];
/// It has this one too, but forks of crosvm give it to VMs that are started by the driver.
const ALSO: &str = "rm-rpc";

/// Whether it is such a tree.
pub(super) fn check(tree: &Tree, faults: &mut Faults<'_>) -> bool {
    let is_there = |kind: &str| !vdevices(tree, kind).is_empty();
    let mut found = Vec::new();
    for property in PROPERTIES {
        if vm_configs(tree).any(|config| config.has(property)) {
            found.push(property.to_owned());
        }
    }
    for kind in VDEVICES {
        if is_there(kind) {
            found.push(format!("a vdevice {kind}"));
        }
    }
    if found.is_empty() {
        return false;
    }
    if is_there(ALSO) {
        found.push(format!("a vdevice {ALSO}"));
    }
    let what =
        format!("the devicetree is that of an authenticated VM: it has {}", found.join(", "));
    faults.add(AUTHENTICATED.case(what));
    true
}
