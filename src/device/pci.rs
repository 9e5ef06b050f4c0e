// SPDX-License-Identifier: Apache-2.0
//! The virtio-pci transport (virtio 1.2, 4.1) as far as guests need it: one bus behind a CAM, a function for
//! each device, one memory BAR that stays where it is, INTx.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::driver::{set_half, Driver, Half};
use super::link::Link;
use super::QueueLayout;
use crate::vcpu::{Device, Width};

// What is where in the BAR.
const ISR: u64 = 0x1000;
const CONFIG: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const BAR_SIZE: u32 = 0x4000;
/// Bytes between the notification addresses of two queues.
const NOTIFY_STEP: u32 = 4;

// Registers of the common configuration (4.1.4.3).
const DEVICE_FEATURE_SELECT: u64 = 0x0;
const DEVICE_FEATURE: u64 = 0x4;
const DRIVER_FEATURE_SELECT: u64 = 0x8;
const DRIVER_FEATURE: u64 = 0xc;
const CONFIG_VECTOR: u64 = 0x10;
const NUM_QUEUES: u64 = 0x12;
const DEVICE_STATUS: u64 = 0x14;
const CONFIG_GENERATION: u64 = 0x15;
const QUEUE_SELECT: u64 = 0x16;
const QUEUE_SIZE: u64 = 0x18;
const QUEUE_VECTOR: u64 = 0x1a;
const QUEUE_ENABLE: u64 = 0x1c;
const QUEUE_NOTIFY_OFF: u64 = 0x1e;
const QUEUE_DESC: u64 = 0x20;
const QUEUE_DRIVER: u64 = 0x28;
const COMMON_END: u64 = 0x38;

/// There are no message-signalled interrupts.
const NO_VECTOR: u64 = 0xffff;

/// The address of a queue's kicks, from the BAR's base.
pub(super) fn notify_offset(queue: u64) -> u64 {
    NOTIFY.saturating_add(queue.saturating_mul(NOTIFY_STEP.into()))
}

/// A device's BAR.
pub(super) struct Pci {
    link: Arc<Link>,
    driver: Mutex<Driver>,
}

impl Pci {
    pub fn new(link: Arc<Link>) -> Self {
        Self { driver: Mutex::new(Driver::new(Arc::clone(&link))), link }
    }

    fn driver(&self) -> MutexGuard<'_, Driver> {
        // Registers have no half-done states worth dying for.
        self.driver.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn common(&self, offset: u64) -> u64 {
        let driver = self.driver();
        match offset {
            DEVICE_FEATURE_SELECT => driver.device_select.into(),
            DEVICE_FEATURE => driver.device_features().into(),
            DRIVER_FEATURE_SELECT => driver.driver_select.into(),
            DRIVER_FEATURE => driver.driver_features().into(),
            CONFIG_VECTOR | QUEUE_VECTOR => NO_VECTOR,
            NUM_QUEUES => self.link.sizes.len() as u64,
            DEVICE_STATUS => driver.status().into(),
            CONFIG_GENERATION => (self.link.generation() & 0xff).into(),
            QUEUE_SELECT | QUEUE_NOTIFY_OFF => driver.queue_select.into(),
            // 0: there is no such queue.
            QUEUE_SIZE if driver.queue_size_max() == 0 => 0,
            QUEUE_SIZE => driver.layout().size.into(),
            QUEUE_ENABLE => driver.is_ready().into(),
            QUEUE_DESC..COMMON_END => {
                let QueueLayout { descriptors, driver: available, device: used, .. } =
                    driver.layout();
                let address = match offset & !7 {
                    QUEUE_DESC => descriptors,
                    QUEUE_DRIVER => available,
                    _ => used,
                };
                address >> (8 * (offset & 7))
            }
            _ => 0,
        }
    }

    fn set_common(&self, offset: u64, width: Width, value: u64) {
        let mut driver = self.driver();
        // What is wider than its register loses the rest.
        let word = u32::try_from(value & u64::from(u32::MAX)).unwrap_or(0);
        let half = u16::try_from(value & 0xffff).unwrap_or(0);
        match offset {
            DEVICE_FEATURE_SELECT => driver.device_select = word,
            DRIVER_FEATURE_SELECT => driver.driver_select = word,
            DRIVER_FEATURE => driver.set_driver_features(word),
            DEVICE_STATUS => driver.set_status(word & 0xff),
            QUEUE_SELECT => driver.queue_select = half.into(),
            QUEUE_SIZE => driver.set_layout(|layout| layout.size = half),
            // It is not taken back but by a reset.
            QUEUE_ENABLE => driver.set_ready(half == 1),
            QUEUE_DESC..COMMON_END if offset % 4 == 0 => driver.set_layout(|layout| {
                let address = match offset & !7 {
                    QUEUE_DESC => &mut layout.descriptors,
                    QUEUE_DRIVER => &mut layout.driver,
                    _ => &mut layout.device,
                };
                match (width, offset & 4) {
                    (Width::Double, _) => *address = value,
                    (_, 0) => set_half(address, Half::Low, word),
                    _ => set_half(address, Half::High, word),
                }
            }),
            _ => {}
        }
    }
}

impl Device for Pci {
    fn read(&self, offset: u64, width: Width) -> u64 {
        self.link.counters().exits.fetch_add(1, Ordering::Relaxed);
        match offset {
            0..COMMON_END => self.common(offset),
            ISR => self.link.take_status().into(),
            CONFIG..NOTIFY => self.link.read_config(offset - CONFIG, width.bytes()),
            _ => 0,
        }
    }

    fn write(&self, offset: u64, width: Width, value: u64) {
        self.link.counters().exits.fetch_add(1, Ordering::Relaxed);
        match offset {
            0..COMMON_END => self.set_common(offset, width, value),
            NOTIFY.. => self.link.kick_by_exit((offset - NOTIFY) / u64::from(NOTIFY_STEP)),
            // The configuration space is read-only.
            _ => {}
        }
    }
}

// The configuration space of a function (PCI 3.0, 6.1).
const SPACE: usize = 256;
const COMMAND: usize = 0x4;
/// Memory space, bus master, INTx off.
const COMMAND_BITS: u16 = 0x406;
const BAR0: usize = 0x10;
const CAPABILITIES: usize = 0x40;
/// Red Hat's, and virtio 1's devices from here on.
const VENDOR: u16 = 0x1af4;
const DEVICE: u16 = 0x1040;

/// A function's configuration space.
struct Function {
    space: [u8; SPACE],
    bar: u32,
    /// The driver asks for the BAR's size.
    sizing: bool,
}

impl Function {
    /// Of a device whose BAR lies at `bar`.
    fn new(link: &Link, bar: u32) -> Self {
        let mut function = Self { space: [0; SPACE], bar, sizing: false };
        let number = u16::try_from(link.number).unwrap_or(0);
        let device = DEVICE.saturating_add(number);
        let halves = [
            (0x0, VENDOR),
            (0x2, device),
            // Memory and bus master on.
            (COMMAND, 6),
            // There is a list of capabilities, and where.
            (0x6, 0x10),
            (0x34, 0x40),
            (0x2c, VENDOR),
            (0x2e, device),
            // INTA.
            (0x3c, 0x100),
        ];
        halves.iter().for_each(|(at, half)| function.put(*at, &half.to_le_bytes()));
        // Revision 1; class: storage for disks, network, console, else of no class (PCI 3.0, D).
        let class = match link.number {
            1 => 0x02_00_00,
            2 => 0x01_80_00,
            3 => 0x07_80_00,
            _ => 0xff_00_00u32,
        };
        function.put(0x8, &(class << 8 | 1).to_le_bytes());
        let queues = u32::try_from(link.sizes.len()).unwrap_or(0);
        let parts = [
            (1, 0u64, 0x38, None),
            (3, ISR, 1, None),
            (4, CONFIG, 0x1000, None),
            (2, NOTIFY, queues.saturating_mul(NOTIFY_STEP), Some(NOTIFY_STEP)),
        ];
        // VIRTIO_PCI_CAP_PCI_CFG is for firmware that has no memory space, and left out.
        let mut at = CAPABILITIES;
        for (index, (kind, offset, length, step)) in parts.into_iter().enumerate() {
            let size: u8 = if step.is_some() { 20 } else { 16 };
            let last = index + 1 == parts.len();
            let next = u8::try_from(at).unwrap_or(0).saturating_add(size);
            function.put(at, &[0x09, if last { 0 } else { next }, size, kind, 0]);
            function.put(at + 8, &u32::try_from(offset).unwrap_or(0).to_le_bytes());
            function.put(at + 12, &length.to_le_bytes());
            if let Some(step) = step {
                function.put(at + 16, &step.to_le_bytes());
            }
            at += usize::from(size);
        }
        function
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.space.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    fn read(&self, at: usize, width: Width) -> u64 {
        if (BAR0..BAR0 + 4).contains(&at) {
            let bar = if self.sizing { !(BAR_SIZE - 1) } else { self.bar };
            return u64::from(bar) >> (8 * (at - BAR0));
        }
        let bytes = self.space.get(at..(at + width as usize).min(SPACE)).unwrap_or(&[]);
        bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn write(&mut self, at: usize, width: Width, value: u64) {
        match at {
            COMMAND => {
                let bits = u16::try_from(value & 0xffff).unwrap_or(0) & COMMAND_BITS;
                self.put(COMMAND, &bits.to_le_bytes());
            }
            // It stays where the devicetree says that it was found: linux,pci-probe-only.
            BAR0 if width == Width::Word => self.sizing = value == u64::from(u32::MAX),
            // The interrupt's line is the driver's own note.
            0x3c => self.put(0x3c, &value.to_le_bytes()[..1]),
            _ => {}
        }
    }
}

/// The bus's configuration space: 256 bytes a function.
#[derive(Default)]
pub(super) struct Cam {
    /// From slot 1 on; slot 0 would be the host bridge, which nobody needs.
    functions: Vec<Mutex<Function>>,
}

impl Cam {
    /// Adds the next slot's function, whose BAR lies at `bar`.
    pub fn add(&mut self, link: &Link, bar: u64) {
        let bar = u32::try_from(bar).unwrap_or(0);
        self.functions.push(Mutex::new(Function::new(link, bar)));
    }

    /// The function and its register at an offset of the CAM.
    fn find(&self, offset: u64) -> Option<(MutexGuard<'_, Function>, usize)> {
        // Bus, 5 bits of slot, 3 of function, 8 of register.
        let (bus, slot, function) = (offset >> 16, offset >> 11 & 31, offset >> 8 & 7);
        let index = usize::try_from(slot.checked_sub(1)?).ok()?;
        let found = self.functions.get(index).filter(|_| bus == 0 && function == 0)?;
        let register = usize::try_from(offset & 0xff).ok()?;
        Some((found.lock().unwrap_or_else(PoisonError::into_inner), register))
    }
}

impl Device for Cam {
    fn read(&self, offset: u64, width: Width) -> u64 {
        // All ones: there is no function.
        self.find(offset).map_or(u64::MAX, |(function, at)| function.read(at, width))
    }

    fn write(&self, offset: u64, width: Width, value: u64) {
        if let Some((mut function, at)) = self.find(offset) {
            function.write(at, width, value);
        }
    }
}

#[cfg(test)]
mod tests {

    use super::super::warnings::Warner;
    use super::super::Face;
    use super::*;
    use crate::mpsc;
    use crate::vcpu::eventfd;

    fn link() -> Arc<Link> {
        let warner = Warner::new(mpsc::channel().0, Arc::new(eventfd().unwrap()));
        let face = Face { number: 2, features: 0, queues: vec![64, 32], config: vec![1, 2, 3] };
        Arc::new(
            Link::new(
                "disks[0]".to_owned(),
                face,
                crate::device::io::RINGS,
                mpsc::channel().0,
                warner,
            )
            .unwrap(),
        )
    }

    #[test]
    fn a_bus_has_its_functions_and_nothing_else() {
        let mut cam = Cam::default();
        cam.add(&link(), 0x200_0000);
        let word = |at: u64| cam.read(at, Width::Word) & Width::Word.mask();
        assert_eq!(word(0x800), 0x1042_1af4);
        for nobody in [0, 0x1000, 0x900, 0x1_0800] {
            assert_eq!(word(nobody), 0xffff_ffff, "{nobody:#x}");
        }
        // The BAR stays, and says its size.
        assert_eq!(word(0x810), 0x200_0000);
        cam.write(0x810, Width::Word, 0xffff_ffff);
        assert_eq!(word(0x810), 0xffff_c000);
        cam.write(0x810, Width::Word, 0x4000_0000);
        assert_eq!(word(0x810), 0x200_0000);
        cam.write(0x804, Width::Half, 0xffff);
        assert_eq!(cam.read(0x804, Width::Half), u64::from(COMMAND_BITS));
        // Past its end and across registers: no panic, no other function's bytes.
        assert_eq!(cam.read(0x8ff, Width::Double), 0);
        cam.write(0x8ff, Width::Double, u64::MAX);
        // The capabilities: common, interrupt status, device's, notifications.
        let mut at = word(0x834) & 0xff;
        let mut kinds = Vec::new();
        while at != 0 {
            let head = word(0x800 + at);
            assert_eq!(head & 0xff, 9);
            kinds.push(head >> 24);
            at = head >> 8 & 0xff;
        }
        assert_eq!(kinds, [1, 3, 4, 2]);
    }

    #[test]
    fn addresses_are_set_by_halves_and_at_once() {
        let device = Pci::new(link());
        let write = |at, width, value| device.write(at, width, value);
        write(QUEUE_SELECT, Width::Half, 1);
        assert_eq!(device.read(QUEUE_SIZE, Width::Half), 32);
        assert_eq!(device.read(QUEUE_NOTIFY_OFF, Width::Half), 1);
        write(QUEUE_DESC, Width::Word, 0x1000);
        write(QUEUE_DESC + 4, Width::Word, 0x2);
        write(QUEUE_DRIVER, Width::Double, 0x3_0000_4000);
        assert_eq!(device.read(QUEUE_DESC, Width::Double), 0x2_0000_1000);
        assert_eq!(device.read(QUEUE_DRIVER + 4, Width::Word), 3);
        write(QUEUE_SELECT, Width::Half, 2);
        assert_eq!(device.read(QUEUE_SIZE, Width::Half), 0, "no such queue");
        assert_eq!(device.read(NUM_QUEUES, Width::Half), 2);
        assert_eq!(device.read(CONFIG_VECTOR, Width::Half), NO_VECTOR);
        assert_eq!(device.read(CONFIG, Width::Word), 0x03_0201);
        write(notify_offset(1), Width::Half, 1);
        assert_eq!(device.link.kick(1).unwrap().read(), Ok(1));
        assert_eq!((device.read(ISR, Width::Byte), device.read(0x3fff, Width::Byte)), (1, 0));
    }
}
