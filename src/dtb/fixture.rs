// SPDX-License-Identifier: Apache-2.0
//! A config and a plan for the tests of this folder.

use std::time::Duration;

use crate::config::*;
use crate::plan::*;

pub const BASE: u64 = 0x8000_0000;
pub const SIZE: u64 = 64 << 20;

/// Two hypervisor-scheduled CPUs with an initrd.
pub fn config() -> VmConfig {
    VmConfig {
        file: "vm.json".into(),
        places: Places::default(),
        name: VmName::new("lab-vm").unwrap(),
        autostart: true,
        memory: MemoryConfig {
            base: BASE,
            size: SIZE,
            label: 0,
            backing: vec![Backing::Hugetlb],
            page_size: None,
            access: Access::Auto,
            prefault: true,
        },
        regions: Vec::new(),
        kernel: KernelConfig {
            path: "Image".into(),
            format: KernelFormat::Auto,
            offset: None,
            cmdline: "console=ttyAMA0 quiet".into(),
        },
        initrd: Some(InitrdConfig {
            path: "initrd".into(),
            offset: None,
        }),
        dtb: DtbConfig {
            path: None,
            room: 64 << 10,
            offset: None,
        },
        vcpus: VcpuConfig {
            count: 2,
            scheduling: Scheduling::Hypervisor,
            affinity: Vec::new(),
            nice: 0,
        },
        console: None,
        ready: None,
        start: StartConfig {
            after: Vec::new(),
            property: None,
            priority: 0,
            timeout: Duration::from_secs(30),
        },
        restart: RestartConfig {
            policy: RestartPolicy::Never,
            max: 0,
            window: Duration::ZERO,
            backoff: Duration::ZERO,
            backoff_max: Duration::ZERO,
        },
        stop_timeout: Duration::from_secs(10),
    }
}

/// One proxy-scheduled CPU with a console and a further region.
pub fn proxy() -> VmConfig {
    let mut config = config();
    config.vcpus.count = 1;
    config.vcpus.scheduling = Scheduling::Proxy;
    config.console = Some(ConsoleConfig {
        device: ConsoleDevice::Pl011,
        base: 0x0900_0000,
        label: 5,
        interrupt: 5,
    });
    config.regions.push(region(7, 0xa000_0000, 2 << 20));
    config
}

pub fn region(label: u32, base: u64, size: u64) -> RegionConfig {
    RegionConfig {
        label,
        base,
        size,
        access: Access::Auto,
        flags: Permissions {
            read: true,
            write: true,
            execute: false,
        },
        backing: vec![Backing::Base],
        page_size: None,
        file: None,
    }
}

/// A plan that fits `config`, with the initrd where the caller likes.
pub fn plan(config: &VmConfig, initrd: u64, initrd_size: u64) -> LaunchPlan {
    let planned = |label, base, size| PlannedRegion {
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
    let mut regions = vec![planned(0, config.memory.base, config.memory.size)];
    regions.extend(
        config
            .regions
            .iter()
            .map(|region| planned(region.label, region.base, region.size)),
    );
    LaunchPlan {
        vm: config.name.clone(),
        regions,
        kernel: PlannedKernel {
            path: "Image".into(),
            gzip: false,
            segments: Vec::new(),
            entry: config.memory.base,
            branch: None,
        },
        initrd: config.initrd.as_ref().map(|file| PlannedFile {
            path: file.path.clone(),
            base: initrd,
            size: initrd_size,
        }),
        dtb: PlannedDtb {
            base: config.memory.base,
            size: 0x2_0000,
        },
        vcpus: config.vcpus.count,
        scheduling: config.vcpus.scheduling,
        memory_entries: 1,
        warnings: Vec::new(),
    }
}
