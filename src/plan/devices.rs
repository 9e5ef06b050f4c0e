// SPDX-License-Identifier: Apache-2.0
//! The virtio devices: registers, interrupt and doorbell of each, and the pool that they share with a
//! guest whose memory is lent.

use super::{Host, PlannedRegion, Range};
use crate::config::{Access, Backing, Permissions, Transport, VmConfig};
use crate::diagnostic::{kinds, Diagnostic};
use crate::layout::{
    ADDRESS_END, MEMORY_ALIGN, PCI_BAR_SIZE, PCI_CAM_BASE, PCI_CAM_SIZE, PCI_MEMORY_BASE,
    PCI_MEMORY_SIZE, SPIS, VIRTIO_MMIO_BASE, VIRTIO_MMIO_SIZE,
};
use crate::list::Listed;
use crate::text::Size;

/// The lowest label and SPI of a device; what is below is left to the console and to given trees.
const FIRST: u32 = 6;

/// Slots for devices on the PCI bus: slot 0 would be the host bridge.
const SLOTS: u32 = 31;

/// The host's node that serves socket devices.
pub const VHOST_VSOCK: &str = "/dev/vhost-vsock";

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
    PCI_FULL: Error "plan-pci-full" in Plan {
        "the PCI bus has no slot for a virtio device",
        cause: "a bus has 31 slots for devices",
        cure: "leave some devices out, or use \"transport\": \"mmio\"",
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
    let mut all = Vec::new();
    if config.console.as_ref().is_some_and(|console| console.virtio) {
        all.push(Model::Console);
    }
    all.extend((0..config.disks.len()).map(Model::Disk));
    all.extend((0..config.nets.len()).map(Model::Net));
    if config.vsock.is_some() {
        all.push(Model::Vsock);
    }
    all.extend((0..config.vhost_user.len()).map(Model::VhostUser));
    if config.entropy {
        all.push(Model::Entropy);
    }
    all
}

/// A device and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedDevice {
    pub model: Model,
    /// Its slot on the PCI bus, where it is on one.
    pub slot: u32,
    /// Guest address and bytes of its registers.
    pub registers: Range,
    /// Label of its doorbell.
    pub label: u32,
    /// SPI number of its interrupt.
    pub interrupt: u32,
}

/// Labels and SPIs for devices, from the lowest.
fn numbers(config: &VmConfig) -> impl Iterator<Item = u32> {
    let console = config.console.as_ref().map(|console| [console.label, console.interrupt]);
    (FIRST..SPIS).filter(move |number| !console.is_some_and(|taken| taken.contains(number)))
}

/// The interrupt that is the power key of `stop.power_key`, pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PowerKey {
    /// Label of its doorbell.
    pub label: u32,
    /// SPI number of its interrupt.
    pub interrupt: u32,
}

/// The power key of `config`, if it has one: behind the devices.
pub fn power_key(config: &VmConfig) -> Option<PowerKey> {
    let number = numbers(config).nth(models(config).len()).filter(|_| config.has_power_key())?;
    Some(PowerKey { label: number, interrupt: number })
}

/// Gives every device of `config` its place: it follows from the file alone.
pub fn devices(config: &VmConfig) -> Vec<PlannedDevice> {
    let mut numbers = numbers(config);
    let (mut base, size) = match config.transport {
        Transport::Mmio => (VIRTIO_MMIO_BASE, VIRTIO_MMIO_SIZE),
        Transport::Pci => (PCI_MEMORY_BASE, PCI_BAR_SIZE),
    };
    models(config)
        .into_iter()
        .zip(1..)
        .map_while(|(model, slot)| {
            let number = numbers.next()?;
            let registers = Range { base, size };
            base += size;
            Some(PlannedDevice { model, slot, registers, label: number, interrupt: number })
        })
        .listed()
}

/// What devices take of device space besides their registers.
fn windows(config: &VmConfig, devices: &[PlannedDevice]) -> Vec<(String, Range)> {
    let pci = [
        Range { base: PCI_CAM_BASE, size: PCI_CAM_SIZE },
        Range { base: PCI_MEMORY_BASE, size: PCI_MEMORY_SIZE },
    ];
    match config.transport {
        Transport::Pci if !devices.is_empty() => {
            pci.map(|range| ("the PCI bus".to_owned(), range)).to_vec()
        }
        _ => devices.iter().map(|device| (device.model.key(), device.registers)).listed(),
    }
}

/// What is wrong with the places of `devices`.
pub(super) fn check(
    config: &VmConfig,
    devices: &[PlannedDevice],
    regions: &[PlannedRegion],
) -> Vec<Diagnostic> {
    let mut others = Vec::new();
    if let Some(console) = &config.console {
        let size = console.device.frame();
        others.push(("console.base".to_owned(), Range { base: console.base, size }));
    }
    for region in regions {
        let range = Range { base: region.base, size: region.size };
        others.push((format!("{}.base", region.key), range));
    }
    let mut faults = Vec::new();
    for device in devices {
        if !cfg!(feature = "devices") {
            let what = "this gunyahd is built without virtio devices";
            faults.push(WITHOUT.case(what).at(config.place(&device.model.key())));
        }
        if config.transport == Transport::Pci && device.slot > SLOTS {
            let what = format!("is device {} of the PCI bus, which has {SLOTS}", device.slot);
            faults.push(PCI_FULL.case(what).at(config.place(&device.model.key())));
        }
    }
    for (whose, range) in windows(config, devices) {
        for (key, _) in others.iter().filter(|(_, other)| other.overlaps(&range)) {
            let what = format!(
                "lies where the registers of {whose} are, {:#x} to {:#x}",
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
    let (Some(size), Some(main)) = (config.pool_size(host.dialect.lends()), regions.first()) else {
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
    let labels = regions.iter().map(|region| region.label).listed();
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
    let own = own.listed();
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use gunyah::Dialect;

    use super::*;
    use crate::config::parse;

    fn config(keys: &str) -> VmConfig {
        let text = format!(r#"{{"name": "vm", "kernel": {{"path": "/Image"}}, {keys}}}"#);
        parse(Path::new("vm.json"), &text).unwrap()
    }

    fn main(config: &VmConfig) -> Vec<PlannedRegion> {
        let region = |key: String, label, base, size| PlannedRegion {
            key,
            label,
            base,
            size,
            access: Access::Auto,
            flags: Permissions::ALL,
            backing: Vec::new(),
            huge_page: 2 << 20,
            prefault: true,
            file: None,
        };
        let memory = &config.memory;
        let mut all = vec![region("memory".to_owned(), memory.label, memory.base, memory.size)];
        for (index, more) in config.regions.iter().enumerate() {
            all.push(region(format!("regions[{index}]"), more.label, more.base, more.size));
        }
        all
    }

    const DISKS: &str = r#""memory": {"size": "100M"}, "disks": [{"path": "/a"}, {"path": "/b"}]"#;

    #[test]
    fn places_do_not_meet_the_consoles_nor_each_other() {
        let places = |keys: &str| {
            let all = devices(&config(&format!("{DISKS}{keys}")));
            all.iter()
                .map(|device| (device.label, device.interrupt, device.registers.base, device.slot))
                .collect::<Vec<_>>()
        };
        assert_eq!(places(""), [(6, 6, 0x0a00_0000, 1), (7, 7, 0x0a00_0200, 2)]);
        let console =
            r#", "console": {"label": 6, "interrupt": 8, "virtio": true}, "entropy": true"#;
        let numbers: Vec<u32> = places(console).iter().map(|place| place.0).collect();
        assert_eq!(numbers, [7, 9, 10, 11], "console, disks, entropy");
        let pci = places(r#", "transport": "pci""#);
        assert_eq!(pci, [(6, 6, 0x0200_0000, 1), (7, 7, 0x0200_4000, 2)]);
    }

    #[test]
    fn what_lies_where_a_device_is_is_named() {
        for (keys, key, wrong) in [
            (r#", "console": {"base": "0xa000000"}"#, "console.base", true),
            (r#", "console": {"base": "0x2000000"}"#, "", false),
            (r#", "console": {"base": "0x2000000"}, "transport": "pci""#, "console.base", true),
            (
                r#", "regions": [{"label": 9, "base": "0x800000", "size": "4M"}], "transport": "pci""#,
                "regions[0].base",
                true,
            ),
        ] {
            let config = config(&format!("{DISKS}{keys}"));
            let found = check(&config, &devices(&config), &main(&config));
            assert_eq!(!found.is_empty(), wrong, "{keys}: {found:?}");
            for fault in found {
                assert_eq!(fault.name, "plan-device-overlap");
                assert_eq!(fault.place.as_ref().unwrap().key, key);
            }
        }
    }

    #[test]
    fn a_pci_bus_has_31_devices() {
        let list = |one: &str, count| {
            let each = |number: i32| one.replace('#', &number.to_string());
            (0..count).map(each).collect::<Vec<_>>().join(", ")
        };
        let keys = format!(
            r#""memory": {{"size": "100M"}}, "disks": [{}], "nets": [{}], "vhost_user": [{}], "entropy": true"#,
            list(r##"{"path": "/#"}"##, 16),
            list(r##"{"tap": "tap#"}"##, 8),
            list(r#"{"type": "entropy", "socket": "/s"}"#, 8),
        );
        for (transport, beyond) in [("pci", &["vhost_user[7]", "entropy"][..]), ("mmio", &[])] {
            let config = config(&format!(r#"{keys}, "transport": "{transport}""#));
            let mut found = check(&config, &devices(&config), &main(&config));
            found.retain(|fault| fault.name != "plan-without-devices");
            assert!(found.iter().all(|fault| fault.name == "plan-pci-full"), "{found:?}");
            let keys: Vec<_> =
                found.iter().map(|fault| fault.place.as_ref().unwrap().key.as_str()).collect();
            assert_eq!(keys, beyond, "{transport}");
        }
    }

    #[test]
    fn a_pool_lies_behind_lent_memory_where_there_is_room() {
        let host = Host::PAGES_4K;
        let of = |keys: &str, dialect| {
            let config = config(keys);
            pool(&config, &host.with(dialect), &main(&config)).unwrap()
        };
        assert_eq!(of(DISKS, Dialect::Lkml), None, "shared");
        assert_eq!(of(r#""memory": {"size": "100M"}"#, Dialect::Ack612), None, "no devices");
        let found = of(DISKS, Dialect::Ack612).unwrap();
        assert_eq!((found.base, found.size, found.label), (0x8640_0000, 12 << 20, 1));
        assert_eq!((found.access, found.is_pool()), (Access::Share, true));
        // Around a region, with its label free.
        let regions = r#", "regions": [{"label": 1, "base": "0x86800000", "size": "4K"}]"#;
        let found = of(&format!("{DISKS}{regions}"), Dialect::Ack61).unwrap();
        assert_eq!((found.base, found.label), (0x86a0_0000, 2));
        let given = DISKS.replace("\"100M\"", "\"100M\", \"pool\": \"2M\"");
        assert_eq!(of(&given, Dialect::Ack66).unwrap().size, 2 << 20);
        let small = DISKS.replace("100M", "16M");
        assert_eq!(of(&small, Dialect::Ack66).unwrap().size, 4 << 20);
        let large = DISKS.replace("100M", "8G");
        assert_eq!(of(&large, Dialect::Ack66).unwrap().size, 64 << 20);
        let full = DISKS.replace("100M", "62G");
        let config = config(&full);
        let fault = pool(&config, &host.with(Dialect::Ack66), &main(&config)).unwrap_err();
        assert_eq!(fault.name, "plan-pool-no-room");
    }

    #[test]
    fn a_pool_that_a_backend_maps_is_not_of_the_reserve() {
        let (reserve, thp) = (Backing::Reserve, Backing::Thp);
        let plain = config(DISKS);
        assert_eq!(pool_backing(&plain, &[reserve, thp]), [reserve, thp]);
        let backend = r#", "vhost_user": [{ "type": "entropy", "socket": "/s" }]"#;
        let shared = config(&format!("{DISKS}{backend}"));
        assert_eq!(pool_backing(&shared, &[reserve, thp]), [thp]);
        assert_eq!(pool_backing(&shared, &[reserve]), [Backing::Base]);
    }

    #[test]
    fn a_build_without_devices_says_so() {
        let config = config(DISKS);
        let found = check(&config, &devices(&config), &main(&config));
        let names: Vec<_> = found.iter().map(|fault| fault.name.as_str()).collect();
        match cfg!(feature = "devices") {
            true => assert_eq!(names, [] as [&str; 0]),
            false => assert_eq!(names, ["plan-without-devices"; 2]),
        }
    }
}
