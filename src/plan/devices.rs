// SPDX-License-Identifier: Apache-2.0
//! The virtio devices: registers, interrupt and doorbell of each, and the pool that they share with a
//! guest whose memory is lent.

use super::{Host, PlannedRegion, Range};
use crate::config::{Access, Backing, Permissions, Transport, VmConfig};
use crate::diagnostic::{kinds, Diagnostic};
use crate::layout::{ADDRESS_END, MEMORY_ALIGN, SPIS, VIRTIO_MMIO_BASE, VIRTIO_MMIO_SIZE};
use crate::text::Size;

/// The lowest label and SPI of a device; what is below is left to the console and to given trees.
const FIRST: u32 = 6;

/// The pool's key.
pub(super) const POOL: &str = "memory.pool";

kinds! {
    DEVICE_OVERLAP: Error "plan-device-overlap" in Plan {
        "the registers of a virtio device lie where something else is",
        cause: "virtio devices are at fixed addresses",
        cure: "move what is there by its `base`",
    }
    NO_ROOM: Error "plan-pool-no-room" in Plan {
        "there is no room for the pool behind main memory",
        cause: "guest addresses have 36 bits",
        cure: "give a smaller memory.pool, or move the memory or the regions",
    }
    WITHOUT: Error "plan-without-devices" in Plan {
        "this gunyahd is built without virtio devices",
        cause: "it was built without the feature `devices`",
        cure: "use one that has them, or remove the devices from the file",
    }
}

/// A device of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// `console.virtio`.
    Console,
    /// This one of `disks`.
    Disk(usize),
    /// This one of `nets`.
    Net(usize),
    /// `vsock`.
    Vsock,
    /// This one of `vhost_user`.
    VhostUser(usize),
    /// `entropy`.
    Entropy,
}

impl Model {
    /// What it is called in maps and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Console => "hvc",
            Self::Disk(_) => "disk",
            Self::Net(_) => "net",
            Self::Vsock => "vsock",
            Self::VhostUser(_) => "vhost-user",
            Self::Entropy => "entropy",
        }
    }

    /// Its key in the file.
    pub fn key(self) -> String {
        match self {
            Self::Console => "console.virtio".to_owned(),
            Self::Disk(index) => format!("disks[{index}]"),
            Self::Net(index) => format!("nets[{index}]"),
            Self::Vsock => "vsock".to_owned(),
            Self::VhostUser(index) => format!("vhost_user[{index}]"),
            Self::Entropy => "entropy".to_owned(),
        }
    }
}

/// Every device of `config`, in the order in which the guest finds them.
fn models(config: &VmConfig) -> Vec<Model> {
    let console = config.console.as_ref().filter(|console| console.virtio);
    let console = console.map(|_| Model::Console);
    let disks = (0..config.disks.len()).map(Model::Disk);
    let nets = (0..config.nets.len()).map(Model::Net);
    let entropy = config.entropy.then_some(Model::Entropy);
    let vsock = config.vsock.as_ref().map(|_| Model::Vsock);
    let vhost_user = (0..config.vhost_user.len()).map(Model::VhostUser);
    let all = console.into_iter().chain(disks).chain(nets).chain(vsock).chain(vhost_user);
    all.chain(entropy).collect()
}

/// A device and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedDevice {
    pub model: Model,
    /// Guest address and bytes of its registers.
    pub registers: Range,
    /// Label of its doorbell.
    pub label: u32,
    /// SPI number of its interrupt.
    pub interrupt: u32,
}

/// Gives every device of `config` its place: it follows from the file alone.
pub fn devices(config: &VmConfig) -> Vec<PlannedDevice> {
    let console = config.console.as_ref();
    let taken = |number: &u32| {
        console.is_some_and(|console| [console.label, console.interrupt].contains(number))
    };
    let mut numbers = (FIRST..SPIS).filter(|number| !taken(number));
    let mut base = VIRTIO_MMIO_BASE;
    models(config)
        .into_iter()
        .map_while(|model| {
            let number = numbers.next()?;
            let registers = Range { base, size: VIRTIO_MMIO_SIZE };
            base += VIRTIO_MMIO_SIZE;
            Some(PlannedDevice { model, registers, label: number, interrupt: number })
        })
        .collect()
}

/// What is wrong with the places of `devices`.
pub(super) fn check(
    config: &VmConfig,
    devices: &[PlannedDevice],
    regions: &[PlannedRegion],
) -> Vec<Diagnostic> {
    let console = config.console.as_ref().map(|console| {
        let size = console.device.frame();
        ("console.base".to_owned(), Range { base: console.base, size })
    });
    let regions = regions.iter().map(|region| {
        let range = Range { base: region.base, size: region.size };
        (format!("{}.base", region.key), range)
    });
    let others: Vec<(String, Range)> = console.into_iter().chain(regions).collect();
    let mut faults = Vec::new();
    for device in devices {
        if !cfg!(feature = "devices") {
            let what = "this gunyahd is built without virtio devices";
            faults.push(WITHOUT.case(what).at(config.place(&device.model.key())));
        }
        let range = device.registers;
        for (key, _) in others.iter().filter(|(_, other)| other.overlaps(&range)) {
            let what = format!(
                "lies where the registers of {} are, {:#x} to {:#x}",
                device.model.key(),
                range.base,
                range.base + range.size - 1
            );
            faults.push(DEVICE_OVERLAP.case(what).at(config.place(key)));
        }
    }
    faults
}

/// The pool of a VM with devices whose main memory is lent: a region of its own behind main memory.
pub(super) fn pool(
    config: &VmConfig,
    host: &Host,
    regions: &[PlannedRegion],
) -> Result<Option<PlannedRegion>, Diagnostic> {
    let lent = host.dialect.lends() || config.memory.access == Access::Lend;
    let (Some(size), true, Some(main)) = (config.pool_size(), lent, regions.first()) else {
        return Ok(None);
    };
    let mut range = Range { base: main.base.saturating_add(main.size), size };
    loop {
        // A huge page of main memory never reaches into it.
        range.base = range.base.next_multiple_of(MEMORY_ALIGN);
        let mut others = regions.iter();
        match others.find(|other| Range { base: other.base, size: other.size }.overlaps(&range)) {
            Some(other) => range.base = other.base.saturating_add(other.size),
            None => break,
        }
    }
    if range.base.checked_add(size).is_none_or(|end| end > ADDRESS_END) {
        let what = format!("the pool of {} has no room behind main memory", Size(size));
        return Err(NO_ROOM.case(what).at(config.place(POOL)));
    }
    let labels: Vec<u32> = regions.iter().map(|region| region.label).collect();
    let label = (1..u32::MAX).find(|label| !labels.contains(label)).unwrap_or(u32::MAX);
    Ok(Some(PlannedRegion {
        key: POOL.to_owned(),
        label,
        base: range.base,
        size,
        access: Access::Share,
        flags: Permissions::READ_WRITE,
        prefault: true,
        file: None,
        backing: pool_backing(config, &main.backing),
        ..main.clone()
    }))
}

/// What the pool is made of: as main memory, but nothing of the reserve, whose file no backend may map.
fn pool_backing(config: &VmConfig, main: &[Backing]) -> Vec<Backing> {
    if config.vhost_user.is_empty() {
        return main.to_vec();
    }
    let own = main.iter().copied().filter(|backing| *backing != Backing::Reserve);
    let own: Vec<Backing> = own.collect();
    if own.is_empty() {
        vec![Backing::Base]
    } else {
        own
    }
}

/// The pool among `regions`.
pub(super) fn pool_of(regions: &[PlannedRegion]) -> Option<Range> {
    let pool = regions.iter().find(|region| region.is_pool())?;
    Some(Range { base: pool.base, size: pool.size })
}

/// The trigger of a device's interrupt.
pub fn trigger(transport: Transport) -> gunyah::Trigger {
    match transport {
        Transport::Mmio => gunyah::Trigger::Edge,
        // As INTx is.
        Transport::Pci => gunyah::Trigger::Level,
    }
}
