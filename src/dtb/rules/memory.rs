// SPDX-License-Identifier: Apache-2.0
//! What lies where in the guest's memory: `/memory`, reserved ranges, the initrd, registers.

use crate::config::{RegionConfig, VmConfig};
use crate::diagnostic::kinds;
use crate::dtb::build::Faults;
use crate::dtb::lookup::{gic, serial_ports};
use crate::dtb::property::{Cells, NodeAt};
use crate::dtb::tree::Tree;
use crate::plan::LaunchPlan;

kinds! {
    // Ours.
    MEMORY_CELLS: Error "dtb-memory-cells" in Dtb {
        "the root's #address-cells and #size-cells cannot describe main memory",
        cause: "/memory is written with them, here and by the resource manager",
        cure: "set both to 2",
    }
    // Read.
    RESERVED_MEMORY: Error "dtb-reserved-memory" in Dtb, START answers ENODEV {
        "a node of /reserved-memory with a fixed range is not a region of the config",
        cause: "the resource manager looks for a region behind every fixed range there, by qcom,label or by the range",
        cure: "remove the node, give it size instead of reg, or make it a region of the config",
    }
    // Read in newer ones.
    RESERVED_SHARED: Warning "dtb-reserved-shared" in Dtb {
        "a node of /reserved-memory has a fixed range in memory that is lent",
        cause: "newer resource managers take such a range for memory that the host keeps: the guest's accesses to it trap",
        cure: "add reusable to the node, or give it size instead of reg",
    }
    // Ours.
    INITRD_DIFFERS: Error "dtb-initrd-differs" in Dtb {
        "/chosen names another initrd than the plan",
        cause: "the kernel would unpack whatever lies there",
        cure: "remove linux,initrd-start and linux,initrd-end, so that they are filled in",
    }
    // Ours.
    DEVICE_IN_MEMORY: Error "dtb-device-in-memory" in Dtb {
        "the registers of a device lie in the guest's memory",
        cause: "accesses would reach memory instead of the device",
        cure: "move the device or the memory",
    }
    // Spec.
    RESERVATION_RANGE: Error "dtb-memreserve-range" in Dtb {
        "a /memreserve/ goes past 64 bits",
        cause: "readers differ in what is reserved then",
        cure: "correct its address and size",
    }
    // Ours.
    RESERVATION_OVERLAP: Error "dtb-memreserve-overlap" in Dtb {
        "two /memreserve/ overlap",
        cause: "a devicetree with overlapping reservations cannot be written",
        cure: "make one /memreserve/ of them, or shorten one",
    }
    // Ours.
    RESERVATION_TAKEN: Error "dtb-memreserve-taken" in Dtb {
        "a /memreserve/ overlaps the kernel, the initrd or the devicetree",
        cause: "what is reserved is not to be written to, and the guest would have this there",
        cure: "remove or move the /memreserve/, or move what it overlaps by kernel.offset, initrd.offset or dtb.offset",
    }
}

pub(super) fn check(tree: &Tree, config: &VmConfig, plan: &LaunchPlan, faults: &mut Faults<'_>) {
    let main = plan.main();
    let memory = NodeAt::root(tree).child("memory");
    let mut wanted = vec![(main.base, main.size)];
    wanted.extend(plan.pool.map(|pool| (pool.base, pool.size)));
    if memory.and_then(|memory| memory.reg()) != Some(wanted) {
        let Cells { address, size } = Cells::below(&tree.root);
        faults.add(MEMORY_CELLS.case(format!(
            "#address-cells {address} and #size-cells {size} of the root cannot describe main memory"
        )));
    }
    reserved_memory(tree, config, plan, faults);
    initrd(tree, plan, faults);
    registers(tree, plan, faults);
    reservations(tree, faults);
    reservations_and_plan(tree, plan, faults);
}

fn reserved_memory(tree: &Tree, config: &VmConfig, plan: &LaunchPlan, faults: &mut Faults<'_>) {
    let Some(reserved) = tree.at("/reserved-memory") else {
        return;
    };
    for node in reserved.children() {
        let label = node.u32("qcom,label");
        if label.is_none() && node.has("size") && !node.has("reg") {
            // Linux allocates it by itself.
            continue;
        }
        let why = match node.reg().as_deref() {
            // These drivers tell of no region by its label, and a range without one is nobody's.
            Some([_]) if plan.dialect.pages_on_demand() && label.is_some() => {
                Some("has a qcom,label, and this kernel's driver gives no region one")
            }
            Some([range]) if plan.dialect.pages_on_demand() => {
                let main = plan.main();
                if overlap(*range, (main.base, main.size)) && !node.has("reusable") {
                    let what = format!("{} lies in main memory, which is lent", node.path());
                    faults.add(RESERVED_SHARED.case(what));
                }
                None
            }
            Some([range]) => {
                let mut regions = plan.regions.iter().skip(1);
                let region = regions.find(|region| {
                    (region.base, region.size) == *range
                        && label.is_none_or(|label| label == region.label)
                });
                region.is_none().then_some("is not a region of the config")
            }
            _ => Some("does not have exactly one range in reg"),
        };
        let Some(why) = why else {
            continue;
        };
        let fault = RESERVED_MEMORY.case(format!("{} {why}", node.path()));
        let labelled = |region: &RegionConfig| label == Some(region.label);
        match config.regions.iter().position(labelled) {
            Some(index) => faults.add_at(&format!("regions[{index}]"), fault),
            None => faults.add(fault),
        }
    }
}

fn initrd(tree: &Tree, plan: &LaunchPlan, faults: &mut Faults<'_>) {
    let Some(initrd) = &plan.initrd else {
        return;
    };
    let end = initrd.base.saturating_add(initrd.size);
    let chosen = tree.at("/chosen");
    let number = |property| chosen.as_ref()?.number(property);
    let found = [number("linux,initrd-start"), number("linux,initrd-end")];
    if found != [Some(initrd.base), Some(end)] {
        let what = format!("/chosen names another initrd than the plan, {initrd}");
        faults.add_at("initrd", INITRD_DIFFERS.case(what));
    }
}

fn registers(tree: &Tree, plan: &LaunchPlan, faults: &mut Faults<'_>) {
    let mut devices = serial_ports(tree);
    if let Some(gic) = gic(tree) {
        let ranges = gic.reg().unwrap_or_default();
        devices.extend(ranges.into_iter().map(|range| (gic.clone(), range)));
    }
    for (device, range) in devices {
        let mut regions = plan.regions.iter();
        if let Some(index) = regions.position(|region| overlap(range, (region.base, region.size))) {
            let found = &plan.regions[index];
            let region = match index {
                0 => "main memory".to_owned(),
                _ => format!("region {}", found.label),
            };
            let key = format!("{}.base", found.key);
            let what =
                format!("the registers of {} at {:#x} lie in {region}", device.path(), range.0);
            faults.add_at(&key, DEVICE_IN_MEMORY.case(what));
        }
    }
}

/// Whether two ranges of address and size share a byte.
fn overlap(a: (u64, u64), b: (u64, u64)) -> bool {
    a.0 < b.0.saturating_add(b.1) && b.0 < a.0.saturating_add(a.1)
}

/// Reservations that cannot be written. One of each is reported: a hostile tree could have thousands.
fn reservations(tree: &Tree, faults: &mut Faults<'_>) {
    let mut sorted = tree.reservations.clone();
    sorted.sort_unstable();
    let end = |(base, size): (u64, u64)| base.checked_add(size);
    if let Some((base, size)) = sorted.iter().find(|range| end(**range).is_none()) {
        faults.add(
            RESERVATION_RANGE.case(format!("/memreserve/ {base:#x} {size:#x} goes past 64 bits")),
        );
    }
    let mut pairs = sorted.windows(2);
    if let Some(pair) = pairs.find(|pair| end(pair[0]).is_some_and(|end| end > pair[1].0)) {
        let [(low, low_size), (high, high_size)] = [pair[0], pair[1]];
        faults.add(RESERVATION_OVERLAP.case(format!(
            "/memreserve/ {high:#x} {high_size:#x} overlaps /memreserve/ {low:#x} {low_size:#x}"
        )));
    }
}

/// Reservations over what the plan puts into memory, one for each thing.
fn reservations_and_plan(tree: &Tree, plan: &LaunchPlan, faults: &mut Faults<'_>) {
    let segments = plan.kernel.segments.iter();
    let kernel = segments.map(|segment| ("kernel", (segment.address, segment.memory_size)));
    // One A64 instruction at the base of main memory.
    let branch = plan.kernel.branch.map(|_| (plan.main().base, 4));
    let branch = branch.map(|range| ("branch to the kernel's entry", range));
    let initrd = plan.initrd.as_ref();
    let initrd = initrd.map(|initrd| ("initrd", (initrd.base, initrd.size)));
    let devicetree = ("devicetree", (plan.dtb.base, plan.dtb.size));
    let placed = kernel.chain(branch).chain(initrd).chain([devicetree]);
    for (what, (start, len)) in placed {
        let mut reserved = tree.reservations.iter();
        if let Some((base, size)) = reserved.find(|range| overlap(**range, (start, len))) {
            faults.add(RESERVATION_TAKEN.case(format!(
                "/memreserve/ {base:#x}+{size:#x} overlaps the {what} {start:#x}+{len:#x}"
            )));
        }
    }
}
