// SPDX-License-Identifier: Apache-2.0
//! Whether a guest's kernel can use its devices, by the configuration that it has built in.

use crate::config::{Backend, Transport, VmConfig};
use crate::diagnostic::{kinds, Diagnostic};
use crate::image::{BuiltConfig, Setting};
use crate::list::Listed;
use crate::plan::{LaunchPlan, Model};

kinds! {
    TRANSPORT: Warning "check-guest-transport" in Config {
        "the guest's kernel cannot find its virtio devices",
        cause: "it is not built for the `transport` of the file",
        cure: "give a kernel that is, or the other `transport`",
    }
    DRIVER: Warning "check-guest-driver" in Config {
        "the guest's kernel has no driver for a device",
        cause: "it is not built with it",
        cure: "build the kernel with the option, or leave the device out",
    }
    MODULE: Warning "check-guest-module" in Config {
        "what the guest's kernel needs for a disk is a module, and there is no initrd to load it from",
        cause: "the root file system may be on that very disk",
        cure: "add `initrd`, or build the kernel with the option as =y",
    }
    NO_POOL: Warning "check-guest-pool" in Config {
        "the guest's kernel cannot use a pool, and so none of its devices where main memory is lent",
        cause: "it is built without CONFIG_DMA_RESTRICTED_POOL",
        cure: "build the kernel with CONFIG_DMA_RESTRICTED_POOL=y; or share main memory (\"access\": \"share\") where kernel and resource manager take that",
    }
}

/// What a guest's kernel is built without.
pub(super) fn warnings(
    config: &VmConfig,
    plan: &LaunchPlan,
    kernel: &BuiltConfig,
) -> Vec<Diagnostic> {
    let mut warnings = Vec::new();
    if plan.devices.is_empty() {
        return warnings;
    }
    warnings.extend(transport(config, kernel).map(|fault| fault.at(config.place("transport"))));
    // The first device of each driver.
    let mut drivers: Vec<(&str, Model)> = Vec::new();
    for model in plan.devices.iter().map(|device| device.model) {
        let option = driver(config, model);
        let new = option.filter(|option| drivers.iter().all(|(known, _)| known != option));
        drivers.extend(new.map(|option| (option, model)));
    }
    for (option, model) in &drivers {
        if kernel.setting(option) == Setting::Absent {
            let what = format!("the guest's kernel has no driver for it: {}", unset(option));
            warnings.push(DRIVER.case(what).at(config.place(&model.key())));
        }
    }
    // The root file system may be on a disk; nothing else is needed so early.
    let disk = drivers.iter().find(|(option, _)| *option == DISK);
    if let Some((_, model)) = disk.filter(|_| config.initrd.is_none() && !kernel.has_initramfs()) {
        let needed = std::iter::once(&DISK).chain(options(config.transport));
        let modules = needed.filter(|option| kernel.setting(option) == Setting::Module);
        let modules = modules.map(|option| format!("CONFIG_{option}")).listed();
        if !modules.is_empty() {
            let what =
                format!("of its kernel {} is =m, and there is no initrd", modules.join(", "));
            warnings.push(MODULE.case(what).at(config.place(&model.key())));
        }
    }
    if plan.pool.is_some() && kernel.setting(POOL) == Setting::Absent {
        let what = format!("main memory is lent, and of the guest's kernel {}", unset(POOL));
        warnings.push(NO_POOL.case(what).at(config.place("kernel.path")));
    }
    warnings
}

/// The options of a disk's driver, and of a pool.
const DISK: &str = "VIRTIO_BLK";
const POOL: &str = "DMA_RESTRICTED_POOL";

fn unset(option: &str) -> String {
    format!("CONFIG_{option} is not set")
}

/// What a kernel needs for a transport.
fn options(transport: Transport) -> &'static [&'static str] {
    match transport {
        Transport::Mmio => &["VIRTIO_MMIO"],
        Transport::Pci => &["VIRTIO_PCI", "PCI_HOST_GENERIC"],
    }
}

fn transport(config: &VmConfig, kernel: &BuiltConfig) -> Option<Diagnostic> {
    let lacks = |of: &Transport| {
        let mut options = options(*of).iter();
        options.find(|option| kernel.setting(option) == Setting::Absent)
    };
    let lack = lacks(&config.transport)?;
    let (other, word) = match config.transport {
        Transport::Mmio => (Transport::Pci, "pci"),
        Transport::Pci => (Transport::Mmio, "mmio"),
    };
    let found = TRANSPORT.case(format!("of the guest's kernel {}", unset(lack)));
    Some(match lacks(&other) {
        None => found.cure(format!("give \"transport\": \"{word}\", for which it is built")),
        Some(_) => found.cure("build the kernel with the option"),
    })
}

/// The option of a device's driver.
fn driver(config: &VmConfig, model: Model) -> Option<&'static str> {
    Some(match model {
        Model::Console => "VIRTIO_CONSOLE",
        Model::Disk(_) => DISK,
        Model::Net(_) => "VIRTIO_NET",
        Model::Vsock => "VIRTIO_VSOCKETS",
        Model::Entropy => "HW_RANDOM_VIRTIO",
        Model::VhostUser(index) => match config.vhost_user.get(index)?.r#type {
            Backend::Fs => "VIRTIO_FS",
            Backend::Net => "VIRTIO_NET",
            Backend::Block => DISK,
            Backend::Entropy => "HW_RANDOM_VIRTIO",
            Backend::Sound => "SND_VIRTIO",
            Backend::Gpio => "GPIO_VIRTIO",
            Backend::I2c => "I2C_VIRTIO",
        },
    })
}
