// SPDX-License-Identifier: Apache-2.0
//! The virtio-mmio transport, version 2 (virtio 1.2, 4.2).

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::driver::{set_half, Driver, Half};
use super::link::Link;
use crate::vcpu::{Device, Width};

const MAGIC_VALUE: u64 = 0x0;
const VERSION: u64 = 0x4;
const DEVICE_ID: u64 = 0x8;
const VENDOR_ID: u64 = 0xc;
const DEVICE_FEATURES: u64 = 0x10;
const DEVICE_FEATURES_SEL: u64 = 0x14;
const DRIVER_FEATURES: u64 = 0x20;
const DRIVER_FEATURES_SEL: u64 = 0x24;
const QUEUE_SEL: u64 = 0x30;
const QUEUE_SIZE_MAX: u64 = 0x34;
const QUEUE_SIZE: u64 = 0x38;
const QUEUE_READY: u64 = 0x44;
pub(super) const QUEUE_NOTIFY: u64 = 0x50;
const INTERRUPT_STATUS: u64 = 0x60;
pub(super) const INTERRUPT_ACK: u64 = 0x64;
const STATUS: u64 = 0x70;
const SHM: std::ops::Range<u64> = 0xb0..0xc0;
const CONFIG_GENERATION: u64 = 0xfc;
const CONFIG: u64 = 0x100;

/// "virt".
const MAGIC: u32 = 0x7472_6976;
/// Nobody looks at it; QEMU's, as Linux's own tables have it.
const VENDOR: u32 = 0x554d_4551;

/// A device's registers.
pub(super) struct Mmio {
    link: Arc<Link>,
    driver: Mutex<Driver>,
}

impl Mmio {
    pub fn new(link: Arc<Link>) -> Self {
        Self { driver: Mutex::new(Driver::new(Arc::clone(&link))), link }
    }

    fn driver(&self) -> MutexGuard<'_, Driver> {
        // Registers have no half-done states worth dying for.
        self.driver.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn register(&self, offset: u64) -> u32 {
        let driver = self.driver();
        match offset {
            MAGIC_VALUE => MAGIC,
            VERSION => 2,
            DEVICE_ID => self.link.number,
            VENDOR_ID => VENDOR,
            DEVICE_FEATURES => driver.device_features(),
            QUEUE_SIZE_MAX => driver.queue_size_max().into(),
            QUEUE_READY => driver.is_ready().into(),
            STATUS => driver.status(),
            CONFIG_GENERATION => self.link.generation(),
            // No shared memory: a length of all ones.
            offset if SHM.contains(&offset) => u32::MAX,
            _ => 0,
        }
    }
}

impl Device for Mmio {
    fn read(&self, offset: u64, width: Width) -> u64 {
        self.link.counters().exits.fetch_add(1, Ordering::Relaxed);
        match offset {
            // Without the lock: it is what a driver reads at every interrupt.
            INTERRUPT_STATUS => self.link.take_status().into(),
            CONFIG.. => self.link.read_config(offset - CONFIG, width.bytes()),
            _ => self.register(offset).into(),
        }
    }

    fn write(&self, offset: u64, _: Width, value: u64) {
        self.link.counters().exits.fetch_add(1, Ordering::Relaxed);
        // Registers have 32 bits.
        let value = u32::try_from(value & u64::from(u32::MAX)).unwrap_or(0);
        // Kicks come here where the driver's upper bits do not match the ioeventfd's value.
        if offset == QUEUE_NOTIFY {
            return self.link.kick_by_exit(value.into());
        }
        let mut driver = self.driver();
        let half = if offset & 4 == 0 { Half::Low } else { Half::High };
        match offset {
            DEVICE_FEATURES_SEL => driver.device_select = value,
            DRIVER_FEATURES => driver.set_driver_features(value),
            DRIVER_FEATURES_SEL => driver.driver_select = value,
            QUEUE_SEL => driver.queue_select = value,
            // One that is no number of 16 bits is none that is allowed.
            QUEUE_SIZE => {
                driver.set_layout(|layout| layout.size = u16::try_from(value).unwrap_or(0));
            }
            QUEUE_READY => driver.set_ready(value & 1 != 0),
            STATUS => driver.set_status(value),
            0x80 | 0x84 => driver.set_layout(|queue| set_half(&mut queue.descriptors, half, value)),
            0x90 | 0x94 => driver.set_layout(|queue| set_half(&mut queue.driver, half, value)),
            0xa0 | 0xa4 => driver.set_layout(|queue| set_half(&mut queue.device, half, value)),
            // INTERRUPT_ACK: see Link::take_status. The configuration space is read-only.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::link::{Order, Sent};
    use super::super::warnings::Warner;
    use super::super::Face;
    use super::*;
    use crate::mpsc::{self, Receiver};
    use crate::vcpu::eventfd;

    /// The registers of a device with two queues, and its thread, which obeys everything.
    fn device() -> (Mmio, Arc<Link>, Receiver<String>) {
        let (sender, orders) = mpsc::channel::<Sent>();
        let (warnings, _) = mpsc::channel();
        let warner = Warner::new(warnings, Arc::new(eventfd().unwrap()));
        let face = Face {
            number: 2,
            features: 1 << 9,
            queues: vec![256, 16],
            config: vec![1, 2, 3, 4, 5, 6, 7, 8, 9],
        };
        let link = Arc::new(
            Link::new("disks[0]".to_owned(), face, crate::device::io::RINGS, sender, warner)
                .unwrap(),
        );
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            while let Ok((order, done)) = orders.recv() {
                let text = match order {
                    Order::Start(features, layouts) => format!("start {features:#x} {layouts:x?}"),
                    Order::Reset => "reset".to_owned(),
                    _ => "other".to_owned(),
                };
                let _ = (tell.send(text), done.send(Ok(())));
            }
        });
        (Mmio::new(Arc::clone(&link)), link, told)
    }

    fn read(device: &Mmio, offset: u64) -> u64 {
        device.read(offset, Width::Word)
    }

    fn write(device: &Mmio, offset: u64, value: u64) {
        device.write(offset, Width::Word, value);
    }

    /// ACKNOWLEDGE, DRIVER, features, FEATURES_OK; whether that stays.
    fn negotiate(device: &Mmio, low: u64, high: u64) -> bool {
        write(device, STATUS, 3);
        for (half, value) in [(0, low), (1, high)] {
            write(device, DRIVER_FEATURES_SEL, half);
            write(device, DRIVER_FEATURES, value);
        }
        write(device, STATUS, 11);
        read(device, STATUS) & 8 != 0
    }

    #[test]
    fn a_driver_finds_a_device_of_version_2_and_its_features() {
        let (device, _, _) = device();
        let found = [MAGIC_VALUE, VERSION, DEVICE_ID].map(|offset| read(&device, offset));
        assert_eq!(found, [0x7472_6976, 2, 2]);
        let mut features = [0; 3];
        for (half, found) in (0..).zip(&mut features) {
            write(&device, DEVICE_FEATURES_SEL, half);
            *found = read(&device, DEVICE_FEATURES);
        }
        // Flush, indirect, event index; version 1, access platform.
        assert_eq!(features, [0x3000_0200, 3, 0]);
        write(&device, QUEUE_SEL, 1);
        assert_eq!(read(&device, QUEUE_SIZE_MAX), 16);
        write(&device, QUEUE_SEL, 2);
        assert_eq!(read(&device, QUEUE_SIZE_MAX), 0);
        assert_eq!(read(&device, 0xb0), u64::from(u32::MAX), "no shared memory");
        assert_eq!(device.read(CONFIG + 1, Width::Half), 0x0302);
        assert_eq!(device.read(CONFIG + 8, Width::Double), 9, "zeros behind its end");
        assert_eq!(device.read(CONFIG + 0x1000, Width::Double), 0);
    }

    #[test]
    fn only_features_that_are_offered_and_version_1_are_agreed_on() {
        assert!(negotiate(&device().0, 0, 1));
        assert!(negotiate(&device().0, 0x3000_0200, 3));
        assert!(!negotiate(&device().0, 0x3000_0200, 0), "a legacy driver");
        assert!(!negotiate(&device().0, 1, 1), "a feature that is not offered");
        // Nothing begins without an agreement, and none is changed afterwards.
        let (device, _, told) = device();
        assert!(!negotiate(&device, 1, 1));
        write(&device, STATUS, 15);
        write(&device, STATUS, 0);
        assert!(told.try_recv().is_err());
        assert!(negotiate(&device, 0, 1));
        write(&device, DRIVER_FEATURES, 0x7);
        write(&device, STATUS, 15);
        assert!(told.recv().unwrap().starts_with("start 0x100000000 "));
    }

    #[test]
    fn the_thread_is_started_once_with_the_queues_and_reset_before_the_answer() {
        let (device, link, told) = device();
        assert!(negotiate(&device, 0, 1));
        write(&device, QUEUE_SEL, 1);
        write(&device, QUEUE_SIZE, 8);
        for (offset, value) in [(0x80, 0x1000), (0x84, 1), (0x90, 0x2000), (0xa0, 0x3000)] {
            write(&device, offset, value);
        }
        write(&device, QUEUE_READY, 1);
        assert_eq!(read(&device, QUEUE_READY), 1);
        write(&device, STATUS, 15);
        let queue = "QueueLayout { size: 8, descriptors: 100001000, driver: 2000, device: 3000 }";
        assert_eq!(told.recv().unwrap(), format!("start 0x100000000 [None, Some({queue})]"));
        // Neither again nor with another place.
        write(&device, 0x80, 0x9000);
        write(&device, STATUS, 15);
        write(&device, QUEUE_NOTIFY, 1);
        write(&device, QUEUE_NOTIFY, 77);
        assert_eq!(link.kick(1).unwrap().read(), Ok(1));
        assert!(link.kick(0).unwrap().read().is_err());
        link.fail();
        assert_eq!(read(&device, STATUS), 15 | 64, "it wants its reset");
        assert_eq!((read(&device, INTERRUPT_STATUS), read(&device, INTERRUPT_STATUS)), (3, 1));
        write(&device, STATUS, 0);
        assert_eq!(told.try_recv().unwrap(), "reset", "before the write came back");
        assert_eq!((read(&device, STATUS), read(&device, QUEUE_READY)), (0, 0));
        // One that never began needs none.
        write(&device, STATUS, 0);
        assert!(told.try_recv().is_err());
    }

    #[test]
    fn a_change_of_the_configuration_has_a_generation_and_a_reason() {
        let (device, link, _) = device();
        let before = read(&device, CONFIG_GENERATION);
        link.configure(0, &[42]);
        assert_ne!(read(&device, CONFIG_GENERATION), before);
        assert_eq!(device.read(CONFIG, Width::Byte), 42);
        assert_eq!(read(&device, INTERRUPT_STATUS), 3);
        // What it does not have changes nothing.
        link.configure(1000, &[1]);
    }
}
