// SPDX-License-Identifier: Apache-2.0
//! What a driver has set of a device, by whichever transport: status, features, queues (virtio 1.2, 3.1).

use std::sync::Arc;

use super::link::{Link, Order};
use super::QueueLayout;
use crate::list::Listed;

// Features that are not the device's own (virtio 1.2, 6).
const VERSION_1: u64 = 1 << 32;
/// The driver uses the addresses that the platform gives it: those of a pool, where there is one.
pub(super) const ACCESS_PLATFORM: u64 = 1 << 33;

// Bits of the device's status (2.1).
const DRIVER_OK: u32 = 4;
const FEATURES_OK: u32 = 8;
const NEEDS_RESET: u32 = 64;

/// Half of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    Low,
    High,
}

/// Sets a half of `address`.
pub(super) fn set_half(address: &mut u64, half: Half, value: u32) {
    *address = match half {
        Half::Low => *address & !u64::from(u32::MAX) | u64::from(value),
        Half::High => *address & u64::from(u32::MAX) | u64::from(value) << 32,
    };
}

/// What a driver has set.
pub(super) struct Driver {
    link: Arc<Link>,
    status: u32,
    started: bool,
    /// Which half of the device's features it reads, and of its own it writes.
    pub device_select: u32,
    pub driver_select: u32,
    features: u64,
    pub queue_select: u32,
    /// Each with whether it is ready.
    queues: Vec<(QueueLayout, bool)>,
}

impl Driver {
    pub fn new(link: Arc<Link>) -> Self {
        let queues = fresh(&link);
        Self {
            link,
            status: 0,
            started: false,
            device_select: 0,
            driver_select: 0,
            features: 0,
            queue_select: 0,
            queues,
        }
    }

    fn offered(&self) -> u64 {
        self.link.features | self.link.rings | VERSION_1 | ACCESS_PLATFORM
    }

    /// The half of the device's features that is selected.
    pub fn device_features(&self) -> u32 {
        word(self.offered(), self.device_select)
    }

    /// The half of the driver's features that is selected.
    pub fn driver_features(&self) -> u32 {
        word(self.features, self.driver_select)
    }

    /// Until they are agreed on.
    pub fn set_driver_features(&mut self, value: u32) {
        match self.driver_select {
            _ if self.status & FEATURES_OK != 0 => {}
            0 => set_half(&mut self.features, Half::Low, value),
            1 => set_half(&mut self.features, Half::High, value),
            _ => {}
        }
    }

    pub fn status(&self) -> u32 {
        self.status | if self.link.is_broken() { NEEDS_RESET } else { 0 }
    }

    pub fn set_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        let mut status = value & 0xff & !NEEDS_RESET;
        let good = self.features & !self.offered() == 0 && self.features & VERSION_1 != 0;
        if !good {
            status &= !FEATURES_OK;
        }
        self.status = status;
        let ready = DRIVER_OK | FEATURES_OK;
        if status & ready == ready && !self.started {
            self.started = true;
            let ready = |(layout, ready): &(QueueLayout, bool)| ready.then_some(*layout);
            let layouts = self.queues.iter().map(ready).listed();
            // The thread has told what is wrong.
            let _ = self.link.order(Order::Start(self.features, layouts));
        }
    }

    fn reset(&mut self) {
        if std::mem::take(&mut self.started) {
            let _ = self.link.order(Order::Reset);
        }
        self.link.renew();
        *self = Self::new(Arc::clone(&self.link));
    }

    /// Most entries of the queue that is selected; 0: there is no such queue.
    pub fn queue_size_max(&self) -> u16 {
        self.selected().and_then(|at| self.link.sizes.get(at)).copied().unwrap_or(0)
    }

    pub fn is_ready(&self) -> bool {
        self.selected().and_then(|at| self.queues.get(at)).is_some_and(|(_, ready)| *ready)
    }

    pub fn set_ready(&mut self, value: bool) {
        if let Some((_, ready)) = self.selected_mut() {
            *ready = value;
        }
    }

    pub fn layout(&self) -> QueueLayout {
        let queue = self.selected().and_then(|at| self.queues.get(at));
        queue.map_or(QueueLayout::default(), |(layout, _)| *layout)
    }

    /// Changes the queue that is selected, while its device has not begun with it.
    pub fn set_layout(&mut self, change: impl FnOnce(&mut QueueLayout)) {
        if let (false, Some((layout, _))) = (self.started, self.selected_mut()) {
            change(layout);
        }
    }

    fn selected(&self) -> Option<usize> {
        usize::try_from(self.queue_select).ok()
    }

    fn selected_mut(&mut self) -> Option<&mut (QueueLayout, bool)> {
        let at = self.selected()?;
        self.queues.get_mut(at)
    }
}

/// Queues as they are before a driver comes: of their full size, for a driver that says none.
fn fresh(link: &Link) -> Vec<(QueueLayout, bool)> {
    let queue = |size: &u16| (QueueLayout { size: *size, ..QueueLayout::default() }, false);
    link.sizes.iter().map(queue).listed()
}

/// The low or the high word; there are no others.
fn word(value: u64, select: u32) -> u32 {
    let shifted = match select {
        0 => value,
        1 => value >> 32,
        _ => 0,
    };
    u32::try_from(shifted & u64::from(u32::MAX)).unwrap_or(0)
}
