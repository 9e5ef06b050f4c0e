// SPDX-License-Identifier: Apache-2.0
//! The vm-config node, which the resource manager takes the VM's settings from.

use crate::diagnostic::{kinds, Diagnostic};
use crate::dtb::build::Faults;
use crate::dtb::lookup::vm_configs;
use crate::dtb::property::{Cells, NodeAt};
use crate::dtb::tree::Tree;
use crate::layout::{ADDRESS_END, DEVICE_SPACE_END, MEMORY_ALIGN, PAGE};
use crate::plan::LaunchPlan;

/// For a part of the vm-config that is missing.
pub(super) const COMPLETE_IT: &str =
    "add it, or remove the whole vm-config: then one is generated from the config";
const GOOD_BASE: &str = "use a multiple of 2 MiB above 0x40000000, such as 0x80000000";
const LOW: &str =
    "QEMU's platform has the space up to there in use, and START answers ENODEV there; newer resource managers trap it for devices; on a device it can be right, as 0x28800000 on Qualcomm's";

kinds! {
    // Read.
    PROPERTY: Error "dtb-property" in Dtb {
        "a property is not of the type that its readers expect",
        cause: "the property has another type than its readers expect",
        cure: "correct the property",
    }
    // Seen.
    FIRST_CHILD_CELLS: Error "dtb-first-child-cells" in Dtb, START answers ENODEV {
        "the #address-cells of the root's first child do not fit base-address",
        cause: "the resource manager reads everything at depth 2 with the cells of the root's first child",
        cure: "put /chosen, without cell properties of its own, first, and give base-address two cells",
    }
    // Seen.
    NO_VM_CONFIG: Error "dtb-no-vm-config" in Dtb, START answers ENODEV {
        "the devicetree has no /gunyah-vm-config",
        cause: "without it the resource manager knows neither memory nor vCPUs",
        cure: "add it",
    }
    // Read.
    TWO_VM_CONFIGS: Error "dtb-two-vm-configs" in Dtb {
        "the devicetree has both /gunyah-vm-config and /qcom,vm-config",
        cause: "the resource manager reads both, one over the other",
        cure: "keep /gunyah-vm-config",
    }
    // Seen.
    NO_IMAGE_NAME: Error "dtb-no-image-name" in Dtb, START answers EINVAL {
        "the vm-config has no image-name",
        cause: "the resource manager names the VM by it",
        cure: COMPLETE_IT,
    }
    // Seen, read.
    IMAGE_NAME_LENGTH: Error "dtb-image-name-length" in Dtb, START answers EINVAL {
        "the vm-config's image-name is longer than 79 bytes",
        cause: "the resource manager has room for 79",
        cure: "shorten it",
    }
    // Seen.
    NO_BASE_ADDRESS: Error "dtb-no-base-address" in Dtb, START answers ENODEV {
        "the vm-config has no memory/base-address",
        cause: "the resource manager would map main memory at an address of its own",
        cure: COMPLETE_IT,
    }
    // Seen.
    BASE_ADDRESS_PAGE: Error "dtb-base-address-page" in Dtb, START answers EINVAL {
        "base-address is not a multiple of the 4 KiB page",
        cause: "memory is mapped by the page",
        cure: GOOD_BASE,
    }
    // Seen.
    BASE_ADDRESS_ROUNDED: Error "dtb-base-address-rounded" in Dtb {
        "base-address is not a multiple of 2 MiB",
        cause: "the resource manager rounds it up in silence: the guest would find its memory elsewhere",
        cure: GOOD_BASE,
    }
    // Read; seen on QEMU.
    BASE_ADDRESS_ZERO: Error "dtb-base-address-zero" in Dtb, START answers ENODEV {
        "base-address is 0",
        cause: "0 is no address for a VM's memory; trees that QEMU makes have it",
        cure: GOOD_BASE,
    }
    // Seen on QEMU, whose platform it is.
    BASE_ADDRESS_TAKEN: Warning "dtb-base-address-taken" in Dtb {
        "memory is not above the page at 0x40000000",
        cause: LOW,
        cure: "leave it if this device is known to have it so; else use a multiple of 2 MiB above 0x40000000, such as 0x80000000",
    }
    // Read in newer ones; older ones place by it what has no address.
    SIZE_MAX: Error "dtb-size-max" in Dtb, START answers EINVAL {
        "the vm-config's size-max is less than main memory, or not whole pages",
        cause: "the resource manager gives the VM no more than that",
        cure: "leave size-max out, or make it memory.size at least",
    }
    // Read in newer ones.
    VMMIO_RANGES: Warning "dtb-vmmio-ranges" in Dtb {
        "the vm-config has vmmio-ranges",
        cause: "newer resource managers refuse them for a VM that is started this way, and trap all below 1 GiB without them; older ones do not know them",
        cure: "remove vmmio-ranges, and keep devices below 1 GiB",
    }
    // Seen.
    BASE_ADDRESS_LIMIT: Error "dtb-base-address-limit" in Dtb, START answers EINVAL {
        "main memory does not end within 36 bits of address",
        cause: "a guest has 36 bits of address, 64 GiB",
        cure: "move or shrink main memory",
    }
    // Seen.
    BASE_ADDRESS_DIFFERS: Error "dtb-base-address-differs" in Dtb {
        "the devicetree's base-address is not memory.base",
        cause: "main memory is mapped at base-address, whatever the driver is told",
        cure: "make devicetree and config agree",
    }
}

/// Bytes of the longest `image-name`: the resource manager's buffer has 80 with the NUL.
const IMAGE_NAME_MAX: usize = 79;

/// A property that is there and cannot be read.
pub(super) fn property(at: &NodeAt<'_>, name: &str, wanted: &str) -> Diagnostic {
    PROPERTY.case(format!("{}: property {name} is not {wanted}", at.path()))
}

pub(super) fn check(tree: &Tree, plan: &LaunchPlan, faults: &mut Faults<'_>) {
    let mut configs = vm_configs(tree);
    let Some(config) = configs.next() else {
        return faults.add(NO_VM_CONFIG.case("there is no /gunyah-vm-config"));
    };
    if configs.next().is_some() {
        faults.add(TWO_VM_CONFIGS.case("there are both /gunyah-vm-config and /qcom,vm-config"));
    }
    match config.str("image-name") {
        None if config.has("image-name") => {
            faults.add(property(&config, "image-name", "NUL-terminated text"));
        }
        None | Some("") => faults.add(NO_IMAGE_NAME.case("the vm-config has no image-name")),
        Some(name) if name.len() > IMAGE_NAME_MAX => faults.add(IMAGE_NAME_LENGTH.case(format!(
            "the vm-config's image-name has {} bytes, {IMAGE_NAME_MAX} are allowed",
            name.len()
        ))),
        Some(_) => {}
    }
    if config.has("vmmio-ranges") {
        faults.add(VMMIO_RANGES.case(format!("{} has vmmio-ranges", config.path())));
    }
    further_regions(plan, faults);
    if let Some(memory) = config.child("memory").filter(|memory| memory.has("size-max")) {
        size_max(&memory, plan, faults);
    }
    match config.child("memory") {
        Some(memory) if memory.has("base-address") => base_address(tree, &memory, plan, faults),
        _ => faults.add(NO_BASE_ADDRESS.case("the vm-config has no memory/base-address")),
    }
}

/// Regions in the space that QEMU's platform has in use.
fn further_regions(plan: &LaunchPlan, faults: &mut Faults<'_>) {
    for region in plan.regions.iter().skip(1) {
        if region.base <= DEVICE_SPACE_END {
            let what = format!(
                "region {} at {:#x} is not above the page at {DEVICE_SPACE_END:#x}",
                region.label, region.base
            );
            faults.add_at(&format!("{}.base", region.key), BASE_ADDRESS_TAKEN.case(what));
        }
    }
}

fn size_max(memory: &NodeAt<'_>, plan: &LaunchPlan, faults: &mut Faults<'_>) {
    let main = plan.main().size;
    let Some(most) = memory.number("size-max") else {
        return faults.add(property(memory, "size-max", "one or two cells"));
    };
    if most % PAGE != 0 {
        let what = format!("size-max {most:#x} is not a multiple of the 4 KiB page");
        faults.add(SIZE_MAX.case(what));
    } else if most < main {
        let what = format!("size-max {most:#x} is less than the {main:#x} bytes of main memory");
        let mut fault = SIZE_MAX.case(what);
        if most >= plan.dtb.size {
            // Newer ones start it with what fits.
            fault.start_answers = None;
        }
        faults.add_at("memory.size", fault);
    }
}

fn base_address(tree: &Tree, memory: &NodeAt<'_>, plan: &LaunchPlan, faults: &mut Faults<'_>) {
    let main = plan.main();
    let Some(base) = memory.number("base-address") else {
        return faults.add(property(memory, "base-address", "one or two cells"));
    };
    if base % PAGE != 0 {
        let what = format!("base-address {base:#x} is not a multiple of the 4 KiB page");
        faults.add_from("memory.base", BASE_ADDRESS_PAGE.case(what));
    } else if base % MEMORY_ALIGN != 0 {
        let what = format!("base-address {base:#x} is not a multiple of 2 MiB");
        faults.add_from("memory.base", BASE_ADDRESS_ROUNDED.case(what));
    }
    if base == 0 {
        faults.add_from("memory.base", BASE_ADDRESS_ZERO.case("base-address is 0"));
    } else if base <= DEVICE_SPACE_END {
        let what = format!("base-address {base:#x} is not above the page at {DEVICE_SPACE_END:#x}");
        faults.add_from("memory.base", BASE_ADDRESS_TAKEN.case(what));
    }
    let end = base.checked_add(main.size);
    if end.is_none_or(|end| end > ADDRESS_END) {
        let what = format!("main memory at {base:#x} does not end within 36 bits of address");
        faults.add_from("memory.base", BASE_ADDRESS_LIMIT.case(what));
    }
    if base != main.base {
        let what =
            format!("the devicetree's base-address is {base:#x}, memory.base is {:#x}", main.base);
        faults.add_at("memory.base", BASE_ADDRESS_DIFFERS.case(what));
    }
    let wanted = memory.value("base-address").map_or(0, <[u8]>::len) / 4;
    if let Some(first) = NodeAt::root(tree).children().next() {
        let cells = Cells::below(&first).address;
        if cells != wanted {
            faults.add(FIRST_CHILD_CELLS.case(format!(
                "the root's first child {} has #address-cells {cells}, but base-address has {wanted} cells",
                first.path()
            )));
        }
    }
}
