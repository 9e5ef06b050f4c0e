// SPDX-License-Identifier: Apache-2.0
//! VIRTIO_F_ACCESS_PLATFORM (virtio 1.2, 6), which Linux accepts wherever it is offered and the crate's drivers
//! never do.

use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{PhysAddr, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

const ACCESS_PLATFORM: u64 = 1 << 33;

/// A transport by which a driver accepts it.
pub struct Platform<T> {
    transport: T,
    offered: u64,
}

impl<T> Platform<T> {
    pub fn new(transport: T) -> Self {
        Self { transport, offered: 0 }
    }
}

impl<T: Transport> Transport for Platform<T> {
    fn read_device_features(&mut self) -> u64 {
        self.offered = self.transport.read_device_features();
        self.offered
    }

    fn write_driver_features(&mut self, features: u64) {
        self.transport.write_driver_features(features | self.offered & ACCESS_PLATFORM);
    }

    fn device_type(&self) -> DeviceType {
        self.transport.device_type()
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.transport.max_queue_size(queue)
    }

    fn notify(&mut self, queue: u16) {
        self.transport.notify(queue);
    }

    fn get_status(&self) -> DeviceStatus {
        self.transport.get_status()
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.transport.set_status(status);
    }

    fn set_guest_page_size(&mut self, size: u32) {
        self.transport.set_guest_page_size(size);
    }

    fn requires_legacy_layout(&self) -> bool {
        self.transport.requires_legacy_layout()
    }

    fn queue_set(&mut self, queue: u16, size: u32, table: PhysAddr, ours: PhysAddr, its: PhysAddr) {
        self.transport.queue_set(queue, size, table, ours, its);
    }

    fn queue_unset(&mut self, queue: u16) {
        self.transport.queue_unset(queue);
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.transport.queue_used(queue)
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        self.transport.ack_interrupt()
    }

    fn read_config_generation(&self) -> u32 {
        self.transport.read_config_generation()
    }

    fn read_config_space<V: FromBytes + IntoBytes>(&self, offset: usize) -> Result<V> {
        self.transport.read_config_space(offset)
    }

    fn write_config_space<V: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: V,
    ) -> Result<()> {
        self.transport.write_config_space(offset, value)
    }
}
