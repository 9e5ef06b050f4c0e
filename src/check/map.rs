// SPDX-License-Identifier: Apache-2.0
//! A VM's address map: its regions and what lies in them.

use super::VmReport;
use crate::config::{Backing, Transport};
use crate::layout::{PCI_CAM_BASE, PCI_CAM_SIZE};
use crate::list::{self, Listed};
use crate::plan::{LaunchPlan, Model, PlannedRegion};
use crate::text::Size;

/// One row of an address map.
pub(super) struct Row {
    /// 0 for a region, 1 for what lies in it.
    pub depth: usize,
    /// Guest address.
    pub base: u64,
    /// Bytes.
    pub size: u64,
    /// What it is, in a word or two.
    pub what: &'static str,
    /// All else.
    pub detail: String,
}

/// The address map of a plan, by region.
pub(super) fn map(vm: &VmReport, plan: &LaunchPlan) -> Vec<Row> {
    let mut rows = Vec::new();
    for (index, region) in plan.regions.iter().enumerate() {
        rows.push(Row {
            depth: 0,
            base: region.base,
            size: region.size,
            what: match index {
                0 => "memory",
                _ if region.is_pool() => "pool",
                _ if region.key == "firmware" => "firmware",
                _ => "region",
            },
            detail: region_detail(region),
        });
        let inside = if index == 0 { contents(vm, plan) } else { of_file(region) };
        rows.extend(inside);
    }
    if let Some(console) = &vm.config.console {
        rows.push(Row {
            depth: 0,
            base: console.base,
            size: console.device.frame(),
            what: "console",
            detail: format!("doorbell {}, SPI {}", console.label, console.interrupt),
        });
    }
    rows.extend(devices(vm, plan));
    rows
}

/// The virtio devices, and the bus that they may be on.
fn devices(vm: &VmReport, plan: &LaunchPlan) -> Vec<Row> {
    let bus = Row {
        depth: 0,
        base: PCI_CAM_BASE,
        size: PCI_CAM_SIZE,
        what: "PCI bus",
        detail: String::new(),
    };
    let pci = vm.config.transport == Transport::Pci && !plan.devices.is_empty();
    let each = plan.devices.iter().map(|device| Row {
        depth: 0,
        base: device.registers.base,
        size: device.registers.size,
        what: device.model.name(),
        detail: format!(
            "{}, doorbell {}, SPI {}",
            detail_of(device.model, vm),
            device.label,
            device.interrupt
        ),
    });
    pci.then_some(bus).into_iter().chain(each).listed()
}

fn detail_of(model: Model, vm: &VmReport) -> String {
    let disk = match model {
        Model::Disk(index) => vm.config.disks.get(index),
        _ => None,
    };
    match disk {
        Some(disk) if disk.readonly => format!("{}, read-only", disk.path.display()),
        Some(disk) => disk.path.display().to_string(),
        None => "virtio".to_owned(),
    }
}

/// What lies in main memory, by rising address.
fn contents(vm: &VmReport, plan: &LaunchPlan) -> Vec<Row> {
    let config = &vm.config;
    let mut rows = Vec::new();
    let mut add = |base, size, what, detail: String| {
        rows.push(Row { depth: 1, base, size, what, detail });
    };
    if plan.kernel.branch.is_some() {
        let detail = format!("to the kernel's entry at {:#x}", plan.kernel.entry);
        add(plan.main().base, 4, "branch", detail);
    }
    for segment in &plan.kernel.segments {
        let detail = config.kernel.path.display().to_string();
        add(segment.address, segment.memory_size, "kernel", detail);
    }
    if let (Some(initrd), Some(config)) = (&plan.initrd, &config.initrd) {
        add(initrd.base, initrd.size, "initrd", config.path.display().to_string());
    }
    let dtb = match &config.dtb.path {
        Some(path) => path.display().to_string(),
        None => "generated".to_owned(),
    };
    let detail = format!("{dtb}, with at least {:#} of room", Size(config.dtb.room));
    add(plan.dtb.base, plan.dtb.size, "devicetree", detail);
    list::sort(&mut rows, |a, b| a.base < b.base);
    rows
}

fn of_file(region: &PlannedRegion) -> Vec<Row> {
    let row = region.file.as_ref().map(|(path, size)| Row {
        depth: 1,
        base: region.base,
        size: *size,
        what: "file",
        detail: path.display().to_string(),
    });
    row.into_iter().listed()
}

fn region_detail(region: &PlannedRegion) -> String {
    let backing: Vec<String> = region
        .backing
        .iter()
        .map(|backing| match backing {
            Backing::Hugetlb => format!("hugetlb {:#}", Size(region.huge_page)),
            other => other.to_string(),
        })
        .listed();
    format!("label {}, {}, {}, {}", region.label, region.flags, region.access, backing.join(" or "))
}
