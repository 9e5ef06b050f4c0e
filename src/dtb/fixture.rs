// SPDX-License-Identifier: Apache-2.0
//! A config and a plan for the tests of this folder.

use std::path::Path;

use crate::config::{parse, Access, Backing, DiskConfig, Permissions, Scheduling, VmConfig};
use crate::plan::*;

pub const BASE: u64 = 0x8000_0000;
pub const SIZE: u64 = 64 << 20;

fn with_initrd(keys: &str) -> VmConfig {
    let text = format!(
        r#"{{"name": "vm", "memory": {{"size": "64M"}}, "kernel": {{"path": "/Image"}},
             "initrd": {{"path": "/initrd"}}, {keys}}}"#
    );
    parse(Path::new("vm.json"), &text).unwrap()
}

/// Two hypervisor-scheduled CPUs with an initrd.
pub fn config() -> VmConfig {
    with_initrd(r#""vcpus": {"count": 2, "scheduling": "hypervisor"}"#)
}

/// One proxy-scheduled CPU with a console and a further region.
pub fn proxy() -> VmConfig {
    with_initrd(
        r#""vcpus": {"scheduling": "proxy"}, "console": {},
           "regions": [{"label": 7, "base": "0xa0000000", "size": "2M"}]"#,
    )
}

/// One proxy-scheduled CPU with a 16550 as its console.
pub fn ns16550() -> VmConfig {
    with_initrd(r#""vcpus": {"scheduling": "proxy"}, "console": {"device": "16550"}"#)
}

/// One proxy-scheduled CPU with a power key.
pub fn with_power_key() -> VmConfig {
    with_initrd(r#""vcpus": {"scheduling": "proxy"}, "stop": {"power_key": true}"#)
}

/// A disk.
pub fn disk() -> DiskConfig {
    let text = r#"{"name": "vm", "memory": {"size": "64M"}, "kernel": {"path": "/Image"},
                   "disks": [{"path": "/disk"}]}"#;
    parse(Path::new("vm.json"), text).unwrap().disks[0].clone()
}

/// The pool of lent memory, behind all that else is in a plan.
pub fn add_pool(plan: &mut LaunchPlan) {
    let pool = Range { base: 0x2_0000_0000, size: 4 << 20 };
    plan.regions.push(PlannedRegion {
        key: "memory.pool".to_owned(),
        label: 1,
        base: pool.base,
        size: pool.size,
        access: Access::Share,
        ..plan.regions[0].clone()
    });
    plan.pool = Some(pool);
}

/// One proxy-scheduled CPU that begins in firmware.
pub fn firmware() -> VmConfig {
    with_initrd(r#""firmware": {}"#)
}

/// A plan that fits `config`, with the initrd where the caller likes.
pub fn plan(config: &VmConfig, initrd: u64, initrd_size: u64) -> LaunchPlan {
    let planned = |key: String, label, base, size| PlannedRegion {
        key,
        label,
        base,
        size,
        access: Access::Auto,
        flags: Permissions::ALL,
        backing: vec![Backing::Base],
        huge_page: 2 << 20,
        prefault: true,
        file: None,
    };
    let mut regions = vec![planned("memory".to_owned(), 0, config.memory.base, config.memory.size)];
    regions.extend(config.regions.iter().enumerate().map(|(index, region)| {
        planned(format!("regions[{index}]"), region.label, region.base, region.size)
    }));
    LaunchPlan {
        vm: config.name.clone(),
        dialect: gunyah::Dialect::Ack61,
        scheduling: config.vcpus.scheduling.unwrap_or(Scheduling::Proxy),
        regions,
        pool: None,
        devices: devices(config),
        power_key: power_key(config),
        kernel: PlannedKernel {
            segments: Vec::new(),
            entry: config.memory.base,
            size: 0,
            branch: None,
        },
        firmware: config
            .firmware
            .as_ref()
            .map(|firmware| Range { base: firmware.base, size: firmware.size }),
        timer_wakeups: false,
        initrd: config.initrd.as_ref().map(|_| Range { base: initrd, size: initrd_size }),
        dtb: Range { base: config.memory.base, size: 0x2_0000 },
        memory_entries: 1,
        warnings: Vec::new(),
    }
}
