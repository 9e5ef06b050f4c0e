// SPDX-License-Identifier: Apache-2.0
//! The interrupt controller.

use nix::errno::Errno;

use super::broken;
use super::vm_config::property;
use crate::diagnostic::kinds;
use crate::dtb::build::Faults;
use crate::dtb::lookup::{cpu_nodes, gic, vm_config_part};
use crate::dtb::property::NodeAt;
use crate::dtb::tree::Tree;
use crate::layout::GICR_SIZE;
use crate::text::excerpt;

kinds! {
    // Seen.
    NO_GIC: Error "dtb-no-gic" in Dtb, START answers ENODEV {
        "the devicetree names no interrupt controller",
        cause: "neither interrupts/config nor the root's interrupt-parent leads to one",
        cure: "set interrupts/config of the vm-config to the path of a GICv3 node",
    }
    // Read.
    GIC_PATH: Error "dtb-gic-path" in Dtb, START answers EINVAL {
        "the vm-config's interrupts/config leads to no node",
        cause: "the path is looked up as it stands",
        cure: "write the path of the interrupt controller",
    }
    // Read. ENODEV where interrupt-parent alone leads to it.
    GIC_UNUSABLE: Error "dtb-gic-unusable" in Dtb, START answers EINVAL {
        "the resource manager does not take the interrupt controller",
        cause: "the virtual interrupt controller is a GICv3 with one redistributor region",
        cure: "describe it so",
    }
    // Linux.
    GIC_REDISTRIBUTORS: Error "dtb-gic-redistributors" in Dtb {
        "the interrupt controller has too few redistributors",
        cause: "each CPU has 128 KiB of them",
        cure: "enlarge the second range of reg",
    }
}

/// Frames of the GIC are 64 KiB and aligned to it.
const GIC_FRAME: u64 = 0x1_0000;

pub(super) fn check(tree: &Tree, faults: &mut Faults<'_>) {
    let named = vm_config_part(tree, "interrupts").filter(|parent| parent.has("config"));
    if let Some(interrupts) = &named {
        match (interrupts.str("config"), interrupts.u32("config")) {
            (Some(path), _)
                if path.starts_with('/') && path.len() > 1 && tree.at(path).is_some() => {}
            (Some(path), cell) if path.starts_with('/') || cell.is_none() => {
                return faults.add(GIC_PATH.case(format!(
                    "the vm-config's interrupts/config {} leads to no node",
                    excerpt(path)
                )));
            }
            // A phandle is as good: every tree in the field has one. The resource manager of 2023
            // prints a warning and goes by it.
            (_, Some(_)) => {}
            (_, None) => return faults.add(property(interrupts, "config", "a path")),
        }
    }
    let Some(gic) = gic(tree) else {
        return faults.add(NO_GIC.case("no interrupt controller can be found"));
    };
    for why in unusable(&gic) {
        let mut fault = GIC_UNUSABLE.case(format!("the interrupt controller {} {why}", gic.path()));
        if named.is_none() {
            fault.start_answers = Some(Errno::ENODEV as i32);
        }
        faults.add(fault);
    }
    let cpus = u64::try_from(cpu_nodes(tree).len()).unwrap_or(u64::MAX);
    let redistributors = gic.reg().and_then(|reg| reg.get(1).copied());
    if let Some((_, size)) = redistributors {
        if size < cpus.saturating_mul(GICR_SIZE) {
            faults.add(GIC_REDISTRIBUTORS.case(format!(
                "the interrupt controller {} has {size:#x} bytes of redistributors for {cpus} CPUs",
                gic.path()
            )));
        }
    }
}

fn unusable(gic: &NodeAt<'_>) -> Vec<&'static str> {
    let regions = gic.u32("#redistributor-regions");
    let stride = gic.number("redistributor-stride");
    let ranges = gic.reg().unwrap_or_default();
    let aligned = |(base, _): &(u64, u64)| base % GIC_FRAME == 0;
    broken(&[
        (!gic.is_compatible("arm,gic-v3"), "is not compatible with \"arm,gic-v3\""),
        (!gic.has("interrupt-controller"), "has no interrupt-controller property"),
        (gic.u32("#interrupt-cells") != Some(3), "does not have 3 #interrupt-cells"),
        (gic.phandle().is_none(), "has no phandle"),
        (regions.is_some_and(|regions| regions != 1), "has more than one redistributor region"),
        (
            stride.is_some_and(|stride| stride < GICR_SIZE || stride % GIC_FRAME != 0),
            "has a redistributor-stride below 128 KiB or off 64 KiB",
        ),
        // Without reg the resource manager fills it in.
        (gic.has("reg") && ranges.len() < 2, "has no distributor and redistributor range in reg"),
        (
            ranges.len() >= 2 && !ranges.iter().take(2).all(aligned),
            "has ranges that are not aligned to 64 KiB",
        ),
    ])
}
