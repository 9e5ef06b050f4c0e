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
