// SPDX-License-Identifier: Apache-2.0
//! A VM that begins in firmware: where the resource manager puts that, and how it finds the kernel.

use crate::diagnostic::kinds;
use crate::dtb::build::Faults;
use crate::dtb::lookup::vm_configs;
use crate::dtb::tree::Tree;
use crate::plan::LaunchPlan;

use super::vm_config::property;

kinds! {
    // Read.
    ADDRESS: Error "dtb-firmware-address" in Dtb {
        "the devicetree's firmware-address is not firmware.base",
        cause: "the resource manager maps the firmware at firmware-address, whatever the driver is told",
        cure: "leave firmware-address out: then it is the config's",
    }
    // Read.
    REACHES: Error "dtb-firmware-overlap" in Dtb {
        "main memory and the firmware may grow into each other",
        cause: "the resource manager reserves size-max bytes for memory and firmware-size-max bytes for the firmware, they overlap, and START answers EINVAL",
        cure: "leave size-max and firmware-size-max out: then they are the sizes of the config",
    }
    // Read in pvmfw.
    KERNEL: Error "dtb-firmware-kernel" in Dtb {
        "the firmware cannot be told where the kernel is",
        cause: "pvmfw reads /config/kernel-address and kernel-size as 32 bits",
        cure: "leave memory.base out, or make kernel.offset smaller",
    }
}

pub(super) fn check(tree: &Tree, plan: &LaunchPlan, faults: &mut Faults<'_>) {
    let Some(firmware) = plan.firmware else { return };
    let kernel = &plan.kernel;
    if kernel.entry.max(kernel.size) > u32::MAX.into() {
        let what = format!("the kernel of {:#x} bytes is at {:#x}", kernel.size, kernel.entry);
        faults.add_at("memory.base", KERNEL.case(what));
    }
    let config = vm_configs(tree).next();
    let Some(memory) = config.as_ref().and_then(|config| config.child("memory")) else { return };
    let numbers = ["firmware-address", "firmware-size-max", "size-max"].map(|name| {
        let number = memory.number(name);
        if number.is_none() {
            faults.add(property(&memory, name, "one or two cells"));
        }
        number
    });
    let [Some(address), Some(firmware_max), Some(memory_max)] = numbers else { return };
    if address != firmware.base {
        let what =
            format!("firmware-address is {address:#x}, firmware.base is {:#x}", firmware.base);
        faults.add_at("firmware.base", ADDRESS.case(what));
    }
    let base = plan.main().base;
    let reaches =
        |from: u64, most: u64, to: u64| to.checked_sub(from).is_some_and(|gap| gap < most);
    if reaches(base, memory_max, address) || reaches(address, firmware_max, base) {
        let what = format!(
            "memory {base:#x}+{memory_max:#x} and firmware {address:#x}+{firmware_max:#x} overlap"
        );
        faults.add_at("firmware", REACHES.case(what));
    }
}
